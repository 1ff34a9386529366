//! Weights in the form and order of the inner loop, made once instead of at each evaluation, as far as there may be memory for them.

use unfog_core::nn::graph::{Graph, Node};
use unfog_core::nn::op::{Conv2d, Op};
use unfog_core::nn::weights::WeightData;

use super::choice::{self, ConvKernel};
use super::weights::Kernel;
use super::winograd::{self, F2, F4};
use super::{CpuError, CpuOptions, conv, reserve};

/// Values of a node's prepared weights, and what speaks for them: their number for each pixel of the output.
fn wish(graph: &Graph<'_>, node: &Node, forced: Option<ConvKernel>) -> Option<(usize, u64)> {
    let Op::Conv2d(op) = node.op else { return None };
    let out = graph.shape(node.output);
    let values = match choice::conv(&op, out, forced) {
        ConvKernel::Direct => conv::prepared(&op),
        ConvKernel::Winograd2 => winograd::prepared::<4, 2, F2>(&op),
        ConvKernel::Winograd4 => winograd::prepared::<6, 4, F4>(&op),
    };
    Some((values, out.pixels()))
}

/// Values of the prepared weights of each node, 0 for those that are made on their way: the nodes with the fewest pixels come first, for
/// there it takes the largest share of the time.
fn chosen(graph: &Graph<'_>, options: &CpuOptions) -> Vec<usize> {
    let mut wishes: Vec<_> =
        graph.nodes.iter().enumerate().filter_map(|(i, node)| Some((i, wish(graph, node, options.conv)?))).collect();
    wishes.sort_by_key(|&(i, (_, pixels))| (pixels, i));
    let mut left = options.memory / 4;
    let mut chosen = vec![0; graph.nodes.len()];
    for (i, (values, _)) in wishes {
        if let Some(rest) = left.checked_sub(values as u64) {
            (chosen[i], left) = (values, rest);
        }
    }
    chosen
}

/// Bytes of what [`prepare`] makes.
pub(super) fn bytes(graph: &Graph<'_>, options: &CpuOptions) -> u64 {
    4 * chosen(graph, options).iter().map(|&values| values as u64).sum::<u64>()
}

/// The kernel of a convolution, as it is stored.
pub(super) fn kernel<'w>(op: &Conv2d, data: WeightData<'w>, prepared: &'w [f32]) -> Kernel<'w> {
    let taps = (op.kernel[0] * op.kernel[1]) as usize;
    Kernel { data, outputs: op.out_c as usize, inputs: op.in_c as usize, taps, prepared }
}

/// Makes the prepared weights of each node; empty for the others. Runs on the pool that it is called on.
///
/// # Errors
/// [`CpuError::Memory`].
pub(super) fn prepare(
    arch: pulp::Arch,
    graph: &Graph<'_>,
    weights: &[WeightData<'_>],
    options: &CpuOptions,
) -> Result<Vec<Vec<f32>>, CpuError> {
    let mut all = Vec::with_capacity(graph.nodes.len());
    for (node, values) in graph.nodes.iter().zip(chosen(graph, options)) {
        let mut prepared = Vec::new();
        if let (Op::Conv2d(op), Some(id), true) = (node.op, node.weights[0], values > 0) {
            reserve(&mut prepared, values)?;
            let kernel = kernel(&op, weights[usize::from(id.0)], &[]);
            match choice::conv(&op, graph.shape(node.output), options.conv) {
                ConvKernel::Direct => conv::prepare(arch, kernel, &mut prepared),
                ConvKernel::Winograd2 => winograd::prepare::<4, 2, F2>(arch, kernel, &mut prepared),
                ConvKernel::Winograd4 => winograd::prepare::<6, 4, F4>(arch, kernel, &mut prepared),
            }
        }
        all.push(prepared);
    }
    Ok(all)
}
