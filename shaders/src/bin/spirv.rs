//! `unfog-spirv`: compiles every shader and compares the result, word for word, with the committed module; with
//! `--write`, writes it instead.

use std::path::PathBuf;
use std::process::ExitCode;
use unfog_shaders::spirv::{compile, folder};
use unfog_shaders::{KERNELS, Reads};

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
    for (kernel, reads) in KERNELS.iter().flat_map(|kernel| Reads::ALL.map(|reads| (kernel, reads))) {
        let result = if write { renew(kernel.name, reads) } else { check(kernel.name, reads) };
        if let Err(error) = result {
            eprintln!("{}{}: {error}", kernel.name, reads.suffix());
            failed = true;
        }
    }
    if failed {
        return ExitCode::FAILURE;
    }
    println!("{} modules {}", KERNELS.len() * Reads::ALL.len(), if write { "written" } else { "equal their GLSL" });
    ExitCode::SUCCESS
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
