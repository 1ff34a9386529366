//! Which kind of file a name asks for.

use std::path::Path;

use crate::error::{Error, Result};

/// A kind of picture file that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Portable Network Graphics, which carries the recipe.
    Png,
    /// JPEG, quality 95.
    Jpeg,
    /// Windows bitmap.
    Bmp,
    /// Portable anymap: PGM or PPM, as the channels have it.
    Pnm,
    /// Tagged Image File Format.
    Tiff,
}

impl Format {
    const BY_EXTENSION: [(&str, Format); 9] = [
        ("png", Format::Png),
        ("jpg", Format::Jpeg),
        ("jpeg", Format::Jpeg),
        ("bmp", Format::Bmp),
        ("pgm", Format::Pnm),
        ("ppm", Format::Pnm),
        ("pnm", Format::Pnm),
        ("tif", Format::Tiff),
        ("tiff", Format::Tiff),
    ];

    /// The format that the extension of `path` names, in any case. A device or pipe without one takes PNG.
    ///
    /// # Errors
    /// A usage error for a missing or unknown extension, and for one whose files hold other channels (1 for .pgm, 3 for
    /// .ppm).
    pub fn of(path: &Path, channels: u32) -> Result<Self> {
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        let Some(extension) = extension else {
            let special = std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir());
            return if special { Ok(Format::Png) } else { Err(unknown(path, "has no extension")) };
        };
        if let ("pgm", 3) | ("ppm", 1) = (extension.as_str(), channels) {
            return Err(Error::usage(format!("a .{extension} file can't hold this model's {channels} channels"))
                .hint("use .png or .pnm"));
        }
        let found = Self::BY_EXTENSION.iter().find(|(name, _)| *name == extension);
        found.map(|(_, format)| *format).ok_or_else(|| unknown(path, "has an unknown extension"))
    }
}

fn unknown(path: &Path, what: &str) -> Error {
    let known: Vec<&str> = Format::BY_EXTENSION.iter().map(|(name, _)| *name).collect();
    Error::usage(format!("the picture file {} {what}", path.display())).hint(format!("known: {}", known.join(", ")))
}
