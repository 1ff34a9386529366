//! diffusers' `unet/config.json` of a `UNet2DConditionModel` as core's [`Config`].

use serde_json::Value;
use unfog_core::nn::model::unet2d_condition::{Beside, ClassEmbedding, Config, Level, Mid, build};

use super::fields::Fields;
use super::network::Network;
use super::unet2d::{activation, bounded, explain, sample_size};
use crate::error::{Error, Result};

/// Keys for parts that are not supported, with the values (beside null) under which those parts are absent.
const ABSENT: [(&str, &[&str]); 12] = [
    ("attention_type", &["\"default\""]),
    ("class_embeddings_concat", &["false"]),
    ("cross_attention_norm", &[]),
    ("dual_cross_attention", &["false"]),
    ("num_attention_heads", &[]),
    ("resnet_out_scale_factor", &["1", "1.0"]),
    ("resnet_skip_time_act", &["false"]),
    ("reverse_transformer_layers_per_block", &[]),
    ("time_embedding_act_fn", &[]),
    ("time_embedding_type", &["\"positional\""]),
    ("timestep_post_act", &[]),
    ("mid_block_only_cross_attention", &["false"]),
];

/// Reads a `UNet2DConditionModel`'s config and the size of its images (rows, columns), with diffusers' defaults. Keys that
/// diffusers does not know are ignored, as there; so is `upcast_attention`, since all arithmetic is f32, and
/// `use_linear_projection`, which only changes how weights are stored.
///
/// # Errors
/// An unknown block, an option that is not supported, a value of the wrong kind.
pub(super) fn read(fields: &Fields) -> Result<(Config, Option<(u32, u32)>)> {
    Ok((config(fields, true)?, sample_size(fields)?))
}

/// Reads what the config of a `ControlNetModel` has in common with these: all but the way up.
///
/// # Errors
/// Those of [`read`].
pub(super) fn read_control(fields: &Fields) -> Result<Config> {
    config(fields, false)
}

/// A config, of a network with a way up or of one without.
fn config(fields: &Fields, up: bool) -> Result<Config> {
    for (key, absent) in ABSENT {
        let value = fields.value(key).map(Value::to_string);
        if value.is_some_and(|value| !absent.contains(&value.as_str())) {
            let expected = absent.first().map_or("null".into(), |value| format!("{value}: more is not supported"));
            return Err(fields.refuse(key, &expected));
        }
    }
    let simple = is_simple(fields)?;
    if simple && fields.value("only_cross_attention").is_some_and(|only| *only != Value::Bool(false)) {
        return Err(fields.refuse("only_cross_attention", "false in such blocks: more is not supported"));
    }
    let middle = if simple { "UNetMidBlock2DSimpleCrossAttn" } else { "UNetMidBlock2DCrossAttn" };
    let encoder_hid_dim = fields.optional_u32("encoder_hid_dim")?;
    match (fields.optional_text("encoder_hid_dim_type")?, encoder_hid_dim) {
        (None, _) | (Some("text_proj"), Some(_)) => {}
        _ => return Err(fields.refuse("encoder_hid_dim_type", "null, or \"text_proj\" with an encoder_hid_dim")),
    }
    let (in_channels, out_channels) = (fields.u32("in_channels", 4)?, fields.u32("out_channels", 4)?);
    Ok(Config {
        in_channels,
        // What is predicted is the noisy image's; what the network takes beside it is known.
        condition_channels: in_channels.saturating_sub(out_channels),
        out_channels,
        center_input_sample: fields.bool("center_input_sample", false)?,
        flip_sin_to_cos: fields.bool("flip_sin_to_cos", true)?,
        freq_shift: fields.i32("freq_shift", 0)?,
        time_embedding_dim: fields.optional_u32("time_embedding_dim")?.filter(|&dim| dim != 0),
        time_cond_proj_dim: fields.optional_u32("time_cond_proj_dim")?,
        levels: bounded("block_out_channels", levels(fields, simple, up)?)?,
        mid_block: fields.choice(
            "mid_block_type",
            Mid::CrossAttention,
            &[(Some(middle), Mid::CrossAttention), (Some("UNetMidBlock2D"), Mid::Plain), (None, Mid::None)],
        )?,
        mid_block_scale_factor: match fields.f64("mid_block_scale_factor", 1.0)? as f32 {
            0.0 => return Err(fields.refuse("mid_block_scale_factor", "a number other than 0")),
            scale => scale,
        },
        downsample_padding: fields.u32("downsample_padding", 1)?,
        act: activation(fields, "silu")?,
        norm_num_groups: fields.u32("norm_num_groups", 32)?,
        norm_eps: fields.f64("norm_eps", 1e-5)? as f32,
        scale_shift: fields.choice(
            "resnet_time_scale_shift",
            false,
            &[(Some("default"), false), (Some("scale_shift"), true)],
        )?,
        cross_attention_dim: cross_attention_dim(fields)?,
        encoder_hid_dim,
        class_embedding: class_embedding(fields)?,
        addition: match fields.optional_text("addition_embed_type")? {
            None => None,
            Some("text_time") => Some(projection_dim(fields)?),
            Some(_) => return Err(fields.refuse("addition_embed_type", "null or \"text_time\"")),
        },
        simple,
        conv_in_kernel: fields.u32("conv_in_kernel", 3)?,
        conv_out_kernel: fields.u32("conv_out_kernel", 3)?,
    })
}

/// Whether the blocks are those of unCLIP's decoder.
fn is_simple(fields: &Fields) -> Result<bool> {
    let down = fields.texts("down_block_types", &[])?;
    Ok(down.iter().any(|name| SIMPLE[0].contains(name)))
}

/// unCLIP's blocks without and with attention, on the way down and on the way up.
const SIMPLE: [[&str; 2]; 2] =
    [["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"], ["ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"]];
/// The same of Stable Diffusion.
const CROSSED: [[&str; 2]; 2] = [["DownBlock2D", "CrossAttnDownBlock2D"], ["UpBlock2D", "CrossAttnUpBlock2D"]];

fn levels(fields: &Fields, simple: bool, up: bool) -> Result<Vec<Level>> {
    let down = ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"];
    let up_blocks = ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"];
    let known = if simple { SIMPLE } else { CROSSED };
    let down = blocks(fields, "down_block_types", &down, known[0])?;
    let mut up = match up {
        true => blocks(fields, "up_block_types", &up_blocks, known[1])?,
        false => vec![false; down.len()],
    };
    up.reverse();
    let channels = fields.u32s("block_out_channels", &[320, 640, 1280, 1280])?;
    let count = channels.len();
    if down.len() != count || up.len() != count {
        return Err(Error::failure(
            "the network's down_block_types, up_block_types and block_out_channels must have the same length",
        ));
    }
    let layers = each(fields, "layers_per_block", 2, count)?;
    let transformer_layers = each(fields, "transformer_layers_per_block", 1, count)?;
    let heads = each(fields, "attention_head_dim", 8, count)?;
    let only_cross_attention = match fields.value("only_cross_attention") {
        None => vec![false; count],
        Some(Value::Bool(only)) => vec![*only; count],
        Some(value) => {
            let list = value.as_array().filter(|list| list.len() == count);
            list.and_then(|list| list.iter().map(Value::as_bool).collect::<Option<_>>())
                .ok_or_else(|| fields.refuse("only_cross_attention", "true, false or one of these for each block"))?
        }
    };
    let level = |i: usize| Level {
        channels: channels[i],
        down_attention: down[i],
        up_attention: up[i],
        layers: layers[i],
        transformer_layers: transformer_layers[i],
        heads: heads[i],
        only_cross_attention: only_cross_attention[i],
    };
    Ok((0..count).map(level).collect())
}

/// Whether each block of a list is the second of two kinds, which has attention.
pub(super) fn blocks(fields: &Fields, key: &str, default: &[&str], [plain, attention]: [&str; 2]) -> Result<Vec<bool>> {
    let known = |name: &str| match name {
        name if name == plain => Ok(false),
        name if name == attention => Ok(true),
        _ => Err(Error::failure(format!("the network has a block of the unknown kind {name:?} in {key}"))
            .hint(format!("known are {plain} and {attention}"))),
    };
    fields.texts(key, default)?.into_iter().map(known).collect()
}

/// One whole number for all of `count` blocks, or a list with one for each.
fn each(fields: &Fields, key: &str, default: u32, count: usize) -> Result<Vec<u32>> {
    if !fields.value(key).is_some_and(Value::is_array) {
        return Ok(vec![fields.u32(key, default)?; count]);
    }
    let list = fields.u32s(key, &[])?;
    if list.len() == count {
        return Ok(list);
    }
    Err(fields.refuse(key, &format!("one whole number or {count}, one for each block")))
}

/// All blocks attend to the same tokens, so a list must repeat one number.
fn cross_attention_dim(fields: &Fields) -> Result<u32> {
    if !fields.value("cross_attention_dim").is_some_and(Value::is_array) {
        return fields.u32("cross_attention_dim", 1280);
    }
    let list = fields.u32s("cross_attention_dim", &[])?;
    match list[..] {
        [first, ref rest @ ..] if rest.iter().all(|dim| *dim == first) => Ok(first),
        _ => Err(fields.refuse("cross_attention_dim", "the same number for all blocks")),
    }
}

fn class_embedding(fields: &Fields) -> Result<ClassEmbedding> {
    match (fields.optional_text("class_embed_type")?, fields.optional_u32("num_class_embeds")?) {
        (None, None) => Ok(ClassEmbedding::None),
        (None, Some(count)) => Ok(ClassEmbedding::Table { count }),
        (Some("timestep"), _) => Ok(ClassEmbedding::Timestep),
        (Some("identity"), _) => Ok(ClassEmbedding::Identity),
        (Some("projection"), _) => Ok(ClassEmbedding::Projection { dim: projection_dim(fields)? }),
        (Some("simple_projection"), _) => Ok(ClassEmbedding::SimpleProjection { dim: projection_dim(fields)? }),
        _ => {
            let known = "null, \"timestep\", \"identity\", \"projection\" or \"simple_projection\"";
            Err(fields.refuse("class_embed_type", known))
        }
    }
}

fn projection_dim(fields: &Fields) -> Result<u32> {
    const KEY: &str = "projection_class_embeddings_input_dim";
    fields.optional_u32(KEY)?.ok_or_else(|| fields.refuse(KEY, "a whole number"))
}

/// The network of `config` for images of `h * w` and conditions of `tokens` tokens, with what is `beside` it.
///
/// # Errors
/// A size or a config that the architecture can't take.
pub(super) fn network(config: &Config, beside: Beside<'_>, h: u32, w: u32, tokens: u32) -> Result<Network> {
    Network::build(|builder, names| build(config, beside, [h, w], tokens, builder, names)).map_err(|e| explain(e, h, w))
}
