//! Picture files in.

use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use super::Picture;
use crate::error::{Error, Result};

/// Reads a picture (PNG, JPEG, TIFF, BMP, PNM; recognised by its content): grey stays grey, everything else becomes RGB.
/// Transparency is dropped, 16 bits are reduced to 8, and a camera's orientation is applied.
///
/// # Errors
/// A missing file, another kind of file, a damaged or oversized picture.
pub fn load(path: &Path) -> Result<Picture> {
    let picture = decode(path)?;
    let (width, height) = (picture.width(), picture.height());
    let (channels, pixels) = match picture.color().has_color() {
        true => (3, picture.into_rgb8().into_raw()),
        false => (1, picture.into_luma8().into_raw()),
    };
    Ok(Picture { width, height, channels, pixels })
}

/// Reads a picture as it is, and turns it as the camera was held.
///
/// # Errors
/// Those of [`load`].
pub(super) fn decode(path: &Path) -> Result<DynamicImage> {
    let unreadable = |e: image::ImageError| {
        Error::failure(format!("can't read the picture {}", path.display()))
            .hint("known are PNG, JPEG, TIFF, BMP and PNM")
            .because(e)
    };
    let opened = ImageReader::open(path).and_then(ImageReader::with_guessed_format);
    let mut reader =
        opened.map_err(|e| Error::failure(format!("can't read the picture {}", path.display())).because(e))?;
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(1 << 16), Some(1 << 16));
    limits.max_alloc = Some(1 << 30);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(unreadable)?;
    // A picture whose orientation can't be read is shown as it is stored, as viewers do.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}
