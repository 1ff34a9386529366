//! Files that are either whole or not there: a temporary file beside the target, then a rename.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// SHA-256 of the file at `path`, in hexadecimal digits.
///
/// # Errors
/// Those of [`read`].
pub(crate) fn sha256(path: &Path) -> Result<String> {
    Ok(Sha256::digest(read(path)?).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Reads a whole file.
///
/// # Errors
/// When it is missing or can't be read.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| Error::failure(format!("can't read {}", path.display())).because(e))
}

/// Checks, before any work is done for it, that a file can be written at `path`: the path is no folder, its parent exists and
/// takes new files, and a file that is there already is not read-only.
///
/// # Errors
/// A usage error for a folder and a missing parent, a failure for what the file system forbids.
pub fn check_target(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(m) if m.is_dir() => {
            return Err(Error::usage(format!("{} is a folder", path.display())).hint("give the name of a file"));
        }
        Ok(m) if !m.is_file() => return Ok(()),
        Ok(m) if m.permissions().readonly() => {
            return Err(Error::failure(format!("{} is read-only", path.display())));
        }
        _ => {}
    }
    if path.file_name().is_none() || path.as_os_str().to_string_lossy().ends_with(std::path::MAIN_SEPARATOR) {
        return Err(Error::usage(format!("{} names no file", path.display())));
    }
    let real = real_path(path);
    let parent = parent_of(&real);
    if !parent.is_dir() {
        return Err(Error::usage(format!("there is no folder {}", parent.display())).hint("make it first"));
    }
    Temporary::create(&real).map(drop).map_err(|e| cannot_write(path, e))
}

/// Writes a file through `fill`, whole or not at all.
///
/// The bytes go to a temporary file in the same folder, which is flushed to the disk and then renamed. A target that exists
/// and is no regular file (a device, a pipe) is written directly. A symbolic link is followed. On an error the temporary
/// file is removed and an older file of that name stays as it was.
///
/// # Errors
/// Every error of `fill`, of the file system, and of the last flush.
pub fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let failed = |e: io::Error| cannot_write(path, e);
    if fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
        let mut out = BufWriter::new(OpenOptions::new().write(true).open(path).map_err(failed)?);
        fill(&mut out)?;
        return out.flush().map_err(failed);
    }
    let real = real_path(path);
    let mut temporary = Temporary::create(&real).map_err(failed)?;
    let mut out = BufWriter::new(&mut temporary.file);
    fill(&mut out)?;
    out.flush().map_err(failed)?;
    drop(out);
    temporary.file.sync_all().map_err(failed)?;
    if let Ok(old) = fs::metadata(&real) {
        fs::set_permissions(&temporary.path, old.permissions()).map_err(failed)?;
    }
    fs::rename(&temporary.path, &real).map_err(failed)?;
    temporary.renamed = true;
    Ok(())
}

/// The error of an output that can't be written.
pub fn cannot_write(path: &Path, cause: io::Error) -> Error {
    Error::failure(format!("can't write {}", path.display())).because(cause)
}

/// The file that a rename must replace: a symbolic link's target, when there is one.
fn real_path(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A file that is removed again unless it was renamed.
struct Temporary {
    file: File,
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    /// A new, empty file in the folder of `target`.
    fn create(target: &Path) -> io::Result<Self> {
        // The name is short, so that it fits wherever the target's own name does.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = parent_of(target).join(format!(".unfog-{}-{number}.tmp", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Self { file, path, renamed: false }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // There is nobody left to tell, and the error that led here is being reported.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_keeps_the_old_file_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, |out| out.write_all(b"old").map_err(|e| cannot_write(&path, e))).unwrap();
        let failed = write(&path, |out| {
            out.write_all(b"new").map_err(|e| cannot_write(&path, e))?;
            Err(Error::failure("stop"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn a_check_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        check_target(&folder.path().join("a")).unwrap();
        assert!(names(folder.path()).is_empty());
        assert_eq!(check_target(folder.path()).unwrap_err().exit_code(), 2);
        assert_eq!(check_target(&folder.path().join("b/a")).unwrap_err().exit_code(), 2);
        assert_eq!(check_target(&folder.path().join("a/")).unwrap_err().exit_code(), 2);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error() {
        let full = Path::new("/dev/full");
        check_target(full).unwrap();
        let failed = write(full, |out| out.write_all(b"x").map_err(|e| cannot_write(full, e))).unwrap_err();
        assert_eq!(failed.exit_code(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write(&link, |out| out.write_all(b"new").map_err(|e| cannot_write(&link, e))).unwrap();
        assert_eq!(fs::read(&real).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
