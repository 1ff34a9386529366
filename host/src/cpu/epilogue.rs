//! What follows a convolution's or linear layer's sums, while they are still in registers.

use pulp::Simd;
use unfog_core::nn::op::{Act, Conv2d, Shape};

use super::elementwise::activate;
use super::tile::{PANEL, load, store};

/// `out = act((sum + bias + channel + residual) * scale)`.
pub(super) struct Epilogue<'a> {
    /// Bias plus channel vector: for each image a row of outputs, filled up to whole panels.
    add: Vec<f32>,
    /// As many rows as the output has.
    residual: Option<&'a [f32]>,
    scale: f32,
    act: Act,
    /// Pixels of an image, and outputs.
    pixels: usize,
    pub(super) outputs: usize,
}

impl<'a> Epilogue<'a> {
    /// For as many images as `channel` has vectors, or `images`.
    pub(super) fn new(
        op: &Conv2d,
        images: usize,
        os: Shape,
        bias: Option<&[f32]>,
        channel: Option<&[f32]>,
        residual: Option<&'a [f32]>,
    ) -> Self {
        let outputs = op.out_c as usize;
        let padded = outputs.next_multiple_of(PANEL);
        let mut add = vec![0.0; images * padded];
        for (i, add) in add.chunks_exact_mut(padded).enumerate() {
            for (o, add) in add.iter_mut().take(outputs).enumerate() {
                *add = bias.map_or(0.0, |b| b[o]) + channel.map_or(0.0, |c| c[i * outputs + o]);
            }
        }
        Self { add, residual, scale: op.scale, act: op.act, pixels: os.pixels() as usize, outputs }
    }

    /// Writes the outputs from `column` on of `row`, as many as `out` has room for: 16, or fewer at the end.
    #[inline(always)]
    pub(super) fn finish<S: Simd, const NV: usize>(
        &self,
        simd: S,
        row: usize,
        column: usize,
        mut sums: [S::f32s; NV],
        out: &mut [f32],
    ) {
        let padded = self.outputs.next_multiple_of(PANEL);
        let add = load::<S, NV>(&self.add[row / self.pixels * padded + column..]);
        for (sum, &add) in sums.iter_mut().zip(&add) {
            *sum = simd.add_f32s(*sum, add);
        }
        if let Some(residual) = self.residual {
            let residual = load_some::<S, NV>(&residual[row * self.outputs + column..][..out.len()]);
            for (sum, &residual) in sums.iter_mut().zip(&residual) {
                *sum = simd.add_f32s(*sum, residual);
            }
        }
        if self.scale != 1.0 {
            let scale = simd.splat_f32s(self.scale);
            for sum in &mut sums {
                *sum = simd.mul_f32s(*sum, scale);
            }
        }
        store_some::<S, NV>(out, &sums);
        match self.act {
            Act::None => {}
            Act::Silu => out.iter_mut().for_each(|v| *v = activate(Act::Silu, *v)),
            Act::QuickGelu => out.iter_mut().for_each(|v| *v = activate(Act::QuickGelu, *v)),
            act => out.iter_mut().for_each(|v| *v = activate(act, *v)),
        }
    }
}

/// Like [`load`], with zeros for what a row lacks.
#[inline(always)]
fn load_some<S: Simd, const NV: usize>(row: &[f32]) -> [S::f32s; NV] {
    if row.len() >= PANEL {
        return load::<S, NV>(row);
    }
    let mut whole = [0.0; PANEL];
    whole[..row.len()].copy_from_slice(row);
    load::<S, NV>(&whole)
}

/// Like [`store`], of what a row has room for.
#[inline(always)]
fn store_some<S: Simd, const NV: usize>(row: &mut [f32], sums: &[S::f32s; NV]) {
    if row.len() >= PANEL {
        return store::<S, NV>(row, sums);
    }
    let mut whole = [0.0; PANEL];
    store::<S, NV>(&mut whole, sums);
    let len = row.len();
    row.copy_from_slice(&whole[..len]);
}
