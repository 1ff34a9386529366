//! A graph on a backend, run tensor by tensor: for tests of single ops.

use unfog::cpu::{CpuDenoiser, CpuOptions};
use unfog_core::nn::exec::Exec;
use unfog_core::nn::graph::{Graph, TensorId};
use unfog_core::nn::plan::{Slot, Target, plan, slots_needed};
use unfog_core::nn::weights::WeightData;
use unfog_gpu::{Context, Network, Options};

use crate::ops::SENTINEL;
use crate::{TestResult, said};

/// Channels to which Vulkan's tensors are padded.
const LANES: u32 = 4;

/// A graph on a backend. Values are those of one image, `[pixels, channels]`.
pub trait Session {
    /// Fills an input.
    ///
    /// # Errors
    /// The backend's.
    fn set(&mut self, id: TensorId, values: &[f32]) -> TestResult;

    /// Runs every node; the output.
    ///
    /// # Errors
    /// The backend's.
    fn run(&mut self) -> TestResult<Vec<f32>>;

    /// What lies at a tensor's place.
    ///
    /// # Errors
    /// The backend's.
    fn get(&mut self, id: TensorId) -> TestResult<Vec<f32>>;

    /// What the last run changed outside all tensors, in words, where a backend can tell.
    ///
    /// # Errors
    /// The backend's.
    fn damage(&mut self) -> TestResult<Option<String>> {
        Ok(None)
    }
}

struct ReferenceSession<'a> {
    exec: Exec<'a>,
    arena: Vec<f32>,
}

/// `slots` live as long as the process: the plan borrows them, and a test is over soon.
pub(super) fn reference<'a>(graph: &Graph<'a>, weights: &'a [WeightData<'a>]) -> TestResult<impl Session + 'a> {
    let slots: &'static mut [Slot] = vec![Slot::default(); slots_needed(graph)].leak();
    let plan = plan(graph, &Target::REFERENCE, slots).map_err(said)?;
    let exec = Exec::new(*graph, plan, weights).map_err(said)?;
    let arena = vec![f32::NAN; exec.arena_len()];
    Ok(ReferenceSession { exec, arena })
}

impl Session for ReferenceSession<'_> {
    fn set(&mut self, id: TensorId, values: &[f32]) -> TestResult {
        self.exec.tensor_mut(&mut self.arena, id).ok_or("no such tensor")?.copy_from_slice(values);
        Ok(())
    }

    fn run(&mut self) -> TestResult<Vec<f32>> {
        for index in 0..self.exec.program().nodes() {
            self.exec.run_node(index, &mut self.arena).map_err(said)?;
        }
        self.get(self.exec.program().output())
    }

    fn get(&mut self, id: TensorId) -> TestResult<Vec<f32>> {
        Ok(self.exec.tensor(&self.arena, id).ok_or("no such tensor")?.to_vec())
    }
}

struct CpuSession<'a>(CpuDenoiser<'a>);

pub(super) fn cpu<'a>(
    graph: &Graph<'a>,
    weights: &[WeightData<'a>],
    options: CpuOptions,
) -> TestResult<impl Session + 'a> {
    Ok(CpuSession(CpuDenoiser::new(*graph, weights, options)?))
}

impl Session for CpuSession<'_> {
    fn set(&mut self, id: TensorId, values: &[f32]) -> TestResult {
        Ok(self.0.set_input(id, values)?)
    }

    fn run(&mut self) -> TestResult<Vec<f32>> {
        Ok(self.0.execute()?.to_vec())
    }

    fn get(&mut self, id: TensorId) -> TestResult<Vec<f32>> {
        Ok(self.0.tensor(id).ok_or("no such tensor")?.to_vec())
    }
}

struct VulkanSession<'a>(Network<'a>);

pub(super) fn vulkan<'a>(
    context: &Context,
    graph: &Graph<'_>,
    weights: &[WeightData<'a>],
    options: Options,
) -> TestResult<impl Session + use<'a>> {
    Ok(VulkanSession(Network::new(context, graph, weights, options)?))
}

impl Session for VulkanSession<'_> {
    fn set(&mut self, id: TensorId, values: &[f32]) -> TestResult {
        Ok(self.0.set_input(id, 0, values)?)
    }

    fn run(&mut self) -> TestResult<Vec<f32>> {
        self.0.fill_arena(SENTINEL)?;
        self.0.execute()?;
        Ok(self.0.output(0).ok_or("no output")?)
    }

    fn get(&mut self, id: TensorId) -> TestResult<Vec<f32>> {
        Ok(self.0.tensor(id, 0)?)
    }

    /// The arena was full of sentinels: all are still there but where a tensor or a node's scratch memory lies, and the
    /// output's pixels are filled up with zeros.
    fn damage(&mut self) -> TestResult<Option<String>> {
        let arena = self.0.arena()?;
        let graph = self.0.graph();
        let mut free = vec![true; arena.len()];
        let mut take = |id: usize, bytes: Option<u64>| -> TestResult {
            let slot = self.0.slot(TensorId(u16::try_from(id)?));
            let start = usize::try_from(slot.offset / 4)?;
            free[start..start + usize::try_from(bytes.unwrap_or(slot.bytes) / 4)?].fill(false);
            Ok(())
        };
        for (id, tensor) in graph.tensors.iter().enumerate() {
            // An upload sends whole slots; a kernel writes no more than the pixels.
            let written = 4 * tensor.shape.pixels() * u64::from(tensor.shape.c.next_multiple_of(LANES));
            take(id, tensor.input.is_none().then_some(written))?;
        }
        for node in 0..graph.nodes.len() {
            take(graph.tensors.len() + node, None)?;
        }
        if let Some(i) = (0..arena.len()).find(|&i| free[i] && arena[i] != SENTINEL) {
            return Ok(Some(format!("word {i} of the arena, outside every tensor, became {:#x}", arena[i])));
        }
        let shape = graph.shape(graph.output);
        let start = usize::try_from(self.0.slot(graph.output).offset / 4)?;
        let stride = shape.c.next_multiple_of(LANES) as usize;
        let pixels = arena[start..].chunks_exact(stride).take(usize::try_from(shape.pixels())?);
        let stained = pixels.enumerate().find(|(_, pixel)| pixel[shape.c as usize..].iter().any(|&word| word != 0));
        Ok(stained.map(|(p, _)| format!("pixel {p} of the output is not filled up with zeros")))
    }
}
