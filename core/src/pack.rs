//! A model as one flat file that needs no file system and no allocator: the graph, the weights and the run's settings,
//! read in place from flash or a mapped file.
//!
//! Little-endian throughout; every section starts at a multiple of 16 bytes:
//!
//! | part | content |
//! | --- | --- |
//! | header, 64 bytes | "unfogpak", [`FORMAT`], [`ABI`], length u64, CRC-32 of all that follows it, numbers of tensors, nodes and weights, the output's id, values of the arena for one image |
//! | records | one a tensor, [`crate::nn::code`] |
//! | weights | one a weight, 48 bytes: shape, use, type, offset of the values, offset of the scales (int8) |
//! | data | the weights' values, each weight at a multiple of 16 |
//!
//! [`Pack::open`] checks the header and the checksum, [`Pack::load`] rebuilds the graph node by node through
//! [`GraphBuilder`], so that a damaged or hostile file is refused by the same rules that any graph obeys.

use crate::nn::code::{self, RECORD, Record};
use crate::nn::graph::{Graph, GraphBuilder, GraphError, Input, Node, Tensor, TensorId, Weight, WeightUse};
use crate::nn::op::Shape;
use crate::nn::plan::{Plan, PlanError, Slot, Target, plan, slots_needed};
use crate::nn::weights::WeightData;

/// The layout of the file.
pub const FORMAT: u32 = 1;
/// The meaning of the records: what another version of this crate may not be able to run.
pub const ABI: u32 = 1;

const MAGIC: &[u8; 8] = b"unfogpak";
const HEADER: usize = 64;
/// The first byte that the checksum covers: the one after it.
const CHECKED: usize = 28;
const RECORD_BYTES: usize = 4 * RECORD;
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
    /// This record or weight is none that this crate writes.
    Record(usize),
    /// The graph breaks a rule.
    Graph(GraphError),
    /// The graph has no plan.
    Plan(PlanError),
    /// The graph needs another arena than the header says.
    Arena,
    /// The lent memory is too small for the weights.
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

/// How much memory a pack's graph takes.
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

impl Counts {
    /// Slots to lend for the plan.
    pub const fn slots(&self) -> usize {
        self.tensors + self.nodes
    }
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
    /// For the plan.
    pub slots: &'a mut [Slot],
    /// For the weights' values, which stay where they are in the pack.
    pub data: &'a mut [WeightData<'p>],
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_le_bytes(*b))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
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
        if crc32(0, &bytes[CHECKED..]) != word(bytes, 24) {
            return Err(PackError::Checksum);
        }
        let count = |at| usize::try_from(word(bytes, at)).unwrap_or(usize::MAX);
        let counts = Counts { tensors: count(28), nodes: count(32), weights: count(36), arena: count(44) };
        if counts.tensors > 1 << 16 || counts.nodes > counts.tensors || counts.weights > 1 << 16 {
            return Err(PackError::Full);
        }
        Ok(Self { bytes, counts })
    }

    /// How much memory to lend.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The shape of the image that the network takes, if it takes one, without loading anything.
    pub fn sample(&self) -> Option<Shape> {
        (0..self.counts.tensors).find_map(|i| match code::decode(&self.record(i)) {
            Some(Record::Input(Input::Sample, shape)) => Some(shape),
            _ => None,
        })
    }

    fn record(&self, i: usize) -> [u32; RECORD] {
        let at = HEADER + i * RECORD_BYTES;
        core::array::from_fn(|w| word(self.bytes, at + 4 * w))
    }

    /// Rebuilds the graph and its plan in lent memory, in one pass over the nodes. Weights stay where they are.
    ///
    /// # Errors
    /// [`PackError::Record`], [`PackError::Graph`], [`PackError::Plan`], [`PackError::Arena`], [`PackError::Full`].
    pub fn load<'a>(&self, memory: Memory<'a, 'p>) -> Result<(Graph<'a>, Plan<'a>, &'a [WeightData<'p>]), PackError> {
        let Counts { tensors, nodes, weights, .. } = self.counts;
        let Memory { nodes: node_space, tensors: tensor_space, weights: weight_space, slots, data } = memory;
        let node_space = node_space.get_mut(..nodes).ok_or(PackError::Full)?;
        let mut builder = GraphBuilder::new(node_space, tensor_space, weight_space);
        let data = data.get_mut(..weights).ok_or(PackError::Full)?;
        let table = HEADER + (tensors * RECORD_BYTES).next_multiple_of(16);
        for (i, data) in data.iter_mut().enumerate() {
            let entry = self.bytes.get(table + i * WEIGHT_BYTES..).and_then(|b| b.get(..WEIGHT_BYTES));
            let entry = entry.ok_or(PackError::Record(i))?;
            let role = code::role(word(entry, 16)).ok_or(PackError::Record(i))?;
            let weight = Weight { shape: [0, 4, 8, 12].map(|at| word(entry, at)), role };
            *data = self.values(&weight, entry).ok_or(PackError::Record(i))?;
            builder.weight(weight.shape, weight.role)?;
        }
        for i in 0..tensors {
            match code::decode(&self.record(i)).ok_or(PackError::Record(i))? {
                Record::Input(input, shape) => builder.input(input, shape)?,
                Record::Node(op, inputs, ids) => builder.node(op, inputs, ids)?,
            };
        }
        let output = u16::try_from(word(self.bytes, 40)).ok().filter(|&id| usize::from(id) < tensors);
        let graph = builder.finish(TensorId(output.ok_or(PackError::Record(tensors))?));
        let plan = plan(&graph, &Target::REFERENCE, slots).map_err(PackError::Plan)?;
        if plan.bytes / 4 != self.counts.arena as u64 {
            return Err(PackError::Arena);
        }
        Ok((graph, plan, data))
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
            _ => None,
        }
    }
}

/// Writes a pack, piece by piece, to `sink`. Goes over the weights twice: once for the checksum, once to write.
///
/// # Errors
/// [`PackError::Plan`], [`PackError::Sink`], [`PackError::Full`] when a weight's data doesn't fit the graph.
pub fn write(
    graph: &Graph<'_>,
    data: &[WeightData<'_>],
    slots: &mut [Slot],
    sink: &mut dyn FnMut(&[u8]) -> Result<(), ()>,
) -> Result<(), PackError> {
    let slots = slots.get_mut(..slots_needed(graph)).ok_or(PackError::Full)?;
    let arena = plan(graph, &Target::REFERENCE, slots).map_err(PackError::Plan)?.bytes / 4;
    let fits = |(w, d): (&Weight, &WeightData<'_>)| d.len() as u64 == w.len();
    if data.len() != graph.weights.len() || !graph.weights.iter().zip(data).all(fits) {
        return Err(PackError::Full);
    }
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    let mut put = |at: usize, value: u32| header[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(8, FORMAT);
    put(12, ABI);
    put(28, graph.tensors.len() as u32);
    put(32, graph.nodes.len() as u32);
    put(36, graph.weights.len() as u32);
    put(40, u32::from(graph.output.0));
    put(44, u32::try_from(arena).map_err(|_| PackError::Full)?);
    let (mut crc, mut length) = (crc32(0, &header[CHECKED..]), HEADER as u64);
    body(graph, data, &mut |bytes| {
        crc = crc32(crc, bytes);
        length += bytes.len() as u64;
        Ok(())
    })?;
    header[16..24].copy_from_slice(&length.to_le_bytes());
    header[24..28].copy_from_slice(&crc.to_le_bytes());
    sink(&header).map_err(|()| PackError::Sink)?;
    body(graph, data, sink)
}

/// Everything after the header.
fn body(
    graph: &Graph<'_>,
    data: &[WeightData<'_>],
    sink: &mut dyn FnMut(&[u8]) -> Result<(), ()>,
) -> Result<(), PackError> {
    let mut at = HEADER;
    let mut put = |bytes: &[u8]| {
        at += bytes.len();
        sink(bytes).map_err(|()| PackError::Sink)
    };
    let mut nodes = graph.nodes.iter();
    for tensor in graph.tensors {
        let record = match (tensor.input, nodes.len()) {
            (Some(input), _) => Record::Input(input, tensor.shape),
            (None, 0) => return Err(PackError::Full),
            (None, _) => {
                let node = nodes.next().ok_or(PackError::Full)?;
                Record::Node(node.op, node.inputs, node.weights)
            }
        };
        for word in code::encode(record) {
            put(&word.to_le_bytes())?;
        }
    }
    let padding = |bytes: usize| &[0_u8; 16][..bytes.next_multiple_of(16) - bytes];
    put(padding(graph.tensors.len() * RECORD_BYTES))?;
    let start = HEADER + (graph.tensors.len() * RECORD_BYTES).next_multiple_of(16) + data.len() * WEIGHT_BYTES;
    let mut offset = start;
    for (weight, data) in graph.weights.iter().zip(data) {
        let (kind, size, scales) = match data {
            WeightData::F32(w) => (0, 4 * w.len(), 0),
            WeightData::F16(w) => (1, 2 * w.len(), 0),
            WeightData::Bf16(w) => (2, 2 * w.len(), 0),
            WeightData::I8 { values, scales } => (3, values.len(), 4 * scales.len()),
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
        }
    }
    debug_assert_eq!(at, offset);
    Ok(())
}

/// Values of `weight` as int8 with one scale an output channel, symmetric: the largest magnitude of a row becomes 127.
/// Kernels alone are stored so; `None` for others. `values` and `scales` are lent, of the weight's length and rows.
pub fn quantise<'a>(
    weight: &Weight,
    data: WeightData<'_>,
    values: &'a mut [i8],
    scales: &'a mut [f32],
) -> Option<WeightData<'a>> {
    let rows = weight.shape[0] as usize;
    let fits = weight.role == WeightUse::Kernel && data.len() == values.len() && scales.len() == rows;
    if !fits || rows == 0 || !values.len().is_multiple_of(rows) || values.is_empty() {
        return None;
    }
    let len = values.len() / rows;
    for (row, (values, scale)) in values.chunks_exact_mut(len).zip(scales.iter_mut()).enumerate() {
        let value = |i: usize| data.at(row * len + i);
        let largest = (0..len).fold(0.0_f32, |m, i| m.max(value(i).abs()));
        *scale = largest / 127.0;
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        // Rounds half away from zero; the cast saturates.
        let round = |v: f32| (v * inverse + if v < 0.0 { -0.5 } else { 0.5 }) as i8;
        values.iter_mut().enumerate().for_each(|(i, q)| *q = round(value(i)));
    }
    Some(WeightData::I8 { values, scales })
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::denoise::{Cond, Denoise};
    use crate::nn::exec::Exec;
    use crate::nn::graph::{EMPTY_NODE, EMPTY_TENSOR, EMPTY_WEIGHT};
    use crate::nn::model::unet2d::{self, Block, ClassEmbedding, Config, TimeEmbedding};
    use crate::nn::reference::Reference;

    /// Bytes that start at a multiple of 16, as u128 does.
    struct Aligned(Vec<u128>, usize);

    impl Aligned {
        fn new(bytes: &[u8]) -> Self {
            let mut words = std::vec![0; bytes.len().div_ceil(16)];
            bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
            Self(words, bytes.len())
        }

        fn bytes(&self) -> &[u8] {
            &bytemuck::cast_slice(&self.0)[..self.1]
        }
    }

    fn config() -> Config {
        Config {
            in_channels: 1,
            out_channels: 1,
            block_out_channels: [8, 12].into_iter().collect(),
            down_blocks: [Block::Plain, Block::Attention].into_iter().collect(),
            up_blocks: [Block::Resnet, Block::Plain].into_iter().collect(),
            norm_num_groups: 4,
            layers_per_block: 1,
            attention_head_dim: Some(5),
            time_embedding: TimeEmbedding::Fourier,
            class_embedding: ClassEmbedding::Table { count: 3 },
            center_input_sample: true,
            ..Config::default()
        }
    }

    /// A graph with every op, weights that differ, and the pack of it.
    fn with_pack(test: impl FnOnce(&Graph<'_>, &[WeightData<'_>], &[u8])) {
        let (mut nodes, mut tensors, mut weights) =
            (std::vec![EMPTY_NODE; 128], std::vec![EMPTY_TENSOR; 160], std::vec![EMPTY_WEIGHT; 256]);
        let builder = GraphBuilder::new(&mut nodes, &mut tensors, &mut weights);
        let graph = unet2d::build(&config(), 4, 6, builder, &mut |_| Ok(())).unwrap();
        let value = |i: u64, j: u64| ((i * 31 + j * 17) % 101) as f32 / 200.0 - 0.25;
        let values: Vec<Vec<f32>> =
            (0..).zip(graph.weights).map(|(i, w)| (0..w.len()).map(|j| value(i, j)).collect()).collect();
        let data: Vec<WeightData<'_>> = values.iter().map(|v| WeightData::F32(v)).collect();
        let mut bytes = Vec::new();
        let mut slots = std::vec![Slot::default(); slots_needed(&graph)];
        write(&graph, &data, &mut slots, &mut |b| {
            bytes.extend_from_slice(b);
            Ok(())
        })
        .unwrap();
        test(&graph, &data, &bytes);
    }

    /// Loads `bytes` and hands the graph, plan and weights to `test`.
    fn load<R>(bytes: &[u8], test: impl FnOnce(Graph<'_>, Plan<'_>, &[WeightData<'_>]) -> R) -> Result<R, PackError> {
        let aligned = Aligned::new(bytes);
        let pack = Pack::open(aligned.bytes())?;
        let counts = pack.counts();
        let mut nodes = std::vec![EMPTY_NODE; counts.nodes];
        let mut tensors = std::vec![EMPTY_TENSOR; counts.tensors];
        let mut weights = std::vec![EMPTY_WEIGHT; counts.weights];
        let mut slots = std::vec![Slot::default(); counts.slots()];
        let mut data = std::vec![WeightData::F32(&[]); counts.weights];
        let (graph, plan, data) = pack.load(Memory {
            nodes: &mut nodes,
            tensors: &mut tensors,
            weights: &mut weights,
            slots: &mut slots,
            data: &mut data,
        })?;
        Ok(test(graph, plan, data))
    }

    fn evaluate(graph: Graph<'_>, plan: Plan<'_>, data: &[WeightData<'_>]) -> Vec<u32> {
        let exec = Exec::new(graph, plan, data).unwrap();
        let mut arena = std::vec![f32::NAN; exec.arena_len()];
        let mut go = || true;
        let mut reference = Reference::new(exec, &mut arena, &[], &mut go).unwrap();
        let (x, mut out) = ([0.5; 24], [0.0; 24]);
        reference.predict(&x, 7.0, &[Cond::Class(2)], &mut out).unwrap();
        assert!(out.iter().all(|v| v.is_finite()));
        out.iter().map(|v| v.to_bits()).collect()
    }

    #[test]
    fn a_pack_gives_back_the_network_bit_by_bit() {
        with_pack(|graph, data, bytes| {
            let mut slots = std::vec![Slot::default(); slots_needed(graph)];
            let direct = evaluate(*graph, plan(graph, &Target::REFERENCE, &mut slots).unwrap(), data);
            let sample = Pack::open(Aligned::new(bytes).bytes()).unwrap().sample();
            let packed = load(bytes, |loaded, plan, data| {
                assert_eq!((loaded.nodes, loaded.tensors), (graph.nodes, graph.tensors));
                assert_eq!(loaded.sample_shape(), sample);
                evaluate(loaded, plan, data)
            });
            assert_eq!(packed, Ok(direct));
        });
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        with_pack(|_, _, bytes| {
            let mut bytes = bytes.to_vec();
            for i in (0..HEADER).chain((HEADER..bytes.len()).step_by(97)) {
                bytes[i] ^= 0x10;
                let result = load(&bytes, |_, _, _| ());
                assert!(result.is_err(), "byte {i}: {result:?}");
                bytes[i] ^= 0x10;
            }
            for cut in [0, 7, 63, 64, bytes.len() - 1] {
                assert!(load(&bytes[..cut], |_, _, _| ()).is_err(), "cut at {cut}");
            }
        });
    }

    /// Runs every node, unless that would take long.
    fn run_small(graph: Graph<'_>, plan: Plan<'_>, data: &[WeightData<'_>]) {
        let Ok(exec) = Exec::new(graph, plan, data) else { return };
        if exec.arena_len() < 1 << 16 {
            let mut arena = std::vec![0.0; exec.arena_len()];
            let _ = (0..graph.nodes.len()).try_for_each(|n| exec.run_node(n, &mut arena));
        }
    }

    #[test]
    fn hostile_records_are_refused_without_a_panic() {
        with_pack(|graph, _, bytes| {
            let records = graph.tensors.len() * RECORD_BYTES;
            // Every seventh word: 20 and 12 a record are no multiples of 7, so that each field has its turn.
            for i in (HEADER..HEADER + records + graph.weights.len() * WEIGHT_BYTES).step_by(28) {
                for value in [0, 1, 7, 0xffff, u32::MAX] {
                    let mut bytes = bytes.to_vec();
                    bytes[i..i + 4].copy_from_slice(&value.to_le_bytes());
                    let crc = crc32(0, &bytes[CHECKED..]);
                    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
                    // Either it is refused, or it is a graph that runs.
                    let _ = load(&bytes, run_small);
                }
            }
        });
    }

    #[test]
    fn the_checksum_is_the_common_one() {
        assert_eq!(crc32(0, b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(crc32(0, b"1234"), b"56789"), 0xCBF4_3926);
    }

    #[test]
    fn int8_keeps_each_row_to_half_a_step() {
        let weight = Weight { shape: [2, 3, 1, 1], role: WeightUse::Kernel };
        let w = [1.0, -0.5, 0.1, 200.0, 0.0, -100.0];
        let (mut values, mut scales) = ([0; 6], [0.0; 2]);
        let q = quantise(&weight, WeightData::F32(&w), &mut values, &mut scales).unwrap();
        for (i, w) in w.iter().enumerate() {
            let step = [1.0 / 127.0, 200.0 / 127.0][i / 3];
            assert!((q.at(i) - w).abs() <= step * 0.5001, "{} for {w}", q.at(i));
        }
        assert_eq!(q.dot(1.0, &[2.0], 0, 1), 1.0 + 2.0 * q.at(0));
        let vector = Weight { shape: [6, 1, 1, 1], role: WeightUse::Vector };
        assert!(quantise(&vector, WeightData::F32(&w), &mut [0; 6], &mut [0.0; 6]).is_none());
    }
}
