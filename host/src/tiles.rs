//! Pictures decoded in overlapping tiles: the rule of diffusers' `AutoencoderKL.enable_tiling`.
//!
//! Tiles lie side by side, each a quarter of its side into the one before. What two have in common goes over from one to the other
//! linearly. Every tile is decoded as a picture of its own, so that its normalisations and its attention see no other: tiles differ a
//! little from the picture that is decoded as a whole, and memory is that of one tile.

use std::str::FromStr;

use unfog_core::denoise::{Cond, Denoise};

use crate::backend::{Backend, Request};
use crate::error::{Error, Result};
use crate::memory;
use crate::model::{Autoencoder, Weights};
use crate::stop::Stop;

/// Whether latents are decoded in tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tile {
    /// Where the backend refuses the whole picture.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Pictures with a longer side than this many pixels, in tiles of it.
    Side(u32),
}

impl FromStr for Tile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || Error::usage(format!("a tile of {text:?}")).hint("give its side in pixels, off or auto");
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => text.parse().ok().filter(|&side| side > 0).map(Self::Side).ok_or_else(unknown),
        }
    }
}

/// The most bytes of tiles that wait for their neighbours, unless those of one picture are more.
const WAITING: usize = 256 << 20;

/// Where a tile lies along one side of the latents, and how long it is.
type Span = (usize, usize);

/// How pictures of one size are cut into tiles.
#[derive(Clone, Debug, PartialEq)]
pub struct Tiling {
    /// Pixels for one latent.
    multiple: usize,
    /// Pixels along which two tiles go over into each other.
    blend: usize,
    /// Pixels of a tile that come into the picture.
    limit: usize,
    rows: Vec<Span>,
    columns: Vec<Span>,
}

impl Tiling {
    /// Tiles of `side` pixels for pictures of `h` rows and `w` columns, of which `multiple` are one of latents.
    ///
    /// # Errors
    /// A usage error for a side that is no multiple of four latents.
    pub fn new(side: u32, multiple: u32, [h, w]: [u32; 2]) -> Result<Self> {
        let least = multiple.saturating_mul(4).max(1);
        if side == 0 || !side.is_multiple_of(least) {
            return Err(Error::usage(format!(
                "--vae-tile {side}: tiles of this model are multiples of {least} pixels"
            )));
        }
        let [side, multiple] = [side as usize, multiple.max(1) as usize];
        let tile = side / multiple;
        let step = tile / 4 * 3;
        let spans = |length: usize| (0..length).step_by(step).map(|at| (at, tile.min(length - at))).collect();
        let [rows, columns] = [h, w].map(|pixels| spans(pixels as usize / multiple));
        Ok(Self { multiple, blend: side / 4, limit: side - side / 4, rows, columns })
    }

    /// Every tile, row by row: its rows and its columns.
    fn tiles(&self) -> impl Iterator<Item = [Span; 2]> {
        self.rows.iter().flat_map(|&rows| self.columns.iter().map(move |&columns| [rows, columns]))
    }

    /// Makes one picture `[channels, h, w]` of its tiles, row by row, each planar; tiles are changed where they are blended.
    fn join(&self, tiles: &mut [Vec<f32>], channels: usize, picture: &mut [f32]) {
        let m = self.multiple;
        let across = self.columns.len();
        let end = |spans: &[Span]| spans.last().map_or(0, |(at, length)| (at + length) * m);
        let (height, width) = (end(&self.rows), end(&self.columns));
        for (i, &(top, rows)) in self.rows.iter().enumerate() {
            for (j, &(left, columns)) in self.columns.iter().enumerate() {
                let (before, now) = tiles.split_at_mut(i * across + j);
                let Some(tile) = now.first_mut() else { return };
                let [h, w] = [rows * m, columns * m];
                if i > 0 {
                    let above = &before[(i - 1) * across + j];
                    self.blend(above, self.rows[i - 1].1 * m, tile, h, [channels, w]);
                }
                if j > 0 {
                    let beside = &before[i * across + j - 1];
                    self.blend(beside, self.columns[j - 1].1 * m, tile, w, [channels * h, 1]);
                }
                for c in 0..channels {
                    for y in 0..h.min(self.limit) {
                        let from = &tile[(c * h + y) * w..][..w.min(self.limit)];
                        picture[(c * height + top * m + y) * width + left * m..][..from.len()].copy_from_slice(from);
                    }
                }
            }
        }
    }

    /// Lets `a` go over into `b` along one of their dimensions, in which they have `long_a` and `long_b` values: `[outer, long, inner]`.
    fn blend(&self, a: &[f32], long_a: usize, b: &mut [f32], long_b: usize, [outer, inner]: [usize; 2]) {
        let extent = self.blend.min(long_a).min(long_b);
        for o in 0..outer {
            for y in 0..extent {
                let share = y as f32 / extent as f32;
                let from = &a[(o * long_a + long_a - extent + y) * inner..][..inner];
                let to = &mut b[(o * long_b + y) * inner..][..inner];
                to.iter_mut().zip(from).for_each(|(b, a)| *b = a * (1.0 - share) + *b * share);
            }
        }
    }
}

/// What a decoder of tiles works with.
pub struct TiledDecoder<'a> {
    /// The autoencoder.
    pub autoencoder: &'a Autoencoder,
    /// Its decoder's weights.
    pub weights: &'a Weights,
    /// The backend.
    pub request: &'a Request,
    /// How pictures are cut.
    pub tiling: &'a Tiling,
}

impl TiledDecoder<'_> {
    /// Decodes `latents` `[n, c, h, w]`, scaled as the decoder takes them. `report` is told how many pictures are done; `sink` is given each
    /// picture's number from 0 on and its values `[c, h, w]`.
    ///
    /// # Errors
    /// Those of the backend and the sink; [`Error::interrupted`].
    pub fn run(
        &self,
        latents: &[f32],
        stop: &Stop,
        report: &mut dyn FnMut(u64),
        sink: &mut dyn FnMut(u64, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let Tiling { multiple: m, rows, columns, .. } = self.tiling;
        let long = |spans: &[Span]| spans.last().map_or(0, |(at, length)| at + length);
        let (h, w) = (long(rows), long(columns));
        let (depth, channels) = (self.autoencoder.latent_channels() as usize, self.autoencoder.channels()[1] as usize);
        let spans: Vec<[Span; 2]> = self.tiling.tiles().collect();
        let values = |[(_, rows), (_, columns)]: [Span; 2]| channels * rows * m * columns * m;
        let of_picture: usize = spans.iter().map(|&tile| values(tile)).sum();
        let at_once = (WAITING / 4 / of_picture.max(1)).max(1);
        let mut shapes: Vec<[usize; 2]> = spans.iter().map(|[rows, columns]| [rows.1, columns.1]).collect();
        shapes.sort_unstable();
        shapes.dedup();
        let data = self.weights.data();
        let mut picture = memory::vec(channels * h * m * w * m, 0.0)?;
        let one = depth * h * w;
        let mut done = 0_u64;
        for (first, batch) in latents.chunks(one * at_once).enumerate() {
            let first = (first * at_once) as u64;
            let mut tiles = Vec::new();
            for _ in batch.chunks_exact(one) {
                let empty = spans.iter().map(|&tile| memory::vec(values(tile), 0.0));
                tiles.push(empty.collect::<Result<Vec<_>>>()?);
            }
            // The largest come first: what can't be opened is known before any is decoded.
            for &[rows, columns] in shapes.iter().rev() {
                let network = self.autoencoder.decoder((rows * m) as u32, (columns * m) as u32)?;
                let mut backend = Backend::open(self.request, network.graph(), &data, stop)?;
                let mut input = memory::vec(depth * rows * columns, 0.0)?;
                for (latents, tiles) in batch.chunks_exact(one).zip(&mut tiles) {
                    let of_shape =
                        spans.iter().zip(tiles).filter(|(tile, _)| [tile[0].1, tile[1].1] == [rows, columns]);
                    for ([(top, _), (left, _)], out) in of_shape {
                        stop.check()?;
                        report(first + done / spans.len() as u64);
                        for (i, row) in input.chunks_exact_mut(columns).enumerate() {
                            let (c, y) = (i / rows, i % rows + top);
                            row.copy_from_slice(&latents[(c * h + y) * w + left..][..columns]);
                        }
                        backend.predict(&input, 0.0, &[Cond::None], out)?;
                        done += 1;
                    }
                }
            }
            for (i, mut tiles) in tiles.into_iter().enumerate() {
                self.tiling.join(&mut tiles, channels, &mut picture);
                sink(first + i as u64, &picture)?;
            }
            done = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tiles of which `value` gives each pixel, by the tile's number, the row and the column in the picture.
    fn planes(tiling: &Tiling, value: impl Fn(usize, usize, usize) -> f32) -> Vec<Vec<f32>> {
        let m = tiling.multiple;
        let tile = |(number, [(top, rows), (left, columns)]): (usize, [Span; 2])| {
            let pixels = (0..rows * m).flat_map(|y| (0..columns * m).map(move |x| (y, x)));
            pixels.map(|(y, x)| value(number, top * m + y, left * m + x)).collect()
        };
        tiling.tiles().enumerate().map(tile).collect()
    }

    #[test]
    fn tiles_of_one_picture_give_it_back() {
        for (size, side) in [([40, 56], 16), ([24, 24], 32), ([34, 18], 8), ([64, 66], 24)] {
            let tiling = Tiling::new(side, 2, size).unwrap();
            let [h, w] = size.map(|n| n as usize);
            let value = |_, y: usize, x: usize| (y * 1000 + x) as f32;
            let mut picture = vec![f32::NAN; h * w];
            tiling.join(&mut planes(&tiling, value), 1, &mut picture);
            for (i, got) in picture.iter().enumerate() {
                let want = value(0, i / w, i % w);
                assert!((got - want).abs() <= 1e-6 * want.abs(), "{size:?} {side} at {i}: {got}, {want}");
            }
        }
    }

    #[test]
    fn neighbours_go_over_into_each_other() {
        // Two tiles of 16 pixels, 4 of which they share.
        let tiling = Tiling::new(16, 2, [16, 24]).unwrap();
        assert_eq!((tiling.rows.clone(), tiling.columns.clone()), (vec![(0, 8), (6, 2)], vec![(0, 8), (6, 6)]));
        let mut picture = vec![f32::NAN; 16 * 24];
        tiling.join(&mut planes(&tiling, |number, _, _| (number % 2) as f32), 1, &mut picture);
        assert_eq!(picture[10..18], [0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]);
    }

    #[test]
    fn sides_that_do_not_divide_are_refused() {
        for side in [0, 4, 12, 100] {
            let report = Tiling::new(side, 8, [64, 64]).unwrap_err();
            assert!(report.to_string().contains("multiples of 32 pixels") && report.exit_code() == 2, "{report}");
        }
        assert_eq!("off".parse::<Tile>().unwrap(), Tile::Off);
        assert_eq!("64".parse::<Tile>().unwrap(), Tile::Side(64));
        for text in ["", "0", "-1", "big", "4294967296"] {
            assert_eq!(text.parse::<Tile>().unwrap_err().exit_code(), 2, "{text}");
        }
    }
}
