//! What a run of `sample` can be asked for.

use std::path::PathBuf;

use unfog_core::config::Parity;
use unfog_core::predict::PredictionType;

use super::edit::Edit;
use super::noise::Generator;
use super::phases::Share;
use crate::backend::Request;
use crate::model::{EmbeddingChoice, LoraChoice};
use crate::tiles::Tile;

/// The options of a run, named as on the command line; what is absent is decided by the model.
#[derive(Clone, Debug)]
pub struct Options {
    /// The model's folder; glyph-tiny if absent.
    pub model: Option<PathBuf>,
    /// What the pictures are to show, of a model of texts; weights of its words are written as [`crate::text::prompt`] says.
    pub prompt: Option<String>,
    /// LoRAs that are added to the model's weights.
    pub loras: Vec<LoraChoice>,
    /// Words that the text encoders are taught.
    pub embeddings: Vec<EmbeddingChoice>,
    /// Folders of ControlNets that steer the network; the model's own if there are only pictures.
    pub controls: Vec<PathBuf>,
    /// The picture that each of them sees.
    pub control_images: Vec<PathBuf>,
    /// How much each of them counts, or all; 1 if absent.
    pub control_scales: Vec<f32>,
    /// The part of the steps in which each of them counts, or all; the whole run if absent.
    pub control_steps: Vec<Share>,
    /// How many layers at the end of the text encoders are left out; 0 if absent.
    pub clip_skip: Option<u32>,
    /// The folder of the model's tokenizer, where it brings none: one, or a model's with `tokenizer` and `tokenizer_2`.
    pub tokenizer: Option<PathBuf>,
    /// What the network predicts, where its scheduler's config is not to say.
    pub prediction: Option<PredictionType>,
    /// A class's number or name; if absent each in turn, of an edit no class.
    pub class: Option<String>,
    /// What the pictures are to lead away from: the number or name of a class, or a text like `prompt`.
    pub negative: Option<String>,
    /// Guidance scale; 1 is off.
    pub guidance: Option<f32>,
    /// How predictions are combined: the name of a rule; plain classifier-free guidance if absent.
    pub guidance_rule: Option<String>,
    /// How far the standard deviation of what is guided is brought back to that of the wanted prediction: 0 (not) to 1.
    pub guidance_rescale: Option<f32>,
    /// Between which shares of the steps there is guidance.
    pub guidance_interval: Option<[f64; 2]>,
    /// Sampler.
    pub sampler: Option<String>,
    /// Steps of unCLIP's prior, and of the stage that makes pictures larger; 25 and 7. `steps` and what else is said of the chain are its
    /// decoder's.
    pub prior_steps: Option<usize>,
    /// See `prior_steps`.
    pub super_res_steps: Option<usize>,
    /// Guidance scale of unCLIP's prior; 4. `guidance` is its decoder's, 8.
    pub prior_guidance: Option<f32>,
    /// Beta schedule.
    pub schedule: Option<String>,
    /// Table of sigmas, for samplers over noise levels.
    pub sigmas: Option<String>,
    /// Steps; 50, or for ddpm all timesteps of the model.
    pub steps: Option<usize>,
    /// DDIM's, TCD's or SA-Solver's share of fresh noise.
    pub eta: Option<f32>,
    /// Seed of the noise.
    pub seed: u64,
    /// Number of images.
    pub count: u32,
    /// Index of the first image: image i of a seed is the same picture whatever `count` and `first` are.
    pub first: u64,
    /// Width and height.
    pub size: Option<(u32, u32)>,
    /// Whose rule gives the timestep that a step leads to: diffusers' for a model with a scheduler_config.json, otherwise
    /// the table's.
    pub parity: Option<Parity>,
    /// The picture that the run begins from, if from any.
    pub edit: Option<Edit>,
    /// Backend, device, precision, threads.
    pub backend: Request,
    /// How the seed becomes noise.
    pub noise: Generator,
    /// A safetensors file of noise, instead of random numbers.
    pub noise_in: Option<PathBuf>,
    /// Where the sampler's result goes as it is, f32.
    pub latents_out: Option<PathBuf>,
    /// Whether latents are decoded in tiles.
    pub vae_tile: Tile,
    /// After how many steps each a picture of how far the run is lies beside `out`: NAME.preview.png for NAME.png, removed in the end.
    pub preview: Option<u32>,
    /// Where the picture goes: one file, or with `{i}` in its name a file an image.
    pub out: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            model: None,
            prompt: None,
            loras: Vec::new(),
            embeddings: Vec::new(),
            controls: Vec::new(),
            control_images: Vec::new(),
            control_scales: Vec::new(),
            control_steps: Vec::new(),
            clip_skip: None,
            tokenizer: None,
            prediction: None,
            class: None,
            negative: None,
            guidance: None,
            guidance_rule: None,
            guidance_rescale: None,
            guidance_interval: None,
            sampler: None,
            schedule: None,
            sigmas: None,
            steps: None,
            prior_steps: None,
            super_res_steps: None,
            prior_guidance: None,
            eta: None,
            seed: 0,
            count: 1,
            first: 0,
            size: None,
            parity: None,
            edit: None,
            backend: Request::default(),
            noise: Generator::default(),
            noise_in: None,
            latents_out: None,
            vae_tile: Tile::default(),
            preview: None,
            out: PathBuf::from("unfog.png"),
        }
    }
}
