//! The shaders compiled from their GLSL at run time, to check the committed SPIR-V or to write it anew: by the compiler, and
//! with the options, of vulkano-shaders.

use crate::Reads;
use shaderc::{CompileOptions, Compiler, EnvVersion, ResolvedInclude, ShaderKind, TargetEnv};
use std::path::{Path, PathBuf};

/// The folder of the shaders in this source tree.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

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
