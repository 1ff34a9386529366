//! The picture that is restored, as a picture file or a DICOM file has it, and the values of such a file as they are stored.

use std::path::Path;

use crate::error::{Error, Result};
use crate::image::Deep;
use crate::memory;
use crate::scan::{self, Scan, Window};

/// A picture that is restored.
#[derive(Debug)]
pub(super) enum Source {
    Picture(Deep),
    Scan(Box<Scan>),
}

impl Source {
    /// Reads a file; of a scan the network sees `window`, if it is given.
    ///
    /// # Errors
    /// A file that is missing or damaged; a window for what is no scan.
    pub(super) fn load(path: &Path, window: Option<Window>) -> Result<Self> {
        match scan::is(path) {
            true => Ok(Self::Scan(Box::new(Scan::load(path, window)?))),
            false if window.is_some() => {
                Err(Error::usage(format!("--window is for DICOM files, and {} is none", path.display())))
            }
            false => Ok(Self::Picture(Deep::load(path)?)),
        }
    }

    /// What a network sees.
    pub(super) fn picture(&self) -> &Deep {
        match self {
            Self::Picture(picture) => picture,
            Self::Scan(scan) => scan.picture(),
        }
    }

    pub(super) fn scan(&self) -> Option<&Scan> {
        match self {
            Self::Picture(_) => None,
            Self::Scan(scan) => Some(scan),
        }
    }

    /// What another file shows, seen as this one.
    ///
    /// # Errors
    /// Those of [`Self::load`].
    pub(super) fn like(&self, path: &Path) -> Result<Deep> {
        match Self::load(path, self.scan().map(Scan::window).filter(|_| scan::is(path)))? {
            Self::Picture(picture) => Ok(picture),
            Self::Scan(scan) => Ok(scan.into_picture()),
        }
    }
}

/// What two files are compared by.
#[derive(Debug)]
pub(crate) struct Content {
    /// The stored values.
    pub(crate) values: Vec<i32>,
    /// The difference between the least that can be stored and the largest.
    pub(crate) full: u32,
}

impl Content {
    /// That of a picture file or a DICOM file.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        if !scan::is(path) {
            return Self::of_picture(&Deep::load(path)?);
        }
        let scan = Scan::load(path, None)?;
        let (values, full) = scan.stored();
        Ok(Self { values: memory::collect(values.iter().copied())?, full })
    }

    /// That of the file that a picture becomes.
    ///
    /// # Errors
    /// Those of [`Deep::pixels`].
    pub(super) fn of_picture(picture: &Deep) -> Result<Self> {
        let values = memory::collect(picture.pixels()?.into_iter().map(i32::from))?;
        Ok(Self { values, full: if picture.sixteen { 65535 } else { 255 } })
    }

    /// That of the DICOM file that a scan becomes.
    pub(super) fn of_scan(scan: &Scan, seen: &[f32]) -> Self {
        Self { values: scan.restored(seen), full: scan.stored().1 }
    }
}
