//! Layer normalisation (Ba et al. 2016).

use super::{MAX_INPUTS, Shape, ShapeError};
use crate::math;
use crate::nn::weights::WeightData;

/// `out = norm(x) * gamma + beta`, with the mean and the (biased) variance of each pixel's channels.
///
/// Input: `x` `[h, w, c]`. Weights: gamma `[c]` and beta `[c]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f32,
}

impl LayerNorm {
    pub(super) fn shape(&self, x: [Option<Shape>; MAX_INPUTS]) -> Result<Shape, ShapeError> {
        match x {
            [Some(x0), None, None] => Ok(x0),
            _ => Err(ShapeError::Operands),
        }
    }

    /// The twin. `weights`: gamma and beta. The mean, then the mean of squared deviations, each summed in f64.
    pub fn run(&self, x: &[f32], weights: [WeightData<'_>; 2], out: &mut [f32]) {
        let [gamma, beta] = weights;
        let c = gamma.len().max(1);
        for (x, out) in x.chunks_exact(c).zip(out.chunks_exact_mut(c)) {
            let mean = (x.iter().map(|v| f64::from(*v)).sum::<f64>() / c as f64) as f32;
            let var = (x.iter().map(|v| f64::from((v - mean) * (v - mean))).sum::<f64>() / c as f64) as f32;
            let factor = 1.0 / math::sqrt(var + self.eps);
            for (i, (v, o)) in x.iter().zip(out).enumerate() {
                *o = (v - mean) * factor * gamma.at(i) + beta.at(i);
            }
        }
    }
}
