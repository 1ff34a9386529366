//! DDPM ancestral sampling. Ho et al. 2020, algorithm 2, in the form of equation 7: the mean of the posterior
//! q(x_{t-1} | x_t, x_0) at the predicted x_0, plus noise of a fixed or a learned variance.
//!
//! Steps lead to the next timestep of the table, the last one to the image. One evaluation a step. No noise is added, and none
//! drawn, at timestep 0, and with [`Parity::Table`] at the last step; diffusers draws there when its timestep is above 0.

use super::{At, Halt, Learned, Step};
use crate::config::{Parity, Variance};
use crate::forward::Posterior;
use crate::math::{exp, ln, sqrt};

/// Floor of the posterior's variance, so that its logarithm is finite.
const MIN_VARIANCE: f32 = 1e-20;

pub(super) fn step(s: &mut Step<'_>) -> Result<(), Halt> {
    let t = s.timestep();
    let next = s.schedule.next_timestep(s.index, Parity::Table);
    let a = s.alpha_bar(t);
    let posterior = Posterior::new(a, next.map_or(1.0, |next| s.alpha_bar(next)));
    let small = posterior.variance.max(MIN_VARIANCE);
    let noisy = match s.config.parity {
        Parity::Diffusers => t > 0,
        Parity::Table => next.is_some(),
    };

    let mut at = At::new(t, a);
    at.learned = match (s.config.variance, s.config.parity) {
        (Variance::LearnedRange, _) => Some(Learned::Between([ln(small), ln(posterior.beta.max(MIN_VARIANCE))])),
        (Variance::Learned, Parity::Diffusers) => Some(Learned::Variance),
        (Variance::Learned, Parity::Table) => Some(Learned::Logarithm),
        _ => None,
    };
    s.model.predict_each(s.x, at, &mut |_, x, p| posterior.mean(p.x0, x))?;
    if !noisy {
        return Ok(());
    }
    match s.config.variance {
        Variance::FixedSmall => s.add_noise(sqrt(small)),
        Variance::FixedSmallLog => s.add_noise(exp(0.5 * ln(small))),
        Variance::FixedLarge | Variance::FixedLargeLog => s.add_noise(sqrt(posterior.beta)),
        Variance::Learned | Variance::LearnedRange => s.add_predicted_noise(),
    }
}
