//! The stochastic sampler of Karras et al. 2022, algorithm 2: each step first adds noise, up to a sigma above that of its level
//! ("churn"), then goes on from there with the ODE. Its second half is Heun's method, or Euler's, or the midpoint method as in
//! k-diffusion's `sample_euler`, `sample_heun` and `sample_dpm_2`.
//!
//! `sigma^ = (1 + gamma) * sigma`, `gamma = min(S_churn / n, sqrt(2) - 1)` where sigma lies from S_tmin to S_tmax, otherwise 0;
//! `x^ / signal^ = x / signal + S_noise * sqrt(sigma^^2 - sigma^2) * z`. Settings: [`Config::s_churn`] and those after it.
//!
//! As many evaluations a step as the method; noise is drawn where gamma is above 0. (diffusers' Euler evaluates the network
//! before it adds the noise, and so not at x^; this is the paper's way.) Pure noise of a flow network stays as it is.
//!
//! [`Config::s_churn`]: crate::config::Config::s_churn
//!
//! ```
//! use unfog_core::{config::Config, sampler::find};
//! let config = Config { s_churn: 30.0, s_tmin: 0.01, s_tmax: 1.0, s_noise: 1.007, ..Config::default() };
//! assert!(config.validate().is_ok() && find("heun-churn").is_some_and(|s| s.evaluations == 2));
//! ```

use super::{Halt, Step, dpm2, euler, heun};
use crate::math::wide::sqrt;
use crate::schedule::Level;

pub(super) fn euler(s: &mut Step<'_>) -> Result<(), Halt> {
    let from = churn(s)?;
    euler::starting(s, from)
}

pub(super) fn heun(s: &mut Step<'_>) -> Result<(), Halt> {
    let from = churn(s)?;
    heun::starting(s, from)
}

pub(super) fn dpm2(s: &mut Step<'_>) -> Result<(), Halt> {
    let (from, (_, to)) = (churn(s)?, s.levels());
    dpm2::midpoint(s, from, to)
}

/// Adds the noise, and returns the level where x is then.
fn churn(s: &mut Step<'_>) -> Result<Level, Halt> {
    let (from, _) = s.levels();
    let (sigma, limit) = (from.sigma(), core::f64::consts::SQRT_2 - 1.0);
    let within = f64::from(s.config.s_tmin) <= sigma && sigma <= f64::from(s.config.s_tmax);
    let gamma =
        if within && sigma.is_finite() { (f64::from(s.config.s_churn) / s.steps() as f64).min(limit) } else { 0.0 };
    if gamma <= 0.0 {
        return Ok(from);
    }
    let raised = Level { noise: from.noise * (1.0 + gamma), ..from };
    let up = s.level_at(s.unit(raised).1);
    let keep = up.signal / from.signal;
    let added = from.noise * keep * sqrt(gamma * (2.0 + gamma));
    s.mix_noise(keep as f32, (added * f64::from(s.config.s_noise)) as f32)?;
    Ok(up)
}
