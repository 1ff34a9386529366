//! A recording: what the device is to do, as plain data.

use crate::pipeline::Variant;
use unfog_shaders::Access;

/// A buffer that commands name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// Tensors and scratch memory.
    Arena,
    /// Weights, by the number of their block.
    Weights(usize),
    /// A part of the window that streamed weights go through.
    Window(usize),
    /// What the host fills for the window, where it can't reach that.
    Staged(usize),
    /// What the host sends, where it can't reach the arena.
    Upload,
    /// What the host fetches, where it can't reach the arena.
    Readback,
}

/// Bytes of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) space: Space,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl Span {
    fn overlaps(&self, other: &Span) -> bool {
        self.space == other.space && self.offset < other.offset + other.bytes && other.offset < self.offset + self.bytes
    }
}

/// A run of one kernel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dispatch {
    pub(crate) variant: Variant,
    pub(crate) bindings: Vec<(Span, Access)>,
    pub(crate) push: Vec<u8>,
    pub(crate) groups: [u32; 3],
}

/// One thing that the device is to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    /// Run a kernel.
    Dispatch(Dispatch),
    /// Copy bytes: from, to.
    Copy(Span, Span),
    /// What follows sees what was written before, and doesn't overtake it.
    Barrier,
    /// The host sees what was written before.
    HostBarrier,
}

/// Commands in order, with barriers wherever one depends on an earlier one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recording {
    pub(crate) commands: Vec<Command>,
    /// What was touched since the last barrier.
    open: Vec<(Span, Access)>,
}

impl Recording {
    /// Adds a kernel.
    pub(crate) fn dispatch(&mut self, dispatch: Dispatch) {
        self.order(&dispatch.bindings);
        self.commands.push(Command::Dispatch(dispatch));
    }

    /// Orders what follows after everything that was submitted before.
    pub(crate) fn barrier(&mut self) {
        self.commands.push(Command::Barrier);
        self.open.clear();
    }

    /// Adds a copy of as many bytes as `from` has.
    pub(crate) fn copy(&mut self, from: Span, to: Span) {
        self.order(&[(from, Access::Read), (to, Access::Write)]);
        self.commands.push(Command::Copy(from, to));
    }

    /// Ends the recording: the host may read after it.
    pub(crate) fn finish(mut self) -> Vec<Command> {
        self.commands.push(Command::HostBarrier);
        self.commands
    }

    /// Puts a barrier before what touches `spans`, if it would read or overwrite what was written, or overwrite what was
    /// read, since the last one.
    fn order(&mut self, spans: &[(Span, Access)]) {
        let conflict = |(a, access): &(Span, Access)| {
            let clash =
                |(b, before): &(Span, Access)| (*access != Access::Read || *before != Access::Read) && a.overlaps(b);
            self.open.iter().any(clash)
        };
        if spans.iter().any(conflict) {
            self.barrier();
        }
        self.open.extend_from_slice(spans);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(offset: u64) -> Span {
        Span { space: Space::Arena, offset, bytes: 8 }
    }

    fn barriers(steps: &[(u64, u64)]) -> Vec<usize> {
        let mut recording = Recording::default();
        steps.iter().for_each(|&(from, to)| recording.copy(span(from), span(to)));
        let commands = recording.finish();
        let is_barrier = |(i, c): (usize, &Command)| (*c == Command::Barrier).then_some(i);
        commands.iter().enumerate().filter_map(is_barrier).collect()
    }

    #[test]
    fn barriers_stand_where_commands_depend() {
        assert_eq!(barriers(&[(0, 8), (0, 16), (0, 24)]), [0_usize; 0], "readers of one buffer are independent");
        assert_eq!(barriers(&[(0, 8), (8, 16)]), [1], "read after write");
        assert_eq!(barriers(&[(0, 8), (16, 8)]), [1], "write after write");
        assert_eq!(barriers(&[(8, 16), (0, 8)]), [1], "write after read");
        assert_eq!(barriers(&[(0, 8), (12, 24)]), [1], "part of a buffer");
        assert_eq!(barriers(&[(0, 8), (8, 16), (8, 24), (24, 32)]), [1, 4]);
    }
}
