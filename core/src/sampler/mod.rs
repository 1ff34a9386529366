//! Samplers: how a chain goes from one timestep to the next. One file each, one line each in the registry.
//!
//! A sampler is a function that reads from top to bottom. It may evaluate the network as often as it likes, keep a fixed number of
//! image-sized values from step to step, and draw noise. A user's own is a [`Sampler`] like these, and runs like them:
//!
//! ```
//! use unfog_core::chain::{Batch, Chain};
//! use unfog_core::config::Config;
//! use unfog_core::denoise::{Cond, Denoise};
//! use unfog_core::noise::Philox;
//! use unfog_core::sampler::{At, Halt, Sampler, Step, mix, transfer};
//! use unfog_core::schedule::{Grid, Level, Schedule};
//!
//! /// Euler's method towards the mean of the latest two predicted images, with a tenth of the next level's noise on top.
//! fn step(s: &mut Step<'_>) -> Result<(), Halt> {
//!     let (from, to) = s.levels();
//!     let (keep, add) = transfer(from, to);
//!     let first = s.done() == 0;
//!     let p = s.model.predict(s.x, At::level(from))?;
//!     if first {
//!         s.history.copy_from_slice(p.x0);
//!     }
//!     mix(s.x, keep, [(add / 2.0, p.x0), (add / 2.0, &*s.history)]);
//!     s.history.copy_from_slice(p.x0);
//!     s.add_noise(0.1 * to.noise as f32)
//! }
//! const MINE: Sampler =
//!     Sampler { name: "mine", source: "this example", order: 0, evaluations: 1, history: 1, grid: Grid::Euler, step };
//!
//! /// The exact denoiser of an image that is 0.5 everywhere: x without it is the noise.
//! struct Half<'a>(&'a [f32]);
//! impl Denoise for Half<'_> {
//!     type Error = core::convert::Infallible;
//!     fn out_len(&self) -> usize { 4 }
//!     fn predict(&mut self, x: &[f32], t: f32, _: &[Cond], out: &mut [f32]) -> Result<(), Self::Error> {
//!         let a = self.0[t as usize];
//!         out.iter_mut().zip(x).for_each(|(out, x)| *out = (x - 0.5 * a.sqrt()) / (1.0 - a).sqrt());
//!         Ok(())
//!     }
//! }
//!
//! let config = Config { steps: 10, ..Config::default() };
//! let (mut alpha_bar, mut timesteps, mut levels) = ([0.0; 1000], [0; 10], [Level::default(); 11]);
//! let schedule = Schedule::for_sampler(&config, &MINE, &mut alpha_bar, &mut timesteps, &mut levels)?;
//! let batch = Batch { first_image: 0, len: 4, out_len: 4, conds: &[Cond::None] };
//! let mut memory = [0.0; 16];
//! let mut chain = Chain::new(&config, &MINE, schedule, batch, &mut memory)?;
//! let (mut network, mut noise) = (Half(schedule.alpha_bar()), Philox::new(1));
//! chain.init(&mut noise)?;
//! while chain.step(&mut network, &mut noise)?.is_some() {}
//! assert!(chain.x().iter().all(|x| (x - 0.5).abs() < 1e-3));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod churn;
mod consistency;
mod ddim;
mod ddim_inverse;
mod ddpm;
mod dpm2;
mod dpm_multistep;
mod dpm_singlestep;
mod dpmpp_2s_ancestral;
mod er_sde;
mod euler;
mod euler_ancestral;
#[cfg(test)]
mod finite_tests;
mod heun;
mod ipndm;
mod lcm;
mod lms;
mod mix;
mod model;
#[cfg(test)]
mod order_tests;
mod plms;
mod pndm;
mod res_multistep;
mod restore;
mod sa_solver;
mod tcd;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod theory_tests;
mod unipc;

pub use mix::{derivative, exponential_integrals, mix, renewal, transfer};
pub use model::{At, Learned, Model, Update};
pub(crate) use model::{Evaluate, Failed};

use crate::chain::Known;
use crate::config::{Config, Parity};
use crate::math::{self, wide};
use crate::noise::{Noise, NoiseError};
use crate::predict::PredictionType;
use crate::schedule::{Grid, Level, Schedule};
use crate::solve::Measured;

/// What there is to know about a sampler.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    /// Its name on command lines and in recipes.
    pub name: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// Order of convergence as a solver of the probability-flow ODE; 0 where the target is the distribution alone.
    pub order: u8,
    /// Evaluations of the network a step.
    pub evaluations: u8,
    /// Batches of values that it keeps from step to step.
    pub history: usize,
    /// Which points of time it visits: timesteps, or noise levels.
    pub grid: Grid,
    /// One step.
    pub step: fn(&mut Step<'_>) -> Result<(), Halt>,
}

/// Ancestral sampling of the reverse chain.
///
#[doc = include_str!("doc/ddpm.md")]
#[rustfmt::skip]
pub const DDPM: Sampler = Sampler { name: "ddpm", source: "Ho et al. 2020, algorithm 2", order: 0, evaluations: 1, history: 0, grid: Grid::Chain, step: ddpm::step };
/// The implicit chain, from deterministic (`eta` 0) to ancestral (`eta` 1).
///
#[doc = include_str!("doc/ddim.md")]
#[rustfmt::skip]
pub const DDIM: Sampler = Sampler { name: "ddim", source: "Song et al. 2021a, equation 12", order: 1, evaluations: 1, history: 0, grid: Grid::Chain, step: ddim::step };
/// Euler's method.
///
#[doc = include_str!("doc/euler.md")]
#[rustfmt::skip]
pub const EULER: Sampler = Sampler { name: "euler", source: "Karras et al. 2022, algorithm 2", order: 1, evaluations: 1, history: 0, grid: Grid::Euler, step: euler::step };
/// Euler's method with ancestral noise.
///
#[doc = include_str!("doc/euler_ancestral.md")]
#[rustfmt::skip]
pub const EULER_ANCESTRAL: Sampler = Sampler { name: "euler-a", source: "k-diffusion, sample_euler_ancestral", order: 0, evaluations: 1, history: 0, grid: Grid::Euler, step: euler_ancestral::step };
/// Heun's method.
///
#[doc = include_str!("doc/heun.md")]
#[rustfmt::skip]
pub const HEUN: Sampler = Sampler { name: "heun", source: "Karras et al. 2022, algorithm 1", order: 2, evaluations: 2, history: 2, grid: Grid::Euler, step: heun::step };
/// DPM-Solver++ of order 2, multistep, midpoint.
///
#[doc = include_str!("doc/dpmpp_2m.md")]
#[rustfmt::skip]
pub const DPMPP_2M: Sampler = Sampler { name: "dpmpp-2m", source: "Lu et al. 2022b, algorithm 2", order: 2, evaluations: 1, history: 1, grid: Grid::Solver, step: dpm_multistep::second };
/// The same in Heun's form.
///
#[doc = include_str!("doc/dpmpp_2m_heun.md")]
#[rustfmt::skip]
pub const DPMPP_2M_HEUN: Sampler = Sampler { name: "dpmpp-2m-heun", source: "Lu et al. 2022b, appendix A", order: 2, evaluations: 1, history: 1, grid: Grid::Solver, step: dpm_multistep::second_heun };
/// DPM-Solver++ of order 3, multistep.
///
#[doc = include_str!("doc/dpmpp_3m.md")]
#[rustfmt::skip]
pub const DPMPP_3M: Sampler = Sampler { name: "dpmpp-3m", source: "Lu et al. 2022b, appendix A", order: 3, evaluations: 1, history: 2, grid: Grid::Solver, step: dpm_multistep::third };
/// SDE-DPM-Solver++ of order 2, multistep, midpoint.
///
#[doc = include_str!("doc/dpmpp_2m_sde.md")]
#[rustfmt::skip]
pub const DPMPP_2M_SDE: Sampler = Sampler { name: "dpmpp-2m-sde", source: "Lu et al. 2022b, section 4", order: 0, evaluations: 1, history: 1, grid: Grid::Solver, step: dpm_multistep::second_sde };
/// The same in Heun's form.
///
#[doc = include_str!("doc/dpmpp_2m_sde_heun.md")]
#[rustfmt::skip]
pub const DPMPP_2M_SDE_HEUN: Sampler = Sampler { name: "dpmpp-2m-sde-heun", source: "Lu et al. 2022b, section 4", order: 0, evaluations: 1, history: 1, grid: Grid::Solver, step: dpm_multistep::second_sde_heun };
/// UniPC with a predictor of order 2; the corrector makes it 3.
///
#[doc = include_str!("doc/unipc.md")]
#[rustfmt::skip]
pub const UNIPC: Sampler = Sampler { name: "unipc", source: "Zhao et al. 2023, bh2", order: 3, evaluations: 1, history: 3, grid: Grid::Solver, step: unipc::second };
/// The same with B(h) = h.
///
#[doc = include_str!("doc/unipc_bh1.md")]
#[rustfmt::skip]
pub const UNIPC_BH1: Sampler = Sampler { name: "unipc-bh1", source: "Zhao et al. 2023, bh1", order: 3, evaluations: 1, history: 3, grid: Grid::Solver, step: unipc::second_bh1 };
/// UniPC with a predictor of order 3; the corrector makes it 4.
///
#[doc = include_str!("doc/unipc_3.md")]
#[rustfmt::skip]
pub const UNIPC_3: Sampler = Sampler { name: "unipc-3", source: "Zhao et al. 2023, bh2", order: 4, evaluations: 1, history: 4, grid: Grid::Solver, step: unipc::third };
/// PNDM's linear multistep method.
///
#[doc = include_str!("doc/plms.md")]
#[rustfmt::skip]
pub const PLMS: Sampler = Sampler { name: "plms", source: "Liu et al. 2022, equation 12", order: 4, evaluations: 1, history: 5, grid: Grid::Chain, step: plms::step };
/// Linear multistep over sigma.
///
#[doc = include_str!("doc/lms.md")]
#[rustfmt::skip]
pub const LMS: Sampler = Sampler { name: "lms", source: "k-diffusion, sample_lms", order: 4, evaluations: 1, history: 4, grid: Grid::Euler, step: lms::step };
/// Latent consistency sampling.
///
#[doc = include_str!("doc/lcm.md")]
#[rustfmt::skip]
pub const LCM: Sampler = Sampler { name: "lcm", source: "Luo et al. 2023, algorithm 3", order: 0, evaluations: 1, history: 0, grid: Grid::Chain, step: lcm::step };
/// Trajectory consistency sampling.
///
#[doc = include_str!("doc/tcd.md")]
#[rustfmt::skip]
pub const TCD: Sampler = Sampler { name: "tcd", source: "Zheng et al. 2024, algorithm 4", order: 0, evaluations: 1, history: 0, grid: Grid::Chain, step: tcd::step };
/// The midpoint method over sigma.
///
#[doc = include_str!("doc/dpm2.md")]
#[rustfmt::skip]
pub const DPM2: Sampler = Sampler { name: "dpm2", source: "k-diffusion, sample_dpm_2", order: 2, evaluations: 2, history: 1, grid: Grid::Euler, step: dpm2::step };
/// The same with ancestral noise.
///
#[doc = include_str!("doc/dpm2_ancestral.md")]
#[rustfmt::skip]
pub const DPM2_ANCESTRAL: Sampler = Sampler { name: "dpm2-a", source: "k-diffusion, sample_dpm_2_ancestral", order: 0, evaluations: 2, history: 1, grid: Grid::Euler, step: dpm2::ancestral };
/// DPM-Solver++ of order 2, one step at a time, with ancestral noise.
///
#[doc = include_str!("doc/dpmpp_2s_ancestral.md")]
#[rustfmt::skip]
pub const DPMPP_2S_ANCESTRAL: Sampler = Sampler { name: "dpmpp-2s-a", source: "k-diffusion, sample_dpmpp_2s_ancestral", order: 0, evaluations: 2, history: 1, grid: Grid::Euler, step: dpmpp_2s_ancestral::step };
/// SDE-DPM-Solver++ of order 3, multistep.
///
#[doc = include_str!("doc/dpmpp_3m_sde.md")]
#[rustfmt::skip]
pub const DPMPP_3M_SDE: Sampler = Sampler { name: "dpmpp-3m-sde", source: "k-diffusion, sample_dpmpp_3m_sde", order: 0, evaluations: 1, history: 2, grid: Grid::Solver, step: dpm_multistep::third_sde };
/// DPM-Solver of order 2, multistep.
///
#[doc = include_str!("doc/dpm_2m.md")]
#[rustfmt::skip]
pub const DPM_2M: Sampler = Sampler { name: "dpm-2m", source: "Lu et al. 2022a, multistep", order: 2, evaluations: 1, history: 1, grid: Grid::Solver, step: dpm_multistep::second_noise };
/// DPM-Solver of order 3, multistep.
///
#[doc = include_str!("doc/dpm_3m.md")]
#[rustfmt::skip]
pub const DPM_3M: Sampler = Sampler { name: "dpm-3m", source: "Lu et al. 2022a, multistep", order: 3, evaluations: 1, history: 2, grid: Grid::Solver, step: dpm_multistep::third_noise };
/// DEIS of order 2.
///
#[doc = include_str!("doc/deis.md")]
#[rustfmt::skip]
pub const DEIS: Sampler = Sampler { name: "deis", source: "Zhang and Chen 2023, tAB-DEIS", order: 2, evaluations: 1, history: 1, grid: Grid::Solver, step: dpm_multistep::second_deis };
/// DEIS of order 3.
///
#[doc = include_str!("doc/deis_3.md")]
#[rustfmt::skip]
pub const DEIS_3: Sampler = Sampler { name: "deis-3", source: "Zhang and Chen 2023, tAB-DEIS", order: 3, evaluations: 1, history: 2, grid: Grid::Solver, step: dpm_multistep::third_deis };
/// DDIM from an image to its noise.
///
#[doc = include_str!("doc/ddim_inverse.md")]
#[rustfmt::skip]
pub const DDIM_INVERSE: Sampler = Sampler { name: "ddim-inverse", source: "Song et al. 2021a, section 4.3", order: 1, evaluations: 1, history: 0, grid: Grid::Chain, step: ddim_inverse::step };
/// DPM-Solver++ of order 2, one step at a time, midpoint.
#[rustfmt::skip]
pub const DPMPP_2S: Sampler = Sampler { name: "dpmpp-2s", source: "Lu et al. 2022b, algorithm 1", order: 2, evaluations: 1, history: 2, grid: Grid::Solver, step: dpm_singlestep::second };
/// DPM-Solver++ of order 3, one step at a time.
#[rustfmt::skip]
pub const DPMPP_3S: Sampler = Sampler { name: "dpmpp-3s", source: "Lu et al. 2022b, section 4", order: 3, evaluations: 1, history: 2, grid: Grid::Solver, step: dpm_singlestep::third };
/// SDE-DPM-Solver++ of order 2, one step at a time.
#[rustfmt::skip]
pub const DPMPP_2S_SDE: Sampler = Sampler { name: "dpmpp-2s-sde", source: "Lu et al. 2022b, section 4", order: 0, evaluations: 1, history: 2, grid: Grid::Solver, step: dpm_singlestep::second_sde };
/// SDE-DPM-Solver++ of order 3, one step at a time.
#[rustfmt::skip]
pub const DPMPP_3S_SDE: Sampler = Sampler { name: "dpmpp-3s-sde", source: "Lu et al. 2022b, section 4", order: 0, evaluations: 1, history: 2, grid: Grid::Solver, step: dpm_singlestep::third_sde };
/// DPM-Solver of order 2, one step at a time, midpoint.
#[rustfmt::skip]
pub const DPM_2S: Sampler = Sampler { name: "dpm-2s", source: "Lu et al. 2022a, algorithm 1", order: 2, evaluations: 1, history: 2, grid: Grid::Solver, step: dpm_singlestep::second_noise };
/// DPM-Solver of order 3, one step at a time.
#[rustfmt::skip]
pub const DPM_3S: Sampler = Sampler { name: "dpm-3s", source: "Lu et al. 2022a, algorithm 2", order: 3, evaluations: 1, history: 2, grid: Grid::Solver, step: dpm_singlestep::third_noise };
/// Euler's method with churn.
#[rustfmt::skip]
pub const EULER_CHURN: Sampler = Sampler { name: "euler-churn", source: "Karras et al. 2022, algorithm 2; k-diffusion, sample_euler", order: 0, evaluations: 1, history: 0, grid: Grid::Euler, step: churn::euler };
/// Heun's method with churn: the stochastic sampler of Karras et al.
#[rustfmt::skip]
pub const HEUN_CHURN: Sampler = Sampler { name: "heun-churn", source: "Karras et al. 2022, algorithm 2", order: 0, evaluations: 2, history: 2, grid: Grid::Euler, step: churn::heun };
/// The midpoint method over sigma with churn.
#[rustfmt::skip]
pub const DPM2_CHURN: Sampler = Sampler { name: "dpm2-churn", source: "k-diffusion, sample_dpm_2", order: 0, evaluations: 2, history: 1, grid: Grid::Euler, step: churn::dpm2 };
/// PNDM's multistep without its start.
#[rustfmt::skip]
pub const IPNDM: Sampler = Sampler { name: "ipndm", source: "Zhang and Chen 2023, appendix", order: 2, evaluations: 1, history: 4, grid: Grid::Euler, step: ipndm::step };
/// Multistep consistency sampling.
#[rustfmt::skip]
pub const CONSISTENCY: Sampler = Sampler { name: "consistency", source: "Song et al. 2023, algorithm 1", order: 0, evaluations: 1, history: 0, grid: Grid::Euler, step: consistency::step };
/// SA-Solver of order 2; `eta` is its share of noise.
#[rustfmt::skip]
pub const SA_SOLVER: Sampler = Sampler { name: "sa-solver", source: "Xue et al. 2023, algorithm 1", order: 2, evaluations: 1, history: 3, grid: Grid::Solver, step: sa_solver::second };
/// SA-Solver with a predictor of order 3; the corrector makes it 4.
#[rustfmt::skip]
pub const SA_SOLVER_3: Sampler = Sampler { name: "sa-solver-3", source: "Xue et al. 2023, algorithm 1", order: 4, evaluations: 1, history: 5, grid: Grid::Solver, step: sa_solver::third };
/// ER-SDE-Solver of order 1.
#[rustfmt::skip]
pub const ER_SDE: Sampler = Sampler { name: "er-sde", source: "Cui et al. 2023, algorithm 1", order: 0, evaluations: 1, history: 0, grid: Grid::Euler, step: er_sde::first };
/// ER-SDE-Solver of order 2.
#[rustfmt::skip]
pub const ER_SDE_2: Sampler = Sampler { name: "er-sde-2", source: "Cui et al. 2023, algorithm 2", order: 0, evaluations: 1, history: 1, grid: Grid::Euler, step: er_sde::second };
/// ER-SDE-Solver of order 3.
#[rustfmt::skip]
pub const ER_SDE_3: Sampler = Sampler { name: "er-sde-3", source: "Cui et al. 2023, algorithm 3", order: 0, evaluations: 1, history: 2, grid: Grid::Euler, step: er_sde::third };
/// The refined exponential solver's multistep.
#[rustfmt::skip]
pub const RES_MULTISTEP: Sampler = Sampler { name: "res-multistep", source: "Zhang et al. 2023, algorithm 2", order: 2, evaluations: 1, history: 1, grid: Grid::Euler, step: res_multistep::step };
/// The same with ancestral noise.
#[rustfmt::skip]
pub const RES_MULTISTEP_ANCESTRAL: Sampler = Sampler { name: "res-multistep-a", source: "Zhang et al. 2023, with k-diffusion's ancestral noise", order: 0, evaluations: 1, history: 1, grid: Grid::Euler, step: res_multistep::ancestral };
/// PNDM with its Runge-Kutta start.
#[rustfmt::skip]
pub const PNDM: Sampler = Sampler { name: "pndm", source: "Liu et al. 2022, equations 12 and 13", order: 4, evaluations: 1, history: 6, grid: Grid::Chain, step: pndm::step };

/// Restoration by a diffusion prior, of what [`crate::chain::Chain::restore`] was told. It is no sampler to choose by name.
#[rustfmt::skip]
pub const RESTORE: Sampler = Sampler { name: "restore", source: "crate::solve::update", order: 0, evaluations: 1, history: 4, grid: Grid::Chain, step: restore::step };

impl Sampler {
    /// Noise levels that a run of `steps` steps needs memory for: one for each step and the end, or none.
    pub const fn levels(&self, steps: usize) -> usize {
        match self.grid {
            Grid::Chain => 0,
            Grid::Euler | Grid::Solver => steps.saturating_add(1),
        }
    }

    /// The step at whose noise level the images lie of a run that begins with step `begin`.
    pub(crate) fn start(&self, begin: usize, parity: Parity) -> usize {
        if self.name == PLMS.name { plms::start(begin, parity) } else { begin }
    }
}

/// Every sampler. Firmware that names one directly links only that one.
pub static REGISTRY: [&Sampler; 45] = [
    &DDPM,
    &DDIM,
    &EULER,
    &EULER_ANCESTRAL,
    &HEUN,
    &DPMPP_2M,
    &DPMPP_2M_HEUN,
    &DPMPP_3M,
    &DPMPP_2M_SDE,
    &DPMPP_2M_SDE_HEUN,
    &UNIPC,
    &UNIPC_BH1,
    &UNIPC_3,
    &PLMS,
    &LMS,
    &LCM,
    &TCD,
    &DPM2,
    &DPM2_ANCESTRAL,
    &DPMPP_2S_ANCESTRAL,
    &DPMPP_3M_SDE,
    &DPM_2M,
    &DPM_3M,
    &DEIS,
    &DEIS_3,
    &DDIM_INVERSE,
    &DPMPP_2S,
    &DPMPP_3S,
    &DPMPP_2S_SDE,
    &DPMPP_3S_SDE,
    &DPM_2S,
    &DPM_3S,
    &EULER_CHURN,
    &HEUN_CHURN,
    &DPM2_CHURN,
    &IPNDM,
    &CONSISTENCY,
    &SA_SOLVER,
    &SA_SOLVER_3,
    &ER_SDE,
    &ER_SDE_2,
    &ER_SDE_3,
    &RES_MULTISTEP,
    &RES_MULTISTEP_ANCESTRAL,
    &PNDM,
];

/// The sampler of this name.
///
/// ```
/// assert_eq!(unfog_core::sampler::find("ddim").map(|s| s.evaluations), Some(1));
/// ```
pub fn find(name: &str) -> Option<&'static Sampler> {
    REGISTRY.into_iter().find(|s| s.name == name)
}

/// Why a step ended early.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Halt {
    /// The network failed; the chain knows how.
    Model(Failed),
    /// There was no noise.
    Noise(NoiseError),
    /// The network predicted something that is no finite number.
    NonFinite {
        /// The first image of which it did.
        image: u64,
    },
}

/// One step of a batch of n images: all that a sampler may look at and change.
pub struct Step<'a> {
    /// Number of the step, from 0.
    pub index: usize,
    /// Number of the step that the run began with: 0 but for a run that begins in the middle.
    pub begin: usize,
    /// The images, `[n, len]`: x at the timestep that the step starts from, and on return where it ends.
    pub x: &'a mut [f32],
    /// The network.
    pub model: Model<'a>,
    /// What the sampler keeps, `[history, n, len]`: zeros at the first step, then what it left here.
    pub history: &'a mut [f32],
    /// Settings of the run.
    pub config: &'a Config,
    /// Tables of the run.
    pub schedule: Schedule<'a>,
    pub(crate) known: Option<Known<'a>>,
    pub(crate) measured: Option<Measured<'a>>,
    pub(crate) noise: &'a mut dyn Noise,
    pub(crate) draws: &'a mut u32,
}

impl Step<'_> {
    /// Steps of the run that were made before this one: of so many there is a history.
    pub const fn done(&self) -> usize {
        self.index.saturating_sub(self.begin)
    }

    /// The timestep that the step starts from.
    pub fn timestep(&self) -> u32 {
        self.schedule.timesteps().get(self.index).copied().unwrap_or_default()
    }

    /// Alpha-bar of a timestep; no number past the table.
    pub fn alpha_bar(&self, timestep: u32) -> f32 {
        self.schedule.alpha_bar().get(timestep as usize).copied().unwrap_or(f32::NAN)
    }

    /// The noise level that step `step` starts from; of step n, the end of the run. Past the table, the image.
    pub fn level(&self, step: usize) -> Level {
        self.schedule.levels().get(step).copied().unwrap_or(Level::IMAGE)
    }

    /// The noise levels that this step starts from and leads to.
    pub fn levels(&self) -> (Level, Level) {
        (self.level(self.index), self.level(self.index + 1))
    }

    /// A level in the units in which the ODE is solved: (scale, sigma) with `x / scale = x0 + sigma * d`, `d` the derivative
    /// of x / scale by sigma. Sigma is noise over signal as in Karras et al. 2022, scale the signal; for flow networks sigma is
    /// s and scale 1, so that both are finite from pure noise on.
    pub fn unit(&self, level: Level) -> (f64, f64) {
        let scale = match self.config.prediction {
            PredictionType::Flow => level.signal + level.noise,
            _ => level.signal,
        };
        (scale, level.noise / scale)
    }

    /// The level of a sigma between those of the table, [`Step::unit`]'s sigma, with its time.
    pub fn level_at(&self, sigma: f64) -> Level {
        let (scale, time) = match self.config.prediction {
            PredictionType::Flow => {
                return Level {
                    time: (sigma * self.config.train_steps as f64) as f32,
                    signal: 1.0 - sigma,
                    noise: sigma,
                };
            }
            PredictionType::Edm { sigma_data } => (f64::from(sigma_data), 0.25 * wide::ln(sigma)),
            _ => (1.0, self.schedule.time_of_sigma(sigma)),
        };
        let signal = 1.0 / wide::sqrt(sigma * sigma + scale * scale);
        Level { time: time as f32, signal, noise: sigma * signal }
    }

    /// Steps of the run.
    pub fn steps(&self) -> usize {
        self.schedule.timesteps().len()
    }

    /// The time of noise at the start of step `step` (of step n, at the end of the run): the share of noise in noise plus
    /// signal, from 1 for pure noise down to 0 for the image, whatever the sampler and the network. So paths of
    /// [`crate::noise::Brownian`] that go from 1 to 0 hold every run.
    pub fn noise_time(&self, step: usize) -> f64 {
        let level = match self.schedule.timesteps().get(step) {
            Some(&t) if self.schedule.levels().is_empty() => {
                let a = f64::from(self.alpha_bar(t));
                Level { time: t as f32, signal: wide::sqrt(a), noise: wide::sqrt(1.0 - a) }
            }
            _ => self.level(step),
        };
        level.noise / (level.signal + level.noise)
    }

    /// Adds `scale` times fresh noise to the images: of the time that this step takes, for noise that knows time (which gives the
    /// same once more to a second draw of the step). The latest prediction ends here: its memory holds the noise meanwhile.
    pub fn add_noise(&mut self, scale: f32) -> Result<(), Halt> {
        self.add_noise_of(1, scale)
    }

    /// The same with noise of the time that the latest `steps` steps took, this one included.
    pub fn add_noise_of(&mut self, steps: usize, scale: f32) -> Result<(), Halt> {
        self.draw(steps, |_, x, z| x.iter_mut().zip(z).for_each(|(x, z)| *x += scale * z))
    }

    /// Scales the images and adds `scale` times fresh noise: `x' = keep * x + scale * z`.
    pub fn mix_noise(&mut self, keep: f32, scale: f32) -> Result<(), Halt> {
        self.draw(1, |_, x, z| x.iter_mut().zip(z).for_each(|(x, z)| *x = keep * *x + scale * z))
    }

    /// The same as [`Step::add_noise`] with the standard deviation that the network predicted for each value (1 where it predicts none).
    pub fn add_predicted_noise(&mut self) -> Result<(), Halt> {
        self.draw(1, |log_var, x, z| {
            let scales = log_var.iter().map(|&v| math::exp(0.5 * v)).chain(core::iter::repeat(1.0));
            x.iter_mut().zip(z).zip(scales).for_each(|((x, z), scale)| *x += scale * z);
        })
    }

    /// Makes one draw of noise, of the time of this step, and keeps it: `[n, len]` from `history[place]` on.
    pub fn keep_noise(&mut self, place: usize) -> Result<(), Halt> {
        let (first_image, len) = (self.model.first_image, self.model.len);
        let times = (self.noise_time(self.index), self.noise_time(self.index + 1));
        let kept = self.history.get_mut(place..).unwrap_or_default();
        for (i, z) in kept.chunks_exact_mut(len).take(self.x.len() / len).enumerate() {
            fill(self.noise, first_image.wrapping_add(i as u64), *self.draws, times, z)?;
        }
        *self.draws = self.draws.wrapping_add(1);
        Ok(())
    }

    /// Makes one draw of noise z and hands it to `add(log_var, x, z)`, image by image.
    fn draw(&mut self, steps: usize, add: impl Fn(&[f32], &mut [f32], &[f32])) -> Result<(), Halt> {
        let end = self.index + 1;
        let times = (self.noise_time(end.saturating_sub(steps)), self.noise_time(end));
        let (first_image, len) = (self.model.first_image, self.model.len);
        let (log_var, scratch) = self.model.after();
        let mut log_vars = log_var.chunks_exact(len);
        for (i, x) in self.x.chunks_exact_mut(len).enumerate() {
            let Some(z) = scratch.get_mut(..len) else { break };
            fill(self.noise, first_image.wrapping_add(i as u64), *self.draws, times, z)?;
            add(log_vars.next().unwrap_or_default(), x, z);
        }
        *self.draws = self.draws.wrapping_add(1);
        Ok(())
    }
}

/// Noise of one image over the times of a step.
fn fill(noise: &mut dyn Noise, image: u64, draw: u32, (from, to): (f64, f64), z: &mut [f32]) -> Result<(), Halt> {
    // A step that stands still has no noise of its own, and a factor of 0 for any.
    let filled = if from == to { noise.fill(image, draw, z) } else { noise.fill_between(image, draw, from, to, z) };
    filled.map_err(Halt::Noise)
}
