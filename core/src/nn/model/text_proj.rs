//! diffusers' `UnCLIPTextProjModel`: what unCLIP's decoder is told of a text and of a picture's CLIP embedding (Ramesh et al. 2022, section
//! 2.1).
//!
//! Two networks, since the text is the same for every picture. [`build_text`] takes a text's states `[1, tokens, clip_embeddings_dim]` as its
//! sample and returns `[1, tokens, cross_attention_dim]`. [`build_image`] takes an embedding `[1, 1, clip_embeddings_dim]` as its sample and
//! the text as a whole, of the same shape, as its condition; it returns `time_embed_dim` values, which are added to the embedding of the
//! time, and then the further tokens, `[cross_attention_dim, clip_extra_context_tokens]`.

use super::transformer::layers;
use super::{ConfigError, check_numbers};
use crate::nn::graph::{Graph, GraphBuilder, Input, WeightNames};
use crate::nn::op::{Concat, Conv2d, LayerNorm, Op, Shape};

/// Added to the variance of the normalisation.
const EPS: f32 = 1e-5;
/// The weight that stands for no picture: `clip_embeddings_dim` values.
pub const NO_IMAGE: &str = "learned_classifier_free_guidance_embeddings";

/// A `UnCLIPTextProjModel`'s config, named as diffusers names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Tokens that are made of an embedding.
    pub clip_extra_context_tokens: u32,
    /// Values of an embedding, of a text as a whole, and of a token's state.
    pub clip_embeddings_dim: u32,
    /// Values that are added to the embedding of the time.
    pub time_embed_dim: u32,
    /// Values of a token for the decoder.
    pub cross_attention_dim: u32,
}

impl Config {
    fn check(&self, tokens: u32) -> Result<(), ConfigError> {
        check_numbers([
            ("clip_extra_context_tokens", self.clip_extra_context_tokens),
            ("clip_embeddings_dim", self.clip_embeddings_dim),
            ("time_embed_dim", self.time_embed_dim),
            ("cross_attention_dim", self.cross_attention_dim),
            ("clip_extra_context_tokens", self.clip_extra_context_tokens.saturating_mul(self.cross_attention_dim)),
            ("number of tokens", tokens),
        ])
    }
}

/// Builds the network for a text's states. `names` is told each weight's name, in the order of the ids.
///
/// # Errors
/// [`ConfigError`].
pub fn build_text<'a>(
    config: &Config,
    tokens: u32,
    builder: GraphBuilder<'a>,
    names: WeightNames<'_>,
) -> Result<Graph<'a>, ConfigError> {
    config.check(tokens)?;
    let mut layers = layers(builder, names, 0);
    let states = layers.g.input(Input::Sample, Shape::new(1, tokens, config.clip_embeddings_dim))?;
    let x = layers.dense("encoder_hidden_states_proj", states, config.cross_attention_dim, true)?;
    let x = layers.normalise("text_encoder_hidden_states_norm", Op::LayerNorm(LayerNorm::new(EPS)), x, None)?;
    Ok(layers.g.finish(x))
}

/// Builds the network for an embedding and a text as a whole. `names` is told each weight's name, in the order of the ids.
///
/// # Errors
/// [`ConfigError`].
pub fn build_image<'a>(
    config: &Config,
    builder: GraphBuilder<'a>,
    names: WeightNames<'_>,
) -> Result<Graph<'a>, ConfigError> {
    config.check(1)?;
    let Config { clip_embeddings_dim: dim, time_embed_dim: time, .. } = *config;
    let mut layers = layers(builder, names, 0);
    let image = layers.g.input(Input::Sample, Shape::vector(dim))?;
    let text = layers.g.input(Input::Embedding, Shape::vector(dim))?;
    let text = layers.dense("embedding_proj", text, time, true)?;
    let name = "clip_image_embeddings_project_to_time_embeddings";
    let added = layers.conv(name, Conv2d::linear(dim, time), image, [None, Some(text)])?;
    let further = config.clip_extra_context_tokens * config.cross_attention_dim;
    let further = layers.dense("clip_extra_context_tokens_proj", image, further, true)?;
    let both = layers.g.node(Op::Concat(Concat), [Some(added), Some(further), None], [None; 2])?;
    Ok(layers.g.finish(both))
}
