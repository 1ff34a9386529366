//! The files of a tokenizer: a vocabulary and the merges that made it, in one file or two.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::files;
use crate::model::fields::Fields;

/// What byte-pair encoding needs.
#[derive(Debug)]
pub(super) struct Vocabulary {
    /// Tokens and their ids.
    pub(super) ids: HashMap<String, u32>,
    /// Pairs of tokens that become one, the most frequent first.
    pub(super) merges: Vec<(String, String)>,
    /// The added tokens of tokenizer.json, null if there is none.
    pub(super) added: Value,
}

/// tokenizer.json, as far as it says what CLIPTokenizer takes from it: transformers, too, sets up the rest anew.
#[derive(Deserialize)]
struct Whole {
    model: Pairs,
    #[serde(default)]
    added_tokens: Value,
}

#[derive(Deserialize)]
struct Pairs {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// A pair, as newer or older files have it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Text(String),
}

/// The folder of the tokenizer `name` of the model at `path`, or `path` if that is a tokenizer's folder itself and no name is given.
///
/// # Errors
/// A usage error for a name that is no name of a folder; a failure where there is no tokenizer.
pub(super) fn folder(path: &Path, name: Option<&str>) -> Result<PathBuf> {
    if !path.exists() {
        return Err(Error::failure(format!("there is no model {}", path.display())));
    }
    if !path.is_dir() {
        return Err(Error::failure(format!("{} is no folder, and only folders bring tokenizers", path.display()))
            .hint("give a model's folder, or one with vocab.json and merges.txt"));
    }
    let name_or_default = name.unwrap_or("tokenizer");
    if Path::new(name_or_default).file_name().is_none_or(|file| file != name_or_default) {
        return Err(Error::usage(format!("{name_or_default:?} is no name of a folder in a model")));
    }
    let holds = |folder: &Path| ["tokenizer.json", "vocab.json"].iter().any(|file| folder.join(file).is_file());
    let inside = path.join(name_or_default);
    if holds(&inside) {
        return Ok(inside);
    }
    if name.is_none() && holds(path) {
        return Ok(path.into());
    }
    let missing = Error::failure(format!("the model {} has no {name_or_default}", path.display()));
    Err(missing.hint(format!("expected {} with vocab.json and merges.txt, or tokenizer.json", inside.display())))
}

/// A JSON file of `folder`, if it is there.
pub(super) fn fields(folder: &Path, name: &str) -> Result<Option<Fields>> {
    let path = folder.join(name);
    if !path.is_file() {
        return Ok(None);
    }
    Fields::parse(&path.display().to_string(), &files::read(&path)?).map(Some)
}

impl Vocabulary {
    /// Reads tokenizer.json, or else vocab.json and merges.txt, in `folder`.
    ///
    /// # Errors
    /// A missing or damaged file, a merge whose tokens the vocabulary lacks.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let whole = folder.join("tokenizer.json");
        let vocabulary = match whole.is_file() {
            true => Self::read_whole(&whole)?,
            false => Self::read_two(&folder.join("vocab.json"), &folder.join("merges.txt"))?,
        };
        for (a, b) in &vocabulary.merges {
            let missing =
                [a, b, &format!("{a}{b}")].into_iter().find(|token| !vocabulary.ids.contains_key(*token)).cloned();
            if let Some(missing) = missing {
                return Err(Error::failure(format!(
                    "the vocabulary in {} lacks {missing:?}, which its merges make",
                    folder.display()
                )));
            }
        }
        Ok(vocabulary)
    }

    fn read_whole(path: &Path) -> Result<Self> {
        let whole: Whole = serde_json::from_slice(&files::read(path)?)
            .map_err(|e| Error::failure(format!("{} holds no byte-pair encoding", path.display())).because(e))?;
        let merge = |merge| match merge {
            Merge::Pair(a, b) => Ok((a, b)),
            Merge::Text(text) => pair(&text)
                .ok_or_else(|| Error::failure(format!("{}: the merge {text:?} is no pair of tokens", path.display()))),
        };
        let merges = whole.model.merges.into_iter().map(merge).collect::<Result<_>>()?;
        Ok(Self { ids: whole.model.vocab, merges, added: whole.added_tokens })
    }

    fn read_two(vocab: &Path, merges: &Path) -> Result<Self> {
        let ids = serde_json::from_slice(&files::read(vocab)?)
            .map_err(|e| Error::failure(format!("{} holds no vocabulary", vocab.display())).because(e))?;
        let text = String::from_utf8(files::read(merges)?)
            .map_err(|e| Error::failure(format!("{} is no text", merges.display())).because(e))?;
        // A line ends at a line feed alone: other separators are characters of tokens.
        let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).enumerate();
        let lines = lines.filter(|(_, line)| !line.starts_with("#version") && !line.is_empty());
        let merge = |(number, line)| {
            let number = number + 1;
            pair(line)
                .ok_or_else(|| Error::failure(format!("{}: line {number} is no pair of tokens", merges.display())))
        };
        let merges = lines.map(merge).collect::<Result<_>>()?;
        Ok(Self { ids, merges, added: Value::Null })
    }
}

/// Two tokens with a space between.
fn pair(text: &str) -> Option<(String, String)> {
    let (a, b) = text.split_once(' ')?;
    (!a.is_empty() && !b.is_empty() && !b.contains(' ')).then(|| (a.into(), b.into()))
}
