//! diffusers' `prior/config.json` of a `PriorTransformer` as core's [`Config`].

use unfog_core::nn::model::prior_transformer::{Config, build};
use unfog_core::nn::op::Act;

use super::fields::Fields;
use super::network::Network;
use super::unet2d::explain;
use crate::error::{Error, Result};

/// Reads the config, with diffusers' defaults.
///
/// # Errors
/// An option that is not supported, a value of the wrong kind.
pub(super) fn read(fields: &Fields) -> Result<Config> {
    if fields.u32("additional_embeddings", 4)? != 4 {
        return Err(fields.refuse("additional_embeddings", "4: more is not supported"));
    }
    for key in ["norm_in_type", "embedding_proj_norm_type"] {
        if fields.value(key).is_some() {
            return Err(fields.refuse(key, "null: more is not supported"));
        }
    }
    fields.choice("encoder_hid_proj_type", (), &[(Some("linear"), ())])?;
    fields.choice("added_emb_type", (), &[(Some("prd"), ())])?;
    Ok(Config {
        num_attention_heads: fields.u32("num_attention_heads", 32)?,
        attention_head_dim: fields.u32("attention_head_dim", 64)?,
        num_layers: fields.u32("num_layers", 20)?,
        embedding_dim: fields.u32("embedding_dim", 768)?,
        num_embeddings: fields.u32("num_embeddings", 77)?,
        time_act: fields.choice(
            "time_embed_act_fn",
            Act::Silu,
            &[
                (Some("silu"), Act::Silu),
                (Some("swish"), Act::Silu),
                (Some("mish"), Act::Mish),
                (Some("gelu"), Act::Gelu),
                (Some("relu"), Act::Relu),
            ],
        )?,
        time_embed_dim: fields.optional_u32("time_embed_dim")?.filter(|&dim| dim != 0),
        embedding_proj_dim: fields.optional_u32("embedding_proj_dim")?.filter(|&dim| dim != 0),
        clip_embed_dim: fields.optional_u32("clip_embed_dim")?.filter(|&dim| dim != 0),
    })
}

/// The network of `config`, which denoises an embedding: a picture of one pixel.
///
/// # Errors
/// Another size; a config that the architecture can't take.
pub(super) fn network(config: &Config, h: u32, w: u32) -> Result<Network> {
    if (h, w) != (1, 1) {
        return Err(Error::usage(format!("this network makes embeddings, not pictures of {w}x{h}")));
    }
    Network::build(|builder, names| build(config, builder, names)).map_err(|e| explain(e, h, w))
}
