//! How near a picture is to another.

use serde::Serialize;

use crate::error::Result;
use crate::memory;

/// How near.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// Peak signal-to-noise ratio in dB; absent where the pictures are the same.
    pub psnr: Option<f64>,
    /// Structural similarity: Wang et al. 2004, with their Gaussian window of standard deviation 1.5 and 11 pixels; the mean over pixels whose
    /// window lies inside, and over channels. Absent for pictures that are smaller than the window.
    pub ssim: Option<f64>,
}

/// Pixels of the window to each side.
const RADIUS: usize = 5;
/// Its standard deviation.
const SIGMA: f64 = 1.5;

/// Compares pictures `[channels, h, w]` of -1 to 1.
///
/// # Errors
/// Too little memory.
pub fn quality(a: &[f32], b: &[f32], height: usize, width: usize) -> Result<Quality> {
    let unit = |v: &f32| f64::from(*v) / 2.0 + 0.5;
    let squares = a.iter().zip(b).map(|(a, b)| (unit(a) - unit(b)).powi(2));
    let error = squares.sum::<f64>() / a.len().max(1) as f64;
    let psnr = (error > 0.0).then(|| -10.0 * error.log10());
    if height <= 2 * RADIUS || width <= 2 * RADIUS {
        return Ok(Quality { psnr, ssim: None });
    }
    let plane = height * width;
    let weight = |i: usize| (-0.5 * (i as f64 - RADIUS as f64).powi(2) / (SIGMA * SIGMA)).exp();
    let mut window: Vec<f64> = (0..=2 * RADIUS).map(weight).collect();
    let sum: f64 = window.iter().sum();
    window.iter_mut().for_each(|w| *w /= sum);
    let (mut total, mut count) = (0.0, 0);
    for (a, b) in a.chunks_exact(plane).zip(b.chunks_exact(plane)) {
        let mean = |value: &dyn Fn(usize) -> f64| smooth(value, [height, width], &window);
        let (x, y) = (|i: usize| unit(&a[i]), |i: usize| unit(&b[i]));
        let (mx, my) = (mean(&x)?, mean(&y)?);
        let (xx, yy, xy) = (mean(&|i| x(i) * x(i))?, mean(&|i| y(i) * y(i))?, mean(&|i| x(i) * y(i))?);
        let (c1, c2) = (0.01_f64.powi(2), 0.03_f64.powi(2));
        for i in 0..mx.len() {
            let (vx, vy, v) = (xx[i] - mx[i] * mx[i], yy[i] - my[i] * my[i], xy[i] - mx[i] * my[i]);
            let likeness = (2.0 * mx[i] * my[i] + c1) * (2.0 * v + c2);
            total += likeness / ((mx[i] * mx[i] + my[i] * my[i] + c1) * (vx + vy + c2));
            count += 1;
        }
    }
    Ok(Quality { psnr, ssim: Some(total / f64::from(count)) })
}

/// Weighted means over the windows that lie inside.
fn smooth(value: &dyn Fn(usize) -> f64, [height, width]: [usize; 2], window: &[f64]) -> Result<Vec<f64>> {
    let (rows, columns) = (height - 2 * RADIUS, width - 2 * RADIUS);
    let mut along = memory::vec(height * columns, 0.0)?;
    for y in 0..height {
        for x in 0..columns {
            along[y * columns + x] = window.iter().enumerate().map(|(k, w)| w * value(y * width + x + k)).sum();
        }
    }
    let mut out = memory::vec(rows * columns, 0.0)?;
    for (i, out) in out.iter_mut().enumerate() {
        *out = window.iter().enumerate().map(|(k, w)| w * along[i + k * columns]).sum();
    }
    Ok(out)
}
