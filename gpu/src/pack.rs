//! Weights as the kernels read them.

use crate::error::GpuError;
use unfog_core::nn::graph::{Weight, WeightUse};
use unfog_core::nn::weights::{WeightData, f32_to_f16};

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
