//! Noise that is not alike everywhere: what it is at each value of a picture, and what it adds to it.
//!
//! Both models are of the intensity that a value was measured from, counted from black. It is not known; a smoothed picture stands for it.

use std::f64::consts::FRAC_PI_2;
use std::str::FromStr;

use unfog_core::solve::matrix::mirrored;

use crate::backend::by_name;
use crate::error::{Error, Result};
use crate::memory;

/// Values of a picture from black to full, in which noise is told.
const FULL: f64 = 255.0;
/// The least standard deviation that is assumed anywhere, as a share of the largest.
const LEAST: f32 = 1e-2;
/// Standard deviation of the window that smooths, in pixels, and its pixels to each side.
const SMOOTH: f64 = 1.5;
const RADIUS: i64 = 4;

/// Which noise a picture has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoiseModel {
    /// Alike everywhere.
    #[default]
    Gaussian,
    /// The magnitude of two measurements with Gaussian noise, as of magnetic resonance: less noise in the dark, which is too bright there
    /// (Gudbjartsson and Patz 1995).
    Rician,
    /// Noise of counted quanta beside that of the electronics, as of few X-rays or little light: its variance grows with the intensity
    /// (Foi et al. 2008).
    PoissonGaussian,
}

impl NoiseModel {
    /// Names on the command line.
    const NAMES: [(&str, Self); 3] =
        [("gaussian", Self::Gaussian), ("rician", Self::Rician), ("poisson-gaussian", Self::PoissonGaussian)];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, model)| *model == self).map_or("", |(name, _)| name)
    }
}

impl FromStr for NoiseModel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        by_name(&Self::NAMES, "noise model", text)
    }
}

/// The noise of a picture, value by value.
#[derive(Clone, Debug)]
pub(super) struct Uneven {
    /// The picture less what its noise adds in the mean.
    pub(super) unbiased: Vec<f32>,
    /// Standard deviations, for values from -1 to 1; all above 0.
    pub(super) deviations: Vec<f32>,
}

impl Uneven {
    /// The noise of a picture `[channels, h, w]` of -1 to 1. `sigma`: standard deviation of each measurement, of 255. `gain`: how much variance
    /// a step of 255 of intensity adds.
    ///
    /// # Errors
    /// Too little memory.
    pub(super) fn new(
        picture: &[f32],
        [height, width]: [usize; 2],
        model: NoiseModel,
        (sigma, gain): (f32, f32),
    ) -> Result<Self> {
        let (sigma, gain) = (f64::from(sigma), f64::from(gain));
        let magnitudes = Magnitudes::new();
        let mut unbiased = memory::room(picture.len())?;
        let mut deviations = memory::room(picture.len())?;
        for plane in picture.chunks_exact(height * width) {
            for (value, mean) in plane.iter().zip(smoothed(plane, [height, width])?) {
                let intensity = (mean / 2.0 + 0.5).max(0.0) * FULL;
                let (bias, variance) = match model {
                    NoiseModel::Gaussian => (0.0, sigma * sigma),
                    NoiseModel::Rician => magnitudes.at(intensity, sigma),
                    NoiseModel::PoissonGaussian => (0.0, sigma * sigma + gain * intensity),
                };
                unbiased.push((f64::from(*value) - 2.0 * bias / FULL) as f32);
                deviations.push((2.0 * variance.max(0.0).sqrt() / FULL) as f32);
            }
        }
        let largest = deviations.iter().copied().fold(0.0, f32::max);
        let least = (largest * LEAST).max(f32::MIN_POSITIVE);
        deviations.iter_mut().for_each(|deviation| *deviation = deviation.max(least));
        Ok(Self { unbiased, deviations })
    }

    /// The weights that make the noise alike everywhere: as large as the largest.
    ///
    /// # Errors
    /// Too little memory.
    pub(super) fn weights(&self) -> Result<Vec<f32>> {
        let largest = self.largest();
        memory::collect(self.deviations.iter().map(|own| largest / own))
    }

    /// The largest standard deviation.
    pub(super) fn largest(&self) -> f32 {
        self.deviations.iter().copied().fold(0.0, f32::max)
    }
}

/// A plane seen through a Gaussian window, mirrored at its edges.
fn smoothed(plane: &[f32], [height, width]: [usize; 2]) -> Result<Vec<f64>> {
    let weight = |k: i64| (-0.5 * (k as f64 / SMOOTH).powi(2)).exp();
    let sum: f64 = (-RADIUS..=RADIUS).map(weight).sum();
    let pass = |value: &dyn Fn(usize) -> f64, at: usize, n: usize| -> f64 {
        (-RADIUS..=RADIUS).map(|k| weight(k) / sum * value(mirrored(at as i64 + k, n))).sum()
    };
    let mut rows = memory::room(plane.len())?;
    for row in plane.chunks_exact(width) {
        rows.extend((0..width).map(|x| pass(&|i| f64::from(row[i]), x, width)));
    }
    let column = |i: usize| pass(&|y| rows[y * width + i % width], i / width, height);
    memory::collect((0..plane.len()).map(column))
}

/// What is known of magnitudes: a table over the intensity, in standard deviations.
struct Magnitudes {
    /// Intensity, mean and variance.
    table: Vec<[f64; 3]>,
}

impl Magnitudes {
    /// Steps of the table for each standard deviation, and its end.
    const STEPS: usize = 64;
    const END: usize = 8;

    fn new() -> Self {
        let entry = |i: usize| {
            let intensity = i as f64 / Self::STEPS as f64;
            let mean = rician_mean(intensity);
            [intensity, mean, 2.0 + intensity * intensity - mean * mean]
        };
        Self { table: (0..=Self::STEPS * Self::END).map(entry).collect() }
    }

    /// By how much magnitudes whose mean is `mean` are too large, and their variance.
    fn at(&self, mean: f64, sigma: f64) -> (f64, f64) {
        if sigma == 0.0 {
            return (0.0, 0.0);
        }
        let relative = mean / sigma;
        let above = self.table.partition_point(|[_, mean, _]| *mean < relative);
        let [intensity, variance] = match (above.checked_sub(1).map(|i| self.table[i]), self.table.get(above)) {
            // Less than nothing has in the mean.
            (None, _) => [0.0, self.table[0][2]],
            (Some(_), None) => [relative - 0.5 / relative, 1.0],
            (Some(a), Some(b)) => {
                let share = (relative - a[1]) / (b[1] - a[1]);
                [a[0] + share * (b[0] - a[0]), a[2] + share * (b[2] - a[2])]
            }
        };
        ((relative - intensity).max(0.0) * sigma, variance * sigma * sigma)
    }
}

/// The mean of magnitudes of an intensity, with noise of standard deviation 1 (Rice 1944): sqrt(pi / 2) e^-q M(3/2, 1, q), where q is half the
/// intensity's square and M is Kummer's function.
fn rician_mean(intensity: f64) -> f64 {
    let q = intensity * intensity / 2.0;
    let (mut term, mut sum, mut k) = (1.0, 1.0, 0.0);
    while term > 1e-17 * sum {
        term *= (1.5 + k) / ((k + 1.0) * (k + 1.0)) * q;
        sum += term;
        k += 1.0;
    }
    FRAC_PI_2.sqrt() * (-q).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from scipy.stats.rice(b).mean() and .var().
    #[test]
    fn magnitudes_have_the_mean_and_variance_of_rice() {
        for (intensity, mean, variance) in SCIPY {
            assert!((rician_mean(intensity) - mean).abs() < 1e-9, "{intensity}");
            let (bias, found) = Magnitudes::new().at(mean * 3.0, 3.0);
            assert!((bias / 3.0 - (mean - intensity)).abs() < 2e-3, "{intensity}: {bias}");
            assert!((found / 9.0 - variance).abs() < 6e-3, "{intensity}: {found}");
        }
    }

    const SCIPY: [(f64, f64, f64); 5] = [
        (0.0, 1.253314137316, 0.429203673),
        (0.5, 1.330447340611, 0.479909874),
        (1.5, 1.874935749406, 0.734615936),
        (4.0, 4.127193542537, 0.966273462),
        (7.5, 7.566971346859, 0.990944636),
    ];

    #[test]
    fn a_flat_picture_has_the_noise_of_its_intensity() {
        let picture = vec![0.0; 70];
        let of = |model, sigma, gain| Uneven::new(&picture, [7, 10], model, (sigma, gain)).unwrap();
        let even = |uneven: Uneven, bias: f32, deviation: f32| {
            assert!(uneven.unbiased.iter().all(|v| (v + bias).abs() < 1e-5), "{uneven:?}");
            assert!(uneven.deviations.iter().all(|v| (v - deviation).abs() < 1e-5), "{uneven:?}");
        };
        even(of(NoiseModel::Gaussian, 25.5, 0.0), 0.0, 0.2);
        // 127.5 of intensity, a variance of 2 for each, and 3 squared.
        even(of(NoiseModel::PoissonGaussian, 3.0, 2.0), 0.0, 2.0 * 264.0_f32.sqrt() / 255.0);
        // Bright against its noise: nearly Gaussian, and too bright by the variance over twice the intensity.
        even(of(NoiseModel::Rician, 5.0, 0.0), 2.0 * 25.0 / 255.0 / 255.0, 10.0 / 255.0);
        even(of(NoiseModel::Gaussian, 0.0, 0.0), 0.0, 0.0);
    }
}
