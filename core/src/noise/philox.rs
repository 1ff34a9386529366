//! The default noise: a cipher over addresses.

use super::{Noise, NoiseError};
use crate::math;

/// Counter-based noise: Philox4x32-10 (Salmon et al. 2011), then Box and Muller's transform.
///
/// The value of (seed, image, draw, element) is made so: the key is the seed, low half first; the counter is
/// `[element / 4, draw, image low, image high]`; the cipher gives four words, `w[0]` and `w[1]` for lanes 0 and 1,
/// `w[2]` and `w[3]` for lanes 2 and 3; `element % 4` is the lane. From a pair (a, b), in f32 and with this crate's
/// [`math`]: `r = sqrt(-2 * ln(a * 2^-32 + 2^-33))`, `angle = 2 pi * ((b >> 8) * 2^-24)`, the even lane is
/// `r * cos(angle)`, the odd one `r * sin(angle)`. The largest magnitude is 6.77.
///
/// ```
/// use unfog_core::noise::{Noise, Philox};
/// let mut noise = Philox::new(7);
/// let mut image = [0.0; 6];
/// noise.fill(0, 0, &mut image)?;
/// assert_eq!(image[5], noise.value(0, 0, 5));
/// # Ok::<(), unfog_core::noise::NoiseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Philox {
    key: [u32; 2],
}

impl Philox {
    /// The noise of a seed.
    pub const fn new(seed: u64) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32] }
    }

    /// One value.
    pub fn value(&self, image: u64, draw: u32, element: u32) -> f32 {
        self.four(image, draw, element / 4)[element as usize % 4]
    }

    /// Elements `4 * block` to `4 * block + 3`.
    pub(super) fn four(&self, image: u64, draw: u32, block: u32) -> [f32; 4] {
        let [a, b, c, d] = philox4x32([block, draw, image as u32, (image >> 32) as u32], self.key);
        let ([w, x], [y, z]) = (box_muller(a, b), box_muller(c, d));
        [w, x, y, z]
    }
}

impl Noise for Philox {
    fn fill(&mut self, image: u64, draw: u32, out: &mut [f32]) -> Result<(), NoiseError> {
        if out.len() as u64 > 1 << 32 {
            return Err(NoiseError::TooLarge);
        }
        for (block, four) in out.chunks_mut(4).enumerate() {
            let values = self.four(image, draw, block as u32);
            four.iter_mut().zip(values).for_each(|(o, v)| *o = v);
        }
        Ok(())
    }
}

/// The Philox4x32 cipher with 10 rounds: `counter` enciphered under `key`. Salmon et al. 2011, section 3.3.
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
    // The golden ratio and sqrt(3) - 1, as fractions of 2^32.
    const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
    let wide = |a: u32, b: u32| {
        let product = u64::from(a) * u64::from(b);
        ((product >> 32) as u32, product as u32)
    };
    let ([mut a, mut b, mut c, mut d], [mut k0, mut k1]) = (counter, key);
    for _ in 0..10 {
        let (high0, low0) = wide(MULTIPLIERS[0], a);
        let (high1, low1) = wide(MULTIPLIERS[1], c);
        [a, b, c, d] = [high1 ^ b ^ k0, low1, high0 ^ d ^ k1, low0];
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [a, b, c, d]
}

/// Two independent normal values from two random words. Box and Muller 1958.
pub(super) fn box_muller(a: u32, b: u32) -> [f32; 2] {
    const TWO_POW_MINUS_24: f32 = 1.0 / (1 << 24) as f32;
    const TWO_POW_MINUS_32: f32 = 1.0 / (1_u64 << 32) as f32;
    // From 2^-33 to 1: the logarithm is finite.
    let uniform = a as f32 * TWO_POW_MINUS_32 + TWO_POW_MINUS_32 / 2.0;
    let radius = math::sqrt(-2.0 * math::ln(uniform));
    let angle = core::f32::consts::TAU * ((b >> 8) as f32 * TWO_POW_MINUS_24);
    [radius * math::cos(angle), radius * math::sin(angle)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_answers() {
        // Random123, kat_vectors, the lines "philox4x32 10".
        let zero = [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8];
        assert_eq!(philox4x32([0; 4], [0; 2]), zero);
        let ones = [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd];
        assert_eq!(philox4x32([u32::MAX; 4], [u32::MAX; 2]), ones);
        let pi = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        let (counter, key) = ([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        assert_eq!(philox4x32(counter, key), pi);
    }

    #[test]
    fn values_follow_the_documented_mapping() {
        // In f64 with the standard library: what is left is f32 rounding of a value below 7.
        let (seed, image, draw) = (0x0123_4567_89ab_cdef_u64, 0xfedc_ba98_7654_3210_u64, 5);
        let noise = Philox::new(seed);
        for element in 0..1000_u32 {
            let w = philox4x32([element / 4, draw, 0x7654_3210, 0xfedc_ba98], [0x89ab_cdef, 0x0123_4567]);
            let pair = element as usize % 4 / 2 * 2;
            let (a, b) = (f64::from(w[pair]), f64::from(w[pair + 1] >> 8));
            let radius = (-2.0 * (a * 2_f64.powi(-32) + 2_f64.powi(-33)).ln()).sqrt();
            let (sin, cos) = (core::f64::consts::TAU * b * 2_f64.powi(-24)).sin_cos();
            let expected = radius * if element % 2 == 0 { cos } else { sin };
            let value = f64::from(noise.value(image, draw, element));
            assert!((value - expected).abs() < 4e-6, "{element}: {value} {expected}");
        }
    }

    #[test]
    fn the_extremes_are_finite() {
        assert_eq!(box_muller(u32::MAX, 0), [0.0, 0.0]);
        let [largest, _] = box_muller(0, 0);
        // sqrt(2 * 33 * ln 2), and from where the angle can't grow.
        assert!((largest - 6.763_7).abs() < 1e-3, "{largest}");
        assert!(box_muller(0, u32::MAX).into_iter().all(f32::is_finite));
    }

    #[test]
    fn values_are_standard_normal_and_independent() {
        const COUNT: usize = 1 << 16;
        let mut noise = Philox::new(2024);
        let (mut a, mut b) = (std::vec![0.0; COUNT], std::vec![0.0; COUNT]);
        noise.fill(3, 0, &mut a).unwrap();
        noise.fill(3, 1, &mut b).unwrap();
        let mean = |f: &dyn Fn(usize) -> f64| (0..COUNT).map(f).sum::<f64>() / COUNT as f64;
        let value = |i: usize| f64::from(a[i]);
        // Five standard errors of each: sqrt of 1, 2, 15 and 96 over the count for moments 1 to 4.
        let five = 5.0 / (COUNT as f64).sqrt();
        for (power, expected, spread) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0_f64)] {
            let moment = mean(&|i| value(i).powi(power));
            assert!((moment - expected).abs() < five * spread.sqrt(), "moment {power}: {moment}");
        }
        // Neighbours, lanes two apart, and the same element of the next draw don't go together.
        for correlation in [
            mean(&|i| value(i) * value((i + 1) % COUNT)),
            mean(&|i| value(i) * value((i + 2) % COUNT)),
            mean(&|i| value(i) * f64::from(b[i])),
        ] {
            assert!(correlation.abs() < five, "{correlation}");
        }
        // 4.55 % lie beyond two standard deviations.
        let beyond = mean(&|i| f64::from(u8::from(value(i).abs() > 2.0)));
        assert!((beyond - 0.0455).abs() < five * 0.0455_f64.sqrt(), "{beyond}");
    }

    #[test]
    fn an_address_is_all_that_matters() {
        let mut noise = Philox::new(9);
        let mut whole = [0.0; 13];
        noise.fill(1, 2, &mut whole).unwrap();
        let mut part = [0.0; 6];
        noise.fill(1, 2, &mut part).unwrap();
        assert_eq!(whole[..6], part);
        assert!((0..13).all(|e| noise.value(1, 2, e) == whole[e as usize]));
        for other in [noise.value(2, 2, 0), noise.value(1, 3, 0), Philox::new(10).value(1, 2, 0)] {
            assert_ne!(other, whole[0]);
        }
        assert_ne!(noise.value(1 << 32, 0, 0), noise.value(0, 0, 0));
        assert_ne!(Philox::new(1 << 32).value(0, 0, 0), Philox::new(0).value(0, 0, 0));
    }

    #[test]
    fn bits_stay_as_they_are() {
        // A change of this hash (FNV-1a) changes every picture of every seed.
        let mut noise = Philox::new(42);
        let mut values = [0.0; 4096];
        noise.fill(0, 0, &mut values).unwrap();
        let bytes = values.iter().flat_map(|v| v.to_le_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        assert_eq!(hash, 0x9df6_a65c_6151_26a9, "{hash:#x}");
    }
}
