//! The determinism contract: the same bits for any number of threads, any batch size, and from run to run.

use unfog::cpu::CpuOptions;
use unfog_core::config::Config;
use unfog_core::denoise::Cond;
use unfog_core::noise::Philox;
use unfog_core::sampler;
use unfog_core::schedule::BetaSchedule;
use unfog_gpu::Options;
use unfog_tests::TestResult;
use unfog_tests::backend::{Backend, gpus};
use unfog_tests::compare::same_bits;
use unfog_tests::net::Net;
use unfog_tests::run::Run;

/// The CPU backend with so many threads.
fn cpu_with(threads: usize) -> Backend {
    Backend::Cpu(CpuOptions { threads, ..CpuOptions::default() })
}

/// The images 0 to `count` of seed 7, made in batches of `batch`.
fn images(net: &Net, backend: &Backend, steps: usize, count: u64, batch: usize) -> TestResult<Vec<f32>> {
    let config = Config { betas: BetaSchedule::SquaredCosCapV2, steps, eta: 1.0, ..Config::default() };
    let classes = net.model.classes();
    let cond = |i: u64| classes.and_then(|c| c.of_image(i)).map_or(Cond::None, Cond::Class);
    let mut denoiser = backend.denoiser(net, &[])?;
    let mut all = Vec::new();
    for first_image in (0..count).step_by(batch) {
        let conds: Vec<Cond> = (first_image..count.min(first_image + batch as u64)).map(cond).collect();
        let run = Run { config, sampler: &sampler::DDIM, first_image, conds: &conds };
        all.extend(run.make(net, &mut denoiser, &mut Philox::new(7))?.0);
    }
    Ok(all)
}

/// Compares runs of 8 images of glyph-tiny with those that `first` makes one by one: for every batch size of every backend of
/// `others`, and ten times for `first`.
fn matrix(first: &Backend, others: &[Backend]) -> TestResult {
    let net = Net::open("models/glyph-tiny")?;
    let want = images(&net, first, 4, 8, 1)?;
    for backend in others {
        for batch in [1, 3, 8] {
            let what = format!("{} in batches of {batch}", backend.name());
            same_bits(&what, &images(&net, backend, 4, 8, batch)?, &want)?;
        }
        backend.check()?;
    }
    for again in 2..=10 {
        same_bits(&format!("{}, run {again}", first.name()), &images(&net, first, 4, 8, 1)?, &want)?;
    }
    Ok(())
}

#[test]
fn reference_glyph_tiny() -> TestResult {
    matrix(&Backend::Reference, &[Backend::Reference])
}

#[test]
fn cpu_glyph_tiny() -> TestResult {
    // Nor does it matter which weights are prepared beforehand: all, or those of some nodes.
    let prepared = [u64::MAX, 300_000].map(|memory| Backend::Cpu(CpuOptions { memory, ..CpuOptions::default() }));
    matrix(&cpu_with(1), &[[1, 2, 4].map(cpu_with).to_vec(), prepared.to_vec()].concat())
}

#[test]
fn vulkan_glyph_tiny() -> TestResult {
    for gpu in gpus()? {
        // Two images a submission, and staging copies, change when things are computed, but not what.
        let options = [
            Options::default(),
            Options { max_images: 2, ..Options::default() },
            Options { force_staging: true, ..Options::default() },
        ];
        let others = options.map(|options| Backend::Vulkan { gpu, options });
        matrix(&others[0], &others)?;
    }
    Ok(())
}

/// One pair for each promise, on a network whose larger matrices libraries cut up in other ways.
#[test]
fn mednist_ddpm() -> TestResult {
    let net = Net::open("models/mednist-ddpm")?;
    let cpu = cpu_with(1);
    let want = images(&net, &cpu, 2, 3, 1)?;
    same_bits("cpu, run 2", &images(&net, &cpu, 2, 3, 1)?, &want)?;
    same_bits("cpu in a batch of 3", &images(&net, &cpu, 2, 3, 3)?, &want)?;
    same_bits("cpu with 4 threads", &images(&net, &cpu_with(4), 2, 3, 1)?, &want)?;
    for gpu in gpus()? {
        let vulkan = Backend::Vulkan { gpu, options: Options::default() };
        let want = images(&net, &vulkan, 2, 3, 1)?;
        same_bits(&format!("{}, run 2", vulkan.name()), &images(&net, &vulkan, 2, 3, 1)?, &want)?;
        same_bits(&format!("{} in a batch of 3", vulkan.name()), &images(&net, &vulkan, 2, 3, 3)?, &want)?;
        vulkan.check()?;
    }
    let reference = Backend::Reference;
    let want = images(&net, &reference, 1, 2, 1)?;
    same_bits("reference, run 2 in a batch of 2", &images(&net, &reference, 1, 2, 2)?, &want)
}

/// FNV-1a (Fowler, Noll and Vo) over the values' bits.
fn hash(values: &[f32]) -> u64 {
    let bytes = values.iter().flat_map(|v| v.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// These are this project's own bits, no truth from elsewhere: they hold the reference backend to the same bits on every
/// processor and guard against upgrades of libm. A change of the reference's arithmetic changes them, and is to be noted in
/// the change log.
#[test]
fn the_reference_gives_the_bits_it_always_gave() -> TestResult {
    let glyph = images(&Net::open("models/glyph-tiny")?, &Backend::Reference, 20, 2, 2)?;
    assert_eq!(format!("{:016x}", hash(&glyph)), "e3141b746c54fafb", "glyph-tiny");
    let scan = images(&Net::open("models/mednist-ddpm")?, &Backend::Reference, 1, 1, 1)?;
    assert_eq!(format!("{:016x}", hash(&scan)), "92f0f4ce551b9701", "mednist-ddpm");
    Ok(())
}
