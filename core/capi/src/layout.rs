//! Where everything lies in the lent memory.

use core::mem::{align_of, size_of};

use unfog_core::chain::{Batch, Chain};
use unfog_core::config::Config;
use unfog_core::denoise::Cond;
use unfog_core::nn::graph::{Node, Tensor, Weight};
use unfog_core::nn::plan::Slot;
use unfog_core::nn::weights::WeightData;
use unfog_core::pack::Counts;
use unfog_core::sampler::Sampler;
use unfog_core::schedule::Level;

use crate::session::{Header, Session};
use crate::status::Status;

/// A piece of the workspace: bytes from its start, and how many values of its type there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) offset: usize,
    pub(crate) count: usize,
}

/// The pieces of the workspace. The chain's memory comes last: its length depends on the network's output, which is known
/// only when the pack is loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) session: Piece,
    pub(crate) nodes: Piece,
    pub(crate) tensors: Piece,
    pub(crate) weights: Piece,
    pub(crate) slots: Piece,
    pub(crate) data: Piece,
    pub(crate) arena: Piece,
    pub(crate) alpha_bar: Piece,
    pub(crate) timesteps: Piece,
    pub(crate) levels: Piece,
    pub(crate) cond: Piece,
    pub(crate) chain: usize,
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
    /// The layout for a pack of these counts.
    pub(crate) fn new(counts: &Counts, config: &Config, sampler: &Sampler) -> Result<Self, Status> {
        let mut at = Cursor(size_of::<Header>());
        Ok(Self {
            session: at.piece::<Session>(1)?,
            nodes: at.piece::<Node>(counts.nodes)?,
            tensors: at.piece::<Tensor>(counts.tensors)?,
            weights: at.piece::<Weight>(counts.weights)?,
            slots: at.piece::<Slot>(counts.slots())?,
            data: at.piece::<WeightData<'static>>(counts.weights)?,
            arena: at.piece::<f32>(counts.arena)?,
            alpha_bar: at.piece::<f32>(config.train_steps)?,
            timesteps: at.piece::<u32>(config.steps)?,
            levels: at.piece::<Level>(sampler.levels(config.steps))?,
            cond: at.piece::<Cond>(1)?,
            chain: at.piece::<f32>(0)?.offset,
        })
    }

    /// The chain's memory for images of `len` values and a network that returns `out_len`.
    pub(crate) fn chain(
        &self,
        config: &Config,
        sampler: &Sampler,
        len: usize,
        out_len: usize,
    ) -> Result<Piece, Status> {
        let batch = Batch { first_image: 0, len, out_len, conds: &[Cond::None] };
        let count = Chain::memory(config, sampler, &batch).map_err(|_| Status::Network)?;
        Ok(Piece { offset: self.chain, count })
    }
}

impl Piece {
    /// Bytes from the workspace's start to this piece's end, if it holds values of 4 bytes.
    pub(crate) fn end(self) -> Result<usize, Status> {
        self.count.checked_mul(4).and_then(|bytes| bytes.checked_add(self.offset)).ok_or(Status::Workspace)
    }
}
