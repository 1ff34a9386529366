//! What begins from a picture: img2img, inpainting, instructed edits and upscaling. The network's input channels decide which of them
//! it is.

mod coarse;
mod encode;
mod found;
mod invert;
mod latents;
mod picture;
mod plan;
mod start;

use std::path::PathBuf;

use crate::error::Error;

pub(super) use encode::Encoder;
pub(super) use invert::Source;
pub(super) use picture::Read;
pub use plan::{Draws, Kind, Plan};
pub(super) use plan::{Given, image_guidance, noise_level, own_size, strength};
pub(super) use start::Known;
pub use start::Start;

/// What a run that begins from a picture is asked for beside the options of every run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edit {
    /// The picture; or, of a model that makes latents, those of one: a safetensors file with a tensor `x0` `[1, c, h, w]`, as
    /// [`super::Options::latents_out`] has it.
    pub image: PathBuf,
    /// The share of the steps that are made, above 0 and up to 1: 0.8 if absent; with a mask or `keep_coarse`, and no inversion, 1.
    pub strength: Option<f64>,
    /// Whether it begins from the noise that DDIM, run backwards, makes of the picture (Song et al. 2021), not from random noise.
    pub invert: bool,
    /// The class, or the text, that describes the picture, for the inversion and for a mask that is to be found: no class, or an empty text,
    /// if absent.
    pub from_class: Option<String>,
    /// See `from_class`.
    pub from_prompt: Option<String>,
    /// What is made anew, and what stays.
    pub mask: Option<Mask>,
    /// The pixels (of latents, where the model makes those) along a side of what counts as coarse: that part of the picture is put back after
    /// every step (Choi et al. 2021, "ILVR").
    pub keep_coarse: Option<u32>,
    /// Scale of the guidance towards the picture, of a model that is told what to change: 1.5 if absent.
    pub image_guidance: Option<f32>,
    /// How much noise an upscaler is given with the picture, from 0 to 350 as a rule: 20 if absent.
    pub noise_level: Option<u32>,
    /// Whether the pixels that stay are copied from the picture in the end.
    pub paste: bool,
}

/// What of a picture is made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mask {
    /// A picture of the same size: what is white is made anew, what is black stays.
    Picture(PathBuf),
    /// Where the network's predictions for the asked condition and for that which describes the picture differ (Couairon et al. 2022,
    /// "DiffEdit").
    Auto,
}

/// How [`Mask::Auto`] is written; a file of that name is `./auto`.
pub(super) const AUTO: &str = "auto";

impl std::str::FromStr for Mask {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(if text == AUTO { Self::Auto } else { Self::Picture(text.into()) })
    }
}

impl From<PathBuf> for Mask {
    fn from(path: PathBuf) -> Self {
        Self::Picture(path)
    }
}
