//! Restoration by a diffusion prior: the network's picture and what was measured, made one by a rule of [`crate::solve::update`]:
//! Kawar et al. 2022 (DDRM), Wang et al. 2023 (DDNM), Zhu et al. 2023 (DiffPIR), Lugmayr et al. 2022 (RePaint), Choi et al. 2021 (ILVR).
//!
//! One evaluation a step, and one draw of noise, the last step's too. Steps lead where DDIM's do. Without a measurement it is DDIM.

use super::{At, Halt, Step, ddim};
use crate::solve::update::{Between, Value};

pub(super) fn step(s: &mut Step<'_>) -> Result<(), Halt> {
    let Some(measured) = s.measured else { return ddim::step(s) };
    let (t, len, operator) = (s.timestep(), s.model.len, measured.operator);
    let end = if s.config.set_alpha_to_one { 1.0 } else { s.alpha_bar(0) };
    let at = s.alpha_bar(t);
    let to = s.schedule.next_timestep(s.index, s.config.parity).map_or(end, |next| s.alpha_bar(next));
    s.keep_noise(0)?;
    let p = s.model.predict(s.x, At::new(t, at))?;
    // Noise of every image, then room for one: a predicted picture, its noise, and what operators need.
    let (noise, room) = s.history.split_at_mut(s.x.len());
    let (x0, room) = room.split_at_mut(len);
    let (eps, scratch) = room.split_at_mut(len);
    let images = s.x.chunks_exact_mut(len).zip(noise.chunks_exact_mut(len)).zip(measured.spectra.chunks_exact(len));
    for (((x, z), y), i) in images.zip((0..).step_by(len)) {
        x0.copy_from_slice(&p.x0[i..i + len]);
        eps.copy_from_slice(&p.eps[i..i + len]);
        for values in [&mut *x, &mut *z, &mut *x0, &mut *eps] {
            operator.spectrum(values, scratch);
        }
        for (i, x) in x.iter_mut().enumerate() {
            let value = Value { singular: operator.singular(i), y: y[i], x: *x, x0: x0[i], eps: eps[i], z: z[i] };
            *x = measured.solver.update(Between { at, to }, measured.sigma_y, value);
        }
        operator.picture(x, scratch);
    }
    Ok(())
}
