//! diffusers' scheduler_config.json as a run's settings.

use std::path::Path;

use unfog_core::config::{Config, Variance};
use unfog_core::predict::{Clip, PredictionType};
use unfog_core::sampler::{self, Sampler};
use unfog_core::schedule::{BetaSchedule, Spacing};

use super::fields::Fields;
use crate::error::{Error, Result};
use crate::files;

/// Names of the schedules on the command line and in configs.
pub(crate) const SCHEDULES: [(&str, BetaSchedule); 4] = [
    ("linear", BetaSchedule::Linear),
    ("scaled_linear", BetaSchedule::ScaledLinear),
    ("squaredcos_cap_v2", BetaSchedule::SquaredCosCapV2),
    ("cosine", BetaSchedule::SquaredCosCapV2),
];

/// What a scheduler's config says: the settings of a run (its steps are not among them) and the sampler.
#[derive(Clone, Debug)]
pub struct Scheduler {
    /// Settings; `steps` is diffusers' default and means nothing.
    pub config: Config,
    /// The sampler that the scheduler's class stands for.
    pub sampler: &'static Sampler,
    /// The betas, where the config lists them (`trained_betas`).
    pub trained_betas: Option<Vec<f32>>,
}

impl Scheduler {
    /// Reads the scheduler_config.json at `path`, with the defaults of its class.
    ///
    /// # Errors
    /// A missing or damaged file; an unknown class or option.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(&Fields::parse(&path.display().to_string(), &files::read(path)?)?)
    }

    /// Reads a scheduler_config.json, with the defaults of its class.
    ///
    /// # Errors
    /// An unknown class or option, a value of the wrong kind.
    pub(crate) fn read(fields: &Fields) -> Result<Self> {
        let sampler = match fields.text("_class_name", "")? {
            "DDIMScheduler" => &sampler::DDIM,
            "DDPMScheduler" => &sampler::DDPM,
            "" => return Err(fields.refuse("_class_name", "\"DDIMScheduler\" or \"DDPMScheduler\"")),
            class => {
                return Err(Error::failure(format!("the scheduler is a {class}, which unfog does not know"))
                    .hint("known: DDIMScheduler, DDPMScheduler"));
            }
        };
        let defaults = Config::default();
        let trained_betas = fields.optional_f64s("trained_betas")?;
        let trained_betas: Option<Vec<f32>> = trained_betas.map(|betas| betas.iter().map(|&b| b as f32).collect());
        let config = Config {
            betas: match trained_betas {
                Some(_) => BetaSchedule::Trained,
                None => beta_schedule(fields)?,
            },
            train_steps: match &trained_betas {
                Some(betas) => betas.len(),
                None => fields.u32("num_train_timesteps", 1000)? as usize,
            },
            beta_start: fields.f64("beta_start", defaults.beta_start)?,
            beta_end: fields.f64("beta_end", defaults.beta_end)?,
            zero_terminal_snr: fields.bool("rescale_betas_zero_snr", false)?,
            prediction: fields.choice(
                "prediction_type",
                PredictionType::Epsilon,
                &[
                    (Some("epsilon"), PredictionType::Epsilon),
                    (Some("sample"), PredictionType::Sample),
                    (Some("v_prediction"), PredictionType::Velocity),
                ],
            )?,
            clip: clip(fields)?,
            spacing: fields.choice(
                "timestep_spacing",
                Spacing::Leading,
                &[
                    (Some("leading"), Spacing::Leading),
                    (Some("trailing"), Spacing::Trailing),
                    (Some("linspace"), Spacing::Linspace),
                ],
            )?,
            steps_offset: fields.u32("steps_offset", 0)?,
            variance: fields.choice(
                "variance_type",
                Variance::FixedSmall,
                &[
                    (Some("fixed_small"), Variance::FixedSmall),
                    (Some("fixed_small_log"), Variance::FixedSmallLog),
                    (Some("fixed_large"), Variance::FixedLarge),
                    (Some("fixed_large_log"), Variance::FixedLargeLog),
                    (Some("learned_range"), Variance::LearnedRange),
                ],
            )?,
            set_alpha_to_one: fields.bool("set_alpha_to_one", true)?,
            ..defaults
        };
        Ok(Self { config, sampler, trained_betas })
    }
}

fn beta_schedule(fields: &Fields) -> Result<BetaSchedule> {
    let name = fields.text("beta_schedule", "linear")?;
    let found = SCHEDULES[..3].iter().find(|(known, _)| *known == name);
    found
        .map(|(_, schedule)| *schedule)
        .ok_or_else(|| fields.refuse("beta_schedule", "\"linear\", \"scaled_linear\" or \"squaredcos_cap_v2\""))
}

fn clip(fields: &Fields) -> Result<Clip> {
    if fields.bool("thresholding", false)? {
        let ratio = fields.f64("dynamic_thresholding_ratio", 0.995)? as f32;
        return Ok(Clip::Dynamic { ratio, max: fields.f64("sample_max_value", 1.0)? as f32 });
    }
    match fields.bool("clip_sample", true)? {
        true => Ok(Clip::Range(fields.f64("clip_sample_range", 1.0)? as f32)),
        false => Ok(Clip::None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Scheduler> {
        Scheduler::read(&Fields::parse("scheduler_config.json", text.as_bytes())?)
    }

    #[test]
    fn a_class_alone_has_diffusers_defaults() {
        let ddim = read(r#"{"_class_name": "DDIMScheduler"}"#).unwrap();
        assert_eq!(ddim.sampler.name, "ddim");
        assert_eq!(ddim.config, Config::default());
        let ddpm =
            read(r#"{"_class_name": "DDPMScheduler", "variance_type": "fixed_large", "clip_sample": false}"#).unwrap();
        assert_eq!(
            (ddpm.sampler.name, ddpm.config.variance, ddpm.config.clip),
            ("ddpm", Variance::FixedLarge, Clip::None)
        );
    }

    #[test]
    fn unknown_names_are_refused_by_name() {
        for (text, name) in [
            (r#"{"_class_name": "PNDMScheduler"}"#, "PNDMScheduler"),
            (r#"{"_class_name": "DDPMScheduler", "beta_schedule": "sigmoid"}"#, "sigmoid"),
            (r#"{"_class_name": "DDPMScheduler", "variance_type": "learned"}"#, "learned"),
            (r#"{"_class_name": "DDPMScheduler", "prediction_type": "flow"}"#, "flow"),
        ] {
            assert!(read(text).unwrap_err().to_string().contains(name), "{text}");
        }
    }

    #[test]
    fn trained_betas_count() {
        let scheduler = read(r#"{"_class_name": "DDPMScheduler", "trained_betas": [0.1, 0.2]}"#).unwrap();
        assert_eq!((scheduler.config.train_steps, scheduler.config.betas), (2, BetaSchedule::Trained));
        assert_eq!(scheduler.trained_betas.unwrap(), [0.1, 0.2]);
    }
}
