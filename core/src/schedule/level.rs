//! Noise levels: what a state of the chain is made of, whatever family of networks it is for.

use crate::math::wide;

/// A point of a run: `x = signal * x0 + noise * eps`, eps standard normal.
///
/// The three families of networks differ in how both are scaled (in all of them, x is what the network sees):
///
/// | network | signal | noise | time |
/// | --- | --- | --- | --- |
/// | over alpha-bar | `sqrt(alpha_bar)` | `sqrt(1 - alpha_bar)` | timestep, 0 to T - 1 |
/// | flow | `1 - s` | `s` | `s * T` |
/// | EDM | `1 / sqrt(sigma^2 + sigma_data^2)` | `sigma / sqrt(sigma^2 + sigma_data^2)` | `ln(sigma) / 4` |
///
/// The end of a run has signal 1 and noise 0: the image itself.
///
/// ```
/// use unfog_core::schedule::Level;
/// let level = Level { time: 500.0, signal: 0.6, noise: 0.8 };
/// assert!((level.sigma() - 4.0 / 3.0).abs() < 1e-12 && (level.lambda() + level.sigma().ln()).abs() < 1e-12);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Level {
    /// What the network is told. Need not be a whole number.
    pub time: f32,
    /// Factor of the image.
    pub signal: f64,
    /// Standard deviation of the noise.
    pub noise: f64,
}

impl Level {
    /// The image itself.
    pub const IMAGE: Self = Self { time: 0.0, signal: 1.0, noise: 0.0 };

    /// A level in the way of a caller's own table ([`crate::schedule::SigmaTable::Given`]): of this ratio of noise to signal.
    /// Scale and time are found when the tables are made. For flow networks, `sigma` is s, from 0 to 1.
    pub const fn given(sigma: f64) -> Self {
        Self::given_at(f32::NAN, sigma)
    }

    /// The same at a time of the caller's own, whatever time the network's table has for the sigma.
    pub const fn given_at(time: f32, sigma: f64) -> Self {
        Self { time, signal: 1.0, noise: sigma }
    }

    /// Noise over signal: the sigma of Karras et al. 2022. Infinite where there is no signal.
    pub fn sigma(self) -> f64 {
        self.noise / self.signal
    }

    /// Half the logarithm of the signal-to-noise ratio, `ln(signal / noise)`: the lambda of Lu et al. 2022.
    pub fn lambda(self) -> f64 {
        wide::ln(self.signal / self.noise)
    }
}
