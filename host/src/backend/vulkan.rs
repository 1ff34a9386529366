//! The Vulkan backend with its device.

use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::graph::Graph;
use unfog_core::nn::plan::Target;
use unfog_core::nn::weights::WeightData;
use unfog_gpu::{
    Context, DeviceChoice, DeviceInfo, DeviceKind, GpuError, Options, Precision as Stored, VulkanDenoiser,
};

use super::{Description, Device, Kind, Precision, Request, cache};
use crate::error::{Error, Result};
use crate::memory::plan_bytes;
use crate::stop::Stop;

/// A network on a Vulkan device.
#[derive(Debug)]
pub struct VulkanBackend {
    denoiser: VulkanDenoiser,
    info: DeviceInfo,
    precision: Precision,
}

/// The most images of one submission, where memory allows: enough to keep a GPU busy.
const MOST_IMAGES: u64 = 8;
/// Bytes that the activations of one submission may take before fewer images go into it.
const ARENA_BYTES: u64 = 256 << 20;

impl VulkanBackend {
    pub(super) fn new(request: &Request, graph: &Graph<'_>, weights: &[WeightData<'_>], stop: &Stop) -> Result<Self> {
        let (context, stored) = open(request)?;
        let max_images = (ARENA_BYTES / plan_bytes(graph, &Target::STORED)?.max(1)).clamp(1, MOST_IMAGES) as usize;
        let options = Options { precision: stored, max_images, ..Options::default() };
        let mut denoiser = VulkanDenoiser::new(&context, graph, weights, options).map_err(failed)?;
        denoiser.stop_when(stop.flag());
        Ok(Self { denoiser, info: context.info().clone(), precision: request.precision })
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

    pub(super) fn load_embedding(&mut self, values: &[f32]) -> Result<Cond> {
        self.denoiser.load_embedding(values).map(Cond::Loaded).map_err(failed)
    }

    pub(super) fn plan_bytes(&self) -> u64 {
        self.denoiser.network().plan_bytes()
    }

    pub(super) fn weight_bytes(&self) -> u64 {
        self.denoiser.network().weight_bytes()
    }

    pub(super) fn out_len(&self) -> usize {
        self.denoiser.out_len()
    }

    pub(super) fn predict(&mut self, x: &[f32], t: f32, conds: &[Cond], out: &mut [f32]) -> Result<()> {
        self.denoiser.predict(x, t, conds, out).map_err(failed)
    }
}

/// The device that a request names, and how weights are to be stored on it.
pub(crate) fn open(request: &Request) -> Result<(Context, Stored)> {
    let context = Context::open(&choice(request), cache::folder()).map_err(failed)?;
    let stored = match request.precision {
        Precision::F32 => Stored::F32,
        Precision::F16 => Stored::F16,
    };
    Ok((context, stored))
}

/// The devices there are.
pub(super) fn devices() -> Result<Vec<Device>> {
    let device = |info: DeviceInfo| Device {
        index: info.index,
        kind: match info.kind {
            DeviceKind::Discrete => "discrete",
            DeviceKind::Integrated => "integrated",
            DeviceKind::Virtual => "virtual",
            DeviceKind::Other => "other",
            DeviceKind::Cpu => "software",
        },
        name: info.name,
        driver: info.driver,
        api: info.api,
        unified: info.unified,
        memory: info.memory,
        max_binding: info.max_binding,
        max_invocations: info.max_invocations,
    };
    Ok(unfog_gpu::devices().map_err(failed)?.into_iter().map(device).collect())
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
        GpuError::Stopped => return Error::interrupted(),
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
