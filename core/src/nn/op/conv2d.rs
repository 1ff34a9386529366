//! 2-D convolution; a linear layer is its 1x1 case.

use super::{Act, MAX_INPUTS, Shape, ShapeError};
use crate::nn::view::View;
use crate::nn::weights::WeightData;

/// Channels of a pixel that the twin holds at a time.
const CHANNELS: usize = 64;

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

    /// The twin. Each sum runs over kernel rows outermost, then kernel columns, then input channels, from 0 up: the input's
    /// pixels are read once, in their order, and added wherever they belong.
    #[expect(clippy::too_many_arguments, reason = "operands, as the shader binds them")]
    pub fn run(
        &self,
        x: View<'_>,
        xs: Shape,
        channel: Option<&[f32]>,
        residual: Option<&[f32]>,
        weight: WeightData<'_>,
        bias: Option<WeightData<'_>>,
        out: &mut [f32],
        os: Shape,
    ) {
        let (in_c, out_c) = (self.in_c as usize, self.out_c as usize);
        let taps = (self.kernel[0] * self.kernel[1]) as usize;
        let up = self.upsample as usize;
        let mut values = [0.0; CHANNELS];
        out.fill(0.0);
        for row in 0..xs.h as usize * up {
            for column in 0..xs.w as usize * up {
                let pixel = row / up * xs.w as usize + column / up;
                for first in (0..in_c).step_by(CHANNELS) {
                    let values = &mut values[..CHANNELS.min(in_c - first)];
                    x.load(pixel, first, values);
                    for tap in 0..taps {
                        let Some(p) = self.destination(os, row, column, tap) else { continue };
                        for (o, sum) in out[p * out_c..][..out_c].iter_mut().enumerate() {
                            *sum = weight.dot(*sum, values, (o * in_c + first) * taps + tap, taps);
                        }
                    }
                }
            }
        }
        for (p, pixel) in out.chunks_exact_mut(out_c).enumerate() {
            for (o, value) in pixel.iter_mut().enumerate() {
                let mut sum = *value;
                sum += bias.map_or(0.0, |b| b.at(o));
                sum += channel.map_or(0.0, |c| c[o]);
                sum += residual.map_or(0.0, |r| r[p * out_c + o]);
                *value = self.act.apply(sum * self.scale);
            }
        }
    }

    /// The output pixel that reads the (enlarged) input's row and column at kernel position `tap`, if there is one.
    fn destination(&self, os: Shape, row: usize, column: usize, tap: usize) -> Option<usize> {
        let (s, kw) = (self.stride as usize, self.kernel[1] as usize);
        let y = (row + self.pad[0] as usize).checked_sub(tap / kw)?;
        let x = (column + self.pad[1] as usize).checked_sub(tap % kw)?;
        let (h, w) = (os.h as usize, os.w as usize);
        let hit = y.is_multiple_of(s) && x.is_multiple_of(s) && y / s < h && x / s < w;
        hit.then(|| y / s * w + x / s)
    }
}
