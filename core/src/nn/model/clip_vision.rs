//! transformers' `CLIPVisionModelWithProjection` (Radford et al. 2021): a picture's CLIP embedding.
//!
//! The sample is the picture, `[image_size, image_size, channels]`, normalised as the model's feature extractor says; what is returned is
//! `[1, 1, projection_dim]`.

use super::clip_text::{self, Net};
use super::layers::{Layers, Style, path};
use super::{ConfigError, check_numbers};
use crate::nn::graph::{Graph, GraphBuilder, Grid, Input, TensorId, WeightNames, WeightUse};
use crate::nn::op::{Act, Conv2d, Embedding, GroupNorm, Join, LayerNorm, Op, Shape};

/// The most pixels of a picture's side.
const MOST_SIDE: u32 = 1 << 12;

/// A vision tower's config, named as transformers names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Rows and columns of the picture.
    pub image_size: u32,
    /// Channels of the picture.
    pub num_channels: u32,
    /// Rows and columns of the pixels that become one token.
    pub patch_size: u32,
    /// Values of a token's state.
    pub hidden_size: u32,
    /// Values between the two linear layers that follow an attention.
    pub intermediate_size: u32,
    /// Transformer layers.
    pub num_hidden_layers: u32,
    /// Attention heads.
    pub num_attention_heads: u32,
    /// `hidden_act`: the activation between those linear layers.
    pub act: Act,
    /// Added to variances.
    pub layer_norm_eps: f32,
    /// Values of the embedding.
    pub projection_dim: u32,
}

impl Config {
    /// Patches in a row, and in a column: pixels beyond the last whole one are not looked at.
    fn side(&self) -> u32 {
        self.image_size.checked_div(self.patch_size).unwrap_or(0)
    }

    /// The layers' config, which text encoders have in common.
    fn layers(&self) -> clip_text::Config {
        clip_text::Config {
            vocab_size: 1,
            max_position_embeddings: 1,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            act: self.act,
            layer_norm_eps: self.layer_norm_eps,
            eos_token_id: 0,
            projection_dim: Some(self.projection_dim),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        check_numbers([
            ("image_size", self.side()),
            ("image_size", if self.image_size > MOST_SIDE { 0 } else { self.image_size }),
            ("num_channels", self.num_channels),
            ("patch_size", self.patch_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("projection_dim", self.projection_dim),
        ])?;
        if self.num_hidden_layers > 1 << 8 {
            return Err(ConfigError::Zero("num_hidden_layers"));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(ConfigError::Heads { heads: self.num_attention_heads, channels: self.hidden_size });
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
    let shared = config.layers();
    let norm = GroupNorm { groups: 1, eps: config.layer_norm_eps, act: Act::None };
    let layers = Layers { g: builder, names, style: Style { norm, scale_shift: false, time_dim: 0 }, temb: None };
    let mut net = Net { config: &shared, layers };
    let (side, dim, tokens) = (config.image_size, config.hidden_size, config.side() * config.side() + 1);
    let picture = net.layers.g.input(Input::Sample, Shape::new(side, side, config.num_channels))?;
    let size = config.patch_size;
    let patches = Conv2d { stride: size, ..Conv2d::new(config.num_channels, dim, size, 0) };
    let patches = net.layers.bare("vision_model.embeddings.patch_embedding", patches, picture, None)?;
    let first = table(&mut net.layers, "vision_model.embeddings.class_embedding", 1, dim)?;
    let mut x = net.layers.join(first, patches)?;
    let places = table(&mut net.layers, "vision_model.embeddings.position_embedding.weight", tokens, dim)?;
    x = net.layers.sum(x, places)?;
    let norm = Op::LayerNorm(LayerNorm::new(config.layer_norm_eps));
    // (transformers' spelling.)
    x = net.layers.normalise("vision_model.pre_layrnorm", norm, x, None)?;
    for i in 0..config.num_hidden_layers {
        x = net.layer(&path(format_args!("vision_model.encoder.layers.{i}"))?, false, x)?;
    }
    x = net.layers.g.node(Op::Join(Join { first: 0, h: 1, w: 1 }), [Some(x), None, None], [None; 2])?;
    x = net.layers.normalise("vision_model.post_layernorm", norm, x, None)?;
    x = net.layers.linear("visual_projection", x, config.projection_dim, None)?;
    Ok(net.layers.g.finish(x))
}

/// The rows of a table, as tokens.
fn table(layers: &mut Layers<'_, '_>, name: &str, rows: u32, dim: u32) -> Result<TensorId, ConfigError> {
    let index = layers.g.input(Input::Grid(Grid::Index { first: 0, stride: rows }), Shape::new(1, rows, 1))?;
    let table = layers.weight(name, [rows, dim, 1, 1], WeightUse::Table)?;
    Ok(layers.g.node(Op::Embedding(Embedding { count: rows, dim }), [Some(index), None, None], [Some(table), None])?)
}
