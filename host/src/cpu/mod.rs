//! The fast CPU backend: all cores, vector instructions, f32 arithmetic.

mod attention;
mod choice;
mod conv;
mod elementwise;
mod epilogue;
mod kernels;
mod norm;
mod prepared;
mod run;
mod split;
mod tile;
mod weights;
mod winograd;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::graph::{Graph, Input, TensorId, WeightId, WeightUse};
use unfog_core::nn::layout::{interleave, planar};
use unfog_core::nn::plan::{PlanError, Slot, Target, plan, slots_needed};
use unfog_core::nn::project::{self, InputError};
use unfog_core::nn::weights::WeightData;

pub use choice::ConvKernel;
use kernels::Kernels;

/// Most bytes that a batch takes beyond what one image needs, unless a share of the weights' size is more.
const BATCH_BYTES: u64 = 32 << 20;
/// Most images of a batch.
const BATCH: u64 = 8;

/// Why the CPU backend can't be made or could not evaluate.
#[derive(Debug)]
pub enum CpuError {
    /// No memory plan.
    Plan(PlanError),
    /// Weight `index` is missing or has another number of values than the graph says.
    Weight(usize),
    /// There is no memory for this many bytes of activations or scratch.
    Memory(u64),
    /// The threads could not be started.
    Threads(rayon::ThreadPoolBuildError),
    /// An input doesn't fit.
    Input(InputError),
    /// The stop flag was set.
    Stopped,
}

impl fmt::Display for CpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CpuError::Plan(e) => write!(f, "the network has no memory plan: {e:?}"),
            CpuError::Weight(i) => write!(f, "weight {i} doesn't fit the graph"),
            CpuError::Memory(bytes) => {
                write!(f, "there is no memory for {} MB", bytes.div_ceil(1_000_000))
            }
            CpuError::Threads(_) => write!(f, "the threads of the CPU backend could not be started"),
            CpuError::Input(e) => write!(f, "an input of the network doesn't fit: {e:?}"),
            CpuError::Stopped => write!(f, "stopped"),
        }
    }
}

impl std::error::Error for CpuError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CpuError::Threads(e) => Some(e),
            _ => None,
        }
    }
}

/// How the backend is set up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads; 0 for one a core.
    pub threads: usize,
    /// Images that are evaluated together at most; 0 for as many as memory allows in proportion to the network.
    pub images: usize,
    /// A kernel for all convolutions that it can do, in place of the table's choice.
    pub conv: Option<ConvKernel>,
    /// The most bytes for weights in the form that the kernels want, made once. What they are not enough for is made at each evaluation
    /// anew, from where the weights lie. Changes no bit.
    pub memory: u64,
}

/// A network on the CPU. The same bits for any number of threads and any batch size.
pub struct CpuDenoiser<'g> {
    graph: Graph<'g>,
    /// Start and end of each tensor in the arena, for one image.
    places: Vec<(usize, usize)>,
    /// Values of the arena for one image.
    plan_len: usize,
    weights: Vec<WeightData<'g>>,
    /// Biases and the like, widened; empty for the others.
    vectors: Vec<Vec<f32>>,
    arena: Vec<f32>,
    /// What lies between two steps of a node.
    workspace: Vec<f32>,
    embeddings: Vec<Vec<f32>>,
    /// Images that are evaluated together.
    batch: usize,
    pool: rayon::ThreadPool,
    kernels: Kernels,
    scratch_bytes: u64,
    /// Weights made once, for each node; empty where they are made on their way.
    prepared: Vec<Vec<f32>>,
    conv: Option<ConvKernel>,
    stop: Arc<AtomicBool>,
}

impl fmt::Debug for CpuDenoiser<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = self.pool.current_num_threads();
        f.debug_struct("CpuDenoiser").field("threads", &threads).field("nodes", &self.graph.nodes.len()).finish()
    }
}

/// Makes `values` at least `len` long.
fn reserve(values: &mut Vec<f32>, len: usize) -> Result<(), CpuError> {
    if values.len() < len {
        values.try_reserve_exact(len - values.len()).map_err(|_| CpuError::Memory(4 * len as u64))?;
        values.resize(len, 0.0);
    }
    Ok(())
}

impl<'g> CpuDenoiser<'g> {
    /// Takes the weights (in the graph's order) as they lie, and the memory for one image.
    ///
    /// # Errors
    /// [`CpuError`].
    pub fn new(graph: Graph<'g>, weights: &[WeightData<'g>], options: CpuOptions) -> Result<Self, CpuError> {
        let mut slots = vec![Slot::default(); slots_needed(&graph)];
        let plan = plan(&graph, &Target::STORED, &mut slots).map_err(CpuError::Plan)?;
        let place = |i: usize| {
            let start = (plan.tensor(TensorId(i as u16)).offset / 4) as usize;
            (start, start + graph.tensors[i].shape.len() as usize)
        };
        let places = (0..graph.tensors.len()).map(place).collect();
        let mut vectors = Vec::with_capacity(graph.weights.len());
        for (i, weight) in graph.weights.iter().enumerate() {
            let data = weights.get(i).filter(|d| d.len() as u64 == weight.len()).ok_or(CpuError::Weight(i))?;
            vectors.push(match weight.role {
                WeightUse::Vector => (0..data.len()).map(|i| data.at(i)).collect(),
                _ => Vec::new(),
            });
        }
        let weights = weights[..graph.weights.len()].to_vec();
        let weight_bytes: u64 = weights.iter().map(|w| w.bytes()).sum();
        let most = (BATCH_BYTES.max(weight_bytes / 16) / plan.bytes.max(1) + 1).min(BATCH) as usize;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(options.threads)
            .thread_name(|i| format!("unfog-cpu-{i}"))
            .build()
            .map_err(CpuError::Threads)?;
        let threads = pool.current_num_threads();
        let scratch = graph.nodes.iter().map(|node| run::scratch(&graph, node, options.conv)).max().unwrap_or(0);
        let channels = graph.tensors.iter().map(|t| t.shape.c as usize).max().unwrap_or(0);
        let kernels = Kernels::new(threads, scratch, channels)?;
        let prepared = pool.install(|| prepared::prepare(kernels.arch, &graph, &weights, &options))?;
        let mut denoiser = Self {
            graph,
            places,
            plan_len: (plan.bytes / 4) as usize,
            weights,
            vectors,
            arena: Vec::new(),
            workspace: Vec::new(),
            embeddings: Vec::new(),
            batch: if options.images > 0 { options.images } else { most },
            kernels,
            pool,
            scratch_bytes: 4 * (scratch * threads) as u64,
            prepared,
            conv: options.conv,
            stop: Arc::default(),
        };
        denoiser.hold(1)?;
        Ok(denoiser)
    }

    /// Takes the memory for `images` at once.
    fn hold(&mut self, images: usize) -> Result<(), CpuError> {
        let Self { graph, conv, .. } = self;
        let workspace = graph.nodes.iter().map(|node| run::workspace(graph, node, images, *conv)).max().unwrap_or(0);
        reserve(&mut self.arena, self.plan_len * images)?;
        reserve(&mut self.workspace, workspace)
    }

    /// Bytes of the arena for one image and of scratch memory.
    pub fn plan_bytes(&self) -> u64 {
        4 * (self.plan_len + self.workspace.len()) as u64 + self.scratch_bytes
    }

    /// Bytes of the weights as they are stored, and as they were prepared.
    pub fn weight_bytes(&self) -> u64 {
        let prepared: u64 = self.prepared.iter().map(|p| 4 * p.len() as u64).sum();
        self.weights.iter().map(|w| w.bytes()).sum::<u64>() + prepared
    }

    /// Bytes that the prepared weights of a network would take.
    pub fn prepared_bytes(graph: &Graph<'_>, options: &CpuOptions) -> u64 {
        prepared::bytes(graph, options)
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Looks at `stop` between nodes and ends with [`CpuError::Stopped`] once it is set.
    pub fn stop_when(&mut self, stop: Arc<AtomicBool>) {
        self.stop = stop;
    }

    /// Keeps a condition: the values of the network's embeddings, one after the other. Returns what names it from now on.
    ///
    /// # Errors
    /// [`InputError::Length`] when the network takes none or one of another length.
    pub fn load_embedding(&mut self, values: &[f32]) -> Result<Cond, CpuError> {
        let len = self.graph.interface().map_or(0, |interface| interface.embedding);
        if len == 0 || len != values.len() {
            return Err(CpuError::Input(InputError::Length));
        }
        let mut kept = Vec::new();
        reserve(&mut kept, len)?;
        kept.copy_from_slice(values);
        self.embeddings.push(kept);
        Ok(Cond::Loaded(self.embeddings.len() as u32 - 1))
    }

    /// Fills an input tensor that is read by a graph without an image (tests of single ops).
    ///
    /// # Errors
    /// [`InputError::Length`].
    pub fn set_input(&mut self, id: TensorId, values: &[f32]) -> Result<(), CpuError> {
        let place = self.places.get(usize::from(id.0)).copied();
        match place.and_then(|(start, end)| self.arena.get_mut(start..end)) {
            Some(space) if space.len() == values.len() => space.copy_from_slice(values),
            _ => return Err(CpuError::Input(InputError::Length)),
        }
        Ok(())
    }

    /// What lies at a tensor's place: its values from its node to its last use. Pixels outermost.
    pub fn tensor(&self, id: TensorId) -> Option<&[f32]> {
        let &(start, end) = self.places.get(usize::from(id.0))?;
        self.arena.get(start..end)
    }

    /// Runs every node on what the inputs hold and returns the output, pixels outermost.
    ///
    /// # Errors
    /// [`CpuError::Stopped`].
    pub fn execute(&mut self) -> Result<&[f32], CpuError> {
        self.run(1)?;
        let (start, end) = self.places[usize::from(self.graph.output.0)];
        Ok(&self.arena[start..end])
    }

    /// Runs every node on `images` at once; each tensor holds its images one after the other.
    fn run(&mut self, images: usize) -> Result<(), CpuError> {
        let Self { graph, places, weights, vectors, arena, workspace, pool, kernels, prepared, conv, stop, .. } = self;
        let network = run::Network { graph, places, weights, vectors, kernels, images, conv: *conv };
        pool.install(|| {
            for (node, prepared) in graph.nodes.iter().zip(prepared.iter()) {
                if stop.load(Ordering::Relaxed) {
                    return Err(CpuError::Stopped);
                }
                network.run(node, prepared, arena, workspace);
            }
            Ok(())
        })
    }

    /// Fills the inputs of image `image` of `images`.
    fn fill(&mut self, image: usize, images: usize, x: &[f32], t: f32, cond: Cond) -> Result<(), CpuError> {
        let Self { graph, places, weights, arena, embeddings, .. } = self;
        let find = |number: u32| embeddings.get(number as usize).map(Vec::as_slice);
        let mut loaded = project::loaded(graph.interface(), cond, find).map_err(CpuError::Input)?;
        for (id, input, shape) in graph.inputs() {
            let (start, end) = places[usize::from(id.0)];
            let space = &mut arena[start * images..end * images];
            let space = &mut space[image * (end - start)..][..end - start];
            if input == Input::Sample {
                interleave(x, shape, shape.c as usize, space);
                continue;
            }
            let weight = |id: WeightId| weights.get(usize::from(id.0)).copied();
            project::fill((input, shape), t, cond, weight, &mut loaded, space).map_err(CpuError::Input)?;
        }
        Ok(())
    }
}

impl Denoise for CpuDenoiser<'_> {
    type Error = CpuError;

    fn out_len(&self) -> usize {
        self.graph.shape(self.graph.output).len() as usize
    }

    fn predict(&mut self, x: &[f32], t: f32, conds: &[Cond], out: &mut [f32]) -> Result<(), CpuError> {
        let (images, _) = project::check(self.graph.interface(), x, conds, out.len()).map_err(CpuError::Input)?;
        let (len, out_len) = (x.len() / images, self.out_len());
        let shape = self.graph.shape(self.graph.output);
        for (i, (conds, out)) in conds.chunks(self.batch).zip(out.chunks_mut(self.batch * out_len)).enumerate() {
            let count = conds.len();
            self.hold(count)?;
            for (j, &cond) in conds.iter().enumerate() {
                let image = (i * self.batch + j) % images * len;
                self.fill(j, count, &x[image..image + len], t, cond)?;
            }
            self.run(count)?;
            let (start, end) = self.places[usize::from(self.graph.output.0)];
            let results = self.arena[start * count..end * count].chunks_exact(out_len);
            for (result, out) in results.zip(out.chunks_exact_mut(out_len)) {
                planar(result, shape, shape.c as usize, out);
            }
        }
        Ok(())
    }
}
