//! Group normalisation (Wu & He 2018).

use super::{Act, MAX_INPUTS, Shape, ShapeError};
use crate::math;
use crate::nn::weights::WeightData;

/// `out = act(norm(x) * gamma + beta)`, or `act((norm(x) * gamma + beta) * (1 + scale) + shift)`.
///
/// Mean and (biased) variance are taken over all pixels and `c / groups` channels. Inputs: `x` `[h, w, c]`; optional
/// `scale_shift` `[1, 1, 2c]`: c scales, then c shifts. Weights: gamma `[c]` and beta `[c]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Number of groups; divides the channels.
    pub groups: u32,
    /// Added to the variance.
    pub eps: f32,
    /// Activation of the result.
    pub act: Act,
}

impl GroupNorm {
    pub(super) fn shape(&self, x: [Option<Shape>; MAX_INPUTS]) -> Result<Shape, ShapeError> {
        let (Some(x0), None) = (x[0], x[2]) else {
            return Err(ShapeError::Operands);
        };
        if self.groups == 0 || x0.c % self.groups != 0 {
            return Err(ShapeError::Parameter);
        }
        if let Some(s) = x[1].filter(|&s| s != Shape::vector(2 * x0.c)) {
            return Err(ShapeError::Mismatch(s, Shape::vector(2 * x0.c)));
        }
        Ok(x0)
    }

    /// The twin. The mean, then the mean of squared deviations, each summed in f64: pixels outermost, channels inside.
    pub fn run(
        &self,
        x: &[f32],
        xs: Shape,
        scale_shift: Option<&[f32]>,
        gamma: WeightData<'_>,
        beta: WeightData<'_>,
        out: &mut [f32],
    ) {
        let c = xs.c as usize;
        let size = c / self.groups as usize;
        let count = (xs.pixels() * size as u64) as f64;
        for first in (0..c).step_by(size) {
            let group = || x.chunks_exact(c).flat_map(|pixel| &pixel[first..first + size]);
            let mean = (group().map(|&v| f64::from(v)).sum::<f64>() / count) as f32;
            let var = (group().map(|&v| f64::from((v - mean) * (v - mean))).sum::<f64>() / count) as f32;
            let inv = 1.0 / math::sqrt(var + self.eps);
            for (xp, op) in x.chunks_exact(c).zip(out.chunks_exact_mut(c)) {
                for i in first..first + size {
                    let mut v = (xp[i] - mean) * inv * gamma.at(i) + beta.at(i);
                    if let Some(s) = scale_shift {
                        v = v * (1.0 + s[i]) + s[c + i];
                    }
                    op[i] = self.act.apply(v);
                }
            }
        }
    }
}
