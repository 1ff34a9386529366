//! `unfog edit`

use std::path::PathBuf;

use unfog::Result;
use unfog::sample::{Edit, Options};
use unfog::stop::Stop;

use super::sample;

/// Make pictures from a picture: change it, or what a mask says of it
#[derive(clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// The picture: PNG, JPEG, TIFF, BMP or PNM
    image: PathBuf,
    /// Share of the steps that are made, above 0 and up to 1: how much of the picture may change [default: 0.8, with --mask 1]
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    strength: Option<f64>,
    /// Picture of the same size: what is white is made anew, what is black stays
    #[arg(long, value_name = "IMAGE")]
    mask: Option<PathBuf>,
    /// Guidance scale towards the picture, of a model that is told what to change [default: 1.5]
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    image_guidance: Option<f32>,
    /// Noise that an upscaler is given with the picture: more makes up more [default: 20]
    #[arg(long, value_name = "N")]
    noise_level: Option<u32>,
    /// Copy what stays from the picture in the end: latents keep it only nearly
    #[arg(long)]
    paste: bool,
    #[command(flatten)]
    sample: sample::Args,
}

/// Makes pictures.
pub(crate) fn run(args: &Args, stop: &Stop) -> Result<()> {
    let Args { image, strength, mask, image_guidance, noise_level, paste, sample } = args;
    let edit = Edit {
        image: image.clone(),
        strength: *strength,
        mask: mask.clone(),
        image_guidance: *image_guidance,
        noise_level: *noise_level,
        paste: *paste,
    };
    sample::make(sample, &Options { edit: Some(edit), ..sample::options(sample)? }, stop)
}
