//! A network's pieces as commands, and where these find their bytes.

use crate::band::Band;
use crate::dispatch::Operand;
use crate::encode::{Encoded, encode};
use crate::error::GpuError;
use crate::memory::Block;
use crate::network::{Memory, Network};
use crate::piece::{Cut, Piece, most_flops};
use crate::record::{Command, Dispatch, Recording, Space, Span};
use std::ops::Range;
use unfog_core::nn::cost::node_flops;
use unfog_shaders::Kernel;
use vulkano::buffer::Subbuffer;

/// A piece of the graph with its commands.
pub(crate) struct Part {
    pub(crate) piece: Piece,
    pub(crate) encoded: Encoded,
}

impl Network<'_> {
    /// Cuts some nodes into pieces, for a number of images.
    fn cut(&self, images: usize, nodes: Range<usize>) -> Result<Vec<Piece>, GpuError> {
        let graph = self.graph();
        let flops = |node: usize| node_flops(&graph, &self.nodes[node]).saturating_mul(images as u64);
        let streamed = |node: usize| {
            let weights = self.nodes[node].weights.iter().flatten().map(|id| usize::from(id.0));
            weights.filter(|&weight| self.streamed[weight].is_some()).collect()
        };
        let most_flops = self.options.submit_flops.unwrap_or_else(|| most_flops(self.context.info().kind));
        let groups = |node: usize| self.steps[node].iter().map(|band| band.step.groups).sum();
        let (weights, half) = (&self.sizes[..], self.fit.half);
        Cut { flops: &flops, streamed: &streamed, weights, groups: &groups, most_flops, half }.pieces(nodes)
    }

    /// The commands of a piece, number `number` of them, with the inputs sent before and the output fetched after where that takes
    /// copies.
    fn record(&self, images: usize, piece: &Piece, number: usize, send: bool) -> Result<Vec<Command>, GpuError> {
        let mut recording = Recording::default();
        if number > 0 {
            recording.barrier();
        }
        if self.staging && send {
            let mut offset = 0;
            for id in self.input_ids() {
                let to = self.span(id, images);
                recording.copy(Span { space: Space::Upload, offset, bytes: to.bytes }, to);
                offset += to.bytes;
            }
        }
        let window = if self.staging { 0 } else { piece.turn % self.windows.len().max(1) };
        let share = piece.share;
        if self.staging && piece.bytes > 0 && share.number == 0 {
            let span = |space| Span { space, offset: 0, bytes: piece.bytes };
            recording.copy(span(Space::Staged(self.half_of(piece))), span(Space::Window(window)));
        }
        let row = u64::from(self.context.info().max_groups[0]);
        for index in piece.nodes.clone() {
            let kernels: Vec<u64> = self.steps[index].iter().map(|band| band.step.groups).collect();
            for (band, groups) in self.steps[index].iter().zip(share.groups(&kernels, row)) {
                if !groups.is_empty() {
                    recording.dispatch(self.place_band((band, groups), index, images, (piece, window))?);
                }
            }
        }
        if self.staging && piece.nodes.end == self.nodes.len() && share.number + 1 == share.of {
            let from = self.span(self.output, images);
            recording.copy(from, Span { space: Space::Readback, offset: 0, bytes: from.bytes });
        }
        Ok(recording.finish())
    }

    /// The part of the window that the host fills for a piece.
    pub(crate) fn half_of(&self, piece: &Piece) -> usize {
        piece.turn % self.fillable().len().max(1)
    }

    /// What the host fills for the window.
    pub(crate) fn fillable(&self) -> &[Block] {
        if self.staging { &self.staged } else { &self.windows }
    }

    /// Some nodes as command buffers.
    pub(crate) fn encode(&self, images: usize, nodes: Range<usize>, send: bool) -> Result<Vec<Part>, GpuError> {
        let memory = self.memory.as_ref().ok_or(GpuError::NotPrepared)?;
        let pieces = self.cut(images, nodes)?.into_iter().enumerate();
        let part = |(number, piece): (usize, Piece)| {
            let commands = self.record(images, &piece, number, send && number == 0)?;
            Ok(Part { encoded: encode(&self.context, &commands, &|span| self.find(memory, span))?, piece })
        };
        pieces.map(part).collect()
    }

    /// Where a weight lies for a piece that is run with this part of the window.
    fn weight_span(&self, weight: usize, (piece, window): (&Piece, usize)) -> Result<Span, GpuError> {
        let load = piece.loads.iter().find(|(load, _)| *load == weight);
        let loaded = load.map(|&(_, offset)| Span { space: Space::Window(window), offset, bytes: self.sizes[weight] });
        loaded.or(self.places[weight]).ok_or(GpuError::Bug("a weight that is nowhere"))
    }

    /// Some work groups of a kernel.
    fn place_band(
        &self,
        (band, groups): (&Band, Range<u64>),
        node: usize,
        images: usize,
        at: (&Piece, usize),
    ) -> Result<Dispatch, GpuError> {
        let step = &band.step;
        let kernel = Kernel::named(step.variant.kernel).ok_or(GpuError::Node(node))?;
        let span = |operand: &Operand| match operand {
            Operand::Tensor(id) => Ok(self.span(*id, images)),
            Operand::Weight(id) => self.weight_span(usize::from(id.0), at),
            Operand::Workspace => Ok(self.place(self.slots[self.tensors.len() + node], images)),
        };
        let accesses = kernel.bindings.iter().map(|b| b.access);
        let part = |(operand, part): (&Operand, &Option<Range<u64>>)| match (span(operand)?, part) {
            (whole, None) => Ok(whole),
            // What is too large for a binding is one image.
            (whole, Some(part)) if images == 1 && part.end <= whole.bytes => {
                Ok(Span { offset: whole.offset + part.start, bytes: part.end - part.start, ..whole })
            }
            _ => Err(GpuError::Bug("a part beyond a tensor")),
        };
        let spans: Result<Vec<Span>, GpuError> = step.operands.iter().zip(&band.parts).map(part).collect();
        let bindings = spans?.into_iter().zip(accesses).collect();
        let limits = self.context.info().max_groups;
        let too_many = || GpuError::Limit("work groups", step.groups);
        let first = u32::try_from(groups.start).map_err(|_| too_many())?;
        let count = groups.end - groups.start;
        let x = count.min(u64::from(limits[0])).max(1);
        let y = count.div_ceil(x);
        if y > u64::from(limits[1]) {
            return Err(too_many());
        }
        let groups = [x as u32, y as u32, images as u32];
        // Every block of push constants starts with the first group's number.
        let push = [&first.to_ne_bytes(), &step.push[..]].concat();
        Ok(Dispatch { variant: step.variant.clone(), bindings, push, groups })
    }

    /// The bytes behind a span.
    fn find(&self, memory: &Memory, span: &Span) -> Result<Subbuffer<[u8]>, GpuError> {
        let block = match span.space {
            Space::Arena => Some(&memory.arena),
            Space::Weights(i) => self.blocks.get(i),
            Space::Window(i) => self.windows.get(i),
            Space::Staged(i) => self.staged.get(i),
            Space::Upload => memory.upload.as_ref(),
            Space::Readback => memory.readback.as_ref(),
        };
        let block = block.ok_or(GpuError::Bug("a buffer that is not there"))?;
        let end = span.offset.checked_add(span.bytes).filter(|&end| end <= block.bytes && span.bytes > 0);
        let end = end.ok_or(GpuError::Bug("bytes beyond a buffer"))?;
        Ok(Subbuffer::new(block.buffer.clone()).slice(span.offset..end))
    }
}
