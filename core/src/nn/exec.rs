//! Runs a network with the ops' twins, one node a call: a caller can feed its watchdog or stop between nodes.

use super::graph::{Graph, Node, TensorId};
use super::op::Op;
use super::plan::Plan;
use super::program::Program;
use super::view::{Normalised, View};
use super::weights::WeightData;
use crate::pack::{Pack, PackError};

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

/// A network bound to its plan and weights, for one image at a time.
#[derive(Clone, Copy, Debug)]
pub struct Exec<'a> {
    program: Program<'a>,
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
        Ok(Self { program: Program::Planned { graph, plan, weights } })
    }

    /// A network that is read where it lies in a pack. Goes over all of it once ([`Pack::check`]).
    ///
    /// # Errors
    /// Those of [`Pack::check`].
    pub fn packed(pack: Pack<'a>) -> Result<Self, PackError> {
        pack.check()?;
        Ok(Self { program: Program::Packed(pack) })
    }

    /// What is run.
    pub fn program(&self) -> &Program<'a> {
        &self.program
    }

    /// How many f32 values the arena must hold.
    pub fn arena_len(&self) -> usize {
        self.program.arena_len()
    }

    /// The values of a tensor that is stored: valid between its node and its last use.
    pub fn tensor<'b>(&self, arena: &'b [f32], id: TensorId) -> Option<&'b [f32]> {
        let place = self.program.place(id).filter(|place| !place.lazy)?;
        arena.get(place.start..place.end())
    }

    /// The values of a tensor, to fill an input.
    pub fn tensor_mut<'b>(&self, arena: &'b mut [f32], id: TensorId) -> Option<&'b mut [f32]> {
        let place = self.program.place(id).filter(|place| !place.lazy)?;
        arena.get_mut(place.start..place.end())
    }

    /// Runs node `index`; its inputs must hold their values.
    ///
    /// # Errors
    /// [`ExecError::Arena`] and [`ExecError::Node`].
    pub fn run_node(&self, index: usize, arena: &mut [f32]) -> Result<(), ExecError> {
        if arena.len() < self.arena_len() {
            return Err(ExecError::Arena(self.arena_len()));
        }
        let node = self.program.node(index).ok_or(ExecError::Node(index))?;
        self.dispatch(&node, arena).ok_or(ExecError::Node(index))
    }

    fn dispatch(&self, node: &Node, arena: &mut [f32]) -> Option<()> {
        let place = self.program.place(node.output)?;
        let (before, rest) = arena.split_at_mut_checked(place.start)?;
        let (out, after) = rest.split_at_mut_checked(place.len)?;
        let read = Reader { program: &self.program, before, after, gap: place.start..place.end() };
        let input = |i: usize| node.inputs[i].and_then(|id| read.stored(id));
        // One that is absent, or one that is there; `None` for one that should be there.
        let option = |i: usize| node.inputs[i].map_or(Some(None), |id| read.stored(id).map(Some));
        let view = |i: usize| read.view(node.inputs[i]?);
        let shape = |i: usize| Some(self.program.tensor(node.inputs[i]?)?.shape);
        let weight = |i: usize| node.weights[i].and_then(|id| self.program.weight(id));
        let os = self.program.tensor(node.output)?.shape;
        match node.op {
            Op::Conv2d(op) => {
                op.run(view(0)?, shape(0)?, option(1)?, option(2)?, weight(0)?, weight(1), out, os);
            }
            Op::GroupNorm(op) if place.lazy => op.stats(view(0)?, shape(0)?.pixels() as usize, out),
            Op::GroupNorm(op) => op.run(view(0)?, option(1)?, [weight(0)?, weight(1)?], out),
            Op::Attention(op) => op.run(input(0)?, shape(0)?, input(1)?, input(2)?, out),
            Op::Upsample(op) => op.run(input(0)?, shape(0)?, out, os),
            Op::AvgPool(op) => op.run(input(0)?, shape(0)?, out, os),
            Op::Concat(_) if place.lazy => {}
            Op::Concat(op) => op.run(input(0)?, shape(0)?.c, input(1)?, shape(1)?.c, out),
            Op::Embedding(op) => op.run(input(0)?, weight(0)?, weight(1), out),
            Op::Affine(op) => op.run(input(0)?, option(1)?, out),
            Op::LayerNorm(op) => op.run(input(0)?, os.c / op.heads.max(1), [weight(0), weight(1)], out),
            Op::Gate(op) => op.run(input(0)?, os.c, out),
            Op::Modulate(op) => op.run(input(0)?, option(1)?, option(2)?, os.c, out),
            Op::Join(op) => op.run(input(0)?, option(1)?, os.c, out),
            Op::Unpatchify(op) => op.run(input(0)?, shape(0)?, out, os),
        }
        Some(())
    }
}

/// The arena beside the place that a node writes.
struct Reader<'a, 'p> {
    program: &'a Program<'p>,
    before: &'a [f32],
    after: &'a [f32],
    gap: core::ops::Range<usize>,
}

impl<'a, 'p: 'a> Reader<'a, 'p> {
    /// A tensor in memory.
    fn stored(&self, id: TensorId) -> Option<&'a [f32]> {
        self.program.place(id).filter(|place| !place.lazy).and_then(|place| self.range(place.start, place.end()))
    }

    fn range(&self, from: usize, to: usize) -> Option<&'a [f32]> {
        if to <= self.gap.start {
            return self.before.get(from..to);
        }
        self.after.get(from.checked_sub(self.gap.end)?..to.checked_sub(self.gap.end)?)
    }

    /// A tensor in memory or one that is made while it is read.
    fn view(&self, id: TensorId) -> Option<View<'a>> {
        let Some(node) = self.program.lazy(id) else { return self.parts(id) };
        let Op::GroupNorm(op) = node.op else { return self.parts(id) };
        let place = self.program.place(id)?;
        let weight = |i: usize| self.program.weight(node.weights[i]?);
        let scale_shift = node.inputs[1].map_or(Some(None), |id| self.stored(id).map(Some))?;
        let stats = self.range(place.start, place.end())?;
        let weights = [weight(0)?, weight(1)?];
        Some(self.parts(node.inputs[0]?)?.normalised(Normalised { op, stats, scale_shift, weights }))
    }

    /// The same without normalisation.
    fn parts(&self, id: TensorId) -> Option<View<'a>> {
        let channels = |id: TensorId| Some(self.program.tensor(id)?.shape.c);
        let Some(node) = self.program.lazy(id) else { return Some(View::plain(self.stored(id)?, channels(id)?)) };
        let (Op::Concat(_), [Some(a), Some(b), _]) = (node.op, node.inputs) else { return None };
        Some(View::concat(self.stored(a)?, channels(a)?, self.stored(b)?, channels(b)?))
    }
}
