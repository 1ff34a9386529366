//! Noise levels that a class of diffusers chooses in a way of its own.

use unfog_core::config::Config;
use unfog_core::schedule::{End, Level, Schedule, Shift, SigmaTable};

/// What a scheduler's class does with the levels of core's table. All but the first two are quirks, which
/// [`unfog_core::config::Parity::Table`] does without.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Own {
    /// The network is told `ln(sigma) / 4` (EulerDiscrete with `timestep_type` continuous).
    Continuous,
    /// The network is told `1000 * ln(sigma) / 4` (consistency models).
    Thousandfold,
    /// Logarithms of sigma evenly over the whole table, n + 1 of them; times are those of the spacing (EulerDiscrete with
    /// `interpolation_type` log_linear).
    LogLinear,
    /// Times are rounded (KDPM2 with Karras' sigmas; DEIS and UniPC also where DPM-Solver does not).
    Whole,
    /// Timesteps whose lambda lies below this are not visited (`lambda_min_clipped`).
    Clipped {
        /// Least lambda.
        lambda: f64,
        /// Timesteps are multiples of a stride, plus the offset; otherwise evenly spaced.
        leading: bool,
    },
    /// A flow that starts at pure noise and may end at its last level (UniPC).
    FromNoise,
    /// The same with the levels of the chain's table: `sigma / (sigma + 1)` (UniPC with Karras' sigmas).
    FromChain,
    /// The run ends at its last level (DEIS with flow).
    Still,
}

/// How near to pure noise a solver in lambda may start, as UniPC in diffusers.
const NEAR_NOISE: f64 = 1e-6;

impl Own {
    /// Whether it belongs to the network, and so to every run of it.
    pub(crate) fn is_of_the_network(self) -> bool {
        matches!(self, Self::Continuous | Self::Thousandfold)
    }

    /// The levels, made from those of core's table, in the form that [`unfog_core::schedule::SigmaTable::Given`] takes.
    pub(crate) fn levels(self, config: &Config, schedule: &Schedule<'_>) -> Vec<Level> {
        let flow = matches!(self, Self::FromNoise | Self::Still);
        let sigma = |level: &Level| if flow { level.noise / (level.signal + level.noise) } else { level.sigma() };
        let mut levels: Vec<Level> =
            schedule.levels().iter().map(|level| Level::given_at(level.time, sigma(level))).collect();
        let n = levels.len().saturating_sub(1);
        let table = |t: usize| {
            let a = schedule.alpha_bar().get(t).copied().unwrap_or(f32::NAN);
            f64::from(((1.0 - a) / a).sqrt())
        };
        match self {
            Self::Continuous => levels.iter_mut().for_each(|level| level.time = (0.25 * level.noise.ln()) as f32),
            Self::Thousandfold => levels.iter_mut().for_each(|level| level.time *= 1000.0),
            Self::Whole => levels
                .iter_mut()
                .for_each(|level| level.time = schedule.time_of_sigma(level.noise).round_ties_even() as f32),
            Self::LogLinear => {
                let (high, low) = (table(schedule.alpha_bar().len() - 1).ln(), table(0).ln());
                for (i, level) in levels.iter_mut().enumerate() {
                    level.noise = (high + (low - high) * (i as f64 / n as f64)).exp();
                }
            }
            Self::Clipped { lambda, leading } => {
                let below = (0..config.train_steps).rev().take_while(|&t| -table(t).ln() < lambda).count();
                let last = config.train_steps - below;
                for (i, level) in levels.iter_mut().take(n).enumerate() {
                    let t = match leading {
                        true => ((n - i) * (last / (n + 1))).saturating_add(config.steps_offset as usize),
                        false => {
                            ((n - i) as f64 * (last.saturating_sub(1) as f64 / n as f64)).round_ties_even() as usize
                        }
                    };
                    *level = Level::given_at(t as f32, table(t));
                }
            }
            Self::FromNoise => from_noise(config, &mut levels),
            Self::FromChain => {
                let SigmaTable::Karras { rho } = config.sigmas.table else { return levels };
                let last = schedule.alpha_bar().len().saturating_sub(1);
                let low = config.sigmas.min.unwrap_or_else(|| table(0)).powf(1.0 / rho);
                let high = config.sigmas.max.unwrap_or_else(|| table(last)).powf(1.0 / rho);
                for (i, level) in levels.iter_mut().take(n).enumerate() {
                    let u = i as f64 / (n.max(2) - 1) as f64;
                    let sigma = (high + u * (low - high)).powf(rho);
                    let s = sigma / (sigma + 1.0);
                    *level = Level::given_at((s * config.train_steps as f64).trunc() as f32, s);
                }
            }
            Self::Still => {}
        }
        let ends_at_last = [Self::FromNoise, Self::FromChain].contains(&self) && config.sigmas.end == End::Min;
        let repeats = self == Self::Still || ends_at_last;
        if let [.., last, end] = &mut levels[..]
            && repeats
        {
            *end = *last;
        }
        levels
    }
}

/// n of the n + 1 levels from 1 to 1 / T, shifted and stretched.
fn from_noise(config: &Config, levels: &mut [Level]) {
    let (n, count) = (levels.len().saturating_sub(1), config.train_steps as f64);
    let m = match config.sigmas.shift {
        Shift::Static(m) | Shift::Linear(m) => m,
        Shift::Exponential(mu) => mu.exp(),
    };
    let place = |i: usize| {
        let s = 1.0 + i as f64 / n as f64 * (1.0 / count - 1.0);
        m * s / (1.0 + (m - 1.0) * s)
    };
    let stretch = match config.sigmas.shift_terminal {
        Some(terminal) if n > 1 => (1.0 - place(n - 1)) / (1.0 - terminal),
        _ => 1.0,
    };
    for (i, level) in levels.iter_mut().take(n).enumerate() {
        let s = (1.0 - (1.0 - place(i)) / stretch).min(1.0 - NEAR_NOISE);
        *level = Level::given_at((s * count).trunc() as f32, s);
    }
}
