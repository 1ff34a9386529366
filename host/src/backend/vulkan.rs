//! The Vulkan backend with its device.

use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::graph::Graph;
use unfog_core::nn::plan::Target;
use unfog_core::nn::weights::WeightData;
use unfog_gpu::{
    Context, DeviceChoice, DeviceInfo, DeviceKind, GpuError, Network, Options, Precision as Stored, VulkanDenoiser,
};

use super::{Description, Device, Kind, Precision, Request, Tuned, cache};
use crate::error::{Error, Result};
use crate::memory::{self, Needs, plan_bytes};
use crate::stop::Stop;

/// A network on a Vulkan device.
#[derive(Debug)]
pub struct VulkanBackend<'a> {
    denoiser: VulkanDenoiser<'a>,
    info: DeviceInfo,
    precision: Precision,
    tuned: Vec<Tuned>,
}

/// The most images of one submission, where memory allows: enough to keep a GPU busy.
const MOST_IMAGES: u64 = 8;
/// Bytes that the activations of one submission may take before fewer images go into it.
const ARENA_BYTES: u64 = 256 << 20;

impl<'a> VulkanBackend<'a> {
    pub(super) fn new(request: &Request, graph: &Graph<'_>, weights: &[WeightData<'a>], stop: &Stop) -> Result<Self> {
        let (context, stored) = open(request)?;
        let options = options(request, stored, graph)?;
        let needs = Network::needs(&context, graph, options).map_err(failed)?;
        if context.info().unified {
            memory::check(needs.total(), "the network's weights and activations")?;
        }
        let mut denoiser = VulkanDenoiser::new(&context, graph, weights, options).map_err(failed)?;
        denoiser.stop_when(stop.flag());
        Ok(Self { denoiser, info: context.info().clone(), precision: request.precision, tuned: request.tuned.clone() })
    }

    pub(super) fn describe(&self) -> Description {
        Description {
            backend: Kind::Vulkan,
            device: self.info.name.clone(),
            driver: Some(self.info.driver.clone()),
            kernels: Some(format!("{:016x}", unfog_gpu::table_version())),
            threads: None,
            precision: self.precision,
            tuned: self.tuned.clone(),
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
    let choices = request.tuned.iter().map(|tuned| Ok((tuned.shape.clone(), tuned.kernel.parse().map_err(failed)?)));
    let choices: Vec<_> = choices.collect::<Result<_>>()?;
    let context = Context::open(&choice(request), cache::folder()).map_err(failed)?.tuned(choices);
    Ok((context, stored(request.precision)))
}

/// A precision as the device's side knows it.
pub(crate) fn stored(precision: Precision) -> Stored {
    match precision {
        Precision::F32 => Stored::F32,
        Precision::F16 => Stored::F16,
        Precision::Int8 => Stored::Int8,
        Precision::Q4 => Stored::Q4,
    }
}

fn options(request: &Request, precision: Stored, graph: &Graph<'_>) -> Result<Options> {
    let max_images = (ARENA_BYTES / plan_bytes(graph, &Target::STORED)?.max(1)).clamp(1, MOST_IMAGES) as usize;
    Ok(Options { precision, max_images, vram: request.vram, ..Options::default() })
}

/// What a network would take on the device that a request names.
pub(super) fn needs(request: &Request, graph: &Graph<'_>) -> Result<Needs> {
    let (context, stored) = open(request)?;
    let needs = Network::needs(&context, graph, options(request, stored, graph)?).map_err(failed)?;
    Ok(Needs {
        device: Some(context.info().name.clone()),
        weight_bytes: needs.weights,
        streamed_bytes: needs.streamed,
        window_bytes: needs.window,
        plan_bytes: needs.arena,
        workspace_bytes: needs.workspace,
        transfer_bytes: needs.transfer,
        images: needs.images,
        ..Needs::new(Kind::Vulkan)
    })
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
        max_shared: info.max_shared,
        matrix: info.matrix.map(|found| [found.m, found.n, found.k]),
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

pub(super) fn failed(e: GpuError) -> Error {
    let message = e.to_string();
    let error = match e {
        GpuError::Loader(_) | GpuError::NoDevice => Error::failure(message).hint("use --backend cpu"),
        GpuError::Stopped => return Error::interrupted(),
        GpuError::UnknownDevice(..) => Error::usage(message),
        // Whoever sets a limit is to raise it.
        GpuError::Memory { .. } => Error::failure(message).hint(
            "allow more with --vram where there is more, or try a smaller --size, --precision q4 or --backend cpu",
        ),
        _ if e.is_out_of_memory() => Error::failure(message)
            .hint("try --vram with less than the device has, a smaller --size, --precision q4 or --backend cpu"),
        GpuError::DeviceLost => {
            Error::failure(message).hint("run it again; if that doesn't help, try a smaller --size or --backend cpu")
        }
        GpuError::HalfRange(_) | GpuError::Quantise(_) => Error::failure(message).hint("use --precision f32"),
        _ => Error::failure(message),
    };
    match std::error::Error::source(&e) {
        Some(cause) => error.because(cause.to_string()),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_device_and_missing_memory_are_one_line_with_a_hint() {
        let reports = [
            (GpuError::DeviceLost, "error: the device was lost (driver reset or hang); run it again"),
            (GpuError::OutOfMemory { bytes: 12 }, "error: the device has no memory for 12 bytes more; try --vram"),
            (
                GpuError::Memory { needed: 34, limit: 12 },
                "error: the network needs 34 bytes of device memory at least, and there are 12; allow more with --vram",
            ),
        ];
        for (e, start) in reports {
            let error = failed(e);
            let report = error.report();
            assert!(report.starts_with(start) && report.lines().count() == 1, "{report}");
            assert_eq!(error.exit_code(), 1);
        }
        assert_eq!(failed(GpuError::Stopped).exit_code(), 130);
    }
}
