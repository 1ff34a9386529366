//! ER-SDE-Solver: the extended reverse-time stochastic differential equation, solved by Taylor's expansion of the image. Cui et
//! al. 2023, "Elucidating the solution space of extended reverse-time SDE for diffusion models", algorithms 1 to 3.
//!
//! With sigma noise over signal, the paper's noise scale `phi(u) = u * (exp(u^0.3) + 10)` (its ER-SDE-5) and
//! `R = phi(sigma') / phi(sigma)`:
//!
//! - order 1: `x' / signal' = R * x / signal + (1 - R) * x0 + sqrt(sigma'^2 - (R * sigma)^2) * z`;
//! - order 2: `+ (sigma' - sigma + phi(sigma') * I0) * D1`, `D1 = (m0 - m1) / (sigma - sigma_1)`;
//! - order 3: `+ ((sigma' - sigma)^2 / 2 + phi(sigma') * I1) * D2`, `D2 = 2 * (D1 - D1 of the step before) / (sigma - sigma_2)`,
//!
//! with I0 and I1 the integrals of `1 / phi(u)` and `(u - sigma) / phi(u)` from sigma' to sigma. (The authors sum 100 rectangles; this
//! integrates to f32's last bits.)
//!
//! One evaluation a step. The first steps have lower orders, and the last has order 1, without noise, where it ends in the image.
//! Keeps one prediction less than its order.
//!
//! ```
//! use unfog_core::sampler::find;
//! assert_eq!(find("er-sde-3").map(|s| (s.evaluations, s.history)), Some((1, 2)));
//! ```

use super::mix::mix;
use super::{At, Halt, Step};
use crate::math::wide::{exp, ln, pow, sqrt};

pub(super) fn first(s: &mut Step<'_>) -> Result<(), Halt> {
    step(s, 1)
}

pub(super) fn second(s: &mut Step<'_>) -> Result<(), Halt> {
    step(s, 2)
}

pub(super) fn third(s: &mut Step<'_>) -> Result<(), Halt> {
    step(s, 3)
}

/// `phi(u) / u`.
fn growth(u: f64) -> f64 {
    exp(pow(u, 0.3)) + 10.0
}

/// I0 and I1, from `low` above 0 to `high`: Gauss' quadrature with 3 points over ln u, in pieces.
fn integrals(low: f64, high: f64) -> [f64; 2] {
    const PIECES: u32 = 32;
    // Places from the middle, in halves of a piece, and weights: sqrt(3 / 5), 8 / 9, 5 / 9.
    const POINTS: [(f64, f64); 3] =
        [(-0.774_596_669_241_483_4, 5.0 / 9.0), (0.0, 8.0 / 9.0), (0.774_596_669_241_483_4, 5.0 / 9.0)];
    let (start, half) = (ln(low), 0.5 * ln(high / low) / f64::from(PIECES));
    let mut sums = [0.0; 2];
    for piece in 0..PIECES {
        for (place, weight) in POINTS {
            let u = exp(start + half * (f64::from(2 * piece + 1) + place));
            let value = half * weight / growth(u);
            sums[0] += value;
            sums[1] += value * (u - high);
        }
    }
    sums
}

fn step(s: &mut Step<'_>, highest: usize) -> Result<(), Halt> {
    let (values, (from, to)) = (s.x.len(), s.levels());
    let (sigma, sigma_to) = (from.sigma(), to.sigma());
    // Infinite where x is pure noise, of which nothing is kept.
    let pure = from.signal <= 0.0;
    let still = to.noise * from.signal >= from.noise * to.signal;
    let order = if pure || still || to.noise <= 0.0 { 1 } else { highest.min(s.done() + 1) };
    let ratio = if pure { 0.0 } else { sigma_to * growth(sigma_to) / (sigma * growth(sigma)) };
    let (keep, kept_noise) = if pure { (0.0, 0.0) } else { (to.signal / from.signal * ratio, ratio * sigma) };
    let mut of = [1.0 - ratio, 0.0, 0.0];
    if order > 1 {
        let before = |ago: usize| s.level(s.index.wrapping_sub(ago)).sigma();
        let (i0, i1) = match integrals(sigma_to, sigma) {
            [i0, i1] => (i0 * sigma_to * growth(sigma_to), i1 * sigma_to * growth(sigma_to)),
        };
        let d1 = (sigma_to - sigma + i0) / (sigma - before(1));
        let (mut here, mut there) = (d1, 0.0);
        if order > 2 {
            let d2 = (0.5 * (sigma_to - sigma) * (sigma_to - sigma) + i1) * 2.0 / (sigma - before(2));
            here += d2 / (sigma - before(1));
            there = -d2 / (before(1) - before(2));
        }
        of = [of[0] + here, there - here, -there];
    }
    let of = of.map(|of| to.signal * of);
    let slots = highest - 1;
    let slot = |ago: usize| if ago <= slots && slots > 0 { (s.index + slots - ago) % slots * values } else { 0 };

    let (ago, history) = ([0, 1, 2].map(slot), &mut *s.history);
    s.model.predict_each(s.x, At::level(from), &mut |range, x, p| {
        let m = |ago: usize| &history[ago + range.start..ago + range.end];
        match order {
            1 => mix(x, keep, [(of[0], p.x0)]),
            2 => mix(x, keep, [(of[0], p.x0), (of[1], m(ago[1]))]),
            _ => mix(x, keep, [(of[0], p.x0), (of[1], m(ago[1])), (of[2], m(ago[2]))]),
        }
        if slots > 0 {
            history[ago[0] + range.start..ago[0] + range.end].copy_from_slice(p.x0);
        }
    })?;
    let fresh = to.signal * sqrt((sigma_to * sigma_to - kept_noise * kept_noise).max(0.0));
    if to.noise > 0.0 { s.add_noise(fresh as f32) } else { Ok(()) }
}
