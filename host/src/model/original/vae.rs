//! The autoencoder: `AutoencoderKL` in both, with other names.

use serde_json::{Value, json};

use super::{Family, Shapes, number, replace_start};
use crate::error::Result;
use crate::model::weights::StoredName;

const PREFIX: &str = "first_stage_model.";

/// Whether the file holds one.
pub(super) fn is_in(shapes: &Shapes) -> bool {
    shapes.has(&format!("{PREFIX}decoder.conv_in.weight"))
}

/// The config.json that diffusers would have for it.
pub(super) fn config(shapes: &Shapes, family: Family) -> Result<Value> {
    let own = |name: &str| format!("{PREFIX}{name}");
    let levels = levels(shapes);
    let channels = |level| shapes.side(&own(&format!("encoder.down.{level}.block.0.conv2.weight")), 0);
    let (size, scale) = match family {
        Family::One => (512, 0.18215),
        Family::Two => (768, 0.18215),
        Family::Xl => (1024, 0.13025),
    };
    Ok(json!({
        "_class_name": "AutoencoderKL",
        "sample_size": size,
        "scaling_factor": scale,
        "in_channels": shapes.side(&own("encoder.conv_in.weight"), 1)?,
        "out_channels": shapes.side(&own("decoder.conv_out.weight"), 0)?,
        "latent_channels": shapes.side(&own("decoder.conv_in.weight"), 1)?,
        "block_out_channels": (0..levels).map(channels).collect::<Result<Vec<_>>>()?,
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "layers_per_block": shapes.count(&own("encoder.down.0.block."), "."),
        "norm_num_groups": 32,
        "act_fn": "silu",
    }))
}

fn levels(shapes: &Shapes) -> usize {
    shapes.count(&format!("{PREFIX}encoder.down."), ".")
}

/// The names that diffusers' `name` may have in the file.
pub(super) fn names(shapes: &Shapes, name: &str) -> Vec<StoredName> {
    let found = match ["encoder.", "decoder."].into_iter().find_map(|half| Some((half, name.strip_prefix(half)?))) {
        Some((half, name)) => half_name(levels(shapes), name).map(|name| format!("{half}{name}")),
        None => Some(name.into()),
    };
    found.into_iter().map(|name| StoredName::whole(format!("{PREFIX}{name}"))).collect()
}

/// A name in the encoder or the decoder.
fn half_name(levels: usize, name: &str) -> Option<String> {
    const ATTENTION: [(&str, &str); 5] =
        [("group_norm.", "norm."), ("to_q.", "q."), ("to_k.", "k."), ("to_v.", "v."), ("to_out.0.", "proj_out.")];
    if let Some((level, name)) = number(name, "down_blocks.") {
        let sampler = name.strip_prefix("downsamplers.0.").map(|rest| format!("downsample.{rest}"));
        return Some(format!("down.{level}.{}", sampler.or_else(|| resnet(name, "block."))?));
    }
    if let Some((level, name)) = number(name, "up_blocks.") {
        // Counted from the picture there, from the latents here.
        let level = levels.checked_sub(level + 1)?;
        let sampler = name.strip_prefix("upsamplers.0.").map(|rest| format!("upsample.{rest}"));
        return Some(format!("up.{level}.{}", sampler.or_else(|| resnet(name, "block."))?));
    }
    if let Some(name) = name.strip_prefix("mid_block.") {
        if let Some(name) = name.strip_prefix("attentions.0.") {
            return Some(format!("mid.attn_1.{}", replace_start(name, &ATTENTION)?));
        }
        let (block, rest) = number(name, "resnets.")?;
        return Some(format!("mid.block_{}.{}", block + 1, shortcut(rest)));
    }
    replace_start(name, &[("conv_norm_out.", "norm_out."), ("conv_in.", "conv_in."), ("conv_out.", "conv_out.")])
}

fn resnet(name: &str, block: &str) -> Option<String> {
    let (layer, rest) = number(name, "resnets.")?;
    Some(format!("{block}{layer}.{}", shortcut(rest)))
}

fn shortcut(name: &str) -> String {
    replace_start(name, &[("conv_shortcut.", "nin_shortcut.")]).unwrap_or_else(|| name.into())
}
