//! The choice among backends: measured once on the model at hand, then remembered.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use unfog_core::nn::graph::Graph;
use unfog_core::nn::weights::WeightData;

use super::{Kind, Precision, Request, cache};
use crate::bench::alone::{Bench, alone, trivial};
use crate::cost::node_flops;
use crate::error::Result;
use crate::model::{Model, Network};
use crate::stop::Stop;

/// The choice takes no longer than this, compilation of kernels included: no further layer is measured once one that takes as
/// long as the slowest before it would end later.
const LIMIT: Duration = Duration::from_secs(2);
/// Time for measuring a layer on a backend, after a run that doesn't count.
const BUDGET: Duration = Duration::from_millis(20);
/// Operations of a layer that a slow device makes in about a tenth of a second: of networks with larger ones, layers for smaller
/// pictures are compared.
const MOST_FLOPS: u64 = 200_000_000;
/// A GPU that is this many times slower than the CPU on the layers so far is given up.
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

/// A layer by the number of its first node, and how often it occurs.
type Layer = (usize, usize);

/// The different layers of a network, those first that have the most operations together.
fn layers(graph: &Graph<'_>) -> Vec<Layer> {
    let mut found: Vec<(String, Layer, u64)> = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let shapes = node.inputs.map(|id| id.map(|id| graph.shape(id)));
        let (key, flops) = (format!("{:?} {shapes:?}", node.op), node_flops(graph, node));
        match found.iter_mut().find(|(other, ..)| *other == key) {
            Some((_, (_, count), sum)) => (*count, *sum) = (*count + 1, *sum + flops),
            None => found.push((key, (index, 1), flops)),
        }
    }
    found.sort_by_key(|(.., flops)| std::cmp::Reverse(*flops));
    found.into_iter().map(|(_, layer, _)| layer).collect()
}

/// The times of both backends for some layers of a network, as often as they occur.
#[derive(Debug, PartialEq)]
struct Score {
    cpu: Duration,
    vulkan: Duration,
    layers: usize,
}

/// Measures layer by layer until the time is up or the GPU is hopeless. `time` measures a layer on a backend, `clock` says how long
/// the choice has taken so far.
fn contest(
    layers: &[Layer],
    clock: &dyn Fn() -> Duration,
    time: &mut dyn FnMut(Kind, usize) -> Result<Duration>,
) -> Result<Score> {
    let mut score = Score { cpu: Duration::ZERO, vulkan: Duration::ZERO, layers: 0 };
    let mut slowest = Duration::ZERO;
    for &(index, count) in layers {
        let begun = clock();
        if score.layers > 0 && begun + slowest > LIMIT {
            break;
        }
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        score.cpu += time(Kind::Cpu, index)?.saturating_mul(count);
        score.vulkan += time(Kind::Vulkan, index)?.saturating_mul(count);
        score.layers += 1;
        slowest = slowest.max(clock() - begun);
        if score.vulkan > score.cpu.mul_f64(HOPELESS) {
            break;
        }
    }
    Ok(score)
}

/// Measures the layers with the most operations on both backends.
fn compare(
    request: &Request,
    graph: Graph<'_>,
    weights: &[WeightData<'_>],
    device: String,
    stop: &Stop,
) -> Result<Measured> {
    let start = Instant::now();
    let [cpu, vulkan] = [Kind::Cpu, Kind::Vulkan].map(|kind| Bench::open(&request.chosen(kind)));
    let (cpu, vulkan) = (cpu?, vulkan?);
    // What any submission costs, which an evaluation pays once and not for every layer.
    let idle = vulkan.time(&trivial()?, &[], BUDGET, stop)?;
    let mut time = |kind: Kind, index: usize| {
        let ids = graph.nodes[index].weights.iter().flatten().map(|id| usize::from(id.0));
        let data: Vec<WeightData<'_>> = ids.filter_map(|id| weights.get(id).copied()).collect();
        let layer = alone(&graph, index)?;
        match kind {
            Kind::Vulkan => Ok(vulkan.time(&layer, &data, BUDGET, stop)?.saturating_sub(idle)),
            _ => cpu.time(&layer, &data, BUDGET, stop),
        }
    };
    let all = layers(&graph);
    let score = contest(&all, &|| start.elapsed(), &mut time)?;
    let size = graph.sample_shape().unwrap_or_default();
    let what = format!("{} of {} layers for {}x{}", score.layers, all.len(), size.w, size.h);
    let vulkan_seconds = (score.vulkan + idle).as_secs_f64();
    Ok(Measured { cpu_seconds: score.cpu.as_secs_f64(), vulkan_seconds, what, device })
}

/// The network for the largest pictures, of this size or halved as often as it takes, whose layers are measured quickly.
fn comparable(model: &Model, mut h: u32, mut w: u32) -> Result<Network> {
    let largest = |network: &Network| {
        let graph = network.graph();
        graph.nodes.iter().map(|node| node_flops(&graph, node)).max().unwrap_or(0)
    };
    let mut network = model.network(h, w)?;
    while largest(&network) > MOST_FLOPS && h.is_multiple_of(2) && w.is_multiple_of(2) {
        (h, w) = (h / 2, w / 2);
        match model.network(h, w) {
            Ok(smaller) => network = smaller,
            Err(_) => break,
        }
    }
    Ok(network)
}

/// The file name under which a decision is kept: it changes with whatever the decision depends on.
fn key(request: &Request, graph: &Graph<'_>, device: &str) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let shapes: Vec<_> = graph.tensors.iter().map(|t| t.shape).collect();
    let version = env!("CARGO_PKG_VERSION");
    let text =
        format!("{version} {device} {cores} {:?} {:?} {:?} {shapes:?}", request.threads, request.vram, graph.nodes);
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
    fn layers_that_cost_most_come_first() {
        let network = Model::open(None).unwrap().network(16, 16).unwrap();
        let graph = network.graph();
        let found = layers(&graph);
        assert_eq!(found.iter().map(|(_, count)| count).sum::<usize>(), graph.nodes.len());
        let cost = |&(index, count): &Layer| count as u64 * node_flops(&graph, &graph.nodes[index]);
        assert!(found.is_sorted_by_key(|layer| std::cmp::Reverse(cost(layer))));
        assert!(found.len() > 5 && cost(&found[0]) > 0);
    }

    /// A contest in which a GPU's kernel is compiled in `compile` and takes `vulkan`, all in a time that is only told.
    fn told(compile: Duration, cpu: Duration, vulkan: Duration) -> (Score, Duration) {
        let now = std::cell::Cell::new(Duration::ZERO);
        let mut time = |kind, _| {
            let (before, one) = if kind == Kind::Vulkan { (compile, vulkan) } else { (Duration::ZERO, cpu) };
            // One run that doesn't count, and then as many as the budget allows, one at least.
            now.set(now.get() + before + one + one.max(BUDGET));
            Ok(one)
        };
        let layers: Vec<Layer> = (0..40).map(|index| (index, 3)).collect();
        let score = contest(&layers, &|| now.get(), &mut time).unwrap();
        (score, now.get())
    }

    #[test]
    fn the_choice_is_over_in_time() {
        let ms = Duration::from_millis;
        for compile in [0, 5, 20, 100, 400, 700, 1000, 1500] {
            for (cpu, vulkan) in [(1, 1), (1, 100), (30, 20), (100, 1), (100, 100)] {
                let (score, took) = told(ms(compile), ms(cpu), ms(vulkan));
                assert!(took <= LIMIT && score.layers > 0, "{compile} {cpu} {vulkan}: {took:?}");
                assert_eq!(score.vulkan < score.cpu, vulkan < cpu);
            }
        }
        // A hopeless GPU is given up after one layer, a good one is measured as long as there is time.
        assert_eq!(told(ms(10), ms(1), ms(2)).0.layers, 1);
        assert!(told(ms(10), ms(2), ms(1)).0.layers > 10);
    }

    #[test]
    fn the_faster_is_chosen_and_the_reason_has_both_times() {
        let (what, device) = ("one evaluation".to_string(), "card".to_string());
        let chosen = Measured { cpu_seconds: 0.002, vulkan_seconds: 0.001, what, device }.choice("measured");
        assert_eq!(chosen.kind, Kind::Vulkan);
        assert_eq!(chosen.why, "measured, one evaluation: 2.0 ms on cpu, 1.0 ms on vulkan (card)");
    }
}
