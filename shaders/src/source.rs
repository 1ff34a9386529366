//! The GLSL of this source tree, and fingerprints that hold modules to it where no compiler is at hand.

use std::io;
use std::path::{Path, PathBuf};

/// The folder of the shaders in this source tree.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// FNV-1a (Fowler, Noll & Vo), 64 bits: against drift, not against malice.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// `<name>.comp` in `folder` with every file that it includes, each after the line that names it.
///
/// # Errors
/// A file that can't be read.
pub fn text(folder: &Path, name: &str) -> io::Result<String> {
    expand(folder, &folder.join(format!("{name}.comp")))
}

fn expand(folder: &Path, file: &Path) -> io::Result<String> {
    let mut text = String::new();
    for line in std::fs::read_to_string(file)?.lines() {
        text.extend([line, "\n"]);
        if let Some(included) = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"')) {
            text.push_str(&expand(folder, &folder.join("include").join(included))?);
        }
    }
    Ok(text)
}

/// The line of `spirv/fingerprints` of the kernel `name` with the file name's `suffix`: fingerprints of the GLSL, includes and all, and of the
/// module that was compiled from it.
///
/// # Errors
/// A file that can't be read.
pub fn fingerprint(folder: &Path, name: &str, suffix: &str, module: &[u8]) -> io::Result<String> {
    Ok(format!("{name}{suffix} {:016x} {:016x}\n", hash(text(folder, name)?.as_bytes()), hash(module)))
}
