//! The attention of unCLIP's decoder (`Attention` with `AttnAddedKVProcessor`): pixels attend to tokens and to each other at once.

use super::ConfigError;
use super::layers::{Layers, path};
use super::transformer::Heads;
use crate::nn::graph::TensorId;
use crate::nn::op::{Act, Conv2d, GroupNorm};

/// Added to the variance of its normalisation.
const EPS: f32 = 1e-5;

/// Attention of the pixels `x` in heads of `head_dim` channels, to tokens with their biases and to themselves, with its normalisation and
/// its residual.
pub(super) fn attention(
    layers: &mut Layers<'_, '_>,
    name: &str,
    groups: u32,
    head_dim: u32,
    [tokens, bias]: [TensorId; 2],
    x: TensorId,
) -> Result<TensorId, ConfigError> {
    let shape = layers.g.shape(x);
    let c = shape.c;
    let heads = Heads { count: c.checked_div(head_dim).unwrap_or(0), dim: head_dim };
    if heads.count == 0 {
        return Err(ConfigError::HeadDim { head_dim, channels: c });
    }
    let inner = heads.channels();
    let norm = GroupNorm { groups, eps: EPS, act: Act::None };
    let hidden = layers.norm(&path(format_args!("{name}.group_norm"))?, x, None, norm)?;
    let mut project = |part: &str, x: TensorId| layers.dense(&path(format_args!("{name}.{part}"))?, x, inner, true);
    let q = project("to_q", hidden)?;
    let (added_k, added_v) = (project("add_k_proj", tokens)?, project("add_v_proj", tokens)?);
    let (k, v) = (project("to_k", hidden)?, project("to_v", hidden)?);
    let (k, v) = (layers.join(added_k, k)?, layers.join(added_v, v)?);
    let unbiased = layers.zeros(u32::try_from(shape.pixels()).unwrap_or(u32::MAX))?;
    let bias = layers.join(bias, unbiased)?;
    let mixed = layers.attend_biased(heads, false, [q, k, v], bias)?;
    layers.conv(&path(format_args!("{name}.to_out.0"))?, Conv2d::linear(inner, c), mixed, [None, Some(x)])
}
