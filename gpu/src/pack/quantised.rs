//! Kernels in 8 and in 4 bits, laid out as weights.glsl reads them.

use super::{Sink, relay};
use crate::error::GpuError;
use bytemuck::{Pod, cast_slice};
use unfog_core::nn::quant::{BLOCK, Q4, quantise_block, quantise_row};
use unfog_core::nn::weights::WeightData;

/// A kernel's shape: outputs, inputs, height, width.
type Shape = [usize; 4];

/// Four output channels at a time, widened, in torch's layout: `[4][in][kh][kw]`, zeros where there are none. `piece` packs them; it is
/// given the number of the first.
fn fours(
    [a, b, kh, kw]: Shape,
    data: WeightData<'_>,
    piece: &mut dyn FnMut(usize, &[f32]) -> Result<(), GpuError>,
) -> Result<(), GpuError> {
    let len = b * kh * kw;
    if len == 0 {
        return Ok(());
    }
    let mut rows = vec![0.0; 4 * len];
    for first in (0..a).step_by(4) {
        rows.fill(0.0);
        for (o, row) in (first..a).zip(rows.chunks_exact_mut(len)) {
            data.widen(o * len, row);
        }
        piece(first, &rows)?;
    }
    Ok(())
}

/// A kernel as floats that `stored` narrows.
pub(super) fn widened<N: Pod>(
    shape: Shape,
    data: WeightData<'_>,
    stored: impl Fn(f32) -> Result<N, GpuError>,
    sink: Sink<'_>,
) -> Result<(), GpuError> {
    let [a, b, kh, kw] = shape;
    fours(shape, data, &mut |first, rows| {
        let there = (a - first).min(4);
        relay([there, b, kh, kw], &rows[..there * b * kh * kw], |_, v| stored(v), sink)
    })
}

/// A kernel in int8: integers and scales that it has stay as they are.
pub(super) fn int8(index: usize, shape: Shape, data: WeightData<'_>, sink: Sink<'_>) -> Result<(), GpuError> {
    let [a, b, kh, kw] = shape;
    let (taps, padded, len) = (kh * kw, b.next_multiple_of(4), b * kh * kw);
    let mut piece = vec![0_i8; 16 + taps * padded * 4];
    let mut integers = vec![0_i8; len];
    fours(shape, data, &mut |first, rows| {
        piece.fill(0);
        for (lane, (o, row)) in (first..a).zip(rows.chunks_exact(len)).enumerate() {
            let scale = match data {
                WeightData::I8 { values, scales } if scales.len() == a => {
                    integers.copy_from_slice(&values[o * len..][..len]);
                    scales[o]
                }
                _ => quantise_row(row, &mut integers).ok_or(GpuError::Quantise(index))?,
            };
            piece[4 * lane..][..4].copy_from_slice(cast_slice(&scale.to_ne_bytes()));
            for (i, values) in integers.chunks_exact(taps).enumerate() {
                for (tap, &value) in values.iter().enumerate() {
                    piece[16 + (tap * padded + i) * 4 + lane] = value;
                }
            }
        }
        words(&mut piece[16..]);
        sink(cast_slice(&piece))
    })
}

/// A kernel in 4-bit blocks: integers and scales that it has stay as they are.
pub(super) fn q4(index: usize, shape: Shape, data: WeightData<'_>, sink: Sink<'_>) -> Result<(), GpuError> {
    let [a, b, kh, kw] = shape;
    let (taps, in4, len) = (kh * kw, b.div_ceil(4), b * kh * kw);
    // Bytes of a tap's scales, and of all of a tap.
    let (scales, tap_bytes) = (in4.div_ceil(16) * 16, (in4.div_ceil(16) + in4.div_ceil(2)) * 16);
    let there = match data {
        WeightData::Q4(q) if q.shape() == [b, taps] => Some(q),
        _ => None,
    };
    let mut piece = vec![0_u8; taps * tap_bytes];
    fours(shape, data, &mut |first, rows| {
        piece.fill(0);
        for tap in 0..taps {
            let (halves, steps) = piece[tap * tap_bytes..][..tap_bytes].split_at_mut(scales);
            for lane in 0..4 {
                // What is no input stays 0 whatever its scale is.
                let row = rows[lane * len..][..len].iter().skip(tap).step_by(taps);
                for (block, start) in (0..b).step_by(BLOCK).enumerate() {
                    let mut integers = [8; BLOCK];
                    let count = BLOCK.min(b - start);
                    let bits = match there {
                        _ if first + lane >= a => 0,
                        Some(q) => copy(q, (first + lane) * taps + tap, start, &mut integers[..count]),
                        None => {
                            let mut values = [0.0; BLOCK];
                            values.iter_mut().zip(row.clone().skip(start)).for_each(|(to, v)| *to = *v);
                            quantise_block(&values[..count], &mut integers).ok_or(GpuError::Quantise(index))?
                        }
                    };
                    halves[(block * 4 + lane) * 2..][..2].copy_from_slice(&bits.to_le_bytes());
                    for (i, integer) in integers.iter().enumerate().take(count.next_multiple_of(4)) {
                        steps[(start + i) * 2 + lane / 2] |= integer << (4 * (lane % 2));
                    }
                }
            }
        }
        words(bytemuck::cast_slice_mut(&mut piece));
        sink(&piece)
    })
}

/// The integers of a row from input `start` on, a whole block's beginning, and the bits of its scale.
fn copy(q: Q4<'_>, row: usize, start: usize, integers: &mut [u8]) -> u16 {
    let [inputs, _] = q.shape();
    let bytes = &q.values()[row * inputs.div_ceil(2) + start / 2..];
    for (i, integer) in integers.iter_mut().enumerate() {
        *integer = bytes[i / 2] >> (4 * (i % 2)) & 15;
    }
    q.scales()[row * inputs.div_ceil(BLOCK) + start / BLOCK]
}

/// Shaders read words, of which the first value has the lowest bits.
fn words(bytes: &mut [i8]) {
    if cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(4).for_each(<[i8]>::reverse);
    }
}
