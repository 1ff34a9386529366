//! The network as samplers see it: guided, split into image and noise, clipped, checked.

use super::Halt;
use crate::config::Config;
use crate::denoise::Cond;
use crate::guidance::Guidance;
use crate::predict::Prediction;

/// Where an evaluation takes place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct At {
    /// Model time.
    pub time: f32,
    /// Alpha-bar at that time.
    pub alpha_bar: f32,
    /// Least and largest logarithm of the variance, for a network that predicts where between them it lies.
    pub log_var_range: Option<[f32; 2]>,
}

impl At {
    /// A timestep and its alpha-bar.
    pub const fn new(timestep: u32, alpha_bar: f32) -> Self {
        Self { time: timestep as f32, alpha_bar, log_var_range: None }
    }
}

/// The network with everything that stands between it and a sampler.
pub struct Model<'a> {
    pub(crate) network: &'a mut dyn Evaluate,
    pub(crate) config: &'a Config,
    pub(crate) conds: &'a [Cond],
    pub(crate) first_image: u64,
    pub(crate) len: usize,
    pub(crate) out_len: usize,
    /// `[k, n, out_len]`, then the noise `[k, n, len]` in its front.
    pub(crate) out: &'a mut [f32],
    /// `[n, len]`.
    pub(crate) x0: &'a mut [f32],
    /// `[n, len]`, or empty.
    pub(crate) log_var: &'a mut [f32],
    /// `[len]`, or empty: where magnitudes are ordered.
    pub(crate) scratch: &'a mut [f32],
}

/// A network whose kind of error is known only to the chain.
pub(crate) trait Evaluate {
    fn predict(&mut self, x: &[f32], t: f32, conds: &[Cond], out: &mut [f32]) -> Result<(), Failed>;
}

/// The network failed; how is kept for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed(pub(crate) ());

impl Model<'_> {
    /// Evaluates the network once on a batch `x`, `[n, len]`, under all conditions.
    pub fn predict(&mut self, x: &[f32], at: At) -> Result<Prediction<'_>, Halt> {
        let Config { prediction, clip, guidance, .. } = *self.config;
        self.network.predict(x, at.time, self.conds, self.out).map_err(Halt::Model)?;
        if self.out_len != self.len {
            self.take_variance(at.log_var_range)?;
        }
        let values = self.x0.len();
        let (wanted, none) = self.out[..guidance.conditions() * values].split_at_mut(values);
        guidance.combine(wanted, none);

        let images =
            x.chunks_exact(self.len).zip(wanted.chunks_exact_mut(self.len)).zip(self.x0.chunks_exact_mut(self.len));
        for (i, ((x, out), x0)) in images.enumerate() {
            if !prediction.split(at.alpha_bar, x, out, x0) {
                return Err(not_finite(self.first_image, i));
            }
            clip.apply(x0, self.scratch);
        }
        let eps_uncond = (guidance != Guidance::None).then_some({
            prediction.noise(at.alpha_bar, x, none);
            &*none
        });
        let log_var = at.log_var_range.is_some().then_some(&*self.log_var);
        Ok(Prediction { x0: self.x0, eps: wanted, eps_uncond, log_var })
    }

    /// Takes the second half of each image's output, the variance, out of it and closes the gaps.
    fn take_variance(&mut self, range: Option<[f32; 2]>) -> Result<(), Halt> {
        if let Some([least, largest]) = range {
            let images = self.out.chunks_exact(self.out_len).zip(self.log_var.chunks_exact_mut(self.len));
            for (i, (out, log_var)) in images.enumerate() {
                for (v, &o) in log_var.iter_mut().zip(&out[self.len..]) {
                    let share = (o + 1.0) / 2.0;
                    *v = share * largest + (1.0 - share) * least;
                }
                if !log_var.iter().all(|v| v.is_finite()) {
                    return Err(not_finite(self.first_image, i));
                }
            }
        }
        for (i, start) in (0..self.out.len()).step_by(self.out_len).enumerate() {
            self.out.copy_within(start..start + self.len, i * self.len);
        }
        Ok(())
    }

    /// What noise needs once a prediction has been used: the predicted variances, and memory for one image.
    pub(super) fn after(&mut self) -> (&[f32], &mut [f32]) {
        (self.log_var, self.out)
    }
}

fn not_finite(first_image: u64, image: usize) -> Halt {
    Halt::NonFinite { image: first_image.wrapping_add(image as u64) }
}
