//! Where everything lies in the lent memory.

use core::mem::{align_of, size_of};

use unfog_core::chain::{Batch, Chain};
use unfog_core::denoise::Cond;
use unfog_core::schedule::Level;

use crate::options::Run;
use crate::session::{Header, Session};
use crate::status::Status;

/// A piece of the workspace: bytes from its start, and how many values of its type there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) offset: usize,
    pub(crate) count: usize,
}

/// The pieces of the workspace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) session: Piece,
    pub(crate) arena: Piece,
    pub(crate) timesteps: Piece,
    pub(crate) levels: Piece,
    pub(crate) cond: Piece,
    pub(crate) chain: Piece,
    /// Bytes of the whole.
    pub(crate) end: usize,
}

/// Gives out the workspace from its start.
struct Cursor(usize);

impl Cursor {
    fn piece<T>(&mut self, count: usize) -> Result<Piece, Status> {
        let offset = self.0.checked_next_multiple_of(align_of::<T>()).ok_or(Status::Workspace)?;
        let bytes = count.checked_mul(size_of::<T>()).ok_or(Status::Workspace)?;
        self.0 = offset.checked_add(bytes).ok_or(Status::Workspace)?;
        Ok(Piece { offset, count })
    }
}

impl Layout {
    /// The layout for a network with an arena of `arena` values, images of `len` values and predictions of `out_len`.
    pub(crate) fn new(arena: usize, len: usize, out_len: usize, run: &Run) -> Result<Self, Status> {
        let Run { config, sampler, .. } = run;
        let batch = Batch { first_image: 0, len, out_len, conds: &[Cond::None] };
        let chain = Chain::memory(config, sampler, &batch).map_err(|_| Status::Network)?;
        let mut at = Cursor(size_of::<Header>());
        Ok(Self {
            session: at.piece::<Session>(1)?,
            arena: at.piece::<f32>(arena)?,
            timesteps: at.piece::<u32>(config.steps)?,
            levels: at.piece::<Level>(sampler.levels(config.steps))?,
            cond: at.piece::<Cond>(1)?,
            chain: at.piece::<f32>(chain)?,
            end: at.0,
        })
    }
}
