//! Backends: concrete types behind one enum, the choice among them, and what they say of themselves.

mod auto;
mod cache;
pub(crate) mod narrow;
mod reference;
#[cfg(feature = "vulkan")]
mod tune;
#[cfg(feature = "vulkan")]
pub(crate) mod vulkan;

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::graph::Graph;
use unfog_core::nn::plan::Target;
use unfog_core::nn::weights::WeightData;

pub use auto::{Chosen, Leftover, choose};
pub use narrow::Narrowed;

use crate::cpu::{CpuDenoiser, CpuError, CpuOptions};
use crate::error::{Error, Result};
use crate::memory::{self, Needs};
use crate::stop::Stop;
use reference::ReferenceBackend;

/// A backend, or the wish for the fastest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The fastest on this machine and model, measured once.
    #[default]
    Auto,
    /// A GPU, or a software driver, through Vulkan.
    Vulkan,
    /// The processor, all cores, vector instructions.
    Cpu,
    /// The processor, plain loops, the same bits everywhere.
    Reference,
}

impl Kind {
    /// Every kind with its name.
    pub const NAMES: [(&'static str, Kind); 4] =
        [("auto", Kind::Auto), ("vulkan", Kind::Vulkan), ("cpu", Kind::Cpu), ("reference", Kind::Reference)];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        by_name(&Self::NAMES, "backend", text)
    }
}

/// How the weights of convolutions and linear layers are held while a network runs, whatever the backend. Norms and biases are f32, and so
/// is arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Their values as the model has them: no loss.
    #[default]
    F32,
    /// Half floats.
    F16,
    /// 8-bit integers with a scale for each output channel: a quarter of the bytes.
    Int8,
    /// 4-bit integers with a scale for each 32 inputs: a seventh. Layers of few inputs or outputs have 8 bits.
    Q4,
}

impl Precision {
    /// Every precision with its name.
    pub const NAMES: [(&'static str, Precision); 4] =
        [("f32", Precision::F32), ("f16", Precision::F16), ("int8", Precision::Int8), ("q4", Precision::Q4)];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, precision)| *precision == self).map_or("", |(name, _)| name)
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        by_name(&Self::NAMES, "precision", text)
    }
}

/// The value that `text` names, or a usage error with the names there are.
pub(crate) fn by_name<T: Copy>(names: &[(&str, T)], what: &str, text: &str) -> Result<T> {
    let found = names.iter().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        Error::usage(format!("there is no {what} {text:?}")).hint(format!("known: {}", known.join(", ")))
    })
}

/// Which backend to make and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Which.
    pub kind: Kind,
    /// The Vulkan device: its number, or a part of its name; the best one if absent.
    pub device: Option<String>,
    /// How weights are held.
    pub precision: Precision,
    /// Threads of the CPU backend; one a core if absent.
    pub threads: Option<usize>,
    /// The most bytes of a GPU's memory; what it has left if absent.
    pub vram: Option<u64>,
    /// The most bytes for weights that the CPU backend prepares once; if absent, all where [`RAM`] is enough, else none. Changes no bit.
    pub ram: Option<u64>,
    /// Whether the kernels of a GPU are to be measured where a table decides otherwise; see [`Request::tuned`].
    pub tune: bool,
    /// Kernels of a GPU that were chosen before: from a recipe, to make its picture again.
    pub tuned: Vec<Tuned>,
}

/// How the kernel of a convolution or an attention is cut up, where tuning found another way faster than the table's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuned {
    /// The shapes that it is for.
    pub shape: String,
    /// The kernel and its tile.
    pub kernel: String,
}

/// Bytes for prepared weights unless a request says otherwise: enough for small networks.
pub const RAM: u64 = 128 << 20;

impl Request {
    /// Refuses options that contradict each other.
    ///
    /// # Errors
    /// A usage error that names both.
    pub fn check(&self) -> Result<()> {
        let gpu = matches!(self.kind, Kind::Auto | Kind::Vulkan);
        let contradicts =
            |option: &str| Err(Error::usage(format!("{option} means nothing to the backend {}", self.kind.name())));
        match self {
            Request { threads: Some(0), .. } => Err(Error::usage("0 threads can't compute").hint("give 1 or more")),
            Request { threads: Some(n), .. } if *n > 4096 => {
                Err(Error::usage(format!("{n} threads are too many")).hint("give 4096 or fewer"))
            }
            Request { device: Some(_), .. } if !gpu => contradicts("--device"),
            Request { vram: Some(_), .. } if !gpu => contradicts("--vram"),
            Request { tune: true, .. } if !gpu => contradicts("--tune"),
            Request { threads: Some(_), kind: Kind::Vulkan | Kind::Reference, .. } => contradicts("--threads"),
            Request { ram: Some(_), kind: Kind::Vulkan | Kind::Reference, .. } => contradicts("--ram"),
            _ => Ok(()),
        }
    }
}

impl Request {
    /// This request with the backend `kind` in place of auto, and without what means nothing to it.
    pub fn chosen(&self, kind: Kind) -> Self {
        let gpu = kind == Kind::Vulkan;
        Self {
            kind,
            device: self.device.clone().filter(|_| gpu),
            precision: self.precision,
            threads: self.threads.filter(|_| kind == Kind::Cpu),
            vram: self.vram.filter(|_| gpu),
            ram: self.ram.filter(|_| kind == Kind::Cpu),
            tune: self.tune && gpu,
            tuned: if gpu { self.tuned.clone() } else { Vec::new() },
        }
    }

    /// Measures the kernels of a network, if that was asked for and there is a choice: this request with what was chosen, and a line
    /// for the user. `report` is told how many shapes of layers are done, of how many.
    ///
    /// # Errors
    /// No such device, or the run was stopped.
    pub fn tuned(
        self,
        graph: &Graph<'_>,
        weights: &[WeightData<'_>],
        stop: &Stop,
        report: &mut dyn FnMut(u64, u64),
    ) -> Result<(Self, Option<String>)> {
        #[cfg(feature = "vulkan")]
        if self.tune && self.kind == Kind::Vulkan {
            let (tuned, why) = tune::tune(&self, graph, weights, stop, report)?;
            return Ok((Self { tune: false, tuned, ..self }, Some(why)));
        }
        let _ = (graph, weights, stop, report);
        Ok((self, None))
    }
}

/// What computed, for recipes and reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The backend.
    pub backend: Kind,
    /// The device's name, or the processor's architecture.
    pub device: String,
    /// The driver and its version.
    pub driver: Option<String>,
    /// Version of the table of kernels.
    pub kernels: Option<String>,
    /// Threads in use.
    pub threads: Option<usize>,
    /// How the weights are stored.
    pub precision: Precision,
    /// Kernels other than the table's, from tuning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tuned: Vec<Tuned>,
}

/// A Vulkan device and the limits that matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its number, by which `--device` names it.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// What sort it is: discrete, integrated, virtual, other, software.
    pub kind: &'static str,
    /// The driver's name and version.
    pub driver: String,
    /// The Vulkan version, major and minor.
    pub api: (u32, u32),
    /// It shares its memory with the host: no staging copies.
    pub unified: bool,
    /// Bytes of its largest memory heap.
    pub memory: u64,
    /// Most bytes of a weight, and of a tensor that a kernel is given at once.
    pub max_binding: u64,
    /// Most invocations of a work group.
    pub max_invocations: u32,
    /// Most bytes that they share.
    pub max_shared: u32,
    /// Sides of the products of its matrix units (pixels, output channels, input channels), where kernels can use them.
    pub matrix: Option<[u32; 3]>,
}

/// The Vulkan devices of this machine.
///
/// # Errors
/// No loader, no driver, or built without Vulkan.
pub fn devices() -> Result<Vec<Device>> {
    #[cfg(feature = "vulkan")]
    return vulkan::devices();
    #[cfg(not(feature = "vulkan"))]
    return Err(without_vulkan());
}

#[cfg(not(feature = "vulkan"))]
pub(crate) fn without_vulkan() -> Error {
    Error::failure("this unfog was built without Vulkan").hint("use --backend cpu")
}

/// What a network would take on the backend that `request` names, which must not be [`Kind::Auto`]. Takes nothing.
///
/// # Errors
/// No such backend or device, or more memory than there may be.
pub fn needs(request: &Request, graph: &Graph<'_>) -> Result<Needs> {
    request.check()?;
    let host = |weight_bytes, target| {
        Ok(Needs { weight_bytes, plan_bytes: memory::plan_bytes(graph, &target)?, ..Needs::new(request.kind) })
    };
    let narrowed = narrow::bytes(request.precision, graph);
    match request.kind {
        Kind::Auto => Err(not_a_backend()),
        // Both read the weights where they lie, in their file or narrowed.
        Kind::Reference => host(narrowed, Target::REFERENCE),
        Kind::Cpu => {
            let prepared = CpuDenoiser::prepared_bytes(graph, &cpu_options(request, graph));
            host(narrowed.saturating_add(prepared), Target::STORED)
        }
        #[cfg(feature = "vulkan")]
        Kind::Vulkan => vulkan::needs(request, graph),
        #[cfg(not(feature = "vulkan"))]
        Kind::Vulkan => Err(without_vulkan()),
    }
}

pub(crate) fn cpu_options(request: &Request, graph: &Graph<'_>) -> CpuOptions {
    let options = |memory| CpuOptions { threads: request.threads.unwrap_or(0), memory, ..CpuOptions::default() };
    match request.ram {
        Some(bytes) => options(bytes),
        // All of them, or none: for large networks so few would be nothing.
        None if CpuDenoiser::prepared_bytes(graph, &options(u64::MAX)) <= RAM => options(RAM),
        None => options(0),
    }
}

pub(crate) fn not_a_backend() -> Error {
    Error::failure("auto is not a backend but the choice of one")
}

/// A network on a backend.
#[derive(Debug)]
pub enum Backend<'a> {
    /// Core's twins.
    Reference(ReferenceBackend<'a>, Precision),
    /// Fast kernels.
    Cpu(CpuDenoiser<'a>, Precision),
    /// A GPU.
    #[cfg(feature = "vulkan")]
    Vulkan(Box<vulkan::VulkanBackend<'a>>),
}

impl<'a> Backend<'a> {
    /// Puts a network on the backend that `request` names, which must not be [`Kind::Auto`] (see [`choose`]). `weights` are as
    /// [`Narrowed`] gives them. `stop` ends an evaluation early.
    ///
    /// # Errors
    /// No such backend or device, too little memory.
    pub fn open(request: &Request, graph: Graph<'a>, weights: &'a [WeightData<'a>], stop: &Stop) -> Result<Self> {
        request.check()?;
        if matches!(request.kind, Kind::Cpu | Kind::Reference) {
            // Narrowed weights are there already.
            let more = needs(request, &graph)?.total().saturating_sub(narrow::bytes(request.precision, &graph));
            memory::check(more, "the network's activations and prepared weights")?;
        }
        match request.kind {
            Kind::Auto => Err(not_a_backend()),
            Kind::Reference => {
                ReferenceBackend::new(graph, weights, stop.clone()).map(|r| Backend::Reference(r, request.precision))
            }
            Kind::Cpu => {
                let mut cpu = CpuDenoiser::new(graph, weights, cpu_options(request, &graph)).map_err(cpu_error)?;
                cpu.stop_when(stop.flag());
                Ok(Backend::Cpu(cpu, request.precision))
            }
            #[cfg(feature = "vulkan")]
            Kind::Vulkan => {
                vulkan::VulkanBackend::new(request, &graph, weights, stop).map(|v| Backend::Vulkan(Box::new(v)))
            }
            #[cfg(not(feature = "vulkan"))]
            Kind::Vulkan => Err(without_vulkan()),
        }
    }

    /// Keeps a condition: the values of the network's embeddings, one after the other. Returns what names it from now on.
    ///
    /// # Errors
    /// A network that takes none, or one of another length.
    pub fn load_embedding(&mut self, values: &[f32]) -> Result<Cond> {
        match self {
            Backend::Reference(reference, _) => reference.load_embedding(values),
            Backend::Cpu(cpu, _) => cpu.load_embedding(values).map_err(cpu_error),
            #[cfg(feature = "vulkan")]
            Backend::Vulkan(vulkan) => vulkan.load_embedding(values),
        }
    }

    /// What computes.
    pub fn describe(&self) -> Description {
        let processor = |backend, threads, precision| Description {
            backend,
            device: std::env::consts::ARCH.into(),
            driver: None,
            kernels: None,
            threads: Some(threads),
            precision,
            tuned: Vec::new(),
        };
        match self {
            Backend::Reference(_, precision) => processor(Kind::Reference, 1, *precision),
            Backend::Cpu(cpu, precision) => processor(Kind::Cpu, cpu.threads(), *precision),
            #[cfg(feature = "vulkan")]
            Backend::Vulkan(vulkan) => vulkan.describe(),
        }
    }

    /// Bytes of memory for activations and scratch, for one image.
    pub fn plan_bytes(&self) -> u64 {
        match self {
            Backend::Reference(reference, _) => reference.plan_bytes(),
            Backend::Cpu(cpu, _) => cpu.plan_bytes(),
            #[cfg(feature = "vulkan")]
            Backend::Vulkan(vulkan) => vulkan.plan_bytes(),
        }
    }

    /// Bytes of the weights as the backend holds them.
    pub fn weight_bytes(&self) -> u64 {
        match self {
            Backend::Reference(reference, _) => reference.weight_bytes(),
            Backend::Cpu(cpu, _) => cpu.weight_bytes(),
            #[cfg(feature = "vulkan")]
            Backend::Vulkan(vulkan) => vulkan.weight_bytes(),
        }
    }
}

impl Denoise for Backend<'_> {
    type Error = Error;

    fn out_len(&self) -> usize {
        match self {
            Backend::Reference(reference, _) => reference.out_len(),
            Backend::Cpu(cpu, _) => cpu.out_len(),
            #[cfg(feature = "vulkan")]
            Backend::Vulkan(vulkan) => vulkan.out_len(),
        }
    }

    fn predict(&mut self, x: &[f32], t: f32, conds: &[Cond], out: &mut [f32]) -> Result<()> {
        match self {
            Backend::Reference(reference, _) => reference.predict(x, t, conds, out),
            Backend::Cpu(cpu, _) => cpu.predict(x, t, conds, out).map_err(cpu_error),
            #[cfg(feature = "vulkan")]
            Backend::Vulkan(vulkan) => vulkan.predict(x, t, conds, out),
        }
    }
}

fn cpu_error(e: CpuError) -> Error {
    match e {
        CpuError::Stopped => Error::interrupted(),
        e => Error::failure("the CPU backend failed").because(e),
    }
}
