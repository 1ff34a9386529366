//! Gated activation (Dauphin et al. 2017; with GELU: GEGLU, Shazeer 2020).

use super::{Act, MAX_INPUTS, Shape, ShapeError};

/// `out = a * act(b)`, where `a` is the first half of each pixel's channels and `b` the second. Input: `[h, w, 2c]`, to
/// `[h, w, c]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gate {
    /// Activation of the second half.
    pub act: Act,
}

impl Gate {
    pub(super) fn shape(&self, x: [Option<Shape>; MAX_INPUTS]) -> Result<Shape, ShapeError> {
        match x {
            [Some(x0), None, None] if x0.c.is_multiple_of(2) => Ok(Shape { c: x0.c / 2, ..x0 }),
            [Some(_), None, None] => Err(ShapeError::Parameter),
            _ => Err(ShapeError::Operands),
        }
    }

    /// The twin. `c`: channels of the result.
    pub fn run(&self, x: &[f32], c: u32, out: &mut [f32]) {
        let c = c as usize;
        for (x, out) in x.chunks_exact(2 * c).zip(out.chunks_exact_mut(c)) {
            for ((a, b), o) in x[..c].iter().zip(&x[c..]).zip(out) {
                *o = a * self.act.apply(*b);
            }
        }
    }
}
