//! One-dimensional operators as matrices `[rows, cols]`, row after row: down-sampling and blur along a side of a picture.

use crate::math::wide;

/// Keys' cubic kernel (Keys 1981, equation 15) with `a = -0.5`: what Pillow and MATLAB call bicubic.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}

/// Bicubic down-sampling by `factor` with antialiasing: the kernel is `factor` times as wide, and at the edges what is left of it is
/// brought back to a sum of 1, as in Pillow. `out`: `[n / factor, n]`, n = `len`.
///
/// False, and nothing written, unless `factor` divides `len` and `out` has that many values.
#[must_use]
pub fn bicubic(len: usize, factor: usize, out: &mut [f64]) -> bool {
    if factor == 0 || len == 0 || !len.is_multiple_of(factor) || out.len() != len / factor * len {
        return false;
    }
    let scale = factor as f64;
    for (i, row) in out.chunks_exact_mut(len).enumerate() {
        let center = (i as f64 + 0.5) * scale;
        // Pillow leaves out what lies at the window's very edge.
        let [from, to] = [center - 2.0 * scale + 0.5, center + 2.0 * scale + 0.5].map(|edge| edge.max(0.0) as usize);
        let mut sum = 0.0;
        for (j, value) in row.iter_mut().enumerate() {
            let inside = (from..to).contains(&j);
            *value = if inside { cubic((j as f64 + 0.5 - center) / scale) } else { 0.0 };
            sum += *value;
        }
        row.iter_mut().for_each(|value| *value /= sum);
    }
    true
}

/// Gaussian blur of standard deviation `sigma` in pixels, cut off at four of them, mirrored at the edges with the edge's pixel twice
/// (scipy's `reflect`). `out`: `[n, n]`, n = `len`.
///
/// False, and nothing written, for a `sigma` that is not above 0 or wider than the side, or another number of values.
#[must_use]
pub fn gaussian(len: usize, sigma: f64, out: &mut [f64]) -> bool {
    if !(sigma > 0.0 && sigma <= len as f64) || len.checked_mul(len) != Some(out.len()) {
        return false;
    }
    let radius = (4.0 * sigma + 0.5) as i64;
    let weight = |d: i64| wide::exp(-0.5 * (d * d) as f64 / (sigma * sigma));
    let sum: f64 = (-radius..=radius).map(weight).sum();
    out.fill(0.0);
    for (i, row) in out.chunks_exact_mut(len).enumerate() {
        for d in -radius..=radius {
            let j = mirrored(i as i64 + d, len);
            row[j] += weight(d) / sum;
        }
    }
    true
}

/// The pixel that stands at place `i` beside a side of `len` pixels: `c b a | a b c | c b a`.
pub fn mirrored(i: i64, len: usize) -> usize {
    let len = len.max(1) as i64;
    let i = i.rem_euclid(2 * len);
    (if i < len { i } else { 2 * len - 1 - i }) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn rows_keep_the_mean() {
        let mut out = vec![0.0; 4 * 16];
        assert!(bicubic(16, 4, &mut out));
        let mut blur = vec![0.0; 81];
        assert!(gaussian(9, 2.0, &mut blur));
        for row in out.chunks_exact(16).chain(blur.chunks_exact(9)) {
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{row:?}");
        }
    }

    #[test]
    fn sides_that_do_not_fit_are_refused() {
        assert!(!bicubic(16, 3, &mut [0.0; 80]));
        assert!(!bicubic(16, 4, &mut [0.0; 63]));
        assert!(!bicubic(0, 4, &mut []));
        assert!(!gaussian(4, 0.0, &mut [0.0; 16]));
        assert!(!gaussian(4, f64::NAN, &mut [0.0; 16]));
        assert!(!gaussian(4, 1.0, &mut [0.0; 15]));
    }

    #[test]
    fn places_beyond_the_edges_are_mirrored() {
        let places: std::vec::Vec<usize> = (-4..8).map(|i| mirrored(i, 3)).collect();
        assert_eq!(places, [2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0, 1]);
    }
}
