//! Picture files out.

use std::io::{Cursor, Write};
use std::path::Path;

use image::ExtendedColorType;
use image::codecs::pnm::{PnmEncoder, PnmSubtype, SampleEncoding};
use image::codecs::{bmp::BmpEncoder, jpeg::JpegEncoder, tiff::TiffEncoder};
use image::{ImageEncoder, ImageError};

use super::{Format, Picture};
use crate::error::Error;
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
) -> Result<(), Error> {
    let Picture { width, height, channels, ref pixels } = *picture;
    let color = if channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    // The encoder's own choice would be PAM, which few programs read.
    let subtype = match channels {
        1 => PnmSubtype::Graymap(SampleEncoding::Binary),
        _ => PnmSubtype::Pixmap(SampleEncoding::Binary),
    };
    let result = match format {
        Format::Png => {
            let kind = if channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb };
            let written = png(pixels, (width, height), (kind, png::BitDepth::Eight), texts, out);
            return written.map_err(|e| failed(path, e));
        }
        Format::Tiff => seekable(out, |buffer| TiffEncoder::new(buffer).write_image(pixels, width, height, color)),
        Format::Jpeg => {
            JpegEncoder::new_with_quality(&mut *out, JPEG_QUALITY).write_image(pixels, width, height, color)
        }
        Format::Bmp => BmpEncoder::new(&mut Sized(out)).write_image(pixels, width, height, color),
        Format::Pnm => PnmEncoder::new(&mut *out).with_subtype(subtype).write_image(pixels, width, height, color),
    };
    result.map_err(|e| match e {
        ImageError::IoError(e) => failed(path, e),
        e => failed(path, e),
    })
}

/// The error of a picture that can't be written.
pub(super) fn failed(path: &Path, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::failure(format!("can't write {}", path.display())).because(cause)
}

/// Writes to `out` what an encoder must go back and forth in.
pub(super) fn seekable(
    out: &mut dyn Write,
    encode: impl FnOnce(&mut Cursor<Vec<u8>>) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let mut buffer = Cursor::new(Vec::new());
    encode(&mut buffer)?;
    out.write_all(buffer.get_ref()).map_err(ImageError::IoError)
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

/// Writes a PNG of `bytes`, rows from the top, channels interleaved.
pub(super) fn png(
    bytes: &[u8],
    (width, height): (u32, u32),
    (kind, depth): (png::ColorType, png::BitDepth),
    texts: &[(&str, &str)],
    out: &mut dyn Write,
) -> Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(out, width, height);
    encoder.set_color(kind);
    encoder.set_depth(depth);
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
    rows.write_all(bytes)?;
    rows.finish()?;
    writer.finish()
}
