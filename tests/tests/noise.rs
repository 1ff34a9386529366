//! The noise streams against torch's and cuRAND's: all bits.

use serde_json::Value;
use unfog_core::noise::{Mt19937, Noise, TorchBuild, TorchCpu, TorchCuda};
use unfog_tests::compare::same_bits;
use unfog_tests::golden::Golden;
use unfog_tests::{TestResult, said};

fn number(case: &Value, key: &str) -> TestResult<usize> {
    let value = case[key].as_u64().ok_or_else(|| format!("{key} is no number in {case}"))?;
    Ok(usize::try_from(value)?)
}

fn text<'a>(case: &'a Value, key: &str) -> TestResult<&'a str> {
    case[key].as_str().ok_or_else(|| format!("{key} is no text in {case}").into())
}

/// The number of images (the shape's first of several dimensions) and the values of each.
fn shape(case: &Value) -> TestResult<(usize, usize)> {
    let dims = case["shape"].as_array().ok_or("no shape")?;
    let dims: Vec<usize> = dims.iter().filter_map(Value::as_u64).map(|d| d as usize).collect();
    Ok(match dims[..] {
        [len] => (1, len),
        [images, ref rest @ ..] => (images, rest.iter().product()),
        [] => return Err("an empty shape".into()),
    })
}

/// One draw, image by image.
fn draw(noise: &mut dyn Noise, (images, len): (usize, usize), draw: u32) -> TestResult<Vec<f32>> {
    let mut values = vec![0.0; images * len];
    for (image, out) in values.chunks_exact_mut(len).enumerate() {
        noise.fill(image as u64, draw, out).map_err(said)?;
    }
    Ok(values)
}

/// Compares all draws of the cases of a kind: forwards, then the last one again and the first, since order must not matter.
fn compare(kind: &str, make: impl Fn(&Value, usize, usize) -> TestResult<Box<dyn Noise>>) -> TestResult {
    let golden = Golden::read("noise")?;
    let mut cases = 0;
    for (i, case) in golden.cases().iter().enumerate().filter(|(_, case)| case["kind"] == kind) {
        let (images, len) = shape(case)?;
        let mut noise = make(case, images, len)?;
        let stride = case["stride"].as_u64().unwrap_or(1) as usize;
        let size = images * len;
        let draws = (0..).take_while(|d| golden.part(i, &d.to_string()).is_ok()).count();
        assert!(draws > 0, "no draws: {case}");
        for d in (0..draws).chain([draws - 1, 0]) {
            let values = draw(noise.as_mut(), (images, len), d as u32)?;
            let kept = values.iter().enumerate().filter(|(e, _)| stride == 1 || e % stride == 0 || e + 32 >= size);
            let kept: Vec<f32> = kept.map(|(_, &v)| v).collect();
            same_bits(&format!("draw {d} of {case}"), &kept, &golden.part(i, &d.to_string())?.values)?;
        }
        cases += 1;
    }
    assert!(cases >= 5, "{cases} cases of {kind}");
    Ok(())
}

#[test]
fn the_cpu_stream_is_that_of_torch() -> TestResult {
    compare("cpu", |case, images, len| {
        let build = match text(case, "build")? {
            "avx2" => TorchBuild::Avx2,
            "scalar" => TorchBuild::Scalar,
            other => return Err(format!("no build {other}").into()),
        };
        Ok(Box::new(TorchCpu::new(text(case, "seed")?.parse()?, 0, images, len).build(build)))
    })
}

#[test]
fn the_cuda_stream_is_that_of_curand() -> TestResult {
    compare("cuda", |case, images, len| {
        let (processors, threads) = (number(case, "multiprocessors")? as u32, number(case, "threads")? as u32);
        Ok(Box::new(TorchCuda::new(text(case, "seed")?.parse()?, 0, images, len).on(processors, threads)))
    })
}

#[test]
fn uniform_values_are_torchs_to_the_bit() -> TestResult {
    let golden = Golden::read("noise")?;
    let mut cases = 0;
    for (i, case) in golden.cases().iter().enumerate().filter(|(_, case)| case["kind"] == "uniform") {
        let seed: u64 = text(case, "seed")?.parse()?;
        let mut words = Mt19937::new(seed as u32);
        let values: Vec<f32> = (0..number(case, "count")?).map(|_| words.uniform()).collect();
        if let Ok(want) = golden.part(i, "0") {
            assert_eq!(values, want.values, "{case}");
        }
        let bytes = values.iter().flat_map(|v| v.to_le_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        assert_eq!(format!("{hash:016x}"), text(case, "hash")?, "{case}");
        cases += 1;
    }
    assert!(cases >= 6, "{cases} cases");
    Ok(())
}

#[test]
fn a_part_of_a_batch_is_that_part_of_the_tensor() -> TestResult {
    // Images 1 and 2 of three, as a machine that makes only those asks for them, with the run's first image number 10.
    for build in [TorchBuild::Avx2, TorchBuild::Scalar] {
        for len in [4, 35] {
            let mut whole = TorchCpu::new(5, 0, 3, len).build(build);
            let mut part = TorchCpu::new(5, 10, 3, len).build(build);
            for d in [0, 1, 2, 0] {
                let values = draw(&mut whole, (3, len), d)?;
                for image in [1, 2] {
                    let mut out = vec![0.0; len];
                    part.fill(10 + image as u64, d, &mut out).map_err(said)?;
                    assert_eq!(out, values[image * len..][..len], "{build:?} {len} {d} {image}");
                }
            }
        }
    }
    Ok(())
}
