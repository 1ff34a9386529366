//! `unfog edit`

use std::path::PathBuf;

use unfog::Result;
use unfog::sample::{Edit, Mask, Options};
use unfog::stop::Stop;

use super::sample;

/// Make pictures from a picture: change it, or what a mask says of it
#[derive(clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// The picture: PNG, JPEG, TIFF, BMP or PNM; or latents that --latents-out wrote, which --size makes larger: NAME.safetensors
    image: PathBuf,
    /// Share of the steps that are made, above 0 and up to 1: how much of the picture may change [default: 0.8; with --mask or
    /// --keep-coarse, and no --invert, 1]
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    strength: Option<f64>,
    /// Begin from the noise that leads back to the picture, which DDIM finds by going backwards, not from random noise: --class or --prompt
    /// changes what it shows, and the rest stays nearer to it. It takes as many steps more
    #[arg(long)]
    invert: bool,
    /// Class that the picture shows, by number or name, for --invert and --mask auto [default: no class]
    #[arg(long, value_name = "N|NAME")]
    from_class: Option<String>,
    /// What the picture shows, for --invert and --mask auto [default: no text]
    #[arg(long, value_name = "TEXT")]
    from_prompt: Option<String>,
    /// Picture of the same size: what is white is made anew, what is black stays; or auto: found where the predictions for what is asked
    /// and for what the picture shows differ (DiffEdit)
    #[arg(long, value_name = "IMAGE|auto")]
    mask: Option<Mask>,
    /// Keep the picture's coarse part, of N by N pixels (of latents, if the model makes those), by putting it back after every step (ILVR)
    #[arg(long, value_name = "N")]
    keep_coarse: Option<u32>,
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
    let Args {
        image,
        strength,
        invert,
        from_class,
        from_prompt,
        mask,
        keep_coarse,
        image_guidance,
        noise_level,
        paste,
        sample,
    } = args;
    let edit = Edit {
        image: image.clone(),
        strength: *strength,
        invert: *invert,
        from_class: from_class.clone(),
        from_prompt: from_prompt.clone(),
        keep_coarse: *keep_coarse,
        mask: mask.clone(),
        image_guidance: *image_guidance,
        noise_level: *noise_level,
        paste: *paste,
    };
    sample::make(sample, &Options { edit: Some(edit), ..sample::options(sample)? }, stop)
}
