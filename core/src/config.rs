//! What a run is made of: plain data that a program fills by hand or from a diffusers `scheduler_config.json`.

use core::fmt;

use crate::guidance::Guidance;
use crate::predict::{Clip, PredictionType};
use crate::schedule::{BetaSchedule, Sigmas, Spacing};

/// The settings of a run. `Default` is what diffusers' `DDIMScheduler` has, with 50 steps.
///
/// ```
/// use unfog_core::{config::Config, schedule::BetaSchedule};
/// let config = Config { betas: BetaSchedule::SquaredCosCapV2, steps: 20, ..Config::default() };
/// assert_eq!(config.validate(), Ok(()));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Shape of the variances that the forward chain adds (`beta_schedule`).
    pub betas: BetaSchedule,
    /// T, the length of the chain that the network was trained on (`num_train_timesteps`).
    pub train_steps: usize,
    /// First variance of the linear schedules.
    pub beta_start: f64,
    /// Last variance of the linear schedules.
    pub beta_end: f64,
    /// Moves the betas so that nothing is left of the image at T (`rescale_betas_zero_snr`).
    pub zero_terminal_snr: bool,
    /// What the network was trained to predict (`prediction_type`).
    pub prediction: PredictionType,
    /// How a predicted image is kept in range (`clip_sample`, `thresholding`).
    pub clip: Clip,
    /// Which of the T timesteps a run visits (`timestep_spacing`).
    pub spacing: Spacing,
    /// Added to each timestep of leading spacing (`steps_offset`).
    pub steps_offset: u32,
    /// Steps of the run, from 1 to T.
    pub steps: usize,
    /// Variance of a DDPM step (`variance_type`).
    pub variance: Variance,
    /// DDIM's share of fresh noise, from 0 (none: the same noise gives the same image) to 1 (as much as DDPM); TCD's gamma;
    /// SA-Solver's tau.
    pub eta: f32,
    /// Whether DDIM's last step ends at alpha-bar 1 or at alpha-bar of timestep 0.
    pub set_alpha_to_one: bool,
    /// Whose rule gives the timestep that a step leads to.
    pub parity: Parity,
    /// How conditional and unconditional predictions are combined.
    pub guidance: Guidance,
    /// Which noise levels a sampler over levels visits.
    pub sigmas: Sigmas,
    /// Factor of the timestep in LCM's boundary condition (`timestep_scaling`).
    pub timestep_scaling: f32,
    /// Whether multistep solvers lower their order towards the end of a run (`lower_order_final`; DPM-Solver's only in runs of
    /// fewer than 15 steps).
    pub lower_order_final: bool,
    /// Whether the last step is of order 1 in any case (`euler_at_final`).
    pub euler_at_final: bool,
    /// How much noise samplers with churn add and take away again over a run (S_churn of Karras et al. 2022, algorithm 2).
    pub s_churn: f32,
    /// Least sigma, noise over signal, at which samplers with churn and SA-Solver draw noise (S_tmin).
    pub s_tmin: f32,
    /// Largest sigma at which they do (S_tmax).
    pub s_tmax: f32,
    /// Factor of the noise that churn adds, and consistency models (S_noise); Karras et al. go up to 1.007.
    pub s_noise: f32,
}

/// Which variance a DDPM step adds. Ho et al. 2020, section 3.2; Nichol and Dhariwal 2021, equation 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Variance {
    /// The posterior's variance, at least 1e-20.
    #[default]
    FixedSmall,
    /// The same by way of its logarithm, which differs from it in the last bits.
    FixedSmallLog,
    /// The forward chain's beta.
    FixedLarge,
    /// The same. (diffusers takes the square root of ln beta here, which is no number; this does what the name means.)
    FixedLargeLog,
    /// The network says, in a second half of its output, where between both (in logarithms) the variance lies.
    LearnedRange,
    /// The network says, in a second half of its output, the variance: with [`Parity::Table`] its logarithm, as in Nichol and
    /// Dhariwal's code; with [`Parity::Diffusers`] as it is, and then it must be above 0.
    Learned,
}

impl Variance {
    /// Whether the network says the variance.
    pub const fn is_learned(self) -> bool {
        matches!(self, Self::LearnedRange | Self::Learned)
    }
}

/// Whose rule gives the timestep that a step leads to, where the two differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Parity {
    /// As diffusers does: DDIM goes from t to t - T / n (whole division) whatever the spacing, and DDPM adds noise
    /// wherever t > 0, at its last step too.
    #[default]
    Diffusers,
    /// Each step leads to the next timestep of the table, and DDPM's last step adds no noise.
    Table,
}

/// Why a configuration can't be run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ConfigError {
    /// The run would have no step.
    NoSteps,
    /// More steps than timesteps.
    TooManySteps {
        /// Steps that were asked for.
        steps: usize,
        /// T.
        train_steps: usize,
    },
    /// T is 0, or more than 2^24 (from where f32 can't tell timesteps apart).
    TrainSteps(usize),
    /// A slice that was lent has another length than its table.
    Length {
        /// Length of the table.
        needed: usize,
        /// Length of the slice.
        given: usize,
    },
    /// A beta is no number or lies outside 0..=1.
    Beta {
        /// Its timestep.
        t: usize,
    },
    /// The offset leads past the table.
    StepsOffset {
        /// The first timestep that would be visited.
        t: usize,
        /// T.
        train_steps: usize,
    },
    /// Nothing of the image is left at this timestep (alpha-bar is 0), and then neither can a prediction of the noise tell
    /// the image nor can a step lead there.
    NoSignal {
        /// The timestep.
        t: usize,
    },
    /// There is no noise at this timestep (alpha-bar is 1), so nothing can be predicted.
    NoNoise {
        /// The timestep.
        t: usize,
    },
    /// The clipping range, the thresholding ratio (0..=1) or its maximum (at least 1) can't be used.
    Clip,
    /// A noise level, or a timestep of the caller's, can't be used: no number, not below the one before, or the network has no
    /// such level.
    Level {
        /// Its place in the table.
        step: usize,
    },
    /// The sampler is for networks over alpha-bar, and this one predicts otherwise.
    Prediction,
    /// This sigma table is made from timesteps, and the network has none.
    Table,
    /// A number of the sigma table is not finite or out of its range, or `min` is not below `max` ([`Sigmas::is_valid`]).
    Sigmas,
    /// The data's standard deviation, of an EDM network, is not above 0.
    SigmaData(f32),
    /// A flow network's shift is not above 0.
    Shift(f64),
    /// LCM's factor of the timestep is not above 0.
    TimestepScaling(f32),
    /// `eta` lies outside 0..=1.
    Eta(f32),
    /// One of `s_churn`, `s_tmin`, `s_tmax` and `s_noise` is negative or no number, or `s_churn` or `s_noise` is not finite.
    Churn,
    /// The guidance of this scale has a number that can't be used: one that is not finite, or out of its range.
    Guidance(f32),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            betas: BetaSchedule::Linear,
            train_steps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
            zero_terminal_snr: false,
            prediction: PredictionType::Epsilon,
            clip: Clip::Range(1.0),
            spacing: Spacing::Leading,
            steps_offset: 0,
            steps: 50,
            variance: Variance::FixedSmall,
            eta: 0.0,
            set_alpha_to_one: true,
            parity: Parity::Diffusers,
            guidance: Guidance::None,
            sigmas: Sigmas::default(),
            timestep_scaling: 10.0,
            lower_order_final: true,
            euler_at_final: false,
            s_churn: 40.0,
            s_tmin: 0.0,
            s_tmax: f32::INFINITY,
            s_noise: 1.0,
        }
    }
}

impl Config {
    /// Largest T: every timestep is a whole number that f32 holds.
    pub const MAX_TRAIN_STEPS: usize = 1 << 24;

    /// Checks all that can be checked without the tables; [`crate::schedule::Schedule::new`] checks the rest.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Self { steps, train_steps, .. } = *self;
        if train_steps == 0 || train_steps > Self::MAX_TRAIN_STEPS {
            return Err(ConfigError::TrainSteps(train_steps));
        }
        if steps == 0 {
            return Err(ConfigError::NoSteps);
        }
        if steps > train_steps {
            return Err(ConfigError::TooManySteps { steps, train_steps });
        }
        if !self.clip.is_valid() {
            return Err(ConfigError::Clip);
        }
        if !self.sigmas.is_valid() {
            return Err(ConfigError::Sigmas);
        }
        if let PredictionType::Edm { sigma_data } = self.prediction
            && !(sigma_data.is_finite() && sigma_data > 0.0)
        {
            return Err(ConfigError::SigmaData(sigma_data));
        }
        if !(self.timestep_scaling.is_finite() && self.timestep_scaling > 0.0) {
            return Err(ConfigError::TimestepScaling(self.timestep_scaling));
        }
        if !(0.0..=1.0).contains(&self.eta) {
            return Err(ConfigError::Eta(self.eta));
        }
        let [finite, any] = [[self.s_churn, self.s_noise], [self.s_tmin, self.s_tmax]];
        if !(finite.iter().all(|v| v.is_finite()) && finite.iter().chain(&any).all(|v| *v >= 0.0)) {
            return Err(ConfigError::Churn);
        }
        match self.guidance {
            Guidance::Classifier(guidance) if !self.guidance.is_valid() => Err(ConfigError::Guidance(guidance.scale)),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoSteps => write!(f, "0 steps"),
            Self::TooManySteps { steps, train_steps } => {
                write!(f, "{steps} steps, but the model has only {train_steps} timesteps")
            }
            Self::TrainSteps(n) => {
                write!(f, "{n} training timesteps; from 1 to {} can be used", Config::MAX_TRAIN_STEPS)
            }
            Self::Length { needed, given } => write!(f, "a table of {needed} values doesn't fit a slice of {given}"),
            Self::Beta { t } => write!(f, "beta of timestep {t} is not between 0 and 1"),
            Self::StepsOffset { t, train_steps } => {
                write!(f, "steps_offset leads to timestep {t}, but the model has only {train_steps}")
            }
            Self::NoSignal { t } => {
                write!(f, "no signal is left at timestep {t} (zero terminal SNR): noise can't be predicted there")
            }
            Self::NoNoise { t } => write!(f, "there is no noise at timestep {t}: its alpha-bar is 1"),
            Self::Clip => write!(f, "the clipping range or the thresholding ratio or maximum can't be used"),
            Self::Level { step } => write!(f, "level {step} of the run can't be used; levels must fall"),
            Self::Prediction => write!(f, "this sampler is not for networks of this prediction type"),
            Self::Table => write!(f, "this sigma table needs timesteps, which the network doesn't have"),
            Self::Sigmas => write!(f, "a number of the sigma table can't be used"),
            Self::SigmaData(sigma) => write!(f, "the data's standard deviation {sigma} is not above 0"),
            Self::Shift(shift) => write!(f, "shift {shift} is not above 0"),
            Self::TimestepScaling(factor) => write!(f, "timestep scaling {factor} is not above 0"),
            Self::Eta(eta) => write!(f, "eta {eta} is not between 0 and 1"),
            Self::Churn => write!(f, "a setting of the churn is negative or not finite"),
            Self::Guidance(scale) => write!(f, "guidance of scale {scale} can't be used as it is given"),
        }
    }
}

impl core::error::Error for ConfigError {}
