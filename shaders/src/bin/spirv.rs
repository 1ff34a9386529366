//! `unfog-spirv`: compiles every shader and compares the result, word for word, with the committed module; with
//! `--write`, writes it instead, and the fingerprints that hold all modules to their GLSL. Modules that the compiler can't build are
//! written by another one (see [`unfog_shaders::spirv::compile_with_glslang`]) when their fingerprints are out of date.

use std::path::PathBuf;
use std::process::ExitCode;
use unfog_shaders::source::{fingerprint, folder};
use unfog_shaders::spirv::{compile, compile_with_glslang};
use unfog_shaders::{Asks, KERNELS, Kernel, Reads};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let write = match names[..] {
        [] => false,
        ["--write"] => true,
        _ => {
            eprintln!("usage: unfog-spirv [--write]");
            return ExitCode::from(2);
        }
    };
    let (mut failed, mut lines) = (false, String::new());
    let mut modules = 0;
    for (kernel, reads) in KERNELS.iter().flat_map(|kernel| ways(kernel).iter().map(move |&reads| (kernel, reads))) {
        modules += 1;
        let result = match (kernel.asks, write) {
            (Asks::Matrix, true) if known(kernel.name, reads).is_err() => {
                compile_with_glslang(&folder(), kernel.name, &module(kernel.name, reads))
            }
            (Asks::Matrix, _) => known(kernel.name, reads),
            (_, true) => renew(kernel.name, reads),
            (_, false) => check(kernel.name, reads).and_then(|()| known(kernel.name, reads)),
        };
        let line = result.and_then(|()| line(kernel.name, reads));
        match line {
            Ok(line) => lines.push_str(&line),
            Err(error) => {
                eprintln!("{}{}: {error}", kernel.name, reads.suffix());
                failed = true;
            }
        }
    }
    if write && !failed {
        if let Err(error) = std::fs::write(listed(), &lines) {
            eprintln!("{}: {error}", listed().display());
            failed = true;
        }
    }
    if failed {
        return ExitCode::FAILURE;
    }
    println!("{modules} modules {}", if write { "written" } else { "equal their GLSL" });
    ExitCode::SUCCESS
}

/// The ways in which a kernel reads, whatever its modules are so far.
fn ways(kernel: &Kernel) -> &'static [Reads] {
    if kernel.asks == Asks::Floor { &Reads::ALL } else { &[Reads::Storage] }
}

/// The file of the fingerprints.
fn listed() -> PathBuf {
    folder().join("spirv").join("fingerprints")
}

/// The line of a module as it is.
fn line(name: &str, reads: Reads) -> Result<String, String> {
    let path = module(name, reads);
    let line = std::fs::read(&path).and_then(|bytes| fingerprint(&folder(), name, reads.suffix(), &bytes));
    line.map_err(|e| format!("{}: {e}", path.display()))
}

/// Fails unless the fingerprints say that a module is that of its GLSL.
fn known(name: &str, reads: Reads) -> Result<(), String> {
    let all = std::fs::read_to_string(listed()).map_err(|e| format!("{}: {e}", listed().display()))?;
    let line = line(name, reads)?;
    let found = all.lines().any(|known| known == line.trim_end());
    if found { Ok(()) } else { Err("the committed module is not that of the GLSL".to_owned()) }
}

fn fresh(name: &str, reads: Reads) -> Result<Vec<u8>, String> {
    Ok(compile(&folder(), name, reads)?.into_iter().flat_map(u32::to_le_bytes).collect())
}

fn module(name: &str, reads: Reads) -> PathBuf {
    folder().join("spirv").join(format!("{name}{}.spv", reads.suffix()))
}

fn renew(name: &str, reads: Reads) -> Result<(), String> {
    let path = module(name, reads);
    std::fs::write(&path, fresh(name, reads)?).map_err(|e| format!("{}: {e}", path.display()))
}

fn check(name: &str, reads: Reads) -> Result<(), String> {
    let path = module(name, reads);
    let committed = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let same = committed == fresh(name, reads)?;
    if same { Ok(()) } else { Err("the committed module is not that of the GLSL".to_owned()) }
}
