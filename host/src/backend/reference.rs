//! Core's reference backend with memory of its own.

use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::exec::Exec;
use unfog_core::nn::graph::Graph;
use unfog_core::nn::plan::{Plan, PlanError, Slot, Target, plan, slots_needed};
use unfog_core::nn::project::InputError;
use unfog_core::nn::reference::{Reference, ReferenceError};
use unfog_core::nn::weights::WeightData;

use crate::error::{Error, Result};
use crate::memory;
use crate::stop::Stop;

/// A network run by core's twins, one image at a time.
#[derive(Debug)]
pub struct ReferenceBackend<'a> {
    graph: Graph<'a>,
    weights: &'a [WeightData<'a>],
    slots: Vec<Slot>,
    arena: Vec<f32>,
    /// The loaded conditions, one after the other.
    embeddings: Vec<f32>,
    stop: Stop,
}

impl<'a> ReferenceBackend<'a> {
    /// Plans and takes the memory.
    ///
    /// # Errors
    /// When the network has no plan, or the memory is not to be had.
    pub(super) fn new(graph: Graph<'a>, weights: &'a [WeightData<'a>], stop: Stop) -> Result<Self> {
        let mut slots = vec![Slot::default(); slots_needed(&graph)];
        let plan = reference_plan(&graph, &mut slots)?;
        let exec = Exec::new(graph, plan, weights).map_err(|e| failed(ReferenceError::Exec(e)))?;
        let arena = memory::vec(exec.arena_len(), 0.0)?;
        Ok(Self { graph, weights, slots, arena, embeddings: Vec::new(), stop })
    }

    pub(super) fn load_embedding(&mut self, values: &[f32]) -> Result<Cond> {
        let len = self.graph.interface().map_or(0, |interface| interface.embedding);
        if len == 0 || len != values.len() {
            return Err(failed(ReferenceError::Input(InputError::Length)));
        }
        memory::extend(&mut self.embeddings, values)?;
        Ok(Cond::Loaded((self.embeddings.len() / len) as u32 - 1))
    }

    pub(super) fn plan_bytes(&self) -> u64 {
        4 * self.arena.len() as u64
    }

    /// The reference reads the weights where they are.
    pub(super) fn weight_bytes(&self) -> u64 {
        self.weights.iter().map(|w| w.bytes()).sum()
    }
}

fn reference_plan<'s>(graph: &Graph<'_>, slots: &'s mut [Slot]) -> Result<Plan<'s>> {
    plan(graph, &Target::REFERENCE, slots).map_err(|e: PlanError| {
        Error::failure(format!("the network has no memory plan: {e:?}")).hint("try a smaller --size")
    })
}

fn failed(e: ReferenceError) -> Error {
    match e {
        ReferenceError::Stopped => Error::interrupted(),
        e => Error::failure(format!("the reference backend failed: {e:?}")),
    }
}

impl Denoise for ReferenceBackend<'_> {
    type Error = Error;

    fn out_len(&self) -> usize {
        self.graph.shape(self.graph.output).len() as usize
    }

    fn predict(&mut self, x: &[f32], t: f32, conds: &[Cond], out: &mut [f32]) -> Result<()> {
        let Self { graph, weights, slots, arena, embeddings, stop } = self;
        // Planning again costs next to nothing beside the evaluation, and nothing has to borrow from itself.
        let exec =
            Exec::new(*graph, reference_plan(graph, slots)?, weights).map_err(|e| failed(ReferenceError::Exec(e)))?;
        let mut keep_going = || !stop.asked();
        let mut reference = Reference::new(exec, arena, embeddings, &mut keep_going).map_err(failed)?;
        reference.predict(x, t, conds, out).map_err(failed)
    }
}
