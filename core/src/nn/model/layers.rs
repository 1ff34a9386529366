//! The layers that diffusers' networks share, with their weights' names.

use core::fmt::Write;

use heapless::String;

use super::ConfigError;
use crate::math;
use crate::nn::graph::{GraphBuilder, GraphError, TensorId, WeightId, WeightNames, WeightUse};
use crate::nn::op::{Act, Attention, AvgPool, Conv2d, GroupNorm, Op, Upsample};

/// A weight's place in the model: `down_blocks.0.resnets.1` and the like.
type Path = String<96>;

pub(super) fn path(args: core::fmt::Arguments<'_>) -> Result<Path, ConfigError> {
    let mut path = Path::new();
    path.write_fmt(args).map_err(|_| ConfigError::Graph(GraphError::Names))?;
    Ok(path)
}

/// How a residual layer changes the resolution.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Change {
    Keep,
    Down,
    Up,
}

/// What all residual layers of a network have in common.
#[derive(Clone, Copy)]
pub(super) struct Style {
    /// Their normalisations, activation included.
    pub(super) norm: GroupNorm,
    /// The time scales and shifts the second normalisation.
    pub(super) scale_shift: bool,
    /// Values of the time embedding.
    pub(super) time_dim: u32,
}

/// A network under construction.
pub(super) struct Layers<'a, 'n> {
    pub(super) g: GraphBuilder<'a>,
    pub(super) names: WeightNames<'n>,
    pub(super) style: Style,
    /// The activated time embedding, if there is one.
    pub(super) temb: Option<TensorId>,
}

impl Layers<'_, '_> {
    /// `TimestepEmbedding`: linear, `inner`, linear; then `residual` added and `act`.
    pub(super) fn embedding_mlp(
        &mut self,
        name: &str,
        x: TensorId,
        inner: Act,
        residual: Option<TensorId>,
        act: Act,
    ) -> Result<TensorId, ConfigError> {
        let dim = self.style.time_dim;
        let first = Conv2d { act: inner, ..Conv2d::linear(self.g.shape(x).c, dim) };
        let x = self.conv(&path(format_args!("{name}.linear_1"))?, first, x, [None; 2])?;
        let second = Conv2d { act, ..Conv2d::linear(dim, dim) };
        self.conv(&path(format_args!("{name}.linear_2"))?, second, x, [None, residual])
    }

    /// `ResnetBlock2D`.
    pub(super) fn resnet(
        &mut self,
        name: &str,
        x: TensorId,
        out_c: u32,
        change: Change,
        scale_factor: f32,
    ) -> Result<TensorId, ConfigError> {
        let Style { norm, scale_shift, time_dim } = self.style;
        let in_c = self.g.shape(x).c;
        let mut hidden = self.norm(&path(format_args!("{name}.norm1"))?, x, None, norm)?;
        let mut residual = x;
        let mut conv1 = Conv2d::new(in_c, out_c, 3, 1);
        match change {
            Change::Keep => {}
            Change::Down => {
                let pool = Op::AvgPool(AvgPool { size: 2 });
                hidden = self.g.node(pool, [Some(hidden), None, None], [None; 2])?;
                residual = self.g.node(pool, [Some(x), None, None], [None; 2])?;
            }
            Change::Up => {
                conv1.upsample = 2;
                residual = self.g.node(Op::Upsample(Upsample { factor: 2 }), [Some(x), None, None], [None; 2])?;
            }
        }
        let time = match self.temb {
            Some(temb) => {
                let linear = Conv2d::linear(time_dim, if scale_shift { 2 * out_c } else { out_c });
                Some(self.conv(&path(format_args!("{name}.time_emb_proj"))?, linear, temb, [None; 2])?)
            }
            None => None,
        };
        let (channel, scale_shift) = if scale_shift { (None, time) } else { (time, None) };
        hidden = self.conv(&path(format_args!("{name}.conv1"))?, conv1, hidden, [channel, None])?;
        hidden = self.norm(&path(format_args!("{name}.norm2"))?, hidden, scale_shift, norm)?;
        if in_c != out_c {
            let shortcut = Conv2d::linear(in_c, out_c);
            residual = self.conv(&path(format_args!("{name}.conv_shortcut"))?, shortcut, residual, [None; 2])?;
        }
        let conv2 = Conv2d { scale: 1.0 / scale_factor, ..Conv2d::new(out_c, out_c, 3, 1) };
        self.conv(&path(format_args!("{name}.conv2"))?, conv2, hidden, [None, Some(residual)])
    }

    /// `Downsample2D`: a strided convolution; a `padding` of 0 pads below and to the right only.
    pub(super) fn downsample(&mut self, name: &str, x: TensorId, padding: u32) -> Result<TensorId, ConfigError> {
        let c = self.g.shape(x).c;
        let pad = match padding {
            0 => [0, 0, 1, 1],
            p => [p; 4],
        };
        let conv = Conv2d { stride: 2, pad, ..Conv2d::new(c, c, 3, 0) };
        self.conv(&path(format_args!("{name}.conv"))?, conv, x, [None; 2])
    }

    /// `Upsample2D`: nearest neighbour and a convolution.
    pub(super) fn upsample(&mut self, name: &str, x: TensorId) -> Result<TensorId, ConfigError> {
        let c = self.g.shape(x).c;
        let conv = Conv2d { upsample: 2, ..Conv2d::new(c, c, 3, 1) };
        self.conv(&path(format_args!("{name}.conv"))?, conv, x, [None; 2])
    }

    /// `Attention` over the pixels in heads of `head_dim` channels, with its normalisation and residual.
    pub(super) fn attention(
        &mut self,
        name: &str,
        x: TensorId,
        norm: Option<GroupNorm>,
        head_dim: u32,
        scale_factor: f32,
    ) -> Result<TensorId, ConfigError> {
        let c = self.g.shape(x).c;
        let heads = c.checked_div(head_dim).unwrap_or(0);
        if heads == 0 {
            return Err(ConfigError::HeadDim { head_dim, channels: c });
        }
        let hidden = match norm {
            Some(norm) => self.norm(&path(format_args!("{name}.group_norm"))?, x, None, norm)?,
            None => x,
        };
        let inner = heads * head_dim;
        let mut project =
            |part: &str| self.conv(&path(format_args!("{name}.{part}"))?, Conv2d::linear(c, inner), hidden, [None; 2]);
        let (q, k, v) = (project("to_q")?, project("to_k")?, project("to_v")?);
        let op = Attention { heads, head_dim, scale: 1.0 / math::sqrt(head_dim as f32), causal: false, biased: false };
        let mixed = self.g.node(Op::Attention(op), [Some(q), Some(k), Some(v)], [None; 2])?;
        let out = Conv2d { scale: 1.0 / scale_factor, ..Conv2d::linear(inner, c) };
        self.conv(&path(format_args!("{name}.to_out.0"))?, out, mixed, [None, Some(x)])
    }

    /// A group normalisation.
    pub(super) fn norm(
        &mut self,
        name: &str,
        x: TensorId,
        scale_shift: Option<TensorId>,
        op: GroupNorm,
    ) -> Result<TensorId, ConfigError> {
        let c = self.g.shape(x).c;
        if !c.is_multiple_of(op.groups) {
            return Err(ConfigError::Groups { groups: op.groups, channels: c });
        }
        self.normalise(name, Op::GroupNorm(op), x, scale_shift)
    }

    /// `op`, which takes gamma and beta of every channel.
    pub(super) fn normalise(
        &mut self,
        name: &str,
        op: Op,
        x: TensorId,
        scale_shift: Option<TensorId>,
    ) -> Result<TensorId, ConfigError> {
        let c = self.g.shape(x).c;
        let gamma = self.weight(&path(format_args!("{name}.weight"))?, [c, 1, 1, 1], WeightUse::Vector)?;
        let beta = self.weight(&path(format_args!("{name}.bias"))?, [c, 1, 1, 1], WeightUse::Vector)?;
        Ok(self.g.node(op, [Some(x), scale_shift, None], [Some(gamma), Some(beta)])?)
    }

    /// A convolution or linear layer with a bias; `extra` is its channel vector and its residual.
    pub(super) fn conv(
        &mut self,
        name: &str,
        op: Conv2d,
        x: TensorId,
        extra: [Option<TensorId>; 2],
    ) -> Result<TensorId, ConfigError> {
        let kernel = self.kernel(name, op)?;
        let bias = self.weight(&path(format_args!("{name}.bias"))?, [op.out_c, 1, 1, 1], WeightUse::Vector)?;
        Ok(self.g.node(Op::Conv2d(op), [Some(x), extra[0], extra[1]], [Some(kernel), Some(bias)])?)
    }

    /// A linear layer without a bias, to `out_c` channels; `residual` is added.
    pub(super) fn linear(
        &mut self,
        name: &str,
        x: TensorId,
        out_c: u32,
        residual: Option<TensorId>,
    ) -> Result<TensorId, ConfigError> {
        self.bare(name, Conv2d::linear(self.g.shape(x).c, out_c), x, residual)
    }

    /// A convolution without a bias; `residual` is added.
    pub(super) fn bare(
        &mut self,
        name: &str,
        op: Conv2d,
        x: TensorId,
        residual: Option<TensorId>,
    ) -> Result<TensorId, ConfigError> {
        let kernel = self.kernel(name, op)?;
        Ok(self.g.node(Op::Conv2d(op), [Some(x), None, residual], [Some(kernel), None])?)
    }

    fn kernel(&mut self, name: &str, op: Conv2d) -> Result<WeightId, ConfigError> {
        let shape = [op.out_c, op.in_c, op.kernel[0], op.kernel[1]];
        self.weight(&path(format_args!("{name}.weight"))?, shape, WeightUse::Kernel)
    }

    pub(super) fn weight(&mut self, name: &str, shape: [u32; 4], role: WeightUse) -> Result<WeightId, ConfigError> {
        (self.names)(name).map_err(|()| GraphError::Names)?;
        Ok(self.g.weight(shape, role)?)
    }
}
