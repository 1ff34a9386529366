//! What an executor runs: a network with its plan and weights, from memory or where it lies in a pack.

use super::graph::{Graph, Input, Interface, Node, Tensor, TensorId, WeightId};
use super::op::{Op, Shape};
use super::plan::Plan;
use super::weights::WeightData;
use crate::pack::Pack;

/// A network, its plan and its weights.
#[derive(Clone, Copy, Debug)]
pub enum Program<'a> {
    /// In memory.
    Planned {
        /// The network.
        graph: Graph<'a>,
        /// Where its tensors lie.
        plan: Plan<'a>,
        /// Its weights, in the graph's order.
        weights: &'a [WeightData<'a>],
    },
    /// In a pack, which is read as it is run: a record a node, no memory.
    Packed(Pack<'a>),
}

/// Where a tensor lies in an arena of f32 values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Values before it.
    pub start: usize,
    /// Its values, or a lazy normalisation's statistics.
    pub len: usize,
    /// Not stored: made while it is read.
    pub lazy: bool,
}

impl Place {
    /// The place of a tensor of `shape` that begins at `start`, made by `op` if by any.
    pub(crate) fn new(start: usize, shape: Shape, lazy: bool, op: Option<Op>) -> Self {
        let len = match op {
            Some(Op::GroupNorm(op)) if lazy => op.stats_len(),
            _ if lazy => 0,
            _ => shape.len() as usize,
        };
        Self { start, len, lazy }
    }

    /// The value after its last; the largest number if that has none.
    pub fn end(&self) -> usize {
        self.start.saturating_add(self.len)
    }
}

impl<'a> Program<'a> {
    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        match self {
            Self::Planned { graph, .. } => graph.nodes.len(),
            Self::Packed(pack) => pack.counts().nodes,
        }
    }

    /// Node `index`.
    pub fn node(&self, index: usize) -> Option<Node> {
        match self {
            Self::Planned { graph, .. } => graph.nodes.get(index).copied(),
            Self::Packed(pack) => pack.node(index),
        }
    }

    /// A tensor.
    pub fn tensor(&self, id: TensorId) -> Option<Tensor> {
        match self {
            Self::Planned { graph, .. } => graph.tensors.get(usize::from(id.0)).copied(),
            Self::Packed(pack) => pack.tensor(id),
        }
    }

    /// The node that makes a tensor.
    pub fn producer(&self, id: TensorId) -> Option<Node> {
        match self {
            Self::Planned { graph, .. } => graph.producer(id).copied(),
            Self::Packed(pack) => pack.node(pack.producer(id)?),
        }
    }

    /// Where a tensor lies.
    pub fn place(&self, id: TensorId) -> Option<Place> {
        let shape = self.tensor(id)?.shape;
        let (start, lazy) = match self {
            Self::Planned { plan, .. } => {
                let slot = plan.tensor(id);
                (usize::try_from(slot.offset / 4).ok()?, slot.lazy)
            }
            Self::Packed(pack) => pack.slot(id)?,
        };
        Some(Place::new(start, shape, lazy, if lazy { self.producer(id).map(|node| node.op) } else { None }))
    }

    /// A weight's values.
    pub fn weight(&self, id: WeightId) -> Option<WeightData<'a>> {
        match self {
            Self::Planned { weights, .. } => weights.get(usize::from(id.0)).copied(),
            Self::Packed(pack) => pack.weight(id).map(|(_, data)| data),
        }
    }

    /// What the network returns.
    pub fn output(&self) -> TensorId {
        match self {
            Self::Planned { graph, .. } => graph.output,
            Self::Packed(pack) => pack.output(),
        }
    }

    /// The inputs with their ids.
    pub fn inputs(&self) -> impl Iterator<Item = (TensorId, Input, Shape)> {
        let count = match self {
            Self::Planned { graph, .. } => graph.tensors.len(),
            Self::Packed(pack) => pack.counts().tensors,
        };
        (0..count).filter_map(|i| {
            let id = TensorId(u16::try_from(i).ok()?);
            let Tensor { shape, input } = self.tensor(id)?;
            Some((id, input?, shape))
        })
    }

    /// What the network takes and gives; `None` if it takes no image.
    pub fn interface(&self) -> Option<Interface> {
        Interface::new(self.inputs(), self.tensor(self.output())?.shape)
    }

    /// f32 values of the arena for one image.
    pub fn arena_len(&self) -> usize {
        match self {
            Self::Planned { plan, .. } => usize::try_from(plan.bytes / 4).unwrap_or(usize::MAX),
            Self::Packed(pack) => pack.counts().arena,
        }
    }

    /// The node that makes a tensor which is not stored.
    pub(crate) fn lazy(&self, id: TensorId) -> Option<Node> {
        if self.place(id)?.lazy { self.producer(id) } else { None }
    }
}

/// Names every tensor whose memory `node` reads: its inputs and, where one of them is lazy, what that is made of. `lazy` gives the
/// node that makes a lazy tensor. Stops when `visit` says so; whether it never did.
pub(crate) fn for_each_source<N: core::borrow::Borrow<Node>>(
    node: &Node,
    lazy: impl Fn(TensorId) -> Option<N>,
    visit: &mut impl FnMut(TensorId) -> bool,
) -> bool {
    let mut all = true;
    for id in node.inputs.into_iter().flatten() {
        all &= visit(id);
        let Some(norm) = lazy(id) else { continue };
        for id in norm.borrow().inputs.into_iter().flatten() {
            all &= visit(id);
            let Some(concat) = lazy(id) else { continue };
            all &= concat.borrow().inputs.into_iter().flatten().all(&mut *visit);
        }
    }
    all
}
