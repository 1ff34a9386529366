//! `unfog-spirv`: compiles every shader and compares the result, word for word, with the committed module; with
//! `--write`, writes it instead.

use std::process::ExitCode;
use unfog_shaders::KERNELS;
use unfog_shaders::spirv::{compile, folder};

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
    for kernel in KERNELS {
        let result = if write { renew(kernel.name) } else { check(kernel.name) };
        if let Err(error) = result {
            eprintln!("{}: {error}", kernel.name);
            failed = true;
        }
    }
    if failed {
        return ExitCode::FAILURE;
    }
    println!("{} modules {}", KERNELS.len(), if write { "written" } else { "equal their GLSL" });
    ExitCode::SUCCESS
}

fn fresh(name: &str) -> Result<Vec<u8>, String> {
    Ok(compile(&folder(), name)?.into_iter().flat_map(u32::to_le_bytes).collect())
}

fn renew(name: &str) -> Result<(), String> {
    let path = folder().join("spirv").join(format!("{name}.spv"));
    std::fs::write(&path, fresh(name)?).map_err(|e| format!("{}: {e}", path.display()))
}

fn check(name: &str) -> Result<(), String> {
    let path = folder().join("spirv").join(format!("{name}.spv"));
    let committed = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    if committed == fresh(name)? { Ok(()) } else { Err("the committed module is not that of the GLSL".to_owned()) }
}
