//! DICOM files in.

use std::path::Path;

use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, OpenFileOptions, Tag};
use dicom_pixeldata::{DecodedPixelData, PhotometricInterpretation, PixelDecoder, PixelRepresentation, VoiLutFunction};

use super::{Scan, Stored, Window, lengths, packed};
use crate::error::{Error, Result};
use crate::image::Deep;
use crate::memory;

/// The most pixels of a scan.
const MOST_PIXELS: u64 = 1 << 28;
/// A window where there is nothing to see.
const UNIT: Window = Window { black: 0.0, full: 1.0 };

impl Scan {
    /// Reads a file with one grey picture of 8 or 16 bits, whole or compressed (JPEG, also without loss, and RLE). What a network sees is
    /// said by `window`, else by the file's first window, else by its least and largest value.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another kind; no pixels, colours, several frames, a table in place of slope and
    /// intercept, a compression that is not known.
    pub(crate) fn load(path: &Path, window: Option<Window>) -> Result<Self> {
        let named = |text: &str| Error::failure(format!("the scan {} {text}", path.display()));
        let mut object = open(path, OpenFileOptions::new())?;
        // Before anything is taken for pixels.
        let number = |tag: Tag| object.get(tag).and_then(|element| element.to_int::<u32>().ok());
        if object.get(tags::PIXEL_DATA).is_none() {
            return Err(named("holds no pixels").hint("it may be a report, a plan or a segmentation"));
        }
        let (Some(height), Some(width)) = (number(tags::ROWS), number(tags::COLUMNS)) else {
            return Err(named("does not say how many rows and columns it has"));
        };
        if height == 0 || width == 0 || u64::from(height) * u64::from(width) > MOST_PIXELS {
            return Err(named(&format!("has {width}x{height} pixels, which is none or too many")));
        }
        match (number(tags::NUMBER_OF_FRAMES), number(tags::SAMPLES_PER_PIXEL)) {
            (None | Some(1), None | Some(1)) => {}
            (_, Some(2..)) => return Err(named("has colours, and only grey ones are restored")),
            (frames, _) => {
                return Err(named(&format!("has {} frames, and only one is restored", frames.unwrap_or_default()))
                    .hint("write its frames as files of their own"));
            }
        }
        if object.get(tags::MODALITY_LUT_SEQUENCE).is_some() {
            return Err(named("has a table in place of a rescale slope, which is not read"));
        }
        packed::unpack(&mut object, [width, height]).ok_or_else(|| {
            named("can't be decoded: its compressed pixels are damaged, or of a kind that is not read")
        })?;
        let broken = |e| named("can't be decoded").because(e);
        let pixels = object.decode_pixel_data().map_err(broken)?;
        let inverted = match pixels.photometric_interpretation() {
            PhotometricInterpretation::Monochrome1 => true,
            PhotometricInterpretation::Monochrome2 => false,
            other => return Err(named(&format!("is {other}, and only grey ones are restored"))),
        };
        let stored = stored(&pixels).ok_or_else(|| {
            named(&format!("stores {} of {} bits, which is not read", pixels.bits_stored(), pixels.bits_allocated()))
        })?;
        let values = values(&pixels, stored)?;
        if values.len() != height as usize * width as usize {
            return Err(named(&format!("is cut off: {} of {} pixels are there", values.len(), height * width)));
        }
        let rescale = pixels.rescale().map_err(broken)?.first().copied();
        let (slope, intercept) = rescale.map_or((1.0, 0.0), |rescale| (rescale.slope, rescale.intercept));
        if !(slope.is_finite() && intercept.is_finite() && slope != 0.0) {
            return Err(named(&format!("has a rescale slope of {slope} and an intercept of {intercept}")));
        }
        let own = match window {
            Some(window) => Some(window),
            None => own_window(&pixels).map_err(broken)?,
        };
        drop(pixels);
        let mut scan = Self {
            padding: padding(&object, stored),
            object,
            stored,
            values,
            slope,
            intercept,
            window: UNIT,
            inverted,
            picture: Deep { width, height, channels: 1, sixteen: stored.bits > 8, values: Vec::new(), alpha: None },
        };
        scan.window = own.unwrap_or_else(|| scan.whole());
        let sign = if inverted { -1.0 } else { 1.0 };
        let seen = |&value: &i32| (sign * (2.0 * scan.window.share(scan.unit(value)) - 1.0)) as f32;
        scan.picture.values = memory::collect(scan.values.iter().map(seen))?;
        Ok(scan)
    }

    /// From the least to the largest value that was measured.
    fn whole(&self) -> Window {
        let measured = self.values.iter().filter(|value| !self.is_padding(**value)).map(|value| self.unit(*value));
        let (black, full) = measured.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        // Or all the same, or all padding.
        Window::new(black, full).or_else(|| Window::new(black, black + self.slope.abs())).unwrap_or(UNIT)
    }
}

/// Reads the elements of a file.
///
/// # Errors
/// A file that is missing, damaged or of another kind.
pub(super) fn open(path: &Path, options: OpenFileOptions) -> Result<DefaultDicomObject> {
    let unreadable = || Error::failure(format!("can't read the scan {}", path.display()));
    lengths::check(path).map_err(|e| unreadable().because(e))?;
    options.open_file(path).map_err(|e| unreadable().because(e))
}

/// How values are stored, if it is known.
fn stored(pixels: &DecodedPixelData<'_>) -> Option<Stored> {
    let [allocated, bits, high] = [pixels.bits_allocated(), pixels.bits_stored(), pixels.high_bit()].map(u32::from);
    let low = (high + 1).checked_sub(bits)?;
    let known = matches!(allocated, 8 | 16) && bits > 0 && high < allocated;
    known.then_some(Stored {
        allocated,
        bits,
        low,
        signed: pixels.pixel_representation() == PixelRepresentation::Signed,
    })
}

/// The stored values.
fn values(pixels: &DecodedPixelData<'_>, stored: Stored) -> Result<Vec<i32>> {
    let bytes = pixels.data();
    let count = pixels.rows() as usize * pixels.columns() as usize;
    // Files are filled up to an even number of bytes.
    match stored.allocated {
        8 => memory::collect(bytes.iter().take(count).map(|&byte| stored.value(byte.into()))),
        _ => {
            let pairs = bytes.as_chunks::<2>().0.iter().take(count);
            memory::collect(pairs.map(|&pair| stored.value(u16::from_ne_bytes(pair).into())))
        }
    }
}

/// The file's first window (PS3.3, C.11.2.1.2).
fn own_window(pixels: &DecodedPixelData<'_>) -> dicom_pixeldata::Result<Option<Window>> {
    let Some(level) = pixels.window()?.and_then(|windows| windows.first()) else { return Ok(None) };
    let function = pixels.voi_lut_function()?.and_then(|functions| functions.first().copied());
    let (center, width) = match function.unwrap_or(VoiLutFunction::Linear) {
        VoiLutFunction::Linear => (level.center - 0.5, level.width - 1.0),
        // A sigmoid has no ends; these are where its tangent in the middle has them.
        _ => (level.center, level.width),
    };
    Ok(Window::new(center - width / 2.0, center + width / 2.0))
}

/// The values that stand for no measurement (PS3.3, C.7.5.1.1.2).
fn padding(object: &DefaultDicomObject, stored: Stored) -> Option<(i32, i32)> {
    // Whether they are signed isn't said where a file names no types.
    let value = |tag: Tag| object.get(tag)?.to_int::<i64>().ok().map(|v| Stored { low: 0, ..stored }.value(v as u32));
    let one = value(tags::PIXEL_PADDING_VALUE)?;
    let other = value(tags::PIXEL_PADDING_RANGE_LIMIT).unwrap_or(one);
    Some((one.min(other), one.max(other)))
}
