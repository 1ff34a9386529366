//! Orthonormal changes of basis, in place: the directions along which operators measure, and those that they lose.

use crate::math::{sqrt, wide};

/// Reflects the values that `at` names so that the unit vector `axis` and the first of the coordinates change places (Householder 1958): the
/// first value becomes the one along `axis`. Its own inverse.
pub(super) fn reflect(x: &mut [f32], axis: impl Fn(usize) -> f32, at: impl Fn(usize) -> usize, count: usize) {
    // v = axis - e_0, whose square is 2 (1 - axis_0).
    let half = 1.0 - axis(0);
    if half <= 0.0 {
        return;
    }
    let along: f32 = (0..count).map(|i| axis(i) * x[at(i)]).sum();
    let factor = (along - x[at(0)]) / half;
    for i in 0..count {
        let v = if i == 0 { -half } else { axis(i) };
        x[at(i)] -= factor * v;
    }
}

/// The Walsh-Hadamard transform of `x`, whose length is a power of two. Its own inverse.
pub(super) fn hadamard(x: &mut [f32]) {
    let n = x.len();
    let mut half = 1;
    while half < n {
        for block in x.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / sqrt(n as f32);
    x.iter_mut().for_each(|v| *v *= scale);
}

/// Rows and columns of a block of the cosine transform.
pub(super) const BLOCK: usize = 8;

/// The orthonormal cosine transform of 8 values (DCT-II), a row a frequency.
pub(super) fn cosines() -> [[f32; BLOCK]; BLOCK] {
    let mut rows = [[0.0; BLOCK]; BLOCK];
    for (k, row) in rows.iter_mut().enumerate() {
        for (i, value) in row.iter_mut().enumerate() {
            let angle = core::f64::consts::PI * k as f64 * (2 * i + 1) as f64 / 16.0;
            *value = (wide::cos(angle) * if k == 0 { wide::sqrt(0.125) } else { 0.5 }) as f32;
        }
    }
    rows
}

/// `matrix` `[n, n]`, or with `inverse` its transpose, times the `n` values that `at` names; `scratch` has room for them.
pub(super) fn multiply(matrix: &[f32], inverse: bool, x: &mut [f32], at: impl Fn(usize) -> usize, scratch: &mut [f32]) {
    let n = scratch.len();
    scratch.iter_mut().enumerate().for_each(|(i, value)| *value = x[at(i)]);
    for i in 0..n {
        let entry = |k: usize| if inverse { matrix[k * n + i] } else { matrix[i * n + k] };
        x[at(i)] = scratch.iter().enumerate().map(|(k, value)| entry(k) * value).sum();
    }
}
