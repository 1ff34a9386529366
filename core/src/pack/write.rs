//! Writing a pack.

use super::settings::{SETTINGS, Settings};
use super::{
    ABI, CHECKED, FORMAT, HEADER, MAGIC, NODE_BYTES, NOTES_AT, PackError, SETTINGS_AT, TENSOR_BYTES, WEIGHT_BYTES,
    crc32,
};
use crate::nn::code::{self, TENSOR_PLACE};
use crate::nn::graph::{Graph, TensorId, Weight};
use crate::nn::plan::{Plan, Slot, Target, plan, slots_needed};
use crate::nn::weights::WeightData;

/// What a pack holds.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// The network.
    pub graph: &'a Graph<'a>,
    /// Its weights, in the graph's order.
    pub data: &'a [WeightData<'a>],
    /// The settings of a run.
    pub settings: Option<&'a Settings<'a>>,
    /// Text for programs with more memory; any.
    pub notes: &'a [u8],
}

/// Writes a pack, piece by piece, to `sink`, and returns the bytes of the arena that it needs. Goes over the weights twice: once for the checksum, once to write.
///
/// # Errors
/// [`PackError::Plan`], [`PackError::Sink`], [`PackError::Full`] when a weight's data doesn't fit the graph,
/// [`PackError::Settings`] when the table of alpha-bar has another length than the settings say.
pub fn write(
    contents: &Contents<'_>,
    slots: &mut [Slot],
    sink: &mut dyn FnMut(&[u8]) -> Result<(), ()>,
) -> Result<u64, PackError> {
    let Contents { graph, data, settings, notes } = *contents;
    let slots = slots.get_mut(..slots_needed(graph)).ok_or(PackError::Full)?;
    let plan = plan(graph, &Target::REFERENCE, slots).map_err(PackError::Plan)?;
    let fits = |(w, d): (&Weight, &WeightData<'_>)| d.len() as u64 == w.len();
    if data.len() != graph.weights.len() || !graph.weights.iter().zip(data).all(fits) {
        return Err(PackError::Full);
    }
    let section = match settings {
        Some(settings) if settings.alpha_bar.len() == settings.config.train_steps => {
            Some((settings.encode().ok_or(PackError::Settings)?, settings.alpha_bar))
        }
        Some(_) => return Err(PackError::Settings),
        None => None,
    };
    let parts = Parts { graph, plan: &plan, data, settings: section, notes };
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    let mut put = |at: usize, value: u32| header[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(8, FORMAT);
    put(12, ABI);
    put(28, graph.tensors.len() as u32);
    put(32, graph.nodes.len() as u32);
    put(36, graph.weights.len() as u32);
    put(40, u32::from(graph.output.0));
    put(44, u32::try_from(plan.bytes / 4).map_err(|_| PackError::Full)?);
    put(NOTES_AT, u32::try_from(notes.len()).map_err(|_| PackError::Full)?);
    put(SETTINGS_AT, parts.settings.map_or(0, |_| parts.tables_end() as u32));
    let (mut crc, mut length) = (crc32(0, &header[CHECKED..]), HEADER as u64);
    body(&parts, &mut |bytes| {
        crc = crc32(crc, bytes);
        length += bytes.len() as u64;
        Ok(())
    })?;
    header[16..24].copy_from_slice(&length.to_le_bytes());
    header[24..28].copy_from_slice(&crc.to_le_bytes());
    sink(&header).map_err(|()| PackError::Sink)?;
    body(&parts, sink)?;
    Ok(plan.bytes)
}

/// What is written.
#[derive(Clone, Copy)]
struct Parts<'a> {
    graph: &'a Graph<'a>,
    plan: &'a Plan<'a>,
    data: &'a [WeightData<'a>],
    settings: Option<([u8; SETTINGS], &'a [f32])>,
    notes: &'a [u8],
}

impl Parts<'_> {
    /// Bytes up to the end of the tables.
    fn tables_end(&self) -> usize {
        let Graph { nodes, tensors, weights, .. } = *self.graph;
        HEADER + tensors.len() * TENSOR_BYTES + nodes.len() * NODE_BYTES + weights.len() * WEIGHT_BYTES
    }
}

/// Everything after the header.
fn body(parts: &Parts<'_>, sink: &mut dyn FnMut(&[u8]) -> Result<(), ()>) -> Result<(), PackError> {
    let Parts { graph, plan, data, settings, notes } = *parts;
    let mut put = |bytes: &[u8]| sink(bytes).map_err(|()| PackError::Sink);
    for (i, tensor) in graph.tensors.iter().enumerate() {
        let id = TensorId(u16::try_from(i).map_err(|_| PackError::Full)?);
        let made_by = graph.nodes.iter().position(|node| node.output == id);
        let mut record = code::encode_tensor(*tensor, made_by.unwrap_or_default() as u32);
        let slot = plan.tensor(id);
        record[TENSOR_PLACE] = u32::try_from(slot.offset / 4).map_err(|_| PackError::Full)?;
        record[TENSOR_PLACE + 1] = u32::from(slot.lazy);
        record.iter().try_for_each(|word| put(&word.to_le_bytes()))?;
    }
    for node in graph.nodes {
        code::encode_node(node).iter().try_for_each(|word| put(&word.to_le_bytes()))?;
    }
    let padding = |bytes: usize| &[0_u8; 16][..bytes.next_multiple_of(16) - bytes];
    let table = settings.map_or(0, |(section, alpha_bar)| section.len() + (4 * alpha_bar.len()).next_multiple_of(16));
    let mut offset = parts.tables_end() + table;
    for (weight, data) in graph.weights.iter().zip(data) {
        let (kind, size, scales) = match data {
            WeightData::F32(w) => (0, 4 * w.len(), 0),
            WeightData::F16(w) => (1, 2 * w.len(), 0),
            WeightData::Bf16(w) => (2, 2 * w.len(), 0),
            WeightData::I8 { values, scales } => (3, values.len(), 4 * scales.len()),
            WeightData::Q4(w) => (4, w.values().len(), 2 * w.scales().len()),
        };
        let scales_at = offset + size.next_multiple_of(16);
        for word in weight.shape.into_iter().chain([code::role_code(weight.role), kind]) {
            put(&word.to_le_bytes())?;
        }
        put(&(offset as u64).to_le_bytes())?;
        put(&(if scales > 0 { scales_at as u64 } else { 0 }).to_le_bytes())?;
        put(&[0; 8])?;
        offset = scales_at + scales.next_multiple_of(16);
    }
    if let Some((section, alpha_bar)) = settings {
        put(&section)?;
        alpha_bar.iter().try_for_each(|value| put(&value.to_le_bytes()))?;
        put(padding(4 * alpha_bar.len()))?;
    }
    for data in data {
        let mut section = |len: usize, bytes: &mut dyn Iterator<Item = [u8; 4]>, size: usize| {
            for value in bytes {
                put(&value[..size])?;
            }
            put(padding(len * size))
        };
        let half = |w: &u16| {
            let [a, b] = w.to_le_bytes();
            [a, b, 0, 0]
        };
        match data {
            WeightData::F32(w) => section(w.len(), &mut w.iter().map(|w| w.to_le_bytes()), 4)?,
            WeightData::F16(w) | WeightData::Bf16(w) => section(w.len(), &mut w.iter().map(half), 2)?,
            WeightData::I8 { values, scales } => {
                section(values.len(), &mut values.iter().map(|w| [w.cast_unsigned(), 0, 0, 0]), 1)?;
                section(scales.len(), &mut scales.iter().map(|w| w.to_le_bytes()), 4)?;
            }
            WeightData::Q4(w) => {
                section(w.values().len(), &mut w.values().iter().map(|&w| [w, 0, 0, 0]), 1)?;
                section(w.scales().len(), &mut w.scales().iter().map(half), 2)?;
            }
        }
    }
    put(notes)
}
