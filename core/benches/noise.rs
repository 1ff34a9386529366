//! How many normal values a second one core makes, of each kind of noise: `cargo bench -p unfog-core --bench noise`.

use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use unfog_core::noise::{Brownian, Lattice, Noise, NoiseError, Philox, TorchBuild, TorchCpu, TorchCuda};

/// Few enough for a run between two of what else the machine does.
const COUNT: usize = 1 << 14;

type Fill<'a> = &'a mut dyn FnMut(u32, &mut [f32]) -> Result<(), NoiseError>;

fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, fill: Fill<'_>) {
    let (mut values, mut draw, mut best) = (vec![0.0; COUNT], 0, Duration::MAX);
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|count| {
            let mut sum = Duration::ZERO;
            for _ in 0..count {
                draw = (draw + 1) % 8;
                let start = Instant::now();
                assert_eq!(fill(draw, &mut values), Ok(()));
                let time = start.elapsed();
                (sum, best) = (sum + time, best.min(time));
            }
            sum
        });
    });
    // Other programs lengthen most times, and seldom all.
    println!("noise/{name}: {:.1} million a second at best", COUNT as f64 / best.as_secs_f64() / 1e6);
}

fn noise(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("noise");
    group.throughput(Throughput::Elements(COUNT as u64)).sample_size(10);
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(2));
    let mut philox = Philox::new(1);
    measure(&mut group, "philox", &mut |draw, out| philox.fill(0, draw, out));
    let mut lattice = Lattice::new(1);
    measure(&mut group, "lattice", &mut |draw, out| lattice.fill(3, draw, out));
    let mut brownian = Brownian::new(1, 0.0, 1.0);
    measure(&mut group, "brownian", &mut |draw, out| {
        let from = 1.0 - f64::from(draw) / 10.1;
        brownian.fill_between(0, draw, from, from - 0.099, out)
    });
    // torch's generators make one draw after the other.
    let cpu = TorchCpu::new(1, 0, 1, COUNT);
    measure(&mut group, "torch-avx2", &mut |_, out| cpu.clone().fill(0, 0, out));
    let cpu = TorchCpu::new(1, 0, 1, COUNT).build(TorchBuild::Scalar);
    measure(&mut group, "torch-scalar", &mut |_, out| cpu.clone().fill(0, 0, out));
    let mut cuda = TorchCuda::new(1, 0, 1, COUNT);
    measure(&mut group, "torch-cuda", &mut |draw, out| cuda.fill(0, draw, out));
    group.finish();
}

criterion_group!(benches, noise);
criterion_main!(benches);
