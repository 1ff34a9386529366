//! Device memory under a limit: weights that don't fit are sent anew for each evaluation, and the bits are the same. Long
//! evaluations are cut into several submissions, and the bits are the same.

use unfog_core::denoise::{Cond, Denoise};
use unfog_core::nn::cost::node_flops;
use unfog_core::noise::{Noise, Philox};
use unfog_gpu::{Context, DeviceChoice, GpuError, Network, Options, Precision, Stats, VulkanDenoiser};
use unfog_tests::TestResult;
use unfog_tests::backend::{Gpu, gpus};
use unfog_tests::compare::same_bits;
use unfog_tests::net::Net;

/// Images and what is predicted for them.
struct Case {
    net: Net,
    conds: Vec<Cond>,
    x: Vec<f32>,
}

impl Case {
    fn new(path: &str, conds: Vec<Cond>) -> TestResult<Self> {
        let net = Net::open(path)?;
        let mut x = vec![0.0; conds.len() * net.len()];
        Philox::new(1).fill(0, 0, &mut x)?;
        Ok(Self { net, conds, x })
    }

    fn glyph_tiny() -> TestResult<Self> {
        Self::new("models/glyph-tiny", vec![Cond::None; 2])
    }

    /// A single image: it is large.
    fn mednist_ddpm() -> TestResult<Self> {
        Self::new("models/mednist-ddpm", vec![Cond::Class(3)])
    }

    /// The operations of its largest node, for all images.
    fn largest(&self) -> u64 {
        let flops = self.net.graph.nodes.iter().map(|node| node_flops(&self.net.graph, node));
        flops.max().unwrap_or(0) * self.conds.len() as u64
    }

    /// Evaluates twice: what comes out must be the same both times. What it is, and what was done.
    fn predict(&self, denoiser: &mut VulkanDenoiser<'_>) -> TestResult<(Vec<f32>, Stats)> {
        let mut out = vec![f32::NAN; self.conds.len() * self.net.out_len()];
        denoiser.predict(&self.x, 10.0, &self.conds, &mut out)?;
        let mut again = vec![f32::NAN; out.len()];
        denoiser.predict(&self.x, 10.0, &self.conds, &mut again)?;
        same_bits("the second evaluation", &again, &out)?;
        Ok((out, denoiser.stats()))
    }

    fn open(&self, context: &Context, options: Options) -> Result<VulkanDenoiser<'static>, GpuError> {
        VulkanDenoiser::new(context, &self.net.graph, self.net.weights, options)
    }
}

/// A context of its own, so that nothing else counts; with validation where that is there.
fn context(gpu: &Gpu) -> TestResult<Context> {
    let choice = DeviceChoice::Index(gpu.context.info().index);
    Ok(Context::open_validated(&choice, None).or_else(|_| Context::open(&choice, None))?)
}

/// The least that a network needs, which the refusal names.
fn least(context: &Context, net: &Net, options: Options) -> TestResult<u64> {
    match Network::needs(context, &net.graph, Options { vram: Some(1), ..options }) {
        Err(GpuError::Memory { needed, limit: 1 }) => Ok(needed),
        other => Err(format!("one byte is enough: {other:?}").into()),
    }
}

/// Runs a network with everything on the device, and with as little there as can be and half way between.
fn under_limits(case: &Case, options: &[Options], limits: &[u64]) -> TestResult {
    for gpu in gpus()? {
        let context = context(gpu)?;
        for &base in options {
            let (want, stats) = case.predict(&mut case.open(&context, base)?)?;
            assert_eq!(stats.streamed, 0);
            let all = Network::needs(&context, &case.net.graph, base)?;
            let least = least(&context, &case.net, base)?;
            assert!(least < all.total(), "{least} {all:?}");
            for percent in limits {
                let vram = least + (all.total() - least) * percent / 100;
                // The context's peak starts anew with it.
                let context = self::context(gpu)?;
                let options = Options { vram: Some(vram), ..base };
                let needs = Network::needs(&context, &case.net.graph, options)?;
                let what = format!("{vram} of {} bytes, {options:?}, {needs:?}", all.total());
                let mut denoiser = case.open(&context, options)?;
                let (got, stats) = case.predict(&mut denoiser)?;
                same_bits(&what, &got, &want)?;
                let usage = context.usage();
                assert!(usage.peak <= vram, "{what}: {usage:?}");
                assert_eq!(needs.streamed > 0, vram < all.total(), "{what}");
                // Each pass of the weights serves all images of its batch.
                let passes = 2 * case.conds.len().div_ceil(needs.images) as u64;
                assert_eq!(stats.streamed, passes * needs.streamed, "{what}");
                assert_eq!((stats.uploads, stats.readbacks), (passes, passes), "{what}");
                drop(denoiser);
                let usage = context.usage();
                assert_eq!((usage.buffers, usage.bytes, usage.commands), (0, 0, 0), "{what}: something is left");
                assert_eq!(context.messages(), [""; 0], "{what}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_limit_changes_no_bit_and_is_kept() -> TestResult {
    let staging = Options { force_staging: true, ..Options::default() };
    let half = Options { precision: Precision::F16, ..Options::default() };
    let case = Case::glyph_tiny()?;
    // Nodes that are cut: each part runs with the same weights, which are sent once.
    let cut = [Options::default(), staging].map(|base| Options { submit_flops: Some(case.largest() / 3), ..base });
    under_limits(&case, &[Options::default(), staging, half, cut[0], cut[1]], &[0, 50, 100])
}

#[test]
fn mednist_ddpm_under_a_limit() -> TestResult {
    let staging = Options { force_staging: true, ..Options::default() };
    under_limits(&Case::mednist_ddpm()?, &[Options::default(), staging], &[0])
}

#[test]
fn a_limit_that_is_too_small_is_refused_with_the_number_before_anything_is_taken() -> TestResult {
    let case = Case::glyph_tiny()?;
    for gpu in gpus()? {
        for force_staging in [false, true] {
            let context = context(gpu)?;
            let base = Options { force_staging, ..Options::default() };
            let least = least(&context, &case.net, base)?;
            match case.open(&context, Options { vram: Some(least - 1), ..base }) {
                Err(GpuError::Memory { needed, limit }) => assert_eq!((needed, limit), (least, least - 1)),
                other => return Err(format!("{} bytes are enough: {other:?}", least - 1).into()),
            }
            assert_eq!((context.usage().peak, context.usage().commands), (0, 0));
            case.open(&context, Options { vram: Some(least), ..base })?;
        }
    }
    Ok(())
}

/// Submissions of an evaluation that has at most so many operations in each: a node with more takes several.
fn submissions(case: &Case, most: u64) -> u64 {
    let (mut submissions, mut open) = (0, 0);
    for node in case.net.graph.nodes {
        let flops = node_flops(&case.net.graph, node) * case.conds.len() as u64;
        if open + flops > most {
            (submissions, open) = (submissions + u64::from(open > 0), 0);
        }
        match flops > most {
            true => submissions += flops.div_ceil(most),
            false => open += flops,
        }
    }
    submissions + u64::from(open > 0)
}

#[test]
fn short_submissions_change_no_bit() -> TestResult {
    for case in [Case::glyph_tiny()?, Case::mednist_ddpm()?] {
        for gpu in gpus()? {
            for force_staging in [false, true] {
                let base = Options { force_staging, submit_flops: Some(u64::MAX), ..Options::default() };
                let (want, whole) = case.predict(&mut case.open(&gpu.context, base)?)?;
                assert_eq!(whole.submits, 2, "one submission an evaluation");
                // The largest nodes take three each.
                let flops = case.largest().div_ceil(3);
                let options = Options { submit_flops: Some(flops), ..base };
                let (got, stats) = case.predict(&mut case.open(&gpu.context, options)?)?;
                same_bits(&format!("{flops} operations a submission"), &got, &want)?;
                assert_eq!(stats.submits, 2 * submissions(&case, flops), "{stats:?}");
                assert!(stats.submits > 4 * whole.submits && stats.dispatches > whole.dispatches, "{stats:?}");
                assert_eq!((stats.uploads, stats.readbacks), (2, 2));
            }
            gpu.check()?;
        }
    }
    Ok(())
}

#[test]
fn tensors_beyond_a_binding_change_no_bit() -> TestResult {
    let case = Case::mednist_ddpm()?;
    for gpu in gpus()? {
        for force_staging in [false, true] {
            let base = Options { force_staging, ..Options::default() };
            let (want, whole) = case.predict(&mut case.open(&gpu.context, base)?)?;
            // The largest has 4 MiB; sixteen rows of it have one, and a convolution reads those beside them too.
            let options = Options { max_binding: Some(1_500_000), ..base };
            let (got, stats) = case.predict(&mut case.open(&gpu.context, options)?)?;
            same_bits("in bands", &got, &want)?;
            assert!(stats.dispatches > whole.dispatches, "{stats:?} {whole:?}");
        }
        gpu.check()?;
    }
    Ok(())
}

#[test]
fn a_run_is_stopped_between_two_submissions() -> TestResult {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let case = Case::glyph_tiny()?;
    for gpu in gpus()? {
        let options = Options { submit_flops: Some(case.largest() / 3), ..Options::default() };
        let mut denoiser = case.open(&gpu.context, options)?;
        let stop = Arc::new(AtomicBool::new(true));
        denoiser.stop_when(stop.clone());
        let mut out = vec![0.0; 2 * case.net.out_len()];
        let stopped = denoiser.predict(&case.x, 10.0, &case.conds, &mut out);
        assert!(matches!(stopped, Err(GpuError::Stopped)), "{stopped:?}");
        assert_eq!(denoiser.stats().submits, 0);
        // It goes on as if nothing had been.
        stop.store(false, Ordering::Relaxed);
        let (got, _) = case.predict(&mut denoiser)?;
        same_bits("after a stop", &got, &case.predict(&mut case.open(&gpu.context, Options::default())?)?.0)?;
        // From another thread, in the middle of an evaluation; how far it came is a matter of chance, that it ends is not.
        let later = stop.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(3));
            later.store(true, Ordering::Relaxed);
        });
        let mut done = 0;
        while denoiser.predict(&case.x, 10.0, &case.conds, &mut out).is_ok() {
            done += 1;
            assert!(done < 10_000, "nothing stops it");
        }
        thread.join().map_err(|_| "the other thread panicked")?;
    }
    Ok(())
}
