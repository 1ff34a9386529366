//! Faults on demand: what a driver reports only when it is in trouble, for tests of what happens then.

use std::sync::Mutex;
use vulkano::VulkanError;

/// A failure that a driver can report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One call that takes memory fails: a buffer, an allocation, a pipeline, a command buffer, a set, a fence, a submission.
    OutOfMemory,
    /// The device is lost: a submission fails, or waiting for one, and every later one too.
    DeviceLost,
}

/// A call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Takes memory, of the host or of the device.
    Take,
    /// Hands work to the device.
    Submit,
    /// Waits for it.
    Wait,
}

/// Which call is to fail, and how.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Option<(Fault, u64)>>);

impl Faults {
    /// Sets what is to fail: the call after `calls` that succeed. `None` ends every fault.
    pub(crate) fn set(&self, fault: Option<(Fault, u64)>) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = fault;
    }

    /// Fails if it is this call's turn.
    pub(crate) fn check(&self, call: Call) -> Result<(), VulkanError> {
        let mut planned = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match (&mut *planned, call) {
            (Some((Fault::OutOfMemory, 0)), Call::Take | Call::Submit) => {
                *planned = None;
                Err(VulkanError::OutOfDeviceMemory)
            }
            (Some((Fault::DeviceLost, 0)), Call::Submit | Call::Wait) => Err(VulkanError::DeviceLost),
            (Some((Fault::OutOfMemory, left)), Call::Take | Call::Submit)
            | (Some((Fault::DeviceLost, left)), Call::Submit | Call::Wait) => {
                *left -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_runs_out_once_and_a_lost_device_stays_lost() {
        let faults = Faults::default();
        assert_eq!(faults.check(Call::Take), Ok(()));
        faults.set(Some((Fault::OutOfMemory, 1)));
        assert_eq!(faults.check(Call::Wait), Ok(()), "waiting takes no memory");
        assert_eq!(faults.check(Call::Take), Ok(()));
        assert_eq!(faults.check(Call::Submit), Err(VulkanError::OutOfDeviceMemory));
        assert_eq!(faults.check(Call::Submit), Ok(()));
        faults.set(Some((Fault::DeviceLost, 1)));
        assert_eq!(faults.check(Call::Submit), Ok(()));
        for call in [Call::Wait, Call::Submit, Call::Wait] {
            assert_eq!(faults.check(call), Err(VulkanError::DeviceLost));
        }
        faults.set(None);
        assert_eq!(faults.check(Call::Submit), Ok(()));
    }
}
