//! DDIM backwards, from an image to the noise that it is made from. Song et al. 2021a, section 4.3; Hertz et al. 2022 (inversion):
//!
//! `x' = sqrt(a') * x0 + sqrt(1 - a') * eps`, from alpha-bar a of timestep t - T / n to a' of t, both predicted at t.
//!
//! The timesteps of the schedule are taken from the last to the first; the first step starts at alpha-bar 1, or at that of timestep 0
//! (`set_alpha_to_one`). A run starts from the image: give it as the noise of draw 0 ([`crate::noise::Given`]). One evaluation a
//! step. [`crate::chain::Progress::timestep`] counts as for a run from noise.
//!
//! An image without noise has none to be told from a predicted image: networks that predict it need `set_alpha_to_one` false.

use super::mix::mix;
use super::{At, Halt, Step};
use crate::math::wide::sqrt;
use crate::predict::PredictionType;

pub(super) fn step(s: &mut Step<'_>) -> Result<(), Halt> {
    let place = s.steps() - 1 - s.index;
    let t = s.schedule.timesteps().get(place).copied().unwrap_or_default();
    let start = if s.config.set_alpha_to_one { 1.0 } else { s.alpha_bar(0) };
    let from = s.schedule.next_timestep(place, s.config.parity);
    let a = from.map_or(start, |from| s.alpha_bar(from));
    if a >= 1.0 && s.config.prediction == PredictionType::Sample {
        return Err(Halt::NonFinite { image: s.model.first_image });
    }
    let a_to = f64::from(s.alpha_bar(t));
    let (signal, noise) = (sqrt(a_to), sqrt(1.0 - a_to));
    s.model.predict_each(s.x, At::new(t, a), &mut |_, x, p| mix(x, 0.0, [(signal, p.x0), (noise, p.eps)]))
}
