//! Linear multistep on the probability-flow ODE over sigma: Adams and Bashforth's method on uneven steps, as in k-diffusion's
//! `sample_lms`. The derivative `d = (x / scale - x0) / sigma` is interpolated through the latest four steps and integrated:
//!
//! `x' / scale' = x / scale + sum of c_k * d_k`, `c_k = integral of L_k from sigma to sigma'`, L_k Lagrange's polynomials.
//!
//! They have degree 3 at most, so two points of Gauss' quadrature integrate them exactly (diffusers and k-diffusion use adaptive
//! quadrature with tolerance 1e-4). diffusers counts steps from the start of the schedule: in a run that begins in the middle it takes the
//! coefficients of derivatives that there are not, and leaves those out. [`Parity::Diffusers`] does the same.
//!
//! One evaluation a step; order 4, less in the first steps. Keeps four derivatives.

use super::mix::{derivative, mix};
use super::{At, Halt, Step};
use crate::config::Parity;

pub(super) const ORDER: usize = 4;

pub(super) fn step(s: &mut Step<'_>) -> Result<(), Halt> {
    let (from, to) = s.levels();
    let values = s.x.len();
    // Derivatives that were never made are zeros.
    let order = ORDER.min(1 + if s.config.parity == Parity::Diffusers { s.index } else { s.done() });
    let ((scale, sigma), (scale_to, sigma_to)) = (s.unit(from), s.unit(to));
    let mut nodes = [sigma; ORDER];
    for (ago, node) in nodes.iter_mut().enumerate().take(order) {
        *node = s.unit(s.level(s.index - ago)).1;
    }
    let c: [f64; ORDER] = core::array::from_fn(|k| scale_to * integral(&nodes[..order], k, sigma, sigma_to));

    let slot = |ago: usize| (s.index + ORDER - ago) % ORDER * values;
    let (slots, history, keep) = ([slot(0), slot(1), slot(2), slot(3)], &mut *s.history, scale_to / scale);
    s.model.predict_each(s.x, At::level(from), &mut |range, x, p| {
        derivative(x, p.x0, scale, from.noise, &mut history[slots[0]..][range.clone()]);
        let d = slots.map(|slot| &history[slot..][range.clone()]);
        match order {
            1 => mix(x, keep, [(c[0], d[0])]),
            2 => mix(x, keep, [(c[0], d[0]), (c[1], d[1])]),
            3 => mix(x, keep, [(c[0], d[0]), (c[1], d[1]), (c[2], d[2])]),
            _ => mix(x, keep, [(c[0], d[0]), (c[1], d[1]), (c[2], d[2]), (c[3], d[3])]),
        }
    })
}

/// The integral from `a` to `b` of the polynomial that is 1 at `nodes[k]` and 0 at the others.
fn integral(nodes: &[f64], k: usize, a: f64, b: f64) -> f64 {
    /// 1 / sqrt(3): Gauss' points are exact up to degree 3.
    const POINT: f64 = 0.577_350_269_189_625_8;
    let Some(&here) = nodes.get(k) else { return 0.0 };
    let (middle, half) = (0.5 * (a + b), 0.5 * (b - a));
    let value = |x: f64| {
        let others = nodes.iter().enumerate().filter(|(i, _)| *i != k);
        others.fold(1.0, |product, (_, node)| product * (x - node) / (here - node))
    };
    half * (value(middle - half * POINT) + value(middle + half * POINT))
}
