//! The Vulkan backend of unfog: a network's weights uploaded once, its tensors in one arena, its commands recorded once for
//! a shape and submitted again for each evaluation. One upload and one readback an evaluation, nothing on the host between.
//!
//! ```no_run
//! use unfog_gpu::{Context, DeviceChoice, Options, VulkanDenoiser};
//! # fn example(graph: &unfog_core::nn::graph::Graph<'_>, weights: &[unfog_core::nn::weights::WeightData<'_>])
//! #     -> Result<(), unfog_gpu::GpuError> {
//! let context = Context::open(&DeviceChoice::Auto, None)?;
//! let denoiser = VulkanDenoiser::new(&context, graph, weights, Options::default())?;
//! # Ok(()) }
//! ```

mod band;
mod commands;
mod device;
mod dispatch;
mod encode;
mod error;
mod exec;
mod faults;
mod fit;
mod matrix;
mod memory;
mod network;
mod pack;
mod piece;
mod pipeline;
mod record;
mod run;
mod tiling;
mod transfer;
mod tune;
mod upload;

pub use device::{Context, DeviceChoice, DeviceInfo, DeviceKind, Log, devices};
pub use error::GpuError;
pub use exec::VulkanDenoiser;
pub use faults::Fault;
pub use fit::Needs;
pub use matrix::Matrix;
pub use memory::Usage;
pub use network::{Network, Options, Stats};
pub use pack::Precision;
pub use tiling::Kernels;
pub use tune::{Choice, candidates, key as shape_key};
pub use unfog_shaders::table_version;
