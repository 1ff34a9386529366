//! What every kernel is tried on: each op with each of its options, in shapes that take the ways kernels have.

use unfog_core::nn::graph::{Weight, WeightUse};
use unfog_core::nn::op::{
    Act, Affine, Attention, AvgPool, Concat, Conv2d, Embedding, Gate, GroupNorm, Join, LayerNorm, MAX_INPUTS,
    MAX_WEIGHTS, Modulate, Op, Shape, Unpatchify, Upsample,
};

/// One op with the shapes of its operands.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) op: Op,
    pub(super) inputs: [Option<Shape>; MAX_INPUTS],
    pub(super) weights: [Option<Weight>; MAX_WEIGHTS],
}

impl Case {
    fn new(op: Op, inputs: &[Shape]) -> Self {
        let mut case = Self { op, inputs: [None; MAX_INPUTS], weights: [None; MAX_WEIGHTS] };
        case.inputs.iter_mut().zip(inputs).for_each(|(to, shape)| *to = Some(*shape));
        case
    }

    fn weigh(mut self, weights: &[([u32; 4], WeightUse)]) -> Self {
        let weight = |&(shape, role)| Weight { shape, role };
        self.weights.iter_mut().zip(weights).for_each(|(to, from)| *to = Some(weight(from)));
        self
    }

    /// In words: the op, its parameters that matter, and its shapes.
    pub(super) fn name(&self) -> String {
        let shapes: Vec<String> =
            self.inputs.iter().map(|s| s.map_or("-".into(), |s| format!("{}x{}x{}", s.h, s.w, s.c))).collect();
        format!("{:?} of {}", self.op, shapes.join(" ").trim_end_matches([' ', '-']))
    }

    /// Values of input `i`, from a fixed sequence; the rows of a table in turn.
    pub(super) fn input(&self, i: usize, len: usize) -> Vec<f32> {
        match self.op {
            Op::Embedding(op) => (0..len).map(|j| (j as u32 % op.count) as f32).collect(),
            // A divisor.
            Op::Affine(_) if i == 1 => vec![1.75; len],
            _ => values(i as u32 + 1, len).collect(),
        }
    }

    /// Values of weight `i` as half floats: exactly what a device that stores them so has. Kernels are as small as their number
    /// of products asks for.
    pub(super) fn weight(&self, i: usize, weight: &Weight) -> Vec<f32> {
        let [rows, columns, h, w] = weight.shape;
        let (scale, shift) = match weight.role {
            WeightUse::Kernel => (1.0 / ((columns * h * w) as f32).sqrt(), 0.0),
            _ if matches!(self.op, Op::GroupNorm(_) | Op::LayerNorm(_)) && i == 0 => (0.25, 1.0),
            _ => (0.5, 0.0),
        };
        let len = rows as usize * columns as usize * (h * w) as usize;
        // Ten bits and a power of two are a half float.
        let power = 2.0_f32.powi(scale.log2().round() as i32);
        values(i as u32 + 9, len).map(|v| (v * 256.0).round() / 256.0 * power + shift).collect()
    }
}

/// Numbers between -1 and 1 that look random (Weyl's sequence of the golden ratio, hashed by a product).
fn values(seed: u32, len: usize) -> impl Iterator<Item = f32> {
    let hash = move |i: u32| {
        let x = (i ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
        (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35)
    };
    (0..len as u32).map(move |i| (hash(i) >> 8) as f32 / (1 << 23) as f32 - 1.0)
}

/// A convolution whose kernel, bias, channel and residual are there as `given` says.
fn conv(op: Conv2d, x: Shape, out: Shape, [bias, channel, residual]: [bool; 3]) -> Case {
    let mut case = Case::new(Op::Conv2d(op), &[x]);
    case.inputs[1] = channel.then_some(Shape::vector(op.out_c));
    case.inputs[2] = residual.then_some(out);
    let kernel = ([op.out_c, op.in_c, op.kernel[0], op.kernel[1]], WeightUse::Kernel);
    let vector = ([op.out_c, 1, 1, 1], WeightUse::Vector);
    if bias { case.weigh(&[kernel, vector]) } else { case.weigh(&[kernel]) }
}

fn convolutions() -> Vec<Case> {
    let same =
        |op: Conv2d, h: u32, w: u32, given| conv(op, Shape::new(h, w, op.in_c), Shape::new(h, w, op.out_c), given);
    let all = [true; 3];
    let mut cases: Vec<Case> =
        Act::ALL.into_iter().map(|act| same(Conv2d { act, ..Conv2d::new(32, 32, 3, 1) }, 12, 20, all)).collect();
    // Everything fused in, one by one.
    for given in [[false; 3], [true, false, false], [false, true, false], [false, false, true]] {
        cases.push(same(Conv2d::new(16, 24, 3, 1), 9, 11, given));
    }
    let half = Conv2d { stride: 2, ..Conv2d::new(32, 48, 3, 1) };
    cases.push(conv(half, Shape::new(16, 16, 32), Shape::new(8, 8, 48), [true, false, false]));
    // As diffusers pads before it halves: below and on the right alone.
    let corner = Conv2d { stride: 2, pad: [0, 0, 1, 1], ..Conv2d::new(32, 32, 3, 0) };
    cases.push(conv(corner, Shape::new(16, 16, 32), Shape::new(8, 8, 32), [true, false, false]));
    let double = Conv2d { upsample: 2, ..Conv2d::new(32, 32, 3, 1) };
    cases.push(conv(double, Shape::new(8, 8, 32), Shape::new(16, 16, 32), [true, false, false]));
    let scaled = Conv2d { scale: 0.5, act: Act::Silu, ..Conv2d::new(32, 64, 3, 1) };
    cases.push(same(scaled, 16, 16, all));
    // The first and the last layer: few channels, numbers that vectors don't divide.
    cases.push(same(Conv2d::new(1, 32, 3, 1), 24, 24, [true, false, false]));
    cases.push(same(Conv2d::new(4, 40, 3, 1), 16, 16, [true, false, false]));
    cases.push(same(Conv2d::new(32, 3, 3, 1), 24, 24, [true, false, false]));
    cases.push(same(Conv2d::new(7, 13, 5, 2), 10, 10, all));
    // Deep and narrow, wide and shallow: where tiles differ.
    cases.push(same(Conv2d::new(320, 64, 3, 1), 4, 4, all));
    cases.push(same(Conv2d::new(64, 128, 3, 1), 32, 32, all));
    // Linear layers of pixels and of one vector.
    cases.push(same(Conv2d::linear(64, 192), 16, 16, [true, false, true]));
    cases.push(same(Conv2d::linear(320, 320), 8, 8, [true, false, false]));
    cases.push(same(Conv2d::linear(30, 18), 7, 5, [true, false, true]));
    cases.push(same(Conv2d { act: Act::Silu, ..Conv2d::linear(32, 128) }, 1, 1, [true, false, false]));
    cases.push(same(Conv2d::linear(1280, 320), 1, 1, [true, false, false]));
    cases
}

fn normalisations() -> Vec<Case> {
    let norm = |shape: Shape, groups: u32, act: Act, scale_shift: bool| {
        let mut case = Case::new(Op::GroupNorm(GroupNorm { groups, eps: 1e-5, act }), &[shape]);
        case.inputs[1] = scale_shift.then_some(Shape::vector(2 * shape.c));
        let vector = ([shape.c, 1, 1, 1], WeightUse::Vector);
        case.weigh(&[vector, vector])
    };
    let mut cases: Vec<Case> = Act::ALL.into_iter().map(|act| norm(Shape::new(16, 16, 64), 32, act, false)).collect();
    cases.push(norm(Shape::new(16, 16, 64), 32, Act::Silu, true));
    cases.push(norm(Shape::new(9, 7, 30), 5, Act::None, true));
    cases.push(norm(Shape::new(64, 64, 32), 8, Act::Silu, false));
    cases.push(norm(Shape::new(4, 4, 320), 32, Act::Silu, false));
    for shape in [Shape::new(8, 8, 320), Shape::new(1, 77, 30), Shape::new(2, 2, 1280)] {
        let vector = ([shape.c, 1, 1, 1], WeightUse::Vector);
        cases.push(Case::new(Op::LayerNorm(LayerNorm::new(1e-5)), &[shape]).weigh(&[vector, vector]));
    }
    cases
}

fn attentions() -> Vec<Case> {
    let attend = |queries: Shape, keys: u32, heads: u32, head_dim: u32| {
        let scale = 1.0 / (head_dim as f32).sqrt();
        let keys = Shape::new(1, keys, heads * head_dim);
        Case::new(
            Op::Attention(Attention { heads, head_dim, scale, causal: false, biased: false }),
            &[queries, keys, keys],
        )
    };
    let dims = [6, 8, 16, 24, 32, 40, 64, 80, 96, 128, 160];
    let mut cases: Vec<Case> = dims.into_iter().map(|dim| attend(Shape::new(8, 8, 2 * dim), 64, 2, dim)).collect();
    // As many keys as a prompt has tokens; more than a block of them; fewer than a vector.
    cases.push(attend(Shape::new(8, 8, 320), 77, 8, 40));
    cases.push(attend(Shape::new(16, 16, 64), 256, 2, 32));
    cases.push(attend(Shape::new(5, 3, 16), 3, 1, 16));
    // With padding among the keys.
    for head_dim in [24, 30] {
        let op = Attention { heads: 2, head_dim, scale: 0.2, causal: false, biased: true };
        let c = 2 * head_dim;
        let shapes = [Shape::new(8, 8, c), Shape::new(1, 81, c + 1), Shape::new(1, 81, c)];
        cases.push(Case::new(Op::Attention(op), &shapes));
    }
    // As text encoders attend: heads of one block and of several, aligned and not.
    for (tokens, heads, head_dim) in [(77, 2, 64), (77, 1, 80), (13, 3, 6)] {
        let op = Attention { heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt(), causal: true, biased: false };
        cases.push(Case::new(Op::Attention(op), &[Shape::new(1, tokens, heads * head_dim); 3]));
    }
    cases
}

/// All cases.
pub(super) fn all() -> Vec<Case> {
    let mut cases = convolutions();
    cases.extend(normalisations());
    cases.extend(attentions());
    for act in Act::ALL {
        cases.push(Case::new(Op::Gate(Gate { act }), &[Shape::new(8, 6, 64)]));
        cases.push(Case::new(Op::Gate(Gate { act }), &[Shape::new(5, 3, 26)]));
    }
    for c in [32, 13] {
        let x = Shape::new(8, 6, c);
        cases.push(Case::new(Op::Upsample(Upsample { factor: 2 }), &[x]));
        cases.push(Case::new(Op::AvgPool(AvgPool { size: 2 }), &[x]));
        cases.push(Case::new(Op::Concat(Concat), &[x, Shape::new(8, 6, 19)]));
        cases.push(Case::new(Op::Concat(Concat), &[x, Shape::new(8, 6, 64)]));
        let table = ([7, c, 1, 1], WeightUse::Table);
        let embedding = Op::Embedding(Embedding { count: 7, dim: c });
        cases.push(Case::new(embedding, &[Shape::vector(1)]).weigh(&[table]));
        cases.push(Case::new(embedding, &[Shape::new(1, 11, 1)]).weigh(&[table, ([12, c, 1, 1], WeightUse::Table)]));
        let affine = Op::Affine(Affine::new(0.75, -0.5));
        cases.push(Case::new(affine, &[x]));
        cases.push(Case::new(affine, &[x, Shape::vector(1)]));
        let modulate = Op::Modulate(Modulate { factor: 1.0, scale: Some(c), shift: Some(0) });
        cases.push(Case::new(modulate, &[x, Shape::vector(6 * c)]));
        let gate = Op::Modulate(Modulate { factor: 0.0, scale: Some(2 * c), shift: None });
        cases.push(Case::new(gate, &[x, Shape::vector(6 * c), x]));
        cases.push(Case::new(Op::Join(Join { first: 5, h: 1, w: 50 }), &[x, Shape::new(1, 9, c)]));
        cases.push(Case::new(Op::Unpatchify(Unpatchify { size: 2 }), &[Shape::new(8, 6, 4 * c)]));
    }
    for (rms, heads) in [(false, 1), (true, 1), (true, 4)] {
        let op = Op::LayerNorm(LayerNorm { heads, rms, ..LayerNorm::new(1e-6) });
        let gamma = ([96 / heads, 1, 1, 1], WeightUse::Vector);
        cases.push(Case::new(op, &[Shape::new(4, 5, 96)]));
        cases.push(Case::new(op, &[Shape::new(4, 5, 96)]).weigh(&[gamma]));
    }
    for act in Act::ALL {
        cases.push(Case::new(Op::Affine(Affine { act, ..Affine::new(1.5, 0.25) }), &[Shape::new(5, 3, 26)]));
    }
    cases
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_op_has_a_case() {
        let there: BTreeSet<&str> = all().iter().map(|case| case.op.name()).collect();
        assert_eq!(there, Op::NAMES.into_iter().collect());
    }

    #[test]
    fn weights_are_half_floats() {
        use unfog_core::nn::weights::{f16_to_f32, f32_to_f16};
        for case in all() {
            for (i, weight) in case.weights.iter().enumerate() {
                for value in weight.iter().flat_map(|w| case.weight(i, w)) {
                    assert_eq!(f32_to_f16(value).map(f16_to_f32), Some(value), "{}", case.name());
                }
            }
        }
    }
}
