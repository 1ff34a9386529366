//! DPM-Solver++, multistep. Lu et al. 2022b, "DPM-Solver++", algorithm 2 and appendix A: the image is interpolated in lambda =
//! ln(signal / noise) through the predictions of the latest steps, and the ODE solved exactly for that. With `h` the step in
//! lambda, `e = 1 - exp(-h)` and D1, D2 the differences of the predictions m0, m1, m2 divided by the ratios of steps:
//!
//! - order 1: `x' = noise' / noise * x + signal' * e * m0`;
//! - order 2: `+ signal' * e / 2 * D1` (midpoint) or `+ signal' * (1 - e / h) * D1` (Heun's form);
//! - order 3: `+ signal' * (1 - e / h) * D1 - signal' * ((h - e) / h^2 - 1 / 2) * D2`.
//!
//! The paper's order 3 has order 2 when measured: its D2 is half of the second derivative but is weighed as the whole. With
//! [`Parity::Table`] it counts twice here, and the order is 3.
//!
//! The second step of order 3 is the midpoint's, as in diffusers. The SDE variants (section 4) put 2 h for h in e and in Heun's form, `noise' / noise * exp(-h)` for the factor of x, and add
//! `noise' * sqrt(1 - exp(-2 h)) * z`.
//!
//! DPM-Solver (Lu et al. 2022a) interpolates the noise instead: `signal' / signal` is the factor of x, `noise'` that of the terms, and
//! -h stands for h. DEIS (Zhang and Chen 2023, "Fast sampling of diffusion models with exponential integrator", with polynomials
//! in ln sigma) is the same, with each polynomial integrated as a whole.
//!
//! One evaluation a step. The first steps have lower orders, and the last ones too: the last where it ends in the image or with
//! `euler_at_final`, and with
//! `lower_order_final` in runs of fewer than 15 steps. Keeps one prediction less than its order.

use super::mix::{exponential_integrals, mix};
use super::{At, Halt, Step};
use crate::config::Parity;
use crate::math::wide;
use crate::schedule::Level;

pub(super) fn second(s: &mut Step<'_>) -> Result<(), Halt> {
    step(s, 2, Form::Midpoint, Kind::Image)
}

pub(super) fn second_heun(s: &mut Step<'_>) -> Result<(), Halt> {
    step(s, 2, Form::Heun, Kind::Image)
}

pub(super) fn third(s: &mut Step<'_>) -> Result<(), Halt> {
    step(s, 3, Form::Midpoint, Kind::Image)
}

pub(super) fn second_sde(s: &mut Step<'_>) -> Result<(), Halt> {
    step(s, 2, Form::Midpoint, Kind::Sde)
}

pub(super) fn second_sde_heun(s: &mut Step<'_>) -> Result<(), Halt> {
    step(s, 2, Form::Heun, Kind::Sde)
}

pub(super) fn third_sde(s: &mut Step<'_>) -> Result<(), Halt> {
    step(s, 3, Form::Heun, Kind::Sde)
}

pub(super) fn second_noise(s: &mut Step<'_>) -> Result<(), Halt> {
    step(s, 2, Form::Midpoint, Kind::Noise)
}

pub(super) fn third_noise(s: &mut Step<'_>) -> Result<(), Halt> {
    step(s, 3, Form::Midpoint, Kind::Noise)
}

pub(super) fn second_deis(s: &mut Step<'_>) -> Result<(), Halt> {
    step(s, 2, Form::Exact, Kind::Noise)
}

pub(super) fn third_deis(s: &mut Step<'_>) -> Result<(), Halt> {
    step(s, 3, Form::Exact, Kind::Noise)
}

/// What is interpolated, and whether noise is added.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// The image: DPM-Solver++.
    Image,
    /// The image, with noise: SDE-DPM-Solver++.
    Sde,
    /// The noise: DPM-Solver and DEIS.
    Noise,
}

/// How differences are weighed.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// Half of e in the second order.
    Midpoint,
    /// The integral of the line in the second order.
    Heun,
    /// The integral of the polynomial in every order.
    Exact,
}

/// The order of a step: no higher than the history allows, nor than the end of the run.
pub(super) fn order_of(s: &Step<'_>, order: usize) -> usize {
    let (left, short) = (s.steps() - s.index, s.steps() < 15 && s.config.lower_order_final);
    let (from, to) = s.levels();
    // A run may end at the level of its last evaluation; there is no step to interpolate over.
    let still = to.noise * from.signal >= from.noise * to.signal;
    let order = if still { 1 } else { order.min(s.done() + 1) };
    match left {
        1 if short || s.config.euler_at_final || to.noise <= 0.0 => 1,
        2 if short => order.min(2),
        _ => order,
    }
}

/// What steps of every order from one level to another are made of.
pub(super) struct Factors {
    /// The step in lambda. Infinite where the step ends in the image.
    pub(super) h: f64,
    /// Factor of x.
    pub(super) keep: f64,
    /// Factor of all terms.
    pub(super) a: f64,
    /// Factor of the prediction in a step of order 1.
    pub(super) first: f64,
    /// [`exponential_integrals`].
    pub(super) integrals: [f64; 4],
}

impl Factors {
    pub(super) fn new(kind: Kind, from: Level, to: Level) -> Self {
        let h = to.lambda() - from.lambda();
        let integrals = exponential_integrals(match kind {
            Kind::Image => h,
            Kind::Sde => 2.0 * h,
            Kind::Noise => -h,
        });
        let (keep, a) = match kind {
            Kind::Image => (to.noise / from.noise, to.signal),
            Kind::Sde => (to.noise / from.noise * wide::exp(-h), to.signal),
            Kind::Noise => (to.signal / from.signal, to.noise),
        };
        // Where the step ends in the image e is infinite for noise, but not its product.
        let first = if kind == Kind::Noise { to.noise - keep * from.noise } else { a * integrals[0] };
        Self { h, keep, a, first, integrals }
    }
}

fn step(s: &mut Step<'_>, order: usize, form: Form, kind: Kind) -> Result<(), Halt> {
    let (from, to) = s.levels();
    let (values, slots) = (s.x.len(), order - 1);
    let order = order_of(s, order);
    let Factors { h, keep, a, first, integrals: [e, linear, square, _] } = Factors::new(kind, from, to);
    // Steps of the history, in units of this one.
    let r0 = (from.lambda() - s.level(s.index.wrapping_sub(1)).lambda()) / h;
    let r1 = (s.level(s.index.wrapping_sub(1)).lambda() - s.level(s.index.wrapping_sub(2)).lambda()) / h;
    // Factors of the first and the second difference.
    let (d1, d2) = match (order, form) {
        (1, _) => (0.0, 0.0),
        (2, Form::Midpoint) => (0.5 * e, 0.0),
        (2, _) => (linear, 0.0),
        (_, Form::Exact) => (linear, 2.0 * square),
        // The paper's and diffusers' D2 is half the second derivative, and they weigh it as if it were all of it, which
        // leaves order 2.
        _ if s.config.parity == Parity::Diffusers => (linear, square),
        _ => (linear, 2.0 * square),
    };
    let slot = |ago: usize| (s.index + slots - ago) % slots * values;

    // What is taken of each difference, d0 = (m0 - m1) / r0 and d1 = (m1 - m2) / r1.
    let (k0, k1) = match order {
        1 => (0.0, 0.0),
        2 => (a * d1 / r0, 0.0),
        _ => {
            // D1 = d0 + r0 / (r0 + r1) * (d0 - d1), D2 = (d0 - d1) / (r0 + r1).
            let sum = r0 + r1;
            let (of_d0, of_d1) = (d1 * (1.0 + r0 / sum) + d2 / sum, -(d1 * r0 + d2) / sum);
            (a * of_d0 / r0, a * of_d1 / r1)
        }
    };
    // With two slots that of m2 becomes m0's, and with one that of m1.
    let ([at0, at1, at2], history) = ([slot(0), slot(1), slot(slots)], &mut *s.history);
    s.model.predict_each(s.x, At::level(from), &mut |range, x, p| {
        let m0 = if kind == Kind::Noise { p.eps } else { p.x0 };
        let (m1, m2) = (&history[at1..][range.clone()], &history[at2..][range.clone()]);
        match order {
            1 => mix(x, keep, [(first, m0)]),
            2 => mix(x, keep, [(first + k0, m0), (-k0, m1)]),
            _ => mix(x, keep, [(first + k0, m0), (k1 - k0, m1), (-k1, m2)]),
        }
        history[at0..][range].copy_from_slice(m0);
    })?;
    if kind == Kind::Sde { s.add_noise((to.noise * wide::sqrt(e)) as f32) } else { Ok(()) }
}
