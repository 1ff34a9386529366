//! The last stage: pictures made larger, by one network for all steps but the last, and by another for that.

use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::graph::Graph;
use unfog_core::nn::weights::WeightData;

use crate::backend::{Backend, Request};
use crate::error::{Error, Result};
use crate::stop::Stop;

/// The two networks as one. Only one of them is on the backend at a time.
pub(super) struct SuperRes<'a> {
    request: &'a Request,
    stop: &'a Stop,
    networks: [(Graph<'a>, &'a [WeightData<'a>]); 2],
    /// The pictures, interpolated, as the condition has them: each `[h, w, c]`.
    pictures: &'a [f32],
    /// Values of one.
    len: usize,
    /// The time of the last step.
    last: f32,
    /// Which of them is there.
    open: Option<(usize, Backend<'a>)>,
    out_len: usize,
}

impl<'a> SuperRes<'a> {
    /// `networks`: that for all steps but the last, and that for the last, which begins at time `last`. `pictures`: `[n, h, w, c]`, each of
    /// `len` values; image i's condition is [`Cond::Loaded`] of i.
    pub(super) fn new(
        request: &'a Request,
        stop: &'a Stop,
        networks: [(Graph<'a>, &'a [WeightData<'a>]); 2],
        (pictures, len): (&'a [f32], usize),
        last: f32,
    ) -> Self {
        let graph = networks[0].0;
        let out_len = graph.shape(graph.output).len() as usize;
        Self { request, stop, networks, pictures, len, last, open: None, out_len }
    }

    /// Puts a network on the backend, and the pictures beside it; the other's memory is given back first.
    fn bring(&mut self, which: usize) -> Result<&mut Backend<'a>> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != which) {
            self.open = None;
            let (graph, data) = self.networks[which.min(1)];
            let mut backend = Backend::open(self.request, graph, data, self.stop)?;
            for (i, picture) in (0..).zip(self.pictures.chunks_exact(self.len.max(1))) {
                if backend.load_embedding(picture)? != Cond::Loaded(i) {
                    return Err(Error::failure("a backend numbers its conditions otherwise than the others"));
                }
            }
            self.open = Some((which, backend));
        }
        match &mut self.open {
            Some((_, backend)) => Ok(backend),
            None => Err(Error::failure("no network is there")),
        }
    }
}

impl Denoise for SuperRes<'_> {
    type Error = Error;

    fn out_len(&self) -> usize {
        self.out_len
    }

    fn predict(&mut self, x: &[f32], t: f32, conds: &[Cond], out: &mut [f32]) -> Result<()> {
        let which = usize::from(t == self.last);
        self.bring(which)?.predict(x, t, conds, out)
    }
}
