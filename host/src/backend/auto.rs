//! The choice among backends: measured once on the model at hand, then remembered.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use unfog_core::nn::graph::Graph;
use unfog_core::nn::weights::WeightData;

use super::{Kind, Request, cache};
use crate::bench::alone::{Bench, alone, trivial};
use crate::cost::node_flops;
use crate::error::{Error, Result};
use crate::memory;
use crate::model::{Model, Network};
use crate::stop::Stop;

/// The choice takes no longer than this, compilation of kernels included: no further layer is measured once one that takes as
/// long as the slowest before it would end later, and a GPU without an answer by then is not waited for.
const LIMIT: Duration = Duration::from_secs(2);
/// Time for measuring a layer on a backend, after a run that doesn't count.
const BUDGET: Duration = Duration::from_millis(20);
/// Operations of a layer that a slow device makes in about a tenth of a second: of networks with larger ones, layers for smaller
/// pictures are compared.
const MOST_FLOPS: u64 = 200_000_000;
/// A GPU that is this many times slower than the CPU on the layers so far is given up.
const HOPELESS: f64 = 1.5;

/// Times that a GPU may give no answer before the CPU is taken without asking: its kernels may come from a cache the second time.
const TRIES: u32 = 2;

/// The backend that was chosen, and why.
#[derive(Debug)]
pub struct Chosen {
    /// The backend; not [`Kind::Auto`].
    pub kind: Kind,
    /// Why, for the user.
    pub why: String,
    /// What of the measurement is still under way.
    pub leftover: Leftover,
}

impl Chosen {
    fn new(kind: Kind, why: String) -> Self {
        Self { kind, why, leftover: Leftover::default() }
    }
}

/// The end of a measurement that was not waited for: a driver that compiles can't be stopped, nor may the process end before it. Dropping
/// it waits.
#[derive(Debug, Default)]
pub struct Leftover(Option<JoinHandle<()>>);

impl Drop for Leftover {
    fn drop(&mut self) {
        // What it found out, or whether it panicked, is of no interest any more.
        let _ = self.0.take().map(JoinHandle::join);
    }
}

/// What is remembered of a measurement.
#[derive(Serialize, Deserialize)]
struct Measured {
    cpu_seconds: f64,
    /// Nothing if there was no answer in time.
    vulkan_seconds: Option<f64>,
    /// How often it was measured.
    tries: u32,
    /// What was evaluated.
    what: String,
    device: String,
}

impl Measured {
    fn choice(&self, when: &str) -> Chosen {
        let Self { what, device, .. } = self;
        let cpu = self.cpu_seconds * 1e3;
        let Some(vulkan) = self.vulkan_seconds else {
            let limit = LIMIT.as_secs();
            let why = format!("{when}, {what}: {cpu:.1} ms on cpu, no answer in {limit} s from vulkan ({device})");
            return Chosen::new(Kind::Cpu, why);
        };
        let kind = if vulkan < self.cpu_seconds { Kind::Vulkan } else { Kind::Cpu };
        let vulkan = vulkan * 1e3;
        Chosen::new(kind, format!("{when}, {what}: {cpu:.1} ms on cpu, {vulkan:.1} ms on vulkan ({device})"))
    }
}

/// Chooses the backend for `network`, which `model` made for pictures of `h` rows and `w` columns.
///
/// # Errors
/// Only when the CPU backend itself fails, the run was stopped, or a device is asked for that is not there.
pub fn choose(
    request: &Request,
    model: &Model,
    (h, w): (u32, u32),
    weights: &[WeightData<'_>],
    stop: &Stop,
) -> Result<Chosen> {
    let vulkan = request.chosen(Kind::Vulkan);
    let device = match vulkan_device(&vulkan) {
        Ok(device) => device,
        Err(e) if request.device.is_some() => return Err(e),
        Err(e) => return Ok(Chosen::new(Kind::Cpu, e.to_string())),
    };
    let network = comparable(model, h, w)?;
    let graph = network.graph();
    let key = key(request, &graph, &device);
    let earlier = cache::load::<Measured>(&key);
    if let Some(measured) = earlier.as_ref().filter(|m| m.vulkan_seconds.is_some() || m.tries >= TRIES) {
        return Ok(measured.choice("measured earlier"));
    }
    let tries = earlier.map_or(0, |measured| measured.tries) + 1;
    match compare(request, graph, weights, device, stop) {
        Ok((measured, leftover)) => {
            let measured = Measured { tries, ..measured };
            cache::keep(&key, &measured);
            Ok(Chosen { leftover, ..measured.choice("measured") })
        }
        Err(e) if stop.asked() => Err(e),
        Err(e) => Ok(Chosen::new(Kind::Cpu, format!("the comparison failed: {e}"))),
    }
}

/// A layer by the number of its first node, and how often it occurs.
pub(super) type Layer = (usize, usize);

/// The different layers of a network, those first that have the most operations together.
pub(super) fn layers(graph: &Graph<'_>) -> Vec<Layer> {
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
    /// Nothing if there was no answer in time.
    vulkan: Option<Duration>,
    layers: usize,
}

/// Measures layer by layer until the time is up or the GPU is hopeless. `time` measures a layer on a backend, unless the answer would
/// come too late; `clock` says how long the choice has taken so far.
fn contest(
    layers: &[Layer],
    clock: &dyn Fn() -> Duration,
    time: &mut dyn FnMut(Kind, usize) -> Result<Option<Duration>>,
) -> Result<Score> {
    let mut score = Score { cpu: Duration::ZERO, vulkan: None, layers: 0 };
    let mut slowest = Duration::ZERO;
    for &(index, count) in layers {
        let begun = clock();
        if score.layers > 0 && begun + slowest > LIMIT {
            break;
        }
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let cpu = time(Kind::Cpu, index)?.unwrap_or(Duration::MAX).saturating_mul(count);
        let answer = time(Kind::Vulkan, index)?;
        if answer.is_none() && score.layers > 0 {
            break;
        }
        score.cpu = score.cpu.saturating_add(cpu);
        score.layers += 1;
        let Some(vulkan) = answer else { break };
        let vulkan = vulkan.saturating_mul(count).saturating_add(score.vulkan.unwrap_or_default());
        score.vulkan = Some(vulkan);
        slowest = slowest.max(clock() - begun);
        if vulkan > score.cpu.mul_f64(HOPELESS) {
            break;
        }
    }
    Ok(score)
}

/// A layer as a network of its own, with its weights.
type Job = (Network, Vec<Vec<f32>>);

/// A GPU that is measured on a thread of its own, so that nobody has to wait for it.
struct Aside {
    jobs: Sender<Job>,
    answers: Receiver<Result<Duration>>,
    thread: JoinHandle<()>,
    stop: Stop,
}

impl Aside {
    fn start(request: Request) -> Self {
        let (jobs, todo) = channel::<Job>();
        let (answer, answers) = channel();
        let stop = Stop::default();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let measure = || {
                let gpu = Bench::open(&request)?;
                // What any submission costs, which an evaluation pays once and not for every layer.
                let idle = gpu.time(&trivial()?, &[], BUDGET, &stopped)?;
                for (layer, weights) in &todo {
                    let weights: Vec<WeightData<'_>> = weights.iter().map(|w| WeightData::F32(w)).collect();
                    let time = gpu.time(&layer, &weights, BUDGET, &stopped)?.saturating_sub(idle);
                    if answer.send(Ok(time)).is_err() {
                        break;
                    }
                }
                Ok(())
            };
            if let Err(e) = measure() {
                // Nobody may be listening any more.
                let _ = answer.send(Err(e));
            }
        });
        Self { jobs, answers, thread, stop }
    }

    /// The time of a layer, unless it takes longer than `limit` to find out.
    fn time(&self, job: Job, limit: Duration) -> Result<Option<Duration>> {
        let gone = || Error::failure("the GPU could not be measured");
        // A thread that has ended left its error.
        let _ = self.jobs.send(job);
        match self.answers.recv_timeout(limit) {
            Ok(answer) => answer.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }

    fn end(self) -> Leftover {
        self.stop.ask();
        Leftover(Some(self.thread))
    }
}

/// Measures the layers with the most operations on both backends.
fn compare(
    request: &Request,
    graph: Graph<'_>,
    weights: &[WeightData<'_>],
    device: String,
    stop: &Stop,
) -> Result<(Measured, Leftover)> {
    let start = Instant::now();
    let vulkan = Aside::start(request.chosen(Kind::Vulkan));
    let cpu = Bench::open(&request.chosen(Kind::Cpu))?;
    let mut time = |kind: Kind, index: usize| {
        let ids = graph.nodes[index].weights.iter().flatten().map(|id| usize::from(id.0));
        let data: Vec<WeightData<'_>> = ids.filter_map(|id| weights.get(id).copied()).collect();
        let layer = alone(&graph, index)?;
        if kind == Kind::Vulkan {
            let copies = data.iter().map(|w| memory::collect((0..w.len()).map(|i| w.at(i)))).collect::<Result<_>>()?;
            return vulkan.time((layer, copies), LIMIT.saturating_sub(start.elapsed()));
        }
        cpu.time(&layer, &data, BUDGET, stop).map(Some)
    };
    let all = layers(&graph);
    let score = contest(&all, &|| start.elapsed(), &mut time);
    let leftover = vulkan.end();
    let score = score?;
    let size = graph.sample_shape().unwrap_or_default();
    let what = format!("{} of {} layers for {}x{}", score.layers, all.len(), size.w, size.h);
    let (cpu_seconds, vulkan_seconds) = (score.cpu.as_secs_f64(), score.vulkan.map(|time| time.as_secs_f64()));
    Ok((Measured { cpu_seconds, vulkan_seconds, tries: 0, what, device }, leftover))
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
    let Request { precision, threads, vram, .. } = request;
    let text = format!("{version} {device} {cores} {precision:?} {threads:?} {vram:?} {:?} {shapes:?}", graph.nodes);
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
            let end = now.get() + before + one + one.max(BUDGET);
            let late = kind == Kind::Vulkan && end > LIMIT;
            now.set(if late { LIMIT.max(now.get()) } else { end });
            Ok((!late).then_some(one))
        };
        let layers: Vec<Layer> = (0..40).map(|index| (index, 3)).collect();
        let score = contest(&layers, &|| now.get(), &mut time).unwrap();
        (score, now.get())
    }

    #[test]
    fn the_choice_is_over_in_time() {
        let ms = Duration::from_millis;
        for compile in [0, 5, 20, 100, 400, 700, 1000, 1500, 1900, 5000] {
            for (cpu, vulkan) in [(1, 1), (1, 100), (30, 20), (100, 1), (100, 100)] {
                let (score, took) = told(ms(compile), ms(cpu), ms(vulkan));
                assert!(took <= LIMIT && score.layers > 0, "{compile} {cpu} {vulkan}: {took:?}");
                match score.vulkan {
                    Some(time) => assert_eq!(time < score.cpu, vulkan < cpu),
                    None => assert!(compile > 1000, "{compile} {cpu} {vulkan}"),
                }
            }
        }
        // A hopeless GPU is given up after one layer, a good one is measured as long as there is time.
        assert_eq!(told(ms(10), ms(1), ms(2)).0.layers, 1);
        assert!(told(ms(10), ms(2), ms(1)).0.layers > 10);
    }

    #[test]
    fn the_faster_is_chosen_and_the_reason_has_both_times() {
        let measured = |vulkan_seconds| {
            let (what, device) = ("one layer".to_string(), "card".to_string());
            Measured { cpu_seconds: 0.002, vulkan_seconds, tries: 1, what, device }.choice("measured")
        };
        let chosen = measured(Some(0.001));
        assert_eq!(chosen.kind, Kind::Vulkan);
        assert_eq!(chosen.why, "measured, one layer: 2.0 ms on cpu, 1.0 ms on vulkan (card)");
        assert_eq!(measured(Some(0.003)).kind, Kind::Cpu);
        let chosen = measured(None);
        assert_eq!(chosen.kind, Kind::Cpu);
        assert_eq!(chosen.why, "measured, one layer: 2.0 ms on cpu, no answer in 2 s from vulkan (card)");
    }
}
