//! What the stages of unCLIP take. They follow one another, and each gives its memory back before the next takes its own.

use unfog_core::nn::model::clip_text::Outputs;

use super::pipeline::StagePlan;
use crate::backend::{Precision, Request};
use crate::error::{Error, Result};
use crate::model::{Embedder, Model, Network, UnClip};

/// Tokens of a text.
fn tokens(unclip: &UnClip) -> u32 {
    unclip.text_encoder.config().max_position_embeddings
}

/// The decoder's network, which is shown layer by layer.
///
/// # Errors
/// A config that is no network.
pub(super) fn network(unclip: &UnClip) -> Result<Network> {
    let (h, w) = unclip.decoder.size().unwrap_or_default();
    let extra = unclip.text_proj.config().clip_extra_context_tokens;
    unclip.decoder.network_for(h, w, tokens(unclip).saturating_add(extra))
}

/// Width and height of the pictures.
///
/// # Errors
/// A usage error for others than the model's own.
pub(super) fn size(model: &Model, asked: Option<(u32, u32)>) -> Result<[u32; 2]> {
    let (h, w) = model.size().unwrap_or_default();
    match asked.filter(|size| *size != (w, h)) {
        None => Ok([w, h]),
        Some((width, height)) => {
            Err(Error::usage(format!("--size {width}x{height}: the model makes pictures of {w}x{h} alone")))
        }
    }
}

/// The stages, in the order of a run. `decoder` and the bytes of its weights are those of [`network`].
///
/// # Errors
/// A stage whose files are not whole.
pub(super) fn stages(
    unclip: &UnClip,
    decoder: &Network,
    decoder_bytes: u64,
    request: &Request,
) -> Result<Vec<StagePlan>> {
    // As in a run.
    let beside = &Request { precision: request.precision.min(Precision::F16), ..request.clone() };
    let mut stages = Vec::new();
    let text = unclip.text_encoder.network(tokens(unclip), Outputs { skip: 0, final_norm: true, pooled: true })?;
    let bytes = unclip.text_encoder.weights(&text)?.bytes();
    stages.push(StagePlan::of("text_encoder", &text, bytes, beside));
    match &unclip.embedder {
        Embedder::Prior { network, .. } => {
            let prior = network.network(1, 1)?;
            stages.push(StagePlan::of("prior", &prior, network.weights(&prior)?.bytes(), request));
        }
        Embedder::Vision { network, .. } => {
            let tower = network.network()?;
            stages.push(StagePlan::of("image_encoder", &tower, network.weights(&tower)?.bytes(), beside));
        }
    }
    let proj = &unclip.text_proj;
    for (name, network) in
        [("text_proj text", proj.text_network(tokens(unclip))?), ("text_proj image", proj.image_network()?)]
    {
        stages.push(StagePlan::of(name, &network, proj.weights(&network)?.bytes(), beside));
    }
    stages.push(StagePlan::of("decoder", decoder, decoder_bytes, request));
    for (name, model) in ["super_res_first", "super_res_last"].into_iter().zip(&*unclip.super_res) {
        let (h, w) = model.size().unwrap_or_default();
        let network = model.network(h, w)?;
        stages.push(StagePlan::of(name, &network, model.weights(&network)?.bytes(), request));
    }
    Ok(stages)
}
