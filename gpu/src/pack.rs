//! Weights as the kernels read them.

use crate::error::GpuError;
use unfog_core::nn::graph::{Weight, WeightUse};
use unfog_core::nn::weights::WeightData;

/// How kernels of convolutions and linear layers are stored on the device. Everything else is f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// Half floats, rounded to nearest even: half the bytes to read. Arithmetic stays f32.
    F16,
}

/// Bytes that a weight takes, packed.
pub(crate) fn packed_bytes(weight: &Weight, precision: Precision) -> u64 {
    let [a, b, kh, kw] = weight.shape.map(u64::from);
    let value = if precision == Precision::F16 { 2 } else { 4 };
    match weight.role {
        WeightUse::Kernel => a.div_ceil(4) * kh * kw * b.div_ceil(4) * 16 * value,
        WeightUse::Vector => a.next_multiple_of(4) * 4,
        WeightUse::Table => a * b.next_multiple_of(4) * 4,
        WeightUse::Host => 0,
    }
}

/// Packs weight `index` and hands it to `sink` piece by piece, in order; no second copy of the whole is made.
///
/// - Kernel `[out, in, kh, kw]`: `[out / 4][kh][kw][in / 4][4 of in][4 of out]`, zeros where channels are padded.
/// - Vector: padded to whole vectors of four with zeros. Table: every row padded so.
///
/// # Errors
/// [`GpuError::Weight`] when the number of values is wrong, [`GpuError::HalfRange`], or the sink's.
pub(crate) fn pack(
    index: usize,
    weight: &Weight,
    data: WeightData<'_>,
    precision: Precision,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), GpuError>,
) -> Result<(), GpuError> {
    if data.len() as u64 != weight.len() {
        return Err(GpuError::Weight(index));
    }
    let [a, b, kh, kw] = weight.shape.map(|n| n as usize);
    let mut piece = Vec::new();
    match weight.role {
        WeightUse::Host => {}
        WeightUse::Vector | WeightUse::Table => {
            let row = if weight.role == WeightUse::Table { b } else { a };
            for first in (0..data.len()).step_by(row.max(1)) {
                piece.clear();
                let values = (0..row.next_multiple_of(4)).map(|i| if i < row { data.at(first + i) } else { 0.0 });
                piece.extend(values.flat_map(f32::to_ne_bytes));
                sink(&piece)?;
            }
        }
        WeightUse::Kernel => {
            for out in (0..a).step_by(4) {
                piece.clear();
                for tap in 0..kh * kw {
                    for i in 0..b.next_multiple_of(4) {
                        for o in out..out + 4 {
                            let value = if o < a && i < b { data.at((o * b + i) * kh * kw + tap) } else { 0.0 };
                            match precision {
                                Precision::F32 => piece.extend(value.to_ne_bytes()),
                                Precision::F16 => {
                                    let bits = f32_to_f16(value).ok_or(GpuError::HalfRange(index))?;
                                    piece.extend(bits.to_ne_bytes());
                                }
                            }
                        }
                    }
                }
                sink(&piece)?;
            }
        }
    }
    Ok(())
}

/// The nearest half float, ties to even, by its bits; `None` for what is too large for one.
fn f32_to_f16(value: f32) -> Option<u16> {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return Some(sign | 0x7e00);
    }
    // 65520 and more would round to infinity.
    if magnitude >= 0x477f_f000 {
        return None;
    }
    if magnitude < 0x3880_0000 {
        // Below 2^-14: a multiple of 2^-24; adding 0.5 leaves just that many bits, rounded to nearest even.
        let rounded = f32::from_bits(magnitude) + 0.5;
        return Some(sign | (rounded.to_bits() - 0.5_f32.to_bits()) as u16);
    }
    let rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    Some(sign | ((rounded - 0x3800_0000) >> 13) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use unfog_core::nn::weights::f16_to_f32;

    #[test]
    fn every_half_float_comes_back() {
        for bits in 0..=u16::MAX {
            let value = f16_to_f32(bits);
            if value.is_finite() {
                assert_eq!(f32_to_f16(value), Some(bits), "{value}");
            }
        }
    }

    #[test]
    fn ties_go_to_even_and_overflow_is_refused() {
        for bits in 0..0x7bff_u16 {
            let (low, high) = (f16_to_f32(bits), f16_to_f32(bits + 1));
            let even = if bits % 2 == 0 { bits } else { bits + 1 };
            assert_eq!(f32_to_f16((low + high) / 2.0), Some(even));
            assert_eq!(f32_to_f16((low + high) / 2.0 * (1.0 + f32::EPSILON)), Some(bits + 1));
        }
        assert_eq!(f32_to_f16(65519.99), Some(0x7bff));
        assert_eq!(f32_to_f16(65520.0), None);
        assert_eq!(f32_to_f16(f32::NEG_INFINITY), None);
    }
}
