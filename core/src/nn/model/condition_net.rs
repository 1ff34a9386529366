//! What diffusers' `UNet2DConditionModel` and `ControlNetModel` share: the time embedding with all that is added to it, transformers over
//! pixels and tokens, the way down and the middle.

use heapless::Vec;

use super::added_keys;
use super::layers::{Change, Layers, Style, path};
use super::unet2d_condition::{ClassEmbedding, Config, Level, Mid};
use super::{ConfigError, MAX_LAYERS, MAX_LEVELS};
use crate::math;
use crate::nn::graph::{GraphBuilder, GraphError, Input, Projection, TensorId, WeightNames, WeightUse};
use crate::nn::op::{Act, Attention, Conv2d, Embedding, Gate, GroupNorm, LayerNorm, Modulate, Op, Shape};

/// Added to the variance of a transformer's group normalisation, whatever `norm_eps` says (`Transformer2DModel`).
const TRANSFORMER_EPS: f32 = 1e-6;
/// Added to the variance of the layer normalisations (`BasicTransformerBlock`).
const LAYER_NORM_EPS: f32 = 1e-5;

/// What the way down hands to the way up, in the order in which it was made.
pub(super) type Skips = Vec<TensorId, { MAX_LEVELS * (MAX_LAYERS as usize + 1) + 1 }>;

/// The parts of the loaded condition, in their order; all networks of a graph are told the same.
pub(super) struct Told {
    tokens: TensorId,
    time_cond: Option<TensorId>,
    class: Option<TensorId>,
    addition: Option<TensorId>,
    /// What is added to the scores of each token, of unCLIP's blocks.
    bias: Option<TensorId>,
    /// Features of T2I adapters.
    pub(super) features: Vec<TensorId, { MAX_LEVELS + 1 }>,
}

impl Told {
    /// Declares what a network of `config` is told, for prompts of `tokens` tokens and so many features of T2I adapters. `sample`: the
    /// noisy image.
    pub(super) fn new(
        g: &mut GraphBuilder<'_>,
        config: &Config,
        sample: TensorId,
        token_count: u32,
        features: usize,
    ) -> Result<Self, ConfigError> {
        let Shape { h, w, .. } = g.shape(sample);
        let token_dim = config.encoder_hid_dim.unwrap_or(config.cross_attention_dim);
        let mut told = |shape| g.input(Input::Embedding, shape);
        let tokens = told(Shape::new(1, token_count, token_dim))?;
        let mut vector = |dim: Option<u32>| dim.map(|dim| told(Shape::vector(dim))).transpose();
        let time_cond = vector(config.time_cond_proj_dim)?;
        let (class, addition) = (vector(class_dim(config))?, vector(config.addition)?);
        let bias = config.simple.then(|| told(Shape::new(1, token_count, 1))).transpose()?;
        let features =
            config.places().into_iter().take(features).map(|[c, side]| told(Shape::new(h / side, w / side, c)));
        Ok(Self { tokens, time_cond, class, addition, bias, features: features.collect::<Result<_, _>>()? })
    }
}

/// Values that stand for the class; none if there is none.
fn class_dim(config: &Config) -> Option<u32> {
    match config.class_embedding {
        ClassEmbedding::None => None,
        ClassEmbedding::Table { .. } => Some(1),
        ClassEmbedding::Timestep => config.levels.first().map(|level| level.channels),
        ClassEmbedding::Identity => Some(config.time_dim()),
        ClassEmbedding::Projection { dim } | ClassEmbedding::SimpleProjection { dim } => Some(dim),
    }
}

/// A network under construction.
pub(super) struct Net<'c, 'a, 'n> {
    pub(super) config: &'c Config,
    pub(super) layers: Layers<'a, 'n>,
    /// What the transformers attend to.
    pub(super) tokens: TensorId,
    /// What is added to the scores of each token, where that is told.
    pub(super) bias: TensorId,
}

impl<'c, 'a, 'n> Net<'c, 'a, 'n> {
    /// A network of `config` that is told `told`, with its time embedding.
    pub(super) fn new(
        config: &'c Config,
        g: GraphBuilder<'a>,
        names: WeightNames<'n>,
        told: &Told,
    ) -> Result<Self, ConfigError> {
        let style = Style {
            norm: GroupNorm { groups: config.norm_num_groups, eps: config.norm_eps, act: config.act },
            scale_shift: config.scale_shift,
            time_dim: config.time_dim(),
        };
        let mut net = Self {
            config,
            layers: Layers { g, names, style, temb: None },
            tokens: told.tokens,
            bias: told.bias.unwrap_or(told.tokens),
        };
        net.layers.temb = Some(net.time_embedding(told)?);
        if config.encoder_hid_dim.is_some() {
            let linear = Conv2d::linear(net.layers.g.shape(told.tokens).c, config.cross_attention_dim);
            net.tokens = net.layers.conv("encoder_hid_proj", linear, told.tokens, [None; 2])?;
        }
        Ok(net)
    }

    /// The time embedding with all that is added to it, through the residual layers' activation: they all begin with it.
    fn time_embedding(&mut self, told: &Told) -> Result<TensorId, ConfigError> {
        let config = self.config;
        let channels = config.levels.first().ok_or(ConfigError::Levels)?.channels;
        let projection =
            Projection::Positional { dim: channels, flip: config.flip_sin_to_cos, shift: config.freq_shift };
        let mut features = self.layers.g.input(Input::Time(projection), Shape::vector(channels))?;
        if let Some(cond) = told.time_cond.filter(|_| config.time_cond_proj_dim.is_some()) {
            features = self.layers.linear("time_embedding.cond_proj", cond, channels, Some(features))?;
        }
        let mut added = told.class.map(|class| self.class_embedding(class)).transpose()?;
        if let Some(addition) = told.addition {
            added = Some(self.layers.embedding_mlp("add_embedding", addition, Act::Silu, added, Act::None)?);
        }
        self.layers.embedding_mlp("time_embedding", features, config.act, added, config.act)
    }

    fn class_embedding(&mut self, class: TensorId) -> Result<TensorId, ConfigError> {
        let time_dim = self.layers.style.time_dim;
        let name = "class_embedding";
        Ok(match self.config.class_embedding {
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
        })
    }

    /// The first convolution; `hint` is added to what it makes.
    pub(super) fn enter(&mut self, sample: TensorId, hint: Option<TensorId>) -> Result<TensorId, ConfigError> {
        let (config, kernel) = (self.config, self.config.conv_in_kernel);
        let channels = config.levels.first().ok_or(ConfigError::Levels)?.channels;
        let conv = Conv2d::new(config.in_channels, channels, kernel, kernel / 2);
        self.layers.conv("conv_in", conv, sample, [None, hint])
    }

    /// The sum of two tensors of one shape.
    pub(super) fn add(&mut self, x: TensorId, other: TensorId) -> Result<TensorId, ConfigError> {
        Ok(self.layers.g.node(Op::Modulate(Modulate::SUM), [Some(x), None, Some(other)], [None; 2])?)
    }

    /// The way down, with a feature of `features` added to what each block makes: after its attention, or else after all of it. Returns
    /// what it ends with and what it hands to the way up.
    pub(super) fn down(&mut self, mut x: TensorId, features: &[TensorId]) -> Result<(TensorId, Skips), ConfigError> {
        let mut skips = Skips::new();
        let mut keep = |x: TensorId| skips.push(x).map_err(|_| ConfigError::Graph(GraphError::Full));
        keep(x)?;
        let config = self.config;
        for (i, level) in config.levels.iter().enumerate() {
            let (last, feature) = (i + 1 == config.levels.len(), features.get(i).copied());
            for j in 0..level.layers {
                let name = path(format_args!("down_blocks.{i}.resnets.{j}"))?;
                x = self.layers.resnet(&name, x, level.channels, Change::Keep, 1.0)?;
                if level.down_attention {
                    x = self.attentive(&path(format_args!("down_blocks.{i}.attentions.{j}"))?, level, x)?;
                }
                if let Some(feature) = feature.filter(|_| j + 1 == level.layers && (level.down_attention || last)) {
                    x = self.add(x, feature)?;
                }
                keep(x)?;
            }
            if !last {
                let name = path(format_args!("down_blocks.{i}.downsamplers.0"))?;
                x = match config.simple {
                    true => self.layers.resnet(&name, x, level.channels, Change::Down, 1.0)?,
                    false => self.layers.downsample(&name, x, config.downsample_padding)?,
                };
                if let Some(feature) = feature.filter(|_| !level.down_attention) {
                    x = self.add(x, feature)?;
                }
                keep(x)?;
            }
        }
        Ok((x, skips))
    }

    /// The middle, with the numbers of the last level.
    pub(super) fn mid_block(&mut self, x: TensorId) -> Result<TensorId, ConfigError> {
        let level = self.config.levels.last().ok_or(ConfigError::Levels)?;
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
    pub(super) fn attentive(&mut self, name: &str, level: &Level, x: TensorId) -> Result<TensorId, ConfigError> {
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
