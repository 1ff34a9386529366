//! The tables of a run: how much signal is left at each timestep, and which timesteps are visited.

mod beta;
mod spacing;

pub use beta::{BetaSchedule, alpha_bar_exact, alpha_bar_from_betas, fill_betas, rescale_zero_terminal_snr};
pub use spacing::{Spacing, fill_timesteps};

use crate::config::{Config, ConfigError, Parity};
use crate::predict::PredictionType;

/// The tables of a run, in memory that the caller lends.
///
/// ```
/// use unfog_core::{config::Config, schedule::Schedule};
/// let config = Config { steps: 4, ..Config::default() };
/// let (mut alpha_bar, mut timesteps) = ([0.0; 1000], [0; 4]);
/// let schedule = Schedule::new(&config, &mut alpha_bar, &mut timesteps)?;
/// assert_eq!(schedule.timesteps(), [750, 500, 250, 0]);
/// assert_eq!(schedule.alpha_bar()[0], 0.9999);
/// # Ok::<(), unfog_core::config::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule<'a> {
    alpha_bar: &'a [f32],
    timesteps: &'a [u32],
}

impl<'a> Schedule<'a> {
    /// Fills the tables of `config` and checks them.
    ///
    /// `alpha_bar`: T values; with [`BetaSchedule::Trained`] it holds the betas on entry. `timesteps`: one for each step.
    pub fn new(config: &Config, alpha_bar: &'a mut [f32], timesteps: &'a mut [u32]) -> Result<Self, ConfigError> {
        config.validate()?;
        let same_length =
            |needed, given| if needed == given { Ok(()) } else { Err(ConfigError::Length { needed, given }) };
        same_length(config.train_steps, alpha_bar.len())?;
        same_length(config.steps, timesteps.len())?;
        fill_betas(config.betas, config.beta_start, config.beta_end, alpha_bar)?;
        if config.zero_terminal_snr {
            rescale_zero_terminal_snr(alpha_bar);
        }
        alpha_bar_from_betas(alpha_bar);
        fill_timesteps(config.spacing, config.train_steps, config.steps_offset, timesteps)?;
        let schedule = Self { alpha_bar, timesteps };
        schedule.check(config.prediction)?;
        Ok(schedule)
    }

    /// Every division that a step makes must have a divisor other than 0.
    fn check(&self, prediction: PredictionType) -> Result<(), ConfigError> {
        // Alpha-bar may vanish at the last timestep alone; `max` takes care of what is no number.
        let vanished = |a: &f32| a.max(0.0) == 0.0;
        if let Some(t) = self.alpha_bar.iter().position(vanished).filter(|t| t + 1 < self.alpha_bar.len()) {
            return Err(ConfigError::NoSignal { t });
        }
        for &t in self.timesteps {
            let t = t as usize;
            let a = self.alpha_bar.get(t).copied().unwrap_or(f32::NAN);
            if !(0.0..1.0).contains(&a) {
                return Err(ConfigError::NoNoise { t });
            }
            if prediction == PredictionType::Epsilon && vanished(&a) {
                return Err(ConfigError::NoSignal { t });
            }
        }
        Ok(())
    }

    /// Alpha-bar of each timestep: the share of the image's variance that is left.
    pub const fn alpha_bar(&self) -> &'a [f32] {
        self.alpha_bar
    }

    /// The timesteps that a run visits, first step first.
    pub const fn timesteps(&self) -> &'a [u32] {
        self.timesteps
    }

    /// Standard deviation of the noise that a run starts from: 1 for samplers over alpha-bar.
    pub const fn init_noise_sigma(&self) -> f32 {
        1.0
    }

    /// Where step `step` leads: the timestep that it ends at, or `None` at the end of the chain.
    ///
    /// [`Parity::Table`] takes the next timestep of the table, [`Parity::Diffusers`] t - T / n (whole division), as
    /// diffusers' DDIM does. With spacings other than leading the two differ, by up to 11 timesteps at linspace, n = 10.
    pub fn next_timestep(&self, step: usize, parity: Parity) -> Option<u32> {
        match parity {
            Parity::Table => self.timesteps.get(step + 1).copied(),
            Parity::Diffusers => {
                let stride = (self.alpha_bar.len() / self.timesteps.len()) as u32;
                self.timesteps.get(step)?.checked_sub(stride)
            }
        }
    }
}
