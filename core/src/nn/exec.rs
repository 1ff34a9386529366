//! Runs a graph with the ops' twins, one node a call: a caller can feed its watchdog or stop between nodes.

use super::graph::{Graph, Node, TensorId};
use super::op::{Op, Shape};
use super::plan::Plan;
use super::weights::WeightData;

/// Why a graph can't be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecError {
    /// The arena is too small; the number of f32 values needed.
    Arena(usize),
    /// Weight `index` is missing or has another number of values than the graph says.
    Weight(usize),
    /// Node `index` lacks an operand, or the plan lets its operands overlap: the graph or plan is not one of this crate's.
    Node(usize),
}

/// A graph bound to its plan and weights, for one image at a time.
#[derive(Clone, Copy, Debug)]
pub struct Exec<'a> {
    graph: Graph<'a>,
    plan: Plan<'a>,
    weights: &'a [WeightData<'a>],
}

impl<'a> Exec<'a> {
    /// Checks every weight's length. The plan must be for [`super::plan::Target::REFERENCE`] or one with as little padding.
    ///
    /// # Errors
    /// [`ExecError::Weight`].
    pub fn new(graph: Graph<'a>, plan: Plan<'a>, weights: &'a [WeightData<'a>]) -> Result<Self, ExecError> {
        for (i, weight) in graph.weights.iter().enumerate() {
            if weights.get(i).map(|w| w.len() as u64) != Some(weight.len()) {
                return Err(ExecError::Weight(i));
            }
        }
        Ok(Self { graph, plan, weights })
    }

    /// The graph.
    pub fn graph(&self) -> &Graph<'a> {
        &self.graph
    }

    /// The weights, in the graph's order.
    pub fn weights(&self) -> &'a [WeightData<'a>] {
        self.weights
    }

    /// How many f32 values the arena must hold.
    pub fn arena_len(&self) -> usize {
        usize::try_from(self.plan.bytes / 4).unwrap_or(usize::MAX)
    }

    fn range(&self, id: TensorId) -> (usize, usize) {
        let start = (self.plan.tensor(id).offset / 4) as usize;
        (start, start + self.graph.shape(id).len() as usize)
    }

    /// The values of a tensor: valid between its node and its last use.
    pub fn tensor<'b>(&self, arena: &'b [f32], id: TensorId) -> Option<&'b [f32]> {
        let (start, end) = self.range(id);
        arena.get(start..end)
    }

    /// The values of a tensor, to fill an input.
    pub fn tensor_mut<'b>(&self, arena: &'b mut [f32], id: TensorId) -> Option<&'b mut [f32]> {
        let (start, end) = self.range(id);
        arena.get_mut(start..end)
    }

    /// Runs node `index`; its inputs must hold their values.
    ///
    /// # Errors
    /// [`ExecError::Arena`] and [`ExecError::Node`].
    pub fn run_node(&self, index: usize, arena: &mut [f32]) -> Result<(), ExecError> {
        if arena.len() < self.arena_len() {
            return Err(ExecError::Arena(self.arena_len()));
        }
        let node = self.graph.nodes.get(index).ok_or(ExecError::Node(index))?;
        self.dispatch(node, arena).ok_or(ExecError::Node(index))
    }

    fn dispatch(&self, node: &Node, arena: &mut [f32]) -> Option<()> {
        let (start, end) = self.range(node.output);
        let (before, rest) = arena.split_at_mut_checked(start)?;
        let (out, after) = rest.split_at_mut_checked(end - start)?;
        let read = |i: usize| -> Option<&[f32]> {
            let (from, to) = self.range(node.inputs[i]?);
            if to <= start { before.get(from..to) } else { after.get(from.checked_sub(end)?..to.checked_sub(end)?) }
        };
        let shape = |i: usize| -> Option<Shape> { node.inputs[i].map(|id| self.graph.shape(id)) };
        let weight = |i: usize| node.weights[i].and_then(|id| self.weights.get(usize::from(id.0)).copied());
        let os = self.graph.shape(node.output);
        match node.op {
            Op::Conv2d(op) => {
                op.run(read(0)?, shape(0)?, read(1), read(2), weight(0)?, weight(1), out, os);
            }
            Op::GroupNorm(op) => op.run(read(0)?, shape(0)?, read(1), weight(0)?, weight(1)?, out),
            Op::Attention(op) => op.run(read(0)?, shape(0)?, read(1)?, read(2)?, out),
            Op::Upsample(op) => op.run(read(0)?, shape(0)?, out, os),
            Op::AvgPool(op) => op.run(read(0)?, shape(0)?, out, os),
            Op::Concat(op) => op.run(read(0)?, shape(0)?.c, read(1)?, shape(1)?.c, out),
            Op::Embedding(op) => op.run(read(0)?, weight(0)?, out),
            Op::Affine(op) => op.run(read(0)?, read(1), out),
        }
        Some(())
    }
}
