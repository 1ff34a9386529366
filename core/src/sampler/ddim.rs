//! DDIM. Song et al. 2021a, "Denoising diffusion implicit models", equations 12 and 16:
//!
//! `x' = sqrt(a') * x0 + sqrt(1 - a' - s^2) * eps + s * z`, `s = eta * sqrt((1 - a') / (1 - a) * (1 - a / a'))`,
//! where a is alpha-bar of the timestep and a' that of the one that the step leads to. The last step leads to alpha-bar 1, or
//! to that of timestep 0 (`set_alpha_to_one`). `eps` is what the network predicted, also where x0 was clipped.
//!
//! One evaluation a step. With `eta` above 0 noise is drawn at every step, the last one too.

use super::{At, Halt, Step};
use crate::math::sqrt;

pub(super) fn step(s: &mut Step<'_>) -> Result<(), Halt> {
    let t = s.timestep();
    let end = if s.config.set_alpha_to_one { 1.0 } else { s.alpha_bar(0) };
    let a = s.alpha_bar(t);
    let a_next = s.schedule.next_timestep(s.index, s.config.parity).map_or(end, |next| s.alpha_bar(next));

    let variance = (1.0 - a_next) / (1.0 - a) * (1.0 - a / a_next);
    let sigma = s.config.eta * sqrt(variance);
    // With eta 1 rounding can leave a negative difference.
    let (signal, direction) = (sqrt(a_next), sqrt((1.0 - a_next - sigma * sigma).max(0.0)));

    s.model.predict_each(s.x, At::new(t, a), &mut |_, x, p| {
        for ((x, &x0), &eps) in x.iter_mut().zip(p.x0).zip(p.eps) {
            *x = signal * x0 + direction * eps;
        }
    })?;
    if s.config.eta > 0.0 { s.add_noise(sigma) } else { Ok(()) }
}
