//! The picture that a run begins from, and its mask, as values.

use std::path::Path;

use super::super::setup::Shape;
use crate::error::{Error, Result};
use crate::files;
use crate::image::{Picture, load};

/// A picture with the fingerprint of its file.
#[derive(Clone, Debug)]
pub(in super::super) struct Read {
    pub(in super::super) picture: Picture,
    pub(in super::super) sha256: String,
}

impl Read {
    /// Reads a picture.
    ///
    /// # Errors
    /// Those of [`load`].
    pub(in super::super) fn new(path: &Path) -> Result<Self> {
        let picture = load(path)?;
        Ok(Self { picture, sha256: files::sha256(path)? })
    }
}

/// A picture's values `[c, h, w]` from -1 to 1, resized to `shape` where it has another size.
pub(super) fn values(picture: &Picture, shape: Shape) -> Result<Vec<f32>> {
    picture.resized(shape.width, shape.height)?.to_values(shape.channels)
}

/// A mask's values `[h, w]`: 1 where the picture is made anew, 0 where it stays. Grey from 128 on counts as white.
///
/// # Errors
/// A usage error for a mask of another size than the picture's, and for one without white.
pub(super) fn mask(mask: &Picture, picture: &Picture, shape: Shape) -> Result<Vec<f32>> {
    let size = |picture: &Picture| (picture.width(), picture.height());
    if size(mask) != size(picture) {
        let ((w, h), (pw, ph)) = (size(mask), size(picture));
        return Err(Error::usage(format!("the mask has {w}x{h} pixels and the picture {pw}x{ph}"))
            .hint("both must have the same size"));
    }
    let grey = values(mask, Shape { channels: 1, ..shape })?;
    let values: Vec<f32> = grey.iter().map(|&v| f32::from(u8::from(v >= 0.0))).collect();
    match values.contains(&1.0) {
        true => Ok(values),
        false => Err(Error::usage("the mask has no white: nothing would be made anew")
            .hint("what is white is made anew, what is black stays")),
    }
}

/// The mask of latents: of each square of `multiple` pixels that of its first (PyTorch's nearest neighbour, as diffusers has it).
pub(super) fn shrink(mask: &[f32], [width, height]: [u32; 2], multiple: u32) -> Vec<f32> {
    let (columns, multiple) = (width as usize, multiple.max(1) as usize);
    let rows = (0..height as usize).step_by(multiple);
    rows.flat_map(|y| (0..columns).step_by(multiple).map(move |x| y * columns + x))
        .filter_map(|i| mask.get(i).copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(values: &[f32], width: u32, height: u32) -> Picture {
        Picture::from_values(values, width, height, 1).unwrap()
    }

    #[test]
    fn masks_are_black_or_white() {
        let picture = grey(&[0.0; 4], 2, 2);
        let shape = Shape { width: 2, height: 2, channels: 3 };
        let read = |values: &[f32]| mask(&grey(values, 2, 2), &picture, shape);
        // 127 of 255 is black, 128 white.
        assert_eq!(read(&[-1.0, -0.004, 0.004, 1.0]).unwrap(), [0.0, 0.0, 1.0, 1.0]);
        assert_eq!(read(&[-1.0; 4]).unwrap_err().exit_code(), 2);
        assert_eq!(mask(&grey(&[1.0; 2], 1, 2), &picture, shape).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn latents_have_the_mask_of_their_first_pixel() {
        let mask: Vec<f32> = (0..24).map(|i| i as f32).collect();
        assert_eq!(shrink(&mask, [6, 4], 2), [0.0, 2.0, 4.0, 12.0, 14.0, 16.0]);
        assert_eq!(shrink(&mask, [6, 4], 1), mask);
    }
}
