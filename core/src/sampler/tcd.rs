//! TCD, trajectory consistency sampling. Zheng et al. 2024, "Trajectory consistency distillation", algorithm 4: each step jumps
//! along the trajectory past the next timestep t' to `s = (1 - gamma) * t'`, rounded down, and adds noise back up to t'.
//!
//! `y = sqrt(a_s) * x0 + sqrt(1 - a_s) * eps`, `x' = sqrt(a' / a_s) * y + sqrt(1 - a' / a_s) * z`; gamma is [`Config::eta`].
//!
//! One evaluation a step. The last step leads to timestep 0 without noise; with gamma 0 none is drawn.
//!
//! [`Config::eta`]: crate::config::Config::eta

use super::mix::mix;
use super::{At, Halt, Step};
use crate::config::Parity;
use crate::math::wide::sqrt;

pub(super) fn step(s: &mut Step<'_>) -> Result<(), Halt> {
    let (t, gamma) = (s.timestep(), s.config.eta);
    let next = s.schedule.next_timestep(s.index, Parity::Table);
    let to = next.unwrap_or(0);
    // Not negative, so the cast rounds down.
    let target = ((1.0 - gamma) * to as f32) as u32;
    let (a_to, a_target) = (f64::from(s.alpha_bar(to)), f64::from(s.alpha_bar(target)));
    // What noise is added, and how much of y is kept for it.
    let noisy = gamma > 0.0 && next.is_some();
    let keep = if noisy { a_to / a_target } else { 1.0 };

    let at = At::new(t, s.alpha_bar(t));
    let (signal, noise) = (sqrt(keep) * sqrt(a_target), sqrt(keep) * sqrt(1.0 - a_target));
    s.model.predict_each(s.x, at, &mut |_, x, p| mix(x, 0.0, [(signal, p.x0), (noise, p.eps)]))?;
    if noisy { s.add_noise(sqrt(1.0 - keep) as f32) } else { Ok(()) }
}
