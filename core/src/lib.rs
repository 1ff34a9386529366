//! Diffusion sampling without an allocator: noise schedules, the forward and reverse Markov chain, samplers, and
//! networks as data with reference kernels. Every buffer is the caller's.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(test)]
extern crate std;

pub mod chain;
pub mod config;
pub mod denoise;
pub mod forward;
pub mod guidance;
pub mod math;
pub mod nn;
pub mod noise;
pub mod pack;
pub mod predict;
pub mod sampler;
pub mod schedule;
pub mod solve;
