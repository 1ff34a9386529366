//! What an evaluation costs, counted from the graph.

use super::graph::{Graph, Node};
use super::op::Op;

/// Floating-point operations of a node for one image: a multiplication and its addition count as two. Convolutions and linear
/// layers with their padding, attention, normalisation; what only moves or adds values counts one a value.
pub fn node_flops(graph: &Graph<'_>, node: &Node) -> u64 {
    let out = graph.shape(node.output);
    let input = |i: usize| node.inputs[i].map(|id| graph.shape(id)).unwrap_or_default();
    match node.op {
        Op::Conv2d(op) => {
            let taps = u64::from(op.kernel[0]) * u64::from(op.kernel[1]) * u64::from(op.in_c);
            out.len().saturating_mul(taps).saturating_mul(2)
        }
        // Scores and the weighted sum.
        Op::Attention(_) => out.len().saturating_mul(input(1).pixels()).saturating_mul(4),
        // Mean, variance, normalisation.
        Op::GroupNorm(_) | Op::LayerNorm(_) => out.len().saturating_mul(8),
        Op::AvgPool(_) => input(0).len(),
        Op::Upsample(_) | Op::Concat(_) | Op::Embedding(_) | Op::Affine(_) | Op::Gate(_) => out.len(),
        Op::Modulate(_) | Op::Join(_) | Op::Unpatchify(_) => out.len(),
    }
}

/// Floating-point operations of one evaluation for one image.
pub fn flops(graph: &Graph<'_>) -> u64 {
    graph.nodes.iter().fold(0, |sum, node| sum.saturating_add(node_flops(graph, node)))
}
