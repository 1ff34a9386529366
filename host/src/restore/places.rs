//! Which files a run reads, and where what it makes goes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::Options;
use crate::error::{Error, Result};
use crate::files;
use crate::image::Format;
use crate::scan;

/// Extensions of the files in a folder that are read; and whatever begins as DICOM files do.
const KNOWN: [&str; 11] = ["png", "jpg", "jpeg", "bmp", "pgm", "ppm", "pnm", "tif", "tiff", "safetensors", "dcm"];

/// Where the result goes, unless something else is said: that of several pictures, and of one.
const FOLDER: &str = "restored";
const FILE: &str = "restored";

/// One picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) input: PathBuf,
    pub(super) output: PathBuf,
    /// The mask's file.
    pub(super) mask: Option<PathBuf>,
    /// The reference's file.
    pub(super) reference: Option<PathBuf>,
}

/// The pictures of a run, in the order of their names.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) jobs: Vec<Job>,
    /// Files in folders that are no pictures.
    pub(super) left_out: usize,
}

impl Places {
    /// Finds the pictures. No output is one of them, and no two are the same.
    ///
    /// # Errors
    /// A usage error for a picture that is missing, a folder without any, and outputs that can't be written.
    pub(super) fn find(options: &Options) -> Result<Self> {
        // By their names below the output folder.
        let mut found = Vec::new();
        let (mut left_out, mut folders) = (0, false);
        // What an earlier run has made is not to be restored again.
        let made = fs::canonicalize(options.out.as_deref().unwrap_or(Path::new(FOLDER))).ok();
        for input in &options.inputs {
            if input.is_dir() {
                folders = true;
                walk(input, Path::new(""), made.as_deref(), &mut found, &mut left_out)?;
            } else if !input.exists() {
                return Err(Error::usage(format!("there is no picture {}", input.display())));
            } else {
                found.push((input.clone(), PathBuf::from(input.file_name().unwrap_or(OsStr::new("picture")))));
            }
        }
        if found.is_empty() {
            return Err(Error::usage("there is no picture in the folder"));
        }
        let several = folders || found.len() > 1;
        let own = || match &found[..] {
            [(input, _)] if !several => named(options, input, Path::new(FILE)),
            _ => FOLDER.into(),
        };
        let out = options.out.clone().unwrap_or_else(own);
        let names_folder = out.is_dir() || out.as_os_str().to_string_lossy().ends_with(std::path::MAIN_SEPARATOR);
        let mut taken = BTreeMap::new();
        let mut jobs = Vec::new();
        for (input, name) in found {
            let output = match several || names_folder {
                true => out.join(named(options, &input, &name)),
                false => out.clone(),
            };
            if let Some(other) = taken.insert(output.clone(), input.clone()) {
                let both = format!("{} and {}", other.display(), input.display());
                return Err(Error::usage(format!("{both} would both become {}", output.display())));
            }
            let beside =
                |given: &Option<PathBuf>| given.as_ref().map(|given| beside(given, &name, several)).transpose();
            jobs.push(Job { mask: beside(&options.mask)?, reference: beside(&options.reference)?, input, output });
        }
        for Job { input, output, .. } in &jobs {
            let same = fs::canonicalize(input).ok().zip(fs::canonicalize(output).ok());
            if same.is_some_and(|(input, output)| input == output) {
                return Err(
                    Error::usage(format!("{} would be overwritten", input.display())).hint("give another --out")
                );
            }
        }
        if several || names_folder {
            make(&out)?;
        } else if let Some(job) = jobs.first() {
            // Of a picture of any channels; the file is looked at again once they are known.
            if !scan::is_named(&job.output) {
                Format::of(&job.output, 1).or_else(|_| Format::of(&job.output, 3))?;
            }
            files::check_target(&job.output)?;
        }
        Ok(Self { jobs, left_out })
    }
}

/// What becomes of the file `input`, which is called `name`: a DICOM file of one where it can, else a PNG.
fn named(options: &Options, input: &Path, name: &Path) -> PathBuf {
    match scan::is(input) && options.task.keeps_shape() {
        // Numbers with dots are common names without an extension.
        true if scan::is_named(name) => name.to_path_buf(),
        true => PathBuf::from(format!("{}.dcm", name.display())),
        false => name.with_extension("png"),
    }
}

/// The folder `path`, made if it is missing.
pub(super) fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::failure(format!("can't make the folder {}", path.display())).because(e))
}

/// The file that belongs to the picture `name`: `given` itself, or in that folder the file of that name, with any known extension.
fn beside(given: &Path, name: &Path, several: bool) -> Result<PathBuf> {
    if !given.is_dir() {
        return match given.exists() {
            true => Ok(given.to_path_buf()),
            false => Err(Error::usage(format!("there is no file {}", given.display()))),
        };
    }
    let all = std::iter::once(name.to_path_buf()).chain(KNOWN.iter().map(|extension| name.with_extension(extension)));
    let found = all.map(|name| given.join(name)).find(|path| path.is_file());
    // Of several pictures one may lack it: that is said when its turn comes.
    match found {
        Some(path) => Ok(path),
        None if several => Ok(given.join(name)),
        None => Err(Error::usage(format!("{} has no file for {}", given.display(), name.display()))),
    }
}

/// The files below `folder` but for the folder `made`, in the order of their names.
fn walk(
    folder: &Path,
    name: &Path,
    made: Option<&Path>,
    found: &mut Vec<(PathBuf, PathBuf)>,
    left_out: &mut usize,
) -> Result<()> {
    let failed = |e| Error::failure(format!("can't read the folder {}", folder.display())).because(e);
    let mut entries: Vec<_> = fs::read_dir(folder).map_err(failed)?.collect::<std::io::Result<_>>().map_err(failed)?;
    entries.sort_unstable_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, own) = (entry.path(), entry.file_name());
        let hidden = own.to_string_lossy().starts_with('.');
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        let known = extension.is_some_and(|extension| KNOWN.contains(&extension.as_str()));
        // A link to a folder may lead back.
        match entry.file_type().map_err(failed)? {
            _ if hidden => {}
            kind if kind.is_dir() && fs::canonicalize(&path).ok().as_deref() == made => {}
            kind if kind.is_dir() => walk(&path, &name.join(own), made, found, left_out)?,
            _ if path.is_file() && (known || scan::is(&path)) => found.push((path, name.join(own))),
            _ => *left_out += 1,
        }
    }
    Ok(())
}
