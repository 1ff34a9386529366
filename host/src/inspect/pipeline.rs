//! What the stages of a text-to-image pipeline take. They follow one another, and each gives its memory back before the next takes its own.

use serde::Serialize;
use unfog_core::nn::model::clip_text::Outputs;

use super::{kinds, memory};
use crate::backend::{Precision, Request};
use crate::cost::flops;
use crate::error::Result;
use crate::memory::Needs;
use crate::model::{Autoencoder, Model, Network, TextEncoder};

/// A stage: one network.
#[derive(Clone, Debug, Serialize)]
pub struct StagePlan {
    /// Which.
    pub stage: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Bytes of the weights as they are stored.
    pub weight_bytes: u64,
    /// Floating-point operations of an evaluation: of a text, a step of one image, a picture.
    pub flops: u64,
    /// What it takes on each backend.
    pub memory: Vec<Needs>,
}

impl StagePlan {
    /// The plan of a stage's network, whose weights take so many bytes.
    pub(super) fn of(stage: &str, network: &Network, weight_bytes: u64, request: &Request) -> Self {
        let graph = network.graph();
        Self {
            stage: stage.into(),
            parameters: network.parameters(),
            weight_bytes,
            flops: flops(&graph),
            memory: kinds(request).into_iter().map(|kind| memory(&request.chosen(kind), &graph)).collect(),
        }
    }
}

/// Sides of tiles in which a decoder's plan is shown, too.
const TILES: [u32; 2] = [512, 256];

/// What a text-to-image model has beside its network.
pub(super) struct Pipeline {
    encoders: Vec<TextEncoder>,
    autoencoder: Autoencoder,
    /// Whether the text encoders' last but one states count, and the text as a whole.
    xl: bool,
}

impl Pipeline {
    /// Of a model that has text encoders and an autoencoder.
    ///
    /// # Errors
    /// Damaged configs.
    pub(super) fn of(model: &Model) -> Result<Option<Self>> {
        let Some(config) = model.condition() else { return Ok(None) };
        let encoders = model.text_encoders()?;
        let autoencoder = model.autoencoder()?.filter(|_| !encoders.is_empty());
        Ok(autoencoder.map(|autoencoder| Self { encoders, autoencoder, xl: config.addition.is_some() }))
    }

    /// Rows of a picture for one row of latents.
    pub(super) fn multiple(&self) -> u32 {
        self.autoencoder.multiples()[1]
    }

    /// The stages for pictures of this width and height: `network` and the bytes of its weights are the model's.
    ///
    /// # Errors
    /// A size that the decoder can't take.
    pub(super) fn stages(
        &self,
        network: &Network,
        weight_bytes: u64,
        [width, height]: [u32; 2],
        request: &Request,
    ) -> Result<Vec<StagePlan>> {
        // As in a run: text encoders and decoders are small beside the network, and suffer more.
        let beside = Request { precision: request.precision.min(Precision::F16), ..request.clone() };
        let mut stages = Vec::new();
        for (i, encoder) in self.encoders.iter().enumerate() {
            let last = i + 1 == self.encoders.len();
            let outputs = match self.xl {
                true => Outputs { skip: 1, pooled: last, ..Outputs::PENULTIMATE },
                false => Outputs::LAST,
            };
            let text = encoder.network(encoder.config().max_position_embeddings, outputs)?;
            let bytes = encoder.weights(&text)?.bytes();
            let name = if self.encoders.len() > 1 { format!("text encoder {}", i + 1) } else { "text encoder".into() };
            stages.push(StagePlan::of(&name, &text, bytes, &beside));
        }
        stages.push(StagePlan::of("network", network, weight_bytes, request));
        let decoder = self.autoencoder.decoder(height, width)?;
        let bytes = self.autoencoder.weights(&decoder)?.bytes();
        stages.push(StagePlan::of("decoder", &decoder, bytes, &beside));
        for side in TILES.into_iter().filter(|side| *side < width.max(height) && side.is_multiple_of(self.multiple())) {
            let tile = self.autoencoder.decoder(height.min(side), width.min(side))?;
            stages.push(StagePlan::of(&format!("tiles of {side}"), &tile, bytes, &beside));
        }
        Ok(stages)
    }
}
