//! Tensors as the twins of convolutions and normalisations read them. A plan may leave concatenated and normalised
//! tensors out of memory ([`super::plan::Target::fused`]): then their values are made while they are read, the same bits.

use super::op::GroupNorm;
use super::weights::WeightData;

/// A tensor to read: one in memory, or two side by side, and the normalisation of that.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Values `[pixels, channels]` and channels of each part.
    parts: [(&'a [f32], usize); 2],
    norm: Option<Normalised<'a>>,
}

/// A group normalisation whose statistics are known.
#[derive(Clone, Copy, Debug)]
pub struct Normalised<'a> {
    /// The op.
    pub op: GroupNorm,
    /// Its statistics, as [`GroupNorm::stats`] left them.
    pub stats: &'a [f32],
    /// Its second input.
    pub scale_shift: Option<&'a [f32]>,
    /// Its weights: gamma and beta.
    pub weights: [WeightData<'a>; 2],
}

impl<'a> View<'a> {
    /// A tensor of `c` channels in memory.
    pub const fn plain(x: &'a [f32], c: u32) -> Self {
        Self { parts: [(x, c as usize), (&[], 0)], norm: None }
    }

    /// The channels of `a`, then those of `b`, of two tensors in memory.
    pub const fn concat(a: &'a [f32], a_channels: u32, b: &'a [f32], b_channels: u32) -> Self {
        Self { parts: [(a, a_channels as usize), (b, b_channels as usize)], norm: None }
    }

    /// The same values, normalised.
    #[must_use]
    pub const fn normalised(self, norm: Normalised<'a>) -> Self {
        Self { norm: Some(norm), ..self }
    }

    /// Channels of a pixel.
    pub const fn channels(&self) -> usize {
        self.parts[0].1 + self.parts[1].1
    }

    /// Reads channels of one pixel, from `first` on, as many as `out` has room for. What lies outside is 0; graphs that
    /// were checked have no such reads.
    pub fn load(&self, pixel: usize, first: usize, out: &mut [f32]) {
        let [(a, ca), (b, cb)] = self.parts;
        let from_a = ca.saturating_sub(first).min(out.len());
        let (low, high) = out.split_at_mut(from_a);
        copy(a, pixel * ca + first, low);
        copy(b, pixel * cb + (first + from_a).saturating_sub(ca), high);
        if let Some(norm) = &self.norm {
            norm.apply(self.channels(), first, out);
        }
    }

    /// One value, before the normalisation.
    pub(super) fn at(&self, pixel: usize, channel: usize) -> f32 {
        let [(a, ca), (b, cb)] = self.parts;
        let value = if channel < ca { a.get(pixel * ca + channel) } else { b.get(pixel * cb + channel - ca) };
        value.copied().unwrap_or(0.0)
    }
}

impl Normalised<'_> {
    /// Normalises channels of one pixel of `c` channels, from `first` on.
    fn apply(&self, c: usize, first: usize, values: &mut [f32]) {
        let size = c / self.op.groups as usize;
        for (i, v) in (first..).zip(values) {
            let stats = self.stats.get(2 * (i / size)..).and_then(<[f32]>::first_chunk).copied().unwrap_or_default();
            *v = self.op.value(*v, stats, self.weights, self.scale_shift, [i, c]);
        }
    }
}

fn copy(from: &[f32], start: usize, to: &mut [f32]) {
    match from.get(start..).and_then(|from| from.get(..to.len())) {
        Some(from) => to.copy_from_slice(from),
        None => to.fill(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::op::Act;

    #[test]
    fn parts_are_read_side_by_side() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0, 9.0, 10.0]);
        let view = View::concat(&a, 2, &b, 3);
        let whole = [1.0, 2.0, 5.0, 6.0, 7.0, 3.0, 4.0, 8.0, 9.0, 10.0];
        for pixel in 0..2 {
            for first in 0..5 {
                for len in 0..=5 - first {
                    let mut out = [0.0; 5];
                    view.load(pixel, first, &mut out[..len]);
                    assert_eq!(out[..len], whole[pixel * 5 + first..][..len]);
                }
            }
        }
        let mut out = [1.0; 2];
        view.load(9, 1, &mut out);
        assert_eq!(out, [0.0; 2], "outside");
    }

    #[test]
    fn a_normalised_view_is_the_normalisation() {
        let (a, b) = ([1.0, -2.0, 3.0, 4.5], [5.0, -6.0, 0.5, 8.0]);
        let op = GroupNorm { groups: 2, eps: 1e-5, act: Act::Silu };
        let weights = [WeightData::F32(&[1.0, 0.5, 2.0, -1.0]), WeightData::F32(&[0.0, 0.1, 0.2, 0.3])];
        let scale_shift = [0.5, 0.0, -0.25, 1.0, 0.0, 1.0, 2.0, 3.0];
        let plain = View::concat(&a, 2, &b, 2);
        let mut stats = [0.0; 4];
        op.stats(plain, 2, &mut stats);
        let (mut stored, mut read) = ([0.0; 8], [0.0; 8]);
        op.run(plain, Some(&scale_shift), weights, &mut stored);
        let view = plain.normalised(Normalised { op, stats: &stats, scale_shift: Some(&scale_shift), weights });
        read.chunks_exact_mut(4).enumerate().for_each(|(pixel, out)| view.load(pixel, 0, out));
        assert_eq!(read, stored);
    }
}
