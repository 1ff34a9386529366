//! Models as diffusers saves them: folders of configs and weights.

mod classes;
mod fields;
mod hash;
mod mapped;
mod network;
mod packed;
mod scheduler;
mod source;
mod unet2d;
mod weights;

use std::path::Path;

use unfog_core::nn::model::unet2d::{ClassEmbedding, Config};

pub use classes::Classes;
pub use hash::Fingerprint;
pub use network::Network;
pub use scheduler::Scheduler;
pub(crate) use scheduler::{KARRAS_RHO, Own, SCHEDULES, TCD_ETA};
pub use weights::Weights;

use crate::error::{Error, Result};
use classes::Labels;
use source::Source;

/// The pipelines whose way from noise to picture is the one of this library.
const PIPELINES: [&str; 2] = ["DDPMPipeline", "DDIMPipeline"];

/// A model whose configs were read and checked; its weights are read when a network is made of it.
#[derive(Clone, Debug)]
pub struct Model {
    name: String,
    source: Source,
    /// The network's config, where the source is no pack.
    config: Option<Config>,
    /// Rows and columns.
    size: Option<(u32, u32)>,
    classes: Option<Classes>,
    default_guidance: Option<f32>,
}

impl Model {
    /// The model at `path` (a folder as diffusers saves it, the folder of a network alone, or a file that `unfog pack` wrote), or
    /// the one in this library, glyph-tiny.
    ///
    /// # Errors
    /// A missing file; an architecture, option or value that is not known.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let source = path.map_or(Ok(Source::Embedded), Source::open)?;
        let name = path.map_or("glyph-tiny".into(), |path| path.display().to_string());
        let index = source.index()?;
        if let Some(index) = &index {
            let class = index.text("_class_name", PIPELINES[0])?;
            if !PIPELINES.contains(&class) {
                return Err(Error::failure(format!("the model {name} is a {class}, which unfog does not know"))
                    .hint(format!("known: {}", PIPELINES.join(", "))));
            }
        }
        let (config, size, labels) = match (&source, source.network()?) {
            (Source::Pack(pack), _) => {
                let [image, _] = pack.shapes();
                (None, Some((image.h, image.w)), pack.class().map(Labels::of_input))
            }
            (_, Some(fields)) => {
                let (config, size) = unet2d::read(&fields)?;
                let labels = Labels::of_config(&config);
                (Some(config), size, labels)
            }
            (_, None) => return Err(Error::failure(format!("the model {name} has no config.json"))),
        };
        let classes = Classes::read(labels, index.as_ref())?;
        let default_guidance = match &index {
            Some(index) => index.optional_f64("default_guidance")?.map(|g| g as f32),
            None => None,
        };
        Ok(Self { name, source, config, size, classes, default_guidance })
    }

    /// The name under which the model was opened.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The architecture of the network, by diffusers' name; of a pack, which doesn't say, "pack".
    pub fn architecture(&self) -> &'static str {
        if self.config.is_some() { "UNet2DModel" } else { "pack" }
    }

    /// Channels of the pictures, and of the network's prediction.
    pub fn channels(&self) -> [u32; 2] {
        match (&self.config, &self.source) {
            (Some(config), _) => [config.in_channels, config.out_channels],
            (None, Source::Pack(pack)) => pack.shapes().map(|shape| shape.c),
            (None, _) => [0; 2],
        }
    }

    /// Whether the network takes an embedding as its condition that somebody else makes.
    pub fn takes_embedding(&self) -> bool {
        match (&self.config, &self.source) {
            (Some(config), _) => config.class_embedding == ClassEmbedding::Identity,
            (None, Source::Pack(pack)) => pack.takes_embedding(),
            (None, _) => false,
        }
    }

    /// The size of the pictures that the network was trained on: rows and columns.
    pub fn size(&self) -> Option<(u32, u32)> {
        self.size
    }

    /// Width and height of the pictures to make: those that are asked for, or the model's own.
    ///
    /// # Errors
    /// A usage error when neither is there.
    pub fn picture_size(&self, asked: Option<(u32, u32)>) -> Result<(u32, u32)> {
        asked.or(self.size.map(|(h, w)| (w, h))).ok_or_else(|| {
            Error::usage(format!("the model {} does not say how large its pictures are", self.name))
                .hint("give --size WxH")
        })
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
        self.source.index_text()
    }

    /// What the model's scheduler_config.json says, if it has one.
    ///
    /// # Errors
    /// A damaged file; an unknown class or option.
    pub fn scheduler(&self) -> Result<Option<Scheduler>> {
        if let Source::Pack(pack) = &self.source {
            return Ok(pack.scheduler());
        }
        self.source.scheduler()?.map(|fields| Scheduler::read(&fields)).transpose()
    }

    /// The network for pictures of `h` rows and `w` columns, without weights.
    ///
    /// # Errors
    /// A usage error for a size that the network can't take; a failure for a config that is no network.
    pub fn network(&self, h: u32, w: u32) -> Result<Network> {
        match (&self.config, &self.source) {
            (Some(config), _) => unet2d::network(config, h, w),
            (None, Source::Pack(pack)) => pack.network(h, w),
            (None, _) => Err(Error::failure(format!("the model {} has no config.json", self.name))),
        }
    }

    /// Reads and checks the weights of `network`, which this model made, and starts to compute their fingerprint.
    ///
    /// # Errors
    /// A missing or damaged file; a weight that is missing, of another type or shape, or not finite.
    pub fn weights(&self, network: &Network) -> Result<(Weights, Fingerprint)> {
        let files = self.source.weights()?;
        let weights = match &self.source {
            Source::Pack(pack) => Weights::packed(pack.file(), network)?,
            _ => Weights::load(files.clone(), network)?,
        };
        Ok((weights, Fingerprint::start(&files)))
    }
}
