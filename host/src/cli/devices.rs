//! `unfog devices`

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use unfog::backend::{Device, Kind, Request, devices};
use unfog::check::{self, check};
use unfog::stop::Stop;
use unfog::{Error, Result};

use super::output::{self, bytes};

/// Show the Vulkan devices and their limits
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run every kernel on each device and compare the results with the reference
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
    /// Every kernel, where it was checked.
    check: Option<check::Report>,
    /// Why it could not be checked.
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
        stop.check()?;
        let (check, check_failure) = match checked {
            None => (None, None),
            Some(Ok(report)) => (Some(report), None),
            Some(Err(e)) => (None, Some(e.to_string())),
        };
        entries.push(Entry { device, check, check_failure });
    }
    let wrong = |entry: &Entry| entry.check_failure.is_some() || entry.check.as_ref().is_some_and(|c| !c.is_right());
    let failed = entries.iter().filter(|entry| wrong(entry)).count();
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
    for Entry { device: d, check, check_failure } in &report.devices {
        let memory = if d.unified { "shared with the host" } else { "its own" };
        // Writing to a string can't fail.
        let _ = writeln!(text, "{}  {} ({})", d.index, d.name, d.kind);
        let _ = writeln!(text, "   driver      {}, Vulkan {}.{}", d.driver, d.api.0, d.api.1);
        let _ = writeln!(text, "   memory      {}, {memory}; {} a binding", bytes(d.memory), bytes(d.max_binding));
        let shared = bytes(d.max_shared.into());
        let _ = writeln!(text, "   work group  {} invocations, which share {shared}", d.max_invocations);
        if let Some([m, n, k]) = d.matrix {
            let _ = writeln!(text, "   matrices    {m}x{n}x{k}, of half floats (not used yet)");
        }
        if let Some(failure) = check_failure {
            let _ = writeln!(text, "   check       FAILED: {failure}");
        }
        text.push_str(&check.as_ref().map_or(String::new(), checked));
    }
    text
}

/// What a check found: the kernels, what is wrong with which, and a network.
fn checked(report: &check::Report) -> String {
    let mut text = String::new();
    let mut kernels = BTreeMap::<&str, (usize, f64)>::new();
    for case in &report.cases {
        for kernel in &case.kernels {
            let (cases, worst) = kernels.entry(kernel).or_default();
            *cases += 1;
            *worst = case.error.unwrap_or(f64::NAN).max(*worst);
        }
    }
    for (kernel, (cases, worst)) in kernels {
        let _ = writeln!(text, "   kernel      {kernel}: {cases} cases, largest relative error {worst:.1e}");
    }
    let broken = report.broken().count();
    let _ = match broken {
        0 => writeln!(text, "   check       {} cases right", report.cases.len()),
        _ => writeln!(text, "   check       {broken} of {} cases FAILED", report.cases.len()),
    };
    for case in report.broken() {
        let failure = case.failure.as_deref().unwrap_or("");
        let _ = writeln!(text, "   BROKEN      {} ({}, {}): {failure}", case.kernels.join(", "), case.how, case.what);
    }
    let _ = match (report.network_error, &report.network_failure) {
        (Some(error), _) => writeln!(text, "   network     right (relative error {error:.1e})"),
        (None, failure) => writeln!(text, "   network     FAILED: {}", failure.as_deref().unwrap_or("")),
    };
    text
}
