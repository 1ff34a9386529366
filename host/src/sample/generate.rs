//! The chain over as many batches as it takes.

use unfog_core::chain::{Batch, Chain, ChainError, RunError};
use unfog_core::denoise::{Cond, Denoise};
use unfog_core::noise::{Noise, NoiseError};
use unfog_core::schedule::Level;

use super::edit::Known;
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

/// What a run hands out while it is under way.
#[derive(Clone, Copy, Debug)]
pub enum Made<'a> {
    /// The images `[n, c, h, w]` that the network predicted in one of a batch's steps, from 1 on; not of the last.
    Step(usize, &'a [f32]),
    /// The index of a batch's first image, and the values `[n, c, h, w]` of its images.
    Images(u64, &'a [f32]),
    /// The masks `[n, h, w]` that were found for a batch, before its first step.
    Masks(&'a [f32]),
}

/// Makes the images of a run, batch by batch, and hands them to `sink`. `report` is told the steps that are done and those there are, over all batches.
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
    sink: &mut dyn FnMut(Made<'_>) -> Result<()>,
) -> Result<()> {
    let config = &setup.settings.config;
    let mut tables = setup.settings.tables()?;
    let schedule = tables.schedule()?;
    let (len, out_len) = (setup.image_len(), network.out_len());
    let values = 2 * len + config.guidance.conditions() * out_len + setup.settings.sampler.history * len;
    let most = at_once(values) as u64;
    let (first, end) = (setup.first, setup.first + u64::from(setup.count));
    let batches = u64::from(setup.count).div_ceil(most);
    let begin = setup.plan.as_ref().map_or(0, |plan| plan.step);
    let before = setup.plan.as_ref().map_or(0, |plan| plan.steps_before(config.steps));
    let total = batches * (before + config.steps - begin) as u64;
    let mut done = 0;
    let mut chain_memory = Vec::new();
    let mut noise = source.noise(setup);
    for first_image in (first..end).step_by(most as usize) {
        let n = most.min(end - first_image) as usize;
        let conds = setup.conds(model, first_image, n);
        let batch = Batch { first_image, len, out_len, conds: &conds };
        let values = Chain::memory(config, setup.settings.sampler, &batch).map_err(chain_failed)?;
        memory::resize(&mut chain_memory, values, 0.0)?;
        let mut known = setup.start.as_ref().map(|start| start.known(&mut *noise, first_image, n)).transpose()?;
        if let Some(known) = &mut known {
            let mut tell = || {
                done += 1;
                report(done, total);
            };
            let way = (&schedule, conds.get(..n).unwrap_or_default());
            let masks = known.prepare(setup, network, &mut *noise, way, stop, &mut tell)?;
            if !masks.is_empty() {
                sink(Made::Masks(masks))?;
            }
        }
        let keep = |level: Level, x: &mut [f32]| {
            if let Some(known) = &known {
                known.put_back(level, x);
            }
        };
        let mut chain =
            Chain::new(config, setup.settings.sampler, schedule, batch, &mut chain_memory).map_err(chain_failed)?;
        match &known {
            Some(known) => known.begin(&mut chain, &schedule)?,
            None => chain.init(&mut *noise).map_err(noise_failed)?,
        }
        if known.as_ref().is_some_and(Known::stays) {
            chain.keep(&keep);
        }
        report(done, total);
        loop {
            stop.check()?;
            let Some(progress) = chain.step(network, &mut *noise).map_err(step_failed)? else { break };
            known.as_ref().map_or(Ok(()), Known::check)?;
            done += 1;
            report(done, total);
            if progress.step < progress.steps {
                sink(Made::Step(progress.step - begin, chain.x0()))?;
            }
        }
        sink(Made::Images(first_image, chain.x()))?;
    }
    Ok(())
}

/// Images that are made at once, of which each takes so many values of a chain's memory.
pub(crate) fn at_once(values: usize) -> usize {
    (CHAIN_BYTES / 4 / values.max(1)).clamp(1, BATCH)
}

pub(crate) fn chain_failed(e: ChainError) -> Error {
    Error::failure(e.to_string())
}

pub(crate) fn noise_failed(e: NoiseError) -> Error {
    Error::failure(e.to_string())
}

pub(crate) fn step_failed(e: RunError<Error>) -> Error {
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

/// Draws of noise that a run makes.
///
/// # Errors
/// Those of the chain.
pub fn draws(setup: &Setup) -> Result<u32> {
    rehearse(setup).map(|(draws, _)| draws)
}

/// Evaluations of the network that a batch takes.
///
/// # Errors
/// Those of the chain.
pub(super) fn evaluations(setup: &Setup) -> Result<usize> {
    rehearse(setup).map(|(_, evaluations)| evaluations)
}

/// Draws and evaluations, counted on a network that predicts nothing.
fn rehearse(setup: &Setup) -> Result<(u32, usize)> {
    struct Nothing(usize);
    impl Denoise for Nothing {
        type Error = Error;
        fn out_len(&self) -> usize {
            2
        }
        fn predict(&mut self, _: &[f32], _: f32, _: &[Cond], out: &mut [f32]) -> Result<()> {
            out.fill(0.0);
            self.0 += 1;
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
    let mut memory = vec![0.0; Chain::memory(config, setup.settings.sampler, &batch).map_err(chain_failed)?];
    let mut chain = Chain::new(config, setup.settings.sampler, schedule, batch, &mut memory).map_err(chain_failed)?;
    match &setup.plan {
        Some(plan) => _ = chain.begin(plan.step, plan.draws.count, &[0.0]),
        None => chain.init(&mut Silence).map_err(noise_failed)?,
    }
    let mut network = Nothing(0);
    while chain.step(&mut network, &mut Silence).map_err(step_failed)?.is_some() {}
    Ok((chain.draws(), network.0))
}
