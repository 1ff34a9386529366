//! A model as one flat file ([`unfog_core::pack`]), for firmware and for a fast start: the network, and what its scheduler says
//! about a run.

use std::path::Path;

use unfog_core::nn::graph::{Weight, WeightUse};
use unfog_core::nn::plan::{Slot, slots_needed};
use unfog_core::nn::weights::{WeightData, f32_to_f16};
use unfog_core::pack::{self, PackError, quantise, write};

use crate::error::{Error, Result};
use crate::files;
use crate::memory;
use crate::model::Model;
use crate::settings::{Settings, Wishes};

/// How a pack stores the kernels of convolutions and linear layers. Biases and norms stay f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// 32-bit floats.
    #[default]
    F32,
    /// Half floats.
    F16,
    /// 8-bit integers with a scale for each output channel: a quarter of the bytes.
    Int8,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes that the activations of one image take.
    pub arena_bytes: u64,
}

/// A weight's values in the type in which the pack holds them.
enum Stored {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Int8(Vec<i8>, Vec<f32>),
}

impl Stored {
    /// `None` for a value that half floats can't hold.
    fn new(weight: &Weight, data: WeightData<'_>, storage: Storage) -> Result<Option<Self>> {
        let values = (0..data.len()).map(|i| data.at(i));
        Ok(match (storage, weight.role) {
            (Storage::F16, WeightUse::Kernel) => {
                let mut halves = memory::room(data.len())?;
                halves.extend(values.map_while(f32_to_f16));
                (halves.len() == data.len()).then_some(Self::F16(halves))
            }
            (Storage::Int8, WeightUse::Kernel) => {
                let mut integers = memory::vec(data.len(), 0)?;
                let mut scales = memory::vec(weight.shape[0] as usize, 0.0)?;
                let fits = quantise(weight, data, &mut integers, &mut scales).is_some();
                fits.then_some(Self::Int8(integers, scales))
            }
            _ => Some(Self::F32(memory::collect(values)?)),
        })
    }

    fn view(&self) -> WeightData<'_> {
        match self {
            Self::F32(values) => WeightData::F32(values),
            Self::F16(values) => WeightData::F16(values),
            Self::Int8(values, scales) => WeightData::I8 { values, scales },
        }
    }
}

/// Packs `model` for pictures of `size` (width and height; its own if absent) into the file `out`.
///
/// # Errors
/// A model that is not whole; a size that it can't take; a weight too large for half floats; a file that can't be written.
pub fn pack(model: &Model, size: Option<(u32, u32)>, storage: Storage, out: &Path) -> Result<Packed> {
    files::check_target(out)?;
    let (width, height) = model.picture_size(size)?;
    let network = model.network(height, width)?;
    let graph = network.graph();
    let weights = model.weights(&network)?;
    let stored = weights.data().into_iter().zip(graph.weights).zip(network.names()).map(|((data, weight), name)| {
        Stored::new(weight, data, storage)?
            .ok_or_else(|| Error::failure(format!("weight {name} is too large for half floats")).hint("try f32"))
    });
    let stored = stored.collect::<Result<Vec<_>>>()?;
    let data: Vec<WeightData<'_>> = stored.iter().map(Stored::view).collect();
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
