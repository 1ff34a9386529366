//! A network as data: ops with their plain-loop twins, the graph, the memory plan and the reference executor.

pub mod code;
pub mod cost;
pub mod exec;
pub mod graph;
pub mod layout;
pub mod model;
pub mod op;
pub mod plan;
pub mod program;
pub mod project;
pub mod quant;
pub mod reference;
pub mod view;
pub mod weights;

#[cfg(test)]
mod quant_tests;
