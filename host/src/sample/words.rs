//! Words that embeddings teach the text encoders of a run.

use super::options::Options;
use super::produce::halves;
use crate::error::Result;
use crate::model::{Embedding, Fingerprint, Network, TextEncoder, Weights};
use crate::recipe;
use crate::text::Tokenizer;

/// The table of a text encoder's tokens.
const TABLE: &str = "text_model.embeddings.token_embedding.weight";

/// The embeddings of a run, and where their vectors go.
#[derive(Debug, Default)]
pub(super) struct Words {
    embeddings: Vec<Embedding>,
    /// For each embedding the ids of its vectors, for each text encoder.
    ids: Vec<Vec<Vec<u32>>>,
    files: Vec<String>,
}

impl Words {
    /// Reads the embeddings of `options` and adds their words to the tokenizers.
    ///
    /// # Errors
    /// Those of [`Embedding::open`]; a usage error for a word that is there already.
    pub(super) fn teach(options: &Options, tokenizers: &mut [Tokenizer], encoders: &[TextEncoder]) -> Result<Self> {
        let dims: Vec<usize> = encoders.iter().map(|encoder| encoder.config().hidden_size as usize).collect();
        let mut words = Self::default();
        for choice in &options.embeddings {
            let embedding = Embedding::open(choice, &dims)?;
            let ids = tokenizers.iter_mut().map(|tokenizer| tokenizer.add(&embedding.token, embedding.count));
            words.ids.push(ids.collect::<Result<_>>()?);
            words.embeddings.push(embedding);
            words.files.push(choice.path.display().to_string());
        }
        Ok(words)
    }

    /// Text encoder number `number` with a table that holds the words, too.
    pub(super) fn grown(&self, number: usize, encoder: &TextEncoder) -> TextEncoder {
        let ids = self.ids.iter().filter_map(|of_encoders| of_encoders.get(number)).flatten();
        ids.max().map_or_else(|| encoder.clone(), |last| encoder.with_tokens(last.saturating_add(1)))
    }

    /// Puts the words' vectors into the weights of text encoder number `number`: those of `network`, whose states have `dim` values.
    ///
    /// # Errors
    /// Too little memory.
    pub(super) fn put(
        &self,
        number: usize,
        options: &Options,
        (network, dim): (&Network, usize),
        weights: &mut Weights,
    ) -> Result<()> {
        if self.embeddings.is_empty() {
            return Ok(());
        }
        let rows = self.embeddings.iter().zip(&self.ids).flat_map(|(embedding, ids)| {
            let ids = ids.get(number).into_iter().flatten().copied();
            ids.zip(embedding.vectors(number).chunks_exact(dim.max(1)))
        });
        weights.set_rows(network, TABLE, dim, rows, halves(options))
    }

    /// Starts to compute the fingerprint of each file.
    pub(super) fn fingerprints(&self) -> impl Iterator<Item = Fingerprint> {
        self.embeddings.iter().map(Embedding::fingerprint)
    }

    /// What a recipe says of them, but for the fingerprints.
    pub(super) fn recipe(&self) -> Vec<recipe::Embedding> {
        let one = |(embedding, file): (&Embedding, &String)| recipe::Embedding {
            file: file.clone(),
            sha256: String::new(),
            token: embedding.token.clone(),
        };
        self.embeddings.iter().zip(&self.files).map(one).collect()
    }
}
