//! Planar images `[c, h, w]` to and from pixels of interleaved channels `[h * w, c]`, at the borders of a network.

use super::op::Shape;

/// Planar `x` to pixels of `stride` values each (`stride >= c`; what is left over is set to 0).
pub fn interleave(x: &[f32], shape: Shape, stride: usize, out: &mut [f32]) {
    let (c, pixels) = (shape.c as usize, shape.pixels() as usize);
    for (p, pixel) in out.chunks_exact_mut(stride).take(pixels).enumerate() {
        for (i, value) in pixel.iter_mut().enumerate() {
            *value = if i < c { x[i * pixels + p] } else { 0.0 };
        }
    }
}

/// Pixels of `stride` values each to planar; the inverse of [`interleave`].
pub fn planar(x: &[f32], shape: Shape, stride: usize, out: &mut [f32]) {
    let (c, pixels) = (shape.c as usize, shape.pixels() as usize);
    for (p, pixel) in x.chunks_exact(stride).take(pixels).enumerate() {
        for (i, value) in pixel.iter().take(c).enumerate() {
            out[i * pixels + p] = *value;
        }
    }
}
