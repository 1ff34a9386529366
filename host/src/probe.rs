//! One evaluation, to measure: what a network is given when only the time counts.

use std::time::{Duration, Instant};

use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::graph::{Graph, Input, Projection};

use crate::error::{Error, Result};

/// The input and the room for the output of one evaluation of some images.
#[derive(Clone, Debug)]
pub struct Probe {
    x: Vec<f32>,
    out: Vec<f32>,
    conds: Vec<Cond>,
    t: f32,
}

impl Probe {
    /// A probe of `images` images for a network.
    ///
    /// # Errors
    /// A network without an image or with an embedding as its input.
    pub fn new(graph: &Graph<'_>, images: usize) -> Result<Self> {
        let len = graph.sample_shape().ok_or_else(|| Error::failure("the network takes no image"))?.len() as usize;
        let takes = |wanted: fn(&Input) -> bool| graph.inputs().any(|(_, input, _)| wanted(&input));
        if takes(|input| *input == Input::Embedding) {
            return Err(Error::failure("the network takes an embedding, which nothing here makes"));
        }
        let cond = if takes(|input| matches!(input, Input::Class(_))) { Cond::Class(0) } else { Cond::None };
        // A table of one row has no row 1; Fourier features have no 0.
        let one_row = takes(|input| matches!(input, Input::Time(Projection::Index { count: 1 })));
        let out = images * graph.shape(graph.output).len() as usize;
        // Any values of the size of noise will do, but not zeros, which some kernels could be faster with.
        let x = (0..images * len).map(|i| (i % 7) as f32 / 3.0 - 1.0).collect();
        Ok(Self { x, out: vec![0.0; out], conds: vec![cond; images], t: if one_row { 0.0 } else { 1.0 } })
    }

    /// Evaluates once and says how long it took.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn run<D: Denoise>(&mut self, network: &mut D) -> Result<Duration, D::Error> {
        let start = Instant::now();
        network.predict(&self.x, self.t, &self.conds, &mut self.out)?;
        Ok(start.elapsed())
    }

    /// What the latest evaluation returned.
    pub fn output(&self) -> &[f32] {
        &self.out
    }
}
