//! Read-only bytes of a file, mapped: the one place of this crate where memory maps are made.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use crate::error::{Error, Result};

/// Bytes that stay where they are: a mapped file or a part of the program.
#[derive(Debug)]
pub(crate) enum Bytes {
    Mapped(memmap2::Mmap, File),
    Static(&'static [u8]),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map, _) => map,
            Bytes::Static(bytes) => bytes,
        }
    }
}

impl Bytes {
    /// Reads everything in pieces, through the file where there is one: mapped pages would count as this process's memory.
    pub(crate) fn pieces(&self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        let mut file = match self {
            Bytes::Static(bytes) => {
                take(bytes);
                return Ok(());
            }
            Bytes::Mapped(_, file) => file,
        };
        file.rewind()?;
        let mut piece = vec![0; 1 << 18];
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(n) => take(&piece[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Maps a file.
///
/// # Errors
/// When the file can't be opened, is no regular file or can't be mapped.
pub(crate) fn map(path: &Path) -> Result<Bytes> {
    let failed = |e: io::Error| Error::failure(format!("can't read {}", path.display())).because(e);
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::failure(format!("{} is no regular file", path.display())));
    }
    #[expect(unsafe_code, reason = "a map is the only way to load weights without a second copy of them in memory")]
    // SAFETY: the map is read-only and private to this type, which hands out shared slices only. Another process could
    // still change or cut the file meanwhile; like every program that maps weights, this one relies on that not being
    // done (unfog itself replaces files by renaming, which leaves a map intact).
    let map = unsafe { memmap2::Mmap::map(&file) };
    Ok(Bytes::Mapped(map.map_err(failed)?, file))
}
