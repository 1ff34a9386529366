//! What a call came to.

use core::ffi::CStr;

use unfog_core::chain::RunError;
use unfog_core::nn::reference::ReferenceError;
use unfog_core::pack::PackError;

/// What a call came to: 0 or above is good, below 0 an error.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is done; for a step: the picture is finished.
    Ok = 0,
    /// A step was made, and there are more.
    Running = 1,
    /// A pointer is NULL that must not be.
    Null = -1,
    /// A pointer is not aligned: packs and workspaces start at a multiple of UNFOG_CORE_ALIGN.
    Alignment = -2,
    /// No pack, or a damaged one.
    Pack = -3,
    /// A pack for another version of this library.
    Version = -4,
    /// There is no sampler of this name.
    Sampler = -5,
    /// The number of steps or eta can't be used, or not with this sampler.
    Options = -6,
    /// The network takes a class and got none, or one that it doesn't have; or it takes none and got one.
    Class = -7,
    /// The workspace is too small, or overlaps the pack.
    Workspace = -8,
    /// This is no session: unfog_core_init has not succeeded here, or the memory was moved or written over.
    Session = -9,
    /// The session is in the middle of a step: the call came from its callback, or the callback never came back.
    Busy = -10,
    /// The callback stopped the step, or a step has failed before: unfog_core_restart goes on.
    Stopped = -11,
    /// The network predicted something that is no finite number.
    NonFinite = -12,
    /// The network is none that can be sampled from.
    Network = -13,
}

impl Status {
    /// The status's text.
    pub(crate) const fn text(code: i32) -> &'static CStr {
        match code {
            0 => c"done",
            1 => c"a step was made, and there are more",
            -1 => c"a pointer is NULL",
            -2 => c"a pointer is not aligned",
            -3 => c"no pack, or a damaged one",
            -4 => c"the pack is for another version of the library",
            -5 => c"there is no sampler of this name",
            -6 => c"the number of steps or eta can't be used",
            -7 => c"the network's class is missing, unknown, or there is none",
            -8 => c"the workspace is too small, or overlaps the pack",
            -9 => c"no session here",
            -10 => c"the session is in the middle of a step",
            -11 => c"the picture was stopped",
            -12 => c"the network predicted something that is no finite number",
            -13 => c"the network is none that can be sampled from",
            _ => c"no status of this library",
        }
    }
}

impl From<PackError> for Status {
    fn from(e: PackError) -> Self {
        match e {
            PackError::Alignment => Self::Alignment,
            PackError::Version { .. } => Self::Version,
            _ => Self::Pack,
        }
    }
}

impl From<RunError<ReferenceError>> for Status {
    fn from(e: RunError<ReferenceError>) -> Self {
        match e {
            RunError::NonFinite { .. } => Self::NonFinite,
            RunError::Model(ReferenceError::Stopped) | RunError::NotReady => Self::Stopped,
            _ => Self::Network,
        }
    }
}
