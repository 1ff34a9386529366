//! Whole runs of the chain on a backend, from a seed.

use unfog_core::chain::{Batch, Chain};
use unfog_core::config::Config;
use unfog_core::denoise::Cond;
use unfog_core::noise::Noise;
use unfog_core::sampler::Sampler;
use unfog_core::schedule::Schedule;

use crate::backend::Denoiser;
use crate::net::Net;
use crate::{TestResult, said};

/// What a run is made of, beside its network and its noise.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Settings.
    pub config: Config,
    /// The sampler.
    pub sampler: &'a Sampler,
    /// Number of the first image.
    pub first_image: u64,
    /// Conditions, `[k, n]`.
    pub conds: &'a [Cond],
}

impl Run<'_> {
    /// The images after the last step, `[n, c, h, w]`, and the number of draws of noise.
    ///
    /// # Errors
    /// Those of the schedule, the chain and the network.
    pub fn make(&self, net: &Net, denoiser: &mut Denoiser<'_>, noise: &mut dyn Noise) -> TestResult<(Vec<f32>, u32)> {
        let mut alpha_bar = vec![0.0; self.config.train_steps];
        let mut timesteps = vec![0; self.config.steps];
        let schedule = Schedule::new(&self.config, &mut alpha_bar, &mut timesteps)?;
        let batch =
            Batch { first_image: self.first_image, len: net.len(), out_len: denoiser.out_len(), conds: self.conds };
        let mut memory = vec![0.0; Chain::memory(&self.config, self.sampler, &batch)?];
        let mut chain = Chain::new(&self.config, self.sampler, schedule, batch, &mut memory)?;
        chain.init(noise)?;
        while chain.step(&mut **denoiser, noise).map_err(said)?.is_some() {}
        Ok((chain.x().to_vec(), chain.draws()))
    }
}
