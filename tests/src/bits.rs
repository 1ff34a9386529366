//! glyph-tiny's pictures on this machine's reference backend, bit by bit, for programs that must make the same.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use unfog::backend::Precision;
use unfog::backend::{Kind, Request};
use unfog::model::Model;
use unfog::pack::pack;
use unfog::sample::{Options, sample};
use unfog::stop::Stop;

use crate::TestResult;
use crate::golden::root;

/// FNV-1a, 64 bits, over the values' bits; the C programs and the firmware do the same.
pub fn hash(values: &[f32]) -> u64 {
    let bytes = values.iter().flat_map(|v| v.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// The hash that a program printed after `image `.
///
/// # Errors
/// It printed none.
pub fn printed_hash(said: &str) -> TestResult<u64> {
    let image =
        said.lines().find_map(|line| line.strip_prefix("image ")).ok_or_else(|| format!("no image in {said}"))?;
    Ok(u64::from_str_radix(image.trim(), 16)?)
}

/// glyph-tiny as a pack in `folder`.
///
/// # Errors
/// Those of packing.
pub fn glyph_pack(folder: &Path, precision: Precision) -> TestResult<PathBuf> {
    let file = folder.join(format!("glyph-{precision:?}.pack"));
    pack(&Model::open(None).map_err(|e| e.report())?, None, precision, &file).map_err(|e| e.report())?;
    Ok(file)
}

/// A picture as `options` ask, on the reference backend; files go to `folder`, under `name`.
///
/// # Errors
/// Those of sampling.
pub fn reference(folder: &Path, name: &str, options: Options) -> TestResult<Vec<f32>> {
    let backend = Request { kind: Kind::Reference, ..Request::default() };
    sampled(folder, name, Options { backend, ..options })
}

/// A picture as `options` ask; files go to `folder`, under `name`.
///
/// # Errors
/// Those of sampling.
pub fn sampled(folder: &Path, name: &str, options: Options) -> TestResult<Vec<f32>> {
    let path = folder.join(format!("{name}.safetensors"));
    let out = folder.join(format!("{name}.png"));
    let options = Options { latents_out: Some(path.clone()), out, ..options };
    sample(&options, &Stop::default(), &mut |_| ()).map_err(|e| e.report())?;
    latents(&path)
}

/// The values that `--latents-out` left.
///
/// # Errors
/// A file that can't be read.
pub fn latents(path: &Path) -> TestResult<Vec<f32>> {
    let bytes = std::fs::read(path)?;
    let x0 = safetensors::SafeTensors::deserialize(&bytes)?.tensor("x0")?.data().to_vec();
    let values = x0.chunks_exact(4).map(|b| b.try_into().map(f32::from_le_bytes));
    Ok(values.collect::<Result<_, _>>()?)
}

/// What a script of `tests/firmware` prints, and what it says of errors; `None` when it lacks a program that it needs.
///
/// # Errors
/// It fails, or REQUIRE_FIRMWARE is set and it lacks a program.
pub fn script(name: &str, arguments: &[&str], pack: &Path, target: &Path) -> TestResult<Option<[String; 2]>> {
    let output = Command::new(root().join("tests/firmware").join(name))
        .arg(pack)
        .args(arguments)
        .env("CARGO_TARGET_DIR", target)
        // What cargo tells its tests would otherwise reach the other compiler.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC")
        .output()?;
    let [said, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    if output.status.code() == Some(77) {
        println!("SKIPPED: {errors}");
        assert!(std::env::var("REQUIRE_FIRMWARE").is_err(), "REQUIRE_FIRMWARE is set, and this is {errors}");
        return Ok(None);
    }
    println!("{said}{errors}");
    if output.status.success() {
        Ok(Some([said, errors]))
    } else {
        Err(format!("{name} failed: {said}{errors}").into())
    }
}

/// What a command that must succeed prints.
///
/// # Errors
/// It can't be run, or fails; with all that it said.
pub fn run(command: &mut Command) -> TestResult<String> {
    let Output { status, stdout, stderr } = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let said = String::from_utf8_lossy(&stdout).into_owned();
    match status.success() {
        true => Ok(said),
        false => Err(format!("{command:?}: {status}\n{said}{}", String::from_utf8_lossy(&stderr)).into()),
    }
}
