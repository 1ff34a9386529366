//! Convolutions and linear layers as matrix products: the input's pixels are read where they lie, position by position of the kernel.

use pulp::{Arch, Simd};
use unfog_core::nn::op::{Conv2d, Shape};

use super::epilogue::Epilogue;
use super::split::{Grain, Part, for_chunks, for_parts};
use super::tile::{PANEL, PIECES, ROWS, Task, Tiles, add, copy, load, tiles};
use super::weights::{Kernel, Order, STRIPS};
use super::{Kernels, tile};

/// Weights of an output that are in use at a time: four panels of them, 256 KiB, stay in the second-level cache.
const DEPTH: usize = 1024;
/// Panels that are made before they are used, so that pixels are read once for all of them.
const PANELS: usize = 4;
/// Most values of the pixels that four panels are used on, one after the other: 96 KiB.
const PIXELS: usize = 24_576;
/// Most rows of a part: it lists where their pixels lie.
const ROWS_AT_ONCE: usize = 4096;
/// Where the offset of a pixel outside the image stands.
const OUTSIDE: u32 = u32::MAX;

/// Input channels of a block; the sum of an output runs over blocks, then positions, then the block's channels.
fn block(inputs: usize, taps: usize) -> usize {
    let blocks = (inputs * taps).div_ceil(DEPTH).min(inputs);
    inputs.div_ceil(blocks).next_multiple_of(8).min(inputs)
}

/// Scratch values that a thread needs.
pub(super) fn scratch(op: &Conv2d) -> usize {
    let taps = (op.kernel[0] * op.kernel[1]) as usize;
    STRIPS + PANELS * block(op.in_c as usize, taps) * taps * PANEL
}

/// Values of all panels of a kernel.
pub(super) fn prepared(op: &Conv2d) -> usize {
    (op.out_c as usize).next_multiple_of(PANEL) * op.in_c as usize * (op.kernel[0] * op.kernel[1]) as usize
}

/// Makes all panels of a kernel, block by block, over the pool's threads.
pub(super) fn prepare(arch: Arch, kernel: Kernel<'_>, out: &mut [f32]) {
    let Kernel { inputs, taps, .. } = kernel;
    let block = block(inputs, taps);
    for_chunks(out, PANEL * inputs * taps, |(i, panels): (usize, &mut [f32])| {
        let mut strips = [0.0; STRIPS];
        for (j, panel) in panels.chunks_mut(PANEL * block * taps).enumerate() {
            let channels = j * block..inputs.min((j + 1) * block);
            kernel.panel(arch, i * PANEL, channels, Order::Taps, &mut strips, panel);
        }
    });
}

/// A convolution of a batch of images.
pub(super) struct Conv<'a> {
    pub(super) op: &'a Conv2d,
    pub(super) images: usize,
    /// The images, one after the other.
    pub(super) x: &'a [f32],
    pub(super) xs: Shape,
    pub(super) os: Shape,
    pub(super) kernel: Kernel<'a>,
    pub(super) epilogue: Epilogue<'a>,
}

impl Conv<'_> {
    /// Where the channels of the pixel of an image lie that the convolution reads at row `y` and column `x`, both counted from the padding's
    /// corner; `None` for zeros.
    #[inline(always)]
    pub(super) fn input(&self, image: usize, y: usize, x: usize) -> Option<usize> {
        let up = self.op.upsample as usize;
        let (h, w) = (self.xs.h as usize, self.xs.w as usize);
        let (y, x) = (y.wrapping_sub(self.op.pad[0] as usize), x.wrapping_sub(self.op.pad[1] as usize));
        // What lies before the image has become a huge number.
        (y < h * up && x < w * up).then(|| ((image * h + y / up) * w + x / up) * self.kernel.inputs)
    }

    /// The same for output pixel `row`, counted over all images, at every position.
    #[inline(always)]
    fn offsets(&self, row: usize, out: &mut [u32]) {
        let (pixels, width) = (self.os.pixels() as usize, self.os.w as usize);
        let (stride, kw) = (self.op.stride as usize, self.op.kernel[1] as usize);
        let (image, pixel) = (row / pixels, row % pixels);
        let (y, x) = (pixel / width * stride, pixel % width * stride);
        for (dy, out) in out.chunks_exact_mut(kw).enumerate() {
            for (dx, out) in out.iter_mut().enumerate() {
                *out = self.input(image, y + dy, x + dx).map_or(OUTSIDE, |offset| offset as u32);
            }
        }
    }
}

impl Kernels {
    /// A convolution by matrix products.
    pub(super) fn direct(&self, conv: &Conv<'_>, out: &mut [f32]) {
        let outputs = conv.kernel.outputs;
        let grain = Grain::by_columns(self.threads(), out.len() / outputs, outputs, ROWS).at_most(ROWS_AT_ONCE);
        for_parts(out, outputs, grain, 1, |part| {
            self.with_scratch(scratch(conv.op), |scratch| {
                tile::run(self.arch, Direct { arch: self.arch, conv, part, zeros: &self.zeros, scratch });
            });
        });
    }
}

/// A part of the output of a convolution.
struct Direct<'a, 'o> {
    arch: Arch,
    conv: &'a Conv<'a>,
    part: Part<'o>,
    zeros: &'a [f32],
    scratch: &'a mut [f32],
}

impl Task for Direct<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const NV: usize>(self, simd: S) {
        let Self { arch, conv, mut part, zeros, scratch } = self;
        let Kernel { inputs, taps, .. } = conv.kernel;
        let block = block(inputs, taps);
        let (strips, panels) = scratch.split_at_mut(STRIPS);
        let mut offsets = vec![OUTSIDE; part.rows.len() * taps];
        for (row, offsets) in (part.row..).zip(offsets.chunks_exact_mut(taps)) {
            conv.offsets(row, offsets);
        }
        let width = part.rows.first().map_or(0, |row| row.len());
        let rows_at_once = (PIXELS / (block * taps).max(1)).max(1).next_multiple_of(4 * ROWS);
        for start in (0..inputs).step_by(block) {
            let channels = start..inputs.min(start + block);
            let size = channels.len() * taps * PANEL;
            for group in (0..width).step_by(PANELS * PANEL) {
                let columns = || (group..width.min(group + PANELS * PANEL)).step_by(PANEL);
                let part_column = part.column;
                let prepared = |column: usize| {
                    let first = ((part_column + column) * inputs + start * PANEL) * taps;
                    conv.kernel.prepared.get(first..first + size)
                };
                for (column, panel) in columns().zip(panels.chunks_exact_mut(size)) {
                    if prepared(column).is_none() {
                        conv.kernel.panel(arch, part.column + column, channels.clone(), Order::Taps, strips, panel);
                    }
                }
                for first in (0..part.rows.len()).step_by(rows_at_once) {
                    let end = part.rows.len().min(first + rows_at_once);
                    for (column, panel) in columns().zip(panels.chunks_exact(size)) {
                        let panel = prepared(column).unwrap_or(panel);
                        let mut work = Block {
                            conv,
                            part: &mut part,
                            offsets: &offsets,
                            zeros,
                            start,
                            count: channels.len(),
                            last: channels.end == inputs,
                            column,
                            panel,
                        };
                        tiles::<S, NV>(simd, first, end, &mut work);
                    }
                }
            }
        }
    }
}

/// A block of channels times one panel.
struct Block<'a, 'o> {
    conv: &'a Conv<'a>,
    part: &'a mut Part<'o>,
    offsets: &'a [u32],
    zeros: &'a [f32],
    start: usize,
    count: usize,
    last: bool,
    /// In the part.
    column: usize,
    panel: &'a [f32],
}

impl Tiles for Block<'_, '_> {
    #[inline(always)]
    fn tile<S: Simd, const NV: usize, const N: usize>(&mut self, simd: S, first: usize, count: usize) {
        let taps = self.conv.kernel.taps;
        let end = self.part.rows.first().map_or(0, |row| row.len()).min(self.column + PANEL);
        let mut sums = [[0.0; PANEL]; N];
        if self.start > 0 {
            for (sums, row) in sums.iter_mut().zip(&self.part.rows[first..first + count]) {
                copy(&row[self.column..end], sums);
            }
        }
        let mut pieces = [[&self.zeros[..self.count]; N]; PIECES];
        let mut fresh = self.start == 0;
        for start in (0..taps).step_by(PIECES) {
            let now = PIECES.min(taps - start);
            for (tap, rows) in (start..).zip(&mut pieces[..now]) {
                for (r, row) in rows.iter_mut().enumerate() {
                    *row = match self.offsets[(first + r.min(count - 1)) * taps + tap] {
                        OUTSIDE => &self.zeros[..self.count],
                        offset => &self.conv.x[offset as usize + self.start..][..self.count],
                    };
                }
            }
            let panel = &self.panel[start * self.count * PANEL..][..now * self.count * PANEL];
            add::<S, N>(simd, &pieces[..now], panel, sums.as_flattened_mut(), fresh);
            fresh = false;
        }
        for (sums, (row, out)) in sums.iter().zip((first..).zip(&mut self.part.rows[first..first + count])) {
            let out = &mut out[self.column..end];
            if self.last {
                let column = self.part.column + self.column;
                let sums = load::<S, NV>(sums);
                self.conv.epilogue.finish::<S, NV>(simd, self.part.row + row, column, sums, out);
            } else {
                copy(sums, out);
            }
        }
    }
}
