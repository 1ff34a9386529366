//! Weights onto the device, once.

#![expect(unsafe_code, reason = "writes device memory that nothing uses yet")]

use crate::device::Context;
use crate::dispatch::ALIGN;
use crate::encode::encode;
use crate::error::GpuError;
use crate::memory::{Block, Purpose};
use crate::pack::{Precision, pack, packed_bytes};
use crate::record::{Recording, Space, Span};
use unfog_core::nn::graph::{Graph, Weight, WeightUse};
use unfog_core::nn::weights::WeightData;
use vulkano::buffer::Subbuffer;

/// Bytes of one block of weights at most, unless a single weight is larger: below every device's limit of an allocation.
const BLOCK: u64 = 256 << 20;

/// Bytes that each weight takes on the device.
///
/// # Errors
/// [`GpuError::Binding`] for one that the device can't bind.
pub(crate) fn weight_bytes(graph: &Graph<'_>, precision: Precision, max_binding: u64) -> Result<Vec<u64>, GpuError> {
    let bytes = |weight| match packed_bytes(weight, precision) {
        bytes if bytes > max_binding => Err(GpuError::Binding { what: "weight", bytes, limit: max_binding }),
        bytes => Ok(bytes.next_multiple_of(ALIGN)),
    };
    graph.weights.iter().map(bytes).collect()
}

/// Packs the weights of a graph that stay on the device into its memory, through a staging buffer of `staging` bytes where the
/// host can't reach it. Returns the blocks and the place of each weight; a streamed weight has none.
pub(crate) fn upload_weights(
    context: &Context,
    graph: &Graph<'_>,
    weights: &[WeightData<'_>],
    (sizes, streamed): (&[u64], &[bool]),
    precision: Precision,
    staging: Option<u64>,
) -> Result<(Vec<Block>, Vec<Option<Span>>), GpuError> {
    let (places, blocks) = place(sizes, streamed);
    let purpose = if staging.is_some() { Purpose::Device } else { Purpose::Shared };
    let blocks: Result<Vec<_>, _> = blocks.iter().map(|&bytes| Block::new(context, bytes, purpose)).collect();
    let blocks = blocks?;
    let mut staged = staging.map(|bytes| Staged::new(context, bytes)).transpose()?;
    for (i, (weight, span)) in graph.weights.iter().zip(&places).enumerate() {
        let data = *weights.get(i).ok_or(GpuError::Weight(i))?;
        let Some(span) = span else {
            check(i, weight, data, precision)?;
            continue;
        };
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

/// Refuses a streamed weight that could not be packed later.
fn check(index: usize, weight: &Weight, data: WeightData<'_>, precision: Precision) -> Result<(), GpuError> {
    if data.len() as u64 != weight.len() {
        return Err(GpuError::Weight(index));
    }
    // Only these can fail; one of each is packed for nothing.
    let exact = match precision {
        Precision::F32 => true,
        Precision::F16 => matches!(data, WeightData::F16(_)),
        Precision::Int8 | Precision::Q4 => false,
    };
    if weight.role == WeightUse::Kernel && !exact {
        pack(index, weight, data, precision, &mut |_| Ok(()))?;
    }
    Ok(())
}

/// The place of each weight that stays, and the bytes of each block.
fn place(sizes: &[u64], streamed: &[bool]) -> (Vec<Option<Span>>, Vec<u64>) {
    let mut blocks: Vec<u64> = Vec::new();
    let places = sizes.iter().zip(streamed).map(|(&bytes, &streamed)| {
        if streamed {
            return None;
        }
        match blocks.last() {
            Some(last) if last + bytes <= BLOCK => {}
            _ => blocks.push(0),
        }
        let number = blocks.len() - 1;
        let offset = blocks[number];
        blocks[number] += bytes;
        Some(Span { space: Space::Weights(number), offset, bytes })
    });
    (places.collect(), blocks)
}

/// A staging buffer on its way to one stretch of a block.
struct Staged<'a> {
    context: &'a Context,
    buffer: Block,
    target: Option<(Block, u64)>,
    filled: u64,
}

impl<'a> Staged<'a> {
    fn new(context: &'a Context, bytes: u64) -> Result<Self, GpuError> {
        let buffer = Block::new(context, bytes, Purpose::Upload)?;
        Ok(Self { context, buffer, target: None, filled: 0 })
    }

    /// Sends `piece` to `offset` of `block`, later at [`Staged::flush`] or now.
    fn send(&mut self, block: &Block, mut offset: u64, mut piece: &[u8]) -> Result<(), GpuError> {
        while !piece.is_empty() {
            let goes_on = self.target.as_ref().is_some_and(|(b, start)| {
                b.buffer == block.buffer && start + self.filled == offset && self.filled < self.buffer.bytes
            });
            if !goes_on {
                self.flush()?;
                self.target = Some((block.clone(), offset));
            }
            let len = (piece.len() as u64).min(self.buffer.bytes - self.filled);
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
        encode(self.context, &recording.finish(), &find)?.run()
    }
}
