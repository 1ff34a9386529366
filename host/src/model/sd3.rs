//! diffusers' `transformer/config.json` of a `SD3Transformer2DModel` as core's [`Config`].

use unfog_core::nn::model::sd3::{Config, MAX_LAYERS, build};

use super::fields::Fields;
use super::network::Network;
use super::unet2d::{bounded, explain};
use crate::error::{Error, Result};

/// Reads the config and the size of its images (rows, columns), with diffusers' defaults.
///
/// # Errors
/// An option that is not supported, a value of the wrong kind.
pub(super) fn read(fields: &Fields) -> Result<(Config, Option<(u32, u32)>)> {
    let sample_size = fields.u32("sample_size", 128)?;
    let num_layers = fields.u32("num_layers", 18)?;
    let (heads, head_dim) = (fields.u32("num_attention_heads", 18)?, fields.u32("attention_head_dim", 64)?);
    if Some(fields.u32("caption_projection_dim", 1152)?) != heads.checked_mul(head_dim) {
        let expected = format!("{heads} heads of {head_dim} channels");
        return Err(fields.refuse("caption_projection_dim", &expected));
    }
    let qk_norm = fields.choice("qk_norm", false, &[(None, false), (Some("rms_norm"), true)])?;
    if qk_norm && !head_dim.is_multiple_of(4) {
        return Err(Error::failure(format!(
            "the network's qk_norm needs heads of a multiple of 4 channels, not {head_dim}"
        )));
    }
    let dual = fields.u32s("dual_attention_layers", &[])?;
    if dual.iter().any(|layer| *layer >= num_layers) {
        return Err(fields.refuse("dual_attention_layers", &format!("numbers of layers below {num_layers}")));
    }
    let of_layer = (0..num_layers.min(MAX_LAYERS as u32)).map(|layer| dual.contains(&layer)).collect();
    let config = Config {
        in_channels: fields.u32("in_channels", 16)?,
        out_channels: fields.u32("out_channels", 16)?,
        patch_size: fields.u32("patch_size", 2)?,
        num_layers,
        num_attention_heads: heads,
        attention_head_dim: head_dim,
        joint_attention_dim: fields.u32("joint_attention_dim", 4096)?,
        pooled_projection_dim: fields.u32("pooled_projection_dim", 2048)?,
        pos_embed_max_size: fields.u32("pos_embed_max_size", 96)?,
        dual_attention_layers: bounded("dual_attention_layers", of_layer)?,
        qk_norm,
    };
    Ok((config, Some((sample_size, sample_size))))
}

/// The network of `config` for images of `h * w` and texts of `tokens` tokens.
///
/// # Errors
/// A size or a config that the architecture can't take.
pub(super) fn network(config: &Config, h: u32, w: u32, tokens: u32) -> Result<Network> {
    Network::build(|builder, names| build(config, [h, w], tokens, builder, names)).map_err(|e| explain(e, h, w))
}
