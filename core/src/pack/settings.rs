//! The settings of a run in a pack: what the network's scheduler says, and its table of alpha-bar.

use super::{Pack, PackError, long, word};
use crate::config::{Config, Parity, Variance};
use crate::guidance::Guidance;
use crate::predict::{Clip, PredictionType};
use crate::sampler::Sampler;
use crate::schedule::{AlignYourSteps, BetaSchedule, End, Interpolation, Shift, SigmaTable, Sigmas, Spacing};

/// Bytes of the section: the sampler's name, then the numbers of [`Config`].
pub(super) const SETTINGS: usize = 256;
/// Bytes of the name; it ends in zeros.
const NAME: usize = 32;

/// What a run of the network is made of, unless a program wants otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings<'p> {
    /// The settings, without guidance.
    pub config: Config,
    /// Name of the sampler.
    pub sampler: &'p str,
    /// Alpha-bar of each timestep, as [`crate::schedule::Schedule::for_sampler`] leaves it for that sampler; lend it to
    /// [`crate::schedule::Schedule::with_alpha_bar`].
    pub alpha_bar: &'p [f32],
}

impl<'p> Pack<'p> {
    /// The settings of a run, if they were packed.
    ///
    /// # Errors
    /// [`PackError::Settings`] for numbers that this crate doesn't write.
    pub fn settings(&self) -> Result<Option<Settings<'p>>, PackError> {
        let start = word(self.bytes, super::SETTINGS_AT) as usize;
        if start == 0 {
            return Ok(None);
        }
        let section = self.bytes.get(start..).and_then(|bytes| bytes.split_at_checked(SETTINGS));
        let (section, rest) = section.ok_or(PackError::Settings)?;
        let (name, numbers) = section.split_at(NAME);
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let sampler = core::str::from_utf8(name).map_err(|_| PackError::Settings)?;
        let config = Reader { bytes: numbers, at: 0 }.config().ok_or(PackError::Settings)?;
        let bytes = config.train_steps.checked_mul(4).and_then(|len| rest.get(..len));
        let alpha_bar = bytes.and_then(|bytes| bytemuck::try_cast_slice(bytes).ok()).ok_or(PackError::Settings)?;
        let settings = Settings { config, sampler, alpha_bar };
        // What would not be written like this was not written by this crate.
        let same = settings.encode().is_some_and(|bytes| bytes == *section);
        if same { Ok(Some(settings)) } else { Err(PackError::Settings) }
    }
}

impl<'p> Settings<'p> {
    /// The settings of a run of `sampler`, whose schedule has this table of alpha-bar.
    pub fn new(config: &Config, sampler: &'p Sampler, alpha_bar: &'p [f32]) -> Self {
        Self { config: Config { guidance: Guidance::None, ..*config }, sampler: sampler.name, alpha_bar }
    }

    /// The section's bytes; `None` for a name or number that has no room.
    pub(super) fn encode(&self) -> Option<[u8; SETTINGS]> {
        let mut bytes = [0; SETTINGS];
        let (name, numbers) = bytes.split_at_mut(NAME);
        name.get_mut(..self.sampler.len()).filter(|name| name.len() < NAME)?.copy_from_slice(self.sampler.as_bytes());
        let mut writer = Writer { bytes: numbers, at: 0 };
        writer.config(&self.config)?;
        Some(bytes)
    }
}

struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn word(&mut self, value: u32) -> Option<()> {
        self.bytes.get_mut(self.at..self.at + 4)?.copy_from_slice(&value.to_le_bytes());
        self.at += 4;
        Some(())
    }

    fn long(&mut self, value: u64) -> Option<()> {
        self.word(value as u32)?;
        self.word((value >> 32) as u32)
    }

    fn double(&mut self, value: f64) -> Option<()> {
        self.long(value.to_bits())
    }

    fn option(&mut self, value: Option<f64>) -> Option<()> {
        self.word(u32::from(value.is_some()))?;
        self.double(value.unwrap_or_default())
    }

    fn config(&mut self, config: &Config) -> Option<()> {
        // Without `..`, so that no setting is forgotten.
        let Config {
            betas,
            train_steps,
            beta_start,
            beta_end,
            zero_terminal_snr,
            prediction,
            clip,
            spacing,
            steps_offset,
            steps,
            variance,
            eta,
            set_alpha_to_one,
            parity,
            guidance: _,
            sigmas,
            timestep_scaling,
            lower_order_final,
            euler_at_final,
            s_churn,
            s_tmin,
            s_tmax,
            s_noise,
        } = *config;
        self.word(number(&BETAS, betas)?)?;
        self.word(u32::try_from(train_steps).ok()?)?;
        self.double(beta_start)?;
        self.double(beta_end)?;
        self.word(u32::from(zero_terminal_snr))?;
        let (kind, data) = match prediction {
            PredictionType::Epsilon => (0, 0.0),
            PredictionType::Sample => (1, 0.0),
            PredictionType::Velocity => (2, 0.0),
            PredictionType::Flow => (3, 0.0),
            PredictionType::Edm { sigma_data } => (4, sigma_data),
        };
        self.word(kind)?;
        self.word(data.to_bits())?;
        let (kind, a, b) = match clip {
            Clip::None => (0, 0.0, 0.0),
            Clip::Range(range) => (1, range, 0.0),
            Clip::Dynamic { ratio, max } => (2, ratio, max),
        };
        self.word(kind)?;
        self.word(a.to_bits())?;
        self.word(b.to_bits())?;
        let (kind, original) = match spacing {
            Spacing::Leading => (0, 0),
            Spacing::Trailing => (1, 0),
            Spacing::Linspace => (2, 0),
            Spacing::Consistency { original } => (3, original),
            Spacing::Given => (4, 0),
        };
        self.word(kind)?;
        self.word(original)?;
        self.word(steps_offset)?;
        self.word(u32::try_from(steps).ok()?)?;
        self.word(number(&VARIANCES, variance)?)?;
        self.word(eta.to_bits())?;
        self.word(u32::from(set_alpha_to_one))?;
        self.word(u32::from(parity == Parity::Table))?;
        self.sigmas(&sigmas)?;
        self.word(timestep_scaling.to_bits())?;
        self.word(u32::from(lower_order_final))?;
        self.word(u32::from(euler_at_final))?;
        [s_churn, s_tmin, s_tmax, s_noise].into_iter().try_for_each(|value| self.word(value.to_bits()))
    }

    fn sigmas(&mut self, sigmas: &Sigmas) -> Option<()> {
        let Sigmas { table, interpolation, end, min, max, shift, shift_terminal } = *sigmas;
        let (kind, a, b, c) = match table {
            SigmaTable::Timesteps => (0, 0.0, 0.0, 0.0),
            SigmaTable::Karras { rho } => (1, rho, 0.0, 0.0),
            SigmaTable::Exponential => (2, 0.0, 0.0, 0.0),
            SigmaTable::Polyexponential { rho } => (3, rho, 0.0, 0.0),
            SigmaTable::Beta { alpha, beta } => (4, alpha, beta, 0.0),
            SigmaTable::LuLambda => (5, 0.0, 0.0, 0.0),
            SigmaTable::Vp { beta_d, beta_min, eps } => (6, beta_d, beta_min, eps),
            SigmaTable::AlignYourSteps(AlignYourSteps::Sd15) => (7, 0.0, 0.0, 0.0),
            SigmaTable::AlignYourSteps(AlignYourSteps::Sdxl) => (8, 0.0, 0.0, 0.0),
            SigmaTable::AlignYourSteps(AlignYourSteps::Svd) => (9, 0.0, 0.0, 0.0),
            SigmaTable::Uniform => (10, 0.0, 0.0, 0.0),
            SigmaTable::Simple => (11, 0.0, 0.0, 0.0),
            SigmaTable::KlOptimal => (12, 0.0, 0.0, 0.0),
            SigmaTable::Given => (13, 0.0, 0.0, 0.0),
            SigmaTable::Distilled { levels, rho } => (14, f64::from(levels), rho, 0.0),
        };
        self.word(kind)?;
        [a, b, c].into_iter().try_for_each(|value| self.double(value))?;
        self.word(u32::from(interpolation == Interpolation::Log))?;
        self.word(u32::from(end == End::Min))?;
        self.option(min)?;
        self.option(max)?;
        let (kind, value) = match shift {
            Shift::Static(m) => (0, m),
            Shift::Exponential(mu) => (1, mu),
            Shift::Linear(m) => (2, m),
        };
        self.word(kind)?;
        self.double(value)?;
        self.option(shift_terminal)
    }
}

const BETAS: [BetaSchedule; 7] = [
    BetaSchedule::Linear,
    BetaSchedule::ScaledLinear,
    BetaSchedule::SquaredCosCapV2,
    BetaSchedule::Sigmoid,
    BetaSchedule::Laplace,
    BetaSchedule::Exponential,
    BetaSchedule::Trained,
];

const VARIANCES: [Variance; 6] = [
    Variance::FixedSmall,
    Variance::FixedSmallLog,
    Variance::FixedLarge,
    Variance::FixedLargeLog,
    Variance::LearnedRange,
    Variance::Learned,
];

fn number<T: PartialEq>(table: &[T], value: T) -> Option<u32> {
    table.iter().position(|v| *v == value).map(|i| i as u32)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn word(&mut self) -> u32 {
        self.at += 4;
        word(self.bytes, self.at - 4)
    }

    fn single(&mut self) -> f32 {
        f32::from_bits(self.word())
    }

    fn double(&mut self) -> f64 {
        self.at += 8;
        f64::from_bits(long(self.bytes, self.at - 8))
    }

    fn flag(&mut self) -> bool {
        self.word() == 1
    }

    fn option(&mut self) -> Option<f64> {
        let there = self.flag();
        let value = self.double();
        there.then_some(value)
    }

    fn config(&mut self) -> Option<Config> {
        // Fields are read in the order in which they stand.
        Some(Config {
            betas: *BETAS.get(self.word() as usize)?,
            train_steps: usize::try_from(self.word()).ok()?,
            beta_start: self.double(),
            beta_end: self.double(),
            zero_terminal_snr: self.flag(),
            prediction: match (self.word(), self.single()) {
                (0, _) => PredictionType::Epsilon,
                (1, _) => PredictionType::Sample,
                (2, _) => PredictionType::Velocity,
                (3, _) => PredictionType::Flow,
                (4, sigma_data) => PredictionType::Edm { sigma_data },
                _ => return None,
            },
            clip: match (self.word(), self.single(), self.single()) {
                (0, ..) => Clip::None,
                (1, range, _) => Clip::Range(range),
                (2, ratio, max) => Clip::Dynamic { ratio, max },
                _ => return None,
            },
            spacing: match (self.word(), self.word()) {
                (0, _) => Spacing::Leading,
                (1, _) => Spacing::Trailing,
                (2, _) => Spacing::Linspace,
                (3, original) => Spacing::Consistency { original },
                (4, _) => Spacing::Given,
                _ => return None,
            },
            steps_offset: self.word(),
            steps: usize::try_from(self.word()).ok()?,
            variance: *VARIANCES.get(self.word() as usize)?,
            eta: self.single(),
            set_alpha_to_one: self.flag(),
            parity: if self.flag() { Parity::Table } else { Parity::Diffusers },
            guidance: Guidance::None,
            sigmas: self.sigmas()?,
            timestep_scaling: self.single(),
            lower_order_final: self.flag(),
            euler_at_final: self.flag(),
            s_churn: self.single(),
            s_tmin: self.single(),
            s_tmax: self.single(),
            s_noise: self.single(),
        })
    }

    fn sigmas(&mut self) -> Option<Sigmas> {
        Some(Sigmas {
            table: match (self.word(), self.double(), self.double(), self.double()) {
                (0, ..) => SigmaTable::Timesteps,
                (1, rho, ..) => SigmaTable::Karras { rho },
                (2, ..) => SigmaTable::Exponential,
                (3, rho, ..) => SigmaTable::Polyexponential { rho },
                (4, alpha, beta, _) => SigmaTable::Beta { alpha, beta },
                (5, ..) => SigmaTable::LuLambda,
                (6, beta_d, beta_min, eps) => SigmaTable::Vp { beta_d, beta_min, eps },
                (7, ..) => SigmaTable::AlignYourSteps(AlignYourSteps::Sd15),
                (8, ..) => SigmaTable::AlignYourSteps(AlignYourSteps::Sdxl),
                (9, ..) => SigmaTable::AlignYourSteps(AlignYourSteps::Svd),
                (10, ..) => SigmaTable::Uniform,
                (11, ..) => SigmaTable::Simple,
                (12, ..) => SigmaTable::KlOptimal,
                (13, ..) => SigmaTable::Given,
                // A number of levels fits; what doesn't is refused by the comparison with what would be written.
                (14, levels, rho, _) => SigmaTable::Distilled { levels: levels as u32, rho },
                _ => return None,
            },
            interpolation: if self.flag() { Interpolation::Log } else { Interpolation::Linear },
            end: if self.flag() { End::Min } else { End::Zero },
            min: self.option(),
            max: self.option(),
            shift: match (self.word(), self.double()) {
                (0, m) => Shift::Static(m),
                (1, mu) => Shift::Exponential(mu),
                (2, m) => Shift::Linear(m),
                _ => return None,
            },
            shift_terminal: self.option(),
        })
    }
}
