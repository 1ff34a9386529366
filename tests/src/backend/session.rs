//! A graph on a backend, run tensor by tensor: for tests of single ops.

use unfog::cpu::CpuDenoiser;
use unfog_core::nn::exec::Exec;
use unfog_core::nn::graph::{Graph, TensorId};
use unfog_core::nn::plan::{Slot, Target, plan, slots_needed};
use unfog_core::nn::weights::WeightData;

use crate::{TestResult, said};

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
        for index in 0..self.exec.graph().nodes.len() {
            self.exec.run_node(index, &mut self.arena).map_err(said)?;
        }
        self.get(self.exec.graph().output)
    }

    fn get(&mut self, id: TensorId) -> TestResult<Vec<f32>> {
        Ok(self.exec.tensor(&self.arena, id).ok_or("no such tensor")?.to_vec())
    }
}

struct CpuSession<'a>(CpuDenoiser<'a>);

pub(super) fn cpu<'a>(graph: &Graph<'a>, weights: &[WeightData<'_>], threads: usize) -> TestResult<impl Session + 'a> {
    Ok(CpuSession(CpuDenoiser::new(*graph, weights, threads)?))
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
