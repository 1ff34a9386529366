//! Nodes of a network by themselves: each with its shapes and weights as a network of its own.

use std::time::{Duration, Instant};

use unfog_core::nn::exec::Exec;
use unfog_core::nn::graph::{Graph, GraphError, Input, Weight};
use unfog_core::nn::op::{Affine, MAX_INPUTS, MAX_WEIGHTS, Op, Shape};
use unfog_core::nn::plan::{Slot, Target, plan, slots_needed};
use unfog_core::nn::weights::WeightData;

use crate::backend::{Kind, Request, cpu_options, not_a_backend};
use crate::cpu::CpuDenoiser;
use crate::error::{Error, Result};
use crate::model::Network;
use crate::stop::Stop;

/// The most runs of a node.
const RUNS: usize = 50;

/// Where nodes run.
pub(crate) enum Bench {
    Reference,
    Cpu(Request),
    #[cfg(feature = "vulkan")]
    Vulkan(unfog_gpu::Context, unfog_gpu::Precision),
}

impl Bench {
    /// The backend that `request` names.
    pub(crate) fn open(request: &Request) -> Result<Self> {
        request.check()?;
        match request.kind {
            Kind::Auto => Err(not_a_backend()),
            Kind::Reference => Ok(Self::Reference),
            Kind::Cpu => Ok(Self::Cpu(request.clone())),
            #[cfg(feature = "vulkan")]
            Kind::Vulkan => {
                let (context, precision) = crate::backend::vulkan::open(request)?;
                Ok(Self::Vulkan(context, precision))
            }
            #[cfg(not(feature = "vulkan"))]
            Kind::Vulkan => Err(crate::backend::without_vulkan()),
        }
    }

    /// Whether the processor does the work.
    pub(crate) fn is_software(&self) -> bool {
        match self {
            Self::Reference | Self::Cpu(_) => true,
            #[cfg(feature = "vulkan")]
            Self::Vulkan(context, _) => context.info().kind == unfog_gpu::DeviceKind::Cpu,
        }
    }

    /// The median time, over about `budget`, of the last node of a network that [`alone`] made, after one run that doesn't count. On
    /// Vulkan each run is a submission of its own, which counts.
    ///
    /// # Errors
    /// Those of the backend; [`Error::interrupted`].
    pub(crate) fn time(
        &self,
        network: &Network,
        weights: &[WeightData<'_>],
        budget: Duration,
        stop: &Stop,
    ) -> Result<Duration> {
        let graph = network.graph();
        let last = graph.nodes.len() - 1;
        let failed = |e: String| Error::failure(format!("a node could not be run by itself: {e}"));
        let inputs = || graph.inputs().map(|(id, _, shape)| (id, values(&graph, shape)));
        match self {
            Self::Reference => {
                let mut slots = vec![Slot::default(); slots_needed(&graph)];
                let plan = plan(&graph, &Target::STORED, &mut slots).map_err(|e| failed(format!("{e:?}")))?;
                let exec = Exec::new(graph, plan, weights).map_err(|e| failed(format!("{e:?}")))?;
                let mut arena = vec![0.0; exec.arena_len()];
                for (id, values) in inputs() {
                    let space = exec.tensor_mut(&mut arena, id).ok_or_else(|| failed("it lacks an input".into()))?;
                    space.copy_from_slice(&values);
                }
                exec.run_node(last, &mut arena).map_err(|e| failed(format!("{e:?}")))?;
                median(budget, stop, || exec.run_node(last, &mut arena).map_err(|e| failed(format!("{e:?}"))))
            }
            Self::Cpu(request) => {
                let failed = |e: crate::cpu::CpuError| failed(e.to_string());
                let mut cpu = CpuDenoiser::new(graph, weights, cpu_options(request, &graph)).map_err(failed)?;
                for (id, values) in inputs() {
                    cpu.set_input(id, &values).map_err(failed)?;
                }
                cpu.execute().map_err(failed)?;
                median(budget, stop, || cpu.execute().map(drop).map_err(failed))
            }
            #[cfg(feature = "vulkan")]
            Self::Vulkan(context, precision) => {
                let failed = |e: unfog_gpu::GpuError| failed(e.to_string());
                let options =
                    unfog_gpu::Options { precision: *precision, max_images: 1, ..unfog_gpu::Options::default() };
                let mut gpu = unfog_gpu::Network::new(context, &graph, weights, options).map_err(failed)?;
                for (id, values) in inputs() {
                    gpu.set_input(id, 0, &values).map_err(failed)?;
                }
                // Sends the inputs, and is the run that doesn't count.
                gpu.execute().map_err(failed)?;
                median(budget, stop, || gpu.run_nodes(last..last + 1).map_err(failed))
            }
        }
    }
}

/// The median of as many runs as `budget` allows, one at least.
fn median(budget: Duration, stop: &Stop, mut run: impl FnMut() -> Result<()>) -> Result<Duration> {
    let (start, mut times) = (Instant::now(), Vec::with_capacity(RUNS));
    while times.is_empty() || (times.len() < RUNS && start.elapsed() < budget) {
        stop.check()?;
        let start = Instant::now();
        run()?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

/// Values of the size of noise; zeros where a table's row is looked up.
fn values(graph: &Graph<'_>, shape: Shape) -> Vec<f32> {
    let index = graph.nodes.iter().any(|node| matches!(node.op, Op::Embedding(_)));
    (0..shape.len()).map(|i| if index { 0.0 } else { (i % 7) as f32 / 3.0 - 1.0 }).collect()
}

/// Node `index` of `graph` as a network of its own; its weights are those of the node, in order.
///
/// # Errors
/// No such node.
pub(crate) fn alone(graph: &Graph<'_>, index: usize) -> Result<Network> {
    let node = graph.nodes.get(index).ok_or_else(|| Error::failure("there is no such node"))?;
    let weights = node.weights.map(|id| id.map(|id| graph.weights[usize::from(id.0)]));
    single(node.op, node.inputs.map(|id| id.map(|id| graph.shape(id))), weights)
}

/// A network of one node of `op`, behind one that computes next to nothing: what follows a first node can run without sending
/// the inputs again.
///
/// # Errors
/// Operands that don't fit the op.
pub(crate) fn single(
    op: Op,
    inputs: [Option<Shape>; MAX_INPUTS],
    weights: [Option<Weight>; MAX_WEIGHTS],
) -> Result<Network> {
    Network::build(|mut g, _| {
        let mut first = [None; MAX_INPUTS];
        first[0] = Some(g.input(Input::Embedding, Shape::vector(4))?);
        g.node(Op::Affine(Affine::new(0.5, 0.0)), first, [None; MAX_WEIGHTS])?;
        let mut tensors = [None; MAX_INPUTS];
        for (tensor, shape) in tensors.iter_mut().zip(inputs) {
            *tensor = shape.map(|shape| g.input(Input::Embedding, shape)).transpose()?;
        }
        let mut ids = [None; MAX_WEIGHTS];
        for (id, weight) in ids.iter_mut().zip(weights) {
            *id = weight.map(|w| g.weight(w.shape, w.role)).transpose()?;
        }
        let output = g.node(op, tensors, ids)?;
        Ok(g.finish(output))
    })
    .map_err(|e: GraphError| Error::failure(format!("a node is no network by itself: {e:?}")))
}

/// A network that computes next to nothing: what a run costs in any case.
///
/// # Errors
/// None, as long as the op takes what it is given.
pub(crate) fn trivial() -> Result<Network> {
    single(Op::Affine(Affine::new(0.5, 0.0)), [Some(Shape::vector(4)), None, None], [None; MAX_WEIGHTS])
}
