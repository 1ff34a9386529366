//! What a session is asked for.

use core::ffi::{c_char, c_int};

use unfog_core::config::Config;
use unfog_core::sampler::{self, Sampler};
use unfog_core::schedule::BetaSchedule;

use crate::status::Status;

/// The betas that the network was trained with, by number.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Betas {
    /// The cosine ones (squaredcos_cap_v2), which the built-in model has.
    Cosine = 0,
    /// Linear from 1e-4 to 0.02.
    Linear = 1,
    /// Their square roots are linear.
    ScaledLinear = 2,
}

/// What a session is asked for. All zeros are good defaults: 50 steps of DDIM, image 0 of seed 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Seed of the noise.
    pub seed: u64,
    /// Number of the image: image i of a seed is always the same picture.
    pub image: u64,
    /// Name of the sampler; NULL is "ddim".
    pub sampler: *const c_char,
    /// Steps; 0 is 50, or for "ddpm" all 1000.
    pub steps: u32,
    /// DDIM's share of fresh noise, from 0 to 1.
    pub eta: f32,
    /// One of unfog_core_betas.
    pub betas: u32,
    /// Other than 0: the network is given class_label.
    pub has_class: c_int,
    /// Class of the picture.
    pub class_label: u32,
}

impl Options {
    /// What NULL stands for.
    pub(crate) const DEFAULT: Self = Self {
        seed: 0,
        image: 0,
        sampler: core::ptr::null(),
        steps: 0,
        eta: 0.0,
        betas: Betas::Cosine as u32,
        has_class: 0,
        class_label: 0,
    };

    /// The settings of the run, but for the sampler. This is the one place where they are made up.
    pub(crate) fn config(&self, sampler: &Sampler) -> Result<Config, Status> {
        const BETAS: [(Betas, BetaSchedule); 3] = [
            (Betas::Cosine, BetaSchedule::SquaredCosCapV2),
            (Betas::Linear, BetaSchedule::Linear),
            (Betas::ScaledLinear, BetaSchedule::ScaledLinear),
        ];
        let found = BETAS.iter().find(|(number, _)| *number as u32 == self.betas);
        let (_, betas) = *found.ok_or(Status::Options)?;
        let config = Config { betas, eta: self.eta, ..Config::default() };
        let steps = match self.steps {
            0 if sampler.name == sampler::DDPM.name => config.train_steps,
            0 => config.steps,
            steps => usize::try_from(steps).map_err(|_| Status::Options)?,
        };
        let config = Config { steps, ..config };
        config.validate().map_err(|_| Status::Options)?;
        Ok(config)
    }
}
