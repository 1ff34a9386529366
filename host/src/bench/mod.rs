//! How long an evaluation takes, how much memory it needs, and how that compares with what the machine can do.

pub(crate) mod alone;
mod device;
mod ops;
mod peak;
mod traffic;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use unfog_core::nn::graph::Input;
use unfog_core::nn::op::{Affine, Op, Shape};
use unfog_core::nn::weights::WeightData;

pub use ops::{NodeTime, OpTime, OpTimes};
pub use peak::{Peak, processor};

use crate::backend::{Backend, Description, Kind, Narrowed, Request};
use crate::cost::flops;
use crate::error::{Error, Result};
use crate::model::{Model, Network};
use crate::probe::{Given, Probe};
use crate::stop::Stop;
use crate::tensors;

/// Evaluations that are not counted, the first of which is told of.
const WARM_UP: usize = 2;
/// Evaluations that are counted unless their number is given: at least as many, then more while there is time, up to the most.
const RUNS: std::ops::RangeInclusive<usize> = 5..=200;
/// Time for counted evaluations.
const BUDGET: Duration = Duration::from_secs(4);

/// What is to be measured.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Width and height; the model's own if absent.
    pub size: Option<(u32, u32)>,
    /// Images of an evaluation; 0 is one.
    pub batch: usize,
    /// Evaluations that are counted; as many as four seconds allow if absent.
    pub runs: Option<usize>,
    /// Whether every node is measured by itself too.
    pub ops: bool,
    /// What the processor can do, if it is known; a GPU is measured here.
    pub peak: Option<Peak>,
    /// A safetensors file of what to evaluate (see [`Given::read`]); its number of images is the batch.
    pub input: Option<PathBuf>,
    /// Where the result goes: the tensor `y` of a safetensors file.
    pub output: Option<PathBuf>,
}

/// One backend, measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measurement {
    /// What computed.
    #[serde(flatten)]
    pub ran_on: Description,
    /// Width of an image.
    pub width: u32,
    /// Height of an image.
    pub height: u32,
    /// Images of an evaluation.
    pub batch: usize,
    /// Seconds to put the network on the backend: weights relaid, kernels compiled.
    pub open_seconds: f64,
    /// The first evaluation, in seconds.
    pub first_seconds: f64,
    /// Median of the counted evaluations, in seconds.
    pub median_seconds: f64,
    /// The fastest.
    pub best_seconds: f64,
    /// Evaluations that were counted.
    pub runs: usize,
    /// Floating-point operations of an evaluation of the batch.
    pub flops: u64,
    /// Bytes that such an evaluation must move: weights once, every tensor whenever it is written or read.
    pub moved_bytes: u64,
    /// What the device can do at most, if that was measured.
    pub peak: Option<Peak>,
    /// The share of what the roofline allows that the median reaches.
    pub roof_share: Option<f64>,
    /// Bytes of the weights as the backend holds them.
    pub weight_bytes: u64,
    /// Bytes of activations and scratch memory for one image.
    pub plan_bytes: u64,
    /// The most memory that this process has had in use so far, where the system tells.
    pub peak_bytes: Option<u64>,
    /// Memory of the process at the end that no file backs, where the system tells.
    pub anonymous_bytes: Option<u64>,
    /// Every node by itself, if that was asked for.
    pub ops: Option<OpTimes>,
}

/// Measures one evaluation of a model's network on the backend that `request` names.
///
/// # Errors
/// Those of the model and the backend; [`Error::interrupted`].
pub fn bench(model: &Model, options: &Options, request: &Request, stop: &Stop) -> Result<Measurement> {
    let (width, height) = model.picture_size(options.size)?;
    let network = model.network(height, width)?;
    let weights = model.weights(&network)?;
    measure(&network, &weights.data(), (width, height), options, request, stop)
}

/// Measures a network of a single small node: what a process with the backend costs without a model.
///
/// # Errors
/// Those of the backend.
pub fn bench_nothing(request: &Request, stop: &Stop) -> Result<Measurement> {
    let network = Network::build(|mut g, _| {
        let x = g.input(Input::Sample, Shape::new(8, 8, 4))?;
        let x = g.node(Op::Affine(Affine::new(0.5, 0.0)), [Some(x), None, None], [None; 2])?;
        Ok(g.finish(x))
    })
    .map_err(|e: unfog_core::nn::graph::GraphError| {
        Error::failure(format!("the trivial network can't be built: {e:?}"))
    })?;
    measure(&network, &[], (8, 8), &Options::default(), request, stop)
}

fn measure(
    network: &Network,
    weights: &[WeightData<'_>],
    (width, height): (u32, u32),
    options: &Options,
    request: &Request,
    stop: &Stop,
) -> Result<Measurement> {
    let graph = network.graph();
    let start = Instant::now();
    let narrowed = Narrowed::new(request, network, weights)?;
    let weights = &narrowed.data(weights)[..];
    let mut backend = Backend::open(request, graph, weights, stop)?;
    let open_seconds = start.elapsed().as_secs_f64();
    let mut probe = match &options.input {
        Some(path) => Probe::of(&graph, Given::read(path)?, &mut backend)?,
        None => Probe::new(&graph, options.batch.max(1), &mut backend)?,
    };
    let batch = probe.images();
    let first_seconds = probe.run(&mut backend)?.as_secs_f64();
    for _ in 1..WARM_UP {
        probe.run(&mut backend)?;
    }
    let runs = options.runs.map_or(RUNS, |runs| runs.max(1)..=runs.max(1));
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < *runs.start() || (times.len() < *runs.end() && start.elapsed() < BUDGET) {
        stop.check()?;
        times.push(probe.run(&mut backend)?);
    }
    times.sort();
    let median_seconds = times[times.len() / 2].as_secs_f64();
    let (peak_bytes, anonymous_bytes) = (status_bytes("VmHWM:"), status_bytes("RssAnon:"));
    if let Some(path) = &options.output {
        let shape = graph.shape(graph.output);
        let shape = [batch, shape.c as usize, shape.h as usize, shape.w as usize];
        tensors::write_f32(path, "y", probe.output(), &shape)?;
    }
    let weight_bytes = backend.weight_bytes();
    let (ran_on, plan_bytes) = (backend.describe(), backend.plan_bytes());
    // What follows is measured with the backend's memory given back.
    drop((backend, probe));
    let peak = match (&options.peak, request.kind) {
        (Some(processor), Kind::Vulkan) => Some(device::peak(request, stop)?.unwrap_or_else(|| processor.clone())),
        (peak, _) => peak.clone(),
    };
    let (flops, moved_bytes) =
        (flops(&graph).saturating_mul(batch as u64), traffic::of_batch(&graph, weight_bytes, batch));
    let roof = peak.as_ref().map(|peak| peak.attainable(flops as f64 / moved_bytes as f64));
    let per_value = weight_bytes as f64 / network.parameters().max(1) as f64;
    let ops = options.ops.then(|| ops::time(network, weights, request, per_value, peak.as_ref(), stop)).transpose()?;
    Ok(Measurement {
        ran_on,
        width,
        height,
        batch,
        open_seconds,
        first_seconds,
        median_seconds,
        best_seconds: times[0].as_secs_f64(),
        runs: times.len(),
        flops,
        moved_bytes,
        roof_share: roof.map(|roof| flops as f64 / median_seconds / roof),
        peak,
        weight_bytes,
        plan_bytes,
        peak_bytes,
        anonymous_bytes,
        ops,
    })
}

/// Memory of this process as Linux counts it: `VmHWM:`, the most so far, or `RssAnon:`, what no file backs.
pub fn status_bytes(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
