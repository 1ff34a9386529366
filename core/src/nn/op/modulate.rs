//! Scales, shifts and gates from a vector (Perez et al. 2018), as adaptive normalisations have them (Peebles & Xie 2023), and sums.

use super::{MAX_INPUTS, Shape, ShapeError};

/// `out = x * (factor + scale) + shift + residual`: scale and shift are values of the vector for each channel, the same for all pixels.
///
/// Inputs: `x` `[h, w, c]`; the `vector` `[1, 1, n]`, present if there is a scale or a shift; optional `residual` `[h, w, c]`. An absent
/// scale, shift or residual is 0: with a factor of 1 and nothing but a residual this is a sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Modulate {
    /// Added to the scales.
    pub factor: f32,
    /// The value of the vector that is the first channel's scale.
    pub scale: Option<u32>,
    /// The value of the vector that is the first channel's shift.
    pub shift: Option<u32>,
}

impl Modulate {
    /// The sum of `x` and the residual.
    pub const SUM: Self = Self { factor: 1.0, scale: None, shift: None };

    pub(super) fn shape(&self, x: [Option<Shape>; MAX_INPUTS]) -> Result<Shape, ShapeError> {
        let Some(x0) = x[0] else {
            return Err(ShapeError::Operands);
        };
        let starts = [self.scale, self.shift];
        match x[1] {
            Some(v) if v != Shape::vector(v.c) => return Err(ShapeError::Mismatch(v, Shape::vector(v.c))),
            Some(v) if starts.iter().flatten().any(|&s| s.checked_add(x0.c).is_none_or(|end| end > v.c)) => {
                return Err(ShapeError::Parameter);
            }
            // A vector that nothing takes, or what lacks its vector.
            vector if vector.is_some() != starts.iter().any(Option::is_some) => return Err(ShapeError::Operands),
            _ => {}
        }
        match x[2] {
            Some(r) if r != x0 => Err(ShapeError::Mismatch(r, x0)),
            _ => Ok(x0),
        }
    }

    /// The twin. `c`: channels of a pixel.
    pub fn run(&self, x: &[f32], vector: Option<&[f32]>, residual: Option<&[f32]>, c: u32, out: &mut [f32]) {
        let c = (c as usize).max(1);
        let part = |first: Option<u32>, i: usize| {
            vector.zip(first).and_then(|(v, first)| v.get(first as usize + i)).copied().unwrap_or(0.0)
        };
        for (p, (x, out)) in x.chunks_exact(c).zip(out.chunks_exact_mut(c)).enumerate() {
            let residual = residual.and_then(|r| r.get(p * c..));
            for (i, (x, out)) in x.iter().zip(out).enumerate() {
                let added = residual.and_then(|r| r.get(i)).copied().unwrap_or(0.0);
                *out = x * (self.factor + part(self.scale, i)) + part(self.shift, i) + added;
            }
        }
    }
}
