//! Evaluations without end: memory, open files and Vulkan objects stay what they were, and so does the time.
//!
//! `UNFOG_EVALUATIONS` says how many; a few hundred where it is absent.

use std::time::{Duration, Instant};

use unfog::cpu::{CpuDenoiser, CpuOptions};
use unfog::model::Model;
use unfog_core::denoise::{Cond, Denoise};
use unfog_gpu::{Context, DeviceChoice, GpuError, Network, Options, VulkanDenoiser};
use unfog_tests::backend::gpus;
use unfog_tests::net::Net;
use unfog_tests::{TestResult, said};

/// Evaluations where nothing else is asked for.
const FEW: usize = 300;
/// Growth of resident memory that is no leak: allocators and drivers keep a little more than they need at first.
const SLACK: u64 = 4 << 20;

fn evaluations() -> TestResult<usize> {
    match std::env::var("UNFOG_EVALUATIONS") {
        Ok(text) => Ok(text.parse()?),
        Err(_) => Ok(FEW),
    }
}

/// Resident bytes and open files of this process.
fn resources() -> TestResult<(u64, usize)> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok((kilobytes * 1024, std::fs::read_dir("/proc/self/fd")?.count()))
}

/// Evaluates again and again, one image and two in turn. `objects` says what else must not grow.
fn endure<D: Denoise<Error: std::fmt::Debug>>(
    what: &str,
    net: &Net,
    network: &mut D,
    objects: &dyn Fn() -> usize,
) -> TestResult {
    let (count, len, out_len) = (evaluations()?, net.len(), network.out_len());
    let x: Vec<f32> = (0..2 * len).map(|i| (i % 7) as f32 / 3.0 - 1.0).collect();
    let mut out = vec![0.0; 2 * out_len];
    let mut evaluate = |i: usize| -> TestResult<Duration> {
        let n = i % 2 + 1;
        let start = Instant::now();
        network
            .predict(&x[..n * len], 1.0 + i as f32 / count as f32, &[Cond::None; 2][..n], &mut out[..n * out_len])
            .map_err(said)?;
        Ok(start.elapsed())
    };
    // Whatever is made once is made now.
    for i in 0..20 {
        evaluate(i)?;
    }
    let (before, objects_before) = (resources()?, objects());
    let times = (0..count).map(&mut evaluate).collect::<TestResult<Vec<Duration>>>()?;
    let (after, objects_after) = (resources()?, objects());
    let median = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort();
        times[times.len() / 2].as_secs_f64()
    };
    // By pairs, since the batches differ.
    let tenth = (count / 20).max(1) * 2;
    let (first, last) = (median(&times[..tenth.min(count)]), median(&times[count - tenth.min(count)..]));
    println!(
        "{what}: {count} evaluations, median of the first {tenth} {:.2} ms, of the last {:.2} ms; resident {} kB before, {} kB after; \
         {} and {} files, {objects_before} and {objects_after} objects",
        first * 1e3,
        last * 1e3,
        before.0 / 1024,
        after.0 / 1024,
        before.1,
        after.1
    );
    assert!(after.0 <= before.0 + SLACK, "{what}: {} bytes grew to {}", before.0, after.0);
    assert_eq!(after.1, before.1, "{what}: open files");
    assert_eq!(objects_after, objects_before, "{what}: Vulkan objects");
    // Other processes may slow down a part of the run, but hardly threefold.
    assert!(last <= 3.0 * first, "{what}: {first} s became {last} s");
    Ok(())
}

/// One test, so that no other one of this process opens files meanwhile.
#[test]
#[cfg(target_os = "linux")]
fn nothing_grows() -> TestResult {
    // Small pictures: what could grow does so by evaluations.
    let model = Model::open(None).map_err(|e| e.report())?;
    let net = Net::sized(model, (8, 8))?;
    endure("cpu", &net, &mut CpuDenoiser::new(net.graph, net.weights, CpuOptions::default())?, &|| 0)?;
    for gpu in gpus()? {
        // Without validation, which keeps books of its own.
        let context = Context::open(&DeviceChoice::Index(gpu.context.info().index), None)?;
        let least = match Network::needs(&context, &net.graph, Options { vram: Some(1), ..Options::default() }) {
            Err(GpuError::Memory { needed, .. }) => needed,
            other => return Err(format!("one byte is enough: {other:?}").into()),
        };
        let streamed = Options { vram: Some(least), force_staging: true, ..Options::default() };
        let streamed = match Network::needs(&context, &net.graph, streamed) {
            Err(GpuError::Memory { needed, .. }) => Options { vram: Some(needed), ..streamed },
            _ => streamed,
        };
        for (what, options) in [("vulkan", Options::default()), ("vulkan, streamed", streamed)] {
            let mut denoiser = VulkanDenoiser::new(&context, &net.graph, net.weights, options)?;
            let objects = || {
                let usage = context.usage();
                usage.buffers + usage.commands + context.pipelines()
            };
            endure(&format!("{what} ({})", context.info().name), &net, &mut denoiser, &objects)?;
        }
    }
    Ok(())
}
