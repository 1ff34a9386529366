//! Stable Diffusion in one safetensors file, under the names that its first program gave the weights (latent-diffusion's): which
//! of diffusers' names is which, and the configs, which such a file doesn't hold, from the weights' shapes.
//!
//! The names are those of `diffusers.loaders.single_file_utils`; what shapes can't tell (heads, sizes, schedulers) is as in the configs
//! that diffusers takes for such files.

mod text;
mod unet;
mod vae;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

pub(super) use unet::network_names;

use super::fields::Fields;
use super::mapped;
use super::weights::{StoredName, WeightFile, shapes};
use crate::error::{Error, Result};

/// A network that such a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The denoising network.
    Unet,
    /// The autoencoder between pictures and latents.
    Vae,
    /// The text encoder, or the first of two.
    Text,
    /// The second text encoder, of Stable Diffusion XL.
    Text2,
}

/// What is known of the family of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// Stable Diffusion 1.
    One,
    /// Stable Diffusion 2.
    Two,
    /// Stable Diffusion XL.
    Xl,
}

/// A file, mapped, and the shapes of its weights.
#[derive(Clone, Debug)]
pub(super) struct Original {
    file: Arc<WeightFile>,
    shapes: Shapes,
    family: Family,
    /// How many steps it was trained, where it says so.
    trained: Option<i64>,
    /// Whether it holds a network alone, whose names lack their prefix.
    bare: bool,
}

/// The shape of each weight by its name.
#[derive(Clone, Debug, Default)]
struct Shapes(BTreeMap<String, Vec<usize>>);

impl Shapes {
    fn get(&self, name: &str) -> Option<&[usize]> {
        self.0.get(name).map(Vec::as_slice)
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// One side of a weight.
    fn side(&self, name: &str, side: usize) -> Result<usize> {
        let missing = || Error::failure(format!("the file lacks {name}, or it has too few dimensions"));
        self.get(name).and_then(|shape| shape.get(side)).copied().ok_or_else(missing)
    }

    /// How many numbers, from 0, stand between `before` and `after` in the names: `before{n}after...`.
    fn count(&self, before: &str, after: &str) -> usize {
        (0..).take_while(|n| self.starts(&format!("{before}{n}{after}"))).count()
    }

    /// Whether a name starts like this.
    fn starts(&self, start: &str) -> bool {
        let next = self.0.range::<str, _>((std::ops::Bound::Included(start), std::ops::Bound::Unbounded)).next();
        next.is_some_and(|(name, _)| name.starts_with(start))
    }
}

impl Original {
    /// Opens the safetensors file at `path`.
    ///
    /// # Errors
    /// A damaged file, or one without a network of Stable Diffusion under its original names.
    pub(super) fn open(path: &Path) -> Result<Self> {
        Self::of(Arc::new(WeightFile { name: path.display().to_string(), bytes: mapped::map(path)? }))
    }

    /// The file `file`.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub(super) fn of(file: Arc<WeightFile>) -> Result<Self> {
        let (shapes, bare) = Self::shapes(shapes(&file)?);
        if !shapes.has(&format!("{}{}", unet::PREFIX, unet::FIRST)) {
            let strange = format!("{} holds no Stable Diffusion under its original names", file.name);
            return Err(Error::failure(strange).hint("a network as diffusers saves it is given by its folder"));
        }
        let family = family(&shapes);
        let trained = super::weights::whole_number(&file, "global_step")?;
        Ok(Self { file, shapes, family, trained, bare })
    }

    /// The shapes by their full names, and whether they lacked the network's prefix.
    fn shapes(shapes: BTreeMap<String, Vec<usize>>) -> (Shapes, bool) {
        let bare = shapes.contains_key(unet::FIRST);
        let name = |name: String| if bare && name.contains('.') { format!("{}{name}", unet::PREFIX) } else { name };
        (Shapes(shapes.into_iter().map(|(own, shape)| (name(own), shape)).collect()), bare)
    }

    /// Whether a file holds a network under its original names.
    pub(super) fn is_in(shapes: &BTreeMap<String, Vec<usize>>) -> bool {
        shapes.contains_key(unet::FIRST) || shapes.contains_key(&format!("{}{}", unet::PREFIX, unet::FIRST))
    }

    /// Whether the file holds this part.
    pub(super) fn has(&self, part: Part) -> bool {
        match part {
            Part::Unet => true,
            Part::Vae => vae::is_in(&self.shapes),
            Part::Text | Part::Text2 => text::is_in(&self.shapes, part),
        }
    }

    /// Whether the file is of Stable Diffusion XL.
    pub(super) fn is_xl(&self) -> bool {
        self.family == Family::Xl
    }

    /// Whether a text encoder is OpenCLIP's, whose texts are filled up with the token of id 0.
    pub(super) fn is_open(&self, part: Part) -> bool {
        text::is_open(&self.shapes, part)
    }

    /// The config of a part, as diffusers has it.
    ///
    /// # Errors
    /// A weight that is missing or has another shape than these networks have.
    pub(super) fn config(&self, part: Part) -> Result<Fields> {
        let config = match part {
            Part::Unet => unet::config(&self.shapes, self.family)?,
            Part::Vae => vae::config(&self.shapes, self.family)?,
            Part::Text | Part::Text2 => text::config(&self.shapes, part)?,
        };
        self.fields(&config)
    }

    /// The scheduler_config.json that diffusers takes for such a file. Stable Diffusion 2 predicts v, but for the checkpoint that
    /// says that it was trained 875,000 steps, the one for 512 pixels. Any other model predicts epsilon, unless it holds the mark that
    /// trainers of v-predicting ones put in (a tensor `v_pred`; `ztsnr` where the last timestep is all noise).
    pub(super) fn scheduler(&self) -> Result<Fields> {
        let class = match self.family {
            Family::One => "PNDMScheduler",
            Family::Two => "DDIMScheduler",
            Family::Xl => "EulerDiscreteScheduler",
        };
        let v = self.family == Family::Two && self.trained != Some(875_000) || self.shapes.has("v_pred");
        self.fields(&json!({
            "_class_name": class, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
            "num_train_timesteps": 1000, "prediction_type": if v { "v_prediction" } else { "epsilon" },
            "clip_sample": false, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
            "timestep_spacing": "leading", "rescale_betas_zero_snr": self.shapes.has("ztsnr"),
        }))
    }

    fn fields(&self, config: &Value) -> Result<Fields> {
        Fields::parse(&format!("the config for {}", self.file.name), config.to_string().as_bytes())
    }

    /// The file.
    pub(super) fn files(&self) -> Vec<Arc<WeightFile>> {
        vec![self.file.clone()]
    }

    /// The names that the weight may have in the file which `name` is in diffusers.
    pub(super) fn names(&self, part: Part, name: &str) -> Vec<StoredName> {
        let mut names = match part {
            Part::Unet => unet::names(&self.shapes, name),
            Part::Vae => vae::names(&self.shapes, name),
            Part::Text | Part::Text2 => text::names(&self.shapes, part, name),
        };
        if self.bare {
            names.iter_mut().for_each(|stored| {
                stored.name = stored.name.strip_prefix(unet::PREFIX).unwrap_or(&stored.name).to_owned();
            });
        }
        names
    }
}

/// The family: its text encoders tell it, or the width of the texts that the network takes.
fn family(shapes: &Shapes) -> Family {
    match shapes {
        _ if shapes.starts("conditioner.embedders.") => Family::Xl,
        _ if shapes.starts("cond_stage_model.model.") => Family::Two,
        _ if shapes.starts("cond_stage_model.transformer.") => Family::One,
        _ => unet::family(shapes),
    }
}

/// `name` with the first of `pairs` whose first text it begins with replaced by the second.
fn replace_start(name: &str, pairs: &[(&str, &str)]) -> Option<String> {
    pairs.iter().find_map(|(from, to)| name.strip_prefix(from).map(|rest| format!("{to}{rest}")))
}

/// The number between `before` and the next full stop, and what follows that.
fn number<'a>(name: &'a str, before: &str) -> Option<(usize, &'a str)> {
    let (number, rest) = name.strip_prefix(before)?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests;
