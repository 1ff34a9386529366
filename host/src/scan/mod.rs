//! Medical scans: DICOM files as pictures, and what became of them as DICOM files again.
//!
//! A file's stored values become units of the modality (Hounsfield units of CT) by its rescale slope and intercept, and those a network's -1 to 1 by
//! a window, as a viewer shows them (DICOM PS3.3, C.11.1 and C.11.2). What lies beyond the window passes by the network: a value is
//! changed by as much as the part of it that the window shows.

mod derive;
mod lengths;
mod packed;
mod read;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use dicom_object::DefaultDicomObject;
use serde::{Deserialize, Serialize};

pub(crate) use derive::{Derivation, read_recipe};

use crate::error::{Error, Result};
use crate::image::Deep;

/// Extensions of DICOM files; in a clinic many have none.
const EXTENSIONS: [&str; 2] = ["dcm", "dicom"];
/// What a DICOM file begins with, after 128 bytes for anything.
const MAGIC: &[u8; 4] = b"DICM";

/// Which values of a scan, in units of its modality, a network sees as black and as full.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Black.
    pub black: f32,
    /// Full, above black.
    pub full: f32,
}

impl Window {
    /// A window of these ends, unless it is none.
    fn new(black: f64, full: f64) -> Option<Self> {
        let (black, full) = (black as f32, full as f32);
        (black.is_finite() && full.is_finite() && black < full).then_some(Self { black, full })
    }

    /// Both ends.
    fn ends(self) -> (f64, f64) {
        (self.black.into(), self.full.into())
    }

    /// The part of the window, 0 to 1, at which `value` lies; beyond it what is nearest.
    fn share(self, value: f64) -> f64 {
        let (black, full) = self.ends();
        ((value - black) / (full - black)).clamp(0.0, 1.0)
    }

    /// What lies at a part of it.
    fn at(self, share: f64) -> f64 {
        let (black, full) = self.ends();
        black + share * (full - black)
    }

    /// By how much `value` lies beyond it.
    fn beyond(self, value: f64) -> f64 {
        let (black, full) = self.ends();
        value - value.clamp(black, full)
    }
}

impl FromStr for Window {
    type Err = Error;

    /// Reads `CENTER,WIDTH`, in units of the modality.
    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split_once(',').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
        let window =
            numbers.and_then(|(center, width): (f64, f64)| Self::new(center - width / 2.0, center + width / 2.0));
        window.ok_or_else(|| Error::usage(format!("--window {text}: expected center and width, as in 40,400")))
    }
}

/// How a file stores a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stored {
    /// Bits of memory, 8 or 16.
    allocated: u32,
    /// Bits that count, from `low` on.
    bits: u32,
    low: u32,
    signed: bool,
}

impl Stored {
    /// The value that the memory `raw` holds.
    fn value(self, raw: u32) -> i32 {
        let unused = 32 - self.bits;
        let bits = (raw >> self.low) << unused;
        if self.signed { (bits as i32) >> unused } else { (bits >> unused) as i32 }
    }

    /// Memory that holds `value`.
    fn raw(self, value: i32) -> u32 {
        (value as u32 & (u32::MAX >> (32 - self.bits))) << self.low
    }

    /// The least and the largest value.
    fn range(self) -> (i32, i32) {
        let half = 1_i32 << (self.bits - 1);
        if self.signed { (-half, half - 1) } else { (0, half - 1 + half) }
    }
}

/// A DICOM file with one grey picture.
#[derive(Debug)]
pub(crate) struct Scan {
    object: DefaultDicomObject,
    stored: Stored,
    /// The stored values, `[height, width]`.
    values: Vec<i32>,
    /// Values that stand for no measurement, from the least to the largest.
    padding: Option<(i32, i32)>,
    slope: f64,
    intercept: f64,
    window: Window,
    /// Whether the least value is white (MONOCHROME1).
    inverted: bool,
    /// What a network sees.
    picture: Deep,
}

impl Scan {
    pub(crate) fn picture(&self) -> &Deep {
        &self.picture
    }

    pub(crate) fn into_picture(self) -> Deep {
        self.picture
    }

    pub(crate) fn window(&self) -> Window {
        self.window
    }

    /// The stored values, and the difference between the largest that can be stored and the least.
    pub(crate) fn stored(&self) -> (&[i32], u32) {
        let (least, largest) = self.stored.range();
        (&self.values, largest.abs_diff(least))
    }

    /// The value, in units of the modality, that `stored` stands for.
    fn unit(&self, stored: i32) -> f64 {
        f64::from(stored) * self.slope + self.intercept
    }

    fn is_padding(&self, stored: i32) -> bool {
        self.padding.is_some_and(|(least, largest)| (least..=largest).contains(&stored))
    }

    /// The stored values once a network has made `seen` of the picture.
    pub(crate) fn restored(&self, seen: &[f32]) -> Vec<i32> {
        let (least, largest) = self.stored.range();
        let value = |(&was, &seen): (&i32, &f32)| {
            if self.is_padding(was) {
                return was;
            }
            let seen = f64::from(if self.inverted { -seen } else { seen });
            let share = (seen / 2.0 + 0.5).clamp(0.0, 1.0);
            let unit = self.window.at(share) + self.window.beyond(self.unit(was));
            ((unit - self.intercept) / self.slope).round().clamp(f64::from(least), f64::from(largest)) as i32
        };
        self.values.iter().zip(seen).map(value).collect()
    }
}

/// Whether the name is that of a DICOM file.
pub(crate) fn is_named(path: &Path) -> bool {
    path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

/// Whether the file is of DICOM, by its name or by what it begins with.
pub(crate) fn is(path: &Path) -> bool {
    let mut begin = [0; 132];
    is_named(path)
        || File::open(path).and_then(|mut file| file.read_exact(&mut begin)).is_ok() && begin[128..] == MAGIC[..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_values_come_back() {
        for signed in [false, true] {
            for (allocated, bits, low) in [(8, 8, 0), (16, 12, 0), (16, 12, 4), (16, 16, 0), (16, 1, 3)] {
                let stored = Stored { allocated, bits, low, signed };
                let (least, largest) = stored.range();
                assert_eq!(largest.abs_diff(least), (1_u32 << bits) - 1);
                for value in [least, largest, (least + largest) / 2] {
                    assert_eq!(stored.value(stored.raw(value)), value, "{stored:?}");
                    assert!(stored.raw(value) < 1 << allocated, "{stored:?}");
                }
            }
        }
    }

    #[test]
    fn windows_are_read() {
        assert_eq!("40,400".parse::<Window>().unwrap(), Window { black: -160.0, full: 240.0 });
        assert_eq!("-0.5, 1".parse::<Window>().unwrap(), Window { black: -1.0, full: 0.0 });
        for bad in ["40", "40,0", "40,-1", "nan,1", "1,inf", "", "a,b"] {
            assert_eq!(bad.parse::<Window>().unwrap_err().exit_code(), 2, "{bad}");
        }
    }
}
