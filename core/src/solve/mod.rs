//! Restoration by a diffusion prior: what a picture lost, as a linear operator, and what brings it back.

pub mod matrix;
pub mod operator;
pub mod svd;
mod transform;
pub mod update;

use operator::Operator;
use update::Solver;

/// What was measured of a batch's pictures, for [`crate::chain::Chain::restore`].
#[derive(Clone, Copy, Debug)]
pub struct Measured<'a> {
    /// What became of the pictures.
    pub operator: Operator<'a>,
    /// What brings them back.
    pub solver: Solver,
    /// Standard deviation of the measurement's noise, in units of y.
    pub sigma_y: f32,
    /// The measurements by their spectra ([`Operator::measured_spectrum`]), one an image: `[n, len]`.
    pub spectra: &'a [f32],
}
