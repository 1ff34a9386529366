//! PNDM as published: three Runge-Kutta steps, then the linear multistep of [`super::PLMS`]. Liu et al. 2022, "Pseudo numerical
//! methods for diffusion models on manifolds", equations 9, 12 and 13; diffusers without `skip_prk_steps`.
//!
//! A Runge-Kutta step from t to t' evaluates at t (e1), twice at `t' + d` (e2, e3), and at t' (e4), where d is half a stride T / n,
//! rounded down; each place is reached from t by DDIM's step with the noise before, and the step itself takes
//! `(e1 + 2 e2 + 2 e3 + e4) / 6`. Every e1 is kept for the multistep.
//!
//! Four evaluations in each of the first three steps, one in the others. A last step takes the multistep, of the order that the
//! predictions so far allow, so runs of up to three steps begin with fewer Runge-Kutta steps (diffusers has none of these). Ends,
//! velocities and zero terminal SNR are as in PLMS. Keeps x, a sum and four predictions.
//!
//! ```
//! use unfog_core::sampler::find;
//! assert_eq!(find("pndm").map(|s| s.order), Some(4));
//! ```

use super::mix::mix;
use super::plms::{take, transfer};
use super::{At, Halt, Step};
use crate::schedule::LEAST_ALPHA_BAR;

pub(super) fn step(s: &mut Step<'_>) -> Result<(), Halt> {
    let (values, t) = (s.x.len(), s.timestep());
    let alpha_bar = |s: &Step<'_>, t: u32| s.alpha_bar(t).max(LEAST_ALPHA_BAR);
    let a = alpha_bar(s, t);
    let place = s.index % 4 * values;
    let (at, config) = (At::new(t, a), s.config);
    let p = s.model.predict(s.x, at)?;
    let said = &mut s.history[place..][..values];
    said.copy_from_slice(s.x);
    take(config, at, &p, said);

    let half = (s.schedule.alpha_bar().len() / s.steps() / 2) as u32;
    if let Some(&next) = s.schedule.timesteps().get(s.index + 1).filter(|_| s.done() < 3) {
        let middle = (next + half).min(t);
        let (a_middle, a_next) = (alpha_bar(s, middle), alpha_bar(s, next));
        let (noises, rest) = s.history.split_at_mut(4 * values);
        let (start, sum) = rest.split_at_mut(values);
        start.copy_from_slice(s.x);
        sum.copy_from_slice(&noises[place..][..values]);
        // Where the noise so far leads, where it is predicted there, and how much that counts.
        let first = s.schedule.alpha_bar().get(t.saturating_sub(half) as usize).copied().unwrap_or(f32::NAN);
        let stages = [(first, middle, a_middle, 2.0), (a_middle, middle, a_middle, 2.0), (a_next, next, a_next, 1.0)];
        let (keep, add) = transfer(config, a, stages[0].0);
        mix(s.x, keep, [(add, sum)]);
        for (i, (_, at, a_at, weight)) in stages.into_iter().enumerate() {
            let at = At::new(at, a_at);
            let p = s.model.predict(s.x, at)?;
            take(config, at, &p, s.x);
            mix(sum, 1.0, [(weight, &*s.x)]);
            if let Some(&(to, ..)) = stages.get(i + 1) {
                let (keep, add) = transfer(config, a, to);
                mix(s.x, add, [(keep, start)]);
            }
        }
        let (keep, add) = transfer(config, a, a_next);
        s.x.copy_from_slice(start);
        mix(s.x, keep, [(add / 6.0, sum)]);
        return Ok(());
    }
    let end = if s.config.set_alpha_to_one { 1.0 } else { s.alpha_bar(0) };
    let next = s.schedule.next_timestep(s.index, s.config.parity);
    let (keep, add) = transfer(config, a, next.map_or(end, |next| s.alpha_bar(next)));
    let e = |ago: usize| &s.history[(s.index + 4).wrapping_sub(ago) % 4 * values..][..values];
    let k = add / 24.0;
    match s.done() {
        0 => mix(s.x, keep, [(add, e(0))]),
        1 => mix(s.x, keep, [(36.0 * k, e(0)), (-12.0 * k, e(1))]),
        2 => mix(s.x, keep, [(46.0 * k, e(0)), (-32.0 * k, e(1)), (10.0 * k, e(2))]),
        _ => mix(s.x, keep, [(55.0 * k, e(0)), (-59.0 * k, e(1)), (37.0 * k, e(2)), (-9.0 * k, e(3))]),
    }
    Ok(())
}
