//! DPM-Solver++(2S), one step at a time, with ancestral noise. Lu et al. 2022b, algorithm 1 with r = 1 / 2, in the form of
//! k-diffusion's `sample_dpmpp_2s_ancestral`.
//!
//! The step goes to the part of the next noise that stays ([`renewal`]): first half of it in lambda with the first prediction,
//! `x_m = noise_m / noise * x + (signal_m - signal * noise_m / noise) * x0`, then all of it from x with the prediction at x_m; the rest of
//! the noise is drawn anew.
//!
//! Two evaluations a step, one in the last where it ends in the image; there no noise is drawn. Keeps x.

use super::mix::{mix, renewal, transfer};
use super::{At, Halt, Step};
use crate::math::wide::sqrt;
use crate::schedule::Level;

pub(super) fn step(s: &mut Step<'_>) -> Result<(), Halt> {
    let (from, next) = s.levels();
    let (stays, drawn) = renewal(from, next, 1.0);
    let to = Level { noise: next.noise * stays, ..next };
    let (keep, add) = transfer(from, to);
    let (_, sigma) = s.unit(Level { noise: sqrt(from.sigma() * to.sigma()), signal: 1.0, ..to });
    let middle = s.level_at(sigma);
    // Pure noise has no lambda, and what ends without noise neither: one evaluation, order 1.
    if to.noise <= 0.0 || from.signal <= 0.0 {
        s.model.predict_each(s.x, At::level(from), &mut |_, x, p| mix(x, keep, [(add, p.x0)]))?;
    } else {
        let (start, (keep_middle, add_middle)) = (&mut *s.history, transfer(from, middle));
        s.model.predict_each(s.x, At::level(from), &mut |range, x, p| {
            start[range].copy_from_slice(x);
            mix(x, keep_middle, [(add_middle, p.x0)]);
        })?;
        s.model.predict_each(s.x, At::level(middle), &mut |range, x, p| {
            mix(x, 0.0, [(keep, &start[range]), (add, p.x0)]);
        })?;
    }
    if next.noise > 0.0 { s.add_noise((next.noise * drawn) as f32) } else { Ok(()) }
}
