//! Kernels where they lie, in torch's layout and the type in which they are stored. A panel of 16 outputs at a time is widened and turned
//! into the order of the inner loop, small enough for the processor's cache: there is no second copy of a network's weights.

use std::ops::Range;

use pulp::Arch;
use unfog_core::nn::weights::WeightData;

use super::tile::PANEL;

/// Values of an output that are widened at a time.
const STRIP: usize = 256;
/// Scratch values that [`Kernel::panel`] needs.
pub(super) const STRIPS: usize = PANEL * STRIP;

/// The kernel of a convolution or linear layer: `[outputs, inputs, taps]`.
#[derive(Clone, Copy)]
pub(super) struct Kernel<'w> {
    pub(super) data: WeightData<'w>,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    /// Positions, row by row.
    pub(super) taps: usize,
    /// All of its panels as the convolution wants them, made beforehand; empty where each is made on its way.
    pub(super) prepared: &'w [f32],
}

/// In what order a panel has its rows, of which there is one for each position and input.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Order {
    /// Positions outermost.
    Taps,
    /// Inputs outermost, as they are stored.
    Inputs,
}

impl Kernel<'_> {
    /// Fills `panel` with the weights of outputs `first..first + 16` for `inputs`: a row of 16 for each position and input, 0 where there
    /// is no such output.
    pub(super) fn panel(
        &self,
        arch: Arch,
        first: usize,
        inputs: Range<usize>,
        order: Order,
        strips: &mut [f32],
        panel: &mut [f32],
    ) {
        let (count, taps) = (inputs.len(), self.taps);
        let values = count * taps;
        let there = PANEL.min(self.outputs - first);
        if there < PANEL {
            strips.fill(0.0);
        }
        // The next row's input and position.
        let (mut input, mut tap) = (0, 0);
        for start in (0..values).step_by(STRIP) {
            let len = STRIP.min(values - start);
            for (lane, strip) in strips.chunks_exact_mut(STRIP).take(there).enumerate() {
                let output = first + lane;
                let from = (output * self.inputs + inputs.start) * taps + start;
                self.widen(arch, output, from, &mut strip[..len]);
            }
            if order == Order::Inputs || taps == 1 {
                turn(arch, strips, len, &mut panel[start * PANEL..]);
                continue;
            }
            // The inputs' order first, in place of the strips' beginning; then each row to its place.
            let mut rows = [0.0; 8 * PANEL];
            for at in (0..len).step_by(8) {
                let some = 8.min(len - at);
                turn(arch, &strips[at..], some, &mut rows);
                for row in rows.chunks_exact(PANEL).take(some) {
                    panel[(tap * count + input) * PANEL..][..PANEL].copy_from_slice(row);
                    tap += 1;
                    if tap == taps {
                        (input, tap) = (input + 1, 0);
                    }
                }
            }
        }
    }

    /// Values of one output from value `from` on, exactly.
    fn widen(&self, arch: Arch, output: usize, from: usize, out: &mut [f32]) {
        let range = from..from + out.len();
        match self.data {
            WeightData::F32(w) => out.copy_from_slice(&w[range]),
            WeightData::F16(w) => arch.dispatch(
                #[inline(always)]
                || out.iter_mut().zip(&w[range]).for_each(|(out, &w)| *out = widen_f16(w)),
            ),
            WeightData::Bf16(w) => arch.dispatch(
                #[inline(always)]
                || out.iter_mut().zip(&w[range]).for_each(|(out, &w)| *out = f32::from_bits(u32::from(w) << 16)),
            ),
            WeightData::I8 { values, scales } => {
                let scale = scales.get(output * scales.len() / self.outputs).copied().unwrap_or(0.0);
                arch.dispatch(
                    #[inline(always)]
                    || out.iter_mut().zip(&values[range]).for_each(|(out, &w)| *out = f32::from(w) * scale),
                );
            }
            WeightData::Q4(w) => arch.dispatch(
                #[inline(always)]
                || w.widen(from, out),
            ),
        }
    }
}

/// [`unfog_core::nn::weights::f16_to_f32`] without branches, so that it vectorises.
#[inline(always)]
fn widen_f16(half: u16) -> f32 {
    // The fraction and exponent in their places; the exponent is short of 112.
    let bits = u32::from(half & 0x7fff) << 13;
    let normal = bits + (112 << 23);
    // Subnormals: with the least exponent of a normal one the fraction counts from 2^-14, which is taken off again.
    let small = (f32::from_bits(bits + (113 << 23)) - f32::from_bits(113 << 23)).to_bits();
    let magnitude = if bits < 1 << 23 { small } else { normal };
    // Infinity and what is no number have all of the exponent's bits.
    let magnitude = if bits >= 31 << 23 { magnitude | 0x7f80_0000 } else { magnitude };
    f32::from_bits(magnitude | u32::from(half & 0x8000) << 16)
}

/// Turns the first `len` values of 16 strips into `len` rows of 16.
fn turn(arch: Arch, strips: &[f32], len: usize, rows: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if let Arch::V3(_) | Arch::V4(_) = arch
        && let Some(simd) = pulp::x86::V3::try_new()
    {
        return avx::turn(simd, strips, len, rows);
    }
    arch.dispatch(
        #[inline(always)]
        || {
            for (i, row) in rows.chunks_exact_mut(PANEL).take(len).enumerate() {
                for (lane, value) in row.iter_mut().enumerate() {
                    *value = strips[lane * STRIP + i];
                }
            }
        },
    );
}

/// The same with AVX's shuffles, four times faster.
#[cfg(target_arch = "x86_64")]
mod avx {
    use std::arch::x86_64::__m256;

    use pulp::x86::V3;
    use pulp::{Simd, WithSimd, bytemuck::cast};

    use super::{PANEL, STRIP};

    struct Turn<'a> {
        simd: V3,
        strips: &'a [f32],
        len: usize,
        rows: &'a mut [f32],
    }

    pub(super) fn turn(simd: V3, strips: &[f32], len: usize, rows: &mut [f32]) {
        Simd::vectorize(simd, Turn { simd, strips, len, rows });
    }

    impl WithSimd for Turn<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            let Self { simd, strips, len, rows } = self;
            let whole = len / 8 * 8;
            for at in (0..whole).step_by(8) {
                for half in 0..2 {
                    let mut square: [__m256; 8] = [simd.avx._mm256_setzero_ps(); 8];
                    for (i, v) in square.iter_mut().enumerate() {
                        let (head, _) = pulp::as_arrays::<8, f32>(&strips[(half * 8 + i) * STRIP + at..][..8]);
                        *v = cast(head[0]);
                    }
                    let square = transpose(simd, square);
                    for (i, v) in square.into_iter().enumerate() {
                        let row: [f32; 8] = cast(v);
                        rows[(at + i) * PANEL + half * 8..][..8].copy_from_slice(&row);
                    }
                }
            }
            for at in whole..len {
                for lane in 0..PANEL {
                    rows[at * PANEL + lane] = strips[lane * STRIP + at];
                }
            }
        }
    }

    /// The transpose of 8 x 8 values: pairs, then pairs of pairs, then halves.
    #[inline(always)]
    fn transpose(simd: V3, r: [__m256; 8]) -> [__m256; 8] {
        let avx = simd.avx;
        let low = |i: usize| avx._mm256_unpacklo_ps(r[i], r[i + 1]);
        let high = |i: usize| avx._mm256_unpackhi_ps(r[i], r[i + 1]);
        let pairs = [low(0), high(0), low(2), high(2), low(4), high(4), low(6), high(6)];
        let first = |a: __m256, b: __m256| avx._mm256_shuffle_ps::<0x44>(a, b);
        let second = |a: __m256, b: __m256| avx._mm256_shuffle_ps::<0xee>(a, b);
        let quads = [
            first(pairs[0], pairs[2]),
            second(pairs[0], pairs[2]),
            first(pairs[1], pairs[3]),
            second(pairs[1], pairs[3]),
            first(pairs[4], pairs[6]),
            second(pairs[4], pairs[6]),
            first(pairs[5], pairs[7]),
            second(pairs[5], pairs[7]),
        ];
        let lower = |i: usize| avx._mm256_permute2f128_ps::<0x20>(quads[i], quads[i + 4]);
        let upper = |i: usize| avx._mm256_permute2f128_ps::<0x31>(quads[i], quads[i + 4]);
        [lower(0), lower(1), lower(2), lower(3), upper(0), upper(1), upper(2), upper(3)]
    }
}

#[cfg(test)]
mod tests {
    use unfog_core::nn::quant::{Q4, q4_lens};
    use unfog_core::nn::weights::f16_to_f32;

    use super::*;

    #[test]
    fn every_half_float_is_widened_exactly() {
        for half in 0..=u16::MAX {
            assert_eq!(widen_f16(half).to_bits(), f16_to_f32(half).to_bits(), "{half:#06x}");
        }
    }

    /// Panels of every type and order hold the values that `WeightData::at` has, also where outputs lack and strips end.
    #[test]
    fn panels_hold_the_weights() {
        let (outputs, inputs, taps) = (21, 75, 9);
        let len = outputs * inputs * taps;
        let bits: Vec<u16> = (0..len).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 17) as u16 & 0x3fff).collect();
        let wide: Vec<f32> = bits.iter().map(|&b| f16_to_f32(b)).collect();
        let bytes: Vec<i8> = bits.iter().map(|&b| b as i8).collect();
        let scales: Vec<f32> = (0..outputs).map(|i| 0.01 * (i + 1) as f32).collect();
        let shape = [outputs, inputs, taps, 1].map(|n| n as u32);
        let [values, blocks] = q4_lens(shape).unwrap();
        let nibbles: Vec<u8> = (0..values).map(|i| (i * 7 % 251) as u8).collect();
        let halves: Vec<u16> = bits[..blocks].to_vec();
        let all = [
            WeightData::F32(&wide),
            WeightData::F16(&bits),
            WeightData::Bf16(&bits),
            WeightData::I8 { values: &bytes, scales: &scales },
            WeightData::Q4(Q4::new(shape, &nibbles, &halves).unwrap()),
        ];
        for (data, arch) in all.into_iter().flat_map(|data| [(data, Arch::new()), (data, Arch::Scalar)]) {
            let kernel = Kernel { data, outputs, inputs, taps, prepared: &[] };
            for (first, range) in [(0, 0..75), (16, 3..74), (16, 70..75)] {
                for order in [Order::Taps, Order::Inputs] {
                    let count = range.len();
                    let (mut strips, mut panel) = (vec![f32::NAN; STRIPS], vec![f32::NAN; count * taps * PANEL]);
                    kernel.panel(arch, first, range.clone(), order, &mut strips, &mut panel);
                    for (i, value) in panel.iter().enumerate() {
                        let (row, output) = (i / PANEL, first + i % PANEL);
                        let (input, tap) = match order {
                            Order::Taps => (row % count, row / count),
                            Order::Inputs => (row / taps, row % taps),
                        };
                        let at = (output * inputs + range.start + input) * taps + tap;
                        let want = if output < outputs { data.at(at) } else { 0.0 };
                        assert_eq!(value.to_bits(), want.to_bits(), "{range:?}, row {row}, output {output}");
                    }
                }
            }
        }
    }
}
