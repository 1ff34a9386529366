//! Rows of a learned table.

use super::{MAX_INPUTS, Shape, ShapeError};
use crate::nn::weights::WeightData;

/// Each pixel's one value, a whole number below `count` held as f32, becomes that row of the table; the pixel's own row of a second
/// table is added, where there is one (the positions of a text's tokens).
///
/// Input: `index` `[h, w, 1]`. Weights: the table `[count, dim]`, and optionally that of the positions `[h * w or more, dim]`. Indices are checked where they enter
/// (see [`crate::nn::project`]); one out of range reads row 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Embedding {
    /// Rows of the table; at most 2^24, so that f32 holds every index exactly.
    pub count: u32,
    /// Values of a row.
    pub dim: u32,
}

impl Embedding {
    pub(super) fn shape(&self, x: [Option<Shape>; MAX_INPUTS]) -> Result<Shape, ShapeError> {
        let [Some(x0), None, None] = x else {
            return Err(ShapeError::Operands);
        };
        if self.count == 0 || self.count > 1 << 24 || self.dim == 0 {
            return Err(ShapeError::Parameter);
        }
        if x0.c != 1 {
            return Err(ShapeError::Mismatch(x0, Shape { c: 1, ..x0 }));
        }
        Ok(Shape { c: self.dim, ..x0 })
    }

    /// The twin.
    pub fn run(&self, index: &[f32], table: WeightData<'_>, positions: Option<WeightData<'_>>, out: &mut [f32]) {
        let dim = self.dim as usize;
        for (p, (&i, row)) in index.iter().zip(out.chunks_exact_mut(dim)).enumerate() {
            let i = if i >= 0.0 && i < self.count as f32 { i as usize } else { 0 };
            for (j, v) in row.iter_mut().enumerate() {
                let value = table.at(i * dim + j);
                *v = positions.map_or(value, |positions| value + positions.at(p * dim + j));
            }
        }
    }
}
