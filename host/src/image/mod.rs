//! Pictures: 8-bit pixels, files, sheets, and the way from and to a network's values.

mod bicubic;
mod deep;
mod format;
mod load;
mod png_text;
mod resize;
mod save;

pub(crate) use bicubic::bicubic;
pub use deep::Deep;
pub use format::Format;
pub use load::load;
pub use png_text::read_text;
pub use save::encode;

use crate::error::{Error, Result};
use crate::memory;

/// An 8-bit picture, grey or RGB, rows from the top, channels interleaved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    channels: u32,
    pixels: Vec<u8>,
}

impl Picture {
    /// A black picture.
    ///
    /// # Errors
    /// Channels other than 1 and 3, an empty picture, one of more than 2^30 bytes.
    pub fn new(width: u32, height: u32, channels: u32) -> Result<Self> {
        if channels != 1 && channels != 3 {
            return Err(Error::failure(format!("a picture has 1 or 3 channels, not {channels}")));
        }
        let bytes = u64::from(width) * u64::from(height) * u64::from(channels);
        if bytes == 0 || bytes > 1 << 30 {
            return Err(Error::usage(format!("a picture of {width}x{height} pixels is empty or too large")));
        }
        Ok(Self { width, height, channels, pixels: memory::vec(bytes as usize, 0)? })
    }

    /// A picture from a network's values: planar `[c, h, w]`, -1 is black and 1 is full; what lies beyond is cut off.
    /// Rounded half to even, as diffusers does.
    ///
    /// # Errors
    /// Those of [`Picture::new`]; a length that doesn't fit; a value that is not a number.
    pub fn from_values(values: &[f32], width: u32, height: u32, channels: u32) -> Result<Self> {
        let mut picture = Self::new(width, height, channels)?;
        let (c, plane) = (channels as usize, width as usize * height as usize);
        if values.len() != c * plane {
            return Err(Error::failure(format!("{} values don't make {width}x{height}x{channels}", values.len())));
        }
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::failure(format!("the network's picture holds {} at index {i}", values[i]))
                .hint("try --precision f32, or another backend"));
        }
        for (i, pixel) in picture.pixels.chunks_exact_mut(c).enumerate() {
            for (j, byte) in pixel.iter_mut().enumerate() {
                let unit = (values[j * plane + i] / 2.0 + 0.5).clamp(0.0, 1.0);
                *byte = (unit * 255.0).round_ties_even() as u8;
            }
        }
        Ok(picture)
    }

    /// The picture as a network takes it: planar `[channels, h, w]` in [-1, 1]. Grey is repeated for three channels; RGB
    /// becomes its luma (ITU-R BT.601) for one.
    ///
    /// # Errors
    /// Channels other than 1 and 3; too little memory.
    pub fn to_values(&self, channels: u32) -> Result<Vec<f32>> {
        let plane = self.width as usize * self.height as usize;
        let scaled = |value: f32| value / 127.5 - 1.0;
        let pixels = self.pixels.chunks_exact(self.channels as usize);
        let mut values = memory::room(channels.min(3) as usize * plane)?;
        match (self.channels, channels) {
            (1, 1 | 3) => {
                for _ in 0..channels {
                    values.extend(self.pixels.iter().map(|&p| scaled(f32::from(p))));
                }
                Ok(values)
            }
            (3, 1) => {
                let luma = |p: &[u8]| 0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2]);
                values.extend(pixels.map(|p| scaled(luma(p))));
                Ok(values)
            }
            (3, 3) => {
                values.resize(3 * plane, 0.0);
                for (i, p) in pixels.enumerate() {
                    for (j, &byte) in p.iter().enumerate() {
                        values[j * plane + i] = scaled(f32::from(byte));
                    }
                }
                Ok(values)
            }
            _ => Err(Error::failure(format!("a picture has 1 or 3 channels, not {channels}"))),
        }
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// 1 for grey, 3 for RGB.
    pub fn channels(&self) -> u32 {
        self.channels
    }

    /// The bytes: rows from the top, channels interleaved.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// A picture of one colour.
    ///
    /// # Errors
    /// Those of [`Picture::new`].
    pub fn filled(width: u32, height: u32, colour: [u8; 3]) -> Result<Self> {
        let mut picture = Self::new(width, height, 3)?;
        picture.pixels.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&colour));
        Ok(picture)
    }

    /// Sets the colour of the pixel in column `x` and row `y` of an RGB picture; what lies outside is left out.
    pub fn set(&mut self, x: u32, y: u32, colour: [u8; 3]) {
        let i = (y as usize * self.width as usize + x as usize) * 3;
        if let (3, true, Some(pixel)) = (self.channels, x < self.width, self.pixels.get_mut(i..i + 3)) {
            pixel.copy_from_slice(&colour);
        }
    }

    /// Copies `tile`, which has as many channels, to column `x` and row `y`; what lies outside is left out.
    fn paste(&mut self, tile: &Picture, x: u32, y: u32) {
        let c = self.channels as usize;
        let columns = tile.width.min(self.width.saturating_sub(x)) as usize * c;
        for row in 0..tile.height.min(self.height.saturating_sub(y)) {
            let from = row as usize * tile.width as usize * c;
            let to = ((y + row) as usize * self.width as usize + x as usize) * c;
            self.pixels[to..to + columns].copy_from_slice(&tile.pixels[from..from + columns]);
        }
    }
}

/// The most columns of a sheet: wider ones would not be opened by most programs.
const MAX_COLUMNS: u32 = 1 << 12;

/// Columns and rows of a sheet of `count` pictures: as near to a square as whole tiles allow, wider rather than higher.
pub fn sheet_layout(count: u32, width: u32, height: u32) -> (u32, u32) {
    let cost = |columns: u32| {
        let rows = count.div_ceil(columns);
        let side = (u64::from(columns) * u64::from(width)).max(u64::from(rows) * u64::from(height));
        (side, u64::from(columns) * u64::from(rows), std::cmp::Reverse(columns))
    };
    let columns = (1..=count.clamp(1, MAX_COLUMNS)).min_by_key(|&columns| cost(columns)).unwrap_or(1);
    (columns, count.div_ceil(columns))
}

/// One picture of many, row by row, without gaps; places that are left over are black.
///
/// # Errors
/// No picture, pictures of different sizes, a sheet that is too large, too little memory.
pub fn sheet(pictures: &[Picture], columns: u32) -> Result<Picture> {
    let first = pictures.first().ok_or_else(|| Error::failure("a sheet needs a picture"))?;
    let shape = |p: &Picture| (p.width, p.height, p.channels);
    if columns == 0 || pictures.iter().any(|p| shape(p) != shape(first)) {
        return Err(Error::failure("the pictures of a sheet differ in size"));
    }
    let rows = (pictures.len() as u32).div_ceil(columns);
    let (width, height) = (columns.checked_mul(first.width), rows.checked_mul(first.height));
    let too_large = || Error::usage("the sheet would be too large").hint("write a file an image: --out NAME{i}.png");
    let (width, height) = width.zip(height).ok_or_else(too_large)?;
    let mut sheet = Picture::new(width, height, first.channels).map_err(|e| match e.exit_code() {
        2 => too_large(),
        _ => e,
    })?;
    for (i, picture) in pictures.iter().enumerate() {
        let i = i as u32;
        sheet.paste(picture, i % columns * first.width, i / columns * first.height);
    }
    Ok(sheet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_bytes_and_come_back() {
        let values = [-1.0, 1.0, 0.0, -2.0, 2.0, 0.5];
        let picture = Picture::from_values(&values, 2, 1, 3).unwrap();
        // 0 lies at 127.5, which rounds to the even 128; planes become channels.
        assert_eq!(picture.pixels(), [0, 128, 255, 255, 0, 191]);
        let back = picture.to_values(3).unwrap();
        assert_eq!(Picture::from_values(&back, 2, 1, 3).unwrap(), picture);
        assert!(Picture::from_values(&[f32::NAN], 1, 1, 1).is_err());
    }

    #[test]
    fn grey_and_colour_convert() {
        let grey = Picture::from_values(&[0.2], 1, 1, 1).unwrap();
        assert_eq!(grey.to_values(3).unwrap(), vec![grey.to_values(1).unwrap()[0]; 3]);
        let white = Picture::from_values(&[1.0; 3], 1, 1, 3).unwrap();
        assert!((white.to_values(1).unwrap()[0] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn sheets_are_near_square() {
        assert_eq!(sheet_layout(1, 64, 64), (1, 1));
        assert_eq!(sheet_layout(2, 64, 64), (2, 1));
        assert_eq!(sheet_layout(12, 64, 64), (4, 3));
        assert_eq!(sheet_layout(16, 64, 64), (4, 4));
        assert_eq!(sheet_layout(16, 64, 16), (2, 8));
        assert_eq!(sheet_layout(5, 16, 16), (3, 2));
    }

    #[test]
    fn a_sheet_holds_its_tiles_in_rows() {
        let tile = |v: f32| Picture::from_values(&[v; 4], 2, 2, 1).unwrap();
        let sheet = sheet(&[tile(-1.0), tile(0.0), tile(1.0)], 2).unwrap();
        assert_eq!((sheet.width(), sheet.height()), (4, 4));
        assert_eq!(sheet.pixels(), [0, 0, 128, 128, 0, 0, 128, 128, 255, 255, 0, 0, 255, 255, 0, 0]);
    }
}
