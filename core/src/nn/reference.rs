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
    /// The next node of the evaluation that has begun; past the last one if none has.
    next: usize,
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
        Ok(Self { exec, arena, embeddings, keep_going, next: usize::MAX })
    }

    /// Begins an evaluation of one image: fills the network's inputs. [`Reference::advance`] goes on with it.
    ///
    /// # Errors
    /// [`ReferenceError::Input`].
    pub fn begin(&mut self, x: &[f32], t: f32, cond: Cond) -> Result<(), ReferenceError> {
        self.next = usize::MAX;
        let program = self.exec.program();
        let interface = program.interface();
        let len = interface.map_or(0, |interface| interface.output.len() as usize);
        project::check(interface, x, &[cond], len).map_err(ReferenceError::Input)?;
        let embeddings = self.embeddings;
        let size = interface.map_or(1, |interface| interface.embedding.max(1));
        let find = |number: u32| embeddings.chunks_exact(size).nth(number as usize);
        let mut loaded = project::loaded(interface, cond, find).map_err(ReferenceError::Input)?;
        for (id, input, shape) in program.inputs() {
            let space = self.exec.tensor_mut(self.arena, id).ok_or(ReferenceError::Exec(ExecError::Arena(0)))?;
            if input == Input::Sample {
                interleave(x, shape, shape.c as usize, space);
                continue;
            }
            project::fill((input, shape), t, cond, |id| program.weight(id), &mut loaded, space)
                .map_err(ReferenceError::Input)?;
        }
        self.next = 0;
        Ok(())
    }

    /// Runs the next node of the evaluation; whether there was one. Between two calls a program may do whatever it likes, as long
    /// as it leaves the arena alone.
    ///
    /// # Errors
    /// [`ReferenceError::Exec`]; also when no evaluation has begun.
    pub fn advance(&mut self) -> Result<bool, ReferenceError> {
        let nodes = self.exec.program().nodes();
        if self.next == nodes {
            return Ok(false);
        }
        self.exec.run_node(self.next, self.arena).map_err(ReferenceError::Exec)?;
        self.next += 1;
        Ok(true)
    }

    /// Takes the result of an evaluation whose nodes have all run.
    ///
    /// # Errors
    /// [`ReferenceError::Exec`] when there is none, [`ReferenceError::Input`] when `out` has another length.
    pub fn finish(&mut self, out: &mut [f32]) -> Result<(), ReferenceError> {
        let program = self.exec.program();
        let no_result = ReferenceError::Exec(ExecError::Node(self.next));
        let result = self.exec.tensor(self.arena, program.output()).filter(|_| self.next == program.nodes());
        let result = result.ok_or(no_result)?;
        if result.len() != out.len() {
            return Err(ReferenceError::Input(InputError::Length));
        }
        let shape = program.tensor(program.output()).ok_or(no_result)?.shape;
        planar(result, shape, shape.c as usize, out);
        Ok(())
    }

    fn evaluate(&mut self, x: &[f32], t: f32, cond: Cond, out: &mut [f32]) -> Result<(), ReferenceError> {
        self.begin(x, t, cond)?;
        loop {
            if !(self.keep_going)() {
                return Err(ReferenceError::Stopped);
            }
            if !self.advance()? {
                return self.finish(out);
            }
        }
    }
}

impl Denoise for Reference<'_> {
    type Error = ReferenceError;

    fn out_len(&self) -> usize {
        let program = self.exec.program();
        program.tensor(program.output()).map_or(0, |tensor| tensor.shape.len() as usize)
    }

    fn predict(&mut self, x: &[f32], t: f32, conds: &[Cond], out: &mut [f32]) -> Result<(), ReferenceError> {
        let interface = self.exec.program().interface();
        let (images, _) = project::check(interface, x, conds, out.len()).map_err(ReferenceError::Input)?;
        let (len, out_len) = (x.len() / images, self.out_len());
        for (i, (&cond, out)) in conds.iter().zip(out.chunks_exact_mut(out_len)).enumerate() {
            let image = i % images * len;
            self.evaluate(&x[image..image + len], t, cond, out)?;
        }
        Ok(())
    }
}
