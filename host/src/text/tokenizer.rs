//! CLIP's tokenizer: lower case, words, bytes, pairs of them merged (Radford et al. 2021, section 2.4).
//!
//! The reference is the CLIPTokenizer of transformers 5, which the crate `tokenizers` computes there too. transformers 4 had a slow
//! one beside it, which removed control characters and set spaces around Chinese characters, or ran ftfy over the text where that
//! was installed: for such texts its ids are others.

use std::collections::HashMap;
use std::path::Path;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{self, Lowercase, NFC, Replace};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::{sequence, split};
use tokenizers::{
    AddedToken, DecoderWrapper, PostProcessorWrapper, SplitDelimiterBehavior, TokenizerBuilder, TokenizerImpl,
};

use super::chunk::{self, Chunk, Marks};
use super::files::{self, Vocabulary};
use super::prompt;
use super::special::Special;
use crate::error::{Error, Result};

/// The words of a text: what transformers gives CLIP.
const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
/// What ends a word's last token.
const WORD_END: &str = "</w>";

type Inner = TokenizerImpl<BPE, normalizers::Sequence, sequence::Sequence, PostProcessorWrapper, DecoderWrapper>;

/// A tokenizer of CLIP's kind.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
    marks: Marks,
    /// The further ids of words that stand for several.
    several: HashMap<u32, Vec<u32>>,
}

impl Tokenizer {
    /// Opens the tokenizer of the model at `path`: the folder `name` in it, `tokenizer` if there is no name. Without a name, `path` may
    /// be the tokenizer's own folder.
    ///
    /// # Errors
    /// A missing or damaged file; a tokenizer of another kind.
    pub fn open(path: &Path, name: Option<&str>) -> Result<Self> {
        let folder = files::folder(path, name)?;
        let vocabulary = Vocabulary::read(&folder)?;
        let special = Special::read(&folder, &vocabulary.added)?;
        let words = vocabulary.ids.keys().any(|token| token.ends_with(WORD_END));
        if !words || !vocabulary.ids.contains_key(&special.unknown) {
            let lacks = if words { special.unknown.clone() } else { format!("tokens that end with {WORD_END}") };
            return Err(Error::failure(format!(
                "the tokenizer {} is none of CLIP's kind: it lacks {lacks}",
                folder.display()
            )));
        }
        let failed = |e| Error::failure(format!("the tokenizer {} can't be set up", folder.display())).because(e);
        let inner = build(vocabulary, &special).map_err(failed)?;
        let id = |token: &str| {
            let missing = || Error::failure(format!("the tokenizer {} has no id for {token}", folder.display()));
            inner.token_to_id(token).ok_or_else(missing)
        };
        let (start, end) = (id(&special.start)?, id(&special.end)?);
        let pad = special.pad.as_deref().map_or(Ok(end), id)?;
        let comma = inner.token_to_id(&format!(",{WORD_END}"));
        let marks = Marks { start, end, pad, comma, max_len: special.max_len };
        Ok(Self { inner, marks, several: HashMap::new() })
    }

    /// Adds a word that is found in texts as a whole, whatever its case, and stands for `count` ids: its own and those of `word_1`,
    /// `word_2` and so on, which are words too. Returns the ids.
    ///
    /// # Errors
    /// A usage error for a word that the vocabulary has already.
    pub fn add(&mut self, word: &str, count: usize) -> Result<Vec<u32>> {
        let further = (1..count).map(|i| format!("{word}_{i}"));
        let words: Vec<String> = std::iter::once(word.to_owned()).chain(further).collect();
        if let Some(known) = words.iter().find(|word| self.inner.token_to_id(word).is_some()) {
            return Err(Error::usage(format!("the tokenizer has a token {known:?} already"))
                .hint("give the embedding another name: --embedding FILE:TOKEN"));
        }
        let failed = |e| Error::failure(format!("{word:?} can't be added to the tokenizer")).because(e);
        self.inner.add_tokens(words.iter().map(|word| AddedToken::from(word.clone(), false))).map_err(failed)?;
        let ids: Option<Vec<u32>> = words.iter().map(|word| self.inner.token_to_id(word)).collect();
        let ids = ids.ok_or_else(|| Error::failure(format!("{word:?} can't be added to the tokenizer")))?;
        if let [first, further @ ..] = &ids[..] {
            self.several.insert(*first, further.to_vec());
        }
        Ok(ids)
    }

    /// The ids of `text`, without start and end.
    ///
    /// # Errors
    /// A text with a piece that the vocabulary has no token for.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let failed = |e| Error::failure("the text has no ids").because(e);
        let encoded = self.inner.encode_fast(text, false).map_err(failed)?;
        let further = |id| self.several.get(id).into_iter().flatten();
        Ok(encoded.get_ids().iter().flat_map(|id| std::iter::once(id).chain(further(id))).copied().collect())
    }

    /// The ids of `text` as one chunk without padding: the start, as much as fits, the end.
    ///
    /// # Errors
    /// Those of [`Self::ids`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.ids(text)?;
        ids.truncate(self.marks.max_len.saturating_sub(2));
        ids.insert(0, self.marks.start);
        ids.push(self.marks.end);
        Ok(ids)
    }

    /// The chunks of a prompt in the syntax of [`prompt`]: full, with a weight for each token.
    ///
    /// # Errors
    /// Those of [`Self::ids`].
    pub fn chunks(&self, text: &str) -> Result<Vec<Chunk>> {
        chunk::chunks(&prompt::parse(text), &self.marks, |text| self.ids(text))
    }

    /// The token with this id, as the vocabulary writes it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// What fills a chunk up to its full length.
    pub fn pad(&self) -> u32 {
        self.marks.pad
    }

    /// The same tokenizer, which fills chunks up with `id`.
    #[must_use]
    pub fn padded_with(mut self, id: u32) -> Self {
        self.marks.pad = id;
        self
    }

    /// How many ids a chunk has, start and end included.
    pub fn max_len(&self) -> usize {
        self.marks.max_len
    }
}

/// The steps of CLIPTokenizer.
fn build(vocabulary: Vocabulary, special: &Special) -> tokenizers::Result<Inner> {
    let ids: Vocab = vocabulary.ids.into_iter().collect();
    let model = BPE::builder()
        .vocab_and_merges(ids, vocabulary.merges)
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix(WORD_END.into())
        .unk_token(special.unknown.clone())
        .build()?;
    let spaces = Replace::new(normalizers::replace::ReplacePattern::Regex(r"\s+".into()), " ")?;
    let normalizer = normalizers::Sequence::new(vec![NFC.into(), spaces.into(), Lowercase.into()]);
    let words = split::Split::new(split::SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Removed, true)?;
    let bytes = ByteLevel::new(false, true, true);
    let mut inner = TokenizerBuilder::new()
        .with_model(model)
        .with_normalizer(Some(normalizer))
        .with_pre_tokenizer(Some(sequence::Sequence::new(vec![words.into(), bytes.into()])))
        .with_post_processor(None)
        .with_decoder(None)
        .build()?;
    for token in &special.added {
        inner.add_special_tokens([AddedToken::from(token.content.clone(), true).normalized(token.normalized)])?;
    }
    Ok(inner)
}
