//! The settings of a chain: a scheduler's config with the user's wishes on top.

use unfog_core::config::{Config, ConfigError, Parity};
use unfog_core::guidance::Guidance;
use unfog_core::predict::PredictionType;
use unfog_core::sampler::{self, Sampler};
use unfog_core::schedule::{AlignYourSteps, Grid, Level, Schedule, SigmaTable, Spacing, fill_timesteps};

use crate::backend::by_name;
use crate::error::{Error, Result};
use crate::model::{KARRAS_RHO, Own, SCHEDULES, Scheduler, TCD_ETA};

/// Names of the parities on the command line.
const PARITIES: [(&str, Parity); 2] = [("diffusers", Parity::Diffusers), ("table", Parity::Table)];

/// The parity that `text` names.
///
/// # Errors
/// A usage error for an unknown name.
pub fn parity(text: &str) -> Result<Parity> {
    by_name(&PARITIES, "parity", text)
}

/// Names on the command line of what networks over alpha-bar predict.
const PREDICTIONS: [(&str, PredictionType); 3] =
    [("epsilon", PredictionType::Epsilon), ("v", PredictionType::Velocity), ("sample", PredictionType::Sample)];

/// What `text` says that a network predicts.
///
/// # Errors
/// A usage error for an unknown name.
pub fn prediction(text: &str) -> Result<PredictionType> {
    by_name(&PREDICTIONS, "prediction", text)
}

/// The name of a prediction on the command line; empty for what has none there.
pub fn prediction_name(prediction: PredictionType) -> &'static str {
    PREDICTIONS.iter().find(|(_, known)| *known == prediction).map_or("", |(name, _)| name)
}

/// Names of the sigma tables on the command line. Of two names for one table the first is printed.
const SIGMAS: [(&str, SigmaTable); 13] = [
    ("timesteps", SigmaTable::Timesteps),
    ("karras", SigmaTable::Karras { rho: KARRAS_RHO }),
    ("exponential", SigmaTable::Exponential),
    ("polyexponential", SigmaTable::Polyexponential { rho: 1.0 }),
    ("beta", SigmaTable::Beta { alpha: 0.6, beta: 0.6 }),
    ("lu-lambda", SigmaTable::LuLambda),
    ("vp", SigmaTable::Vp { beta_d: 19.9, beta_min: 0.1, eps: 1e-3 }),
    ("ays-sd15", SigmaTable::AlignYourSteps(AlignYourSteps::Sd15)),
    ("ays-sdxl", SigmaTable::AlignYourSteps(AlignYourSteps::Sdxl)),
    ("ays-svd", SigmaTable::AlignYourSteps(AlignYourSteps::Svd)),
    ("uniform", SigmaTable::Uniform),
    ("simple", SigmaTable::Simple),
    ("kl-optimal", SigmaTable::KlOptimal),
];

/// The samplers that have a share of fresh noise, and what it is if none is asked for.
const ETAS: [(&str, f32); 4] = [
    (sampler::DDIM.name, 0.0),
    (sampler::TCD.name, TCD_ETA),
    (sampler::SA_SOLVER.name, 1.0),
    (sampler::SA_SOLVER_3.name, 1.0),
];

/// Whether a sampler has a share of fresh noise.
pub fn has_eta(sampler: &Sampler) -> bool {
    ETAS.iter().any(|(name, _)| *name == sampler.name)
}

/// The sampler of this name.
///
/// # Errors
/// A usage error for an unknown name.
fn find(name: &str) -> Result<&'static Sampler> {
    let names: Vec<_> = sampler::REGISTRY.iter().map(|&sampler| (sampler.name, sampler)).collect();
    by_name(&names, "sampler", name)
}

/// The sigma table that `text` names: `karras` and `polyexponential` may be followed by their rho, as in `karras:5`.
fn sigma_table(text: &str) -> Result<SigmaTable> {
    let (name, rho) = match text.split_once(':') {
        Some((name, rho)) => (name, Some(rho)),
        None => (text, None),
    };
    let table = by_name(&SIGMAS, "sigmas", name)?;
    let Some(rho) = rho else { return Ok(table) };
    let number = rho.parse().ok().filter(|rho: &f64| rho.is_finite() && *rho > 0.0);
    match (table, number) {
        (SigmaTable::Karras { .. }, Some(rho)) => Ok(SigmaTable::Karras { rho }),
        (SigmaTable::Polyexponential { .. }, Some(rho)) => Ok(SigmaTable::Polyexponential { rho }),
        (SigmaTable::Karras { .. } | SigmaTable::Polyexponential { .. }, None) => {
            Err(Error::usage(format!("--sigmas {text}: rho is not a number above 0")))
        }
        _ => Err(Error::usage(format!("--sigmas {text}: {name} takes no number"))
            .hint("karras and polyexponential do, as in karras:7")),
    }
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
    /// Table of sigmas, for samplers over noise levels.
    pub sigmas: Option<String>,
    /// Steps; 50, or for ddpm all timesteps of the model.
    pub steps: Option<usize>,
    /// DDIM's, TCD's or SA-Solver's share of fresh noise.
    pub eta: Option<f32>,
    /// Whose rule gives the timestep that a step leads to: diffusers' where there is a scheduler's config, otherwise the
    /// table's.
    pub parity: Option<Parity>,
    /// Tokens that the network makes of a picture, for schedules that depend on them.
    pub tokens: Option<u32>,
    /// Guidance.
    pub guidance: Guidance,
    /// What the network predicts, where its scheduler's config is not to say.
    pub prediction: Option<PredictionType>,
    /// Share of a consistency model's timesteps, the lowest ones, that a run's are chosen from: the strength of diffusers' LCMScheduler.
    /// Other samplers take no notice of it.
    pub strength: Option<f64>,
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
    /// The timesteps, where they are not those of a spacing.
    timesteps: Option<Vec<u32>>,
    /// What the scheduler's class does with the noise levels of the table.
    own: Option<Own>,
}

impl Settings {
    /// Puts `wishes` on top of a scheduler's config, or of diffusers' defaults where `scheduler` is absent, and checks the
    /// result.
    ///
    /// # Errors
    /// A usage error for an unknown name and for a number out of range.
    pub fn new(scheduler: Option<Scheduler>, wishes: &Wishes) -> Result<Self> {
        let parity = if scheduler.is_some() { Parity::Diffusers } else { Parity::Table };
        let parity = wishes.parity.unwrap_or(parity);
        let asked = wishes.sampler.as_deref().map(find).transpose()?;
        let scheduler = match (scheduler, asked) {
            (Some(scheduler), Some(asked)) if parity == Parity::Diffusers => Some(scheduler.for_sampler(asked)?),
            (scheduler, _) => scheduler,
        };
        let Scheduler { mut config, mut sampler, mut trained_betas, mut own, dynamic, .. } =
            scheduler.unwrap_or_else(|| Scheduler::of(Config::default(), &sampler::DDIM, None));
        config.parity = parity;
        config.guidance = wishes.guidance;
        if let Some(asked) = wishes.prediction {
            if !config.prediction.is_over_alpha_bar() {
                return Err(Error::usage("--prediction means nothing to this network: it has no betas"));
            }
            config.prediction = asked;
        }
        if let Some(name) = &wishes.schedule {
            config.betas = by_name(&SCHEDULES, "schedule", name)?;
            trained_betas = None;
            if !config.prediction.is_over_alpha_bar() {
                return Err(Error::usage("--schedule means nothing to this network: it has no betas"));
            }
        }
        if let Some(asked) = asked {
            if asked.name != sampler.name {
                own = own.filter(|own| own.is_of_the_network());
                config.eta = ETAS.iter().find(|(name, _)| *name == asked.name).map_or(0.0, |(_, eta)| *eta);
            }
            sampler = asked;
        }
        if let Some(text) = &wishes.sigmas {
            if sampler.grid == Grid::Chain {
                return Err(Error::usage(format!("--sigmas means nothing to the sampler {}", sampler.name))
                    .hint("it goes from timestep to timestep"));
            }
            config.sigmas.table = sigma_table(text)?;
            own = own.filter(|own| own.is_of_the_network());
        }
        if let Some(eta) = wishes.eta {
            if !ETAS.iter().any(|(name, _)| *name == sampler.name) {
                let names = ETAS.map(|(name, _)| name).join(", ");
                return Err(Error::usage(format!("--eta means nothing to the sampler {}", sampler.name))
                    .hint(format!("it does to {names}")));
            }
            config.eta = eta;
        }
        if let Some(dynamic) = dynamic {
            let tokens = wishes.tokens.ok_or_else(|| {
                Error::usage("this schedule depends on the size of the picture (use_dynamic_shifting)")
                    .hint("give --tokens N: as many as the network makes of a picture")
            })?;
            config.sigmas.shift = dynamic.shift(tokens);
        }
        // Between levels such a network's time is not known.
        let of_the_network = own.is_some_and(Own::is_of_the_network);
        if of_the_network && sampler.evaluations > 1 && sampler.name != sampler::HEUN.name {
            return Err(Error::usage(format!("the sampler {} is not for this network", sampler.name))
                .hint("it is told of the logarithm of sigma"));
        }
        let own = own.filter(|own| own.is_of_the_network() || config.parity == Parity::Diffusers);
        let all = config.train_steps;
        let ancestral = sampler.name == sampler::DDPM.name;
        config.steps = wishes.steps.unwrap_or(if ancestral { all } else { all.min(DEFAULT_STEPS) });
        let betas = trained_betas.unwrap_or_default();
        let timesteps = wishes.strength.map(|strength| lowest(&config, sampler, strength)).transpose()?.flatten();
        if timesteps.is_some() {
            config.spacing = Spacing::Given;
        }
        let settings = Self { config, sampler, betas, timesteps, own };
        settings.tables()?;
        Ok(settings)
    }

    /// Whether [`Wishes::strength`] chose the timesteps: then all of them are made.
    pub fn is_within_strength(&self) -> bool {
        self.timesteps.is_some()
    }

    /// The same with these timesteps, which fall, for a run of as many steps.
    pub(crate) fn at(&self, timesteps: Vec<u32>) -> Self {
        let mut settings = self.clone();
        (settings.config.steps, settings.config.spacing) = (timesteps.len(), Spacing::Given);
        Self { timesteps: Some(timesteps), ..settings }
    }

    /// Whether core's own tables are all that a run needs.
    pub(crate) fn is_of_core(&self) -> bool {
        self.own.is_none()
    }

    /// The name of the beta schedule.
    pub fn schedule_name(&self) -> &'static str {
        let found = SCHEDULES.iter().find(|(_, schedule)| *schedule == self.config.betas);
        found.map_or("trained", |(name, _)| name)
    }

    /// What the network knows of noise: the beta schedule's name, or its kind where it has none.
    pub fn network_name(&self) -> &'static str {
        match self.config.prediction {
            PredictionType::Flow => "flow",
            PredictionType::Edm { .. } => "edm",
            _ => self.schedule_name(),
        }
    }

    /// The table of sigmas, as the command line names it; none for samplers from timestep to timestep.
    pub fn sigmas_name(&self) -> Option<String> {
        let table = self.config.sigmas.table;
        let name = SIGMAS.iter().find(|(_, known)| *known == table).map(|(name, _)| (*name).to_string());
        let named = || match table {
            SigmaTable::Karras { rho } => format!("karras:{rho}"),
            SigmaTable::Polyexponential { rho } => format!("polyexponential:{rho}"),
            _ => "given".into(),
        };
        (self.sampler.grid != Grid::Chain).then(|| name.unwrap_or_else(named))
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
        let timesteps = self.timesteps.clone().unwrap_or_else(|| vec![0; self.config.steps]);
        let levels = vec![Level::default(); self.sampler.levels(self.config.steps)];
        let Self { config, sampler, own, .. } = *self;
        let own = own.filter(|_| sampler.grid != Grid::Chain);
        let tables = Tables { config, sampler, own, betas, timesteps, levels };
        tables.clone().fill().map_err(refused)?;
        Ok(tables)
    }
}

/// The timesteps of a run of LCM among the lowest that its network was distilled for: so many as make up the share `strength` of them.
///
/// # Errors
/// A usage error where there are fewer than steps.
fn lowest(config: &Config, sampler: &Sampler, strength: f64) -> Result<Option<Vec<u32>>> {
    let Spacing::Consistency { original } = config.spacing else { return Ok(None) };
    // What is no table is refused with all others.
    if sampler.name != sampler::LCM.name || original == 0 || original as usize > config.train_steps {
        return Ok(None);
    }
    // diffusers' rounding; the share is not negative, and at most 1.
    let kept = (f64::from(original) * strength) as u32;
    if config.steps > kept as usize {
        let what =
            format!("--strength {strength} leaves {kept} of the network's {original} timesteps, which is less than");
        return Err(
            Error::usage(format!("{what} --steps {}", config.steps)).hint("give fewer steps or a larger strength")
        );
    }
    let stride = config.train_steps / original as usize;
    let mut timesteps = vec![0; config.steps];
    fill_timesteps(Spacing::Consistency { original: kept }, stride * kept as usize, 0, &mut timesteps)
        .map_err(|e| Error::usage(e.to_string()))?;
    Ok(Some(timesteps))
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
    own: Option<Own>,
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
        let Self { config, sampler, own, betas, timesteps, levels } = self;
        let Some(own) = own else { return Schedule::for_sampler(config, sampler, betas, timesteps, levels) };
        // The table's levels first, then the class's own in their place.
        let given = {
            let mut betas = betas.clone();
            let schedule = Schedule::for_sampler(config, sampler, &mut betas, timesteps, levels)?;
            own.levels(config, &schedule)
        };
        levels.copy_from_slice(&given);
        let mut config = *config;
        config.sigmas.table = SigmaTable::Given;
        Schedule::for_sampler(&config, sampler, betas, timesteps, levels)
    }
}
