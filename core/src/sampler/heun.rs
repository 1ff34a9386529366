//! Heun's method on the probability-flow ODE. Karras et al. 2022, algorithm 1: Euler's step, then once more with the mean of
//! the derivatives at both ends. With `d = (x / scale - x0) / sigma` ([`Step::unit`]):
//!
//! `x' / scale' = x / scale + (sigma' - sigma) * (d + d') / 2`.
//!
//! Two evaluations a step, one in the last where it ends in the image: 2 n - 1; order 2. Keeps x and x0.

use super::mix::{mix, transfer};
use super::{At, Halt, Step};

pub(super) fn step(s: &mut Step<'_>) -> Result<(), Halt> {
    let (from, to) = s.levels();
    let ((scale, sigma), (scale_to, sigma_to)) = (s.unit(from), s.unit(to));
    let (keep, add) = transfer(from, to);
    let (start, first) = s.history.split_at_mut(s.x.len());
    s.model.predict_each(s.x, At::level(from), &mut |range, x, p| {
        start[range.clone()].copy_from_slice(x);
        first[range].copy_from_slice(p.x0);
        mix(x, keep, [(add, p.x0)]);
    })?;
    if to.noise <= 0.0 {
        return Ok(());
    }
    // x' = x'_Euler + scale' * (sigma' - sigma) / 2 * (d' - d), with d' of Euler's x' and its prediction.
    let half = 0.5 * scale_to * (sigma_to - sigma);
    let (d, d_to) = (half / sigma, half / sigma_to);
    let (keep, of_start) = (1.0 + d_to / scale_to, -d / scale);
    s.model.predict_each(s.x, At::level(to), &mut |range, x, p| {
        mix(x, keep, [(of_start, &start[range.clone()]), (d, &first[range]), (-d_to, p.x0)]);
    })
}
