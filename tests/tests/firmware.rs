//! The reference backend gives the same bits on a Cortex-M4F and on AArch64 as here, called from Rust and from C, within the
//! memory of a small microcontroller. The command line runs on AArch64 too, its CPU backend with vectors.

use std::io::Write;
use std::path::{Path, PathBuf};

use unfog::backend::Precision;
use unfog::backend::{Kind, Request};
use unfog::sample::Options;
use unfog_tests::TestResult;
use unfog_tests::bits::{glyph_pack, hash, latents, printed_hash, reference, sampled, script};
use unfog_tests::compare::{close, same_bits};
use unfog_tests::tolerance;

/// Bytes of flash that a program with 8-bit weights may take, and of RAM that any may: what small boards have.
const FLASH: usize = 320 << 10;
const RAM: usize = 112 << 10;

/// The number that a line of `said` gives, as in `stack 123 bytes`.
fn bytes(said: &str, what: &str) -> TestResult<usize> {
    let number = |line: &str| line.strip_prefix(what)?.strip_suffix(" bytes")?.trim().parse().ok();
    Ok(said.lines().find_map(number).ok_or_else(|| format!("no {what} in {said}"))?)
}

fn folder(name: &str) -> TestResult<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// What the reference backend here makes of a pack in 20 steps.
fn here(folder: &Path, pack: &Path) -> TestResult<u64> {
    let options = Options { model: Some(pack.to_path_buf()), steps: Some(20), ..Options::default() };
    Ok(hash(&reference(folder, "here", options)?))
}

fn microcontroller(language: &str, precision: Precision) -> TestResult {
    let folder = folder(&format!("firmware-of-{language}"))?;
    let pack = glyph_pack(&folder, precision)?;
    let Some([said, errors]) = script("run.sh", &[language], &pack, &folder)? else { return Ok(()) };
    assert_eq!(printed_hash(&said)?, here(&folder, &pack)?);
    // text, data and bss, as arm-none-eabi-size prints them under their names.
    let sizes = errors.lines().skip_while(|line| !line.trim_start().starts_with("text")).nth(1).ok_or("no sizes")?;
    let sizes = sizes.split_whitespace().take(3).map(str::parse).collect::<Result<Vec<usize>, _>>()?;
    let [text, data, bss] = sizes[..] else { return Err("no sizes".into()) };
    let stack = bytes(&said, "stack")?;
    let (flash, ram) = (text + data, data + bss + stack);
    println!("{language} {precision:?}: {flash} bytes of flash, {ram} of RAM, {stack} of which are stack");
    // The paint was on, and was not all gone.
    assert!((256..1 << 16).contains(&stack), "{stack} bytes of stack");
    assert!(ram <= RAM, "{ram} bytes of RAM");
    assert!(precision != Precision::Int8 || flash <= FLASH, "{flash} bytes of flash");
    Ok(())
}

#[test]
fn a_microcontroller_makes_the_same_bits() -> TestResult {
    // One after the other: they share what is built.
    microcontroller("rust", Precision::F32)?;
    microcontroller("rust", Precision::Int8)
}

#[test]
fn a_microcontroller_makes_the_same_bits_from_c() -> TestResult {
    microcontroller("c", Precision::Int8)
}

#[test]
fn aarch64_makes_the_same_bits() -> TestResult {
    let folder = folder("aarch64")?;
    for precision in [Precision::F32, Precision::Int8] {
        let pack = glyph_pack(&folder, precision)?;
        let Some([said, _]) = script("aarch64.sh", &["20"], &pack, &folder)? else { return Ok(()) };
        assert_eq!(printed_hash(&said)?, here(&folder, &pack)?, "{precision:?}");
    }
    Ok(())
}

#[test]
fn the_command_line_runs_on_aarch64_with_vectors() -> TestResult {
    if std::env::var_os("SKIP_AARCH64_HOST").is_some() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: the command line on AArch64 (SKIP_AARCH64_HOST)");
        return Ok(());
    }
    let folder = folder("aarch64-host")?;
    let pack = glyph_pack(&folder, Precision::F32)?;
    let options = |kind| Options {
        model: Some(pack.clone()),
        steps: Some(4),
        backend: Request { kind, ..Request::default() },
        ..Options::default()
    };
    let there = |name: &str| -> TestResult<Option<(String, Vec<f32>)>> {
        let [x0, out] = ["safetensors", "png"].map(|end| folder.join(format!("{name}-there.{end}")));
        let (x0, out) = (x0.display().to_string(), out.display().to_string());
        let arguments = ["--backend", name, "--steps", "4", "--latents-out", &x0, "--out", &out];
        let Some([said, _]) = script("host.sh", &arguments, &pack, &folder)? else { return Ok(None) };
        Ok(Some((said, latents(Path::new(&x0))?)))
    };
    let Some((said, cpu)) = there("cpu")? else { return Ok(()) };
    let vectors = said.lines().find_map(|line| line.strip_prefix("vectors ")).ok_or("no count of vectors")?;
    // Nothing makes these instructions of plain Rust: they come from the kernels of matrix products and activations.
    assert!(vectors.trim().parse::<usize>()? > 100, "{vectors} multiplications of vectors");
    let here = sampled(&folder, "cpu-here", options(Kind::Cpu))?;
    let far = close("the cpu backend on AArch64", &cpu, &here, tolerance::another_processor())?;
    println!("cpu, AArch64 against {}: {far:.1e} apart", std::env::consts::ARCH);
    let Some((_, twin)) = there("reference")? else { return Ok(()) };
    same_bits("the reference on AArch64", &twin, &sampled(&folder, "reference-here", options(Kind::Reference))?)
}
