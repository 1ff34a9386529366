//! Where the time of a network goes: each of its nodes by itself.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use unfog_core::nn::graph::Graph;
use unfog_core::nn::weights::WeightData;

use super::alone::{Bench, alone};
use super::peak::Peak;
use super::traffic;
use crate::backend::Request;
use crate::cost::node_flops;
use crate::error::Result;
use crate::model::Network;
use crate::stop::Stop;

/// Time for the runs of a node.
const BUDGET: Duration = Duration::from_millis(60);

/// All nodes of one op.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpTime {
    /// The op's name.
    pub op: String,
    /// Nodes of it.
    pub nodes: usize,
    /// Their time together.
    pub seconds: f64,
    /// Its share of the time of all nodes.
    pub share: f64,
    /// Operations a second.
    pub flops_per_second: f64,
    /// Bytes a second that must move: operands, weights, result.
    pub bytes_per_second: f64,
    /// The share of what the roofline allows, if the peak is known.
    pub roof_share: Option<f64>,
}

/// Nodes of one op, with the same parameters and shapes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeTime {
    /// The number of the first.
    pub first: usize,
    /// The name of its weights, if it has any.
    pub name: Option<String>,
    /// The op's name.
    pub op: String,
    /// The op with its parameters.
    pub parameters: String,
    /// Shapes of the inputs `[h, w, c]`.
    pub inputs: Vec<[u32; 3]>,
    /// Shape of the result `[h, w, c]`.
    pub output: [u32; 3],
    /// How many there are.
    pub nodes: usize,
    /// The time of one.
    pub seconds: f64,
    /// Operations of one.
    pub flops: u64,
    /// Bytes that one must move.
    pub bytes: u64,
    /// The share of what the roofline allows, if the peak is known.
    pub roof_share: Option<f64>,
}

/// The nodes of a network, each measured by itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpTimes {
    /// The time of all nodes together. A backend that fuses nodes needs less for the whole; what goes from node to node through
    /// memory, and is in a cache here, makes it more.
    pub seconds: f64,
    /// By op, the slowest first.
    pub ops: Vec<OpTime>,
    /// By op and shape, what takes most in all first.
    pub nodes: Vec<NodeTime>,
}

/// Runs every different node of `network` by itself. `weight_bytes` is how many bytes the backend reads for a weight's value.
///
/// # Errors
/// Those of the backend; [`crate::Error::interrupted`].
pub(super) fn time(
    network: &Network,
    weights: &[WeightData<'_>],
    request: &Request,
    weight_bytes: f64,
    peak: Option<&Peak>,
    stop: &Stop,
) -> Result<OpTimes> {
    let graph = network.graph();
    let bench = Bench::open(request)?;
    let mut found: HashMap<String, usize> = HashMap::new();
    let mut nodes: Vec<NodeTime> = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let inputs: Vec<[u32; 3]> = node.inputs.iter().flatten().map(|&id| shape(&graph, id)).collect();
        let given = node.inputs.map(|id| id.is_some());
        let key = format!("{:?} {inputs:?} {given:?} {}", node.op, node.weights.iter().flatten().count());
        if let Some(&at) = found.get(&key) {
            nodes[at].nodes += 1;
            continue;
        }
        found.insert(key, nodes.len());
        let ids = node.weights.iter().flatten().map(|id| usize::from(id.0));
        let data: Vec<WeightData<'_>> = ids.filter_map(|id| weights.get(id).copied()).collect();
        let time = bench.time(&alone(&graph, index)?, &data, BUDGET, stop)?;
        let (flops, bytes) = (node_flops(&graph, node), traffic::of_node(&graph, node, weight_bytes));
        let name = node.weights[0].and_then(|id| network.names().get(usize::from(id.0)));
        nodes.push(NodeTime {
            first: index,
            name: name.map(|name| name.rsplit_once('.').map_or(name.as_str(), |(name, _)| name).to_owned()),
            op: node.op.name().into(),
            parameters: format!("{:?}", node.op),
            inputs,
            output: shape(&graph, node.output),
            nodes: 1,
            seconds: time.as_secs_f64(),
            flops,
            bytes,
            roof_share: peak.and_then(|peak| share(peak, flops, bytes, time)),
        });
    }
    let seconds = nodes.iter().map(|n| n.nodes as f64 * n.seconds).sum();
    let ops = by_op(&nodes, seconds, peak);
    nodes.sort_by(|a, b| (b.nodes as f64 * b.seconds).total_cmp(&(a.nodes as f64 * a.seconds)));
    Ok(OpTimes { seconds, ops, nodes })
}

/// The share of what a roofline allows.
fn share(peak: &Peak, flops: u64, bytes: u64, time: Duration) -> Option<f64> {
    let (flops, time) = (flops as f64, time.as_secs_f64());
    let allowed = peak.attainable(flops / bytes as f64);
    (time > 0.0 && allowed > 0.0).then(|| flops / time / allowed)
}

fn by_op(nodes: &[NodeTime], all: f64, peak: Option<&Peak>) -> Vec<OpTime> {
    let mut ops: Vec<OpTime> = Vec::new();
    let mut names: Vec<&str> = nodes.iter().map(|n| n.op.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let of_op = || nodes.iter().filter(|n| n.op == name);
        let sum = |value: &dyn Fn(&NodeTime) -> f64| of_op().map(|n| n.nodes as f64 * value(n)).sum::<f64>();
        let (seconds, flops, bytes) = (sum(&|n| n.seconds), sum(&|n| n.flops as f64), sum(&|n| n.bytes as f64));
        // What the roofline allows differs from node to node: their least times add up.
        let least = peak.map(|peak| sum(&|n| n.flops as f64 / peak.attainable(n.flops as f64 / n.bytes as f64)));
        ops.push(OpTime {
            op: name.into(),
            nodes: of_op().map(|n| n.nodes).sum(),
            seconds,
            share: seconds / all,
            flops_per_second: flops / seconds,
            bytes_per_second: bytes / seconds,
            roof_share: least.map(|least| least / seconds),
        });
    }
    ops.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    ops
}

fn shape(graph: &Graph<'_>, id: unfog_core::nn::graph::TensorId) -> [u32; 3] {
    let shape = graph.shape(id);
    [shape.h, shape.w, shape.c]
}
