//! Where pictures go: one file, a sheet, or a file an image.

use std::path::{Path, PathBuf};

use super::setup::Shape;
use crate::error::{Error, Result};
use crate::files;
use crate::image::{Format, Picture, encode, sheet, sheet_layout};
use crate::parameters::{KEYWORD as PARAMETERS, parameters};
use crate::recipe::{KEYWORD, Recipe};

/// What stands for an image's index in a file's name.
const INDEX: &str = "{i}";

/// The longest side of a sheet: what every format can hold.
const MOST_SIDE: u32 = 65_500;
/// The most bytes of a sheet.
const MOST_BYTES: u64 = 1 << 30;

/// Where the pictures of a run go, checked before the run.
#[derive(Clone, Debug)]
pub struct Output {
    path: PathBuf,
    format: Format,
    each: bool,
}

impl Output {
    /// Checks `--out` for `count` pictures of this size, the first of which is image `first`.
    ///
    /// # Errors
    /// A usage error for a folder, a missing parent, an unknown extension, a sheet that would be too large; a failure when the
    /// folder can't be written to.
    pub fn new(path: &Path, first: u64, count: u32, Shape { width, height, channels }: Shape) -> Result<Self> {
        let each = path.file_name().is_some_and(|name| name.to_string_lossy().contains(INDEX));
        let output = Self { path: path.to_path_buf(), format: Format::of(path, channels)?, each };
        files::check_target(&output.path_of(first))?;
        if !each {
            let (columns, rows) = sheet_layout(count, width, height);
            let side = |n: u32, size: u32| n.checked_mul(size).filter(|&side| side <= MOST_SIDE);
            let bytes =
                u64::from(columns) * u64::from(rows) * u64::from(width) * u64::from(height) * u64::from(channels);
            if side(columns, width).is_none() || side(rows, height).is_none() || bytes > MOST_BYTES {
                return Err(Error::usage(format!(
                    "a sheet of {count} pictures of {width}x{height} would be too large"
                ))
                .hint("write a file an image: --out NAME{i}.png"));
            }
        }
        Ok(output)
    }

    /// True when every image has a file of its own.
    pub fn each(&self) -> bool {
        self.each
    }

    fn path_of(&self, index: u64) -> PathBuf {
        match (self.each, self.path.file_name()) {
            (true, Some(name)) => self.path.with_file_name(name.to_string_lossy().replace(INDEX, &index.to_string())),
            _ => self.path.clone(),
        }
    }

    /// Writes the picture of image `index` to its own file and returns the name.
    ///
    /// # Errors
    /// Every error of the file.
    pub fn write_each(&self, picture: &Picture, index: u64, recipe: &Recipe) -> Result<PathBuf> {
        let path = self.path_of(index);
        self.write(&path, picture, &recipe.of_image(index))?;
        Ok(path)
    }

    /// Writes all pictures to one file, several as a sheet, and returns the name.
    ///
    /// # Errors
    /// Every error of the file.
    pub fn write_all(&self, pictures: &[Picture], recipe: &Recipe) -> Result<PathBuf> {
        match pictures {
            [picture] => self.write(&self.path, picture, recipe)?,
            [first, ..] => {
                let (columns, _) = sheet_layout(pictures.len() as u32, first.width(), first.height());
                self.write(&self.path, &sheet(pictures, columns)?, recipe)?;
            }
            [] => return Err(Error::failure("there is no picture to write")),
        }
        Ok(self.path.clone())
    }

    fn write(&self, path: &Path, picture: &Picture, recipe: &Recipe) -> Result<()> {
        let (text, parameters) = (recipe.to_json()?, parameters(recipe));
        let mut texts = vec![(KEYWORD, text.as_str())];
        texts.extend(parameters.as_deref().map(|parameters| (PARAMETERS, parameters)));
        files::write(path, |out| encode(picture, self.format, &texts, path, out))
    }
}
