//! A linear map of every value, with an activation.

use super::{Act, MAX_INPUTS, Shape, ShapeError};

/// `out = act((x * scale + shift) / divisor)`. Inputs: `x` `[h, w, c]`; optional `divisor` `[1, 1, 1]`, 1 where absent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// Factor.
    pub scale: f32,
    /// Added after the factor.
    pub shift: f32,
    /// Activation of the result.
    pub act: Act,
}

impl Affine {
    /// A linear map without an activation.
    pub const fn new(scale: f32, shift: f32) -> Self {
        Self { scale, shift, act: Act::None }
    }

    pub(super) fn shape(&self, x: [Option<Shape>; MAX_INPUTS]) -> Result<Shape, ShapeError> {
        let (Some(x0), None) = (x[0], x[2]) else {
            return Err(ShapeError::Operands);
        };
        match x[1] {
            Some(d) if d != Shape::vector(1) => Err(ShapeError::Mismatch(d, Shape::vector(1))),
            _ => Ok(x0),
        }
    }

    /// The twin.
    pub fn run(&self, x: &[f32], divisor: Option<&[f32]>, out: &mut [f32]) {
        let divisor = divisor.map_or(1.0, |d| d[0]);
        for (x, o) in x.iter().zip(out) {
            *o = self.act.apply((x * self.scale + self.shift) / divisor);
        }
    }
}
