//! Pictures of a run that is under way: what the network takes the images for, every few steps.

use std::fs;
use std::path::{Path, PathBuf};

use super::edit::Kind;
use super::options::Options;
use super::setup::{Setup, Shape};
use crate::error::{Error, Result};
use crate::files;
use crate::image::{Format, Picture, encode, sheet, sheet_layout};
use crate::model::Model;
use crate::recipe::KEYWORD;

/// The colours of latents of four channels: what each adds to red, green and blue, and what there is without any, from -1 to 1.
#[derive(Debug)]
struct Colours {
    factors: [[f32; 3]; 4],
    bias: [f32; 3],
}

/// Of Stable Diffusion 1 and 2 (ComfyUI's latent_formats.py, SD15: fitted to decoded pictures).
const SD1: Colours = Colours {
    factors: [
        [0.3512, 0.2297, 0.3227],
        [0.3250, 0.4974, 0.2350],
        [-0.2829, 0.1762, 0.2721],
        [-0.2120, -0.2616, -0.7177],
    ],
    bias: [0.0; 3],
};
/// Of Stable Diffusion XL (the same, SDXL).
const SDXL: Colours = Colours {
    factors: [
        [0.3651, 0.4232, 0.4341],
        [-0.2533, -0.0042, 0.1068],
        [0.1076, 0.1111, -0.0362],
        [-0.3165, -0.2492, -0.2188],
    ],
    bias: [0.1084, -0.0175, -0.0011],
};
/// Of the x4 upscaler (the same, SD_X4).
const UPSCALER: Colours = Colours {
    factors: [
        [-0.2340, -0.3863, -0.3257],
        [0.0994, 0.0885, -0.0908],
        [-0.2833, -0.2349, -0.3741],
        [0.2523, -0.0055, -0.1651],
    ],
    bias: [0.0; 3],
};

impl Colours {
    /// The colours of latents `[4, pixels]`, planar.
    fn of(&self, latents: &[f32], pixels: usize) -> Vec<f32> {
        let value = |colour: usize, i: usize| {
            let planes = latents.iter().skip(i).step_by(pixels.max(1)).zip(&self.factors);
            planes.fold(self.bias[colour], |sum, (z, factors)| sum + z * factors[colour])
        };
        (0..3).flat_map(|colour| (0..pixels).map(move |i| value(colour, i))).collect()
    }
}

/// The picture file of a run that is under way, beside the one that it will make. Removed with this.
#[derive(Debug)]
pub(super) struct Preview {
    every: usize,
    path: PathBuf,
    /// Of what is sampled.
    shape: Shape,
    /// Of latents; pictures are shown as they are.
    colours: Option<&'static Colours>,
    written: bool,
}

impl Preview {
    /// The preview that `options` ask for, if they do.
    ///
    /// # Errors
    /// A usage error for a picture every 0 steps, and for latents whose colours are not known; a file that can't be written.
    pub(super) fn new(options: &Options, model: &Model, setup: &Setup) -> Result<Option<Self>> {
        let Some(every) = options.preview else { return Ok(None) };
        if every == 0 {
            return Err(Error::usage("--preview 0 shows nothing").hint("give a number of steps"));
        }
        let latents = setup.picture != Shape { width: setup.width, height: setup.height, channels: setup.channels };
        let xl = model.condition().is_some_and(|config| config.addition.is_some());
        let colours = match (latents, setup.channels, setup.plan.as_ref().map(|plan| plan.kind)) {
            (false, ..) => None,
            (true, 4, Some(Kind::Upscale)) => Some(&UPSCALER),
            (true, 4, _) => Some(if xl { &SDXL } else { &SD1 }),
            (true, channels, _) => {
                return Err(Error::usage(format!(
                    "--preview: the colours of latents of {channels} channels are not known"
                )));
            }
        };
        let channels = if latents { 3 } else { setup.channels };
        let path = beside(&options.out);
        Format::of(&path, channels)?;
        files::check_target(&path)?;
        let shape = Shape { width: setup.width, height: setup.height, channels };
        Ok(Some(Self { every: every as usize, path, shape, colours, written: false }))
    }

    /// Shows the images `x0` `[n, c, h, w]` that the network has predicted in step `step`, if it is their turn.
    ///
    /// # Errors
    /// Those of the file.
    pub(super) fn show(&mut self, step: usize, x0: &[f32]) -> Result<()> {
        if !step.is_multiple_of(self.every) {
            return Ok(());
        }
        let Shape { width, height, channels } = self.shape;
        let pixels = width as usize * height as usize;
        let pictures = match self.colours {
            Some(colours) => x0.chunks_exact(4 * pixels).map(|z| colours.of(z, pixels)).collect::<Vec<_>>(),
            None => x0.chunks_exact(self.shape.len()).map(<[f32]>::to_vec).collect(),
        };
        let picture = |values: &Vec<f32>| Picture::from_values(values, width, height, channels);
        let pictures = pictures.iter().map(picture).collect::<Result<Vec<_>>>()?;
        let (columns, _) = sheet_layout(pictures.len() as u32, width, height);
        let (sheet, format) = (sheet(&pictures, columns)?, Format::of(&self.path, channels)?);
        self.written = true;
        files::write(&self.path, |out| encode(&sheet, format, &[(KEYWORD, "preview")], &self.path, out))
    }
}

impl Drop for Preview {
    fn drop(&mut self) {
        if self.written {
            // What can't be removed is only in the way.
            _ = fs::remove_file(&self.path);
        }
    }
}

/// `NAME.preview.EXTENSION` for `NAME.EXTENSION`.
fn beside(out: &Path) -> PathBuf {
    let stem = out.file_stem().map(|stem| stem.to_string_lossy().replace("{i}", "")).unwrap_or_default();
    let extension = out.extension().map(|extension| extension.to_string_lossy()).unwrap_or_default();
    out.with_file_name(format!("{stem}.preview.{extension}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn previews_lie_beside_their_pictures() {
        assert_eq!(beside(Path::new("a/b.png")), Path::new("a/b.preview.png"));
        assert_eq!(beside(Path::new("cat{i}.jpg")), Path::new("cat.preview.jpg"));
    }

    #[test]
    fn latents_have_colours() {
        // Two pixels: the first has only the first channel, the second nothing.
        let latents = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(SD1.of(&latents, 2), [0.3512, 0.0, 0.2297, 0.0, 0.3227, 0.0]);
        let [red, _, green, _, blue, _] = SDXL.of(&latents, 2)[..] else { panic!("three planes of two pixels") };
        for (got, want) in [(red, 0.4735), (green, 0.4057), (blue, 0.4330)] {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
    }
}
