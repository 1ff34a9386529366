//! DPM-Solver and DPM-Solver++, one step at a time. Lu et al. 2022a, algorithms 1 and 2; Lu et al. 2022b, algorithm 1, with the
//! levels of the run as the points between, as diffusers counts: a step of order k is k steps of the run, of which the j-th
//! goes from the start of all to its own end with order j, so that each evaluates once and the last one counts.
//!
//! With m1 the prediction at the start, m0 the latest, `h` the step in lambda from the start, r the share of it between both
//! predictions, and `e = 1 - exp(-h)`:
//!
//! - order 1: `x' = noise' / noise * x + signal' * e * m0`;
//! - order 2: the same with m1, and `+ signal' * e / 2 * (m0 - m1) / r`;
//! - order 3: `+ signal' * (1 - e / h) * (m0 - m1) / r`, which has order 3 where the three steps are even in lambda (r = 2 / 3).
//!
//! The SDE variants put 2 h for h in e, `noise' / noise * exp(-h)` for the factor of x, and add `noise' * sqrt(1 - exp(-2 h)) * z`.
//! DPM-Solver interpolates the noise: `signal' / signal` is the factor of x, `noise'` that of the terms, and -h stands for h.
//!
//! One evaluation a step. Noise is drawn in each; for [`crate::noise::Brownian`] that of the points between is a part of the last's.
//! The last step of a run has order 1 where it ends in the image, with `euler_at_final`, and with `lower_order_final` where it
//! would complete a step of the order. Keeps x and one prediction.
//!
//! ```
//! use unfog_core::sampler::find;
//! assert_eq!(find("dpmpp-3s").map(|s| (s.order, s.evaluations, s.history)), Some((3, 1, 2)));
//! ```

use super::dpm_multistep::{Factors, Kind};
use super::mix::mix;
use super::{At, Halt, Step};
use crate::math::wide::sqrt;

pub(super) fn second(s: &mut Step<'_>) -> Result<(), Halt> {
    step(s, 2, Kind::Image)
}

pub(super) fn third(s: &mut Step<'_>) -> Result<(), Halt> {
    step(s, 3, Kind::Image)
}

pub(super) fn second_sde(s: &mut Step<'_>) -> Result<(), Halt> {
    step(s, 2, Kind::Sde)
}

pub(super) fn third_sde(s: &mut Step<'_>) -> Result<(), Halt> {
    step(s, 3, Kind::Sde)
}

pub(super) fn second_noise(s: &mut Step<'_>) -> Result<(), Halt> {
    step(s, 2, Kind::Noise)
}

pub(super) fn third_noise(s: &mut Step<'_>) -> Result<(), Halt> {
    step(s, 3, Kind::Noise)
}

/// The order of a step: its place in the group of `highest` steps, but for the last of the run.
fn order_of(s: &Step<'_>, highest: usize) -> usize {
    let (n, (_, to)) = (s.steps(), s.levels());
    let lower = to.noise <= 0.0 || s.config.euler_at_final || (s.config.lower_order_final && n.is_multiple_of(highest));
    if s.index + 1 == n && lower { 1 } else { (s.index % highest).min(s.done()) + 1 }
}

fn step(s: &mut Step<'_>, highest: usize, kind: Kind) -> Result<(), Halt> {
    let order = order_of(s, highest);
    let (start, (from, to)) = (s.level(s.index + 1 - order), s.levels());
    let Factors { h, keep, a, first, integrals: [e, linear, ..] } = Factors::new(kind, start, to);
    let r = (from.lambda() - start.lambda()) / h;

    let p = s.model.predict(s.x, At::level(from))?;
    let m0 = if kind == Kind::Noise { p.eps } else { p.x0 };
    let (x, m1) = s.history.split_at_mut(s.x.len());
    if order == 1 {
        x.copy_from_slice(s.x);
        m1.copy_from_slice(m0);
        mix(s.x, keep, [(first, m0)]);
    } else {
        let d = a * if order == 2 { 0.5 * e } else { linear } / r;
        s.x.copy_from_slice(x);
        mix(s.x, keep, [(first - d, m1), (d, m0)]);
    }
    if kind == Kind::Sde { s.add_noise_of(order, (to.noise * sqrt(e)) as f32) } else { Ok(()) }
}
