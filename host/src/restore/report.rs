//! What was done to a picture, for those who must know.

use std::path::Path;

use serde::Serialize;

use super::{Entry, Quality};
use crate::error::{Error, Result};
use crate::files;
use crate::recipe::Recipe;

/// What everyone should know of restored pictures.
pub(super) const NOTICE: &str = "Not for diagnosis: a diffusion model may show what was not there and lose what was.";

/// A report.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    notice: &'static str,
    input: &'a Path,
    output: &'a Path,
    /// Standard deviation of the noise that was assumed, of 255.
    noise: f32,
    #[serde(flatten)]
    quality: Option<Quality>,
    /// How far samples lie apart, if there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    uncertainty: Option<Uncertainty>,
    recipe: &'a Recipe,
}

/// The samples' standard deviation, of 255.
#[derive(Serialize)]
struct Uncertainty {
    mean: f64,
    largest: f64,
}

impl<'a> Report<'a> {
    /// The report of a picture. `deviation`: the samples' standard deviation, for values from -1 to 1.
    pub(super) fn new(entry: &'a Entry, deviation: &[f32], recipe: &'a Recipe) -> Self {
        let Entry { input, output, noise, quality, .. } = entry;
        let values = || deviation.iter().map(|v| f64::from(*v) * 127.5);
        let uncertainty = (!deviation.is_empty()).then(|| Uncertainty {
            mean: values().sum::<f64>() / deviation.len() as f64,
            largest: values().fold(0.0, f64::max),
        });
        Self { notice: NOTICE, input, output, noise: *noise, quality: *quality, uncertainty, recipe }
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// Those of [`files::write`].
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
            Error::failure(format!("can't write {}", path.display())).because(e)
        };
        let text = serde_json::to_string_pretty(self).map_err(|e| failed(e.into()))?;
        files::write(path, |out| writeln!(out, "{text}").map_err(|e| failed(e.into())))
    }
}
