//! When there is guidance, and how much of it.

use crate::math::wide::cos;

/// Where in a run an evaluation takes place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// Number of the step, from 0.
    pub step: usize,
    /// Steps of the run.
    pub steps: usize,
    /// Standard deviation of the noise over the factor of the image: `sqrt((1 - alpha_bar) / alpha_bar)`.
    pub sigma: f32,
}

/// When there is guidance. Kynkäänniemi et al. 2024, "Applying guidance in a limited interval improves sample and
/// distribution quality in diffusion models".
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Interval {
    /// At every step.
    #[default]
    Always,
    /// From step `floor(start * n)` to the one before `floor(stop * n)`, of n steps from 0: what diffusers' guiders do.
    Steps {
        /// A share of the steps, from 0 to 1.
        start: f64,
        /// A share of the steps, from `start` to 1.
        stop: f64,
    },
    /// At noise levels sigma with `low < sigma <= high`: what the paper does, equation 5.
    Sigma {
        /// At this level there is no guidance any more.
        low: f32,
        /// At this level there is guidance already; may be infinite.
        high: f32,
    },
}

impl Interval {
    /// Whether there is guidance.
    pub fn contains(self, moment: Moment) -> bool {
        match self {
            Self::Always => true,
            Self::Steps { start, stop } => {
                // Shares are not negative, so the cast rounds down.
                let [start, stop] = [start, stop].map(|share| (share * moment.steps as f64) as usize);
                (start..stop).contains(&moment.step)
            }
            Self::Sigma { low, high } => low < moment.sigma && moment.sigma <= high,
        }
    }

    /// Whether the bounds are in order.
    pub fn is_valid(self) -> bool {
        match self {
            Self::Always => true,
            Self::Steps { start, stop } => 0.0 <= start && start <= stop && stop <= 1.0,
            Self::Sigma { low, high } => 0.0 <= low && low <= high,
        }
    }
}

/// How the scale goes over the steps, from the guidance's scale s at the first step to `last`. Wang et al. 2024, "Analysis of
/// classifier-free guidance weight schedulers". For a schedule of a program's own see [`crate::chain::Chain::set_guidance`].
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Curve {
    /// s throughout.
    #[default]
    Constant,
    /// `s + p * (last - s)`, p from 0 at the first step to 1 at the last. (Of a single step, p is 0.)
    Linear {
        /// The scale of the last step.
        last: f32,
    },
    /// `last + (s - last) * (1 + cos(pi * p)) / 2`.
    Cosine {
        /// The scale of the last step.
        last: f32,
    },
}

impl Curve {
    /// The scale of a step, `first` being that of the first one.
    pub fn scale(self, first: f32, moment: Moment) -> f32 {
        let share = match moment.steps {
            0 | 1 => 0.0,
            steps => (moment.step as f64 / (steps - 1) as f64).min(1.0),
        };
        let (last, weight) = match self {
            Self::Constant => return first,
            Self::Linear { last } => (last, share),
            Self::Cosine { last } => (last, (1.0 - cos(core::f64::consts::PI * share)) / 2.0),
        };
        (f64::from(first) + weight * (f64::from(last) - f64::from(first))) as f32
    }

    /// Whether the last scale is a finite number.
    pub fn is_valid(self) -> bool {
        match self {
            Self::Constant => true,
            Self::Linear { last } | Self::Cosine { last } => last.is_finite(),
        }
    }
}
