//! A graph on a device: weights uploaded, tensors planned, commands recorded for a number of images.

use crate::device::Context;
use crate::dispatch::{self, Operand, Step, Tiling};
use crate::encode::{Encoded, encode};
use crate::error::GpuError;
use crate::memory::{Block, Purpose, most};
use crate::pack::Precision;
use crate::record::{Command, Dispatch, Recording, Space, Span};
use crate::upload::upload_weights;
use std::ops::Range;
use unfog_core::nn::graph::{Graph, Node, Tensor, TensorId, Weight};
use unfog_core::nn::plan::{Slot, plan, slots_needed};
use unfog_core::nn::project::InputError;
use unfog_core::nn::weights::WeightData;
use unfog_shaders::Kernel;
use vulkano::buffer::Subbuffer;

/// Choices of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How the kernels of convolutions and linear layers are stored.
    pub precision: Precision,
    /// The most images of one submission; larger batches take several.
    pub max_images: usize,
    /// Copies through staging buffers even where the host reaches the device's memory: to test that way on any device.
    pub force_staging: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { precision: Precision::F32, max_images: 8, force_staging: false }
    }
}

/// What a network did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Times that inputs were sent to the device.
    pub uploads: u64,
    /// Times that results were fetched.
    pub readbacks: u64,
    /// Kernels run.
    pub dispatches: u64,
    /// Submissions to the queue.
    pub submits: u64,
}

/// A graph on a device. Inputs are set by tensor, whatever they are for; see [`crate::VulkanDenoiser`] for a network
/// that denoises.
pub struct Network {
    pub(crate) context: Context,
    pub(crate) nodes: Vec<Node>,
    pub(crate) tensors: Vec<Tensor>,
    weights: Vec<Weight>,
    pub(crate) output: TensorId,
    slots: Vec<Slot>,
    plan_bytes: u64,
    steps: Vec<Vec<Step>>,
    blocks: Vec<Block>,
    places: Vec<Span>,
    options: Options,
    pub(crate) staging: bool,
    pub(crate) memory: Option<Memory>,
    /// The whole graph for each number of images that was prepared in this memory.
    pub(crate) recorded: Vec<(usize, Encoded)>,
    /// Images of the batch that is prepared.
    pub(crate) images: usize,
    pub(crate) stats: Stats,
    /// Inputs of all images of the batch, padded, one tensor after the other: what an upload sends.
    pub(crate) inputs: Vec<f32>,
    /// The output of all images of the batch, padded: what a readback fetched.
    pub(crate) results: Vec<f32>,
}

/// Memory for a number of images.
#[derive(Clone)]
pub(crate) struct Memory {
    images: usize,
    pub(crate) arena: Block,
    pub(crate) upload: Block,
    pub(crate) readback: Block,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network")
            .field("nodes", &self.nodes.len())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Network {
    /// Plans memory, packs and uploads the weights, and compiles the pipelines. Weight i of the graph is `weights[i]`.
    ///
    /// # Errors
    /// [`GpuError::Weight`], [`GpuError::HalfRange`], [`GpuError::Plan`], [`GpuError::OutOfMemory`], [`GpuError::Limit`], or
    /// what the driver reports.
    pub fn new(
        context: &Context,
        graph: &Graph<'_>,
        weights: &[WeightData<'_>],
        options: Options,
    ) -> Result<Self, GpuError> {
        let tiling = Tiling::new(context.info(), options.precision);
        let steps: Result<Vec<_>, _> = (0..graph.nodes.len()).map(|i| dispatch::steps(graph, i, tiling)).collect();
        let steps = steps?;
        if usize::from(graph.output.0) >= graph.tensors.len() {
            return Err(GpuError::Node(graph.nodes.len()));
        }
        let mut slots = vec![Slot::default(); slots_needed(graph)];
        let plan_bytes = plan(graph, &dispatch::target(context.info()), &mut slots)?.bytes;
        let staging = options.force_staging || !context.info().unified;
        let (blocks, places) = upload_weights(context, graph, weights, options.precision, staging)?;
        let mut network = Self {
            context: context.clone(),
            nodes: graph.nodes.to_vec(),
            tensors: graph.tensors.to_vec(),
            weights: graph.weights.to_vec(),
            output: graph.output,
            slots,
            plan_bytes,
            steps,
            blocks,
            places,
            options,
            staging,
            memory: None,
            recorded: Vec::new(),
            images: 0,
            stats: Stats::default(),
            inputs: Vec::new(),
            results: Vec::new(),
        };
        network.prepare(1)?;
        context.pipelines.lock().unwrap_or_else(std::sync::PoisonError::into_inner).save();
        Ok(network)
    }

    /// The graph.
    pub fn graph(&self) -> Graph<'_> {
        Graph { nodes: &self.nodes, tensors: &self.tensors, weights: &self.weights, output: self.output }
    }

    /// The kernels that a node runs, in order, each with its specialization constants.
    pub fn kernels(&self, node: usize) -> impl Iterator<Item = String> {
        let variants = self.steps.get(node).into_iter().flatten().map(|step| &step.variant);
        variants.map(|variant| format!("{}{:?}", variant.kernel, variant.constants))
    }

    /// Bytes of the arena for one image, as planned.
    pub fn plan_bytes(&self) -> u64 {
        self.plan_bytes
    }

    /// Bytes of the weights on the device, packed.
    pub fn weight_bytes(&self) -> u64 {
        self.blocks.iter().map(|b| b.bytes).sum()
    }

    /// The place of a tensor in the arena for one image; see [`unfog_core::nn::plan`] for several.
    pub fn slot(&self, id: TensorId) -> Slot {
        self.slots[usize::from(id.0)]
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The most images of one submission: what the options and the device's largest binding allow, and what fits a quarter
    /// of its memory.
    pub fn max_images(&self) -> usize {
        let info = self.context.info();
        let largest = self.slots.iter().map(|s| s.bytes).max().unwrap_or(0).max(1);
        let fit = (info.max_binding / largest).min((info.memory / 4).min(most(&self.context)) / self.plan_bytes.max(1));
        let fit = usize::try_from(fit).unwrap_or(usize::MAX);
        self.options.max_images.min(fit).min(info.max_groups[2] as usize).max(1)
    }

    /// Makes memory and commands for `images` images at once, unless they are there already. Inputs start as zeros.
    ///
    /// # Errors
    /// [`GpuError::Input`] for none, [`GpuError::Limit`] above [`Network::max_images`], [`GpuError::OutOfMemory`], or what the
    /// driver reports.
    pub fn prepare(&mut self, images: usize) -> Result<(), GpuError> {
        if self.images == images {
            return Ok(());
        }
        if images == 0 {
            return Err(InputError::Length.into());
        }
        if images > self.max_images() {
            return Err(GpuError::Limit("images at once", images as u64));
        }
        self.images = 0;
        if self.memory.as_ref().is_none_or(|m| m.images < images) {
            // The old memory goes first.
            self.recorded.clear();
            self.memory = None;
            self.memory = Some(self.allocate(images)?);
        }
        if !self.recorded.iter().any(|(n, _)| *n == images) {
            let encoded = self.encode(images, 0..self.nodes.len(), true)?;
            self.recorded.push((images, encoded));
        }
        self.inputs = vec![0.0; (self.input_bytes(images) / 4) as usize];
        self.results = vec![0.0; (self.span(self.output, images).bytes / 4) as usize];
        self.images = images;
        Ok(())
    }

    fn allocate(&self, images: usize) -> Result<Memory, GpuError> {
        let limit = GpuError::Limit("images at once", images as u64);
        let bytes = (images as u64).checked_mul(self.plan_bytes).ok_or(limit)?;
        let arena = if self.staging { Purpose::Device } else { Purpose::Shared };
        let staged = |bytes: u64| if self.staging { bytes } else { 0 };
        Ok(Memory {
            images,
            arena: Block::new(&self.context, bytes, arena)?,
            upload: Block::new(&self.context, staged(self.input_bytes(images)), Purpose::Upload)?,
            readback: Block::new(&self.context, staged(self.span(self.output, images).bytes), Purpose::Readback)?,
        })
    }

    /// Bytes of the inputs of all images.
    fn input_bytes(&self, images: usize) -> u64 {
        self.input_ids().map(|id| self.span(id, images).bytes).sum()
    }

    /// The tensors that no node makes.
    pub(crate) fn input_ids(&self) -> impl Iterator<Item = TensorId> {
        let inputs = self.tensors.iter().zip(0_u16..).filter(|(t, _)| t.input.is_some());
        inputs.map(|(_, id)| TensorId(id)).collect::<Vec<_>>().into_iter()
    }

    /// Where a tensor lies in the arena, all images.
    pub(crate) fn span(&self, id: TensorId, images: usize) -> Span {
        self.place(self.slots[usize::from(id.0)], images)
    }

    fn place(&self, slot: Slot, images: usize) -> Span {
        let n = images as u64;
        Span { space: Space::Arena, offset: n * slot.offset, bytes: n * slot.bytes }
    }

    /// The commands of some nodes, with the inputs sent before and the output fetched after where that takes copies.
    fn record(&self, images: usize, nodes: Range<usize>, send: bool) -> Result<Vec<Command>, GpuError> {
        let mut recording = Recording::default();
        if self.staging && send {
            let mut offset = 0;
            for id in self.input_ids() {
                let to = self.span(id, images);
                recording.copy(Span { space: Space::Upload, offset, bytes: to.bytes }, to);
                offset += to.bytes;
            }
        }
        let nodes_end = nodes.end;
        for index in nodes {
            for step in &self.steps[index] {
                recording.dispatch(self.place_step(step, index, images)?);
            }
        }
        if self.staging && nodes_end == self.nodes.len() {
            let from = self.span(self.output, images);
            recording.copy(from, Span { space: Space::Readback, offset: 0, bytes: from.bytes });
        }
        Ok(recording.finish())
    }

    /// The same as a command buffer.
    pub(crate) fn encode(&self, images: usize, nodes: Range<usize>, send: bool) -> Result<Encoded, GpuError> {
        let memory = self.memory.as_ref().ok_or(GpuError::NotPrepared)?;
        encode(&self.context, &self.record(images, nodes, send)?, &|span| self.find(memory, span))
    }

    fn place_step(&self, step: &Step, node: usize, images: usize) -> Result<Dispatch, GpuError> {
        let kernel = Kernel::named(step.variant.kernel).ok_or(GpuError::Node(node))?;
        let span = |operand: &Operand| match operand {
            Operand::Tensor(id) => self.span(*id, images),
            Operand::Weight(id) => self.places[usize::from(id.0)],
            Operand::Workspace => self.place(self.slots[self.tensors.len() + node], images),
        };
        let accesses = kernel.bindings.iter().map(|b| b.access);
        let bindings = step.operands.iter().map(span).zip(accesses).collect();
        let limits = self.context.info().max_groups;
        let too_many = || GpuError::Limit("work groups", step.groups);
        let x = step.groups.min(u64::from(limits[0])).max(1);
        let y = step.groups.div_ceil(x);
        if y > u64::from(limits[1]) {
            return Err(too_many());
        }
        let groups = [x as u32, y as u32, images as u32];
        Ok(Dispatch { variant: step.variant.clone(), bindings, push: step.push.clone(), groups })
    }

    /// The bytes behind a span.
    fn find(&self, memory: &Memory, span: &Span) -> Result<Subbuffer<[u8]>, GpuError> {
        let block = match span.space {
            Space::Arena => &memory.arena,
            Space::Weights(i) => &self.blocks[i],
            Space::Upload => &memory.upload,
            Space::Readback => &memory.readback,
        };
        let end = span.offset.checked_add(span.bytes).filter(|&end| end <= block.bytes && span.bytes > 0);
        let end = end.ok_or(GpuError::Bug("bytes beyond a buffer"))?;
        Ok(Subbuffer::new(block.buffer.clone()).slice(span.offset..end))
    }
}
