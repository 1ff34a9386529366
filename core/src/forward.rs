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
