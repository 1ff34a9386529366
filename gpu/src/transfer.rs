//! Evaluations of a network: inputs in, commands run, results out.

#![expect(unsafe_code, reason = "reads and writes device memory between submissions")]

use crate::dispatch::LANES;
use crate::encode::encode;
use crate::error::GpuError;
use crate::memory::{Block, Purpose};
use crate::network::{Memory, Network};
use crate::record::{Recording, Space, Span};
use bytemuck::{cast_slice, cast_slice_mut};
use std::ops::Range;
use unfog_core::nn::graph::TensorId;
use unfog_core::nn::op::Shape;
use unfog_core::nn::project::InputError;

/// Floats of a pixel, padded.
pub(crate) fn padded(shape: Shape) -> usize {
    shape.c.next_multiple_of(LANES) as usize
}

impl Network<'_> {
    /// Sets an input of one image of the prepared batch: `[pixels, channels]`, without padding. Sent at the next run.
    ///
    /// # Errors
    /// [`GpuError::Input`] when the tensor is no input, the image is beyond the batch, or the length is wrong.
    pub fn set_input(&mut self, id: TensorId, image: usize, values: &[f32]) -> Result<(), GpuError> {
        let shape = self.tensors.get(usize::from(id.0)).ok_or(InputError::Length)?.shape;
        if values.len() as u64 != shape.len() {
            return Err(InputError::Length.into());
        }
        let stride = padded(shape);
        let space = self.input_mut(id, image).ok_or(InputError::Length)?;
        for (to, from) in space.chunks_exact_mut(stride).zip(values.chunks_exact(shape.c as usize)) {
            to[..from.len()].copy_from_slice(from);
        }
        Ok(())
    }

    /// The padded space of an input of one image; its pad lanes are 0 and must stay so.
    pub(crate) fn input_mut(&mut self, id: TensorId, image: usize) -> Option<&mut [f32]> {
        let images = Some(self.images).filter(|&n| image < n)?;
        let before = self.input_ids().take_while(|i| *i != id).map(|i| self.span(i, images).bytes).sum::<u64>();
        self.input_ids().find(|i| *i == id)?;
        let shape = self.tensors[usize::from(id.0)].shape;
        let start = (before as usize + image * self.slot(id).bytes as usize) / 4;
        self.inputs.get_mut(start..start + shape.pixels() as usize * padded(shape))
    }

    /// The output of one image after [`Network::execute`]: `[pixels, channels]`, without padding.
    pub fn output(&self, image: usize) -> Option<Vec<f32>> {
        let shape = self.tensors[usize::from(self.output.0)].shape;
        self.padded_output(image).map(|values| unpad(values, shape))
    }

    /// The output of one image, pixels padded.
    pub(crate) fn padded_output(&self, image: usize) -> Option<&[f32]> {
        let shape = self.tensors[usize::from(self.output.0)].shape;
        let start = image * self.slot(self.output).bytes as usize / 4;
        self.results.get(start..start + shape.pixels() as usize * padded(shape))
    }

    /// Runs the whole graph on the inputs that were set: one upload, one readback, and in between as many submissions as keep each of
    /// them short.
    ///
    /// # Errors
    /// [`GpuError::Stopped`], [`GpuError::DeviceLost`], or what the driver reports.
    pub fn execute(&mut self) -> Result<(), GpuError> {
        let memory = self.memory()?;
        self.send(&memory)?;
        let recorded = self.recorded.iter().position(|(n, _)| *n == self.images).ok_or(GpuError::NotPrepared)?;
        let mut parts = std::mem::take(&mut self.recorded[recorded].1);
        let done = self.run(&mut parts);
        self.recorded[recorded].1 = parts;
        done?;
        let place = self.span(self.output, self.images);
        let (block, offset) = match &memory.readback {
            Some(readback) => (readback, 0),
            None => (&memory.arena, place.offset),
        };
        let results = cast_slice_mut(&mut self.results);
        // SAFETY: the submission was waited for.
        unsafe { block.read(offset, place.bytes, |from| results.copy_from_slice(from)) }?;
        self.stats.readbacks += 1;
        Ok(())
    }

    fn memory(&self) -> Result<Memory, GpuError> {
        self.memory.clone().filter(|_| self.images > 0).ok_or(GpuError::NotPrepared)
    }

    /// The one upload of an evaluation.
    fn send(&mut self, memory: &Memory) -> Result<(), GpuError> {
        let inputs: &[u8] = cast_slice(&self.inputs);
        if let Some(upload) = &memory.upload {
            // SAFETY: every submission is waited for.
            unsafe { upload.write(0, inputs.len() as u64, |to| to.copy_from_slice(inputs)) }?;
        } else {
            let mut rest = inputs;
            for id in self.input_ids() {
                let place = self.span(id, self.images);
                let (now, later) = rest.split_at(place.bytes as usize);
                // SAFETY: as above.
                unsafe { memory.arena.write(place.offset, place.bytes, |to| to.copy_from_slice(now)) }?;
                rest = later;
            }
        }
        self.stats.uploads += 1;
        Ok(())
    }

    /// Runs some nodes alone, to look at what lies between ([`Network::tensor`]) or to time them. A range from 0 on sends
    /// the inputs first.
    ///
    /// # Errors
    /// Those of [`Network::execute`]; [`GpuError::Node`] beyond the last node.
    pub fn run_nodes(&mut self, nodes: Range<usize>) -> Result<(), GpuError> {
        if nodes.end > self.nodes.len() {
            return Err(GpuError::Node(nodes.end));
        }
        let memory = self.memory()?;
        let first = nodes.start == 0;
        if first {
            self.send(&memory)?;
        }
        let mut parts = self.encode(self.images, nodes, first)?;
        self.run(&mut parts)
    }

    /// What lies in the arena at a tensor's place for one image: its values after its node and before its place is used
    /// again. `[pixels, channels]`, without padding.
    ///
    /// # Errors
    /// [`GpuError::Input`] for an unknown tensor or image, or what the driver reports.
    pub fn tensor(&self, id: TensorId, image: usize) -> Result<Vec<f32>, GpuError> {
        let shape = self.tensors.get(usize::from(id.0)).ok_or(InputError::Length)?.shape;
        if image >= self.images {
            return Err(InputError::Length.into());
        }
        let words = self.arena()?;
        let start = (self.span(id, self.images).offset + image as u64 * self.slot(id).bytes) as usize / 4;
        let values: Vec<f32> = words[start..][..shape.pixels() as usize * padded(shape)]
            .iter()
            .map(|&bits| f32::from_bits(bits))
            .collect();
        Ok(unpad(&values, shape))
    }

    /// The whole arena, as bits: to look for writes where none should be.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`], or what the driver reports.
    pub fn arena(&self) -> Result<Vec<u32>, GpuError> {
        let memory = self.memory()?;
        let mut words = vec![0_u32; (memory.arena.bytes / 4) as usize];
        let bytes: &mut [u8] = cast_slice_mut(&mut words);
        let len = bytes.len() as u64;
        let host = self.mirror(&memory.arena, Purpose::Readback)?;
        if self.staging {
            self.copy(&memory.arena, &host)?;
        }
        // SAFETY: every submission was waited for.
        unsafe { host.read(0, len, |from| bytes.copy_from_slice(from)) }?;
        Ok(words)
    }

    /// Fills the whole arena with a bit pattern.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`], or what the driver reports.
    pub fn fill_arena(&mut self, bits: u32) -> Result<(), GpuError> {
        let memory = self.memory()?;
        let host = self.mirror(&memory.arena, Purpose::Upload)?;
        let len = memory.arena.bytes / 4 * 4;
        // SAFETY: every submission was waited for.
        unsafe {
            host.write(0, len, |to| to.chunks_exact_mut(4).for_each(|w| w.copy_from_slice(&bits.to_ne_bytes())))
        }?;
        if self.staging { self.copy(&host, &memory.arena) } else { Ok(()) }
    }

    /// Memory that the host reaches, as large as `block`; `block` itself where that will do.
    fn mirror(&self, block: &Block, purpose: Purpose) -> Result<Block, GpuError> {
        if self.staging { Block::new(&self.context, block.bytes, purpose) } else { Ok(block.clone()) }
    }

    fn copy(&self, from: &Block, to: &Block) -> Result<(), GpuError> {
        let bytes = from.bytes;
        let mut recording = Recording::default();
        let span = |space| Span { space, offset: 0, bytes };
        recording.copy(span(Space::Upload), span(Space::Readback));
        let find = |span: &Span| {
            let block = if span.space == Space::Upload { from } else { to };
            Ok(vulkano::buffer::Subbuffer::new(block.buffer.clone()))
        };
        encode(&self.context, &recording.finish(), &find)?.run()
    }
}

fn unpad(values: &[f32], shape: Shape) -> Vec<f32> {
    values.chunks_exact(padded(shape)).flat_map(|pixel| &pixel[..shape.c as usize]).copied().collect()
}
