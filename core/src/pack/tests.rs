//! Packs give back what was packed, and nothing else.

use std::vec::Vec;

use super::*;
use crate::denoise::{Cond, Denoise};
use crate::nn::exec::Exec;
use crate::nn::graph::{EMPTY_NODE, EMPTY_TENSOR, EMPTY_WEIGHT, WeightUse};
use crate::nn::model::unet2d::{self, Block, ClassEmbedding, Config, TimeEmbedding};
use crate::nn::plan::{Slot, Target, plan, slots_needed};
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
    with_stored(false, test);
}

/// The memory of a weight in 8 and in 4 bits.
#[derive(Default)]
struct Integers {
    row: Vec<f32>,
    bytes: Vec<i8>,
    factors: Vec<f32>,
    nibbles: Vec<u8>,
    halves: Vec<u16>,
}

impl Integers {
    fn new(weight: &Weight) -> Self {
        let [values, scales] = q4_lens(weight.shape).unwrap();
        Self {
            row: std::vec![0.0; weight.len() as usize / weight.shape[0] as usize],
            bytes: std::vec![0; weight.len() as usize],
            factors: std::vec![0.0; weight.shape[0] as usize],
            nibbles: std::vec![0; values],
            halves: std::vec![0; scales],
        }
    }
}

/// The same; where `quantised`, every other kernel in 8 bits and every other in 4.
fn with_stored(quantised: bool, test: impl FnOnce(&Graph<'_>, &[WeightData<'_>], &[u8])) {
    let (mut nodes, mut tensors, mut weights) =
        (std::vec![EMPTY_NODE; 128], std::vec![EMPTY_TENSOR; 160], std::vec![EMPTY_WEIGHT; 256]);
    let builder = GraphBuilder::new(&mut nodes, &mut tensors, &mut weights);
    let graph = unet2d::build(&config(), 4, 6, builder, &mut |_| Ok(())).unwrap();
    let value = |i: u64, j: u64| ((i * 31 + j * 17) % 101) as f32 / 200.0 - 0.25;
    let values: Vec<Vec<f32>> =
        (0..).zip(graph.weights).map(|(i, w)| (0..w.len()).map(|j| value(i, j)).collect()).collect();
    let mut integers: Vec<Integers> = graph.weights.iter().map(Integers::new).collect();
    let mut data: Vec<WeightData<'_>> = values.iter().map(|v| WeightData::F32(v)).collect();
    let kernels =
        graph.weights.iter().zip(&mut integers).zip(&mut data).filter(|((w, _), _)| w.role == WeightUse::Kernel);
    for (i, ((weight, integers), data)) in kernels.enumerate().filter(|_| quantised) {
        let Integers { row, bytes, factors, nibbles, halves } = integers;
        *data = match i % 2 {
            0 => quantise(weight, *data, row, bytes, factors).unwrap(),
            _ => quantise4(weight, *data, row, nibbles, halves).unwrap(),
        };
    }
    let mut bytes = Vec::new();
    let mut slots = std::vec![Slot::default(); slots_needed(&graph)];
    let contents = Contents { graph: &graph, data: &data, settings: None, notes: b"{}" };
    write(&contents, &mut slots, &mut |b| {
        bytes.extend_from_slice(b);
        Ok(())
    })
    .unwrap();
    test(&graph, &data, &bytes);
}

/// Loads `bytes` into memory and hands graph and weights to `test`.
fn load<R>(bytes: &[u8], test: impl FnOnce(Graph<'_>, &[WeightData<'_>]) -> R) -> Result<R, PackError> {
    let aligned = Aligned::new(bytes);
    let pack = Pack::open(aligned.bytes())?;
    let counts = pack.counts();
    let mut nodes = std::vec![EMPTY_NODE; counts.nodes];
    let mut tensors = std::vec![EMPTY_TENSOR; counts.tensors];
    let mut weights = std::vec![EMPTY_WEIGHT; counts.weights];
    let mut data = std::vec![WeightData::F32(&[]); counts.weights];
    let (graph, data) =
        pack.load(Memory { nodes: &mut nodes, tensors: &mut tensors, weights: &mut weights, data: &mut data })?;
    Ok(test(graph, data))
}

/// Hands the network in `bytes`, where it lies, to `test`.
fn in_place<R>(bytes: &[u8], test: impl FnOnce(Exec<'_>) -> R) -> Result<R, PackError> {
    let aligned = Aligned::new(bytes);
    Ok(test(Exec::packed(Pack::open(aligned.bytes())?)?))
}

fn evaluate(exec: Exec<'_>) -> Vec<u32> {
    let mut arena = std::vec![f32::NAN; exec.arena_len()];
    let mut go = || true;
    let mut reference = Reference::new(exec, &mut arena, &[], &mut go).unwrap();
    let (x, mut out) = ([0.5; 24], [0.0; 24]);
    reference.predict(&x, 7.0, &[Cond::Class(2)], &mut out).unwrap();
    assert!(out.iter().all(|v| v.is_finite()));
    out.iter().map(|v| v.to_bits()).collect()
}

/// The bits of an evaluation planned for `target`, and the bytes of its arena.
fn planned(graph: Graph<'_>, data: &[WeightData<'_>], target: &Target) -> (Vec<u32>, u64) {
    let mut slots = std::vec![Slot::default(); slots_needed(&graph)];
    let plan = plan(&graph, target, &mut slots).unwrap();
    (evaluate(Exec::new(graph, plan, data).unwrap()), plan.bytes)
}

#[test]
fn a_pack_gives_back_the_network_bit_by_bit() {
    let check = |graph: &Graph<'_>, data: &[WeightData<'_>], bytes: &[u8]| {
        let (direct, _) = planned(*graph, data, &Target::REFERENCE);
        assert_eq!(in_place(bytes, evaluate), Ok(direct.clone()));
        let loaded = load(bytes, |loaded, data| {
            assert_eq!((loaded.nodes, loaded.tensors, loaded.output), (graph.nodes, graph.tensors, graph.output));
            planned(loaded, data, &Target::STORED).0
        });
        assert_eq!(loaded, Ok(direct));
    };
    with_stored(false, check);
    with_stored(true, check);
}

#[test]
fn tensors_that_are_not_stored_have_the_same_bits() {
    with_pack(|graph, data, _| {
        let (stored, most) = planned(*graph, data, &Target::STORED);
        let (fused, least) = planned(*graph, data, &Target::REFERENCE);
        assert_eq!(stored, fused);
        assert!(least < most, "{least} bytes and {most}");
    });
}

#[test]
fn an_evaluation_goes_on_where_it_stopped() {
    with_pack(|_, _, bytes| {
        let whole = in_place(bytes, evaluate).unwrap();
        in_place(bytes, |exec| {
            let mut arena = std::vec![f32::NAN; exec.arena_len()];
            let mut go = || true;
            let mut reference = Reference::new(exec, &mut arena, &[], &mut go).unwrap();
            let mut out = [0.0; 24];
            assert!(reference.advance().is_err() && reference.finish(&mut out).is_err(), "nothing has begun");
            reference.begin(&[0.5; 24], 7.0, Cond::Class(2)).unwrap();
            assert!(reference.finish(&mut out).is_err(), "nothing is finished");
            while reference.advance().unwrap() {}
            reference.finish(&mut out).unwrap();
            assert_eq!(out.map(f32::to_bits).to_vec(), whole);
            assert!(reference.begin(&[0.5; 25], 7.0, Cond::Class(2)).is_err(), "not an image");
            assert!(reference.begin(&[0.5; 24], 7.0, Cond::Class(3)).is_err(), "no such class");
            assert!(reference.advance().is_err(), "an evaluation that could not begin");
        })
        .unwrap();
    });
}

#[test]
fn every_damaged_byte_is_noticed() {
    with_pack(|_, _, bytes| {
        let mut bytes = bytes.to_vec();
        for i in (0..HEADER).chain((HEADER..bytes.len()).step_by(97)) {
            bytes[i] ^= 0x10;
            assert!(load(&bytes, |_, _| ()).is_err(), "byte {i}");
            assert!(in_place(&bytes, |_| ()).is_err(), "byte {i}");
            bytes[i] ^= 0x10;
        }
        for cut in [0, 7, 63, 64, bytes.len() - 1] {
            assert!(load(&bytes[..cut], |_, _| ()).is_err(), "cut at {cut}");
        }
    });
}

/// Runs every node, unless that would take long.
fn run_small(exec: Exec<'_>) {
    if exec.arena_len() < 1 << 16 {
        let mut arena = std::vec![0.0; exec.arena_len()];
        let _ = (0..exec.program().nodes()).try_for_each(|n| exec.run_node(n, &mut arena));
    }
}

#[test]
fn hostile_records_are_refused_without_a_panic() {
    let check = |graph: &Graph<'_>, _: &[WeightData<'_>], bytes: &[u8]| {
        let nodes = HEADER + graph.tensors.len() * TENSOR_BYTES;
        let weights = nodes + graph.nodes.len() * NODE_BYTES;
        let (mut refused, mut ran) = (0, 0);
        // Every 17th word: records of 12 and 20 words are no multiples of 17, so that each field has its turn.
        for i in (HEADER..weights + graph.weights.len() * WEIGHT_BYTES).step_by(68) {
            for value in [0, 1, 7, 0xffff, u32::MAX] {
                let mut bytes = bytes.to_vec();
                bytes[i..i + 4].copy_from_slice(&value.to_le_bytes());
                let crc = crc32(0, &bytes[CHECKED..]);
                bytes[24..28].copy_from_slice(&crc.to_le_bytes());
                // Either it is refused, or it is a graph that runs.
                let _ = load(&bytes, |graph, data| {
                    let mut slots = std::vec![Slot::default(); slots_needed(&graph)];
                    let plan = plan(&graph, &Target::REFERENCE, &mut slots).ok()?;
                    Exec::new(graph, plan, data).ok().map(run_small)
                });
                match in_place(&bytes, run_small) {
                    Ok(()) => ran += 1,
                    Err(_) => refused += 1,
                }
            }
        }
        // What runs: words that keep their value, and parameters that may be anything.
        assert!(refused > 2 * ran, "{refused} {ran}");
    };
    with_stored(false, check);
    with_stored(true, check);
}

#[test]
fn hostile_blocks_are_refused() {
    with_stored(true, |graph, data, bytes| {
        let table = HEADER + graph.tensors.len() * TENSOR_BYTES + graph.nodes.len() * NODE_BYTES;
        let q4 = data.iter().position(|w| matches!(w, WeightData::Q4(_))).unwrap();
        let at = table + q4 * WEIGHT_BYTES;
        let (values, scales) = (word(bytes, at + 24), word(bytes, at + 32));
        let end = bytes.len() as u32;
        // A shape that is larger or too large to count, integers and scales past the end, odd scales, another type.
        let wrong: [(usize, u32); 9] = [
            (at, u32::MAX),
            (at + 4, u32::MAX),
            (at + 8, 0),
            (at + 24, end),
            (at + 28, u32::MAX),
            (at + 32, end - 1),
            (at + 32, scales + 1),
            (at + 36, u32::MAX),
            (at + 20, 5),
        ];
        for (place, value) in wrong {
            let mut bytes = bytes.to_vec();
            bytes[place..place + 4].copy_from_slice(&value.to_le_bytes());
            let crc = crc32(0, &bytes[CHECKED..]);
            bytes[24..28].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(load(&bytes, |_, _| ()), Err(PackError::Weight(q4)), "byte {place}: {value}");
            assert_eq!(in_place(&bytes, |_| ()), Err(PackError::Weight(q4)), "byte {place}: {value}");
        }
        assert!(values < scales && scales < end);
    });
}

#[test]
fn plans_that_overwrite_what_is_needed_are_refused() {
    with_pack(|graph, _, bytes| {
        let right = in_place(bytes, evaluate).unwrap();
        let mut refused = 0;
        for i in (0..graph.tensors.len()).step_by(3) {
            let at = HEADER + i * TENSOR_BYTES + 4 * TENSOR_PLACE;
            let own = word(bytes, at);
            for place in (0..graph.tensors.len()).step_by(5) {
                // Where another tensor lies.
                let other = word(bytes, HEADER + place * TENSOR_BYTES + 4 * TENSOR_PLACE);
                let mut bytes = bytes.to_vec();
                bytes[at..at + 4].copy_from_slice(&other.to_le_bytes());
                let crc = crc32(0, &bytes[CHECKED..]);
                bytes[24..28].copy_from_slice(&crc.to_le_bytes());
                // It is refused, or the place was free: then the result is the same.
                match in_place(&bytes, evaluate) {
                    Ok(bits) => assert_eq!(bits, right),
                    Err(e) => {
                        assert_ne!(own, other);
                        assert!(matches!(e, PackError::Place(_) | PackError::Tensor(_)), "{e:?}");
                        refused += 1;
                    }
                }
            }
        }
        assert!(refused > graph.tensors.len(), "{refused}");
    });
}

#[test]
fn the_arena_of_a_static_is_the_arena() {
    with_pack(|_, _, bytes| {
        assert_eq!(in_place(bytes, |exec| exec.arena_len()), Ok(arena_len(bytes)));
    });
}

#[test]
fn notes_come_back() {
    with_pack(|_, _, bytes| {
        let aligned = Aligned::new(bytes);
        assert_eq!(Pack::open(aligned.bytes()).unwrap().notes(), b"{}");
    });
}

#[test]
fn the_checksum_is_the_common_one() {
    assert_eq!(crc32(0, b"123456789"), 0xCBF4_3926);
    assert_eq!(crc32(crc32(0, b"1234"), b"56789"), 0xCBF4_3926);
}

#[test]
fn kernels_alone_are_quantised() {
    let weight = Weight { shape: [2, 3, 1, 1], role: WeightUse::Kernel };
    let w = [1.0, -0.5, 0.1, 200.0, 0.0, -100.0];
    let (mut values, mut scales) = ([0; 6], [0.0; 2]);
    let q = quantise(&weight, WeightData::F32(&w), &mut [0.0; 3], &mut values, &mut scales).unwrap();
    for (i, w) in w.iter().enumerate() {
        let step = [1.0 / 127.0, 200.0 / 127.0][i / 3];
        assert!((q.at(i) - w).abs() <= step * 0.5001, "{} for {w}", q.at(i));
    }
    assert_eq!(q.dot(1.0, &[2.0], 0, 1), 1.0 + 2.0 * q.at(0));
    let vector = Weight { shape: [6, 1, 1, 1], role: WeightUse::Vector };
    assert!(quantise(&vector, WeightData::F32(&w), &mut [0.0; 1], &mut [0; 6], &mut [0.0; 6]).is_none());
    assert!(quantise4(&vector, WeightData::F32(&w), &mut [0.0; 1], &mut [0; 6], &mut [0; 6]).is_none());
    // Lent memory of another length.
    assert!(quantise4(&weight, WeightData::F32(&w), &mut [0.0; 3], &mut [0; 3], &mut [0; 2]).is_none());
    assert!(quantise4(&weight, WeightData::F32(&w), &mut [0.0; 2], &mut [0; 4], &mut [0; 2]).is_none());
    assert!(quantise4(&weight, WeightData::F32(&w[..3]), &mut [0.0; 3], &mut [0; 4], &mut [0; 2]).is_none());
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let w = [1.0, -0.5, 0.1, 200.0, bad, -100.0];
        assert!(quantise(&weight, WeightData::F32(&w), &mut [0.0; 3], &mut [0; 6], &mut [0.0; 2]).is_none());
        assert!(quantise4(&weight, WeightData::F32(&w), &mut [0.0; 3], &mut [0; 4], &mut [0; 2]).is_none());
    }
}

/// The pack of a small network with these settings.
fn with_settings(settings: &Settings<'_>) -> Result<Vec<u8>, PackError> {
    let (mut nodes, mut tensors, mut slots) = ([EMPTY_NODE; 1], [EMPTY_TENSOR; 2], [Slot::default(); 3]);
    let mut builder = GraphBuilder::new(&mut nodes, &mut tensors, &mut []);
    let x = builder.input(crate::nn::graph::Input::Sample, crate::nn::op::Shape::new(2, 2, 1))?;
    let double = crate::nn::op::Op::Affine(crate::nn::op::Affine::new(2.0, 0.0));
    let y = builder.node(double, [Some(x), None, None], [None; 2])?;
    let mut bytes = Vec::new();
    let graph = builder.finish(y);
    let contents = Contents { graph: &graph, data: &[], settings: Some(settings), notes: b"" };
    write(&contents, &mut slots, &mut |b| {
        bytes.extend_from_slice(b);
        Ok(())
    })?;
    Ok(bytes)
}

#[test]
fn settings_come_back() {
    use crate::config::{Config, Parity, Variance};
    use crate::predict::{Clip, PredictionType};
    use crate::schedule::{BetaSchedule, End, Level, Schedule, Shift, SigmaTable, Sigmas, Spacing};
    let plain = Config { train_steps: 40, steps: 4, ..Config::default() };
    let other = Config {
        betas: BetaSchedule::Trained,
        prediction: PredictionType::Edm { sigma_data: 0.5 },
        clip: Clip::Dynamic { ratio: 0.9, max: 3.0 },
        spacing: Spacing::Consistency { original: 20 },
        variance: Variance::LearnedRange,
        parity: Parity::Table,
        zero_terminal_snr: true,
        sigmas: Sigmas {
            table: SigmaTable::Vp { beta_d: 19.9, beta_min: 0.1, eps: 1e-3 },
            end: End::Min,
            min: Some(0.25),
            shift: Shift::Exponential(1.5),
            shift_terminal: Some(0.125),
            ..Sigmas::default()
        },
        lower_order_final: false,
        ..plain
    };
    let alpha_bar: Vec<f32> = (0..40).map(|t| 0.99 - t as f32 / 50.0).collect();
    for config in [plain, other] {
        let settings = Settings { config, sampler: "dpmpp-2m", alpha_bar: &alpha_bar };
        let bytes = with_settings(&settings).unwrap();
        let aligned = Aligned::new(&bytes);
        assert_eq!(Pack::open(aligned.bytes()).unwrap().settings(), Ok(Some(settings)));
        // Every damaged number is refused, or means something else.
        let at = word(&bytes, SETTINGS_AT) as usize;
        for i in (at..at + settings::SETTINGS).step_by(4) {
            let mut bytes = bytes.clone();
            bytes[i..i + 4].copy_from_slice(&77_u32.to_le_bytes());
            let crc = crc32(0, &bytes[CHECKED..]);
            bytes[24..28].copy_from_slice(&crc.to_le_bytes());
            let aligned = Aligned::new(&bytes);
            assert_ne!(Pack::open(aligned.bytes()).unwrap().settings(), Ok(Some(settings)), "{i}");
        }
    }
    // Tables of another length, and names without end.
    let cut = Settings { config: plain, sampler: "ddim", alpha_bar: &alpha_bar[1..] };
    assert_eq!(with_settings(&cut), Err(PackError::Settings));
    let long = Settings { sampler: "a name of more than thirty-one letters", ..cut };
    assert_eq!(with_settings(&Settings { alpha_bar: &alpha_bar, ..long }), Err(PackError::Settings));

    // A schedule from the pack's table is the schedule.
    let (mut table, mut timesteps, mut levels) = ([0.0; 40], [0; 4], [Level::default(); 5]);
    let sampler = &crate::sampler::EULER;
    let made = Schedule::for_sampler(&plain, sampler, &mut table, &mut timesteps, &mut levels).unwrap();
    let (mut timesteps, mut levels) = ([0; 4], [Level::default(); 5]);
    let read = Schedule::with_alpha_bar(&plain, sampler, made.alpha_bar(), &mut timesteps, &mut levels);
    assert_eq!(read, Ok(made));
    let rising: Vec<f32> = alpha_bar.iter().rev().copied().collect();
    assert!(Schedule::with_alpha_bar(&plain, sampler, &rising, &mut [0; 4], &mut [Level::default(); 5]).is_err());
}
