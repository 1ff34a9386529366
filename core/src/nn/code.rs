//! Graphs as little-endian 32-bit words: how nodes and tensors are written in a pack. A change here is another
//! [`crate::pack::ABI`], unless words that were 0 get a meaning: then older packs mean what they meant, and older readers refuse newer
//! packs.

use super::graph::{Grid, Input, Node, Projection, Tensor, TensorId, WeightId, WeightUse};
use super::op::{
    Act, Affine, Attention, AvgPool, Concat, Conv2d, Embedding, Gate, GroupNorm, Join, LayerNorm, MAX_INPUTS,
    MAX_WEIGHTS, Modulate, Op, Shape, Unpatchify, Upsample,
};

/// Words of a node: the op, its inputs and weights, its parameters from word 6 on, and in word 18 its result.
pub const NODE: usize = 20;
/// Words of a tensor: its shape, what makes it from word 3 on, and three words that are the pack's.
pub const TENSOR: usize = 12;
/// The first of the words of a tensor that are the pack's.
pub const TENSOR_PLACE: usize = 8;
/// An operand that is absent.
const NONE: u32 = u32::MAX;

/// The words of a tensor; `node` is the number of the node that makes it, if one does.
pub fn encode_tensor(tensor: Tensor, node: u32) -> [u32; TENSOR] {
    let Shape { h, w, c } = tensor.shape;
    let (kind, projection) = match tensor.input {
        None => (0, [node, 0, 0, 0]),
        Some(Input::Sample) => (1, [0; 4]),
        Some(Input::Time(p)) => (2, encode_projection(p)),
        Some(Input::Class(p)) => (3, encode_projection(p)),
        Some(Input::Embedding) => (4, [0; 4]),
        Some(Input::Grid(Grid::Index { first, stride })) => (5, [0, first, stride, 0]),
        Some(Input::Grid(Grid::Waves { base })) => (5, [1, base, 0, 0]),
    };
    let [p0, p1, p2, p3] = projection;
    [h, w, c, kind, p0, p1, p2, p3, 0, 0, 0, 0]
}

fn encode_projection(projection: Projection) -> [u32; 4] {
    match projection {
        Projection::Value => [1, 0, 0, 0],
        Projection::Index { count } => [2, count, 0, 0],
        Projection::Positional { dim, flip, shift } => [3, dim, u32::from(flip), shift.cast_unsigned()],
        Projection::Fourier { weight, dim } => [4, dim, u32::from(weight.0), 0],
    }
}

/// The tensor of these words and, if a node makes it, that node's number; `None` for anything that [`encode_tensor`] doesn't
/// write.
pub fn decode_tensor(words: &[u32; TENSOR]) -> Option<(Tensor, Option<u32>)> {
    let &[h, w, c, kind, p0, p1, p2, p3, ..] = words;
    let projection = || match p0 {
        1 => Some(Projection::Value),
        2 => Some(Projection::Index { count: p1 }),
        3 => Some(Projection::Positional { dim: p1, flip: p2 != 0, shift: p3.cast_signed() }),
        4 => Some(Projection::Fourier { weight: WeightId(u16::try_from(p2).ok()?), dim: p1 }),
        _ => None,
    };
    let input = match kind {
        0 => None,
        1 => Some(Input::Sample),
        2 => Some(Input::Time(projection()?)),
        3 => Some(Input::Class(projection()?)),
        4 => Some(Input::Embedding),
        5 if p0 == 0 => Some(Input::Grid(Grid::Index { first: p1, stride: p2 })),
        5 => Some(Input::Grid(Grid::Waves { base: p1 })),
        _ => return None,
    };
    let tensor = Tensor { shape: Shape::new(h, w, c), input };
    // Words that were not written are none of a tensor's either.
    let same = encode_tensor(tensor, p0)[..TENSOR_PLACE] == words[..TENSOR_PLACE];
    same.then_some((tensor, input.is_none().then_some(p0)))
}

/// The words of a node.
pub fn encode_node(node: &Node) -> [u32; NODE] {
    let mut words = [0; NODE];
    let mut put = |from: usize, values: &[u32]| {
        words.iter_mut().skip(from).zip(values).for_each(|(w, v)| *w = *v);
    };
    let [a, b, c] = node.inputs.map(|id| id.map_or(NONE, |id| u32::from(id.0)));
    let [d, e] = node.weights.map(|id| id.map_or(NONE, |id| u32::from(id.0)));
    put(1, &[a, b, c, d, e]);
    put(18, &[u32::from(node.output.0)]);
    match node.op {
        Op::Conv2d(Conv2d { in_c, out_c, kernel, stride, pad, upsample, scale, act }) => {
            put(0, &[0]);
            put(6, &[in_c, out_c, kernel[0], kernel[1], stride, pad[0], pad[1], pad[2], pad[3], upsample]);
            put(16, &[scale.to_bits(), act as u32]);
        }
        Op::GroupNorm(GroupNorm { groups, eps, act }) => {
            put(0, &[1]);
            put(6, &[groups, eps.to_bits(), act as u32]);
        }
        Op::Attention(Attention { heads, head_dim, scale, causal, biased }) => {
            put(0, &[2]);
            put(6, &[heads, head_dim, scale.to_bits(), u32::from(causal), u32::from(biased)]);
        }
        Op::Upsample(Upsample { factor }) => {
            put(0, &[3]);
            put(6, &[factor]);
        }
        Op::AvgPool(AvgPool { size }) => {
            put(0, &[4]);
            put(6, &[size]);
        }
        Op::Concat(Concat) => put(0, &[5]),
        Op::Embedding(Embedding { count, dim }) => {
            put(0, &[6]);
            put(6, &[count, dim]);
        }
        Op::Affine(Affine { scale, shift, act }) => {
            put(0, &[7]);
            put(6, &[scale.to_bits(), shift.to_bits(), act as u32]);
        }
        Op::LayerNorm(LayerNorm { eps, heads, rms }) => {
            put(0, &[8]);
            // Older packs have one head, and no word for it.
            put(6, &[eps.to_bits(), heads.wrapping_sub(1), u32::from(rms)]);
        }
        Op::Gate(Gate { act }) => {
            put(0, &[9]);
            put(6, &[act as u32]);
        }
        Op::Modulate(Modulate { factor, scale, shift }) => {
            put(0, &[10]);
            put(6, &[factor.to_bits(), scale.unwrap_or(NONE), shift.unwrap_or(NONE)]);
        }
        Op::Join(Join { first, h, w }) => {
            put(0, &[11]);
            put(6, &[first, h, w]);
        }
        Op::Unpatchify(Unpatchify { size }) => {
            put(0, &[12]);
            put(6, &[size]);
        }
    }
    words
}

/// The node of these words; `None` for anything that [`encode_node`] doesn't write.
pub fn decode_node(words: &[u32; NODE]) -> Option<Node> {
    let &[kind, a, b, c, d, e, p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, output, _] = words;
    let op = match kind {
        0 => Op::Conv2d(Conv2d {
            in_c: p0,
            out_c: p1,
            kernel: [p2, p3],
            stride: p4,
            pad: [p5, p6, p7, p8],
            upsample: p9,
            scale: f32::from_bits(p10),
            act: act(p11)?,
        }),
        1 => Op::GroupNorm(GroupNorm { groups: p0, eps: f32::from_bits(p1), act: act(p2)? }),
        2 => {
            let (scale, causal, biased) = (f32::from_bits(p2), p3 != 0, p4 != 0);
            Op::Attention(Attention { heads: p0, head_dim: p1, scale, causal, biased })
        }
        3 => Op::Upsample(Upsample { factor: p0 }),
        4 => Op::AvgPool(AvgPool { size: p0 }),
        5 => Op::Concat(Concat),
        6 => Op::Embedding(Embedding { count: p0, dim: p1 }),
        7 => Op::Affine(Affine { scale: f32::from_bits(p0), shift: f32::from_bits(p1), act: act(p2)? }),
        8 => Op::LayerNorm(LayerNorm { eps: f32::from_bits(p0), heads: p1.wrapping_add(1), rms: p2 != 0 }),
        9 => Op::Gate(Gate { act: act(p0)? }),
        10 => Op::Modulate(Modulate { factor: f32::from_bits(p0), scale: start(p1), shift: start(p2) }),
        11 => Op::Join(Join { first: p0, h: p1, w: p2 }),
        12 => Op::Unpatchify(Unpatchify { size: p0 }),
        _ => return None,
    };
    let inputs: [_; MAX_INPUTS] = [id(a)?.map(TensorId), id(b)?.map(TensorId), id(c)?.map(TensorId)];
    let weights: [_; MAX_WEIGHTS] = [id(d)?.map(WeightId), id(e)?.map(WeightId)];
    let node = Node { op, inputs, weights, output: TensorId(u16::try_from(output).ok()?) };
    // Words that were not written are none of a node's either.
    (encode_node(&node) == *words).then_some(node)
}

/// An operand: absent, an id, or (the outer `None`) neither.
fn id(word: u32) -> Option<Option<u16>> {
    if word == NONE { Some(None) } else { u16::try_from(word).ok().map(Some) }
}

/// Where a part of a vector starts, if it is taken.
fn start(word: u32) -> Option<u32> {
    Some(word).filter(|&word| word != NONE)
}

fn act(word: u32) -> Option<Act> {
    Act::ALL.into_iter().find(|a| *a as u32 == word)
}

/// The number of a weight's use.
pub(crate) const fn role_code(role: WeightUse) -> u32 {
    match role {
        WeightUse::Kernel => 0,
        WeightUse::Vector => 1,
        WeightUse::Table => 2,
        WeightUse::Host => 3,
    }
}

/// The use of a number.
pub(crate) const fn role(code: u32) -> Option<WeightUse> {
    match code {
        0 => Some(WeightUse::Kernel),
        1 => Some(WeightUse::Vector),
        2 => Some(WeightUse::Table),
        3 => Some(WeightUse::Host),
        _ => None,
    }
}
