//! What tuning chooses among: how the kernels of convolutions and attentions, which take nearly all of a network's time, are cut
//! up. Without a choice the table decides ([`crate::tiling`]); who times the candidates is the caller's affair.

use crate::device::{Context, DeviceInfo};
use crate::dispatch;
use crate::error::GpuError;
use crate::pack::Precision;
use crate::tiling::{Kernels, Tiling};
use std::fmt;
use std::str::FromStr;
use unfog_core::nn::graph::{Graph, Node};
use unfog_core::nn::op::Op;

/// Work groups and tiles of convolutions to try: invocations along pixels and along output channels, then pixels and vectors of
/// output channels that each holds. Kernels that share memory have tiles of their own ([`Tiling::tiles`]).
const CONV2D: &[([u32; 2], [u32; 2])] = &[
    ([8, 1], [8, 4]),
    ([8, 1], [4, 4]),
    ([8, 1], [8, 2]),
    ([16, 1], [4, 4]),
    ([16, 4], [4, 2]),
    ([16, 4], [2, 4]),
    ([32, 2], [4, 4]),
    ([8, 8], [4, 4]),
];
/// The same of attentions: invocations along queries, and the vectors of output channels that each holds at most.
const ATTENTION: &[([u32; 2], [u32; 2])] = &[
    ([8, 1], [64, 1]),
    ([8, 1], [32, 1]),
    ([32, 1], [16, 1]),
    ([32, 1], [32, 1]),
    ([64, 1], [8, 1]),
    ([64, 1], [16, 1]),
];

/// How a kernel is cut up. As text: `plain 16x4 4x2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which kernels.
    pub kernels: Kernels,
    /// Invocations of a work group: along pixels or queries, and along output channels.
    pub local: [u32; 2],
    /// What an invocation holds: pixels and vectors of output channels of a convolution, or what a subgroup holds of their
    /// matrices; of an attention, vectors at most.
    pub tile: [u32; 2],
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernels, local: [x, y], tile: [a, b] } = self;
        write!(f, "{} {x}x{y} {a}x{b}", kernels.name())
    }
}

impl FromStr for Choice {
    type Err = GpuError;

    fn from_str(text: &str) -> Result<Self, GpuError> {
        let sides = |text: &str| -> Option<[u32; 2]> {
            let (a, b) = text.split_once('x')?;
            let sides = [a.parse().ok()?, b.parse().ok()?];
            sides.iter().all(|side| (1..=1024).contains(side)).then_some(sides)
        };
        let parse = || {
            let mut words = text.split(' ');
            let (kernels, local, tile) = (words.next()?, sides(words.next()?)?, sides(words.next()?)?);
            let kernels = Kernels::NAMES.iter().find(|(name, _)| *name == kernels)?.1;
            // More registers than any device has.
            let held = tile[0].checked_mul(tile[1]).filter(|&held| held <= 256);
            held.filter(|_| words.next().is_none()).map(|_| Self { kernels, local, tile })
        };
        parse().ok_or_else(|| GpuError::Choice(text.to_owned()))
    }
}

/// What a choice is for: nodes of equal shapes, by a text that names them; none of what isn't tuned.
pub fn key(graph: &Graph<'_>, node: &Node) -> Option<String> {
    let shape = |i: usize| {
        node.inputs.get(i).copied().flatten().and_then(|id| graph.tensors.get(usize::from(id.0))).map(|t| t.shape)
    };
    let x = shape(0)?;
    match node.op {
        Op::Conv2d(op) => {
            let [h, w] = op.kernel;
            let up = if op.upsample > 1 { format!(" up {}", op.upsample) } else { String::new() };
            let more = [(1, " channel"), (2, " residual")].map(|(i, name)| shape(i).map_or("", |_| name)).concat();
            Some(format!("conv2d {}x{}x{} to {} by {h}x{w}/{}{up}{more}", x.w, x.h, x.c, op.out_c, op.stride))
        }
        Op::Attention(op) => {
            let keys = shape(1)?.pixels();
            Some(format!("attention {} to {keys} of {}x{}", x.pixels(), op.heads, op.head_dim))
        }
        _ => None,
    }
}

impl Tiling {
    /// The table's, with a choice for `node` in its place if there is one.
    ///
    /// # Errors
    /// [`GpuError::Choice`] for one that the device can't run, and for matrix units, which no choice takes yet.
    pub(crate) fn chosen(self, info: &DeviceInfo, node: &Node, choice: Option<&Choice>) -> Result<Self, GpuError> {
        let Some(choice) = choice else { return Ok(self) };
        let table = Self::new(info, choice.kernels, self.precision);
        let [local, _] = choice.local;
        let chosen = match (choice.kernels, node.op) {
            (Kernels::Matrix, _) => None,
            (_, Op::Conv2d(_)) => table.with_tile(choice.local, choice.tile),
            (Kernels::Plain | Kernels::Texel, Op::Attention(_))
                if choice.local[1] == 1 && local <= info.max_invocations =>
            {
                Some(table.with_queries(local, choice.tile[0]))
            }
            (_, Op::Attention(_)) => None,
            _ => Some(self),
        };
        chosen.ok_or_else(|| GpuError::Choice(choice.to_string()))
    }
}

/// The candidates for a node, each of which makes another kernel of it; none for what isn't tuned. What the table takes is not
/// among them.
///
/// # Errors
/// [`GpuError::Node`].
pub fn candidates(
    context: &Context,
    graph: &Graph<'_>,
    index: usize,
    precision: Precision,
) -> Result<Vec<Choice>, GpuError> {
    let info = context.info();
    let node = graph.nodes.get(index).ok_or(GpuError::Node(index))?;
    let table = Tiling::new(info, Kernels::Auto, precision);
    let mut seen = vec![dispatch::steps(graph, index, table)?];
    let mut found = Vec::new();
    for &(_, kernels) in Kernels::NAMES {
        let shared = Tiling::new(info, kernels, precision).tiles().into_iter().map(|tile| tile.choice().into());
        let sizes: Vec<([u32; 2], [u32; 2])> = match node.op {
            Op::Conv2d(_) if matches!(kernels, Kernels::Plain | Kernels::Texel) => CONV2D.to_vec(),
            Op::Conv2d(_) => shared.collect(),
            Op::Attention(_) => ATTENTION.to_vec(),
            _ => Vec::new(),
        };
        for (local, tile) in sizes {
            let choice = Choice { kernels, local, tile };
            let Ok(tiling) = table.chosen(info, node, Some(&choice)) else { continue };
            let steps = dispatch::steps(graph, index, tiling)?;
            if !seen.contains(&steps) {
                seen.push(steps);
                found.push(choice);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_text_and_back() {
        for text in ["plain 16x4 4x2", "texel 8x1 8x4", "tile 16x16 8x2", "matrix 256x1 2x4"] {
            assert_eq!(text.parse::<Choice>().unwrap().to_string(), text);
        }
        for text in ["", "plain", "plain 16x4", "auto 16x4 4x2", "plain 0x4 4x2", "plain 16x4 4x2 ", "plain 1x1 99x99"]
        {
            assert!(matches!(text.parse::<Choice>(), Err(GpuError::Choice(t)) if t == text), "{text}");
        }
    }
}
