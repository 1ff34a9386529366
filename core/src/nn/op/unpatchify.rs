//! Channels laid out as pixels: the end of a network of patches.

use super::{MAX_INPUTS, Shape, ShapeError};

/// Every pixel becomes `size * size` pixels: its channels are theirs, one pixel after the other in rows. Input: `[h, w, size * size * c]`,
/// to `[h * size, w * size, c]`. It undoes a strided convolution that makes a patch a pixel, and unlike torch's pixel shuffle has a
/// pixel's channels side by side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unpatchify {
    /// How many times wider and higher the result is.
    pub size: u32,
}

impl Unpatchify {
    pub(super) fn shape(&self, x: [Option<Shape>; MAX_INPUTS]) -> Result<Shape, ShapeError> {
        let [Some(x0), None, None] = x else {
            return Err(ShapeError::Operands);
        };
        let pixels = self.size.checked_mul(self.size).filter(|&n| n > 0 && x0.c.is_multiple_of(n));
        let pixels = pixels.ok_or(ShapeError::Parameter)?;
        match (x0.h.checked_mul(self.size), x0.w.checked_mul(self.size)) {
            (Some(h), Some(w)) => Ok(Shape { h, w, c: x0.c / pixels }),
            _ => Err(ShapeError::Size),
        }
    }

    /// The twin.
    pub fn run(&self, x: &[f32], xs: Shape, out: &mut [f32], os: Shape) {
        let (c, n, w) = (os.c as usize, self.size as usize, os.w as usize);
        for (p, pixel) in out.chunks_exact_mut(c).enumerate() {
            let (y, col) = (p / w, p % w);
            let from = (y / n * xs.w as usize + col / n) * xs.c as usize + (y % n * n + col % n) * c;
            pixel.copy_from_slice(&x[from..from + c]);
        }
    }
}
