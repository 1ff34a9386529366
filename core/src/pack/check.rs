//! The rules that a pack's records must obey before they are run where they lie.

use super::{Pack, PackError};
use crate::nn::code::TENSOR_PLACE;
use crate::nn::graph::{EMPTY_NODE, GraphError, Input, MAX_LEN, Node, Projection, Tensor, TensorId, WeightId};
use crate::nn::op::Op;
use crate::nn::program::{Place, Program, for_each_source};

impl Pack<'_> {
    /// Goes once over all records: each is one that this crate writes, the operands fit their ops, nothing is read before it is
    /// made, and the plan keeps every value for as long as it is read. Takes no memory.
    ///
    /// # Errors
    /// [`PackError::Tensor`], [`PackError::Node`], [`PackError::Weight`], [`PackError::Graph`], [`PackError::Place`].
    pub fn check(&self) -> Result<(), PackError> {
        let program = Program::Packed(*self);
        (0..self.counts.weights).try_for_each(|i| {
            // Its values lie in the pack, whole and aligned.
            self.weight(WeightId(i as u16)).map(|_| ()).ok_or(PackError::Weight(i))
        })?;
        (0..self.counts.tensors).try_for_each(|i| self.check_tensor(&program, i))?;
        for index in 0..self.counts.nodes {
            let node = self.node(index).ok_or(PackError::Node(index))?;
            self.check_operands(&node, index)?;
            self.check_lifetimes(&program, &node, index)?;
        }
        // The result is read when all have run.
        let end = Node { inputs: [Some(self.output()), None, None], ..EMPTY_NODE };
        self.check_lifetimes(&program, &end, self.counts.nodes)
    }

    fn check_tensor(&self, program: &Program<'_>, i: usize) -> Result<(), PackError> {
        let id = TensorId(i as u16);
        let wrong = PackError::Tensor(i);
        let Tensor { shape, input } = self.tensor(id).ok_or(wrong)?;
        let record = self.tensor_record(id).ok_or(wrong)?;
        if record[TENSOR_PLACE + 1] > 1 || record[TENSOR_PLACE + 2..].iter().any(|word| *word != 0) {
            return Err(wrong);
        }
        if shape.is_empty() || shape.len() > MAX_LEN {
            return Err(PackError::Graph(GraphError::TooLarge(shape)));
        }
        let place = program.place(id).ok_or(wrong)?;
        if place.end() > self.counts.arena {
            return Err(PackError::Place(i));
        }
        let Some(input) = input else {
            let node = self.producer(id).and_then(|index| self.node(index)).ok_or(wrong)?;
            let may = !place.lazy || matches!(node.op, Op::Concat(_) | Op::GroupNorm(_));
            return if node.output == id && may { Ok(()) } else { Err(wrong) };
        };
        let frequencies = match input {
            Input::Time(Projection::Fourier { weight, .. }) | Input::Class(Projection::Fourier { weight, .. }) => {
                usize::from(weight.0) < self.counts.weights
            }
            _ => true,
        };
        // All inputs are filled before the first node.
        let overlaps = |other: usize| {
            let id = TensorId(other as u16);
            self.tensor(id).is_some_and(|t| t.input.is_some()) && program.place(id).is_some_and(|p| meet(p, place))
        };
        if place.lazy || !frequencies || (0..i).any(overlaps) { Err(wrong) } else { Ok(()) }
    }

    /// The operands exist, and they and the result fit the op.
    fn check_operands(&self, node: &Node, index: usize) -> Result<(), PackError> {
        let wrong = PackError::Node(index);
        let made_before = |id: &TensorId| match self.tensor(*id) {
            Some(tensor) => tensor.input.is_some() || self.producer(*id).is_some_and(|maker| maker < index),
            None => false,
        };
        if self.producer(node.output) != Some(index) || !node.inputs.iter().flatten().all(made_before) {
            return Err(wrong);
        }
        let shape = |e| PackError::Graph(GraphError::Shape(node.op.name(), e));
        let shapes = node.inputs.map(|id| id.and_then(|id| self.tensor(id)).map(|tensor| tensor.shape));
        let result = node.op.shape(shapes).map_err(shape)?;
        if self.tensor(node.output).map(|tensor| tensor.shape) != Some(result) {
            return Err(wrong);
        }
        if node.weights.iter().flatten().any(|id| usize::from(id.0) >= self.counts.weights) {
            return Err(wrong);
        }
        let weights = node.weights.map(|id| id.and_then(|id| self.weight(id)).map(|(weight, _)| weight));
        node.op.check_weights(result, weights).map_err(shape)
    }

    /// Whatever `node` reads is still as it was made, and the node doesn't write over it; what is not stored is read only by those
    /// who can make it.
    fn check_lifetimes(&self, program: &Program<'_>, node: &Node, index: usize) -> Result<(), PackError> {
        let lazy = |id: TensorId| program.lazy(id);
        let through = matches!(node.op, Op::Conv2d(_) | Op::GroupNorm(_));
        for (i, id) in node.inputs.iter().enumerate() {
            let Some(made) = id.and_then(lazy) else { continue };
            let nested = made.inputs.iter().flatten().any(|id| lazy(*id).is_some());
            let concat = matches!(made.op, Op::Concat(_));
            let fits = through && i == 0 && (concat || matches!(node.op, Op::Conv2d(_)));
            let of_concat = made.inputs[0].and_then(lazy).is_none_or(|inner| {
                matches!(inner.op, Op::Concat(_)) && inner.inputs.iter().flatten().all(|id| lazy(*id).is_none())
            });
            let second = made.inputs[1..].iter().flatten().all(|id| lazy(*id).is_none());
            if !fits || concat && nested || !of_concat || !second {
                return Err(PackError::Node(index));
            }
        }
        let mut broken = None;
        for_each_source(node, lazy, &mut |id| {
            let whole = program.place(id).is_some_and(|place| {
                let from = self.producer(id).map_or(0, |maker| maker + 1);
                (from..=index).all(|writer| {
                    let target = self.node(writer).and_then(|writer| program.place(writer.output));
                    writer == self.counts.nodes || target.is_some_and(|target| !meet(target, place))
                })
            });
            if !whole {
                broken = Some(usize::from(id.0));
            }
            whole
        });
        broken.map_or(Ok(()), |id| Err(PackError::Place(id)))
    }
}

/// Whether two places share a value.
fn meet(a: Place, b: Place) -> bool {
    a.len > 0 && b.len > 0 && a.start < b.end() && b.start < a.end()
}
