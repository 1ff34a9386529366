//! Elementwise work, written so that the compiler turns the loops into vector code for the processor at hand.

use pulp::Arch;
use unfog_core::nn::op::Act;

/// `e^x` to within 2 ulp for finite results, without branches (Cephes' `expf`, S. Moshier; the same steps for every
/// value, so that it vectorises). Below -87.3 the result is the smallest normal number, not a subnormal; above 88.7, infinity.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to a whole number
    let clamped = x.clamp(-87.3, 88.72);
    let shifted = clamped * core::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    // ln 2 in two parts, the first short enough for an exact product.
    let r = (clamped - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let fraction = p * r * r + r + 1.0;
    // 2^n in two factors: n reaches 128, whose power alone is no f32.
    let n = shifted.to_bits().wrapping_sub(MAGIC.to_bits()) as i32;
    let half = n >> 1;
    let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    let result = fraction * power(half) * power(n - half);
    let result = if x > 88.72 { f32::INFINITY } else { result };
    if x.is_nan() { x } else { result }
}

/// The activation of one value, close to core's twin and fit for vector code where it matters.
#[inline(always)]
fn activate(act: Act, x: f32) -> f32 {
    match act {
        Act::None => x,
        Act::Silu => x / (1.0 + exp(-x)),
        act => act.apply(x),
    }
}

/// A pixel row's epilogue: `v = act((v + add + residual) * scale)` for every pixel of `add.len()` channels.
pub(super) fn epilogue(arch: Arch, out: &mut [f32], add: &[f32], residual: Option<&[f32]>, scale: f32, act: Act) {
    let c = add.len();
    arch.dispatch(
        #[inline(always)]
        || match residual {
            Some(residual) => {
                for (pixel, residual) in out.chunks_exact_mut(c).zip(residual.chunks_exact(c)) {
                    for ((v, a), r) in pixel.iter_mut().zip(add).zip(residual) {
                        *v = (*v + a + r) * scale;
                    }
                }
            }
            None => {
                for pixel in out.chunks_exact_mut(c) {
                    for (v, a) in pixel.iter_mut().zip(add) {
                        *v = (*v + a) * scale;
                    }
                }
            }
        },
    );
    apply(arch, act, out);
}

/// The activation of every value.
fn apply(arch: Arch, act: Act, values: &mut [f32]) {
    match act {
        Act::None => {}
        Act::Silu => arch.dispatch(
            #[inline(always)]
            || values.iter_mut().for_each(|v| *v = activate(Act::Silu, *v)),
        ),
        act => values.iter_mut().for_each(|v| *v = activate(act, *v)),
    }
}

/// Adds each channel's sum over the pixels of `x` to `sums`.
pub(super) fn channel_sums(arch: Arch, x: &[f32], sums: &mut [f64]) {
    arch.dispatch(
        #[inline(always)]
        || {
            for pixel in x.chunks_exact(sums.len()) {
                for (sum, v) in sums.iter_mut().zip(pixel) {
                    *sum += f64::from(*v);
                }
            }
        },
    );
}

/// Adds each channel's sum of squared deviations from `mean` to `sums`.
pub(super) fn channel_squares(arch: Arch, x: &[f32], mean: &[f32], sums: &mut [f64]) {
    arch.dispatch(
        #[inline(always)]
        || {
            for pixel in x.chunks_exact(mean.len()) {
                for ((sum, v), m) in sums.iter_mut().zip(pixel).zip(mean) {
                    let d = v - m;
                    *sum += f64::from(d * d);
                }
            }
        },
    );
}

/// `out = act((x - mean) * factor + shift)`, channel by channel.
pub(super) fn normalise(arch: Arch, x: &[f32], [mean, factor, shift]: [&[f32]; 3], act: Act, out: &mut [f32]) {
    let c = mean.len();
    arch.dispatch(
        #[inline(always)]
        || {
            for (x, out) in x.chunks_exact(c).zip(out.chunks_exact_mut(c)) {
                for ((((o, x), m), f), s) in out.iter_mut().zip(x).zip(mean).zip(factor).zip(shift) {
                    *o = (x - m) * f + s;
                }
            }
        },
    );
    apply(arch, act, out);
}

/// Turns a row of scores into `exp((score - max) * scale)` and returns the sum.
pub(super) fn softmax_weights(arch: Arch, scores: &mut [f32], scale: f32) -> f32 {
    arch.dispatch(
        #[inline(always)]
        || {
            let max = scores.iter().fold(f32::NEG_INFINITY, |m, &s| if s > m { s } else { m });
            // Eight sums side by side, then one after the other: a fixed order that vectorises.
            let mut sums = [0.0_f32; 8];
            let mut chunks = scores.chunks_exact_mut(8);
            for chunk in &mut chunks {
                for (sum, s) in sums.iter_mut().zip(chunk) {
                    *s = exp((*s - max) * scale);
                    *sum += *s;
                }
            }
            for (sum, s) in sums.iter_mut().zip(chunks.into_remainder()) {
                *s = exp((*s - max) * scale);
                *sum += *s;
            }
            sums.iter().sum()
        },
    )
}

/// Every value times `factor`.
pub(super) fn scale(values: &mut [f32], factor: f32) {
    values.iter_mut().for_each(|v| *v *= factor);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        let mut worst = 0.0_f64;
        for i in -873_000..=887_000_i32 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2.4e-7, "two ulp are 2.4e-7, the worst error is {worst:e}");
    }

    #[test]
    fn exp_keeps_the_special_values() {
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(100.0), f32::INFINITY);
        assert!(exp(f32::NEG_INFINITY) < 1.3e-38);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn silu_ends_where_it_should() {
        assert_eq!(activate(Act::Silu, -200.0), -0.0);
        assert_eq!(activate(Act::Silu, 200.0), 200.0);
        assert!(activate(Act::Silu, f32::NAN).is_nan());
    }
}
