//! Textual inversion (Gal et al. 2022): words that a file teaches a model's text encoders, as rows of their tables of tokens.
//!
//! | who wrote the file | its tensors |
//! | --- | --- |
//! | diffusers | the word's name: `[dim]` or `[n, dim]` |
//! | AUTOMATIC1111's web interface | `emb_params` `[n, dim]` |
//! | trainers for two text encoders | `clip_l` and `clip_g`, `[n, dim]` each |

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use safetensors::SafeTensors;

use super::hash::Fingerprint;
use super::lora::safetensors_file;
use super::weights::WeightFile;
use crate::error::{Error, Result};
use crate::tensors::widen;

/// The most vectors of a word: a whole run of a text encoder.
const MOST_VECTORS: usize = 75;

/// An embedding that was asked for: its file, and the word that stands for it in prompts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingChoice {
    /// The safetensors file.
    pub path: PathBuf,
    /// The word; if absent, the one that the file names, or else the file's name without its ending.
    pub token: Option<String>,
}

impl FromStr for EmbeddingChoice {
    type Err = Error;

    /// `FILE` or `FILE:TOKEN`.
    fn from_str(text: &str) -> Result<Self> {
        // What has a separator in it is a path.
        let parts = text.rsplit_once(':').filter(|(_, token)| !token.contains(['/', '\\']));
        let (path, token) = parts.map_or((text, None), |(path, token)| (path, Some(token.to_owned())));
        if path.is_empty() || token.as_ref().is_some_and(|token| token.trim().is_empty()) {
            let what = format!("--embedding {text:?} names no file and word");
            return Err(Error::usage(what).hint("give FILE or FILE:TOKEN"));
        }
        Ok(Self { path: path.into(), token })
    }
}

/// A file that was read: a word and its vectors.
#[derive(Debug)]
pub(crate) struct Embedding {
    file: Arc<WeightFile>,
    /// The word.
    pub(crate) token: String,
    /// The vectors for each text encoder, one after the other.
    vectors: Vec<Vec<f32>>,
    /// How many.
    pub(crate) count: usize,
}

impl Embedding {
    /// Reads the file for text encoders with states of `dims` values.
    ///
    /// # Errors
    /// A missing or damaged file, a pickle, tensors that are none of an embedding's, one for other text encoders.
    pub(crate) fn open(choice: &EmbeddingChoice, dims: &[usize]) -> Result<Self> {
        let file = safetensors_file(&choice.path, "embedding")?;
        let complain = |what: String| Error::failure(format!("{} {what}", file.name));
        let tensors = SafeTensors::deserialize(&file.bytes)
            .map_err(|e| complain("is no whole safetensors file".into()).because(e))?;
        let mut names = tensors.names();
        names.sort_unstable();
        let named = match (&names[..], dims.len()) {
            // In the order of the text encoders.
            (["clip_g", "clip_l"], 2) => ["clip_l", "clip_g"].to_vec(),
            ([one], 1) => vec![*one],
            (["clip_g", "clip_l"] | [_], encoders) => {
                let (has, takes) = (names.len(), if encoders == 1 { "one" } else { "two" });
                let what =
                    format!("holds {has} embedding{}, and the model takes {takes}", if has == 1 { "" } else { "s" });
                return Err(complain(what).hint("it is for another model"));
            }
            _ => {
                let what = format!("holds {} tensors, and an embedding has one, or clip_l and clip_g", names.len());
                return Err(complain(what));
            }
        };
        let (mut vectors, mut count) = (Vec::new(), None);
        for (name, dim) in named.iter().zip(dims) {
            let view = tensors.tensor(name).map_err(|e| complain(format!("lacks {name}")).because(e))?;
            let n = match *view.shape() {
                [own] if own == *dim => 1,
                [n, own] if own == *dim && (1..=MOST_VECTORS).contains(&n) => n,
                _ => {
                    let what = format!("has {name} of {:?}, and the text encoder takes [n, {dim}]", view.shape());
                    return Err(complain(what).hint("it is for another model"));
                }
            };
            if count.is_some_and(|count| count != n) {
                return Err(complain("has another number of vectors for each text encoder".into()));
            }
            count = Some(n);
            let values = widen(&view)?;
            let values = values.ok_or_else(|| complain(format!("has {name} of the type {:?}", view.dtype())))?;
            if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                return Err(complain(format!("has {} at index {i} of {name}", values[i])));
            }
            vectors.push(values);
        }
        let stem = || choice.path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let own = match named[..] {
            ["emb_params" | "clip_l", ..] => stem(),
            [name] => Some(name.to_owned()),
            _ => stem(),
        };
        let token = choice.token.clone().or(own).filter(|token| !token.trim().is_empty());
        let token = token.ok_or_else(|| complain("names no word".into()).hint("give FILE:TOKEN"))?;
        Ok(Self { token, vectors, count: count.unwrap_or(0), file: Arc::new(file) })
    }

    /// The vectors `[count, dim]` for a text encoder, the first or the second.
    pub(crate) fn vectors(&self, encoder: usize) -> &[f32] {
        self.vectors.get(encoder).map_or(&[], Vec::as_slice)
    }

    /// Starts to compute the fingerprint of the file.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::start(std::slice::from_ref(&self.file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_a_file_and_a_word() {
        let choice = |text: &str| {
            let choice: EmbeddingChoice = text.parse().unwrap();
            (choice.path.to_str().unwrap().to_owned(), choice.token)
        };
        assert_eq!(choice("a.safetensors"), ("a.safetensors".into(), None));
        assert_eq!(choice("a.safetensors:<toy>"), ("a.safetensors".into(), Some("<toy>".into())));
        assert_eq!(choice("c:\\a\\b"), ("c:\\a\\b".into(), None));
        for text in ["", ":toy", "a:", "a: "] {
            assert_eq!(text.parse::<EmbeddingChoice>().unwrap_err().exit_code(), 2, "{text}");
        }
    }
}
