//! Runs the pieces of an evaluation, one after the other; weights that don't stay on the device are packed meanwhile.

#![expect(unsafe_code, reason = "writes the half of the window that the device isn't using")]

use crate::commands::Part;
use crate::error::GpuError;
use crate::network::Network;
use crate::pack::pack;
use crate::piece::Piece;
use std::sync::atomic::Ordering;

impl Network<'_> {
    /// Runs pieces in order. While the device works on one, the host fills the window for the next.
    ///
    /// # Errors
    /// [`GpuError::Stopped`] between two pieces, [`GpuError::DeviceLost`], or what the driver reports.
    pub(crate) fn run(&mut self, parts: &mut [Part]) -> Result<(), GpuError> {
        if let Some(first) = parts.first() {
            self.load(&first.piece)?;
        }
        for number in 0..parts.len() {
            if self.stop.load(Ordering::Relaxed) {
                return Err(GpuError::Stopped);
            }
            let (now, later) = parts.split_at_mut(number + 1);
            let part = &mut now[number];
            part.encoded.start()?;
            self.stats.submits += 1;
            self.stats.dispatches += part.encoded.dispatches;
            let loaded = later.first().map_or(Ok(()), |next| self.load(&next.piece));
            part.encoded.wait()?;
            loaded?;
        }
        Ok(())
    }

    /// Packs the weights of a piece into its part of the window; a node's later shares find them there.
    fn load(&mut self, piece: &Piece) -> Result<(), GpuError> {
        let missing = GpuError::Bug("a weight that is nowhere");
        if piece.loads.is_empty() || piece.share.number > 0 {
            return Ok(());
        }
        let block = self.fillable().get(self.half_of(piece)).ok_or(missing)?;
        for &(weight, offset) in &piece.loads {
            let data = self.streamed[weight].ok_or(GpuError::Weight(weight))?;
            let mut offset = offset;
            pack(weight, &self.weights[weight], data, self.options.precision, &mut |bytes| {
                let len = bytes.len() as u64;
                // SAFETY: the last piece that read this part of the window was waited for: pieces are waited for in order, and
                // the one that may be under way has the other part, if there are two (a share after the first loads nothing).
                unsafe { block.write(offset, len, |to| to.copy_from_slice(bytes)) }?;
                offset += len;
                Ok(())
            })?;
        }
        self.stats.streamed += piece.bytes;
        Ok(())
    }
}
