//! Models as diffusers saves them: folders of configs and weights.

mod classes;
mod fields;
mod hash;
mod mapped;
mod network;
mod scheduler;
mod source;
mod unet2d;
mod weights;

use std::path::Path;

use unfog_core::nn::model::unet2d::Config;

pub use classes::Classes;
pub use hash::Fingerprint;
pub use network::Network;
pub use scheduler::Scheduler;
pub(crate) use scheduler::{KARRAS_RHO, Own, SCHEDULES, TCD_ETA};
pub use weights::Weights;

use crate::error::{Error, Result};
use source::Source;

/// The pipelines whose way from noise to picture is the one of this library.
const PIPELINES: [&str; 2] = ["DDPMPipeline", "DDIMPipeline"];

/// A model whose configs were read and checked; its weights are read when a network is made of it.
#[derive(Clone, Debug)]
pub struct Model {
    name: String,
    source: Source,
    config: Config,
    /// Rows and columns.
    size: Option<(u32, u32)>,
    classes: Option<Classes>,
    default_guidance: Option<f32>,
}

impl Model {
    /// The model at `path` (a folder as diffusers saves it, or the folder of a network alone), or the one in this library,
    /// glyph-tiny.
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
        let (config, size) = unet2d::read(&source.network()?)?;
        let classes = Classes::read(&config, index.as_ref())?;
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

    /// The network's config.
    pub fn config(&self) -> &Config {
        &self.config
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

    /// What the model's scheduler_config.json says, if it has one.
    ///
    /// # Errors
    /// A damaged file; an unknown class or option.
    pub fn scheduler(&self) -> Result<Option<Scheduler>> {
        self.source.scheduler()?.map(|fields| Scheduler::read(&fields)).transpose()
    }

    /// The network for pictures of `h` rows and `w` columns, without weights.
    ///
    /// # Errors
    /// A usage error for a size that the network can't take; a failure for a config that is no network.
    pub fn network(&self, h: u32, w: u32) -> Result<Network> {
        unet2d::network(&self.config, h, w)
    }

    /// Reads and checks the weights of `network`, which this model made, and starts to compute their fingerprint.
    ///
    /// # Errors
    /// A missing or damaged file; a weight that is missing, of another type or shape, or not finite.
    pub fn weights(&self, network: &Network) -> Result<(Weights, Fingerprint)> {
        let files = self.source.weights()?;
        let weights = Weights::load(files.clone(), network)?;
        Ok((weights, Fingerprint::start(&files)))
    }
}
