//! The shaders compiled from their GLSL at run time, to check the committed SPIR-V or to write it anew: by the compiler, and
//! with the options, of vulkano-shaders.

use crate::Reads;
use shaderc::{CompileOptions, Compiler, EnvVersion, ResolvedInclude, ShaderKind, TargetEnv};
use std::path::Path;
use std::process::Command;

/// Compiles `<name>.comp` in `folder` for one way of reading, as vulkano-shaders 0.35 does: for Vulkan 1.0, not optimised.
///
/// # Errors
/// The compiler's message.
pub fn compile(folder: &Path, name: &str, reads: Reads) -> Result<Vec<u32>, String> {
    let path = folder.join(format!("{name}.comp"));
    let source = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let compiler = Compiler::new().ok_or("no compiler")?;
    let mut options = CompileOptions::new().ok_or("no compiler options")?;
    options.set_target_env(TargetEnv::Vulkan, EnvVersion::Vulkan1_0 as u32);
    if reads == Reads::Texel {
        options.add_macro_definition("TEXEL", Some(""));
    }
    options.set_include_callback(|file, _, _, _| {
        let path = folder.join("include").join(file);
        let content = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(ResolvedInclude { resolved_name: file.to_owned(), content })
    });
    let artifact = compiler
        .compile_into_spirv(&source, ShaderKind::Compute, &format!("{name}.comp"), "main", Some(&options))
        .map_err(|e| e.to_string())?;
    Ok(artifact.as_binary().to_vec())
}

/// Compiles `<name>.comp` in `folder` to `module` with the Khronos reference compiler, for what shaderc 0.8.3 can't: for Vulkan
/// 1.1, not optimised. The environment variable GLSLANG names the program, which must be of version 15 or later.
///
/// # Errors
/// That there is none; the compiler's message.
pub fn compile_with_glslang(folder: &Path, name: &str, module: &Path) -> Result<(), String> {
    let program = std::env::var_os("GLSLANG").unwrap_or_else(|| "glslangValidator".into());
    let mut command = Command::new(&program);
    command.args(["-V", "--target-env", "vulkan1.1", "--quiet", "-Iinclude", "-o"]).arg(module);
    let run = command.arg(format!("{name}.comp")).current_dir(folder).output();
    let output = run.map_err(|e| format!("{}: {e}", program.display()))?;
    let said = [output.stdout, output.stderr].concat();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&said).into_owned()) }
}
