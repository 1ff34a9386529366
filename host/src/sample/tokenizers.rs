//! Where the tokenizers of a model's text encoders are.

use std::path::Path;

use crate::error::{Error, Result};
use crate::model::{Model, TextEncoder};
use crate::text::Tokenizer;

/// The folders of a model's tokenizers, in the order of its text encoders.
const NAMES: [&str; 2] = ["tokenizer", "tokenizer_2"];

/// The tokenizers of `encoders`, in their order: those in the folder `given`; without it the model's own, or of a single file those beside
/// it. All of CLIP's text encoders have one vocabulary, so that one tokenizer does for two; what fills up their texts is told apart.
///
/// # Errors
/// A missing or damaged tokenizer.
pub(super) fn tokenizers(model: &Model, encoders: &[TextEncoder], given: Option<&Path>) -> Result<Vec<Tokenizer>> {
    let named = NAMES.iter().zip(encoders);
    named
        .map(|(name, encoder)| {
            let tokenizer = match (given, model.single_file()) {
                (Some(folder), _) => in_folder(folder, name)?,
                (None, Some(file)) => beside(file, name)?,
                (None, None) => {
                    let folder = model.part(name).ok_or_else(|| {
                        Error::failure(format!("the model {} has a text encoder without its {name}", model.name()))
                    })?;
                    Tokenizer::open(&folder, None)?
                }
            };
            Ok(match encoder.padding() {
                Some(id) => tokenizer.padded_with(id),
                None => tokenizer,
            })
        })
        .collect()
}

/// The tokenizer `name` in a folder, or the only one there.
fn in_folder(folder: &Path, name: &str) -> Result<Tokenizer> {
    match folder.join(name).is_dir() {
        true => Tokenizer::open(folder, Some(name)),
        false => Tokenizer::open(folder, None),
    }
}

/// The tokenizer beside a file.
fn beside(file: &Path, name: &str) -> Result<Tokenizer> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let there = |folder: &Path| ["tokenizer.json", "vocab.json"].iter().any(|name| folder.join(name).is_file());
    if [folder.join(name), folder.join(NAMES[0]), folder.into()].iter().any(|folder| there(folder)) {
        return in_folder(folder, name);
    }
    Err(Error::failure(format!("{} brings no tokenizer, and there is none beside it", file.display())).hint(
        "give --tokenizer FOLDER, one with CLIP's vocab.json and merges.txt, such as any Stable Diffusion folder",
    ))
}
