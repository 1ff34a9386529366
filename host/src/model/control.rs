//! What steers a network by a picture: folders of diffusers' `ControlNetModel` and `T2IAdapter`.

use std::path::{Path, PathBuf};

use unfog_core::nn::model::t2i_adapter::{self, Kind};
use unfog_core::nn::model::{ConfigError, controlnet, unet2d_condition as condition};

use super::fields::Fields;
use super::network::Network;
use super::source::{config_in, weights_in};
use super::unet2d::{bounded, explain};
use super::unet2d_condition::read_control;
use super::weights::Weights;
use crate::error::{Error, Result};

/// How the names of weights files in these folders begin.
const STEM: &str = "diffusion_pytorch_model";

/// A folder whose config was read.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    folder: PathBuf,
    config: Config,
}

#[derive(Clone, Debug)]
enum Config {
    /// A `ControlNetModel`; whether it takes the picture's channels in the reverse order.
    Net(Box<controlnet::Config>, bool),
    /// A `T2IAdapter`.
    Adapter(t2i_adapter::Config),
}

impl Control {
    /// The control in a folder as diffusers saves it.
    ///
    /// # Errors
    /// A missing or damaged config; an architecture, option or value that is not known.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        if !folder.join("config.json").is_file() {
            return Err(Error::failure(format!("there is no control in {}: it lacks a config.json", folder.display()))
                .hint("give the folder of a ControlNetModel or a T2IAdapter, as diffusers saves it"));
        }
        let fields = config_in(folder)?;
        let config = match fields.text("_class_name", "ControlNetModel")? {
            "ControlNetModel" => net(&fields)?,
            "T2IAdapter" => Config::Adapter(adapter(&fields)?),
            class => {
                return Err(Error::failure(format!("{} is a {class}, which steers nothing here", folder.display()))
                    .hint("known: ControlNetModel, T2IAdapter"));
            }
        };
        Ok(Self { folder: folder.to_path_buf(), config })
    }

    /// The part of a network's graph that it is, if it is one.
    pub(crate) fn net(&self) -> Option<&controlnet::Config> {
        match &self.config {
            Config::Net(config, _) => Some(config),
            Config::Adapter(_) => None,
        }
    }

    /// How many of its features are added to a network of `config`, whose latents have `multiple` times smaller sides than its pictures:
    /// none of a ControlNet's, which adds what it has itself.
    ///
    /// # Errors
    /// A control that is for another network.
    pub(crate) fn features(&self, config: &condition::Config, multiple: u32) -> Result<usize> {
        let used = match &self.config {
            Config::Net(net, _) => (net.fits(config) && net.multiple() == multiple).then_some(0),
            Config::Adapter(adapter) => {
                let places = config.places().into_iter();
                let mut places = places.map(|[channels, side]| Some([channels, side.checked_mul(multiple)?]));
                let fits = (0..adapter.features()).take_while(|&i| places.next() == Some(adapter.feature(i))).count();
                // In the middle there may be none, or one that does not fit, which diffusers leaves out.
                Some(fits).filter(|&fits| fits >= config.levels.len().min(adapter.features()))
            }
        };
        if let Some(used) = used {
            return Ok(used);
        }
        Err(Error::failure(format!("the control in {} does not fit the model's network", self.folder.display()))
            .hint("it is for another model"))
    }

    /// Channels of the picture.
    pub(crate) fn channels(&self) -> u32 {
        match &self.config {
            Config::Net(config, _) => config.conditioning_channels,
            Config::Adapter(config) => config.in_channels,
        }
    }

    /// The picture `[channels, h, w]`, from 0 to 1, as the networks of [`Self::hints`] take it.
    pub(crate) fn prepare(&self, picture: &[f32], [h, w]: [u32; 2]) -> Vec<f32> {
        let plane = h as usize * w as usize;
        match &self.config {
            Config::Net(_, false) => picture.to_vec(),
            Config::Net(_, true) => picture.rchunks(plane).flatten().copied().collect(),
            Config::Adapter(config) => {
                let (f, h, w) = (config.downscale_factor as usize, h as usize, w as usize);
                let mut unshuffled = Vec::with_capacity(picture.len());
                for plane in picture.chunks_exact(plane) {
                    for (dy, dx) in (0..f).flat_map(|dy| (0..f).map(move |dx| (dy, dx))) {
                        let rows = plane.chunks_exact(w).skip(dy).step_by(f).take(h / f);
                        unshuffled.extend(rows.flat_map(|row| row.iter().skip(dx).step_by(f).take(w / f)));
                    }
                }
                unshuffled
            }
        }
    }

    /// The networks that make of a picture of `h * w` pixels what a condition holds of it, so many features of an adapter, without weights;
    /// each is run once.
    ///
    /// # Errors
    /// A usage error for a size that it can't take; a failure for a config that is no network.
    pub(crate) fn hints(&self, h: u32, w: u32, features: usize) -> Result<Vec<Network>> {
        let refused = |e| match e {
            ConfigError::Size { .. } => {
                Error::usage(format!("the control in {} can't take pictures of {w}x{h}", self.folder.display()))
                    .hint("give --size multiples of 64")
            }
            e => explain(e, h, w),
        };
        match &self.config {
            Config::Net(config, _) => {
                let hint = Network::build(|builder, names| controlnet::hint(config, [h, w], builder, names));
                Ok(vec![hint.map_err(refused)?])
            }
            Config::Adapter(config) => {
                let factor = config.downscale_factor.max(1);
                if !h.is_multiple_of(factor) || !w.is_multiple_of(factor) {
                    return Err(refused(ConfigError::Size { multiple: factor }));
                }
                let size = [h / factor, w / factor];
                let one = |i| Network::build(|builder, names| t2i_adapter::build(config, i, size, builder, names));
                (0..features).map(|i| one(i).map_err(refused)).collect()
            }
        }
    }

    /// Reads and checks the weights of `network`, one of [`Self::hints`] or the control's part of a graph.
    ///
    /// # Errors
    /// A missing or damaged file; a weight that is missing, of another type or shape, or not finite.
    pub(crate) fn weights(&self, network: &Network) -> Result<Weights> {
        Weights::load(weights_in(&self.folder, STEM)?, network)
    }

    /// Multiplies what a ControlNet adds to the network by `scale`: the weights of its last layers, which are linear.
    ///
    /// # Errors
    /// Values that are not finite, too little memory.
    pub(crate) fn scale(network: &Network, weights: &mut Weights, scale: f32) -> Result<()> {
        if scale == 1.0 {
            return Ok(());
        }
        let last =
            |name: &str| name.starts_with("controlnet_down_blocks.") || name.starts_with("controlnet_mid_block.");
        for (i, name) in network.names().iter().enumerate().filter(|(_, name)| last(name)) {
            let mut values = weights.widened(i)?;
            values.iter_mut().for_each(|v| *v *= scale);
            weights.change(i, name, values, false)?;
        }
        Ok(())
    }
}

fn net(fields: &Fields) -> Result<Config> {
    let reversed =
        fields.choice("controlnet_conditioning_channel_order", false, &[(Some("rgb"), false), (Some("bgr"), true)])?;
    if fields.bool("global_pool_conditions", false)? {
        return Err(fields.refuse("global_pool_conditions", "false: more is not supported"));
    }
    let embedding = fields.u32s("conditioning_embedding_out_channels", &[16, 32, 96, 256])?;
    let config = controlnet::Config {
        net: read_control(fields)?,
        conditioning_channels: fields.u32("conditioning_channels", 3)?,
        embedding: bounded("conditioning_embedding_out_channels", embedding)?,
    };
    Ok(Config::Net(Box::new(config), reversed))
}

fn adapter(fields: &Fields) -> Result<t2i_adapter::Config> {
    let kinds = [("full_adapter", Kind::Full), ("full_adapter_xl", Kind::FullXl), ("light_adapter", Kind::Light)];
    let channels = fields.u32s("channels", &[320, 640, 1280, 1280])?;
    Ok(t2i_adapter::Config {
        kind: fields.choice("adapter_type", Kind::Full, &kinds.map(|(name, kind)| (Some(name), kind)))?,
        in_channels: fields.u32("in_channels", 3)?,
        channels: bounded("channels", channels)?,
        num_res_blocks: fields.u32("num_res_blocks", 2)?,
        downscale_factor: fields.u32("downscale_factor", 8)?,
    })
}
