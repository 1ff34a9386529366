//! What a run makes, on its way into files.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::output::Output;
use super::preview::Preview;
use super::produce::Sink;
use super::setup::{Setup, Shape};
use crate::error::{Error, Result};
use crate::files;
use crate::image::Picture;
use crate::memory;
use crate::model::Fingerprint;
use crate::recipe::Recipe;
use crate::tensors::write_f32s;

/// The most values that are kept for a latents file: 1 GiB.
const MOST_LATENTS: u64 = 1 << 28;

/// A recipe whose fingerprints are still being computed.
#[derive(Debug)]
pub(super) struct Pending {
    recipe: Recipe,
    fingerprint: Option<Fingerprint>,
    /// Those of files beside the model, as [`Recipe::files`] has them.
    others: Vec<Fingerprint>,
}

impl Pending {
    pub(super) fn new(recipe: Recipe, fingerprint: Fingerprint, others: Vec<Fingerprint>) -> Self {
        Self { recipe, fingerprint: Some(fingerprint), others }
    }

    /// The whole recipe; waits for the fingerprints.
    pub(super) fn get(&mut self) -> Result<&Recipe> {
        if let Some(fingerprint) = self.fingerprint.take() {
            self.recipe.weights_sha256 = fingerprint.finish()?;
            for (sha256, fingerprint) in self.recipe.files().zip(self.others.drain(..)) {
                *sha256 = fingerprint.finish()?;
            }
        }
        Ok(&self.recipe)
    }
}

/// Where latents go, checked before the run.
#[derive(Debug)]
pub(super) struct Latents {
    path: PathBuf,
    values: Vec<f32>,
    /// What one stage handed to the next, with its name and shape.
    between: Vec<(&'static str, Vec<f32>, Vec<usize>)>,
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
        Ok(Self { path: path.to_path_buf(), values: Vec::new(), between: Vec::new() })
    }
}

/// Takes the images of a run, batch by batch, and writes them.
#[derive(Debug)]
pub(super) struct Collector<'a> {
    setup: &'a Setup,
    output: Output,
    latents: Option<Latents>,
    preview: Option<Preview>,
    /// There once the backend is open.
    recipe: Option<Pending>,
    opened: Option<Instant>,
    pictures: Vec<Picture>,
    files: Vec<PathBuf>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(setup: &'a Setup, output: Output, latents: Option<Latents>, preview: Option<Preview>) -> Self {
        Self { setup, output, latents, preview, recipe: None, opened: None, pictures: Vec::new(), files: Vec::new() }
    }

    /// When the backend was open.
    pub(super) fn opened_at(&self) -> Option<Instant> {
        self.opened
    }

    /// Writes what is left to write. Returns the picture files and the recipe.
    pub(super) fn finish(mut self) -> Result<(Vec<PathBuf>, Recipe)> {
        let Setup { width, height, channels, count, .. } = *self.setup;
        let mut recipe = self.recipe.ok_or_else(|| Error::failure("nothing was made"))?;
        if let Some(latents) = &self.latents {
            let shape = [count, channels, height, width].map(|n| n as usize);
            let between = latents.between.iter().map(|(name, values, shape)| (*name, &values[..], &shape[..]));
            let all: Vec<_> = std::iter::once(("x0", &latents.values[..], &shape[..])).chain(between).collect();
            write_f32s(&latents.path, &all)?;
        }
        if !self.output.each() {
            self.files.push(self.output.write_all(&self.pictures, recipe.get()?)?);
        }
        recipe.get()?;
        Ok((self.files, recipe.recipe))
    }
}

impl Sink for Collector<'_> {
    fn opened(&mut self, recipe: Pending) -> Result<()> {
        (self.recipe, self.opened) = (Some(recipe), Some(Instant::now()));
        Ok(())
    }

    fn tiled(&mut self, tile: u32) {
        if let Some(pending) = &mut self.recipe {
            pending.recipe.vae_tile = Some(tile);
        }
    }

    fn glimpse(&mut self, step: usize, x0: &[f32]) -> Result<()> {
        self.preview.as_mut().map_or(Ok(()), |preview| preview.show(step, x0))
    }

    fn sampled(&mut self, values: &[f32]) -> Result<()> {
        match &mut self.latents {
            Some(latents) => memory::extend(&mut latents.values, values),
            None => Ok(()),
        }
    }

    fn between(&mut self, name: &'static str, values: &[f32], shape: &[u32]) -> Result<()> {
        let Some(latents) = &mut self.latents else { return Ok(()) };
        let mut kept = Vec::new();
        memory::extend(&mut kept, values)?;
        latents.between.push((name, kept, shape.iter().map(|n| *n as usize).collect()));
        Ok(())
    }

    /// Files of single images are written now.
    fn pictures(&mut self, first: u64, values: &[f32]) -> Result<()> {
        let Shape { width, height, channels } = self.setup.picture;
        for (i, values) in (first..).zip(values.chunks_exact(self.setup.picture.len())) {
            let picture = Picture::from_values(values, width, height, channels)?;
            match (self.output.each(), &mut self.recipe) {
                (true, Some(recipe)) => self.files.push(self.output.write_each(&picture, i, recipe.get()?)?),
                _ => self.pictures.push(picture),
            }
        }
        Ok(())
    }
}
