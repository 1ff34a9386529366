//! Enlargement by nearest neighbour.

use super::{MAX_INPUTS, Shape, ShapeError};

/// Every pixel becomes `factor * factor` equal ones. Input: `x` `[h, w, c]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Upsample {
    /// How many times wider and higher the result is.
    pub factor: u32,
}

impl Upsample {
    pub(super) fn shape(&self, x: [Option<Shape>; MAX_INPUTS]) -> Result<Shape, ShapeError> {
        let [Some(x0), None, None] = x else {
            return Err(ShapeError::Operands);
        };
        match (x0.h.checked_mul(self.factor), x0.w.checked_mul(self.factor)) {
            _ if self.factor == 0 => Err(ShapeError::Parameter),
            (Some(h), Some(w)) => Ok(Shape { h, w, c: x0.c }),
            _ => Err(ShapeError::Size),
        }
    }

    /// The twin.
    pub fn run(&self, x: &[f32], xs: Shape, out: &mut [f32], os: Shape) {
        let (c, f) = (xs.c as usize, self.factor as usize);
        for (p, pixel) in out.chunks_exact_mut(c).enumerate() {
            let (y, col) = (p / os.w as usize / f, p % os.w as usize / f);
            let from = (y * xs.w as usize + col) * c;
            pixel.copy_from_slice(&x[from..from + c]);
        }
    }
}
