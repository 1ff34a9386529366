//! diffusers' `vae/config.json` as core's configs, and the networks that it describes.

use std::path::Path;

use unfog_core::nn::model::latents::{MAX_LATENT_CHANNELS, Scaling};
use unfog_core::nn::model::{autoencoder_kl as kl, autoencoder_tiny as tiny};

use super::fields::Fields;
use super::network::Network;
use super::source::PartPlace;
use super::unet2d::{activation, bounded, explain};
use super::unet2d_condition::blocks;
use super::weights::Weights;
use crate::error::{Error, Result};

/// An autoencoder whose config was read.
#[derive(Clone, Debug)]
pub struct Autoencoder {
    place: PartPlace,
    config: Config,
}

#[derive(Clone, Debug)]
enum Config {
    Kl(kl::Config),
    Tiny(tiny::Config),
}

/// What an encoder returns for a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoded {
    /// The latents.
    Latents,
    /// Their means and the logarithms of their variances ([`unfog_core::nn::model::latents::Moments`]).
    Moments,
}

impl Autoencoder {
    /// The autoencoder in a folder as diffusers saves it.
    ///
    /// # Errors
    /// A missing or damaged config; an architecture, option or value that is not known.
    pub fn open(folder: &Path) -> Result<Self> {
        Self::at(PartPlace::Folder(folder.to_path_buf()))
    }

    /// The autoencoder at `place`.
    pub(super) fn at(place: PartPlace) -> Result<Self> {
        let fields = place.config()?;
        let config = match fields.text("_class_name", "AutoencoderKL")? {
            "AutoencoderKL" => Config::Kl(read_kl(&fields)?),
            "AutoencoderTiny" => Config::Tiny(read_tiny(&fields)?),
            class => {
                return Err(Error::failure(format!("the autoencoder is a {class}, which unfog does not know"))
                    .hint("known: AutoencoderKL, AutoencoderTiny"));
            }
        };
        Ok(Self { place, config })
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> u32 {
        match &self.config {
            Config::Kl(config) => config.latent_channels,
            Config::Tiny(config) => config.latent_channels,
        }
    }

    /// Channels of the pictures: those that the encoder takes, and those that the decoder makes.
    pub fn channels(&self) -> [u32; 2] {
        match &self.config {
            Config::Kl(config) => [config.in_channels, config.out_channels],
            Config::Tiny(config) => [config.in_channels, config.out_channels],
        }
    }

    /// Rows of a picture for one row of latents, in the encoder and in the decoder; columns alike.
    pub fn multiples(&self) -> [u32; 2] {
        match &self.config {
            Config::Kl(config) => [config.multiple(); 2],
            Config::Tiny(config) => config.multiples(),
        }
    }

    /// How latents are scaled for the network that is trained on them.
    pub fn scaling(&self) -> &Scaling {
        match &self.config {
            Config::Kl(config) => &config.scaling,
            Config::Tiny(config) => &config.scaling,
        }
    }

    /// What the encoder returns.
    pub fn encoded(&self) -> Encoded {
        match self.config {
            Config::Kl(_) => Encoded::Moments,
            Config::Tiny(_) => Encoded::Latents,
        }
    }

    /// The network from pictures of `h` rows and `w` columns to latents, without weights.
    ///
    /// # Errors
    /// A usage error for a size that the network can't take; a failure for a config that is no network.
    pub fn encoder(&self, h: u32, w: u32) -> Result<Network> {
        Network::build(|builder, names| match &self.config {
            Config::Kl(config) => kl::encoder(config, [h, w], builder, names),
            Config::Tiny(config) => tiny::encoder(config, [h, w], builder, names),
        })
        .map_err(|e| explain(e, h, w))
    }

    /// The network from latents to pictures of `h` rows and `w` columns, without weights.
    ///
    /// # Errors
    /// Those of [`Autoencoder::encoder`].
    pub fn decoder(&self, h: u32, w: u32) -> Result<Network> {
        Network::build(|builder, names| match &self.config {
            Config::Kl(config) => kl::decoder(config, [h, w], builder, names),
            Config::Tiny(config) => tiny::decoder(config, [h, w], builder, names),
        })
        .map_err(|e| explain(e, h, w))
    }

    /// Reads and checks the weights of `network`, which this autoencoder made.
    ///
    /// # Errors
    /// A missing or damaged file; a weight that is missing, of another type or shape, or not finite.
    pub fn weights(&self, network: &Network) -> Result<Weights> {
        self.place.load("diffusion_pytorch_model", network)
    }
}

/// Reads an `AutoencoderKL`'s config, with diffusers' defaults. `force_upcast` is ignored, since all arithmetic is f32.
fn read_kl(fields: &Fields) -> Result<kl::Config> {
    let down = ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"];
    let up = ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"];
    let down = blocks(fields, "down_block_types", &down[..1], down)?;
    let mut up = blocks(fields, "up_block_types", &up[..1], up)?;
    up.reverse();
    let channels = fields.u32s("block_out_channels", &[64])?;
    if down.len() != channels.len() || up.len() != channels.len() {
        return Err(Error::failure(
            "the autoencoder's down_block_types, up_block_types and block_out_channels must have the same length",
        ));
    }
    let level = |((channels, down_attention), up_attention)| kl::Level { channels, down_attention, up_attention };
    let latent_channels = fields.u32("latent_channels", 4)?;
    Ok(kl::Config {
        in_channels: fields.u32("in_channels", 3)?,
        out_channels: fields.u32("out_channels", 3)?,
        latent_channels,
        levels: bounded("block_out_channels", channels.into_iter().zip(down).zip(up).map(level).collect())?,
        layers_per_block: fields.u32("layers_per_block", 1)?,
        act: activation(fields, "silu")?,
        norm_num_groups: fields.u32("norm_num_groups", 32)?,
        mid_attention: fields.bool("mid_block_add_attention", true)?,
        quant_conv: fields.bool("use_quant_conv", true)?,
        post_quant_conv: fields.bool("use_post_quant_conv", true)?,
        scaling: scaling(fields, 0.18215, latent_channels)?,
    })
}

/// Reads an `AutoencoderTiny`'s config, with diffusers' defaults.
fn read_tiny(fields: &Fields) -> Result<tiny::Config> {
    if fields.text("upsample_fn", "nearest")? != "nearest" {
        return Err(fields.refuse("upsample_fn", "\"nearest\": more is not supported"));
    }
    let stages = |channels_key: &str, blocks_key: &str, default: [u32; 4]| {
        let channels = fields.u32s(channels_key, &[64; 4])?;
        let blocks = fields.u32s(blocks_key, &default)?;
        if channels.len() != blocks.len() {
            return Err(fields.refuse(blocks_key, &format!("as many numbers as {channels_key} has")));
        }
        let stage = |(channels, blocks)| tiny::Stage { channels, blocks };
        bounded(blocks_key, channels.into_iter().zip(blocks).map(stage).collect())
    };
    let latent_channels = fields.u32("latent_channels", 4)?;
    Ok(tiny::Config {
        in_channels: fields.u32("in_channels", 3)?,
        out_channels: fields.u32("out_channels", 3)?,
        latent_channels,
        encoder: stages("encoder_block_out_channels", "num_encoder_blocks", [1, 3, 3, 3])?,
        decoder: stages("decoder_block_out_channels", "num_decoder_blocks", [3, 3, 3, 1])?,
        act: activation(fields, "relu")?,
        upsampling: fields.u32("upsampling_scaling_factor", 2)?,
        midblock_gn: fields.bool("use_midblock_gn", false)?,
        scaling: scaling(fields, 1.0, latent_channels)?,
    })
}

/// How latents are scaled: by `factor` unless the config says otherwise.
fn scaling(fields: &Fields, factor: f64, latent_channels: u32) -> Result<Scaling> {
    let factor = match fields.f64("scaling_factor", factor)? as f32 {
        0.0 => return Err(fields.refuse("scaling_factor", "a number other than 0")),
        factor => factor,
    };
    let shift = fields.optional_f64("shift_factor")?.unwrap_or(0.0) as f32;
    let list = |key: &str| match fields.optional_f64s(key)? {
        Some(list) if list.len() as u64 != u64::from(latent_channels) || list.len() > MAX_LATENT_CHANNELS => {
            Err(fields.refuse(key, &format!("{latent_channels} numbers, one for each latent channel")))
        }
        list => Ok(list),
    };
    let channels = match (list("latents_mean")?, list("latents_std")?) {
        (None, None) => Vec::new(),
        (Some(_), Some(std)) if std.contains(&0.0) => {
            return Err(fields.refuse("latents_std", "numbers other than 0"));
        }
        (Some(mean), Some(std)) => mean.into_iter().zip(std).map(|(m, s)| [m as f32, s as f32]).collect(),
        _ => return Err(fields.refuse("latents_std", "a list where latents_mean is one")),
    };
    Ok(Scaling { factor, shift, channels: bounded("latents_mean", channels)? })
}
