//! A whole small network on the device: against the reference, and bit for bit against itself.

use crate::common::{Random, context, relative_error};
use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::exec::Exec;
use unfog_core::nn::graph::{EMPTY_NODE, EMPTY_TENSOR, EMPTY_WEIGHT, Graph, GraphBuilder};
use unfog_core::nn::model::unet2d::{Block, ClassEmbedding, Config, TimeEmbedding, build};
use unfog_core::nn::op::Act;
use unfog_core::nn::plan::{Slot, Target, plan, slots_needed};
use unfog_core::nn::reference::Reference;
use unfog_core::nn::weights::WeightData;
use unfog_gpu::{Options, Precision, Stats, VulkanDenoiser};

const SIDE: u32 = 12;

/// Runs `test` with the graph and random weights of a network that uses every op but the linear map.
fn with_network(test: impl Fn(&Graph<'_>, &[WeightData<'_>])) {
    let config = Config {
        in_channels: 2,
        out_channels: 3,
        time_embedding: TimeEmbedding::Fourier,
        block_out_channels: [12, 20].into_iter().collect(),
        down_blocks: [Block::Plain, Block::Attention].into_iter().collect(),
        up_blocks: [Block::Attention, Block::Plain].into_iter().collect(),
        layers_per_block: 1,
        act: Act::Mish,
        attention_head_dim: Some(5),
        norm_num_groups: 4,
        scale_shift: true,
        class_embedding: ClassEmbedding::Table { count: 4 },
        ..Config::default()
    };
    let (mut nodes, mut tensors, mut slots) = ([EMPTY_NODE; 128], [EMPTY_TENSOR; 160], [EMPTY_WEIGHT; 256]);
    let builder = GraphBuilder::new(&mut nodes, &mut tensors, &mut slots);
    let graph = build(&config, SIDE, SIDE, builder, &mut |_| Ok(())).unwrap();
    let mut random = Random(1);
    let weights: Vec<Vec<f32>> = graph
        .weights
        .iter()
        .map(|w| {
            let scale = 1.5 / (w.len() as f32 / w.shape[0] as f32).sqrt();
            random.values(w.len()).into_iter().map(|v| v * scale).collect()
        })
        .collect();
    let weights: Vec<WeightData<'_>> = weights.iter().map(|w| WeightData::F32(w)).collect();
    test(&graph, &weights);
}

fn images(n: usize) -> (Vec<f32>, Vec<Cond>) {
    let x = Random(5).values(n as u64 * u64::from(2 * SIDE * SIDE));
    (x, (0..n as u32).map(|i| Cond::Class(i % 4)).collect())
}

fn reference(graph: &Graph<'_>, weights: &[WeightData<'_>], x: &[f32], t: f32, conds: &[Cond]) -> Vec<f32> {
    let mut slots = vec![Slot::default(); slots_needed(graph)];
    let exec = Exec::new(*graph, plan(graph, &Target::REFERENCE, &mut slots).unwrap(), weights).unwrap();
    let mut arena = vec![0.0; exec.arena_len()];
    let mut go_on = || true;
    let mut reference = Reference::new(exec, &mut arena, &[], &mut go_on).unwrap();
    let mut out = vec![0.0; conds.len() * reference.out_len()];
    reference.predict(x, t, conds, &mut out).unwrap();
    out
}

fn predict(denoiser: &mut VulkanDenoiser<'_>, x: &[f32], t: f32, conds: &[Cond]) -> Vec<f32> {
    let mut out = vec![f32::NAN; conds.len() * denoiser.out_len()];
    denoiser.predict(x, t, conds, &mut out).unwrap();
    out
}

#[test]
fn a_network_equals_the_reference() {
    let Some(context) = context("a_network_equals_the_reference") else { return };
    with_network(|graph, weights| {
        let (x, labels) = images(3);
        // Two conditions an image, as guidance asks for them.
        let conds = [labels, vec![Cond::Class(3); 3]].concat();
        let truth = reference(graph, weights, &x, 37.5, &conds);
        for force_staging in [false, true] {
            // f32: a few hundred nodes' roundings in another order. f16 weights: 2^-12 each, and they add up.
            for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::F16, 5e-3)] {
                let options = Options { precision, force_staging, ..Options::default() };
                let mut denoiser = VulkanDenoiser::new(&context, graph, weights, options).unwrap();
                let error = relative_error(&predict(&mut denoiser, &x, 37.5, &conds), &truth);
                assert!(error <= tolerance, "{options:?}: {error:e}");
            }
        }
    });
    assert_eq!(context.messages(), [""; 0]);
}

#[test]
fn the_same_bits_from_run_to_run_and_for_any_batch() {
    let Some(context) = context("the_same_bits_from_run_to_run_and_for_any_batch") else { return };
    with_network(|graph, weights| {
        let (x, conds) = images(8);
        let options = Options::default();
        let mut denoiser = VulkanDenoiser::new(&context, graph, weights, options).unwrap();
        let all = predict(&mut denoiser, &x, 3.0, &conds);
        for run in 0..10 {
            assert!(predict(&mut denoiser, &x, 3.0, &conds) == all, "run {run}");
        }
        let (len, out_len) = (x.len() / 8, all.len() / 8);
        for batch in [1, 3] {
            let parts = x.chunks(batch * len).zip(conds.chunks(batch)).zip(all.chunks(batch * out_len));
            for ((x, conds), part) in parts {
                assert!(predict(&mut denoiser, x, 3.0, conds) == part, "batches of {batch}");
            }
        }
        // More images than one submission takes, and another network of the same kind.
        let few = Options { max_images: 3, ..options };
        let mut other = VulkanDenoiser::new(&context, graph, weights, few).unwrap();
        assert!(predict(&mut other, &x, 3.0, &conds) == all);
        assert_eq!(other.stats().submits, 3);
    });
}

#[test]
fn one_upload_and_one_readback_an_evaluation() {
    let Some(context) = context("one_upload_and_one_readback_an_evaluation") else { return };
    with_network(|graph, weights| {
        let mut denoiser = VulkanDenoiser::new(&context, graph, weights, Options::default()).unwrap();
        assert_eq!(denoiser.stats(), Stats::default());
        let (x, conds) = images(2);
        predict(&mut denoiser, &x, 1.0, &conds);
        let one = denoiser.stats();
        assert_eq!((one.uploads, one.readbacks, one.submits), (1, 1, 1));
        // Group normalisation takes three kernels, every other op one: nothing is left to the host.
        let norms = graph.nodes.iter().filter(|n| n.op.name() == "group_norm").count();
        assert_eq!(one.dispatches as usize, graph.nodes.len() + 2 * norms);
        predict(&mut denoiser, &x, 1.0, &conds);
        assert_eq!(denoiser.stats().uploads, 2);
    });
}

#[test]
fn a_submission_for_each_work_group_changes_no_bit() {
    let Some(context) = context("a_submission_for_each_work_group_changes_no_bit") else { return };
    with_network(|graph, weights| {
        let (x, conds) = images(2);
        let run = |submit_flops| {
            let options = Options { submit_flops, ..Options::default() };
            let mut denoiser = VulkanDenoiser::new(&context, graph, weights, options).unwrap();
            (predict(&mut denoiser, &x, 1.0, &conds), denoiser.stats())
        };
        let ((whole, one), (cut, many)) = (run(None), run(Some(1)));
        assert!(cut == whole);
        assert!(many.submits == many.dispatches && many.dispatches > 2 * one.dispatches, "{one:?} {many:?}");
    });
    assert_eq!(context.messages(), [""; 0]);
}

#[test]
fn what_lies_between_can_be_read() {
    let Some(context) = context("what_lies_between_can_be_read") else { return };
    with_network(|graph, weights| {
        for force_staging in [false, true] {
            let options = Options { force_staging, ..Options::default() };
            let mut denoiser = VulkanDenoiser::new(&context, graph, weights, options).unwrap();
            let (x, conds) = images(2);
            let whole = predict(&mut denoiser, &x, 1.0, &conds);
            let network = denoiser.network_mut();
            // The inputs are still set; run the nodes in two parts.
            let half = graph.nodes.len() / 2;
            network.run_nodes(0..half).unwrap();
            let middle = network.tensor(graph.nodes[half - 1].output, 1).unwrap();
            assert!(middle.iter().any(|&v| v != 0.0) && middle.iter().all(|v| v.is_finite()));
            network.run_nodes(half..graph.nodes.len()).unwrap();
            let shape = graph.shape(graph.output);
            let mut planar = vec![0.0; shape.len() as usize];
            let last = network.tensor(graph.output, 1).unwrap();
            unfog_core::nn::layout::planar(&last, shape, shape.c as usize, &mut planar);
            assert!(planar == whole[planar.len()..]);
        }
    });
}
