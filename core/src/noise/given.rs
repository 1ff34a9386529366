//! Noise out of a file, or from another program.

use super::{Noise, NoiseError};

/// Noise that somebody else drew: `[draws, images, len]` values. Nothing random is generated; draws that a run doesn't ask
/// for are ignored.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    values: &'a [f32],
    first: u64,
    images: usize,
    len: usize,
}

impl<'a> Given<'a> {
    /// Noise for `images` images of `len` values each, the first of which is image number `first` of the run.
    ///
    /// ```
    /// use unfog_core::noise::{Given, Noise, NoiseError};
    /// let two_draws = [1.0, 2.0, 3.0, 4.0];
    /// let mut noise = Given::new(&two_draws, 0, 1, 2);
    /// let mut image = [0.0; 2];
    /// noise.fill(0, 1, &mut image)?;
    /// assert_eq!(image, [3.0, 4.0]);
    /// assert_eq!(noise.fill(0, 2, &mut image), Err(NoiseError::Missing { image: 0, draw: 2 }));
    /// # Ok::<(), NoiseError>(())
    /// ```
    pub const fn new(values: &'a [f32], first: u64, images: usize, len: usize) -> Self {
        Self { values, first, images, len }
    }

    fn find(&self, image: u64, draw: u32) -> Option<&'a [f32]> {
        let image = usize::try_from(image.checked_sub(self.first)?).ok().filter(|&i| i < self.images)?;
        let start = (draw as usize).checked_mul(self.images)?.checked_add(image)?.checked_mul(self.len)?;
        self.values.get(start..start.checked_add(self.len)?)
    }
}

impl Noise for Given<'_> {
    fn fill(&mut self, image: u64, draw: u32, out: &mut [f32]) -> Result<(), NoiseError> {
        if out.len() != self.len {
            return Err(NoiseError::Length { needed: out.len(), given: self.len });
        }
        out.copy_from_slice(self.find(image, draw).ok_or(NoiseError::Missing { image, draw })?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_noise_is_found_or_refused() {
        let values: std::vec::Vec<f32> = (0..12).map(|v| v as f32).collect();
        // Two draws, images 5 and 6 and 7, two values each.
        let mut noise = Given::new(&values, 5, 3, 2);
        let mut out = [0.0; 2];
        noise.fill(6, 1, &mut out).unwrap();
        assert_eq!(out, [8.0, 9.0]);
        for (image, draw) in [(4, 0), (8, 0), (5, 2), (u64::MAX, 0), (5, u32::MAX)] {
            assert_eq!(noise.fill(image, draw, &mut out), Err(NoiseError::Missing { image, draw }));
        }
        let wrong = noise.fill(5, 0, &mut [0.0; 3]);
        assert_eq!(wrong, Err(NoiseError::Length { needed: 3, given: 2 }));
    }
}
