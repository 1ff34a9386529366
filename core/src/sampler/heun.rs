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
    s.model.predict_each(s.x, At::level(from), &mut |range, x, p| {
        start[range.clone()].copy_from_slice(x);
        first[range].copy_from_slice(p.x0);
        mix(x, keep, [(add, p.x0)]);
    })?;
    if to.noise <= 0.0 {
        return Ok(());
    }
    if let Some(known) = s.known {
        known(to, s.x);
    }
    // With d' of Euler's x' and its prediction. The differences come first (see `derivative`): where sigma' is small their
    // factor is large.
    let half = 0.5 * scale_to * (sigma_to - sigma);
    let (reach, reach_to) = ((half / from.noise) as f32, (half / to.noise) as f32);
    let (keep, scale, scale_to) = ((scale_to / scale) as f32, scale as f32, scale_to as f32);
    s.model.predict_each(s.x, At::level(to), &mut |range, x, p| {
        let values = x.iter_mut().zip(&start[range.clone()]).zip(&first[range]).zip(p.x0);
        for (((x, &start), &first), &x0) in values {
            *x = keep * start + (reach * (start - scale * first) + reach_to * (*x - scale_to * x0));
        }
    })
}
