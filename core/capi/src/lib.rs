//! The C interface of `unfog-core`: every function, with the checks that make C's arguments safe to use.
//!
//! The header `unfog_core.h` is made of this file by cbindgen.

#![no_std]

mod layout;
mod options;
mod session;
mod status;

use core::ffi::{c_char, c_int, c_void};
use core::mem::align_of;
use core::slice;

pub use options::Options;
pub use status::Status;

use session::Session;
use unfog_core::nn::exec::Exec;
use unfog_core::pack::Pack;

/// Packs and workspaces start at a multiple of this.
pub const UNFOG_CORE_ALIGN: usize = 16;
const _: () = assert!(UNFOG_CORE_ALIGN == session::ALIGN);

/// A picture on its way, in lent memory.
pub struct Handle {
    _opaque: [u8; 0],
}

/// The picture as it is: noise at first, after the last step the result.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Picture {
    /// Values [channels, height, width], from -1 (black) to 1; they lie in the workspace. Ask again after every step.
    pub values: *const f32,
    /// Channels.
    pub channels: u32,
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

/// Asked between the nodes of the network: to feed a watchdog, to let others run, or to stop, by returning 0. It may take
/// as long as it likes and goes on where it was, but must come back (no longjmp), and no call for the same session can be
/// made from it.
pub type KeepGoing = Option<unsafe extern "C" fn(context: *mut c_void) -> c_int>;

fn code(result: Result<Status, Status>) -> Status {
    result.unwrap_or_else(|e| e)
}

/// The options at `options`.
///
/// # Safety
/// `options` is NULL or can be read.
unsafe fn read(options: *const Options) -> Result<Options, Status> {
    match options.is_null() {
        true => Ok(Options::DEFAULT),
        false if !options.addr().is_multiple_of(align_of::<Options>()) => Err(Status::Alignment),
        // SAFETY: not NULL, aligned, and readable, says the caller; any bits are options.
        false => Ok(unsafe { options.read() }),
    }
}

/// The pack of `len` bytes at `pack`.
///
/// # Safety
/// `pack` is NULL, or `len` bytes can be read there, as long as the result is used.
unsafe fn open(pack: *const c_void, len: usize) -> Result<Pack<'static>, Status> {
    let pack = pack.cast::<u8>();
    if pack.is_null() {
        return Err(Status::Null);
    }
    if !pack.addr().is_multiple_of(UNFOG_CORE_ALIGN) {
        return Err(Status::Alignment);
    }
    // What is longer is no object of C's.
    if len > isize::MAX as usize || pack.addr().checked_add(len).is_none() {
        return Err(Status::Pack);
    }
    // SAFETY: not NULL, of a possible length, and readable, says the caller.
    Ok(Pack::open(unsafe { slice::from_raw_parts(pack, len) })?)
}

/// The version of this library: 65536 * major + 256 * minor + patch.
#[unsafe(no_mangle)]
pub extern "C" fn unfog_core_version() -> u32 {
    const fn number(text: &str) -> u32 {
        let (mut value, mut i) = (0, 0);
        while i < text.len() {
            value = 10 * value + (text.as_bytes()[i] - b'0') as u32;
            i += 1;
        }
        value
    }
    const VERSION: u32 = number(env!("CARGO_PKG_VERSION_MAJOR")) << 16
        | number(env!("CARGO_PKG_VERSION_MINOR")) << 8
        | number(env!("CARGO_PKG_VERSION_PATCH"));
    VERSION
}

/// What a status means, in English; never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn unfog_core_status_text(status: i32) -> *const c_char {
    Status::text(status).as_ptr()
}

/// Writes to `bytes` how large a workspace unfog_core_init needs for this pack and these options (NULL for the defaults).
///
/// # Safety
/// The pack's `pack_bytes` bytes, the options and the sampler's name in them can be read, `bytes` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unfog_core_workspace(
    pack: *const c_void,
    pack_bytes: usize,
    options: *const Options,
    bytes: *mut usize,
) -> Status {
    if bytes.is_null() {
        return Status::Null;
    }
    if !bytes.addr().is_multiple_of(align_of::<usize>()) {
        return Status::Alignment;
    }
    code((|| {
        // SAFETY: what the caller of this function guarantees.
        let pack = unsafe { open(pack, pack_bytes)? };
        // SAFETY: what the caller of this function guarantees.
        let run = unsafe { read(options)?.run(&pack)? };
        let (layout, ..) = session::layout(Exec::packed(pack)?.program(), &run)?;
        // SAFETY: not NULL, aligned, and writable, says the caller.
        unsafe { bytes.write(layout.end) };
        Ok(Status::Ok)
    })())
}

/// Makes a session in the `workspace_bytes` bytes at `workspace`, whose contents don't matter, and writes it to `session` (NULL
/// if it fails). The picture is noise, and unfog_core_step goes on from there. `options` may be NULL for the defaults and need
/// not outlive the call.
///
/// # Safety
/// The pack, the options and the sampler's name in them can be read, the workspace and `session` can be written. As long as
/// the session is used, the pack and the workspace stay in place, and nothing else writes to them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unfog_core_init(
    session: *mut *mut Handle,
    pack: *const c_void,
    pack_bytes: usize,
    workspace: *mut c_void,
    workspace_bytes: usize,
    options: *const Options,
) -> Status {
    if session.is_null() {
        return Status::Null;
    }
    if !session.addr().is_multiple_of(align_of::<*mut Handle>()) {
        return Status::Alignment;
    }
    // SAFETY: not NULL, aligned, and writable, says the caller.
    unsafe { session.write(core::ptr::null_mut()) };
    if workspace.is_null() {
        return Status::Null;
    }
    if !workspace.addr().is_multiple_of(UNFOG_CORE_ALIGN) {
        return Status::Alignment;
    }
    let start = workspace.addr();
    let apart = |end: usize| end <= pack.addr() || pack.addr().saturating_add(pack_bytes) <= start;
    if workspace_bytes > isize::MAX as usize || !start.checked_add(workspace_bytes).is_some_and(apart) {
        return Status::Workspace;
    }
    code((|| {
        // SAFETY: what the caller of this function guarantees.
        let pack = unsafe { open(pack, pack_bytes)? };
        // SAFETY: what the caller of this function guarantees.
        let options = unsafe { read(options)? };
        // SAFETY: what the caller of this function guarantees.
        let run = unsafe { options.run(&pack)? };
        let exec = Exec::packed(pack)?;
        // SAFETY: not NULL, aligned, apart from the pack, and lent by the caller.
        unsafe { Session::init(workspace.cast(), workspace_bytes, exec, &run, &options)? };
        // SAFETY: as the first time.
        unsafe { session.write(workspace.cast()) };
        Ok(Status::Ok)
    })())
}

/// Makes one step: UNFOG_CORE_STATUS_RUNNING if there are more, UNFOG_CORE_STATUS_OK if the picture is finished (also when it
/// was before). `keep_going` may be NULL; it is given `context`.
///
/// # Safety
/// `session` comes from unfog_core_init, whose terms hold; no other thread uses it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unfog_core_step(session: *mut Handle, keep_going: KeepGoing, context: *mut c_void) -> Status {
    let mut go = || match keep_going {
        // SAFETY: the caller's own function, with the caller's own argument.
        Some(keep_going) => unsafe { keep_going(context) != 0 },
        None => true,
    };
    // SAFETY: what the caller of this function guarantees.
    code(unsafe { Session::enter(session.cast(), |session| session.advance(&mut go)) })
}

/// Goes back to the start with this seed: for the next picture, or after a step that was stopped.
///
/// # Safety
/// As for unfog_core_step.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unfog_core_restart(session: *mut Handle, seed: u64) -> Status {
    // SAFETY: what the caller of this function guarantees.
    code(unsafe { Session::enter(session.cast(), |session| session.restart(seed).map(|()| Status::Ok)) })
}

/// Writes the steps that are done and those there are; either may be NULL.
///
/// # Safety
/// As for unfog_core_step; `step` and `steps` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unfog_core_progress(session: *mut Handle, step: *mut u32, steps: *mut u32) -> Status {
    if !step.addr().is_multiple_of(align_of::<u32>()) || !steps.addr().is_multiple_of(align_of::<u32>()) {
        return Status::Alignment;
    }
    // SAFETY: what the caller of this function guarantees.
    let result = unsafe { Session::enter(session.cast(), |session| Ok([session.step, session.steps])) };
    code(result.map(|values| {
        for (place, value) in [step, steps].into_iter().zip(values) {
            if !place.is_null() {
                // SAFETY: not NULL, aligned, and writable, says the caller. A run has at most 2^24 steps.
                unsafe { place.write(value as u32) };
            }
        }
        Status::Ok
    }))
}

/// Writes where the picture lies and how large it is.
///
/// # Safety
/// As for unfog_core_step; `picture` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unfog_core_picture(session: *mut Handle, picture: *mut Picture) -> Status {
    if picture.is_null() {
        return Status::Null;
    }
    if !picture.addr().is_multiple_of(align_of::<Picture>()) {
        return Status::Alignment;
    }
    // SAFETY: what the caller of this function guarantees.
    let result = unsafe { Session::enter(session.cast(), |session| Ok((session.values().as_ptr(), session.shape))) };
    code(result.map(|(values, shape)| {
        // SAFETY: not NULL, aligned, and writable, says the caller.
        unsafe { picture.write(Picture { values, channels: shape.c, height: shape.h, width: shape.w }) };
        Status::Ok
    }))
}

/// Writes how many bytes of the workspace the session takes, and how many of these are the network's activations (the arena);
/// either may be NULL.
///
/// # Safety
/// As for unfog_core_step; `workspace` and `arena` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unfog_core_used(session: *mut Handle, workspace: *mut usize, arena: *mut usize) -> Status {
    if !workspace.addr().is_multiple_of(align_of::<usize>()) || !arena.addr().is_multiple_of(align_of::<usize>()) {
        return Status::Alignment;
    }
    // SAFETY: what the caller of this function guarantees.
    let result = unsafe { Session::enter(session.cast(), |session| Ok([session.bytes, session.arena_bytes()])) };
    code(result.map(|values| {
        for (place, value) in [workspace, arena].into_iter().zip(values) {
            if !place.is_null() {
                // SAFETY: not NULL, aligned, and writable, says the caller.
                unsafe { place.write(value) };
            }
        }
        Status::Ok
    }))
}

/// Nothing here panics for any input; should it happen all the same, the program stands still, for its watchdog to notice.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
