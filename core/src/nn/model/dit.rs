//! diffusers' `DiTTransformer2DModel`: transformer layers over patches of latents, told of time and class by adaptive normalisations
//! (Peebles & Xie 2023).

use super::layers::path;
use super::transformer::{FeedForward, Heads, TIME_FEATURES, layers};
use super::{ConfigError, Layers, check_numbers, check_size};
use crate::nn::graph::{Graph, GraphBuilder, Grid, Input, Projection, TensorId, WeightNames, WeightUse};
use crate::nn::op::{Act, Conv2d, Embedding, LayerNorm, Op, Shape};

/// Added to the variance of the normalisations without weights (`AdaLayerNormZero`, `norm_out`).
const EPS: f32 = 1e-6;

/// A `DiTTransformer2DModel`'s config, named as diffusers names it. The size of the images is an argument of [`build`].
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Channels of the latents.
    pub in_channels: u32,
    /// Channels of the prediction; twice as many where the variance is learned.
    pub out_channels: u32,
    /// Attention heads.
    pub num_attention_heads: u32,
    /// Channels of a head.
    pub attention_head_dim: u32,
    /// Transformer layers.
    pub num_layers: u32,
    /// Rows and columns of a patch.
    pub patch_size: u32,
    /// Rows and columns of the images that it was trained on.
    pub sample_size: u32,
    /// `num_embeds_ada_norm`: classes. One more label, of that number, stands for none.
    pub classes: u32,
    /// The linear layers of queries, keys and values have biases.
    pub attention_bias: bool,
    /// `activation_fn`.
    pub feed_forward: FeedForward,
    /// The normalisation before the feed-forward layers has weights.
    pub norm_elementwise_affine: bool,
    /// Added to that one's variance.
    pub norm_eps: f32,
}

impl Config {
    /// Labels that the network takes: its classes, and the one that stands for none.
    pub fn labels(&self) -> u32 {
        self.classes.saturating_add(1)
    }

    fn heads(&self) -> Heads {
        Heads { count: self.num_attention_heads, dim: self.attention_head_dim }
    }

    fn check(&self, size: [u32; 2]) -> Result<(), ConfigError> {
        if self.patch_size > 1 << 5 {
            return Err(ConfigError::Zero("patch_size"));
        }
        check_numbers([
            ("patch_size", self.patch_size),
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("num_attention_heads", self.num_attention_heads),
            ("attention_head_dim", self.attention_head_dim),
            // The widest vector has six parts, the widest layer eight.
            ("num_attention_heads * attention_head_dim", self.heads().channels().saturating_mul(8)),
            ("sample_size", self.sample_size / self.patch_size.max(1)),
            ("num_embeds_ada_norm", self.classes),
        ])?;
        if self.num_layers == 0 || self.num_layers > 1 << 8 {
            return Err(ConfigError::Zero("num_layers"));
        }
        // The places of pixels are told in four quarters of the channels.
        if !self.heads().channels().is_multiple_of(4) {
            return Err(ConfigError::Groups { groups: 4, channels: self.heads().channels() });
        }
        check_size(size, self.patch_size)
    }
}

/// Builds the network for images of `h * w` pixels. `names` is told each weight's name, in the order of the ids.
///
/// # Errors
/// [`ConfigError`].
pub fn build<'a>(
    config: &Config,
    [h, w]: [u32; 2],
    builder: GraphBuilder<'a>,
    names: WeightNames<'_>,
) -> Result<Graph<'a>, ConfigError> {
    config.check([h, w])?;
    let dim = config.heads().channels();
    let mut layers = layers(builder, names, dim);
    let sample = layers.g.input(Input::Sample, Shape::new(h, w, config.in_channels))?;
    let features = Projection::Positional { dim: TIME_FEATURES, flip: true, shift: 1 };
    let time = layers.g.input(Input::Time(features), Shape::vector(TIME_FEATURES))?;
    let class = layers.g.input(Input::Class(Projection::Index { count: config.labels() }), Shape::vector(1))?;
    let size = config.patch_size;
    let places = Input::Grid(Grid::Waves { base: config.sample_size / size });
    let places = layers.g.input(places, Shape::new(h / size, w / size, dim))?;
    let mut net = Net { config, layers, time, class };
    let mut x = net.layers.patches("pos_embed.proj", sample, size, places)?;
    let mut first = None;
    for i in 0..config.num_layers {
        let name = path(format_args!("transformer_blocks.{i}"))?;
        let told = net.conditioning(&path(format_args!("{name}.norm1.emb"))?)?;
        first = first.or(Some(told));
        x = net.block(&name, told, x)?;
    }
    // The end is told what the first layer is told.
    let told = first.ok_or(ConfigError::Zero("num_layers"))?;
    let Net { mut layers, .. } = net;
    let vector = layers.dense("proj_out_1", told, 2 * dim, true)?;
    x = layers.bare_norm(x, EPS)?;
    x = layers.modulate(x, vector, [0, 1])?;
    x = layers.dense("proj_out_2", x, size * size * config.out_channels, true)?;
    x = layers.pixels(x, size)?;
    Ok(layers.g.finish(x))
}

struct Net<'c, 'a, 'n> {
    config: &'c Config,
    layers: Layers<'a, 'n>,
    /// The time's sines and cosines.
    time: TensorId,
    /// The label.
    class: TensorId,
}

impl Net<'_, '_, '_> {
    /// `CombinedTimestepLabelEmbeddings`, through the activation that all who take it begin with.
    fn conditioning(&mut self, name: &str) -> Result<TensorId, ConfigError> {
        let (count, dim) = (self.config.labels(), self.config.heads().channels());
        let table = path(format_args!("{name}.class_embedder.embedding_table.weight"))?;
        let table = self.layers.weight(&table, [count, dim, 1, 1], WeightUse::Table)?;
        let row = Op::Embedding(Embedding { count, dim });
        let row = self.layers.g.node(row, [Some(self.class), None, None], [Some(table), None])?;
        let name = path(format_args!("{name}.timestep_embedder"))?;
        self.layers.embedding_mlp(&name, self.time, Act::Silu, Some(row), Act::Silu)
    }

    /// `BasicTransformerBlock` with `ada_norm_zero`; `told`: time and class.
    fn block(&mut self, name: &str, told: TensorId, x: TensorId) -> Result<TensorId, ConfigError> {
        let Config { attention_bias, feed_forward, norm_elementwise_affine, norm_eps, .. } = *self.config;
        let heads = self.config.heads();
        let c = heads.channels();
        let layers = &mut self.layers;
        // Shift, scale and gate of the attention, then of the feed-forward layers.
        let vector = layers.dense(&path(format_args!("{name}.norm1.linear"))?, told, 6 * c, true)?;
        let hidden = layers.bare_norm(x, EPS)?;
        let hidden = layers.modulate(hidden, vector, [0, 1])?;
        let mut project =
            |part: &str| layers.dense(&path(format_args!("{name}.attn1.{part}"))?, hidden, c, attention_bias);
        let qkv = [project("to_q")?, project("to_k")?, project("to_v")?];
        let mixed = layers.attend(heads, false, qkv)?;
        let out = path(format_args!("{name}.attn1.to_out.0"))?;
        let mixed = layers.conv(&out, Conv2d::linear(c, c), mixed, [None; 2])?;
        let x = layers.gated(mixed, vector, 2, x)?;
        let hidden = match norm_elementwise_affine {
            true => {
                let name = path(format_args!("{name}.norm3"))?;
                layers.normalise(&name, Op::LayerNorm(LayerNorm::new(norm_eps)), x, None)?
            }
            false => layers.bare_norm(x, norm_eps)?,
        };
        let hidden = layers.modulate(hidden, vector, [3, 4])?;
        let hidden = layers.feed_forward(&path(format_args!("{name}.ff"))?, feed_forward, hidden, None)?;
        layers.gated(hidden, vector, 5, x)
    }
}
