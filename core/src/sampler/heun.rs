//! Heun's method on the probability-flow ODE. Karras et al. 2022, algorithm 1: Euler's step, then once more with the mean of
//! the derivatives at both ends. With `d = (x / scale - x0) / sigma` ([`Step::unit`]):
//!
//! `x' / scale' = x / scale + (sigma' - sigma) * (d + d') / 2`.
//!
//! Two evaluations a step, one in the last where it ends in the image: 2 n - 1; order 2. Keeps x and x0.

use super::mix::{mix, transfer};
use super::{At, Halt, Step};
use crate::schedule::Level;

pub(super) fn step(s: &mut Step<'_>) -> Result<(), Halt> {
    let (from, _) = s.levels();
    starting(s, from)
}

/// The step, with x at the level `from`.
pub(super) fn starting(s: &mut Step<'_>, from: Level) -> Result<(), Halt> {
    let (_, to) = s.levels();
    let ((scale, sigma), (scale_to, sigma_to)) = (s.unit(from), s.unit(to));
    let (keep, add) = transfer(from, to);
    let (start, first) = s.history.split_at_mut(s.x.len());
    start.copy_from_slice(s.x);
    let p = s.model.predict(s.x, At::level(from))?;
    first.copy_from_slice(p.x0);
    mix(s.x, keep, [(add, first)]);
    if to.noise <= 0.0 {
        return Ok(());
    }
    let p = s.model.predict(s.x, At::level(to))?;
    // x' = x'_Euler + scale' * (sigma' - sigma) / 2 * (d' - d), with d' of Euler's x' and its prediction.
    let half = 0.5 * scale_to * (sigma_to - sigma);
    let (d, d_to) = (half / sigma, half / sigma_to);
    mix(s.x, 1.0 + d_to / scale_to, [(-d / scale, start), (d, first), (-d_to, p.x0)]);
    Ok(())
}
