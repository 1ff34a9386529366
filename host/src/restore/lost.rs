//! What became of pictures of one shape, with the memory that it takes.

use unfog_core::solve::matrix;
use unfog_core::solve::operator::{Kind, Operator, OperatorError, Shape};
use unfog_core::solve::svd::Svd;

use super::Options;
use super::task::{Kernel, Task};
use crate::error::{Error, Result};
use crate::memory;

/// Singular values below this share of the largest say nothing: what blur leaves of them is less than the last of 255 steps.
const CUTOFF: f64 = 1e-3;
/// ITU-R BT.601, as grey pictures are made of RGB elsewhere.
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// An operator's data.
pub(super) enum Lost {
    Nothing,
    /// Noise that is not alike everywhere, made alike by weights.
    Weighted(Vec<f32>),
    Pixels(Vec<bool>),
    Mean(usize),
    Lines {
        shapes: [[usize; 2]; 2],
        rows: Vec<f32>,
        columns: Vec<f32>,
    },
    Colour,
}

impl Lost {
    /// What `options` say was lost of pictures of `shape`. `mask`: `[h, w]`, 1 where pixels are missing.
    ///
    /// # Errors
    /// A usage error for a blur that is wider than the picture; too little memory.
    pub(super) fn new(options: &Options, shape: Shape, mask: Option<&[f32]>) -> Result<Self> {
        let Shape { height, width, .. } = shape;
        Ok(match options.task {
            Task::Denoise => Self::Nothing,
            Task::Inpaint => {
                let missing = mask.unwrap_or_default();
                Self::Pixels(memory::collect(missing.iter().map(|&missing| missing < 0.5))?)
            }
            Task::Upscale if options.kernel == Kernel::Average => Self::Mean(options.factor as usize),
            Task::Upscale => {
                let factor = options.factor as usize;
                let shapes = [height, width].map(|side| [side / factor, side]);
                Self::lines(shapes, |side, out| matrix::bicubic(side, factor, out))?
            }
            Task::Deblur => {
                let sigma = f64::from(options.blur);
                Self::lines([height, width].map(|side| [side, side]), |side, out| matrix::gaussian(side, sigma, out))?
            }
            Task::Colorize => Self::Colour,
        })
    }

    fn lines(shapes: [[usize; 2]; 2], fill: impl Fn(usize, &mut [f64]) -> bool) -> Result<Self> {
        let decomposed = |[short, long]: [usize; 2]| {
            let mut values = memory::vec(short * long, 0.0)?;
            if !fill(long, &mut values) {
                return Err(Error::usage(format!("a side of {long} pixels is too short for this task")));
            }
            let [kept, once] = Svd::memory(short, long);
            let (mut kept, mut work) = (memory::vec(kept, 0.0)?, memory::vec(once, 0.0)?);
            let done = Svd::new(&values, [short, long], CUTOFF, &mut kept, &mut work).is_some();
            if done { Ok(kept) } else { Err(Error::failure("the operator has no decomposition")) }
        };
        let rows = decomposed(shapes[0])?;
        let columns = if shapes[0] == shapes[1] { rows.clone() } else { decomposed(shapes[1])? };
        Ok(Self::Lines { shapes, rows, columns })
    }

    /// The operator on pictures of `shape`.
    ///
    /// # Errors
    /// A usage error where it doesn't fit the shape.
    pub(super) fn operator(&self, shape: Shape) -> Result<Operator<'_>> {
        let kind = match self {
            Self::Nothing => Kind::Identity,
            Self::Weighted(weights) => Kind::Weighted { weights },
            Self::Pixels(known) => Kind::Mask { known },
            Self::Mean(factor) => Kind::AveragePool { factor: *factor },
            Self::Lines { shapes, rows, columns } => {
                let whole = || Error::failure("the operator's memory doesn't fit");
                Kind::Separable {
                    rows: Svd::kept(rows, shapes[0]).ok_or_else(whole)?,
                    columns: Svd::kept(columns, shapes[1]).ok_or_else(whole)?,
                }
            }
            Self::Colour => Kind::Grey { weights: LUMA },
        };
        Operator::new(kind, shape).map_err(|e| {
            Error::usage(match e {
                OperatorError::Channels => "--task colorize needs a model of colour pictures".into(),
                OperatorError::Sides => "the mask has another size than the picture".into(),
                e => format!("this task does not fit a picture of {}x{}: {e:?}", shape.width, shape.height),
            })
        })
    }
}
