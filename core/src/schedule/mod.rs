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

#[cfg(test)]
mod tests {
    use super::*;

    fn error(config: Config) -> ConfigError {
        Schedule::new(&config, &mut std::vec![0.0; config.train_steps], &mut std::vec![0; config.steps]).unwrap_err()
    }

    #[test]
    fn diffusers_rule_and_the_table_differ_where_the_spacing_does() {
        let config = Config { spacing: Spacing::Linspace, steps: 10, ..Config::default() };
        let (mut alpha_bar, mut timesteps) = ([0.0; 1000], [0; 10]);
        let schedule = Schedule::new(&config, &mut alpha_bar, &mut timesteps).unwrap();
        assert_eq!(schedule.next_timestep(0, Parity::Diffusers), Some(899));
        assert_eq!(schedule.next_timestep(0, Parity::Table), Some(888));
        assert_eq!(schedule.next_timestep(9, Parity::Diffusers), None);
        assert_eq!(schedule.next_timestep(9, Parity::Table), None);
        assert_eq!(schedule.next_timestep(10, Parity::Diffusers), None);
    }

    #[test]
    fn impossible_configurations_are_refused() {
        let config = Config { train_steps: 10, steps: 5, ..Config::default() };
        assert_eq!(error(Config { steps: 0, ..config }), ConfigError::NoSteps);
        assert_eq!(error(Config { steps: 11, ..config }), ConfigError::TooManySteps { steps: 11, train_steps: 10 });
        assert_eq!(error(Config { beta_end: f64::NAN, ..config }), ConfigError::Beta { t: 0 });
        assert_eq!(error(Config { steps_offset: 2, ..config }), ConfigError::StepsOffset { t: 10, train_steps: 10 });
        assert_eq!(error(Config { eta: 1.5, ..config }), ConfigError::Eta(1.5));
        assert!(matches!(error(Config { eta: f32::NAN, ..config }), ConfigError::Eta(_)));
        // Betas that vanish in f32 leave no noise to predict.
        assert_eq!(error(Config { beta_start: 0.0, beta_end: 0.0, ..config }), ConfigError::NoNoise { t: 8 });
        // Alpha-bar may not be 0 before the end: the step after it would divide by it.
        let early = Config { beta_start: 1.0, prediction: PredictionType::Sample, ..config };
        assert_eq!(error(early), ConfigError::NoSignal { t: 0 });
        let (mut alpha_bar, mut timesteps) = ([0.0; 9], [0; 5]);
        let lengths = Schedule::new(&config, &mut alpha_bar, &mut timesteps);
        assert_eq!(lengths, Err(ConfigError::Length { needed: 10, given: 9 }));
    }

    #[test]
    fn zero_terminal_snr_needs_a_prediction_that_survives_it() {
        let config = Config { zero_terminal_snr: true, spacing: Spacing::Trailing, ..Config::default() };
        assert_eq!(error(config), ConfigError::NoSignal { t: 999 });
        // Leading spacing never visits the last timestep, and a velocity is defined there.
        for config in
            [Config { spacing: Spacing::Leading, ..config }, Config { prediction: PredictionType::Velocity, ..config }]
        {
            assert!(Schedule::new(&config, &mut [0.0; 1000], &mut [0; 50]).is_ok());
        }
        // With one timestep there is nothing to rescale by.
        let single = Config { train_steps: 1, steps: 1, prediction: PredictionType::Velocity, ..config };
        assert_eq!(error(single), ConfigError::NoNoise { t: 0 });
    }
}
