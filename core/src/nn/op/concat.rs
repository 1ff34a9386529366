//! Concatenation along the channels.

use super::{MAX_INPUTS, Shape, ShapeError};

/// The channels of `a`, then those of `b`. Inputs: `a` `[h, w, ca]` and `b` `[h, w, cb]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Concat;

impl Concat {
    pub(super) fn shape(&self, x: [Option<Shape>; MAX_INPUTS]) -> Result<Shape, ShapeError> {
        let [Some(a), Some(b), None] = x else {
            return Err(ShapeError::Operands);
        };
        if (a.h, a.w) != (b.h, b.w) {
            return Err(ShapeError::Mismatch(a, b));
        }
        a.c.checked_add(b.c).map(|c| Shape { c, ..a }).ok_or(ShapeError::Size)
    }

    /// The twin.
    pub fn run(&self, a: &[f32], ca: u32, b: &[f32], cb: u32, out: &mut [f32]) {
        let (ca, cb) = (ca as usize, cb as usize);
        for ((o, a), b) in out.chunks_exact_mut(ca + cb).zip(a.chunks_exact(ca)).zip(b.chunks_exact(cb)) {
            o[..ca].copy_from_slice(a);
            o[ca..].copy_from_slice(b);
        }
    }
}
