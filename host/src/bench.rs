//! How long an evaluation takes and how much memory it needs.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use unfog_core::nn::graph::Input;
use unfog_core::nn::op::{Affine, Op, Shape};

use crate::backend::{Backend, Description, Request};
use crate::cost::flops;
use crate::error::{Error, Result};
use crate::model::{Model, Network};
use crate::probe::Probe;
use crate::stop::Stop;

/// Evaluations that are not counted.
const WARM_UP: usize = 2;
/// Evaluations that are counted: at least as many, then more while there is time, up to the most.
const RUNS: std::ops::RangeInclusive<usize> = 5..=200;
/// Time for counted evaluations.
const BUDGET: Duration = Duration::from_secs(4);

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
    /// Seconds to put the network on the backend: weights relaid, kernels compiled.
    pub open_seconds: f64,
    /// Median of the counted evaluations of one image, in seconds.
    pub median_seconds: f64,
    /// The fastest.
    pub best_seconds: f64,
    /// Evaluations that were counted.
    pub runs: usize,
    /// Floating-point operations of an evaluation.
    pub flops: u64,
    /// Bytes of the weights as the backend holds them.
    pub weight_bytes: u64,
    /// Bytes of activations and scratch memory for one image.
    pub plan_bytes: u64,
    /// The most memory that this process has had in use so far, where the system tells.
    pub peak_bytes: Option<u64>,
}

/// Measures one evaluation of a model's network on the backend that `request` names, for pictures of `size` (width and
/// height; the model's own if absent).
///
/// # Errors
/// Those of the model and the backend; [`Error::interrupted`].
pub fn bench(model: &Model, size: Option<(u32, u32)>, request: &Request, stop: &Stop) -> Result<Measurement> {
    let (width, height) = model.picture_size(size)?;
    let network = model.network(height, width)?;
    let weights = model.weights(&network)?;
    let fingerprint = weights.fingerprint();
    // Nothing else may run while the time is taken.
    fingerprint.finish()?;
    measure(&network, &weights.data(), (width, height), request, stop)
}

/// Measures a network of a single small node: what a process with the backend costs without a model.
///
/// # Errors
/// Those of the backend.
pub fn bench_nothing(request: &Request, stop: &Stop) -> Result<Measurement> {
    let network = Network::build(|mut g, _| {
        let x = g.input(Input::Sample, Shape::new(8, 8, 4))?;
        let x = g.node(Op::Affine(Affine { scale: 0.5, shift: 0.0 }), [Some(x), None, None], [None; 2])?;
        Ok(g.finish(x))
    })
    .map_err(|e: unfog_core::nn::graph::GraphError| {
        Error::failure(format!("the trivial network can't be built: {e:?}"))
    })?;
    measure(&network, &[], (8, 8), request, stop)
}

fn measure(
    network: &Network,
    weights: &[unfog_core::nn::weights::WeightData<'_>],
    (width, height): (u32, u32),
    request: &Request,
    stop: &Stop,
) -> Result<Measurement> {
    let graph = network.graph();
    let start = Instant::now();
    let mut backend = Backend::open(request, graph, weights, stop)?;
    let open_seconds = start.elapsed().as_secs_f64();
    let mut probe = Probe::new(&graph, 1)?;
    for _ in 0..WARM_UP {
        probe.run(&mut backend)?;
    }
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < *RUNS.start() || (times.len() < *RUNS.end() && start.elapsed() < BUDGET) {
        stop.check()?;
        times.push(probe.run(&mut backend)?);
    }
    times.sort();
    Ok(Measurement {
        ran_on: backend.describe(),
        width,
        height,
        open_seconds,
        median_seconds: times[times.len() / 2].as_secs_f64(),
        best_seconds: times[0].as_secs_f64(),
        runs: times.len(),
        flops: flops(&graph),
        weight_bytes: backend.weight_bytes(),
        plan_bytes: backend.plan_bytes(),
        peak_bytes: peak_bytes(),
    })
}

/// The most memory that this process has had in use so far (`VmHWM` of Linux), if the system tells.
pub fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
