//! diffusers' scheduler_config.json as a run's settings.

mod classes;
mod levels;

use std::path::Path;

use unfog_core::config::{Config, Variance};
use unfog_core::predict::{Clip, PredictionType};
use unfog_core::sampler::{self, Sampler};
use unfog_core::schedule::{
    BetaSchedule, End, Grid, Shift, SigmaTable, Sigmas, Spacing, alpha_bar_from_betas, dynamic_shift, fill_betas,
};

use super::fields::Fields;
use crate::error::Result;
use crate::files;
pub(crate) use levels::Own;

/// Names of the schedules in configs, and after them those that only the command line has.
pub(crate) const SCHEDULES: [(&str, BetaSchedule); 7] = [
    ("linear", BetaSchedule::Linear),
    ("scaled_linear", BetaSchedule::ScaledLinear),
    ("squaredcos_cap_v2", BetaSchedule::SquaredCosCapV2),
    ("sigmoid", BetaSchedule::Sigmoid),
    ("laplace", BetaSchedule::Laplace),
    ("exp", BetaSchedule::Exponential),
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
    /// What the class does with the levels of core's table.
    pub(crate) own: Option<Own>,
    /// The shift, where it depends on the size of the picture.
    pub(crate) dynamic: Option<Dynamic>,
    /// The config itself, where it was read.
    file: Option<Fields>,
}

/// How far the levels of a flow network are shifted for a picture of so many tokens (`use_dynamic_shifting`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dynamic {
    /// Tokens and their shift.
    base: (f64, f64),
    /// More tokens, and theirs.
    max: (f64, f64),
    /// Whether the shift is a factor, or the logarithm of one.
    linear: bool,
}

impl Dynamic {
    /// The shift for this number of tokens.
    pub(crate) fn shift(self, tokens: u32) -> Shift {
        let mu = dynamic_shift(f64::from(tokens), self.base, self.max);
        if self.linear { Shift::Linear(mu) } else { Shift::Exponential(mu) }
    }
}

impl Scheduler {
    /// Settings that say all there is to say, as core takes them.
    pub(crate) fn of(config: Config, sampler: &'static Sampler, trained_betas: Option<Vec<f32>>) -> Self {
        Self { config, sampler, trained_betas, own: None, dynamic: None, file: None }
    }

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
    pub(crate) fn read(file: &Fields) -> Result<Self> {
        let (class, fields) = classes::complete(file)?;
        let sampler = classes::sampler(class, &fields)?;
        let trained_betas = fields.optional_f64s("trained_betas")?;
        let trained_betas: Option<Vec<f32>> = trained_betas.map(|betas| betas.iter().map(|&b| b as f32).collect());
        let defaults = Config::default();
        let prediction = prediction(class, &fields)?;
        let betas = fields.choice("beta_schedule", BetaSchedule::Linear, &SCHEDULES.map(|(n, s)| (Some(n), s))[..6])?;
        let mut config = Config {
            betas: if trained_betas.is_some() { BetaSchedule::Trained } else { betas },
            train_steps: match &trained_betas {
                Some(betas) => betas.len(),
                None => fields.u32("num_train_timesteps", 1000)? as usize,
            },
            beta_start: fields.f64("beta_start", defaults.beta_start)?,
            beta_end: fields.f64("beta_end", defaults.beta_end)?,
            zero_terminal_snr: fields.bool("rescale_betas_zero_snr", false)?,
            prediction,
            clip: clip(&fields)?,
            spacing: spacing(&fields)?,
            steps_offset: fields.u32("steps_offset", 0)?,
            set_alpha_to_one: fields.bool("set_alpha_to_one", true)?,
            timestep_scaling: fields.f64("timestep_scaling", 10.0)? as f32,
            lower_order_final: fields.bool("lower_order_final", true)?,
            euler_at_final: fields.bool("euler_at_final", false)?,
            sigmas: sigmas(class, &fields)?,
            ..defaults
        };
        if sampler.name == sampler::DDPM.name {
            config.variance = variance(&fields)?;
        }
        if sampler.name == sampler::TCD.name {
            config.eta = TCD_ETA;
        }
        config.s_noise = fields.f64("s_noise", 1.0)? as f32;
        if class == "SASolverScheduler" {
            share_between(&mut config, trained_betas.as_deref());
        }
        if config.clip != Clip::None && takes_noise(sampler) {
            return Err(fields.refuse("thresholding", "false where the noise is interpolated and not the image"));
        }
        refuse_what_is_missing(&fields)?;
        let dynamic = dynamic(class, &fields)?;
        let own = own(class, &fields, &config, sampler)?;
        Ok(Self { config, sampler, trained_betas, own, dynamic, file: Some(file.clone()) })
    }

    /// What the config says to the class of diffusers that has `sampler`, as its `from_config` takes it: the keys of that class that the
    /// file has, and the class's defaults for the others. How predicted images are kept in range stays: it is the network's affair.
    ///
    /// The scheduler as it is where there is no such class, and for networks whose times or levels are of their own kind.
    ///
    /// # Errors
    /// A value that the class can't take.
    pub(crate) fn for_sampler(self, sampler: &Sampler) -> Result<Self> {
        let own_kind = !self.config.prediction.is_over_alpha_bar() || self.own.is_some_and(Own::is_of_the_network);
        let file = self.file.as_ref().filter(|_| !own_kind && sampler.name != self.sampler.name);
        match file.and_then(|file| classes::with_sampler(file, sampler.name)) {
            Some(fields) => {
                let read = Self::read(&fields)?;
                Ok(Self { config: Config { clip: self.config.clip, ..read.config }, ..read })
            }
            None => Ok(self),
        }
    }
}

/// SA-Solver's noise is drawn at timesteps from 200 to 800, in diffusers' words at `tau_func`'s.
fn share_between(config: &mut Config, trained_betas: Option<&[f32]>) {
    config.eta = 1.0;
    if config.train_steps > Config::MAX_TRAIN_STEPS {
        return;
    }
    let mut table = trained_betas.map_or_else(|| vec![0.0; config.train_steps], <[f32]>::to_vec);
    // What can't be filled is refused when the run's own tables are made.
    if fill_betas(config.betas, config.beta_start, config.beta_end, &mut table).is_ok() {
        alpha_bar_from_betas(&mut table);
        // Half a timestep around them, as sigmas are compared and not timesteps.
        let sigma = |t: usize| table.get(t).map(|a| ((1.0 - a) / a).sqrt());
        let between = |t: usize| Some((sigma(t)? * sigma(t + 1)?).sqrt());
        config.s_tmin = between(199).unwrap_or(f32::INFINITY);
        config.s_tmax = between(800).unwrap_or(f32::INFINITY);
    }
}

/// TCD's share of fresh noise, where none is asked for.
pub(crate) const TCD_ETA: f32 = 0.3;

/// Solvers that diffusers gives the noise of the clipped image, and unfog that which was predicted.
fn takes_noise(sampler: &Sampler) -> bool {
    ["dpm-", "deis"].iter().any(|start| sampler.name.starts_with(start))
}

/// Options that unfog knows, but not with every value.
fn refuse_what_is_missing(fields: &Fields) -> Result<()> {
    let only = |key: &str, value: bool| match fields.bool(key, value)? == value {
        true => Ok(()),
        false => Err(fields.refuse(key, if value { "true" } else { "false" })),
    };
    only("predict_x0", true)?;
    only("invert_sigmas", false)?;
    if fields.value("tau_func").is_some() {
        return Err(fields.refuse("tau_func", "null"));
    }
    if !fields.u32s("disable_corrector", &[])?.is_empty() {
        return Err(fields.refuse("disable_corrector", "an empty list"));
    }
    if fields.value("solver_p").is_some() {
        return Err(fields.refuse("solver_p", "null"));
    }
    Ok(())
}

/// The class of consistency models.
const CONSISTENCY: &str = "CMStochasticIterativeScheduler";

fn prediction(class: &str, fields: &Fields) -> Result<PredictionType> {
    if class.starts_with("FlowMatch") {
        return Ok(PredictionType::Flow);
    }
    let edm = || Ok(PredictionType::Edm { sigma_data: fields.f64("sigma_data", 0.5)? as f32 });
    if class == CONSISTENCY {
        return edm();
    }
    if class.starts_with("EDM") {
        return fields.choice("prediction_type", (), &[(Some("epsilon"), ())]).and_then(|()| edm());
    }
    let flow = fields.bool("use_flow_sigmas", false)?;
    let names = [
        (Some("epsilon"), PredictionType::Epsilon),
        (Some("sample"), PredictionType::Sample),
        (Some("v_prediction"), PredictionType::Velocity),
        (Some("flow_prediction"), PredictionType::Flow),
    ];
    match flow {
        true => fields.choice("prediction_type", PredictionType::Epsilon, &names[3..]),
        false => fields.choice("prediction_type", PredictionType::Epsilon, &names[..3]),
    }
}

fn spacing(fields: &Fields) -> Result<Spacing> {
    if fields.value("original_inference_steps").is_some() {
        return Ok(Spacing::Consistency { original: fields.u32("original_inference_steps", 50)? });
    }
    let names = [
        (Some("leading"), Spacing::Leading),
        (Some("trailing"), Spacing::Trailing),
        (Some("linspace"), Spacing::Linspace),
    ];
    fields.choice("timestep_spacing", Spacing::Linspace, &names)
}

fn variance(fields: &Fields) -> Result<Variance> {
    let names = [
        (Some("fixed_small"), Variance::FixedSmall),
        (Some("fixed_small_log"), Variance::FixedSmallLog),
        (Some("fixed_large"), Variance::FixedLarge),
        (Some("fixed_large_log"), Variance::FixedLargeLog),
        (Some("learned_range"), Variance::LearnedRange),
        (Some("learned"), Variance::Learned),
    ];
    fields.choice("variance_type", Variance::FixedSmall, &names)
}

fn clip(fields: &Fields) -> Result<Clip> {
    if fields.bool("thresholding", false)? {
        let ratio = fields.f64("dynamic_thresholding_ratio", 0.995)? as f32;
        return Ok(Clip::Dynamic { ratio, max: fields.f64("sample_max_value", 1.0)? as f32 });
    }
    match fields.bool("clip_sample", fields.bool("clip_denoised", false)?)? {
        true => Ok(Clip::Range(fields.f64("clip_sample_range", 1.0)? as f32)),
        false => Ok(Clip::None),
    }
}

fn sigmas(class: &str, fields: &Fields) -> Result<Sigmas> {
    let rho = fields.f64("rho", KARRAS_RHO)?;
    let choices = [
        ("use_karras_sigmas", SigmaTable::Karras { rho }),
        ("use_lu_lambdas", SigmaTable::LuLambda),
        ("use_exponential_sigmas", SigmaTable::Exponential),
        ("use_beta_sigmas", SigmaTable::Beta { alpha: 0.6, beta: 0.6 }),
    ];
    let mut table = None;
    for (key, choice) in choices {
        if fields.bool(key, false)? && table.replace(choice).is_some() {
            return Err(fields.refuse(key, "false, or no other table of sigmas beside it"));
        }
    }
    if fields.value("sigma_schedule").is_some() {
        let names = [(Some("karras"), choices[0].1), (Some("exponential"), SigmaTable::Exponential)];
        table = Some(fields.choice("sigma_schedule", choices[0].1, &names)?);
    }
    if class == CONSISTENCY {
        table = Some(SigmaTable::Distilled { levels: fields.u32("num_train_timesteps", 40)?, rho });
    }
    let end = match class {
        "DEISMultistepScheduler" | "SASolverScheduler" | CONSISTENCY => End::Min,
        _ => fields.choice(
            "final_sigmas_type",
            End::Zero,
            &[(Some("zero"), End::Zero), (Some("sigma_min"), End::Min)],
        )?,
    };
    let shift = fields.optional_f64("flow_shift")?.or(fields.optional_f64("shift")?).unwrap_or(1.0);
    // Python takes 0 for no number.
    let shift_terminal = fields.optional_f64("shift_terminal")?.filter(|&terminal| terminal != 0.0);
    Ok(Sigmas {
        table: table.unwrap_or_default(),
        end,
        min: fields.optional_f64("sigma_min")?,
        max: fields.optional_f64("sigma_max")?,
        shift: Shift::Static(shift),
        shift_terminal,
        ..Sigmas::default()
    })
}

/// How much denser Karras' sigmas lie at their end.
pub(crate) const KARRAS_RHO: f64 = 7.0;

fn dynamic(class: &str, fields: &Fields) -> Result<Option<Dynamic>> {
    let types: &[_] = match class {
        "FlowMatchEulerDiscreteScheduler" => &[(Some("exponential"), false), (Some("linear"), true)],
        _ => &[(Some("exponential"), false)],
    };
    let linear = fields.choice("time_shift_type", false, types)?;
    if !fields.bool("use_dynamic_shifting", false)? {
        return Ok(None);
    }
    // Only one class has these keys; pipelines take the same numbers for the others.
    let tokens = |key, default| Ok::<_, crate::Error>(f64::from(fields.u32(key, default)?));
    let base = (tokens("base_image_seq_len", 256)?, fields.optional_f64("base_shift")?.unwrap_or(0.5));
    let max = (tokens("max_image_seq_len", 4096)?, fields.optional_f64("max_shift")?.unwrap_or(1.15));
    if base.0 >= max.0 {
        return Err(fields.refuse("max_image_seq_len", "more than base_image_seq_len"));
    }
    Ok(Some(Dynamic { base, max, linear }))
}

/// How the names of the classes begin that round the times of Karras' sigmas, whatever the schedule.
const ROUNDED: [&str; 5] = ["KDPM2", "DEIS", "DPMSolverSinglestep", "SASolver", "UniPC"];

/// What the class does with the levels of core's table.
fn own(class: &str, fields: &Fields, config: &Config, sampler: &Sampler) -> Result<Option<Own>> {
    let computed = config.sigmas.table != SigmaTable::Timesteps;
    let flow = config.prediction == PredictionType::Flow;
    let unipc = class == "UniPCMultistepScheduler";
    let karras = matches!(config.sigmas.table, SigmaTable::Karras { .. });
    let mut own = None;
    if flow && sampler.grid == Grid::Solver {
        if computed && !(unipc && karras) {
            return Err(fields.refuse("use_flow_sigmas", "false beside another table of sigmas"));
        }
        own = match (class, karras) {
            ("UniPCMultistepScheduler", true) => Some(Own::FromChain),
            ("UniPCMultistepScheduler", false) => Some(Own::FromNoise),
            ("DEISMultistepScheduler" | "SASolverScheduler", _) => Some(Own::Still),
            _ => None,
        };
    } else if karras && ROUNDED.iter().any(|start| class.starts_with(start)) {
        own = Some(Own::Whole);
    }
    if class == CONSISTENCY {
        own = Some(Own::Thousandfold);
    }
    if !flow && config.sigmas.shift_terminal.is_some() {
        return Err(fields.refuse("shift_terminal", "null without use_flow_sigmas"));
    }
    let log = fields.choice("interpolation_type", false, &[(Some("linear"), false), (Some("log_linear"), true)])?;
    if log {
        if computed && config.spacing != Spacing::Linspace {
            return Err(fields.refuse("interpolation_type", "\"linear\" beside this spacing and table of sigmas"));
        }
        own = (!computed).then_some(Own::LogLinear);
    }
    let types = [(Some("discrete"), false), (Some("continuous"), true)];
    if fields.choice("timestep_type", false, &types)? && config.prediction == PredictionType::Velocity {
        if own.is_some() {
            return Err(fields.refuse("interpolation_type", "\"linear\" beside a continuous timestep_type"));
        }
        own = Some(Own::Continuous);
    }
    if fields.value("lambda_min_clipped").is_some()
        && fields.plain("lambda_min_clipped").as_deref() != Some("-Infinity")
    {
        let lambda = fields.f64("lambda_min_clipped", f64::NEG_INFINITY)?;
        // Where levels are computed only their own ends count.
        if !computed && !flow {
            let leading = match config.spacing {
                Spacing::Trailing => {
                    return Err(fields.refuse("lambda_min_clipped", "-Infinity beside trailing spacing"));
                }
                spacing => spacing == Spacing::Leading,
            };
            own = Some(Own::Clipped { lambda, leading });
        }
    }
    Ok(own)
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
            (r#"{"_class_name": "VQDiffusionScheduler"}"#, "VQDiffusionScheduler"),
            (r#"{"_class_name": "DDPMScheduler", "beta_schedule": "cosine"}"#, "cosine"),
            (r#"{"_class_name": "DDPMScheduler", "variance_type": "fixed"}"#, "fixed"),
            (r#"{"_class_name": "DDPMScheduler", "prediction_type": "flow"}"#, "flow"),
        ] {
            assert!(read(text).unwrap_err().to_string().contains(name), "{text}");
        }
    }

    #[test]
    fn a_named_sampler_reads_the_config_as_its_class() {
        let of = |text: &str, name| read(text).unwrap().for_sampler(sampler::find(name).unwrap()).unwrap();
        let pndm = r#"{"_class_name": "PNDMScheduler", "steps_offset": 1, "skip_prk_steps": true, "beta_end": 0.012}"#;
        let single = of(pndm, "dpmpp-2s").config;
        assert_eq!((single.spacing, single.steps_offset, single.beta_end), (Spacing::Linspace, 0, 0.012));
        let deis = of(pndm, "deis-3");
        assert_eq!((deis.config.sigmas.end, deis.config.steps_offset, deis.sampler.name), (End::Min, 1, "deis-3"));
        // What no class of diffusers has, what the file's own has, and another family's network.
        let flow = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}"#;
        for (text, name) in [(pndm, "er-sde"), (pndm, "plms"), (flow, "dpmpp-2m")] {
            assert_eq!(of(text, name).config, read(text).unwrap().config, "{name}");
        }
        // How images are kept in range is the network's affair.
        let ddim = of(r#"{"_class_name": "DDIMScheduler"}"#, "dpmpp-2m").config;
        assert_eq!((ddim.clip, ddim.spacing), (Clip::Range(1.0), Spacing::Linspace));
    }

    #[test]
    fn trained_betas_count() {
        let scheduler = read(r#"{"_class_name": "DDPMScheduler", "trained_betas": [0.1, 0.2]}"#).unwrap();
        assert_eq!((scheduler.config.train_steps, scheduler.config.betas), (2, BetaSchedule::Trained));
        assert_eq!(scheduler.trained_betas.unwrap(), [0.1, 0.2]);
    }
}
