//! transformers' `text_encoder/config.json` as core's [`Config`], and the network that it describes.

use std::path::Path;

use unfog_core::nn::model::clip_text::{Config, Outputs, build};
use unfog_core::nn::op::Act;

use super::fields::Fields;
use super::network::Network;
use super::source::PartPlace;
use super::unet2d::explain;
use super::weights::Weights;
use crate::error::Result;

/// A `CLIPTextModel` or `CLIPTextModelWithProjection` whose config was read.
#[derive(Clone, Debug)]
pub struct TextEncoder {
    place: PartPlace,
    config: Config,
}

impl TextEncoder {
    /// The text encoder in a folder as transformers saves it.
    ///
    /// # Errors
    /// A missing or damaged config; an architecture or value that is not known.
    pub fn open(folder: &Path) -> Result<Self> {
        Self::at(PartPlace::Folder(folder.to_path_buf()))
    }

    /// The text encoder at `place`.
    pub(super) fn at(place: PartPlace) -> Result<Self> {
        let config = read(&place.config()?)?;
        Ok(Self { place, config })
    }

    /// The id that fills up its texts, where its tokenizer is not asked: a single file brings none.
    pub(crate) fn padding(&self) -> Option<u32> {
        self.place.padding()
    }

    /// What its config says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// This encoder with a table of at least `count` tokens.
    pub(crate) fn with_tokens(&self, count: u32) -> Self {
        let config = Config { vocab_size: self.config.vocab_size.max(count), ..self.config.clone() };
        Self { config, ..self.clone() }
    }

    /// The network for texts of `tokens` tokens, padding included, without weights.
    ///
    /// # Errors
    /// A usage error for more tokens than there are positions, or more layers left out than there are; a failure for a config that is no
    /// network.
    pub fn network(&self, tokens: u32, outputs: Outputs) -> Result<Network> {
        Network::build(|builder, names| build(&self.config, tokens, outputs, builder, names))
            .map_err(|e| explain(e, 1, tokens))
    }

    /// Reads and checks the weights of `network`, which this encoder made.
    ///
    /// # Errors
    /// A missing or damaged file; a weight that is missing, of another type or shape, or not finite.
    pub fn weights(&self, network: &Network) -> Result<Weights> {
        self.place.load("model", network)
    }
}

/// Reads a text encoder's config, with transformers' defaults: it does not save what equals them.
fn read(fields: &Fields) -> Result<Config> {
    if fields.text("model_type", "clip_text_model")? != "clip_text_model" {
        return Err(fields.refuse("model_type", "\"clip_text_model\": other text encoders are not supported"));
    }
    let known = ["CLIPTextModel", "CLIPTextModelWithProjection"];
    let architectures = fields.texts("architectures", &known[..1])?;
    if architectures.len() != 1 || !known.contains(&architectures[0]) {
        return Err(fields.refuse("architectures", "[\"CLIPTextModel\"] or [\"CLIPTextModelWithProjection\"]"));
    }
    let acts = [
        ("quick_gelu", Act::QuickGelu),
        ("gelu", Act::Gelu),
        ("silu", Act::Silu),
        ("swish", Act::Silu),
        ("mish", Act::Mish),
        ("relu", Act::Relu),
        ("tanh", Act::Tanh),
    ];
    Ok(Config {
        vocab_size: fields.u32("vocab_size", 49408)?,
        max_position_embeddings: fields.u32("max_position_embeddings", 77)?,
        hidden_size: fields.u32("hidden_size", 512)?,
        intermediate_size: fields.u32("intermediate_size", 2048)?,
        num_hidden_layers: fields.u32("num_hidden_layers", 12)?,
        num_attention_heads: fields.u32("num_attention_heads", 8)?,
        act: fields.choice("hidden_act", Act::QuickGelu, &acts.map(|(name, act)| (Some(name), act)))?,
        layer_norm_eps: fields.f64("layer_norm_eps", 1e-5)? as f32,
        eos_token_id: fields.u32("eos_token_id", 49407)?,
        projection_dim: match architectures[0] == known[1] {
            true => Some(fields.u32("projection_dim", 512)?),
            false => None,
        },
    })
}
