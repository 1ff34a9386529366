//! Diffusion image models on small computers.

pub mod cpu;
