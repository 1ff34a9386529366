//! diffusers' `unet/config.json` as core's [`Config`].

use unfog_core::nn::model::ConfigError;
use unfog_core::nn::model::unet2d::{Block, ClassEmbedding, Config, Resample, TimeEmbedding, build};
use unfog_core::nn::op::Act;

use super::fields::Fields;
use super::network::Network;
use crate::error::{Error, Result};

/// The size of a model's pictures that its config names: rows and columns.
pub(super) fn sample_size(fields: &Fields) -> Result<Option<(u32, u32)>> {
    match fields.value("sample_size") {
        None => Ok(None),
        Some(value) if value.is_array() => match fields.u32s("sample_size", &[])?[..] {
            [h, w] => Ok(Some((h, w))),
            _ => Err(fields.refuse("sample_size", "one number, two numbers or null")),
        },
        Some(_) => fields.u32("sample_size", 0).map(|n| Some((n, n))),
    }
}

fn blocks(fields: &Fields, key: &str, default: &[&str], from_name: fn(&str) -> Option<Block>) -> Result<Vec<Block>> {
    fields
        .texts(key, default)?
        .into_iter()
        .map(|name| {
            from_name(name).ok_or_else(|| {
                Error::failure(format!("the network has a block of the unknown kind {name:?} in {key}"))
                    .hint("known are DownBlock2D, AttnDownBlock2D, ResnetDownsampleBlock2D and their Up counterparts")
            })
        })
        .collect()
}

pub(super) fn bounded<T, const N: usize>(key: &str, list: Vec<T>) -> Result<heapless::Vec<T, N>> {
    let (len, mut bounded) = (list.len(), heapless::Vec::new());
    for item in list {
        if bounded.push(item).is_err() {
            return Err(Error::failure(format!("{key} has {len} entries, more than the {N} that are supported")));
        }
    }
    Ok(bounded)
}

/// Reads a `UNet2DModel`'s config and the size of its pictures (rows, columns), with diffusers' defaults. Keys that diffusers
/// does not know are ignored, as there.
///
/// # Errors
/// An unknown block or option, a value of the wrong kind.
pub(super) fn read(fields: &Fields) -> Result<(Config, Option<(u32, u32)>)> {
    let down = ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"];
    let up = ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"];
    let resample = [(Some("conv"), Resample::Conv), (Some("resnet"), Resample::Resnet)];
    let config = Config {
        in_channels: fields.u32("in_channels", 3)?,
        condition_channels: 0,
        out_channels: fields.u32("out_channels", 3)?,
        center_input_sample: fields.bool("center_input_sample", false)?,
        time_embedding: time_embedding(fields)?,
        time_embedding_dim: fields.optional_u32("time_embedding_dim")?.filter(|&dim| dim != 0),
        down_blocks: bounded("down_block_types", blocks(fields, "down_block_types", &down, Block::from_down_name)?)?,
        mid_block: fields.choice("mid_block_type", true, &[(Some("UNetMidBlock2D"), true), (None, false)])?,
        up_blocks: bounded("up_block_types", blocks(fields, "up_block_types", &up, Block::from_up_name)?)?,
        block_out_channels: bounded("block_out_channels", fields.u32s("block_out_channels", &[224, 448, 672, 896])?)?,
        layers_per_block: fields.u32("layers_per_block", 2)?,
        mid_block_scale_factor: match fields.f64("mid_block_scale_factor", 1.0)? as f32 {
            0.0 => return Err(fields.refuse("mid_block_scale_factor", "a number other than 0")),
            scale => scale,
        },
        downsample_padding: fields.u32("downsample_padding", 1)?,
        downsample: fields.choice("downsample_type", Resample::Conv, &resample)?,
        upsample: fields.choice("upsample_type", Resample::Conv, &resample)?,
        act: activation(fields, "silu")?,
        attention_head_dim: match fields.is_null("attention_head_dim") {
            true => None,
            false => Some(fields.u32("attention_head_dim", 8)?),
        },
        norm_num_groups: fields.u32("norm_num_groups", 32)?,
        attn_norm_num_groups: fields.optional_u32("attn_norm_num_groups")?,
        norm_eps: fields.f64("norm_eps", 1e-5)? as f32,
        scale_shift: fields.choice(
            "resnet_time_scale_shift",
            false,
            &[(Some("default"), false), (Some("scale_shift"), true)],
        )?,
        add_attention: fields.bool("add_attention", true)?,
        class_embedding: class_embedding(fields)?,
    };
    Ok((config, sample_size(fields)?))
}

fn time_embedding(fields: &Fields) -> Result<TimeEmbedding> {
    match fields.text("time_embedding_type", "positional")? {
        "positional" => Ok(TimeEmbedding::Positional {
            flip: fields.bool("flip_sin_to_cos", true)?,
            shift: fields.i32("freq_shift", 0)?,
        }),
        "fourier" => Ok(TimeEmbedding::Fourier),
        "learned" => match fields.optional_u32("num_train_timesteps")? {
            Some(count) => Ok(TimeEmbedding::Learned { count }),
            None => Err(fields.refuse("num_train_timesteps", "the number of rows of the learned time embedding")),
        },
        _ => Err(fields.refuse("time_embedding_type", "\"positional\", \"fourier\" or \"learned\"")),
    }
}

fn class_embedding(fields: &Fields) -> Result<ClassEmbedding> {
    match (fields.optional_text("class_embed_type")?, fields.optional_u32("num_class_embeds")?) {
        (None, None) => Ok(ClassEmbedding::None),
        (None, Some(count)) => Ok(ClassEmbedding::Table { count }),
        (Some("timestep"), _) => Ok(ClassEmbedding::Timestep),
        (Some("identity"), _) => Ok(ClassEmbedding::Identity),
        _ => Err(fields.refuse("class_embed_type", "null, \"timestep\" or \"identity\"")),
    }
}

pub(super) fn activation(fields: &Fields, default: &str) -> Result<Act> {
    // diffusers lowers the case of the name (`get_activation`).
    match fields.text("act_fn", default)?.to_lowercase().as_str() {
        "silu" | "swish" => Ok(Act::Silu),
        "mish" => Ok(Act::Mish),
        "gelu" => Ok(Act::Gelu),
        "relu" => Ok(Act::Relu),
        _ => Err(fields.refuse("act_fn", "\"silu\", \"swish\", \"mish\", \"gelu\" or \"relu\"")),
    }
}

/// The network of `config` for pictures of `h * w`.
///
/// # Errors
/// A size or a config that the architecture can't take.
pub(super) fn network(config: &Config, h: u32, w: u32) -> Result<Network> {
    Network::build(|builder, names| build(config, h, w, builder, names)).map_err(|e| explain(e, h, w))
}

pub(super) fn explain(e: ConfigError, h: u32, w: u32) -> Error {
    match e {
        ConfigError::Size { multiple } => Error::usage(format!(
            "this network can't make pictures of {w}x{h}: both sides must be multiples of {multiple}"
        )),
        ConfigError::Levels => Error::failure(
            "the network's down_block_types, up_block_types and block_out_channels must have the same length, at least 1",
        ),
        ConfigError::Zero(name) => Error::failure(format!("the network's {name} is 0 or too large")),
        ConfigError::Groups { groups, channels } => {
            Error::failure(format!("the network's {groups} groups of a normalisation don't divide {channels} channels"))
        }
        ConfigError::HeadDim { head_dim, channels } => {
            Error::failure(format!("the network's attention_head_dim {head_dim} does not fit {channels} channels"))
        }
        ConfigError::Heads { heads, channels } => {
            Error::failure(format!("the network's {heads} attention heads don't divide its {channels} channels"))
        }
        ConfigError::Tokens { most } => {
            Error::usage(format!("this network can't take as many tokens: it has room for 1 to {most}"))
        }
        ConfigError::Skip { layers } => {
            Error::usage(format!("this network has {layers} layers; no more can be left out"))
        }
        ConfigError::TooLarge { most } => {
            Error::usage(format!("this network can't make pictures of {w}x{h}: its positions reach to {most}x{most}"))
        }
        ConfigError::Graph(e) => super::network::explain(e),
    }
}
