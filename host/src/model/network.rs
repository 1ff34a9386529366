//! A graph that owns its memory, with the names of its weights.

use unfog_core::nn::graph::{
    EMPTY_NODE, EMPTY_TENSOR, EMPTY_WEIGHT, Graph, GraphBuilder, GraphError, Node, Tensor, TensorId, Weight,
    WeightNames, WeightUse,
};
use unfog_core::nn::op::{Shape, ShapeError};

use crate::error::Error;

/// Room for nodes and tensors while a graph is built: several times what the largest published networks need.
const ROOM: usize = 1 << 13;

/// A network: its graph for one size of picture, and the names of its weights in the order of their ids.
#[derive(Clone, Debug)]
pub struct Network {
    nodes: Vec<Node>,
    tensors: Vec<Tensor>,
    weights: Vec<Weight>,
    output: TensorId,
    names: Vec<String>,
}

impl Network {
    /// Lends memory to `build`, one of the functions of [`unfog_core::nn::model`], and keeps what it made.
    ///
    /// # Errors
    /// Those of `build`.
    pub fn build<E>(
        build: impl for<'a> FnOnce(GraphBuilder<'a>, WeightNames<'_>) -> Result<Graph<'a>, E>,
    ) -> Result<Self, E> {
        let mut nodes = vec![EMPTY_NODE; ROOM];
        let mut tensors = vec![EMPTY_TENSOR; 2 * ROOM];
        let mut weights = vec![EMPTY_WEIGHT; 2 * ROOM];
        let mut names = Vec::new();
        let builder = GraphBuilder::new(&mut nodes, &mut tensors, &mut weights);
        let graph = build(builder, &mut |name| {
            names.push(name.to_owned());
            Ok(())
        })?;
        Ok(Self::copy(&graph, names))
    }

    /// A network of its own with this graph, whose weights have these names.
    pub(super) fn copy(graph: &Graph<'_>, names: Vec<String>) -> Self {
        Self {
            nodes: graph.nodes.to_vec(),
            tensors: graph.tensors.to_vec(),
            weights: graph.weights.to_vec(),
            output: graph.output,
            names,
        }
    }

    /// The weights alone whose names begin with `prefix`, without it: for reading them.
    pub(crate) fn part(&self, prefix: &str) -> Self {
        let all = self.names.iter().zip(&self.weights);
        let own = all.filter_map(|(name, weight)| Some((name.strip_prefix(prefix)?.to_owned(), *weight)));
        let (names, weights) = own.unzip();
        Self { nodes: Vec::new(), tensors: Vec::new(), weights, output: TensorId(0), names }
    }

    /// Nothing but weights, vectors of these names and lengths: for reading them.
    pub(super) fn vectors(vectors: &[(&str, u32)]) -> Self {
        let names = vectors.iter().map(|(name, _)| (*name).to_owned()).collect();
        let weight = |&(_, len): &(&str, u32)| Weight { shape: [len, 1, 1, 1], role: WeightUse::Vector };
        let weights = vectors.iter().map(weight).collect();
        Self { nodes: Vec::new(), tensors: Vec::new(), weights, output: TensorId(0), names }
    }

    /// The graph.
    pub fn graph(&self) -> Graph<'_> {
        Graph { nodes: &self.nodes, tensors: &self.tensors, weights: &self.weights, output: self.output }
    }

    /// The weights' names in the order of their ids.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        self.weights.iter().map(Weight::len).sum()
    }
}

fn pixels(s: Shape) -> String {
    format!("{}x{}x{}", s.h, s.w, s.c)
}

/// Why core could not build a graph, in words.
pub(super) fn explain(e: GraphError) -> Error {
    Error::failure(match e {
        GraphError::Full => "the network has more layers than unfog has room for".into(),
        GraphError::Id => "the network uses a tensor or weight that it does not make".into(),
        GraphError::Names => "a weight's name is too long".into(),
        GraphError::TooLarge(s) => format!("a tensor of {} values is larger than unfog can address", pixels(s)),
        GraphError::Shape(op, ShapeError::Mismatch(a, b)) => {
            format!("the network's {op} would combine {} with {}, which don't fit", pixels(a), pixels(b))
        }
        GraphError::Shape(op, ShapeError::Weights) => format!("the network's {op} has weights that don't fit it"),
        GraphError::Shape(op, ShapeError::Operands) => format!("the network's {op} lacks an operand"),
        GraphError::Shape(op, ShapeError::Parameter) => format!("the network's {op} has a parameter that does not fit"),
        GraphError::Shape(op, ShapeError::Size) => {
            format!("the network's {op} would make an empty or too large result")
        }
    })
}
