//! Texts as unCLIP's networks take them: a text as a whole, the states of its tokens, and which of these are padding.

use unfog_core::denoise::Cond;
use unfog_core::nn::model::clip_text::Outputs;
use unfog_core::nn::model::transformer::UNSEEN;

use super::super::options::Options;
use super::super::prompt::weigh;
use super::super::tokenizers::tokenizers;
use super::{Part, evaluate};
use crate::backend::Request;
use crate::error::{Error, Result};
use crate::memory;
use crate::model::{Embedder, Model, TextEncoder, UnClip};
use crate::sample::Event;
use crate::stop::Stop;
use crate::text::Chunk;

/// A text, encoded.
pub(super) struct Text {
    /// As a whole (`text_embeds`).
    pub(super) whole: Vec<f32>,
    /// `last_hidden_state`, `[tokens, c]`.
    pub(super) states: Vec<f32>,
    /// What is added to the scores of each token.
    pub(super) bias: Vec<f32>,
}

/// The texts of a run: the wanted one first, then, where a stage is guided, the one that it leads away from.
pub(super) struct Texts {
    encoder: TextEncoder,
    pub(super) part: Part,
    chunks: Vec<Chunk>,
}

impl Texts {
    /// Reads and cuts the texts up.
    ///
    /// # Errors
    /// A missing or damaged tokenizer or text encoder; a prior for other lengths; a usage error for a text that is too long.
    pub(super) fn read(model: &Model, unclip: &UnClip, options: &Options, guided: bool) -> Result<Self> {
        let encoder = unclip.text_encoder.clone();
        let found = tokenizers(model, std::slice::from_ref(&encoder), options.tokenizer.as_deref())?;
        let tokenizer = found.first().ok_or_else(|| Error::failure("the model has no tokenizer"))?;
        let tokens = tokenizer.max_len() as u32;
        if let Embedder::Prior { network, .. } = &unclip.embedder {
            let most = network.text_tokens().unwrap_or(tokens);
            if most != tokens {
                return Err(Error::failure(format!(
                    "prior's num_embeddings is {most}, and the tokenizer makes texts of {tokens} tokens"
                )));
            }
        }
        let wanted = options.prompt.as_deref().unwrap_or_default();
        let other = options.negative.as_deref().unwrap_or_default();
        let texts = [Some(wanted), guided.then_some(other)].into_iter().flatten();
        let chunks = texts.map(|text| {
            let mut chunks = tokenizer.chunks(text)?;
            match (chunks.len(), chunks.pop()) {
                (1, Some(chunk)) => Ok(chunk),
                _ => Err(Error::usage(format!(
                    "the prompt is too long: this model's networks look at {} tokens",
                    tokens.saturating_sub(2)
                ))),
            }
        });
        let chunks = chunks.collect::<Result<_>>()?;
        let network = encoder.network(tokens, Outputs { skip: 0, final_norm: true, pooled: true })?;
        let weights = encoder.weights(&network)?;
        Ok(Self { encoder, part: Part { network, weights }, chunks })
    }

    /// Tokens of every text, padding included.
    pub(super) fn tokens(&self) -> u32 {
        self.chunks.first().map_or(0, |chunk| chunk.ids.len() as u32)
    }

    /// Runs the text encoder.
    ///
    /// # Errors
    /// Those of the backend.
    pub(super) fn encode(&self, request: &Request, stop: &Stop, report: &mut dyn FnMut(Event)) -> Result<Vec<Text>> {
        let config = self.encoder.config();
        let misfit = |e| Error::failure(format!("the tokenizer's ids don't fit the text encoder: {e:?}"));
        self.part.with(request, stop, report, |backend, _| {
            let texts = self.chunks.iter().map(|chunk| {
                let tokens = chunk.ids.len();
                let mut input = memory::vec(tokens, 0.0)?;
                config.ids(&chunk.ids, &mut input).map_err(misfit)?;
                let output = evaluate(backend, &input, Cond::None)?;
                let mut states = memory::vec(tokens * config.hidden_size as usize, 0.0)?;
                config.states(&output, &mut states).map_err(misfit)?;
                weigh(&mut states, &chunk.weights);
                let mut whole = memory::vec(config.pooled_dim() as usize, 0.0)?;
                config.pooled(&output, &chunk.ids, &mut whole).map_err(misfit)?;
                let bias = (0..tokens).map(|i| if i < chunk.text_len { 0.0 } else { UNSEEN }).collect();
                Ok(Text { whole, states, bias })
            });
            texts.collect()
        })
    }
}
