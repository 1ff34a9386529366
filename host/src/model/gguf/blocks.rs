//! Values in blocks of few bits, as ggml packs them (`ggml-quants.c`): read as the floats that they stand for.
//!
//! | type | values of a block | bytes | a value |
//! | --- | --- | --- | --- |
//! | Q4_0, Q5_0, Q8_0 | 32 | 18, 22, 34 | d (q - 8), d (q - 16), d q |
//! | Q4_1, Q5_1 | 32 | 20, 24 | d q + m |
//! | Q4_K, Q5_K | 256 | 144, 176 | d s q - m t, with 6-bit s and t for each 32 |
//! | Q6_K | 256 | 210 | d s (q - 32), with 8-bit s for each 16 |

use unfog_core::nn::weights::{f16_to_f32, f32_to_f16};

use crate::error::Result;
use crate::memory;

/// A type of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocks {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// The most values of a block.
const MOST: usize = 256;

impl Blocks {
    /// The type with this number in a file.
    pub(super) fn of(number: u32) -> Option<Self> {
        Some(match number {
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            _ => return None,
        })
    }

    /// Values of a block.
    pub(super) fn values(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => MOST,
        }
    }

    /// Bytes of a block.
    pub(in super::super) fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// The `count` values in `bytes` as half floats, or as floats where one of them is too large for that: words that hold them, and
    /// whether they are halves. A half float is off by 2^-12 of its value at most, far less than what the blocks have lost.
    ///
    /// # Errors
    /// Too little memory.
    pub(in super::super) fn read(self, bytes: &[u8], count: usize) -> Result<(Vec<u32>, bool)> {
        let mut words = memory::vec(count.div_ceil(2), 0_u32)?;
        let halves = &mut bytemuck::cast_slice_mut::<u32, u16>(&mut words)[..count];
        if self.each(bytes, halves, |value| f32_to_f16(value).filter(|_| value.is_finite())) {
            return Ok((words, true));
        }
        drop(words);
        let mut words = memory::vec(count, 0_u32)?;
        self.each(bytes, &mut words, |value| Some(value.to_bits()));
        Ok((words, false))
    }

    /// Fills `to` with what `convert` makes of each value; false as soon as it makes nothing of one.
    fn each<T>(self, bytes: &[u8], to: &mut [T], convert: impl Fn(f32) -> Option<T>) -> bool {
        let mut values = [0.0; MOST];
        let blocks = bytes.chunks_exact(self.bytes()).zip(to.chunks_mut(self.values()));
        for (block, to) in blocks {
            self.block(block, &mut values);
            for (to, value) in to.iter_mut().zip(values) {
                match convert(value) {
                    Some(value) => *to = value,
                    None => return false,
                }
            }
        }
        true
    }

    /// The values of one block.
    fn block(self, b: &[u8], y: &mut [f32; MOST]) {
        match self {
            Self::Q8_0 => {
                let d = half(b, 0);
                y.iter_mut().zip(&b[2..]).for_each(|(y, &q)| *y = d * f32::from(q as i8));
            }
            Self::Q4_0 => small(y, half(b, 0), -8.0, 0.0, &b[2..], 0),
            Self::Q4_1 => small(y, half(b, 0), 0.0, half(b, 2), &b[4..], 0),
            Self::Q5_0 => small(y, half(b, 0), -16.0, 0.0, &b[6..], word(b, 2)),
            Self::Q5_1 => small(y, half(b, 0), 0.0, half(b, 2), &b[8..], word(b, 4)),
            Self::Q4K => large(y, b, &b[16..], None),
            Self::Q5K => large(y, b, &b[48..], Some(&b[16..48])),
            Self::Q6K => six(y, b),
        }
    }
}

/// The half float at byte `at`.
fn half(b: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([b[at], b[at + 1]]))
}

fn word(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// A block of 32: the lower halves of 16 bytes, then the upper ones; `high` has a fifth bit for each.
fn small(y: &mut [f32; MOST], d: f32, shift: f32, min: f32, nibbles: &[u8], high: u32) {
    for i in 0..32 {
        let nibble = if i < 16 { nibbles[i] & 15 } else { nibbles[i - 16] >> 4 };
        let q = nibble | ((high >> i & 1) as u8) << 4;
        y[i] = d * (f32::from(q) + shift) + min;
    }
}

/// A block of 256 with a scale and a least value for each 32; `high` has a fifth bit for each value.
fn large(y: &mut [f32; MOST], b: &[u8], nibbles: &[u8], high: Option<&[u8]>) {
    let (d, min) = (half(b, 0), half(b, 2));
    let scales = &b[4..16];
    for (part, y) in y.chunks_exact_mut(32).enumerate() {
        let [s, m] = six_bits(scales, part);
        let (scale, least) = (d * f32::from(s), min * f32::from(m));
        for (i, y) in y.iter_mut().enumerate() {
            // 64 values in 32 bytes: the lower halves, then the upper ones.
            let byte = nibbles[part / 2 * 32 + i];
            let nibble = if part % 2 == 0 { byte & 15 } else { byte >> 4 };
            let bit = high.map_or(0, |high| high[i] >> part & 1);
            *y = scale * f32::from(nibble | bit << 4) - least;
        }
    }
}

/// Scale and least value number `i` of the eight that 12 bytes hold with 6 bits each.
fn six_bits(b: &[u8], i: usize) -> [u8; 2] {
    if i < 4 {
        return [b[i] & 63, b[i + 4] & 63];
    }
    [b[i + 4] & 15 | b[i - 4] >> 6 << 4, b[i + 4] >> 4 | b[i] >> 6 << 4]
}

/// A block of 256 in 6 bits: four low ones, two high ones, and a scale for each 16.
fn six(y: &mut [f32; MOST], b: &[u8]) {
    let d = half(b, 208);
    let (low, high, scales) = (&b[..128], &b[128..192], &b[192..208]);
    for (i, y) in y.iter_mut().enumerate() {
        // Halves of 128 values; in each four runs of 32, of which two share bytes of low bits and all share bytes of high ones.
        let (part, run, place) = (i / 128, i % 128 / 32, i % 32);
        let byte = low[64 * part + 32 * (run % 2) + place];
        let nibble = if run < 2 { byte & 15 } else { byte >> 4 };
        let bits = high[32 * part + place] >> (2 * run) & 3;
        let q = i32::from(nibble | bits << 4) - 32;
        *y = d * f32::from(scales[i / 16] as i8) * q as f32;
    }
}
