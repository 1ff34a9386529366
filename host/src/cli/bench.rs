//! `unfog bench`

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Serialize;
use unfog::backend::{Kind, Precision, Request, devices};
use unfog::bench::{Measurement, bench, bench_nothing};
use unfog::model::Model;
use unfog::stop::Stop;
use unfog::{Error, Result};

use super::args::Size;
use super::output::{self, bytes};

/// Measure one evaluation of a network on each backend: time and memory
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the model [default: glyph-tiny, which is built in]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Width and height of an image [default: the model's]
    #[arg(long, value_name = "WxH")]
    size: Option<Size>,
    /// Backends to measure, with commas between: vulkan, cpu, reference; auto means cpu, and vulkan where there is a device
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "auto")]
    backend: Vec<Kind>,
    /// Vulkan device: its number or a part of its name
    #[arg(long, value_name = "N|NAME")]
    device: Option<String>,
    /// How a GPU stores weights: f32 or f16
    #[arg(long, value_name = "NAME", default_value = "f32")]
    precision: Precision,
    /// Threads of the cpu backend [default: one a core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
    /// Measure in this process, one backend, a network of a single node: what the process costs without a model
    #[arg(long, hide = true)]
    trivial: bool,
    /// Measure in this process, one backend
    #[arg(long, hide = true)]
    in_process: bool,
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
    let mut backends = Vec::new();
    for kind in kinds {
        let measured = measure_apart(args, kind, "--in-process", stop)?;
        let trivial_peak_bytes = measure_apart(args, kind, "--trivial", stop)?.peak_bytes;
        backends.push(Entry { measured, trivial_peak_bytes });
    }
    let report = Report { model: model.name().into(), backends };
    if args.json { output::json(&report) } else { output::print(&text(&report)) }
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
    match args.device.is_some() && !kinds.contains(&Kind::Vulkan) {
        true => Err(Error::usage("--device means nothing without the backend vulkan")),
        false => Ok(kinds),
    }
}

fn measure_here(args: &Args, kind: Kind, stop: &Stop) -> Result<Measurement> {
    let request =
        Request { kind, device: args.device.clone(), precision: args.precision, threads: args.threads }.chosen(kind);
    match args.trivial {
        true => bench_nothing(&request, stop),
        false => bench(&Model::open(args.model.as_deref())?, args.size.map(|Size(w, h)| (w, h)), &request, stop),
    }
}

/// Measures one backend in a process of its own.
fn measure_apart(args: &Args, kind: Kind, how: &str, stop: &Stop) -> Result<Measurement> {
    stop.check()?;
    let failed = |e: std::io::Error| Error::failure("can't start another process to measure in").because(e);
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["bench", how, "--backend", kind.name()]);
    command.args(["--precision", if args.precision == Precision::F16 { "f16" } else { "f32" }]);
    if let Some(model) = &args.model {
        command.arg("--model").arg(model);
    }
    if let Some(Size(w, h)) = args.size {
        command.arg("--size").arg(format!("{w}x{h}"));
    }
    if let Some(device) = &args.device {
        command.arg("--device").arg(device);
    }
    if let Some(threads) = args.threads {
        command.arg("--threads").arg(threads.to_string());
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output().map_err(failed)?;
    stop.check()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let mut lines = said.lines().map(|line| line.trim_start_matches("error: ").trim_start_matches("caused by: "));
        let what = lines.next().unwrap_or("it said nothing").to_owned();
        let error = match output.status.code() {
            Some(2) => Error::usage(what),
            _ => Error::failure(what),
        };
        return Err(match lines.next() {
            Some(cause) => error.because(cause.to_owned()),
            None => error,
        });
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|e| Error::failure("the measuring process printed something else").because(e))
}

fn text(report: &Report) -> String {
    let mut lines = vec![format!("{}: one evaluation of one image", report.model)];
    for Entry { measured: m, trivial_peak_bytes } in &report.backends {
        let driver = m.ran_on.driver.as_ref().map_or(String::new(), |driver| format!(", {driver}"));
        let threads = m.ran_on.threads.map_or(String::new(), |threads| format!(", {threads} threads"));
        let gflops = m.flops as f64 / m.median_seconds / 1e9;
        lines.push(format!(
            "{} ({}{driver}{threads}), {}x{}",
            m.ran_on.backend.name(),
            m.ran_on.device,
            m.width,
            m.height
        ));
        lines.push(format!(
            "   time    median {:.2} ms, best {:.2} ms of {} runs; {gflops:.1} GFLOP/s; opened in {:.0} ms",
            m.median_seconds * 1e3,
            m.best_seconds * 1e3,
            m.runs,
            m.open_seconds * 1e3
        ));
        let or_unknown = |n: Option<u64>| n.map_or("unknown".into(), bytes);
        lines.push(format!(
            "   memory  weights {}, plan {}, peak of the process {} ({} with a trivial network)",
            bytes(m.weight_bytes),
            bytes(m.plan_bytes),
            or_unknown(m.peak_bytes),
            or_unknown(*trivial_peak_bytes)
        ));
    }
    lines.join("\n") + "\n"
}
