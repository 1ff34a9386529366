//! diffusers' `PriorTransformer`: the network of unCLIP that makes a picture's CLIP embedding of a text's (Ramesh et al. 2022).
//!
//! What it denoises is an embedding, `[1, 1, embedding_dim]`. It takes one loaded condition ([`crate::denoise::Cond::Loaded`]):
//! `proj_embedding` `[embedding_proj_dim]`, `encoder_hidden_states` `[num_embeddings, embedding_dim]`, and what is added to the scores of
//! each of these tokens: 0, or [`super::transformer::UNSEEN`] for padding (`[num_embeddings]`).

use super::layers::path;
use super::transformer::{FeedForward, Heads, layers};
use super::{ConfigError, Layers, check_numbers};
use crate::nn::graph::{Graph, GraphBuilder, Grid, Input, Projection, TensorId, WeightNames, WeightUse};
use crate::nn::op::{Act, Conv2d, Embedding, Join, LayerNorm, Op, Shape};

/// Added to all variances.
const EPS: f32 = 1e-5;
/// Tokens behind those of the text: the text as a whole, the time, the noisy embedding, and the one that becomes the prediction.
const MORE: u32 = 4;

/// A `PriorTransformer`'s config, named as diffusers names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Attention heads.
    pub num_attention_heads: u32,
    /// Channels of a head.
    pub attention_head_dim: u32,
    /// Transformer layers.
    pub num_layers: u32,
    /// Values of an embedding, and of a token of the text.
    pub embedding_dim: u32,
    /// Tokens of the text.
    pub num_embeddings: u32,
    /// `time_embed_act_fn`.
    pub time_act: Act,
    /// Values between the two layers of the time embedding; as many as channels when absent.
    pub time_embed_dim: Option<u32>,
    /// Values of the text as a whole; as many as of an embedding when absent.
    pub embedding_proj_dim: Option<u32>,
    /// Values of the prediction; as many as of an embedding when absent.
    pub clip_embed_dim: Option<u32>,
}

impl Config {
    fn heads(&self) -> Heads {
        Heads { count: self.num_attention_heads, dim: self.attention_head_dim }
    }

    /// Values of the prediction.
    pub fn out_dim(&self) -> u32 {
        self.clip_embed_dim.unwrap_or(self.embedding_dim)
    }

    fn check(&self) -> Result<(), ConfigError> {
        check_numbers([
            ("num_attention_heads", self.num_attention_heads),
            ("attention_head_dim", self.attention_head_dim),
            // The widest layer is four times as wide.
            ("num_attention_heads * attention_head_dim", self.heads().channels().saturating_mul(4)),
            ("embedding_dim", self.embedding_dim),
            ("num_embeddings", self.num_embeddings),
            ("time_embed_dim", self.time_embed_dim.unwrap_or(1)),
            ("embedding_proj_dim", self.embedding_proj_dim.unwrap_or(1)),
            ("clip_embed_dim", self.clip_embed_dim.unwrap_or(1)),
        ])?;
        if self.num_layers == 0 || self.num_layers > 1 << 8 {
            return Err(ConfigError::Zero("num_layers"));
        }
        Ok(())
    }
}

/// Builds the network. `names` is told each weight's name, in the order of the ids.
///
/// # Errors
/// [`ConfigError`].
pub fn build<'a>(config: &Config, builder: GraphBuilder<'a>, names: WeightNames<'_>) -> Result<Graph<'a>, ConfigError> {
    config.check()?;
    let (dim, tokens) = (config.heads().channels(), config.num_embeddings);
    let mut layers = layers(builder, names, dim);
    let sample = layers.g.input(Input::Sample, Shape::vector(config.embedding_dim))?;
    let features = Projection::Positional { dim, flip: true, shift: 0 };
    let time = layers.g.input(Input::Time(features), Shape::vector(dim))?;
    let whole = config.embedding_proj_dim.unwrap_or(config.embedding_dim);
    let whole = layers.g.input(Input::Embedding, Shape::vector(whole))?;
    let text = layers.g.input(Input::Embedding, Shape::new(1, tokens, config.embedding_dim))?;
    let bias = layers.g.input(Input::Embedding, Shape::new(1, tokens, 1))?;

    let enter = Conv2d { act: config.time_act, ..Conv2d::linear(dim, config.time_embed_dim.unwrap_or(dim)) };
    let time = layers.conv("time_embedding.linear_1", enter, time, [None; 2])?;
    let time = layers.dense("time_embedding.linear_2", time, dim, true)?;
    let whole = layers.dense("embedding_proj", whole, dim, true)?;
    let text = layers.dense("encoder_hidden_states_proj", text, dim, true)?;
    let noisy = layers.dense("proj_in", sample, dim, true)?;
    let last = layers.rows("prd_embedding", 1, 1, dim)?;
    let mut x = layers.join(text, whole)?;
    for token in [time, noisy, last] {
        x = layers.join(x, token)?;
    }
    let places = layers.rows("positional_embedding", tokens + MORE, tokens + MORE, dim)?;
    x = layers.sum(x, places)?;
    let unbiased = layers.zeros(MORE)?;
    let bias = layers.join(bias, unbiased)?;
    for i in 0..config.num_layers {
        x = block(&mut layers, &path(format_args!("transformer_blocks.{i}"))?, config.heads(), bias, x)?;
    }
    let end = Op::Join(Join { first: tokens + MORE - 1, h: 1, w: 1 });
    x = layers.g.node(end, [Some(x), None, None], [None; 2])?;
    x = layers.normalise("norm_out", Op::LayerNorm(LayerNorm::new(EPS)), x, None)?;
    x = layers.dense("proj_to_clip_embeddings", x, config.out_dim(), true)?;
    Ok(layers.g.finish(x))
}

/// `BasicTransformerBlock` without a second attention; a token sees those before it, and these by their bias.
fn block(
    layers: &mut Layers<'_, '_>,
    name: &str,
    heads: Heads,
    bias: TensorId,
    x: TensorId,
) -> Result<TensorId, ConfigError> {
    let c = heads.channels();
    let norm = Op::LayerNorm(LayerNorm::new(EPS));
    let hidden = layers.normalise(&path(format_args!("{name}.norm1"))?, norm, x, None)?;
    let mut project = |part: &str| layers.dense(&path(format_args!("{name}.attn1.{part}"))?, hidden, c, true);
    let qkv = [project("to_q")?, project("to_k")?, project("to_v")?];
    let mixed = layers.attend_biased(heads, true, qkv, bias)?;
    let out = path(format_args!("{name}.attn1.to_out.0"))?;
    let x = layers.conv(&out, Conv2d::linear(c, c), mixed, [None, Some(x)])?;
    let hidden = layers.normalise(&path(format_args!("{name}.norm3"))?, norm, x, None)?;
    layers.feed_forward(&path(format_args!("{name}.ff"))?, FeedForward::Plain(Act::Gelu), hidden, Some(x))
}

impl Layers<'_, '_> {
    /// The first `count` rows of a table of `rows`, as tokens.
    fn rows(&mut self, name: &str, count: u32, rows: u32, dim: u32) -> Result<TensorId, ConfigError> {
        let index = self.g.input(Input::Grid(Grid::Index { first: 0, stride: rows }), Shape::new(1, count, 1))?;
        let table = self.weight(name, [rows, dim, 1, 1], WeightUse::Table)?;
        let op = Op::Embedding(Embedding { count: rows, dim });
        Ok(self.g.node(op, [Some(index), None, None], [Some(table), None])?)
    }
}
