//! The fast CPU backend: all cores, vector instructions, f32 arithmetic.

mod elementwise;
mod gemm;
mod kernels;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::graph::{Graph, Input, Node, TensorId, Weight, WeightId, WeightUse};
use unfog_core::nn::layout::{interleave, planar};
use unfog_core::nn::op::Op;
use unfog_core::nn::plan::{PlanError, Slot, Target, plan, slots_needed};
use unfog_core::nn::project::{self, InputError};
use unfog_core::nn::weights::WeightData;

use kernels::{Kernels, attention_scratch, conv_scratch};

/// Why the CPU backend can't be made or could not evaluate.
#[derive(Debug)]
pub enum CpuError {
    /// No memory plan.
    Plan(PlanError),
    /// Weight `index` is missing or has another number of values than the graph says.
    Weight(usize),
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

/// A network on the CPU. The same bits for any number of threads and any batch size.
pub struct CpuDenoiser<'g> {
    graph: Graph<'g>,
    /// Start and end of each tensor in the arena, for one image.
    places: Vec<(usize, usize)>,
    /// Values of each weight; kernels relaid to `[kh, kw, in_c, out_c]`.
    weights: Vec<Vec<f32>>,
    arena: Vec<f32>,
    embeddings: Vec<Vec<f32>>,
    pool: rayon::ThreadPool,
    kernels: Kernels,
    scratch_bytes: u64,
    stop: Arc<AtomicBool>,
}

impl fmt::Debug for CpuDenoiser<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = self.pool.current_num_threads();
        f.debug_struct("CpuDenoiser").field("threads", &threads).field("nodes", &self.graph.nodes.len()).finish()
    }
}

/// A weight's values as this backend reads them: matrices with the output channels innermost.
fn relay(weight: &Weight, data: WeightData<'_>) -> Vec<f32> {
    if weight.role != WeightUse::Kernel {
        return (0..data.len()).map(|i| data.at(i)).collect();
    }
    let [out_c, in_c, kh, kw] = weight.shape.map(|n| n as usize);
    let mut to = Vec::with_capacity(data.len());
    for tap in 0..kh * kw {
        for i in 0..in_c {
            to.extend((0..out_c).map(|o| data.at((o * in_c + i) * kh * kw + tap)));
        }
    }
    to
}

/// Scratch values that each thread needs for `node`.
fn scratch(graph: &Graph<'_>, node: &Node) -> u64 {
    match (node.op, node.inputs[1]) {
        (Op::Conv2d(op), _) => conv_scratch(&op, graph.shape(node.output)),
        (Op::Attention(_), Some(keys)) => attention_scratch(graph.shape(keys)),
        _ => 0,
    }
}

impl<'g> CpuDenoiser<'g> {
    /// Copies the weights (in the graph's order) into the layout of the kernels and takes all memory.
    /// `threads`: 0 for one a core.
    ///
    /// # Errors
    /// [`CpuError`].
    pub fn new(graph: Graph<'g>, weights: &[WeightData<'_>], threads: usize) -> Result<Self, CpuError> {
        let mut slots = vec![Slot::default(); slots_needed(&graph)];
        let plan = plan(&graph, &Target::STORED, &mut slots).map_err(CpuError::Plan)?;
        let place = |i: usize| {
            let start = (plan.tensor(TensorId(i as u16)).offset / 4) as usize;
            (start, start + graph.tensors[i].shape.len() as usize)
        };
        let places = (0..graph.tensors.len()).map(place).collect();
        let mut relaid = Vec::with_capacity(graph.weights.len());
        for (i, weight) in graph.weights.iter().enumerate() {
            let data = weights.get(i).copied().filter(|d| d.len() as u64 == weight.len());
            relaid.push(relay(weight, data.ok_or(CpuError::Weight(i))?));
        }
        let arena = vec![0.0; (plan.bytes / 4) as usize];
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("unfog-cpu-{i}"))
            .build()
            .map_err(CpuError::Threads)?;
        let threads = pool.current_num_threads();
        let scratch = graph.nodes.iter().map(|n| scratch(&graph, n)).max().unwrap_or(0);
        Ok(Self {
            graph,
            places,
            weights: relaid,
            arena,
            embeddings: Vec::new(),
            kernels: Kernels::new(threads, scratch as usize),
            pool,
            scratch_bytes: 4 * scratch * threads as u64,
            stop: Arc::default(),
        })
    }

    /// Bytes of the arena and of the threads' scratch memory.
    pub fn plan_bytes(&self) -> u64 {
        4 * self.arena.len() as u64 + self.scratch_bytes
    }

    /// Bytes of the weights.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.iter().map(|w| 4 * w.len() as u64).sum()
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
        self.embeddings.push(values.to_vec());
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
        let Self { graph, places, weights, arena, pool, kernels, stop, .. } = self;
        pool.install(|| {
            for node in graph.nodes {
                if stop.load(Ordering::Relaxed) {
                    return Err(CpuError::Stopped);
                }
                run(graph, node, places, weights, arena, kernels);
            }
            Ok(())
        })?;
        let (start, end) = places[usize::from(graph.output.0)];
        Ok(&arena[start..end])
    }

    fn evaluate(&mut self, x: &[f32], t: f32, cond: Cond, out: &mut [f32]) -> Result<(), CpuError> {
        let graph = self.graph;
        let find = |number: u32| self.embeddings.get(number as usize).map(Vec::as_slice);
        let mut loaded = project::loaded(graph.interface(), cond, find).map_err(CpuError::Input)?;
        for (id, input, shape) in graph.inputs() {
            let (start, end) = self.places[usize::from(id.0)];
            let space = &mut self.arena[start..end];
            if input == Input::Sample {
                interleave(x, shape, shape.c as usize, space);
                continue;
            }
            let weight = |id: WeightId| self.weights.get(usize::from(id.0)).map(|w| WeightData::F32(w));
            project::fill(input, t, cond, weight, &mut loaded, space).map_err(CpuError::Input)?;
        }
        let shape = graph.shape(graph.output);
        planar(self.execute()?, shape, shape.c as usize, out);
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
        for (i, (&cond, out)) in conds.iter().zip(out.chunks_exact_mut(out_len)).enumerate() {
            let image = i % images * len;
            self.evaluate(&x[image..image + len], t, cond, out)?;
        }
        Ok(())
    }
}

/// Runs one node: the large ops with this backend's kernels, the others with their twins.
fn run(
    graph: &Graph<'_>,
    node: &Node,
    places: &[(usize, usize)],
    weights: &[Vec<f32>],
    arena: &mut [f32],
    kernels: &Kernels,
) {
    let (start, end) = places[usize::from(node.output.0)];
    let (before, rest) = arena.split_at_mut(start);
    let (out, after) = rest.split_at_mut(end - start);
    let read = |i: usize| -> Option<&[f32]> {
        let (from, to) = places[usize::from(node.inputs[i]?.0)];
        Some(if to <= start { &before[from..to] } else { &after[from - end..to - end] })
    };
    let inputs = [read(0), read(1), read(2)];
    let weight = |i: usize| node.weights[i].map(|id| weights[usize::from(id.0)].as_slice());
    let (Some(x), Some(xs)) = (inputs[0], node.inputs[0].map(|id| graph.shape(id))) else { return };
    let os = graph.shape(node.output);
    match (node.op, inputs[1], inputs[2], weight(0), weight(1)) {
        (Op::Conv2d(op), _, _, Some(w), bias) => kernels.conv2d(&op, inputs, [xs, os], w, bias, out),
        (Op::GroupNorm(op), scale_shift, _, Some(gamma), Some(beta)) => {
            kernels.group_norm(&op, x, xs, scale_shift, [gamma, beta], out);
        }
        (Op::Attention(op), Some(k), Some(v), _, _) => kernels.attention(&op, [x, k, v], out),
        (Op::Upsample(op), ..) => op.run(x, xs, out, os),
        (Op::AvgPool(op), ..) => op.run(x, xs, out, os),
        (Op::Concat(op), Some(b), ..) => op.run(x, xs.c, b, os.c - xs.c, out),
        (Op::Embedding(op), _, _, Some(table), _) => op.run(x, WeightData::F32(table), out),
        (Op::Affine(op), divisor, ..) => op.run(x, divisor, out),
        (Op::LayerNorm(op), _, _, Some(gamma), Some(beta)) => {
            op.run(x, [WeightData::F32(gamma), WeightData::F32(beta)], out);
        }
        (Op::Gate(op), ..) => op.run(x, os.c, out),
        // A node without its operands can't come out of a `GraphBuilder`, whose shape rules ask for them.
        _ => {}
    }
}
