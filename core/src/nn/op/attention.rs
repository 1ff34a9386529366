//! Scaled dot-product attention (Vaswani et al. 2017).

use super::{MAX_INPUTS, Shape, ShapeError};
use crate::math;

/// `out = softmax(q k^T * scale) v`, for each head apart. Head `i` is the channels `i * head_dim ..`. Where it is causal, the query of a
/// pixel sees the keys up to its own pixel alone. Where it is biased, `k` has one channel more, which is added to that key's scores.
///
/// Inputs: `q` `[h, w, heads * head_dim]`, `k` and `v` `[hk, wk, heads * head_dim]`; the output has the shape of `q`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Number of heads.
    pub heads: u32,
    /// Channels of a head.
    pub head_dim: u32,
    /// Factor on the scores, usually `head_dim^-1/2`.
    pub scale: f32,
    /// Query `i` sees keys `0..=i` alone (text); there are as many keys as queries.
    pub causal: bool,
    /// The last channel of `k`, behind those of the heads, is added to the scores of its key, after the factor (padding: -10000).
    pub biased: bool,
}

impl Attention {
    pub(super) fn shape(&self, x: [Option<Shape>; MAX_INPUTS]) -> Result<Shape, ShapeError> {
        let [Some(q), Some(k), Some(v)] = x else {
            return Err(ShapeError::Operands);
        };
        if self.heads == 0 || self.head_dim == 0 || self.heads.checked_mul(self.head_dim) != Some(q.c) {
            return Err(ShapeError::Parameter);
        }
        let keys = Shape { c: q.c.saturating_add(u32::from(self.biased)), ..v };
        if k != keys || v.c != q.c {
            return Err(ShapeError::Mismatch(k, v));
        }
        if self.causal && v != q {
            return Err(ShapeError::Mismatch(q, k));
        }
        Ok(q)
    }

    /// The twin, in one pass over the keys with a running maximum and no score matrix (Milakov & Gimelshein 2018): keys
    /// in order, the output itself as accumulator.
    pub fn run(&self, q: &[f32], qs: Shape, k: &[f32], v: &[f32], out: &mut [f32]) {
        let (c, d) = (qs.c as usize, self.head_dim as usize);
        let kc = c + usize::from(self.biased);
        for (i, (qp, op)) in q.chunks_exact(c).zip(out.chunks_exact_mut(c)).enumerate() {
            let keys = if self.causal { i + 1 } else { usize::MAX };
            for (qh, (oh, first)) in qp.chunks_exact(d).zip(op.chunks_exact_mut(d).zip((0..c).step_by(d))) {
                let (mut max, mut sum) = (f32::NEG_INFINITY, 0.0_f32);
                oh.fill(0.0);
                for (kp, vp) in k.chunks_exact(kc).zip(v.chunks_exact(c)).take(keys) {
                    let mut dot = 0.0;
                    for (a, b) in qh.iter().zip(&kp[first..first + d]) {
                        dot += a * b;
                    }
                    let score = dot * self.scale + kp.get(c).copied().unwrap_or(0.0);
                    if score > max {
                        let shrink = math::exp(max - score);
                        sum *= shrink;
                        oh.iter_mut().for_each(|o| *o *= shrink);
                        max = score;
                    }
                    let weight = math::exp(score - max);
                    sum += weight;
                    for (o, v) in oh.iter_mut().zip(&vp[first..first + d]) {
                        *o += weight * v;
                    }
                }
                oh.iter_mut().for_each(|o| *o /= sum);
            }
        }
    }
}
