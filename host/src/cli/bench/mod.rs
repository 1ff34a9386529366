//! `unfog bench`

mod apart;
mod grow;
mod text;

use std::path::PathBuf;

use serde::Serialize;
use unfog::backend::{Kind, devices};
use unfog::bench::{Measurement, Options, bench, bench_nothing, processor};
use unfog::model::Model;
use unfog::stop::Stop;
use unfog::{Error, Result};

use super::args::{EngineArgs, Size};
use super::output;

/// Measure one evaluation of a network on each backend: time, memory, and the share of what the machine can do
#[derive(clap::Args, Clone)]
pub(crate) struct Args {
    /// Folder of the model [default: glyph-tiny, which is built in]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Width and height of an image [default: the model's]
    #[arg(long, value_name = "WxH")]
    size: Option<Size>,
    /// Images of an evaluation
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Evaluations that are counted [default: what 4 seconds allow, 5 at least]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    runs: Option<u32>,
    /// Measure every node of the network by itself too: by op, and the slowest with their shapes
    #[arg(long, conflicts_with = "grow")]
    ops: bool,
    /// Measure how the cost grows: pictures of 32x32 to 1024x1024, batches of 1 to 8
    #[arg(long, conflicts_with_all = ["size", "batch", "input", "output"])]
    grow: bool,
    /// Evaluate what this safetensors file holds: x [n, c, h, w], t, and where it is taken class or embedding [n, l, c]
    #[arg(long, value_name = "FILE", conflicts_with = "batch")]
    input: Option<PathBuf>,
    /// Write the result: tensor `y` of a safetensors file
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Backends to measure, with commas between: vulkan, cpu, reference; auto means cpu, and vulkan where there is a device
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "auto")]
    backend: Vec<Kind>,
    #[command(flatten)]
    engine: EngineArgs,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
    /// Measure in this process, one backend, a network of a single node: what the process costs without a model
    #[arg(long, hide = true)]
    trivial: bool,
    /// Measure in this process, one backend
    #[arg(long, hide = true)]
    in_process: bool,
    /// What was measured of the processor: operations and bytes a second
    #[arg(long, hide = true, value_name = "F,B")]
    peak: Option<apart::Rates>,
}

/// One backend's figures.
#[derive(Serialize)]
struct Entry {
    #[serde(flatten)]
    measured: Measurement,
    /// The most memory of the same process with a network of a single node.
    trivial_peak_bytes: Option<u64>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    model: String,
    backends: Vec<Entry>,
}

/// Measures. Each backend has a process of its own, so that its peak of memory is its own too.
pub(crate) fn run(args: &Args, stop: &Stop) -> Result<()> {
    let kinds = kinds(args)?;
    if args.in_process || args.trivial {
        return output::json(&measure_here(args, kinds[0], stop)?);
    }
    let model = Model::open(args.model.as_deref())?;
    if args.grow {
        return grow::run(args, &model, &kinds, stop);
    }
    let mut backends = Vec::new();
    for kind in kinds {
        let rates = rates(args, kind);
        let measured = apart::measure(args, kind, "--in-process", rates, stop)?;
        let trivial_peak_bytes = apart::measure(args, kind, "--trivial", None, stop)?.peak_bytes;
        backends.push(Entry { measured, trivial_peak_bytes });
    }
    let report = Report { model: model.name().into(), backends };
    if args.json { output::json(&report) } else { output::print(&text::report(&report)) }
}

/// What the processor can do with as many threads as a backend has.
fn rates(args: &Args, kind: Kind) -> Option<apart::Rates> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match kind {
        Kind::Reference => 1,
        _ => args.engine.threads.unwrap_or(cores),
    };
    // More threads than cores compute no more.
    processor(threads.min(cores)).map(apart::Rates)
}

/// The backends to measure, none of them auto.
fn kinds(args: &Args) -> Result<Vec<Kind>> {
    let mut kinds = Vec::new();
    for &kind in &args.backend {
        match kind {
            Kind::Auto if devices().is_ok() => kinds.extend([Kind::Cpu, Kind::Vulkan]),
            Kind::Auto => kinds.push(Kind::Cpu),
            kind => kinds.push(kind),
        }
    }
    match args.engine.device.is_some() && !kinds.contains(&Kind::Vulkan) {
        true => Err(Error::usage("--device means nothing without the backend vulkan")),
        false => Ok(kinds),
    }
}

fn measure_here(args: &Args, kind: Kind, stop: &Stop) -> Result<Measurement> {
    let request = args.engine.request(kind).chosen(kind);
    if args.trivial {
        return bench_nothing(&request, stop);
    }
    let options = Options {
        size: args.size.map(|Size(w, h)| (w, h)),
        batch: usize::from(args.batch),
        runs: args.runs.map(|runs| runs as usize),
        ops: args.ops,
        peak: args.peak.as_ref().map(|apart::Rates(peak)| peak.clone()),
        input: args.input.clone(),
        output: args.output.clone(),
    };
    bench(&Model::open(args.model.as_deref())?, &options, &request, stop)
}
