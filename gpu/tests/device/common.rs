//! Graphs of one op with random operands, run on the device and by the reference.

use unfog_core::nn::exec::Exec;
use unfog_core::nn::graph::{
    EMPTY_NODE, EMPTY_TENSOR, EMPTY_WEIGHT, Graph, GraphBuilder, Input, Node, Tensor, TensorId, Weight, WeightUse,
};
use unfog_core::nn::op::{Op, Shape};
use unfog_core::nn::plan::{Slot, Target, plan, slots_needed};
use unfog_core::nn::weights::WeightData;
use unfog_gpu::{Context, DeviceChoice, GpuError};

/// A context with validation; `None` (and a line that says so) without a driver, unless REQUIRE_GPU=1.
pub(crate) fn context(test: &str) -> Option<Context> {
    match Context::open_validated(&DeviceChoice::Auto, None) {
        Ok(context) => Some(context),
        Err(error @ (GpuError::Loader(_) | GpuError::NoDevice)) => {
            assert!(std::env::var("REQUIRE_GPU").as_deref() != Ok("1"), "{test}: {error}");
            eprintln!("SKIPPED {test}: {error}");
            None
        }
        Err(error) => panic!("{test}: {error}"),
    }
}

/// Uniform in [-1, 1): a linear congruential generator (Knuth's MMIX constants), upper bits.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn value(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }

    pub(crate) fn values(&mut self, len: u64) -> Vec<f32> {
        (0..len).map(|_| self.value()).collect()
    }
}

/// Memory of a graph with one node.
pub(crate) struct One {
    pub(crate) nodes: [Node; 1],
    pub(crate) tensors: [Tensor; 4],
    pub(crate) weights: [Weight; 2],
    used: [usize; 3],
    output: TensorId,
}

impl One {
    pub(crate) fn new(op: Op, inputs: &[Option<Shape>], weights: &[Option<([u32; 4], WeightUse)>]) -> Self {
        let mut one = Self {
            nodes: [EMPTY_NODE; 1],
            tensors: [EMPTY_TENSOR; 4],
            weights: [EMPTY_WEIGHT; 2],
            used: [0; 3],
            output: TensorId(0),
        };
        let mut builder = GraphBuilder::new(&mut one.nodes, &mut one.tensors, &mut one.weights);
        let mut operands = [None; 3];
        for (operand, shape) in operands.iter_mut().zip(inputs) {
            *operand = shape.map(|s| builder.input(Input::Sample, s).unwrap());
        }
        let mut ids = [None; 2];
        for (id, weight) in ids.iter_mut().zip(weights) {
            *id = weight.map(|(shape, role)| builder.weight(shape, role).unwrap());
        }
        let output = builder.node(op, operands, ids).unwrap();
        let graph = builder.finish(output);
        let used = [graph.nodes.len(), graph.tensors.len(), graph.weights.len()];
        (one.used, one.output) = (used, output);
        one
    }

    pub(crate) fn graph(&self) -> Graph<'_> {
        Graph {
            nodes: &self.nodes[..self.used[0]],
            tensors: &self.tensors[..self.used[1]],
            weights: &self.weights[..self.used[2]],
            output: self.output,
        }
    }
}

/// The graph's output by the reference, for inputs in the order of their ids.
pub(crate) fn reference(graph: &Graph<'_>, weights: &[WeightData<'_>], inputs: &[Vec<f32>]) -> Vec<f32> {
    let mut slots = vec![Slot::default(); slots_needed(graph)];
    let plan = plan(graph, &Target::REFERENCE, &mut slots).unwrap();
    let exec = Exec::new(*graph, plan, weights).unwrap();
    let mut arena = vec![0.0; exec.arena_len()];
    for ((id, _, _), values) in graph.inputs().zip(inputs) {
        exec.tensor_mut(&mut arena, id).unwrap().copy_from_slice(values);
    }
    for i in 0..graph.nodes.len() {
        exec.run_node(i, &mut arena).unwrap();
    }
    exec.tensor(&arena, graph.output).unwrap().to_vec()
}

/// `|a - b| / |b|` in the Euclidean norm.
pub(crate) fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let difference: f64 = a.iter().zip(b).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    let norm: f64 = b.iter().map(|&b| square(f64::from(b))).sum();
    (difference / norm.max(1e-30)).sqrt()
}
