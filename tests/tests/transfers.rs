//! A whole evaluation stays on the device: one upload, one readback, no op on the host in between; one submission, or as many as
//! keep each of them short.

use unfog_core::denoise::{Cond, Denoise};
use unfog_core::noise::{Noise, Philox};
use unfog_gpu::{Options, Stats, VulkanDenoiser};
use unfog_tests::TestResult;
use unfog_tests::backend::gpus;
use unfog_tests::net::Net;

#[test]
fn one_upload_and_one_readback_an_evaluation() -> TestResult {
    for (path, cond) in [("models/glyph-tiny", Cond::None), ("models/mednist-ddpm", Cond::Class(3))] {
        let net = Net::open(path)?;
        for gpu in gpus()? {
            let ways = [(false, Some(u64::MAX)), (false, None), (true, None)];
            for (force_staging, submit_flops) in ways {
                let options = Options { force_staging, submit_flops, ..Options::default() };
                let mut denoiser = VulkanDenoiser::new(&gpu.context, &net.graph, net.weights, options)?;
                assert_eq!(denoiser.stats(), Stats::default(), "before the first evaluation");
                let mut x = vec![0.0; 2 * net.len()];
                Philox::new(1).fill(0, 0, &mut x)?;
                let mut out = vec![0.0; 2 * net.out_len()];
                let mut per_evaluation = None;
                for evaluation in 1..=2 {
                    // Two images are one evaluation too.
                    denoiser.predict(&x, 10.0 * evaluation as f32, &[cond; 2], &mut out)?;
                    let stats = denoiser.stats();
                    assert_eq!([stats.uploads, stats.readbacks], [evaluation; 2], "{path}");
                    // Every node runs as a kernel; a group norm takes several.
                    let (kernels, submits) = *per_evaluation.get_or_insert((stats.dispatches, stats.submits));
                    assert_eq!(stats.submits, submits * evaluation, "{path}");
                    assert!(submits == 1 || submit_flops.is_none() && submits < kernels / 2, "{path}: {submits}");
                    assert!(kernels >= net.graph.nodes.len() as u64, "{path}: {kernels} kernels");
                    assert_eq!(stats.dispatches, kernels * evaluation, "{path}");
                }
                gpu.check()?;
            }
        }
    }
    Ok(())
}
