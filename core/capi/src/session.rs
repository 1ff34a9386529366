//! A session: a picture on its way, wholly in lent memory.

use core::mem::{align_of, size_of, size_of_val};
use core::slice;

use unfog_core::chain::{Batch, Chain};
use unfog_core::denoise::Cond;
use unfog_core::nn::exec::Exec;
use unfog_core::nn::graph::Input;
use unfog_core::nn::op::Shape;
use unfog_core::nn::program::Program;
use unfog_core::nn::reference::Reference;
use unfog_core::noise::Philox;
use unfog_core::schedule::{Level, Schedule};

use crate::layout::{Layout, Piece};
use crate::options::{Options, Run};
use crate::status::Status;

/// What packs and workspaces must start at a multiple of.
pub(crate) const ALIGN: usize = 16;

/// What stands at the start of a workspace that holds a session. It is read and written through raw pointers alone, so that
/// a callback may look at it while the session is borrowed.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Header {
    /// [`Header::MAGIC`] with the workspace's address, so that a copy elsewhere is no session.
    magic: u64,
    /// Other than 0 while a call is at work.
    busy: u64,
}

impl Header {
    const MAGIC: u64 = 0x756e_666f_675f_6373;

    fn magic(base: *const u8) -> u64 {
        Self::MAGIC ^ base.addr() as u64
    }
}

/// The session itself. `'static` stands for the time in which the caller keeps the workspace and the pack in place and
/// untouched, which is what [`crate::unfog_core_init`] asks for.
pub(crate) struct Session {
    chain: Chain<'static>,
    exec: Exec<'static>,
    arena: &'static mut [f32],
    noise: Philox,
    pub(crate) shape: Shape,
    pub(crate) step: usize,
    pub(crate) steps: usize,
    pub(crate) bytes: usize,
}

const _: () = assert!(align_of::<Session>() <= ALIGN && size_of::<Header>() == 16);

/// The workspace of a run of this network, the shape of its picture, and the values that it returns.
pub(crate) fn layout(program: &Program<'_>, run: &Run) -> Result<(Layout, Shape, usize), Status> {
    let interface = program.interface().ok_or(Status::Network)?;
    let len = |shape: Shape| usize::try_from(shape.len()).map_err(|_| Status::Workspace);
    let out_len = len(interface.output)?;
    let layout = Layout::new(program.arena_len(), len(interface.sample)?, out_len, run)?;
    Ok((layout, interface.sample, out_len))
}

/// `piece` of a workspace, filled with `value`.
///
/// # Safety
/// `base + piece.offset` is aligned for `T`, and from there `piece.count` values of `T` may be written, and nothing else uses
/// them as long as the result lives.
unsafe fn lend<'a, T: Copy>(base: *mut u8, piece: Piece, value: T) -> &'a mut [T] {
    // SAFETY: inside of the workspace, says the caller.
    let start = unsafe { base.add(piece.offset) }.cast::<T>();
    for i in 0..piece.count {
        // SAFETY: aligned and inside of the workspace, says the caller.
        unsafe { start.add(i).write(value) };
    }
    // SAFETY: aligned, initialised just now, and used by nothing else, says the caller.
    unsafe { slice::from_raw_parts_mut(start, piece.count) }
}

/// The condition of the picture, as the network takes it.
fn condition(program: &Program<'_>, options: &Options) -> Result<Cond, Status> {
    let takes_class = program.inputs().any(|(_, input, _)| matches!(input, Input::Class(_)));
    if program.inputs().any(|(_, input, _)| input == Input::Embedding) {
        return Err(Status::Network);
    }
    match (takes_class, options.has_class != 0) {
        (false, false) => Ok(Cond::None),
        (true, true) => Ok(Cond::Class(options.class_label)),
        _ => Err(Status::Class),
    }
}

impl Session {
    /// Makes a session in the `len` bytes at `base`.
    ///
    /// # Safety
    /// `base` is a multiple of [`ALIGN`]; the `len` bytes there are the caller's to lend, apart from `pack`, as long as the
    /// session is used.
    pub(crate) unsafe fn init(
        base: *mut u8,
        len: usize,
        exec: Exec<'static>,
        run: &Run,
        options: &Options,
    ) -> Result<(), Status> {
        let (layout, shape, out_len) = layout(exec.program(), run)?;
        if len < layout.end {
            return Err(Status::Workspace);
        }
        let cond = condition(exec.program(), options)?;
        let header = base.cast::<Header>();
        // SAFETY: the header lies at the start of the workspace, which is large enough and aligned.
        let Header { magic, busy } = unsafe { header.read() };
        if magic == Header::magic(base) && busy != 0 {
            return Err(Status::Busy);
        }
        // SAFETY: as above. Until all is in place, this is no session.
        unsafe { header.write(Header { magic: 0, busy: 0 }) };

        // SAFETY: for each piece, the layout aligns every piece for its type, to a workspace aligned to 16; all of them lie apart
        // and before `layout.end`, inside of `len`.
        let arena = unsafe { lend(base, layout.arena, 0.0_f32) };
        // SAFETY: as above.
        let timesteps = unsafe { lend(base, layout.timesteps, 0_u32) };
        // SAFETY: as above.
        let levels = unsafe { lend(base, layout.levels, Level::IMAGE) };
        // SAFETY: as above.
        let conds: &'static [Cond] = unsafe { lend(base, layout.cond, cond) };
        // SAFETY: as above.
        let memory = unsafe { lend(base, layout.chain, 0.0_f32) };

        let Run { config, sampler, alpha_bar } = *run;
        let schedule = Schedule::with_alpha_bar(&config, sampler, alpha_bar, timesteps, levels);
        let schedule = schedule.map_err(|_| Status::Options)?;
        let batch = Batch { first_image: options.image, len: shape.len() as usize, out_len, conds };
        let mut chain = Chain::new(&config, sampler, schedule, batch, memory).map_err(|_| Status::Network)?;
        let mut noise = Philox::new(options.seed);
        chain.init(&mut noise).map_err(|_| Status::Network)?;

        let bytes = layout.end;
        let session = Session { chain, exec, arena, noise, shape, step: 0, steps: config.steps, bytes };
        // SAFETY: the session's piece is aligned for it and lies inside of the workspace, apart from all others.
        unsafe { base.add(layout.session.offset).cast::<Session>().write(session) };
        // SAFETY: as the first time. From here on it is a session.
        unsafe { header.write(Header { magic: Header::magic(base), busy: 0 }) };
        Ok(())
    }

    /// Calls `work` with the session at `base`, unless a call is at work there.
    ///
    /// # Safety
    /// `base` is NULL or points to memory that can be read as a header; if [`Session::init`] has made a session there, its
    /// workspace and pack are as it left them, and no other thread uses the session.
    pub(crate) unsafe fn enter<R>(
        base: *mut u8,
        work: impl FnOnce(&mut Session) -> Result<R, Status>,
    ) -> Result<R, Status> {
        if base.is_null() {
            return Err(Status::Null);
        }
        if !base.addr().is_multiple_of(ALIGN) {
            return Err(Status::Alignment);
        }
        let header = base.cast::<Header>();
        // SAFETY: not NULL, aligned, and readable, says the caller.
        let Header { magic, busy } = unsafe { header.read() };
        if magic != Header::magic(base) {
            return Err(Status::Session);
        }
        if busy != 0 {
            return Err(Status::Busy);
        }
        let offset = size_of::<Header>().next_multiple_of(align_of::<Session>());
        // SAFETY: the header says that `init` wrote a session here, right behind the header. It is borrowed by nothing else:
        // calls from inside of a call end at `busy`, and other threads are excluded by the caller.
        let session = unsafe { &mut *base.add(offset).cast::<Session>() };
        // SAFETY: as the read above; the header lies outside of the borrowed session.
        unsafe { header.write(Header { magic, busy: 1 }) };
        let result = work(session);
        // SAFETY: as above.
        unsafe { header.write(Header { magic, busy: 0 }) };
        result
    }

    /// Makes one step; `keep_going` is asked between nodes.
    pub(crate) fn advance(&mut self, keep_going: &mut dyn FnMut() -> bool) -> Result<Status, Status> {
        let network = Reference::new(self.exec, self.arena, &[], keep_going);
        let mut network = network.map_err(|_| Status::Network)?;
        if let Some(progress) = self.chain.step(&mut network, &mut self.noise)? {
            self.step = progress.step;
        }
        Ok(if self.step < self.steps { Status::Running } else { Status::Ok })
    }

    /// Goes back to the start, with this seed.
    pub(crate) fn restart(&mut self, seed: u64) -> Result<(), Status> {
        (self.noise, self.step) = (Philox::new(seed), 0);
        self.chain.init(&mut self.noise).map_err(|_| Status::Network)
    }

    /// Bytes of the network's activations.
    pub(crate) fn arena_bytes(&self) -> usize {
        size_of_val(self.arena)
    }

    /// The picture as it is.
    pub(crate) fn values(&self) -> &[f32] {
        self.chain.x()
    }
}
