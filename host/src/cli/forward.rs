//! `unfog forward`

use std::path::PathBuf;

use serde::Serialize;
use unfog::forward::{default_times, forward};
use unfog::image::{Format, encode, load, sheet};
use unfog::recipe::KEYWORD;
use unfog::settings::{Settings, Wishes};
use unfog::{Error, Result};

use super::output;

/// Show the forward chain: a picture on its way into noise, as a strip of pictures
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The picture: PNG, JPEG, TIFF, BMP or PNM
    image: PathBuf,
    /// Times to show, from 0 to 999 [default: eight of them from 0 to 999]
    #[arg(long, value_name = "T,T,...", value_delimiter = ',')]
    at: Vec<u32>,
    /// Beta schedule: linear, scaled_linear or cosine
    #[arg(long, value_name = "NAME", default_value = "linear")]
    schedule: String,
    /// Seed of the noise
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Picture file (png, jpg, tif, bmp, pgm, ppm, pnm)
    #[arg(long, value_name = "PATH", default_value = "forward.png")]
    out: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Print nothing but errors
    #[arg(long)]
    quiet: bool,
}

/// What goes into the PNG and what `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    command: &'static str,
    version: &'static str,
    image: String,
    at: &'a [u32],
    schedule: &'static str,
    seed: u64,
    file: String,
}

/// Makes the strip.
pub(crate) fn run(args: &Args) -> Result<()> {
    let settings = Settings::new(None, &Wishes { schedule: Some(args.schedule.clone()), ..Wishes::default() })?;
    let times = if args.at.is_empty() { default_times(settings.config.train_steps) } else { args.at.clone() };
    let picture = load(&args.image)?;
    let format = Format::of(&args.out, picture.channels())?;
    unfog::files::check_target(&args.out)?;
    let frames = forward(&picture, &settings, &times, args.seed)?;
    let strip = sheet(&frames, frames.len() as u32)?;
    let report = Report {
        command: "forward",
        version: env!("CARGO_PKG_VERSION"),
        image: args.image.display().to_string(),
        at: &times,
        schedule: settings.schedule_name(),
        seed: args.seed,
        file: args.out.display().to_string(),
    };
    let recipe =
        serde_json::to_string(&report).map_err(|e| Error::failure("the recipe can't be written").because(e))?;
    unfog::files::write(&args.out, |out| encode(&strip, format, &[(KEYWORD, &recipe)], &args.out, out))?;
    match (args.json, args.quiet) {
        (true, _) => output::json(&report),
        (false, true) => Ok(()),
        (false, false) => {
            let times: Vec<String> = times.iter().map(u32::to_string).collect();
            output::note(&format!("{}: times {}", report.file, times.join(", ")));
            Ok(())
        }
    }
}
