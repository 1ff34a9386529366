//! UniPC. Zhao et al. 2023, "UniPC: a unified predictor-corrector framework", algorithms 5 to 8 in the data-prediction form,
//! with B(h) = exp(-h) - 1 ("bh2") or -h ("bh1").
//!
//! With `h` the step in lambda, `e = 1 - exp(-h)`, m0 the latest prediction and m_k those before it, at `r_k` steps from it:
//! `x' = noise' / noise * x + signal' * (e * m0 + B * sum of rho_k * (m_k - m0) / r_k)`. The weights rho solve
//! `sum of rho_k * r_k^(i - 1) = b_i` for i up to the order, with b from the integrals of exp; order 2 takes 1 / 2. The
//! corrector makes the step before once more, with the new prediction as one point more (r = 1; order 1 takes 1 / 2), which
//! gains an order without another evaluation.
//!
//! One evaluation a step. The first steps have lower orders; with `lower_order_final` the last ones too; order 1 where the
//! last ends in the image. Keeps `order` predictions and x.

use super::mix::{exponential_integrals, mix};
use super::{At, Halt, Step};

pub(super) fn second(s: &mut Step<'_>) -> Result<(), Halt> {
    step::<2>(s, false)
}

pub(super) fn second_bh1(s: &mut Step<'_>) -> Result<(), Halt> {
    step::<2>(s, true)
}

pub(super) fn third(s: &mut Step<'_>) -> Result<(), Halt> {
    step::<3>(s, false)
}

/// The order of a step: no higher than the history allows, nor than the end of the run.
fn order_of(s: &Step<'_>, step: usize, order: usize) -> usize {
    let (from, to) = (s.level(step), s.level(step + 1));
    let still = to.noise * from.signal >= from.noise * to.signal;
    if still || to.noise <= 0.0 {
        return 1;
    }
    let left = if s.config.lower_order_final { s.steps() - step } else { order };
    order.min(step + 1 - s.begin).min(left)
}

/// Factors of a step of order `N` or lower from level `step`: of x, then of m0, and of the other predictions, oldest last. The
/// corrector's first of these is the prediction at the step's end.
fn factors(s: &Step<'_>, step: usize, order: usize, bh1: bool, corrects: bool) -> (f64, f64, [f64; 3]) {
    let (from, to) = (s.level(step), s.level(step + 1));
    let h = to.lambda() - from.lambda();
    let [e, second, third, fourth] = exponential_integrals(h);
    // How far from m0, in steps, the predictions lie.
    let ago = |k: usize| (s.level(step.wrapping_sub(k)).lambda() - from.lambda()) / h;
    let mut r = [ago(1), ago(2), 0.0];
    if corrects {
        r = [1.0, ago(1), ago(2)];
    }
    // The paper's b times B, which cancels but where a weight is given.
    let b = [second, 2.0 * third, 6.0 * fourth];
    let points = if corrects { order } else { order - 1 };
    let mut rho = match (corrects, order) {
        (true, 1) | (false, 2) => [0.5 * if bh1 && h.is_finite() { h } else { e }, 0.0, 0.0],
        _ => solve(r, b, points),
    };
    rho.iter_mut().zip(r).take(points).for_each(|(rho, r)| *rho /= r);
    let of_m0 = e - rho.iter().take(points).sum::<f64>();
    (to.noise / from.noise, of_m0 * to.signal, rho.map(|rho| rho * to.signal))
}

/// Weights with `sum of rho_k * r_k^i = b_i` for i from 0, of the first `count` points, which differ.
pub(super) fn solve(r: [f64; 3], b: [f64; 3], count: usize) -> [f64; 3] {
    match count {
        0 => [0.0; 3],
        1 => [b[0], 0.0, 0.0],
        2 => {
            let second = (b[1] - r[0] * b[0]) / (r[1] - r[0]);
            [b[0] - second, second, 0.0]
        }
        _ => {
            // Each weight is the integral of its Lagrange polynomial, whose coefficients meet b.
            let weight = |i: usize, j: usize, k: usize| {
                (b[2] - (r[j] + r[k]) * b[1] + r[j] * r[k] * b[0]) / ((r[i] - r[j]) * (r[i] - r[k]))
            };
            [weight(0, 1, 2), weight(1, 0, 2), weight(2, 0, 1)]
        }
    }
}

fn step<const N: usize>(s: &mut Step<'_>, bh1: bool) -> Result<(), Halt> {
    let values = s.x.len();
    let from = s.level(s.index);
    let before = (s.done() > 0).then(|| {
        let order = order_of(s, s.index - 1, N);
        (order, factors(s, s.index - 1, order, bh1, true))
    });
    let order = order_of(s, s.index, N);
    let (keep, of_m0, rho) = factors(s, s.index, order, bh1, false);
    let slot = |ago: usize| (s.index + N * 4 - ago) % N * values;
    let (here, slots) = (slot(0), [slot(1), slot(2), slot(3)]);

    let (predictions, last) = s.history.split_at_mut(N * values);
    s.model.predict_each(s.x, At::level(from), &mut |range, x, p| {
        let ([m1, m2, m3], last) = (slots.map(|slot| &predictions[slot..][range.clone()]), &mut last[range.clone()]);
        if let Some((order, (keep, of_m0, rho))) = before {
            // Once more from the last x, which is corrected in place and becomes this one.
            let add = [(of_m0, m1), (rho[0], p.x0)];
            match order {
                1 => mix(last, keep, add),
                2 => mix(last, keep, [add[0], add[1], (rho[1], m2)]),
                _ => mix(last, keep, [add[0], add[1], (rho[1], m2), (rho[2], m3)]),
            }
            x.copy_from_slice(last);
        } else {
            last.copy_from_slice(x);
        }
        match order {
            1 => mix(x, keep, [(of_m0, p.x0)]),
            2 => mix(x, keep, [(of_m0, p.x0), (rho[0], m1)]),
            _ => mix(x, keep, [(of_m0, p.x0), (rho[0], m1), (rho[1], m2)]),
        }
        predictions[here..][range].copy_from_slice(p.x0);
    })
}
