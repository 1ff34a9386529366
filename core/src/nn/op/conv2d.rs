//! 2-D convolution; a linear layer is its 1x1 case.

use super::{Act, MAX_INPUTS, Shape, ShapeError};
use crate::nn::weights::WeightData;

/// 2-D cross-correlation with everything that follows it fused in:
/// `out = act((conv(x) + bias + channel + residual) * scale)`.
///
/// Inputs: `x` `[h, w, in_c]`; optional `channel` `[1, 1, out_c]`, added to every pixel (the time embedding); optional
/// `residual`, of the output's shape. Weights: the kernel `[out_c, in_c, kh, kw]` (or `[out_c, in_c]` when 1x1) and an
/// optional bias `[out_c]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conv2d {
    /// Input channels.
    pub in_c: u32,
    /// Output channels.
    pub out_c: u32,
    /// Kernel height and width.
    pub kernel: [u32; 2],
    /// Step between outputs, in both directions.
    pub stride: u32,
    /// Zeros around the input: top, left, bottom, right.
    pub pad: [u32; 4],
    /// The input is read as if enlarged this many times by nearest neighbour first (1: as it is).
    pub upsample: u32,
    /// Factor on the sum.
    pub scale: f32,
    /// Activation of the scaled sum.
    pub act: Act,
}

impl Conv2d {
    /// A convolution of a square kernel with equal padding, stride 1, nothing fused.
    pub const fn new(in_c: u32, out_c: u32, kernel: u32, pad: u32) -> Self {
        Self { in_c, out_c, kernel: [kernel; 2], stride: 1, pad: [pad; 4], upsample: 1, scale: 1.0, act: Act::None }
    }

    /// A linear layer on every pixel.
    pub const fn linear(in_c: u32, out_c: u32) -> Self {
        Self::new(in_c, out_c, 1, 0)
    }

    /// True when each output pixel depends on the same input pixel alone, so that the op is one matrix product.
    pub fn is_linear(&self) -> bool {
        self.kernel == [1, 1] && self.stride == 1 && self.pad == [0; 4] && self.upsample == 1
    }

    pub(super) fn shape(&self, x: [Option<Shape>; MAX_INPUTS]) -> Result<Shape, ShapeError> {
        let Some(x0) = x[0] else {
            return Err(ShapeError::Operands);
        };
        if x0.c != self.in_c {
            return Err(ShapeError::Mismatch(x0, Shape { c: self.in_c, ..x0 }));
        }
        if self.stride == 0 || self.upsample == 0 || self.kernel.contains(&0) || self.in_c == 0 || self.out_c == 0 {
            return Err(ShapeError::Parameter);
        }
        let side = |n: u32, k: u32, before: u32, after: u32| {
            let n = n as u64 * self.upsample as u64 + before as u64 + after as u64;
            let out = n.checked_sub(k as u64).map(|d| d / self.stride as u64 + 1);
            out.and_then(|o| u32::try_from(o).ok()).filter(|&o| o > 0).ok_or(ShapeError::Size)
        };
        let out = Shape {
            h: side(x0.h, self.kernel[0], self.pad[0], self.pad[2])?,
            w: side(x0.w, self.kernel[1], self.pad[1], self.pad[3])?,
            c: self.out_c,
        };
        if let Some(c) = x[1].filter(|&c| c != Shape::vector(self.out_c)) {
            return Err(ShapeError::Mismatch(c, Shape::vector(self.out_c)));
        }
        if let Some(r) = x[2].filter(|&r| r != out) {
            return Err(ShapeError::Mismatch(r, out));
        }
        Ok(out)
    }

    /// The twin. Each sum runs over kernel rows outermost, then kernel columns, then input channels, from 0 up.
    #[expect(clippy::too_many_arguments, reason = "operands, as the shader binds them")]
    pub fn run(
        &self,
        x: &[f32],
        xs: Shape,
        channel: Option<&[f32]>,
        residual: Option<&[f32]>,
        weight: WeightData<'_>,
        bias: Option<WeightData<'_>>,
        out: &mut [f32],
        os: Shape,
    ) {
        let out_c = self.out_c as usize;
        let taps = (self.kernel[0] * self.kernel[1]) as usize;
        let filter_len = self.in_c as usize * taps;
        for (p, pixel) in out.chunks_exact_mut(out_c).enumerate() {
            pixel.fill(0.0);
            for tap in 0..taps {
                let Some(from) = self.source(xs, os, p, tap) else { continue };
                let Some(x) = x.get(from..from + self.in_c as usize) else { continue };
                for (o, sum) in pixel.iter_mut().enumerate() {
                    *sum = weight.dot(*sum, x, o * filter_len + tap, taps);
                }
            }
            for (o, value) in pixel.iter_mut().enumerate() {
                let mut sum = *value;
                sum += bias.map_or(0.0, |b| b.at(o));
                sum += channel.map_or(0.0, |c| c[o]);
                sum += residual.map_or(0.0, |r| r[p * out_c + o]);
                *value = self.act.apply(sum * self.scale);
            }
        }
    }

    /// Where the channels that output pixel `p` reads at kernel position `tap` start; `None` inside the padding.
    fn source(&self, xs: Shape, os: Shape, p: usize, tap: usize) -> Option<usize> {
        let (s, up) = (self.stride as usize, self.upsample as usize);
        let (kw, w) = (self.kernel[1] as usize, os.w as usize);
        let y = (p / w * s + tap / kw).checked_sub(self.pad[0] as usize)?;
        let x = (p % w * s + tap % kw).checked_sub(self.pad[1] as usize)?;
        let inside = y < xs.h as usize * up && x < xs.w as usize * up;
        inside.then(|| (y / up * xs.w as usize + x / up) * self.in_c as usize)
    }
}
