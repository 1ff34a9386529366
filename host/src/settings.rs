//! The settings of a chain: a scheduler's config with the user's wishes on top.

use unfog_core::config::{Config, ConfigError, Parity};
use unfog_core::guidance::Guidance;
use unfog_core::sampler::{self, Sampler};
use unfog_core::schedule::{Level, Schedule};

use crate::backend::by_name;
use crate::error::{Error, Result};
use crate::model::{SCHEDULES, Scheduler};

/// Names of the parities on the command line.
const PARITIES: [(&str, Parity); 2] = [("diffusers", Parity::Diffusers), ("table", Parity::Table)];

/// The parity that `text` names.
///
/// # Errors
/// A usage error for an unknown name.
pub fn parity(text: &str) -> Result<Parity> {
    by_name(&PARITIES, "parity", text)
}

/// Steps of a run of any sampler but ddpm, unless the model has fewer timesteps.
const DEFAULT_STEPS: usize = 50;

/// What a user may ask for; what is absent is decided by the scheduler's config.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wishes {
    /// Sampler.
    pub sampler: Option<String>,
    /// Beta schedule.
    pub schedule: Option<String>,
    /// Steps; 50, or for ddpm all timesteps of the model.
    pub steps: Option<usize>,
    /// DDIM's share of fresh noise.
    pub eta: Option<f32>,
    /// Whose rule gives the timestep that a step leads to: diffusers' where there is a scheduler's config, otherwise the
    /// table's.
    pub parity: Option<Parity>,
    /// Guidance scale; 1 is off.
    pub guidance: f32,
}

/// The settings of a chain.
#[derive(Clone, Debug)]
pub struct Settings {
    /// As core takes them.
    pub config: Config,
    /// The sampler.
    pub sampler: &'static Sampler,
    /// The betas where the schedule is a list of them, otherwise room for as many.
    betas: Vec<f32>,
}

impl Settings {
    /// Puts `wishes` on top of a scheduler's config, or of diffusers' defaults where `scheduler` is absent, and checks the
    /// result.
    ///
    /// # Errors
    /// A usage error for an unknown name and for a number out of range.
    pub fn new(scheduler: Option<Scheduler>, wishes: &Wishes) -> Result<Self> {
        let parity = if scheduler.is_some() { Parity::Diffusers } else { Parity::Table };
        let Scheduler { mut config, mut sampler, mut trained_betas } =
            scheduler.unwrap_or(Scheduler { config: Config::default(), sampler: &sampler::DDIM, trained_betas: None });
        if let Some(name) = &wishes.schedule {
            config.betas = by_name(&SCHEDULES, "schedule", name)?;
            trained_betas = None;
        }
        if let Some(name) = &wishes.sampler {
            let names: Vec<_> = sampler::REGISTRY.iter().map(|&sampler| (sampler.name, sampler)).collect();
            sampler = by_name(&names, "sampler", name)?;
        }
        let is_ddim = sampler.name == sampler::DDIM.name;
        if let Some(eta) = wishes.eta {
            if !is_ddim {
                return Err(Error::usage(format!("--eta means nothing to the sampler {}", sampler.name)));
            }
            config.eta = eta;
        }
        let all = config.train_steps;
        let ancestral = sampler.name == sampler::DDPM.name;
        config.steps = wishes.steps.unwrap_or(if ancestral { all } else { all.min(DEFAULT_STEPS) });
        config.parity = wishes.parity.unwrap_or(parity);
        config.guidance = Guidance::from_scale(wishes.guidance);
        let betas = trained_betas.unwrap_or_default();
        let settings = Self { config, sampler, betas };
        settings.tables()?;
        Ok(settings)
    }

    /// The name of the beta schedule.
    pub fn schedule_name(&self) -> &'static str {
        let found = SCHEDULES.iter().find(|(_, schedule)| *schedule == self.config.betas);
        found.map_or("trained", |(name, _)| name)
    }

    /// The name of the parity.
    pub fn parity_name(&self) -> &'static str {
        PARITIES.iter().find(|(_, parity)| *parity == self.config.parity).map_or("", |(name, _)| name)
    }

    /// The tables of a run.
    ///
    /// # Errors
    /// A usage error for settings that can't be run.
    pub fn tables(&self) -> Result<Tables> {
        let refused = |e: ConfigError| Error::usage(e.to_string()).hint(hint(e));
        self.config.validate().map_err(refused)?;
        let mut betas = self.betas.clone();
        betas.resize(self.config.train_steps, 0.0);
        let timesteps = vec![0; self.config.steps];
        let levels = vec![Level::default(); self.sampler.levels(self.config.steps)];
        let tables = Tables { config: self.config, sampler: self.sampler, betas, timesteps, levels };
        tables.clone().fill().map_err(refused)?;
        Ok(tables)
    }
}

fn hint(e: ConfigError) -> String {
    match e {
        ConfigError::NoSteps => "give --steps 1 or more".into(),
        ConfigError::TooManySteps { train_steps, .. } => format!("give --steps {train_steps} or fewer"),
        ConfigError::Eta(_) => "give --eta from 0 to 1".into(),
        ConfigError::StepsOffset { .. } => "give fewer --steps".into(),
        _ => "the scheduler_config.json or the options can't be used as they are".into(),
    }
}

/// Memory for a run's tables. [`Tables::schedule`] fills it, once.
#[derive(Clone, Debug)]
pub struct Tables {
    config: Config,
    sampler: &'static Sampler,
    betas: Vec<f32>,
    timesteps: Vec<u32>,
    levels: Vec<Level>,
}

impl Tables {
    /// The schedule in this memory.
    ///
    /// # Errors
    /// None that [`Settings::tables`] has not found before.
    pub fn schedule(&mut self) -> Result<Schedule<'_>> {
        self.fill().map_err(|e| Error::usage(e.to_string()))
    }

    fn fill(&mut self) -> std::result::Result<Schedule<'_>, ConfigError> {
        let Self { config, sampler, betas, timesteps, levels } = self;
        Schedule::for_sampler(config, sampler, betas, timesteps, levels)
    }
}
