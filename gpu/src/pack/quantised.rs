//! Kernels in 8 and in 4 bits, laid out as weights.glsl reads them.

use super::{Sink, relay};
use crate::error::GpuError;
use bytemuck::{Pod, cast_slice};
use unfog_core::nn::quant::{BLOCK, Q4, quantise_block, quantise_row};
use unfog_core::nn::weights::WeightData;

/// Takes a row's number and its values.
type Take<'a> = &'a mut dyn FnMut(usize, &[f32]) -> Result<(), GpuError>;

/// A kernel's shape: outputs, inputs, height, width.
type Shape = [usize; 4];

/// Four output channels at a time, widened, in torch's layout: `[4][in][kh][kw]`, zeros where there are none. `piece` packs them; it is
/// given the number of the first.
fn fours([a, b, kh, kw]: Shape, data: WeightData<'_>, piece: Take<'_>) -> Result<(), GpuError> {
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

#[cfg(test)]
mod tests {
    use super::super::{Precision, pack, packed_bytes};
    use super::*;
    use unfog_core::nn::graph::{Weight, WeightUse};
    use unfog_core::nn::quant::q4_lens;
    use unfog_core::nn::weights::f16_to_f32;
    use unfog_core::pack::{quantise, quantise4};

    fn packed(weight: &Weight, data: WeightData<'_>, precision: Precision) -> Vec<u32> {
        let mut bytes = Vec::new();
        let mut sink = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        pack(0, weight, data, precision, &mut sink).unwrap();
        assert_eq!(bytes.len() as u64, packed_bytes(weight, precision));
        bytemuck::pod_collect_to_vec(&bytes)
    }

    const SHAPES: [[u32; 4]; 5] = [[18, 37, 3, 1], [17, 70, 1, 2], [16, 16, 1, 1], [19, 64, 3, 3], [21, 20, 1, 1]];

    fn kernel(shape: [u32; 4]) -> (Weight, Vec<f32>, Vec<f32>) {
        let weight = Weight { shape, role: WeightUse::Kernel };
        let w: Vec<f32> = (0..weight.len()).map(|i| ((i * 37 + i / 5) % 101) as f32 / 50.0 - 1.0).collect();
        let row = vec![0.0; w.len() / shape[0] as usize];
        (weight, w, row)
    }

    /// Value [output][input][tap] as weights.glsl finds it, by the vector of a step and the place in it.
    fn each(shape: [u32; 4], check: impl Fn([usize; 3], usize, [usize; 4])) {
        let [outputs, inputs, kh, kw] = shape.map(|n| n as usize);
        for output in 0..outputs.next_multiple_of(4) {
            for input in 0..inputs.next_multiple_of(4) {
                for tap in 0..kh * kw {
                    let there = output < outputs && input < inputs;
                    let at = if there { (output * inputs + input) * kh * kw + tap } else { usize::MAX };
                    check([output, input, tap], at, [output / 4, output % 4, input / 4, input % 4]);
                }
            }
        }
    }

    #[test]
    fn int8_is_laid_out_as_the_shaders_read_it() {
        for shape in SHAPES {
            let (weight, w, mut row) = kernel(shape);
            let (mut values, mut scales) = (vec![0; w.len()], vec![0.0; shape[0] as usize]);
            let q = quantise(&weight, WeightData::F32(&w), &mut row, &mut values, &mut scales).unwrap();
            let words = packed(&weight, WeightData::F32(&w), Precision::Int8);
            assert_eq!(words, packed(&weight, q, Precision::Int8), "kept as they are");
            let (in4, taps) = (shape[1].div_ceil(4) as usize, (shape[2] * shape[3]) as usize);
            each(shape, |[_, _, tap], at, [out4, out_lane, i, lane]| {
                let first = out4 * (1 + taps * in4);
                let word = words[(first + 1 + tap * in4 + i) * 4 + lane];
                let integer = (word >> (8 * out_lane)) as u8 as i8;
                let value = f32::from(integer) * f32::from_bits(words[first * 4 + out_lane]);
                assert_eq!(value, if at == usize::MAX { 0.0 } else { q.at(at) });
            });
        }
    }

    #[test]
    fn q4_is_laid_out_as_the_shaders_read_it() {
        for shape in SHAPES {
            let (weight, w, mut row) = kernel(shape);
            let [values, scales] = q4_lens(shape).unwrap();
            let (mut values, mut scales) = (vec![0; values], vec![0; scales]);
            let q = quantise4(&weight, WeightData::F32(&w), &mut row, &mut values, &mut scales).unwrap();
            let words = packed(&weight, WeightData::F32(&w), Precision::Q4);
            assert_eq!(words, packed(&weight, q, Precision::Q4), "kept as they are");
            let (in4, taps) = (shape[1].div_ceil(4) as usize, (shape[2] * shape[3]) as usize);
            let (scale_vectors, steps) = (in4.div_ceil(16), in4.div_ceil(2));
            each(shape, |[_, _, tap], at, [out4, out_lane, i, lane]| {
                let first = (out4 * taps + tap) * (scale_vectors + steps);
                let halves = words[(first + i / 16) * 4 + i / 8 % 2 * 2 + out_lane / 2];
                let scale = f16_to_f32((halves >> (16 * (out_lane % 2))) as u16);
                let word = words[(first + scale_vectors + i / 2) * 4 + i % 2 * 2 + lane / 2];
                let bits = word >> (16 * (lane % 2) + 4 * out_lane) & 15;
                let value = (bits as f32 - 8.0) * scale;
                assert_eq!(value, if at == usize::MAX { 0.0 } else { q.at(at) });
            });
            // Widened, they are what any other type would be.
            let all: Vec<f32> = (0..q.len()).map(|i| q.at(i)).collect();
            for precision in [Precision::F32, Precision::F16] {
                assert_eq!(packed(&weight, q, precision), packed(&weight, WeightData::F32(&all), precision));
            }
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let weight = Weight { shape: [16, 16, 1, 1], role: WeightUse::Kernel };
        for bad in [f32::NAN, f32::INFINITY] {
            let mut w = [0.5; 256];
            w[200] = bad;
            for precision in [Precision::Int8, Precision::Q4] {
                let result = pack(5, &weight, WeightData::F32(&w), precision, &mut |_| Ok(()));
                assert!(matches!(result, Err(GpuError::Quantise(5))), "{result:?}");
            }
        }
    }
}
