//! The Vulkan backend with its device.

use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::graph::Graph;
use unfog_core::nn::weights::WeightData;
use unfog_gpu::{Context, DeviceChoice, DeviceInfo, GpuError, Options, Precision as Stored, VulkanDenoiser};

use super::{Description, Kind, Precision, Request, cache};
use crate::error::{Error, Result};
use crate::stop::Stop;

/// A network on a Vulkan device.
#[derive(Debug)]
pub struct VulkanBackend {
    denoiser: VulkanDenoiser,
    info: DeviceInfo,
    precision: Precision,
    stop: Stop,
}

impl VulkanBackend {
    pub(super) fn new(request: &Request, graph: &Graph<'_>, weights: &[WeightData<'_>], stop: Stop) -> Result<Self> {
        let context = Context::open(&choice(request), cache::folder()).map_err(failed)?;
        let stored = match request.precision {
            Precision::F32 => Stored::F32,
            Precision::F16 => Stored::F16,
        };
        let options = Options { precision: stored, ..Options::default() };
        let denoiser = VulkanDenoiser::new(&context, graph, weights, options).map_err(failed)?;
        Ok(Self { denoiser, info: context.info().clone(), precision: request.precision, stop })
    }

    pub(super) fn describe(&self) -> Description {
        Description {
            backend: Kind::Vulkan,
            device: self.info.name.clone(),
            driver: Some(self.info.driver.clone()),
            kernels: Some(format!("{:016x}", unfog_gpu::table_version())),
            threads: None,
            precision: self.precision,
        }
    }

    /// Bytes of the arena for the images of one submission.
    pub(super) fn plan_bytes(&self) -> u64 {
        let network = self.denoiser.network();
        network.plan_bytes().saturating_mul(network.max_images() as u64)
    }

    pub(super) fn weight_bytes(&self) -> u64 {
        self.denoiser.network().weight_bytes()
    }

    pub(super) fn out_len(&self) -> usize {
        self.denoiser.out_len()
    }

    pub(super) fn predict(&mut self, x: &[f32], t: f32, conds: &[Cond], out: &mut [f32]) -> Result<()> {
        self.stop.check()?;
        self.denoiser.predict(x, t, conds, out).map_err(failed)
    }
}

/// The Vulkan devices of this machine.
///
/// # Errors
/// No loader or no driver.
pub fn devices() -> Result<Vec<DeviceInfo>> {
    unfog_gpu::devices().map_err(failed)
}

/// The name and driver of the device that a request would take.
pub(super) fn device(request: &Request) -> Result<String> {
    let context = Context::open(&choice(request), None).map_err(failed)?;
    let info = context.info();
    Ok(format!("{}, {}", info.name, info.driver))
}

fn choice(request: &Request) -> DeviceChoice {
    request.device.as_deref().map_or(DeviceChoice::Auto, DeviceChoice::parse)
}

fn failed(e: GpuError) -> Error {
    let message = e.to_string();
    let error = match e {
        GpuError::Loader(_) | GpuError::NoDevice => Error::failure(message).hint("use --backend cpu"),
        GpuError::UnknownDevice(..) => Error::usage(message),
        GpuError::OutOfMemory { .. } => {
            Error::failure(message).hint("try a smaller --size, --precision f16 or --backend cpu")
        }
        GpuError::HalfRange(_) => Error::failure(message).hint("use --precision f32"),
        _ => Error::failure(message),
    };
    match std::error::Error::source(&e) {
        Some(cause) => error.because(cause.to_string()),
        None => error,
    }
}
