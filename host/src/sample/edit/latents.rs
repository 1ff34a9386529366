//! Latents that a run begins from in place of a picture: what the sampler of another run left, made larger or smaller.

use std::path::Path;

use crate::error::{Error, Result};
use crate::tensors;

/// Latents of one picture, in the scale of the network.
#[derive(Clone, Debug)]
pub(super) struct Latents {
    values: Vec<f32>,
    channels: u32,
    /// Height and width.
    sides: [u32; 2],
}

impl Latents {
    /// Reads the tensor `x0` `[1, c, h, w]` of a safetensors file, as `--latents-out` writes it.
    ///
    /// # Errors
    /// A missing or damaged file, another shape, no value or one that is not finite; a usage error for latents of several pictures.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let (values, [n, channels, height, width]) = tensors::read_shaped(path, "x0", "[1, c, h, w]")?;
        if n != 1 {
            return Err(Error::usage(format!("{}: latents of {n} pictures, not of one", path.display()))
                .hint("one picture is edited at a time: make it with --count 1"));
        }
        if values.is_empty() {
            return Err(Error::failure(format!("{}: x0 holds no value", path.display())));
        }
        Ok(Self { values, channels, sides: [height, width] })
    }

    /// Width and height of a picture of them, where a side of latents is `multiple` times as long in pixels.
    pub(super) fn size(&self, multiple: u32) -> (u32, u32) {
        let [height, width] = self.sides.map(|side| side.saturating_mul(multiple));
        (width, height)
    }

    /// The same as `channels` planes of `height` rows and `width` columns, bilinearly between pixels' middles (PyTorch's `interpolate`
    /// without `align_corners`).
    ///
    /// # Errors
    /// A usage error for latents of other channels.
    pub(super) fn resized(&self, channels: u32, sides: [u32; 2]) -> Result<Vec<f32>> {
        if channels != self.channels {
            return Err(Error::usage(format!(
                "the latents have {} channels, and those of the model {channels}",
                self.channels
            )));
        }
        let [rows, columns] = [0, 1].map(|i| places(self.sides[i], sides[i]));
        let (width, plane) = (self.sides[1] as usize, self.sides[0] as usize * self.sides[1] as usize);
        let mut values = crate::memory::room(channels as usize * rows.len() * columns.len())?;
        for plane in self.values.chunks_exact(plane.max(1)) {
            for &([top, bottom], down) in &rows {
                let between = |a: f32, b: f32, part: f32| (1.0 - part) * a + part * b;
                values.extend(columns.iter().map(|&([left, right], across)| {
                    let row = |y: usize| between(plane[y * width + left], plane[y * width + right], across);
                    between(row(top), row(bottom), down)
                }));
            }
        }
        Ok(values)
    }
}

/// For each of `to` places along a side of `from`: the two places that it lies between, and how near it is to the second.
fn places(from: u32, to: u32) -> Vec<([usize; 2], f32)> {
    let step = f64::from(from) / f64::from(to.max(1));
    let place = |i: u32| {
        let at = ((f64::from(i) + 0.5) * step - 0.5).max(0.0);
        let first = (at as u32).min(from.saturating_sub(1));
        let second = (first + 1).min(from.saturating_sub(1));
        ([first as usize, second as usize], (at - f64::from(first)) as f32)
    };
    (0..to).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latents_are_interpolated_between_middles() {
        let latents = Latents { values: vec![0.0, 4.0], channels: 1, sides: [1, 2] };
        assert_eq!(latents.resized(1, [1, 2]).unwrap(), [0.0, 4.0]);
        assert_eq!(latents.resized(1, [1, 4]).unwrap(), [0.0, 1.0, 3.0, 4.0]);
        assert_eq!(latents.resized(1, [2, 1]).unwrap(), [2.0, 2.0]);
        assert_eq!(latents.resized(4, [1, 2]).unwrap_err().exit_code(), 2);
        assert_eq!(latents.size(8), (16, 8));
    }
}
