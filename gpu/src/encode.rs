//! Plain commands as a Vulkan command buffer, and its submission.

#![expect(unsafe_code, reason = "raw recording and submission, which vulkano leaves to its callers")]

use crate::device::Context;
use crate::error::{Doing, GpuError};
use crate::faults::Call;
use crate::record::{Command, Dispatch, Span};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use unfog_shaders::{Access, Reads};
use vulkano::VulkanObject;
use vulkano::buffer::Subbuffer;
use vulkano::buffer::view::{BufferView, BufferViewCreateInfo};
use vulkano::command_buffer::{BufferCopy, CommandBufferLevel, CommandBufferUsage, CopyBufferInfo};
use vulkano::command_buffer::{CommandBuffer, CommandBufferBeginInfo, RecordingCommandBuffer};
use vulkano::descriptor_set::{DescriptorSet, WriteDescriptorSet};
use vulkano::format::Format;
use vulkano::pipeline::{ComputePipeline, Pipeline, PipelineBindPoint};
use vulkano::sync::fence::Fence;
use vulkano::sync::{AccessFlags, DependencyInfo, MemoryBarrier, PipelineStages};

/// Finds the bytes behind a span.
pub(crate) type Find<'a> = &'a dyn Fn(&Span) -> Result<Subbuffer<[u8]>, GpuError>;

/// A command buffer that can be submitted again and again, and what it uses.
pub(crate) struct Encoded {
    buffer: CommandBuffer,
    fence: Fence,
    context: Context,
    /// Submitted and not waited for.
    pending: bool,
    pub(crate) dispatches: u64,
    _counted: Counted,
    _pipelines: Vec<Arc<ComputePipeline>>,
    _sets: Vec<Arc<DescriptorSet>>,
    _bytes: Vec<Subbuffer<[u8]>>,
}

/// One of the command buffers that are counted.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Records `commands`; `bytes` finds the buffer behind a span. New pipelines are compiled here.
pub(crate) fn encode(context: &Context, commands: &[Command], bytes: Find<'_>) -> Result<Encoded, GpuError> {
    let begin =
        CommandBufferBeginInfo { usage: CommandBufferUsage::MultipleSubmit, ..CommandBufferBeginInfo::default() };
    context.faults.check(Call::Take).doing("begin recording")?;
    let (allocator, family) = (context.commands.clone(), context.queue.queue_family_index());
    let recording =
        RecordingCommandBuffer::new(allocator, family, CommandBufferLevel::Primary, begin).doing("begin recording")?;
    let mut encoder = Encoder { context, recording, bytes, pipelines: Vec::new(), sets: Vec::new(), kept: Vec::new() };
    for command in commands {
        match command {
            Command::Dispatch(dispatch) => encoder.dispatch(dispatch)?,
            Command::Copy(from, to) => encoder.copy(from, to)?,
            Command::Barrier => encoder.barrier(
                PipelineStages::COMPUTE_SHADER | PipelineStages::ALL_TRANSFER,
                AccessFlags::SHADER_READ
                    | AccessFlags::SHADER_WRITE
                    | AccessFlags::TRANSFER_READ
                    | AccessFlags::TRANSFER_WRITE,
            )?,
            Command::HostBarrier => encoder.barrier(PipelineStages::HOST, AccessFlags::HOST_READ)?,
        }
    }
    let dispatches = encoder.sets.len() as u64;
    let Encoder { recording, pipelines, sets, kept, .. } = encoder;
    // SAFETY: the recording is outside of any render pass and query.
    let buffer = unsafe { recording.end() }.doing("end recording")?;
    context.faults.check(Call::Take).doing("create a fence")?;
    let fence = Fence::new(context.device.clone(), Default::default()).doing("create a fence")?;
    Ok(Encoded {
        buffer,
        fence,
        context: context.clone(),
        pending: false,
        dispatches,
        _counted: Counted::new(&context.encoded),
        _pipelines: pipelines,
        _sets: sets,
        _bytes: kept,
    })
}

struct Encoder<'a> {
    context: &'a Context,
    recording: RecordingCommandBuffer,
    bytes: Find<'a>,
    pipelines: Vec<Arc<ComputePipeline>>,
    sets: Vec<Arc<DescriptorSet>>,
    kept: Vec<Subbuffer<[u8]>>,
}

impl Encoder<'_> {
    fn dispatch(&mut self, dispatch: &Dispatch) -> Result<(), GpuError> {
        self.context.faults.check(Call::Take).doing("create a pipeline")?;
        let pipeline = {
            let mut pipelines = self.context.pipelines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            pipelines.get(&dispatch.variant)?
        };
        let layout = pipeline.layout().clone();
        let mut writes = Vec::new();
        for (i, (span, access)) in (0..).zip(&dispatch.bindings) {
            let bytes = (self.bytes)(span)?;
            writes.push(match (dispatch.variant.reads, access) {
                (Reads::Texel, Access::Read) => {
                    self.context.faults.check(Call::Take).doing("view a buffer")?;
                    let create =
                        BufferViewCreateInfo { format: Format::R32G32B32A32_UINT, ..BufferViewCreateInfo::default() };
                    WriteDescriptorSet::buffer_view(i, BufferView::new(bytes, create).doing("view a buffer")?)
                }
                _ => WriteDescriptorSet::buffer(i, bytes),
            });
        }
        let set_layout = layout.set_layouts().first().cloned().ok_or(GpuError::Bug("a kernel without buffers"))?;
        self.context.faults.check(Call::Take).doing("bind buffers")?;
        let set = DescriptorSet::new(self.context.sets.clone(), set_layout, writes, []).doing("bind buffers")?;
        // SAFETY: pipeline, layout and set belong together and to this device, and are kept with the command buffer; the
        // set is never written again. The push constants fill the layout's only range. Group counts are checked by vulkano
        // against the device's limits; the kernels stay inside what is bound, which the op tests hold them to.
        unsafe {
            self.recording.bind_pipeline_compute(&pipeline).doing("bind a pipeline")?;
            let sets = [set.as_raw()];
            self.recording
                .bind_descriptor_sets(PipelineBindPoint::Compute, &layout, 0, &sets, &[])
                .doing("bind buffers")?;
            (self.context.device.fns().v1_0.cmd_push_constants)(
                self.recording.handle(),
                layout.handle(),
                ash::vk::ShaderStageFlags::COMPUTE,
                0,
                dispatch.push.len() as u32,
                dispatch.push.as_ptr().cast(),
            );
            self.recording.dispatch(dispatch.groups).doing("dispatch")?;
        }
        self.pipelines.push(pipeline);
        self.sets.push(set);
        Ok(())
    }

    fn copy(&mut self, from: &Span, to: &Span) -> Result<(), GpuError> {
        let (from, to) = ((self.bytes)(from)?, (self.bytes)(to)?);
        let mut info = CopyBufferInfo::buffers(from.clone(), to.clone());
        info.regions = [BufferCopy { size: from.size().min(to.size()), ..BufferCopy::default() }].into();
        // SAFETY: both ranges lie in buffers of this device, which are kept with the command buffer.
        unsafe { self.recording.copy_buffer(&info) }.doing("copy")?;
        self.kept.extend([from, to]);
        Ok(())
    }

    fn barrier(&mut self, dst_stages: PipelineStages, dst_access: AccessFlags) -> Result<(), GpuError> {
        let barrier = MemoryBarrier {
            src_stages: PipelineStages::COMPUTE_SHADER | PipelineStages::ALL_TRANSFER,
            src_access: AccessFlags::SHADER_WRITE | AccessFlags::TRANSFER_WRITE,
            dst_stages,
            dst_access,
            ..MemoryBarrier::default()
        };
        let info = DependencyInfo { memory_barriers: [barrier].into_iter().collect(), ..DependencyInfo::default() };
        // SAFETY: a global memory barrier between stages that a compute queue has.
        unsafe { self.recording.pipeline_barrier(&info) }.doing("order commands").map(|_| ())
    }
}

impl Encoded {
    /// Submits the commands and waits until they are done.
    pub(crate) fn run(&mut self) -> Result<(), GpuError> {
        self.start()?;
        self.wait()
    }

    /// Submits the commands. What they use must not be written until [`Encoded::wait`].
    pub(crate) fn start(&mut self) -> Result<(), GpuError> {
        self.wait()?;
        let context = &self.context;
        context.faults.check(Call::Submit).doing("submit")?;
        let buffers = [self.buffer.handle()];
        let submit = ash::vk::SubmitInfo::default().command_buffers(&buffers);
        let fns = context.device.fns();
        // SAFETY: the fence is not in use: every submission is waited for (see above), and `self` is borrowed exclusively.
        unsafe { self.fence.reset() }.doing("reset a fence")?;
        let submitted = context.queue.with(|_queue| {
            // SAFETY: the queue is locked; the command buffer is complete and not pending (see above), and what it uses
            // is kept in `self`, which waits before it goes.
            unsafe { (fns.v1_0.queue_submit)(context.queue.handle(), 1, &submit, self.fence.handle()) }
        });
        submitted.result().map_err(vulkano::VulkanError::from).doing("submit")?;
        self.pending = true;
        Ok(())
    }

    /// Waits until what was submitted is done; at once where nothing was.
    pub(crate) fn wait(&mut self) -> Result<(), GpuError> {
        if !std::mem::take(&mut self.pending) {
            return Ok(());
        }
        let waited = self.fence.wait(None).or_else(|error| {
            // Out of host memory, say: the commands must still not outlive what they use.
            self.context.queue.with(|mut queue| queue.wait_idle()).and(Err(error))
        });
        waited.and(self.context.faults.check(Call::Wait)).doing("wait for the device")
    }
}

impl Drop for Encoded {
    fn drop(&mut self) {
        // Only when an error or a panic came between: what the device works on must not go before it is done. That the
        // device is lost was said already.
        let _ = self.wait();
    }
}
