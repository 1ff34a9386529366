//! The shaders compiled from their GLSL by vulkano-shaders while this crate is built.

use std::sync::Arc;
use vulkano::device::Device;
use vulkano::shader::ShaderModule;
use vulkano::{Validated, VulkanError};

/// Creates a kernel's module on a device.
pub type Load = fn(Arc<Device>) -> Result<Arc<ShaderModule>, Validated<VulkanError>>;

macro_rules! modules {
    ($($name:ident $path:literal;)*) => {$(
        pub(crate) mod $name {
            pub(crate) mod storage {
                vulkano_shaders::shader! { ty: "compute", path: $path, include: ["include"] }
            }
            pub(crate) mod texel {
                vulkano_shaders::shader! { ty: "compute", path: $path, include: ["include"], define: [("TEXEL", "")] }
            }
        }
    )*};
}

/// Those that read from storage buffers alone.
macro_rules! storage_modules {
    ($($name:ident $path:literal;)*) => {$(
        pub(crate) mod $name {
            pub(crate) mod storage {
                vulkano_shaders::shader! { ty: "compute", path: $path, include: ["include"] }
            }
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
    gate "gate.comp";
    group_norm_partial "group_norm_partial.comp";
    group_norm_stats "group_norm_stats.comp";
    group_norm "group_norm.comp";
    join "join.comp";
    layer_norm "layer_norm.comp";
    modulate "modulate.comp";
    unpatchify "unpatchify.comp";
    upsample "upsample.comp";
}

storage_modules! {
    conv2d_split "conv2d_split.comp";
    conv2d_tile "conv2d_tile.comp";
    layer_norm_group "layer_norm_group.comp";
}
