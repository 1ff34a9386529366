//! Weights in 8 and in 4 bits, in lent memory.

use crate::nn::graph::{Weight, WeightUse};
use crate::nn::quant::{BLOCK, Q4, q4_lens, quantise_block, quantise_row};
use crate::nn::weights::WeightData;

/// Values of `weight` as int8 with one scale an output channel ([`quantise_row`]). Kernels alone are stored so; `None` for others, and
/// for values that are not finite. `row` is lent, of an output channel's length, as are `values` and `scales`, of the weight's length
/// and rows.
pub fn quantise<'a>(
    weight: &Weight,
    data: WeightData<'_>,
    row: &mut [f32],
    values: &'a mut [i8],
    scales: &'a mut [f32],
) -> Option<WeightData<'a>> {
    let rows = weight.shape[0] as usize;
    let fits = weight.role == WeightUse::Kernel && data.len() == values.len() && scales.len() == rows;
    if !fits || values.is_empty() || Some(values.len()) != rows.checked_mul(row.len()) {
        return None;
    }
    let len = row.len();
    for (i, (values, scale)) in values.chunks_exact_mut(len).zip(scales.iter_mut()).enumerate() {
        data.widen(i * len, row);
        *scale = quantise_row(row, values)?;
    }
    Some(WeightData::I8 { values, scales })
}

/// Values of `weight` in 4-bit blocks ([`quantise_block`]). Kernels alone are stored so; `None` for others, and for values that are not
/// finite or too large for half floats. `row` is lent, of an output channel's length, as are `values` and `scales`, as long as
/// [`q4_lens`] says.
pub fn quantise4<'a>(
    weight: &Weight,
    data: WeightData<'_>,
    row: &mut [f32],
    values: &'a mut [u8],
    scales: &'a mut [u16],
) -> Option<WeightData<'a>> {
    let [outputs, inputs, kh, kw] = weight.shape.map(|n| n as usize);
    let taps = kh.checked_mul(kw)?;
    let fits = weight.role == WeightUse::Kernel && data.len() as u64 == weight.len() && !row.is_empty();
    if !fits
        || data.len().checked_div(outputs) != Some(row.len())
        || q4_lens(weight.shape) != Some([values.len(), scales.len()])
    {
        return None;
    }
    let len = row.len();
    let mut bytes = values.chunks_exact_mut(inputs.div_ceil(2));
    let mut scale = scales.iter_mut();
    for output in 0..outputs {
        data.widen(output * len, row);
        for tap in 0..taps {
            let bytes = bytes.next()?;
            bytes.fill(0x88);
            for first in (0..inputs).step_by(BLOCK) {
                let count = BLOCK.min(inputs - first);
                let (mut block, mut integers) = ([0.0; BLOCK], [8; BLOCK]);
                for (i, v) in block.iter_mut().take(count).enumerate() {
                    *v = row[(first + i) * taps + tap];
                }
                *scale.next()? = quantise_block(&block[..count], &mut integers)?;
                for (byte, pair) in bytes[first / 2..].iter_mut().zip(integers[..count.next_multiple_of(2)].chunks(2)) {
                    *byte = pair[0] | pair[1] << 4;
                }
            }
        }
    }
    Q4::new(weight.shape, values, scales).map(WeightData::Q4)
}
