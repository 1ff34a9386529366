//! A network on pictures that are larger than its own: it sees overlapping tiles, and where they overlap its predictions are averaged at every
//! step (Bar-Tal et al. 2023, "MultiDiffusion"), those near a tile's edge counting less. The noise is the whole picture's, so no tile knows
//! where it lies.

use unfog_core::denoise::{Cond, Denoise};
use unfog_core::solve::matrix::mirrored;
use unfog_core::solve::operator::Shape;

use crate::error::{Error, Result};
use crate::memory;

/// Tiles that the network sees at once.
const BATCH: usize = 8;

/// A network for one shape, on pictures of another.
pub(super) struct Tiled<'a, D> {
    network: &'a mut D,
    /// What the network sees.
    own: Shape,
    picture: Shape,
    /// Where tiles begin; before the picture where it is smaller than a tile.
    tops: Vec<isize>,
    lefts: Vec<isize>,
    /// How much a tile's value counts along each side.
    weights: [Vec<f32>; 2],
}

/// Where tiles of `tile` pixels begin that cover `side` pixels and overlap by a quarter at least, as evenly as whole pixels allow.
fn places(side: usize, tile: usize) -> Vec<isize> {
    if side <= tile {
        // In the middle, the picture mirrored around it.
        return vec![-(((tile - side) / 2) as isize)];
    }
    let gaps = (side - tile).div_ceil((tile - tile / 4).max(1));
    (0..=gaps).map(|i| (i * (side - tile) / gaps) as isize).collect()
}

impl<'a, D: Denoise<Error = Error>> Tiled<'a, D> {
    /// `network` sees pictures of shape `own`, which has as many channels as `picture`.
    pub(super) fn new(network: &'a mut D, own: Shape, picture: Shape) -> Self {
        // From nearly nothing at the edge up to a quarter of the tile, which is where the next one begins: a step there would be seen.
        let ramp = |tile: usize| {
            let weight = |i: usize| {
                let share = (((i.min(tile - 1 - i)) as f32 + 0.5) / (tile / 4 + 1) as f32).min(1.0);
                share * share * (3.0 - 2.0 * share)
            };
            (0..tile).map(weight).collect()
        };
        Self {
            network,
            own,
            picture,
            tops: places(picture.height, own.height),
            lefts: places(picture.width, own.width),
            weights: [ramp(own.height), ramp(own.width)],
        }
    }

    /// Calls `each` with a place in the tile, whether the picture has it, its place in the picture, and how much it counts.
    fn over(&self, top: isize, left: isize, mut each: impl FnMut(usize, Option<f32>, usize)) {
        let (own, picture) = (self.own, self.picture);
        for c in 0..own.channels {
            for y in 0..own.height {
                let row = top + y as isize;
                let inside = (0..picture.height as isize).contains(&row);
                let row = mirrored(row as i64, picture.height);
                for x in 0..own.width {
                    let column = left + x as isize;
                    let counts = inside && (0..picture.width as isize).contains(&column);
                    let column = mirrored(column as i64, picture.width);
                    let weight = counts.then(|| self.weights[0][y] * self.weights[1][x]);
                    let place = (c * picture.height + row) * picture.width + column;
                    each((c * own.height + y) * own.width + x, weight, place);
                }
            }
        }
    }
}

impl<D: Denoise<Error = Error>> Denoise for Tiled<'_, D> {
    type Error = Error;

    fn out_len(&self) -> usize {
        self.network.out_len() / self.own.len().max(1) * self.picture.len()
    }

    fn predict(&mut self, x: &[f32], t: f32, conds: &[Cond], out: &mut [f32]) -> Result<()> {
        if self.own == self.picture {
            return self.network.predict(x, t, conds, out);
        }
        let (len, own, parts) = (self.picture.len(), self.own.len(), self.out_len() / self.picture.len().max(1));
        let places: Vec<(isize, isize)> =
            self.tops.iter().flat_map(|&top| self.lefts.iter().map(move |&left| (top, left))).collect();
        let mut sums = memory::vec(len, 0.0_f32)?;
        for &(top, left) in &places {
            self.over(top, left, |_, weight, place| sums[place] += weight.unwrap_or(0.0));
        }
        out.fill(0.0);
        let images = x.len() / len;
        let (mut tiles, mut made) = (memory::vec(BATCH * own, 0.0)?, memory::vec(BATCH * own * parts, 0.0)?);
        for (i, cond) in conds.iter().enumerate() {
            let x = &x[i % images.max(1) * len..][..len];
            let out = &mut out[i * parts * len..][..parts * len];
            for places in places.chunks(BATCH) {
                for (tile, &(top, left)) in tiles.chunks_exact_mut(own).zip(places) {
                    self.over(top, left, |at, _, place| tile[at] = x[place]);
                }
                let n = places.len();
                self.network.predict(&tiles[..n * own], t, &vec![*cond; n], &mut made[..n * own * parts])?;
                for (made, &(top, left)) in made.chunks_exact(own * parts).zip(places) {
                    for (made, out) in made.chunks_exact(own).zip(out.chunks_exact_mut(len)) {
                        self.over(top, left, |at, weight, place| out[place] += weight.unwrap_or(0.0) * made[at]);
                    }
                }
            }
            for out in out.chunks_exact_mut(len) {
                out.iter_mut().zip(&sums).for_each(|(out, sum)| *out /= sum);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says twice its input, and the time.
    struct Double(usize);

    impl Denoise for Double {
        type Error = Error;

        fn out_len(&self) -> usize {
            2 * self.0
        }

        fn predict(&mut self, x: &[f32], t: f32, conds: &[Cond], out: &mut [f32]) -> Result<()> {
            assert_eq!(x.len(), conds.len() * self.0);
            for (x, out) in x.chunks_exact(self.0).zip(out.chunks_exact_mut(2 * self.0)) {
                let (first, second) = out.split_at_mut(self.0);
                first.iter_mut().zip(x).for_each(|(out, x)| *out = 2.0 * x);
                second.fill(t);
            }
            Ok(())
        }
    }

    #[test]
    fn what_each_tile_says_is_what_the_picture_gets() {
        let own = Shape { channels: 2, height: 8, width: 6 };
        for (height, width) in [(8, 6), (9, 6), (30, 17), (5, 6), (3, 40), (1, 1)] {
            let picture = Shape { channels: 2, height, width };
            let mut network = Double(own.len());
            let mut tiled = Tiled::new(&mut network, own, picture);
            assert_eq!(tiled.out_len(), 2 * picture.len());
            let x: Vec<f32> = (0..2 * picture.len()).map(|i| (i as f32 * 0.37).sin()).collect();
            let mut out = vec![f32::NAN; 2 * tiled.out_len()];
            tiled.predict(&x, 7.0, &[Cond::None; 2], &mut out).unwrap();
            for (x, out) in x.chunks_exact(picture.len()).zip(out.chunks_exact(2 * picture.len())) {
                let (first, second) = out.split_at(picture.len());
                assert!(first.iter().zip(x).all(|(out, x)| (out - 2.0 * x).abs() < 1e-5), "{height}x{width}");
                assert!(second.iter().all(|t| (t - 7.0).abs() < 1e-5), "{height}x{width}");
            }
        }
    }

    #[test]
    fn tiles_cover_a_side_and_overlap() {
        for side in 64..400 {
            let places = places(side, 64);
            assert_eq!((places[0], places[places.len() - 1]), (0, side as isize - 64));
            assert!(places.windows(2).all(|pair| pair[1] - pair[0] <= 48), "{side}: {places:?}");
        }
    }
}
