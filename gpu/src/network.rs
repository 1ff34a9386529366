//! A graph on a device: weights uploaded, tensors planned, commands recorded for a number of images.

use crate::band::{Band, bands};
use crate::commands::Part;
use crate::device::{Context, DeviceInfo};
use crate::dispatch::{self, TARGET};
use crate::error::GpuError;
use crate::fit::{Fit, LEAST_STAGING, Needs, STAGING, Sizes, fit, halves};
use crate::memory::{Block, Purpose, most};
use crate::pack::Precision;
use crate::record::{Space, Span};
use crate::tiling::{Kernels, Tiling};
use crate::tune;
use crate::upload::{upload_weights, weight_bytes};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use unfog_core::nn::graph::{Graph, Node, Tensor, TensorId, Weight, WeightUse};
use unfog_core::nn::plan::{Slot, plan, slots_needed};
use unfog_core::nn::project::InputError;
use unfog_core::nn::weights::WeightData;

/// Choices of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How the kernels of convolutions and linear layers are stored.
    pub precision: Precision,
    /// Which kernels run.
    pub kernels: Kernels,
    /// The most images of one submission; larger batches take several.
    pub max_images: usize,
    /// The most bytes of device memory for weights, tensors and staging buffers; what the device has left if absent. Weights that
    /// don't fit are sent anew for each evaluation.
    pub vram: Option<u64>,
    /// The most floating-point operations of one submission, unless a single work group has more; about half a second of a slow
    /// device if absent.
    pub submit_flops: Option<u64>,
    /// The most bytes of a tensor that a kernel is given at once, where that is less than what the device binds: to test tensors
    /// beyond it on any device.
    pub max_binding: Option<u64>,
    /// Copies through staging buffers even where the host reaches the device's memory: to test that way on any device.
    pub force_staging: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            precision: Precision::F32,
            kernels: Kernels::Auto,
            max_images: 8,
            vram: None,
            submit_flops: None,
            max_binding: None,
            force_staging: false,
        }
    }
}

impl Options {
    /// Bytes of a tensor that a kernel is given at most.
    fn max_binding(&self, info: &DeviceInfo) -> u64 {
        self.max_binding.unwrap_or(u64::MAX).min(info.max_binding)
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
    /// Bytes of weights that were sent to the device anew.
    pub streamed: u64,
}

/// A graph on a device. Inputs are set by tensor, whatever they are for; see [`crate::VulkanDenoiser`] for a network
/// that denoises.
pub struct Network<'w> {
    pub(crate) context: Context,
    pub(crate) nodes: Vec<Node>,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) weights: Vec<Weight>,
    pub(crate) output: TensorId,
    pub(crate) slots: Vec<Slot>,
    pub(crate) steps: Vec<Vec<Band>>,
    pub(crate) blocks: Vec<Block>,
    /// Where the weights lie that stay on the device.
    pub(crate) places: Vec<Option<Span>>,
    /// Bytes of each weight on the device.
    pub(crate) sizes: Vec<u64>,
    /// The values of the weights that don't stay, to be packed for each evaluation.
    pub(crate) streamed: Vec<Option<WeightData<'w>>>,
    /// The window that those go through: what kernels read, and what the host fills where that is something else.
    pub(crate) windows: Vec<Block>,
    pub(crate) staged: Vec<Block>,
    pub(crate) fit: Fit,
    pub(crate) options: Options,
    pub(crate) staging: bool,
    pub(crate) memory: Option<Memory>,
    /// The whole graph for each number of images that was prepared in this memory.
    pub(crate) recorded: Vec<(usize, Vec<Part>)>,
    /// Images of the batch that is prepared.
    pub(crate) images: usize,
    pub(crate) stats: Stats,
    /// Ends an evaluation between two submissions.
    pub(crate) stop: Arc<AtomicBool>,
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
    /// Staging buffers, where the host can't reach the arena.
    pub(crate) upload: Option<Block>,
    pub(crate) readback: Option<Block>,
}

/// What is known of a network before anything is taken.
struct Plan {
    slots: Vec<Slot>,
    sizes: Vec<u64>,
    fit: Fit,
    staging: bool,
}

/// Plans a graph's memory: tensors, and weights against what the device has.
fn plan_memory(context: &Context, graph: &Graph<'_>, options: &Options) -> Result<Plan, GpuError> {
    let info = context.info();
    let mut slots = vec![Slot::default(); slots_needed(graph)];
    let planned = plan(graph, &TARGET, &mut slots)?;
    let workspace = (0..graph.nodes.len()).map(|i| planned.workspace(i).bytes).max().unwrap_or(0);
    let (arena, arena_bound) = (planned.bytes, planned.lower_bound);
    let staging = options.force_staging || !info.unified;
    let sizes = weight_bytes(graph, options.precision, info.max_binding)?;
    let large: Vec<bool> = graph.weights.iter().map(|weight| weight.role == WeightUse::Kernel).collect();
    let nodes: Vec<_> = graph.nodes.iter().map(|node| node.weights.map(|id| id.map(|id| usize::from(id.0)))).collect();
    let tensor = |id: TensorId| slots[usize::from(id.0)].bytes;
    let inputs: u64 = graph.inputs().map(|(id, ..)| tensor(id)).sum();
    // What the device binds and allocates at once, and no more than a quarter of its memory for more than one image.
    let available = context.available();
    let largest = slots.iter().map(|s| s.bytes).max().unwrap_or(0).max(1);
    let most_images = (options.max_binding(info) / largest).min((available / 4).min(most(context)) / arena.max(1));
    // What is read through a texel buffer for one image is so for all.
    let texels = Tiling::new(info, options.kernels, options.precision).texels;
    let views = slots.iter().filter_map(|s| texels.checked_div(s.bytes / 16)).filter(|&images| images > 0);
    let most_images = views.fold(most_images, u64::min);
    let most_images = usize::try_from(most_images).unwrap_or(usize::MAX);
    let fit = fit(&Sizes {
        weights: &sizes,
        large: &large,
        nodes: &nodes,
        arena,
        arena_bound,
        workspace,
        transfer: if staging { inputs + tensor(graph.output) } else { 0 },
        staging,
        images: options.max_images.min(most_images).min(info.max_groups[2] as usize).max(1),
        limit: options.vram.unwrap_or(u64::MAX).min(available),
    })?;
    Ok(Plan { slots, sizes, fit, staging })
}

impl std::fmt::Debug for Network<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network")
            .field("nodes", &self.nodes.len())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<'w> Network<'w> {
    /// What a network would take of the device's memory. Takes none.
    ///
    /// # Errors
    /// [`GpuError::Node`], [`GpuError::Plan`], [`GpuError::Binding`], or [`GpuError::Memory`] where it would not fit.
    pub fn needs(context: &Context, graph: &Graph<'_>, options: Options) -> Result<Needs, GpuError> {
        steps(context, graph, &options)?;
        Ok(plan_memory(context, graph, &options)?.fit.needs)
    }

    /// Plans memory, packs and uploads the weights, and compiles the pipelines. Weight i of the graph is `weights[i]`; those that
    /// don't fit on the device are read again for each evaluation.
    ///
    /// # Errors
    /// [`GpuError::Weight`], [`GpuError::HalfRange`], [`GpuError::Quantise`], [`GpuError::Plan`], [`GpuError::Memory`], [`GpuError::OutOfMemory`],
    /// [`GpuError::Binding`], or what the driver reports.
    pub fn new(
        context: &Context,
        graph: &Graph<'_>,
        weights: &[WeightData<'w>],
        options: Options,
    ) -> Result<Self, GpuError> {
        let steps = steps(context, graph, &options)?;
        let Plan { slots, sizes, fit, staging } = plan_memory(context, graph, &options)?;
        let Needs { arena, transfer, window, .. } = fit.needs;
        // No more than is free until the arena is there.
        let piece = staging.then(|| (arena + transfer + window).clamp(LEAST_STAGING, STAGING));
        let what = (&sizes[..], &fit.streamed[..]);
        let (blocks, places) = upload_weights(context, graph, weights, what, options.precision, piece)?;
        let streamed = weights.iter().zip(&fit.streamed).map(|(&data, &streamed)| streamed.then_some(data)).collect();
        let mut network = Self {
            context: context.clone(),
            nodes: graph.nodes.to_vec(),
            tensors: graph.tensors.to_vec(),
            weights: graph.weights.to_vec(),
            output: graph.output,
            slots,
            steps,
            blocks,
            places,
            sizes,
            streamed,
            windows: Vec::new(),
            staged: Vec::new(),
            fit,
            options,
            staging,
            memory: None,
            recorded: Vec::new(),
            images: 0,
            stats: Stats::default(),
            stop: Arc::default(),
            inputs: Vec::new(),
            results: Vec::new(),
        };
        network.open_window()?;
        network.prepare(1)?;
        context.pipelines.lock().unwrap_or_else(std::sync::PoisonError::into_inner).save();
        Ok(network)
    }

    /// Takes the memory of the window, where there is one.
    fn open_window(&mut self) -> Result<(), GpuError> {
        let half = self.fit.half;
        let blocks = |count: u64, purpose| -> Result<Vec<Block>, GpuError> {
            (0..count).map(|_| Block::new(&self.context, half, purpose)).collect()
        };
        if half > 0 && self.staging {
            (self.windows, self.staged) = (blocks(1, Purpose::Device)?, blocks(halves(true) - 1, Purpose::Upload)?);
        } else if half > 0 {
            self.windows = blocks(halves(false), Purpose::Shared)?;
        }
        Ok(())
    }

    /// The graph.
    pub fn graph(&self) -> Graph<'_> {
        Graph { nodes: &self.nodes, tensors: &self.tensors, weights: &self.weights, output: self.output }
    }

    /// The kernels that a node runs, in order, each with its specialization constants.
    pub fn kernels(&self, node: usize) -> impl Iterator<Item = String> {
        let variants = self.steps.get(node).into_iter().flatten().map(|band| &band.step.variant);
        variants.map(|variant| format!("{}{}{:?}", variant.kernel, variant.reads.suffix(), variant.constants))
    }

    /// Bytes of the arena for one image, as planned.
    pub fn plan_bytes(&self) -> u64 {
        self.fit.needs.arena
    }

    /// Device memory that it takes.
    pub fn memory_needs(&self) -> Needs {
        self.fit.needs
    }

    /// Bytes of the weights that stay on the device, packed.
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

    /// The most images of one evaluation: what the options and the device's largest binding allow, and what memory there is beside
    /// the weights.
    pub fn max_images(&self) -> usize {
        self.fit.needs.images
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
            let parts = self.encode(images, 0..self.nodes.len(), true)?;
            self.recorded.push((images, parts));
        }
        self.inputs = zeros(self.input_bytes(images))?;
        self.results = zeros(self.span(self.output, images).bytes)?;
        self.images = images;
        Ok(())
    }

    fn allocate(&self, images: usize) -> Result<Memory, GpuError> {
        let limit = GpuError::Limit("images at once", images as u64);
        let bytes = (images as u64).checked_mul(self.fit.needs.arena).ok_or(limit)?;
        let arena = if self.staging { Purpose::Device } else { Purpose::Shared };
        let staged = |bytes: u64, purpose| match self.staging {
            true => Block::new(&self.context, bytes, purpose).map(Some),
            false => Ok(None),
        };
        Ok(Memory {
            images,
            arena: Block::new(&self.context, bytes, arena)?,
            upload: staged(self.input_bytes(images), Purpose::Upload)?,
            readback: staged(self.span(self.output, images).bytes, Purpose::Readback)?,
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

    pub(crate) fn place(&self, slot: Slot, images: usize) -> Span {
        let n = images as u64;
        Span { space: Space::Arena, offset: n * slot.offset, bytes: n * slot.bytes }
    }
}

/// The kernels of every node; a graph that no builder made is refused.
fn steps(context: &Context, graph: &Graph<'_>, options: &Options) -> Result<Vec<Vec<Band>>, GpuError> {
    let info = context.info();
    if options.kernels == Kernels::Matrix && info.matrix.is_none() {
        return Err(GpuError::Lacks("matrix units that kernels can use"));
    }
    let table = Tiling::new(info, options.kernels, options.precision);
    let limit = options.max_binding(info);
    let of_node = |(index, node)| {
        let mut all = Vec::new();
        let choice = tune::key(graph, node).and_then(|key| context.choices.get(&key));
        let tiling = table.chosen(info, node, choice)?;
        for step in dispatch::steps(graph, index, tiling)? {
            let bytes = dispatch::operand_bytes(graph, node, tiling, &step);
            all.extend(bands(step, &bytes, limit)?);
        }
        Ok(all)
    };
    let steps: Result<Vec<_>, _> = graph.nodes.iter().enumerate().map(of_node).collect();
    let there = usize::from(graph.output.0) < graph.tensors.len();
    if there { steps } else { steps.and(Err(GpuError::Node(graph.nodes.len()))) }
}

/// Zeros of this many bytes, if the host has memory for them.
fn zeros(bytes: u64) -> Result<Vec<f32>, GpuError> {
    let len = usize::try_from(bytes / 4).map_err(|_| GpuError::HostMemory(bytes))?;
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| GpuError::HostMemory(bytes))?;
    values.resize(len, 0.0);
    Ok(values)
}
