//! Where a model's files are: a folder, or the binary itself.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fields::Fields;
use super::gguf;
use super::mapped::{self, Bytes};
use super::network::Network;
use super::original::{Original, Part};
use super::weights::{WeightFile, Weights, shapes};
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

/// The folders of a whole model that its network may be in.
const NETWORKS: [&str; 2] = ["unet", "transformer"];

/// Where a model's files are.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// In the binary.
    Embedded,
    /// In folders: the whole model's, if it has one, and the network's.
    Folder { pipeline: Option<PathBuf>, network: PathBuf },
    /// In one file with the original names of Stable Diffusion.
    Original(Arc<Original>),
}

/// What a file is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Safetensors,
    Pickle,
    Gguf,
    /// A pack, or nothing that is known.
    Other,
}

impl FileKind {
    /// What the file at `path` is.
    ///
    /// # Errors
    /// When it can't be read.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let failed = |e| Error::failure(format!("can't read {}", path.display())).because(e);
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            // Reading a pipe would take from it what its reader needs.
            return Ok(Self::Other);
        }
        let mut start = Vec::new();
        File::open(path).and_then(|file| file.take(9).read_to_end(&mut start)).map_err(failed)?;
        Ok(match start[..] {
            // The eight bytes of a length, and JSON.
            [.., b'{'] if start.len() == 9 => Self::Safetensors,
            // A zip archive since PyTorch 1.6, a pickle of protocol 2 and up before.
            [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => Self::Pickle,
            [b'G', b'G', b'U', b'F', ..] => Self::Gguf,
            _ => Self::Other,
        })
    }
}

impl Source {
    /// Finds the files of the model at `path`: a folder with a model_index.json, a network's own folder, or a safetensors or GGUF
    /// file with the original names of Stable Diffusion.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(Error::failure(format!("there is no model {}", path.display())));
        }
        if !path.is_dir() {
            return match FileKind::of(path)? {
                FileKind::Pickle => Err(Error::failure(format!(
                    "{} is a pickle, which could run any program while it is read; unfog reads none",
                    path.display()
                ))
                .hint("take the safetensors file of the model, or convert it where you trust it")),
                _ => Original::open(path).map(|original| Self::Original(Arc::new(original))),
            };
        }
        let pipeline_at = |folder: PathBuf| folder.join("model_index.json").is_file().then_some(folder);
        if let Some(pipeline) = pipeline_at(path.to_path_buf()) {
            // Older models keep the network's files beside the index.
            let network = NETWORKS.map(|name| path.join(name)).into_iter().find(|network| network.is_dir());
            let network = network.unwrap_or(path.to_path_buf());
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
        let pipeline =
            if NETWORKS.iter().any(|name| path.ends_with(name)) { pipeline_at(path.join("..")) } else { None };
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
            Source::Folder { pipeline: None, .. } | Source::Original(_) => Ok(None),
        }
    }

    /// The network's config.json.
    pub(super) fn network(&self) -> Result<Fields> {
        match self {
            Source::Embedded => Fields::parse("unet/config.json", embedded::UNET),
            Source::Folder { network, .. } => fields(&network.join("config.json")),
            Source::Original(original) => original.config(Part::Unet),
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
            Source::Original(original) => original.scheduler().map(Some),
        }
    }

    /// Reads and checks the weights of `network`, which is this source's.
    pub(super) fn load(&self, network: &Network) -> Result<Weights> {
        match self {
            Source::Original(original) => {
                Weights::load_as(original.files(), network, |name| original.names(Part::Unet, name))
            }
            _ => {
                let files = self.weights()?;
                match &files[..] {
                    // A network that was converted from its original file.
                    [file] if gguf::is_one(&file.bytes) && Original::is_in(&shapes(file)?) => {
                        let original = Original::of(file.clone())?;
                        Weights::load_as(files, network, |name| original.names(Part::Unet, name))
                    }
                    _ => Weights::load(files, network),
                }
            }
        }
    }

    /// The network's weights, mapped, in the order of the files' names.
    fn weights(&self) -> Result<Vec<Arc<WeightFile>>> {
        match self {
            Source::Embedded => {
                let (name, bytes) =
                    ("unet/diffusion_pytorch_model.safetensors".into(), Bytes::Static(embedded::WEIGHTS));
                Ok(vec![Arc::new(WeightFile { name, bytes })])
            }
            Source::Folder { network, .. } => weights_in(network, "diffusion_pytorch_model"),
            Source::Original(original) => Ok(original.files()),
        }
    }

    /// The folder of one of a whole model's parts, if it has such a part.
    pub(super) fn part(&self, name: &str) -> Option<PathBuf> {
        match self {
            Source::Folder { pipeline: Some(pipeline), .. } => Some(pipeline.join(name)).filter(|part| part.is_dir()),
            _ => None,
        }
    }

    /// Where a text encoder or the autoencoder is, if the model has it. `name` is its folder, `part` what it is in a single file.
    pub(super) fn place(&self, name: &str, part: Part) -> Option<PartPlace> {
        match self {
            Source::Original(original) => original.has(part).then(|| PartPlace::File(original.clone(), part)),
            _ => self.part(name).map(PartPlace::Folder),
        }
    }
}

/// Where a text encoder or an autoencoder is.
#[derive(Clone, Debug)]
pub(super) enum PartPlace {
    /// In a folder of its own.
    Folder(PathBuf),
    /// In one file with other networks.
    File(Arc<Original>, Part),
}

impl PartPlace {
    /// Its config.
    ///
    /// # Errors
    /// A missing or damaged config; weights of other shapes than such networks have.
    pub(super) fn config(&self) -> Result<Fields> {
        match self {
            Self::Folder(folder) => config_in(folder),
            Self::File(original, part) => original.config(*part),
        }
    }

    /// Reads and checks the weights of `network`, whose files in a folder begin with `stem`.
    ///
    /// # Errors
    /// A missing or damaged file; a weight that is missing, of another type or shape, or not finite.
    pub(super) fn load(&self, stem: &str, network: &Network) -> Result<Weights> {
        match self {
            Self::Folder(folder) => Weights::load(weights_in(folder, stem)?, network),
            Self::File(original, part) => {
                Weights::load_as(original.files(), network, |name| original.names(*part, name))
            }
        }
    }

    /// The id that fills up the texts of a text encoder, where it is not for its tokenizer to say.
    pub(super) fn padding(&self) -> Option<u32> {
        match self {
            Self::File(original, part) => original.is_open(*part).then_some(0),
            Self::Folder(_) => None,
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
/// (`.fp16` and the like); or else one file of GGUF, however it is called.
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
    let converted = gguf_files(folder);
    match &converted[..] {
        [] => {}
        [one] => return Ok(vec![one.clone()]),
        _ => {
            return Err(Error::failure(format!("the folder {} holds several GGUF files", folder.display()))
                .hint("leave the one that is to be taken"));
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

/// The GGUF files in a folder; none where it can't be read.
fn gguf_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "gguf")).collect()
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
