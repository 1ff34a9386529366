//! What the CPU backend's kernels share.

use std::sync::{Mutex, PoisonError};

use pulp::Arch;

use super::{CpuError, reserve};

/// The processor's vector instructions, and scratch memory for each thread of the pool.
pub(super) struct Kernels {
    pub(super) arch: Arch,
    /// As many as any pixel has channels.
    pub(super) zeros: Vec<f32>,
    scratch: Vec<Mutex<Vec<f32>>>,
}

impl Kernels {
    /// Kernels for a pool of `threads`, each with `scratch` values.
    ///
    /// # Errors
    /// [`CpuError::Memory`].
    pub(super) fn new(threads: usize, scratch: usize, channels: usize) -> Result<Self, CpuError> {
        let memory = |_| {
            let mut values = Vec::new();
            reserve(&mut values, scratch).map(|()| Mutex::new(values))
        };
        let scratch = (0..threads).map(memory).collect::<Result<_, _>>()?;
        Ok(Self { arch: Arch::new(), zeros: vec![0.0; channels], scratch })
    }

    /// Threads of the pool.
    pub(super) fn threads(&self) -> usize {
        self.scratch.len()
    }

    pub(super) fn with_scratch<R>(&self, len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
        let index = rayon::current_thread_index().unwrap_or(0);
        // Nothing in scratch memory outlives a task, so a poisoned lock holds nothing broken.
        let mut guard = self.scratch[index].lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut guard[..len])
    }
}
