//! `unfog replay`

use std::path::PathBuf;

use unfog::backend::{Description, Kind};
use unfog::replay::{Changes, Comparison, replay};
use unfog::sample::Event;
use unfog::stop::Stop;
use unfog::{Error, Result};

use super::output;
use super::progress::Progress;

/// Make a picture again from the recipe in its PNG, and compare bit by bit
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The picture, as `unfog sample` wrote it
    image: PathBuf,
    /// Where the model is now [default: where it was]
    #[arg(long, value_name = "DIR|FILE")]
    model: Option<PathBuf>,
    /// Where the tokenizer of a model in one file is now [default: where it was]
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Where the given noise is now [default: where it was]
    #[arg(long, value_name = "FILE")]
    noise_in: Option<PathBuf>,
    /// Run on another backend than the picture was made on, and say how far it is from that
    #[arg(long, value_name = "NAME")]
    backend: Option<Kind>,
    /// Run on another Vulkan device
    #[arg(long, value_name = "N|NAME")]
    device: Option<String>,
    /// Print the comparison as JSON
    #[arg(long)]
    json: bool,
    /// Print nothing but errors
    #[arg(long)]
    quiet: bool,
}

/// Makes the picture again.
pub(crate) fn run(args: &Args, stop: &Stop) -> Result<()> {
    let changes = Changes {
        model: args.model.clone(),
        tokenizer: args.tokenizer.clone(),
        noise_in: args.noise_in.clone(),
        backend: args.backend,
        device: args.device.clone(),
    };
    let progress = Progress::new(args.quiet);
    let comparison = replay(&args.image, &changes, stop, &mut |event| match event {
        Event::Steps(done, total) => progress.set(done, total),
        Event::Decoded(done, total) => progress.decoded(done, total),
        Event::Compiling(time) => progress.compiling(time),
        _ => {}
    })?;
    drop(progress);
    if args.json {
        output::json(&comparison)?;
    }
    let Comparison { values, differing, largest, .. } = comparison;
    let ran = ran(&comparison);
    if differing > 0 {
        let message = format!("{differing} of {values} values differ, by {largest} of 255 at most");
        return Err(Error::failure(format!("{}: {message} ({ran})", args.image.display())));
    }
    if !args.quiet && !args.json {
        output::print(&format!("{}: all {values} values are the same ({ran})\n", args.image.display()))?;
    }
    Ok(())
}

/// What it ran on now, and then where that was something else.
fn ran(comparison: &Comparison) -> String {
    let name = |d: &Description| match &d.driver {
        Some(driver) => format!("{} on {}, {driver}", d.backend.name(), d.device),
        None => format!("{} on {}", d.backend.name(), d.device),
    };
    let (now, was) = (name(&comparison.now), name(&comparison.was));
    let here = env!("CARGO_PKG_VERSION");
    match (now == was, comparison.version == here) {
        (true, true) => now,
        (true, false) => format!("{now}; made by unfog {}, and this is {here}", comparison.version),
        (false, true) => format!("{now}; made with {was}"),
        (false, false) => format!("{now}; made with {was} by unfog {}, and this is {here}", comparison.version),
    }
}
