//! Logarithm, sine and cosine as torch's AVX2 build computes them: those of Cephes (Moshier 1989) in the vector form of
//! `avx_mathfun.h` (Garberoglio 2012, after Pommier 2007). Only for [`super::TorchCpu`], where every bit must be torch's:
//! the file is compiled so that products and sums are fused, and so they are here.

use crate::math::mul_add;

/// Horner's scheme, each step fused, highest power first.
fn polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    coefficients.into_iter().reduce(|sum, c| mul_add(sum, x, c)).unwrap_or(0.0)
}

/// Natural logarithm of a normal number above 0.
pub(super) fn ln(x: f32) -> f32 {
    // x = 2^e * m, m from 1/2 to 1; below sqrt(1/2), m is doubled.
    let m = f32::from_bits((x.to_bits() & 0x007f_ffff) | 0x3f00_0000);
    let e = (x.to_bits() >> 23) as f32 - 126.0;
    let (x, e) = if m < core::f32::consts::FRAC_1_SQRT_2 { (m - 1.0 + m, e - 1.0) } else { (m - 1.0, e) };
    let z = x * x;
    let y = polynomial(
        x,
        [
            0.070_376_836,
            -0.115_146_1,
            0.116_769_984,
            -0.124_201_41,
            0.142_493_23,
            -0.166_680_57,
            0.200_007_14,
            -0.249_999_94,
            0.333_333_3,
        ],
    ) * x;
    let y = mul_add(y, z, e * -2.121_944_4e-4);
    let y = mul_add(z, -0.5, y);
    mul_add(e, 0.693_359_4, x + y)
}

/// Sine and cosine of an angle from 0 to 8192 radians.
pub(super) fn sin_cos(angle: f32) -> [f32; 2] {
    // The nearest even multiple of a quarter of pi.
    let octant = ((angle * (4.0 / core::f32::consts::PI)) as u32).wrapping_add(1) & !1;
    let y = octant as f32;
    // A quarter of pi in three pieces.
    let x = mul_add(y, -0.785_156_25, angle);
    let x = mul_add(y, -0.000_241_875_65, x);
    let x = mul_add(y, -3.774_895e-8, x);
    let z = x * x;
    let cos = polynomial(z, [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2]) * z;
    let cos = mul_add(cos, z, -0.5 * z) + 1.0;
    let sin = polynomial(z, [-1.951_529_6e-4, 8.332_161e-3, -0.166_666_55]) * z;
    let sin = mul_add(sin, x, x);
    match octant & 6 {
        0 => [sin, cos],
        2 => [cos, -sin],
        4 => [-sin, -cos],
        _ => [-cos, sin],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_good_approximations() {
        for i in 1..=10_000 {
            let x = i as f32 / 10_000.0;
            let angle = core::f32::consts::TAU * x;
            let [sin, cos] = sin_cos(angle);
            let (sine, cosine) = f64::from(angle).sin_cos();
            for (got, want) in [(ln(x), f64::from(x).ln()), (sin, sine), (cos, cosine)] {
                // Cephes promises two units in the last place of numbers of about 1, and of logarithms as they are.
                let error = (f64::from(got) - want).abs();
                assert!(error < 2.0 * f64::from(f32::EPSILON) * want.abs().max(1.0), "{x}: {got} {want}");
            }
        }
    }
}
