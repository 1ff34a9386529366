//! What this machine can do at most: the roof that an evaluation is compared with (Williams et al. 2009).

use std::time::{Duration, Instant};

use pulp::{Arch, Simd, WithSimd};
use serde::{Deserialize, Serialize};

/// Time for the arithmetic.
const ARITHMETIC: Duration = Duration::from_millis(120);
/// Values of each of the triad's three arrays: 32 MiB, more than any cache of a small machine.
const TRIAD: usize = 8 << 20;
/// Passes over them, after one that makes the pages; the fastest counts.
const PASSES: usize = 4;

/// The most that was measured of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// How it was measured.
    pub how: String,
    /// Floating-point operations a second, f32.
    pub flops_per_second: f64,
    /// Bytes a second between memory and processor.
    pub bytes_per_second: f64,
}

impl Peak {
    /// The roofline: the operations a second that `intensity` (operations a byte moved) allows.
    pub fn attainable(&self, intensity: f64) -> f64 {
        self.flops_per_second.min(intensity * self.bytes_per_second)
    }
}

/// Fused multiply-adds in as many independent chains as hide their latency.
struct Chains {
    rounds: usize,
}

/// Chains of [`Chains`]; with the two factors they fit 16 vector registers.
const CHAINS: usize = 12;

impl WithSimd for Chains {
    /// What came out, so that it has to be computed, and the number of operations.
    type Output = (f32, u64);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let (factor, term) = (simd.splat_f32s(0.999), simd.splat_f32s(1e-3));
        let mut sums = [simd.splat_f32s(0.5); CHAINS];
        for _ in 0..self.rounds {
            for sum in &mut sums {
                *sum = simd.mul_add_e_f32s(*sum, factor, term);
            }
        }
        let sum = sums.into_iter().fold(simd.splat_f32s(0.0), |a, b| simd.add_f32s(a, b));
        (simd.reduce_sum_f32s(sum), 2 * (self.rounds * CHAINS * S::F32_LANES) as u64)
    }
}

/// Measures the processor with `threads` threads at once, in less than half a second: vector arithmetic that needs no memory, and
/// `a = b + s c` over arrays that fit no cache (McCalpin's STREAM triad; 12 bytes a value). `None` without memory for it.
pub fn processor(threads: usize) -> Option<Peak> {
    let threads = threads.max(1);
    let flops_per_second = arithmetic(threads);
    let bytes_per_second = triad(threads)?;
    Some(Peak {
        how: format!("vector arithmetic and a triad on {threads} threads"),
        flops_per_second,
        bytes_per_second,
    })
}

fn arithmetic(threads: usize) -> f64 {
    let arch = Arch::new();
    let one = || {
        let (start, mut operations) = (Instant::now(), 0);
        while start.elapsed() < ARITHMETIC {
            let (value, count) = arch.dispatch(Chains { rounds: 1 << 16 });
            std::hint::black_box(value);
            operations += count;
        }
        operations as f64 / start.elapsed().as_secs_f64()
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(one)).collect();
        one() + others.into_iter().filter_map(|other| other.join().ok()).sum::<f64>()
    })
}

fn triad(threads: usize) -> Option<f64> {
    let array = |value: f32| {
        let mut array = Vec::new();
        array.try_reserve_exact(TRIAD).ok()?;
        array.resize(TRIAD, value);
        Some(array)
    };
    let (mut a, b, c) = (array(0.0)?, array(1.0)?, array(2.0)?);
    let part = TRIAD.div_ceil(threads);
    let mut fastest = Duration::MAX;
    for _ in 0..=PASSES {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for ((a, b), c) in a.chunks_mut(part).zip(b.chunks(part)).zip(c.chunks(part)) {
                scope.spawn(move || a.iter_mut().zip(b).zip(c).for_each(|((a, b), c)| *a = b + 3.0 * c));
            }
        });
        fastest = fastest.min(start.elapsed());
        std::hint::black_box(&a);
    }
    Some((3 * 4 * TRIAD) as f64 / fastest.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roof_is_the_lower_of_the_two() {
        let peak = Peak { how: String::new(), flops_per_second: 100.0, bytes_per_second: 10.0 };
        assert_eq!((peak.attainable(2.0), peak.attainable(50.0)), (20.0, 100.0));
    }

    #[test]
    fn a_processor_computes_and_moves() {
        let start = Instant::now();
        let peak = processor(1).unwrap();
        // 0.3 s on a quiet machine; tests share theirs.
        assert!(start.elapsed() < Duration::from_secs(5));
        // Between a microcontroller's figures and those of a machine that doesn't exist.
        assert!((1e7..1e13).contains(&peak.flops_per_second), "{peak:?}");
        assert!((1e7..1e13).contains(&peak.bytes_per_second), "{peak:?}");
        // Chains come out right: all of them head for term / (1 - factor) = 1.
        let (sum, operations) = Arch::new().dispatch(Chains { rounds: 20_000 });
        let lanes = (operations / (2 * 20_000 * CHAINS as u64)) as f32;
        assert!((sum / (CHAINS as f32 * lanes) - 1.0).abs() < 1e-2, "{sum}");
    }
}
