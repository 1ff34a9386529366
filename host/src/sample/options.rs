//! What a run of `sample` can be asked for.

use std::path::PathBuf;

use unfog_core::config::Parity;

use crate::backend::Request;

/// The options of a run, named as on the command line; what is absent is decided by the model.
#[derive(Clone, Debug)]
pub struct Options {
    /// The model's folder; glyph-tiny if absent.
    pub model: Option<PathBuf>,
    /// A class's number or name; each in turn if absent.
    pub class: Option<String>,
    /// Guidance scale; 1 is off.
    pub guidance: Option<f32>,
    /// Sampler.
    pub sampler: Option<String>,
    /// Beta schedule.
    pub schedule: Option<String>,
    /// Steps; 50, or for ddpm all timesteps of the model.
    pub steps: Option<usize>,
    /// DDIM's share of fresh noise.
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
    /// Backend, device, precision, threads.
    pub backend: Request,
    /// A safetensors file of noise, instead of random numbers.
    pub noise_in: Option<PathBuf>,
    /// Where the sampler's result goes as it is, f32.
    pub latents_out: Option<PathBuf>,
    /// Where the picture goes: one file, or with `{i}` in its name a file an image.
    pub out: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            model: None,
            class: None,
            guidance: None,
            sampler: None,
            schedule: None,
            steps: None,
            eta: None,
            seed: 0,
            count: 1,
            first: 0,
            size: None,
            parity: None,
            backend: Request::default(),
            noise_in: None,
            latents_out: None,
            out: PathBuf::from("unfog.png"),
        }
    }
}
