//! Runs one node: the large ops with this backend's kernels, the others with their twins.

use unfog_core::nn::graph::{Graph, Node};
use unfog_core::nn::op::{Concat, Op};
use unfog_core::nn::weights::WeightData;

use super::choice::{self, ConvKernel};
use super::conv::Conv;
use super::epilogue::Epilogue;
use super::kernels::Kernels;
use super::prepared::kernel;
use super::split::for_chunks;
use super::winograd::{self, F2, F4};
use super::{attention, conv};

/// Pixels of a task that copies.
const PIXELS: usize = 1024;

/// Scratch values that each thread needs for `node`.
pub(super) fn scratch(graph: &Graph<'_>, node: &Node, forced: Option<ConvKernel>) -> usize {
    match (node.op, node.inputs[1]) {
        (Op::Conv2d(op), _) => match choice::conv(&op, graph.shape(node.output), forced) {
            ConvKernel::Direct => conv::scratch(&op),
            ConvKernel::Winograd2 => winograd::scratch::<4, 2, F2>(&op),
            ConvKernel::Winograd4 => winograd::scratch::<6, 4, F4>(&op),
        },
        (Op::Attention(op), Some(keys)) => attention::scratch(&op, graph.shape(keys).pixels() as usize),
        _ => 0,
    }
}

/// Values that `node` needs beside the arena for `images` at once.
pub(super) fn workspace(graph: &Graph<'_>, node: &Node, images: usize, forced: Option<ConvKernel>) -> usize {
    let Op::Conv2d(op) = node.op else { return 0 };
    let out = graph.shape(node.output);
    let size = [out.h as usize, out.w as usize];
    match choice::conv(&op, out, forced) {
        ConvKernel::Direct => 0,
        ConvKernel::Winograd2 => winograd::workspace(&op, size, images, 2),
        ConvKernel::Winograd4 => winograd::workspace(&op, size, images, 4),
    }
}

/// What makes an image's output from its input, by their place in the batch.
type OneImage<'a> = dyn Fn(&[f32], &mut [f32], usize) + 'a;

/// What a node is run with.
pub(super) struct Network<'a, 'g> {
    pub(super) graph: &'a Graph<'g>,
    /// Start and end of each tensor, for one image.
    pub(super) places: &'a [(usize, usize)],
    pub(super) weights: &'a [WeightData<'g>],
    pub(super) vectors: &'a [Vec<f32>],
    pub(super) kernels: &'a Kernels,
    pub(super) images: usize,
    pub(super) conv: Option<ConvKernel>,
}

impl Network<'_, '_> {
    /// Runs `node` on the arena, with its `prepared` weights if it has any.
    pub(super) fn run(&self, node: &Node, prepared: &[f32], arena: &mut [f32], workspace: &mut [f32]) {
        let Self { graph, kernels, images, .. } = *self;
        let place = |id: usize| {
            let (start, end) = self.places[id];
            (start * images, end * images)
        };
        let (start, end) = place(usize::from(node.output.0));
        let (before, rest) = arena.split_at_mut(start);
        let (out, after) = rest.split_at_mut(end - start);
        let read = |i: usize| -> Option<&[f32]> {
            let (from, to) = place(usize::from(node.inputs[i]?.0));
            Some(if to <= start { &before[from..to] } else { &after[from - end..to - end] })
        };
        let inputs = [read(0), read(1), read(2)];
        let weight = |i: usize| node.weights[i].map(|id| self.weights[usize::from(id.0)]);
        let vector = |i: usize| node.weights[i].map(|id| self.vectors[usize::from(id.0)].as_slice());
        let (Some(x), Some(xs)) = (inputs[0], node.inputs[0].map(|id| graph.shape(id))) else { return };
        let os = graph.shape(node.output);
        let (len, out_len) = (x.len() / images, out.len() / images);
        let each = |out: &mut [f32], run: &OneImage<'_>| {
            for (i, (x, out)) in x.chunks_exact(len).zip(out.chunks_exact_mut(out_len)).enumerate() {
                run(x, out, i);
            }
        };
        match (node.op, inputs[1], inputs[2], weight(0), vector(1)) {
            (Op::Conv2d(op), channel, residual, Some(data), bias) => {
                let epilogue = Epilogue::new(&op, images, os, bias, channel, residual);
                let kernel = kernel(&op, data, prepared);
                let conv = Conv { op: &op, images, x, xs, os, kernel, epilogue };
                match choice::conv(&op, os, self.conv) {
                    ConvKernel::Direct => kernels.direct(&conv, out),
                    ConvKernel::Winograd2 => kernels.winograd::<4, 2, F2>(&conv, workspace, out),
                    ConvKernel::Winograd4 => kernels.winograd::<6, 4, F4>(&conv, workspace, out),
                }
            }
            (Op::GroupNorm(op), scale_shift, _, _, Some(beta)) => {
                let gamma = vector(0).unwrap_or_default();
                each(out, &|x, out, i| {
                    let scale_shift = scale_shift.map(|s| &s[i * 2 * xs.c as usize..][..2 * xs.c as usize]);
                    kernels.group_norm(&op, x, xs, scale_shift, [gamma, beta], out);
                });
            }
            (Op::Attention(op), Some(k), Some(v), ..) => kernels.attention(&op, images, [x, k, v], out),
            (Op::Upsample(op), ..) => each(out, &|x, out, _| op.run(x, xs, out, os)),
            (Op::AvgPool(op), ..) => each(out, &|x, out, _| op.run(x, xs, out, os)),
            (Op::Concat(op), Some(b), ..) => concat(op, [x, b], [xs.c, os.c - xs.c], out),
            (Op::Embedding(op), _, _, Some(table), _) => each(out, &|x, out, _| op.run(x, table, weight(1), out)),
            (Op::Affine(op), divisor, ..) => each(out, &|x, out, i| op.run(x, divisor.map(|d| &d[i..]), out)),
            (Op::LayerNorm(op), .., beta) => {
                kernels.layer_norm(&op, x, (os.c / op.heads.max(1)) as usize, [vector(0), beta], out);
            }
            (Op::Gate(op), ..) => kernels.gate(&op, x, os.c as usize, out),
            (Op::Modulate(op), vector, residual, ..) => each(out, &|x, out, i| {
                let vector = vector.map(|v| &v[i * (v.len() / images)..][..v.len() / images]);
                let residual = residual.map(|r| &r[i * out_len..][..out_len]);
                kernels.modulate(&op, x, os.c as usize, vector, residual, out);
            }),
            (Op::Join(op), b, ..) => each(out, &|x, out, i| {
                op.run(x, b.map(|b| &b[i * (b.len() / images)..][..b.len() / images]), os.c, out);
            }),
            (Op::Unpatchify(op), ..) => each(out, &|x, out, _| op.run(x, xs, out, os)),
            // A node without its operands can't come out of a `GraphBuilder`, whose shape rules ask for them.
            _ => {}
        }
    }
}

/// Concatenation, over all threads.
fn concat(op: Concat, [a, b]: [&[f32]; 2], [ca, cb]: [u32; 2], out: &mut [f32]) {
    let (na, nb) = (ca as usize, cb as usize);
    for_chunks(out, PIXELS * (na + nb), |(i, out)| {
        let pixels = out.len() / (na + nb);
        op.run(&a[i * PIXELS * na..][..pixels * na], ca, &b[i * PIXELS * nb..][..pixels * nb], cb, out);
    });
}
