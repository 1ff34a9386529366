//! Pictures in another size.

use image::imageops::{FilterType, resize};
use image::{ImageBuffer, Luma, Rgb};

use super::Picture;
use crate::error::{Error, Result};

impl Picture {
    /// The picture in another size, stretched where the sides' ratio is another: Lanczos' filter with three lobes, wider where it shrinks,
    /// as diffusers takes it from PIL (whose values this meets but for the last of 255 steps).
    ///
    /// # Errors
    /// Those of [`Picture::new`].
    pub fn resized(&self, width: u32, height: u32) -> Result<Self> {
        if (width, height) == (self.width, self.height) {
            return Ok(self.clone());
        }
        let target = Self::new(width, height, self.channels)?;
        let (own, filter) = ((self.width, self.height), FilterType::Lanczos3);
        let misfit = || Error::failure("the picture's pixels don't fit its size");
        let pixels = match self.channels {
            1 => ImageBuffer::<Luma<u8>, _>::from_raw(own.0, own.1, self.pixels.clone())
                .map(|from| resize(&from, width, height, filter).into_raw()),
            _ => ImageBuffer::<Rgb<u8>, _>::from_raw(own.0, own.1, self.pixels.clone())
                .map(|from| resize(&from, width, height, filter).into_raw()),
        };
        Ok(Self { pixels: pixels.ok_or_else(misfit)?, ..target })
    }
}
