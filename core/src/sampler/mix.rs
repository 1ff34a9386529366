//! The arithmetic that steps share: the first-order transfer from level to level, and linear combinations of images.

use crate::math::wide;
use crate::schedule::Level;

/// `x = keep * x + sum of factor * values`, value by value. Values past the shortest slice stay as they are.
///
/// Factors come in f64 and are rounded once; the sum is f32, from left to right.
pub fn mix<const N: usize>(x: &mut [f32], keep: f64, add: [(f64, &[f32]); N]) {
    let len = add.iter().fold(x.len(), |len, (_, values)| len.min(values.len()));
    let (keep, add) = (keep as f32, add.map(|(factor, values)| (factor as f32, &values[..len])));
    for (i, x) in x[..len].iter_mut().enumerate() {
        *x = add.iter().fold(keep * *x, |sum, (factor, values)| sum + factor * values[i]);
    }
}

/// The derivative of x / scale by sigma, `out = (x - scale * x0) / noise` ([`super::Step::unit`]). The difference comes first:
/// near the end both terms are close, and rounding them apart would cost digits.
pub fn derivative(x: &[f32], x0: &[f32], scale: f64, noise: f64, out: &mut [f32]) {
    let (scale, noise) = (scale as f32, noise as f32);
    for ((out, &x), &x0) in out.iter_mut().zip(x).zip(x0) {
        *out = (x - scale * x0) / noise;
    }
}

/// Factors of x and x0 that lead from one level to another along a straight line to x0: `x' = x * .0 + x0 * .1`.
///
/// This is Euler's step of Karras et al. 2022, the deterministic step of Song et al. 2021a and the first order of
/// DPM-Solver++, which are one: `noise' / noise` and `signal' - signal * noise' / noise`.
pub fn transfer(from: Level, to: Level) -> (f64, f64) {
    let keep = to.noise / from.noise;
    (keep, to.signal - from.signal * keep)
}

/// How much of the noise of level `to` a stochastic step draws anew: factors (stays, drawn), their squares adding up to 1.
///
/// `drawn = min(eta * sqrt(1 - r^2), 1)` with r the ratio of the sigmas: with eta 1 the posterior's variance, the "sigma up"
/// of k-diffusion in units of sigma.
pub fn renewal(from: Level, to: Level, eta: f64) -> (f64, f64) {
    let ratio = to.noise * from.signal / (to.signal * from.noise);
    let drawn = (eta * wide::sqrt((1.0 - ratio * ratio).max(0.0))).min(1.0);
    (wide::sqrt(1.0 - drawn * drawn), drawn)
}

/// The integrals that exponential integrators weigh differences with, of a step `h` in lambda:
/// `e = 1 - exp(-h)`, `1 - e / h`, `1/2 - (1 - e / h) / h` and so on. With the step in units of itself, the k-th is that of
/// `h * exp(h * (u - 1)) * u^k / k!` over u from 0 to 1.
pub fn exponential_integrals(h: f64) -> [f64; 4] {
    if h.abs() < 0.1 {
        // From the last one down, whose series has no cancellation; 12 terms are exact to the last bit here.
        let (mut term, mut fourth) = (h / 24.0, 0.0);
        for k in 0..12 {
            fourth += term;
            term *= -h / f64::from(k + 5);
        }
        let third = h * (1.0 / 6.0 - fourth);
        let second = h * (0.5 - third);
        return [h * (1.0 - second), second, third, fourth];
    }
    let e = -wide::exp_m1(-h);
    let second = 1.0 - e / h;
    let third = 0.5 - second / h;
    [e, second, third, 1.0 / 6.0 - third / h]
}
