//! LCM, multistep consistency sampling of latent consistency models. Luo et al. 2023, "Latent consistency models", algorithm 3:
//! each step jumps to the image and adds fresh noise up to the next timestep.
//!
//! `image = c_out * x0 + c_skip * x`, `c_skip = d^2 / (u^2 + d^2)`, `c_out = u / sqrt(u^2 + d^2)`, with d = 1 / 2 and u the timestep times
//! `timestep_scaling`, so that at timestep 0 the image is x; then `x' = sqrt(a') * image + sqrt(1 - a') * z`.
//!
//! One evaluation a step. Steps lead to the next timestep of the table, the last to the image, where no noise is drawn.
//! Distilled networks know the timesteps of [`crate::schedule::Spacing::Consistency`].

use super::mix::mix;
use super::{At, Halt, Step};
use crate::config::Parity;
use crate::math::wide::sqrt;

/// Deviation of the data in the boundary condition.
const DATA: f64 = 0.5;

pub(super) fn step(s: &mut Step<'_>) -> Result<(), Halt> {
    let t = s.timestep();
    let next = s.schedule.next_timestep(s.index, Parity::Table);
    let a_next = next.map_or(1.0, |next| f64::from(s.alpha_bar(next)));
    let u = f64::from(t) * f64::from(s.config.timestep_scaling);
    let sum = u * u + DATA * DATA;
    let (skip, out) = (DATA * DATA / sum, u / sqrt(sum));

    let at = At::new(t, s.alpha_bar(t));
    let (keep, add) = (sqrt(a_next) * skip, sqrt(a_next) * out);
    s.model.predict_each(s.x, at, &mut |_, x, p| mix(x, keep, [(add, p.x0)]))?;
    if next.is_some() { s.add_noise(sqrt(1.0 - a_next) as f32) } else { Ok(()) }
}
