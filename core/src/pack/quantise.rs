//! Weights in 8 bits.

use crate::nn::graph::{Weight, WeightUse};
use crate::nn::weights::WeightData;

/// Values of `weight` as int8 with one scale an output channel, symmetric: the largest magnitude of a row becomes 127.
/// Kernels alone are stored so; `None` for others. `values` and `scales` are lent, of the weight's length and rows.
pub fn quantise<'a>(
    weight: &Weight,
    data: WeightData<'_>,
    values: &'a mut [i8],
    scales: &'a mut [f32],
) -> Option<WeightData<'a>> {
    let rows = weight.shape[0] as usize;
    let fits = weight.role == WeightUse::Kernel && data.len() == values.len() && scales.len() == rows;
    if !fits || rows == 0 || !values.len().is_multiple_of(rows) || values.is_empty() {
        return None;
    }
    let len = values.len() / rows;
    for (row, (values, scale)) in values.chunks_exact_mut(len).zip(scales.iter_mut()).enumerate() {
        let value = |i: usize| data.at(row * len + i);
        let largest = (0..len).fold(0.0_f32, |m, i| m.max(value(i).abs()));
        *scale = largest / 127.0;
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        // Rounds half away from zero; the cast saturates.
        let round = |v: f32| (v * inverse + if v < 0.0 { -0.5 } else { 0.5 }) as i8;
        values.iter_mut().enumerate().for_each(|(i, q)| *q = round(value(i)));
    }
    Some(WeightData::I8 { values, scales })
}
