//! The network as samplers see it: guided, split into image and noise, clipped, checked.

use core::ops::Range;

use super::Halt;
use crate::config::Config;
use crate::denoise::Cond;
use crate::guidance::{Classifier, Evaluation, Guidance, Moment};
use crate::math;
use crate::predict::{Clip, Prediction};
use crate::schedule::Level;

/// Where an evaluation takes place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct At {
    /// Model time.
    pub time: f32,
    /// Factor of the image in x at that time: `sqrt(alpha_bar)` for a network over alpha-bar.
    pub signal: f32,
    /// Standard deviation of the noise in x at that time: `sqrt(1 - alpha_bar)` for a network over alpha-bar.
    pub noise: f32,
    /// What a network that predicts variances says in the second half of its output, if the sampler wants it.
    pub learned: Option<Learned>,
}

/// How a network says the variance of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Learned {
    /// Where its logarithm lies between these two, from -1 to 1. Nichol and Dhariwal 2021, equation 15.
    Between([f32; 2]),
    /// By its logarithm.
    Logarithm,
    /// As it is.
    Variance,
}

impl At {
    /// A timestep and its alpha-bar.
    pub fn new(timestep: u32, alpha_bar: f32) -> Self {
        let (signal, noise) = (math::sqrt(alpha_bar), math::sqrt(1.0 - alpha_bar));
        Self { time: timestep as f32, signal, noise, learned: None }
    }

    /// A noise level.
    pub const fn level(level: Level) -> Self {
        Self { time: level.time, signal: level.signal as f32, noise: level.noise as f32, learned: None }
    }

    /// The standard deviation of the noise over the factor of the image.
    fn sigma(self) -> f32 {
        self.noise / self.signal
    }
}

/// The network with everything that stands between it and a sampler.
pub struct Model<'a> {
    pub(crate) network: &'a mut dyn Evaluate,
    pub(crate) config: &'a Config,
    /// Number of the step, and of how many.
    pub(crate) step: [usize; 2],
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
    /// `[n, len]`, or empty: what guidance keeps.
    pub(crate) momentum: &'a mut [f32],
}

/// A network whose kind of error is known only to the chain.
pub(crate) trait Evaluate {
    fn predict(&mut self, x: &[f32], t: f32, conds: &[Cond], out: &mut [f32]) -> Result<(), Failed>;
}

/// The network failed; how is kept for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed(pub(crate) ());

/// What becomes of a piece of a batch: its place in the batch, its part of x, and of the prediction.
pub type Update<'u> = &'u mut dyn FnMut(Range<usize>, &mut [f32], Prediction<'_>);

/// Values that are taken through all that stands between an evaluation and the step's end at once: they stay in the nearest
/// cache meanwhile.
const BLOCK: usize = 1024;

impl Model<'_> {
    /// Evaluates the network once on a batch `x`, `[n, len]`, under all conditions.
    pub fn predict(&mut self, x: &[f32], at: At) -> Result<Prediction<'_>, Halt> {
        let guided = self.evaluate(x, at)?;
        for range in self.blocks() {
            self.finish(x.get(range.clone()).unwrap_or_default(), range, guided, at)?;
        }
        Ok(self.prediction(0..self.x0.len(), guided, at))
    }

    /// The same, and then `update` for one piece of the batch after the other. Goes over memory once where
    /// [`Model::predict`] and an update go twice.
    ///
    /// # Errors
    /// Those of the evaluation. The pieces before one that is not finite have been updated by then.
    pub fn predict_each(&mut self, x: &mut [f32], at: At, update: Update<'_>) -> Result<(), Halt> {
        let guided = self.evaluate(x, at)?;
        for range in self.blocks() {
            let x = x.get_mut(range.clone()).unwrap_or_default();
            self.finish(x, range.clone(), guided, at)?;
            update(range.clone(), x, self.prediction(range, guided, at));
        }
        Ok(())
    }

    /// The batch in pieces of [`BLOCK`] values, none of two images; whole images where an image is clipped by its own quantile.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (values, len) = (self.x0.len(), self.len);
        let block = if matches!(self.config.clip, Clip::Dynamic { .. }) { len } else { BLOCK };
        let mut start = 0;
        core::iter::from_fn(move || {
            let end = (start + block).min(start - start % len + len);
            let range = (start < values).then_some(start..end);
            start = end;
            range
        })
    }

    /// The network's outputs, combined by guidance where it is on: in front of `out`, those with the condition, then those without.
    fn evaluate(&mut self, x: &[f32], at: At) -> Result<Option<Classifier>, Halt> {
        let Config { prediction, guidance, .. } = *self.config;
        let (values, [step, steps]) = (self.x0.len(), self.step);
        let guided = match guidance {
            Guidance::None => None,
            Guidance::Classifier(guidance) => {
                guidance.scale_at(Moment { step, steps, sigma: at.sigma() }).map(|scale| (guidance, scale))
            }
        };
        // Without guidance only the wanted conditions count.
        let count = if guided.is_some() { self.conds.len() } else { values / self.len };
        let out = &mut self.out[..count * self.out_len];
        self.network.predict(x, at.time, &self.conds[..count], out).map_err(Halt::Model)?;
        if self.out_len != self.len {
            self.take_variance(at.learned, count)?;
        }
        if let Some((guidance, scale)) = guided {
            let (wanted, others) = self.out[..count * self.len].split_at_mut(values);
            let (none, negative) = others.split_at_mut(others.len().min(values));
            let image = prediction.image_factors([at.signal, at.noise]);
            let images =
                x.chunks_exact(self.len).zip(wanted.chunks_exact_mut(self.len)).zip(none.chunks_exact(self.len));
            let mut negative = negative.chunks_exact(self.len);
            let mut momentum = self.momentum.chunks_exact_mut(self.len);
            for ((x, wanted), none) in images {
                let (negative, momentum) = (negative.next().unwrap_or_default(), momentum.next().unwrap_or_default());
                guidance.combine(scale, step, Evaluation { wanted, none, negative, momentum, x, image });
            }
        }
        Ok(guided.map(|(guidance, _)| guidance))
    }

    /// Makes image and noise of one piece's outputs.
    fn finish(&mut self, x: &[f32], range: Range<usize>, guided: Option<Classifier>, at: At) -> Result<(), Halt> {
        let Config { prediction, clip, .. } = *self.config;
        let (values, level) = (self.x0.len(), [at.signal, at.noise]);
        let x0 = &mut self.x0[range.clone()];
        // A fixed range costs nothing beside the split.
        let within = if let Clip::Range(range) = clip { range } else { f32::INFINITY };
        if !prediction.split_within(within, level, x, &mut self.out[range.clone()], x0) {
            return Err(not_finite(self.first_image, range.start / self.len));
        }
        if let Clip::Dynamic { .. } = clip {
            clip.apply(x0, self.scratch);
        }
        if guided.is_some() {
            prediction.noise(level, x, &mut self.out[values + range.start..values + range.end]);
        }
        Ok(())
    }

    /// What is known of a piece that is finished.
    fn prediction(&self, range: Range<usize>, guided: Option<Classifier>, at: At) -> Prediction<'_> {
        let values = self.x0.len();
        let eps_uncond = guided.map(|_| &self.out[values + range.start..values + range.end]);
        let eps = match (guided, eps_uncond) {
            (Some(guidance), Some(none)) if guidance.unconditional_noise => none,
            _ => &self.out[range.clone()],
        };
        // Empty where the run learns no variance.
        let log_var = at.learned.map(|_| self.log_var.get(range.clone()).unwrap_or_default());
        Prediction { x0: &self.x0[range], eps, eps_uncond, log_var }
    }

    /// Takes the second half of each of `count` outputs, the variance, out of it and closes the gaps.
    fn take_variance(&mut self, learned: Option<Learned>, count: usize) -> Result<(), Halt> {
        if let Some(learned) = learned {
            let images = self.out.chunks_exact(self.out_len).zip(self.log_var.chunks_exact_mut(self.len));
            for (i, (out, log_var)) in images.enumerate() {
                for (v, &o) in log_var.iter_mut().zip(&out[self.len..]) {
                    *v = match learned {
                        Learned::Between([least, largest]) => {
                            let share = (o + 1.0) / 2.0;
                            share * largest + (1.0 - share) * least
                        }
                        Learned::Logarithm => o,
                        Learned::Variance => math::ln(o),
                    };
                }
                if !log_var.iter().all(|v| v.is_finite()) {
                    return Err(not_finite(self.first_image, i));
                }
            }
        }
        for i in 0..count {
            let start = i * self.out_len;
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
