//! Weights as the kernels read them.

mod quantised;

use crate::error::GpuError;
use bytemuck::{Pod, cast_slice};
use unfog_core::nn::graph::{Weight, WeightUse};
use unfog_core::nn::quant::takes_q4;
use unfog_core::nn::weights::{WeightData, f16_to_f32, f32_to_f16};

/// How kernels of convolutions and linear layers are stored on the device. Everything else is f32, and so is arithmetic, but that of
/// matrix units, which multiply half floats and run by [`crate::Kernels::Matrix`] or by a [`crate::Choice`] alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// Half floats, rounded to nearest even: half the bytes to read.
    F16,
    /// 8-bit integers with a scale for each output channel: a quarter.
    Int8,
    /// 4-bit integers with a scale for each 32 inputs of an output channel and position: a seventh. Kernels of few inputs or outputs
    /// are in 8 bits ([`takes_q4`]).
    Q4,
}

/// How a kernel is stored, by the numbers that the shaders know it by (weights.glsl).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    F32 = 0,
    F16 = 1,
    Int8 = 2,
    Q4 = 3,
}

impl Stored {
    /// How `weight` is stored: by its shape alone.
    pub(crate) fn of(weight: &Weight, precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::F16 => Self::F16,
            Precision::Q4 if takes_q4(weight) => Self::Q4,
            Precision::Int8 | Precision::Q4 => Self::Int8,
        }
    }
}

/// Bytes that a weight takes, packed.
pub(crate) fn packed_bytes(weight: &Weight, precision: Precision) -> u64 {
    let [a, b, kh, kw] = weight.shape.map(u64::from);
    let (out4, taps, in4) = (a.div_ceil(4), kh * kw, b.div_ceil(4));
    match (weight.role, Stored::of(weight, precision)) {
        (WeightUse::Kernel, Stored::F32) => out4 * taps * in4 * 64,
        (WeightUse::Kernel, Stored::F16) => out4 * taps * in4 * 32,
        (WeightUse::Kernel, Stored::Int8) => out4 * (taps * in4 + 1) * 16,
        (WeightUse::Kernel, Stored::Q4) => out4 * taps * (in4.div_ceil(16) + in4.div_ceil(2)) * 16,
        (WeightUse::Vector, _) => a.next_multiple_of(4) * 4,
        (WeightUse::Table, _) => a * b.next_multiple_of(4) * 4,
        (WeightUse::Host, _) => 0,
    }
}

/// Takes packed bytes, piece by piece.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), GpuError>;

/// Packs weight `index` and hands it to `sink` piece by piece, in order; no second copy of the whole is made.
///
/// - Kernel `[out, in, kh, kw]`: `[out / 4][kh][kw][in / 4][4 of in][4 of out]`, zeros where channels are padded; with its scales where
///   it has some, as weights.glsl says.
/// - Vector: padded to whole vectors of four with zeros. Table: every row padded so.
///
/// # Errors
/// [`GpuError::Weight`] when the number of values is wrong, [`GpuError::HalfRange`], [`GpuError::Quantise`], or the sink's.
pub(crate) fn pack(
    index: usize,
    weight: &Weight,
    data: WeightData<'_>,
    precision: Precision,
    sink: Sink<'_>,
) -> Result<(), GpuError> {
    if data.len() as u64 != weight.len() {
        return Err(GpuError::Weight(index));
    }
    let [a, b, ..] = weight.shape.map(|n| n as usize);
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
        WeightUse::Kernel => kernel(index, weight.shape.map(|n| n as usize), data, precision, sink)?,
    }
    Ok(())
}

fn kernel(
    index: usize,
    shape: [usize; 4],
    data: WeightData<'_>,
    precision: Precision,
    sink: Sink<'_>,
) -> Result<(), GpuError> {
    let half = |value: f32| f32_to_f16(value).ok_or(GpuError::HalfRange(index));
    let wide = |bits: u16| f32::from_bits(u32::from(bits) << 16);
    let scaled = |scales: &[f32], row: usize, q: i8| {
        let scale = scales.get(row * scales.len() / shape[0].max(1));
        f32::from(q) * scale.copied().unwrap_or(0.0)
    };
    let weight = Weight { shape: shape.map(|n| n as u32), role: WeightUse::Kernel };
    match (Stored::of(&weight, precision), data) {
        (Stored::F32, WeightData::F32(w)) => relay(shape, w, |_, v| Ok(v), sink),
        (Stored::F32, WeightData::F16(w)) => relay(shape, w, |_, v| Ok(f16_to_f32(v)), sink),
        (Stored::F32, WeightData::Bf16(w)) => relay(shape, w, |_, v| Ok(wide(v)), sink),
        (Stored::F32, WeightData::I8 { values, scales }) => {
            relay(shape, values, |row, v| Ok(scaled(scales, row, v)), sink)
        }
        (Stored::F32, WeightData::Q4(_)) => quantised::widened(shape, data, Ok, sink),
        (Stored::F16, WeightData::F32(w)) => relay(shape, w, |_, v| half(v), sink),
        // As they are, but for what is not finite.
        (Stored::F16, WeightData::F16(w)) => {
            relay(shape, w, |_, v| if v & 0x7c00 == 0x7c00 { half(f16_to_f32(v)) } else { Ok(v) }, sink)
        }
        (Stored::F16, WeightData::Bf16(w)) => relay(shape, w, |_, v| half(wide(v)), sink),
        (Stored::F16, WeightData::I8 { values, scales }) => {
            relay(shape, values, |row, v| half(scaled(scales, row, v)), sink)
        }
        (Stored::F16, WeightData::Q4(_)) => quantised::widened(shape, data, half, sink),
        (Stored::Int8, _) => quantised::int8(index, shape, data, sink),
        (Stored::Q4, _) => quantised::q4(index, shape, data, sink),
    }
}

/// Lays a kernel out anew, four output channels a piece. Streamed weights go through here for each evaluation: reads are in order,
/// and a piece stays in the cache.
fn relay<T: Copy, N: Pod>(
    [a, b, kh, kw]: [usize; 4],
    values: &[T],
    stored: impl Fn(usize, T) -> Result<N, GpuError>,
    sink: Sink<'_>,
) -> Result<(), GpuError> {
    let (taps, padded) = (kh * kw, b.next_multiple_of(4));
    if b * taps == 0 {
        return Ok(());
    }
    let mut piece = vec![N::zeroed(); taps * padded * 4];
    let mut rows = values.chunks_exact(b * taps).enumerate();
    for _ in (0..a).step_by(4) {
        piece.fill(N::zeroed());
        for (o, (row, values)) in rows.by_ref().take(4).enumerate() {
            for (i, values) in values.chunks_exact(taps).enumerate() {
                for (tap, &value) in values.iter().enumerate() {
                    piece[(tap * padded + i) * 4 + o] = stored(row, value)?;
                }
            }
        }
        sink(cast_slice(&piece))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(weight: &Weight, data: WeightData<'_>, precision: Precision) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut sink = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        pack(0, weight, data, precision, &mut sink).unwrap();
        assert_eq!(bytes.len() as u64, packed_bytes(weight, precision));
        bytes
    }

    #[test]
    fn kernels_are_laid_out_as_the_shaders_read_them() {
        let shape = [6, 5, 2, 3];
        let weight = Weight { shape, role: WeightUse::Kernel };
        let bits: Vec<u16> = (0..weight.len() as u16).map(|i| 0x3c00 + 7 * i).collect();
        let widened: Vec<f32> = bits.iter().map(|&b| f16_to_f32(b)).collect();
        let bf16: Vec<u16> = widened.iter().map(|v| (v.to_bits() >> 16) as u16).collect();
        let q: Vec<i8> = (0..weight.len() as i64).map(|i| (i % 255 - 127) as i8).collect();
        let scales = [0.5, 1.0, 2.0, 0.25, 3.0, 1.5];
        let all = [
            WeightData::F32(&widened),
            WeightData::F16(&bits),
            WeightData::Bf16(&bf16),
            WeightData::I8 { values: &q, scales: &scales },
        ];
        for data in all {
            let single = packed(&weight, data, Precision::F32);
            let half = packed(&weight, data, Precision::F16);
            let mut at = 0;
            // [out / 4][kh][kw][in / 4][4 of in][4 of out]
            for out4 in 0..2 {
                for tap in 0..6 {
                    for i in 0..8 {
                        for o in out4 * 4..out4 * 4 + 4 {
                            let there = o < 6 && i < 5;
                            let want = if there { data.at((o * 5 + i) * 6 + tap) } else { 0.0 };
                            let found: f32 = bytemuck::pod_read_unaligned(&single[4 * at..4 * at + 4]);
                            assert_eq!(found, want, "{o} {i} {tap}");
                            let found: u16 = bytemuck::pod_read_unaligned(&half[2 * at..2 * at + 2]);
                            assert_eq!(Some(found), f32_to_f16(want));
                            at += 1;
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_half_floats_cannot_hold_is_refused() {
        let weight = Weight { shape: [1, 1, 1, 1], role: WeightUse::Kernel };
        for data in [WeightData::F32(&[1e5]), WeightData::F16(&[0x7c00]), WeightData::Bf16(&[0x47c8])] {
            let result = pack(3, &weight, data, Precision::F16, &mut |_| Ok(()));
            assert!(matches!(result, Err(GpuError::HalfRange(3))), "{data:?}: {result:?}");
        }
    }
}
