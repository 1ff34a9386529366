//! Bytes that must move, counted from the graph.

use unfog_core::nn::graph::{Graph, Node};

/// Bytes that a node must move for one image: its operands and its result, f32, and its weights, `weight_bytes` for a value.
pub(super) fn of_node(graph: &Graph<'_>, node: &Node, weight_bytes: f64) -> u64 {
    let tensors = node.inputs.iter().flatten().chain([&node.output]);
    let values = tensors.fold(0_u64, |sum, id| sum.saturating_add(graph.shape(*id).len()));
    let weights: u64 = node.weights.iter().flatten().map(|id| graph.weights[usize::from(id.0)].len()).sum();
    values.saturating_mul(4).saturating_add((weights as f64 * weight_bytes) as u64)
}

/// Bytes that an evaluation of `images` images must move when its weights are read once for all of them and every tensor is
/// written and read as often as the graph says.
pub(super) fn of_batch(graph: &Graph<'_>, weight_bytes: u64, images: usize) -> u64 {
    let tensors = graph.nodes.iter().fold(0_u64, |sum, node| sum.saturating_add(of_node(graph, node, 0.0)));
    tensors.saturating_mul(images as u64).saturating_add(weight_bytes)
}
