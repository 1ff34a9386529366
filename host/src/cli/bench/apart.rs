//! Measurements in processes of their own.

use std::process::{Command, Stdio};
use std::str::FromStr;

use unfog::backend::Kind;
use unfog::bench::{Measurement, Peak};
use unfog::stop::Stop;
use unfog::{Error, Result};

use super::super::args::{Bytes, Size};
use super::Args;

/// What was measured of the processor, on its way to another process.
#[derive(Clone, Debug)]
pub(super) struct Rates(pub(super) Peak);

impl FromStr for Rates {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut parts = text.splitn(3, ',');
        let mut number = || parts.next().and_then(|part| part.parse().ok());
        let rates = number().zip(number());
        match (rates, parts.next()) {
            (Some((flops_per_second, bytes_per_second)), Some(how)) => {
                Ok(Self(Peak { how: how.into(), flops_per_second, bytes_per_second }))
            }
            _ => Err("expected operations and bytes a second, and how they were measured".into()),
        }
    }
}

/// Measures one backend in a process of its own.
pub(super) fn measure(args: &Args, kind: Kind, how: &str, rates: Option<Rates>, stop: &Stop) -> Result<Measurement> {
    stop.check()?;
    let failed = |e: std::io::Error| Error::failure("can't start another process to measure in").because(e);
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["bench", how, "--backend", kind.name()]);
    command.args(["--precision", args.engine.precision.name()]);
    if let Some(model) = &args.model {
        command.arg("--model").arg(model);
    }
    if let Some(Size(w, h)) = args.size {
        command.arg("--size").arg(format!("{w}x{h}"));
    }
    if args.batch > 1 {
        command.arg("--batch").arg(args.batch.to_string());
    }
    if let Some(runs) = args.runs {
        command.arg("--runs").arg(runs.to_string());
    }
    if args.ops {
        command.arg("--ops");
    }
    for (option, path) in [("--input", &args.input), ("--output", &args.output)] {
        if let Some(path) = path {
            command.arg(option).arg(path);
        }
    }
    if let Some(device) = &args.engine.device {
        command.arg("--device").arg(device);
    }
    if let Some(threads) = args.engine.threads {
        command.arg("--threads").arg(threads.to_string());
    }
    for (option, size) in [("--vram", args.engine.vram), ("--ram", args.engine.ram)] {
        if let Some(Bytes(bytes)) = size {
            command.arg(option).arg(bytes.to_string());
        }
    }
    if let Some(Rates(peak)) = rates {
        command.arg("--peak").arg(format!("{},{},{}", peak.flops_per_second, peak.bytes_per_second, peak.how));
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
