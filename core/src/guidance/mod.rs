//! Guidance: how predictions under several conditions become one.
//!
//! All of it is data, a [`Guidance`] in the run's [`crate::config::Config`]; no sampler knows of it. Predictions are combined
//! image by image, as the network made them (noise, image or velocity), before they are split and clipped. (Dynamic
//! thresholding, which belongs to high scales, is [`crate::predict::Clip::Dynamic`].)

mod rule;
mod when;

pub use rule::{Evaluation, Rule, Space};
pub use when::{Curve, Interval, Moment};

/// Whether and how predictions under several conditions are combined. All conditions are asked for in one evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Guidance {
    /// One condition an image, taken as predicted.
    #[default]
    None,
    /// Classifier-free guidance: the condition that is wanted is exaggerated.
    Classifier(Classifier),
}

/// Classifier-free guidance (Ho and Salimans 2022) and what was added to it since. The "none" condition may as well be a
/// negative prompt: what the pictures are to lead away from.
///
/// ```
/// use unfog_core::guidance::{Classifier, Guidance, Interval, Rule};
/// let guidance = Guidance::Classifier(Classifier {
///     rule: Rule::ZeroStar { zero_steps: 1 },
///     rescale: 0.7,
///     interval: Interval::Steps { start: 0.1, stop: 0.8 },
///     ..Classifier::new(7.5)
/// });
/// assert_eq!((guidance.conditions(), guidance.is_valid()), (2, true));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Classifier {
    /// 0 is the unconditional prediction, 1 the conditional one; above 1 the condition is exaggerated. (Ho and Salimans'
    /// w is this scale minus 1.)
    pub scale: f32,
    /// How predictions are combined at a scale.
    pub rule: Rule,
    /// From 0 to 1: how far each guided image's standard deviation is brought back to that of the wanted prediction. Lin et
    /// al. 2023, "Common diffusion noise schedules and sample steps are flawed", section 3.4, phi; they take 0.7.
    pub rescale: f32,
    /// When there is guidance. Elsewhere the wanted prediction is taken, and only it is asked for: half the cost.
    pub interval: Interval,
    /// How the scale goes over the steps.
    pub curve: Curve,
    /// Whether samplers take the unconditional noise, while the image is the guided one: CFG++ (Chung et al. 2024,
    /// "CFG++: Manifold-constrained classifier-free guidance", algorithm 2), with scales from 0 to 1. It acts in samplers that
    /// renoise by `eps`, such as DDIM; where the image alone counts it changes nothing.
    pub unconditional_noise: bool,
}

impl Classifier {
    /// Plain guidance of this scale at every step.
    pub const fn new(scale: f32) -> Self {
        Self {
            scale,
            rule: Rule::Plain,
            rescale: 0.0,
            interval: Interval::Always,
            curve: Curve::Constant,
            unconditional_noise: false,
        }
    }

    /// The scale of an evaluation; none where the wanted prediction is taken as it is.
    pub fn scale_at(&self, moment: Moment) -> Option<f32> {
        let zeros = self.rule.is_zero_at(moment.step);
        if !zeros && !self.interval.contains(moment) {
            return None;
        }
        let scale = self.curve.scale(self.scale, moment);
        let idle = scale == 1.0 && !zeros && self.rule.is_idle_at_one() && !self.unconditional_noise;
        (!idle).then_some(scale)
    }

    /// Combines the predictions of one image at a scale: `wanted` becomes the guided prediction.
    ///
    /// ```
    /// use unfog_core::guidance::{Classifier, Evaluation};
    /// let (mut wanted, none) = ([3.0, 1.0], [1.0, 1.0]);
    /// Classifier::new(2.0).combine(2.0, 0, Evaluation::new(&mut wanted, &none));
    /// assert_eq!(wanted, [5.0, 1.0]);
    /// ```
    pub fn combine(&self, scale: f32, step: usize, mut evaluation: Evaluation<'_>) {
        let deviation = (self.rescale != 0.0).then(|| rule::deviation(evaluation.wanted));
        self.rule.apply(scale, step, &mut evaluation);
        if let Some(deviation) = deviation {
            rule::rescale(self.rescale, deviation, evaluation.wanted);
        }
    }
}

impl Guidance {
    /// Plain guidance of this scale; none at 1, where it would only cost time.
    pub fn from_scale(scale: f32) -> Self {
        if scale == 1.0 { Self::None } else { Self::Classifier(Classifier::new(scale)) }
    }

    /// k, the number of conditions an image. The conditions of a batch of n images are `[k, n]`: all the wanted ones, then
    /// all the "none" ones, then, for [`Rule::Perpendicular`], all the negative ones, or for [`Rule::Picture`] those with the picture alone.
    pub const fn conditions(&self) -> usize {
        match self {
            Self::None => 1,
            Self::Classifier(Classifier { rule: Rule::Perpendicular { .. } | Rule::Picture { .. }, .. }) => 3,
            Self::Classifier(_) => 2,
        }
    }

    /// Values of memory that it keeps from evaluation to evaluation for each value of an image: 1 or 0.
    pub const fn memory(&self) -> usize {
        match self {
            Self::Classifier(Classifier { rule: Rule::Projected { momentum, .. }, .. }) if *momentum != 0.0 => 1,
            _ => 0,
        }
    }

    /// Whether all numbers can be used.
    pub fn is_valid(&self) -> bool {
        let Self::Classifier(guidance) = self else { return true };
        guidance.scale.is_finite()
            && guidance.rule.is_valid()
            && (0.0..=1.0).contains(&guidance.rescale)
            && guidance.interval.is_valid()
            && guidance.curve.is_valid()
    }
}

#[cfg(test)]
mod tests;
