//! `unfog schedule`

use std::fmt::Write;
use std::path::PathBuf;

use serde::Serialize;
use unfog::Result;
use unfog::model::Scheduler;
use unfog::plot::plot;
use unfog::settings::{Settings, Wishes, parity};

use super::output;

/// Show what a schedule does: its timesteps, and how much signal and noise each holds
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A scheduler_config.json [default: linear, T = 1000]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Beta schedule: linear, scaled_linear, cosine, sigmoid, laplace or exp
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    schedule: Option<String>,
    /// Sampler, such as ddim or dpmpp-2m [default: the config's, or ddim]
    #[arg(long, value_name = "NAME")]
    sampler: Option<String>,
    /// Noise levels of samplers such as euler: timesteps, karras, exponential, beta, ays-sd15, ... [default: the config's]
    #[arg(long, value_name = "NAME")]
    sigmas: Option<String>,
    /// Steps
    #[arg(long, value_name = "N")]
    steps: usize,
    /// Share of fresh noise, from 0 to 1, of ddim [default: 0] and tcd [default: 0.3]
    #[arg(long, value_name = "E", allow_negative_numbers = true)]
    eta: Option<f32>,
    /// Tokens that the network makes of a picture, for configs with use_dynamic_shifting
    #[arg(long, value_name = "N")]
    tokens: Option<u32>,
    /// Whether to keep diffusers' quirks: diffusers, or table [default: diffusers for a config, otherwise table]
    #[arg(long, value_name = "NAME")]
    parity: Option<String>,
    /// Print everything as JSON, with the whole table of the chain
    #[arg(long, conflicts_with = "plot")]
    json: bool,
    /// Draw signal and noise over time to a file: svg, or a picture
    #[arg(long, value_name = "PATH")]
    plot: Option<PathBuf>,
}

/// A step of the run.
#[derive(Serialize)]
struct Row {
    step: usize,
    timestep: u32,
    next_timestep: Option<u32>,
    alpha_bar: f32,
    /// Standard deviation of the noise, relative to the signal.
    sigma: f64,
    log_snr: f64,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    schedule: &'static str,
    sampler: &'static str,
    parity: &'static str,
    train_steps: usize,
    steps: Vec<Row>,
    /// Alpha-bar of every timestep of the chain.
    alpha_bar: &'a [f32],
}

/// Shows the schedule.
pub(crate) fn run(args: &Args) -> Result<()> {
    let scheduler = args.config.as_deref().map(Scheduler::open).transpose()?;
    let wishes = Wishes {
        sampler: args.sampler.clone(),
        schedule: args.schedule.clone(),
        sigmas: args.sigmas.clone(),
        steps: Some(args.steps),
        eta: args.eta,
        tokens: args.tokens,
        parity: args.parity.as_deref().map(parity).transpose()?,
        ..Wishes::default()
    };
    let settings = Settings::new(scheduler, &wishes)?;
    let mut tables = settings.tables()?;
    let schedule = tables.schedule()?;
    if let Some(path) = &args.plot {
        return plot(path, &schedule, &format!("{}, {} steps", settings.schedule_name(), args.steps));
    }
    let row = |(step, &timestep): (usize, &u32)| {
        let alpha_bar = schedule.alpha_bar()[timestep as usize];
        let (signal, noise) = (f64::from(alpha_bar), f64::from(1.0 - alpha_bar));
        let next_timestep = schedule.next_timestep(step, settings.config.parity);
        let (sigma, log_snr) = ((noise / signal).sqrt(), (signal / noise).ln());
        Row { step, timestep, next_timestep, alpha_bar, sigma, log_snr }
    };
    let steps: Vec<Row> = schedule.timesteps().iter().enumerate().map(row).collect();
    if args.json {
        return output::json(&Report {
            schedule: settings.schedule_name(),
            sampler: settings.sampler.name,
            parity: settings.parity_name(),
            train_steps: settings.config.train_steps,
            steps,
            alpha_bar: schedule.alpha_bar(),
        });
    }
    let mut text = String::from("step  timestep  next  alpha_bar  sigma      log_snr\n");
    for row in &steps {
        let next = row.next_timestep.map_or("end".into(), |t| t.to_string());
        let Row { step, timestep, alpha_bar, sigma, log_snr, .. } = row;
        // Writing to a string can't fail.
        let _ = writeln!(text, "{step:4}  {timestep:8}  {next:>4}  {alpha_bar:.7}  {sigma:<9.5}  {log_snr:8.4}");
    }
    output::print(&text)
}
