//! Runs the pieces of an evaluation, two of them under way; weights that don't stay on the device are packed meanwhile.

#![expect(unsafe_code, reason = "writes the half of the window that the device isn't using")]

use crate::commands::Part;
use crate::error::GpuError;
use crate::network::Network;
use crate::pack::pack;
use crate::piece::Piece;
use std::sync::atomic::Ordering;

impl Network<'_> {
    /// Runs pieces in order. The device has the next piece before it is done with one; meanwhile the host fills the window for the one
    /// after. When this returns, none is under way.
    ///
    /// # Errors
    /// [`GpuError::Stopped`] between two pieces, [`GpuError::DeviceLost`], or what the driver reports.
    pub(crate) fn run(&mut self, parts: &mut [Part]) -> Result<(), GpuError> {
        let submitted = self.submit(parts);
        parts.iter_mut().fold(submitted, |before, part| before.and(part.encoded.wait()))
    }

    fn submit(&mut self, parts: &mut [Part]) -> Result<(), GpuError> {
        if let Some(first) = parts.first() {
            self.load(&first.piece)?;
        }
        for number in 0..parts.len() {
            if self.stop.load(Ordering::Relaxed) {
                return Err(GpuError::Stopped);
            }
            let part = &mut parts[number];
            part.encoded.start()?;
            self.stats.submits += 1;
            self.stats.dispatches += part.encoded.dispatches;
            if let Some(before) = number.checked_sub(1) {
                parts[before].encoded.wait()?;
            }
            if let Some(next) = parts.get(number + 1) {
                self.load(&next.piece)?;
            }
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
                // SAFETY: all pieces but the last that was submitted were waited for, and that one has the other part of the
                // window, if there are two (a share after the first loads nothing).
                unsafe { block.write(offset, len, |to| to.copy_from_slice(bytes)) }?;
                offset += len;
                Ok(())
            })?;
        }
        self.stats.streamed += piece.bytes;
        Ok(())
    }
}
