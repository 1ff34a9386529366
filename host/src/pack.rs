//! A model as one flat file ([`unfog_core::pack`]), for firmware and for a fast start: the network, and what its scheduler says
//! about a run.

use std::path::Path;

use unfog_core::nn::plan::{Slot, slots_needed};
use unfog_core::pack::{self, PackError, write};

use crate::backend::{Narrowed, Precision};
use crate::error::{Error, Result};
use crate::files;
use crate::model::Model;
use crate::settings::{Settings, Wishes};

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes that the activations of one image take.
    pub arena_bytes: u64,
}

/// Packs `model` for pictures of `size` (width and height; its own if absent) into the file `out`, kernels in `precision`. Biases and
/// norms stay f32.
///
/// # Errors
/// A model that is not whole; a size that it can't take; a weight that `precision` can't hold; a file that can't be written.
pub fn pack(model: &Model, size: Option<(u32, u32)>, precision: Precision, out: &Path) -> Result<Packed> {
    files::check_target(out)?;
    let (width, height) = model.picture_size(size)?;
    let network = model.network(height, width)?;
    let graph = network.graph();
    let weights = model.weights(&network)?;
    let data = weights.data();
    let narrowed = Narrowed::packed(&network, &data, precision)?;
    let data = narrowed.data(&data);
    let wishes = Wishes { tokens: width.checked_mul(height), ..Wishes::default() };
    // A model that says nothing of a run makes a pack that says nothing.
    let settings = model.scheduler()?.map(|scheduler| Settings::new(Some(scheduler), &wishes)).transpose()?;
    if settings.as_ref().is_some_and(|settings| !settings.is_of_core()) {
        return Err(Error::failure(format!(
            "the scheduler of {} makes its noise levels in a way that packs can't hold",
            model.name()
        ))
        .hint("pack the model with another class in its scheduler_config.json, and choose the levels where it runs"));
    }
    let mut tables = settings.as_ref().map(Settings::tables).transpose()?;
    let alpha_bar = match &mut tables {
        Some(tables) => tables.schedule()?.alpha_bar(),
        None => &[],
    };
    let section = settings.as_ref().map(|settings| pack::Settings::new(&settings.config, settings.sampler, alpha_bar));
    let notes = model.index_text()?;
    let contents = pack::Contents { graph: &graph, data: &data, settings: section.as_ref(), notes: &notes };
    let mut slots = vec![Slot::default(); slots_needed(&graph)];
    let (mut bytes, mut arena_bytes) = (0, 0);
    files::write(out, |file| {
        let mut cause = None;
        let result = write(&contents, &mut slots, &mut |piece| {
            bytes += piece.len() as u64;
            file.write_all(piece).map_err(|e| cause = Some(e))
        });
        match (result, cause) {
            (_, Some(cause)) => Err(files::cannot_write(out, cause)),
            (Ok(arena), None) => {
                arena_bytes = arena;
                Ok(())
            }
            (Err(e), None) => Err(explain(e)),
        }
    })?;
    Ok(Packed { bytes, arena_bytes })
}

fn explain(e: PackError) -> Error {
    Error::failure(format!("the network can't be packed: {e:?}"))
}
