//! The weights' fingerprint for recipes, computed while the run is under way.

use std::sync::Arc;
use std::thread::JoinHandle;

use sha2::{Digest, Sha256};

use super::weights::WeightFile;
use crate::error::{Error, Result};

/// A fingerprint that is being computed by a thread of its own, so that gigabytes of weights don't delay the first step.
#[derive(Debug)]
pub struct Fingerprint(JoinHandle<std::io::Result<String>>);

impl Fingerprint {
    /// Starts to compute the SHA-256 of the files' bytes, one file after the other: what `cat FILES | sha256sum` prints.
    pub(crate) fn start(files: &[Arc<WeightFile>]) -> Self {
        let files: Vec<_> = files.to_vec();
        Self(std::thread::spawn(move || {
            let mut hash = Sha256::new();
            for file in &files {
                file.bytes.pieces(|piece| hash.update(piece))?;
            }
            Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
        }))
    }

    /// Starts to compute the SHA-256 of `bytes`.
    pub(crate) fn of(bytes: Arc<Vec<u8>>) -> Self {
        Self(std::thread::spawn(move || {
            Ok(Sha256::digest(&bytes[..]).iter().map(|byte| format!("{byte:02x}")).collect())
        }))
    }

    /// The fingerprint, in hexadecimal digits; waits for it.
    ///
    /// # Errors
    /// When the files could not be read.
    pub fn finish(self) -> Result<String> {
        let failed = || Error::failure("the weights' fingerprint could not be computed");
        self.0.join().map_err(|_| failed())?.map_err(|e| failed().because(e))
    }
}
