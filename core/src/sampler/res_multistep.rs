//! The multistep of RES, the refined exponential solver. Zhang et al. 2023, "Improved order analysis and design of exponential
//! integrator for diffusion models sampling", algorithm 2 with two predictions; ComfyUI's `res_multistep`.
//!
//! With `h` the step in lambda, c the (negative) place of the prediction m1 before the latest m0 in units of it, and
//! `phi1 = (1 - exp(-h)) / h`, `phi2 = (1 - phi1) / h`:
//!
//! `x' = noise' / noise * x + signal' * h * ((phi1 - phi2 / c) * m0 + phi2 / c * m1)`.
//!
//! (This is the Heun form of DPM-Solver++(2M), on other levels, and of lower order only where it must be: in the first step and where a
//! run ends in the image.) The ancestral form goes to the part of the next noise that stays and draws the rest anew ([`renewal`]); c is
//! counted from where the step before ended without its noise, as in ComfyUI: from the level itself m1 would weigh twice as much, and
//! what the noise has changed between m1 and m0 with it.
//!
//! One evaluation a step; order 2. Keeps one prediction.
//!
//! ```
//! use unfog_core::sampler::find;
//! assert_eq!(find("res-multistep").map(|s| s.order), Some(2));
//! ```

use super::mix::{exponential_integrals, mix, renewal, transfer};
use super::{At, Halt, Step};
use crate::schedule::Level;

pub(super) fn step(s: &mut Step<'_>) -> Result<(), Halt> {
    let (_, to) = s.levels();
    let from = s.level(s.index);
    to_level(s, to, from)
}

pub(super) fn ancestral(s: &mut Step<'_>) -> Result<(), Halt> {
    let (from, to) = s.levels();
    let (stays, drawn) = renewal(from, to, 1.0);
    let (stayed, _) = renewal(s.level(s.index.wrapping_sub(1)), from, 1.0);
    to_level(s, Level { noise: to.noise * stays, ..to }, Level { noise: from.noise * stayed, ..from })?;
    if to.noise > 0.0 { s.add_noise((to.noise * drawn) as f32) } else { Ok(()) }
}

/// `ended`: where the step before ended, without its noise.
fn to_level(s: &mut Step<'_>, to: Level, ended: Level) -> Result<(), Halt> {
    let (from, before) = (s.level(s.index), s.level(s.index.wrapping_sub(1)));
    let first = s.done() == 0;
    let p = s.model.predict(s.x, At::level(from))?;
    let (keep, add) = transfer(from, to);
    let still = to.noise * from.signal >= from.noise * to.signal;
    // Pure noise has no lambda, nor has the image.
    if first || to.noise <= 0.0 || from.signal <= 0.0 || still {
        mix(s.x, keep, [(add, p.x0)]);
    } else {
        let h = to.lambda() - from.lambda();
        let [_, linear, ..] = exponential_integrals(h);
        let c = (before.lambda() - ended.lambda()) / h;
        let d = to.signal * linear / c;
        mix(s.x, keep, [(add - d, p.x0), (d, &*s.history)]);
    }
    s.history.copy_from_slice(p.x0);
    Ok(())
}
