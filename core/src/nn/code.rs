//! Graphs as words: how inputs and nodes are written in a pack. One record a tensor, in the order of the ids, of
//! [`RECORD`] little-endian 32-bit words; a change here is another [`crate::pack::ABI`].

use super::graph::{Input, Projection, TensorId, WeightId, WeightUse};
use super::op::{
    Act, Affine, Attention, AvgPool, Concat, Conv2d, Embedding, GroupNorm, MAX_INPUTS, MAX_WEIGHTS, Op, Shape, Upsample,
};

/// Words of a record.
pub const RECORD: usize = 20;
/// An operand that is absent.
const NONE: u32 = u32::MAX;

/// One tensor's origin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Record {
    /// An input of this shape.
    Input(Input, Shape),
    /// The result of a node.
    Node(Op, [Option<TensorId>; MAX_INPUTS], [Option<WeightId>; MAX_WEIGHTS]),
}

/// The record as words.
pub fn encode(record: Record) -> [u32; RECORD] {
    let mut words = [0; RECORD];
    let mut put = |from: usize, values: &[u32]| {
        words.iter_mut().skip(from).zip(values).for_each(|(w, v)| *w = *v);
    };
    match record {
        Record::Input(input, shape) => {
            let (kind, projection) = match input {
                Input::Sample => (1, None),
                Input::Time(p) => (2, Some(p)),
                Input::Class(p) => (3, Some(p)),
                Input::Embedding => (4, None),
            };
            put(0, &[kind, shape.h, shape.w, shape.c]);
            match projection {
                None => {}
                Some(Projection::Value) => put(4, &[1]),
                Some(Projection::Index { count }) => put(4, &[2, count]),
                Some(Projection::Positional { dim, flip, shift }) => {
                    put(4, &[3, dim, u32::from(flip), shift.cast_unsigned()]);
                }
                Some(Projection::Fourier { weight, dim }) => put(4, &[4, dim, u32::from(weight.0)]),
            }
        }
        Record::Node(op, inputs, weights) => {
            let kind = |number: u32| 16 + number;
            let [a, b, c] = inputs.map(|id| id.map_or(NONE, |id| u32::from(id.0)));
            let [d, e] = weights.map(|id| id.map_or(NONE, |id| u32::from(id.0)));
            put(1, &[a, b, c, d, e]);
            match op {
                Op::Conv2d(Conv2d { in_c, out_c, kernel, stride, pad, upsample, scale, act }) => {
                    put(0, &[kind(0)]);
                    put(6, &[in_c, out_c, kernel[0], kernel[1], stride, pad[0], pad[1], pad[2], pad[3], upsample]);
                    put(16, &[scale.to_bits(), act as u32]);
                }
                Op::GroupNorm(GroupNorm { groups, eps, act }) => {
                    put(0, &[kind(1)]);
                    put(6, &[groups, eps.to_bits(), act as u32]);
                }
                Op::Attention(Attention { heads, head_dim, scale }) => {
                    put(0, &[kind(2)]);
                    put(6, &[heads, head_dim, scale.to_bits()]);
                }
                Op::Upsample(Upsample { factor }) => {
                    put(0, &[kind(3)]);
                    put(6, &[factor]);
                }
                Op::AvgPool(AvgPool { size }) => {
                    put(0, &[kind(4)]);
                    put(6, &[size]);
                }
                Op::Concat(Concat) => put(0, &[kind(5)]),
                Op::Embedding(Embedding { count, dim }) => {
                    put(0, &[kind(6)]);
                    put(6, &[count, dim]);
                }
                Op::Affine(Affine { scale, shift }) => {
                    put(0, &[kind(7)]);
                    put(6, &[scale.to_bits(), shift.to_bits()]);
                }
            }
        }
    }
    words
}

/// The record that `words` hold; `None` for anything that [`encode`] doesn't write.
pub fn decode(words: &[u32; RECORD]) -> Option<Record> {
    let record = decode_known(words)?;
    // What was not written is no record either: every word counts.
    (encode(record) == *words).then_some(record)
}

fn decode_known(words: &[u32; RECORD]) -> Option<Record> {
    let &[kind, a, b, c, d, e, p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, _, _] = words;
    if kind < 16 {
        let projection = || match d {
            1 => Some(Projection::Value),
            2 => Some(Projection::Index { count: e }),
            3 => Some(Projection::Positional { dim: e, flip: p0 != 0, shift: p1.cast_signed() }),
            4 => Some(Projection::Fourier { weight: WeightId(u16::try_from(p0).ok()?), dim: e }),
            _ => None,
        };
        let input = match kind {
            1 => Input::Sample,
            2 => Input::Time(projection()?),
            3 => Input::Class(projection()?),
            4 => Input::Embedding,
            _ => return None,
        };
        return Some(Record::Input(input, Shape::new(a, b, c)));
    }
    let op = match kind - 16 {
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
        2 => Op::Attention(Attention { heads: p0, head_dim: p1, scale: f32::from_bits(p2) }),
        3 => Op::Upsample(Upsample { factor: p0 }),
        4 => Op::AvgPool(AvgPool { size: p0 }),
        5 => Op::Concat(Concat),
        6 => Op::Embedding(Embedding { count: p0, dim: p1 }),
        7 => Op::Affine(Affine { scale: f32::from_bits(p0), shift: f32::from_bits(p1) }),
        _ => return None,
    };
    let inputs = [id(a)?.map(TensorId), id(b)?.map(TensorId), id(c)?.map(TensorId)];
    Some(Record::Node(op, inputs, [id(d)?.map(WeightId), id(e)?.map(WeightId)]))
}

/// An operand: absent, an id, or (the outer `None`) neither.
fn id(word: u32) -> Option<Option<u16>> {
    if word == NONE { Some(None) } else { u16::try_from(word).ok().map(Some) }
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
