//! The chain of one picture: as many samples as are asked for, their mean, and how far they lie apart.

use unfog_core::chain::{Batch, Chain};
use unfog_core::denoise::Denoise;
use unfog_core::noise::{Noise, Philox};
use unfog_core::solve::Measured;
use unfog_core::solve::operator::Operator;

use super::Options;
use super::noise::Uneven;
use super::task::{Method, Task};
use crate::error::{Error, Result};
use crate::memory;
use crate::model::Model;
use crate::sample::{Setup, at_once, chain_failed, noise_failed, step_failed};
use crate::settings::Settings;
use crate::stop::Stop;

/// What became of a picture.
pub(super) struct Restored {
    /// The mean of the samples `[c, h, w]`.
    pub(super) mean: Vec<f32>,
    /// Their standard deviation; empty of one sample.
    pub(super) deviation: Vec<f32>,
}

/// What a chain works on.
pub(super) struct Work<'a> {
    pub(super) options: &'a Options,
    pub(super) setup: &'a Setup,
    pub(super) model: &'a Model,
    pub(super) operator: Operator<'a>,
    /// The measurement.
    pub(super) y: &'a [f32],
    /// Standard deviation of its noise, for values from -1 to 1.
    pub(super) sigma_y: f32,
    /// Of noise that is not alike everywhere: what it is. The measurement is weighted then, so that its noise is alike.
    pub(super) uneven: Option<&'a Uneven>,
}

/// The settings of a chain on a picture of which only noise hides a part: it begins at the noise level that the picture has, and takes its
/// steps below it. With noise above it the picture says all that the chain does.
fn below(settings: &Settings, method: Method, sigma: f32) -> Result<(Settings, f32)> {
    let mut tables = settings.tables()?;
    let schedule = tables.schedule()?;
    let top = schedule.time_of_sigma(f64::from(sigma)).ceil() as u32;
    let alpha_bar = schedule.alpha_bar().get(top as usize).copied().unwrap_or_default();
    let steps = match method {
        Method::Mean => 1,
        _ => settings.config.steps.min(top as usize + 1),
    };
    let timesteps = (0..steps).map(|i| (u64::from(top) * (steps - i) as u64 / steps as u64) as u32).collect();
    Ok((settings.at(timesteps), alpha_bar))
}

impl Work<'_> {
    /// Makes the samples. `report` is told the steps that are done and those there are.
    ///
    /// # Errors
    /// Those of the network; [`Error::interrupted`].
    pub(super) fn run<D: Denoise<Error = Error>>(
        &self,
        network: &mut D,
        stop: &Stop,
        report: &mut dyn FnMut(u64, u64),
    ) -> Result<Restored> {
        let Self { options, setup, operator, .. } = *self;
        let (len, out_len) = (operator.shape().len(), network.out_len());
        let noisy = (options.task == Task::Denoise).then(|| below(&setup.settings, options.method, self.sigma_y));
        let noisy = noisy.transpose()?;
        let settings = noisy.as_ref().map_or(&setup.settings, |(below, _)| below);
        let config = &settings.config;
        let mut tables = settings.tables()?;
        let schedule = tables.schedule()?;
        let mut spectrum = memory::vec(len, 0.0)?;
        operator.measured_spectrum(self.y, &mut spectrum);
        let (steps, samples) = (config.steps, options.samples as usize);
        let most = at_once(2 * len + out_len + settings.sampler.history * len);
        let travels = journeys(options, steps);
        let passes: u64 =
            steps as u64 + travels.iter().map(|(_, times)| (*times * options.travel.length) as u64).sum::<u64>();
        let total = passes * samples.div_ceil(most) as u64;
        let (mut sum, mut squares) =
            (memory::vec(len, 0.0_f64)?, memory::vec(if samples > 1 { len } else { 0 }, 0.0_f64)?);
        let (mut noise, mut chain_memory, mut done) = (Philox::new(options.seed), Vec::new(), 0);
        for first in (0..samples).step_by(most) {
            let n = most.min(samples - first);
            let first_image = options.first + first as u64;
            let conds = setup.conds(self.model, first_image, n);
            let batch = Batch { first_image, len, out_len, conds: &conds };
            let values = Chain::memory(config, settings.sampler, &batch).map_err(chain_failed)?;
            memory::resize(&mut chain_memory, values, 0.0)?;
            let mut spectra = memory::room(n * len)?;
            (0..n).for_each(|_| spectra.extend_from_slice(&spectrum));
            let mut chain =
                Chain::new(config, settings.sampler, schedule, batch, &mut chain_memory).map_err(chain_failed)?;
            let solver = options.method.solver(options.eta());
            let fits = chain.restore(Measured { operator, solver, sigma_y: self.sigma_y, spectra: &spectra });
            if !fits {
                return Err(Error::usage(format!("--eta {} is not from 0 to 1", options.eta())));
            }
            match &noisy {
                Some((_, alpha_bar)) => {
                    let x = self.noised(*alpha_bar, first_image, n, &mut noise)?;
                    if !chain.begin(0, 1, &x) {
                        return Err(Error::failure("the picture doesn't fit the chain"));
                    }
                }
                None => chain.init(&mut noise).map_err(noise_failed)?,
            }
            let mut travels = travels.clone();
            report(done, total);
            loop {
                stop.check()?;
                let Some(progress) = chain.step(network, &mut noise).map_err(step_failed)? else { break };
                done += 1;
                report(done, total);
                if let Some((_, times)) = travels.iter_mut().find(|(at, times)| *at == progress.step && *times > 0) {
                    *times -= 1;
                    chain.go_back(options.travel.length, &mut noise).map_err(noise_failed)?;
                }
            }
            for x in chain.x().chunks_exact(len) {
                sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += f64::from(*x));
                squares.iter_mut().zip(x).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
            }
        }
        let n = samples as f64;
        let deviation = |(squares, sum): (&f64, &f64)| ((squares - sum * sum / n).max(0.0) / (n - 1.0)).sqrt() as f32;
        let deviation = memory::collect(squares.iter().zip(&sum).map(deviation))?;
        Ok(Restored { mean: memory::collect(sum.iter().map(|sum| (sum / n) as f32))?, deviation })
    }

    /// The picture with as much noise as there is at the level of `alpha_bar`, which is more than it has: x of `n` images.
    fn noised(&self, alpha_bar: f32, first_image: u64, n: usize, noise: &mut Philox) -> Result<Vec<f32>> {
        let signal = alpha_bar.sqrt();
        let picture = self.uneven.map_or(self.y, |uneven| &uneven.unbiased);
        let own = |i: usize| match self.uneven {
            // Of one evaluation the mean is wanted: noise would only take from it.
            _ if self.options.method == Method::Mean => f32::INFINITY,
            Some(uneven) => uneven.deviations[i],
            None => self.sigma_y,
        };
        let mut x = memory::vec(n * picture.len(), 0.0)?;
        for (image, x) in (first_image..).zip(x.chunks_exact_mut(picture.len().max(1))) {
            noise.fill(image, 0, x).map_err(noise_failed)?;
            for (i, (x, y)) in x.iter_mut().zip(picture).enumerate() {
                let add = ((1.0 - alpha_bar) - alpha_bar * own(i) * own(i)).max(0.0).sqrt();
                *x = signal * y + add * *x;
            }
        }
        Ok(x)
    }
}

/// After which steps the chain goes back, and how often.
fn journeys(options: &Options, steps: usize) -> Vec<(usize, usize)> {
    let super::Travel { length, times } = options.travel;
    if times < 2 || options.task == Task::Denoise {
        return Vec::new();
    }
    // Not after the last step, which leads to the picture.
    (1..steps).filter(|step| step.is_multiple_of(length)).map(|step| (step, times - 1)).collect()
}
