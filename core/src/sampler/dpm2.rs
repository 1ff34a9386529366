//! DPM-Solver-2 as in k-diffusion's `sample_dpm_2`: the midpoint method on the probability-flow ODE over sigma, with the midpoint
//! in ln sigma. Lu et al. 2022a; Karras et al. 2022, appendix.
//!
//! `x_m / scale_m = x / scale + (sigma_m - sigma) * d`, `sigma_m = sqrt(sigma * sigma')`, then with the derivative there
//! `x' / scale' = x / scale + (sigma' - sigma) * d_m`. The ancestral form goes to the part of the next noise that stays and draws
//! the rest anew ([`renewal`]).
//!
//! Two evaluations a step, one in the last where it ends in the image (and then no noise is drawn); order 2. Keeps x.

use super::mix::{mix, renewal, transfer};
use super::{At, Halt, Step};
use crate::math::wide::sqrt;
use crate::schedule::Level;

pub(super) fn step(s: &mut Step<'_>) -> Result<(), Halt> {
    let (from, to) = s.levels();
    midpoint(s, from, to)
}

pub(super) fn ancestral(s: &mut Step<'_>) -> Result<(), Halt> {
    let (from, to) = s.levels();
    let (stays, drawn) = renewal(from, to, 1.0);
    midpoint(s, from, Level { noise: to.noise * stays, ..to })?;
    if to.noise > 0.0 { s.add_noise((to.noise * drawn) as f32) } else { Ok(()) }
}

pub(super) fn midpoint(s: &mut Step<'_>, from: Level, to: Level) -> Result<(), Halt> {
    let ((scale, sigma), (scale_to, sigma_to)) = (s.unit(from), s.unit(to));
    let middle = s.level_at(sqrt(sigma * sigma_to));
    let (scale_middle, _) = s.unit(middle);
    let last = to.noise <= 0.0;
    let (keep, add) = transfer(from, if last { to } else { middle });
    let start = &mut *s.history;
    s.model.predict_each(s.x, At::level(from), &mut |range, x, p| {
        start[range].copy_from_slice(x);
        mix(x, keep, [(add, p.x0)]);
    })?;
    if last {
        return Ok(());
    }
    // (x_m - scale_m * x0) / noise_m is the derivative; the difference comes first (see `derivative`).
    let keep = (scale_to / scale) as f32;
    let (reach, scale) = ((scale_to * (sigma_to - sigma) / middle.noise) as f32, scale_middle as f32);
    s.model.predict_each(s.x, At::level(middle), &mut |range, x, p| {
        for ((x, &start), &x0) in x.iter_mut().zip(&start[range]).zip(p.x0) {
            *x = keep * start + reach * (*x - scale * x0);
        }
    })
}
