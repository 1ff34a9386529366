//! `unfog-spirv`: compiles every shader and compares the result, word for word, with the committed module; with
//! `--write`, writes it instead. Modules that the compiler can't build are held to their GLSL by fingerprints, and written by
//! another compiler (see [`unfog_shaders::spirv::compile_with_glslang`]) when those are out of date.

use std::path::PathBuf;
use std::process::ExitCode;
use unfog_shaders::source::{fingerprints, folder};
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
    let mut failed = false;
    let mut modules = 0;
    for (kernel, reads) in KERNELS.iter().flat_map(|kernel| ways(kernel).iter().map(move |&reads| (kernel, reads))) {
        modules += 1;
        let result = match (kernel.asks, write) {
            (Asks::Matrix, true) => check_fingerprints(kernel.name).or_else(|_| renew_with_glslang(kernel.name)),
            (Asks::Matrix, false) => check_fingerprints(kernel.name),
            (_, true) => renew(kernel.name, reads),
            (_, false) => check(kernel.name, reads),
        };
        if let Err(error) = result {
            eprintln!("{}{}: {error}", kernel.name, reads.suffix());
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

fn check_fingerprints(name: &str) -> Result<(), String> {
    let read = |path: PathBuf| std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()));
    let there = read(module(name, Reads::Storage).with_extension("hash"))?;
    let now = fingerprints(&folder(), name, &read(module(name, Reads::Storage))?).map_err(|e| e.to_string())?;
    if there == now.as_bytes() { Ok(()) } else { Err("the committed module is not that of the GLSL".to_owned()) }
}

fn renew_with_glslang(name: &str) -> Result<(), String> {
    let path = module(name, Reads::Storage);
    compile_with_glslang(&folder(), name, &path)?;
    let hash = path.with_extension("hash");
    let written = std::fs::read(&path).and_then(|bytes| std::fs::write(&hash, fingerprints(&folder(), name, &bytes)?));
    written.map_err(|e| format!("{}: {e}", hash.display()))
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
