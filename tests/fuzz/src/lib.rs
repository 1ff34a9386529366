//! What the fuzz targets share.

use std::path::{Path, PathBuf};
use std::{env, fs, process};

/// A folder for what a reader is to open. libFuzzer ends without a clean-up, so run.sh removes it.
pub struct Folder(PathBuf);

impl Folder {
    /// This process's folder.
    pub fn of_process() -> Self {
        let path = env::temp_dir().join(format!("unfog-fuzz-{}", process::id()));
        fs::create_dir_all(&path).expect("a folder can be made");
        Self(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into it.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).expect("a file can be written");
        path
    }
}
