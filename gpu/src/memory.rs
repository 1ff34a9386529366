//! Device memory: one buffer an allocation, reached by the host directly where it can be.

#![expect(unsafe_code, reason = "reads and writes mapped memory")]

use crate::device::Context;
use crate::error::{Doing, GpuError};
use std::ops::Range;
use std::sync::Arc;
use vulkano::buffer::sys::RawBuffer;
use vulkano::buffer::{Buffer, BufferCreateInfo, BufferMemory, BufferUsage};
use vulkano::device::DeviceOwned;
use vulkano::memory::{
    DeviceMemory, MappedMemoryRange, MemoryAllocateInfo, MemoryMapInfo, MemoryPropertyFlags, ResourceMemory,
};
use vulkano::{Validated, VulkanError};

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
        let usage = BufferUsage::STORAGE_BUFFER | BufferUsage::TRANSFER_SRC | BufferUsage::TRANSFER_DST;
        let create = BufferCreateInfo { size: bytes, usage, ..BufferCreateInfo::default() };
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
        let mut memory = match DeviceMemory::allocate(device, allocate) {
            Err(Validated::Error(VulkanError::OutOfDeviceMemory | VulkanError::OutOfHostMemory)) => {
                return Err(out_of_memory());
            }
            other => other.doing("allocate memory")?,
        };
        if purpose != Purpose::Device {
            let map = MemoryMapInfo { offset: 0, size: allocation_size, ..MemoryMapInfo::default() };
            memory.map(map).doing("map memory")?;
        }
        let bound = raw.bind_memory(ResourceMemory::new_dedicated(memory)).map_err(|(error, ..)| error);
        Ok(Self { buffer: Arc::new(bound.doing("bind memory")?), bytes })
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
