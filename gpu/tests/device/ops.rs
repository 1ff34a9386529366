//! Every op on the device against its twin: odd shapes, every operand and parameter away from its default, three images at
//! once, each family of kernels, direct and through staging copies; with the validation layer on.

use crate::common::{One, Random, context, reference, relative_error};
use unfog_core::nn::graph::WeightUse::{Kernel, Table, Vector};
use unfog_core::nn::op::{
    Act, Affine, Attention, AvgPool, Concat, Conv2d, Embedding, Gate, GroupNorm, Join, LayerNorm, Modulate, Op, Shape,
    Unpatchify, Upsample,
};
use unfog_core::nn::weights::WeightData;
use unfog_gpu::{Context, Kernels, Network, Options};

/// Sums of a few hundred products of f32, in another order than the twin's, and activations good to 1e-7.
const TOLERANCE: f64 = 2e-6;
/// Values and weights are rounded to half floats, by up to 2^-11 each: 2.4e-4 for their products on average, as much for their sums.
const HALF_TOLERANCE: f64 = 1e-3;
/// A pattern that no kernel writes.
const SENTINEL: u32 = 0x7fc0_dead;

fn cases() -> Vec<One> {
    let mut cases = Vec::new();
    let shape = Shape::new;
    // Convolutions: channels, kernel, stride, padding, upsampling, activation, size, bias, channel vector, residual.
    let mut conv = |op: Conv2d, h, w, bias: bool, channel: bool, residual: bool| {
        let x = shape(h, w, op.in_c);
        let out = Op::Conv2d(op).shape([Some(x), None, None]).unwrap();
        let inputs = [Some(x), channel.then_some(Shape::vector(op.out_c)), residual.then_some(out)];
        let kernel = ([op.out_c, op.in_c, op.kernel[0], op.kernel[1]], Kernel);
        cases.push(One::new(Op::Conv2d(op), &inputs, &[Some(kernel), bias.then_some(([op.out_c, 1, 1, 1], Vector))]));
    };
    conv(Conv2d::new(1, 5, 3, 1), 7, 9, true, false, false);
    conv(Conv2d::new(32, 32, 3, 1), 16, 16, true, true, true);
    conv(Conv2d { act: Act::Silu, scale: 0.5, ..Conv2d::new(6, 7, 3, 1) }, 5, 6, true, true, true);
    conv(Conv2d { act: Act::Gelu, stride: 2, ..Conv2d::new(24, 13, 3, 1) }, 9, 7, false, false, false);
    conv(Conv2d { act: Act::Mish, stride: 2, pad: [0, 0, 1, 1], ..Conv2d::new(4, 4, 3, 0) }, 8, 8, true, false, true);
    conv(Conv2d { act: Act::Relu, upsample: 2, ..Conv2d::new(9, 8, 3, 1) }, 5, 3, true, true, false);
    conv(
        Conv2d { upsample: 3, kernel: [2, 5], pad: [1, 2, 0, 3], ..Conv2d::new(3, 3, 1, 0) },
        4,
        2,
        true,
        false,
        false,
    );
    // Tiles of 128 x 128, 64 x 64 and 32 x 32 pixels x channels where they are in shared memory.
    conv(Conv2d { act: Act::Silu, ..Conv2d::new(20, 100, 3, 1) }, 16, 16, true, true, true);
    conv(Conv2d { stride: 2, ..Conv2d::new(9, 52, 3, 1) }, 16, 15, true, false, false);
    conv(Conv2d { upsample: 2, ..Conv2d::new(8, 28, 3, 1) }, 4, 4, true, true, true);
    conv(Conv2d::linear(70, 130), 13, 10, true, false, true);
    conv(Conv2d { stride: 2, ..Conv2d::new(17, 10, 3, 1) }, 4, 3, true, false, false);
    conv(Conv2d::linear(127, 124), 1, 1, true, false, false);
    conv(Conv2d { act: Act::Silu, ..Conv2d::linear(33, 70) }, 1, 1, true, true, true);
    conv(Conv2d::linear(20, 40), 11, 3, false, false, true);

    for (x, groups, act, scale_shift) in [
        (shape(7, 9, 24), 8, Act::Silu, false),
        (shape(5, 6, 6), 3, Act::None, true),
        (shape(64, 64, 32), 8, Act::Silu, false),
        (shape(33, 17, 7), 7, Act::Mish, true),
        (shape(1, 1, 10), 1, Act::Gelu, false),
    ] {
        let op = GroupNorm { groups, eps: 1e-3, act };
        let vector = Some(([x.c, 1, 1, 1], Vector));
        let inputs = [Some(x), scale_shift.then_some(Shape::vector(2 * x.c))];
        cases.push(One::new(Op::GroupNorm(op), &inputs, &[vector, vector]));
    }
    for (q, k, heads, head_dim) in [
        (shape(16, 16, 96), shape(16, 16, 96), 3, 32),
        (shape(5, 7, 20), shape(5, 7, 20), 4, 5),
        (shape(3, 1, 8), shape(1, 77, 8), 1, 8),
        (shape(2, 3, 6), shape(1, 1, 6), 6, 1),
        (shape(3, 3, 68), shape(3, 3, 68), 1, 68),
        (shape(3, 3, 138), shape(2, 5, 138), 2, 69),
    ] {
        let op = Attention { heads, head_dim, scale: 1.3 / (head_dim as f32).sqrt(), causal: false, biased: false };
        cases.push(One::new(Op::Attention(op), &[Some(q), Some(k), Some(k)], &[]));
    }
    let biased = Attention { heads: 2, head_dim: 6, scale: 0.5, causal: false, biased: true };
    let inputs = [shape(5, 3, 12), shape(1, 9, 13), shape(1, 9, 12)].map(Some);
    cases.push(One::new(Op::Attention(biased), &inputs, &[]));
    cases.push(One::new(Op::Upsample(Upsample { factor: 3 }), &[Some(shape(5, 4, 6))], &[]));
    cases.push(One::new(Op::AvgPool(AvgPool { size: 2 }), &[Some(shape(7, 9, 5))], &[]));
    cases.push(One::new(Op::AvgPool(AvgPool { size: 3 }), &[Some(shape(7, 9, 4))], &[]));
    for (a, b) in [(8, 4), (5, 6), (3, 8), (4, 3), (1, 1)] {
        cases.push(One::new(Op::Concat(Concat), &[Some(shape(3, 5, a)), Some(shape(3, 5, b))], &[]));
    }
    let table = Some(([9, 6, 1, 1], Table));
    cases.push(One::new(Op::Embedding(Embedding { count: 9, dim: 6 }), &[Some(shape(2, 5, 1))], &[table]));
    let affine = Op::Affine(Affine::new(1.5, -0.25));
    cases.push(One::new(affine, &[Some(shape(5, 3, 6))], &[]));
    cases.push(One::new(affine, &[Some(shape(1, 3, 7)), Some(Shape::vector(1))], &[]));
    for x in [shape(5, 7, 6), shape(1, 1, 1), shape(3, 4, 320), shape(3, 3, 257)] {
        let vector = Some(([x.c, 1, 1, 1], Vector));
        cases.push(One::new(Op::LayerNorm(LayerNorm::new(1e-5)), &[Some(x)], &[vector, vector]));
    }
    for x in [shape(5, 7, 6), shape(1, 1, 2), shape(3, 4, 16), shape(2, 3, 14)] {
        cases.push(One::new(Op::Gate(Gate { act: Act::Gelu }), &[Some(x)], &[]));
    }
    let heads = LayerNorm { heads: 3, rms: true, ..LayerNorm::new(1e-5) };
    cases.push(One::new(Op::LayerNorm(heads), &[Some(shape(5, 7, 36))], &[Some(([12, 1, 1, 1], Vector))]));
    cases.push(One::new(Op::LayerNorm(LayerNorm::new(1e-5)), &[Some(shape(5, 7, 13))], &[]));
    for (scale, shift, residual) in [(Some(4), Some(1), true), (Some(7), None, false), (None, Some(0), true)] {
        let op = Op::Modulate(Modulate { factor: 0.5, scale, shift });
        let (x, vector) = (Some(shape(5, 7, 6)), Some(Shape::vector(13)));
        cases.push(One::new(op, &[x, vector, x.filter(|_| residual)], &[]));
    }
    cases.push(One::new(Op::Modulate(Modulate::SUM), &[Some(shape(5, 7, 6)), None, Some(shape(5, 7, 6))], &[]));
    for first in [0, 3, 12] {
        let join = Op::Join(Join { first, h: 2, w: 4 });
        cases.push(One::new(join, &[Some(shape(3, 4, 6)), Some(shape(1, 9, 6))], &[]));
    }
    for c in [4, 3] {
        cases.push(One::new(Op::Unpatchify(Unpatchify { size: 2 }), &[Some(shape(3, 5, 4 * c))], &[]));
    }
    cases
}

fn compare(context: &Context, case: &One, options: Options) {
    const IMAGES: usize = 3;
    let graph = case.graph();
    let op = graph.nodes[0].op;
    let mut random = Random(graph.output.0 as u64 + 7);
    let weights: Vec<Vec<f32>> = graph.weights.iter().map(|w| random.values(w.len())).collect();
    let weights: Vec<WeightData<'_>> = weights.iter().map(|w| WeightData::F32(w)).collect();
    let mut network = Network::new(context, &graph, &weights, options).unwrap();
    network.prepare(IMAGES).unwrap();
    let all: Vec<Vec<Vec<f32>>> = (0..IMAGES)
        .map(|image| {
            let mut inputs: Vec<Vec<f32>> = graph.inputs().map(|(_, _, s)| random.values(s.len())).collect();
            match op {
                // Indices in range and beyond it.
                Op::Embedding(_) => inputs[0].iter_mut().enumerate().for_each(|(i, v)| *v = (i + image) as f32),
                Op::Affine(_) if inputs.len() == 2 => inputs[1][0] += 3.0,
                _ => {}
            }
            inputs
        })
        .collect();
    network.fill_arena(SENTINEL).unwrap();
    for (image, inputs) in all.iter().enumerate() {
        for ((id, _, _), values) in graph.inputs().zip(inputs) {
            network.set_input(id, image, values).unwrap();
        }
    }
    network.execute().unwrap();
    let arena = network.arena().unwrap();
    for (image, inputs) in all.iter().enumerate() {
        let (ours, twin) = (network.output(image).unwrap(), reference(&graph, &weights, inputs));
        assert!(ours.iter().all(|v| v.is_finite()), "{op:?}");
        let error = relative_error(&ours, &twin);
        let matrices = options.kernels == Kernels::Matrix && matches!(op, Op::Conv2d(_));
        let tolerance = if matrices { HALF_TOLERANCE } else { TOLERANCE };
        assert!(error <= tolerance, "{op:?} with {options:?}: image {image}: {error:e}");
        // Pad lanes hold zeros; what lies behind a tensor is as it was.
        let (slot, shape) = (network.slot(graph.output), graph.shape(graph.output));
        let start = (IMAGES as u64 * slot.offset + image as u64 * slot.bytes) as usize / 4;
        let stride = shape.c.next_multiple_of(4) as usize;
        let end = start + shape.pixels() as usize * stride;
        for pixel in arena[start..end].chunks_exact(stride) {
            assert!(pixel[shape.c as usize..].iter().all(|&w| f32::from_bits(w) == 0.0), "{op:?}: pad lanes");
        }
        let after = &arena[end..start + slot.bytes as usize / 4];
        assert!(after.iter().all(|&w| w == SENTINEL), "{op:?}: written behind the end");
    }
}

fn ops_equal_their_twins(test: &str, options: Options) {
    let Some(context) = context(test) else { return };
    if options.kernels == Kernels::Matrix && context.info().matrix.is_none() {
        eprintln!("SKIPPED {test}: no matrix units in {}", context.info().name);
        return;
    }
    for case in cases() {
        compare(&context, &case, options);
    }
    assert_eq!(context.messages(), [""; 0]);
}

fn with(kernels: Kernels) -> Options {
    Options { kernels, ..Options::default() }
}

#[test]
fn ops_equal_their_twins_by_choice() {
    ops_equal_their_twins("ops_equal_their_twins_by_choice", Options::default());
}

#[test]
fn ops_equal_their_twins_through_staging_copies() {
    let options = Options { force_staging: true, ..Options::default() };
    ops_equal_their_twins("ops_equal_their_twins_through_staging_copies", options);
}

#[test]
fn ops_equal_their_twins_in_shared_memory() {
    ops_equal_their_twins("ops_equal_their_twins_in_shared_memory", with(Kernels::Tile));
}

#[test]
#[ignore = "the validation layer of Vulkan 1.4.354 names sizes of matrices that the pipelines don't have"]
fn ops_equal_their_twins_on_matrix_units() {
    ops_equal_their_twins("ops_equal_their_twins_on_matrix_units", with(Kernels::Matrix));
}

#[test]
fn every_op_has_kernels_and_cases() {
    for name in Op::NAMES {
        assert!(unfog_shaders::KERNELS.iter().any(|k| k.op == name), "{name}: no kernel");
        assert!(cases().iter().any(|c| c.graph().nodes[0].op.name() == name), "{name}: no case");
    }
    assert!(unfog_shaders::KERNELS.iter().all(|k| Op::NAMES.contains(&k.op)));
}
