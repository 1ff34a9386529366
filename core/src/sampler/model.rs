//! The network as samplers see it: guided, split into image and noise, clipped, checked.

use super::Halt;
use crate::config::Config;
use crate::denoise::Cond;
use crate::guidance::{Evaluation, Guidance, Moment};
use crate::math;
use crate::predict::Prediction;
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

impl Model<'_> {
    /// Evaluates the network once on a batch `x`, `[n, len]`, under all conditions.
    pub fn predict(&mut self, x: &[f32], at: At) -> Result<Prediction<'_>, Halt> {
        let Config { prediction, clip, guidance, .. } = *self.config;
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
        let (wanted, others) = self.out[..count * self.len].split_at_mut(values);
        let (none, negative) = others.split_at_mut(others.len().min(values));
        if let Some((guidance, scale)) = guided {
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

        let images =
            x.chunks_exact(self.len).zip(wanted.chunks_exact_mut(self.len)).zip(self.x0.chunks_exact_mut(self.len));
        for (i, ((x, out), x0)) in images.enumerate() {
            if !prediction.split([at.signal, at.noise], x, out, x0) {
                return Err(not_finite(self.first_image, i));
            }
            clip.apply(x0, self.scratch);
        }
        let eps_uncond = guided.map(|_| {
            prediction.noise([at.signal, at.noise], x, none);
            &*none
        });
        let eps = match (guided, eps_uncond) {
            (Some((guidance, _)), Some(none)) if guidance.unconditional_noise => none,
            _ => &*wanted,
        };
        let log_var = at.learned.is_some().then_some(&*self.log_var);
        Ok(Prediction { x0: self.x0, eps, eps_uncond, log_var })
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
