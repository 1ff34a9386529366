//! SA-Solver: Adams' methods for the stochastic differential equation, predictor and corrector. Xue et al. 2023, "SA-Solver:
//! stochastic Adams solver for fast sampling of diffusion models", equations 14 and 17, in the data-prediction form.
//!
//! With tau the share of noise (0 gives the ODE), `h` the step in lambda and `k = 1 + tau^2`, the image is interpolated through
//! the predictions m_i, and the equation solved exactly for that:
//!
//! `x' = exp(-tau^2 * h) * noise' / noise * x + signal' * sum of w_i * m_i + noise' * sqrt(1 - exp(-2 * tau^2 * h)) * z`,
//! `w_i = k * integral of exp(k * (u - h)) * L_i(u) du` over the step, L_i Lagrange's polynomials in lambda.
//!
//! The predictor interpolates the latest predictions up to the step's start; the corrector makes the step before once more, with
//! the new prediction as a point and the same z. With two points the slope counts `k * h / 2`, as the authors' code and diffusers have it.
//! tau is [`Config::eta`] where sigma lies from [`Config::s_tmin`] to [`Config::s_tmax`], and 0 elsewhere.
//!
//! One evaluation a step. With eta above 0 noise is drawn at every step. The first steps have lower orders; with
//! `lower_order_final` the last ones too; order 1 where the last ends in the image. Predictor and corrector interpolate two points,
//! or three and four (the paper's three steps of both); as solvers of the ODE they have order 2 and 4. Keeps the predictions but the latest,
//! x and the noise.
//!
//! ```
//! use unfog_core::sampler::find;
//! assert_eq!(find("sa-solver-3").map(|s| (s.order, s.evaluations)), Some((4, 1)));
//! ```
//!
//! [`Config::eta`]: crate::config::Config::eta
//! [`Config::s_tmin`]: crate::config::Config::s_tmin
//! [`Config::s_tmax`]: crate::config::Config::s_tmax

use super::mix::{exponential_integrals, mix};
use super::unipc::solve;
use super::{At, Halt, Step};
use crate::math::wide::{exp, exp_m1, sqrt};

pub(super) fn second(s: &mut Step<'_>) -> Result<(), Halt> {
    step::<1>(s, [2, 2])
}

pub(super) fn third(s: &mut Step<'_>) -> Result<(), Halt> {
    step::<3>(s, [3, 4])
}

/// What a step from level `step` to the next is made of.
struct Factors {
    /// Of x.
    keep: f64,
    /// Of the prediction at the start.
    of_m0: f64,
    /// Of the other predictions: for the corrector first that at the end, then from the latest to the oldest.
    others: [f64; 3],
    /// Of the noise.
    of_noise: f64,
}

/// The factors of a step with `points` predictions; the corrector's count the one at its end.
fn factors(s: &Step<'_>, step: usize, points: usize, corrects: bool) -> Factors {
    let (from, to) = (s.level(step), s.level(step + 1));
    let within = (f64::from(s.config.s_tmin)..=f64::from(s.config.s_tmax)).contains(&from.sigma());
    let tau = if within { f64::from(s.config.eta) } else { 0.0 };
    let h = to.lambda() - from.lambda();
    let k = 1.0 + tau * tau;
    let [e, second, third, fourth] = exponential_integrals(k * h);
    // How far from the start, in steps, the predictions lie.
    let ago = |n: usize| (s.level(step.wrapping_sub(n)).lambda() - from.lambda()) / h;
    let r = if corrects { [1.0, ago(1), ago(2)] } else { [ago(1), ago(2), 0.0] };
    let slope = if points == 2 { 0.5 * k * h } else { second };
    let rho = solve(r, [slope, 2.0 * third, 6.0 * fourth], points - 1);
    let weight = |i: usize| if i + 1 < points { rho[i] / r[i] } else { 0.0 };
    let others = [weight(0), weight(1), weight(2)];
    // Where a step ends in the image h is infinite, and with tau 0 its product with it 0.
    let spread = if tau > 0.0 { tau * tau * h } else { 0.0 };
    Factors {
        keep: exp(-spread) * to.noise / from.noise,
        of_m0: to.signal * (e - others.iter().sum::<f64>()),
        others: others.map(|weight| to.signal * weight),
        of_noise: to.noise * sqrt(-exp_m1(-2.0 * spread)),
    }
}

/// Predictions that the step from level `step` interpolates, and those that correct it afterwards.
fn points(s: &Step<'_>, step: usize, [predictor, corrector]: [usize; 2]) -> (usize, usize) {
    let (from, to) = (s.level(step), s.level(step + 1));
    let still = to.noise * from.signal >= from.noise * to.signal;
    let left = if s.config.lower_order_final { s.steps() - step } else { corrector };
    let predicts = if still || to.noise <= 0.0 { 1 } else { predictor.min(step + 1 - s.begin).min(left) };
    (predicts, corrector.min(step + 2 - s.begin).min(left + 1))
}

/// A step that keeps `N` predictions.
fn step<const N: usize>(s: &mut Step<'_>, orders: [usize; 2]) -> Result<(), Halt> {
    let (values, from) = (s.x.len(), s.level(s.index));
    let before = (s.done() > 0).then(|| {
        let (_, points) = points(s, s.index - 1, orders);
        factors(s, s.index - 1, points, true)
    });
    let (predicts, _) = points(s, s.index, orders);
    let Factors { keep, of_m0, others, of_noise } = factors(s, s.index, predicts, false);
    let slot = |ago: usize| (s.index + N - ago) % N * values;
    let kept = N * values;

    let p = s.model.predict(s.x, At::level(from))?;
    let (predictions, rest) = s.history.split_at_mut(kept);
    let (last, noise) = rest.split_at_mut(values);
    // Of those that aren't kept the factor is 0.
    let m = |ago: usize| &predictions[slot(ago.min(N))..][..values];
    if let Some(Factors { keep, of_m0, others, of_noise }) = before {
        // Once more from the last x, which is corrected in place and becomes this one.
        mix(last, keep, [(of_noise, &*noise), (of_m0, m(1)), (others[0], p.x0), (others[1], m(2)), (others[2], m(3))]);
    } else {
        last.copy_from_slice(s.x);
    }
    s.x.copy_from_slice(last);
    mix(s.x, keep, [(of_m0, p.x0), (others[0], m(1)), (others[1], m(2))]);
    let place = slot(0);
    predictions[place..][..values].copy_from_slice(p.x0);
    if s.config.eta > 0.0 {
        s.keep_noise(kept + values)?;
        mix(s.x, 1.0, [(of_noise, &s.history[kept + values..])]);
    }
    Ok(())
}
