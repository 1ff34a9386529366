//! diffusers' `UNet2DModel` (Ho et al. 2020 and its successors).

use heapless::Vec;

use super::layers::{Change, Layers, Style, path};
use super::{ConfigError, MAX_LAYERS, MAX_LEVELS, check_numbers, check_size};
use crate::nn::graph::{
    Graph, GraphBuilder, GraphError, Input, Projection, TensorId, WeightId, WeightNames, WeightUse,
};
use crate::nn::op::{Act, Affine, Concat, Conv2d, Embedding, GroupNorm, Op, Shape};

/// What a block on the way down or up is made of, beside its residual layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// `DownBlock2D`, `UpBlock2D`: resampled by a convolution.
    Plain,
    /// `AttnDownBlock2D`, `AttnUpBlock2D`: attention after each layer; resampled as the config says.
    Attention,
    /// `ResnetDownsampleBlock2D`, `ResnetUpsampleBlock2D`: resampled inside a residual layer.
    Resnet,
}

impl Block {
    /// The block on the way down that diffusers calls `name`; a leading `UNetRes` is ignored, as there.
    pub fn from_down_name(name: &str) -> Option<Self> {
        match name.strip_prefix("UNetRes").unwrap_or(name) {
            "DownBlock2D" => Some(Block::Plain),
            "AttnDownBlock2D" => Some(Block::Attention),
            "ResnetDownsampleBlock2D" => Some(Block::Resnet),
            _ => None,
        }
    }

    /// The block on the way up that diffusers calls `name`; a leading `UNetRes` is ignored, as there.
    pub fn from_up_name(name: &str) -> Option<Self> {
        match name.strip_prefix("UNetRes").unwrap_or(name) {
            "UpBlock2D" => Some(Block::Plain),
            "AttnUpBlock2D" => Some(Block::Attention),
            "ResnetUpsampleBlock2D" => Some(Block::Resnet),
            _ => None,
        }
    }
}

/// How attention blocks change the resolution (`downsample_type`, `upsample_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resample {
    /// `conv`: a strided convolution down; nearest neighbour and a convolution up.
    Conv,
    /// `resnet`: inside a residual layer, by average pooling or nearest neighbour.
    Resnet,
}

/// `time_embedding_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeEmbedding {
    /// Sines and cosines.
    Positional {
        /// `flip_sin_to_cos`.
        flip: bool,
        /// `freq_shift`.
        shift: i32,
    },
    /// Learned frequencies of the logarithm; the prediction is divided by the time.
    Fourier,
    /// A row of a table of `num_train_timesteps` rows.
    Learned {
        /// `num_train_timesteps`.
        count: u32,
    },
}

/// How a class enters (`class_embed_type`, `num_class_embeds`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassEmbedding {
    /// No classes.
    None,
    /// A row of a table of `num_class_embeds` rows.
    Table {
        /// `num_class_embeds`.
        count: u32,
    },
    /// The label is embedded as the time is.
    Timestep,
    /// The condition is the embedding.
    Identity,
}

/// A `UNet2DModel`'s config, named as diffusers names it. The sample's size is an argument of [`build`].
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Channels of the noisy image, and of what the network takes beside it.
    pub in_channels: u32,
    /// How many of them are known and lie in the condition, `[h, w, channels]`, after a class's embedding: none in diffusers' class itself,
    /// where a pipeline puts both together.
    pub condition_channels: u32,
    /// Channels of the prediction.
    pub out_channels: u32,
    /// The image is mapped from [0, 1] to [-1, 1] first.
    pub center_input_sample: bool,
    /// How the time is embedded.
    pub time_embedding: TimeEmbedding,
    /// Values of the time embedding; four times the first block's channels when absent.
    pub time_embedding_dim: Option<u32>,
    /// Blocks on the way down.
    pub down_blocks: Vec<Block, MAX_LEVELS>,
    /// Is there a block in the middle?
    pub mid_block: bool,
    /// Blocks on the way up, lowest resolution first.
    pub up_blocks: Vec<Block, MAX_LEVELS>,
    /// Channels of each level, highest resolution first.
    pub block_out_channels: Vec<u32, MAX_LEVELS>,
    /// Residual layers of a block on the way down; those on the way up have one more.
    pub layers_per_block: u32,
    /// Divides the middle block's sums.
    pub mid_block_scale_factor: f32,
    /// Padding of the strided convolutions; 0 pads below and to the right only.
    pub downsample_padding: u32,
    /// Resampling of attention blocks on the way down.
    pub downsample: Resample,
    /// Resampling of attention blocks on the way up.
    pub upsample: Resample,
    /// Activation of the residual layers.
    pub act: Act,
    /// Channels of an attention head; all of the block's when absent.
    pub attention_head_dim: Option<u32>,
    /// Groups of the normalisations.
    pub norm_num_groups: u32,
    /// Groups of the middle attention's normalisation.
    pub attn_norm_num_groups: Option<u32>,
    /// Added to variances.
    pub norm_eps: f32,
    /// `resnet_time_scale_shift == "scale_shift"`: the time scales and shifts the second normalisation.
    pub scale_shift: bool,
    /// Attention in the middle block.
    pub add_attention: bool,
    /// How a class enters.
    pub class_embedding: ClassEmbedding,
}

impl Config {
    /// The number of values of the time embedding, and of an embedding given as a condition.
    pub fn time_dim(&self) -> u32 {
        self.time_embedding_dim.unwrap_or(self.block_out_channels.first().map_or(0, |c| c.saturating_mul(4)))
    }

    /// Channels of the noisy image.
    pub fn sample_channels(&self) -> u32 {
        self.in_channels.saturating_sub(self.condition_channels)
    }

    /// Both sides of the image must be multiples of this.
    pub fn multiple(&self) -> u32 {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    fn check(&self, h: u32, w: u32) -> Result<(), ConfigError> {
        let levels = self.block_out_channels.len();
        if levels == 0 || self.down_blocks.len() != levels || self.up_blocks.len() != levels {
            return Err(ConfigError::Levels);
        }
        let numbers = [
            ("in_channels", self.in_channels),
            ("in_channels", self.sample_channels()),
            ("out_channels", self.out_channels),
            ("time_embedding_dim", self.time_dim()),
            ("norm_num_groups", self.norm_num_groups),
            ("attn_norm_num_groups", self.attn_norm_num_groups.unwrap_or(1)),
            ("attention_head_dim", self.attention_head_dim.unwrap_or(1)),
        ];
        let channels = self.block_out_channels.iter().map(|&c| ("block_out_channels", c));
        check_numbers(numbers.into_iter().chain(channels))?;
        if self.layers_per_block == 0 || self.layers_per_block > MAX_LAYERS {
            return Err(ConfigError::Zero("layers_per_block"));
        }
        check_size([h, w], self.multiple())
    }
}

/// Builds the network for images of `h * w` pixels. `names` is told each weight's name, in the order of the ids.
///
/// # Errors
/// [`ConfigError`].
///
/// ```
/// use unfog_core::nn::graph::{EMPTY_NODE, EMPTY_TENSOR, EMPTY_WEIGHT, GraphBuilder};
/// use unfog_core::nn::model::unet2d::{Block, Config, build};
/// let config = Config {
///     block_out_channels: [8, 16].into_iter().collect(),
///     down_blocks: [Block::Plain, Block::Attention].into_iter().collect(),
///     up_blocks: [Block::Attention, Block::Plain].into_iter().collect(),
///     norm_num_groups: 4,
///     ..Config::default()
/// };
/// let (mut nodes, mut tensors, mut weights) = ([EMPTY_NODE; 128], [EMPTY_TENSOR; 160], [EMPTY_WEIGHT; 256]);
/// let builder = GraphBuilder::new(&mut nodes, &mut tensors, &mut weights);
/// let graph = build(&config, 16, 16, builder, &mut |_name| Ok(())).unwrap();
/// assert_eq!(graph.shape(graph.output).c, 3);
/// ```
pub fn build<'a>(
    config: &Config,
    h: u32,
    w: u32,
    builder: GraphBuilder<'a>,
    names: WeightNames<'_>,
) -> Result<Graph<'a>, ConfigError> {
    config.check(h, w)?;
    let style = Style {
        norm: GroupNorm { groups: config.norm_num_groups, eps: config.norm_eps, act: config.act },
        scale_shift: config.scale_shift,
        time_dim: config.time_dim(),
    };
    Net { config, layers: Layers { g: builder, names, style, temb: None } }.build(h, w)
}

impl Default for Config {
    /// diffusers' defaults, except for the lists, which are empty.
    fn default() -> Self {
        Self {
            in_channels: 3,
            condition_channels: 0,
            out_channels: 3,
            center_input_sample: false,
            time_embedding: TimeEmbedding::Positional { flip: true, shift: 0 },
            time_embedding_dim: None,
            down_blocks: Vec::new(),
            mid_block: true,
            up_blocks: Vec::new(),
            block_out_channels: Vec::new(),
            layers_per_block: 2,
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            downsample: Resample::Conv,
            upsample: Resample::Conv,
            act: Act::Silu,
            attention_head_dim: Some(8),
            norm_num_groups: 32,
            attn_norm_num_groups: None,
            norm_eps: 1e-5,
            scale_shift: false,
            add_attention: true,
            class_embedding: ClassEmbedding::None,
        }
    }
}

struct Net<'c, 'a, 'n> {
    config: &'c Config,
    layers: Layers<'a, 'n>,
}

impl<'a> Net<'_, 'a, '_> {
    fn build(mut self, h: u32, w: u32) -> Result<Graph<'a>, ConfigError> {
        let config = self.config;
        let sample = self.layers.g.input(Input::Sample, Shape::new(h, w, config.sample_channels()))?;
        self.layers.temb = Some(self.time_embedding()?);
        let whole = match config.condition_channels {
            0 => sample,
            channels => {
                let known = self.layers.g.input(Input::Embedding, Shape::new(h, w, channels))?;
                self.layers.g.node(Op::Concat(Concat), [Some(sample), Some(known), None], [None; 2])?
            }
        };
        let centered = match config.center_input_sample {
            true => self.layers.g.node(Op::Affine(Affine::new(2.0, -1.0)), [Some(whole), None, None], [None; 2])?,
            false => whole,
        };
        let first = config.block_out_channels[0];
        let mut x = self.layers.conv("conv_in", Conv2d::new(config.in_channels, first, 3, 1), centered, [None; 2])?;

        let mut skips: Vec<TensorId, { MAX_LEVELS * (MAX_LAYERS as usize + 1) + 1 }> = Vec::new();
        let mut keep = |x: TensorId| skips.push(x).map_err(|_| ConfigError::Graph(GraphError::Full));
        keep(x)?;
        let levels = config.block_out_channels.len();
        for (i, &block) in config.down_blocks.iter().enumerate() {
            let channels = config.block_out_channels[i];
            for j in 0..config.layers_per_block {
                x = self.layers.resnet(
                    &path(format_args!("down_blocks.{i}.resnets.{j}"))?,
                    x,
                    channels,
                    Change::Keep,
                    1.0,
                )?;
                if block == Block::Attention {
                    x = self.block_attention(&path(format_args!("down_blocks.{i}.attentions.{j}"))?, x)?;
                }
                keep(x)?;
            }
            if i + 1 < levels {
                x = self.downsample(&path(format_args!("down_blocks.{i}.downsamplers.0"))?, block, x)?;
                keep(x)?;
            }
        }

        if config.mid_block {
            x = self.mid_block(x)?;
        }

        for (i, &block) in config.up_blocks.iter().enumerate() {
            let channels = config.block_out_channels[levels - 1 - i];
            for j in 0..=config.layers_per_block {
                let skip = skips.pop().ok_or(ConfigError::Levels)?;
                x = self.layers.g.node(Op::Concat(Concat), [Some(x), Some(skip), None], [None; 2])?;
                x = self.layers.resnet(
                    &path(format_args!("up_blocks.{i}.resnets.{j}"))?,
                    x,
                    channels,
                    Change::Keep,
                    1.0,
                )?;
                if block == Block::Attention {
                    x = self.block_attention(&path(format_args!("up_blocks.{i}.attentions.{j}"))?, x)?;
                }
            }
            if i + 1 < levels {
                x = self.upsample(&path(format_args!("up_blocks.{i}.upsamplers.0"))?, block, x)?;
            }
        }

        x = self.layers.norm("conv_norm_out", x, None, self.norm(config.norm_num_groups, Act::Silu))?;
        x = self.layers.conv("conv_out", Conv2d::new(first, config.out_channels, 3, 1), x, [None; 2])?;
        if config.time_embedding == TimeEmbedding::Fourier {
            let time = self.layers.g.input(Input::Time(Projection::Value), Shape::vector(1))?;
            x = self.layers.g.node(Op::Affine(Affine::new(1.0, 0.0)), [Some(x), Some(time), None], [None; 2])?;
        }
        Ok(self.layers.g.finish(x))
    }

    /// The time embedding with the class's added, through the residual layers' activation: they all begin with it.
    fn time_embedding(&mut self) -> Result<TensorId, ConfigError> {
        let config = self.config;
        let dim = config.time_dim();
        // Learned tables and frequencies may serve the class too; they are one weight.
        let table = match config.time_embedding {
            TimeEmbedding::Positional { .. } => None,
            TimeEmbedding::Fourier => Some(self.layers.weight(
                "time_proj.weight",
                [config.block_out_channels[0], 1, 1, 1],
                WeightUse::Host,
            )?),
            TimeEmbedding::Learned { count } => Some(self.layers.weight(
                "time_proj.weight",
                [count, config.block_out_channels[0], 1, 1],
                WeightUse::Table,
            )?),
        };
        let class = match config.class_embedding {
            ClassEmbedding::None => None,
            ClassEmbedding::Table { count } => {
                let index = self.layers.g.input(Input::Class(Projection::Index { count }), Shape::vector(1))?;
                let table = self.layers.weight("class_embedding.weight", [count, dim, 1, 1], WeightUse::Table)?;
                let op = Op::Embedding(Embedding { count, dim });
                Some(self.layers.g.node(op, [Some(index), None, None], [Some(table), None])?)
            }
            ClassEmbedding::Timestep => {
                let features = self.features(Input::Class, table)?;
                Some(self.layers.embedding_mlp("class_embedding", features, Act::Silu, None, Act::None)?)
            }
            ClassEmbedding::Identity => Some(self.layers.g.input(Input::Embedding, Shape::vector(dim))?),
        };
        let features = self.features(Input::Time, table)?;
        self.layers.embedding_mlp("time_embedding", features, Act::Silu, class, config.act)
    }

    /// The features of the time or of a class label that is embedded in the same way.
    fn features(&mut self, input: fn(Projection) -> Input, table: Option<WeightId>) -> Result<TensorId, ConfigError> {
        let channels = self.config.block_out_channels[0];
        let projection = match (self.config.time_embedding, table) {
            (TimeEmbedding::Learned { count }, Some(table)) => {
                let index = self.layers.g.input(input(Projection::Index { count }), Shape::vector(1))?;
                let op = Op::Embedding(Embedding { count, dim: channels });
                return Ok(self.layers.g.node(op, [Some(index), None, None], [Some(table), None])?);
            }
            (TimeEmbedding::Fourier, Some(weight)) => Projection::Fourier { weight, dim: 2 * channels },
            (TimeEmbedding::Positional { flip, shift }, _) => Projection::Positional { dim: channels, flip, shift },
            _ => return Err(ConfigError::Graph(GraphError::Full)),
        };
        Ok(self.layers.g.input(input(projection), Shape::vector(projection.dim()))?)
    }

    fn mid_block(&mut self, x: TensorId) -> Result<TensorId, ConfigError> {
        let config = self.config;
        let (channels, scale) = (self.layers.g.shape(x).c, config.mid_block_scale_factor);
        let x = self.layers.resnet("mid_block.resnets.0", x, channels, Change::Keep, scale)?;
        let x = match config.add_attention {
            true => {
                let groups = (!config.scale_shift).then_some(config.norm_num_groups);
                self.attention("mid_block.attentions.0", x, config.attn_norm_num_groups.or(groups), scale)?
            }
            false => x,
        };
        self.layers.resnet("mid_block.resnets.1", x, channels, Change::Keep, scale)
    }

    fn downsample(&mut self, name: &str, block: Block, x: TensorId) -> Result<TensorId, ConfigError> {
        let c = self.layers.g.shape(x).c;
        if block == Block::Resnet || block == Block::Attention && self.config.downsample == Resample::Resnet {
            return self.layers.resnet(name, x, c, Change::Down, 1.0);
        }
        self.layers.downsample(name, x, self.config.downsample_padding)
    }

    fn upsample(&mut self, name: &str, block: Block, x: TensorId) -> Result<TensorId, ConfigError> {
        let c = self.layers.g.shape(x).c;
        if block == Block::Resnet || block == Block::Attention && self.config.upsample == Resample::Resnet {
            return self.layers.resnet(name, x, c, Change::Up, 1.0);
        }
        self.layers.upsample(name, x)
    }

    fn norm(&self, groups: u32, act: Act) -> GroupNorm {
        GroupNorm { groups, eps: self.config.norm_eps, act }
    }

    fn block_attention(&mut self, name: &str, x: TensorId) -> Result<TensorId, ConfigError> {
        self.attention(name, x, Some(self.config.norm_num_groups), 1.0)
    }

    /// `Attention` over the pixels, with its normalisation and residual.
    fn attention(
        &mut self,
        name: &str,
        x: TensorId,
        groups: Option<u32>,
        scale_factor: f32,
    ) -> Result<TensorId, ConfigError> {
        let head_dim = self.config.attention_head_dim.unwrap_or(self.layers.g.shape(x).c);
        let norm = groups.map(|groups| self.norm(groups, Act::None));
        self.layers.attention(name, x, norm, head_dim, scale_factor)
    }
}
