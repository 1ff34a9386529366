//! diffusers' `AutoencoderTiny`: a small autoencoder of the same latents as a large one (Bohan 2023, TAESD).
//!
//! Encoder and decoder are networks of their own, with one input each: the picture, or the latents as
//! [`super::latents::Scaling::unscale`] leaves them. Pictures are between -1 and 1.

use heapless::Vec;

use super::latents::Scaling;
use super::layers::{Layers, Style, path};
use super::{ConfigError, MAX_LEVELS, check_numbers, check_size};
use crate::nn::graph::{Graph, GraphBuilder, Input, TensorId, WeightNames};
use crate::nn::op::{Act, Affine, Conv2d, GroupNorm, Op, Shape};

/// Latents pass a bend before they are decoded, which keeps them between -3 and 3.
const BEND: f32 = 3.0;

/// The blocks of one resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// `encoder_block_out_channels` or `decoder_block_out_channels`.
    pub channels: u32,
    /// `num_encoder_blocks` or `num_decoder_blocks`.
    pub blocks: u32,
}

/// An `AutoencoderTiny`'s config, named as diffusers names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Channels of the picture that the encoder takes.
    pub in_channels: u32,
    /// Channels of the picture that the decoder makes.
    pub out_channels: u32,
    /// Channels of the latents.
    pub latent_channels: u32,
    /// The encoder's resolutions, highest first.
    pub encoder: Vec<Stage, MAX_LEVELS>,
    /// The decoder's resolutions, lowest first.
    pub decoder: Vec<Stage, MAX_LEVELS>,
    /// Activation inside of blocks.
    pub act: Act,
    /// `upsampling_scaling_factor`: how much larger each of the decoder's resolutions is than the one before.
    pub upsampling: u32,
    /// `use_midblock_gn`: the blocks at the lowest resolution begin with a normalised residual layer (TAEF2; diffusers has none).
    pub midblock_gn: bool,
    /// How the latents are scaled for the network that is trained on them.
    pub scaling: Scaling,
}

impl Config {
    /// Rows of the picture for one row of latents in the encoder and in the decoder, and columns alike; both sides of a picture must be
    /// multiples of this.
    pub fn multiples(&self) -> [u32; 2] {
        let power = |base: u32, stages: usize| base.checked_pow(stages.saturating_sub(1) as u32).unwrap_or(u32::MAX);
        [power(2, self.encoder.len()), power(self.upsampling, self.decoder.len())]
    }

    fn check(&self, multiple: u32, [h, w]: [u32; 2]) -> Result<(), ConfigError> {
        if self.encoder.is_empty() || self.decoder.is_empty() {
            return Err(ConfigError::Levels);
        }
        let numbers = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
            ("upsampling_scaling_factor", self.upsampling),
        ];
        let channels =
            |name, stages: &[Stage]| stages.iter().map(|s| (name, s.channels)).collect::<Vec<_, MAX_LEVELS>>();
        let encoder = channels("encoder_block_out_channels", &self.encoder);
        let decoder = channels("decoder_block_out_channels", &self.decoder);
        check_numbers(numbers.into_iter().chain(encoder).chain(decoder))?;
        let most = |stages: &[Stage]| stages.iter().map(|s| s.blocks).max();
        if most(&self.encoder) > Some(1 << 8) || most(&self.decoder) > Some(1 << 8) {
            return Err(ConfigError::Zero("number of blocks"));
        }
        check_size([h, w], multiple)
    }
}

/// Builds the encoder for pictures of `h * w` pixels: `[h, w, in_channels]` to latents `[h / m, w / m, latent_channels]`, where m is the
/// first of [`Config::multiples`]. `names` is told each weight's name, in the order of the ids.
///
/// # Errors
/// [`ConfigError`].
pub fn encoder<'a>(
    config: &Config,
    [h, w]: [u32; 2],
    builder: GraphBuilder<'a>,
    names: WeightNames<'_>,
) -> Result<Graph<'a>, ConfigError> {
    config.check(config.multiples()[0], [h, w])?;
    let mut net = Net::new(config, "encoder", builder, names);
    let sample = net.layers.g.input(Input::Sample, Shape::new(h, w, config.in_channels))?;
    // The network sees pictures between 0 and 1.
    let mut x = net.affine(Affine::new(0.5, 0.5), sample)?;
    for (i, stage) in config.encoder.iter().enumerate() {
        x = match i {
            0 => net.conv(x, stage.channels, Act::None)?,
            _ => net.bare(Conv2d { stride: 2, ..Conv2d::new(stage.channels, stage.channels, 3, 1) }, x)?,
        };
        for _ in 0..stage.blocks {
            x = net.block(x, config.midblock_gn && i + 1 == config.encoder.len())?;
        }
    }
    x = net.conv(x, config.latent_channels, Act::None)?;
    Ok(net.layers.g.finish(x))
}

/// Builds the decoder for pictures of `h * w` pixels: latents `[h / m, w / m, latent_channels]` to `[h, w, out_channels]`, where m is the
/// second of [`Config::multiples`]. `names` is told each weight's name, in the order of the ids.
///
/// # Errors
/// [`ConfigError`].
pub fn decoder<'a>(
    config: &Config,
    [h, w]: [u32; 2],
    builder: GraphBuilder<'a>,
    names: WeightNames<'_>,
) -> Result<Graph<'a>, ConfigError> {
    let [_, multiple] = config.multiples();
    config.check(multiple, [h, w])?;
    let mut net = Net::new(config, "decoder", builder, names);
    let latents = Shape::new(h / multiple, w / multiple, config.latent_channels);
    let sample = net.layers.g.input(Input::Sample, latents)?;
    let bent = net.affine(Affine { act: Act::Tanh, ..Affine::new(1.0 / BEND, 0.0) }, sample)?;
    let bent = net.affine(Affine::new(BEND, 0.0), bent)?;
    let mut x = net.conv(bent, config.decoder[0].channels, config.act)?;
    // Activations and upsamplings count as layers.
    net.next += 1;
    for (i, stage) in config.decoder.iter().enumerate() {
        for _ in 0..stage.blocks {
            x = net.block(x, config.midblock_gn && i == 0)?;
        }
        if i + 1 == config.decoder.len() {
            x = net.conv(x, config.out_channels, Act::None)?;
            break;
        }
        net.next += 1;
        let up = Conv2d { upsample: config.upsampling, ..Conv2d::new(stage.channels, stage.channels, 3, 1) };
        x = net.bare(up, x)?;
    }
    x = net.affine(Affine::new(2.0, -1.0), x)?;
    Ok(net.layers.g.finish(x))
}

struct Net<'c, 'a, 'n> {
    config: &'c Config,
    /// "encoder" or "decoder".
    half: &'static str,
    layers: Layers<'a, 'n>,
    /// The number of the next layer.
    next: u32,
}

impl<'c, 'a, 'n> Net<'c, 'a, 'n> {
    fn new(config: &'c Config, half: &'static str, builder: GraphBuilder<'a>, names: WeightNames<'n>) -> Self {
        // torch's default eps.
        let norm = GroupNorm { groups: 4, eps: 1e-5, act: Act::Relu };
        let style = Style { norm, scale_shift: false, time_dim: 0 };
        Self { config, half, layers: Layers { g: builder, names, style, temb: None }, next: 0 }
    }

    /// The next layer's name.
    fn name(&mut self) -> Result<heapless::String<96>, ConfigError> {
        self.next += 1;
        path(format_args!("{}.layers.{}", self.half, self.next - 1))
    }

    fn affine(&mut self, op: Affine, x: TensorId) -> Result<TensorId, ConfigError> {
        Ok(self.layers.g.node(Op::Affine(op), [Some(x), None, None], [None; 2])?)
    }

    /// A 3x3 convolution that keeps the size.
    fn conv(&mut self, x: TensorId, out_c: u32, act: Act) -> Result<TensorId, ConfigError> {
        let conv = Conv2d { act, ..Conv2d::new(self.layers.g.shape(x).c, out_c, 3, 1) };
        let name = self.name()?;
        self.layers.conv(&name, conv, x, [None; 2])
    }

    /// A convolution without a bias. Channels that differ from the config's are refused by the op's shape rule.
    fn bare(&mut self, op: Conv2d, x: TensorId) -> Result<TensorId, ConfigError> {
        let name = self.name()?;
        self.layers.bare(&name, op, x, None)
    }

    /// `AutoencoderTinyBlock`: three convolutions and the residual. With a normalised layer before, if `normalised`.
    fn block(&mut self, x: TensorId, normalised: bool) -> Result<TensorId, ConfigError> {
        let (c, name) = (self.layers.g.shape(x).c, self.name()?);
        let x = match normalised {
            true => {
                let wide = self.layers.linear(&path(format_args!("{name}.pool.0"))?, x, 4 * c, None)?;
                let norm = self.layers.style.norm;
                let wide = self.layers.norm(&path(format_args!("{name}.pool.1"))?, wide, None, norm)?;
                self.layers.linear(&path(format_args!("{name}.pool.3"))?, wide, c, Some(x))?
            }
            false => x,
        };
        let conv = Conv2d { act: self.config.act, ..Conv2d::new(c, c, 3, 1) };
        let hidden = self.layers.conv(&path(format_args!("{name}.conv.0"))?, conv, x, [None; 2])?;
        let hidden = self.layers.conv(&path(format_args!("{name}.conv.2"))?, conv, hidden, [None; 2])?;
        let last = Conv2d { act: Act::Relu, ..conv };
        self.layers.conv(&path(format_args!("{name}.conv.4"))?, last, hidden, [None, Some(x)])
    }
}
