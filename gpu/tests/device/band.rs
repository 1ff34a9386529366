//! Tensors that are larger than a binding may be: in bands, with the same bits.

use crate::common::{One, Random, context, reference, relative_error};
use unfog_core::nn::graph::WeightUse::{self, Kernel, Table, Vector};
use unfog_core::nn::op::{
    Act, Affine, Attention, AvgPool, Concat, Conv2d, Embedding, Gate, GroupNorm, LayerNorm, Modulate, Op, Shape,
    Unpatchify, Upsample,
};
use unfog_core::nn::weights::WeightData;
use unfog_gpu::{Context, GpuError, Kernels, Network, Options};

/// A node, its inputs and weights.
type Case = (Op, Vec<Option<Shape>>, Vec<Option<([u32; 4], WeightUse)>>);

/// Every op, in pictures whose rows don't start where bindings may.
fn cases() -> Vec<Case> {
    let picture = |h, w, c| Some(Shape::new(h, w, c));
    let vector = |c| Some(([c, 1, 1, 1], Vector));
    let conv = |op: Conv2d, x, more: [Option<Shape>; 2]| -> Case {
        let kernel = Some(([op.out_c, op.in_c, op.kernel[0], op.kernel[1]], Kernel));
        (Op::Conv2d(op), vec![x, more[0], more[1]], vec![kernel, vector(op.out_c)])
    };
    let same = Conv2d { act: Act::Silu, scale: 0.7, ..Conv2d::new(8, 12, 3, 1) };
    let norm = |scaled: bool| -> Case {
        let op = GroupNorm { groups: 3, eps: 1e-5, act: Act::Silu };
        let shift = scaled.then(|| Shape::vector(24));
        (Op::GroupNorm(op), vec![picture(69, 51, 12), shift], vec![vector(12), vector(12)])
    };
    vec![
        conv(same, picture(61, 37, 8), [Some(Shape::vector(12)), picture(61, 37, 12)]),
        conv(same, picture(61, 37, 8), [None, None]),
        conv(Conv2d::new(8, 8, 1, 0), picture(83, 37, 8), [None, None]),
        conv(Conv2d { stride: 2, pad: [0, 0, 1, 1], ..Conv2d::new(8, 8, 3, 0) }, picture(98, 74, 8), [None, None]),
        conv(Conv2d { upsample: 2, ..Conv2d::new(8, 8, 3, 1) }, picture(41, 19, 8), [None, None]),
        conv(Conv2d { upsample: 3, ..Conv2d::new(8, 8, 5, 2) }, picture(27, 13, 8), [None, None]),
        norm(false),
        norm(true),
        (
            Op::Attention(Attention { heads: 2, head_dim: 8, scale: 0.4, causal: false, biased: false }),
            vec![picture(61, 33, 16), picture(1, 9, 16), picture(1, 9, 16)],
            vec![],
        ),
        (Op::Upsample(Upsample { factor: 2 }), vec![picture(65, 17, 12)], vec![]),
        (Op::AvgPool(AvgPool { size: 2 }), vec![picture(98, 34, 12)], vec![]),
        (Op::Concat(Concat), vec![picture(61, 17, 12), picture(61, 17, 10)], vec![]),
        (Op::Affine(Affine { act: Act::Silu, ..Affine::new(0.5, 0.1) }), vec![picture(61, 33, 10), None], vec![]),
        (Op::Affine(Affine::new(0.5, 3.0)), vec![picture(61, 33, 10), Some(Shape::vector(1))], vec![]),
        (Op::LayerNorm(LayerNorm::new(1e-5)), vec![picture(61, 33, 10)], vec![vector(10), vector(10)]),
        (
            Op::LayerNorm(LayerNorm { heads: 2, rms: true, ..LayerNorm::new(1e-5) }),
            vec![picture(61, 33, 16)],
            vec![vector(8)],
        ),
        (
            Op::Modulate(Modulate { factor: 1.0, scale: Some(10), shift: Some(0) }),
            vec![picture(61, 33, 10), Some(Shape::vector(20)), picture(61, 33, 10)],
            vec![],
        ),
        (Op::Modulate(Modulate::SUM), vec![picture(61, 33, 10), None, picture(61, 33, 10)], vec![]),
        (Op::Unpatchify(Unpatchify { size: 2 }), vec![picture(61, 16, 48)], vec![]),
        (Op::Gate(Gate { act: Act::Gelu }), vec![picture(61, 33, 20)], vec![]),
        (Op::Embedding(Embedding { count: 5, dim: 12 }), vec![picture(1, 2000, 1)], vec![Some(([5, 12, 1, 1], Table))]),
    ]
}

/// What a node makes of random inputs, in how many kernels.
fn run(
    context: &Context,
    one: &One,
    inputs: &[Vec<f32>],
    weights: &[WeightData<'_>],
    options: Options,
) -> (Vec<f32>, u64) {
    let graph = one.graph();
    let mut network = Network::new(context, &graph, weights, options).unwrap();
    for ((id, ..), values) in graph.inputs().zip(inputs) {
        network.set_input(id, 0, values).unwrap();
    }
    network.execute().unwrap();
    (network.output(0).unwrap(), network.stats().dispatches)
}

#[test]
fn bands_change_no_bit() {
    let Some(context) = context("bands_change_no_bit") else { return };
    for (op, inputs, weights) in cases() {
        let one = One::new(op, &inputs, &weights);
        let graph = one.graph();
        let values: Vec<Vec<f32>> = graph.weights.iter().map(|w| Random(7).values(w.len())).collect();
        let weights: Vec<WeightData<'_>> = values.iter().map(|w| WeightData::F32(w)).collect();
        let index = matches!(op, Op::Embedding(_));
        let value = |v: f32| if index { (v * 2.5 + 2.5).floor() } else { v };
        let random = |(id, _, shape): (unfog_core::nn::graph::TensorId, _, Shape)| -> Vec<f32> {
            Random(u64::from(id.0) + 3).values(shape.len()).into_iter().map(value).collect()
        };
        let inputs: Vec<Vec<f32>> = graph.inputs().map(random).collect();
        // Of what has kernels that share memory, those too.
        let shared = matches!(op, Op::Conv2d(_) | Op::LayerNorm(_)).then_some(Kernels::Tile);
        for kernels in [Kernels::Plain, Kernels::Texel].into_iter().chain(shared) {
            let options = Options { kernels, ..Options::default() };
            let (whole, one_each) = run(&context, &one, &inputs, &weights, options);
            let error = relative_error(&whole, &reference(&graph, &weights, &inputs));
            assert!(error < 1e-5, "{op:?}: {error:e}");
            let most =
                graph.tensors.iter().map(|t| t.shape.pixels() * u64::from(t.shape.c.next_multiple_of(4)) * 4).max();
            for parts in [2, 3] {
                let max_binding = most.map(|bytes| bytes / parts + 12_000);
                for submit_flops in [None, Some(100_000)] {
                    let options = Options { max_binding, submit_flops, ..options };
                    let (cut, kernels) = run(&context, &one, &inputs, &weights, options);
                    assert!(kernels > one_each, "{op:?}: {kernels} kernels");
                    assert!(cut == whole, "{op:?}, {options:?}");
                }
            }
        }
    }
    assert_eq!(context.messages(), [""; 0]);
}

#[test]
fn what_cannot_be_cut_is_refused_with_the_number() {
    let Some(context) = context("what_cannot_be_cut_is_refused_with_the_number") else { return };
    let keys = Some(Shape::new(64, 64, 16));
    let op = Op::Attention(Attention { heads: 2, head_dim: 8, scale: 0.4, causal: false, biased: false });
    let one = One::new(op, &[Some(Shape::new(1, 1, 16)), keys, keys], &[]);
    let options = Options { max_binding: Some(200_000), ..Options::default() };
    let refused = Network::needs(&context, &one.graph(), options);
    assert!(
        matches!(refused, Err(GpuError::Binding { what: "tensor", bytes: 262_144, limit: 200_000 })),
        "{refused:?}"
    );
    let causal = Op::Attention(Attention { heads: 2, head_dim: 8, scale: 0.4, causal: true, biased: false });
    let texts = Some(Shape::new(1, 4096, 16));
    let one = One::new(causal, &[texts; 3], &[]);
    let refused = Network::needs(&context, &one.graph(), options);
    assert!(matches!(refused, Err(GpuError::Binding { .. })), "{refused:?}");
    // Sixteen rows of the picture, and those beside them, are the least.
    let one = One::new(
        Op::Conv2d(Conv2d::new(8, 8, 3, 1)),
        &[Some(Shape::new(64, 64, 8)), None, None],
        &[Some(([8, 8, 3, 3], Kernel)), None],
    );
    let options = Options { max_binding: Some(10_000), ..Options::default() };
    assert!(matches!(Network::needs(&context, &one.graph(), options), Err(GpuError::Binding { .. })));
}
