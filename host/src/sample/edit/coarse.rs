//! What of an image is coarse: it made smaller and large again (Choi et al. 2021, "ILVR", section 3.1), both with Keys' cubic filter.

use crate::error::Result;
use crate::image::bicubic;

/// A low-pass filter of images of some size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coarse {
    /// Rows and columns.
    pub(super) size: [u32; 2],
    /// Pixels along a side that become one; it divides both.
    pub(super) factor: u32,
}

impl Coarse {
    /// The coarse part of planes `[h, w]` of `values`.
    ///
    /// # Errors
    /// Too little memory.
    pub(super) fn of(self, values: &[f32]) -> Result<Vec<f32>> {
        let small = self.size.map(|side| (side / self.factor.max(1)).max(1));
        let round = |v: f64| v as f32;
        bicubic(&bicubic(values, self.size, small, round)?, small, self.size, round)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_even_is_coarse_and_what_alternates_is_not() {
        let coarse = Coarse { size: [8, 16], factor: 4 };
        let even = coarse.of(&[0.5; 256]).unwrap();
        assert!(even.len() == 256 && even.iter().all(|v| (v - 0.5).abs() < 1e-6), "{even:?}");
        let board: Vec<f32> = (0..128).map(|i| if (i / 16 + i) % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let left = coarse.of(&board).unwrap();
        assert!(left.iter().all(|v| v.abs() < 0.05), "{left:?}");
    }
}
