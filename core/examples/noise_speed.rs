//! How many normal values a second one core makes, of each kind of noise: the best of ten runs of a million.
//!
//! `cargo run --release -p unfog-core --example noise_speed`

use std::time::Instant;

use unfog_core::noise::{Brownian, Lattice, Noise, NoiseError, Philox, TorchBuild, TorchCpu, TorchCuda};

const COUNT: usize = 1 << 20;

fn measure(name: &str, mut fill: impl FnMut(u32, &mut [f32]) -> Result<(), NoiseError>) -> Result<(), NoiseError> {
    let mut values = vec![0.0; COUNT];
    let mut best = f64::INFINITY;
    for draw in 0..10 {
        let start = Instant::now();
        fill(draw, &mut values)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{name:>12}: {:6.1} million a second", COUNT as f64 / best / 1e6);
    Ok(())
}

fn main() -> Result<(), NoiseError> {
    let mut philox = Philox::new(1);
    measure("philox", |draw, out| philox.fill(0, draw, out))?;
    let mut lattice = Lattice::new(1);
    measure("lattice", |draw, out| lattice.fill(3, draw, out))?;
    let mut brownian = Brownian::new(1, 0.0, 1.0);
    measure("brownian", |draw, out| {
        let from = 1.0 - f64::from(draw) / 10.1;
        brownian.fill_between(0, draw, from, from - 0.099, out)
    })?;
    let mut cpu = TorchCpu::new(1, 0, 1, COUNT);
    measure("torch avx2", |draw, out| cpu.fill(0, draw, out))?;
    let mut cpu = TorchCpu::new(1, 0, 1, COUNT).build(TorchBuild::Scalar);
    measure("torch scalar", |draw, out| cpu.fill(0, draw, out))?;
    let mut cuda = TorchCuda::new(1, 0, 1, COUNT);
    measure("torch cuda", |draw, out| cuda.fill(0, draw, out))
}
