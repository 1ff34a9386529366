//! Euler's method with ancestral noise. k-diffusion's `sample_euler_ancestral`; the step of Song et al. 2021a with eta 1 on
//! Karras et al.'s levels: of the noise at the next level a part is drawn anew, the rest is Euler's.
//!
//! With r the ratio of the sigmas, `drawn = sqrt(1 - r^2)` and `stays = r`:
//! `x' = signal' * x0 + noise' * (stays * eps + drawn * z)`.
//!
//! One evaluation a step. diffusers draws noise at every step; so does this, except with [`Parity::Table`] at a last step
//! that ends in the image.

use super::mix::{mix, renewal};
use super::{At, Halt, Step};
use crate::config::Parity;

pub(super) fn step(s: &mut Step<'_>) -> Result<(), Halt> {
    let (from, to) = s.levels();
    let (stays, drawn) = renewal(from, to, 1.0);
    let (signal, noise) = (to.signal, to.noise * stays);
    s.model.predict_each(s.x, At::level(from), &mut |_, x, p| mix(x, 0.0, [(signal, p.x0), (noise, p.eps)]))?;
    if to.noise > 0.0 || s.config.parity == Parity::Diffusers { s.add_noise((to.noise * drawn) as f32) } else { Ok(()) }
}
