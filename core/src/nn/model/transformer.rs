//! What networks of transformer layers over patches share: adaptive normalisation with gates (adaLN-Zero, Peebles & Xie 2023),
//! attention, feed-forward layers, and the way into patches and out of them.

use super::ConfigError;
use super::layers::{Layers, Style, path};
use crate::math;
use crate::nn::graph::{GraphBuilder, Grid, Input, TensorId, WeightNames, WeightUse};
use crate::nn::op::{
    Act, Attention, Concat, Conv2d, Gate, GroupNorm, Join, LayerNorm, Modulate, Op, Shape, Unpatchify,
};

/// Values of the time's sines and cosines, before the first linear layer (`Timesteps(num_channels=256)`).
pub(super) const TIME_FEATURES: u32 = 256;

/// What is added to the scores of tokens that are padding, as diffusers has it.
pub const UNSEEN: f32 = -10000.0;

/// The activation between the two linear layers that follow an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForward {
    /// A plain activation.
    Plain(Act),
    /// Half of the values times the activation of the others (GEGLU).
    Gated(Act),
}

/// Heads of an attention, and channels of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    pub(super) count: u32,
    pub(super) dim: u32,
}

impl Heads {
    pub(super) fn channels(self) -> u32 {
        self.count.saturating_mul(self.dim)
    }
}

/// Layers of a network without convolutions but the first.
pub(super) fn layers<'a, 'n>(g: GraphBuilder<'a>, names: WeightNames<'n>, time_dim: u32) -> Layers<'a, 'n> {
    // Group normalisations and residual layers have no part here.
    let norm = GroupNorm { groups: 1, eps: 0.0, act: Act::None };
    Layers { g, names, style: Style { norm, scale_shift: false, time_dim }, temb: None }
}

impl Layers<'_, '_> {
    /// A layer normalisation, or one of root mean squares, without weights.
    pub(super) fn bare_norm(&mut self, x: TensorId, eps: f32) -> Result<TensorId, ConfigError> {
        Ok(self.g.node(Op::LayerNorm(LayerNorm::new(eps)), [Some(x), None, None], [None; 2])?)
    }

    /// A normalisation of each head's root mean square, with weights that all heads share.
    pub(super) fn head_norm(
        &mut self,
        name: &str,
        heads: Heads,
        eps: f32,
        x: TensorId,
    ) -> Result<TensorId, ConfigError> {
        let gamma = self.weight(&path(format_args!("{name}.weight"))?, [heads.dim, 1, 1, 1], WeightUse::Vector)?;
        let op = LayerNorm { eps, heads: heads.count, rms: true };
        Ok(self.g.node(Op::LayerNorm(op), [Some(x), None, None], [Some(gamma), None])?)
    }

    /// `x * (1 + scale) + shift`, where scale and shift are those parts of `vector`, each as long as `x` has channels.
    pub(super) fn modulate(
        &mut self,
        x: TensorId,
        vector: TensorId,
        [shift, scale]: [u32; 2],
    ) -> Result<TensorId, ConfigError> {
        let c = self.g.shape(x).c;
        let op = Modulate { factor: 1.0, scale: Some(scale * c), shift: Some(shift * c) };
        Ok(self.g.node(Op::Modulate(op), [Some(x), Some(vector), None], [None; 2])?)
    }

    /// `residual + x * gate`, where the gate is that part of `vector`.
    pub(super) fn gated(
        &mut self,
        x: TensorId,
        vector: TensorId,
        gate: u32,
        residual: TensorId,
    ) -> Result<TensorId, ConfigError> {
        let op = Modulate { factor: 0.0, scale: Some(gate * self.g.shape(x).c), shift: None };
        Ok(self.g.node(Op::Modulate(op), [Some(x), Some(vector), Some(residual)], [None; 2])?)
    }

    /// The tokens of `a`, then those of `b`.
    pub(super) fn join(&mut self, a: TensorId, b: TensorId) -> Result<TensorId, ConfigError> {
        let pixels = self.g.shape(a).pixels() + self.g.shape(b).pixels();
        let op = Join { first: 0, h: 1, w: u32::try_from(pixels).unwrap_or(u32::MAX) };
        Ok(self.g.node(Op::Join(op), [Some(a), Some(b), None], [None; 2])?)
    }

    /// Scaled dot-product attention.
    pub(super) fn attend(&mut self, heads: Heads, causal: bool, qkv: [TensorId; 3]) -> Result<TensorId, ConfigError> {
        let scale = 1.0 / math::sqrt(heads.dim as f32);
        let op = Attention { heads: heads.count, head_dim: heads.dim, scale, causal, biased: false };
        Ok(self.g.node(Op::Attention(op), qkv.map(Some), [None; 2])?)
    }

    /// `a + b`.
    pub(super) fn sum(&mut self, a: TensorId, b: TensorId) -> Result<TensorId, ConfigError> {
        Ok(self.g.node(Op::Modulate(Modulate::SUM), [Some(a), None, Some(b)], [None; 2])?)
    }

    /// The same; `bias` `[1, keys, 1]` is added to the scores of each key.
    pub(super) fn attend_biased(
        &mut self,
        heads: Heads,
        causal: bool,
        [q, k, v]: [TensorId; 3],
        bias: TensorId,
    ) -> Result<TensorId, ConfigError> {
        let k = self.g.node(Op::Concat(Concat), [Some(k), Some(bias), None], [None; 2])?;
        let scale = 1.0 / math::sqrt(heads.dim as f32);
        let op = Attention { heads: heads.count, head_dim: heads.dim, scale, causal, biased: true };
        Ok(self.g.node(Op::Attention(op), [q, k, v].map(Some), [None; 2])?)
    }

    /// `count` tokens of one zero each.
    pub(super) fn zeros(&mut self, count: u32) -> Result<TensorId, ConfigError> {
        Ok(self.g.input(Input::Grid(Grid::Index { first: 0, stride: 0 }), Shape::new(count, 1, 1))?)
    }

    /// A linear layer to `out_c` channels, with or without a bias.
    pub(super) fn dense(&mut self, name: &str, x: TensorId, out_c: u32, bias: bool) -> Result<TensorId, ConfigError> {
        match bias {
            true => self.conv(name, Conv2d::linear(self.g.shape(x).c, out_c), x, [None; 2]),
            false => self.linear(name, x, out_c, None),
        }
    }

    /// diffusers' `FeedForward`, four times as wide: `NAME.net.0.proj` and `NAME.net.2`; `residual` is added.
    pub(super) fn feed_forward(
        &mut self,
        name: &str,
        kind: FeedForward,
        x: TensorId,
        residual: Option<TensorId>,
    ) -> Result<TensorId, ConfigError> {
        let c = self.g.shape(x).c;
        let enter = path(format_args!("{name}.net.0.proj"))?;
        let hidden = match kind {
            FeedForward::Plain(act) => self.conv(&enter, Conv2d { act, ..Conv2d::linear(c, 4 * c) }, x, [None; 2])?,
            FeedForward::Gated(act) => {
                let both = self.conv(&enter, Conv2d::linear(c, 8 * c), x, [None; 2])?;
                self.g.node(Op::Gate(Gate { act }), [Some(both), None, None], [None; 2])?
            }
        };
        self.conv(&path(format_args!("{name}.net.2"))?, Conv2d::linear(4 * c, c), hidden, [None, residual])
    }

    /// Patches of `size * size` pixels as tokens of `out_c` channels (`PatchEmbed`); `positions` are added.
    pub(super) fn patches(
        &mut self,
        name: &str,
        x: TensorId,
        size: u32,
        positions: TensorId,
    ) -> Result<TensorId, ConfigError> {
        let out_c = self.g.shape(positions).c;
        let op = Conv2d { stride: size, ..Conv2d::new(self.g.shape(x).c, out_c, size, 0) };
        self.conv(name, op, x, [None, Some(positions)])
    }

    /// Tokens as patches of `size * size` pixels.
    pub(super) fn pixels(&mut self, x: TensorId, size: u32) -> Result<TensorId, ConfigError> {
        Ok(self.g.node(Op::Unpatchify(Unpatchify { size }), [Some(x), None, None], [None; 2])?)
    }
}
