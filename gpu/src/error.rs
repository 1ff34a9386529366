//! What can go wrong on a device.

use std::fmt;
use unfog_core::nn::plan::PlanError;
use unfog_core::nn::project::InputError;
use vulkano::{LoadingError, Validated, ValidationError, VulkanError};

/// Why the Vulkan backend could not do what it was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum GpuError {
    /// This machine has no Vulkan loader (`libvulkan.so.1`), or it can't be used.
    Loader(LoadingError),
    /// There is a loader, but no driver offers a device with compute queues.
    NoDevice,
    /// No device has the number or name asked for; the devices there are.
    UnknownDevice(String, Vec<String>),
    /// The device has too little memory: the bytes of the allocation that failed.
    OutOfMemory {
        /// Bytes asked for.
        bytes: u64,
    },
    /// A network needs more device memory than it may take.
    Memory {
        /// The least that would do, in bytes.
        needed: u64,
        /// What it may take: the limit that was set, or what the device has left.
        limit: u64,
    },
    /// A weight, or of a tensor of one image what a kernel must have at once, is larger than what the device binds.
    Binding {
        /// Which of the two.
        what: &'static str,
        /// Its bytes.
        bytes: u64,
        /// The most that the device binds.
        limit: u64,
    },
    /// The host has no memory for so many bytes.
    HostMemory(u64),
    /// The device was lost: the driver reset it, or it hung.
    DeviceLost,
    /// Another failure of a Vulkan call; what was being done.
    Vulkan(&'static str, VulkanError),
    /// A Vulkan call was made against the rules: a bug of this crate.
    Invalid(&'static str, Box<ValidationError>),
    /// The graph has no memory plan on this device.
    Plan(PlanError),
    /// An input doesn't fit the network.
    Input(InputError),
    /// Weight `index` is missing or has another number of values than the graph says.
    Weight(usize),
    /// Weight `index` has a value beyond the range of half floats: use f32.
    HalfRange(usize),
    /// Weight `index` has a value that is not finite, or too large for 4 bits: use f32.
    Quantise(usize),
    /// Node `index` has operands that don't fit its op: the graph is not one that a builder made.
    Node(usize),
    /// The stop flag was set.
    Stopped,
    /// No kernel is cut up like this, or not on this device.
    Choice(String),
    /// More than this device takes at once: what, and how much.
    Limit(&'static str, u64),
    /// Kernels were asked for that this device can't run: what it lacks.
    Lacks(&'static str),
    /// No batch is prepared: preparing one failed before.
    NotPrepared,
    /// A bug of this crate: what is wrong.
    Bug(&'static str),
}

impl GpuError {
    /// True when there was too little memory: of the device, of the host, or below a limit that was set.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(
            self,
            GpuError::OutOfMemory { .. }
                | GpuError::Memory { .. }
                | GpuError::HostMemory(_)
                | GpuError::Vulkan(_, VulkanError::OutOfDeviceMemory | VulkanError::OutOfHostMemory)
        )
    }
}

impl fmt::Display for GpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GpuError::Loader(_) => write!(f, "the Vulkan loader can't be used (is libvulkan1 installed?)"),
            GpuError::NoDevice => write!(f, "no Vulkan device with compute queues (is a driver installed?)"),
            GpuError::UnknownDevice(asked, there) => {
                write!(f, "no Vulkan device \"{asked}\"; there are: {}", there.join(", "))
            }
            GpuError::OutOfMemory { bytes } => write!(f, "the device has no memory for {bytes} bytes more"),
            GpuError::Memory { needed, limit } => {
                write!(f, "the network needs {needed} bytes of device memory at least, and there are {limit}")
            }
            GpuError::Binding { what, bytes, limit } => {
                write!(f, "a {what} of {bytes} bytes is more than the {limit} that this device binds")
            }
            GpuError::HostMemory(bytes) => write!(f, "there is no memory for {bytes} bytes more"),
            GpuError::DeviceLost => write!(f, "the device was lost (driver reset or hang)"),
            GpuError::Vulkan(doing, _) => write!(f, "Vulkan failed to {doing}"),
            GpuError::Invalid(doing, _) => write!(f, "invalid use of Vulkan to {doing}"),
            GpuError::Plan(error) => write!(f, "no memory plan: {error:?}"),
            GpuError::Input(error) => write!(f, "an input doesn't fit the network: {error:?}"),
            GpuError::Weight(i) => write!(f, "weight {i} is missing or has a wrong number of values"),
            GpuError::HalfRange(i) => write!(f, "weight {i} has values beyond the range of f16; use f32"),
            GpuError::Quantise(i) => {
                write!(f, "weight {i} has values that can't be quantised: not finite, or too large; use f32")
            }
            GpuError::Node(i) => write!(f, "node {i} has operands that don't fit"),
            GpuError::Stopped => write!(f, "stopped"),
            GpuError::Choice(text) => write!(f, "\"{text}\" is no kernel that this device runs"),
            GpuError::Limit(what, n) => write!(f, "{n} {what} are more than this device takes"),
            GpuError::Lacks(what) => write!(f, "this device has no {what}"),
            GpuError::NotPrepared => write!(f, "no batch is prepared on the device"),
            GpuError::Bug(what) => write!(f, "a bug in unfog-gpu: {what}"),
        }
    }
}

impl std::error::Error for GpuError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            GpuError::Loader(error) => Some(error),
            GpuError::Vulkan(_, error) => Some(error),
            GpuError::Invalid(_, error) => Some(error),
            _ => None,
        }
    }
}

impl From<PlanError> for GpuError {
    fn from(error: PlanError) -> Self {
        GpuError::Plan(error)
    }
}

impl From<InputError> for GpuError {
    fn from(error: InputError) -> Self {
        GpuError::Input(error)
    }
}

/// Names what a Vulkan call was for when it fails.
pub(crate) trait Doing<T> {
    /// `doing` completes "Vulkan failed to ...".
    fn doing(self, doing: &'static str) -> Result<T, GpuError>;
}

impl<T> Doing<T> for Result<T, VulkanError> {
    fn doing(self, doing: &'static str) -> Result<T, GpuError> {
        self.map_err(|error| match error {
            VulkanError::DeviceLost => GpuError::DeviceLost,
            other => GpuError::Vulkan(doing, other),
        })
    }
}

impl<T> Doing<T> for Result<T, Validated<VulkanError>> {
    fn doing(self, doing: &'static str) -> Result<T, GpuError> {
        match self {
            Ok(value) => Ok(value),
            Err(Validated::Error(error)) => Err(error).doing(doing),
            Err(Validated::ValidationError(error)) => Err(GpuError::Invalid(doing, error)),
        }
    }
}

impl<T> Doing<T> for Result<T, Box<ValidationError>> {
    fn doing(self, doing: &'static str) -> Result<T, GpuError> {
        self.map_err(|error| GpuError::Invalid(doing, error))
    }
}
