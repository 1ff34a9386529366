//! A measurement for people.

use unfog::bench::{Measurement, OpTimes};

use super::super::output::bytes;
use super::{Entry, Report};

/// Nodes that are listed.
const SLOWEST: usize = 12;

pub(super) fn report(report: &Report) -> String {
    let mut lines = Vec::new();
    for Entry { measured: m, trivial_peak_bytes } in &report.backends {
        let driver = m.ran_on.driver.as_ref().map_or(String::new(), |driver| format!(", {driver}"));
        let threads = m.ran_on.threads.map_or(String::new(), |threads| format!(", {threads} threads"));
        lines.push(format!(
            "{} ({}{driver}{threads}), {}x{}, {}",
            m.ran_on.backend.name(),
            m.ran_on.device,
            m.width,
            m.height,
            if m.batch == 1 { "1 image".into() } else { format!("{} images", m.batch) }
        ));
        lines.push(format!(
            "   time    median {:.2} ms, best {:.2} ms of {} runs; opened in {:.0} ms, first {:.0} ms",
            m.median_seconds * 1e3,
            m.best_seconds * 1e3,
            m.runs,
            m.open_seconds * 1e3,
            m.first_seconds * 1e3
        ));
        lines.push(roof(m));
        let or_unknown = |n: Option<u64>| n.map_or("unknown".into(), bytes);
        lines.push(format!(
            "   memory  weights {}, plan {} an image, peak of the process {} ({} with a trivial network), {} without a file behind",
            bytes(m.weight_bytes),
            bytes(m.plan_bytes),
            or_unknown(m.peak_bytes),
            or_unknown(*trivial_peak_bytes),
            or_unknown(m.anonymous_bytes)
        ));
        lines.extend(m.ops.iter().flat_map(ops));
    }
    format!("{}: one evaluation\n{}\n", report.model, lines.join("\n"))
}

fn roof(m: &Measurement) -> String {
    let rate = |n: u64| n as f64 / m.median_seconds / 1e9;
    let rates = format!("   rate    {:.1} GFLOP/s, {:.2} GB/s", rate(m.flops), rate(m.moved_bytes));
    match (&m.peak, m.roof_share) {
        (Some(peak), Some(share)) => format!(
            "{rates}; {:.0} % of the roof ({:.1} GFLOP/s, {:.1} GB/s: {})",
            share * 100.0,
            peak.flops_per_second / 1e9,
            peak.bytes_per_second / 1e9,
            peak.how
        ),
        _ => rates,
    }
}

fn ops(times: &OpTimes) -> Vec<String> {
    let percent = |share: Option<f64>| share.map_or("     ".into(), |share| format!("{:3.0} %", share * 100.0));
    let mut lines = vec![
        format!("   nodes by themselves: {:.2} ms in all", times.seconds * 1e3),
        "   op           nodes         ms   share   GFLOP/s    GB/s  of roof".into(),
    ];
    for op in &times.ops {
        lines.push(format!(
            "   {:12} {:5} {:10.3} {:5.1} % {:9.1} {:7.1}   {}",
            op.op,
            op.nodes,
            op.seconds * 1e3,
            op.share * 100.0,
            op.flops_per_second / 1e9,
            op.bytes_per_second / 1e9,
            percent(op.roof_share)
        ));
    }
    lines.push(
        "   op           nodes    ms each   share   GFLOP/s    GB/s  of roof  first: inputs -> output, name".into(),
    );
    for node in times.nodes.iter().take(SLOWEST) {
        let shape = |[h, w, c]: [u32; 3]| format!("{h}x{w}x{c}");
        let inputs: Vec<String> = node.inputs.iter().map(|&s| shape(s)).collect();
        lines.push(format!(
            "   {:12} {:5} {:10.3} {:5.1} % {:9.1} {:7.1}   {}  {}: {} -> {}{}",
            node.op,
            node.nodes,
            node.seconds * 1e3,
            node.nodes as f64 * node.seconds / times.seconds * 100.0,
            node.flops as f64 / node.seconds / 1e9,
            node.bytes as f64 / node.seconds / 1e9,
            percent(node.roof_share),
            node.first,
            inputs.join(" "),
            shape(node.output),
            node.name.as_ref().map_or(String::new(), |name| format!(", {name}"))
        ));
    }
    lines
}
