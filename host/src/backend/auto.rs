//! The choice among backends: measured once on the model at hand, then remembered.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use unfog_core::nn::graph::Graph;
use unfog_core::nn::weights::WeightData;

use super::{Backend, Kind, Precision, Request, cache};
use crate::cost::{flops, node_flops};
use crate::error::Result;
use crate::model::{Model, Network};
use crate::probe::Probe;
use crate::stop::Stop;

/// Time for measuring a backend, after the evaluations that warm it up.
const BUDGET: Duration = Duration::from_millis(300);
/// Operations of an evaluation that a slow board makes in less than about half a second: larger networks are compared on
/// smaller pictures.
const MOST_FLOPS: u64 = 4_000_000_000;
/// The share of a network's operations that its first layers have, which are measured first.
const FIRST_LAYERS: u64 = 8;
/// A GPU that is this many times slower than the CPU on the first layers is given up: compiling the kernels of the others
/// would take seconds. They are not the whole network, hence not 1.
const HOPELESS_AT_FIRST: f64 = 3.0;
/// A GPU that is this many times slower than the CPU at one whole evaluation is not measured further.
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
    /// What was evaluated.
    what: String,
    device: String,
}

impl Measured {
    fn choice(&self, when: &str) -> Chosen {
        let kind = if self.vulkan_seconds < self.cpu_seconds { Kind::Vulkan } else { Kind::Cpu };
        let Self { what, device, .. } = self;
        let (cpu, vulkan) = (self.cpu_seconds * 1e3, self.vulkan_seconds * 1e3);
        let why = format!("{when}, {what}: {cpu:.1} ms on cpu, {vulkan:.1} ms on vulkan ({device})");
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
    match compare(request, graph, weights, device, stop) {
        Ok(measured) => {
            cache::keep(&key, &measured);
            Ok(measured.choice("measured"))
        }
        Err(e) if stop.asked() => Err(e),
        Err(e) => Ok(Chosen { kind: Kind::Cpu, why: format!("the comparison failed: {e}") }),
    }
}

/// Measures both backends, on the first layers and, unless that has settled it, on the whole network.
fn compare(
    request: &Request,
    graph: Graph<'_>,
    weights: &[WeightData<'_>],
    device: String,
    stop: &Stop,
) -> Result<Measured> {
    let (cpu, vulkan) = (request.chosen(Kind::Cpu), request.chosen(Kind::Vulkan));
    let first = first_layers(graph);
    let cpu_time = measure(&cpu, first, weights, stop, None)?;
    let limit = cpu_time.mul_f64(HOPELESS_AT_FIRST);
    let vulkan_time = measure(&vulkan, first, weights, stop, Some(limit))?;
    let measured = |cpu: Duration, vulkan: Duration, what| Measured {
        cpu_seconds: cpu.as_secs_f64(),
        vulkan_seconds: vulkan.as_secs_f64(),
        what,
        device,
    };
    if vulkan_time > limit {
        let what = format!("the first {} of {} layers", first.nodes.len(), graph.nodes.len());
        return Ok(measured(cpu_time, vulkan_time, what));
    }
    let cpu_time = measure(&cpu, graph, weights, stop, None)?;
    let vulkan_time = measure(&vulkan, graph, weights, stop, Some(cpu_time.mul_f64(HOPELESS)))?;
    let size = graph.sample_shape().unwrap_or_default();
    Ok(measured(cpu_time, vulkan_time, format!("one evaluation of {}x{}", size.w, size.h)))
}

/// The graph's beginning, up to a share of its operations, as a graph.
fn first_layers(graph: Graph<'_>) -> Graph<'_> {
    let enough = flops(&graph) / FIRST_LAYERS;
    let mut sum = 0;
    let last = graph.nodes.iter().position(|node| {
        sum += node_flops(&graph, node);
        sum > enough
    });
    let nodes = &graph.nodes[..last.map_or(graph.nodes.len(), |last| last + 1)];
    // Ids are given in the order of the nodes, so what these nodes use comes first too.
    let weights =
        nodes.iter().flat_map(|node| node.weights).flatten().map(|id| usize::from(id.0) + 1).max().unwrap_or(0);
    let output = nodes.last().map_or(graph.output, |node| node.output);
    Graph { nodes, tensors: &graph.tensors[..=usize::from(output.0)], weights: &graph.weights[..weights], output }
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

/// The best of a few evaluations of one image, after two that don't count: kernels are compiled, caches filled. If the first
/// that counts takes longer than `hopeless`, it is the only one.
fn measure(
    request: &Request,
    graph: Graph<'_>,
    weights: &[WeightData<'_>],
    stop: &Stop,
    hopeless: Option<Duration>,
) -> Result<Duration> {
    let mut backend = Backend::open(request, graph, &weights[..graph.weights.len()], stop)?;
    let mut probe = Probe::new(&graph, 1, &mut backend)?;
    probe.run(&mut backend)?;
    probe.run(&mut backend)?;
    let start = Instant::now();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_layers_are_a_network() {
        let model = Model::open(None).unwrap();
        let network = model.network(16, 16).unwrap();
        let weights = model.weights(&network).unwrap();
        let data = weights.data();
        let (whole, first) = (network.graph(), first_layers(network.graph()));
        assert!(first.nodes.len() < whole.nodes.len() && first.weights.len() < whole.weights.len());
        assert!(flops(&first) >= flops(&whole) / FIRST_LAYERS);
        for kind in [Kind::Cpu, Kind::Reference] {
            let request = Request { kind, ..Request::default() };
            let time = measure(&request, first, &data, &Stop::default(), Some(Duration::ZERO)).unwrap();
            assert!(time > Duration::ZERO);
        }
    }

    #[test]
    fn the_faster_is_chosen_and_the_reason_has_both_times() {
        let (what, device) = ("one evaluation".to_string(), "card".to_string());
        let chosen = Measured { cpu_seconds: 0.002, vulkan_seconds: 0.001, what, device }.choice("measured");
        assert_eq!(chosen.kind, Kind::Vulkan);
        assert_eq!(chosen.why, "measured, one evaluation: 2.0 ms on cpu, 1.0 ms on vulkan (card)");
    }
}
