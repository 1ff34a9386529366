//! What a picture lost, as a linear operator A: a picture x becomes the measurement `y = A x`.
//!
//! Every operator here is known by its singular value decomposition `A = U S V'` (Kawar et al. 2022, "Denoising diffusion restoration models",
//! section 4 and appendix D): V' turns a picture into a spectrum of as many values, each of which is measured with a factor, its singular
//! value, or not at all. So the adjoint, the pseudo-inverse and the solvers work on one value after the other. Nothing is stored but
//! what an operator is made of.

use super::svd::Svd;
use super::transform::{BLOCK, cosines, hadamard, multiply, reflect};
use crate::math::sqrt;

/// A picture's shape, planar `[channels, height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Shape {
    /// Values of a picture.
    pub const fn len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Whether there is no value.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What was done to the picture.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// Nothing but noise. y is the picture.
    Identity,
    /// Noise that is not alike everywhere, made alike: every value is multiplied by a weight of its own, above 0. y: the picture, weighted.
    Weighted {
        /// The weights, as many as values of a picture.
        weights: &'a [f32],
    },
    /// Pixels were lost. y is the picture with zeros there.
    Mask {
        /// Whether each pixel is known, `[height, width]`.
        known: &'a [bool],
    },
    /// The mean of each `factor` times `factor` pixels. y: `[channels, height / factor, width / factor]`.
    AveragePool {
        /// Pixels along a side.
        factor: usize,
    },
    /// A weighted sum of three channels. y: `[height, width]`.
    Grey {
        /// Weights of red, green and blue.
        weights: [f32; 3],
    },
    /// Rows and columns by themselves, the same in all channels: bicubic down-sampling and blur, see [`super::matrix`].
    /// y: `[channels, rows of `rows`, rows of `columns`]`.
    Separable {
        /// Of the matrix that makes a column shorter.
        rows: Svd<'a>,
        /// Of the matrix that makes a row shorter.
        columns: Svd<'a>,
    },
    /// Compressed sensing: some coefficients of each channel's orthonormal Walsh-Hadamard transform. y: all of them, with zeros where they
    /// weren't measured. Pixels are a power of two.
    Hadamard {
        /// Which are measured, `[height * width]`.
        kept: &'a [bool],
    },
    /// The coefficients of the cosine transform of blocks of 8x8, from 0 frequency on, as in JPEG. y: as many values as the picture.
    /// Rounding them to multiples of a step is noise: see [`Operator::rounding`].
    Cosine,
}

/// An operator on pictures of a shape.
#[derive(Clone, Copy, Debug)]
pub struct Operator<'a> {
    kind: Kind<'a>,
    shape: Shape,
}

/// Why an operator doesn't fit a picture's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorError {
    /// The shape is empty.
    Empty,
    /// The sides are no multiples of this.
    Multiple(usize),
    /// A mask, or a matrix's columns, don't fit the sides.
    Sides,
    /// It is for pictures of three channels.
    Channels,
    /// Weights that are not finite, or all 0; of [`Kind::Weighted`] too few or too many, or any that is not above 0.
    Weights,
    /// The number of pixels is no power of two.
    PowerOfTwo,
}

impl<'a> Operator<'a> {
    /// An operator on pictures of `shape`.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub fn new(kind: Kind<'a>, shape: Shape) -> Result<Self, OperatorError> {
        let Shape { channels, height, width } = shape;
        if shape.is_empty() {
            return Err(OperatorError::Empty);
        }
        let multiple = |n: usize| match n > 0 && height.is_multiple_of(n) && width.is_multiple_of(n) {
            true => Ok(()),
            false => Err(OperatorError::Multiple(n)),
        };
        let check = |fits: bool, error| if fits { Ok(()) } else { Err(error) };
        match kind {
            Kind::Identity => {}
            Kind::Weighted { weights } => {
                let fit = weights.len() == shape.len() && weights.iter().all(|w| w.is_finite() && *w > 0.0);
                check(fit, OperatorError::Weights)?;
            }
            Kind::Mask { known } => check(known.len() == height * width, OperatorError::Sides)?,
            Kind::AveragePool { factor } => multiple(factor)?,
            Kind::Grey { weights } => {
                check(channels == 3, OperatorError::Channels)?;
                let length: f32 = weights.iter().map(|w| w * w).sum();
                check(length.is_finite() && length > 0.0, OperatorError::Weights)?;
            }
            Kind::Separable { rows, columns } => {
                check(rows.shape()[1] == height && columns.shape()[1] == width, OperatorError::Sides)?;
            }
            Kind::Hadamard { kept } => {
                check(kept.len() == height * width, OperatorError::Sides)?;
                check((height * width).is_power_of_two(), OperatorError::PowerOfTwo)?;
            }
            Kind::Cosine => multiple(BLOCK)?,
        }
        Ok(Self { kind, shape })
    }

    /// The pictures' shape.
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// Values of a measurement.
    pub fn measured_len(&self) -> usize {
        let Shape { channels, height, width } = self.shape;
        match self.kind {
            Kind::Identity | Kind::Weighted { .. } | Kind::Mask { .. } | Kind::Hadamard { .. } | Kind::Cosine => {
                self.shape.len()
            }
            Kind::AveragePool { factor } => self.shape.len() / (factor * factor),
            Kind::Grey { .. } => height * width,
            Kind::Separable { rows, columns } => channels * rows.shape()[0] * columns.shape()[0],
        }
    }

    /// Values of scratch memory that the functions here take.
    pub const fn scratch(&self) -> usize {
        let Shape { height, width, .. } = self.shape;
        if height > width { height } else { width }
    }

    /// The singular value of value `i` of the spectrum; 0 where nothing is measured.
    pub fn singular(&self, i: usize) -> f32 {
        let Shape { height, width, .. } = self.shape;
        let (pixel, channel) = (i % (height * width), i / (height * width));
        let (y, x) = (pixel / width, pixel % width);
        let known = |known: bool| if known { 1.0 } else { 0.0 };
        match self.kind {
            Kind::Identity | Kind::Cosine => 1.0,
            Kind::Weighted { weights } => weights[i],
            Kind::Mask { known: flags } | Kind::Hadamard { kept: flags } => known(flags[pixel]),
            Kind::AveragePool { factor } => known(y.is_multiple_of(factor) && x.is_multiple_of(factor)) / factor as f32,
            Kind::Grey { weights } => known(channel == 0) * length(weights),
            Kind::Separable { rows, columns } => rows.values()[y] * columns.values()[x],
        }
    }

    /// V': turns the picture `x` into its spectrum, in place. `scratch`: [`Self::scratch`] values.
    pub fn spectrum(&self, x: &mut [f32], scratch: &mut [f32]) {
        self.turn(x, false, scratch);
    }

    /// V: turns a spectrum into its picture, in place.
    pub fn picture(&self, x: &mut [f32], scratch: &mut [f32]) {
        self.turn(x, true, scratch);
    }

    fn turn(&self, x: &mut [f32], inverse: bool, scratch: &mut [f32]) {
        let Shape { height, width, .. } = self.shape;
        let pixels = height * width;
        match self.kind {
            Kind::Identity | Kind::Weighted { .. } | Kind::Mask { .. } => {}
            Kind::AveragePool { factor } => {
                let along = 1.0 / factor as f32;
                for top in (0..self.shape.len() / width).step_by(factor) {
                    for left in (0..width).step_by(factor) {
                        let at = |i: usize| (top + i / factor) * width + left + i % factor;
                        reflect(x, |_| along, at, factor * factor);
                    }
                }
            }
            Kind::Grey { weights } => {
                let length = length(weights);
                for pixel in 0..pixels {
                    reflect(x, |i| weights[i] / length, |i| i * pixels + pixel, 3);
                }
            }
            Kind::Hadamard { .. } => x.chunks_exact_mut(pixels).for_each(hadamard),
            Kind::Separable { rows, columns } => {
                for plane in x.chunks_exact_mut(pixels) {
                    for y in 0..height {
                        multiply(columns.right(), inverse, plane, |i| y * width + i, &mut scratch[..width]);
                    }
                    for x in 0..width {
                        multiply(rows.right(), inverse, plane, |i| i * width + x, &mut scratch[..height]);
                    }
                }
            }
            Kind::Cosine => {
                let (cosines, mut eight) = (cosines(), [0.0; BLOCK]);
                for top in (0..self.shape.len() / width).step_by(BLOCK) {
                    for left in (0..width).step_by(BLOCK) {
                        for k in 0..BLOCK {
                            let row = |i: usize| (top + k) * width + left + i;
                            multiply(cosines.as_flattened(), inverse, x, row, &mut eight);
                        }
                        for k in 0..BLOCK {
                            let column = |i: usize| (top + i) * width + left + k;
                            multiply(cosines.as_flattened(), inverse, x, column, &mut eight);
                        }
                    }
                }
            }
        }
    }

    /// U': the spectrum of the measurement `y`, each value at the place of the value of the picture's spectrum that it measures; zeros
    /// elsewhere. `out`: as many values as a picture.
    pub fn measured_spectrum(&self, y: &[f32], out: &mut [f32]) {
        let Shape { height, width, .. } = self.shape;
        let pixels = height * width;
        match self.kind {
            Kind::Separable { rows, columns } => {
                let ([h, _], [w, _]) = (rows.shape(), columns.shape());
                for (y, out) in y.chunks_exact(h * w).zip(out.chunks_exact_mut(pixels)) {
                    for i in 0..height {
                        let left = &rows.left()[i * h..][..h];
                        for j in 0..width {
                            let right = &columns.left()[j * w..][..w];
                            let along = |row: &[f32]| row.iter().zip(right).map(|(y, u)| y * u).sum::<f32>();
                            out[i * width + j] = y.chunks_exact(w).zip(left).map(|(row, u)| u * along(row)).sum();
                        }
                    }
                }
            }
            _ => {
                let mut y = y.iter();
                for (i, out) in out.iter_mut().enumerate() {
                    // Where a measurement has a value for what is lost as well, it is no part of it.
                    let has = self.is_placed(i);
                    let value = if has { y.next().copied().unwrap_or_default() } else { 0.0 };
                    *out = if self.singular(i) > 0.0 { value } else { 0.0 };
                }
            }
        }
    }

    /// Whether value `i` of the spectrum has a place in a measurement.
    fn is_placed(&self, i: usize) -> bool {
        match self.kind {
            Kind::AveragePool { .. } | Kind::Grey { .. } => self.singular(i) > 0.0,
            _ => true,
        }
    }

    /// U: the measurement whose spectrum is `spectrum`.
    pub fn measurement(&self, spectrum: &[f32], y: &mut [f32]) {
        let Shape { height, width, .. } = self.shape;
        match self.kind {
            Kind::Separable { rows, columns } => {
                let ([h, _], [w, _]) = (rows.shape(), columns.shape());
                for (y, spectrum) in y.chunks_exact_mut(h * w).zip(spectrum.chunks_exact(height * width)) {
                    for (at, y) in y.iter_mut().enumerate() {
                        let (r, c) = (at / w, at % w);
                        let along = |row: &[f32]| -> f32 {
                            row.iter().enumerate().map(|(j, v)| v * columns.left()[j * w + c]).sum()
                        };
                        let values = spectrum.chunks_exact(width).enumerate();
                        *y = values.map(|(i, row)| rows.left()[i * h + r] * along(row)).sum();
                    }
                }
            }
            _ => {
                let placed = spectrum.iter().enumerate().filter(|(i, _)| self.is_placed(*i));
                for (y, (i, value)) in y.iter_mut().zip(placed) {
                    *y = if self.singular(i) > 0.0 { *value } else { 0.0 };
                }
            }
        }
    }

    /// `y = A x`. `work`: as many values as a picture.
    pub fn apply(&self, x: &[f32], y: &mut [f32], work: &mut [f32], scratch: &mut [f32]) {
        work.copy_from_slice(x);
        self.spectrum(work, scratch);
        work.iter_mut().enumerate().for_each(|(i, value)| *value *= self.singular(i));
        self.measurement(work, y);
    }

    /// The adjoint, `x = A' y`.
    pub fn adjoint(&self, y: &[f32], x: &mut [f32], scratch: &mut [f32]) {
        self.measured_spectrum(y, x);
        x.iter_mut().enumerate().for_each(|(i, value)| *value *= self.singular(i));
        self.picture(x, scratch);
    }

    /// The pseudo-inverse: the shortest of the pictures that explain `y` best.
    pub fn pseudo_inverse(&self, y: &[f32], x: &mut [f32], scratch: &mut [f32]) {
        self.measured_spectrum(y, x);
        for (i, value) in x.iter_mut().enumerate() {
            let singular = self.singular(i);
            *value = if singular > 0.0 { *value / singular } else { 0.0 };
        }
        self.picture(x, scratch);
    }

    /// The standard deviation of the noise that rounding a measurement's values to multiples of `step` is like.
    pub fn rounding(step: f32) -> f32 {
        step / sqrt(12.0)
    }
}

fn length(weights: [f32; 3]) -> f32 {
    sqrt(weights.iter().map(|w| w * w).sum())
}

#[cfg(test)]
#[path = "operator_tests.rs"]
mod tests;
