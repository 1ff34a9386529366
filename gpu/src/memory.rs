//! Device memory: one buffer an allocation, reached by the host directly where it can be.

#![expect(unsafe_code, reason = "reads and writes mapped memory")]

use crate::device::Context;
use crate::error::{Doing, GpuError};
use crate::faults::Call;
use std::ops::Range;
use std::sync::{Arc, PoisonError, Weak};
use vulkano::VulkanObject;
use vulkano::buffer::sys::RawBuffer;
use vulkano::buffer::{Buffer, BufferCreateInfo, BufferMemory, BufferUsage};
use vulkano::device::DeviceOwned;
use vulkano::instance::InstanceOwned;
use vulkano::memory::{
    DeviceMemory, MappedMemoryRange, MemoryAllocateInfo, MemoryHeapFlags, MemoryMapInfo, MemoryPropertyFlags,
    ResourceMemory,
};
use vulkano::{Validated, Version, VulkanError};

/// What memory is for, which decides its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The device works on it and the host reaches it too.
    Shared,
    /// The device alone works on it.
    Device,
    /// The host writes it, the device copies from it.
    Upload,
    /// The device copies to it, the host reads it.
    Readback,
}

impl Purpose {
    /// Memory properties that will do, the best first.
    fn wishes(self) -> Vec<MemoryPropertyFlags> {
        let (local, visible) = (MemoryPropertyFlags::DEVICE_LOCAL, MemoryPropertyFlags::HOST_VISIBLE);
        let (coherent, cached) = (MemoryPropertyFlags::HOST_COHERENT, MemoryPropertyFlags::HOST_CACHED);
        match self {
            Purpose::Shared => vec![
                local | visible | coherent | cached,
                local | visible | cached,
                local | visible | coherent,
                local | visible,
            ],
            Purpose::Device => vec![local, MemoryPropertyFlags::empty()],
            Purpose::Upload => vec![visible | coherent, visible],
            Purpose::Readback => vec![visible | cached | coherent, visible | cached, visible | coherent, visible],
        }
    }
}

/// `bytes` widened to whole atoms, cut at the end of the allocation, as flushing wants it.
fn atoms(bytes: Range<u64>, atom: u64, size: u64) -> Range<u64> {
    bytes.start / atom * atom..bytes.end.next_multiple_of(atom).min(size)
}

/// The most bytes of one allocation on a device.
pub(crate) fn most(context: &Context) -> u64 {
    let p = context.device.physical_device().properties();
    p.max_memory_allocation_size.unwrap_or(u64::MAX).min(p.max_buffer_size.unwrap_or(u64::MAX))
}

/// What a context's networks hold of its device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Buffers, each with memory of its own.
    pub buffers: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The most bytes that there were at once.
    pub peak: u64,
    /// Recorded command buffers, each with a fence and its sets.
    pub commands: usize,
}

/// The buffers of a context that are alive.
#[derive(Debug, Default)]
pub(crate) struct Live {
    buffers: Vec<Weak<Buffer>>,
    peak: u64,
}

impl Live {
    fn add(&mut self, buffer: &Arc<Buffer>) {
        self.buffers.push(Arc::downgrade(buffer));
        self.peak = self.peak.max(self.count().1);
    }

    /// Buffers and their bytes.
    fn count(&mut self) -> (usize, u64) {
        self.buffers.retain(|buffer| buffer.strong_count() > 0);
        let bytes = self.buffers.iter().filter_map(Weak::upgrade).map(|buffer| buffer.size()).sum();
        (self.buffers.len(), bytes)
    }
}

/// What a context's networks hold of its device, but for command buffers.
pub(crate) fn usage(context: &Context) -> Usage {
    let mut live = context.live.lock().unwrap_or_else(PoisonError::into_inner);
    let (buffers, bytes) = live.count();
    Usage { buffers, bytes, peak: live.peak, commands: 0 }
}

/// Bytes that the device can still give to this process: what the driver allows it (VK_EXT_memory_budget), where it tells,
/// otherwise the heap's size, less what is taken.
pub(crate) fn available(context: &Context) -> u64 {
    let physical = context.device.physical_device();
    let heaps = &physical.memory_properties().memory_heaps;
    let local = |i: &usize| heaps[*i].flags.contains(MemoryHeapFlags::DEVICE_LOCAL);
    let largest = |heaps_of: &mut dyn Iterator<Item = usize>| heaps_of.max_by_key(|&i| heaps[i].size);
    let heap = largest(&mut (0..heaps.len()).filter(local)).or_else(|| largest(&mut (0..heaps.len())));
    let Some(heap) = heap else { return 0 };
    budget(context, heap).unwrap_or_else(|| heaps[heap].size.saturating_sub(usage(context).bytes))
}

/// What the driver allows this process to take more of a heap, if it tells.
fn budget(context: &Context, heap: usize) -> Option<u64> {
    let physical = context.device.physical_device();
    let instance = physical.instance();
    let known = physical.supported_extensions().ext_memory_budget;
    if !known || physical.api_version().min(instance.api_version()) < Version::V1_1 {
        return None;
    }
    let mut budget = ash::vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
    let mut properties = ash::vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
    // SAFETY: a Vulkan 1.1 function of a living instance and its device, which has the extension of the chained structure.
    unsafe { (instance.fns().v1_1.get_physical_device_memory_properties2)(physical.handle(), &mut properties) };
    let of_heap = |values: &[u64]| values.get(heap).copied().unwrap_or(0);
    // A driver that says nothing of a heap says 0.
    Some(of_heap(&budget.heap_budget)).filter(|&bytes| bytes > 0).map(|b| b.saturating_sub(of_heap(&budget.heap_usage)))
}

/// A buffer with memory of its own.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) bytes: u64,
}

impl Block {
    /// Allocates `bytes` (at least 4), mapped unless for [`Purpose::Device`].
    pub(crate) fn new(context: &Context, bytes: u64, purpose: Purpose) -> Result<Self, GpuError> {
        let bytes = bytes.max(4);
        let device = context.device.clone();
        let out_of_memory = || GpuError::OutOfMemory { bytes };
        if bytes > most(context) {
            return Err(out_of_memory());
        }
        let usage = BufferUsage::STORAGE_BUFFER
            | BufferUsage::UNIFORM_TEXEL_BUFFER
            | BufferUsage::TRANSFER_SRC
            | BufferUsage::TRANSFER_DST;
        let create = BufferCreateInfo { size: bytes, usage, ..BufferCreateInfo::default() };
        context.faults.check(Call::Take).doing("create a buffer")?;
        let raw = RawBuffer::new(device.clone(), create).doing("create a buffer")?;
        let requirements = raw.memory_requirements();
        let properties = device.physical_device().memory_properties();
        let fits = |wish: &MemoryPropertyFlags| {
            let types = properties.memory_types.iter().enumerate();
            let allowed = |i: usize| requirements.memory_type_bits & (1 << i) != 0;
            types
                .into_iter()
                .find(|(i, t)| allowed(*i) && t.property_flags.contains(*wish))
                .map(|(i, t)| (i, t.heap_index))
        };
        let (memory_type_index, heap) = purpose.wishes().iter().find_map(fits).ok_or_else(out_of_memory)?;
        let allocation_size = requirements.layout.size();
        if allocation_size > properties.memory_heaps[heap as usize].size {
            return Err(out_of_memory());
        }
        let allocate =
            MemoryAllocateInfo { allocation_size, memory_type_index: memory_type_index as u32, ..Default::default() };
        let faulty = context.faults.check(Call::Take).map_err(Validated::from);
        let mut memory = match faulty.and_then(|()| DeviceMemory::allocate(device, allocate)) {
            Err(Validated::Error(VulkanError::OutOfDeviceMemory | VulkanError::OutOfHostMemory)) => {
                return Err(out_of_memory());
            }
            other => other.doing("allocate memory")?,
        };
        if purpose != Purpose::Device {
            let map = MemoryMapInfo { offset: 0, size: allocation_size, ..MemoryMapInfo::default() };
            context.faults.check(Call::Take).doing("map memory")?;
            memory.map(map).doing("map memory")?;
        }
        context.faults.check(Call::Take).doing("bind memory")?;
        let bound = raw.bind_memory(ResourceMemory::new_dedicated(memory)).map_err(|(error, ..)| error);
        let buffer = Arc::new(bound.doing("bind memory")?);
        context.live.lock().unwrap_or_else(PoisonError::into_inner).add(&buffer);
        Ok(Self { buffer, bytes })
    }

    fn memory(&self) -> Option<&DeviceMemory> {
        match self.buffer.memory() {
            BufferMemory::Normal(memory) => Some(memory.device_memory()),
            _ => None,
        }
    }

    /// The whole atoms of non-coherent memory around `start .. end`.
    fn atoms(memory: &DeviceMemory, start: u64, end: u64) -> MappedMemoryRange {
        let atom = memory.device().physical_device().properties().non_coherent_atom_size.as_devicesize();
        let whole = atoms(start..end, atom, memory.allocation_size());
        MappedMemoryRange { offset: whole.start, size: whole.end - whole.start, ..MappedMemoryRange::default() }
    }

    /// Hands the mapped bytes `offset .. offset + len` to `write`, then makes them visible to the device.
    /// Memory that isn't mapped, and a range beyond its end, are refused.
    ///
    /// # Safety
    /// The device must not be using these bytes.
    pub(crate) unsafe fn write(&self, offset: u64, len: u64, write: impl FnOnce(&mut [u8])) -> Result<(), GpuError> {
        let (memory, mut bytes) = self.mapped(offset, len)?;
        // SAFETY: inside the mapping (checked by `slice`); the device doesn't use the bytes (the caller's promise), and on
        // the host every access goes through this exclusive block of one owner.
        write(unsafe { bytes.as_mut() });
        // SAFETY: the device doesn't use the range (the caller's promise).
        unsafe { memory.flush_range(Self::atoms(memory, offset, offset + len)) }.doing("flush memory")
    }

    /// Hands the mapped bytes `offset .. offset + len` to `read`, after making the device's writes visible.
    ///
    /// # Safety
    /// The device must not be writing these bytes.
    pub(crate) unsafe fn read(&self, offset: u64, len: u64, read: impl FnOnce(&[u8])) -> Result<(), GpuError> {
        let (memory, bytes) = self.mapped(offset, len)?;
        // SAFETY: no reference into the mapping exists here.
        unsafe { memory.invalidate_range(Self::atoms(memory, offset, offset + len)) }.doing("invalidate memory")?;
        // SAFETY: inside the mapping (checked by `slice`), and the device doesn't write (the caller's promise).
        read(unsafe { bytes.as_ref() });
        Ok(())
    }

    fn mapped(&self, offset: u64, len: u64) -> Result<(&DeviceMemory, std::ptr::NonNull<[u8]>), GpuError> {
        let memory = self.memory().ok_or(GpuError::Bug("memory that is not mapped"))?;
        let end =
            offset.checked_add(len).filter(|&end| end <= self.bytes).ok_or(GpuError::Bug("bytes beyond a buffer"))?;
        let bytes = memory.mapping_state().and_then(|state| state.slice(offset..end));
        Ok((memory, bytes.ok_or(GpuError::Bug("memory that is not mapped"))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceChoice;

    #[test]
    fn atoms_are_whole_and_end_with_the_allocation() {
        assert_eq!(atoms(0..4, 64, 1000), 0..64);
        assert_eq!(atoms(63..129, 64, 1000), 0..192);
        assert_eq!(atoms(128..256, 64, 1000), 128..256);
        assert_eq!(atoms(990..996, 64, 1000), 960..1000);
    }

    #[test]
    fn what_the_device_has_not_is_refused_with_the_number() {
        let context = match Context::open(&DeviceChoice::Auto, None) {
            Err(error @ (GpuError::NoDevice | GpuError::Loader(_))) => {
                assert!(std::env::var("REQUIRE_GPU").as_deref() != Ok("1"), "{error}");
                eprintln!("SKIPPED what_the_device_has_not_is_refused_with_the_number: {error}");
                return;
            }
            other => other.unwrap(),
        };
        for purpose in [Purpose::Shared, Purpose::Device, Purpose::Upload, Purpose::Readback] {
            let asked = context.info().memory + 4096;
            let result = Block::new(&context, asked, purpose);
            assert!(matches!(result, Err(GpuError::OutOfMemory { bytes }) if bytes == asked), "{purpose:?}");
            let block = Block::new(&context, 10, purpose).unwrap();
            // SAFETY: no command knows the block.
            let written = unsafe { block.write(8, 2, |to| to.copy_from_slice(&[1, 2])) };
            assert_eq!(written.is_ok(), purpose != Purpose::Device);
            // SAFETY: as above.
            let beyond = unsafe { block.write(9, 2, |_| {}) };
            assert!(beyond.is_err());
        }
    }
}
