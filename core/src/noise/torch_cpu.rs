//! The stream that torch's CPU generator draws.

use core::f64::consts::TAU;

use super::{Mt19937, Noise, NoiseError, cephes, gnu};
use crate::math;

/// How torch was built, or what its processor can do: the same uniform values become normal values that differ in their
/// last bits (and by more where a sine or cosine is almost 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TorchBuild {
    /// On x86-64 with AVX2, so on almost every computer: approximations in vectors of eight.
    #[default]
    Avx2,
    /// On AArch64, and on x86-64 with `ATEN_CPU_CAPABILITY=default`: the C library's functions, here those of GNU/Linux.
    Scalar,
}

/// The noise of `torch.randn([n, c, h, w], generator=torch.Generator("cpu").manual_seed(seed))`, one such tensor a draw, in
/// the order of the draws: what diffusers uses when it is given one CPU generator for a run, in f32.
///
/// The words are mt19937's of `seed` modulo 2^32. Let `size` be n * c * h * w.
/// - From 16 values on, a draw takes `size` uniform values ([`Mt19937::uniform`]) in order, and in each block of 16 the
///   uniform values a (number j, below 8) and b (number j + 8) become
///   `r = sqrt(-2 * ln(1 - a))`, `angle = 2 pi * b`, `z[j] = r * cos(angle)`, `z[j + 8] = r * sin(angle)`. If `size` is no
///   multiple of 16, the draw takes 16 uniform values more, which make its last 16 values anew. In f32.
/// - Below 16 values, pairs of f64 uniform values ([`Mt19937::wide_uniform`]) a and b become
///   `r = sqrt(-2 * ln(1 - b))`, `angle = 2 pi * a`, `r * cos(angle)` and then `r * sin(angle)`; the second value of a pair
///   is kept for the next draw. In f64, rounded once.
///
/// (torch 2.15, `ATen/native/cpu/DistributionTemplates.h`, `ATen/core/DistributionsHelper.h`.)
///
/// Both builds are matched to the bit, in the normal values too.
///
/// Any order of images and draws gives the same values. In the order of the stream it costs no memory and no time; going
/// back starts again from the seed, and going forward passes over what lies between.
///
/// ```
/// use unfog_core::noise::{Noise, TorchCpu};
/// // torch.randn([1, 1, 4, 4], generator=torch.Generator().manual_seed(0))[0, 0, 0]
/// let mut noise = TorchCpu::new(0, 0, 1, 16);
/// let mut image = [0.0; 16];
/// noise.fill(0, 0, &mut image)?;
/// assert_eq!(image[..3], [-1.1258398, -1.1523602, -0.25057858]);
/// # Ok::<(), unfog_core::noise::NoiseError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TorchCpu {
    seed: u32,
    first: u64,
    images: usize,
    len: usize,
    build: TorchBuild,
    words: Mt19937,
    /// Words that were taken from `words`.
    taken: u64,
    /// The latest values, and the number of the word that they start from.
    block: [f32; BLOCK],
    block_word: Option<u64>,
    /// Words that others took before.
    before: u64,
}

const BLOCK: usize = 16;

impl TorchCpu {
    /// The noise of a run of `images` images of `len` values each, the first of which is image number `first` of the run, as
    /// torch draws it on x86-64 with AVX2. (The seed counts modulo 2^32, as it does in torch.)
    pub const fn new(seed: u64, first: u64, images: usize, len: usize) -> Self {
        let seed = seed as u32;
        Self {
            seed,
            first,
            images,
            len,
            build: TorchBuild::Avx2,
            words: Mt19937::new(seed),
            taken: 0,
            block: [0.0; BLOCK],
            block_word: None,
            before: 0,
        }
    }

    /// The same as another build of torch draws it.
    #[must_use]
    pub const fn build(mut self, build: TorchBuild) -> Self {
        self.build = build;
        self.block_word = None;
        self
    }

    /// The same after `words` words of the stream, which draws of other sizes have taken ([`TorchCpu::words`]).
    #[must_use]
    pub const fn after(mut self, words: u64) -> Self {
        self.before = words;
        self.block_word = None;
        self
    }

    /// How many words of the stream so many draws take; `None` for more than can be counted. (Of draws below 16 values, with the word pairs
    /// that are only begun.)
    pub fn words(&self, draws: u32) -> Option<u64> {
        let size = (self.len as u64).checked_mul(self.images as u64).filter(|&size| size <= 1 << 56)?;
        match size < BLOCK as u64 {
            true => (size * u64::from(draws)).div_ceil(2).checked_mul(4),
            false => (size + tail(size)).checked_mul(u64::from(draws)),
        }
    }

    /// Goes to a word of the stream.
    fn seek(&mut self, word: u64) {
        if word < self.taken {
            (self.words, self.taken) = (Mt19937::new(self.seed), 0);
        }
        self.words.skip(word - self.taken);
        self.taken = word;
    }

    /// The 16 values that the 16 words from `word` on become.
    fn sixteen(&mut self, word: u64) -> &[f32; BLOCK] {
        if self.block_word != Some(word) {
            self.seek(word);
            let uniform: [f32; BLOCK] = core::array::from_fn(|_| self.words.uniform());
            self.taken += BLOCK as u64;
            for j in 0..BLOCK / 2 {
                let (a, b) = (1.0 - uniform[j], uniform[j + BLOCK / 2]);
                [self.block[j], self.block[j + BLOCK / 2]] = match self.build {
                    TorchBuild::Avx2 => {
                        let radius = math::sqrt(-2.0 * cephes::ln(a));
                        let [sin, cos] = cephes::sin_cos(core::f32::consts::TAU * b);
                        [radius * cos, radius * sin]
                    }
                    TorchBuild::Scalar => {
                        let radius = math::sqrt(-2.0 * gnu::ln(a));
                        let [sin, cos] = gnu::sin_cos((TAU * f64::from(b)) as f32);
                        [radius * cos, radius * sin]
                    }
                };
            }
            self.block_word = Some(word);
        }
        &self.block
    }

    /// The two values that the four words from `word` on become.
    fn pair(&mut self, word: u64) -> [f32; 2] {
        if self.block_word != Some(word) {
            self.seek(word);
            let (a, b) = (self.words.wide_uniform(), self.words.wide_uniform());
            self.taken += 4;
            let radius = math::wide::sqrt(-2.0 * math::wide::ln_1p(-b));
            self.block[0] = (radius * math::wide::cos(TAU * a)) as f32;
            self.block[1] = (radius * math::wide::sin(TAU * a)) as f32;
            self.block_word = Some(word);
        }
        [self.block[0], self.block[1]]
    }
}

/// Uniform values that a draw of so many values takes more, to make its last 16 anew.
const fn tail(size: u64) -> u64 {
    if size.is_multiple_of(BLOCK as u64) { 0 } else { BLOCK as u64 }
}

impl Noise for TorchCpu {
    fn fill(&mut self, image: u64, draw: u32, out: &mut [f32]) -> Result<(), NoiseError> {
        if out.len() != self.len {
            return Err(NoiseError::Length { needed: out.len(), given: self.len });
        }
        let missing = NoiseError::Missing { image, draw };
        let image = image.checked_sub(self.first).filter(|&i| i < self.images as u64).ok_or(missing)?;
        let (len, images) = (self.len as u64, self.images as u64);
        // Far below 2^64 for anything that fits a memory; what doesn't is refused.
        let size = len.checked_mul(images).filter(|&size| size <= 1 << 56).ok_or(NoiseError::TooLarge)?;
        let tail = tail(size);
        let end = (size + tail).checked_mul(u64::from(draw) + 1).ok_or(NoiseError::TooLarge)?;
        let start = self.before.checked_add(end - (size + tail)).ok_or(NoiseError::TooLarge)?;
        let before = self.before;
        for (element, out) in (image * len..).zip(out) {
            *out = if size < BLOCK as u64 {
                let value = u64::from(draw) * size + element;
                self.pair(before + value / 2 * 4)[(value % 2) as usize]
            } else if element < size - tail {
                self.sixteen(start + element / BLOCK as u64 * BLOCK as u64)[element as usize % BLOCK]
            } else {
                self.sixteen(start + size)[(element + tail - size) as usize]
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_of_the_run_is_refused() {
        let mut noise = TorchCpu::new(1, 5, 2, 20);
        let mut out = [0.0; 20];
        for image in [0, 4, 7, u64::MAX] {
            assert_eq!(noise.fill(image, 3, &mut out), Err(NoiseError::Missing { image, draw: 3 }));
        }
        assert_eq!(noise.fill(5, 0, &mut [0.0; 19]), Err(NoiseError::Length { needed: 19, given: 20 }));
        assert_eq!(TorchCpu::new(1, 0, usize::MAX, 20).fill(0, 0, &mut out), Err(NoiseError::TooLarge));
        assert_eq!(TorchCpu::new(1, 0, 1, 0).fill(0, 0, &mut []), Ok(()));
    }

    /// Draws of one size follow those of another: torch.Generator().manual_seed(7), then torch.randn of 20 values, twice, of 4, three times, and of 32.
    #[test]
    fn the_stream_goes_on_after_draws_of_other_sizes() {
        let first = TorchCpu::new(7, 0, 1, 20);
        let words = first.words(2).unwrap();
        assert_eq!(words, 2 * (20 + 16));
        let second = TorchCpu::new(7, 0, 1, 4).after(words);
        // Six pairs of four words each.
        let words = words + second.words(3).unwrap();
        assert_eq!(words, 72 + 24);
        let mut out = [0.0; 32];
        TorchCpu::new(7, 0, 1, 32).after(words).fill(0, 0, &mut out).unwrap();
        assert_eq!(out[..3], [-0.536_822_44, 0.828_882_63, 1.057_069_8]);
        let mut out = [0.0; 4];
        TorchCpu::new(7, 0, 1, 4).after(72).fill(0, 2, &mut out).unwrap();
        assert_eq!(out[..3], [0.107_241_46, 0.612_516_6, 0.329_645_43]);
        assert_eq!(TorchCpu::new(7, 0, usize::MAX, 20).words(1), None);
    }

    #[test]
    fn only_32_bits_of_the_seed_count() {
        let values = |seed| {
            let mut out = [0.0; 17];
            TorchCpu::new(seed, 0, 1, 17).fill(0, 1, &mut out).unwrap();
            out
        };
        assert_eq!(values(9), values((1 << 40) + 9));
        assert_ne!(values(9), values(10));
    }

    #[test]
    fn the_builds_differ_in_rounding_alone() {
        let values = |build| {
            let mut out = [0.0; 4096];
            TorchCpu::new(3, 0, 1, 4096).build(build).fill(0, 0, &mut out).unwrap();
            out
        };
        let (avx2, scalar) = (values(TorchBuild::Avx2), values(TorchBuild::Scalar));
        assert_ne!(avx2, scalar);
        // Angles up to 2 pi are rounded by up to 2.4e-7, which a radius of up to 5.8 passes on.
        assert!(avx2.iter().zip(scalar).all(|(a, s)| (a - s).abs() < 5e-6));
    }
}
