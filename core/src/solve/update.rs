//! What becomes of a picture in a step of the chain, when a part of it was measured.
//!
//! Every rule here works on one value of the operator's spectrum after the other (see [`super::operator`]): value i of the picture, which was
//! measured as `y_i = s_i * x_i` with noise of standard deviation `sigma_y`, or not at all (`s_i = 0`). Fresh noise is turned like a picture, so
//! that a result doesn't depend on how directions of equal singular values are chosen.
//!
//! Pseudo-inverse guided diffusion (Song et al. 2023) and diffusion posterior sampling (Chung et al. 2023) are not here: they need the
//! derivative of the network by its input, which a forward-only engine doesn't have. Without it, the former's step leads along
//! `A^+ (y - A x0)`, which is where [`Solver::Ddnm`] goes.

use crate::math::sqrt;

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Solver {
    /// Kawar et al. 2022, "Denoising diffusion restoration models", equations 7 and 8.
    Ddrm {
        /// Share of fresh noise, 0 to 1, where nothing was measured or with more noise than there is in the picture by now; 0.85 there.
        eta: f32,
        /// How much of the measurement is taken where it has less noise; 1 there.
        eta_b: f32,
    },
    /// Wang et al. 2023, "Zero-shot image restoration using denoising diffusion null-space model", DDNM+ (equations 17 to 19, and the
    /// authors' rule for DDIM); without noise it is their DDNM (equation 13).
    Ddnm {
        /// Share of fresh noise, 0 to 1; 0.85 there.
        eta: f32,
    },
    /// Zhu et al. 2023, "Denoising diffusion models for plug-and-play image restoration" (DiffPIR), algorithm 1.
    DiffPir {
        /// Weight of the network's picture beside the measurement; 8 there.
        lambda: f32,
        /// Share of fresh noise, 0 to 1; 0.3 there.
        zeta: f32,
    },
    /// What was measured is put in place with fresh noise, and the rest is the chain's own: Lugmayr et al. 2022 (RePaint, equation 8) for
    /// a mask, Choi et al. 2021 (ILVR, equation 8) for down-sampling. The chain's own step is that of Ho et al. 2020.
    Replace,
}

/// A step of the chain: alpha-bar where it begins and where it leads to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Between {
    /// Alpha-bar of x, below 1.
    pub at: f32,
    /// Alpha-bar after the step; 1 for the picture itself.
    pub to: f32,
}

/// A value of the spectrum, before the step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    /// Its singular value; 0 if it was not measured.
    pub singular: f32,
    /// What was measured.
    pub y: f32,
    /// Of the chain.
    pub x: f32,
    /// Of the picture that the network predicted.
    pub x0: f32,
    /// Of the noise that it predicted.
    pub eps: f32,
    /// Fresh noise.
    pub z: f32,
}

impl Solver {
    /// The value of the chain after the step. `sigma_y`: the measurement's noise, in units of y.
    pub fn update(self, Between { at, to }: Between, sigma_y: f32, v: Value) -> f32 {
        let measured = v.singular > 0.0;
        // The picture that the measurement alone speaks of, and the deviation of its noise.
        let (told, spread) = if measured { (v.y / v.singular, sigma_y / v.singular) } else { (0.0, f32::INFINITY) };
        let (signal, noise) = (sqrt(to), sqrt(1.0 - to));
        match self {
            Self::Ddrm { eta, eta_b } => {
                let sigma = noise / signal;
                let keep = sqrt(1.0 - eta * eta);
                let value = if !measured {
                    v.x0 + keep * sigma * v.eps + eta * sigma * v.z
                } else if sigma < spread {
                    v.x0 + keep * sigma * (told - v.x0) / spread + eta * sigma * v.z
                } else {
                    let fresh = sigma * sigma - spread * spread * eta_b * eta_b;
                    (1.0 - eta_b) * v.x0 + eta_b * told + sqrt(fresh.max(0.0)) * v.z
                };
                signal * value
            }
            Self::Ddnm { eta } => {
                let keep = sqrt(1.0 - eta * eta);
                let deviation = signal * spread;
                if !measured || sigma_y == 0.0 {
                    let x0 = if measured { told } else { v.x0 };
                    signal * x0 + noise * (eta * v.z + keep * v.eps)
                } else if noise < deviation {
                    let share = noise * keep / deviation;
                    signal * (v.x0 + share * (told - v.x0)) + noise * eta * v.z
                } else {
                    signal * told + sqrt((noise * noise - deviation * deviation).max(0.0)) * v.z
                }
            }
            Self::DiffPir { lambda, zeta } => {
                let rho = lambda * sigma_y * sigma_y * at / (1.0 - at);
                let weight = v.singular * v.singular;
                let x0 = if measured { (v.singular * v.y + rho * v.x0) / (weight + rho) } else { v.x0 };
                let eps = (v.x - sqrt(at) * x0) / sqrt(1.0 - at);
                signal * x0 + noise * (sqrt(1.0 - zeta) * eps + sqrt(zeta) * v.z)
            }
            Self::Replace if measured => signal * told + noise * v.z,
            Self::Replace => {
                let posterior = crate::forward::Posterior::new(at, to);
                posterior.x0 * v.x0 + posterior.xt * v.x + sqrt(posterior.variance.max(0.0)) * v.z
            }
        }
    }

    /// Whether the settings are in range.
    pub fn is_valid(self) -> bool {
        let share = |value: f32| (0.0..=1.0).contains(&value);
        match self {
            Self::Ddrm { eta, eta_b } => share(eta) && share(eta_b),
            Self::Ddnm { eta } => share(eta),
            Self::DiffPir { lambda, zeta } => lambda.is_finite() && lambda > 0.0 && share(zeta),
            Self::Replace => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOLVERS: [Solver; 4] = [
        Solver::Ddrm { eta: 0.85, eta_b: 1.0 },
        Solver::Ddnm { eta: 0.85 },
        Solver::DiffPir { lambda: 8.0, zeta: 0.3 },
        Solver::Replace,
    ];
    const VALUE: Value = Value { singular: 0.5, y: 0.2, x: 0.9, x0: -0.3, eps: 0.7, z: -1.1 };

    #[test]
    fn the_last_step_keeps_what_was_measured_exactly() {
        for solver in SOLVERS {
            let value = solver.update(Between { at: 0.99, to: 1.0 }, 0.0, VALUE);
            assert!((value - 0.4).abs() < 1e-6, "{solver:?}: {value}");
        }
    }

    #[test]
    fn what_was_not_measured_is_the_chains_own() {
        let (between, lost) = (Between { at: 0.5, to: 1.0 }, Value { singular: 0.0, ..VALUE });
        for solver in SOLVERS {
            let value = solver.update(between, 0.1, lost);
            assert!((value - lost.x0).abs() < 1e-6, "{solver:?}: {value}");
        }
    }

    /// Where the measurement is all there is to know, the noise in x is that of the chain: of variance 1 - alpha-bar together.
    #[test]
    fn noise_of_the_measurement_counts_as_noise_of_the_chain() {
        let (to, sigma_y) = (0.4_f32, 0.2_f32);
        let quiet = Value { y: 0.0, x0: 0.0, eps: 0.0, ..VALUE };
        for solver in [Solver::Ddrm { eta: 0.85, eta_b: 1.0 }, Solver::Ddnm { eta: 0.85 }] {
            let of = |y: f32, z: f32| solver.update(Between { at: 0.2, to }, sigma_y, Value { y, z, ..quiet });
            let variance = of(sigma_y, 0.0).powi(2) + of(0.0, 1.0).powi(2);
            assert!((variance - (1.0 - to)).abs() < 1e-6, "{solver:?}: {variance}");
        }
    }

    #[test]
    fn settings_out_of_range_are_found() {
        assert!(SOLVERS.into_iter().all(Solver::is_valid));
        assert!(!Solver::Ddrm { eta: 1.1, eta_b: 1.0 }.is_valid());
        assert!(!Solver::Ddnm { eta: f32::NAN }.is_valid());
        assert!(!Solver::DiffPir { lambda: 0.0, zeta: 0.3 }.is_valid());
    }
}
