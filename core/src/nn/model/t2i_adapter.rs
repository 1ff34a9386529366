//! diffusers' `T2IAdapter` (Mou et al. 2023): a small network that makes features of a picture, which are added to what the blocks of a
//! denoising network's way down make.
//!
//! They don't depend on the time, so that each is made once ([`build`]) and is a part of the condition from then on.

use heapless::Vec;

use super::layers::{Layers, Style, path};
use super::{ConfigError, MAX_LEVELS, check_numbers, check_size};
use crate::nn::graph::{Graph, GraphBuilder, Input, TensorId, WeightNames};
use crate::nn::op::{Act, AvgPool, Conv2d, GroupNorm, Op, Shape};

/// `adapter_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `full_adapter`, for Stable Diffusion 1 and 2: every block after the first halves the sides.
    Full,
    /// `full_adapter_xl`: the third block alone does.
    FullXl,
    /// `light_adapter`: as the first, with narrow blocks, and one block more.
    Light,
}

/// A `T2IAdapter`'s config.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `adapter_type`.
    pub kind: Kind,
    /// Channels of the picture.
    pub in_channels: u32,
    /// Channels of each block.
    pub channels: Vec<u32, MAX_LEVELS>,
    /// Residual layers of a block.
    pub num_res_blocks: u32,
    /// Pixels of the picture, in a row and in a column, whose values become channels first (torch's `PixelUnshuffle`).
    pub downscale_factor: u32,
}

/// A block: its channels, and whether it halves the sides first.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Block {
    from: u32,
    to: u32,
    down: bool,
}

impl Config {
    /// The number of features.
    pub fn features(&self) -> usize {
        self.channels.len() + usize::from(self.kind == Kind::Light)
    }

    /// Channels of feature number `i`, and pixels of the picture for one of its own, in a row and in a column; none if there is none.
    pub fn feature(&self, i: usize) -> Option<[u32; 2]> {
        let mut halvings = 0;
        for before in 0..=i.min(MAX_LEVELS) {
            halvings += u32::from(self.block(before)?.down);
        }
        Some([self.block(i)?.to, self.downscale_factor.checked_shl(halvings)?]).filter(|_| i < self.features())
    }

    /// Channels of what the network takes: the picture with [`Config::downscale_factor`] times smaller sides.
    pub fn unshuffled_channels(&self) -> u32 {
        let factor = self.downscale_factor;
        factor.saturating_mul(factor).saturating_mul(self.in_channels)
    }

    fn block(&self, i: usize) -> Option<Block> {
        let channels = |i: usize| self.channels.get(i).copied();
        let before = i.checked_sub(1).and_then(channels);
        Some(match self.kind {
            Kind::Full => Block { from: before.or(channels(0))?, to: channels(i)?, down: i > 0 },
            // diffusers takes another width of the block before into account in the second and third alone.
            Kind::FullXl if i == 1 || i == 2 => Block { from: before?, to: channels(i)?, down: i == 2 },
            Kind::FullXl => Block { from: channels(i)?, to: channels(i)?, down: false },
            Kind::Light => {
                let last = self.channels.last().copied()?;
                Block {
                    from: before.unwrap_or(self.unshuffled_channels()),
                    to: channels(i).unwrap_or(last),
                    down: i > 0,
                }
            }
        })
    }

    fn check(&self) -> Result<(), ConfigError> {
        let numbers = [
            ("in_channels", self.in_channels),
            ("num_res_blocks", self.num_res_blocks),
            ("downscale_factor", self.downscale_factor),
            ("number of channels of the unshuffled picture", self.unshuffled_channels()),
        ];
        check_numbers(numbers.into_iter().chain(self.channels.iter().map(|&channels| ("channels", channels))))?;
        if self.channels.is_empty() || self.num_res_blocks > 1 << 6 {
            return Err(ConfigError::Levels);
        }
        Ok(())
    }
}

/// Builds the network that makes feature number `feature` of a picture whose pixels became channels, of `h * w` pixels from then on.
///
/// # Errors
/// [`ConfigError`].
pub fn build<'a>(
    config: &Config,
    feature: usize,
    [h, w]: [u32; 2],
    builder: GraphBuilder<'a>,
    names: WeightNames<'_>,
) -> Result<Graph<'a>, ConfigError> {
    config.check()?;
    let norm = GroupNorm { groups: 1, eps: 0.0, act: Act::None };
    let style = Style { norm, scale_shift: false, time_dim: 0 };
    let mut net = Net { layers: Layers { g: builder, names, style, temb: None }, config };
    let halvings = (0..=feature).filter_map(|i| config.block(i)).filter(|block| block.down).count();
    check_size([h, w], 1 << halvings)?;
    let unshuffled = config.unshuffled_channels();
    let mut x = net.layers.g.input(Input::Sample, Shape::new(h, w, unshuffled))?;
    if config.kind != Kind::Light {
        let first = config.channels.first().copied().ok_or(ConfigError::Levels)?;
        x = net.layers.conv("adapter.conv_in", Conv2d::new(unshuffled, first, 3, 1), x, [None; 2])?;
    }
    for i in 0..=feature {
        x = net.block(i, config.block(i).ok_or(ConfigError::Levels)?, x)?;
    }
    Ok(net.layers.g.finish(x))
}

struct Net<'c, 'a, 'n> {
    layers: Layers<'a, 'n>,
    config: &'c Config,
}

impl Net<'_, '_, '_> {
    /// `AdapterBlock` or `LightAdapterBlock`.
    fn block(&mut self, i: usize, block: Block, mut x: TensorId) -> Result<TensorId, ConfigError> {
        let Block { from, to, down } = block;
        let light = self.config.kind == Kind::Light;
        let inner = if light { to / 4 } else { to };
        if down {
            x = self.layers.g.node(Op::AvgPool(AvgPool { size: 2 }), [Some(x), None, None], [None; 2])?;
        }
        if light || from != to {
            let conv = Conv2d::linear(from, inner);
            x = self.layers.conv(&path(format_args!("adapter.body.{i}.in_conv"))?, conv, x, [None; 2])?;
        }
        for j in 0..self.config.num_res_blocks {
            let name = path(format_args!("adapter.body.{i}.resnets.{j}"))?;
            let first = Conv2d { act: Act::Relu, ..Conv2d::new(inner, inner, 3, 1) };
            let hidden = self.layers.conv(&path(format_args!("{name}.block1"))?, first, x, [None; 2])?;
            let second = if light { Conv2d::new(inner, inner, 3, 1) } else { Conv2d::linear(inner, inner) };
            x = self.layers.conv(&path(format_args!("{name}.block2"))?, second, hidden, [None, Some(x)])?;
        }
        if light {
            let conv = Conv2d::linear(inner, to);
            x = self.layers.conv(&path(format_args!("adapter.body.{i}.out_conv"))?, conv, x, [None; 2])?;
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(kind: Kind, channels: &[u32], downscale_factor: u32) -> Config {
        let channels = channels.iter().copied().collect();
        Config { kind, in_channels: 3, channels, num_res_blocks: 2, downscale_factor }
    }

    /// The published ones: for pictures whose latents have 8 times smaller sides.
    #[test]
    fn features_have_places() {
        let features = |config: Config| (0..9).map_while(|i| config.feature(i)).collect::<Vec<_, 9>>();
        let full = features(config(Kind::Full, &[320, 640, 1280, 1280], 8));
        assert_eq!(full[..], [[320, 8], [640, 16], [1280, 32], [1280, 64]]);
        let xl = features(config(Kind::FullXl, &[320, 640, 1280, 1280], 16));
        assert_eq!(xl[..], [[320, 16], [640, 16], [1280, 32], [1280, 32]]);
        let light = features(config(Kind::Light, &[320, 640, 1280], 8));
        assert_eq!(light[..], [[320, 8], [640, 16], [1280, 32], [1280, 64]]);
        assert!(features(config(Kind::Full, &[], 8)).is_empty());
    }
}
