//! diffusers' `UNet2DConditionModel`: the network of Stable Diffusion 1, 2 and XL (Rombach et al. 2022; Podell et al. 2023).
//!
//! It takes one loaded condition ([`crate::denoise::Cond::Loaded`]), whose values are, one part after the other:
//!
//! 1. `encoder_hidden_states`: `[tokens, cross_attention_dim]`, or `[tokens, encoder_hid_dim]` where the config has that;
//! 2. `timestep_cond` `[time_cond_proj_dim]`, if the config has that;
//! 3. the class, if there are any: the label itself ([`ClassEmbedding::Table`], which reads row 0 for one that is out of range)
//!    or the values that [`ClassEmbedding`] says;
//! 4. with `addition_embed_type` `text_time`: `text_embeds`, then the sines and cosines of each of `time_ids`
//!    ([`crate::nn::graph::Projection::Positional`] of `addition_time_embed_dim`), together
//!    `[projection_class_embeddings_input_dim]`.

use heapless::Vec;

use super::added_keys;
use super::layers::{Change, Layers, Style, path};
use super::{ConfigError, MAX_LAYERS, MAX_LEVELS, check_numbers, check_size};
use crate::math;
use crate::nn::graph::{Graph, GraphBuilder, GraphError, Input, Projection, TensorId, WeightNames, WeightUse};
use crate::nn::op::{Act, Affine, Attention, Concat, Conv2d, Embedding, Gate, GroupNorm, LayerNorm, Op, Shape};

/// Added to the variance of a transformer's group normalisation, whatever `norm_eps` says (`Transformer2DModel`).
const TRANSFORMER_EPS: f32 = 1e-6;
/// Added to the variance of the layer normalisations (`BasicTransformerBlock`).
const LAYER_NORM_EPS: f32 = 1e-5;

/// One resolution: its block on the way down and its block on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// `block_out_channels`.
    pub channels: u32,
    /// `CrossAttnDownBlock2D` rather than `DownBlock2D`.
    pub down_attention: bool,
    /// `CrossAttnUpBlock2D` rather than `UpBlock2D`. (diffusers lists the blocks on the way up from the lowest resolution.)
    pub up_attention: bool,
    /// `layers_per_block`: residual layers on the way down; those on the way up have one more.
    pub layers: u32,
    /// `transformer_layers_per_block`.
    pub transformer_layers: u32,
    /// Attention heads: what these configs call `attention_head_dim`.
    pub heads: u32,
    /// `only_cross_attention`: the first attention of each transformer layer is to the tokens as well.
    pub only_cross_attention: bool,
}

/// `mid_block_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mid {
    /// None.
    None,
    /// `UNetMidBlock2D`: one residual layer.
    Plain,
    /// `UNetMidBlock2DCrossAttn`: a transformer between two residual layers, with the numbers of the last level.
    CrossAttention,
}

/// How a class enters (`class_embed_type`, `num_class_embeds`): added to the time embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassEmbedding {
    /// No classes.
    None,
    /// A row of a table of `num_class_embeds` rows. The condition holds its number.
    Table {
        /// `num_class_embeds`.
        count: u32,
    },
    /// `timestep`: the condition holds the label's sines and cosines, made as those of the time.
    Timestep,
    /// `identity`: the condition holds the embedding.
    Identity,
    /// `projection`: two linear layers of as many values as `projection_class_embeddings_input_dim` says.
    Projection {
        /// `projection_class_embeddings_input_dim`.
        dim: u32,
    },
    /// `simple_projection`: one linear layer of them.
    SimpleProjection {
        /// `projection_class_embeddings_input_dim`.
        dim: u32,
    },
}

/// A `UNet2DConditionModel`'s config, named as diffusers names it. The sample's size and the number of tokens are arguments of
/// [`build`].
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Channels of the noisy image.
    pub in_channels: u32,
    /// Channels of the prediction.
    pub out_channels: u32,
    /// The image is mapped from [0, 1] to [-1, 1] first.
    pub center_input_sample: bool,
    /// Cosines come first in the time's features.
    pub flip_sin_to_cos: bool,
    /// Subtracted from half the number of the time's features, in the frequencies' denominator.
    pub freq_shift: i32,
    /// Values of the time embedding; four times the first level's channels when absent.
    pub time_embedding_dim: Option<u32>,
    /// Values of a further condition of the time (Luo et al. 2023: the guidance, embedded).
    pub time_cond_proj_dim: Option<u32>,
    /// The resolutions, highest first.
    pub levels: Vec<Level, MAX_LEVELS>,
    /// The block in the middle.
    pub mid_block: Mid,
    /// Divides the sums of the middle block's residual layers.
    pub mid_block_scale_factor: f32,
    /// Padding of the strided convolutions; 0 pads below and to the right only.
    pub downsample_padding: u32,
    /// Activation of the residual layers and of the time embedding.
    pub act: Act,
    /// Groups of the normalisations.
    pub norm_num_groups: u32,
    /// Added to variances, but for the transformers'.
    pub norm_eps: f32,
    /// `resnet_time_scale_shift == "scale_shift"`: the time scales and shifts the second normalisation.
    pub scale_shift: bool,
    /// Channels of the tokens.
    pub cross_attention_dim: u32,
    /// Channels of the tokens before a linear layer makes them `cross_attention_dim` (`encoder_hid_dim_type` `text_proj`).
    pub encoder_hid_dim: Option<u32>,
    /// How a class enters.
    pub class_embedding: ClassEmbedding,
    /// `addition_embed_type` `text_time`, with so many values (`projection_class_embeddings_input_dim`).
    pub addition: Option<u32>,
    /// The blocks are those of unCLIP (`ResnetDownsampleBlock2D`, `SimpleCrossAttnDownBlock2D` and the like): resolutions change in
    /// residual layers, pixels attend to tokens and pixels at once, and a level's `heads` are the channels of a head. The condition ends
    /// with what is added to the scores of each token ([`super::transformer::UNSEEN`] for padding).
    pub simple: bool,
    /// Rows and columns of the first convolution's kernel.
    pub conv_in_kernel: u32,
    /// Rows and columns of the last convolution's kernel.
    pub conv_out_kernel: u32,
}

impl Config {
    /// The number of values of the time embedding.
    pub fn time_dim(&self) -> u32 {
        self.time_embedding_dim.unwrap_or(self.levels.first().map_or(0, |level| level.channels.saturating_mul(4)))
    }

    /// Both sides of the image must be multiples of this.
    pub fn multiple(&self) -> u32 {
        1 << self.levels.len().saturating_sub(1)
    }

    fn check(&self, [h, w]: [u32; 2], tokens: u32) -> Result<(), ConfigError> {
        if self.levels.is_empty() {
            return Err(ConfigError::Levels);
        }
        let of_class = match self.class_embedding {
            ClassEmbedding::Table { count } => count,
            ClassEmbedding::Projection { dim } | ClassEmbedding::SimpleProjection { dim } => dim,
            _ => 1,
        };
        let numbers = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("time_embedding_dim", self.time_dim()),
            ("time_cond_proj_dim", self.time_cond_proj_dim.unwrap_or(1)),
            ("norm_num_groups", self.norm_num_groups),
            ("cross_attention_dim", self.cross_attention_dim),
            ("encoder_hid_dim", self.encoder_hid_dim.unwrap_or(1)),
            ("number of classes", of_class),
            ("projection_class_embeddings_input_dim", self.addition.unwrap_or(1)),
            ("number of tokens", tokens),
        ];
        let of_levels = self
            .levels
            .iter()
            .flat_map(|level| [("block_out_channels", level.channels), ("attention_head_dim", level.heads)]);
        check_numbers(numbers.into_iter().chain(of_levels))?;
        for level in &self.levels {
            if level.layers == 0 || level.layers > MAX_LAYERS {
                return Err(ConfigError::Zero("layers_per_block"));
            }
            if level.transformer_layers == 0 || level.transformer_layers > 1 << 8 {
                return Err(ConfigError::Zero("transformer_layers_per_block"));
            }
        }
        for (name, kernel) in [("conv_in_kernel", self.conv_in_kernel), ("conv_out_kernel", self.conv_out_kernel)] {
            // An even kernel would change the image's size.
            if kernel.is_multiple_of(2) || kernel > 1 << 5 {
                return Err(ConfigError::Zero(name));
            }
        }
        check_size([h, w], self.multiple())
    }
}

/// Builds the network for images of `h * w` pixels and conditions of `tokens` tokens. `names` is told each weight's name, in the
/// order of the ids.
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
    let style = Style {
        norm: GroupNorm { groups: config.norm_num_groups, eps: config.norm_eps, act: config.act },
        scale_shift: config.scale_shift,
        time_dim: config.time_dim(),
    };
    let layers = Layers { g: builder, names, style, temb: None };
    Net { config, layers, tokens: TensorId(0), bias: TensorId(0) }.build(Shape::new(h, w, config.in_channels), tokens)
}

struct Net<'c, 'a, 'n> {
    config: &'c Config,
    layers: Layers<'a, 'n>,
    /// What the transformers attend to.
    tokens: TensorId,
    /// What is added to the scores of each token, where that is told.
    bias: TensorId,
}

impl<'a> Net<'_, 'a, '_> {
    fn build(mut self, image: Shape, tokens: u32) -> Result<Graph<'a>, ConfigError> {
        let config = self.config;
        let sample = self.layers.g.input(Input::Sample, image)?;
        let (first, last) = match config.levels[..] {
            [first, .., last] => (first, last),
            [only] => (only, only),
            [] => return Err(ConfigError::Levels),
        };
        let token_dim = config.encoder_hid_dim.unwrap_or(config.cross_attention_dim);
        self.tokens = self.layers.g.input(Input::Embedding, Shape::new(1, tokens, token_dim))?;
        self.layers.temb = Some(self.time_embedding(first.channels)?);
        if config.simple {
            self.bias = self.layers.g.input(Input::Embedding, Shape::new(1, tokens, 1))?;
        }
        if config.encoder_hid_dim.is_some() {
            let linear = Conv2d::linear(token_dim, config.cross_attention_dim);
            self.tokens = self.layers.conv("encoder_hid_proj", linear, self.tokens, [None; 2])?;
        }
        let centered = match config.center_input_sample {
            true => {
                let affine = Op::Affine(Affine::new(2.0, -1.0));
                self.layers.g.node(affine, [Some(sample), None, None], [None; 2])?
            }
            false => sample,
        };
        let kernel = config.conv_in_kernel;
        let conv = Conv2d::new(config.in_channels, first.channels, kernel, kernel / 2);
        let mut x = self.layers.conv("conv_in", conv, centered, [None; 2])?;

        let mut skips: Vec<TensorId, { MAX_LEVELS * (MAX_LAYERS as usize + 1) + 1 }> = Vec::new();
        let mut keep = |x: TensorId| skips.push(x).map_err(|_| ConfigError::Graph(GraphError::Full));
        keep(x)?;
        let levels = config.levels.len();
        for (i, level) in config.levels.iter().enumerate() {
            for j in 0..level.layers {
                let name = path(format_args!("down_blocks.{i}.resnets.{j}"))?;
                x = self.layers.resnet(&name, x, level.channels, Change::Keep, 1.0)?;
                if level.down_attention {
                    x = self.attentive(&path(format_args!("down_blocks.{i}.attentions.{j}"))?, level, x)?;
                }
                keep(x)?;
            }
            if i + 1 < levels {
                let name = path(format_args!("down_blocks.{i}.downsamplers.0"))?;
                x = match config.simple {
                    true => self.layers.resnet(&name, x, level.channels, Change::Down, 1.0)?,
                    false => self.layers.downsample(&name, x, config.downsample_padding)?,
                };
                keep(x)?;
            }
        }

        x = self.mid_block(&last, x)?;

        for (i, level) in config.levels.iter().rev().enumerate() {
            for j in 0..=level.layers {
                let skip = skips.pop().ok_or(ConfigError::Levels)?;
                x = self.layers.g.node(Op::Concat(Concat), [Some(x), Some(skip), None], [None; 2])?;
                let name = path(format_args!("up_blocks.{i}.resnets.{j}"))?;
                x = self.layers.resnet(&name, x, level.channels, Change::Keep, 1.0)?;
                if level.up_attention {
                    x = self.attentive(&path(format_args!("up_blocks.{i}.attentions.{j}"))?, level, x)?;
                }
            }
            if i + 1 < levels {
                let name = path(format_args!("up_blocks.{i}.upsamplers.0"))?;
                x = match config.simple {
                    true => self.layers.resnet(&name, x, level.channels, Change::Up, 1.0)?,
                    false => self.layers.upsample(&name, x)?,
                };
            }
        }

        x = self.layers.norm("conv_norm_out", x, None, self.layers.style.norm)?;
        let kernel = config.conv_out_kernel;
        let conv = Conv2d::new(first.channels, config.out_channels, kernel, kernel / 2);
        x = self.layers.conv("conv_out", conv, x, [None; 2])?;
        Ok(self.layers.g.finish(x))
    }

    /// The time embedding with all that is added to it, through the residual layers' activation: they all begin with it.
    /// `channels`: those of the first level.
    fn time_embedding(&mut self, channels: u32) -> Result<TensorId, ConfigError> {
        let config = self.config;
        let projection =
            Projection::Positional { dim: channels, flip: config.flip_sin_to_cos, shift: config.freq_shift };
        let mut features = self.layers.g.input(Input::Time(projection), Shape::vector(channels))?;
        if let Some(dim) = config.time_cond_proj_dim {
            let cond = self.layers.g.input(Input::Embedding, Shape::vector(dim))?;
            features = self.layers.linear("time_embedding.cond_proj", cond, channels, Some(features))?;
        }
        let mut added = self.class_embedding(channels)?;
        if let Some(dim) = config.addition {
            let addition = self.layers.g.input(Input::Embedding, Shape::vector(dim))?;
            added = Some(self.layers.embedding_mlp("add_embedding", addition, Act::Silu, added, Act::None)?);
        }
        self.layers.embedding_mlp("time_embedding", features, config.act, added, config.act)
    }

    fn class_embedding(&mut self, channels: u32) -> Result<Option<TensorId>, ConfigError> {
        let time_dim = self.layers.style.time_dim;
        let name = "class_embedding";
        let dim = match self.config.class_embedding {
            ClassEmbedding::None => return Ok(None),
            ClassEmbedding::Table { .. } => 1,
            ClassEmbedding::Timestep => channels,
            ClassEmbedding::Identity => time_dim,
            ClassEmbedding::Projection { dim } | ClassEmbedding::SimpleProjection { dim } => dim,
        };
        let class = self.layers.g.input(Input::Embedding, Shape::vector(dim))?;
        Ok(Some(match self.config.class_embedding {
            ClassEmbedding::None | ClassEmbedding::Identity => class,
            ClassEmbedding::Table { count } => {
                let shape = [count, time_dim, 1, 1];
                let table = self.layers.weight("class_embedding.weight", shape, WeightUse::Table)?;
                let op = Op::Embedding(Embedding { count, dim: time_dim });
                self.layers.g.node(op, [Some(class), None, None], [Some(table), None])?
            }
            ClassEmbedding::Timestep => self.layers.embedding_mlp(name, class, self.config.act, None, Act::None)?,
            ClassEmbedding::Projection { .. } => self.layers.embedding_mlp(name, class, Act::Silu, None, Act::None)?,
            ClassEmbedding::SimpleProjection { dim } => {
                self.layers.conv(name, Conv2d::linear(dim, time_dim), class, [None; 2])?
            }
        }))
    }

    fn mid_block(&mut self, level: &Level, x: TensorId) -> Result<TensorId, ConfigError> {
        let scale = self.config.mid_block_scale_factor;
        if self.config.mid_block == Mid::None {
            return Ok(x);
        }
        let x = self.layers.resnet("mid_block.resnets.0", x, level.channels, Change::Keep, scale)?;
        if self.config.mid_block == Mid::Plain {
            return Ok(x);
        }
        let x = self.attentive("mid_block.attentions.0", level, x)?;
        self.layers.resnet("mid_block.resnets.1", x, level.channels, Change::Keep, scale)
    }

    /// The attention of a level's block.
    fn attentive(&mut self, name: &str, level: &Level, x: TensorId) -> Result<TensorId, ConfigError> {
        match self.config.simple {
            true => {
                let (norm, tokens) = (self.layers.style.norm, [self.tokens, self.bias]);
                added_keys::attention(&mut self.layers, name, norm.groups, level.heads, tokens, x)
            }
            false => self.transformer(name, level, x),
        }
    }

    /// `Transformer2DModel`: normalised, transformer layers over the pixels, and the residual. Its projections are the same
    /// whether they are stored as convolutions or as linear layers (`use_linear_projection`).
    fn transformer(&mut self, name: &str, level: &Level, x: TensorId) -> Result<TensorId, ConfigError> {
        let (channels, heads) = (level.channels, level.heads);
        let head_dim = channels / heads;
        if head_dim == 0 {
            return Err(ConfigError::HeadDim { head_dim: heads, channels });
        }
        let inner = heads * head_dim;
        let norm = GroupNorm { groups: self.config.norm_num_groups, eps: TRANSFORMER_EPS, act: Act::None };
        let hidden = self.layers.norm(&path(format_args!("{name}.norm"))?, x, None, norm)?;
        let enter = Conv2d::linear(channels, inner);
        let mut hidden = self.layers.conv(&path(format_args!("{name}.proj_in"))?, enter, hidden, [None; 2])?;
        for i in 0..level.transformer_layers {
            let name = path(format_args!("{name}.transformer_blocks.{i}"))?;
            let tokens = self.tokens;
            let first = level.only_cross_attention.then_some(tokens);
            hidden = self.attention(&name, 1, [heads, head_dim], first, hidden)?;
            hidden = self.attention(&name, 2, [heads, head_dim], Some(tokens), hidden)?;
            hidden = self.feed_forward(&name, hidden)?;
        }
        let leave = Conv2d::linear(inner, channels);
        self.layers.conv(&path(format_args!("{name}.proj_out"))?, leave, hidden, [None, Some(x)])
    }

    /// Attention number `n` of a transformer layer: to `tokens`, or to the pixels themselves; with its normalisation and its
    /// residual.
    fn attention(
        &mut self,
        name: &str,
        n: u32,
        [heads, head_dim]: [u32; 2],
        tokens: Option<TensorId>,
        x: TensorId,
    ) -> Result<TensorId, ConfigError> {
        let inner = heads * head_dim;
        let hidden = self.layer_norm(&path(format_args!("{name}.norm{n}"))?, x)?;
        let source = tokens.unwrap_or(hidden);
        let q = self.layers.linear(&path(format_args!("{name}.attn{n}.to_q"))?, hidden, inner, None)?;
        let k = self.layers.linear(&path(format_args!("{name}.attn{n}.to_k"))?, source, inner, None)?;
        let v = self.layers.linear(&path(format_args!("{name}.attn{n}.to_v"))?, source, inner, None)?;
        let op = Attention { heads, head_dim, scale: 1.0 / math::sqrt(head_dim as f32), causal: false, biased: false };
        let mixed = self.layers.g.node(Op::Attention(op), [Some(q), Some(k), Some(v)], [None; 2])?;
        let out = Conv2d::linear(inner, inner);
        self.layers.conv(&path(format_args!("{name}.attn{n}.to_out.0"))?, out, mixed, [None, Some(x)])
    }

    /// `FeedForward` with GEGLU, four times as wide, with its normalisation and its residual.
    fn feed_forward(&mut self, name: &str, x: TensorId) -> Result<TensorId, ConfigError> {
        let c = self.layers.g.shape(x).c;
        let hidden = self.layer_norm(&path(format_args!("{name}.norm3"))?, x)?;
        let wide = Conv2d::linear(c, 8 * c);
        let hidden = self.layers.conv(&path(format_args!("{name}.ff.net.0.proj"))?, wide, hidden, [None; 2])?;
        let gate = Op::Gate(Gate { act: Act::Gelu });
        let hidden = self.layers.g.node(gate, [Some(hidden), None, None], [None; 2])?;
        let narrow = Conv2d::linear(4 * c, c);
        self.layers.conv(&path(format_args!("{name}.ff.net.2"))?, narrow, hidden, [None, Some(x)])
    }

    fn layer_norm(&mut self, name: &str, x: TensorId) -> Result<TensorId, ConfigError> {
        self.layers.normalise(name, Op::LayerNorm(LayerNorm::new(LAYER_NORM_EPS)), x, None)
    }
}
