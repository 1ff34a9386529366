//! What there was and what became of it, side by side.

use crate::error::Result;
use crate::image::{Deep, Picture, sheet};

/// The colour of what is missing: in no grey picture.
const MISSING: [f32; 3] = [1.0, -0.2, 0.6];
/// How much brighter uncertainty is shown.
const BRIGHTER: f32 = 5.0;

/// The parts of a strip, from the left.
pub(super) struct Strip<'a> {
    /// The picture, and where its pixels are missing.
    pub(super) before: (&'a Deep, Option<&'a [f32]>),
    pub(super) result: &'a Deep,
    pub(super) uncertainty: Option<&'a Deep>,
    pub(super) reference: Option<&'a Deep>,
}

impl Strip<'_> {
    /// Draws it, RGB; a smaller picture is shown with larger pixels.
    ///
    /// # Errors
    /// Those of [`sheet`].
    pub(super) fn draw(&self) -> Result<Picture> {
        let size = (self.result.width, self.result.height);
        let brighter = |v: f32| (v + 1.0) * BRIGHTER - 1.0;
        let mut parts = vec![part(self.before.0, self.before.1, size, &|v| v)?, part(self.result, None, size, &|v| v)?];
        if let Some(uncertainty) = self.uncertainty {
            parts.push(part(uncertainty, None, size, &brighter)?);
        }
        if let Some(reference) = self.reference {
            parts.push(part(reference, None, size, &|v| v)?);
        }
        sheet(&parts, parts.len() as u32)
    }
}

fn part(
    picture: &Deep,
    missing: Option<&[f32]>,
    (width, height): (u32, u32),
    shown: &dyn Fn(f32) -> f32,
) -> Result<Picture> {
    let (w, h) = (picture.width as usize, picture.height as usize);
    let mut values = Vec::with_capacity(3 * width as usize * height as usize);
    for (c, colour) in MISSING.iter().enumerate() {
        let plane = if picture.channels == 1 { 0 } else { c * w * h };
        for y in 0..height as usize {
            for x in 0..width as usize {
                let at = y * h / height as usize * w + x * w / width as usize;
                let lost = missing.is_some_and(|missing| missing[at] > 0.5);
                values.push(if lost { *colour } else { shown(picture.values[plane + at]) });
            }
        }
    }
    Picture::from_values(&values, width, height, 3)
}
