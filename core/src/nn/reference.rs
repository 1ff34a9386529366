//! The reference backend: a network run by the ops' twins, the same bits on every processor.

use super::exec::{Exec, ExecError};
use super::graph::Input;
use super::layout::{interleave, planar};
use super::project::{self, InputError};
use crate::denoise::{Cond, Denoise};

/// Why the reference could not evaluate a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceError {
    /// An input doesn't fit.
    Input(InputError),
    /// The graph could not be run.
    Exec(ExecError),
    /// The caller's hook asked to stop.
    Stopped,
}

/// The reference backend over lent memory.
pub struct Reference<'a> {
    exec: Exec<'a>,
    arena: &'a mut [f32],
    embeddings: &'a [f32],
    keep_going: &'a mut dyn FnMut() -> bool,
}

impl core::fmt::Debug for Reference<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Reference").field("exec", &self.exec).finish_non_exhaustive()
    }
}

impl<'a> Reference<'a> {
    /// A backend over `arena` (at least [`Exec::arena_len`] values). `embeddings` holds the loaded embeddings one after
    /// the other (empty if the network takes none). `keep_going` is asked between nodes: to feed a watchdog, or to stop.
    ///
    /// # Errors
    /// [`ReferenceError::Exec`] when the arena is too small.
    pub fn new(
        exec: Exec<'a>,
        arena: &'a mut [f32],
        embeddings: &'a [f32],
        keep_going: &'a mut dyn FnMut() -> bool,
    ) -> Result<Self, ReferenceError> {
        if arena.len() < exec.arena_len() {
            return Err(ReferenceError::Exec(ExecError::Arena(exec.arena_len())));
        }
        Ok(Self { exec, arena, embeddings, keep_going })
    }

    fn evaluate(&mut self, x: &[f32], t: f32, cond: Cond, out: &mut [f32]) -> Result<(), ReferenceError> {
        let graph = *self.exec.graph();
        for (id, input, shape) in graph.inputs() {
            let space = self.exec.tensor_mut(self.arena, id).ok_or(ReferenceError::Exec(ExecError::Arena(0)))?;
            if input == Input::Sample {
                interleave(x, shape, shape.c as usize, space);
                continue;
            }
            let len = space.len();
            let embeddings = self.embeddings;
            let find = |number: u32| embeddings.chunks_exact(len).nth(number as usize);
            project::fill(input, t, cond, self.exec.weights(), find, space).map_err(ReferenceError::Input)?;
        }
        for index in 0..graph.nodes.len() {
            if !(self.keep_going)() {
                return Err(ReferenceError::Stopped);
            }
            self.exec.run_node(index, self.arena).map_err(ReferenceError::Exec)?;
        }
        let shape = graph.shape(graph.output);
        let result = self.exec.tensor(self.arena, graph.output).ok_or(ReferenceError::Exec(ExecError::Arena(0)))?;
        planar(result, shape, shape.c as usize, out);
        Ok(())
    }
}

impl Denoise for Reference<'_> {
    type Error = ReferenceError;

    fn out_len(&self) -> usize {
        let graph = self.exec.graph();
        graph.shape(graph.output).len() as usize
    }

    fn predict(&mut self, x: &[f32], t: f32, conds: &[Cond], out: &mut [f32]) -> Result<(), ReferenceError> {
        let (images, _) = project::check(self.exec.graph(), x, conds, out).map_err(ReferenceError::Input)?;
        let (len, out_len) = (x.len() / images, self.out_len());
        for (i, (&cond, out)) in conds.iter().zip(out.chunks_exact_mut(out_len)).enumerate() {
            let image = i % images * len;
            self.evaluate(&x[image..image + len], t, cond, out)?;
        }
        Ok(())
    }
}
