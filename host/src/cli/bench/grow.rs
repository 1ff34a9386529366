//! How the cost of an evaluation grows with the size of the pictures and their number.

use serde::Serialize;
use unfog::Result;
use unfog::backend::Kind;
use unfog::bench::Measurement;
use unfog::model::Model;
use unfog::stop::Stop;

use super::super::args::Size;
use super::super::output::{self, bytes};
use super::{Args, apart};

/// Sides of the square pictures.
const SIDES: [u32; 6] = [32, 64, 128, 256, 512, 1024];
/// Images of an evaluation, of the model's own size.
const BATCHES: [u16; 4] = [1, 2, 4, 8];
/// Seconds of an evaluation after which nothing larger is tried.
const LONGEST: f64 = 10.0;

/// What `--grow --json` prints.
#[derive(Serialize)]
struct Report {
    model: String,
    backends: Vec<Growth>,
}

#[derive(Serialize)]
struct Growth {
    backend: Kind,
    sizes: Vec<Row>,
    batches: Vec<Row>,
}

/// One point: measured, or why not.
#[derive(Serialize)]
struct Row {
    width: u32,
    height: u32,
    batch: u16,
    measured: Option<Measurement>,
    reason: Option<String>,
}

pub(super) fn run(args: &Args, model: &Model, kinds: &[Kind], stop: &Stop) -> Result<()> {
    let own = model.picture_size(None).ok();
    let mut backends = Vec::new();
    for &kind in kinds {
        let sizes = SIDES.map(|side| (side, side, 1));
        let batches = own.map(|(w, h)| BATCHES.map(|batch| (w, h, batch)));
        backends.push(Growth {
            backend: kind,
            sizes: rows(args, model, kind, &sizes, stop)?,
            batches: rows(args, model, kind, batches.as_ref().map_or(&[], |b| b.as_slice()), stop)?,
        });
    }
    let report = Report { model: model.name().into(), backends };
    if args.json { output::json(&report) } else { output::print(&text(&report)) }
}

/// Measures points, the smallest first; nothing larger after one that took long or failed.
fn rows(args: &Args, model: &Model, kind: Kind, points: &[(u32, u32, u16)], stop: &Stop) -> Result<Vec<Row>> {
    let (mut rows, mut enough) = (Vec::new(), None);
    for &(width, height, batch) in points {
        stop.check()?;
        let mut row = Row { width, height, batch, measured: None, reason: None };
        // A size that the network can't take says nothing of larger ones.
        if let Err(e) = model.network(height, width) {
            row.reason = Some(e.to_string());
        } else if let Some(why) = &enough {
            row.reason = Some(String::clone(why));
        } else {
            let of_row = Args { size: Some(Size(width, height)), batch, ..args.clone() };
            match apart::measure(&of_row, kind, "--in-process", None, stop) {
                Ok(measured) => {
                    if measured.median_seconds > LONGEST {
                        enough = Some(format!("the one before took more than {LONGEST} s"));
                    }
                    row.measured = Some(measured);
                }
                Err(e) => {
                    stop.check()?;
                    enough = Some("the one before failed".into());
                    row.reason = Some(e.to_string());
                }
            }
        }
        rows.push(row);
    }
    Ok(rows)
}

fn text(report: &Report) -> String {
    let mut lines = vec![format!("{}: one evaluation", report.model)];
    for growth in &report.backends {
        lines.push(growth.backend.name().to_owned());
        lines.push("   size       batch      median   an image   GFLOP/s  plan an image  peak of the process".into());
        for row in growth.sizes.iter().chain(&growth.batches) {
            let start = format!("   {:9} {:6}", format!("{}x{}", row.width, row.height), row.batch);
            lines.push(match (&row.measured, &row.reason) {
                (Some(m), _) => format!(
                    "{start} {:8.1} ms {:7.1} ms {:9.1} {:>14} {:>20}",
                    m.median_seconds * 1e3,
                    m.median_seconds * 1e3 / f64::from(row.batch),
                    m.flops as f64 / m.median_seconds / 1e9,
                    bytes(m.plan_bytes),
                    m.peak_bytes.map_or("unknown".into(), bytes),
                ),
                (None, reason) => format!("{start} {}", reason.as_deref().unwrap_or("not measured")),
            });
        }
    }
    lines.join("\n") + "\n"
}
