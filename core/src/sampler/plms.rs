//! PLMS, the pseudo linear multistep method of PNDM without its Runge-Kutta steps. Liu et al. 2022, "Pseudo numerical methods for
//! diffusion models on manifolds", equations 9 and 12; the first step is Heun's, as in latent diffusion and in diffusers with
//! `skip_prk_steps`.
//!
//! The noise is extrapolated through the latest predictions (Adams and Bashforth: `(3 e0 - e1) / 2`,
//! `(23 e0 - 16 e1 + 5 e2) / 12`, `(55 e0 - 59 e1 + 37 e2 - 9 e3) / 24`), then the step is DDIM's without noise:
//! `x' = sqrt(a' / a) * x + (sqrt(1 - a') - sqrt(a' / a) * sqrt(1 - a)) * eps`. The second step repeats the first from its start
//! with the mean of both ends' noises, so a run of n steps evaluates n + 1 times: two in the first step (one if n is 1).
//!
//! Where no signal is left (zero terminal SNR) alpha-bar counts as 2^-24, as in samplers over levels. The last step leads to alpha-bar 1, or to that of timestep 0 (`set_alpha_to_one`). Keeps x and four predictions.

use super::mix::mix;
use super::{At, Halt, Step};
use crate::math::wide::sqrt;
use crate::schedule::LEAST_ALPHA_BAR;

pub(super) fn step(s: &mut Step<'_>) -> Result<(), Halt> {
    let (values, t) = (s.x.len(), s.timestep());
    let end = if s.config.set_alpha_to_one { 1.0 } else { s.alpha_bar(0) };
    let next = s.schedule.next_timestep(s.index, s.config.parity);
    let (a, a_next) = (s.alpha_bar(t).max(LEAST_ALPHA_BAR), next.map_or(end, |next| s.alpha_bar(next)));
    let keep = sqrt(f64::from(a_next) / f64::from(a));
    let add = sqrt(1.0 - f64::from(a_next)) - keep * sqrt(1.0 - f64::from(a));

    let slot = |ago: usize| (s.index + 4 - ago) % 4 * values;
    let (index, slots) = (s.index, [slot(0), slot(1), slot(2), slot(3)]);
    let (noises, start) = s.history.split_at_mut(4 * values);
    s.model.predict_each(s.x, At::new(t, a), &mut |range, x, p| {
        noises[slots[0]..][range.clone()].copy_from_slice(p.eps);
        let e = slots.map(|slot| &noises[slot..][range.clone()]);
        match index {
            0 => {
                start[range].copy_from_slice(x);
                mix(x, keep, [(add, e[0])]);
            }
            1 => mix(x, keep, [(add * 3.0 / 2.0, e[0]), (-add / 2.0, e[1])]),
            2 => mix(x, keep, [(add * 23.0 / 12.0, e[0]), (-add * 16.0 / 12.0, e[1]), (add * 5.0 / 12.0, e[2])]),
            _ => {
                let k = add / 24.0;
                mix(x, keep, [(55.0 * k, e[0]), (-59.0 * k, e[1]), (37.0 * k, e[2]), (-9.0 * k, e[3])]);
            }
        }
    })?;
    let Some(second) = s.schedule.timesteps().get(1).copied().filter(|_| index == 0) else { return Ok(()) };
    let at = At::new(second, s.alpha_bar(second));
    let (noises, start) = s.history.split_at(4 * values);
    s.model.predict_each(s.x, at, &mut |range, x, p| {
        x.copy_from_slice(&start[range.clone()]);
        mix(x, keep, [(add / 2.0, p.eps), (add / 2.0, &noises[range])]);
    })
}
