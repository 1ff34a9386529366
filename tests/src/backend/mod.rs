//! The backends of this machine behind one face.

mod denoiser;
mod gpu;
mod session;

use unfog::cpu::{ConvKernel, CpuOptions};
use unfog_core::nn::graph::Graph;
use unfog_core::nn::weights::WeightData;
use unfog_gpu::{Kernels, Options, Precision};

use crate::TestResult;
use crate::net::Net;
pub use denoiser::Denoiser;
pub use gpu::{Gpu, gpus};
pub use session::Session;

/// A backend and how it is set up.
#[derive(Clone, Debug)]
pub enum Backend {
    /// The ops' twins.
    Reference,
    /// The fast CPU backend.
    Cpu(CpuOptions),
    /// Vulkan.
    Vulkan {
        /// The device.
        gpu: &'static Gpu,
        /// How weights are stored, and more.
        options: Options,
    },
}

impl Backend {
    /// Every backend of this machine as users get it.
    ///
    /// # Errors
    /// Those of [`gpus`].
    pub fn all() -> TestResult<Vec<Self>> {
        let vulkan = gpus()?.iter().map(|gpu| Backend::Vulkan { gpu, options: Options::default() });
        Ok([Backend::Reference, Backend::Cpu(CpuOptions::default())].into_iter().chain(vulkan).collect())
    }

    /// The further ways in which backends can be set up: each kernel of the CPU's convolutions; on Vulkan weights in half floats,
    /// staging copies where they aren't needed, and kernels that suit other devices.
    ///
    /// # Errors
    /// Those of [`gpus`].
    pub fn variants() -> TestResult<Vec<Self>> {
        let half = Options { precision: Precision::F16, ..Options::default() };
        let staging = Options { force_staging: true, ..Options::default() };
        // Whatever the device would choose for itself.
        let families = [Kernels::Plain, Kernels::Texel].map(|kernels| Options { kernels, ..Options::default() });
        let halves = families.map(|family| Options { precision: Precision::F16, ..family });
        // Weights are widened by what all kernels include: once is enough for each of the further ones.
        let tile = Options { kernels: Kernels::Tile, ..Options::default() };
        let all = [&[half, staging, tile][..], &families, &halves].concat();
        let matrix = Options { kernels: Kernels::Matrix, precision: Precision::F16, ..Options::default() };
        let of = |gpu: &'static Gpu| {
            let matrix = gpu.matrices().then_some(matrix);
            all.clone().into_iter().chain(matrix).map(move |options| Backend::Vulkan { gpu, options })
        };
        let kernels = [ConvKernel::Direct, ConvKernel::Winograd2, ConvKernel::Winograd4];
        // Weights made at each evaluation, and once.
        let cpu = kernels.into_iter().flat_map(|conv| {
            [0, u64::MAX].map(|memory| Backend::Cpu(CpuOptions { conv: Some(conv), memory, ..CpuOptions::default() }))
        });
        Ok(cpu.chain(gpus()?.iter().flat_map(of)).collect())
    }

    /// This backend with every family of Vulkan's kernels, and weights in `precision` there; as it is where it is another. Those that
    /// share memory have run with f32 among the variants.
    pub fn with(&self, precision: Precision) -> Vec<Self> {
        match self {
            Backend::Vulkan { gpu, options } => {
                let narrow = precision != Precision::F32;
                let further = [narrow.then_some(Kernels::Tile), (narrow && gpu.matrices()).then_some(Kernels::Matrix)];
                let families = [Kernels::Plain, Kernels::Texel].into_iter().chain(further.into_iter().flatten());
                let of = |kernels| Backend::Vulkan { gpu, options: Options { kernels, precision, ..*options } };
                families.map(of).collect()
            }
            other => vec![other.clone()],
        }
    }

    /// Its name, for messages.
    pub fn name(&self) -> String {
        match self {
            Backend::Reference => "reference".into(),
            Backend::Cpu(CpuOptions { threads, conv, memory, .. }) => {
                let threads = if *threads == 0 { String::new() } else { format!(" with {threads} threads") };
                let prepared = if *memory == 0 { "" } else { ", prepared" };
                format!("cpu{threads}{prepared}{}", conv.map_or(String::new(), |conv| format!(", {conv:?}")))
            }
            Backend::Vulkan { gpu, options } => {
                let precision = match options.precision {
                    Precision::F32 => "",
                    Precision::F16 => ", f16",
                    Precision::Int8 => ", int8",
                    Precision::Q4 => ", q4",
                };
                let staging = if options.force_staging { ", staging" } else { "" };
                let kernels = match options.kernels {
                    Kernels::Auto => "",
                    Kernels::Plain => ", plain",
                    Kernels::Texel => ", texel",
                    Kernels::Tile => ", tile",
                    Kernels::Matrix => ", matrix",
                };
                format!("vulkan ({}{kernels}{precision}{staging})", gpu.context.info().name)
            }
        }
    }

    /// Fails when something was amiss that no result shows: messages of the validation layer.
    ///
    /// # Errors
    /// Those of [`Gpu::check`].
    pub fn check(&self) -> TestResult {
        match self {
            Backend::Vulkan { gpu, .. } => gpu.check(),
            _ => Ok(()),
        }
    }

    /// A graph on this backend, to be run tensor by tensor.
    ///
    /// # Errors
    /// The backend's.
    pub fn session<'a>(
        &self,
        graph: &'a Graph<'a>,
        weights: &'a [WeightData<'a>],
    ) -> TestResult<Box<dyn Session + 'a>> {
        Ok(match self {
            Backend::Reference => Box::new(session::reference(graph, weights)?),
            Backend::Cpu(options) => Box::new(session::cpu(graph, weights, *options)?),
            Backend::Vulkan { gpu, options } => Box::new(session::vulkan(&gpu.context, graph, weights, *options)?),
        })
    }

    /// A network on this backend. `embeddings` are loaded: condition i of them is `Cond::Loaded(i)`.
    ///
    /// # Errors
    /// The backend's.
    pub fn denoiser<'a>(&self, net: &'a Net, embeddings: &[&[f32]]) -> TestResult<Denoiser<'a>> {
        self.network(net.graph, net.weights, embeddings)
    }

    /// A graph with an image on this backend; `embeddings` as above.
    ///
    /// # Errors
    /// The backend's.
    pub fn network<'a>(
        &self,
        graph: Graph<'a>,
        weights: &'a [WeightData<'a>],
        embeddings: &[&[f32]],
    ) -> TestResult<Denoiser<'a>> {
        match self {
            Backend::Reference => denoiser::reference(graph, weights, embeddings),
            Backend::Cpu(options) => denoiser::cpu(graph, weights, embeddings, *options),
            Backend::Vulkan { gpu, options } => denoiser::vulkan(&gpu.context, graph, weights, embeddings, *options),
        }
    }
}
