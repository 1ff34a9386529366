//! Weights onto the device, once.

#![expect(unsafe_code, reason = "writes device memory that nothing uses yet")]

use crate::device::Context;
use crate::dispatch::ALIGN;
use crate::encode::encode;
use crate::error::GpuError;
use crate::memory::{Block, Purpose};
use crate::pack::{Precision, pack, packed_bytes};
use crate::record::{Recording, Space, Span};
use unfog_core::nn::graph::Graph;
use unfog_core::nn::weights::WeightData;
use vulkano::buffer::Subbuffer;

/// Bytes of one block of weights at most, unless a single weight is larger: below every device's limit of an allocation.
const BLOCK: u64 = 256 << 20;
/// Bytes of the staging buffer.
const STAGING: u64 = 4 << 20;

/// Packs the weights of a graph into memory of the device. Returns the blocks and the place of each weight.
pub(crate) fn upload_weights(
    context: &Context,
    graph: &Graph<'_>,
    weights: &[WeightData<'_>],
    precision: Precision,
    staging: bool,
) -> Result<(Vec<Block>, Vec<Span>), GpuError> {
    let (places, sizes) = place(graph, precision);
    if let Some(span) = places.iter().find(|p| p.bytes > context.info().max_binding) {
        return Err(GpuError::Limit("bytes of a weight", span.bytes));
    }
    let purpose = if staging { Purpose::Device } else { Purpose::Shared };
    let blocks: Result<Vec<_>, _> = sizes.iter().map(|&bytes| Block::new(context, bytes, purpose)).collect();
    let blocks = blocks?;
    let mut staged = if staging { Some(Staged::new(context)?) } else { None };
    for (i, (weight, span)) in graph.weights.iter().zip(&places).enumerate() {
        let data = *weights.get(i).ok_or(GpuError::Weight(i))?;
        let Space::Weights(number) = span.space else { continue };
        let block = &blocks[number];
        let mut offset = span.offset;
        pack(i, weight, data, precision, &mut |piece| {
            match &mut staged {
                Some(staged) => staged.send(block, offset, piece)?,
                // SAFETY: no command was submitted that knows this block.
                None => unsafe { block.write(offset, piece.len() as u64, |to| to.copy_from_slice(piece)) }?,
            }
            offset += piece.len() as u64;
            Ok(())
        })?;
    }
    if let Some(staged) = &mut staged {
        staged.flush()?;
    }
    Ok((blocks, places))
}

/// The place of each weight, and the bytes of each block.
fn place(graph: &Graph<'_>, precision: Precision) -> (Vec<Span>, Vec<u64>) {
    let mut sizes: Vec<u64> = Vec::new();
    let places = graph.weights.iter().map(|weight| {
        let bytes = packed_bytes(weight, precision);
        let aligned = bytes.next_multiple_of(ALIGN);
        match sizes.last() {
            Some(last) if last + aligned <= BLOCK => {}
            _ => sizes.push(0),
        }
        let number = sizes.len() - 1;
        let offset = sizes[number];
        sizes[number] += aligned;
        Span { space: Space::Weights(number), offset, bytes }
    });
    (places.collect(), sizes)
}

/// A staging buffer on its way to one stretch of a block.
struct Staged<'a> {
    context: &'a Context,
    buffer: Block,
    target: Option<(Block, u64)>,
    filled: u64,
}

impl<'a> Staged<'a> {
    fn new(context: &'a Context) -> Result<Self, GpuError> {
        let buffer = Block::new(context, STAGING, Purpose::Upload)?;
        Ok(Self { context, buffer, target: None, filled: 0 })
    }

    /// Sends `piece` to `offset` of `block`, later at [`Staged::flush`] or now.
    fn send(&mut self, block: &Block, mut offset: u64, mut piece: &[u8]) -> Result<(), GpuError> {
        while !piece.is_empty() {
            let goes_on = self.target.as_ref().is_some_and(|(b, start)| {
                b.buffer == block.buffer && start + self.filled == offset && self.filled < STAGING
            });
            if !goes_on {
                self.flush()?;
                self.target = Some((block.clone(), offset));
            }
            let len = (piece.len() as u64).min(STAGING - self.filled);
            let (now, later) = piece.split_at(len as usize);
            // SAFETY: the last submission that read the staging buffer was waited for.
            unsafe { self.buffer.write(self.filled, len, |to| to.copy_from_slice(now)) }?;
            (self.filled, offset, piece) = (self.filled + len, offset + len, later);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), GpuError> {
        let Some((block, start)) = self.target.take().filter(|_| self.filled > 0) else {
            return Ok(());
        };
        let bytes = std::mem::take(&mut self.filled);
        let mut recording = Recording::default();
        let to = Span { space: Space::Weights(0), offset: start, bytes };
        recording.copy(Span { space: Space::Upload, offset: 0, bytes }, to);
        let find = |span: &Span| {
            let buffer = if span.space == Space::Upload { &self.buffer } else { &block };
            Ok(Subbuffer::new(buffer.buffer.clone()).slice(span.offset..span.offset + span.bytes))
        };
        encode(self.context, &recording.finish(), &find)?.run(self.context)
    }
}
