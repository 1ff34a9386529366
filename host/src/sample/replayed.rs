//! The pictures of a recipe, made again.

use super::collect::Pending;
use super::produce::{Sink, produce};
use super::{Event, Options, Setup, Shape};
use crate::error::{Error, Result};
use crate::image::{Picture, sheet, sheet_layout};
use crate::model::Model;
use crate::recipe::Recipe;
use crate::stop::Stop;

/// Makes what `sample` with these options writes into one file, of weights with this fingerprint, which is looked at before the first
/// step: the picture, or the sheet, and its recipe.
///
/// # Errors
/// Those of [`super::sample`]; other weights.
pub(crate) fn again(
    model: &Model,
    options: &Options,
    setup: &Setup,
    recorded: &Recipe,
    stop: &Stop,
    report: &mut dyn FnMut(Event),
) -> Result<(Picture, Recipe)> {
    let mut made = Again { recorded, model: model.name(), shape: setup.picture, recipe: None, pictures: Vec::new() };
    produce(model, options, setup, stop, report, &mut made)?;
    let nothing = || Error::failure("nothing was made");
    let recipe = made.recipe.ok_or_else(nothing)?;
    let picture = match &made.pictures[..] {
        [first, _, ..] => {
            let (columns, _) = sheet_layout(made.pictures.len() as u32, first.width(), first.height());
            sheet(&made.pictures, columns)?
        }
        _ => made.pictures.pop().ok_or_else(nothing)?,
    };
    Ok((picture, recipe))
}

/// Takes the pictures of a run that is made again.
struct Again<'a> {
    recorded: &'a Recipe,
    model: &'a str,
    shape: Shape,
    recipe: Option<Recipe>,
    pictures: Vec<Picture>,
}

impl Sink for Again<'_> {
    fn opened(&mut self, mut recipe: Pending) -> Result<()> {
        let mut recipe = recipe.get()?.clone();
        if recipe.edit != self.recorded.edit {
            return Err(Error::failure(
                "the picture that it was made from, or its mask, is another than that of the recipe",
            ));
        }
        let mut recorded = self.recorded.clone();
        if !recipe.files().map(|sha256| &*sha256).eq(recorded.files().map(|sha256| &*sha256)) {
            return Err(Error::failure(
                "the files beside the model (LoRAs, embeddings, controls) are others than those of the recipe",
            ));
        }
        if recipe.weights_sha256 != recorded.weights_sha256 {
            return Err(Error::failure(format!(
                "the weights of {} are others than those of the recipe: their sha256 is {} and was {}",
                self.model, recipe.weights_sha256, recorded.weights_sha256
            ))
            .hint("say with --model where the model is now"));
        }
        self.recipe = Some(recipe);
        Ok(())
    }

    fn tiled(&mut self, tile: u32) {
        if let Some(recipe) = &mut self.recipe {
            recipe.vae_tile = Some(tile);
        }
    }

    fn glimpse(&mut self, _: usize, _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn sampled(&mut self, _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn pictures(&mut self, _: u64, values: &[f32]) -> Result<()> {
        let Shape { width, height, channels } = self.shape;
        for values in values.chunks_exact(self.shape.len()) {
            self.pictures.push(Picture::from_values(values, width, height, channels)?);
        }
        Ok(())
    }
}
