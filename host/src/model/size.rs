//! How large a model's pictures are.

use super::{Model, Origin};
use crate::error::{Error, Result};

impl Model {
    /// Both sides of what is sampled must be multiples of this.
    pub(crate) fn multiple(&self) -> u32 {
        match &self.origin {
            Origin::UNet2d(_, config) => config.multiple(),
            Origin::UNet2dCondition(_, config) => config.multiple(),
            _ => self.patch(),
        }
    }

    /// The size of the pictures that the network was trained on: rows and columns.
    pub fn size(&self) -> Option<(u32, u32)> {
        self.size
    }

    /// Width and height of the pictures to make: those that are asked for, or the model's own.
    ///
    /// # Errors
    /// A usage error when neither is there.
    pub fn picture_size(&self, asked: Option<(u32, u32)>) -> Result<(u32, u32)> {
        asked.or(self.size.map(|(h, w)| (w, h))).ok_or_else(|| {
            Error::usage(format!("the model {} does not say how large its pictures are", self.name))
                .hint("give --size WxH")
        })
    }

    /// The same in pixels, of which what is sampled has one in `scale` along a side.
    ///
    /// # Errors
    /// Those of [`Model::picture_size`]; a usage error for sides that the network can't take.
    pub(crate) fn pixels(&self, asked: Option<(u32, u32)>, scale: u32) -> Result<(u32, u32)> {
        let (width, height) = match (asked, self.size) {
            (None, Some((h, w))) => (w.checked_mul(scale))
                .zip(h.checked_mul(scale))
                .ok_or_else(|| Error::failure("the model's pictures are too large"))?,
            (asked, _) => self.picture_size(asked)?,
        };
        let multiple = scale.saturating_mul(self.multiple());
        match width.is_multiple_of(multiple) && height.is_multiple_of(multiple) {
            true => Ok((width, height)),
            false => Err(Error::usage(format!("--size {width}x{height}: both sides must be multiples of {multiple}"))),
        }
    }
}
