//! `unfog devices`

use std::fmt::Write;

use serde::Serialize;
use unfog::backend::{Device, Kind, Request, devices};
use unfog::check::check;
use unfog::stop::Stop;
use unfog::{Error, Result};

use super::output::{self, bytes};

/// Show the Vulkan devices and their limits
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run a network on each device and compare the result with the reference
    #[arg(long)]
    check: bool,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    devices: Vec<Entry>,
    /// Why there is no device.
    reason: Option<String>,
}

#[derive(Serialize)]
struct Entry {
    #[serde(flatten)]
    device: Device,
    /// Relative error (L2) of an evaluation, where it was checked and right.
    check_error: Option<f64>,
    /// What went wrong with it.
    check_failure: Option<String>,
}

/// Lists the devices.
pub(crate) fn run(args: &Args, stop: &Stop) -> Result<()> {
    let (found, reason) = match devices() {
        Ok(found) => (found, None),
        Err(e) => (Vec::new(), Some(e)),
    };
    let mut entries = Vec::new();
    for device in found {
        stop.check()?;
        let request = Request { kind: Kind::Vulkan, device: Some(device.index.to_string()), ..Request::default() };
        let checked = args.check.then(|| check(&request, stop));
        let (check_error, check_failure) = match checked {
            None => (None, None),
            Some(Ok(error)) => (Some(error), None),
            Some(Err(e)) => (None, Some(e.to_string())),
        };
        entries.push(Entry { device, check_error, check_failure });
    }
    let failed = entries.iter().filter(|entry| entry.check_failure.is_some()).count();
    let report = Report { devices: entries, reason: reason.as_ref().map(Error::to_string) };
    if args.json {
        output::json(&report)?;
    } else {
        output::print(&text(&report))?;
    }
    match reason {
        Some(e) if args.check => Err(e),
        _ if failed > 0 => {
            Err(Error::failure(format!("{failed} of {} devices failed the check", report.devices.len())))
        }
        _ => Ok(()),
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    if let Some(reason) = &report.reason {
        text = format!("no Vulkan device: {reason}\n");
    }
    for Entry { device: d, check_error, check_failure } in &report.devices {
        let memory = if d.unified { "shared with the host" } else { "its own" };
        // Writing to a string can't fail.
        let _ = writeln!(text, "{}  {} ({})", d.index, d.name, d.kind);
        let _ = writeln!(text, "   driver      {}, Vulkan {}.{}", d.driver, d.api.0, d.api.1);
        let _ = writeln!(text, "   memory      {}, {memory}; {} a binding", bytes(d.memory), bytes(d.max_binding));
        let _ = writeln!(text, "   work group  {} invocations", d.max_invocations);
        let _ = match (check_error, check_failure) {
            (Some(error), _) => writeln!(text, "   check       right (relative error {error:.1e})"),
            (_, Some(failure)) => writeln!(text, "   check       FAILED: {failure}"),
            _ => Ok(()),
        };
    }
    text
}
