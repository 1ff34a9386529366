//! What begins from a picture: img2img, inpainting, instructed edits and upscaling. The network's input channels decide which of them
//! it is.

mod encode;
mod picture;
mod plan;
mod start;

use std::path::PathBuf;

pub(super) use encode::Encoder;
pub(super) use picture::Read;
pub use plan::{Draws, Kind, Plan};
pub(super) use plan::{Given, image_guidance, noise_level, own_size, strength};
pub(super) use start::Known;
pub use start::Start;

/// What a run that begins from a picture is asked for beside the options of every run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edit {
    /// The picture.
    pub image: PathBuf,
    /// The share of the steps that are made, above 0 and up to 1: 0.8 if absent, with a mask 1.
    pub strength: Option<f64>,
    /// A picture of the same size: what is white is made anew, what is black stays.
    pub mask: Option<PathBuf>,
    /// Scale of the guidance towards the picture, of a model that is told what to change: 1.5 if absent.
    pub image_guidance: Option<f32>,
    /// How much noise an upscaler is given with the picture, from 0 to 350 as a rule: 20 if absent.
    pub noise_level: Option<u32>,
    /// Whether the pixels that stay are copied from the picture in the end.
    pub paste: bool,
}
