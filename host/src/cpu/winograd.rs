//! Convolutions of 3x3 at stride 1 with fewer products (Winograd 1980; Lavin & Gray 2016): squares of outputs are made from squares of
//! inputs through polynomials at a few points, where convolution is a product: 36 products for 16 outputs (F(4,3)) or 16 for 4 (F(2,3))
//! instead of 144 or 36. All three transforms run along channels.

use std::marker::PhantomData;
use std::ops::Range;

use pulp::{Arch, Simd};
use unfog_core::nn::op::Conv2d;

use super::conv::Conv;
use super::split::{Grain, Part, for_chunks, for_parts};
use super::tile::{PANEL, ROWS, Task, Tiles, add, load_lanes, store_lanes, tiles};
use super::weights::{Kernel, Order, STRIPS};
use super::{Kernels, tile};

/// Most values of transformed inputs at a time: 16 MiB.
const WORKSPACE: usize = 1 << 22;
/// Squares of a task at most: their sums for one panel take 430 KiB (F(4,3)).
const SQUARES: usize = 192;
/// Values between the transformed inputs of two points, beyond what they are: so that they don't all lie in the same lines of a cache.
const PAD: usize = PANEL;

/// One of the sizes: `I` values each way make `O`.
pub(super) trait Form<const I: usize, const O: usize>: Send + Sync {
    /// Input channels of a block: the transformed weights of a panel, about 150 KiB, stay in the second-level cache.
    const BLOCK: usize;

    fn input<S: Simd>(simd: S, x: [S::f32s; I]) -> [S::f32s; I];
    fn kernel<S: Simd>(simd: S, w: [S::f32s; 3]) -> [S::f32s; I];
    fn output<S: Simd>(simd: S, sums: [S::f32s; I]) -> [S::f32s; O];
}

/// Points 0, 1, -1 and infinity.
pub(super) struct F2;

impl Form<4, 2> for F2 {
    const BLOCK: usize = 128;

    #[inline(always)]
    fn input<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; 4]) -> [S::f32s; 4] {
        [simd.sub_f32s(a, c), simd.add_f32s(b, c), simd.sub_f32s(c, b), simd.sub_f32s(d, b)]
    }

    #[inline(always)]
    fn kernel<S: Simd>(simd: S, [a, b, c]: [S::f32s; 3]) -> [S::f32s; 4] {
        let half = simd.splat_f32s(0.5);
        let (even, odd) = (simd.mul_f32s(half, simd.add_f32s(a, c)), simd.mul_f32s(half, b));
        [a, simd.add_f32s(even, odd), simd.sub_f32s(even, odd), c]
    }

    #[inline(always)]
    fn output<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; 4]) -> [S::f32s; 2] {
        [simd.add_f32s(a, simd.add_f32s(b, c)), simd.add_f32s(simd.sub_f32s(b, c), d)]
    }
}

/// Points 0, +-p, +-q and infinity with p^2 = 1/2, q^2 = 2: their powers stay near 1, so that little is lost to rounding (1.6 times the
/// error of plain sums, where the usual 1 and 2 have 4 times).
pub(super) struct F4;

const P: f32 = core::f32::consts::FRAC_1_SQRT_2;
const Q: f32 = core::f32::consts::SQRT_2;

impl Form<6, 4> for F4 {
    const BLOCK: usize = 64;

    /// Rows of B^T: the polynomials that vanish at all points but one.
    #[inline(always)]
    fn input<S: Simd>(simd: S, [a, b, c, d, e, f]: [S::f32s; 6]) -> [S::f32s; 6] {
        let of = |v: f32| simd.splat_f32s(v);
        let fused = |x, y, z| simd.mul_add_e_f32s(x, y, z);
        let (p, q) = (of(P), of(Q));
        let (p_even, p_odd) = (fused(of(-2.0), c, e), fused(of(-2.0), b, d));
        let (q_even, q_odd) = (fused(of(-0.5), c, e), fused(of(-0.5), b, d));
        let minus = of(-2.5);
        [
            simd.add_f32s(a, fused(minus, c, e)),
            fused(p, p_odd, p_even),
            fused(of(-P), p_odd, p_even),
            fused(q, q_odd, q_even),
            fused(of(-Q), q_odd, q_even),
            simd.add_f32s(b, fused(minus, d, f)),
        ]
    }

    /// Rows of G: (1, x, x^2) at each point, over the value there of the polynomial above.
    #[inline(always)]
    fn kernel<S: Simd>(simd: S, [a, b, c]: [S::f32s; 3]) -> [S::f32s; 6] {
        let of = |v: f32| simd.splat_f32s(v);
        let fused = |x, y, z| simd.mul_add_e_f32s(x, y, z);
        // 2 p^2 (p^2 - q^2) = -3/2 and 2 q^2 (q^2 - p^2) = 6.
        let p_even = simd.mul_f32s(of(-2.0 / 3.0), fused(of(0.5), c, a));
        let q_even = simd.mul_f32s(of(1.0 / 6.0), fused(of(2.0), c, a));
        [
            a,
            fused(of(-2.0 / 3.0 * P), b, p_even),
            fused(of(2.0 / 3.0 * P), b, p_even),
            fused(of(Q / 6.0), b, q_even),
            fused(of(-Q / 6.0), b, q_even),
            c,
        ]
    }

    /// Rows of A^T: the powers 0 to 3 of the points.
    #[inline(always)]
    fn output<S: Simd>(simd: S, [a, b, c, d, e, f]: [S::f32s; 6]) -> [S::f32s; 4] {
        let of = |v: f32| simd.splat_f32s(v);
        let fused = |x, y, z| simd.mul_add_e_f32s(x, y, z);
        let (p_even, p_odd) = (simd.add_f32s(b, c), simd.mul_f32s(of(P), simd.sub_f32s(b, c)));
        let (q_even, q_odd) = (simd.add_f32s(d, e), simd.mul_f32s(of(Q), simd.sub_f32s(d, e)));
        [
            simd.add_f32s(a, simd.add_f32s(p_even, q_even)),
            simd.add_f32s(p_odd, q_odd),
            fused(of(0.5), p_even, simd.add_f32s(q_even, q_even)),
            simd.add_f32s(f, fused(of(0.5), p_odd, simd.add_f32s(q_odd, q_odd))),
        ]
    }
}

/// Whether an op is one that this can do.
pub(super) fn fits(op: &Conv2d) -> bool {
    op.kernel == [3, 3] && op.stride == 1
}

/// How a batch is cut into squares.
#[derive(Clone, Copy)]
struct Squares {
    /// Squares of a row of them.
    across: usize,
    /// Output pixels of a row of squares.
    pixels: usize,
    /// Values of the transformed inputs of [`ROWS`] squares.
    chunk: usize,
    /// Values between two points of these.
    point: usize,
}

impl Squares {
    fn new(conv: &Conv2d, width: usize, inner: usize, side: usize) -> Self {
        let point = ROWS * conv.in_c as usize + PAD;
        Self { across: width.div_ceil(side), pixels: side * width, chunk: inner * inner * point, point }
    }

    /// Rows of squares whose transformed inputs are held at a time, of `rows`.
    fn rows_at_once(&self, rows: usize) -> usize {
        let most = (WORKSPACE / (self.chunk / ROWS * self.across)).max(1);
        rows.div_ceil(rows.div_ceil(most))
    }

    /// Values of the transformed inputs of `rows` rows of squares.
    fn values(&self, rows: usize) -> usize {
        (rows * self.across).div_ceil(ROWS) * self.chunk
    }
}

/// Values that the transformed inputs take, for `images` of `h x w` outputs.
pub(super) fn workspace(op: &Conv2d, [h, w]: [usize; 2], images: usize, side: usize) -> usize {
    let squares = Squares::new(op, w, side + 2, side);
    let images = if h.is_multiple_of(side) { images } else { 1 };
    squares.values(squares.rows_at_once(h.div_ceil(side) * images))
}

/// Scratch values that a thread needs.
pub(super) fn scratch<const I: usize, const O: usize, F: Form<I, O>>(op: &Conv2d) -> usize {
    let block = F::BLOCK.min(op.in_c as usize);
    STRIPS + 9 * PANEL * block + I * I * PANEL * (block + 1) + I * I * PANEL * (SQUARES + 1)
}

/// Values of a panel's transformed weights.
fn panel_values(points: usize, inputs: usize, block: usize) -> usize {
    points * PANEL * (inputs + inputs.div_ceil(block))
}

/// Values of all transformed weights of a kernel.
pub(super) fn prepared<const I: usize, const O: usize, F: Form<I, O>>(op: &Conv2d) -> usize {
    let inputs = op.in_c as usize;
    (op.out_c as usize).div_ceil(PANEL) * panel_values(I * I, inputs, F::BLOCK.min(inputs))
}

/// Makes all transformed weights of a kernel, block by block, over the pool's threads.
pub(super) fn prepare<const I: usize, const O: usize, F: Form<I, O>>(arch: Arch, kernel: Kernel<'_>, out: &mut [f32]) {
    let block = F::BLOCK.min(kernel.inputs);
    for_chunks(out, panel_values(I * I, kernel.inputs, block), |(i, out): (usize, &mut [f32])| {
        let mut scratch = vec![0.0; STRIPS + 9 * PANEL * block];
        let (strips, panel) = scratch.split_at_mut(STRIPS);
        for (j, weights) in out.chunks_mut(I * I * PANEL * (block + 1)).enumerate() {
            let inputs = j * block..kernel.inputs.min((j + 1) * block);
            let form = PhantomData::<F>;
            tile::run(arch, Weights { arch, kernel, first: i * PANEL, inputs, strips, panel, weights, form });
        }
    });
}

/// Makes a block of a panel's transformed weights.
struct Weights<'a, const I: usize, const O: usize, F: Form<I, O>> {
    arch: Arch,
    kernel: Kernel<'a>,
    /// The panel's first output.
    first: usize,
    inputs: Range<usize>,
    strips: &'a mut [f32],
    panel: &'a mut [f32],
    weights: &'a mut [f32],
    form: PhantomData<F>,
}

impl<const I: usize, const O: usize, F: Form<I, O>> Task for Weights<'_, I, O, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const NV: usize>(self, simd: S) {
        let Self { arch, kernel, first, inputs, strips, panel, weights, .. } = self;
        let count = inputs.len();
        let panel = &mut panel[..9 * PANEL * count];
        kernel.panel(arch, first, inputs, Order::Inputs, strips, panel);
        transform_weights::<S, NV, I, O, F>(simd, panel, weights, PANEL * (count + 1));
    }
}

impl Kernels {
    /// A convolution of 3x3 at stride 1.
    pub(super) fn winograd<const I: usize, const O: usize, F: Form<I, O>>(
        &self,
        conv: &Conv<'_>,
        workspace: &mut [f32],
        out: &mut [f32],
    ) {
        let (h, w, outputs) = (conv.os.h as usize, conv.os.w as usize, conv.kernel.outputs);
        let squares = Squares::new(conv.op, w, I, O);
        // Where squares fit, their rows run on over the images.
        let images = if h.is_multiple_of(O) { conv.images } else { 1 };
        let rows = h.div_ceil(O);
        let at_once = squares.rows_at_once(rows * images);
        for (i, out) in out.chunks_mut(h * w * images * outputs).enumerate() {
            for (j, out) in out.chunks_mut(at_once * squares.pixels * outputs).enumerate() {
                let first = (i * rows + j * at_once) * squares.across;
                let count = (out.len() / outputs).div_ceil(squares.pixels) * squares.across;
                let inputs = &mut workspace[..count.div_ceil(ROWS) * squares.chunk];
                for_chunks(inputs, squares.chunk, |(chunk, out)| {
                    let (first, count) = (first + chunk * ROWS, ROWS.min(count - chunk * ROWS));
                    let form = PhantomData::<F>;
                    tile::run(self.arch, Inputs { conv, squares, zeros: &self.zeros, first, count, out, form });
                });
                let inputs = &*inputs;
                let most = (SQUARES / squares.across).max(1) * squares.pixels;
                let grain =
                    Grain::by_columns(self.threads(), out.len() / outputs, outputs, squares.pixels).at_most(most);
                let first_pixel = i * h * w * images + j * at_once * squares.pixels;
                for_parts(out, outputs, grain, squares.pixels, |part| {
                    self.with_scratch(scratch::<I, O, F>(conv.op), |scratch| {
                        let (arch, form) = (self.arch, PhantomData::<F>);
                        tile::run(arch, Outputs { arch, conv, squares, inputs, first_pixel, part, scratch, form });
                    });
                });
            }
        }
    }
}

/// Transforms the inputs of a few squares.
struct Inputs<'a, const I: usize, const O: usize, F: Form<I, O>> {
    conv: &'a Conv<'a>,
    squares: Squares,
    zeros: &'a [f32],
    first: usize,
    count: usize,
    out: &'a mut [f32],
    form: PhantomData<F>,
}

impl<const I: usize, const O: usize, F: Form<I, O>> Task for Inputs<'_, I, O, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const NV: usize>(self, simd: S) {
        let Self { conv, squares, zeros, first, count, out, .. } = self;
        let channels = conv.kernel.inputs;
        let rows = (conv.os.h as usize).div_ceil(O);
        for square in 0..count {
            let (row, column) = ((first + square) / squares.across, (first + square) % squares.across);
            let mut pixels = [[&zeros[..channels]; I]; I];
            for (y, pixels) in pixels.iter_mut().enumerate() {
                for (x, pixel) in pixels.iter_mut().enumerate() {
                    if let Some(offset) = conv.input(row / rows, row % rows * O + y, column * O + x) {
                        *pixel = &conv.x[offset..][..channels];
                    }
                }
            }
            for start in (0..channels).step_by(S::F32_LANES) {
                let end = channels.min(start + S::F32_LANES);
                let mut half = [[simd.splat_f32s(0.0); I]; I];
                for (pixels, half) in pixels.iter().zip(&mut half) {
                    let mut x = [simd.splat_f32s(0.0); I];
                    for (x, pixel) in x.iter_mut().zip(pixels) {
                        *x = load_lanes(simd, &pixel[start..end]);
                    }
                    *half = F::input(simd, x);
                }
                for x in 0..I {
                    let mut column = [simd.splat_f32s(0.0); I];
                    for (value, half) in column.iter_mut().zip(&half) {
                        *value = half[x];
                    }
                    for (y, value) in F::input(simd, column).into_iter().enumerate() {
                        let at = (y * I + x) * squares.point + square * channels;
                        store_lanes(simd, &mut out[at + start..at + end], value);
                    }
                }
            }
        }
    }
}

/// A part of the output: products for each point, then the transform back.
struct Outputs<'a, 'o, const I: usize, const O: usize, F: Form<I, O>> {
    arch: Arch,
    conv: &'a Conv<'a>,
    squares: Squares,
    /// Transformed inputs from pixel `first_pixel` of the output on.
    inputs: &'a [f32],
    first_pixel: usize,
    part: Part<'o>,
    scratch: &'a mut [f32],
    form: PhantomData<F>,
}

impl<const I: usize, const O: usize, F: Form<I, O>> Task for Outputs<'_, '_, I, O, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const NV: usize>(self, simd: S) {
        let Self { arch, conv, squares, inputs, first_pixel, mut part, scratch, .. } = self;
        let channels = conv.kernel.inputs;
        let block = F::BLOCK.min(channels);
        let first = part.row / squares.pixels * squares.across;
        let count = part.rows.len().div_ceil(squares.pixels) * squares.across;
        let (strips, scratch) = scratch.split_at_mut(STRIPS);
        let (panel, scratch) = scratch.split_at_mut(9 * PANEL * block);
        let (made, sums) = scratch.split_at_mut(I * I * PANEL * (block + 1));
        let point = PANEL * (count + 1);
        let width = part.rows.first().map_or(0, |row| row.len());
        for column in (0..width).step_by(PANEL) {
            for start in (0..channels).step_by(block) {
                let end = channels.min(start + block);
                let stride = PANEL * (end - start + 1);
                let (kernel, output) = (conv.kernel, part.column + column);
                let at =
                    output / PANEL * panel_values(I * I, channels, block) + I * I * PANEL * (start + start / block);
                let weights = match kernel.prepared.get(at..at + I * I * stride) {
                    Some(weights) => weights,
                    None => {
                        let (strips, panel) = (&mut *strips, &mut *panel);
                        let (form, inputs, weights) = (PhantomData::<F>, start..end, &mut *made);
                        Weights { arch, kernel, first: output, inputs, strips, panel, weights, form }
                            .run::<S, NV>(simd);
                        &*made
                    }
                };
                for (i, weights) in weights.chunks_exact(stride).take(I * I).enumerate() {
                    let mut work = Products {
                        inputs: &inputs[i * squares.point..],
                        squares,
                        channels,
                        first,
                        start,
                        weights: &weights[..stride - PANEL],
                        sums: &mut sums[i * point..(i + 1) * point],
                    };
                    tiles::<S, NV>(simd, 0, count, &mut work);
                }
            }
            for square in 0..count {
                let y = square / squares.across * O;
                let x = square % squares.across * O;
                let values = transform_sums::<S, NV, I, O, F>(simd, &sums[square * PANEL..], point);
                back::<S, NV, O>(simd, conv, &mut part, first_pixel, [y, x], column, values);
            }
        }
    }
}

/// Turns a panel's kernels, nine rows an input, into their values at each point, `stride` apart.
#[inline(always)]
fn transform_weights<S: Simd, const NV: usize, const I: usize, const O: usize, F: Form<I, O>>(
    simd: S,
    panel: &[f32],
    weights: &mut [f32],
    stride: usize,
) {
    let zero = simd.splat_f32s(0.0);
    for (input, kernel) in panel.chunks_exact(9 * PANEL).enumerate() {
        let (kernel, _) = S::as_simd_f32s(kernel);
        for v in 0..NV {
            let mut half = [[zero; I]; 3];
            for (y, half) in half.iter_mut().enumerate() {
                *half = F::kernel(
                    simd,
                    [kernel[3 * y * NV + v], kernel[(3 * y + 1) * NV + v], kernel[(3 * y + 2) * NV + v]],
                );
            }
            let [top, middle, bottom] = half;
            for (x, ((a, b), c)) in top.into_iter().zip(middle).zip(bottom).enumerate() {
                let column = F::kernel(simd, [a, b, c]);
                for (y, value) in column.into_iter().enumerate() {
                    let at = (y * I + x) * stride + input * PANEL + v * S::F32_LANES;
                    let (to, _) = S::as_mut_simd_f32s(&mut weights[at..at + S::F32_LANES]);
                    to[0] = value;
                }
            }
        }
    }
}

/// The outputs of a square from its sums for each point, which lie `point` apart.
#[inline(always)]
fn transform_sums<S: Simd, const NV: usize, const I: usize, const O: usize, F: Form<I, O>>(
    simd: S,
    sums: &[f32],
    point: usize,
) -> [[[S::f32s; NV]; O]; O] {
    let zero = simd.splat_f32s(0.0);
    let mut out = [[[zero; NV]; O]; O];
    for v in 0..NV {
        let mut half = [[zero; O]; I];
        for (y, half) in half.iter_mut().enumerate() {
            let mut row = [zero; I];
            for (x, value) in row.iter_mut().enumerate() {
                let (from, _) = S::as_simd_f32s(&sums[(y * I + x) * point..][..PANEL]);
                *value = from[v];
            }
            *half = F::output(simd, row);
        }
        for x in 0..O {
            let mut column = [zero; I];
            for (value, half) in column.iter_mut().zip(&half) {
                *value = half[x];
            }
            for (y, value) in F::output(simd, column).into_iter().enumerate() {
                out[y][x][v] = value;
            }
        }
    }
    out
}

/// Writes a square at row `y` and column `x` of a part, of which something may lie outside the image.
#[inline(always)]
fn back<S: Simd, const NV: usize, const O: usize>(
    simd: S,
    conv: &Conv<'_>,
    part: &mut Part<'_>,
    first_pixel: usize,
    [y, x]: [usize; 2],
    column: usize,
    values: [[[S::f32s; NV]; O]; O],
) {
    let w = conv.os.w as usize;
    for (dy, values) in values.into_iter().enumerate() {
        for (dx, values) in values.into_iter().enumerate() {
            let row = (y + dy) * w + x + dx;
            if x + dx < w
                && let Some(out) = part.rows.get_mut(row)
            {
                let end = out.len().min(column + PANEL);
                let out = &mut out[column..end];
                conv.epilogue.finish::<S, NV>(simd, first_pixel + part.row + row, part.column + column, values, out);
            }
        }
    }
}

/// The products at one point of a block of channels.
struct Products<'a> {
    inputs: &'a [f32],
    squares: Squares,
    channels: usize,
    /// The first square.
    first: usize,
    /// The block's first channel.
    start: usize,
    weights: &'a [f32],
    sums: &'a mut [f32],
}

impl Tiles for Products<'_> {
    #[inline(always)]
    fn tile<S: Simd, const NV: usize, const N: usize>(&mut self, simd: S, first: usize, count: usize) {
        let len = self.weights.len() / PANEL;
        let mut rows = [&self.inputs[..0]; N];
        for (r, row) in rows.iter_mut().enumerate() {
            let square = self.first + first + r.min(count - 1);
            let at = square / ROWS * self.squares.chunk + square % ROWS * self.channels + self.start;
            *row = &self.inputs[at..at + len];
        }
        let sums = &mut self.sums[first * PANEL..(first + count) * PANEL];
        add::<S, N>(simd, &[rows], self.weights, sums, self.start == 0);
    }
}
