//! iPNDM: PNDM's linear multistep without its start. Zhang and Chen 2023, "Fast sampling of diffusion models with exponential
//! integrator", appendix; the multistep is that of Liu et al. 2022, equation 12.
//!
//! The derivative `d = (x / scale - x0) / sigma`, where nothing is clipped the predicted noise, is extrapolated through the latest steps as if they were even (Adams and Bashforth: d0, `(3 d0 - d1) / 2`, `(23 d0 - 16 d1 + 5 d2) / 12`,
//! `(55 d0 - 59 d1 + 37 d2 - 9 d3) / 24`), then the step is DDIM's without noise: `x' / scale' = x / scale + (sigma' - sigma) * d`
//! ([`Step::unit`]).
//!
//! One evaluation a step. Order 4 where levels are even in sigma and 2 elsewhere, which is what the registry states; [`super::LMS`]
//! has 4 everywhere. Keeps four derivatives.
//!
//! ```
//! use unfog_core::sampler::find;
//! assert_eq!(find("ipndm").map(|s| s.evaluations), Some(1));
//! ```

use super::mix::{derivative, mix};
use super::{At, Halt, Step};

pub(super) fn step(s: &mut Step<'_>) -> Result<(), Halt> {
    let (values, (from, to)) = (s.x.len(), s.levels());
    let ((scale, sigma), (scale_to, sigma_to)) = (s.unit(from), s.unit(to));
    let (keep, add) = (scale_to / scale, scale_to * (sigma_to - sigma));
    let p = s.model.predict(s.x, At::level(from))?;
    let slot = |step: usize| step % 4 * values;
    let place = slot(s.index);
    derivative(s.x, p.x0, scale, from.noise, &mut s.history[place..][..values]);
    let d = |ago: usize| &s.history[slot((s.index + 4).wrapping_sub(ago))..][..values];
    match s.done() {
        0 => mix(s.x, keep, [(add, d(0))]),
        1 => mix(s.x, keep, [(add * 3.0 / 2.0, d(0)), (-add / 2.0, d(1))]),
        2 => mix(s.x, keep, [(add * 23.0 / 12.0, d(0)), (-add * 16.0 / 12.0, d(1)), (add * 5.0 / 12.0, d(2))]),
        _ => {
            let k = add / 24.0;
            mix(s.x, keep, [(55.0 * k, d(0)), (-59.0 * k, d(1)), (37.0 * k, d(2)), (-9.0 * k, d(3))]);
        }
    }
    Ok(())
}
