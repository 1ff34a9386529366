//! A model as one flat file that needs no file system and no allocator: the graph, its plan and the weights, read where
//! they lie in flash or in a mapped file.
//!
//! Little-endian throughout; every section starts at a multiple of 16 bytes:
//!
//! | part | content |
//! | --- | --- |
//! | header, 64 bytes | "unfogpak", [`FORMAT`], [`ABI`], length u64, CRC-32 of all that follows it, numbers of tensors, nodes and weights, the output's id, f32 values of the arena for one image, offset of the settings or 0, bytes of the notes |
//! | tensors | 48 bytes each, [`crate::nn::code`]; then the place in the arena (values before it), and 1 if it is not stored |
//! | nodes | 80 bytes each, in the order of execution |
//! | weights | 48 bytes each: shape, use, type, offset of the values, offset of the scales (int8, [`Q4`]) |
//! | settings | 256 bytes: the sampler's name, the numbers of [`crate::config::Config`]; then alpha-bar of each timestep |
//! | notes | text that programs with more memory know to read (the host: a model_index.json), at the end of the file |
//! | data | the weights' values, each weight at a multiple of 16 |
//!
//! [`Pack::open`] checks the header and the checksum. From there, [`crate::nn::exec::Exec::packed`] runs the network without any
//! memory but the arena, and [`Pack::load`] rebuilds the graph for other backends. Both go once over all records, so that
//! a damaged or hostile file is refused by the rules that any graph obeys.

mod check;
mod quantise;
mod settings;
mod write;

#[cfg(test)]
mod tests;

use crate::nn::code::{self, NODE, TENSOR, TENSOR_PLACE};
use crate::nn::graph::{Graph, GraphBuilder, GraphError, Node, Tensor, TensorId, Weight, WeightId};
use crate::nn::plan::PlanError;
use crate::nn::quant::{Q4, q4_lens};
use crate::nn::weights::WeightData;

pub use quantise::{quantise, quantise4};
pub use settings::Settings;
pub use write::{Contents, write};

/// The layout of the file.
pub const FORMAT: u32 = 2;
/// The meaning of the records: what another version of this crate may not be able to run.
pub const ABI: u32 = 3;

const MAGIC: &[u8; 8] = b"unfogpak";
const HEADER: usize = 64;
/// The first byte that the checksum covers: the one after it.
const CHECKED: usize = 28;
/// Where the header holds the offset of the settings.
const SETTINGS_AT: usize = 48;
/// Where the header holds the length of the notes.
const NOTES_AT: usize = 52;
const TENSOR_BYTES: usize = 4 * TENSOR;
const NODE_BYTES: usize = 4 * NODE;
const WEIGHT_BYTES: usize = 48;

/// Why a pack can't be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackError {
    /// It doesn't begin as a pack does.
    Magic,
    /// It has this format, or was written for this ABI, and this crate reads [`FORMAT`] and [`ABI`].
    Version {
        /// Format of the file.
        format: u32,
        /// ABI of the file.
        abi: u32,
    },
    /// It says another length than it has.
    Length {
        /// Length in the header.
        said: u64,
        /// Bytes that are there.
        given: u64,
    },
    /// The checksum is wrong: it was damaged.
    Checksum,
    /// It doesn't start at a multiple of 16 bytes in memory.
    Alignment,
    /// Packs hold little-endian numbers, and this processor reads big-endian ones.
    Endianness,
    /// Tensor `id` is none that this crate writes.
    Tensor(usize),
    /// Node `index` is none that this crate writes.
    Node(usize),
    /// Weight `id` is none that this crate writes.
    Weight(usize),
    /// The graph breaks a rule.
    Graph(GraphError),
    /// The graph has no plan.
    Plan(PlanError),
    /// The plan has tensor `id` lie beyond the arena or over values that are still needed.
    Place(usize),
    /// The settings are none that this crate writes.
    Settings,
    /// The lent memory is too small, or the weights are not those of the graph.
    Full,
    /// What receives the bytes failed.
    Sink,
}

impl From<GraphError> for PackError {
    fn from(e: GraphError) -> Self {
        PackError::Graph(e)
    }
}

/// A pack whose header and checksum are good.
#[derive(Clone, Copy, Debug)]
pub struct Pack<'p> {
    bytes: &'p [u8],
    counts: Counts,
}

/// How large a pack's network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Tensors.
    pub tensors: usize,
    /// Nodes.
    pub nodes: usize,
    /// Weights.
    pub weights: usize,
    /// f32 values of the arena for one image.
    pub arena: usize,
}

/// Memory to lend to [`Pack::load`]; each slice at least as long as [`Counts`] says.
#[derive(Debug)]
pub struct Memory<'a, 'p> {
    /// For the nodes.
    pub nodes: &'a mut [Node],
    /// For the tensors.
    pub tensors: &'a mut [Tensor],
    /// For the weights' shapes.
    pub weights: &'a mut [Weight],
    /// For the weights' values, which stay where they are in the pack.
    pub data: &'a mut [WeightData<'p>],
}

/// The word at a byte of `bytes`; 0 past their end.
const fn word(bytes: &[u8], at: usize) -> u32 {
    match bytes.split_at_checked(at) {
        Some((_, &[a, b, c, d, ..])) => u32::from_le_bytes([a, b, c, d]),
        _ => 0,
    }
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    core::array::from_fn(|i| word(bytes, 4 * i))
}

/// f32 values of the arena that the pack in `bytes` needs, without checking anything: for a static that holds it.
///
/// ```
/// use unfog_core::pack::arena_len;
/// const PACK: &[u8] = b"unfogpak, and so on"; // include_bytes!(...)
/// static ARENA: [f32; arena_len(PACK)] = [0.0; arena_len(PACK)];
/// assert!(ARENA.is_empty(), "this is no pack");
/// ```
pub const fn arena_len(bytes: &[u8]) -> usize {
    word(bytes, 44) as usize
}

/// Continues a CRC-32 (IEEE 802.3, reflected 0xEDB88320), four bits at a time; starts from 0.
fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0; 16];
        let mut i = 0;
        while i < 16 {
            let mut value = i as u32;
            let mut bit = 0;
            while bit < 4 {
                value = if value & 1 == 1 { value >> 1 ^ 0xEDB8_8320 } else { value >> 1 };
                bit += 1;
            }
            table[i] = value;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!crc, |crc, &byte| {
        let crc = crc ^ u32::from(byte);
        let crc = crc >> 4 ^ TABLE[(crc & 15) as usize];
        crc >> 4 ^ TABLE[(crc & 15) as usize]
    })
}

impl<'p> Pack<'p> {
    /// Checks header and checksum. `bytes` must start at a multiple of 16 bytes.
    ///
    /// # Errors
    /// [`PackError`], up to [`PackError::Endianness`].
    pub fn open(bytes: &'p [u8]) -> Result<Self, PackError> {
        let pack = Self::open_header(bytes)?;
        if crc32(0, &bytes[CHECKED..]) != word(bytes, 24) {
            return Err(PackError::Checksum);
        }
        Ok(pack)
    }

    /// Checks the header alone, which takes no time: for bytes that [`Pack::open`] has found to be good before.
    ///
    /// # Errors
    /// [`PackError`], up to [`PackError::Endianness`], without [`PackError::Checksum`].
    pub fn open_header(bytes: &'p [u8]) -> Result<Self, PackError> {
        if !bytes.starts_with(MAGIC) {
            return Err(PackError::Magic);
        }
        let (format, abi) = (word(bytes, 8), word(bytes, 12));
        if (format, abi) != (FORMAT, ABI) {
            return Err(PackError::Version { format, abi });
        }
        let (said, given) = (long(bytes, 16), bytes.len() as u64);
        if said != given || bytes.len() < HEADER {
            return Err(PackError::Length { said, given });
        }
        if cfg!(target_endian = "big") {
            return Err(PackError::Endianness);
        }
        if !bytes.as_ptr().addr().is_multiple_of(16) {
            return Err(PackError::Alignment);
        }
        let count = |at| usize::try_from(word(bytes, at)).unwrap_or(usize::MAX);
        let counts = Counts { tensors: count(28), nodes: count(32), weights: count(36), arena: count(44) };
        if counts.tensors > 1 << 16 || counts.nodes > counts.tensors || counts.weights > 1 << 16 {
            return Err(PackError::Full);
        }
        Ok(Self { bytes, counts })
    }

    /// How large the network is.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn record(&self, table: usize, bytes: usize, index: usize, count: usize) -> Option<&'p [u8]> {
        let start = (index < count).then(|| table + index * bytes)?;
        self.bytes.get(start..start + bytes)
    }

    fn tensor_record(&self, id: TensorId) -> Option<[u32; TENSOR]> {
        self.record(HEADER, TENSOR_BYTES, usize::from(id.0), self.counts.tensors).map(words)
    }

    /// Tensor `id`.
    pub fn tensor(&self, id: TensorId) -> Option<Tensor> {
        code::decode_tensor(&self.tensor_record(id)?).map(|(tensor, _)| tensor)
    }

    /// The number of the node that makes tensor `id`; `None` for an input.
    pub fn producer(&self, id: TensorId) -> Option<usize> {
        code::decode_tensor(&self.tensor_record(id)?)?.1.map(|node| node as usize)
    }

    /// The first value of tensor `id` in the arena, and whether it is not stored.
    pub(crate) fn slot(&self, id: TensorId) -> Option<(usize, bool)> {
        let [start, lazy, ..] = *self.tensor_record(id)?.get(TENSOR_PLACE..)? else { return None };
        Some((usize::try_from(start).ok()?, lazy == 1))
    }

    /// Node `index`.
    pub fn node(&self, index: usize) -> Option<Node> {
        let table = HEADER + self.counts.tensors * TENSOR_BYTES;
        code::decode_node(&words(self.record(table, NODE_BYTES, index, self.counts.nodes)?))
    }

    /// Weight `id` and its values.
    pub fn weight(&self, id: WeightId) -> Option<(Weight, WeightData<'p>)> {
        let Counts { tensors, nodes, weights, .. } = self.counts;
        let table = HEADER + tensors * TENSOR_BYTES + nodes * NODE_BYTES;
        let entry = self.record(table, WEIGHT_BYTES, usize::from(id.0), weights)?;
        let role = code::role(word(entry, 16))?;
        let weight = Weight { shape: words(entry), role };
        Some((weight, self.values(&weight, entry)?))
    }

    /// What the network returns.
    pub fn output(&self) -> TensorId {
        // Checked: an id that is none names no tensor.
        TensorId(u16::try_from(word(self.bytes, 40)).unwrap_or(u16::MAX))
    }

    /// The notes that were packed; this crate doesn't read them.
    pub fn notes(&self) -> &'p [u8] {
        let start = self.bytes.len().saturating_sub(word(self.bytes, NOTES_AT) as usize);
        self.bytes.get(start..).unwrap_or_default()
    }

    /// Rebuilds the graph in lent memory. Weights stay where they are.
    ///
    /// # Errors
    /// [`PackError::Tensor`], [`PackError::Node`], [`PackError::Weight`], [`PackError::Graph`], [`PackError::Full`].
    pub fn load<'a>(&self, memory: Memory<'a, 'p>) -> Result<(Graph<'a>, &'a [WeightData<'p>]), PackError> {
        let Counts { tensors, nodes, weights, .. } = self.counts;
        let node_space = memory.nodes.get_mut(..nodes).ok_or(PackError::Full)?;
        let mut builder = GraphBuilder::new(node_space, memory.tensors, memory.weights);
        let data = memory.data.get_mut(..weights).ok_or(PackError::Full)?;
        for (i, data) in data.iter_mut().enumerate() {
            let (weight, values) = self.weight(WeightId(i as u16)).ok_or(PackError::Weight(i))?;
            *data = values;
            builder.weight(weight.shape, weight.role)?;
        }
        let mut next = 0;
        for i in 0..tensors {
            let id = TensorId(i as u16);
            let tensor = self.tensor(id).ok_or(PackError::Tensor(i))?;
            let made = match tensor.input {
                Some(input) => builder.input(input, tensor.shape)?,
                None => {
                    let node = self.node(next).filter(|node| node.output == id).ok_or(PackError::Node(next))?;
                    next += 1;
                    builder.node(node.op, node.inputs, node.weights)?
                }
            };
            if builder.shape(made) != tensor.shape {
                return Err(PackError::Tensor(i));
            }
        }
        let output = self.output();
        if next != nodes || usize::from(output.0) >= tensors {
            return Err(PackError::Node(next));
        }
        Ok((builder.finish(output), data))
    }

    fn values(&self, weight: &Weight, entry: &[u8]) -> Option<WeightData<'p>> {
        let shape = weight.shape.map(u64::from);
        let len = shape.into_iter().try_fold(1_u64, u64::checked_mul)?;
        let section = |at: usize, bytes: u64| {
            let start = usize::try_from(long(entry, at)).ok()?;
            self.bytes.get(start..start.checked_add(usize::try_from(bytes).ok()?)?)
        };
        match word(entry, 20) {
            0 => bytemuck::try_cast_slice(section(24, len.checked_mul(4)?)?).ok().map(WeightData::F32),
            1 => bytemuck::try_cast_slice(section(24, len.checked_mul(2)?)?).ok().map(WeightData::F16),
            2 => bytemuck::try_cast_slice(section(24, len.checked_mul(2)?)?).ok().map(WeightData::Bf16),
            3 => {
                let values = bytemuck::try_cast_slice(section(24, len)?).ok()?;
                let scales = bytemuck::try_cast_slice(section(32, shape[0].checked_mul(4)?)?).ok()?;
                Some(WeightData::I8 { values, scales })
            }
            4 => {
                let [bytes, scales] = q4_lens(weight.shape)?;
                let scales = section(32, u64::try_from(scales).ok()?.checked_mul(2)?)?;
                let values = section(24, u64::try_from(bytes).ok()?)?;
                Q4::new(weight.shape, values, bytemuck::try_cast_slice(scales).ok()?).map(WeightData::Q4)
            }
            _ => None,
        }
    }
}
