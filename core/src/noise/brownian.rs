//! Brownian motion that does not depend on the steps.

use super::{Noise, NoiseError, Philox, philox4x32};
use crate::math::wide::sqrt;

/// Noise for solvers of stochastic differential equations: one path W of Brownian motion a value, fixed by the seed. What a
/// step from one time to another gets is the path's own increment, so that more steps refine a picture instead of making
/// another one. (Li et al. 2020, "Scalable gradients for stochastic differential equations", section 4, introduced the
/// virtual Brownian tree; this is its closed form, Lévy and Ciesielski's, of a fixed depth.)
///
/// Samplers count time from 1 (pure noise) to 0 (the image), [`crate::sampler::Step::noise_time`], so that `new(seed, 1.0, 0.0)` is for
/// all of them. Time is rounded to `tick = (end - start) / 2^30`. In ticks
/// `W(t) = t / sqrt(2^30) * Z(0) + sum over l = 0..30 of m(t) / sqrt(w) * Z(node)`, where on level l the interval is cut into
/// pieces of w = 2^(30 - l) ticks, t lies in piece p, the node is `2^l + p`, and m(t) is the distance from t to the nearer
/// end of the piece. Each Z is a standard normal value, that of [`Philox`] with the node as its draw, under the key
/// `philox4x32(["Brow", "nian", 0, 0], seed)[..2]`. So an increment is a weighted sum of at most 61 normal values, the weights the
/// same for all values of an image, and costs about that many times what a draw of [`Philox`] does.
///
/// [`Noise::fill_between`] gives `(W(to) - W(from)) / sqrt(|to - from|)`, of variance 1, for any intervals in any order; the
/// sign turns with the direction of time. Increments over pieces of an interval sum to that over the whole up to f32
/// rounding (the weights do so exactly before they are rounded). Where noise is asked for without an interval, such as a
/// run's start, [`Noise::fill`], it is that of [`Philox`].
///
/// ```
/// use unfog_core::noise::{Brownian, Noise};
/// let mut noise = Brownian::new(7, 0.0, 16.0);
/// let [mut whole, mut first, mut second] = [[0.0_f32; 4]; 3];
/// noise.fill_between(0, 0, 10.0, 1.0, &mut whole)?;
/// noise.fill_between(0, 0, 10.0, 6.0, &mut first)?;
/// noise.fill_between(0, 1, 6.0, 1.0, &mut second)?;
/// // Over sqrt(9), sqrt(4), and sqrt(5).
/// assert!((3.0 * whole[2] - (2.0 * first[2] + 5.0_f32.sqrt() * second[2])).abs() < 1e-5);
/// # Ok::<(), unfog_core::noise::NoiseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Brownian {
    start: Philox,
    tree: Philox,
    /// Where the path begins and ends.
    times: [f64; 2],
}

const DEPTH: u32 = 30;
const TICKS: u32 = 1 << DEPTH;
const MAX_TERMS: usize = 1 + 2 * DEPTH as usize;

/// A node of the tree and its weight in an increment.
type Term = (u32, f64);

impl Brownian {
    /// The paths of a seed over the times from `start` to `end`. (An interval that is empty or not finite holds no step:
    /// each request is then refused.)
    pub fn new(seed: u64, start: f64, end: f64) -> Self {
        let [low, high, ..] = philox4x32(
            [u32::from_be_bytes(*b"Brow"), u32::from_be_bytes(*b"nian"), 0, 0],
            [seed as u32, (seed >> 32) as u32],
        );
        let tree = Philox::new(low as u64 | (high as u64) << 32);
        Self { start: Philox::new(seed), tree, times: [start, end] }
    }

    /// A time in ticks.
    fn tick(&self, time: f64) -> Option<u32> {
        let [start, end] = self.times;
        let share = (time - start) / (end - start);
        // From 0 to 1, so the cast rounds to the nearest.
        (0.0..=1.0).contains(&share).then_some((share * f64::from(TICKS) + 0.5) as u32)
    }
}

/// The distance from `tick` to the nearer end of the piece of `width` ticks that begins at `piece * width`; 0 outside.
fn tent(tick: u32, piece: u32, width: u32) -> f64 {
    let begin = piece * width;
    f64::from(tick.saturating_sub(begin).min((begin + width).saturating_sub(tick)))
}

/// `W(b) - W(a)` over `sqrt(|b - a|)` as a weighted sum of the tree's values: the terms and their number.
fn terms(a: u32, b: u32) -> ([Term; MAX_TERMS], usize) {
    let (mut terms, mut count) = ([(0, 0.0); MAX_TERMS], 0);
    let scale = 1.0 / sqrt(f64::from(a.abs_diff(b)));
    let mut add = |node: u32, weight: f64| {
        if weight != 0.0
            && let Some(term) = terms.get_mut(count)
        {
            *term = (node, weight * scale);
            count += 1;
        }
    };
    add(0, (f64::from(b) - f64::from(a)) / sqrt(f64::from(TICKS)));
    for level in 0..DEPTH {
        let width = TICKS >> level;
        // The last tick belongs to the last piece.
        let [p, q] = [a, b].map(|tick| tick.min(TICKS - 1) / width);
        let weight = |piece: u32| (tent(b, piece, width) - tent(a, piece, width)) / sqrt(f64::from(width));
        add((1 << level) + p, weight(p));
        if p != q {
            add((1 << level) + q, weight(q));
        }
    }
    (terms, count)
}

impl Noise for Brownian {
    fn fill(&mut self, image: u64, draw: u32, out: &mut [f32]) -> Result<(), NoiseError> {
        self.start.fill(image, draw, out)
    }

    fn fill_between(&mut self, image: u64, _: u32, from: f64, to: f64, out: &mut [f32]) -> Result<(), NoiseError> {
        if out.len() as u64 > 1 << 32 {
            return Err(NoiseError::TooLarge);
        }
        let (a, b) = self.tick(from).zip(self.tick(to)).filter(|(a, b)| a != b).ok_or(NoiseError::Interval)?;
        let (terms, count) = terms(a, b);
        for (block, four) in out.chunks_mut(4).enumerate() {
            let mut sums = [0.0; 4];
            for &(node, weight) in &terms[..count] {
                let values = self.tree.four(image, node, block as u32);
                sums.iter_mut().zip(values).for_each(|(sum, z)| *sum += weight as f32 * z);
            }
            four.iter_mut().zip(sums).for_each(|(o, v)| *o = v);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME_TICKS: [u32; 9] = [0, 1, 7, TICKS / 4, TICKS / 3, TICKS / 2, TICKS / 2 + 1, TICKS - 1, TICKS];

    /// The weights by node.
    fn by_node(a: u32, b: u32) -> std::collections::BTreeMap<u32, f64> {
        let (terms, count) = terms(a, b);
        let map: std::collections::BTreeMap<_, _> = terms[..count].iter().copied().collect();
        assert_eq!(map.len(), count, "no node twice");
        map
    }

    #[test]
    fn the_weights_give_brownian_motion() {
        for a in SOME_TICKS {
            for b in SOME_TICKS {
                if a == b {
                    continue;
                }
                let span = f64::from(a.abs_diff(b));
                let weights = by_node(a, b);
                // The variance, a sum of at most 61 rounded terms.
                let variance: f64 = weights.values().map(|w| w * w).sum();
                assert!((variance - 1.0).abs() < 1e-12, "{a} {b}: {variance}");
                for c in SOME_TICKS {
                    if c == b || c == a {
                        continue;
                    }
                    // Covariance with the increment from b to c: minus the overlap, if they go back over one another.
                    let covariance: f64 = by_node(b, c).iter().filter_map(|(n, v)| weights.get(n).map(|w| v * w)).sum();
                    let overlap = if (b > a) == (c > b) { 0.0 } else { -span.min(f64::from(b.abs_diff(c))) };
                    let expected = overlap / (span * f64::from(b.abs_diff(c))).sqrt();
                    assert!((covariance - expected).abs() < 1e-12, "{a} {b} {c}: {covariance} {expected}");
                }
            }
        }
    }

    #[test]
    fn pieces_sum_to_the_whole() {
        let mut noise = Brownian::new(3, 0.03, 14.6);
        let times = [14.6, 9.1, 9.0999, 3.3, 1.0, 0.2, 0.100_001, 0.1, 0.03];
        let mut whole = [0.0; 1000];
        noise.fill_between(2, 0, times[0], times[8], &mut whole).unwrap();
        let mut sum = [0.0_f64; 1000];
        // In any order of the pieces, since a piece doesn't depend on what was asked before.
        for i in [3, 0, 7, 1, 6, 2, 5, 4] {
            let mut piece = [0.0; 1000];
            noise.fill_between(2, i as u32, times[i], times[i + 1], &mut piece).unwrap();
            let scale = (times[i] - times[i + 1]).sqrt();
            sum.iter_mut().zip(piece).for_each(|(s, z)| *s += scale * f64::from(z));
        }
        let scale = (times[0] - times[8]).sqrt();
        for (sum, z) in sum.into_iter().zip(whole) {
            // f32 sums of 61 terms of magnitude up to 4, in each of nine increments, times 3.8; and ticks of 1.4e-8.
            assert!((sum - scale * f64::from(z)).abs() < 3e-5, "{sum} {}", scale * f64::from(z));
        }
        let mut back = [0.0; 1000];
        noise.fill_between(2, 9, times[8], times[0], &mut back).unwrap();
        assert!(whole.iter().zip(back).all(|(w, b)| *w == -b), "time turned round");
    }

    #[test]
    fn increments_are_standard_normal_and_independent() {
        const COUNT: usize = 1 << 14;
        let mut noise = Brownian::new(11, 0.0, 1.0);
        let intervals = [(1.0, 0.7), (0.7, 0.69), (0.69, 0.123), (0.123, 0.0)];
        let increments = intervals.map(|(from, to)| {
            let mut values = std::vec![0.0; COUNT];
            noise.fill_between(0, 0, from, to, &mut values).unwrap();
            values
        });
        let mut start = std::vec![0.0; COUNT];
        noise.fill(0, 0, &mut start).unwrap();
        let mean = |f: &dyn Fn(usize) -> f64| (0..COUNT).map(f).sum::<f64>() / COUNT as f64;
        // Five standard errors of each.
        let five = 5.0 / (COUNT as f64).sqrt();
        for (k, z) in increments.iter().enumerate() {
            let z = |i: usize| f64::from(z[i % COUNT]);
            assert!(mean(&z).abs() < five, "{k}");
            assert!((mean(&|i| z(i).powi(2)) - 1.0).abs() < five * 2_f64.sqrt(), "{k}");
            assert!((mean(&|i| z(i).powi(4)) - 3.0).abs() < five * 96_f64.sqrt(), "{k}");
            assert!(
                mean(&|i| z(i) * z(i + 1)).abs() < five && mean(&|i| z(i) * f64::from(start[i])).abs() < five,
                "{k}"
            );
            for (j, other) in increments[..k].iter().enumerate() {
                assert!(mean(&|i| z(i) * f64::from(other[i])).abs() < five, "{j} {k}");
            }
        }
    }

    #[test]
    fn images_and_seeds_have_their_own_paths() {
        let value = |seed, image| {
            let mut out = [0.0];
            Brownian::new(seed, 0.0, 1.0).fill_between(image, 0, 0.5, 0.25, &mut out).unwrap();
            out[0]
        };
        assert_ne!(value(1, 0), value(1, 1));
        assert_ne!(value(1, 0), value(2, 0));
        assert_eq!(value(1, 0), value(1, 0));
    }

    #[test]
    fn what_is_no_interval_is_refused() {
        let mut noise = Brownian::new(1, 0.0, 10.0);
        for (from, to) in
            [(1.0, 1.0), (1.0, f64::NAN), (-0.1, 1.0), (1.0, 10.1), (f64::INFINITY, 1.0), (1.0, 1.0 + 1e-10)]
        {
            assert_eq!(noise.fill_between(0, 0, from, to, &mut [0.0]), Err(NoiseError::Interval), "{from} {to}");
        }
        for (start, end) in [(1.0, 1.0), (0.0, f64::NAN), (0.0, f64::INFINITY)] {
            let refused = Brownian::new(1, start, end).fill_between(0, 0, 1.0, 0.5, &mut [0.0]);
            assert_eq!(refused, Err(NoiseError::Interval));
        }
        // A path may run backwards.
        assert_eq!(Brownian::new(1, 10.0, 0.0).fill_between(0, 0, 10.0, 0.0, &mut [0.0]), Ok(()));
    }
}
