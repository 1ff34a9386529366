//! The CPU backend's kernels: each op over all threads of a pool. What is split, and where, depends on the shape of one
//! image alone, so that neither the number of threads nor the batch changes a bit.

use std::sync::{Mutex, PoisonError};

use pulp::Arch;
use rayon::prelude::*;
use unfog_core::nn::op::{Attention, Conv2d, GroupNorm, Shape};

use super::elementwise::{channel_squares, channel_sums, epilogue, normalise, scale, softmax_weights};
use super::gemm::{Matrix, multiply};

/// Pixels that one task normalises.
const NORM_PIXELS: usize = 256;
/// Queries that one task attends for.
const QUERIES: usize = 64;

/// What kernels share: the processor's vector instructions, and scratch memory for each thread of the pool.
pub(super) struct Kernels {
    arch: Arch,
    scratch: Vec<Mutex<Vec<f32>>>,
}

/// Pixels of a convolution's task: about 384 KiB of gathered input, which stays in the second-level cache, and at least
/// four tasks where an image has enough pixels.
fn conv_pixels(pixels: usize, depth: usize) -> usize {
    (98_304 / depth.max(1)).clamp(32, 256).min(pixels.div_ceil(4).next_multiple_of(8).max(32))
}

/// Scratch values that a thread needs for a convolution.
pub(super) fn conv_scratch(op: &Conv2d, out: Shape) -> u64 {
    if op.is_linear() {
        return 0;
    }
    let depth = op.in_c as usize * (op.kernel[0] * op.kernel[1]) as usize;
    (conv_pixels(out.pixels() as usize, depth) * depth) as u64
}

/// Scratch values that a thread needs for attention over `keys` keys.
pub(super) fn attention_scratch(keys: Shape) -> u64 {
    QUERIES as u64 * keys.pixels()
}

impl Kernels {
    /// Kernels for a pool of `threads`, each with `scratch` values.
    pub(super) fn new(threads: usize, scratch: usize) -> Self {
        let scratch = (0..threads).map(|_| Mutex::new(vec![0.0; scratch])).collect();
        Self { arch: Arch::new(), scratch }
    }

    fn with_scratch<R>(&self, len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
        let index = rayon::current_thread_index().unwrap_or(0);
        // Nothing in scratch memory outlives a task, so a poisoned lock holds nothing broken.
        let mut guard = self.scratch[index].lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut guard[..len])
    }

    /// Convolution: pixels gathered to rows of the kernel's depth, then one matrix product a task. `weight` is
    /// `[depth, out_c]`, its depth running over kernel rows, kernel columns, input channels.
    pub(super) fn conv2d(
        &self,
        op: &Conv2d,
        [x, channel, residual]: [Option<&[f32]>; 3],
        [xs, os]: [Shape; 2],
        weight: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let Some(x) = x else { return };
        let (in_c, out_c) = (op.in_c as usize, op.out_c as usize);
        let depth = weight.len() / out_c;
        let add: Vec<f32> = (0..out_c).map(|o| bias.map_or(0.0, |b| b[o]) + channel.map_or(0.0, |c| c[o])).collect();
        let pixels = conv_pixels(os.pixels() as usize, depth);
        let lhs = Matrix { data: weight, rows: 1, cols: out_c };
        let task = |(i, out): (usize, &mut [f32])| {
            let first = i * pixels;
            let count = out.len() / out_c;
            if op.is_linear() {
                let rhs = Matrix { data: &x[first * in_c..(first + count) * in_c], rows: 1, cols: in_c };
                multiply([out_c, count, depth], out, out_c, lhs, rhs);
            } else {
                self.with_scratch(count * depth, |rows| {
                    gather(op, x, xs, os, first, rows, depth);
                    multiply([out_c, count, depth], out, out_c, lhs, Matrix { data: rows, rows: 1, cols: depth });
                });
            }
            let residual = residual.map(|r| &r[first * out_c..(first + count) * out_c]);
            epilogue(self.arch, out, &add, residual, op.scale, op.act);
        };
        for_chunks(out, pixels * out_c, task);
    }

    /// Group normalisation: sums by channel in f64, block by block, then one pass that writes.
    pub(super) fn group_norm(
        &self,
        op: &GroupNorm,
        x: &[f32],
        xs: Shape,
        scale_shift: Option<&[f32]>,
        [gamma, beta]: [&[f32]; 2],
        out: &mut [f32],
    ) {
        let c = xs.c as usize;
        let size = c / op.groups as usize;
        let count = (xs.pixels() * size as u64) as f64;
        // Each group's value from its channels' sums over the blocks, in order; repeated for each of its channels.
        let spread = |sums: &[f64], value: &dyn Fn(f64) -> f64| -> Vec<f32> {
            let mut channels = vec![0.0; c];
            for block in sums.chunks_exact(c) {
                channels.iter_mut().zip(block).for_each(|(s, b)| *s += b);
            }
            let group = |g: &[f64]| value(g.iter().sum::<f64>() / count) as f32;
            channels.chunks_exact(size).flat_map(|g| vec![group(g); size]).collect()
        };
        let blocks = x.len().div_ceil(NORM_PIXELS * c);
        let mut sums = vec![0.0; blocks * c];
        let block = |i: usize| &x[i * NORM_PIXELS * c..((i + 1) * NORM_PIXELS * c).min(x.len())];
        for_chunks(&mut sums, c, |(i, sums)| channel_sums(self.arch, block(i), sums));
        let mean = spread(&sums, &|m| m);
        sums.fill(0.0);
        for_chunks(&mut sums, c, |(i, sums)| channel_squares(self.arch, block(i), &mean, sums));
        let mut factor = spread(&sums, &|var| f64::from(1.0 / (var as f32 + op.eps).sqrt()));
        factor.iter_mut().zip(gamma).for_each(|(f, g)| *f *= g);
        let mut shift = beta.to_vec();
        if let Some(s) = scale_shift {
            for i in 0..c {
                factor[i] *= 1.0 + s[i];
                shift[i] = shift[i] * (1.0 + s[i]) + s[c + i];
            }
        }
        for_chunks(out, NORM_PIXELS * c, |(i, out)| {
            normalise(self.arch, block(i), [&mean, &factor, &shift], op.act, out);
        });
    }

    /// Attention: the scores of a block of queries at a time, never the whole matrix.
    pub(super) fn attention(&self, op: &Attention, [q, k, v]: [&[f32]; 3], out: &mut [f32]) {
        let (c, d) = ((op.heads * op.head_dim) as usize, op.head_dim as usize);
        let keys = k.len() / c;
        for_chunks(out, QUERIES * c, |(i, out)| {
            let count = out.len() / c;
            let q = &q[i * QUERIES * c..][..count * c];
            self.with_scratch(count * keys, |scores| {
                for head in (0..c).step_by(d) {
                    let lhs = Matrix { data: &k[head..], rows: c, cols: 1 };
                    multiply([keys, count, d], scores, keys, lhs, Matrix { data: &q[head..], rows: 1, cols: c });
                    let mut sums = [0.0; QUERIES];
                    for (row, sum) in scores.chunks_exact_mut(keys).zip(&mut sums) {
                        *sum = softmax_weights(self.arch, row, op.scale);
                    }
                    let lhs = Matrix { data: &v[head..], rows: 1, cols: c };
                    let rhs = Matrix { data: scores, rows: 1, cols: keys };
                    multiply([d, count, keys], &mut out[head..], c, lhs, rhs);
                    for (pixel, sum) in out.chunks_exact_mut(c).zip(sums) {
                        scale(&mut pixel[head..head + d], 1.0 / sum);
                    }
                }
            });
        });
    }
}

/// Runs `task` on every chunk of `out`, over the pool's threads.
fn for_chunks<T: Send>(out: &mut [T], chunk: usize, task: impl Fn((usize, &mut [T])) + Send + Sync) {
    if out.len() <= chunk {
        task((0, out));
    } else {
        out.par_chunks_mut(chunk).enumerate().for_each(task);
    }
}

/// The inputs of `rows.len() / depth` output pixels from pixel `first` on: kernel rows, kernel columns, channels.
fn gather(op: &Conv2d, x: &[f32], xs: Shape, os: Shape, first: usize, rows: &mut [f32], depth: usize) {
    let in_c = op.in_c as usize;
    let (h, w) = ((xs.h * op.upsample) as usize, (xs.w * op.upsample) as usize);
    let (stride, up) = (op.stride as usize, op.upsample as usize);
    let (top, left) = (op.pad[0] as usize, op.pad[1] as usize);
    for (p, row) in rows.chunks_exact_mut(depth).enumerate() {
        let (oy, ox) = ((first + p) / os.w as usize, (first + p) % os.w as usize);
        for (tap, to) in row.chunks_exact_mut(in_c).enumerate() {
            let y = oy * stride + tap / op.kernel[1] as usize;
            let col = ox * stride + tap % op.kernel[1] as usize;
            if y < top || y - top >= h || col < left || col - left >= w {
                to.fill(0.0);
            } else {
                let from = ((y - top) / up * xs.w as usize + (col - left) / up) * in_c;
                to.copy_from_slice(&x[from..from + in_c]);
            }
        }
    }
}
