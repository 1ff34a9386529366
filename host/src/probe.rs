//! One evaluation, to measure: what a network is given when only the time counts.

use std::path::Path;
use std::time::{Duration, Instant};

use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::graph::{Graph, Input, Projection};

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::memory;
use crate::tensors;

/// The input and the room for the output of one evaluation of some images.
#[derive(Clone, Debug)]
pub struct Probe {
    x: Vec<f32>,
    out: Vec<f32>,
    conds: Vec<Cond>,
    t: f32,
}

/// What a network is to be evaluated on.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// The noisy images, planar `[n, c, h, w]`.
    pub x: Vec<f32>,
    /// The model time.
    pub t: f32,
    /// The class of each image, of a network that takes one.
    pub class: u32,
    /// The embeddings of each image `[n, pixels, channels]`, of a network that takes one.
    pub embeddings: Vec<f32>,
}

impl Given {
    /// Any values of the size of noise: zeros could be faster for some kernels.
    ///
    /// # Errors
    /// A network without an image; too little memory.
    fn any(graph: &Graph<'_>, images: usize) -> Result<Self> {
        let len = graph.sample_shape().ok_or_else(|| Error::failure("the network takes no image"))?.len() as usize;
        let values = |len: usize| -> Result<Vec<f32>> {
            let mut values = memory::vec(len, 0.0)?;
            values.iter_mut().enumerate().for_each(|(i, v)| *v = (i % 7) as f32 / 3.0 - 1.0);
            Ok(values)
        };
        // A table of one row has no row 1; Fourier features have no 0.
        let one_row = takes(graph, |input| matches!(input, Input::Time(Projection::Index { count: 1 })));
        let t = if one_row { 0.0 } else { 1.0 };
        let mut embeddings = values(images * embedding_len(graph))?;
        // Evenly spread, with the variance of noise.
        let spread = |i: usize| (((i as f64 * 0.618_033_988_75).fract() - 0.5) * 12.0_f64.sqrt()) as f32;
        embeddings.iter_mut().enumerate().for_each(|(i, v)| *v = spread(i));
        Ok(Self { x: values(images * len)?, t, class: 0, embeddings })
    }

    /// Reads the tensors `x` `[n, c, h, w]`, `t` (one value), and, where the network takes them, `class` (one value) and
    /// `embedding` `[n, pixels, channels]` from a safetensors file.
    ///
    /// # Errors
    /// A missing or damaged file, a missing tensor.
    pub fn read(path: &Path) -> Result<Self> {
        let [x, t, class, embeddings] = tensors::read_f32(path, ["x", "t", "class", "embedding"])?;
        let lacks = |name: &str| Error::failure(format!("{} holds no tensor `{name}`", path.display()));
        let one = |values: Option<Vec<f32>>| values.and_then(|values| values.first().copied());
        Ok(Self {
            x: x.ok_or_else(|| lacks("x"))?,
            t: one(t).ok_or_else(|| lacks("t"))?,
            class: one(class).unwrap_or(0.0) as u32,
            embeddings: embeddings.unwrap_or_default(),
        })
    }
}

fn takes(graph: &Graph<'_>, wanted: impl Fn(Input) -> bool) -> bool {
    graph.inputs().any(|(_, input, _)| wanted(input))
}

/// Values of an image's embeddings, all together; 0 where the network takes none.
fn embedding_len(graph: &Graph<'_>) -> usize {
    graph.interface().map_or(0, |interface| interface.embedding)
}

impl Probe {
    /// A probe of `images` images for the network on `backend`, with values that mean nothing.
    ///
    /// # Errors
    /// A network without an image; too little memory.
    pub fn new(graph: &Graph<'_>, images: usize, backend: &mut Backend<'_>) -> Result<Self> {
        Self::of(graph, Given::any(graph, images)?, backend)
    }

    /// A probe of what is given.
    ///
    /// # Errors
    /// A network without an image; values that don't fit it; too little memory.
    pub fn of(graph: &Graph<'_>, given: Given, backend: &mut Backend<'_>) -> Result<Self> {
        let len = graph.sample_shape().ok_or_else(|| Error::failure("the network takes no image"))?.len() as usize;
        let images = given.x.len() / len;
        let embedding = embedding_len(graph);
        if images == 0 || given.x.len() != images * len || given.embeddings.len() != images * embedding {
            return Err(Error::usage(format!(
                "the input has {} values and an embedding of {}; the network takes {len} and {embedding} an image",
                given.x.len(),
                given.embeddings.len()
            )));
        }
        let class = takes(graph, |input| matches!(input, Input::Class(_)));
        let conds = match embedding {
            0 => vec![if class { Cond::Class(given.class) } else { Cond::None }; images],
            _ => given.embeddings.chunks_exact(embedding).map(|e| backend.load_embedding(e)).collect::<Result<_>>()?,
        };
        let out = memory::vec(images * graph.shape(graph.output).len() as usize, 0.0)?;
        Ok(Self { x: given.x, out, conds, t: given.t })
    }

    /// Evaluates once and says how long it took. A probe goes with the backend that it was made for.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn run(&mut self, network: &mut Backend<'_>) -> Result<Duration> {
        let start = Instant::now();
        network.predict(&self.x, self.t, &self.conds, &mut self.out)?;
        Ok(start.elapsed())
    }

    /// How many images are evaluated.
    pub fn images(&self) -> usize {
        self.conds.len()
    }

    /// What the latest evaluation returned, `[n, out_len]`.
    pub fn output(&self) -> &[f32] {
        &self.out
    }
}
