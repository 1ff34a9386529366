//! Euler's method on the probability-flow ODE. Karras et al. 2022, algorithm 2 without churn; for flow networks the same step
//! is that of Liu et al. 2023 (rectified flow), `x' = x + (s' - s) * v`. On every scale of image and noise both are
//!
//! `x' = signal' * x0 + noise' * eps`,
//!
//! the predicted image with the predicted noise of the next level (so that CFG++ renoises as it should).
//!
//! One evaluation a step; order 1.

use super::mix::mix;
use super::{At, Halt, Step};
use crate::schedule::Level;

pub(super) fn step(s: &mut Step<'_>) -> Result<(), Halt> {
    let (from, _) = s.levels();
    starting(s, from)
}

/// The step, with x at the level `from`.
pub(super) fn starting(s: &mut Step<'_>, from: Level) -> Result<(), Halt> {
    let (_, to) = s.levels();
    s.model.predict_each(s.x, At::level(from), &mut |_, x, p| mix(x, 0.0, [(to.signal, p.x0), (to.noise, p.eps)]))
}
