//! The reference backend gives the same bits on a Cortex-M4F as here.

use std::path::Path;
use std::process::Command;

use unfog::backend::{Kind, Request};
use unfog::model::Model;
use unfog::pack::{Storage, pack};
use unfog::sample::{Options, sample};
use unfog::stop::Stop;
use unfog_tests::TestResult;
use unfog_tests::golden::root;

/// FNV-1a, 64 bits, over the values' bits; the firmware does the same.
fn hash(values: &[f32]) -> u64 {
    let bytes = values.iter().flat_map(|v| v.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// The hash of glyph-tiny's first picture, 20 steps, on this machine's reference backend.
fn here(folder: &Path) -> TestResult<u64> {
    let latents = folder.join("firmware.safetensors");
    let options = Options {
        steps: Some(20),
        backend: Request { kind: Kind::Reference, ..Request::default() },
        latents_out: Some(latents.clone()),
        out: folder.join("firmware.png"),
        ..Options::default()
    };
    sample(&options, &Stop::default(), &mut |_| ()).map_err(|e| e.report())?;
    let bytes = std::fs::read(latents)?;
    let x0 = safetensors::SafeTensors::deserialize(&bytes)?.tensor("x0")?.data().to_vec();
    let values = x0.chunks_exact(4).map(|b| b.try_into().map(f32::from_le_bytes));
    Ok(hash(&values.collect::<Result<Vec<_>, _>>()?))
}

#[test]
fn a_microcontroller_makes_the_same_bits() -> TestResult {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join("glyph.pack");
    pack(&Model::open(None).map_err(|e| e.report())?, None, Storage::F32, &file).map_err(|e| e.report())?;
    let output = Command::new(root().join("tests/firmware/run.sh"))
        .arg(&file)
        .env("CARGO_TARGET_DIR", folder)
        // What cargo tells its tests would otherwise reach the other compiler.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC")
        .output()?;
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(77) {
        println!("SKIPPED: {errors}");
        assert!(std::env::var("REQUIRE_FIRMWARE").is_err(), "REQUIRE_FIRMWARE is set, and this is {errors}");
        return Ok(());
    }
    println!("{said}{errors}");
    assert!(output.status.success(), "{said}{errors}");
    let image = said.lines().find_map(|line| line.strip_prefix("image ")).ok_or("no image")?;
    assert_eq!(u64::from_str_radix(image.trim(), 16)?, here(folder)?);
    Ok(())
}
