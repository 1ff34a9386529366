//! A network as data: ops with their plain-loop twins, the graph, the memory plan and the reference executor.

pub mod graph;
pub mod op;
pub mod weights;
