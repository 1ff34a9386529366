//! `unfog schedule`

use std::path::PathBuf;

use serde::Serialize;
use unfog::Result;
use unfog::model::Scheduler;
use unfog::plot::plot;
use unfog::schedule::{Row, end_sigma, rows};
use unfog::settings::{Settings, Wishes, parity};

use super::output;

/// Show what a schedule does: its timesteps, how much signal and noise each holds, and what a step makes of them
///
/// The columns after a star are factors: a step makes x * (its factor) + x0 * .. + eps * .. + z * .., x0 being the predicted image,
/// eps the predicted noise and z fresh noise. Samplers that look at several predictions correct the step that is shown.
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
    /// Noise levels of samplers such as euler: timesteps, karras, exponential, polyexponential, beta, lu-lambda, vp, ays-sd15,
    /// ays-sdxl, ays-svd, uniform, simple or kl-optimal; karras:RHO and polyexponential:RHO [default: the config's]
    #[arg(long, value_name = "NAME")]
    sigmas: Option<String>,
    /// Steps
    #[arg(long, value_name = "N")]
    steps: usize,
    /// Share of fresh noise, from 0 to 1, of ddim [default: 0], tcd [default: 0.3] and sa-solver [default: 1]
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
    /// Draw signal and noise over time, and sigma over steps, to a file: svg, or a picture such as png
    #[arg(long, value_name = "PATH")]
    plot: Option<PathBuf>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    schedule: &'static str,
    sampler: &'static str,
    /// Which table of noise levels; none for samplers from timestep to timestep.
    sigmas: Option<String>,
    parity: &'static str,
    train_steps: usize,
    /// Standard deviation of the noise that a run starts from.
    init_noise_sigma: f32,
    steps: Vec<Row>,
    /// Noise over signal where the run ends.
    end_sigma: f64,
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
        let sigmas = settings.sigmas_name().map(|name| format!(", sigmas {name}")).unwrap_or_default();
        let title = format!("{}, {}{sigmas}, {} steps", settings.network_name(), settings.sampler.name, args.steps);
        return plot(path, &settings, &schedule, &title);
    }
    let steps = rows(&settings, &schedule);
    if args.json {
        return output::json(&Report {
            schedule: settings.schedule_name(),
            sampler: settings.sampler.name,
            sigmas: settings.sigmas_name(),
            parity: settings.parity_name(),
            train_steps: settings.config.train_steps,
            init_noise_sigma: schedule.init_noise_sigma(),
            steps,
            end_sigma: end_sigma(&schedule),
            alpha_bar: schedule.alpha_bar(),
        });
    }
    output::print(&table(&steps))
}

/// The steps as a table; of the coefficients, those that some step has.
fn table(steps: &[Row]) -> String {
    let coefficients = |row: &Row| row.coefficients.or(row.first_order).unwrap_or_default().all();
    let used: Vec<(usize, &str)> = ["* x", "* x0", "* eps", "* z"]
        .into_iter()
        .enumerate()
        .filter(|(column, _)| steps.iter().any(|row| coefficients(row)[*column].is_some()))
        .collect();
    let mut text = String::from("step  timestep      next  alpha_bar  sigma      log_snr   signal     noise    ");
    used.iter().for_each(|(_, name)| text.push_str(&format!("  {name:<9}")));
    let mut text = text.trim_end().to_string() + "\n";
    for row in steps {
        let next = row.next_timestep.map_or("end".into(), |t| t.to_string());
        let Row { step, timestep, alpha_bar, sigma, log_snr, signal, noise, .. } = row;
        let mut line = format!(
            "{step:4}  {timestep:>8}  {next:>8}  {alpha_bar:.7}  {sigma:<9.5}  {log_snr:8.4}  {signal:.7}  {noise:.7}"
        );
        for (column, _) in &used {
            let cell = coefficients(row)[*column].map_or(String::new(), |value| format!("{value:.6}"));
            line.push_str(&format!("  {cell:<9}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
