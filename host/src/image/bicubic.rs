//! Planes of values in another size, by Keys' cubic filter with a = -0.5, wider where it shrinks: as PIL has it, and torch's bicubic
//! interpolation with `antialias`.

use crate::error::Result;
use crate::memory;

/// How far the filter reaches, in pixels of the smaller side.
const REACH: f64 = 2.0;

/// What makes one value of the result: the first value that counts, and the weights from it on.
struct Taps {
    first: usize,
    weights: Vec<f64>,
}

/// Keys 1981, with a = -0.5.
fn filter(x: f64) -> f64 {
    let x = x.abs();
    match x {
        _ if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        _ if x < REACH => -0.5 * (((x - 5.0) * x + 8.0) * x - 4.0),
        _ => 0.0,
    }
}

/// The taps of a side of `from` values that becomes one of `to`.
fn taps(from: u32, to: u32) -> Vec<Taps> {
    let scale = f64::from(from) / f64::from(to);
    let wide = scale.max(1.0);
    let tap = |i: u32| {
        let centre = (f64::from(i) + 0.5) * scale;
        // Not negative: the cast rounds down.
        let first = (centre - REACH * wide + 0.5).max(0.0) as u32;
        let end = ((centre + REACH * wide + 0.5) as u32).min(from);
        let mut weights: Vec<f64> = (first..end).map(|j| filter((f64::from(j) - centre + 0.5) / wide)).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
        Taps { first: first as usize, weights }
    };
    (0..to).map(tap).collect()
}

/// Planes `[h, w]` of `values` in the size `to` (rows and columns). `round` is what becomes of a value after each of both directions.
///
/// # Errors
/// Too little memory.
pub(crate) fn bicubic(
    values: &[f32],
    [h, w]: [u32; 2],
    [to_h, to_w]: [u32; 2],
    round: impl Fn(f64) -> f32,
) -> Result<Vec<f32>> {
    let (columns, rows) = (taps(w, to_w), taps(h, to_h));
    let (h, w, to_h, to_w) = (h as usize, w as usize, to_h as usize, to_w as usize);
    let planes = values.len().checked_div(h * w).unwrap_or(0);
    let sum = |taps: &Taps, value: &dyn Fn(usize) -> f32| {
        let terms = taps.weights.iter().enumerate();
        round(terms.map(|(i, weight)| weight * f64::from(value(taps.first + i))).sum())
    };
    let mut narrow = memory::room(planes * h * to_w)?;
    for row in values.chunks_exact(w) {
        narrow.extend(columns.iter().map(|taps| sum(taps, &|x| row[x])));
    }
    let mut out = memory::room(planes * to_h * to_w)?;
    for plane in narrow.chunks_exact(h * to_w) {
        for taps in &rows {
            out.extend((0..to_w).map(|x| sum(taps, &|y| plane[y * to_w + x])));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_stays_one_and_its_size_stays_it() {
        let ramp: Vec<f32> = (0..8).map(|i| i as f32).collect();
        assert_eq!(bicubic(&ramp, [2, 4], [2, 4], |v| v as f32).unwrap(), ramp);
        // Image.fromarray(numpy.float32([[0, 1, 2, 3]])).resize((8, 1), Image.BICUBIC)
        let wide = bicubic(&ramp[..4], [1, 4], [1, 8], |v| v as f32).unwrap();
        let expected = [-0.088_235_3_f32, 0.167_883_2, 0.709_923_7, 1.25, 1.75, 2.290_076_3, 2.832_116_8, 3.088_235_4];
        assert!(wide.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{wide:?}");
        let even = bicubic(&[5.0; 35], [5, 7], [3, 2], |v| v as f32).unwrap();
        assert!(even.len() == 6 && even.iter().all(|v| (v - 5.0).abs() < 1e-6), "{even:?}");
    }
}
