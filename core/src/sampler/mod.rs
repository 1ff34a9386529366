//! Samplers: how a chain goes from one timestep to the next. One file each, one line each in the registry.
//!
//! A sampler is a function that reads from top to bottom. It may evaluate the network as often as it likes, and keep a
//! fixed number of image-sized values from step to step. A user's own is a [`Sampler`] like these:
//!
//! ```
//! use unfog_core::sampler::{At, Halt, Sampler, Step};
//! /// Jumps to the predicted image at every step.
//! fn jump(s: &mut Step<'_>) -> Result<(), Halt> {
//!     let t = s.timestep();
//!     let p = s.model.predict(s.x, At::new(t, s.alpha_bar(t)))?;
//!     s.x.copy_from_slice(p.x0);
//!     Ok(())
//! }
//! let sampler = Sampler { name: "jump", source: "this example", order: 0, evaluations: 1, history: 0, step: jump };
//! # let _ = sampler;
//! ```

mod ddim;
mod ddpm;
mod model;
#[cfg(test)]
mod tests;

pub use model::{At, Model};
pub(crate) use model::{Evaluate, Failed};

use crate::config::Config;
use crate::math;
use crate::noise::{Noise, NoiseError};
use crate::schedule::Schedule;

/// What there is to know about a sampler.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    /// Its name on command lines and in recipes.
    pub name: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// Order of convergence as a solver of the probability-flow ODE; 0 where the target is the distribution alone.
    pub order: u8,
    /// Evaluations of the network a step.
    pub evaluations: u8,
    /// Batches of values that it keeps from step to step.
    pub history: usize,
    /// One step.
    pub step: fn(&mut Step<'_>) -> Result<(), Halt>,
}

/// Ancestral sampling of the reverse chain.
#[rustfmt::skip]
pub const DDPM: Sampler = Sampler { name: "ddpm", source: "Ho et al. 2020, algorithm 2", order: 0, evaluations: 1, history: 0, step: ddpm::step };
/// The implicit chain, from deterministic (`eta` 0) to ancestral (`eta` 1).
#[rustfmt::skip]
pub const DDIM: Sampler = Sampler { name: "ddim", source: "Song et al. 2021a, equation 12", order: 1, evaluations: 1, history: 0, step: ddim::step };

/// Every sampler. Firmware that names one directly links only that one.
pub static REGISTRY: [&Sampler; 2] = [&DDPM, &DDIM];

/// The sampler of this name.
///
/// ```
/// assert_eq!(unfog_core::sampler::find("ddim").map(|s| s.evaluations), Some(1));
/// ```
pub fn find(name: &str) -> Option<&'static Sampler> {
    REGISTRY.into_iter().find(|s| s.name == name)
}

/// Why a step ended early.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Halt {
    /// The network failed; the chain knows how.
    Model(Failed),
    /// There was no noise.
    Noise(NoiseError),
    /// The network predicted something that is no finite number.
    NonFinite {
        /// The first image of which it did.
        image: u64,
    },
}

/// One step of a batch of n images: all that a sampler may look at and change.
pub struct Step<'a> {
    /// Number of the step, from 0.
    pub index: usize,
    /// The images, `[n, len]`: x at the timestep that the step starts from, and on return where it ends.
    pub x: &'a mut [f32],
    /// The network.
    pub model: Model<'a>,
    /// What the sampler keeps, `[history, n, len]`: zeros at the first step, then what it left here.
    pub history: &'a mut [f32],
    /// Settings of the run.
    pub config: &'a Config,
    /// Tables of the run.
    pub schedule: Schedule<'a>,
    pub(crate) noise: &'a mut dyn Noise,
    pub(crate) draws: &'a mut u32,
}

impl Step<'_> {
    /// The timestep that the step starts from.
    pub fn timestep(&self) -> u32 {
        self.schedule.timesteps().get(self.index).copied().unwrap_or_default()
    }

    /// Alpha-bar of a timestep; no number past the table.
    pub fn alpha_bar(&self, timestep: u32) -> f32 {
        self.schedule.alpha_bar().get(timestep as usize).copied().unwrap_or(f32::NAN)
    }

    /// Adds `scale` times fresh noise to the images. The latest prediction ends here: its memory holds the noise meanwhile.
    pub fn add_noise(&mut self, scale: f32) -> Result<(), Halt> {
        self.draw(|_, x, z| x.iter_mut().zip(z).for_each(|(x, z)| *x += scale * z))
    }

    /// The same with the standard deviation that the network predicted for each value (1 where it predicts none).
    pub fn add_predicted_noise(&mut self) -> Result<(), Halt> {
        self.draw(|log_var, x, z| {
            let scales = log_var.iter().map(|&v| math::exp(0.5 * v)).chain(core::iter::repeat(1.0));
            x.iter_mut().zip(z).zip(scales).for_each(|((x, z), scale)| *x += scale * z);
        })
    }

    /// Makes one draw of noise z and hands it to `add(log_var, x, z)`, image by image.
    fn draw(&mut self, add: impl Fn(&[f32], &mut [f32], &[f32])) -> Result<(), Halt> {
        let (first_image, len) = (self.model.first_image, self.model.len);
        let (log_var, scratch) = self.model.after();
        let mut log_vars = log_var.chunks_exact(len);
        for (i, x) in self.x.chunks_exact_mut(len).enumerate() {
            let Some(z) = scratch.get_mut(..len) else { break };
            self.noise.fill(first_image.wrapping_add(i as u64), *self.draws, z).map_err(Halt::Noise)?;
            add(log_vars.next().unwrap_or_default(), x, z);
        }
        *self.draws = self.draws.wrapping_add(1);
        Ok(())
    }
}
