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
//!    `[projection_class_embeddings_input_dim]`;
//! 5. for each feature of [T2I adapters](super::t2i_adapter), its values `[h, w, channels]`;
//! 6. the channels that are concatenated to the noisy image ([`Config::condition_channels`]), `[h, w, condition_channels]`;
//! 7. for each [control](super::controlnet), its hint `[h, w, channels]`; and where they are [`Beside::gated`], how much it counts, once for
//!    each channel of its [widest](controlnet::Config::widest) level.

use heapless::Vec;

use super::condition_net::{Net, Told};
use super::layers::{Change, Layers, path};
use super::{ConfigError, MAX_LAYERS, MAX_LEVELS, check_numbers, check_size, controlnet};
use crate::nn::graph::{Graph, GraphBuilder, Input, WeightNames};
use crate::nn::op::{Act, Affine, Concat, Conv2d, Op, Shape};

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
    /// Channels of the noisy image and of what is concatenated to it.
    pub in_channels: u32,
    /// So many of them, the last ones, come with the condition: a mask, another image.
    pub condition_channels: u32,
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

    /// Channels of the noisy image.
    pub fn sample_channels(&self) -> u32 {
        self.in_channels.saturating_sub(self.condition_channels)
    }

    /// Both sides of the image must be multiples of this.
    pub fn multiple(&self) -> u32 {
        1 << self.levels.len().saturating_sub(1)
    }

    /// Where features of a [T2I adapter](super::t2i_adapter) are added, in their order: channels there, and pixels of the latents for one,
    /// in a row and in a column. One for each block of the way down, and one for the middle.
    pub fn places(&self) -> Vec<[u32; 2], { MAX_LEVELS + 1 }> {
        let last = self.levels.len().saturating_sub(1);
        // A block without attention is followed to the end, where it has halved the sides.
        let halvings = |(i, level): (usize, &Level)| if level.down_attention || i == last { i } else { i + 1 };
        let blocks = self.levels.iter().enumerate().map(|(i, level)| [level.channels, 1 << halvings((i, level))]);
        blocks.chain(self.levels.last().map(|level| [level.channels, 1 << last])).collect()
    }

    pub(super) fn check(&self, [h, w]: [u32; 2], tokens: u32) -> Result<(), ConfigError> {
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
            ("in_channels", self.sample_channels()),
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

/// What steers a network by pictures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside<'b> {
    /// ControlNets.
    pub controls: &'b [controlnet::Config],
    /// Whether the condition says how much each of them counts.
    pub gated: bool,
    /// How many features of T2I adapters are added, at the first of [`Config::places`].
    pub features: usize,
}

/// Builds the network for images of `h * w` pixels and conditions of `tokens` tokens, with what is `beside` it. `names` is told each
/// weight's name, in the order of the ids; those of control number `i` begin with [`controlnet::PREFIXES`]`[i]`.
///
/// # Errors
/// [`ConfigError`].
pub fn build<'a>(
    config: &Config,
    beside: Beside<'_>,
    [h, w]: [u32; 2],
    tokens: u32,
    builder: GraphBuilder<'a>,
    names: WeightNames<'_>,
) -> Result<Graph<'a>, ConfigError> {
    config.check([h, w], tokens)?;
    let mut g = builder;
    let sample = g.input(Input::Sample, Shape::new(h, w, config.sample_channels()))?;
    let told = Told::new(&mut g, config, sample, tokens, beside.features)?;
    let mut net = Net::new(config, g, names, &told)?;
    let whole = match config.condition_channels {
        0 => sample,
        channels => {
            let known = net.layers.g.input(Input::Embedding, Shape::new(h, w, channels))?;
            net.layers.g.node(Op::Concat(Concat), [Some(sample), Some(known), None], [None; 2])?
        }
    };
    let centered = match config.center_input_sample {
        true => {
            let affine = Op::Affine(Affine::new(2.0, -1.0));
            net.layers.g.node(affine, [Some(whole), None, None], [None; 2])?
        }
        false => whole,
    };
    let x = net.enter(centered, None)?;
    let (x, mut skips) = net.down(x, &told.features)?;
    let mut x = net.mid_block(x)?;
    if let Some(feature) = told.features.get(config.levels.len()) {
        x = net.add(x, *feature)?;
    }

    // Each adds its share to the skip connections as soon as it has it, so that none is kept twice.
    let Layers { mut g, names, style, temb } = net.layers;
    for (control, prefix) in beside.controls.iter().zip(controlnet::PREFIXES) {
        let control = controlnet::Control { config: control, prefix, gated: beside.gated };
        (g, x) = control.steer(&told, sample, (g, &mut *names), &mut skips, x)?;
    }
    let mut net = Net { config, layers: Layers { g, names, style, temb }, tokens: net.tokens, bias: net.bias };

    for (i, level) in config.levels.iter().rev().enumerate() {
        for j in 0..=level.layers {
            let skip = skips.pop().ok_or(ConfigError::Levels)?;
            x = net.layers.g.node(Op::Concat(Concat), [Some(x), Some(skip), None], [None; 2])?;
            let name = path(format_args!("up_blocks.{i}.resnets.{j}"))?;
            x = net.layers.resnet(&name, x, level.channels, Change::Keep, 1.0)?;
            if level.up_attention {
                x = net.attentive(&path(format_args!("up_blocks.{i}.attentions.{j}"))?, level, x)?;
            }
        }
        if i + 1 < config.levels.len() {
            let name = path(format_args!("up_blocks.{i}.upsamplers.0"))?;
            x = match config.simple {
                true => net.layers.resnet(&name, x, level.channels, Change::Up, 1.0)?,
                false => net.layers.upsample(&name, x)?,
            };
        }
    }

    x = net.layers.norm("conv_norm_out", x, None, net.layers.style.norm)?;
    let kernel = config.conv_out_kernel;
    let first = config.levels.first().ok_or(ConfigError::Levels)?;
    let conv = Conv2d::new(first.channels, config.out_channels, kernel, kernel / 2);
    x = net.layers.conv("conv_out", conv, x, [None; 2])?;
    Ok(net.layers.g.finish(x))
}
