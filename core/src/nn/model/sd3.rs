//! diffusers' `SD3Transformer2DModel`: the network of Stable Diffusion 3 and 3.5 (Esser et al. 2024). Patches of latents and tokens of
//! the text have weights of their own and attend to each other (MMDiT).
//!
//! It takes one loaded condition ([`crate::denoise::Cond::Loaded`]): `encoder_hidden_states` `[tokens, joint_attention_dim]`, then
//! `pooled_projections` `[pooled_projection_dim]`.

use heapless::Vec;

use super::layers::path;
use super::transformer::{FeedForward, Heads, TIME_FEATURES, layers};
use super::{ConfigError, Layers, check_numbers, check_size};
use crate::nn::graph::{Graph, GraphBuilder, Grid, Input, Projection, TensorId, WeightNames, WeightUse};
use crate::nn::op::{Act, Conv2d, Embedding, Op, Shape};

/// Added to all variances.
const EPS: f32 = 1e-6;
/// The most layers.
pub const MAX_LAYERS: usize = 128;
/// Of all feed-forward layers.
const FEED_FORWARD: FeedForward = FeedForward::Plain(Act::GeluTanh);

/// A `SD3Transformer2DModel`'s config, named as diffusers names it. The size of the images and the number of tokens are arguments of
/// [`build`].
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Channels of the latents.
    pub in_channels: u32,
    /// Channels of the prediction.
    pub out_channels: u32,
    /// Rows and columns of a patch.
    pub patch_size: u32,
    /// Transformer layers.
    pub num_layers: u32,
    /// Attention heads.
    pub num_attention_heads: u32,
    /// Channels of a head.
    pub attention_head_dim: u32,
    /// Channels of a token of the text as it comes.
    pub joint_attention_dim: u32,
    /// Values of the text as a whole.
    pub pooled_projection_dim: u32,
    /// Rows and columns of the table of positions, in patches, of which the middle is used.
    pub pos_embed_max_size: u32,
    /// Whether each layer lets patches attend to patches alone, too.
    pub dual_attention_layers: Vec<bool, MAX_LAYERS>,
    /// `qk_norm` `rms_norm`: queries and keys are normalised.
    pub qk_norm: bool,
}

impl Config {
    fn heads(&self) -> Heads {
        Heads { count: self.num_attention_heads, dim: self.attention_head_dim }
    }

    fn check(&self, size: [u32; 2], tokens: u32) -> Result<(), ConfigError> {
        check_numbers([
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("num_attention_heads", self.num_attention_heads),
            ("attention_head_dim", self.attention_head_dim),
            // The widest vector has nine parts.
            ("num_attention_heads * attention_head_dim", self.heads().channels().saturating_mul(9)),
            ("joint_attention_dim", self.joint_attention_dim),
            ("pooled_projection_dim", self.pooled_projection_dim),
            ("patch_size", self.patch_size),
            ("number of tokens", tokens),
        ])?;
        if self.num_layers == 0 || self.num_layers as usize > MAX_LAYERS {
            return Err(ConfigError::Zero("num_layers"));
        }
        if self.patch_size > 1 << 5 {
            return Err(ConfigError::Zero("patch_size"));
        }
        // The table's rows are counted in f32.
        if self.pos_embed_max_size == 0 || self.pos_embed_max_size > 1 << 12 {
            return Err(ConfigError::Zero("pos_embed_max_size"));
        }
        check_size(size, self.patch_size)?;
        match size.iter().all(|side| side / self.patch_size <= self.pos_embed_max_size) {
            true => Ok(()),
            false => Err(ConfigError::TooLarge { most: self.pos_embed_max_size * self.patch_size }),
        }
    }
}

/// Builds the network for images of `h * w` pixels and texts of `tokens` tokens. `names` is told each weight's name, in the order of
/// the ids.
///
/// # Errors
/// [`ConfigError`].
pub fn build<'a>(
    config: &Config,
    [h, w]: [u32; 2],
    tokens: u32,
    builder: GraphBuilder<'a>,
    names: WeightNames<'_>,
) -> Result<Graph<'a>, ConfigError> {
    config.check([h, w], tokens)?;
    let (dim, size) = (config.heads().channels(), config.patch_size);
    let mut layers = layers(builder, names, dim);
    let sample = layers.g.input(Input::Sample, Shape::new(h, w, config.in_channels))?;
    let features = Projection::Positional { dim: TIME_FEATURES, flip: true, shift: 0 };
    let time = layers.g.input(Input::Time(features), Shape::vector(TIME_FEATURES))?;
    let text = layers.g.input(Input::Embedding, Shape::new(1, tokens, config.joint_attention_dim))?;
    let pooled = layers.g.input(Input::Embedding, Shape::vector(config.pooled_projection_dim))?;

    // The middle of the table of positions.
    let (rows, columns, most) = (h / size, w / size, config.pos_embed_max_size);
    let first = (most - rows) / 2 * most + (most - columns) / 2;
    let index = layers.g.input(Input::Grid(Grid::Index { first, stride: most }), Shape::new(rows, columns, 1))?;
    let table = layers.weight("pos_embed.pos_embed", [most * most, dim, 1, 1], WeightUse::Table)?;
    let places = Op::Embedding(Embedding { count: most * most, dim });
    let places = layers.g.node(places, [Some(index), None, None], [Some(table), None])?;
    let mut x = layers.patches("pos_embed.proj", sample, size, places)?;

    let whole = layers.embedding_mlp("time_text_embed.text_embedder", pooled, Act::Silu, None, Act::None)?;
    let told = layers.embedding_mlp("time_text_embed.timestep_embedder", time, Act::Silu, Some(whole), Act::Silu)?;
    let mut text = layers.dense("context_embedder", text, dim, true)?;
    let mut net = Net { config, layers, told };
    for i in 0..config.num_layers {
        let last = i + 1 == config.num_layers;
        (x, text) = net.block(i, last, x, text)?;
    }
    let Net { mut layers, .. } = net;
    let vector = layers.dense("norm_out.linear", told, 2 * dim, true)?;
    x = layers.bare_norm(x, EPS)?;
    x = layers.modulate(x, vector, [1, 0])?;
    x = layers.dense("proj_out", x, size * size * config.out_channels, true)?;
    x = layers.pixels(x, size)?;
    Ok(layers.g.finish(x))
}

struct Net<'c, 'a, 'n> {
    config: &'c Config,
    layers: Layers<'a, 'n>,
    /// Time and text, through the activation that all who take it begin with.
    told: TensorId,
}

impl Net<'_, '_, '_> {
    /// `JointTransformerBlock`: patches and text. The `last` returns no text of its own.
    fn block(&mut self, i: u32, last: bool, x: TensorId, text: TensorId) -> Result<(TensorId, TensorId), ConfigError> {
        let c = self.config.heads().channels();
        let dual = self.config.dual_attention_layers.get(i as usize).copied().unwrap_or(false);
        let name = path(format_args!("transformer_blocks.{i}"))?;
        let mut vector = |part: &str, parts: u32| {
            self.layers.dense(&path(format_args!("{name}.{part}.linear"))?, self.told, parts * c, true)
        };
        // Shift, scale and gate of the attention, then of the feed-forward layers, then of the second attention.
        let told = vector("norm1", if dual { 9 } else { 6 })?;
        // Of the last layer's text, scale and shift.
        let told_text = vector("norm1_context", if last { 2 } else { 6 })?;

        let normal = self.layers.bare_norm(x, EPS)?;
        let hidden = self.layers.modulate(normal, told, [0, 1])?;
        let normal_text = self.layers.bare_norm(text, EPS)?;
        let hidden_text = self.layers.modulate(normal_text, told_text, if last { [1, 0] } else { [0, 1] })?;

        let attn = path(format_args!("{name}.attn"))?;
        let [k, v] = self.keys(&attn, ["to_k", "to_v", "norm_k"], hidden)?;
        let [text_k, text_v] = self.keys(&attn, ["add_k_proj", "add_v_proj", "norm_added_k"], hidden_text)?;
        let (k, v) = (self.layers.join(k, text_k)?, self.layers.join(v, text_v)?);
        let mixed = self.attended(&attn, ["to_q", "norm_q", "to_out.0"], hidden, [k, v])?;
        let mut x = self.layers.gated(mixed, told, 2, x)?;
        if dual {
            let hidden = self.layers.modulate(normal, told, [6, 7])?;
            let attn = path(format_args!("{name}.attn2"))?;
            let keys = self.keys(&attn, ["to_k", "to_v", "norm_k"], hidden)?;
            let mixed = self.attended(&attn, ["to_q", "norm_q", "to_out.0"], hidden, keys)?;
            x = self.layers.gated(mixed, told, 8, x)?;
        }
        x = self.feed_forward(&path(format_args!("{name}.ff"))?, told, x)?;
        if last {
            return Ok((x, text));
        }
        let parts = ["add_q_proj", "norm_added_q", "to_add_out"];
        let mixed = self.attended(&attn, parts, hidden_text, [k, v])?;
        let text = self.layers.gated(mixed, told_text, 2, text)?;
        let text = self.feed_forward(&path(format_args!("{name}.ff_context"))?, told_text, text)?;
        Ok((x, text))
    }

    /// Keys and values of `x`.
    fn keys(&mut self, attn: &str, [k, v, norm]: [&str; 3], x: TensorId) -> Result<[TensorId; 2], ConfigError> {
        let keys = self.projected(attn, k, norm, x)?;
        let values = self.layers.dense(&path(format_args!("{attn}.{v}"))?, x, self.config.heads().channels(), true)?;
        Ok([keys, values])
    }

    /// What the queries of `x` find among `keys`, through the linear layer `out`.
    fn attended(
        &mut self,
        attn: &str,
        [q, norm, out]: [&str; 3],
        x: TensorId,
        [k, v]: [TensorId; 2],
    ) -> Result<TensorId, ConfigError> {
        let heads = self.config.heads();
        let q = self.projected(attn, q, norm, x)?;
        let mixed = self.layers.attend(heads, false, [q, k, v])?;
        let op = Conv2d::linear(heads.channels(), heads.channels());
        self.layers.conv(&path(format_args!("{attn}.{out}"))?, op, mixed, [None; 2])
    }

    /// Queries or keys, normalised where they are.
    fn projected(&mut self, attn: &str, part: &str, norm: &str, x: TensorId) -> Result<TensorId, ConfigError> {
        let heads = self.config.heads();
        let y = self.layers.dense(&path(format_args!("{attn}.{part}"))?, x, heads.channels(), true)?;
        match self.config.qk_norm {
            true => self.layers.head_norm(&path(format_args!("{attn}.{norm}"))?, heads, EPS, y),
            false => Ok(y),
        }
    }

    /// The feed-forward layers with their normalisation, gate and residual.
    fn feed_forward(&mut self, name: &str, told: TensorId, x: TensorId) -> Result<TensorId, ConfigError> {
        let hidden = self.layers.bare_norm(x, EPS)?;
        let hidden = self.layers.modulate(hidden, told, [3, 4])?;
        let hidden = self.layers.feed_forward(name, FEED_FORWARD, hidden, None)?;
        self.layers.gated(hidden, told, 5, x)
    }
}
