//! The C interface of core: C programs link it, make the reference backend's bits, and can't break it. (The host's is tested
//! in `host/capi`.)

use std::path::{Path, PathBuf};
use std::process::Command;

use unfog::backend::Precision;
use unfog::sample::Options;
use unfog_tests::TestResult;
use unfog_tests::bits::{glyph_pack, hash, printed_hash, reference, run};
use unfog_tests::golden::root;

fn folder(name: &str) -> TestResult<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Compiles a C program against the static library for this machine; cargo builds the library, once.
fn compile(source: &str, folder: &Path) -> TestResult<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("core-capi");
    let capi = root().join("core/capi");
    run(Command::new(env!("CARGO"))
        .args(["build", "-q", "--locked", "--release", "--target-dir"])
        .arg(&target)
        .current_dir(&capi))?;
    let program = folder.join("program");
    run(Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-I"])
        .arg(&capi)
        .arg(root().join(source))
        .arg(target.join("release/libunfog_core.a"))
        .arg("-o")
        .arg(&program))?;
    Ok(program)
}

#[test]
fn a_c_program_makes_the_same_bits() -> TestResult {
    let folder = folder("capi-example")?;
    let (program, pack) = (compile("core/capi/examples/sample.c", &folder)?, glyph_pack(&folder, Precision::F32)?);
    for (sampler, steps, seed) in [("ddim", 20, 0), ("ddpm", 5, 3), ("unipc", 4, 1)] {
        let said = run(Command::new(&program).arg(&pack).args([steps.to_string(), seed.to_string(), sampler.into()]))?;
        let options = Options { sampler: Some(sampler.into()), steps: Some(steps), seed, ..Options::default() };
        let here = reference(&folder, "here", options)?;
        assert_eq!(printed_hash(&said)?, hash(&here), "{sampler}, {steps} steps, seed {seed}: {said}");
    }
    Ok(())
}

#[test]
fn whatever_c_gives_is_checked() -> TestResult {
    let folder = folder("capi-checks")?;
    run(Command::new(compile("tests/capi/core.c", &folder)?).arg(glyph_pack(&folder, Precision::F32)?))?;
    Ok(())
}

/// The header is what cbindgen makes of the sources.
fn header(crate_folder: &str, header: &str) -> TestResult {
    let crate_folder = root().join(crate_folder);
    let made =
        Command::new("cbindgen").args(["--quiet", "--config", "cbindgen.toml"]).current_dir(&crate_folder).output();
    match made {
        Ok(made) => {
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            let made = String::from_utf8(made.stdout)?;
            let committed = std::fs::read_to_string(crate_folder.join(header))?;
            assert!(
                made == committed,
                "run cbindgen --config cbindgen.toml --output {header} in {}",
                crate_folder.display()
            );
        }
        Err(e) => {
            println!("SKIPPED: cbindgen: {e}");
            assert!(std::env::var("REQUIRE_CBINDGEN").is_err(), "REQUIRE_CBINDGEN is set, and cbindgen: {e}");
        }
    }
    Ok(())
}

#[test]
fn the_header_of_core_is_that_of_its_sources() -> TestResult {
    header("core/capi", "unfog_core.h")
}

#[test]
fn the_header_of_the_host_is_that_of_its_sources() -> TestResult {
    header("host/capi", "unfog.h")
}
