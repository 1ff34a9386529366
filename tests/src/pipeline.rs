//! Runs of whole pipelines, compared with what diffusers made of the same noise.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, serialize_to_file, tensor::TensorView};
use serde_json::Value;
use unfog::backend::{Kind, Request};
use unfog::cpu::CpuOptions;
use unfog::image::{Picture, load};
use unfog::recipe::Recipe;
use unfog::sample::{Options, sample};
use unfog::stop::Stop;

use crate::TestResult;
use crate::backend::{Backend, gpus};
use crate::compare::close;
use crate::golden::{Golden, Tensor, root};
use crate::tolerance::Tolerance;

/// One backend of each kind, with its name on the command line.
///
/// # Errors
/// Those of [`gpus`].
pub fn kinds() -> TestResult<Vec<(Kind, Backend)>> {
    let mut kinds = vec![(Kind::Reference, Backend::Reference), (Kind::Cpu, Backend::Cpu(CpuOptions::default()))];
    kinds.extend(
        gpus()?.first().map(|gpu| (Kind::Vulkan, Backend::Vulkan { gpu, options: unfog_gpu::Options::default() })),
    );
    Ok(kinds)
}

/// An empty folder `parent/name`.
///
/// # Errors
/// Those of the file system.
pub fn folder(parent: &str, name: &str) -> TestResult<PathBuf> {
    let folder = Path::new(parent).join(name);
    match fs::remove_dir_all(&folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
        _ => fs::create_dir_all(&folder)?,
    }
    Ok(folder)
}

/// Writes noise as a file for `--noise-in`: `[draws, n, c, h, w]`, or `[n, c, h, w]`, drawn once.
///
/// # Errors
/// Those of the file system.
pub fn write_noise(path: &Path, noise: &Tensor) -> TestResult {
    let bytes: Vec<u8> = noise.values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let draws: &[usize] = if noise.shape.len() == 4 { &[1] } else { &[] };
    let shape = [draws, &noise.shape[..]].concat();
    Ok(serialize_to_file([("noise", TensorView::new(Dtype::F32, shape, &bytes)?)], None, path)?)
}

/// The most steps of 255 that a picture is apart from `values` `[channels, height, width]`, from 0 to 1.
///
/// # Errors
/// Values that are no picture.
pub fn steps_apart(picture: &Picture, values: &[f32], [channels, height, width]: [usize; 3]) -> TestResult<u8> {
    let values: Vec<f32> = values.iter().map(|v| v * 2.0 - 1.0).collect();
    let want = Picture::from_values(&values, width as u32, height as u32, channels as u32).map_err(|e| e.report())?;
    let apart = picture.pixels().iter().zip(want.pixels()).map(|(a, b)| a.abs_diff(*b));
    Ok(apart.max().unwrap_or(0))
}

/// Runs `options`, whose noise is given, into `folder`. Returns the recipe; how far the latents are from the tensor `latents` of the case;
/// and how many of 255 steps the pictures are apart from its `image` at most.
///
/// # Errors
/// Those of the run; latents further apart than `tolerance`; pictures that are more than a step apart.
pub fn compare(
    what: &str,
    options: Options,
    folder: &Path,
    golden: &Golden,
    number: usize,
    tolerance: Tolerance,
) -> TestResult<(Recipe, f64, u8)> {
    let (latents, image) = (golden.part(number, "latents")?, golden.part(number, "image")?);
    let path = folder.join("latents.safetensors");
    let options = Options { latents_out: Some(path.clone()), out: folder.join("{i}.png"), ..options };
    let outcome = sample(&options, &Stop::default(), &mut |_| {}).map_err(|e| format!("{what}: {}", e.report()))?;
    let got = Golden::read_file(&path)?;
    let got = got.tensor("x0")?;
    if got.shape != latents.shape {
        return Err(format!("{what}: latents of {:?}, expected {:?}", got.shape, latents.shape).into());
    }
    let far = close(what, &got.values, &latents.values, tolerance)?;
    let [_, channels, height, width] = image.shape[..] else { return Err("no pictures".into()) };
    let mut most = 0;
    for (i, image) in image.values.chunks_exact(channels * height * width).enumerate() {
        let picture = load(&folder.join(format!("{i}.png"))).map_err(|e| e.report())?;
        most = most.max(steps_apart(&picture, image, [channels, height, width])?);
    }
    // What lies between two of the 255 steps may be rounded either way.
    match most {
        0 | 1 => Ok((outcome.recipe, far, most)),
        _ => Err(format!("{what}: pictures are {most} steps of 255 apart").into()),
    }
}

/// The folder of one of the goldens' pipelines.
pub fn pipeline(name: &str) -> PathBuf {
    root().join("tests/golden/pipelines").join(name)
}

/// The options that a golden's case names.
pub fn options(case: &Value, kind: Kind) -> Options {
    Options {
        model: case["pipeline"].as_str().map(pipeline),
        prompt: case["prompt"].as_str().map(str::to_owned),
        negative: case["negative"].as_str().map(str::to_owned),
        guidance: case["guidance"].as_f64().map(|g| g as f32),
        steps: case["steps"].as_u64().map(|n| n as usize),
        backend: Request { kind, ..Request::default() },
        ..Options::default()
    }
}

/// Runs `options`; `what` names the case.
///
/// # Errors
/// The run's, in words.
pub fn run(options: &Options, what: &str) -> TestResult<Recipe> {
    let outcome = sample(options, &Stop::default(), &mut |_| {}).map_err(|e| format!("{what}: {}", e.report()))?;
    Ok(outcome.recipe)
}

/// Runs `options` from this noise in a folder, where the pictures are to be. The recipe, and what the sampler leaves.
///
/// # Errors
/// Those of [`run`].
pub fn latents(options: Options, noise: &Tensor, folder: &Path, what: &str) -> TestResult<(Recipe, Tensor)> {
    let (noise_in, latents) = (folder.join("noise.safetensors"), folder.join("latents.safetensors"));
    write_noise(&noise_in, noise)?;
    let options = Options {
        count: u32::try_from(noise.shape[0])?,
        noise_in: Some(noise_in),
        latents_out: Some(latents.clone()),
        out: folder.join("{i}.png"),
        ..options
    };
    let recipe = run(&options, what)?;
    Ok((recipe, Golden::read_file(&latents)?.tensor("x0")?.clone()))
}

/// The one line that a run is refused with.
///
/// # Errors
/// A run that isn't refused.
pub fn refusal(options: &Options) -> TestResult<String> {
    match sample(options, &Stop::default(), &mut |_| {}) {
        Ok(_) => Err(format!("this is not refused: {options:?}").into()),
        Err(e) => Ok(e.report()),
    }
}
