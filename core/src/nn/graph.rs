//! A network as data: nodes over tensor ids, no arithmetic, in memory that the caller lends.

use super::op::{MAX_INPUTS, MAX_WEIGHTS, Op, Shape, ShapeError};

/// The most values a tensor may have: offsets and element counts stay far inside u32 and i32 on every device.
pub const MAX_LEN: u64 = 1 << 30;

/// A tensor of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorId(pub u16);

/// A weight of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightId(pub u16);

/// How a number (the model time, a class label) becomes the features that the network is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// The number itself.
    Value,
    /// The number itself, which must be whole and below `count`: the row of a table.
    Index {
        /// Rows of the table.
        count: u32,
    },
    /// Sines and cosines at `dim / 2` frequencies from 1 to 1/10000 (Ho et al. 2020); an odd `dim` ends in a zero.
    Positional {
        /// Number of features.
        dim: u32,
        /// Cosines first.
        flip: bool,
        /// Subtracted from `dim / 2` in the frequencies' denominator (diffusers' `freq_shift`).
        shift: i32,
    },
    /// Sines, then cosines, of `2 pi w ln(number)` for each learned frequency `w` (Tancik et al. 2020; Song et al. 2021).
    /// The number must be above 0.
    Fourier {
        /// The frequencies `[dim / 2]`, read where the features are made, not on the device.
        weight: WeightId,
        /// Number of features.
        dim: u32,
    },
}

impl Projection {
    /// Number of features.
    pub const fn dim(self) -> u32 {
        match self {
            Projection::Value | Projection::Index { .. } => 1,
            Projection::Positional { dim, .. } | Projection::Fourier { dim, .. } => dim,
        }
    }
}

/// What a network is told of the places of pixels: the same for all images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// One value a pixel: the row of a table of `stride` columns that begins at row `first`; in row `y` and column `x`,
    /// `first + y * stride + x`.
    Index {
        /// That of the first pixel.
        first: u32,
        /// Rows of the table from a row of pixels to the next.
        stride: u32,
    },
    /// Sines and cosines of the column in the first half of the channels, of the row in the second, at frequencies from 1 to 1/10000
    /// (Dosovitskiy et al. 2021, as diffusers' `PatchEmbed` has them). Each side is as long as `base`, whatever its number of pixels.
    Waves {
        /// Pixels of a side that the network was trained on.
        base: u32,
    },
}

/// Where a tensor comes from that no node makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The noisy image `[h, w, c]`.
    Sample,
    /// The model time, projected.
    Time(Projection),
    /// The class label, projected.
    Class(Projection),
    /// Values of the condition that was loaded. Several such inputs take its values one after the other, in the order in which
    /// they were declared.
    Embedding,
    /// The places of its pixels.
    Grid(Grid),
}

impl Input {
    /// Whether it is filled from a condition.
    pub const fn is_condition(self) -> bool {
        matches!(self, Input::Class(_) | Input::Embedding)
    }
}

/// What a network takes and gives for one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The noisy image.
    pub sample: Shape,
    /// The prediction.
    pub output: Shape,
    /// Whether it takes a condition.
    pub conditional: bool,
    /// Values of a loaded condition; 0 if it takes none.
    pub embedding: usize,
}

impl Interface {
    /// Of a network with these inputs and this output; `None` if it takes no image.
    pub(crate) fn new(inputs: impl Iterator<Item = (TensorId, Input, Shape)>, output: Shape) -> Option<Self> {
        let (mut sample, mut conditional, mut embedding) = (None, false, 0_u64);
        for (_, input, shape) in inputs {
            match input {
                Input::Sample => sample = sample.or(Some(shape)),
                input => conditional |= input.is_condition(),
            }
            if input == Input::Embedding {
                embedding = embedding.saturating_add(shape.len());
            }
        }
        let embedding = usize::try_from(embedding).unwrap_or(usize::MAX);
        Some(Self { sample: sample?, output, conditional, embedding })
    }
}

/// A tensor: its shape for one image, and its source when it is an input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tensor {
    /// Shape for one image.
    pub shape: Shape,
    /// What fills it, if no node does.
    pub input: Option<Input>,
}

/// What a weight is used for, which decides how a backend stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightUse {
    /// The kernel of a convolution or linear layer `[out, in, kh, kw]`: large, repacked, may be stored in fewer bits.
    Kernel,
    /// A bias, gamma or beta `[c, 1, 1, 1]`: small, f32.
    Vector,
    /// Rows of an embedding `[count, dim, 1, 1]`.
    Table,
    /// Read on the host to make features, never on the device.
    Host,
}

/// A weight: its shape in torch's layout, padded with ones to four dimensions, and its use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Shape.
    pub shape: [u32; 4],
    /// Use.
    pub role: WeightUse,
}

impl Weight {
    /// Number of values.
    pub fn len(&self) -> u64 {
        self.shape.iter().map(|&n| u64::from(n)).product()
    }

    /// True when there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One op with its operands. Absent operands are `None`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Node {
    /// The op.
    pub op: Op,
    /// Its inputs, in the op's order.
    pub inputs: [Option<TensorId>; MAX_INPUTS],
    /// Its weights, in the op's order.
    pub weights: [Option<WeightId>; MAX_WEIGHTS],
    /// Its result.
    pub output: TensorId,
}

/// Why a graph can't be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphError {
    /// The lent memory is too small (nodes, tensors or weights).
    Full,
    /// Operands don't fit an op; the op's name and why.
    Shape(&'static str, ShapeError),
    /// A tensor would have more than [`MAX_LEN`] values.
    TooLarge(Shape),
    /// An operand is no tensor or weight of this graph that exists by now.
    Id,
    /// The sink of weight names refused one.
    Names,
}

/// A finished graph, borrowed from the memory it was built in.
#[derive(Clone, Copy, Debug)]
pub struct Graph<'a> {
    /// Nodes in the order of execution.
    pub nodes: &'a [Node],
    /// Tensors.
    pub tensors: &'a [Tensor],
    /// Weights.
    pub weights: &'a [Weight],
    /// What the network returns `[h, w, c]`.
    pub output: TensorId,
}

impl<'a> Graph<'a> {
    /// The tensor of `id`.
    pub fn tensor(&self, id: TensorId) -> Tensor {
        self.tensors[usize::from(id.0)]
    }

    /// The shape of tensor `id`.
    pub fn shape(&self, id: TensorId) -> Shape {
        self.tensor(id).shape
    }

    /// The inputs with their ids, in the order in which they were declared.
    pub fn inputs(&self) -> impl Iterator<Item = (TensorId, Input, Shape)> + 'a {
        let tensors = self.tensors;
        tensors.iter().enumerate().filter_map(|(i, t)| t.input.map(|input| (TensorId(i as u16), input, t.shape)))
    }

    /// The node that makes tensor `id`; `None` for an input.
    pub fn producer(&self, id: TensorId) -> Option<&'a Node> {
        // Builders number results as they go.
        self.nodes.binary_search_by_key(&id.0, |node| node.output.0).ok().and_then(|i| self.nodes.get(i))
    }

    /// What the network takes and gives; `None` if it takes no image.
    pub fn interface(&self) -> Option<Interface> {
        Interface::new(self.inputs(), self.shape(self.output))
    }

    /// The shape of the noisy image that the network takes, if it takes one.
    pub fn sample_shape(&self) -> Option<Shape> {
        self.inputs().find(|(_, input, _)| *input == Input::Sample).map(|(_, _, shape)| shape)
    }
}

/// Receives the name of each weight as a model declares it (the id is the number of calls so far).
pub type WeightNames<'n> = &'n mut dyn FnMut(&str) -> Result<(), ()>;

/// Fills lent memory with a graph.
#[derive(Debug)]
pub struct GraphBuilder<'a> {
    nodes: &'a mut [Node],
    tensors: &'a mut [Tensor],
    weights: &'a mut [Weight],
    used: [usize; 3],
}

/// A node that fills unused memory.
pub const EMPTY_NODE: Node = Node {
    op: Op::Concat(super::op::Concat),
    inputs: [None; MAX_INPUTS],
    weights: [None; MAX_WEIGHTS],
    output: TensorId(0),
};
/// A tensor that fills unused memory.
pub const EMPTY_TENSOR: Tensor = Tensor { shape: Shape::new(0, 0, 0), input: None };
/// A weight that fills unused memory.
pub const EMPTY_WEIGHT: Weight = Weight { shape: [0; 4], role: WeightUse::Vector };

impl<'a> GraphBuilder<'a> {
    /// A builder over lent memory, whose contents don't matter.
    pub fn new(nodes: &'a mut [Node], tensors: &'a mut [Tensor], weights: &'a mut [Weight]) -> Self {
        Self { nodes, tensors, weights, used: [0; 3] }
    }

    fn tensor(&mut self, shape: Shape, input: Option<Input>) -> Result<TensorId, GraphError> {
        if shape.is_empty() || shape.len() > MAX_LEN {
            return Err(GraphError::TooLarge(shape));
        }
        let id = u16::try_from(self.used[1]).map_err(|_| GraphError::Full)?;
        *self.tensors.get_mut(self.used[1]).ok_or(GraphError::Full)? = Tensor { shape, input };
        self.used[1] += 1;
        Ok(TensorId(id))
    }

    /// Declares an input.
    ///
    /// # Errors
    /// [`GraphError::Id`] for frequencies that are no weight of this graph, [`GraphError::Full`] or
    /// [`GraphError::TooLarge`].
    pub fn input(&mut self, input: Input, shape: Shape) -> Result<TensorId, GraphError> {
        if let Input::Time(Projection::Fourier { weight, .. }) | Input::Class(Projection::Fourier { weight, .. }) =
            input
            && usize::from(weight.0) >= self.used[2]
        {
            return Err(GraphError::Id);
        }
        self.tensor(shape, Some(input))
    }

    /// Declares a weight.
    ///
    /// # Errors
    /// [`GraphError::Full`].
    pub fn weight(&mut self, shape: [u32; 4], role: WeightUse) -> Result<WeightId, GraphError> {
        let id = u16::try_from(self.used[2]).map_err(|_| GraphError::Full)?;
        *self.weights.get_mut(self.used[2]).ok_or(GraphError::Full)? = Weight { shape, role };
        self.used[2] += 1;
        Ok(WeightId(id))
    }

    /// Adds a node and returns its result.
    ///
    /// # Errors
    /// [`GraphError::Shape`] when the operands don't fit, [`GraphError::Id`], [`GraphError::Full`], [`GraphError::TooLarge`].
    pub fn node(
        &mut self,
        op: Op,
        inputs: [Option<TensorId>; MAX_INPUTS],
        weights: [Option<WeightId>; MAX_WEIGHTS],
    ) -> Result<TensorId, GraphError> {
        let [_, tensors, count] = self.used;
        let inputs_exist = inputs.iter().flatten().all(|id| usize::from(id.0) < tensors);
        if !inputs_exist || weights.iter().flatten().any(|id| usize::from(id.0) >= count) {
            return Err(GraphError::Id);
        }
        let shapes = inputs.map(|id| id.map(|id| self.shape(id)));
        let shape = op.shape(shapes).map_err(|e| GraphError::Shape(op.name(), e))?;
        let given = weights.map(|id| id.map(|id| self.weights[usize::from(id.0)]));
        op.check_weights(shape, given).map_err(|e| GraphError::Shape(op.name(), e))?;
        if self.used[0] >= self.nodes.len() {
            return Err(GraphError::Full);
        }
        let output = self.tensor(shape, None)?;
        self.nodes[self.used[0]] = Node { op, inputs, weights, output };
        self.used[0] += 1;
        Ok(output)
    }

    /// The shape of a tensor that this builder made.
    pub fn shape(&self, id: TensorId) -> Shape {
        self.tensors[usize::from(id.0)].shape
    }

    /// The finished graph.
    pub fn finish(self, output: TensorId) -> Graph<'a> {
        let [n, t, w] = self.used;
        Graph { nodes: &self.nodes[..n], tensors: &self.tensors[..t], weights: &self.weights[..w], output }
    }
}
