//! Pixels of two tensors in a row, and parts of them: sequences of tokens.

use super::{MAX_INPUTS, Shape, ShapeError};

/// The pixels of `a`, then those of `b`; of these the `h * w` from `first` on. Inputs: `a` `[ha, wa, c]`; optional `b` `[hb, wb, c]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Join {
    /// The first pixel that is kept.
    pub first: u32,
    /// Rows of the result.
    pub h: u32,
    /// Columns of the result.
    pub w: u32,
}

impl Join {
    pub(super) fn shape(&self, x: [Option<Shape>; MAX_INPUTS]) -> Result<Shape, ShapeError> {
        let (Some(a), None) = (x[0], x[2]) else {
            return Err(ShapeError::Operands);
        };
        if let Some(b) = x[1].filter(|b| b.c != a.c) {
            return Err(ShapeError::Mismatch(a, b));
        }
        let out = Shape { h: self.h, w: self.w, c: a.c };
        let all = a.pixels().saturating_add(x[1].map_or(0, Shape::pixels));
        match out.pixels().checked_add(u64::from(self.first)) {
            _ if out.is_empty() => Err(ShapeError::Parameter),
            Some(end) if end <= all => Ok(out),
            _ => Err(ShapeError::Size),
        }
    }

    /// The twin. `c`: channels of a pixel.
    pub fn run(&self, a: &[f32], b: Option<&[f32]>, c: u32, out: &mut [f32]) {
        let first = self.first as usize * c as usize;
        let from_a = a.len().saturating_sub(first).min(out.len());
        let (low, high) = out.split_at_mut(from_a);
        low.copy_from_slice(a.get(first..first + from_a).unwrap_or_default());
        let start = (first + from_a).saturating_sub(a.len());
        if let Some(b) = b.and_then(|b| b.get(start..start + high.len())) {
            high.copy_from_slice(b);
        }
    }
}
