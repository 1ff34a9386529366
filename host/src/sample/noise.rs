//! Where a run's noise comes from.

use unfog_core::noise::{Brownian, Given, Lattice, Noise, NoiseError, Philox, TorchCpu, TorchCuda};

use super::setup::Setup;
use crate::backend::by_name;
use crate::tensors::GivenNoise;

/// How a seed becomes noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Generator {
    /// Counter-based, the same for an image whatever the run.
    #[default]
    Philox,
    /// torch's on a CPU: one stream for the whole run.
    TorchCpu,
    /// torch's on a CUDA device.
    TorchCuda,
    /// The images of a seed cover what noise can be more evenly than chance does.
    Lattice,
    /// Paths that stay the same when a stochastic sampler takes more steps.
    Brownian,
}

impl Generator {
    /// Names on the command line.
    pub const NAMES: [(&str, Self); 5] = [
        ("philox", Self::Philox),
        ("torch-cpu", Self::TorchCpu),
        ("torch-cuda", Self::TorchCuda),
        ("lattice", Self::Lattice),
        ("brownian", Self::Brownian),
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, generator)| *generator == self).map_or("", |(name, _)| name)
    }
}

impl std::str::FromStr for Generator {
    type Err = crate::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        by_name(&Self::NAMES, "noise", text)
    }
}

/// What chains of other sizes have drawn of a seed's noise before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Drawn {
    /// Draws.
    pub(super) draws: u32,
    /// Words of torch's stream.
    pub(super) words: u64,
}

/// Noise after so many draws.
struct Later(Philox, u32);

impl Noise for Later {
    fn fill(&mut self, image: u64, draw: u32, out: &mut [f32]) -> Result<(), NoiseError> {
        let draw = draw.checked_add(self.1).ok_or(NoiseError::TooLarge)?;
        self.0.fill(image, draw, out)
    }
}

/// Where a run's noise comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The seed.
    Seed(Generator, u64),
    /// A file.
    Given(GivenNoise),
}

impl Source {
    /// The noise of a run.
    pub(super) fn noise(&self, setup: &Setup) -> Box<dyn Noise + '_> {
        let (first, count, len) = (setup.first, setup.count as usize, setup.image_len());
        match self {
            Self::Seed(Generator::Philox, seed) => Box::new(Later(Philox::new(*seed), setup.drawn.draws)),
            Self::Seed(Generator::TorchCpu, seed) => {
                Box::new(TorchCpu::new(*seed, first, count, len).after(setup.drawn.words))
            }
            Self::Seed(Generator::TorchCuda, seed) => Box::new(TorchCuda::new(*seed, first, count, len)),
            Self::Seed(Generator::Lattice, seed) => Box::new(Lattice::new(*seed)),
            // The time of a run's noise goes from 1 to 0.
            Self::Seed(Generator::Brownian, seed) => Box::new(Brownian::new(*seed, 1.0, 0.0)),
            Self::Given(given) => Box::new(Given::new(given.values(), first, count, len)),
        }
    }
}
