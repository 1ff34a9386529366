//! Every case on a Vulkan device, every way that its kernels can be chosen.

use unfog_core::nn::exec::Exec;
use unfog_core::nn::graph::{GraphError, Input};
use unfog_core::nn::op::{MAX_INPUTS, MAX_WEIGHTS};
use unfog_core::nn::plan::{Slot, Target, plan, slots_needed};
use unfog_core::nn::weights::WeightData;
use unfog_gpu::{Context, GpuError, Options};

use super::cases::{Case, all};
use super::{Checked, right};
use crate::backend::{Kind, Narrowed, Precision, Request, vulkan};
use crate::error::{Error, Result};
use crate::model::Network;
use crate::stop::Stop;

/// A way in which a device can be used.
struct Way {
    name: &'static str,
    precision: Precision,
    force_staging: bool,
}

const WAYS: [Way; 5] = [
    Way { name: "f32", precision: Precision::F32, force_staging: false },
    Way { name: "f16 weights", precision: Precision::F16, force_staging: false },
    Way { name: "int8 weights", precision: Precision::Int8, force_staging: false },
    Way { name: "q4 weights", precision: Precision::Q4, force_staging: false },
    Way { name: "staging copies", precision: Precision::F32, force_staging: true },
];

pub(super) fn check(request: &Request, stop: &Stop) -> Result<Vec<Checked>> {
    let (context, _) = vulkan::open(request)?;
    let mut checked = Vec::new();
    for case in all() {
        let network = network(&case)?;
        let weights: Vec<Vec<f32>> =
            case.weights.iter().flatten().enumerate().map(|(i, w)| case.weight(i, w)).collect();
        let data: Vec<WeightData<'_>> = weights.iter().map(|w| WeightData::F32(w)).collect();
        for Way { name, precision, force_staging } in WAYS {
            stop.check()?;
            // The twin has the same integers.
            let held = Request { kind: Kind::Reference, precision, ..Request::default() };
            let narrowed = Narrowed::new(&held, &network, &data)?;
            let data = narrowed.data(&data);
            let expected = twin(&case, &network, &data)?;
            let options =
                Options { precision: vulkan::stored(precision), force_staging, max_images: 1, ..Options::default() };
            let mut kernels = Vec::new();
            let found = run(&context, &case, &network, &data, options, &mut kernels);
            let result = found.map_err(|e| Error::failure(e.to_string())).and_then(|found| right(&found, &expected));
            let (error, failure) = match result {
                Ok(error) => (Some(error), None),
                Err(e) => (None, Some(e.to_string())),
            };
            checked.push(Checked { what: case.name(), how: name.into(), kernels, error, failure });
        }
    }
    Ok(checked)
}

/// A case's graph of one node.
fn network(case: &Case) -> Result<Network> {
    Network::build(|mut g, _| {
        let mut inputs = [None; MAX_INPUTS];
        for (id, shape) in inputs.iter_mut().zip(case.inputs) {
            *id = shape.map(|shape| g.input(Input::Embedding, shape)).transpose()?;
        }
        let mut weights = [None; MAX_WEIGHTS];
        for (id, weight) in weights.iter_mut().zip(case.weights) {
            *id = weight.map(|w| g.weight(w.shape, w.role)).transpose()?;
        }
        let output = g.node(case.op, inputs, weights)?;
        Ok(g.finish(output))
    })
    .map_err(|e: GraphError| Error::failure(format!("{} is no network: {e:?}", case.name())))
}

fn run(
    context: &Context,
    case: &Case,
    network: &Network,
    weights: &[WeightData<'_>],
    options: Options,
    kernels: &mut Vec<String>,
) -> std::result::Result<Vec<f32>, GpuError> {
    let graph = network.graph();
    let mut gpu = unfog_gpu::Network::new(context, &graph, weights, options)?;
    kernels.extend(gpu.kernels(0));
    for (i, (id, _, shape)) in graph.inputs().enumerate() {
        gpu.set_input(id, 0, &case.input(i, shape.len() as usize))?;
    }
    gpu.execute()?;
    gpu.output(0).ok_or(GpuError::NotPrepared)
}

/// What a case's twin computes of its network and weights.
fn twin(case: &Case, network: &Network, weights: &[WeightData<'_>]) -> Result<Vec<f32>> {
    let graph = network.graph();
    let failed = |e: &dyn std::fmt::Debug| Error::failure(format!("the twin of {} failed: {e:?}", case.name()));
    let mut slots = vec![Slot::default(); slots_needed(&graph)];
    let plan = plan(&graph, &Target::STORED, &mut slots).map_err(|e| failed(&e))?;
    let exec = Exec::new(graph, plan, weights).map_err(|e| failed(&e))?;
    let mut arena = vec![0.0; exec.arena_len()];
    for (i, (id, _, shape)) in graph.inputs().enumerate() {
        let space = exec.tensor_mut(&mut arena, id).ok_or_else(|| failed(&"no input"))?;
        space.copy_from_slice(&case.input(i, shape.len() as usize));
    }
    for node in 0..graph.nodes.len() {
        exec.run_node(node, &mut arena).map_err(|e| failed(&e))?;
    }
    exec.tensor(&arena, graph.output).map(<[f32]>::to_vec).ok_or_else(|| failed(&"no output"))
}
