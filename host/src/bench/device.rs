//! What a Vulkan device can do at most, by kernels of its own.

use std::time::Duration;

use unfog_core::nn::graph::{Weight, WeightUse};
use unfog_core::nn::op::{Affine, Conv2d, Op, Shape};
use unfog_core::nn::weights::WeightData;

use super::Peak;
use super::alone::{Bench, single};
use crate::backend::Request;
use crate::cost::flops;
use crate::error::Result;
use crate::stop::Stop;

/// Nothing is made larger once it takes this long: what a submission costs is nothing beside it.
const ENOUGH: Duration = Duration::from_millis(30);

/// Measures the device that `request` names. `None` for one that is software: its roof is the processor's.
///
/// # Errors
/// Those of the backend.
pub(super) fn peak(request: &Request, stop: &Stop) -> Result<Option<Peak>> {
    let bench = Bench::open(request)?;
    if bench.is_software() { Ok(None) } else { measure(&bench, stop).map(Some) }
}

/// The best of some matrix products and convolutions, and of scalings of arrays that fit few caches. What no kernel here reaches is not
/// known, so shares of it are shares of the best there is.
fn measure(bench: &Bench, stop: &Stop) -> Result<Peak> {
    let products = [256, 512, 1024, 2048, 4096]
        .map(|n| (Conv2d::linear(n, n), Shape::new(n / 16, 16, n), format!("a product of {n}x{n} matrices")));
    let convolutions = [(128, 64), (256, 64), (512, 64), (512, 128)].map(|(c, side)| {
        (
            Conv2d::new(c, c, 3, 1),
            Shape::new(side, side, c),
            format!("a 3x3 convolution of {c} channels of {side}x{side}"),
        )
    });
    let mut best = (0.0_f64, String::new());
    for family in [&products[..], &convolutions] {
        for (op, input, name) in family {
            let [h, w] = op.kernel;
            let kernel = Weight { shape: [op.out_c, op.in_c, h, w], role: WeightUse::Kernel };
            let network = single(Op::Conv2d(*op), [Some(*input), None, None], [Some(kernel), None])?;
            let values = vec![0.01; kernel.shape.iter().product::<u32>() as usize];
            let time = bench.time(&network, &[WeightData::F32(&values)], ENOUGH, stop)?;
            let rate = flops(&network.graph()) as f64 / time.as_secs_f64();
            if rate > best.0 {
                best = (rate, name.clone());
            }
            if time > ENOUGH {
                break;
            }
        }
    }
    // MiB of values, each read and written.
    let mut moved = (0.0_f64, 0);
    for mib in [32, 64, 128, 256] {
        let shape = Shape::new(32 * mib, 2048, 4);
        let network = single(Op::Affine(Affine::new(0.5, 0.0)), [Some(shape), None, None], [None; 2])?;
        let time = match bench.time(&network, &[], ENOUGH, stop) {
            // A device that lacks the memory was measured with less.
            Err(error) if moved.1 > 0 && error.exit_code() == 1 => break,
            time => time?,
        };
        let rate = 8.0 * shape.len() as f64 / time.as_secs_f64();
        if rate > moved.0 {
            moved = (rate, mib);
        }
        if time > ENOUGH {
            break;
        }
    }
    let how = format!("{} and a scaling of {} MiB, by its own kernels", best.1, moved.1);
    Ok(Peak { how, flops_per_second: best.0, bytes_per_second: moved.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Kind;

    #[test]
    fn a_backend_is_measured_by_its_kernels() {
        let request = Request { kind: Kind::Cpu, threads: Some(1), ..Request::default() };
        assert_eq!(peak(&request, &Stop::default()).unwrap(), None);
        let peak = measure(&Bench::open(&request).unwrap(), &Stop::default()).unwrap();
        // Between a microcontroller's figures and those of a machine that doesn't exist.
        assert!((1e7..1e13).contains(&peak.flops_per_second), "{peak:?}");
        assert!((1e7..1e13).contains(&peak.bytes_per_second), "{peak:?}");
        assert!(peak.how.contains(" and a scaling of "), "{peak:?}");
    }
}
