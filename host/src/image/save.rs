//! Picture files out.

use std::io::Write;
use std::path::Path;

use image::ExtendedColorType;
use image::codecs::pnm::{PnmEncoder, PnmSubtype, SampleEncoding};
use image::codecs::{bmp::BmpEncoder, jpeg::JpegEncoder};
use image::{ImageEncoder, ImageError};

use super::{Format, Picture};
use crate::error::{Error, Result};
use crate::parameters::KEYWORD as PARAMETERS;

/// Quality of JPEG files, of 100: no visible loss.
const JPEG_QUALITY: u8 = 95;

/// Writes `picture` to `out` in `format`. `texts` are keywords and what goes under them; only PNG carries them. `path` is named in
/// errors.
///
/// # Errors
/// Every error of `out`, with a full disk among them.
pub fn encode(
    picture: &Picture,
    format: Format,
    texts: &[(&str, &str)],
    path: &Path,
    out: &mut dyn Write,
) -> Result<()> {
    let Picture { width, height, channels, ref pixels } = *picture;
    let color = if channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    // The encoder's own choice would be PAM, which few programs read.
    let subtype = match channels {
        1 => PnmSubtype::Graymap(SampleEncoding::Binary),
        _ => PnmSubtype::Pixmap(SampleEncoding::Binary),
    };
    let failed = |cause: Box<dyn std::error::Error + Send + Sync>| {
        Error::failure(format!("can't write {}", path.display())).because(cause)
    };
    let result = match format {
        Format::Png => return png(picture, texts, out).map_err(|e| failed(e.into())),
        Format::Jpeg => {
            JpegEncoder::new_with_quality(&mut *out, JPEG_QUALITY).write_image(pixels, width, height, color)
        }
        Format::Bmp => BmpEncoder::new(&mut Sized(out)).write_image(pixels, width, height, color),
        Format::Pnm => PnmEncoder::new(&mut *out).with_subtype(subtype).write_image(pixels, width, height, color),
    };
    result.map_err(|e| match e {
        ImageError::IoError(e) => failed(e.into()),
        e => failed(e.into()),
    })
}

/// The bitmap encoder asks for a type whose size is known.
struct Sized<'a>(&'a mut dyn Write);

impl Write for Sized<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

fn png(picture: &Picture, texts: &[(&str, &str)], out: &mut dyn Write) -> Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(out, picture.width, picture.height);
    encoder.set_color(if picture.channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb });
    encoder.set_depth(png::BitDepth::Eight);
    for &(keyword, text) in texts {
        // As Pillow does it: Latin-1 where that is enough, which every reader knows, else international text. The recipe is always the
        // latter.
        match keyword == PARAMETERS && text.chars().all(|c| u32::from(c) < 256) {
            true => encoder.add_text_chunk(keyword.into(), text.into())?,
            false => encoder.add_itxt_chunk(keyword.into(), text.into())?,
        }
    }
    let mut writer = encoder.write_header()?;
    // Row by row: the encoder's own memory does not grow with the picture.
    let mut rows = writer.stream_writer()?;
    rows.write_all(&picture.pixels)?;
    rows.finish()?;
    writer.finish()
}
