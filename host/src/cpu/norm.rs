//! Normalisations, gates and modulations, over all threads.

use unfog_core::nn::op::{Gate, GroupNorm, LayerNorm, Modulate, Shape};

use super::elementwise::{channel_sums, gate, modulate, normalise, normalise_pixels};
use super::kernels::Kernels;
use super::split::for_chunks;

/// Pixels that one task normalises.
const PIXELS: usize = 64;

impl Kernels {
    /// Layer normalisation of pixels of any number of images; `c` channels a head.
    pub(super) fn layer_norm(
        &self,
        op: &LayerNorm,
        x: &[f32],
        c: usize,
        [gamma, beta]: [Option<&[f32]>; 2],
        out: &mut [f32],
    ) {
        // What stands for weights that are absent changes no value.
        let none = [vec![1.0; c], vec![0.0; c]];
        let (gamma, beta) = (gamma.unwrap_or(&none[0]), beta.unwrap_or(&none[1]));
        let block = PIXELS * c * op.heads as usize;
        for_chunks(out, block, |(i, out)| {
            let x = &x[i * block..][..out.len()];
            normalise_pixels(self.arch, (op.eps, op.rms), x, [gamma, beta], out);
        });
    }

    /// Modulation of images of `c` channels, each with its vector.
    pub(super) fn modulate(
        &self,
        op: &Modulate,
        x: &[f32],
        c: usize,
        vector: Option<&[f32]>,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let none = vec![0.0; c];
        let part = |first: Option<u32>| {
            let part = vector.zip(first).and_then(|(v, first)| v.get(first as usize..first as usize + c));
            part.unwrap_or(&none)
        };
        let parts = [part(op.scale), part(op.shift)];
        for_chunks(out, PIXELS * c, |(i, out)| {
            let of = |values: &'_ [f32]| i * PIXELS * c..(i * PIXELS * c + out.len()).min(values.len());
            let residual = residual.map(|r| &r[of(r)]);
            modulate(self.arch, op, &x[of(x)], parts, residual, out);
        });
    }

    /// One half of the channels times the activation of the other; `c` of them.
    pub(super) fn gate(&self, op: &Gate, x: &[f32], c: usize, out: &mut [f32]) {
        for_chunks(out, PIXELS * c, |(i, out)| {
            gate(self.arch, op.act, &x[2 * i * PIXELS * c..][..2 * out.len()], c, out);
        });
    }

    /// Group normalisation of one image: sums by channel in f64, block by block, then one pass that writes.
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
        let blocks = x.len().div_ceil(PIXELS * c);
        let mut sums = vec![0.0; blocks * 2 * c];
        let block = |i: usize| &x[i * PIXELS * c..((i + 1) * PIXELS * c).min(x.len())];
        for_chunks(&mut sums, 2 * c, |(i, sums)| {
            let (sums, squares) = sums.split_at_mut(c);
            channel_sums(self.arch, block(i), sums, squares);
        });
        // The blocks' sums in order, then the channels'.
        let mut channels = vec![0.0; 2 * c];
        for block in sums.chunks_exact(2 * c) {
            channels.iter_mut().zip(block).for_each(|(s, b)| *s += b);
        }
        let (mut mean, mut factor, mut shift) = (vec![0.0; c], gamma.to_vec(), beta.to_vec());
        for first in (0..c).step_by(size) {
            let of = |first: usize| channels[first..first + size].iter().sum::<f64>() / count;
            let average = of(first);
            // In f64 the difference loses nothing that f32 could have held.
            let var = (of(c + first) - average * average).max(0.0) as f32;
            let deviation = 1.0 / (var + op.eps).sqrt();
            mean[first..first + size].fill(average as f32);
            factor[first..first + size].iter_mut().for_each(|f| *f *= deviation);
        }
        if let Some(s) = scale_shift {
            for i in 0..c {
                factor[i] *= 1.0 + s[i];
                shift[i] = shift[i] * (1.0 + s[i]) + s[c + i];
            }
        }
        for_chunks(out, PIXELS * c, |(i, out)| {
            normalise(self.arch, block(i), [&mean, &factor, &shift], op.act, out);
        });
    }
}
