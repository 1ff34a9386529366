//! The shaders compiled from their GLSL: by vulkano-shaders while this crate is built, and by the same compiler with the same
//! options at run time, to check the committed SPIR-V or to write it anew.

use shaderc::{CompileOptions, Compiler, EnvVersion, ResolvedInclude, ShaderKind, TargetEnv};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vulkano::device::Device;
use vulkano::shader::ShaderModule;
use vulkano::{Validated, VulkanError};

/// Creates a kernel's module on a device.
pub type Load = fn(Arc<Device>) -> Result<Arc<ShaderModule>, Validated<VulkanError>>;

macro_rules! modules {
    ($($name:ident $path:literal;)*) => {$(
        pub(crate) mod $name {
            vulkano_shaders::shader! { ty: "compute", path: $path, include: ["include"] }
        }
    )*};
}

modules! {
    affine "affine.comp";
    attention "attention.comp";
    avg_pool "avg_pool.comp";
    concat "concat.comp";
    conv2d "conv2d.comp";
    embedding "embedding.comp";
    group_norm_partial "group_norm_partial.comp";
    group_norm_stats "group_norm_stats.comp";
    group_norm "group_norm.comp";
    upsample "upsample.comp";
}

/// The folder of the shaders in this source tree.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Compiles `<name>.comp` in `folder`, as vulkano-shaders 0.35 does: for Vulkan 1.0, not optimised.
///
/// # Errors
/// The compiler's message.
pub fn compile(folder: &Path, name: &str) -> Result<Vec<u32>, String> {
    let path = folder.join(format!("{name}.comp"));
    let source = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let compiler = Compiler::new().ok_or("no compiler")?;
    let mut options = CompileOptions::new().ok_or("no compiler options")?;
    options.set_target_env(TargetEnv::Vulkan, EnvVersion::Vulkan1_0 as u32);
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
