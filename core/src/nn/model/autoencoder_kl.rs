//! diffusers' `AutoencoderKL`: pictures to latents and back (Kingma & Welling 2013; Esser et al. 2021; Rombach et al. 2022).
//!
//! Encoder and decoder are networks of their own, with one input each: the picture, or the latents as
//! [`super::latents::Scaling::unscale`] leaves them. The encoder returns [`super::latents::Moments`], the decoder a picture; pictures are
//! between -1 and 1.

use heapless::Vec;

use super::latents::Scaling;
use super::layers::{Change, Layers, Style, path};
use super::{ConfigError, MAX_LAYERS, MAX_LEVELS, check_numbers, check_size};
use crate::nn::graph::{Graph, GraphBuilder, Input, TensorId, WeightNames};
use crate::nn::op::{Act, Conv2d, GroupNorm, Shape};

/// Added to the variance of every normalisation, whatever a config says.
const EPS: f32 = 1e-6;

/// One resolution: its block on the way down and its block on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// `block_out_channels`.
    pub channels: u32,
    /// `AttnDownEncoderBlock2D` rather than `DownEncoderBlock2D`.
    pub down_attention: bool,
    /// `AttnUpDecoderBlock2D` rather than `UpDecoderBlock2D`. (diffusers lists the blocks on the way up from the lowest resolution.)
    pub up_attention: bool,
}

/// An `AutoencoderKL`'s config, named as diffusers names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Channels of the picture that the encoder takes.
    pub in_channels: u32,
    /// Channels of the picture that the decoder makes.
    pub out_channels: u32,
    /// Channels of the latents.
    pub latent_channels: u32,
    /// The resolutions, highest first.
    pub levels: Vec<Level, MAX_LEVELS>,
    /// Residual layers of a block on the way down; those on the way up have one more.
    pub layers_per_block: u32,
    /// Activation of the residual layers.
    pub act: Act,
    /// Groups of the normalisations.
    pub norm_num_groups: u32,
    /// `mid_block_add_attention`: attention between the middle's residual layers.
    pub mid_attention: bool,
    /// `use_quant_conv`: the encoder ends in a linear layer of its moments.
    pub quant_conv: bool,
    /// `use_post_quant_conv`: the decoder begins with a linear layer of its latents.
    pub post_quant_conv: bool,
    /// How the latents are scaled for the network that is trained on them.
    pub scaling: Scaling,
}

impl Config {
    /// Rows of the picture for one row of latents, and columns alike; both sides of a picture must be multiples of this.
    pub fn multiple(&self) -> u32 {
        1 << self.levels.len().saturating_sub(1)
    }

    fn check(&self, [h, w]: [u32; 2]) -> Result<(), ConfigError> {
        if self.levels.is_empty() {
            return Err(ConfigError::Levels);
        }
        let numbers = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
            ("norm_num_groups", self.norm_num_groups),
        ];
        let of_levels = self.levels.iter().map(|level| ("block_out_channels", level.channels));
        check_numbers(numbers.into_iter().chain(of_levels))?;
        if self.layers_per_block == 0 || self.layers_per_block > MAX_LAYERS {
            return Err(ConfigError::Zero("layers_per_block"));
        }
        check_size([h, w], self.multiple())
    }
}

/// Builds the encoder for pictures of `h * w` pixels: `[h, w, in_channels]` to moments `[h / m, w / m, 2 * latent_channels]`, where m is
/// [`Config::multiple`]. `names` is told each weight's name, in the order of the ids.
///
/// # Errors
/// [`ConfigError`].
pub fn encoder<'a>(
    config: &Config,
    [h, w]: [u32; 2],
    builder: GraphBuilder<'a>,
    names: WeightNames<'_>,
) -> Result<Graph<'a>, ConfigError> {
    let (mut net, sample) = Net::new(config, "encoder", [h, w], builder, names)?;
    let mut x = net.conv3("conv_in", sample, config.levels[0].channels)?;
    for (i, level) in config.levels.iter().enumerate() {
        let block = path(format_args!("encoder.down_blocks.{i}"))?;
        for j in 0..config.layers_per_block {
            x = net.layer(&block, j, x, level.channels, level.down_attention)?;
        }
        if i + 1 < config.levels.len() {
            x = net.layers.downsample(&path(format_args!("{block}.downsamplers.0"))?, x, 0)?;
        }
    }
    x = net.mid_block(x)?;
    let moments = 2 * config.latent_channels;
    x = net.end(x, moments)?;
    if config.quant_conv {
        x = net.layers.conv("quant_conv", Conv2d::linear(moments, moments), x, [None; 2])?;
    }
    Ok(net.layers.g.finish(x))
}

/// Builds the decoder for pictures of `h * w` pixels: latents `[h / m, w / m, latent_channels]` to `[h, w, out_channels]`, where m is
/// [`Config::multiple`]. `names` is told each weight's name, in the order of the ids.
///
/// # Errors
/// [`ConfigError`].
pub fn decoder<'a>(
    config: &Config,
    [h, w]: [u32; 2],
    builder: GraphBuilder<'a>,
    names: WeightNames<'_>,
) -> Result<Graph<'a>, ConfigError> {
    let (mut net, sample) = Net::new(config, "decoder", [h, w], builder, names)?;
    let latent = config.latent_channels;
    let mut x = match config.post_quant_conv {
        true => net.layers.conv("post_quant_conv", Conv2d::linear(latent, latent), sample, [None; 2])?,
        false => sample,
    };
    x = net.conv3("conv_in", x, config.levels[config.levels.len() - 1].channels)?;
    x = net.mid_block(x)?;
    for (i, level) in config.levels.iter().rev().enumerate() {
        let block = path(format_args!("decoder.up_blocks.{i}"))?;
        for j in 0..=config.layers_per_block {
            x = net.layer(&block, j, x, level.channels, level.up_attention)?;
        }
        if i + 1 < config.levels.len() {
            x = net.layers.upsample(&path(format_args!("{block}.upsamplers.0"))?, x)?;
        }
    }
    x = net.end(x, config.out_channels)?;
    Ok(net.layers.g.finish(x))
}

struct Net<'c, 'a, 'n> {
    config: &'c Config,
    /// "encoder" or "decoder".
    half: &'static str,
    layers: Layers<'a, 'n>,
}

impl<'c, 'a, 'n> Net<'c, 'a, 'n> {
    /// One half of the autoencoder with its input.
    fn new(
        config: &'c Config,
        half: &'static str,
        [h, w]: [u32; 2],
        builder: GraphBuilder<'a>,
        names: WeightNames<'n>,
    ) -> Result<(Self, TensorId), ConfigError> {
        config.check([h, w])?;
        let norm = GroupNorm { groups: config.norm_num_groups, eps: EPS, act: config.act };
        let style = Style { norm, scale_shift: false, time_dim: 0 };
        let mut net = Self { config, half, layers: Layers { g: builder, names, style, temb: None } };
        let m = config.multiple();
        let shape = match half {
            "encoder" => Shape::new(h, w, config.in_channels),
            _ => Shape::new(h / m, w / m, config.latent_channels),
        };
        let sample = net.layers.g.input(Input::Sample, shape)?;
        Ok((net, sample))
    }

    /// A 3x3 convolution that keeps the size.
    fn conv3(&mut self, name: &str, x: TensorId, out_c: u32) -> Result<TensorId, ConfigError> {
        let conv = Conv2d::new(self.layers.g.shape(x).c, out_c, 3, 1);
        self.layers.conv(&path(format_args!("{}.{name}", self.half))?, conv, x, [None; 2])
    }

    /// Residual layer `j` of a block, with its attention.
    fn layer(&mut self, block: &str, j: u32, x: TensorId, c: u32, attention: bool) -> Result<TensorId, ConfigError> {
        let x = self.layers.resnet(&path(format_args!("{block}.resnets.{j}"))?, x, c, Change::Keep, 1.0)?;
        match attention {
            true => self.attention(&path(format_args!("{block}.attentions.{j}"))?, x),
            false => Ok(x),
        }
    }

    fn mid_block(&mut self, x: TensorId) -> Result<TensorId, ConfigError> {
        let (c, block) = (self.layers.g.shape(x).c, path(format_args!("{}.mid_block", self.half))?);
        let x = self.layer(&block, 0, x, c, self.config.mid_attention)?;
        self.layer(&block, 1, x, c, false)
    }

    /// One head of all channels.
    fn attention(&mut self, name: &str, x: TensorId) -> Result<TensorId, ConfigError> {
        let norm = GroupNorm { act: Act::None, ..self.layers.style.norm };
        let c = self.layers.g.shape(x).c;
        self.layers.attention(name, x, Some(norm), c, 1.0)
    }

    fn end(&mut self, x: TensorId, out_c: u32) -> Result<TensorId, ConfigError> {
        let norm = GroupNorm { act: Act::Silu, ..self.layers.style.norm };
        let x = self.layers.norm(&path(format_args!("{}.conv_norm_out", self.half))?, x, None, norm)?;
        self.conv3("conv_out", x, out_c)
    }
}
