//! What a model is made of and what it costs.

mod pipeline;
mod unclip;

use serde::Serialize;
use unfog_core::nn::graph::Graph;
use unfog_core::nn::plan::{Slot, Target, plan, slots_needed};

use crate::backend::{Kind, Request, devices, needs};
use crate::cost::{flops, node_flops};
use crate::error::{Error, Result};
use crate::memory::Needs;
use crate::model::Model;
use pipeline::Pipeline;
pub use pipeline::StagePlan;

/// A node of the network.
#[derive(Clone, Debug, Serialize)]
pub struct Layer {
    /// The op.
    pub op: &'static str,
    /// The weight that it is known by, without what follows the last dot; empty where it has none.
    pub name: String,
    /// Rows, columns and channels of its result.
    pub output: [u32; 3],
    /// Parameters.
    pub parameters: u64,
    /// Floating-point operations for one image.
    pub flops: u64,
}

/// A model, inspected.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The name under which it was opened.
    pub model: String,
    /// The network's architecture.
    pub architecture: &'static str,
    /// Width of an image.
    pub width: u32,
    /// Height of an image.
    pub height: u32,
    /// Channels of the noisy image.
    pub in_channels: u32,
    /// Channels of the prediction.
    pub out_channels: u32,
    /// Classes with their names, where it has classes.
    pub classes: Vec<(u32, Option<String>)>,
    /// The label for "no class".
    pub null_class: Option<u32>,
    /// The sampler and the beta schedule that its scheduler_config.json names.
    pub sampler: Option<&'static str>,
    /// Timesteps of its chain.
    pub train_steps: Option<usize>,
    /// Number of parameters.
    pub parameters: u64,
    /// Bytes of the weights as they are stored.
    pub weight_bytes: u64,
    /// SHA-256 of the weight files.
    pub weights_sha256: String,
    /// Floating-point operations of an evaluation for one image.
    pub flops: u64,
    /// Bytes of activations for one image, as planned without padding or scratch memory.
    pub plan_bytes: u64,
    /// No plan can take fewer bytes.
    pub plan_lower_bound: u64,
    /// What it takes on each backend.
    pub memory: Vec<Needs>,
    /// The stages of a whole text-to-image pipeline, one after the other; none of other models.
    pub stages: Vec<StagePlan>,
    /// The layers, in the order of execution.
    pub layers: Vec<Layer>,
}

/// Inspects a model for pictures of `size` (width and height; its own if absent) and for the backend that `request` names, or
/// for all of them. The weights are read and checked too. Of a whole pipeline pictures are those that its decoder makes, of a network alone
/// those that it takes.
///
/// # Errors
/// A model that is not whole; a size that it can't take.
pub fn inspect(model: &Model, size: Option<(u32, u32)>, request: &Request) -> Result<Inspection> {
    request.check()?;
    let pipeline = Pipeline::of(model)?;
    let scale = pipeline.as_ref().map_or(1, Pipeline::multiple);
    let (shown, network, [width, height]) = match model.unclip() {
        Some(stages) => {
            let sides = unclip::size(model, size)?;
            (&*stages.decoder, unclip::network(stages)?, sides)
        }
        None => {
            let (width, height) = model.pixels(size, scale)?;
            (model, model.network(height / scale, width / scale)?, [width, height])
        }
    };
    let graph = network.graph();
    let weights = shown.weights(&network)?;
    let fingerprint = weights.fingerprint();
    let mut slots = vec![Slot::default(); slots_needed(&graph)];
    let plan = plan(&graph, &Target::STORED, &mut slots)
        .map_err(|e| Error::failure(format!("the network has no memory plan: {e:?}")).hint("try a smaller --size"))?;
    let layers = graph.nodes.iter().map(|node| {
        let ids = || node.weights.iter().flatten().map(|id| usize::from(id.0));
        let name = ids().next().and_then(|id| network.names().get(id)).map(String::as_str).unwrap_or_default();
        let shape = graph.shape(node.output);
        Layer {
            op: node.op.name(),
            name: name.rsplit_once('.').map_or(name, |(name, _)| name).into(),
            output: [shape.h, shape.w, shape.c],
            parameters: ids().map(|id| graph.weights[id].len()).sum(),
            flops: node_flops(&graph, node),
        }
    });
    let scheduler = match model.unclip() {
        Some(stages) => Some(stages.decoder_scheduler.clone()),
        None => model.scheduler()?,
    };
    let stages = match (&pipeline, model.unclip()) {
        (Some(pipeline), _) => pipeline.stages(&network, weights.bytes(), [width, height], request)?,
        (None, Some(stages)) => unclip::stages(stages, &network, weights.bytes(), request)?,
        (None, None) => Vec::new(),
    };
    let classes = model.classes();
    let [in_channels, out_channels] = shown.channels();
    Ok(Inspection {
        model: model.name().into(),
        architecture: model.architecture(),
        width,
        height,
        in_channels,
        out_channels,
        classes: classes.iter().flat_map(|c| c.iter()).map(|(l, name)| (l, name.map(str::to_owned))).collect(),
        null_class: classes.and_then(|classes| classes.null()),
        sampler: scheduler.as_ref().map(|s| s.sampler.name),
        train_steps: scheduler.as_ref().map(|s| s.config.train_steps),
        parameters: network.parameters(),
        weight_bytes: weights.bytes(),
        weights_sha256: fingerprint.finish()?,
        flops: flops(&graph),
        plan_bytes: plan.bytes,
        plan_lower_bound: plan.lower_bound,
        memory: kinds(request).into_iter().map(|kind| memory(&request.chosen(kind), &graph)).collect(),
        stages,
        layers: layers.collect(),
    })
}

/// The backends that `request` means: of those that `auto` stands for, the ones that there are.
fn kinds(request: &Request) -> Vec<Kind> {
    match request.kind {
        Kind::Auto if devices().is_ok() => vec![Kind::Cpu, Kind::Reference, Kind::Vulkan],
        Kind::Auto => vec![Kind::Cpu, Kind::Reference],
        kind => vec![kind],
    }
}

fn memory(request: &Request, graph: &Graph<'_>) -> Needs {
    needs(request, graph).unwrap_or_else(|e| Needs { refused: Some(e.to_string()), ..Needs::new(request.kind) })
}
