//! Noise that is spread evenly over the images of a batch.

use super::{Noise, NoiseError, philox::box_muller, philox4x32};

/// Low-discrepancy noise: the images of a seed cover what noise can be more evenly than independent ones do, so that means
/// over a batch (and what a user sees of the variety of a few pictures) settle sooner. Each image alone is distributed
/// exactly as with [`super::Philox`].
///
/// Image 0 is that of [`super::Philox`]. Image i takes the same pairs of words (a, b) and moves them by i steps of Roberts'
/// sequence R2 (Roberts 2018; a Kronecker sequence, shifted for each pair at random as by Cranley and Patterson 1976):
/// `a + i * A`, `b + i * B` modulo 2^32, where A / 2^32 is 1 / p, B / 2^32 is 1 / p^2, each to the nearest odd number, and
/// p = 1.3247... is the real root of p^3 = p + 1. Box and Muller's transform follows. A step modulo 2^32 is one-to-one, so
/// the words of each image are as uniform and independent of one another as those of image 0 are; words of different images
/// aren't independent, and shouldn't be. The steps repeat after 2^32 images, and then the cipher's counter moves on.
///
/// ```
/// use unfog_core::noise::{Lattice, Noise};
/// // The mean of 64 images in one pixel: about 1/8 for independent noise.
/// let mut sum = 0.0;
/// for image in 0..64 {
///     let mut value = [0.0];
///     Lattice::new(1).fill(image, 0, &mut value)?;
///     sum += value[0];
/// }
/// assert!((sum / 64.0).abs() < 0.05);
/// # Ok::<(), unfog_core::noise::NoiseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lattice {
    key: [u32; 2],
}

const STEP_A: u32 = 3_242_174_889;
const STEP_B: u32 = 2_447_445_413;

impl Lattice {
    /// The noise of a seed.
    pub const fn new(seed: u64) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32] }
    }
}

impl Noise for Lattice {
    fn fill(&mut self, image: u64, draw: u32, out: &mut [f32]) -> Result<(), NoiseError> {
        if out.len() as u64 > 1 << 32 {
            return Err(NoiseError::TooLarge);
        }
        let (low, high) = (image as u32, (image >> 32) as u32);
        let (step_a, step_b) = (low.wrapping_mul(STEP_A), low.wrapping_mul(STEP_B));
        for (block, four) in out.chunks_mut(4).enumerate() {
            let words = philox4x32([block as u32, draw, 0, high], self.key);
            for (pair, out) in words.chunks_exact(2).zip(four.chunks_mut(2)) {
                let normals = box_muller(pair[0].wrapping_add(step_a), pair[1].wrapping_add(step_b));
                out.iter_mut().zip(normals).for_each(|(o, v)| *o = v);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Philox;

    #[test]
    fn the_steps_are_those_of_the_plastic_number() {
        let p = (0..100).fold(1.3_f64, |p, _| (p + 1.0).cbrt());
        for (step, value) in [(STEP_A, 1.0 / p), (STEP_B, 1.0 / (p * p))] {
            assert!(
                step % 2 == 1 && (f64::from(step) - value * 2_f64.powi(32)).abs() <= 1.0,
                "{step} {}",
                value * 2_f64.powi(32)
            );
        }
    }

    #[test]
    fn image_0_is_that_of_philox() {
        let (mut a, mut b) = ([0.0; 11], [0.0; 11]);
        for draw in [0, 3] {
            Lattice::new(77).fill(0, draw, &mut a).unwrap();
            Philox::new(77).fill(0, draw, &mut b).unwrap();
            assert_eq!(a, b);
        }
        let mut same = a;
        Lattice::new(77).fill(1 << 32, 3, &mut same).unwrap();
        assert_ne!(a, same);
    }

    /// Mean, variance, fourth moment of many values, and the correlation of neighbours.
    fn moments(values: &[f32]) -> [f64; 4] {
        let mean = |f: &dyn Fn(usize) -> f64| (0..values.len()).map(f).sum::<f64>() / values.len() as f64;
        let v = |i: usize| f64::from(values[i % values.len()]);
        [mean(&v), mean(&|i| v(i).powi(2)), mean(&|i| v(i).powi(4)), mean(&|i| v(i) * v(i + 1))]
    }

    #[test]
    fn each_image_is_standard_normal() {
        const COUNT: usize = 1 << 14;
        let five = 5.0 / (COUNT as f64).sqrt();
        for image in [1, 2, 63, 1000, u64::MAX] {
            let mut values = std::vec![0.0; COUNT];
            Lattice::new(5).fill(image, 0, &mut values).unwrap();
            let [mean, square, fourth, neighbours] = moments(&values);
            // Five standard errors of each.
            assert!(mean.abs() < five && (square - 1.0).abs() < five * 2_f64.sqrt(), "{image}: {mean} {square}");
            assert!(
                (fourth - 3.0).abs() < five * 96_f64.sqrt() && neighbours.abs() < five,
                "{image}: {fourth} {neighbours}"
            );
        }
    }

    #[test]
    fn means_over_a_batch_settle_sooner() {
        // The variance over pixels of the mean over the batch: 1 / images for independent noise.
        for (images, gain) in [(4, 2.0), (16, 4.0), (64, 8.0)] {
            let mut sums = std::vec![0.0_f64; 4096];
            let mut squares = sums.clone();
            for image in 0..images {
                let mut values = [0.0; 4096];
                Lattice::new(8).fill(image, 0, &mut values).unwrap();
                values.iter().zip(sums.iter_mut().zip(&mut squares)).for_each(|(&v, (sum, square))| {
                    *sum += f64::from(v);
                    *square += f64::from(v).powi(2);
                });
            }
            let n = images as f64;
            let of_mean = sums.iter().map(|s| (s / n).powi(2)).sum::<f64>() / 4096.0;
            let of_square = squares.iter().map(|s| (s / n - 1.0).powi(2)).sum::<f64>() / 4096.0;
            std::println!(
                "{images} images: mean {:.1}, second moment {:.1} times less variance",
                1.0 / n / of_mean,
                2.0 / n / of_square
            );
            assert!(of_mean * gain < 1.0 / n, "{images}: {}", 1.0 / n / of_mean);
            // The second moment of independent values has a variance of 2 / images.
            assert!(of_square < 2.0 / n, "{images}: {}", 2.0 / n / of_square);
        }
    }
}
