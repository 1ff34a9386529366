//! Layer normalisation (Ba et al. 2016), also of root mean squares (Zhang & Sennrich 2019).

use super::{MAX_INPUTS, Shape, ShapeError};
use crate::math;
use crate::nn::weights::WeightData;

/// `out = norm(x) * gamma + beta`, with the mean and the (biased) variance of each pixel's channels, or of each of its heads'.
///
/// Input: `x` `[h, w, c]`. Weights: optional gamma `[c / heads]`, 1 where absent, and beside it optional beta `[c / heads]`, 0 where absent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f32,
    /// Parts of a pixel's channels that are normalised apart, with the same weights. Several must have a multiple of 4 channels each.
    pub heads: u32,
    /// The mean is taken for 0: the root of the mean square is what divides (RMSNorm).
    pub rms: bool,
}

impl LayerNorm {
    /// Of all channels, with the mean.
    pub const fn new(eps: f32) -> Self {
        Self { eps, heads: 1, rms: false }
    }

    pub(super) fn shape(&self, x: [Option<Shape>; MAX_INPUTS]) -> Result<Shape, ShapeError> {
        match x {
            [Some(x0), None, None] => match self.heads {
                1 => Ok(x0),
                0 => Err(ShapeError::Parameter),
                // Kernels read whole vectors of channels.
                heads if x0.c.is_multiple_of(heads) && (x0.c / heads).is_multiple_of(4) => Ok(x0),
                _ => Err(ShapeError::Parameter),
            },
            _ => Err(ShapeError::Operands),
        }
    }

    /// The twin. `c`: channels of a head; `weights`: gamma and beta. The mean, then the mean of squared deviations, each summed in f64.
    pub fn run(&self, x: &[f32], c: u32, weights: [Option<WeightData<'_>>; 2], out: &mut [f32]) {
        let [gamma, beta] = weights;
        let c = (c as usize).max(1);
        for (x, out) in x.chunks_exact(c).zip(out.chunks_exact_mut(c)) {
            let mean = match self.rms {
                true => 0.0,
                false => (x.iter().map(|v| f64::from(*v)).sum::<f64>() / c as f64) as f32,
            };
            let var = (x.iter().map(|v| f64::from((v - mean) * (v - mean))).sum::<f64>() / c as f64) as f32;
            let factor = 1.0 / math::sqrt(var + self.eps);
            for (i, (v, o)) in x.iter().zip(out).enumerate() {
                let scaled = (v - mean) * factor * gamma.map_or(1.0, |gamma| gamma.at(i));
                *o = scaled + beta.map_or(0.0, |beta| beta.at(i));
            }
        }
    }
}
