//! The memory plan of real networks: within a tenth of the largest set of tensors that live at once, which no plan can be below.

use unfog::model::Model;
use unfog_core::nn::graph::{Graph, Node};
use unfog_core::nn::op::Op;
use unfog_core::nn::plan::{Slot, Target, plan, slots_needed};
use unfog_tests::golden::root;
use unfog_tests::{TestResult, said};

/// Folders with a config, and the rows and columns of an image: of pixels, or a latent of pictures eight times as large.
const NETWORKS: [(&str, u32); 7] = [
    ("models/glyph-tiny", 16),
    ("models/mednist-ddpm", 64),
    ("tests/bench/unets/sd15", 32),
    ("tests/bench/unets/sd15", 64),
    ("tests/bench/unets/sd21", 96),
    ("tests/bench/unets/sdxl", 64),
    ("tests/bench/unets/sdxl", 128),
];

/// As a GPU wants it: vectors of four channels, aligned places, and scratch memory for the sums of a group normalisation.
fn padded() -> Target {
    let workspace = |graph: &Graph<'_>, node: &Node| match (node.op, node.inputs[0]) {
        (Op::GroupNorm(_), Some(x)) => 16 * 64 * u64::from(graph.shape(x).c.div_ceil(4)),
        _ => 0,
    };
    Target { align: 256, lanes: 4, workspace, ..Target::STORED }
}

#[test]
fn plans_are_within_a_tenth_of_the_lower_bound() -> TestResult {
    let targets = [("stored", Target::STORED), ("fused", Target::REFERENCE), ("padded", padded())];
    println!("| network | size | target | arena, bytes | largest live set | arena / set |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (path, side) in NETWORKS {
        let model = Model::open(Some(&root().join(path))).map_err(|e| e.report())?;
        let network = model.network(side, side).map_err(|e| e.report())?;
        let graph = network.graph();
        for (name, target) in &targets {
            let mut slots = vec![Slot::default(); slots_needed(&graph)];
            let planned = plan(&graph, target, &mut slots).map_err(said)?;
            let ratio = planned.bytes as f64 / planned.lower_bound as f64;
            println!("| {path} | {side}x{side} | {name} | {} | {} | {ratio:.3} |", planned.bytes, planned.lower_bound);
            assert!((1.0..=1.1).contains(&ratio), "{path}, {side}x{side}, {name}: {ratio}");
        }
    }
    Ok(())
}
