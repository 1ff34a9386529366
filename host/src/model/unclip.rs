//! unCLIP as a whole (Ramesh et al. 2022), as diffusers' `UnCLIPPipeline` and `UnCLIPImageVariationPipeline` save it: what makes a picture's
//! CLIP embedding, a decoder that makes a small picture of it, and two networks that make that larger.

use std::path::{Path, PathBuf};

use unfog_core::nn::model::text_proj::{Config, NO_IMAGE, build_image, build_text};
use unfog_core::nn::model::unet2d_condition::ClassEmbedding;

use super::fields::Fields;
use super::image_encoder::{FeatureExtractor, ImageEncoder};
use super::network::Network;
use super::scheduler::Scheduler;
use super::source::PartPlace;
use super::text_encoder::TextEncoder;
use super::unet2d::explain;
use super::weights::Weights;
use super::{Model, Origin};
use crate::error::{Error, Result};
use crate::files;

/// The pipelines: of texts, and of pictures.
pub(super) const PIPELINES: [&str; 2] = ["UnCLIPPipeline", "UnCLIPImageVariationPipeline"];
/// Channels of the pictures.
const COLOURS: u32 = 3;

/// What makes the embedding of a picture.
#[derive(Clone, Debug)]
pub(crate) enum Embedder {
    /// A network that makes it of noise, for a text.
    Prior { network: Box<Model>, scheduler: Box<Scheduler> },
    /// A vision tower that sees another picture.
    Vision { network: Box<ImageEncoder>, extractor: FeatureExtractor },
}

/// The stages of an unCLIP model whose configs were read, and fit each other.
#[derive(Clone, Debug)]
pub(crate) struct UnClip {
    folder: PathBuf,
    pub(crate) embedder: Embedder,
    pub(crate) text_encoder: TextEncoder,
    pub(crate) text_proj: TextProj,
    pub(crate) decoder: Box<Model>,
    pub(crate) decoder_scheduler: Scheduler,
    /// For all steps but the last, and for that one.
    pub(crate) super_res: Box<[Model; 2]>,
    pub(crate) super_res_scheduler: Scheduler,
}

/// An `UnCLIPTextProjModel` whose config was read.
#[derive(Clone, Debug)]
pub(crate) struct TextProj {
    place: PartPlace,
    config: Config,
}

impl UnClip {
    /// The stages in a folder, if its model_index.json names one of these pipelines.
    ///
    /// # Errors
    /// A missing stage; a damaged config; stages that don't fit each other.
    pub(super) fn open(folder: &Path) -> Result<Option<(Self, Fields)>> {
        let path = folder.join("model_index.json");
        if !path.is_file() {
            return Ok(None);
        }
        let index = Fields::parse(&path.display().to_string(), &files::read(&path)?)?;
        let class = index.text("_class_name", "")?;
        if !PIPELINES.contains(&class) {
            return Ok(None);
        }
        let network = |name: &str, architecture: &str| {
            let network = Model::open(Some(&stage(folder, name)?))?;
            match network.architecture() == architecture {
                true => Ok(network),
                false => Err(Error::failure(format!(
                    "{} is a {}, expected a {architecture}",
                    network.name(),
                    network.architecture()
                ))),
            }
        };
        let scheduler = |name: &str| Scheduler::open(&stage(folder, name)?.join("scheduler_config.json"));
        let embedder = match class == PIPELINES[0] {
            true => Embedder::Prior {
                network: Box::new(network("prior", "PriorTransformer")?),
                scheduler: Box::new(scheduler("prior_scheduler")?),
            },
            false => Embedder::Vision {
                network: Box::new(ImageEncoder::open(&stage(folder, "image_encoder")?)?),
                extractor: FeatureExtractor::open(&stage(folder, "feature_extractor")?)?,
            },
        };
        stage(folder, "tokenizer")?;
        let large = |name: &str| Ok::<_, Error>(beside(network(name, "UNet2DModel")?));
        let unclip = Self {
            folder: folder.to_path_buf(),
            embedder,
            text_encoder: TextEncoder::open(&stage(folder, "text_encoder")?)?,
            text_proj: TextProj::open(&stage(folder, "text_proj")?)?,
            decoder: Box::new(network("decoder", "UNet2DConditionModel")?),
            decoder_scheduler: scheduler("decoder_scheduler")?,
            super_res: Box::new([large("super_res_first")?, large("super_res_last")?]),
            super_res_scheduler: scheduler("super_res_scheduler")?,
        };
        unclip.check()?;
        Ok(Some((unclip, index)))
    }

    /// Refuses stages that don't fit each other.
    fn check(&self) -> Result<()> {
        let texts = self.text_encoder.config();
        let proj = self.text_proj.config();
        let Some(whole) = texts.projection_dim else {
            return Err(Error::failure("text_encoder is a CLIPTextModel, expected a CLIPTextModelWithProjection"));
        };
        let dim = ("text_proj's clip_embeddings_dim", proj.clip_embeddings_dim);
        agree(("text_encoder's projection_dim", whole), dim)?;
        agree(("text_encoder's hidden_size", texts.hidden_size), dim)?;
        match &self.embedder {
            Embedder::Prior { network, scheduler } => {
                let Origin::Prior(_, config) = &network.origin else { return Err(Error::failure("the prior is none")) };
                agree(("prior's embedding_dim", config.embedding_dim), dim)?;
                agree(("prior's clip_embed_dim", config.out_dim()), dim)?;
                agree(("prior's embedding_proj_dim", config.embedding_proj_dim.unwrap_or(config.embedding_dim)), dim)?;
                variance("prior", network, scheduler)?;
            }
            Embedder::Vision { network, .. } => {
                agree(("image_encoder's projection_dim", network.config().projection_dim), dim)?;
            }
        }
        let Some(decoder) = self.decoder.condition().filter(|config| config.simple) else {
            return Err(Error::failure("decoder has no unCLIP's blocks (SimpleCrossAttnDownBlock2D and the like)"));
        };
        let told = (&decoder.class_embedding, decoder.addition, decoder.time_cond_proj_dim, decoder.encoder_hid_dim);
        if !matches!(told, (ClassEmbedding::Identity, None, None, None)) {
            return Err(Error::failure(
                "decoder is told something else than tokens and a class_embed_type \"identity\"",
            ));
        }
        agree(
            ("decoder's cross_attention_dim", decoder.cross_attention_dim),
            ("text_proj's cross_attention_dim", proj.cross_attention_dim),
        )?;
        agree(("decoder's time embedding", decoder.time_dim()), ("text_proj's time_embed_dim", proj.time_embed_dim))?;
        agree(("decoder's in_channels", decoder.in_channels), ("a picture's", COLOURS))?;
        variance("decoder", &self.decoder, &self.decoder_scheduler)?;
        let names = ["super_res_first", "super_res_last"];
        for (name, network) in names.into_iter().zip(&*self.super_res) {
            if network.channels()[0] != COLOURS {
                let Origin::UNet2d(_, config) = &network.origin else { continue };
                return Err(Error::failure(format!(
                    "{name}'s in_channels is {}, expected {}: two pictures",
                    config.in_channels,
                    2 * COLOURS
                )));
            }
            variance(name, network, &self.super_res_scheduler)?;
        }
        let [first, last] = &*self.super_res;
        agree(
            ("super_res_first's out_channels", first.channels()[1]),
            ("super_res_last's out_channels", last.channels()[1]),
        )?;
        for (name, network) in names.into_iter().zip([first, last]).chain([("decoder", &*self.decoder)]) {
            if network.size().is_none_or(|(h, w)| h == 0 || w == 0) {
                return Err(Error::failure(format!("{name} names no sample_size")));
            }
        }
        match first.size() == last.size() {
            true => Ok(()),
            false => Err(Error::failure("super_res_first and super_res_last have other values of sample_size")),
        }
    }

    /// The pipeline, by diffusers' name.
    pub(super) fn name(&self) -> &'static str {
        match self.embedder {
            Embedder::Prior { .. } => PIPELINES[0],
            Embedder::Vision { .. } => PIPELINES[1],
        }
    }

    /// Rows and columns of the pictures.
    pub(super) fn size(&self) -> Option<(u32, u32)> {
        self.super_res[0].size()
    }

    /// The folder of a stage, if it is there.
    pub(super) fn part(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.join(name)).filter(|part| part.is_dir())
    }

    /// model_index.json: its name and its text.
    pub(super) fn index(&self) -> Result<(String, Vec<u8>)> {
        let path = self.folder.join("model_index.json");
        Ok((path.display().to_string(), files::read(&path)?))
    }

    /// What the prior's embeddings were normalised by: means, then standard deviations.
    ///
    /// # Errors
    /// A missing or damaged file; a pipeline without a prior.
    pub(crate) fn statistics(&self) -> Result<[Vec<f32>; 2]> {
        match &self.embedder {
            Embedder::Prior { network, .. } => match &network.origin {
                Origin::Prior(source, config) => {
                    let dim = config.out_dim();
                    let vectors = Network::vectors(&[("clip_mean", dim), ("clip_std", dim)]);
                    let [mean, std] = &values(&source.load(&vectors)?)[..] else {
                        return Err(Error::failure("the prior has no clip_mean"));
                    };
                    Ok([mean.clone(), std.clone()])
                }
                _ => Err(Error::failure("the prior is none")),
            },
            Embedder::Vision { .. } => Err(Error::failure("the pipeline has no prior")),
        }
    }
}

impl TextProj {
    fn open(folder: &Path) -> Result<Self> {
        let place = PartPlace::Folder(folder.to_path_buf());
        let fields = place.config()?;
        if fields.text("_class_name", "UnCLIPTextProjModel")? != "UnCLIPTextProjModel" {
            return Err(fields.refuse("_class_name", "\"UnCLIPTextProjModel\""));
        }
        let must = |key: &str| fields.optional_u32(key)?.ok_or_else(|| fields.refuse(key, "a whole number"));
        let config = Config {
            clip_extra_context_tokens: fields.u32("clip_extra_context_tokens", 4)?,
            clip_embeddings_dim: fields.u32("clip_embeddings_dim", 768)?,
            time_embed_dim: must("time_embed_dim")?,
            cross_attention_dim: must("cross_attention_dim")?,
        };
        Ok(Self { place, config })
    }

    /// What its config says.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The network for the states of texts of `tokens` tokens.
    ///
    /// # Errors
    /// A config that is no network.
    pub(crate) fn text_network(&self, tokens: u32) -> Result<Network> {
        Network::build(|builder, names| build_text(&self.config, tokens, builder, names))
            .map_err(|e| explain(e, 1, tokens))
    }

    /// The network for embeddings.
    ///
    /// # Errors
    /// A config that is no network.
    pub(crate) fn image_network(&self) -> Result<Network> {
        Network::build(|builder, names| build_image(&self.config, builder, names)).map_err(|e| explain(e, 1, 1))
    }

    /// Reads and checks the weights of one of its networks.
    ///
    /// # Errors
    /// A missing or damaged file; a weight that is missing, of another type or shape, or not finite.
    pub(crate) fn weights(&self, network: &Network) -> Result<Weights> {
        self.place.load("diffusion_pytorch_model", network)
    }

    /// The embedding that stands for no picture.
    ///
    /// # Errors
    /// Those of [`Self::weights`].
    pub(crate) fn no_image(&self) -> Result<Vec<f32>> {
        let network = Network::vectors(&[(NO_IMAGE, self.config.clip_embeddings_dim)]);
        Ok(values(&self.weights(&network)?).into_iter().flatten().collect())
    }
}

/// The values of each weight.
fn values(weights: &Weights) -> Vec<Vec<f32>> {
    weights.data().iter().map(|data| (0..data.len()).map(|i| data.at(i)).collect()).collect()
}

/// The folder of a stage.
fn stage(folder: &Path, name: &str) -> Result<PathBuf> {
    let stage = folder.join(name);
    match stage.is_dir() {
        true => Ok(stage),
        false => Err(Error::failure(format!("the model {} lacks its stage {name}", folder.display()))),
    }
}

/// A network that makes pictures larger: half of its channels are the small picture's.
fn beside(mut network: Model) -> Model {
    if let Origin::UNet2d(_, config) = &mut network.origin {
        config.condition_channels = config.in_channels / 2;
    }
    network
}

/// Refuses two numbers of stages that must be one.
fn agree((what, a): (&str, u32), (other, b): (&str, u32)) -> Result<()> {
    match a == b {
        true => Ok(()),
        false => Err(Error::failure(format!("{what} is {a}, and {other} {b}"))),
    }
}

/// Refuses a network that predicts something else than its scheduler takes.
fn variance(name: &str, network: &Model, scheduler: &Scheduler) -> Result<()> {
    let [channels, out] = network.channels();
    let learned = scheduler.config.variance.is_learned();
    match out {
        _ if Some(out) == channels.checked_mul(2) => Ok(()),
        _ if out == channels && !learned => Ok(()),
        _ if out == channels => Err(Error::failure(format!(
            "{name}'s scheduler says \"learned_range\", but its out_channels {out} have no room for a variance"
        ))),
        _ => Err(Error::failure(format!("{name} predicts {out} channels of pictures of {channels}"))),
    }
}
