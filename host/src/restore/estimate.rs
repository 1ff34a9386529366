//! How much noise a picture has.

use unfog_core::solve::matrix::mirrored;

use crate::error::Result;
use crate::memory;

/// Daubechies' wavelet of two vanishing moments: its high-pass filter (Daubechies 1992, table 6.1).
const HIGH: [f64; 4] =
    [-0.482_962_913_144_690_2, 0.836_516_303_737_469, -0.224_143_868_041_857_3, -0.129_409_522_550_921_53];
/// The median of a standard normal value's magnitude.
const MEDIAN: f64 = 0.674_489_750_196_081_7;

/// Standard deviation of the noise in a picture `[channels, h, w]`: the median magnitude of the finest diagonal wavelet coefficients
/// (Donoho and Johnstone 1994, section 4.2), the mean of the channels', as scikit-image's `estimate_sigma`. Noise is taken as Gaussian and
/// alike everywhere. 0 for a picture without any such coefficient.
///
/// # Errors
/// Too little memory.
pub fn noise_level(picture: &[f32], channels: usize, height: usize, width: usize) -> Result<f32> {
    let mut sum = 0.0;
    for plane in picture.chunks_exact((height * width).max(1)) {
        let mut rows = memory::vec(height * coefficients(width), 0.0)?;
        for (row, out) in plane.chunks_exact(width).zip(rows.chunks_exact_mut(coefficients(width))) {
            filter(|i| f64::from(row[i]), width, |i, v| out[i] = v);
        }
        let mut found = memory::vec(coefficients(height) * coefficients(width), 0.0)?;
        let across = coefficients(width);
        for column in 0..across {
            filter(|i| rows[i * across + column], height, |i, v| found[i * across + column] = v);
        }
        found.retain(|v| *v != 0.0);
        found.iter_mut().for_each(|v| *v = v.abs());
        found.sort_unstable_by(f64::total_cmp);
        let middle = found.len() / 2;
        sum += match found.len() {
            0 => 0.0,
            n if n % 2 == 1 => found[middle],
            _ => (found[middle - 1] + found[middle]) / 2.0,
        };
    }
    Ok((sum / channels.max(1) as f64 / MEDIAN) as f32)
}

/// Coefficients of `n` values.
const fn coefficients(n: usize) -> usize {
    (n + HIGH.len() - 1) / 2
}

/// The high-pass coefficients of `n` values, mirrored at the ends with the last one twice.
fn filter(value: impl Fn(usize) -> f64, n: usize, mut give: impl FnMut(usize, f64)) {
    for i in 0..coefficients(n) {
        let taps = HIGH.iter().enumerate();
        give(i, taps.map(|(k, h)| h * value(mirrored(2 * i as i64 + 1 - k as i64, n))).sum());
    }
}
