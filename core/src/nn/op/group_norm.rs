//! Group normalisation (Wu & He 2018).

use super::{Act, MAX_INPUTS, Shape, ShapeError};
use crate::math;
use crate::nn::view::View;
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

    /// Values of the statistics.
    pub const fn stats_len(&self) -> usize {
        2 * self.groups as usize
    }

    /// The statistics of each group, `out` `[groups, 2]`: the mean, and one over the deviation. The mean, then the mean of squared
    /// deviations, each summed in f64: pixels outermost, channels inside.
    pub fn stats(&self, x: View<'_>, pixels: usize, out: &mut [f32]) {
        let size = x.channels() / self.groups as usize;
        for (group, stats) in out.chunks_exact_mut(2).enumerate() {
            stats.copy_from_slice(&self.group(x, pixels, group * size, size));
        }
    }

    fn group(&self, x: View<'_>, pixels: usize, first: usize, size: usize) -> [f32; 2] {
        let count = (pixels as u64 * size as u64) as f64;
        let values = || (0..pixels).flat_map(|p| (first..first + size).map(move |i| x.at(p, i)));
        let mean = (values().map(f64::from).sum::<f64>() / count) as f32;
        let var = (values().map(|v| f64::from((v - mean) * (v - mean))).sum::<f64>() / count) as f32;
        [mean, 1.0 / math::sqrt(var + self.eps)]
    }

    /// The value `v` of channel `i` of `c`, normalised by the statistics of its group. `weights`: gamma and beta.
    #[inline]
    pub(crate) fn value(
        &self,
        v: f32,
        stats: [f32; 2],
        weights: [WeightData<'_>; 2],
        scale_shift: Option<&[f32]>,
        [i, c]: [usize; 2],
    ) -> f32 {
        let [gamma, beta] = weights;
        let mut normal = (v - stats[0]) * stats[1] * gamma.at(i) + beta.at(i);
        if let Some(s) = scale_shift {
            normal = normal * (1.0 + s[i]) + s[c + i];
        }
        self.act.apply(normal)
    }

    /// The twin. `weights`: gamma and beta.
    pub fn run(&self, x: View<'_>, scale_shift: Option<&[f32]>, weights: [WeightData<'_>; 2], out: &mut [f32]) {
        let c = x.channels();
        let size = c / self.groups as usize;
        for first in (0..c).step_by(size) {
            let stats = self.group(x, out.len() / c, first, size);
            for (p, pixel) in out.chunks_exact_mut(c).enumerate() {
                for (i, out) in (first..).zip(&mut pixel[first..first + size]) {
                    *out = self.value(x.at(p, i), stats, weights, scale_shift, [i, c]);
                }
            }
        }
    }
}
