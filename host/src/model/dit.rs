//! diffusers' `transformer/config.json` of a `DiTTransformer2DModel` as core's [`Config`].

use unfog_core::nn::model::dit::{Config, build};
use unfog_core::nn::model::transformer::FeedForward;
use unfog_core::nn::op::Act;

use super::fields::Fields;
use super::network::Network;
use super::unet2d::explain;
use crate::error::Result;

/// Reads the config and the size of its images (rows, columns), with diffusers' defaults. Keys that don't change what the network
/// computes are ignored: `dropout`, `norm_num_groups`, and `upcast_attention`, since all arithmetic is f32.
///
/// # Errors
/// An option that is not supported, a value of the wrong kind.
pub(super) fn read(fields: &Fields) -> Result<(Config, Option<(u32, u32)>)> {
    if fields.text("norm_type", "ada_norm_zero")? != "ada_norm_zero" {
        return Err(fields.refuse("norm_type", "\"ada_norm_zero\": more is not supported"));
    }
    // What the older class `Transformer2DModel`, under whose name these networks were published, can have beside.
    for key in ["cross_attention_dim", "num_vector_embeds", "caption_channels", "interpolation_scale"] {
        if fields.value(key).is_some() {
            return Err(fields.refuse(key, "null: more is not supported"));
        }
    }
    for key in ["double_self_attention", "only_cross_attention"] {
        if fields.bool(key, false)? {
            return Err(fields.refuse(key, "false: more is not supported"));
        }
    }
    if fields.text("attention_type", "default")? != "default" {
        return Err(fields.refuse("attention_type", "\"default\": more is not supported"));
    }
    let in_channels = fields.u32("in_channels", 4)?;
    let sample_size = fields.u32("sample_size", 32)?;
    let config = Config {
        in_channels,
        out_channels: fields.optional_u32("out_channels")?.unwrap_or(in_channels),
        num_attention_heads: fields.u32("num_attention_heads", 16)?,
        attention_head_dim: fields.u32("attention_head_dim", 72)?,
        num_layers: fields.u32("num_layers", 28)?,
        patch_size: fields.u32("patch_size", 2)?,
        sample_size,
        classes: fields.u32("num_embeds_ada_norm", 1000)?,
        attention_bias: fields.bool("attention_bias", true)?,
        feed_forward: fields.choice(
            "activation_fn",
            FeedForward::Plain(Act::GeluTanh),
            &[
                (Some("gelu-approximate"), FeedForward::Plain(Act::GeluTanh)),
                (Some("gelu"), FeedForward::Plain(Act::Gelu)),
                (Some("linear-silu"), FeedForward::Plain(Act::Silu)),
                (Some("geglu"), FeedForward::Gated(Act::Gelu)),
                (Some("swiglu"), FeedForward::Gated(Act::Silu)),
            ],
        )?,
        norm_elementwise_affine: fields.bool("norm_elementwise_affine", false)?,
        norm_eps: fields.f64("norm_eps", 1e-5)? as f32,
    };
    Ok((config, Some((sample_size, sample_size))))
}

/// The network of `config` for images of `h * w`.
///
/// # Errors
/// A size or a config that the architecture can't take.
pub(super) fn network(config: &Config, h: u32, w: u32) -> Result<Network> {
    Network::build(|builder, names| build(config, [h, w], builder, names)).map_err(|e| explain(e, h, w))
}
