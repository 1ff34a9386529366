//! The tables of a run: how much signal is left at each timestep, and which timesteps are visited.

mod beta;
mod beta_ppf;
#[cfg(test)]
mod fault_tests;
mod level;
#[cfg(test)]
mod property_tests;
mod sigma;
#[cfg(test)]
mod sigma_tests;
mod spacing;

pub use beta::{BetaSchedule, alpha_bar_exact, alpha_bar_from_betas, fill_betas, rescale_zero_terminal_snr};
pub use level::Level;
pub(crate) use sigma::EDM_RANGE;
pub use sigma::{AlignYourSteps, End, Grid, Interpolation, Shift, SigmaTable, Sigmas, dynamic_shift};
pub use spacing::{Spacing, fill_timesteps};

use crate::config::{Config, ConfigError, Parity};
use crate::math::wide;
use crate::predict::PredictionType;
use crate::sampler::Sampler;

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
    levels: &'a [Level],
    init_noise_sigma: f32,
    end_scale: f32,
}

/// Alpha-bar that samplers over levels use where none is left: as diffusers, so that sigma is finite (4096).
pub(crate) const LEAST_ALPHA_BAR: f32 = 1.0 / (1 << 24) as f32;

impl<'a> Schedule<'a> {
    /// Fills the tables of `config` for a sampler over timesteps ([`Grid::Chain`]) and checks them.
    ///
    /// `alpha_bar`: T values; with [`BetaSchedule::Trained`] it holds the betas on entry. `timesteps`: one for each step; with
    /// [`Spacing::Given`] it holds them on entry.
    ///
    /// Fails with what [`Config::validate`], [`fill_betas`] and [`fill_timesteps`] find, for slices of other lengths
    /// ([`ConfigError::Length`]), for networks without timesteps ([`ConfigError::Prediction`]), and where a step would divide by 0
    /// ([`ConfigError::NoSignal`], [`ConfigError::NoNoise`]).
    pub fn new(config: &Config, alpha_bar: &'a mut [f32], timesteps: &'a mut [u32]) -> Result<Self, ConfigError> {
        Self::fill_alpha_bar(config, alpha_bar, timesteps.len())?;
        Self::over_timesteps(config, alpha_bar, timesteps)
    }

    fn over_timesteps(config: &Config, alpha_bar: &'a [f32], timesteps: &'a mut [u32]) -> Result<Self, ConfigError> {
        fill_timesteps(config.spacing, config.train_steps, config.steps_offset, timesteps)?;
        let schedule = Self { alpha_bar, timesteps, levels: &[], init_noise_sigma: 1.0, end_scale: 1.0 };
        schedule.check(config.prediction)?;
        Ok(schedule)
    }

    /// Fills the tables that `sampler` needs and checks them.
    ///
    /// `alpha_bar` and `timesteps` as for [`Schedule::new`]; where the sampler works over levels, `timesteps` end up as their
    /// rounded times. `levels`: [`Sampler::levels`] of them; with [`SigmaTable::Given`] it holds them on entry.
    ///
    /// Fails as [`Schedule::new`] does; and where levels are no numbers, don't fall or are none that the network has
    /// ([`ConfigError::Level`]), where the network has not what the table is made from ([`ConfigError::Table`]), and for a flow
    /// network's bad shift ([`ConfigError::Shift`]).
    ///
    /// ```
    /// use unfog_core::{config::Config, sampler, schedule::{Level, Schedule, SigmaTable, Sigmas}};
    /// let sigmas = Sigmas { table: SigmaTable::Karras { rho: 7.0 }, ..Sigmas::default() };
    /// let config = Config { steps: 4, sigmas, ..Config::default() };
    /// let (mut alpha_bar, mut timesteps, mut levels) = ([0.0; 1000], [0; 4], [Level::default(); 5]);
    /// let schedule = Schedule::for_sampler(&config, &sampler::EULER, &mut alpha_bar, &mut timesteps, &mut levels)?;
    /// assert!(schedule.levels().windows(2).all(|pair| pair[0].sigma() > pair[1].sigma()));
    /// assert_eq!(schedule.levels()[4], Level::IMAGE);
    /// # Ok::<(), unfog_core::config::ConfigError>(())
    /// ```
    pub fn for_sampler(
        config: &Config,
        sampler: &Sampler,
        alpha_bar: &'a mut [f32],
        timesteps: &'a mut [u32],
        levels: &'a mut [Level],
    ) -> Result<Self, ConfigError> {
        Self::fill_alpha_bar(config, alpha_bar, timesteps.len())?;
        if sampler.grid != Grid::Chain
            && let Some((last, before)) = alpha_bar.split_last_mut()
            && (config.zero_terminal_snr || *last <= 0.0)
        {
            // Below the one before in any case: a long chain's may be less than that.
            let before = before.last().copied().unwrap_or(1.0);
            *last = if before > LEAST_ALPHA_BAR { LEAST_ALPHA_BAR } else { 0.5 * before };
        }
        Self::over_table(config, sampler, alpha_bar, timesteps, levels)
    }

    /// The same with a table of alpha-bar that is there already, as [`Schedule::for_sampler`] left it for a sampler of the same
    /// grid: firmware reads it where it lies in a pack ([`crate::pack::Settings`]).
    pub fn with_alpha_bar(
        config: &Config,
        sampler: &Sampler,
        alpha_bar: &'a [f32],
        timesteps: &'a mut [u32],
        levels: &'a mut [Level],
    ) -> Result<Self, ConfigError> {
        Self::check_lengths(config, alpha_bar.len(), timesteps.len())?;
        // What rises or is no number was not made from betas.
        let falls = |pair: &[f32]| pair[0] >= pair[1] && pair[1] >= 0.0;
        if let Some(t) = alpha_bar.windows(2).position(|pair| !falls(pair)) {
            return Err(ConfigError::Beta { t: t + 1 });
        }
        if alpha_bar.first().is_none_or(|first| !(0.0..=1.0).contains(first)) {
            return Err(ConfigError::Beta { t: 0 });
        }
        Self::over_table(config, sampler, alpha_bar, timesteps, levels)
    }

    fn over_table(
        config: &Config,
        sampler: &Sampler,
        alpha_bar: &'a [f32],
        timesteps: &'a mut [u32],
        levels: &'a mut [Level],
    ) -> Result<Self, ConfigError> {
        if sampler.grid == Grid::Chain {
            return Self::over_timesteps(config, alpha_bar, timesteps);
        }
        let needed = sampler.levels(config.steps);
        if levels.len() != needed {
            return Err(ConfigError::Length { needed, given: levels.len() });
        }
        sigma::fill_levels(config, sampler.grid, alpha_bar, timesteps, levels)?;
        let first = levels.first().copied().unwrap_or_default();
        let init_noise_sigma = match (config.prediction, sampler.grid, config.spacing) {
            (PredictionType::Flow, _, _) => 1.0,
            (PredictionType::Edm { .. }, _, _) if matches!(config.sigmas.table, SigmaTable::Distilled { .. }) => {
                first.noise as f32
            }
            // sqrt(sigma^2 + 1), scaled to what the network takes.
            (PredictionType::Edm { .. }, _, _) => {
                wide::sqrt(first.noise * first.noise + first.signal * first.signal) as f32
            }
            // The same with sigma in place of sqrt(sigma^2 + 1), as diffusers.
            (_, Grid::Euler, Spacing::Linspace | Spacing::Trailing) => first.noise as f32,
            _ => 1.0,
        };
        let end = levels.last().copied().unwrap_or(Level::IMAGE);
        let end_scale = match (config.prediction, sampler.grid) {
            (PredictionType::Flow, _) => 1.0,
            (PredictionType::Edm { .. }, _) | (_, Grid::Euler) => 1.0 / end.signal,
            _ => 1.0,
        };
        Ok(Self { alpha_bar, timesteps, levels, init_noise_sigma, end_scale: end_scale as f32 })
    }

    fn check_lengths(config: &Config, alpha_bar: usize, steps: usize) -> Result<(), ConfigError> {
        config.validate()?;
        let same_length =
            |needed, given| if needed == given { Ok(()) } else { Err(ConfigError::Length { needed, given }) };
        same_length(config.train_steps, alpha_bar)?;
        same_length(config.steps, steps)
    }

    /// Checks lengths, and fills the table of alpha-bar.
    fn fill_alpha_bar(config: &Config, alpha_bar: &mut [f32], steps: usize) -> Result<(), ConfigError> {
        Self::check_lengths(config, alpha_bar.len(), steps)?;
        fill_betas(config.betas, config.beta_start, config.beta_end, alpha_bar)?;
        if config.zero_terminal_snr {
            rescale_zero_terminal_snr(alpha_bar);
        }
        alpha_bar_from_betas(alpha_bar);
        Ok(())
    }

    /// Every division that a step makes must have a divisor other than 0.
    fn check(&self, prediction: PredictionType) -> Result<(), ConfigError> {
        if !prediction.is_over_alpha_bar() {
            return Err(ConfigError::Prediction);
        }
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

    /// The noise levels that a run visits, first step first, and where it ends: n + 1, or none for samplers over timesteps.
    pub const fn levels(&self) -> &'a [Level] {
        self.levels
    }

    /// The noise level that step `step` of a run starts from, whether the sampler goes over timesteps or over levels; past the last step,
    /// the image.
    ///
    /// ```
    /// use unfog_core::{config::Config, schedule::{Level, Schedule}};
    /// let config = Config { steps: 4, ..Config::default() };
    /// let (mut alpha_bar, mut timesteps) = ([0.0; 1000], [0; 4]);
    /// let schedule = Schedule::new(&config, &mut alpha_bar, &mut timesteps)?;
    /// let Level { time, signal, noise } = schedule.level(1);
    /// assert!(time == 500.0 && (signal * signal + noise * noise - 1.0).abs() < 1e-12);
    /// assert_eq!(schedule.level(4), Level::IMAGE);
    /// # Ok::<(), unfog_core::config::ConfigError>(())
    /// ```
    pub fn level(&self, step: usize) -> Level {
        match (self.timesteps.get(step), self.levels.get(step)) {
            (Some(_), Some(&level)) => level,
            (Some(&t), None) => {
                let a = self.alpha_bar.get(t as usize).copied().map_or(f64::NAN, f64::from);
                Level { time: t as f32, signal: wide::sqrt(a), noise: wide::sqrt(1.0 - a) }
            }
            (None, _) => Level::IMAGE,
        }
    }

    /// Standard deviation of the noise that a run starts from: 1 for samplers over alpha-bar.
    pub const fn init_noise_sigma(&self) -> f32 {
        self.init_noise_sigma
    }

    /// Factor of the images after the last step: 1, but where a run in the scaling of Karras et al. (image plus noise) ends
    /// above sigma 0, what undoes the network's.
    pub const fn end_scale(&self) -> f32 {
        self.end_scale
    }

    /// The time (from 0 to T - 1, not always whole) at which the network's own table has this ratio of noise to signal: its
    /// logarithm is interpolated linearly, as in diffusers and k-diffusion. What lies outside of the table has its end's.
    pub fn time_of_sigma(&self, sigma: f64) -> f64 {
        time_of_sigma(self.alpha_bar, sigma)
    }

    /// Where step `step` leads: the timestep that it ends at, or `None` at the end of the chain.
    ///
    /// [`Parity::Table`] takes the next timestep of the table, [`Parity::Diffusers`] t - T / n (whole division), as
    /// diffusers' DDIM does. With spacings other than leading the two differ, by up to 11 timesteps at linspace, n = 10.
    pub fn next_timestep(&self, step: usize, parity: Parity) -> Option<u32> {
        match parity {
            Parity::Table => self.timesteps.get(step.checked_add(1)?).copied(),
            Parity::Diffusers => {
                let stride = (self.alpha_bar.len() / self.timesteps.len()) as u32;
                self.timesteps.get(step)?.checked_sub(stride)
            }
        }
    }
}

/// The time whose interpolated ln sigma is that of `sigma`.
fn time_of_sigma(alpha_bar: &[f32], sigma: f64) -> f64 {
    // diffusers' logarithms of the table are f32.
    let ln = |t: usize| f64::from(wide::ln(sigma::table_sigma(alpha_bar, t)) as f32);
    let wanted = wide::ln(sigma.max(1e-10));
    let (mut low, mut high) = (0, alpha_bar.len().saturating_sub(1));
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if ln(middle) <= wanted { low = middle } else { high = middle }
    }
    if low == high {
        return 0.0;
    }
    let share = ((ln(low) - wanted) / (ln(low) - ln(high))).clamp(0.0, 1.0);
    (1.0 - share) * low as f64 + share * high as f64
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
        for churn in [
            Config { s_churn: -1.0, ..config },
            Config { s_churn: f32::INFINITY, ..config },
            Config { s_noise: f32::NAN, ..config },
            Config { s_tmin: -0.1, ..config },
            Config { s_tmax: f32::NAN, ..config },
        ] {
            assert_eq!(error(churn), ConfigError::Churn);
        }
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
