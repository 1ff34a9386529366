//! Elementwise work, written so that the compiler turns the loops into vector code for the processor at hand.

use pulp::Arch;
use unfog_core::nn::op::{Act, GELU_TANH, Modulate};

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
pub(super) fn activate(act: Act, x: f32) -> f32 {
    match act {
        Act::None => x,
        Act::Silu => x / (1.0 + exp(-x)),
        Act::Gelu => gelu(x),
        Act::QuickGelu => x / (1.0 + exp(-1.702 * x)),
        Act::GeluTanh => x / (1.0 + exp(-x * (GELU_TANH[0] + GELU_TANH[1] * x * x))),
        act => act.apply(x),
    }
}

/// `x * Phi(x)` to within 3e-7 of `x`, without branches. The error function's complement is `e^(-z^2) p(1 / (1 + 0.39 z))` with a polynomial
/// `p` (the form of Hastings 1955), fitted to 8e-9 on [0, 6].
#[inline(always)]
fn gelu(x: f32) -> f32 {
    let z = x.abs() * core::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.39 * z);
    let mut p = -0.227_537_52;
    for c in [0.886_666, -0.635_402_9, 0.649_561_5, 0.091_387_55, 0.235_325_36] {
        p = p * t + c;
    }
    let half = 0.5 * p * t * exp(-z * z);
    x * if x < 0.0 { half } else { 1.0 - half }
}

/// The activation of every value.
fn apply(arch: Arch, act: Act, values: &mut [f32]) {
    match act {
        Act::None => {}
        Act::Silu => arch.dispatch(
            #[inline(always)]
            || values.iter_mut().for_each(|v| *v = activate(Act::Silu, *v)),
        ),
        Act::Gelu => arch.dispatch(
            #[inline(always)]
            || values.iter_mut().for_each(|v| *v = gelu(*v)),
        ),
        Act::QuickGelu => arch.dispatch(
            #[inline(always)]
            || values.iter_mut().for_each(|v| *v = activate(Act::QuickGelu, *v)),
        ),
        Act::GeluTanh => arch.dispatch(
            #[inline(always)]
            || values.iter_mut().for_each(|v| *v = activate(Act::GeluTanh, *v)),
        ),
        act => values.iter_mut().for_each(|v| *v = activate(act, *v)),
    }
}

/// Adds each channel's values over the pixels of `x`, and their squares, to `sums` and `squares`.
pub(super) fn channel_sums(arch: Arch, x: &[f32], sums: &mut [f64], squares: &mut [f64]) {
    arch.dispatch(
        #[inline(always)]
        || {
            for pixel in x.chunks_exact(sums.len()) {
                for ((sum, square), v) in sums.iter_mut().zip(squares.iter_mut()).zip(pixel) {
                    let v = f64::from(*v);
                    *sum += v;
                    *square += v * v;
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

/// Lanes of sums that run side by side and are added one after the other at the end: a fixed order that vectorises.
const LANES: usize = 16;

/// `out = (x - mean) / sqrt(var + eps) * gamma + beta`, each pixel apart, the mean 0 if `rms`; its sums in f64.
pub(super) fn normalise_pixels(
    arch: Arch,
    (eps, rms): (f32, bool),
    x: &[f32],
    [gamma, beta]: [&[f32]; 2],
    out: &mut [f32],
) {
    let c = gamma.len();
    arch.dispatch(
        #[inline(always)]
        || {
            for (x, out) in x.chunks_exact(c).zip(out.chunks_exact_mut(c)) {
                let (mut sums, mut squares) = ([0.0_f64; LANES], [0.0_f64; LANES]);
                for chunk in x.chunks(LANES) {
                    for ((sum, square), v) in sums.iter_mut().zip(&mut squares).zip(chunk) {
                        let v = f64::from(*v);
                        *sum += v;
                        *square += v * v;
                    }
                }
                let mean = if rms { 0.0 } else { sums.iter().sum::<f64>() / c as f64 };
                // In f64 the difference loses nothing that f32 could have held.
                let var = (squares.iter().sum::<f64>() / c as f64 - mean * mean).max(0.0) as f32;
                let (mean, factor) = (mean as f32, 1.0 / (var + eps).sqrt());
                for (((o, x), g), b) in out.iter_mut().zip(x).zip(gamma).zip(beta) {
                    *o = (x - mean) * factor * g + b;
                }
            }
        },
    );
}

/// `out = x * (factor + scale) + shift`, channel by channel, and `residual` added.
pub(super) fn modulate(
    arch: Arch,
    op: &Modulate,
    x: &[f32],
    [scale, shift]: [&[f32]; 2],
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let (c, factor) = (scale.len(), op.factor);
    arch.dispatch(
        #[inline(always)]
        || {
            for (x, out) in x.chunks_exact(c).zip(out.chunks_exact_mut(c)) {
                for (((o, x), a), b) in out.iter_mut().zip(x).zip(scale).zip(shift) {
                    *o = x * (factor + a) + b;
                }
            }
            if let Some(residual) = residual {
                out.iter_mut().zip(residual).for_each(|(o, r)| *o += r);
            }
        },
    );
}

/// Each pixel's first `c` channels times the activation of the others.
pub(super) fn gate(arch: Arch, act: Act, x: &[f32], c: usize, out: &mut [f32]) {
    match act {
        Act::Gelu => arch.dispatch(
            #[inline(always)]
            || gated(x, c, out, gelu),
        ),
        Act::Silu => arch.dispatch(
            #[inline(always)]
            || gated(x, c, out, |v| activate(Act::Silu, v)),
        ),
        act => gated(x, c, out, |v| act.apply(v)),
    }
}

#[inline(always)]
fn gated(x: &[f32], c: usize, out: &mut [f32], act: impl Fn(f32) -> f32) {
    for (x, out) in x.chunks_exact(2 * c).zip(out.chunks_exact_mut(c)) {
        let (a, b) = x.split_at(c);
        for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
            *o = a * act(*b);
        }
    }
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
    fn gelu_is_close_to_its_definition() {
        for i in -12_000..=12_000 {
            let x = i as f32 * 1e-3;
            let (got, exact) = (gelu(x), Act::Gelu.apply(x));
            assert!((got - exact).abs() <= 4e-7 * x.abs().max(1e-3), "{x}: {got} is not {exact}");
        }
        assert_eq!((gelu(0.0), gelu(f32::INFINITY)), (0.0, f32::INFINITY));
        assert!(gelu(-40.0).abs() < 1e-37, "the exponential ends at the smallest normal number");
        assert!(gelu(f32::NAN).is_nan());
    }

    #[test]
    fn silu_ends_where_it_should() {
        assert_eq!(activate(Act::Silu, -200.0), -0.0);
        assert_eq!(activate(Act::Silu, 200.0), 200.0);
        assert!(activate(Act::Silu, f32::NAN).is_nan());
    }
}
