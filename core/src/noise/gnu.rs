//! Logarithm, sine and cosine as the GNU C library has them since 2.28: those of Arm's Optimized Routines (MIT licence),
//! `logf`, `sinf`, `cosf`. Their last bits are not always the right ones (0.7 % to 1.3 % of the values here), so noise that
//! must be equal to that of a program on GNU/Linux needs these. In f64, rounded once at the end.

use core::f64::consts::{FRAC_PI_2, FRAC_PI_4, LN_2};

/// For 16 pieces of the numbers from 0.7 to 1.4: a number c near the middle as 1 / c, and ln c.
const PIECES: [[f64; 2]; 16] = [
    [1.398_907_162_146_528, -0.335_691_333_328_822_84],
    [1.340_314_189_663_799_8, -0.292_904_056_377_407_4],
    [1.286_432_210_124_115, -0.251_872_658_093_736_9],
    [1.236_715_021_426_989_5, -0.212_458_688_071_172_55],
    [1.190_697_716_671_175_2, -0.174_539_451_837_456_34],
    [1.147_982_102_055_642_9, -0.138_005_707_231_975_8],
    [1.108_225_144_827_215_8, -0.102_759_766_985_451_39],
    [1.071_129_741_305_738_1, -0.068_713_924_470_205_25],
    [1.036_437_278_977_283, -0.035_789_138_739_822_8],
    [1.0, 0.0],
    [0.949_285_979_573_905_7, 0.052_045_177_429_294_96],
    [0.895_104_942_860_900_4, 0.110_814_312_987_879_42],
    [0.847_682_162_035_110_3, 0.165_249_522_369_514_3],
    [0.805_031_485_169_200_1, 0.216_873_890_316_999_77],
    [0.766_467_100_884_310_8, 0.265_963_502_812_139_7],
    [0.731_428_603_316_328, 0.312_755_666_407_355_7],
];

/// Natural logarithm of a normal number above 0.
pub(super) fn ln(x: f32) -> f32 {
    // x = 2^k * z, z from 0.7 to 1.4.
    const FIRST: u32 = 0x3f33_0000;
    let place = x.to_bits().wrapping_sub(FIRST);
    let k = f64::from(place as i32 >> 23);
    let z = f64::from(f32::from_bits(x.to_bits().wrapping_sub(place & 0xff80_0000)));
    let [inverse, ln_c] = PIECES[(place >> 19) as usize % 16];
    let r = z * inverse - 1.0;
    let (r2, sum) = (r * r, ln_c + k * LN_2);
    let y = 0.333_456_765_744_066 * r + -0.499_999_748_580_210_3;
    let y = -0.250_893_422_142_371_54 * r2 + y;
    (y * r2 + (sum + r)) as f32
}

/// Sine and cosine of an angle from 0 to 100 radians.
pub(super) fn sin_cos(angle: f32) -> [f32; 2] {
    let x = f64::from(angle);
    // Below a quarter of pi (whose f32 counts as above it) there is nothing to take off.
    let quarters = if angle < FRAC_PI_4 as f32 { 0 } else { (x / FRAC_PI_2 + 0.5) as u32 };
    let x = x - f64::from(quarters) * FRAC_PI_2;
    let x2 = x * x;
    let (x3, x4) = (x * x2, x2 * x2);
    let sin =
        x + x3 * -0.166_666_549_437_010_84 + x3 * x2 * (0.008_332_178_146_138_854 + x2 * -0.000_195_172_989_813_857_25);
    let cos = 1.0
        + x2 * -0.499_999_997_251_082_24
        + x4 * 0.041_666_623_324_344_516
        + x4 * x2 * (-0.001_388_676_379_437_604 + x2 * 2.4390450703564542e-05);
    let (sin, cos) = (sin as f32, cos as f32);
    match quarters % 4 {
        0 => [sin, cos],
        1 => [cos, -sin],
        2 => [-sin, -cos],
        _ => [-cos, sin],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_off_by_less_than_a_unit() {
        for i in 1..=10_000 {
            let x = i as f32 / 10_000.0;
            let [sin, cos] = sin_cos(100.0 * x);
            let (sine, cosine) = f64::from(100.0 * x).sin_cos();
            for (got, want) in [(ln(x), f64::from(x).ln()), (sin, sine), (cos, cosine)] {
                // One unit in the last place of a value of this size.
                let unit = want.abs().max(f64::from(f32::MIN_POSITIVE)) * f64::from(f32::EPSILON);
                assert!((f64::from(got) - want).abs() < unit, "{x}: {got} {want}");
            }
        }
    }
}
