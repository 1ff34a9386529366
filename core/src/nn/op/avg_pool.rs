//! Average pooling.

use super::{MAX_INPUTS, Shape, ShapeError};

/// The mean of each `size * size` block, stride `size`; a remainder at the lower and right border is dropped, as torch
/// does. Input: `x` `[h, w, c]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AvgPool {
    /// Side of a block, in pixels.
    pub size: u32,
}

impl AvgPool {
    pub(super) fn shape(&self, x: [Option<Shape>; MAX_INPUTS]) -> Result<Shape, ShapeError> {
        let [Some(x0), None, None] = x else {
            return Err(ShapeError::Operands);
        };
        if self.size == 0 {
            return Err(ShapeError::Parameter);
        }
        let out = Shape { h: x0.h / self.size, w: x0.w / self.size, c: x0.c };
        if out.is_empty() { Err(ShapeError::Size) } else { Ok(out) }
    }

    /// The twin: rows of a block outermost.
    pub fn run(&self, x: &[f32], xs: Shape, out: &mut [f32], os: Shape) {
        let (c, n) = (xs.c as usize, self.size as usize);
        let count = (n * n) as f32;
        for (p, pixel) in out.chunks_exact_mut(c).enumerate() {
            let (y, col) = (p / os.w as usize * n, p % os.w as usize * n);
            for (i, value) in pixel.iter_mut().enumerate() {
                let mut sum = 0.0;
                for dy in 0..n {
                    for dx in 0..n {
                        sum += x[((y + dy) * xs.w as usize + col + dx) * c + i];
                    }
                }
                *value = sum / count;
            }
        }
    }
}
