//! The forward chain, which turns an image into noise, and its posterior. Ho et al. 2020, section 2.

use crate::math;

/// One step of the chain, q(x_t | x_{t-1}): `x = sqrt(1 - beta) * x + sqrt(beta) * z`, z standard normal noise.
/// Equation 2.
pub fn step(x: &mut [f32], beta: f32, z: &[f32]) {
    let (keep, add) = (math::sqrt(1.0 - beta), math::sqrt(beta));
    for (x, &z) in x.iter_mut().zip(z) {
        *x = keep * *x + add * z;
    }
}

/// All steps up to t at once, q(x_t | x_0): `out = sqrt(alpha_bar) * x0 + sqrt(1 - alpha_bar) * z`. Equation 4.
///
/// ```
/// use unfog_core::forward;
/// let mut x = [0.0];
/// forward::closed(&[1.0], 0.64, &[-1.0], &mut x);
/// assert!((x[0] - (0.8 - 0.6)).abs() < 1e-6);
/// ```
pub fn closed(x0: &[f32], alpha_bar: f32, z: &[f32], out: &mut [f32]) {
    let (signal, noise) = (math::sqrt(alpha_bar), math::sqrt(1.0 - alpha_bar));
    for ((o, &x0), &z) in out.iter_mut().zip(x0).zip(z) {
        *o = signal * x0 + noise * z;
    }
}

/// Signal-to-noise ratio, `alpha_bar / (1 - alpha_bar)`; infinite where there is no noise. Kingma et al. 2021, equation 2.
pub fn snr(alpha_bar: f64) -> f64 {
    alpha_bar / (1.0 - alpha_bar)
}

/// q(x_{t-1} | x_t, x_0), a normal distribution. Ho et al. 2020, equations 6 and 7.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Posterior {
    /// Factor of x_0 in the mean.
    pub x0: f32,
    /// Factor of x_t in the mean.
    pub xt: f32,
    /// Variance, not floored: 0 where the step leads to the image itself.
    pub variance: f32,
    /// Variance that the forward chain adds between the two timesteps.
    pub beta: f32,
}

impl Posterior {
    /// The posterior of a step from alpha-bar `at` (below 1) to `to` (above 0, 1 for the image itself).
    ///
    /// In f32 and in diffusers' order of operations: 1 - at / to cancels, and its rounding is part of the result.
    ///
    /// ```
    /// use unfog_core::forward::Posterior;
    /// let end = Posterior::new(0.9, 1.0);
    /// assert_eq!((end.xt, end.variance), (0.0, 0.0));
    /// ```
    pub fn new(at: f32, to: f32) -> Self {
        let (noise_at, noise_to) = (1.0 - at, 1.0 - to);
        let alpha = at / to;
        let beta = 1.0 - alpha;
        Self {
            x0: math::sqrt(to) * beta / noise_at,
            xt: math::sqrt(alpha) * noise_to / noise_at,
            variance: noise_to / noise_at * beta,
            beta,
        }
    }

    /// The mean, in place: `x`, which holds x_t, becomes `self.x0 * x0 + self.xt * x`.
    pub fn mean(&self, x0: &[f32], x: &mut [f32]) {
        for (x, &x0) in x.iter_mut().zip(x0) {
            *x = self.x0 * x0 + self.xt * *x;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::noise::{Noise, Philox};
    use crate::schedule::{BetaSchedule, alpha_bar_exact, fill_betas};

    const IMAGE: f32 = 0.8;

    fn betas() -> Vec<f32> {
        let mut betas = vec![0.0; 1000];
        fill_betas(BetaSchedule::Linear, 1e-4, 0.02, &mut betas).unwrap();
        betas
    }

    fn exact() -> Vec<f64> {
        let mut alpha_bar = vec![0.0; 1000];
        alpha_bar_exact(BetaSchedule::Linear, 1e-4, 0.02, &mut alpha_bar);
        alpha_bar
    }

    #[test]
    fn a_thousand_steps_and_the_closed_form_agree() {
        const COUNT: usize = 8192;
        let mut noise = Philox::new(11);
        let (mut x, mut z) = (vec![IMAGE; COUNT], vec![0.0; COUNT]);
        for ((t, beta), alpha_bar) in betas().into_iter().enumerate().zip(exact()) {
            noise.fill(0, t as u32, &mut z).unwrap();
            step(&mut x, beta, &z);
            if t % 111 != 0 {
                continue;
            }
            let mut at_once = vec![0.0; COUNT];
            noise.fill(1, t as u32, &mut z).unwrap();
            closed(&[IMAGE; COUNT], alpha_bar as f32, &z, &mut at_once);
            let (mean, variance) = (alpha_bar.sqrt() * f64::from(IMAGE), 1.0 - alpha_bar);
            for sample in [&x, &at_once] {
                let moment =
                    |f: &dyn Fn(f64) -> f64| sample.iter().map(|&v| f(f64::from(v))).sum::<f64>() / COUNT as f64;
                let (m, v) = (moment(&|v| v), moment(&|v| (v - mean).powi(2)));
                // Five standard errors of the mean and of the variance of normal values.
                assert!((m - mean).abs() < 5.0 * (variance / COUNT as f64).sqrt(), "t {t}: mean {m}, not {mean}");
                assert!((v / variance - 1.0).abs() < 5.0 * (2.0 / COUNT as f64).sqrt(), "t {t}: {v}, not {variance}");
            }
        }
    }

    #[test]
    fn steps_without_noise_leave_the_closed_forms_signal() {
        let mut x = [IMAGE];
        for (beta, alpha_bar) in betas().into_iter().zip(exact()) {
            step(&mut x, beta, &[0.0]);
            let mut at_once = [0.0];
            closed(&[IMAGE], alpha_bar as f32, &[0.0], &mut at_once);
            // 1000 roundings of 2^-24 and the betas' own, at worst all in one direction.
            assert!((x[0] / at_once[0] - 1.0).abs() < 1e-4, "{x:?} {at_once:?}");
        }
    }

    #[test]
    fn the_posterior_is_bayes_rule() {
        for (at, to) in [(0.3_f32, 0.5_f32), (0.01, 0.9), (0.9, 0.95), (1e-4, 2e-4)] {
            let p = Posterior::new(at, to);
            // The likelihood N(x_t; sqrt(alpha) x, beta) times the prior N(x; sqrt(to) x_0, 1 - to), as precisions.
            let (at, to) = (f64::from(at), f64::from(to));
            let (alpha, beta) = (at / to, 1.0 - at / to);
            let precision = alpha / beta + 1.0 / (1.0 - to);
            let expected = [to.sqrt() / (1.0 - to) / precision, alpha.sqrt() / beta / precision, 1.0 / precision, beta];
            for (value, expected) in [p.x0, p.xt, p.variance, p.beta].into_iter().zip(expected) {
                // 1 - at / to loses up to 20 times 2^-24 for these pairs.
                assert!((f64::from(value) / expected - 1.0).abs() < 5e-6, "{p:?} {expected}");
            }
            let mut x = [2.0];
            p.mean(&[-1.0], &mut x);
            assert_eq!(x[0], -p.x0 + p.xt * 2.0);
        }
    }

    #[test]
    fn snr_is_signal_over_noise() {
        assert_eq!(snr(0.5), 1.0);
        assert_eq!(snr(0.0), 0.0);
        assert_eq!(snr(1.0), f64::INFINITY);
    }
}
