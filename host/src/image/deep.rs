//! Pictures with all that a file says of them: 8 or 16 bits, transparency.

use std::io::Write;
use std::path::Path;

use image::codecs::tiff::TiffEncoder;
use image::imageops::{FilterType, resize};
use image::{ExtendedColorType, ImageBuffer, ImageEncoder, Luma};

use super::{Format, Picture, encode, load::decode, save};
use crate::error::{Error, Result};
use crate::memory;
use crate::tensors;

/// A picture of full depth, grey or RGB, planar.
#[derive(Clone, Debug, PartialEq)]
pub struct Deep {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// 1 for grey, 3 for RGB.
    pub channels: u32,
    /// Whether a file of it has 16 bits for a value; else 8.
    pub sixteen: bool,
    /// `[channels, height, width]`, -1 is black and 1 is full; what was not read from a picture file may lie beyond.
    pub values: Vec<f32>,
    /// How much each pixel covers, `[height, width]` of 65535, if the file says so.
    pub alpha: Option<Vec<u16>>,
}

impl Deep {
    /// Reads a picture file; or values of any range from a safetensors file: tensor `image` `[1 or 3, height, width]`, 0 is black and 1 is
    /// full, of which pictures of 16 bits are made.
    ///
    /// # Errors
    /// Those of [`super::load`].
    pub fn load(path: &Path) -> Result<Self> {
        if tensors::is_named(path) {
            let (values, shape) = tensors::read_image(path)?;
            let [channels, height, width] = shape;
            let mut values = values;
            values.iter_mut().for_each(|value| *value = *value * 2.0 - 1.0);
            return Ok(Self { width, height, channels, sixteen: true, values, alpha: None });
        }
        let picture = decode(path)?;
        let (width, height, color) = (picture.width(), picture.height(), picture.color());
        let sixteen = color.bytes_per_pixel() / color.channel_count() > 1;
        let channels = if color.has_color() { 3 } else { 1 };
        let transparent = color.has_alpha();
        let planar = |pixels: Vec<u16>, with: usize| -> Result<(Vec<f32>, Option<Vec<u16>>)> {
            let mut values = memory::room(channels as usize * pixels.len() / with)?;
            for channel in 0..channels as usize {
                values.extend(pixels.iter().skip(channel).step_by(with).map(|&v| f32::from(v) / 32767.5 - 1.0));
            }
            let alpha = transparent.then(|| pixels.iter().skip(channels as usize).step_by(with).copied().collect());
            Ok((values, alpha))
        };
        let (values, alpha) = match (channels, transparent) {
            (1, false) => planar(picture.into_luma16().into_raw(), 1),
            (1, true) => planar(picture.into_luma_alpha16().into_raw(), 2),
            (_, false) => planar(picture.into_rgb16().into_raw(), 3),
            _ => planar(picture.into_rgba16().into_raw(), 4),
        }?;
        Ok(Self { width, height, channels, sixteen, values, alpha })
    }

    /// The same transparency for a picture of another size.
    #[must_use]
    pub fn alpha_of(&self, width: u32, height: u32) -> Option<Vec<u16>> {
        let alpha = self.alpha.clone()?;
        let from = ImageBuffer::<Luma<u16>, _>::from_raw(self.width, self.height, alpha)?;
        Some(resize(&from, width, height, FilterType::CatmullRom).into_raw())
    }

    /// What a file of it holds, pixel by pixel, transparency last if there is any: of 255, or of 65535 with 16 bits.
    ///
    /// # Errors
    /// A value that is not finite; too little memory.
    pub(crate) fn pixels(&self) -> Result<Vec<u16>> {
        if let Some(i) = self.values.iter().position(|v| !v.is_finite()) {
            return Err(Error::failure(format!("the network's picture holds {} at index {i}", self.values[i]))
                .hint("try --precision f32, or another backend"));
        }
        let plane = self.width as usize * self.height as usize;
        let full = if self.sixteen { 65535.0 } else { 255.0 };
        let value = |v: f32| ((v / 2.0 + 0.5).clamp(0.0, 1.0) * full).round_ties_even() as u16;
        let covers = |alpha: u16| if self.sixteen { alpha } else { ((u32::from(alpha) + 128) / 257) as u16 };
        let mut pixels = memory::room(self.values.len() + self.alpha.as_ref().map_or(0, Vec::len))?;
        for i in 0..plane {
            pixels.extend(self.values.iter().skip(i).step_by(plane).map(|&v| value(v)));
            pixels.extend(self.alpha.as_ref().and_then(|alpha| alpha.get(i)).map(|&alpha| covers(alpha)));
        }
        Ok(pixels)
    }

    /// Writes it in `format`: PNG and TIFF hold 16 bits and transparency, other files 8 bits and none. `texts` as for [`encode`].
    ///
    /// # Errors
    /// Those of [`encode`].
    pub fn encode(&self, format: Format, texts: &[(&str, &str)], path: &Path, out: &mut dyn Write) -> Result<()> {
        let Self { width, height, channels, .. } = *self;
        let holds = matches!(format, Format::Png | Format::Tiff);
        if !holds || (!self.sixteen && self.alpha.is_none()) {
            let picture = Picture::from_values(&self.values, width, height, channels)?;
            return encode(&picture, format, texts, path, out);
        }
        let pixels = self.pixels()?;
        if format == Format::Png {
            let kind = match (channels, self.alpha.is_some()) {
                (1, false) => png::ColorType::Grayscale,
                (1, true) => png::ColorType::GrayscaleAlpha,
                (_, false) => png::ColorType::Rgb,
                _ => png::ColorType::Rgba,
            };
            // With the high byte first.
            let bytes: Vec<u8> = match self.sixteen {
                true => pixels.iter().flat_map(|v| v.to_be_bytes()).collect(),
                false => pixels.iter().map(|v| *v as u8).collect(),
            };
            let depth = if self.sixteen { png::BitDepth::Sixteen } else { png::BitDepth::Eight };
            return save::png(&bytes, (width, height), (kind, depth), texts, out).map_err(|e| save::failed(path, e));
        }
        let color = match (channels, self.alpha.is_some(), self.sixteen) {
            (1, false, _) => ExtendedColorType::L16,
            (3, false, _) => ExtendedColorType::Rgb16,
            (3, true, true) => ExtendedColorType::Rgba16,
            (3, true, false) => ExtendedColorType::Rgba8,
            _ => {
                return Err(Error::usage(format!(
                    "{}: TIFF is not written with grey and transparency",
                    path.display()
                ))
                .hint("use .png"));
            }
        };
        let bytes: Vec<u8> = match self.sixteen {
            true => pixels.iter().flat_map(|v| v.to_ne_bytes()).collect(),
            false => pixels.iter().map(|v| *v as u8).collect(),
        };
        save::seekable(out, |buffer| TiffEncoder::new(buffer).write_image(&bytes, width, height, color))
            .map_err(|e| save::failed(path, e))
    }
}
