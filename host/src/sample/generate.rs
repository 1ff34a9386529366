//! The chain over as many batches as it takes.

use unfog_core::chain::{Batch, Chain, RunError};
use unfog_core::denoise::{Cond, Denoise};
use unfog_core::noise::{Noise, NoiseError};

use super::noise::Source;
use super::setup::Setup;
use crate::error::{Error, Result};
use crate::memory;
use crate::model::Model;
use crate::stop::Stop;

/// Images of a batch, unless they are large: what a GPU takes in one submission.
const BATCH: usize = 8;
/// Bytes that the chain's own memory may take before batches become smaller.
const CHAIN_BYTES: usize = 16 << 20;

/// Makes the images of a run, batch by batch: `sink` is given the index of a batch's first image and the values `[n, c, h, w]`
/// of its images. `report` is told the steps that are done and those there are, over all batches.
///
/// # Errors
/// Those of the network and the sink; noise that is not given; values that are not finite; [`Error::interrupted`].
pub fn generate<D: Denoise<Error = Error>>(
    setup: &Setup,
    model: &Model,
    network: &mut D,
    source: &Source,
    stop: &Stop,
    report: &mut dyn FnMut(u64, u64),
    sink: &mut dyn FnMut(u64, &[f32]) -> Result<()>,
) -> Result<()> {
    let config = &setup.settings.config;
    let mut tables = setup.settings.tables()?;
    let schedule = tables.schedule()?;
    let (len, out_len) = (setup.image_len(), network.out_len());
    let values = 2 * len + config.guidance.conditions() * out_len + setup.settings.sampler.history * len;
    let most = (CHAIN_BYTES / 4 / values.max(1)).clamp(1, BATCH) as u64;
    let (first, end) = (setup.first, setup.first + u64::from(setup.count));
    let batches = u64::from(setup.count).div_ceil(most);
    let total = batches * config.steps as u64;
    let mut done = 0;
    let mut chain_memory = Vec::new();
    let mut noise = source.noise(setup);
    for first_image in (first..end).step_by(most as usize) {
        let n = most.min(end - first_image) as usize;
        let conds = setup.conds(model, first_image, n);
        let batch = Batch { first_image, len, out_len, conds: &conds };
        let chain_failed = |e: unfog_core::chain::ChainError| Error::failure(e.to_string());
        let values = Chain::memory(config, setup.settings.sampler, &batch).map_err(chain_failed)?;
        memory::resize(&mut chain_memory, values, 0.0)?;
        let mut chain =
            Chain::new(config, setup.settings.sampler, schedule, batch, &mut chain_memory).map_err(chain_failed)?;
        chain.init(&mut *noise).map_err(noise_failed)?;
        report(done, total);
        loop {
            stop.check()?;
            if chain.step(network, &mut *noise).map_err(step_failed)?.is_none() {
                break;
            }
            done += 1;
            report(done, total);
        }
        sink(first_image, chain.x())?;
    }
    Ok(())
}

fn noise_failed(e: NoiseError) -> Error {
    Error::failure(e.to_string())
}

fn step_failed(e: RunError<Error>) -> Error {
    match e {
        RunError::Model(e) => e,
        RunError::Noise(e) => noise_failed(e),
        RunError::NonFinite { image, timestep } => {
            Error::failure(format!("the network's prediction for image {image} at timestep {timestep} is not finite"))
                .hint("try --precision f32, or another backend")
        }
        e => Error::failure(e.to_string()),
    }
}

/// Draws of noise that a run makes, counted on a network that predicts nothing.
///
/// # Errors
/// Those of the chain.
pub fn draws(setup: &Setup) -> Result<u32> {
    struct Nothing(usize);
    impl Denoise for Nothing {
        type Error = Error;
        fn out_len(&self) -> usize {
            self.0
        }
        fn predict(&mut self, _: &[f32], _: f32, _: &[Cond], out: &mut [f32]) -> Result<()> {
            out.fill(0.0);
            Ok(())
        }
    }
    struct Silence;
    impl Noise for Silence {
        fn fill(&mut self, _: u64, _: u32, out: &mut [f32]) -> Result<(), NoiseError> {
            out.fill(0.0);
            Ok(())
        }
    }
    let config = &setup.settings.config;
    let mut tables = setup.settings.tables()?;
    let schedule = tables.schedule()?;
    let conds = vec![Cond::None; config.guidance.conditions()];
    // Two values an image, in case that the variance is learned.
    let batch = Batch { first_image: 0, len: 1, out_len: 2, conds: &conds };
    let failed = |e: unfog_core::chain::ChainError| Error::failure(e.to_string());
    let mut memory = vec![0.0; Chain::memory(config, setup.settings.sampler, &batch).map_err(failed)?];
    let mut chain = Chain::new(config, setup.settings.sampler, schedule, batch, &mut memory).map_err(failed)?;
    chain.init(&mut Silence).map_err(noise_failed)?;
    while chain.step(&mut Nothing(2), &mut Silence).map_err(step_failed)?.is_some() {}
    Ok(chain.draws())
}
