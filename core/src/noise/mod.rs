//! Standard normal noise that is the same everywhere: each value has an address and is computed from nothing else.
//!
//! | noise | for |
//! | --- | --- |
//! | [`Philox`] | the default |
//! | [`Brownian`] | stochastic solvers whose picture must not change with the number of steps |
//! | [`Lattice`] | batches that cover what noise can be more evenly than chance does |
//! | [`TorchCpu`], [`TorchCuda`] | comparing with torch seed for seed |
//! | [`Given`] | noise that somebody else drew |

use core::fmt;

mod brownian;
mod cephes;
mod given;
mod gnu;
mod lattice;
mod mt19937;
mod philox;
mod torch_cpu;
mod torch_cuda;

pub use brownian::Brownian;
pub use given::Given;
pub use lattice::Lattice;
pub use mt19937::Mt19937;
pub use philox::{Philox, philox4x32};
pub use torch_cpu::{TorchBuild, TorchCpu};
pub use torch_cuda::TorchCuda;

/// Where a chain gets its noise from.
///
/// A draw is one image-sized piece of noise. Draw 0 is the noise that a run starts from, and each further one is what
/// samplers ask for in the order in which they do, which is that of diffusers.
pub trait Noise {
    /// Fills `out` with the noise of one draw for one image.
    fn fill(&mut self, image: u64, draw: u32, out: &mut [f32]) -> Result<(), NoiseError>;

    /// The same for a stochastic step from time `from` to time `to`, still of variance 1. Noise that knows no time, as most
    /// does not, is that of the draw.
    fn fill_between(&mut self, image: u64, draw: u32, from: f64, to: f64, out: &mut [f32]) -> Result<(), NoiseError> {
        let _ = (from, to);
        self.fill(image, draw, out)
    }
}

/// Why there is no noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoiseError {
    /// The noise has no such draw, or no such image.
    Missing {
        /// The image.
        image: u64,
        /// The draw.
        draw: u32,
    },
    /// The noise has images of another size.
    Length {
        /// Values of an image of the run.
        needed: usize,
        /// Values of an image of the noise.
        given: usize,
    },
    /// More values than the noise has addresses for: an image of [`Philox`] may have 2^32.
    TooLarge,
    /// The time from which or to which noise is asked for lies outside the noise's interval, or both are the same.
    Interval,
}

impl fmt::Display for NoiseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Missing { image, draw } => write!(f, "the noise has no draw {draw} for image {image}"),
            Self::Length { needed, given } => {
                write!(f, "the noise has {given} values an image, the run needs {needed}")
            }
            Self::TooLarge => write!(f, "more values than the noise has addresses for"),
            Self::Interval => write!(f, "noise over a time that is empty or not that of the noise"),
        }
    }
}

impl core::error::Error for NoiseError {}
