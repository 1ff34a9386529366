//! What a run makes, on its way into files.

use std::path::{Path, PathBuf};

use super::output::Output;
use super::setup::Setup;
use crate::error::{Error, Result};
use crate::files;
use crate::image::Picture;
use crate::memory;
use crate::model::Fingerprint;
use crate::recipe::Recipe;
use crate::tensors::write_latents;

/// The most values that are kept for a latents file: 1 GiB.
const MOST_LATENTS: u64 = 1 << 28;

/// A recipe whose weights' fingerprint is still being computed.
#[derive(Debug)]
pub(super) struct Pending {
    recipe: Recipe,
    fingerprint: Option<Fingerprint>,
}

impl Pending {
    pub(super) fn new(recipe: Recipe, fingerprint: Fingerprint) -> Self {
        Self { recipe, fingerprint: Some(fingerprint) }
    }

    /// The whole recipe; waits for the fingerprint.
    fn get(&mut self) -> Result<&Recipe> {
        if let Some(fingerprint) = self.fingerprint.take() {
            self.recipe.weights_sha256 = fingerprint.finish()?;
        }
        Ok(&self.recipe)
    }
}

/// Where latents go, checked before the run.
#[derive(Debug)]
pub(super) struct Latents {
    path: PathBuf,
    values: Vec<f32>,
}

impl Latents {
    pub(super) fn new(path: &Path, setup: &Setup, pictures: &Path) -> Result<Self> {
        files::check_target(path)?;
        if path == pictures {
            return Err(Error::usage("--latents-out and --out name the same file"));
        }
        if u64::from(setup.count).saturating_mul(setup.image_len() as u64) > MOST_LATENTS {
            return Err(Error::usage("--latents-out would be too large").hint("give a smaller --count"));
        }
        Ok(Self { path: path.to_path_buf(), values: Vec::new() })
    }
}

/// Takes the images of a run, batch by batch, and writes them.
#[derive(Debug)]
pub(super) struct Collector<'a> {
    setup: &'a Setup,
    output: Output,
    latents: Option<Latents>,
    recipe: Pending,
    pictures: Vec<Picture>,
    files: Vec<PathBuf>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(setup: &'a Setup, output: Output, latents: Option<Latents>, recipe: Pending) -> Self {
        Self { setup, output, latents, recipe, pictures: Vec::new(), files: Vec::new() }
    }

    /// Takes the values `[n, c, h, w]` of the images from number `first` on. Files of single images are written now.
    pub(super) fn take(&mut self, first: u64, values: &[f32]) -> Result<()> {
        let Setup { width, height, channels, .. } = *self.setup;
        if let Some(latents) = &mut self.latents {
            memory::extend(&mut latents.values, values)?;
        }
        for (i, values) in (first..).zip(values.chunks_exact(self.setup.image_len())) {
            let picture = Picture::from_values(values, width, height, channels)?;
            match self.output.each() {
                true => self.files.push(self.output.write_each(&picture, i, self.recipe.get()?)?),
                false => self.pictures.push(picture),
            }
        }
        Ok(())
    }

    /// Writes what is left to write. Returns the picture files and the recipe.
    pub(super) fn finish(mut self) -> Result<(Vec<PathBuf>, Recipe)> {
        let Setup { width, height, channels, count, .. } = *self.setup;
        if let Some(latents) = &self.latents {
            write_latents(&latents.path, &latents.values, [count, channels, height, width])?;
        }
        if !self.output.each() {
            self.files.push(self.output.write_all(&self.pictures, self.recipe.get()?)?);
        }
        self.recipe.get()?;
        Ok((self.files, self.recipe.recipe))
    }
}
