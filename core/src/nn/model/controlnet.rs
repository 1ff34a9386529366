//! diffusers' `ControlNetModel` (Zhang et al. 2023): a second way down beside that of a network, which sees a picture, too, and adds what it
//! makes to the network's skip connections.
//!
//! It is a part of the network's graph, and is told what the network is told. The picture's way to the size of the latents doesn't depend
//! on the time: [`hint`] is a network of its own, run once, whose result is a part of the condition.

use heapless::Vec;

use super::condition_net::{Net, Skips, Told};
use super::layers::{Layers, Style, path};
use super::{ConfigError, MAX_LEVELS, check_numbers, check_size, unet2d_condition};
use crate::nn::graph::{Graph, GraphBuilder, Input, TensorId, WeightNames};
use crate::nn::op::{Act, Conv2d, GroupNorm, Modulate, Op, Shape};

/// How the names of the weights of each control of a graph begin.
pub const PREFIXES: [&str; 4] = ["controlnet.", "controlnet_1.", "controlnet_2.", "controlnet_3."];

/// A `ControlNetModel`'s config.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What it shares with the network. What is of the way up and behind it is of no interest.
    pub net: unet2d_condition::Config,
    /// `conditioning_channels`: those of the picture.
    pub conditioning_channels: u32,
    /// `conditioning_embedding_out_channels`: each after the first halves the picture's sides.
    pub embedding: Vec<u32, MAX_LEVELS>,
}

impl Config {
    /// Pixels of the picture for one of the latents, in a row and in a column.
    pub fn multiple(&self) -> u32 {
        1 << self.embedding.len().saturating_sub(1)
    }

    /// Channels of its widest level.
    pub fn widest(&self) -> u32 {
        self.net.levels.iter().map(|level| level.channels).max().unwrap_or(0)
    }

    /// Whether it steers a network of `config`: it sees the same noisy image, and its layers make the same skip connections.
    pub fn fits(&self, config: &unet2d_condition::Config) -> bool {
        let own = &self.net;
        let (levels, others) = (own.levels.iter(), config.levels.iter());
        own.in_channels == config.sample_channels()
            && !own.simple
            && !config.simple
            && own.levels.len() == config.levels.len()
            && levels.zip(others).all(|(a, b)| (a.channels, a.layers) == (b.channels, b.layers))
            && own.encoder_hid_dim.unwrap_or(own.cross_attention_dim)
                == config.encoder_hid_dim.unwrap_or(config.cross_attention_dim)
            && own.class_embedding == config.class_embedding
            && own.addition == config.addition
    }
}

/// Builds the network that makes a picture of `h * w` pixels, from 0 to 1, the hint that a steered graph is given: an image of
/// [`Config::multiple`] times smaller sides.
///
/// # Errors
/// [`ConfigError`].
pub fn hint<'a>(
    config: &Config,
    [h, w]: [u32; 2],
    builder: GraphBuilder<'a>,
    names: WeightNames<'_>,
) -> Result<Graph<'a>, ConfigError> {
    let (Some(first), Some(&channels)) = (config.net.levels.first(), config.embedding.first()) else {
        return Err(ConfigError::Levels);
    };
    let numbers = [("conditioning_channels", config.conditioning_channels), ("block_out_channels", first.channels)];
    let embedding = config.embedding.iter().map(|&channels| ("conditioning_embedding_out_channels", channels));
    check_numbers(numbers.into_iter().chain(embedding))?;
    check_size([h, w], config.multiple())?;
    let norm = GroupNorm { groups: 1, eps: 0.0, act: Act::None };
    let style = Style { norm, scale_shift: false, time_dim: 0 };
    let mut layers = Layers { g: builder, names, style, temb: None };
    let picture = layers.g.input(Input::Sample, Shape::new(h, w, config.conditioning_channels))?;
    let conv = |in_c, out_c| Conv2d { act: Act::Silu, ..Conv2d::new(in_c, out_c, 3, 1) };
    let name = "controlnet_cond_embedding";
    let first_conv = conv(config.conditioning_channels, channels);
    let mut x = layers.conv(&path(format_args!("{name}.conv_in"))?, first_conv, picture, [None; 2])?;
    for (i, pair) in config.embedding.windows(2).enumerate() {
        let &[from, to] = pair else { continue };
        x = layers.conv(&path(format_args!("{name}.blocks.{}", 2 * i))?, conv(from, from), x, [None; 2])?;
        let halve = Conv2d { stride: 2, ..conv(from, to) };
        x = layers.conv(&path(format_args!("{name}.blocks.{}", 2 * i + 1))?, halve, x, [None; 2])?;
    }
    let last = config.embedding.last().copied().unwrap_or(channels);
    let out = Conv2d::new(last, first.channels, 3, 1);
    x = layers.conv(&path(format_args!("{name}.conv_out"))?, out, x, [None; 2])?;
    Ok(layers.g.finish(x))
}

/// A control of a graph.
pub(super) struct Control<'c> {
    pub(super) config: &'c Config,
    /// How the names of its weights begin.
    pub(super) prefix: &'c str,
    /// Whether the condition says how much it counts.
    pub(super) gated: bool,
}

impl Control<'_> {
    /// Adds it to a graph: its way down, beginning with the network's `sample`, and what it adds to the network's `skips` and to `x`,
    /// what the network's middle made. Returns the sum with the latter.
    pub(super) fn steer<'a>(
        &self,
        told: &Told,
        sample: TensorId,
        (mut g, names): (GraphBuilder<'a>, WeightNames<'_>),
        skips: &mut Skips,
        x: TensorId,
    ) -> Result<(GraphBuilder<'a>, TensorId), ConfigError> {
        let Self { config, prefix, gated } = *self;
        let net = &config.net;
        let Shape { h, w, .. } = g.shape(sample);
        net.check([h, w], 1)?;
        let first = net.levels.first().ok_or(ConfigError::Levels)?;
        let hint = g.input(Input::Embedding, Shape::new(h, w, first.channels))?;
        let gate = gated.then(|| g.input(Input::Embedding, Shape::vector(config.widest()))).transpose()?;
        let mut prefixed = |name: &str| {
            let name = path(format_args!("{prefix}{name}")).map_err(|_| ())?;
            names(&name)
        };
        let mut net = Net::new(net, g, &mut prefixed, told)?;
        let own = net.enter(sample, Some(hint))?;
        let (own, own_skips) = net.down(own, &[])?;
        let own = net.mid_block(own)?;
        if own_skips.len() != skips.len() {
            return Err(ConfigError::Levels);
        }
        let mut add = |name: &str, own: TensorId, to: TensorId| {
            let c = net.layers.g.shape(own).c;
            let Some(gate) = gate else { return net.layers.conv(name, Conv2d::linear(c, c), own, [None, Some(to)]) };
            let own = net.layers.conv(name, Conv2d::linear(c, c), own, [None; 2])?;
            let gated = Op::Modulate(Modulate { factor: 0.0, scale: Some(0), shift: None });
            Ok(net.layers.g.node(gated, [Some(own), Some(gate), Some(to)], [None; 2])?)
        };
        for (k, (own, skip)) in own_skips.iter().zip(skips.iter_mut()).enumerate() {
            *skip = add(&path(format_args!("controlnet_down_blocks.{k}"))?, *own, *skip)?;
        }
        let x = add("controlnet_mid_block", own, x)?;
        Ok((net.layers.g, x))
    }
}
