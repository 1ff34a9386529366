//! How predictions are combined at a scale.

use crate::math::wide::sqrt;

/// What is made of c, the wanted prediction, and u, the one under no condition (or a negative one), at a scale s. Sums over
/// an image are in f64.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Rule {
    /// `u + s * (c - u)`. Ho and Salimans 2022, equation 6.
    #[default]
    Plain,
    /// Adaptive projected guidance, APG. Sadat et al. 2024, "Eliminating oversaturation and artifacts of high guidance scales in
    /// diffusion models", algorithm 1: `d = c - u + momentum * d'`, d' being the d of the evaluation before; d is shortened to
    /// the L2 norm `threshold`; of its part parallel to c only `parallel` times as much is kept; `c + (s - 1) * d`.
    Projected {
        /// Share of the parallel part that stays (the paper's eta); 1 is all, the paper takes 0.
        parallel: f32,
        /// Largest norm of d (the paper's r); 0 is no limit.
        threshold: f32,
        /// The paper's beta, as a rule negative; 0 keeps nothing. It counts evaluations, two a step in solvers like Heun's.
        momentum: f32,
        /// Of what c and u are predictions, in the formula.
        space: Space,
    },
    /// CFG-Zero*. Fan et al. 2025, "CFG-Zero*: Improved classifier-free guidance for flow matching models", algorithm 1:
    /// `a * u + s * (c - a * u)` with `a = <c, u> / (|u|^2 + 1e-8)`, and zero at the first `zero_steps` steps.
    ZeroStar {
        /// Steps at which the prediction is zero. (For flow networks: those stand still.)
        zero_steps: u32,
    },
    /// Two conditions that add up, a text and a picture. Brooks et al. 2023, "InstructPix2Pix", equation 3: with n the prediction under the
    /// picture alone, `u + image * (n - u) + s * (c - n)`. Three conditions an image.
    Picture {
        /// Scale of the picture (the paper's s_I).
        image: f32,
    },
    /// Perpendicular negative prompts. Armandpour et al. 2023, "Re-imagine the negative prompt algorithm", equation 7: with n the
    /// prediction under a negative condition, `p = c - u`, and q what of `n - u` is perpendicular to p,
    /// `u + s * (p - weight * q)`. Three conditions an image.
    Perpendicular {
        /// How strongly the negative condition is left.
        weight: f32,
    },
}

/// Of what predictions are, for rules to which that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Space {
    /// Of the image, whatever the network predicts: as papers do.
    #[default]
    Image,
    /// Of what the network predicts: as diffusers does.
    Output,
}

/// One evaluation of one image.
#[derive(Debug)]
pub struct Evaluation<'a> {
    /// The prediction under the wanted condition, which becomes the guided one.
    pub wanted: &'a mut [f32],
    /// The prediction under no condition.
    pub none: &'a [f32],
    /// The prediction under the negative condition, for [`Rule::Perpendicular`]; under the picture alone, for [`Rule::Picture`].
    pub negative: &'a [f32],
    /// What the evaluation before left ([`super::Guidance::memory`]); zeros at the start.
    pub momentum: &'a mut [f32],
    /// What was evaluated.
    pub x: &'a [f32],
    /// The predicted image is `image[0] * x + image[1] * prediction`: for [`Space::Image`].
    pub image: [f32; 2],
}

impl<'a> Evaluation<'a> {
    /// An evaluation under two conditions of a network that predicts the image, without a memory.
    pub fn new(wanted: &'a mut [f32], none: &'a [f32]) -> Self {
        Self { wanted, none, negative: &[], momentum: &mut [], x: &[], image: [0.0, 1.0] }
    }
}

impl Rule {
    /// Whether the prediction is zero at this step.
    pub(super) fn is_zero_at(self, step: usize) -> bool {
        matches!(self, Self::ZeroStar { zero_steps } if step < zero_steps as usize)
    }

    /// Whether scale 1 gives back the wanted prediction.
    pub(super) const fn is_idle_at_one(self) -> bool {
        !matches!(self, Self::Perpendicular { .. } | Self::Picture { .. })
    }

    /// Whether all numbers can be used.
    pub(super) fn is_valid(self) -> bool {
        match self {
            Self::Plain | Self::ZeroStar { .. } => true,
            Self::Projected { parallel, threshold, momentum, .. } => {
                parallel.is_finite() && threshold.is_finite() && threshold >= 0.0 && momentum.abs() < 1.0
            }
            Self::Perpendicular { weight } => weight.is_finite(),
            Self::Picture { image } => image.is_finite(),
        }
    }

    pub(super) fn apply(self, scale: f32, step: usize, evaluation: &mut Evaluation<'_>) {
        match self {
            Self::Plain => plain(scale, 1.0, evaluation),
            Self::Projected { parallel, threshold, momentum, space } => {
                projected(scale, [parallel, threshold, momentum], space, evaluation);
            }
            Self::ZeroStar { .. } if self.is_zero_at(step) => evaluation.wanted.fill(0.0),
            Self::ZeroStar { .. } => {
                let (mut product, mut square) = (0.0, 1e-8);
                for (&c, &u) in evaluation.wanted.iter().zip(evaluation.none) {
                    product += f64::from(c) * f64::from(u);
                    square += f64::from(u) * f64::from(u);
                }
                plain(scale, (product / square) as f32, evaluation);
            }
            Self::Perpendicular { weight } => perpendicular(scale, weight, evaluation),
            Self::Picture { image } => {
                for ((c, &u), &n) in evaluation.wanted.iter_mut().zip(evaluation.none).zip(evaluation.negative) {
                    *c = u + scale * (*c - n) + image * (n - u);
                }
            }
        }
    }
}

/// Guidance away from `share` times the prediction under no condition.
fn plain(scale: f32, share: f32, e: &mut Evaluation<'_>) {
    for (c, &u) in e.wanted.iter_mut().zip(e.none) {
        let u = share * u;
        *c = u + scale * (*c - u);
    }
}

fn perpendicular(scale: f32, weight: f32, e: &mut Evaluation<'_>) {
    let (mut product, mut square) = (0.0, 0.0);
    for ((&c, &u), &n) in e.wanted.iter().zip(e.none).zip(e.negative) {
        let (p, q) = (f64::from(c - u), f64::from(n - u));
        product += p * q;
        square += p * p;
    }
    let along = ratio(product, square) as f32;
    for ((c, &u), &n) in e.wanted.iter_mut().zip(e.none).zip(e.negative) {
        let p = *c - u;
        *c = u + scale * (p - weight * ((n - u) - along * p));
    }
}

fn projected(scale: f32, [parallel, threshold, momentum]: [f32; 3], space: Space, e: &mut Evaluation<'_>) {
    // In the space of the rule, c is `of_x * x + of_c * c`, and a difference `of_c` times as large.
    let [of_x, of_c] = match space {
        Space::Image => e.image,
        Space::Output => [0.0, 1.0],
    };
    if of_c == 0.0 {
        // Without noise (an inversion's first step) the image is x, whatever was predicted: there is nothing to guide.
        return;
    }
    let mut xs = e.x.iter().copied().chain(core::iter::repeat(0.0));
    let mut kept = e.momentum.iter_mut();
    let (mut product, mut square, mut norm) = (0.0, 0.0, 0.0);
    for (c, &u) in e.wanted.iter().zip(e.none) {
        let mut d = of_c * (c - u);
        if let Some(kept) = kept.next() {
            d += momentum * *kept;
            *kept = d;
        }
        let (c, d) = (f64::from(of_x * xs.next().unwrap_or(0.0) + of_c * c), f64::from(d));
        product += c * d;
        square += c * c;
        norm += d * d;
    }
    let (norm, threshold) = (sqrt(norm), f64::from(threshold));
    let shorten = if threshold > 0.0 && norm > threshold { threshold / norm } else { 1.0 };
    // What of c is taken off d, and what a difference weighs in the network's output.
    let off = ((1.0 - f64::from(parallel)) * ratio(product, square)) as f32;
    let weight = ((f64::from(scale) - 1.0) * shorten / f64::from(of_c)) as f32;
    let mut xs = e.x.iter().copied().chain(core::iter::repeat(0.0));
    let mut kept = e.momentum.iter();
    for (c, &u) in e.wanted.iter_mut().zip(e.none) {
        let d = kept.next().copied().unwrap_or(of_c * (*c - u));
        *c += weight * (d - off * (of_x * xs.next().unwrap_or(0.0) + of_c * *c));
    }
}

/// `a / b`, and 0 where there is nothing to divide by.
fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}

/// The standard deviation of an image's values, with n - 1 below, as torch's.
pub(super) fn deviation(values: &[f32]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().copied().map(f64::from).sum::<f64>() / count;
    let square: f64 = values.iter().map(|&v| (f64::from(v) - mean) * (f64::from(v) - mean)).sum();
    sqrt(ratio(square, count - 1.0))
}

/// Brings the standard deviation of an image's values towards `wanted`: all the way for `share` 1. What has none stays.
pub(super) fn rescale(share: f32, wanted: f64, values: &mut [f32]) {
    let own = deviation(values);
    if own > 0.0 {
        let factor = (f64::from(share) * (wanted / own) + (1.0 - f64::from(share))) as f32;
        values.iter_mut().for_each(|v| *v *= factor);
    }
}
