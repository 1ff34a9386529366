//! Attention without a matrix of all scores (Dao et al. 2022): a block of queries goes over the keys a block at a time, with a running
//! maximum and sum.

use pulp::Simd;
use unfog_core::nn::op::Attention;

use super::elementwise::exp;
use super::split::{Grain, Part, for_parts};
use super::tile::{PANEL, Task, Tiles, add, copy, tiles};
use super::{Kernels, tile};

/// Queries that go over the keys together.
const QUERIES: usize = 48;
/// Keys of a block.
const KEYS: usize = 256;
/// Queries of a task, for which a head's keys and values are turned into panels once.
const TASK: usize = 20 * QUERIES;

/// Scratch values that a thread needs, for `keys` keys: a head's keys and values as panels; scores and results of a block of queries.
pub(super) fn scratch(op: &Attention, keys: usize) -> usize {
    let d = op.head_dim as usize;
    keys.next_multiple_of(PANEL) * d + keys * d.next_multiple_of(PANEL) + QUERIES * (KEYS + d.next_multiple_of(PANEL))
}

impl Kernels {
    /// Attention of a batch of `images`.
    pub(super) fn attention(&self, op: &Attention, images: usize, [q, k, v]: [&[f32]; 3], out: &mut [f32]) {
        let (c, d) = ((op.heads * op.head_dim) as usize, op.head_dim as usize);
        let (queries, keys) = (q.len() / c / images, v.len() / c / images);
        let kc = c + usize::from(op.biased);
        for (image, out) in out.chunks_exact_mut(queries * c).enumerate() {
            let of =
                |x: &'_ [f32], len: usize| -> std::ops::Range<usize> { image * len..(image * len + len).min(x.len()) };
            let (q, k, v) = (&q[of(q, queries * c)], &k[of(k, keys * kc)], &v[of(v, keys * c)]);
            for_parts(out, c, Grain::exactly(TASK, d), 1, |part| {
                self.with_scratch(scratch(op, keys), |scratch| {
                    tile::run(self.arch, Head { op, q, k, v, part, scratch });
                });
            });
        }
    }
}

/// Some queries of one head.
struct Head<'a, 'o> {
    op: &'a Attention,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    part: Part<'o>,
    scratch: &'a mut [f32],
}

impl Task for Head<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const NV: usize>(self, simd: S) {
        let Self { op, q, k, v, mut part, scratch } = self;
        let (c, d) = ((op.heads * op.head_dim) as usize, op.head_dim as usize);
        let keys = v.len() / c;
        let kc = c + usize::from(op.biased);
        let padded = d.next_multiple_of(PANEL);
        let first = part.column;
        let (key_panels, scratch) = scratch.split_at_mut(keys.next_multiple_of(PANEL) * d);
        let (value_panels, scratch) = scratch.split_at_mut(keys * padded);
        let (scores, results) = scratch.split_at_mut(QUERIES * KEYS);
        // A panel of 16 keys has a row for each channel; one of 16 channels of the values a row for each key.
        for (p, panel) in key_panels.chunks_exact_mut(PANEL * d).enumerate() {
            for lane in 0..PANEL {
                let key = p * PANEL + lane;
                for (i, row) in panel.chunks_exact_mut(PANEL).enumerate() {
                    row[lane] = if key < keys { k[key * kc + first + i] } else { 0.0 };
                }
            }
        }
        for (p, panel) in value_panels.chunks_exact_mut(keys * PANEL).enumerate() {
            let width = PANEL.min(d - p * PANEL);
            for (key, row) in panel.chunks_exact_mut(PANEL).enumerate() {
                row[..width].copy_from_slice(&v[key * c + first + p * PANEL..][..width]);
                row[width..].fill(0.0);
            }
        }
        let total = part.rows.len();
        for start in (0..total).step_by(QUERIES) {
            let count = QUERIES.min(total - start);
            let queries = &q[(part.row + start) * c + first..];
            let (mut max, mut sum) = ([f32::NEG_INFINITY; QUERIES], [0.0_f32; QUERIES]);
            results.fill(0.0);
            // The keys up to a query's own, where it sees no others.
            let first_seen = if op.causal { part.row + start + 1 } else { keys };
            let seen = keys.min(first_seen + count - 1);
            for key in (0..seen).step_by(KEYS) {
                let block = KEYS.min(seen - key);
                for column in (0..block).step_by(PANEL) {
                    let panel = &key_panels[(key + column) * d..][..PANEL * d];
                    let mut work = Scores { queries, c, panel, scores: &mut scores[column..] };
                    tiles::<S, NV>(simd, 0, count, &mut work);
                }
                for (i, row) in scores.chunks_exact_mut(KEYS).take(count).enumerate() {
                    let (row, unseen) = row[..block].split_at_mut((first_seen + i).saturating_sub(key).min(block));
                    unseen.fill(0.0);
                    if row.is_empty() {
                        continue;
                    }
                    if op.biased {
                        // The factor is still to come.
                        let keys = k[key * kc..].chunks_exact(kc);
                        row.iter_mut().zip(keys).for_each(|(score, key)| *score += key[c] / op.scale);
                    }
                    let shrink = weigh(row, op.scale, &mut max[i], &mut sum[i]);
                    if shrink != 1.0 {
                        for results in results.chunks_exact_mut(QUERIES * PANEL) {
                            results[i * PANEL..][..PANEL].iter_mut().for_each(|r| *r *= shrink);
                        }
                    }
                }
                for (p, values) in value_panels.chunks_exact(keys * PANEL).enumerate() {
                    let panel = &values[key * PANEL..][..block * PANEL];
                    let results = &mut results[p * QUERIES * PANEL..][..QUERIES * PANEL];
                    let mut work = Mix { scores, panel, results };
                    tiles::<S, NV>(simd, 0, count, &mut work);
                }
            }
            for (i, out) in part.rows[start..start + count].iter_mut().enumerate() {
                let factor = 1.0 / sum[i];
                for (out, results) in out.chunks_mut(PANEL).zip(results.chunks_exact(QUERIES * PANEL)) {
                    for (out, result) in out.iter_mut().zip(&results[i * PANEL..]) {
                        *out = result * factor;
                    }
                }
            }
        }
    }
}

/// Turns a row of scores into weights relative to the maximum so far, which it raises, and adds them to `sum`. Returns the factor on what
/// was weighed before.
#[inline(always)]
fn weigh(scores: &mut [f32], scale: f32, max: &mut f32, sum: &mut f32) -> f32 {
    let mut highest = [f32::NEG_INFINITY; PANEL];
    let mut chunks = scores.chunks_exact_mut(PANEL);
    for chunk in &mut chunks {
        for (h, s) in highest.iter_mut().zip(chunk) {
            *s *= scale;
            *h = if *s > *h { *s } else { *h };
        }
    }
    for (h, s) in highest.iter_mut().zip(chunks.into_remainder()) {
        *s *= scale;
        *h = if *s > *h { *s } else { *h };
    }
    let new = highest.iter().fold(*max, |m, &h| if h > m { h } else { m });
    let shrink = if new == *max { 1.0 } else { exp(*max - new) };
    *max = new;
    // Sums side by side, then one after the other: a fixed order that vectorises.
    let mut sums = [0.0_f32; PANEL];
    let mut chunks = scores.chunks_exact_mut(PANEL);
    for chunk in &mut chunks {
        for (sum, s) in sums.iter_mut().zip(chunk) {
            *s = exp(*s - new);
            *sum += *s;
        }
    }
    for (sum, s) in sums.iter_mut().zip(chunks.into_remainder()) {
        *s = exp(*s - new);
        *sum += *s;
    }
    *sum = *sum * shrink + sums.iter().sum::<f32>();
    shrink
}

/// Queries times a panel of keys.
struct Scores<'a> {
    queries: &'a [f32],
    c: usize,
    panel: &'a [f32],
    scores: &'a mut [f32],
}

impl Tiles for Scores<'_> {
    #[inline(always)]
    fn tile<S: Simd, const NV: usize, const N: usize>(&mut self, simd: S, first: usize, count: usize) {
        let d = self.panel.len() / PANEL;
        let mut rows = [&self.queries[..0]; N];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = &self.queries[(first + r.min(count - 1)) * self.c..][..d];
        }
        let mut sums = [[0.0; PANEL]; N];
        add::<S, N>(simd, &[rows], self.panel, sums.as_flattened_mut(), true);
        for (sums, scores) in sums.iter().take(count).zip(self.scores[first * KEYS..].chunks_mut(KEYS)) {
            copy(sums, scores);
        }
    }
}

/// Weights times a panel of values, added to the results.
struct Mix<'a> {
    scores: &'a [f32],
    panel: &'a [f32],
    results: &'a mut [f32],
}

impl Tiles for Mix<'_> {
    #[inline(always)]
    fn tile<S: Simd, const NV: usize, const N: usize>(&mut self, simd: S, first: usize, count: usize) {
        let keys = self.panel.len() / PANEL;
        let mut rows = [&self.scores[..0]; N];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = &self.scores[(first + r.min(count - 1)) * KEYS..][..keys];
        }
        let sums = &mut self.results[first * PANEL..(first + count) * PANEL];
        add::<S, N>(simd, &[rows], self.panel, sums, false);
    }
}
