//! Multistep consistency sampling. Song et al. 2023, "Consistency models", algorithm 1: each step jumps to the image and adds
//! fresh noise up to the next level.
//!
//! For EDM networks the image is that of the paper's appendix C, which at the least sigma s is x: with d the data's deviation,
//! `image = d^2 / ((sigma - s)^2 + d^2) * x / signal + (sigma - s) * d / sqrt(sigma^2 + d^2) * F`; then
//! `x' / signal' = image + S_noise * sqrt(sigma'^2 - s^2) * z`. Other networks say the image themselves, and s is 0; flow networks
//! are sampled so by diffusers' `stochastic_sampling`.
//!
//! One evaluation a step. No noise is drawn where a run ends in the image. Distilled networks know the levels of
//! [`SigmaTable::Distilled`].
//!
//! ```
//! use unfog_core::{config::Config, predict::PredictionType, sampler::CONSISTENCY, schedule::{Level, Schedule, SigmaTable, Sigmas}};
//! let sigmas = Sigmas { table: SigmaTable::Distilled { levels: 40, rho: 7.0 }, ..Sigmas::default() };
//! let config = Config { prediction: PredictionType::Edm { sigma_data: 0.5 }, steps: 2, sigmas, ..Config::default() };
//! let (mut alpha_bar, mut timesteps, mut levels) = ([0.0; 1000], [0; 2], [Level::default(); 3]);
//! let schedule = Schedule::for_sampler(&config, &CONSISTENCY, &mut alpha_bar, &mut timesteps, &mut levels)?;
//! assert!((schedule.levels()[0].sigma() - 80.0).abs() < 1e-3);
//! # Ok::<(), unfog_core::config::ConfigError>(())
//! ```
//!
//! [`SigmaTable::Distilled`]: crate::schedule::SigmaTable::Distilled

use super::{At, Halt, Step};
use crate::math::wide::sqrt;
use crate::predict::{Clip, PredictionType};
use crate::schedule::EDM_RANGE;

pub(super) fn step(s: &mut Step<'_>) -> Result<(), Halt> {
    let (from, to) = s.levels();
    let sigma = from.sigma();
    // The image as `of_x0 * x0 + of_x * x`, x0 without the boundary condition.
    let (least, of_x0, of_x) = match s.config.prediction {
        PredictionType::Edm { sigma_data } => {
            // Levels are rounded, too.
            let least = f64::from(s.config.sigmas.min.unwrap_or(EDM_RANGE[0]) as f32);
            let d2 = f64::from(sigma_data) * f64::from(sigma_data);
            let (off, of_x0) = (sigma - least, (sigma - least) / sigma);
            (least, of_x0, d2 / (off * off + d2) / from.signal - of_x0 * d2 * from.signal)
        }
        _ => (0.0, 1.0, 0.0),
    };
    // The image is clipped, not what it is made of: where x0 was, it is found once more from the noise.
    let range = match (s.config.clip, s.config.prediction) {
        (Clip::Range(range), PredictionType::Edm { .. }) => range,
        _ => f32::INFINITY,
    };
    let (signal, noise) = (from.signal as f32, from.noise as f32);
    let (of_x0, of_x, scale) = (of_x0 as f32, of_x as f32, to.signal as f32);

    s.model.predict_each(s.x, At::level(from), &mut |_, x, p| {
        let values = x.iter_mut().zip(p.x0).zip(p.eps);
        if range == f32::INFINITY {
            values.for_each(|((x, &x0), _)| *x = scale * (of_x0 * x0 + of_x * *x));
            return;
        }
        // Without branches: both are computed, and one is taken.
        values.for_each(|((x, &x0), &eps)| {
            let found = (*x - noise * eps) / signal;
            let x0 = if x0.abs() < range { x0 } else { found };
            let image = of_x0 * x0 + of_x * *x;
            let image = if image > range { range } else { image };
            *x = scale * if image < -range { -range } else { image };
        });
    })?;
    let fresh = to.signal * sqrt((to.sigma() * to.sigma() - least * least).max(0.0));
    if to.noise > 0.0 { s.add_noise((fresh * f64::from(s.config.s_noise)) as f32) } else { Ok(()) }
}
