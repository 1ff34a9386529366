//! A network on a backend, behind the seam.

use unfog::cpu::{CpuDenoiser, CpuOptions};
use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::exec::Exec;
use unfog_core::nn::graph::Graph;
use unfog_core::nn::plan::{Plan, Slot, Target, plan, slots_needed};
use unfog_core::nn::reference::Reference;
use unfog_core::nn::weights::WeightData;
use unfog_gpu::{Context, Options, VulkanDenoiser};

use crate::{TestResult, said};

/// A network on some backend; errors in words.
pub type Denoiser<'a> = Box<dyn Denoise<Error = String> + 'a>;

/// A backend's own type with its errors put into words.
struct Worded<D>(D);

impl<D: Denoise<Error: std::fmt::Debug>> Denoise for Worded<D> {
    type Error = String;

    fn out_len(&self) -> usize {
        self.0.out_len()
    }

    fn predict(&mut self, x: &[f32], t: f32, conds: &[Cond], out: &mut [f32]) -> Result<(), String> {
        self.0.predict(x, t, conds, out).map_err(said)
    }
}

/// The reference with memory of its own.
struct Twins<'a> {
    graph: Graph<'a>,
    weights: &'a [WeightData<'a>],
    plan: Plan<'static>,
    arena: Vec<f32>,
    embeddings: Vec<f32>,
}

impl Denoise for Twins<'_> {
    type Error = String;

    fn out_len(&self) -> usize {
        self.graph.shape(self.graph.output).len() as usize
    }

    fn predict(&mut self, x: &[f32], t: f32, conds: &[Cond], out: &mut [f32]) -> Result<(), String> {
        let exec = Exec::new(self.graph, self.plan, self.weights).map_err(said)?;
        let mut go_on = || true;
        let mut reference = Reference::new(exec, &mut self.arena, &self.embeddings, &mut go_on).map_err(said)?;
        reference.predict(x, t, conds, out).map_err(said)
    }
}

pub(super) fn reference<'a>(
    graph: Graph<'a>,
    weights: &'a [WeightData<'a>],
    embeddings: &[&[f32]],
) -> TestResult<Denoiser<'a>> {
    let slots: &'static mut [Slot] = vec![Slot::default(); slots_needed(&graph)].leak();
    let plan = plan(&graph, &Target::REFERENCE, slots).map_err(said)?;
    // What lies in the arena beforehand must not matter.
    let arena = vec![f32::NAN; usize::try_from(plan.bytes / 4)?];
    Ok(Box::new(Twins { graph, weights, plan, arena, embeddings: embeddings.concat() }))
}

pub(super) fn cpu<'a>(
    graph: Graph<'a>,
    weights: &'a [WeightData<'a>],
    embeddings: &[&[f32]],
    options: CpuOptions,
) -> TestResult<Denoiser<'a>> {
    let mut cpu = CpuDenoiser::new(graph, weights, options)?;
    for values in embeddings {
        cpu.load_embedding(values)?;
    }
    Ok(Box::new(Worded(cpu)))
}

pub(super) fn vulkan<'a>(
    context: &Context,
    graph: Graph<'a>,
    weights: &'a [WeightData<'a>],
    embeddings: &[&[f32]],
    options: Options,
) -> TestResult<Denoiser<'a>> {
    let mut vulkan = VulkanDenoiser::new(context, &graph, weights, options)?;
    for values in embeddings {
        vulkan.load_embedding(values)?;
    }
    Ok(Box::new(Worded(vulkan)))
}
