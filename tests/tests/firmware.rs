//! The reference backend gives the same bits on a Cortex-M4F as here, called from Rust and from C.

use std::path::Path;
use std::process::Command;

use unfog::sample::Options;
use unfog_tests::TestResult;
use unfog_tests::bits::{glyph_pack, hash, printed_hash, reference};
use unfog_tests::golden::root;

/// The number that a line of `said` gives, as in `stack 123 bytes`.
fn bytes(said: &str, what: &str) -> TestResult<usize> {
    let number = |line: &str| line.strip_prefix(what)?.strip_suffix(" bytes")?.trim().parse().ok();
    Ok(said.lines().find_map(number).ok_or_else(|| format!("no {what} in {said}"))?)
}

fn same_bits(language: &str) -> TestResult {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = target.join(format!("firmware-of-{language}"));
    std::fs::create_dir_all(&folder)?;
    let output = Command::new(root().join("tests/firmware/run.sh"))
        .arg(glyph_pack(&folder)?)
        .arg(language)
        .env("CARGO_TARGET_DIR", target)
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
    let here = reference(&folder, "here", Options { steps: Some(20), ..Options::default() })?;
    assert_eq!(printed_hash(&said)?, hash(&here));
    // The paint was on, and was not all gone.
    let stack = bytes(&said, "stack")?;
    assert!((256..1 << 16).contains(&stack), "{stack} bytes of stack");
    assert!(bytes(&said, "arena")? > 1 << 10);
    Ok(())
}

#[test]
fn a_microcontroller_makes_the_same_bits() -> TestResult {
    same_bits("rust")
}

#[test]
fn a_microcontroller_makes_the_same_bits_from_c() -> TestResult {
    same_bits("c")
}
