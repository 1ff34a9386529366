//! Weights as the reference reads them: borrowed, in the type in which they are stored.

use super::quant::Q4;
use bytemuck::try_cast_slice;

/// The values of one weight, in torch's layout.
#[derive(Clone, Copy, Debug)]
pub enum WeightData<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// IEEE half floats, by their bits.
    F16(&'a [u16]),
    /// bfloat16, by their bits.
    Bf16(&'a [u16]),
    /// 8-bit integers with a scale for each row (the first dimension).
    I8 {
        /// The integers, row after row.
        values: &'a [i8],
        /// A factor for each row.
        scales: &'a [f32],
    },
    /// 4-bit integers in blocks with a scale each.
    Q4(Q4<'a>),
}

impl<'a> WeightData<'a> {
    /// Number of values.
    pub fn len(self) -> usize {
        match self {
            WeightData::F32(w) => w.len(),
            WeightData::F16(w) | WeightData::Bf16(w) => w.len(),
            WeightData::I8 { values, .. } => values.len(),
            WeightData::Q4(w) => w.len(),
        }
    }

    /// Bytes of the values and their scales.
    pub fn bytes(self) -> u64 {
        let bytes = match self {
            WeightData::F32(w) => size_of_val(w),
            WeightData::F16(w) | WeightData::Bf16(w) => size_of_val(w),
            WeightData::I8 { values, scales } => size_of_val(values) + size_of_val(scales),
            WeightData::Q4(w) => w.bytes(),
        };
        bytes as u64
    }

    /// True when there is no value.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Value `i`, widened exactly. Out of range is 0; executors check lengths beforehand.
    #[inline]
    pub fn at(self, i: usize) -> f32 {
        match self {
            WeightData::F32(w) => w.get(i).copied().unwrap_or(0.0),
            WeightData::F16(w) => w.get(i).map_or(0.0, |&b| f16_to_f32(b)),
            WeightData::Bf16(w) => w.get(i).map_or(0.0, |&b| f32::from_bits(u32::from(b) << 16)),
            WeightData::I8 { values, .. } => values.get(i).map_or(0.0, |&q| f32::from(q) * self.scale(i)),
            WeightData::Q4(w) => w.at(i),
        }
    }

    /// Values from `first` on, widened exactly; all of one row. What is out of range is 0.
    pub fn widen(self, first: usize, out: &mut [f32]) {
        fn fill<T: Copy>(out: &mut [f32], w: &[T], first: usize, widen: impl Fn(T) -> f32) {
            let w = w.get(first..).unwrap_or(&[]).iter().map(|&w| widen(w));
            out.iter_mut().zip(w.chain(core::iter::repeat(0.0))).for_each(|(out, w)| *out = w);
        }
        match self {
            WeightData::F32(w) => fill(out, w, first, |w| w),
            WeightData::F16(w) => fill(out, w, first, f16_to_f32),
            WeightData::Bf16(w) => fill(out, w, first, |w| f32::from_bits(u32::from(w) << 16)),
            WeightData::I8 { values, .. } => {
                let scale = self.scale(first);
                fill(out, values, first, |q| f32::from(q) * scale);
            }
            WeightData::Q4(w) => w.widen(first, out),
        }
    }

    /// The factor on value `i` as it is stored.
    fn scale(self, i: usize) -> f32 {
        match self {
            WeightData::I8 { values, scales } => {
                scales.get(i * scales.len() / values.len().max(1)).copied().unwrap_or(0.0)
            }
            _ => 1.0,
        }
    }

    /// `sum` plus the products of `x` with every `step`-th value from `first` on, added in order; all of one row.
    #[inline]
    pub fn dot(self, sum: f32, x: &[f32], first: usize, step: usize) -> f32 {
        fn add<T: Copy>(sum: f32, x: &[f32], w: &[T], first: usize, step: usize, widen: impl Fn(T) -> f32) -> f32 {
            let w = w.get(first..).unwrap_or(&[]).iter().step_by(step.max(1));
            x.iter().zip(w).fold(sum, |sum, (x, &w)| sum + x * widen(w))
        }
        match self {
            WeightData::F32(w) => add(sum, x, w, first, step, |w| w),
            WeightData::F16(w) => add(sum, x, w, first, step, f16_to_f32),
            WeightData::Bf16(w) => add(sum, x, w, first, step, |w| f32::from_bits(u32::from(w) << 16)),
            WeightData::I8 { values, .. } => {
                let scale = self.scale(first);
                add(sum, x, values, first, step, |q| f32::from(q) * scale)
            }
            WeightData::Q4(w) if w.shape()[1] == step => w.dot(sum, x, first),
            WeightData::Q4(w) => x.iter().enumerate().fold(sum, |sum, (i, x)| sum + x * w.at(first + i * step)),
        }
    }

    /// Bytes as f32 values; `None` when they are misaligned or no multiple of 4.
    pub fn f32_bytes(bytes: &'a [u8]) -> Option<Self> {
        try_cast_slice(bytes).ok().map(WeightData::F32)
    }
}

/// The exact value of a half float given by its bits (IEEE 754-2019, binary16).
#[inline]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(bits >> 10) & 31, u32::from(bits & 0x3ff));
    match exponent {
        // Zero and subnormals: the fraction times 2^-24, exact in f32.
        0 => f32::from_bits(sign | (fraction as f32 * f32::from_bits(0x3380_0000)).to_bits()),
        31 => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | fraction << 13),
    }
}

/// The nearest half float, ties to even, by its bits; `None` for what is too large for one.
pub fn f32_to_f16(value: f32) -> Option<u16> {
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
