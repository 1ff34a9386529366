//! Small decisions kept between runs, in the user's cache folder. Nothing here ever fails a run.

use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::files;

/// unfog's folder in the user's cache: `$XDG_CACHE_HOME/unfog`, or `~/.cache/unfog`.
pub(super) fn folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("unfog"))
}

/// What was kept under `key`, if it is there and whole.
pub(super) fn load<T: DeserializeOwned>(key: &str) -> Option<T> {
    let bytes = std::fs::read(folder()?.join(format!("{key}.json"))).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Keeps `value` under `key`, a file name; where that can't be done, the next run decides again.
pub(super) fn keep(key: &str, value: &impl Serialize) {
    let Some((folder, json)) = folder().zip(serde_json::to_vec(value).ok()) else { return };
    if std::fs::create_dir_all(&folder).is_ok() {
        let path = folder.join(format!("{key}.json"));
        let _ = files::write(&path, |out| out.write_all(&json).map_err(|e| files::cannot_write(&path, e)));
    }
}
