//! Weights in 8 and in 4 bits: how values become integers and scales, and the layout of 4-bit blocks.

use super::graph::{Weight, WeightUse};
use super::weights::{f16_to_f32, f32_to_f16};

/// Inputs that share the scale of a block.
pub const BLOCK: usize = 32;
/// Kernels with fewer inputs or outputs keep 8 bits where 4 are asked for: the first and the last convolution of a network, which
/// hold next to nothing of its bytes.
pub const FEW: u32 = 16;

/// Whether `weight` is stored in 4 bits where these are asked for.
pub fn takes_q4(weight: &Weight) -> bool {
    weight.role == WeightUse::Kernel && weight.shape[0] >= FEW && weight.shape[1] >= FEW
}

/// A kernel in 4-bit blocks, as ggml's Q4_0 has them: value = scale * (bits - 8), a scale for each 32 inputs of an output and
/// position. Integers and scales lie apart, each output after output and position after position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Q4<'a> {
    /// `[outputs][taps][inputs / 2]`, rounded up: the even input in a byte's lower bits.
    values: &'a [u8],
    /// `[outputs][taps][inputs / 32]`, rounded up; half floats, by their bits.
    scales: &'a [u16],
    inputs: usize,
    taps: usize,
}

/// Bytes of the integers and number of the scales of a kernel of this shape; `None` where they are too many to count.
pub fn q4_lens(shape: [u32; 4]) -> Option<[usize; 2]> {
    let [outputs, inputs, kh, kw] = shape.map(|n| n as usize);
    let rows = outputs.checked_mul(kh)?.checked_mul(kw)?;
    Some([rows.checked_mul(inputs.div_ceil(2))?, rows.checked_mul(inputs.div_ceil(BLOCK))?])
}

impl<'a> Q4<'a> {
    /// The kernel of `shape` in `values` and `scales`; `None` where their lengths are others than [`q4_lens`] says.
    pub fn new(shape: [u32; 4], values: &'a [u8], scales: &'a [u16]) -> Option<Self> {
        let [_, inputs, kh, kw] = shape.map(|n| n as usize);
        let fits = q4_lens(shape) == Some([values.len(), scales.len()]) && inputs > 0 && !values.is_empty();
        // What is no shape may be too large to multiply.
        fits.then(|| Self { values, scales, inputs, taps: kh * kw })
    }

    /// Number of values.
    pub fn len(self) -> usize {
        self.values.len() / self.inputs.div_ceil(2) * self.inputs
    }

    /// True when there is no value.
    pub fn is_empty(self) -> bool {
        self.values.is_empty()
    }

    /// Bytes of the integers and scales.
    pub fn bytes(self) -> usize {
        self.values.len() + 2 * self.scales.len()
    }

    /// The integers as they are stored.
    pub fn values(self) -> &'a [u8] {
        self.values
    }

    /// The scales as they are stored.
    pub fn scales(self) -> &'a [u16] {
        self.scales
    }

    /// Inputs and positions.
    pub fn shape(self) -> [usize; 2] {
        [self.inputs, self.taps]
    }

    /// The scale of an input's block in row `row` (output * positions + position).
    fn scale(self, row: usize, input: usize) -> f32 {
        self.scales.get(row * self.inputs.div_ceil(BLOCK) + input / BLOCK).map_or(0.0, |&bits| f16_to_f32(bits))
    }

    /// The integer of an input, from -8 to 7.
    #[inline]
    fn integer(self, row: usize, input: usize) -> f32 {
        let byte = self.values.get(row * self.inputs.div_ceil(2) + input / 2).copied().unwrap_or(0x88);
        f32::from(byte >> (4 * (input % 2)) & 15) - 8.0
    }

    /// Row and input of value `i` in torch's order, `[outputs][inputs][positions]`.
    fn find(self, i: usize) -> [usize; 2] {
        let (filter, tap) = (i / self.taps, i % self.taps);
        [filter / self.inputs * self.taps + tap, filter % self.inputs]
    }

    /// Value `i` in torch's order.
    pub fn at(self, i: usize) -> f32 {
        let [row, input] = self.find(i);
        self.integer(row, input) * self.scale(row, input)
    }

    /// Values of one output from `first` (torch's order) on; what is out of range is 0.
    #[inline]
    pub fn widen(self, first: usize, out: &mut [f32]) {
        let (output, start) = (first / (self.inputs * self.taps), first % (self.inputs * self.taps));
        out.fill(0.0);
        for tap in 0..self.taps {
            let row = output * self.taps + tap;
            // The first input of this position that is wanted.
            let mut input = start / self.taps + usize::from(tap < start % self.taps);
            while input < self.inputs {
                let end = (input / BLOCK + 1) * BLOCK;
                let Some(space) = out.get_mut(input * self.taps + tap - start..) else { break };
                let scale = self.scale(row, input);
                let block = input..end.min(self.inputs);
                for (i, out) in block.zip(space.iter_mut().step_by(self.taps)) {
                    *out = self.integer(row, i) * scale;
                }
                input = end;
            }
        }
    }

    /// `sum` plus the products of `x` with the values of one row from value `first` (torch's order) on.
    pub(super) fn dot(self, mut sum: f32, x: &[f32], first: usize) -> f32 {
        let [row, mut input] = self.find(first);
        let mut rest = x;
        while !rest.is_empty() {
            let (block, later) = rest.split_at((BLOCK - input % BLOCK).min(rest.len()));
            let scale = self.scale(row, input);
            for (i, x) in block.iter().enumerate() {
                sum += x * (self.integer(row, input + i) * scale);
            }
            (input, rest) = (input + block.len(), later);
        }
        sum
    }
}

/// One row (an output channel) in int8, symmetric: its largest magnitude becomes 127. Returns the scale; `None` for values that are
/// not finite.
pub fn quantise_row(row: &[f32], integers: &mut [i8]) -> Option<f32> {
    let largest = largest(row)?;
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    // Rounds half away from zero; the cast saturates. A magnitude so small that its inverse is infinite rounds to 0.
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    for (q, v) in integers.iter_mut().zip(row) {
        *q = (v * inverse + if *v < 0.0 { -0.5 } else { 0.5 }) as i8;
    }
    Some(if inverse > 0.0 { largest / 127.0 } else { 0.0 })
}

/// The largest magnitude; `None` where one is not finite.
fn largest(values: &[f32]) -> Option<f32> {
    values.iter().try_fold(0.0_f32, |m, v| v.is_finite().then_some(m.max(v.abs())))
}

/// The nearest level of a block with the inverse of a scale, from 0 to 15.
fn level(v: f32, inverse: f32) -> u8 {
    (v * inverse + 8.5).clamp(0.0, 15.0) as u8
}

/// At most 32 values as integers of 4 bits (0 to 15, for -8 to 7) and the bits of their scale. `None` for values that are not finite
/// or too large for a scale in half floats.
///
/// Of the scales that put the value of largest magnitude on -8 (ggml's Q4_0: all 16 levels are of use, but a value of the other sign
/// may end up to a step short), on 7 (no value ends more than half a step short) or between, that with the least sum of squared
/// errors; each value then takes its nearest level.
pub fn quantise_block(block: &[f32], integers: &mut [u8]) -> Option<u16> {
    /// What the value of largest magnitude is divided by to give a scale.
    const DIVISORS: [f32; 3] = [-8.0, -7.5, 7.0];
    largest(block)?;
    let extreme = block.iter().fold(0.0_f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    let mut best: Option<(f32, u16, f32)> = None;
    for bits in DIVISORS.iter().filter_map(|divisor| f32_to_f16(extreme / divisor)) {
        let scale = f16_to_f32(bits);
        // No sign where all is 0, so that no -0 comes out.
        let (bits, inverse) = if scale == 0.0 { (0, 0.0) } else { (bits, 1.0 / scale) };
        let error = block.iter().fold(0.0, |sum, &v| {
            let e = v - (f32::from(level(v, inverse)) - 8.0) * scale;
            sum + e * e
        });
        if best.is_none_or(|(least, ..)| error < least) {
            best = Some((error, bits, inverse));
        }
    }
    let (_, bits, inverse) = best?;
    for (q, &v) in integers.iter_mut().zip(block) {
        *q = level(v, inverse);
    }
    Some(bits)
}
