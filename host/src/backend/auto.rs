//! The choice among backends: measured once on the model at hand, then remembered.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use unfog_core::nn::graph::Graph;
use unfog_core::nn::weights::WeightData;

use super::{Backend, Kind, Precision, Request, cache};
use crate::cost::flops;
use crate::error::Result;
use crate::model::{Model, Network};
use crate::probe::Probe;
use crate::stop::Stop;

/// Time that a backend may take for its measurements after the first evaluation.
const BUDGET: Duration = Duration::from_millis(400);
/// Operations of an evaluation that a slow board makes in less than about half a second: larger networks are compared on
/// smaller pictures.
const MOST_FLOPS: u64 = 4_000_000_000;
/// A GPU that is this many times slower than the CPU at the first evaluation is not measured further.
const HOPELESS: f64 = 1.5;

/// The backend that was chosen, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The backend; not [`Kind::Auto`].
    pub kind: Kind,
    /// Why, for the user.
    pub why: String,
}

/// What is remembered of a measurement.
#[derive(Serialize, Deserialize)]
struct Measured {
    cpu_seconds: f64,
    vulkan_seconds: f64,
    device: String,
}

impl Measured {
    fn choice(&self, when: &str) -> Chosen {
        let kind = if self.vulkan_seconds < self.cpu_seconds { Kind::Vulkan } else { Kind::Cpu };
        let (cpu, vulkan) = (self.cpu_seconds * 1e3, self.vulkan_seconds * 1e3);
        let why =
            format!("{when}: one evaluation takes {cpu:.1} ms on cpu, {vulkan:.1} ms on vulkan ({})", self.device);
        Chosen { kind, why }
    }
}

/// Chooses the backend for `network`, which `model` made for pictures of `h` rows and `w` columns.
///
/// # Errors
/// Only when the CPU backend itself fails, the run was stopped, or f16 is asked for where there is no GPU.
pub fn choose(
    request: &Request,
    model: &Model,
    (h, w): (u32, u32),
    weights: &[WeightData<'_>],
    stop: &Stop,
) -> Result<Chosen> {
    let vulkan = request.chosen(Kind::Vulkan);
    let device = match vulkan_device(&vulkan) {
        Ok(device) if request.precision == Precision::F16 => {
            return Ok(Chosen { kind: Kind::Vulkan, why: format!("f16 is for GPUs alone ({device})") });
        }
        Ok(device) => device,
        Err(e) if request.precision == Precision::F16 || request.device.is_some() => return Err(e),
        Err(e) => return Ok(Chosen { kind: Kind::Cpu, why: e.to_string() }),
    };
    let network = comparable(model, h, w)?;
    let graph = network.graph();
    let key = key(request, &graph, &device);
    if let Some(measured) = cache::load::<Measured>(&key) {
        return Ok(measured.choice("measured earlier"));
    }
    let cpu = request.chosen(Kind::Cpu);
    let cpu_time = measure(&cpu, graph, weights, stop, None)?;
    let vulkan_time = match measure(&vulkan, graph, weights, stop, Some(cpu_time.mul_f64(HOPELESS))) {
        Ok(time) => time,
        Err(e) if stop.asked() => return Err(e),
        Err(e) => return Ok(Chosen { kind: Kind::Cpu, why: format!("vulkan failed: {e}") }),
    };
    let measured = Measured { cpu_seconds: cpu_time.as_secs_f64(), vulkan_seconds: vulkan_time.as_secs_f64(), device };
    cache::keep(&key, &measured);
    Ok(measured.choice("measured"))
}

/// The network for the largest pictures, of this size or halved as often as it takes, that are compared quickly.
fn comparable(model: &Model, mut h: u32, mut w: u32) -> Result<Network> {
    let mut network = model.network(h, w)?;
    while flops(&network.graph()) > MOST_FLOPS && h.is_multiple_of(2) && w.is_multiple_of(2) {
        (h, w) = (h / 2, w / 2);
        match model.network(h, w) {
            Ok(smaller) => network = smaller,
            Err(_) => break,
        }
    }
    Ok(network)
}

/// The best of a few evaluations of one image, after one that doesn't count; the first that counts decides when it is slower
/// than `hopeless`.
fn measure(
    request: &Request,
    graph: Graph<'_>,
    weights: &[WeightData<'_>],
    stop: &Stop,
    hopeless: Option<Duration>,
) -> Result<Duration> {
    let mut backend = Backend::open(request, graph, weights, stop)?;
    let mut probe = Probe::new(&graph, 1)?;
    let start = Instant::now();
    // A first evaluation pays for caches and page faults, but one this slow won't become fast.
    let first = probe.run(&mut backend)?;
    if hopeless.is_some_and(|limit| first > 4 * limit) {
        return Ok(first);
    }
    let mut best = probe.run(&mut backend)?;
    while start.elapsed() < BUDGET && hopeless.is_none_or(|limit| best <= limit) {
        best = best.min(probe.run(&mut backend)?);
    }
    Ok(best)
}

/// The file name under which a decision is kept: it changes with whatever the decision depends on.
fn key(request: &Request, graph: &Graph<'_>, device: &str) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let shapes: Vec<_> = graph.tensors.iter().map(|t| t.shape).collect();
    let version = env!("CARGO_PKG_VERSION");
    let text = format!("{version} {device} {cores} {:?} {:?} {shapes:?}", request.threads, graph.nodes);
    let hash = Sha256::digest(text.as_bytes());
    let digits: String = hash.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("auto-{digits}")
}

/// The device that a request would take, with its driver.
#[cfg(feature = "vulkan")]
fn vulkan_device(request: &Request) -> Result<String> {
    super::vulkan::device(request)
}

#[cfg(not(feature = "vulkan"))]
fn vulkan_device(_: &Request) -> Result<String> {
    Err(super::without_vulkan())
}
