//! Where a model's files are: a folder, or the binary itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fields::Fields;
use super::mapped::{self, Bytes};
use super::weights::WeightFile;
use crate::error::{Error, Result};
use crate::files;

/// The model that is used when none is named: glyph-tiny.
mod embedded {
    pub(super) const UNET: &[u8] = include_bytes!("../../models/glyph-tiny/unet/config.json");
    pub(super) const SCHEDULER: &[u8] = include_bytes!("../../models/glyph-tiny/scheduler/scheduler_config.json");
    pub(super) const INDEX: &[u8] = include_bytes!("../../models/glyph-tiny/model_index.json");
    pub(super) const WEIGHTS: &[u8] =
        include_bytes!("../../models/glyph-tiny/unet/diffusion_pytorch_model.safetensors");
}

/// Where a model's files are.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// In the binary.
    Embedded,
    /// In folders: the whole model's, if it has one, and the network's.
    Folder { pipeline: Option<PathBuf>, network: PathBuf },
}

impl Source {
    /// Finds the files of the model at `path`: a folder with a model_index.json, or a network's own folder.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(Error::failure(format!("there is no model {}", path.display())));
        }
        let pipeline_at = |folder: PathBuf| folder.join("model_index.json").is_file().then_some(folder);
        if let Some(pipeline) = pipeline_at(path.to_path_buf()) {
            // Older models keep the network's files beside the index.
            let network = Some(path.join("unet")).filter(|unet| unet.is_dir()).unwrap_or(path.to_path_buf());
            return Ok(Self::Folder { pipeline: Some(pipeline), network });
        }
        if !path.join("config.json").is_file() {
            return Err(Error::failure(format!(
                "the folder {} holds neither a model_index.json nor a config.json",
                path.display()
            ))
            .hint("give a folder as diffusers saves it"));
        }
        // A network's folder inside a model's: the model's index and scheduler count.
        let pipeline = if path.ends_with("unet") { pipeline_at(path.join("..")) } else { None };
        Ok(Self::Folder { pipeline, network: path.to_path_buf() })
    }

    /// model_index.json, if there is one: its name and its text.
    pub(super) fn index(&self) -> Result<Option<(String, Vec<u8>)>> {
        match self {
            Source::Embedded => Ok(Some(("model_index.json".into(), embedded::INDEX.to_vec()))),
            Source::Folder { pipeline: Some(pipeline), .. } => {
                let path = pipeline.join("model_index.json");
                Ok(Some((path.display().to_string(), files::read(&path)?)))
            }
            Source::Folder { pipeline: None, .. } => Ok(None),
        }
    }

    /// The network's config.json.
    pub(super) fn network(&self) -> Result<Fields> {
        match self {
            Source::Embedded => Fields::parse("unet/config.json", embedded::UNET),
            Source::Folder { network, .. } => fields(&network.join("config.json")),
        }
    }

    /// scheduler_config.json, if there is one.
    pub(super) fn scheduler(&self) -> Result<Option<Fields>> {
        match self {
            Source::Embedded => Fields::parse("scheduler/scheduler_config.json", embedded::SCHEDULER).map(Some),
            Source::Folder { pipeline, network } => {
                let folder = pipeline.as_ref().unwrap_or(network);
                let places = [folder.join("scheduler/scheduler_config.json"), folder.join("scheduler_config.json")];
                places.iter().find(|path| path.is_file()).map(|path| fields(path)).transpose()
            }
        }
    }

    /// The network's weights, mapped, in the order of the files' names.
    pub(super) fn weights(&self) -> Result<Vec<Arc<WeightFile>>> {
        match self {
            Source::Embedded => {
                let (name, bytes) =
                    ("unet/diffusion_pytorch_model.safetensors".into(), Bytes::Static(embedded::WEIGHTS));
                Ok(vec![Arc::new(WeightFile { name, bytes })])
            }
            Source::Folder { network, .. } => weights_in(network, "diffusion_pytorch_model"),
        }
    }

    /// The folder of one of a whole model's parts, if it has such a part.
    pub(super) fn part(&self, name: &str) -> Option<PathBuf> {
        match self {
            Source::Folder { pipeline: Some(pipeline), .. } => Some(pipeline.join(name)).filter(|part| part.is_dir()),
            _ => None,
        }
    }
}

/// The weights in a folder, mapped, in the order of the files' names. `stem` is how their names begin.
pub(super) fn weights_in(folder: &Path, stem: &str) -> Result<Vec<Arc<WeightFile>>> {
    weight_paths(folder, stem)?
        .into_iter()
        .map(|path| Ok(Arc::new(WeightFile { name: path.display().to_string(), bytes: mapped::map(&path)? })))
        .collect()
}

/// The config.json of a folder.
pub(super) fn config_in(folder: &Path) -> Result<Fields> {
    fields(&folder.join("config.json"))
}

fn fields(path: &Path) -> Result<Fields> {
    Fields::parse(&path.display().to_string(), &files::read(path)?)
}

/// The files that hold a network's weights: one file or several that an index names; plain, or else of one variant
/// (`.fp16` and the like).
fn weight_paths(folder: &Path, stem: &str) -> Result<Vec<PathBuf>> {
    for variant in ["", ".fp16", ".bf16"] {
        let single = folder.join(format!("{stem}{variant}.safetensors"));
        if single.is_file() {
            return Ok(vec![single]);
        }
        let index = folder.join(format!("{stem}.safetensors.index{variant}.json"));
        if index.is_file() {
            return shards(folder, &index);
        }
    }
    let missing = Error::failure(format!("the folder {} lacks {stem}.safetensors", folder.display()));
    // diffusers' and transformers' names.
    let pickled = [format!("{stem}.bin"), "pytorch_model.bin".into()];
    Err(match pickled.iter().any(|name| folder.join(name).is_file()) {
        true => missing.hint("it holds PyTorch's .bin; save the model again with safe_serialization=True"),
        false => missing,
    })
}

fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let fields = fields(index)?;
    let expected = "an object of weights' names and their files";
    let map =
        fields.value("weight_map").and_then(|v| v.as_object()).ok_or_else(|| fields.refuse("weight_map", expected))?;
    let mut names = BTreeSet::new();
    for file in map.values() {
        // A plain file name: an index must not lead elsewhere.
        let name = file.as_str().filter(|name| Path::new(name).file_name().is_some_and(|n| n == *name));
        names.insert(name.ok_or_else(|| fields.refuse("weight_map", "names of files in the same folder"))?);
    }
    if names.is_empty() {
        return Err(fields.refuse("weight_map", expected));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}
