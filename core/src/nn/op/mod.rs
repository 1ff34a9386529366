//! The ops that networks are made of. Each file holds an op's parameters, its shape rule and its CPU twin: plain loops in
//! a fixed order, the truth that every fast kernel is tested against.
//!
//! Activations are laid out `[pixels, channels]` (NHWC), one image at a time. Weights keep torch's layout.

mod affine;
mod attention;
mod avg_pool;
mod concat;
mod conv2d;
mod embedding;
mod gate;
mod group_norm;
mod join;
mod layer_norm;
mod modulate;
mod unpatchify;
mod upsample;

pub use affine::Affine;
pub use attention::Attention;
pub use avg_pool::AvgPool;
pub use concat::Concat;
pub use conv2d::Conv2d;
pub use embedding::Embedding;
pub use gate::Gate;
pub use group_norm::GroupNorm;
pub use join::Join;
pub use layer_norm::LayerNorm;
pub use modulate::Modulate;
pub use unpatchify::Unpatchify;
pub use upsample::Upsample;

use super::graph::Weight;
use crate::math;

/// The shape of one image's tensor: `h * w` pixels of `c` channels, channels innermost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Shape {
    /// Rows.
    pub h: u32,
    /// Columns.
    pub w: u32,
    /// Channels of a pixel.
    pub c: u32,
}

impl Shape {
    /// A shape of `h` rows, `w` columns and `c` channels.
    pub const fn new(h: u32, w: u32, c: u32) -> Self {
        Self { h, w, c }
    }

    /// A vector of `c` values: one pixel.
    pub const fn vector(c: u32) -> Self {
        Self { h: 1, w: 1, c }
    }

    /// Number of pixels.
    pub const fn pixels(self) -> u64 {
        self.h as u64 * self.w as u64
    }

    /// Number of values. Can't overflow for shapes that a graph accepts (see [`super::graph::MAX_LEN`]).
    pub const fn len(self) -> u64 {
        self.pixels().saturating_mul(self.c as u64)
    }

    /// True when there is no value.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// Why operands don't fit an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeError {
    /// An operand that the op needs is absent, or one is given that it doesn't take.
    Operands,
    /// Two shapes that must agree do not.
    Mismatch(Shape, Shape),
    /// A weight is missing, not taken, or has another shape than the op's parameters say.
    Weights,
    /// A parameter is zero, or doesn't divide what it must divide.
    Parameter,
    /// The result would have no pixel or too many values.
    Size,
}

/// The factors of `x` and `x^3` in [`Act::GeluTanh`]'s exponent: `2 sqrt(2 / pi)`, and that times 0.044715.
pub const GELU_TANH: [f32; 2] = [1.595_769, 0.071_354_82];

/// An elementwise activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u32)]
pub enum Act {
    /// The identity.
    #[default]
    None = 0,
    /// `x * sigmoid(x)` (Elfwing et al. 2017); "swish" too.
    Silu = 1,
    /// `x * tanh(ln(1 + e^x))` (Misra 2019).
    Mish = 2,
    /// `x * Phi(x)` with the error function, not the tanh approximation (Hendrycks & Gimpel 2016).
    Gelu = 3,
    /// `max(x, 0)`.
    Relu = 4,
    /// `x * sigmoid(1.702 x)`, CLIP's approximation of the one before (Hendrycks & Gimpel 2016).
    QuickGelu = 5,
    /// The hyperbolic tangent.
    Tanh = 6,
    /// `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`, the other approximation of GELU (Hendrycks & Gimpel 2016).
    GeluTanh = 7,
}

impl Act {
    /// Every activation, in the order of its number.
    pub const ALL: [Act; 8] =
        [Act::None, Act::Silu, Act::Mish, Act::Gelu, Act::Relu, Act::QuickGelu, Act::Tanh, Act::GeluTanh];

    /// The function's value at `x`.
    #[inline]
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Act::None => x,
            Act::Silu => x / (1.0 + math::exp(-x)),
            // Above 20, ln(1 + e^x) is x to the last bit, as torch has it; e^x itself would overflow from 89 on.
            Act::Mish => x * math::tanh(if x > 20.0 { x } else { math::ln_1p(math::exp(x)) }),
            Act::Gelu => 0.5 * x * (1.0 + math::erf(x * core::f32::consts::FRAC_1_SQRT_2)),
            Act::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Act::QuickGelu => x / (1.0 + math::exp(-1.702 * x)),
            Act::Tanh => math::tanh(x),
            // (1 + tanh(z)) / 2 is sigmoid(2 z), which loses nothing where that is close to 0.
            Act::GeluTanh => x / (1.0 + math::exp(-x * (GELU_TANH[0] + GELU_TANH[1] * x * x))),
        }
    }
}

/// One operation of a network: its parameters, without operands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// Convolution or linear layer, with its epilogue.
    Conv2d(Conv2d),
    /// Group normalisation with activation.
    GroupNorm(GroupNorm),
    /// Scaled dot-product attention.
    Attention(Attention),
    /// Nearest upsampling.
    Upsample(Upsample),
    /// Average pooling.
    AvgPool(AvgPool),
    /// Channels of two tensors, one after the other.
    Concat(Concat),
    /// Rows of a table.
    Embedding(Embedding),
    /// `x * scale + shift`, optionally divided by a scalar, and an activation.
    Affine(Affine),
    /// Layer normalisation.
    LayerNorm(LayerNorm),
    /// One half of the channels times the activation of the other.
    Gate(Gate),
    /// Scales, shifts, gates and sums.
    Modulate(Modulate),
    /// Pixels of two tensors, one after the other.
    Join(Join),
    /// Channels as pixels.
    Unpatchify(Unpatchify),
}

/// How many inputs and weights a node has at most.
pub const MAX_INPUTS: usize = 3;
/// How many weights a node has at most.
pub const MAX_WEIGHTS: usize = 2;

impl Op {
    /// The op's name: that of its file, its twin and its shader.
    pub const fn name(&self) -> &'static str {
        match self {
            Op::Conv2d(_) => "conv2d",
            Op::GroupNorm(_) => "group_norm",
            Op::Attention(_) => "attention",
            Op::Upsample(_) => "upsample",
            Op::AvgPool(_) => "avg_pool",
            Op::Concat(_) => "concat",
            Op::Embedding(_) => "embedding",
            Op::Affine(_) => "affine",
            Op::LayerNorm(_) => "layer_norm",
            Op::Gate(_) => "gate",
            Op::Modulate(_) => "modulate",
            Op::Join(_) => "join",
            Op::Unpatchify(_) => "unpatchify",
        }
    }

    /// The names of all ops, for completeness tests.
    pub const NAMES: [&'static str; 13] = [
        "conv2d",
        "group_norm",
        "attention",
        "upsample",
        "avg_pool",
        "concat",
        "embedding",
        "affine",
        "layer_norm",
        "gate",
        "modulate",
        "join",
        "unpatchify",
    ];

    /// The shape of the result, from the shapes of the inputs; the op's rule.
    ///
    /// # Errors
    /// [`ShapeError`] when the inputs don't fit.
    pub fn shape(&self, x: [Option<Shape>; MAX_INPUTS]) -> Result<Shape, ShapeError> {
        match self {
            Op::Conv2d(op) => op.shape(x),
            Op::GroupNorm(op) => op.shape(x),
            Op::Attention(op) => op.shape(x),
            Op::Upsample(op) => op.shape(x),
            Op::AvgPool(op) => op.shape(x),
            Op::Concat(op) => op.shape(x),
            Op::Embedding(op) => op.shape(x),
            Op::Affine(op) => op.shape(x),
            Op::LayerNorm(op) => op.shape(x),
            Op::Gate(op) => op.shape(x),
            Op::Modulate(op) => op.shape(x),
            Op::Join(op) => op.shape(x),
            Op::Unpatchify(op) => op.shape(x),
        }
    }

    /// Checks that a node has the weights its op takes, in their shapes; `out` is the shape of the result.
    ///
    /// # Errors
    /// [`ShapeError::Weights`].
    pub fn check_weights(&self, out: Shape, weights: [Option<Weight>; MAX_WEIGHTS]) -> Result<(), ShapeError> {
        let vector = [out.c, 1, 1, 1];
        let shapes = weights.map(|w| w.map(|w| w.shape));
        let fit = match (self, shapes) {
            (Op::Conv2d(op), [Some(kernel), bias]) => {
                kernel == [op.out_c, op.in_c, op.kernel[0], op.kernel[1]] && bias.is_none_or(|b| b == vector)
            }
            (Op::GroupNorm(_), [Some(gamma), Some(beta)]) => gamma == vector && beta == vector,
            (Op::LayerNorm(op), [gamma, beta]) => {
                let head = [out.c / op.heads.max(1), 1, 1, 1];
                gamma.is_none_or(|g| g == head) && beta.is_none_or(|b| b == head && gamma.is_some())
            }
            (Op::Embedding(op), [Some(table), positions]) => {
                // A row for every pixel at least.
                let enough = |[rows, dim, ..]: [u32; 4]| u64::from(rows) >= out.pixels() && dim == op.dim;
                table == [op.count, op.dim, 1, 1] && positions.is_none_or(|p| enough(p) && p[2..] == [1, 1])
            }
            (Op::Conv2d(_) | Op::GroupNorm(_) | Op::Embedding(_), _) => false,
            (_, weights) => weights == [None; MAX_WEIGHTS],
        };
        if fit { Ok(()) } else { Err(ShapeError::Weights) }
    }
}
