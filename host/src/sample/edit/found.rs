//! A mask that is found: where the network's predictions for two conditions differ (Couairon et al. 2022, "DiffEdit"; diffusers'
//! StableDiffusionDiffEditPipeline.generate_mask, with its defaults).
//!
//! Guidance by the same scale for both changes every difference by the same factor, and with it nothing: it is left out.

use unfog_core::denoise::{Cond, Denoise};
use unfog_core::noise::Noise;
use unfog_core::schedule::{Level, Schedule};

use super::super::generate::{at_once, noise_failed};
use crate::error::{Error, Result};
use crate::memory;
use crate::stop::Stop;

/// How many noises the difference is averaged over.
pub(super) const MAPS: u32 = 10;
/// The share of the steps that is left at the noise level of the maps.
const STRENGTH: f64 = 0.5;
/// So many times the mean difference counts as the largest one; what is more than half of that is white.
const RATIO: f64 = 3.0;

/// What the maps are made of.
pub(super) struct Maps<'a> {
    /// The image without noise.
    pub(super) image: &'a [f32],
    /// Its pixels.
    pub(super) pixels: usize,
    /// Its number, and the first draw of noise.
    pub(super) number: u64,
    pub(super) draw: u32,
    /// What describes it, and what is asked for.
    pub(super) conds: [Cond; 2],
}

/// The noise level of the maps, in a run of this schedule.
pub(super) fn level(schedule: &Schedule<'_>) -> Level {
    let steps = schedule.timesteps().len();
    let left = (steps as f64 * STRENGTH) as usize;
    schedule.level((steps - left).min(steps.saturating_sub(1)))
}

impl Maps<'_> {
    /// The mask `[h, w]`: 1 where the image is made anew, 0 where it stays.
    ///
    /// # Errors
    /// Those of the network and the noise; predictions that differ nowhere more than elsewhere.
    pub(super) fn mask<D: Denoise<Error = Error>>(
        &self,
        level: Level,
        network: &mut D,
        noise: &mut dyn Noise,
        stop: &Stop,
    ) -> Result<Vec<f32>> {
        let (len, out_len) = (self.image.len(), network.out_len());
        let (signal, share) = (level.signal as f32, level.noise as f32);
        let most = at_once(len + 2 * out_len);
        let mut x = memory::vec(most * len, 0.0)?;
        let mut out = memory::vec(2 * most * out_len, 0.0)?;
        let mut sums = memory::vec(self.pixels, 0.0_f64)?;
        for first in (0..MAPS).step_by(most) {
            stop.check()?;
            let n = most.min((MAPS - first) as usize);
            for (draw, x) in (self.draw + first..).zip(x[..n * len].chunks_exact_mut(len)) {
                noise.fill(self.number, draw, x).map_err(noise_failed)?;
                x.iter_mut().zip(self.image).for_each(|(x, image)| *x = signal * image + share * *x);
            }
            let conds: Vec<Cond> = self.conds.iter().flat_map(|cond| std::iter::repeat_n(*cond, n)).collect();
            let out = &mut out[..2 * n * out_len];
            network.predict(&x[..n * len], level.time, &conds, out)?;
            let (was, asked) = out.split_at(n * out_len);
            // Behind the prediction may stand its variance.
            for (was, asked) in was.chunks_exact(out_len).zip(asked.chunks_exact(out_len)) {
                for (i, (was, asked)) in was[..len].iter().zip(&asked[..len]).enumerate() {
                    sums[i % self.pixels] += f64::from((asked - was).abs());
                }
            }
        }
        let mean = sums.iter().sum::<f64>() / self.pixels as f64;
        let white = |sum: &f64| f32::from(u8::from(sum.min(RATIO * mean) / (RATIO * mean) > 0.5));
        let mask: Vec<f32> = memory::collect(sums.iter().map(white))?;
        match mask.contains(&1.0) {
            true => Ok(mask),
            false => Err(Error::failure(format!(
                "no mask was found for image {}: its predictions differ nowhere",
                self.number
            ))
            .hint("give other conditions, or --mask IMAGE")),
        }
    }
}
