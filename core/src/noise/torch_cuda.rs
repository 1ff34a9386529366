//! The stream that torch's CUDA generator draws.

use core::f32::consts::TAU;

use super::{Noise, NoiseError, gnu, philox4x32};
use crate::math;

/// The noise of `torch.randn([n, c, h, w], device="cuda", generator=torch.Generator("cuda").manual_seed(seed))`, one such
/// tensor a draw, in the order of the draws, in f32. Computed on the processor; no GPU is asked.
///
/// torch starts a grid of at most `threads` threads over the n * c * h * w values. With all values in one grid, thread e makes
/// value e from the first of the four outputs of its counter; a larger tensor is walked in strides of the grid, four
/// outputs to a counter (torch 2.15, `ATen/native/cuda/DistributionTemplates.h`, `calc_execution_policy` and
/// `distribution_elementwise_grid_stride_kernel`). Let `grid` be the values rounded up to a multiple of 256, at most
/// `threads`, and a draw's `calls` be the values divided by 4 * `grid`, rounded up. Then value e has thread `e % grid` and
/// turn `e / grid`; its cipher is Philox4x32-10 with the seed as key, low half first, and the counter
/// `[c, c >> 32, thread, 0]`, `c = draw * calls + turn / 4` (`curand_init`: the thread is the subsequence, a quarter of
/// torch's offset is c); from the four words w, `turn % 4` chooses `s * sin(v)`, `s * cos(v)` of `w[0]`, `w[1]`, then those of
/// `w[2]`, `w[3]`, where for a pair (a, b) in f32 `s = sqrt(-2 * ln(a * 2^-32 + 2^-33))` and
/// `v = 2 pi * (b * 2^-32 + 2^-33)` (`curand_normal.h`).
///
/// The words are those of the GPU to the bit. The values are those of cuRAND's code on a processor under GNU/Linux; a GPU takes
/// its fast sine and cosine, which are off by up to some 2^-21, so that values there differ in their last bits.
///
/// ```
/// use unfog_core::noise::{Noise, TorchCuda};
/// // torch.randn([3, 4], device="cuda") of seed 0 begins -0.92466259 -0.42534415 -2.6438457.
/// let mut noise = TorchCuda::new(0, 0, 1, 12);
/// let mut image = [0.0; 12];
/// noise.fill(0, 0, &mut image)?;
/// assert!((image[0] + 0.924_662_6).abs() < 1e-6 && (image[2] + 2.643_845_7).abs() < 2e-6);
/// # Ok::<(), unfog_core::noise::NoiseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TorchCuda {
    key: [u32; 2],
    first: u64,
    images: usize,
    len: usize,
    threads: u64,
}

/// Threads of a block.
const BLOCK: u64 = 256;

/// Most values of one launch: above 2^31 bytes torch splits a tensor and draws otherwise.
const MAX_SIZE: u64 = 1 << 29;

impl TorchCuda {
    /// The noise of a run of `images` images of `len` values each, the first of which is image number `first` of the run,
    /// on a GPU whose grid holds all values of a draw.
    pub const fn new(seed: u64, first: u64, images: usize, len: usize) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], first, images, len, threads: u64::MAX }
    }

    /// The same on a GPU of so many multiprocessors, each of which holds so many threads (`multiProcessorCount` and
    /// `maxThreadsPerMultiProcessor`, 2048, 1536 or 1024): what matters to draws of more values than their product.
    #[must_use]
    pub const fn on(mut self, multiprocessors: u32, threads_each: u32) -> Self {
        let blocks = multiprocessors as u64 * (threads_each as u64 / BLOCK);
        self.threads = if blocks == 0 { BLOCK } else { blocks * BLOCK };
        self
    }

    /// Value `element` of a draw of `size` values.
    fn value(&self, size: u64, draw: u32, element: u64) -> f32 {
        let grid = size.next_multiple_of(BLOCK).min(self.threads);
        let (thread, turn) = (element % grid, element / grid);
        let counter = u64::from(draw) * size.div_ceil(4 * grid) + turn / 4;
        let words = philox4x32([counter as u32, (counter >> 32) as u32, thread as u32, 0], self.key);
        let pair = turn as usize % 4 / 2 * 2;
        let [sin, cos] = normals(words[pair], words[pair + 1]);
        if turn % 2 == 0 { sin } else { cos }
    }
}

impl Noise for TorchCuda {
    fn fill(&mut self, image: u64, draw: u32, out: &mut [f32]) -> Result<(), NoiseError> {
        if out.len() != self.len {
            return Err(NoiseError::Length { needed: out.len(), given: self.len });
        }
        let missing = NoiseError::Missing { image, draw };
        let image = image.checked_sub(self.first).filter(|&i| i < self.images as u64).ok_or(missing)?;
        let size = (self.len as u64).checked_mul(self.images as u64);
        let size = size.filter(|&size| size <= MAX_SIZE).ok_or(NoiseError::TooLarge)?;
        for (element, out) in (image * self.len as u64..).zip(out) {
            *out = self.value(size, draw, element);
        }
        Ok(())
    }
}

/// cuRAND's `_curand_box_muller`, sine first. The angle is one fused product and sum, as the GPU computes it.
fn normals(a: u32, b: u32) -> [f32; 2] {
    const TWO_POW_MINUS_32: f32 = 1.0 / (1_u64 << 32) as f32;
    const TURN: f32 = TWO_POW_MINUS_32 * TAU;
    let uniform = a as f32 * TWO_POW_MINUS_32 + TWO_POW_MINUS_32 / 2.0;
    let angle = math::mul_add(b as f32, TURN, TURN / 2.0);
    let radius = math::sqrt(-2.0 * gnu::ln(uniform));
    let [sin, cos] = gnu::sin_cos(angle);
    [radius * sin, radius * cos]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_that_were_seen_on_a_gpu() {
        // torch.randn([3, 4]) on CUDA with seed 0, as published with AUTOMATIC1111's stable-diffusion-webui.
        #[rustfmt::skip]
        let seen = [
            -0.924_662_59, -0.425_344_15, -2.643_845_7, 0.145_183_88, -0.120_866_47, -0.579_725_64,
            -0.622_851_22, -0.328_387_09, -1.074_542_31, -0.363_144_07, -1.671_050_67, 2.265_504_97_f64,
        ];
        let mut values = [0.0; 12];
        TorchCuda::new(0, 0, 1, 12).fill(0, 0, &mut values).unwrap();
        for (value, seen) in values.into_iter().zip(seen) {
            // A GPU's fast sine and cosine are off by up to some 2^-21, times a radius of at most 2.7.
            assert!((f64::from(value) - seen).abs() < 1.3e-6, "{value} {seen}");
        }
    }

    #[test]
    fn a_grid_that_is_too_small_is_walked_in_strides() {
        // Two multiprocessors of 512 threads: a grid of 1024. Value e of 5000 has thread e % 1024 and turn e / 1024.
        let (size, mut values) = (5000, [0.0; 5000]);
        let mut noise = TorchCuda::new(3, 0, 1, size).on(2, 512);
        noise.fill(0, 7, &mut values).unwrap();
        for (element, turn, thread) in
            [(0, 0, 0), (1023, 0, 1023), (1024, 1, 0), (2050, 2, 2), (3080, 3, 8), (4999, 4, 903)]
        {
            // Each draw takes two counters a thread, since 5000 is above 4 * 1024.
            let words = philox4x32([7 * 2 + turn / 4, 0, thread, 0], [3, 0]);
            let pair = turn as usize % 4 / 2 * 2;
            let expected = normals(words[pair], words[pair + 1])[turn as usize % 2];
            assert_eq!(values[element], expected, "{element}");
        }
        // A grid that is large enough changes nothing.
        let (mut small, mut large) = ([0.0; 1000], [0.0; 1000]);
        TorchCuda::new(3, 0, 1, 1000).on(2, 512).fill(0, 1, &mut small).unwrap();
        TorchCuda::new(3, 0, 1, 1000).fill(0, 1, &mut large).unwrap();
        assert_eq!(small, large);
    }

    #[test]
    fn a_batch_is_one_tensor() {
        let (mut whole, mut part) = ([0.0; 300], [0.0; 100]);
        TorchCuda::new(5, 0, 1, 300).fill(0, 2, &mut whole).unwrap();
        let mut noise = TorchCuda::new(5, 40, 3, 100);
        for image in 0..3 {
            noise.fill(40 + image as u64, 2, &mut part).unwrap();
            assert_eq!(part, whole[image * 100..][..100]);
        }
        assert_eq!(noise.fill(39, 0, &mut part), Err(NoiseError::Missing { image: 39, draw: 0 }));
        assert_eq!(noise.fill(43, 0, &mut part), Err(NoiseError::Missing { image: 43, draw: 0 }));
        assert_eq!(noise.fill(40, 0, &mut [0.0; 99]), Err(NoiseError::Length { needed: 99, given: 100 }));
        assert_eq!(TorchCuda::new(0, 0, 1 << 28, 100).fill(0, 0, &mut part), Err(NoiseError::TooLarge));
        assert_eq!(TorchCuda::new(0, 0, usize::MAX, 100).fill(0, 0, &mut part), Err(NoiseError::TooLarge));
        assert_eq!(TorchCuda::new(0, 0, 1, 0).fill(0, 0, &mut []), Ok(()));
        assert_eq!(TorchCuda::new(0, 0, 1, 100).on(0, 0).fill(0, u32::MAX, &mut part), Ok(()));
    }
}
