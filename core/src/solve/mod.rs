//! Restoration by a diffusion prior: what a picture lost, as a linear operator, and what brings it back.

pub mod matrix;
pub mod operator;
pub mod svd;
mod transform;
pub mod update;
