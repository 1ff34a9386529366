//! Everything that it takes to make a picture again, as it is stored in a PNG or a DICOM file.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::backend::Description;
use crate::error::{Error, Result};
use crate::image::read_text;
use crate::restore::Task;
use crate::scan::{self, Window};

/// The keyword of a PNG's text under which the recipe lies, as JSON.
pub const KEYWORD: &str = "unfog";

/// A LoRA that was added to the model's weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    /// The file, as it was named.
    pub file: String,
    /// SHA-256 of it.
    pub sha256: String,
    /// The factor on what it adds.
    pub weight: f32,
}

/// An embedding that the text encoders were taught.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Embedding {
    /// The file, as it was named.
    pub file: String,
    /// SHA-256 of it.
    pub sha256: String,
    /// The word that stands for it.
    pub token: String,
}

/// A control that steered the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Control {
    /// Its folder, as it was named.
    pub model: String,
    /// SHA-256 of its weight files.
    pub sha256: String,
    /// The picture that it saw, as it was named.
    pub image: String,
    /// SHA-256 of that file.
    pub image_sha256: String,
    /// How much it counted.
    pub scale: f32,
    /// The part of the steps in which it did, if not all: where it began and ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<[f64; 2]>,
}

/// What a picture was made from, of a run of `edit`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Edited {
    /// The picture's file, as it was named.
    pub image: String,
    /// SHA-256 of that file.
    pub image_sha256: String,
    /// The share of the steps that were made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// The mask's file, as it was named; `auto` and no SHA-256 for one that was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// SHA-256 of that file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask_sha256: Option<String>,
    /// Scale of the guidance towards the picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_guidance: Option<f32>,
    /// How much noise an upscaler was given with the picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise_level: Option<u32>,
    /// Whether what stays was copied from the picture in the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paste: bool,
    /// Whether it began from what DDIM, run backwards, made of the picture.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub invert: bool,
    /// The class that described the picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_class: Option<u32>,
    /// The text that described it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_prompt: Option<String>,
    /// The pixels along a side of what counted as coarse, and was put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_coarse: Option<u32>,
}

/// What a picture was restored from, of a run of `restore`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// The picture's file, as it was named.
    pub image: String,
    /// SHA-256 of that file.
    pub image_sha256: String,
    /// What was made good.
    pub task: Task,
    /// Standard deviation of the noise that was assumed, of 255.
    pub noise: f32,
    /// What the noise was taken to be like, if not Gaussian.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise_model: Option<String>,
    /// How much variance a step of 255 of intensity added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gain: Option<f32>,
    /// What the network saw of a scan's range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// The mask's file, as it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// SHA-256 of that file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask_sha256: Option<String>,
    /// How many times as large it became.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<u32>,
    /// How it had been made smaller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Standard deviation of the blur, in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blur: Option<f32>,
    /// After how many steps each the chain went back over them, and how often they were made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub travel: Option<[usize; 2]>,
}

/// A run of `sample`, `edit` or `restore`: every option as it was in effect, and what it ran on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The command.
    pub command: String,
    /// unfog's version.
    pub version: String,
    /// The model, as it was named.
    pub model: String,
    /// SHA-256 of the model's weight files.
    pub weights_sha256: String,
    /// The LoRAs that were added to the weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<Lora>,
    /// The embeddings that the text encoders were taught.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub embeddings: Vec<Embedding>,
    /// What steered the network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controls: Vec<Control>,
    /// The prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The prompt that the pictures lead away from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// How many layers at the end of the text encoders were left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<u32>,
    /// The folder of the tokenizer, if one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Steps of unCLIP's prior; `steps` and what else is said of the chain are the decoder's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior_steps: Option<usize>,
    /// Scale of the prior's guidance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior_guidance: Option<f32>,
    /// Steps of the stage that made the pictures larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub super_res_steps: Option<usize>,
    /// What the network was said to predict, if its scheduler's config was not to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction: Option<String>,
    /// The side of the tiles in which latents were decoded, if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae_tile: Option<u32>,
    /// The picture that it began from, of a run of `edit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<Edited>,
    /// The picture that it was restored from, of a run of `restore`: the sampler is the method, and the number of images that of the samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restored>,
    /// The class that was asked for; without one, image i has class i modulo the number of classes.
    pub class: Option<u32>,
    /// The class that the pictures lead away from.
    pub negative: Option<u32>,
    /// Guidance scale; 1 is off.
    pub guidance: f32,
    /// How predictions are combined, if there is guidance.
    pub guidance_rule: Option<String>,
    /// How far the standard deviation is brought back.
    pub guidance_rescale: Option<f32>,
    /// Between which shares of the steps there is guidance.
    pub guidance_interval: Option<[f64; 2]>,
    /// Sampler.
    pub sampler: String,
    /// Beta schedule.
    pub schedule: String,
    /// Table of sigmas, of a sampler over noise levels.
    pub sigmas: Option<String>,
    /// Steps.
    pub steps: usize,
    /// DDIM's, TCD's or SA-Solver's share of fresh noise.
    pub eta: f32,
    /// Seed.
    pub seed: u64,
    /// Number of images.
    pub count: u32,
    /// Index of the first image.
    pub first: u64,
    /// Width of an image.
    pub width: u32,
    /// Height of an image.
    pub height: u32,
    /// Whose rule gives the timestep that a step leads to.
    pub parity: String,
    /// How the seed became noise.
    pub noise: Option<String>,
    /// The file of given noise, if no random number was generated.
    pub noise_in: Option<String>,
    /// The most bytes of a GPU's memory, if there was a limit.
    pub vram: Option<u64>,
    /// What computed.
    #[serde(flatten)]
    pub ran_on: Description,
}

impl Recipe {
    /// The recipe of nothing, on what it ran.
    pub(crate) fn of(ran_on: Description) -> Self {
        Self {
            command: String::new(),
            version: String::new(),
            model: String::new(),
            weights_sha256: String::new(),
            loras: Vec::new(),
            embeddings: Vec::new(),
            controls: Vec::new(),
            prompt: None,
            negative_prompt: None,
            clip_skip: None,
            tokenizer: None,
            prior_steps: None,
            prior_guidance: None,
            super_res_steps: None,
            prediction: None,
            vae_tile: None,
            edit: None,
            restore: None,
            class: None,
            negative: None,
            guidance: 1.0,
            guidance_rule: None,
            guidance_rescale: None,
            guidance_interval: None,
            sampler: String::new(),
            schedule: String::new(),
            sigmas: None,
            steps: 0,
            eta: 0.0,
            seed: 0,
            count: 1,
            first: 0,
            width: 0,
            height: 0,
            parity: String::new(),
            noise: None,
            noise_in: None,
            vram: None,
            ran_on,
        }
    }

    /// The recipe of image `index` of this run alone.
    #[must_use]
    pub fn of_image(&self, index: u64) -> Self {
        Self { count: 1, first: index, ..self.clone() }
    }

    /// The hashes of the files that were used beside the model.
    pub(crate) fn files(&mut self) -> impl Iterator<Item = &mut String> {
        let loras = self.loras.iter_mut().map(|lora| &mut lora.sha256);
        let embeddings = self.embeddings.iter_mut().map(|embedding| &mut embedding.sha256);
        let controls = self.controls.iter_mut().flat_map(|c| [&mut c.sha256, &mut c.image_sha256]);
        loras.chain(embeddings).chain(controls)
    }

    /// As JSON.
    ///
    /// # Errors
    /// A number that JSON can't hold.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::failure("the recipe can't be written as JSON").because(e))
    }

    /// The recipe that the PNG or DICOM file at `path` carries.
    ///
    /// # Errors
    /// A file that is missing or of another kind, carries no recipe, or one of an unknown form.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path, &Self::text(path)?)
    }

    /// As [`Self::read`], of a recipe that holds nothing that this version doesn't know.
    ///
    /// # Errors
    /// Those of [`Self::read`]; parts of the recipe that are not known, by their names.
    pub fn read_whole(path: &Path) -> Result<Self> {
        let text = Self::text(path)?;
        let recipe = Self::parse(path, &text);
        let version = env!("CARGO_PKG_VERSION");
        let all: Map<String, Value> = serde_json::from_str(&text).unwrap_or_default();
        let known = match recipe.as_ref().map(serde_json::to_value) {
            Ok(Ok(Value::Object(known))) => known,
            _ => return recipe,
        };
        let unknown: Vec<&str> = all
            .iter()
            .filter(|(key, value)| !value.is_null() && !known.contains_key(*key))
            .map(|(key, _)| &**key)
            .collect();
        match unknown[..] {
            [] => recipe,
            _ => Err(Error::failure(format!(
                "the recipe in {} says what this unfog doesn't know: {}",
                path.display(),
                unknown.join(", ")
            ))
            .hint(format!("unfog {} wrote it, and this is {version}", recipe?.version))),
        }
    }

    fn text(path: &Path) -> Result<String> {
        let text = if scan::is(path) { scan::read_recipe(path)? } else { read_text(path, KEYWORD)? };
        text.ok_or_else(|| Error::failure(format!("{} carries no recipe of unfog", path.display())))
    }

    fn parse(path: &Path, text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|e| Error::failure(format!("the recipe in {} can't be read", path.display())).because(e))
    }
}
