//! Files that runs are given: folders and pictures.

use std::fs;
use std::path::Path;

use crate::TestResult;
use crate::golden::Tensor;

/// Copies what is in a folder to another, over what is there.
///
/// # Errors
/// Those of the file system.
pub fn overlay(from: &Path, to: &Path) -> TestResult {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, to) = (entry?, to.to_path_buf());
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => overlay(&entry.path(), &to)?,
            false => fs::copy(entry.path(), to).map(drop)?,
        }
    }
    Ok(())
}

/// Writes a picture `[3, h, w]` or `[h, w]` of values from 0 to 255 as a PNM file.
///
/// # Errors
/// Those of the file; values that are no bytes.
pub fn write_picture(path: &Path, picture: &Tensor) -> TestResult {
    let (kind, channels) = if picture.shape.len() == 3 { ("P6", 3) } else { ("P5", 1) };
    let [.., h, w] = picture.shape[..] else { return Err("a picture has rows and columns".into()) };
    let mut bytes = format!("{kind}\n{w} {h}\n255\n").into_bytes();
    for i in 0..h * w {
        for c in 0..channels {
            let value = picture.values[c * h * w + i];
            if value != f32::from(value as u8) {
                return Err(format!("{value} is no byte").into());
            }
            bytes.push(value as u8);
        }
    }
    Ok(fs::write(path, bytes)?)
}
