//! The memory plan: an offset in one arena for every tensor, by liveness.

use super::graph::{Graph, Node, TensorId};
use super::op::{Op, Shape};
use super::program::for_each_source;

/// What a backend needs of a plan.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Every offset and size is a multiple of this many bytes; a power of two, at least 4.
    pub align: u64,
    /// Channels of a pixel are padded to a multiple of this.
    pub lanes: u32,
    /// The most bytes a tensor of one image may take.
    pub max_binding: u64,
    /// Bytes of scratch memory that a node needs while it runs, for one image.
    pub workspace: fn(&Graph<'_>, &Node) -> u64,
    /// Concatenations and group normalisations that convolutions alone read are not stored but made while they are read.
    pub fused: bool,
}

impl Target {
    /// Plain loops on a CPU: no padding, no scratch memory, as little memory as can be.
    pub const REFERENCE: Target = Target { fused: true, ..Self::STORED };

    /// The same with every tensor stored.
    pub const STORED: Target = Target { align: 16, lanes: 1, max_binding: u64::MAX, workspace: |_, _| 0, fused: false };

    /// Channels of a pixel of `shape`, padded.
    pub const fn padded_channels(&self, shape: Shape) -> u32 {
        shape.c.next_multiple_of(self.lanes)
    }

    /// Bytes that a tensor of `shape` takes for one image: padded, not aligned.
    pub const fn bytes(&self, shape: Shape) -> u64 {
        4 * shape.pixels() * self.padded_channels(shape) as u64
    }
}

/// A place in the arena, for one image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Bytes from the arena's start.
    pub offset: u64,
    /// Bytes taken, aligned; 0 where nothing is needed.
    pub bytes: u64,
    /// The nodes during which it is in use: from `first` to `last`, both included.
    first: u32,
    last: u32,
    /// The placed slot with the next higher offset, as an index + 1; 0 ends the list.
    next: u32,
    placed: bool,
    /// Not stored ([`Target::fused`]); a normalisation has the place of its statistics.
    pub lazy: bool,
}

impl Slot {
    /// A place that fills unused memory.
    pub const EMPTY: Slot = Slot { offset: 0, bytes: 0, first: 0, last: 0, next: 0, placed: false, lazy: false };
}

/// Why a plan can't be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// The lent memory is too small; the number of slots needed.
    Full(usize),
    /// A tensor or workspace needs more bytes than the target can bind.
    TooLarge(u64),
    /// The sum of sizes is beyond u64, or the target is no valid one.
    Overflow,
}

/// Where everything lies. For `n` images at once, multiply every offset and size by `n`.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    slots: &'a [Slot],
    tensors: usize,
    /// Bytes of the arena for one image.
    pub bytes: u64,
    /// The largest set of bytes that must be live at once: no plan can take less.
    pub lower_bound: u64,
}

impl Plan<'_> {
    /// The place of a tensor.
    pub fn tensor(&self, id: TensorId) -> Slot {
        self.slots[usize::from(id.0)]
    }

    /// The place of the scratch memory of node `index`.
    pub fn workspace(&self, index: usize) -> Slot {
        self.slots[self.tensors + index]
    }
}

/// Slots to lend to [`plan`] for a graph: one a tensor and one a node.
pub const fn slots_needed(graph: &Graph<'_>) -> usize {
    graph.tensors.len() + graph.nodes.len()
}

/// Gives every tensor and workspace of `graph` a place. Larger ones first, each at the lowest offset that is free while it
/// lives (greedy by size, Pisarchyk & Lee 2020). Inputs live from the start, the output to the end.
///
/// # Errors
/// [`PlanError`].
pub fn plan<'a>(graph: &Graph<'_>, target: &Target, slots: &'a mut [Slot]) -> Result<Plan<'a>, PlanError> {
    let (tensors, needed) = (graph.tensors.len(), slots_needed(graph));
    let slots = slots.get_mut(..needed).ok_or(PlanError::Full(needed))?;
    if !target.align.is_power_of_two() || target.align < 4 || target.lanes == 0 {
        return Err(PlanError::Overflow);
    }
    let sized = |bytes: u64| match bytes.checked_next_multiple_of(target.align) {
        Some(aligned) if bytes <= target.max_binding => Ok(aligned),
        _ => Err(PlanError::TooLarge(bytes)),
    };
    for (slot, tensor) in slots.iter_mut().zip(graph.tensors) {
        *slot = Slot { bytes: sized(target.bytes(tensor.shape))?, ..Slot::default() };
    }
    for node in graph.nodes.iter().filter(|node| target.fused && is_read_by_convolutions(graph, node)) {
        let bytes = match node.op {
            Op::GroupNorm(op) => sized(4 * op.stats_len() as u64)?,
            _ => 0,
        };
        slots[usize::from(node.output.0)] = Slot { bytes, lazy: true, ..Slot::default() };
    }
    for (i, node) in graph.nodes.iter().enumerate() {
        let now = i as u32;
        let output = &mut slots[usize::from(node.output.0)];
        (output.first, output.last) = (now, now);
        let (tensors, nodes) = slots.split_at_mut(tensors);
        // What is lazy lives as long as what it is made of, and that as long as anybody reads it.
        let lazy = |id: TensorId| graph.producer(id).filter(|_| tensors[usize::from(id.0)].lazy);
        let mut read = heapless::Vec::<TensorId, 12>::new();
        for_each_source(node, lazy, &mut |id| read.push(id).is_ok());
        read.iter().for_each(|id| tensors[usize::from(id.0)].last = now);
        let bytes = sized((target.workspace)(graph, node))?;
        nodes[i] = Slot { bytes, first: now, last: now, ..Slot::default() };
    }
    slots[usize::from(graph.output.0)].last = graph.nodes.len() as u32;

    let mut lower_bound = 0;
    for now in 0..graph.nodes.len() as u32 {
        let live = slots.iter().filter(|s| s.first <= now && now <= s.last);
        let sum = live.map(|s| s.bytes).try_fold(0_u64, u64::checked_add).ok_or(PlanError::Overflow)?;
        lower_bound = lower_bound.max(sum);
    }

    let (mut head, mut bytes) = (0, 0);
    while let Some(next) = largest_unplaced(slots) {
        bytes = bytes.max(place(slots, &mut head, next)?);
    }
    Ok(Plan { slots, tensors, bytes, lower_bound })
}

/// Whether `node` concatenates or normalises, and nothing but the images of convolutions (and of normalisations, for a
/// concatenation) is made of that.
fn is_read_by_convolutions(graph: &Graph<'_>, node: &Node) -> bool {
    let concat = matches!(node.op, Op::Concat(_));
    if !(concat || matches!(node.op, Op::GroupNorm(_))) || node.output == graph.output {
        return false;
    }
    let fits = |reader: &Node| {
        let through = matches!(reader.op, Op::Conv2d(_)) || concat && matches!(reader.op, Op::GroupNorm(_));
        through && !reader.inputs[1..].contains(&Some(node.output))
    };
    graph.nodes.iter().filter(|reader| reader.inputs.contains(&Some(node.output))).all(fits)
}

fn largest_unplaced(slots: &[Slot]) -> Option<usize> {
    let unplaced = slots.iter().enumerate().filter(|(_, s)| !s.placed && s.bytes > 0);
    // Among equals the first, so that the plan is the same whatever the iteration does with ties.
    unplaced.max_by_key(|(i, s)| (s.bytes, core::cmp::Reverse(*i))).map(|(i, _)| i)
}

/// Places slot `index` and returns the byte after its end. `head` starts the list of placed slots by offset.
fn place(slots: &mut [Slot], head: &mut u32, index: usize) -> Result<u64, PlanError> {
    let new = slots[index];
    let end_of = |offset: u64| offset.checked_add(new.bytes).ok_or(PlanError::Overflow);
    let (mut offset, mut end) = (0, end_of(0)?);
    let mut at = *head;
    while at != 0 {
        let s = slots[at as usize - 1];
        if s.first <= new.last && new.first <= s.last {
            if s.offset >= end {
                break;
            }
            offset = offset.max(s.offset + s.bytes);
            end = end_of(offset)?;
        }
        at = s.next;
    }
    let mut before = 0;
    let mut after = *head;
    while after != 0 && slots[after as usize - 1].offset <= offset {
        (before, after) = (after, slots[after as usize - 1].next);
    }
    slots[index] = Slot { offset, next: after, placed: true, ..new };
    match before {
        0 => *head = index as u32 + 1,
        _ => slots[before as usize - 1].next = index as u32 + 1,
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::graph::{EMPTY_NODE, EMPTY_TENSOR, EMPTY_WEIGHT, GraphBuilder, Input};
    use crate::nn::op::{Affine, Concat, Op};

    /// A small network with a long skip, built into lent memory and handed to `test`.
    fn with_graph(test: impl FnOnce(&Graph<'_>)) {
        let (mut nodes, mut tensors, mut weights) = ([EMPTY_NODE; 16], [EMPTY_TENSOR; 16], [EMPTY_WEIGHT; 1]);
        let mut g = GraphBuilder::new(&mut nodes, &mut tensors, &mut weights);
        let double = Op::Affine(Affine::new(2.0, 0.0));
        let x = g.input(Input::Sample, Shape::new(5, 7, 3)).unwrap();
        let mut y = x;
        for _ in 0..4 {
            y = g.node(double, [Some(y), None, None], [None; 2]).unwrap();
            y = g.node(Op::Concat(Concat), [Some(y), Some(x), None], [None; 2]).unwrap();
        }
        test(&g.finish(y));
    }

    fn target() -> Target {
        let workspace = |_: &Graph<'_>, node: &Node| u64::from(node.output.0) * 4;
        Target { align: 64, lanes: 4, max_binding: 1 << 20, workspace, fused: false }
    }

    #[test]
    fn live_slots_never_overlap() {
        with_graph(|graph| {
            let mut slots = [Slot::default(); 64];
            let plan = plan(graph, &target(), &mut slots).unwrap();
            assert!(plan.bytes >= plan.lower_bound && plan.lower_bound > 0);
            let slots = &plan.slots[..slots_needed(graph)];
            for (i, a) in slots.iter().enumerate() {
                assert_eq!(a.offset % 64, 0);
                assert!(a.offset + a.bytes <= plan.bytes);
                for b in &slots[..i] {
                    let together = a.first <= b.last && b.first <= a.last;
                    let apart = a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset;
                    assert!(!together || apart || a.bytes == 0 || b.bytes == 0, "{a:?} and {b:?}");
                }
            }
        });
    }

    #[test]
    fn sizes_are_padded_and_aligned() {
        with_graph(|graph| {
            let mut slots = [Slot::default(); 64];
            let plan = plan(graph, &target(), &mut slots).unwrap();
            assert_eq!(plan.tensor(TensorId(0)).bytes, (5 * 7 * 4 * 4_u64).next_multiple_of(64));
            assert_eq!(plan.workspace(2).bytes, u64::from(graph.nodes[2].output.0) * 4 / 64 * 64 + 64);
        });
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        with_graph(|graph| {
            let needed = slots_needed(graph);
            let mut slots = [Slot::default(); 64];
            assert_eq!(plan(graph, &target(), &mut slots[..needed - 1]).unwrap_err(), PlanError::Full(needed));
            let small = Target { max_binding: 16, ..target() };
            assert_eq!(plan(graph, &small, &mut slots).unwrap_err(), PlanError::TooLarge(5 * 7 * 4 * 4));
            let odd = Target { align: 24, ..target() };
            assert_eq!(plan(graph, &odd, &mut slots).unwrap_err(), PlanError::Overflow);
        });
    }
}
