//! PLMS, the pseudo linear multistep method of PNDM without its Runge-Kutta steps. Liu et al. 2022, "Pseudo numerical methods for
//! diffusion models on manifolds", equations 9 and 12; the first step is Heun's, as in latent diffusion and in diffusers with
//! `skip_prk_steps`.
//!
//! The noise is extrapolated through the latest predictions (Adams and Bashforth: `(3 e0 - e1) / 2`,
//! `(23 e0 - 16 e1 + 5 e2) / 12`, `(55 e0 - 59 e1 + 37 e2 - 9 e3) / 24`), then the step is DDIM's without noise:
//! `x' = sqrt(a' / a) * x + (sqrt(1 - a') - sqrt(a' / a) * sqrt(1 - a)) * eps`. The second step repeats the first from its start
//! with the mean of both ends' noises, so a run of n steps evaluates n + 1 times: two in the first step (one if n is 1).
//!
//! A run that begins at step b > 0 begins so as well. diffusers cuts its list of timesteps, in which the second stands twice, at the b-th
//! place: with its parity the images begin at the level of step b - 1 (step 1 of b = 1), the first noise goes a stride T / n from there and
//! the mean into timestep b, as if from a stride before it; from then on they are a step noisier than their timestep says.
//!
//! Of a network that predicts velocities diffusers extrapolates those, and makes a noise of the result with the level and the image of the
//! step's start, which leaves order 1; [`Parity::Diffusers`] does the same. [`Parity::Table`] extrapolates the noise, as published.
//!
//! Where no signal is left (zero terminal SNR) alpha-bar counts as 2^-24, as in samplers over levels. The last step leads to alpha-bar 1, or to that of timestep 0 (`set_alpha_to_one`). Keeps x and four predictions.

use super::mix::mix;
use super::{At, Halt, Step};
use crate::config::{Config, Parity};
use crate::math::wide::sqrt;
use crate::predict::{Clip, Prediction, PredictionType};
use crate::schedule::LEAST_ALPHA_BAR;

/// The step at whose noise level the images of a run lie that begins with step `begin`.
pub(crate) fn start(begin: usize, parity: Parity) -> usize {
    match parity {
        Parity::Diffusers if begin > 0 => (begin - 1).max(1),
        _ => begin,
    }
}

/// Whether velocities are extrapolated, and not noise.
fn of_velocity(config: &Config) -> bool {
    config.prediction == PredictionType::Velocity && config.parity == Parity::Diffusers
}

/// Factors of x and of what is extrapolated from one alpha-bar to another.
pub(super) fn transfer(config: &Config, from: f32, to: f32) -> (f64, f64) {
    let (a, a_to) = (f64::from(from.max(LEAST_ALPHA_BAR)), f64::from(to));
    let (keep, noise) = (sqrt(a_to / a), sqrt(1.0 - a));
    let add = sqrt(1.0 - a_to) - keep * noise;
    // The noise is signal * v + noise * x.
    if of_velocity(config) { (keep + add * noise, add * sqrt(a)) } else { (keep, add) }
}

/// Puts what is extrapolated of a prediction in place of the `x` that it was made of.
pub(super) fn take(config: &Config, at: At, p: &Prediction<'_>, x: &mut [f32]) {
    let values = x.iter_mut().zip(p.eps).zip(p.x0);
    match (of_velocity(config), config.clip) {
        (false, _) => x.copy_from_slice(p.eps),
        (true, Clip::None) => values.for_each(|((x, eps), x0)| *x = at.signal * eps - at.noise * x0),
        // Clipping does not change what was said.
        (true, _) => values.for_each(|((x, eps), _)| *x = (eps - at.noise * *x) / at.signal),
    }
}

pub(super) fn step(s: &mut Step<'_>) -> Result<(), Halt> {
    let (values, index) = (s.x.len(), s.done());
    let cut = index == 0 && s.begin > 0 && s.config.parity == Parity::Diffusers;
    let place = if cut { start(s.begin, s.config.parity) } else { s.index };
    let t = s.schedule.timesteps().get(place).copied().unwrap_or_default();
    let end = if s.config.set_alpha_to_one { 1.0 } else { s.alpha_bar(0) };
    let next = s.schedule.next_timestep(place, s.config.parity);
    let a = s.alpha_bar(t).max(LEAST_ALPHA_BAR);
    let config = s.config;
    let (keep, add) = transfer(config, a, next.map_or(end, |next| s.alpha_bar(next)));

    let slot = |ago: usize| (s.index + 4 - ago) % 4 * values;
    let slots = [slot(0), slot(1), slot(2), slot(3)];
    let (noises, start) = s.history.split_at_mut(4 * values);
    let at = At::new(t, a);
    s.model.predict_each(s.x, at, &mut |range, x, p| {
        let said = &mut noises[slots[0]..][range.clone()];
        said.copy_from_slice(x);
        take(config, at, &p, said);
        let e = slots.map(|slot| &noises[slot..][range.clone()]);
        match index {
            0 => {
                start[range].copy_from_slice(x);
                mix(x, keep, [(add, e[0])]);
            }
            1 => mix(x, keep, [(add * 3.0 / 2.0, e[0]), (-add / 2.0, e[1])]),
            2 => mix(x, keep, [(add * 23.0 / 12.0, e[0]), (-add * 16.0 / 12.0, e[1]), (add * 5.0 / 12.0, e[2])]),
            _ => {
                let k = add / 24.0;
                mix(x, keep, [(55.0 * k, e[0]), (-59.0 * k, e[1]), (37.0 * k, e[2]), (-9.0 * k, e[3])]);
            }
        }
    })?;
    let place = if cut { s.index } else { s.index + 1 };
    let Some(second) = s.schedule.timesteps().get(place).copied().filter(|_| index == 0) else { return Ok(()) };
    if let Some(known) = s.known {
        known(s.schedule.level(place), s.x);
    }
    let at = At::new(second, s.alpha_bar(second));
    let (keep, add) = match cut {
        true => {
            let stride = (s.schedule.alpha_bar().len() / s.steps()) as u32;
            transfer(config, s.alpha_bar(second.saturating_add(stride)), s.alpha_bar(second))
        }
        false => (keep, add),
    };
    let (noises, start) = s.history.split_at(4 * values);
    s.model.predict_each(s.x, at, &mut |range, x, p| {
        take(config, at, &p, x);
        // The end's first, as it lies in x.
        mix(x, add / 2.0, [(keep, &start[range.clone()]), (add / 2.0, &noises[slots[0]..][range])]);
    })
}
