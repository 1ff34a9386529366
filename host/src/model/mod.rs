//! Models as diffusers saves them: folders of configs and weights.

mod autoencoder;
mod changed;
mod classes;
mod control;
mod dit;
mod embedding;
pub(crate) mod fields;
mod gguf;
mod hash;
mod image_encoder;
mod index;
mod lora;
mod mapped;
mod network;
mod original;
mod packed;
mod prior_transformer;
mod scheduler;
mod sd3;
mod size;
mod source;
mod text_encoder;
mod unclip;
mod unet2d;
mod unet2d_condition;
mod weights;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use unfog_core::nn::model::unet2d::{ClassEmbedding, Config};
use unfog_core::nn::model::unet2d_condition::{self as condition, Beside};
use unfog_core::nn::model::{dit as dit_core, prior_transformer as prior_core, sd3 as sd3_core};

pub use autoencoder::{Autoencoder, Encoded};
pub use classes::Classes;
pub(crate) use control::Control;
pub(crate) use embedding::Embedding;
pub use embedding::EmbeddingChoice;
pub use hash::Fingerprint;
pub(crate) use image_encoder::{FeatureExtractor, ImageEncoder};
pub use lora::LoraChoice;
pub(crate) use lora::{Loras, Part};
pub use network::Network;
pub use scheduler::Scheduler;
pub(crate) use scheduler::{KARRAS_RHO, Own, SCHEDULES, TCD_ETA};
pub use text_encoder::TextEncoder;
pub(crate) use unclip::{Embedder, UnClip};
pub use weights::Weights;

use crate::error::{Error, Result};
use classes::Labels;
use fields::Fields;
use original::Part as FilePart;
use packed::Packed;
use source::{FileKind, Source};

/// The pipelines whose way from noise to picture is the one of this library.
const PIPELINES: [&str; 2] = ["DDPMPipeline", "DDIMPipeline"];
/// The pipelines around a `UNet2DConditionModel`.
const TEXT_PIPELINES: [&str; 17] = [
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionXLControlNetPipeline",
    "StableDiffusionAdapterPipeline",
    "StableDiffusionXLAdapterPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionControlNetInpaintPipeline",
    "StableDiffusionXLControlNetInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
    "StableDiffusionUpscalePipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
];
/// The pipelines around a `DiTTransformer2DModel`.
const CLASS_PIPELINES: [&str; 1] = ["DiTPipeline"];
/// The pipelines around a `SD3Transformer2DModel`.
const JOINT_PIPELINES: [&str; 1] = ["StableDiffusion3Pipeline"];
/// diffusers' default.
const MAX_NOISE_LEVEL: u32 = 350;
/// Tokens of a prompt, as CLIP's text encoders make them.
const TOKENS: u32 = 77;
/// Tokens that Stable Diffusion 3's third text encoder would make (`max_sequence_length`); without it they are zeros.
pub(crate) const T5_TOKENS: u32 = 256;

/// A model whose configs were read and checked; its weights are read when a network is made of it.
#[derive(Clone, Debug)]
pub struct Model {
    name: String,
    origin: Origin,
    /// Rows and columns.
    size: Option<(u32, u32)>,
    classes: Option<Classes>,
    default_guidance: Option<f32>,
}

/// What a model is read from.
#[derive(Clone, Debug)]
enum Origin {
    /// Files as diffusers saves them, of a `UNet2DModel` with this config.
    UNet2d(Source, Config),
    /// Files as diffusers saves them, of a `UNet2DConditionModel` with this config.
    UNet2dCondition(Source, condition::Config),
    /// Files as diffusers saves them, of a `DiTTransformer2DModel` with this config.
    Dit(Source, dit_core::Config),
    /// Files as diffusers saves them, of a `SD3Transformer2DModel` with this config.
    Sd3(Source, Box<sd3_core::Config>),
    /// Files as diffusers saves them, of a `PriorTransformer` with this config.
    Prior(Source, prior_core::Config),
    /// The stages of unCLIP, each a model of its own.
    UnClip(Arc<UnClip>),
    /// One file that `unfog pack` wrote.
    Pack(Box<Packed>),
}

/// A network of texts, by what it takes of them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Texts<'a> {
    /// A `UNet2DConditionModel`.
    Crossed(&'a condition::Config),
    /// A `SD3Transformer2DModel`.
    Joint(&'a sd3_core::Config),
}

impl Origin {
    /// Where its files are, unless it is a pack.
    fn source(&self) -> Option<&Source> {
        match self {
            Self::UNet2d(source, _)
            | Self::UNet2dCondition(source, _)
            | Self::Dit(source, _)
            | Self::Prior(source, _)
            | Self::Sd3(source, _) => Some(source),
            Self::UnClip(_) | Self::Pack(_) => None,
        }
    }

    /// model_index.json, if there is one: its name and its text.
    fn index(&self) -> Result<Option<(String, Vec<u8>)>> {
        match self {
            Self::Pack(pack) => Ok(pack.index()),
            Self::UnClip(unclip) => unclip.index().map(Some),
            other => other.source().map_or(Ok(None), Source::index),
        }
    }
}

/// Every pipeline that is known.
fn known_pipelines() -> Vec<&'static str> {
    [&PIPELINES[..], &TEXT_PIPELINES, &CLASS_PIPELINES, &JOINT_PIPELINES, &unclip::PIPELINES].concat()
}

/// Parses a model_index.json and checks that its pipeline is one of those that are `known`.
fn read_index(model: &str, index: Option<(String, Vec<u8>)>, known: &[&str]) -> Result<Option<Fields>> {
    let index = index.map(|(name, text)| Fields::parse(&name, &text)).transpose()?;
    if let Some(index) = &index {
        let class = index.text("_class_name", known[0])?;
        if !known.contains(&class) {
            return Err(Error::failure(format!("the model {model} is a {class}, which unfog does not know"))
                .hint(format!("known: {}", known.join(", "))));
        }
    }
    Ok(index)
}

impl Model {
    /// The model at `path` (a folder as diffusers saves it, the folder of a network alone, a safetensors or GGUF file of Stable
    /// Diffusion with its original names, or a file that `unfog pack` wrote), or the one in this library, glyph-tiny.
    ///
    /// # Errors
    /// A missing file; an architecture, option or value that is not known.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let name = path.map_or("glyph-tiny".into(), |path| path.display().to_string());
        if let Some((unclip, index)) = path.map_or(Ok(None), UnClip::open)? {
            let (size, origin) = (unclip.size(), Origin::UnClip(Arc::new(unclip)));
            let default_guidance = index.optional_f64("default_guidance")?.map(|g| g as f32);
            return Ok(Self { name, origin, size, classes: None, default_guidance });
        }
        let (origin, index, size, labels) = match path {
            Some(path) if path.exists() && !path.is_dir() && FileKind::of(path)? == FileKind::Other => {
                let pack = Packed::open(path)?;
                let index = read_index(&name, pack.index(), &known_pipelines())?;
                let [image, _] = pack.shapes();
                let labels = pack.class().map(Labels::of_input);
                (Origin::Pack(Box::new(pack)), index, Some((image.h, image.w)), labels)
            }
            _ => {
                let source = path.map_or(Ok(Source::Embedded), Source::open)?;
                let fields = source.network()?;
                match fields.text("_class_name", "UNet2DModel")? {
                    "UNet2DModel" => {
                        let index = read_index(&name, source.index()?, &PIPELINES)?;
                        let (config, size) = unet2d::read(&fields)?;
                        let labels = Labels::of_config(&config);
                        (Origin::UNet2d(source, config), index, size, labels)
                    }
                    "UNet2DConditionModel" => {
                        let index = read_index(&name, source.index()?, &TEXT_PIPELINES)?;
                        let (config, size) = unet2d_condition::read(&fields)?;
                        (Origin::UNet2dCondition(source, config), index, size, None)
                    }
                    // The older name is what facebook/DiT-XL-2-256 has.
                    "DiTTransformer2DModel" | "Transformer2DModel" => {
                        let index = read_index(&name, source.index()?, &CLASS_PIPELINES)?;
                        let (config, size) = dit::read(&fields)?;
                        let labels = Labels::with_null(config.labels(), config.classes);
                        (Origin::Dit(source, config), index, size, Some(labels))
                    }
                    "SD3Transformer2DModel" => {
                        let index = read_index(&name, source.index()?, &JOINT_PIPELINES)?;
                        let (config, size) = sd3::read(&fields)?;
                        (Origin::Sd3(source, Box::new(config)), index, size, None)
                    }
                    "PriorTransformer" => {
                        let config = prior_transformer::read(&fields)?;
                        (Origin::Prior(source, config), None, Some((1, 1)), None)
                    }
                    class => {
                        return Err(Error::failure(format!("the network is a {class}, which unfog does not know"))
                            .hint("known: UNet2DModel, UNet2DConditionModel, DiTTransformer2DModel, SD3Transformer2DModel, PriorTransformer"));
                    }
                }
            }
        };
        let classes = Classes::read(labels, index.as_ref())?;
        let default_guidance = match &index {
            Some(index) => index.optional_f64("default_guidance")?.map(|g| g as f32),
            None => None,
        };
        Ok(Self { name, origin, size, classes, default_guidance })
    }

    /// The name under which the model was opened.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The architecture of the network, by diffusers' name; of a pack, which doesn't say, "pack".
    pub fn architecture(&self) -> &'static str {
        match &self.origin {
            Origin::UNet2d(..) => "UNet2DModel",
            Origin::UNet2dCondition(..) => "UNet2DConditionModel",
            Origin::Dit(..) => "DiTTransformer2DModel",
            Origin::Sd3(..) => "SD3Transformer2DModel",
            Origin::Prior(..) => "PriorTransformer",
            Origin::UnClip(unclip) => unclip.name(),
            Origin::Pack(_) => "pack",
        }
    }

    /// Channels of what is sampled, and of the network's prediction.
    pub fn channels(&self) -> [u32; 2] {
        match &self.origin {
            Origin::UNet2d(_, config) => [config.sample_channels(), config.out_channels],
            Origin::UNet2dCondition(_, config) => [config.sample_channels(), config.out_channels],
            Origin::Dit(_, config) => [config.in_channels, config.out_channels],
            Origin::Sd3(_, config) => [config.in_channels, config.out_channels],
            Origin::Prior(_, config) => [config.embedding_dim, config.out_dim()],
            Origin::UnClip(unclip) => unclip.super_res[0].channels(),
            Origin::Pack(pack) => pack.shapes().map(|shape| shape.c),
        }
    }

    /// Whether the network takes an embedding as its condition that somebody else makes.
    pub fn takes_embedding(&self) -> bool {
        match &self.origin {
            Origin::UNet2d(_, config) => config.class_embedding == ClassEmbedding::Identity,
            Origin::UNet2dCondition(..) | Origin::Sd3(..) | Origin::Prior(..) => true,
            Origin::Dit(..) | Origin::UnClip(_) => false,
            Origin::Pack(pack) => pack.takes_embedding(),
        }
    }

    /// Whether the network makes latents, which an autoencoder decodes.
    pub(crate) fn is_latent(&self) -> bool {
        matches!(self.origin, Origin::UNet2dCondition(..) | Origin::Dit(..) | Origin::Sd3(..))
    }

    /// Rows and columns of what the network takes for one token.
    pub(crate) fn patch(&self) -> u32 {
        match &self.origin {
            Origin::Dit(_, config) => config.patch_size.max(1),
            Origin::Sd3(_, config) => config.patch_size.max(1),
            _ => 1,
        }
    }

    /// The classes, of a class-conditional model.
    pub fn classes(&self) -> Option<&Classes> {
        self.classes.as_ref()
    }

    /// The guidance that the model asks for, if any.
    pub fn default_guidance(&self) -> Option<f32> {
        self.default_guidance
    }

    /// The text of model_index.json; empty if there is none.
    pub(crate) fn index_text(&self) -> Result<Vec<u8>> {
        Ok(self.origin.index()?.map(|(_, text)| text).unwrap_or_default())
    }

    /// What the model's scheduler_config.json says, if it has one.
    ///
    /// # Errors
    /// A damaged file; an unknown class or option.
    pub fn scheduler(&self) -> Result<Option<Scheduler>> {
        match &self.origin {
            Origin::Pack(pack) => Ok(pack.scheduler()),
            origin => {
                let fields = origin.source().map_or(Ok(None), Source::scheduler)?;
                fields.map(|fields| Scheduler::read(&fields)).transpose()
            }
        }
    }

    /// The scheduler that adds noise to the picture that an upscaler is given, if the model has one.
    ///
    /// # Errors
    /// A damaged file; an unknown class or option.
    pub(crate) fn low_res_scheduler(&self) -> Result<Option<Scheduler>> {
        let Some(folder) = self.part("low_res_scheduler") else { return Ok(None) };
        let path = folder.join("scheduler_config.json");
        let fields = Fields::parse(&path.display().to_string(), &crate::files::read(&path)?)?;
        Scheduler::read(&fields).map(Some)
    }

    /// The most noise that an upscaler may be given with the picture (`max_noise_level`).
    pub(crate) fn max_noise_level(&self) -> Result<u32> {
        match read_index(&self.name, self.origin.index()?, &known_pipelines())? {
            Some(index) => index.u32("max_noise_level", MAX_NOISE_LEVEL),
            None => Ok(MAX_NOISE_LEVEL),
        }
    }

    /// The file that everything is in, of a model that is one file with its original names.
    pub(crate) fn single_file(&self) -> Option<&Path> {
        let (Origin::UNet2d(source, _) | Origin::UNet2dCondition(source, _)) = &self.origin else { return None };
        matches!(source, Source::Original(_)).then_some(Path::new(&self.name))
    }

    /// The text encoders of a text model, in the order in which its network's conditions have them; none if they are not there.
    ///
    /// # Errors
    /// A damaged config; an architecture, option or value that is not known.
    pub fn text_encoders(&self) -> Result<Vec<TextEncoder>> {
        let (Origin::UNet2dCondition(source, _) | Origin::Sd3(source, _)) = &self.origin else { return Ok(Vec::new()) };
        let parts = [("text_encoder", FilePart::Text), ("text_encoder_2", FilePart::Text2)];
        parts.into_iter().filter_map(|(name, part)| source.place(name, part)).map(TextEncoder::at).collect()
    }

    /// The autoencoder of a latent model, if it is there.
    ///
    /// # Errors
    /// A damaged config; an architecture, option or value that is not known.
    pub fn autoencoder(&self) -> Result<Option<Autoencoder>> {
        let Some(source) = self.origin.source().filter(|_| self.is_latent()) else { return Ok(None) };
        source.place("vae", FilePart::Vae).map(Autoencoder::at).transpose()
    }

    /// The folder of one of a whole model's parts, if it has such a part.
    pub(crate) fn part(&self, name: &str) -> Option<PathBuf> {
        match &self.origin {
            Origin::UnClip(unclip) => unclip.part(name),
            origin => origin.source().and_then(|source| source.part(name)),
        }
    }

    /// What a network takes of texts, if it takes them.
    pub(crate) fn texts(&self) -> Option<Texts<'_>> {
        match &self.origin {
            Origin::UNet2dCondition(_, config) => Some(Texts::Crossed(config)),
            Origin::Sd3(_, config) => Some(Texts::Joint(config)),
            _ => None,
        }
    }

    /// Whether the condition of an empty prompt that nobody wrote is zeros (`force_zeros_for_empty_prompt`): Stable Diffusion XL's is
    /// unless its model_index.json says otherwise.
    pub(crate) fn zeros_for_no_prompt(&self) -> Result<bool> {
        if let Origin::UNet2dCondition(Source::Original(original), _) = &self.origin {
            return Ok(original.is_xl());
        }
        let Some(index) = read_index(&self.name, self.origin.index()?, &known_pipelines())? else { return Ok(false) };
        let xl = index.text("_class_name", "")?.starts_with("StableDiffusionXL");
        index.bool("force_zeros_for_empty_prompt", xl)
    }

    /// Whether the model's pipeline is one of latent consistency models: edits choose their timesteps by a rule of its own.
    pub(crate) fn is_of_consistency(&self) -> Result<bool> {
        let index = read_index(&self.name, self.origin.index()?, &known_pipelines())?;
        index.map_or(Ok(false), |index| Ok(index.text("_class_name", "")?.starts_with("LatentConsistencyModel")))
    }

    /// Whether a picture that is to be changed is told in the scale of the latents (`is_cosxl_edit`).
    pub(crate) fn scales_what_it_edits(&self) -> Result<bool> {
        let index = read_index(&self.name, self.origin.index()?, &known_pipelines())?;
        index.map_or(Ok(false), |index| index.bool("is_cosxl_edit", false))
    }

    /// The network for samples of `h` rows and `w` columns, without weights; one of texts for as many tokens as one run of a text encoder
    /// makes.
    ///
    /// # Errors
    /// A usage error for a size that the network can't take; a failure for a config that is no network.
    pub fn network(&self, h: u32, w: u32) -> Result<Network> {
        match &self.origin {
            Origin::Sd3(..) => self.network_for(h, w, TOKENS + T5_TOKENS),
            _ => self.network_for(h, w, TOKENS),
        }
    }

    /// The same for prompts of `tokens` tokens, which only a network of texts looks at.
    ///
    /// # Errors
    /// Those of [`Model::network`].
    pub fn network_for(&self, h: u32, w: u32, tokens: u32) -> Result<Network> {
        match &self.origin {
            Origin::UNet2d(_, config) => unet2d::network(config, h, w),
            Origin::UNet2dCondition(_, config) => unet2d_condition::network(config, Beside::default(), h, w, tokens),
            Origin::Dit(_, config) => dit::network(config, h, w),
            Origin::Sd3(_, config) => sd3::network(config, h, w, tokens),
            Origin::Prior(_, config) => prior_transformer::network(config, h, w),
            Origin::UnClip(_) => Err(self.of_stages()),
            Origin::Pack(pack) => pack.network(h, w),
        }
    }

    /// Tokens of the texts that a prior takes.
    pub(crate) fn text_tokens(&self) -> Option<u32> {
        match &self.origin {
            Origin::Prior(_, config) => Some(config.num_embeddings),
            _ => None,
        }
    }

    /// The stages of unCLIP, if the model has them.
    pub(crate) fn unclip(&self) -> Option<&Arc<UnClip>> {
        match &self.origin {
            Origin::UnClip(unclip) => Some(unclip),
            _ => None,
        }
    }

    fn of_stages(&self) -> Error {
        Error::usage(format!("the model {} is a chain of networks, not one", self.name))
            .hint("give the folder of one of them, such as its decoder")
    }

    /// What a network takes whose pixels attend to texts; `None` of any other.
    pub(crate) fn condition(&self) -> Option<&condition::Config> {
        match &self.origin {
            Origin::UNet2dCondition(_, config) => Some(config),
            _ => None,
        }
    }

    /// The same for a network of texts with what is `beside` it.
    ///
    /// # Errors
    /// Those of [`Model::network`]; a usage error for any other model.
    pub(crate) fn network_beside(&self, h: u32, w: u32, tokens: u32, beside: Beside<'_>) -> Result<Network> {
        let config = self
            .condition()
            .ok_or_else(|| Error::usage(format!("--control: the model {} is none that pictures steer", self.name)))?;
        unet2d_condition::network(config, beside, h, w, tokens)
    }

    /// Reads and checks the weights of `network`, which this model made.
    ///
    /// # Errors
    /// A missing or damaged file; a weight that is missing, of another type or shape, or not finite.
    pub fn weights(&self, network: &Network) -> Result<Weights> {
        match &self.origin {
            Origin::UNet2d(source, _)
            | Origin::UNet2dCondition(source, _)
            | Origin::Dit(source, _)
            | Origin::Prior(source, _)
            | Origin::Sd3(source, _) => source.load(network),
            Origin::UnClip(_) => Err(self.of_stages()),
            Origin::Pack(pack) => Weights::packed(pack.file(), network),
        }
    }
}
