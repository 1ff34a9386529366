//! What a run's schedule does, step by step: its noise levels, and what each step makes of an image, its prediction and noise.

use serde::Serialize;
use unfog_core::config::{Parity, Variance};
use unfog_core::forward::Posterior;
use unfog_core::predict::PredictionType;
use unfog_core::sampler::{self, renewal, transfer};
use unfog_core::schedule::{Level, Schedule};

use crate::settings::Settings;

/// A time of the network: a timestep, or between two.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Time {
    /// A whole one.
    Whole(i64),
    /// Any other.
    Real(f32),
}

impl From<f32> for Time {
    fn from(time: f32) -> Self {
        if time.fract() == 0.0 { Self::Whole(time as i64) } else { Self::Real(time) }
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(t) => f.pad(&t.to_string()),
            Self::Real(t) => f.pad(&format!("{t:.3}")),
        }
    }
}

/// What a step makes: `x' = x * .x + x0 * .x0 + eps * .eps + z * .noise`, z being fresh noise. Factors are absent where the
/// sampler does not use the term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Coefficients {
    /// Factor of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x: Option<f64>,
    /// Factor of the predicted image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x0: Option<f64>,
    /// Factor of the predicted noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// Factor of fresh noise. (A learned variance has none.)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<f64>,
}

impl Coefficients {
    /// The factors of the image, the predicted image, the predicted noise and fresh noise.
    pub fn all(&self) -> [Option<f64>; 4] {
        [self.x, self.x0, self.eps, self.noise]
    }
}

/// A step of a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Row {
    /// Number of the step, from 0.
    pub step: usize,
    /// What the network is told.
    pub timestep: Time,
    /// Where the step leads; none at the end of the chain.
    pub next_timestep: Option<Time>,
    /// Share of the image in the variance where the step starts.
    pub alpha_bar: f64,
    /// Standard deviation of the noise, relative to the signal. (In JSON, no number where no signal is left.)
    pub sigma: f64,
    /// Signal-to-noise ratio.
    pub snr: f64,
    /// Its logarithm.
    pub log_snr: f64,
    /// Factor of the image in x.
    pub signal: f64,
    /// Standard deviation of the noise in x.
    pub noise: f64,
    /// What the step makes, for samplers that look at one prediction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coefficients: Option<Coefficients>,
    /// For the others over noise levels: the step of order 1, which they correct.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_order: Option<Coefficients>,
}

/// The steps of a run.
pub fn rows(settings: &Settings, schedule: &Schedule<'_>) -> Vec<Row> {
    (0..schedule.timesteps().len()).map(|step| row(settings, schedule, step)).collect()
}

/// The standard deviation of the noise over the signal at the end of a run.
pub fn end_sigma(schedule: &Schedule<'_>) -> f64 {
    schedule.levels().last().map_or(0.0, |end| end.sigma())
}

fn row(settings: &Settings, schedule: &Schedule<'_>, step: usize) -> Row {
    let (from, to) = levels(settings, schedule, step);
    let (signal, noise) = (from.signal, from.noise);
    let (image, rest) = (signal * signal, noise * noise);
    let coefficients = coefficients(settings, schedule, step);
    let over_levels = !schedule.levels().is_empty();
    let first_order = (coefficients.is_none() && over_levels).then(|| {
        let (x, x0) = transfer(from, to);
        Coefficients { x: Some(x), x0: Some(x0), ..Coefficients::default() }
    });
    let next_timestep = match over_levels {
        true => (step + 1 < schedule.timesteps().len()).then(|| to.time.into()),
        false if is_backwards(settings) => Some(to.time.into()),
        false => next(settings, schedule, step).map(|t| Time::Whole(t.into())),
    };
    Row {
        step,
        timestep: from.time.into(),
        next_timestep,
        alpha_bar: image / (image + rest),
        sigma: noise / signal,
        snr: image / rest,
        log_snr: (image / rest).ln(),
        signal,
        noise,
        coefficients,
        first_order,
    }
}

/// The place in the table of timesteps of a step, in which DDIM backwards starts from the other end.
fn place(settings: &Settings, schedule: &Schedule<'_>, step: usize) -> usize {
    if is_backwards(settings) { schedule.timesteps().len() - 1 - step } else { step }
}

fn is_backwards(settings: &Settings) -> bool {
    settings.sampler.name == sampler::DDIM_INVERSE.name
}

/// The timestep that a step of a sampler over timesteps leads to. For DDIM backwards, the one that it comes from.
fn next(settings: &Settings, schedule: &Schedule<'_>, step: usize) -> Option<u32> {
    let own_rule = [sampler::DDIM, sampler::DDIM_INVERSE, sampler::PLMS].map(|sampler| sampler.name);
    let parity = match own_rule.contains(&settings.sampler.name) {
        true => settings.config.parity,
        false => Parity::Table,
    };
    schedule.next_timestep(place(settings, schedule, step), parity)
}

/// The levels that a step starts from and leads to.
fn levels(settings: &Settings, schedule: &Schedule<'_>, step: usize) -> (Level, Level) {
    if let [from, to, ..] = schedule.levels().get(step..).unwrap_or_default() {
        return (*from, *to);
    }
    let level = |t: u32| {
        let a = f64::from(schedule.alpha_bar()[t as usize]);
        Level { time: t as f32, signal: a.sqrt(), noise: (1.0 - a).sqrt() }
    };
    let here = level(schedule.timesteps()[place(settings, schedule, step)]);
    let there = next(settings, schedule, step).map_or(end(settings, schedule), level);
    match is_backwards(settings) {
        // The network is told of the timestep that the step leads to.
        true => (Level { time: here.time, ..there }, here),
        false => (here, there),
    }
}

/// Where the last step of a sampler over timesteps leads.
fn end(settings: &Settings, schedule: &Schedule<'_>) -> Level {
    let to_one = [sampler::DDPM, sampler::LCM].iter().any(|sampler| sampler.name == settings.sampler.name);
    // TCD ends at timestep 0.
    let to_zero = settings.sampler.name == sampler::TCD.name;
    if (settings.config.set_alpha_to_one || to_one) && !to_zero {
        return Level::IMAGE;
    }
    let a = f64::from(schedule.alpha_bar()[0]);
    Level { time: 0.0, signal: a.sqrt(), noise: (1.0 - a).sqrt() }
}

fn coefficients(settings: &Settings, schedule: &Schedule<'_>, step: usize) -> Option<Coefficients> {
    let (config, name) = (&settings.config, settings.sampler.name);
    let (from, to) = levels(settings, schedule, step);
    let [x, x0, eps, noise] = if name == sampler::DDPM.name {
        let a = |level: Level| (level.signal * level.signal) as f32;
        let posterior = Posterior::new(a(from), a(to));
        let drawn = match config.variance {
            Variance::FixedSmall | Variance::FixedSmallLog => Some(f64::from(posterior.variance.max(1e-20)).sqrt()),
            Variance::FixedLarge | Variance::FixedLargeLog => Some(f64::from(posterior.beta).sqrt()),
            _ => None,
        };
        let quiet = match config.parity {
            Parity::Diffusers => from.time == 0.0,
            Parity::Table => step + 1 == schedule.timesteps().len(),
        };
        [Some(posterior.xt.into()), Some(posterior.x0.into()), None, if quiet { Some(0.0) } else { drawn }]
    } else if name == sampler::DDIM.name {
        let (a, a_to) = (from.signal.powi(2), to.signal.powi(2));
        let drawn = f64::from(config.eta) * ((1.0 - a_to) / (1.0 - a) * (1.0 - a / a_to)).sqrt();
        let direction = (to.noise * to.noise - drawn * drawn).max(0.0).sqrt();
        [None, Some(to.signal), Some(direction), (config.eta > 0.0).then_some(drawn)]
    } else if name == sampler::DDIM_INVERSE.name || name == sampler::EULER.name {
        [None, Some(to.signal), Some(to.noise), None]
    } else if name == sampler::LCM.name {
        let u = f64::from(from.time) * f64::from(config.timestep_scaling);
        // The boundary condition of Luo et al. 2023, with data of deviation 1/2.
        let sum = u * u + 0.25;
        [Some(to.signal * 0.25 / sum), Some(to.signal * u / sum.sqrt()), None, Some(to.noise)]
    } else if name == sampler::TCD.name {
        // Not negative, so the cast rounds down.
        let target = ((1.0 - config.eta) * to.time) as u32;
        let a_target = f64::from(schedule.alpha_bar()[target as usize]);
        let last = step + 1 == schedule.timesteps().len();
        let keep = if last || config.eta == 0.0 { 1.0 } else { (to.signal * to.signal / a_target).min(1.0) };
        let [x0, eps] = [a_target, 1.0 - a_target].map(|share| (keep * share).sqrt());
        [None, Some(x0), Some(eps), Some((1.0 - keep).sqrt())]
    } else if name == sampler::EULER_ANCESTRAL.name {
        let (stays, drawn) = renewal(from, to, 1.0);
        [None, Some(to.signal), Some(to.noise * stays), Some(to.noise * drawn)]
    } else {
        return None;
    };
    Some(Coefficients { x, x0, eps, noise })
}

/// The shares of image and noise at a level, whose squares add up to 1; for flow networks the factors themselves.
pub(crate) fn shares(prediction: PredictionType, level: Level) -> [f64; 2] {
    match prediction {
        PredictionType::Edm { sigma_data } => [level.signal * f64::from(sigma_data), level.noise],
        _ => [level.signal, level.noise],
    }
}
