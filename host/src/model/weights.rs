//! Weights by name: files of tensors, mapped and checked before any of them is used.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use unfog_core::nn::weights::WeightData;

use super::changed::Changed;
use super::hash::Fingerprint;
use super::index::{Entry, Index, TensorKind};
use super::mapped::Bytes;
use super::network::Network;
use super::packed;
use crate::error::{Error, Result};
use crate::memory;

/// A file of weights.
#[derive(Debug)]
pub(crate) struct WeightFile {
    pub(crate) name: String,
    pub(crate) bytes: Bytes,
}

/// The type in which a weight's values lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    F32,
    F16,
    Bf16,
}

/// Where a weight's values are.
#[derive(Debug)]
enum Place {
    /// In a file, aligned.
    File(usize, Range<usize>),
    /// In a copy, because they are not aligned in their file or lie otherwise there. Words of 4 bytes, so that every type fits; the length
    /// in bytes.
    Copy(Vec<u32>, usize),
}

/// All weights of a network, in the graph's order: there, of the right shape, finite.
#[derive(Debug)]
pub struct Weights {
    files: Vec<Arc<WeightFile>>,
    places: Places,
    /// What is used in place of what the files hold, by the weights' numbers.
    pub(super) changed: BTreeMap<usize, Changed>,
}

/// Where weights are.
#[derive(Debug)]
enum Places {
    /// Each somewhere in a file of named tensors.
    Named(Vec<(Stored, Place)>),
    /// So many in a pack.
    Packed(usize),
}

/// A tensor of a file, or a part of one.
struct Found<'i> {
    kind: &'i TensorKind,
    shape: Vec<usize>,
    file: usize,
    range: Range<usize>,
    transposed: bool,
}

impl Weights {
    /// Finds every weight of `network` in `files` and checks it.
    ///
    /// # Errors
    /// A damaged file; a weight that is missing, of a type other than f32, f16 and bf16, of another shape, or not finite.
    pub(crate) fn load(files: Vec<Arc<WeightFile>>, network: &Network) -> Result<Self> {
        Self::load_as(files, network, own_names)
    }

    /// As [`Self::load`]; `names` says under which names the files may hold a weight.
    ///
    /// # Errors
    /// Those of [`Self::load`].
    pub(super) fn load_as(
        files: Vec<Arc<WeightFile>>,
        network: &Network,
        names: impl Fn(&str) -> Vec<StoredName>,
    ) -> Result<Self> {
        let indices = files.iter().map(|file| Index::read(file)).collect::<Result<Vec<_>>>()?;
        let mut places = Vec::with_capacity(network.names().len());
        for (name, weight) in network.names().iter().zip(network.graph().weights) {
            let found = find(&indices, &names(name)).ok_or_else(|| missing(&files, name))?;
            let file = &files[found.file];
            let complain = |what: String| Error::failure(format!("{}: weight {name} {what}", file.name));
            // Parameters that torch broadcasts have sides of one in front; and a table of one row may be that row.
            let ones = found.shape.iter().take_while(|&&n| n == 1).count();
            let fits = |first| {
                let [front, rest @ ..] = weight.shape;
                let found = padded(&found.shape[first..]);
                found == Some(weight.shape) || front == 1 && found == Some([rest[0], rest[1], rest[2], 1])
            };
            if !(0..=ones).any(fits) {
                let expected: Vec<u32> = trimmed(weight.shape);
                return Err(complain(format!("has the shape {:?}, expected {expected:?}", found.shape)));
            }
            let bytes = &file.bytes[found.range.clone()];
            let stored = match found.kind {
                TensorKind::F32 => Stored::F32,
                TensorKind::F16 => Stored::F16,
                TensorKind::Bf16 => Stored::Bf16,
                TensorKind::Blocks(_) => Stored::F16,
                TensorKind::Other(other) => {
                    return Err(complain(format!("has the type {other}, expected F32, F16 or BF16")));
                }
            };
            let (stored, place) = match (found.kind, view(stored, bytes)) {
                (TensorKind::Blocks(blocks), _) => {
                    memory::check(2 * weight.len(), "the weights in memory")?;
                    let (words, half) = blocks.read(bytes, weight.len() as usize)?;
                    let (stored, size) = if half { (Stored::F16, 2) } else { (Stored::F32, 4) };
                    (stored, Place::Copy(words, weight.len() as usize * size))
                }
                (_, Some(_)) => (stored, Place::File(found.file, found.range)),
                (_, None) => (stored, Place::Copy(copy(bytes)?, bytes.len())),
            };
            let place = match found.transposed {
                true => transpose(place, &files, weight.shape, stored)?,
                false => place,
            };
            places.push((stored, place));
        }
        let weights = Self { files, places: Places::Named(places), changed: BTreeMap::new() };
        weights.check_finite(network)?;
        Ok(weights)
    }

    /// The weights of `network` in the pack that it came from.
    ///
    /// # Errors
    /// A weight that is not finite.
    pub(crate) fn packed(file: Arc<WeightFile>, network: &Network) -> Result<Self> {
        let places = Places::Packed(network.names().len());
        let weights = Self { files: vec![file], places, changed: BTreeMap::new() };
        weights.check_finite(network)?;
        Ok(weights)
    }

    /// The values, in the graph's order.
    pub fn data(&self) -> Vec<WeightData<'_>> {
        let bytes = |place| match place {
            &Place::File(file, ref range) => &self.files[file].bytes[range.clone()],
            Place::Copy(words, len) => &bytemuck::cast_slice(words)[..*len],
        };
        let mut data: Vec<_> = match (&self.places, self.files.first()) {
            // Every place was made so that its view exists.
            (Places::Named(places), _) => {
                places.iter().filter_map(|(stored, place)| view(*stored, bytes(place))).collect()
            }
            (Places::Packed(count), Some(file)) => packed::weights(&file.bytes, *count),
            (Places::Packed(_), None) => Vec::new(),
        };
        for (i, changed) in &self.changed {
            data.get_mut(*i).into_iter().for_each(|data| *data = changed.view());
        }
        data
    }

    /// Starts to compute the fingerprint of the files of these weights, one after the other, each once.
    pub fn fingerprint_of(all: &[&Self]) -> Fingerprint {
        let mut files: Vec<Arc<WeightFile>> = Vec::new();
        for file in all.iter().flat_map(|weights| &weights.files) {
            // Several networks may lie in one file.
            if !files.iter().any(|known| Arc::ptr_eq(known, file)) {
                files.push(file.clone());
            }
        }
        Fingerprint::start(&files)
    }

    /// Starts to compute the fingerprint of their files.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::start(&self.files)
    }

    /// Bytes of the weights as they are stored.
    pub fn bytes(&self) -> u64 {
        self.data().into_iter().map(WeightData::bytes).sum()
    }

    fn check_finite(&self, network: &Network) -> Result<()> {
        for (name, data) in network.names().iter().zip(self.data()) {
            let position = match data {
                WeightData::F32(w) => w.iter().position(|w| !w.is_finite()),
                WeightData::F16(w) => w.iter().position(|w| w & 0x7c00 == 0x7c00),
                WeightData::Bf16(w) => w.iter().position(|w| w & 0x7f80 == 0x7f80),
                WeightData::I8 { scales, .. } => scales.iter().position(|w| !w.is_finite()),
                WeightData::Q4(w) => w.scales().iter().position(|w| w & 0x7c00 == 0x7c00),
            };
            if let Some(i) = position {
                let what = match data {
                    WeightData::I8 { .. } | WeightData::Q4(_) => format!("has scale {i}, which is no finite number"),
                    _ => format!("is {} at index {i}", data.at(i)),
                };
                return Err(Error::failure(format!("weight {name} {what}"))
                    .hint("the file is damaged, or its training diverged"));
            }
        }
        Ok(())
    }
}

/// A name under which a file may hold a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredName {
    pub(super) name: String,
    /// Of a tensor that holds several weights, one after the other along its first side: which one, of how many.
    pub(super) part: Option<(usize, usize)>,
    /// Whether its matrix has its rows as columns.
    pub(super) transposed: bool,
}

impl StoredName {
    /// A name of a tensor that holds one weight.
    pub(super) fn whole(name: String) -> Self {
        Self { name, part: None, transposed: false }
    }
}

/// The names that diffusers and transformers give a weight.
fn own_names(name: &str) -> Vec<StoredName> {
    // transformers 5 saves a bare text encoder without its prefix.
    let bare = name.strip_prefix("text_model.").map(str::to_owned);
    [Some(name.to_owned()), old_name(name), bare].into_iter().flatten().map(StoredName::whole).collect()
}

fn find<'i>(indices: &'i [Index], names: &[StoredName]) -> Option<Found<'i>> {
    names.iter().find_map(|StoredName { name, part, transposed }| {
        indices.iter().enumerate().find_map(|(file, index)| {
            let Entry { kind, shape, range } = index.get(name)?;
            let (mut shape, mut range) = (shape.clone(), range.clone());
            if let (Some((index, count)), Some(first)) = (*part, shape.first_mut()) {
                // What does not divide keeps its shape, and is refused for it.
                if *first % count == 0 && range.len() % (count * kind.block_bytes()) == 0 {
                    *first /= count;
                    let length = range.len() / count;
                    range = range.start + index * length..range.start + (index + 1) * length;
                }
            }
            if let (true, [rows, columns]) = (transposed, &mut shape[..]) {
                std::mem::swap(rows, columns);
            }
            Some(Found { kind, shape, file, range, transposed: *transposed })
        })
    })
}

/// The shapes of all tensors in a file, by name.
///
/// # Errors
/// A damaged file.
pub(super) fn shapes(file: &WeightFile) -> Result<BTreeMap<String, Vec<usize>>> {
    Ok(Index::read(file)?.shapes())
}

/// The whole number (i64) in the tensor `name` of a file, if there is such a tensor.
///
/// # Errors
/// A damaged file.
pub(super) fn whole_number(file: &WeightFile, name: &str) -> Result<Option<i64>> {
    let index = Index::read(file)?;
    let Some(entry) = index.get(name).filter(|entry| entry.kind == TensorKind::Other("I64".into())) else {
        return Ok(None);
    };
    Ok(file.bytes[entry.range.clone()].try_into().ok().map(i64::from_le_bytes))
}

/// The name that an attention's weight had before diffusers 0.15 (`_convert_deprecated_attention_blocks` there).
fn old_name(name: &str) -> Option<String> {
    [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")]
        .into_iter()
        .find(|(new, _)| name.contains(new))
        .map(|(new, old)| name.replacen(new, old, 1))
}

fn missing(files: &[Arc<WeightFile>], name: &str) -> Error {
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    Error::failure(format!("{} lacks the weight {name}", names.join(", ")))
        .hint("config.json describes another network than the weights")
}

/// A shape with ones appended up to four dimensions, as the graph has it.
fn padded(shape: &[usize]) -> Option<[u32; 4]> {
    let mut padded = [1; 4];
    for (i, &n) in shape.iter().enumerate() {
        let n = u32::try_from(n).ok()?;
        match padded.get_mut(i) {
            Some(space) => *space = n,
            None if n == 1 => {}
            None => return None,
        }
    }
    Some(padded)
}

/// A shape without the ones at its end, for messages.
fn trimmed(shape: [u32; 4]) -> Vec<u32> {
    let len = shape.iter().rposition(|&n| n != 1).map_or(1, |last| last + 1);
    shape[..len].to_vec()
}

/// The values in `bytes`, unless they are misaligned.
fn view(stored: Stored, bytes: &[u8]) -> Option<WeightData<'_>> {
    match stored {
        Stored::F32 => bytemuck::try_cast_slice(bytes).ok().map(WeightData::F32),
        Stored::F16 => bytemuck::try_cast_slice(bytes).ok().map(WeightData::F16),
        Stored::Bf16 => bytemuck::try_cast_slice(bytes).ok().map(WeightData::Bf16),
    }
}

/// A copy of the matrix of `shape` that lies at `place` with its rows as columns.
fn transpose(place: Place, files: &[Arc<WeightFile>], shape: [u32; 4], stored: Stored) -> Result<Place> {
    let bytes = match &place {
        Place::File(file, range) => &files[*file].bytes[range.clone()],
        Place::Copy(words, len) => &bytemuck::cast_slice(words)[..*len],
    };
    let size = if stored == Stored::F32 { 4 } else { 2 };
    let [rows, columns] = [shape[0] as usize, shape[1] as usize];
    let mut words = memory::vec(bytes.len().div_ceil(4), 0_u32)?;
    let turned = bytemuck::cast_slice_mut::<u32, u8>(&mut words).chunks_exact_mut(size);
    for (i, value) in turned.take(rows * columns).enumerate() {
        let from = i % columns * rows + i / columns;
        value.copy_from_slice(&bytes[from * size..][..size]);
    }
    Ok(Place::Copy(words, bytes.len()))
}

fn copy(bytes: &[u8]) -> Result<Vec<u32>> {
    let mut words = memory::vec(bytes.len().div_ceil(4), 0_u32)?;
    bytemuck::cast_slice_mut::<u32, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
    Ok(words)
}
