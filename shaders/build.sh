#!/bin/sh
# Compiles every shader anew into spirv/. Needs a C++ compiler, cmake, python3 and git, or SHADERC_LIB_DIR; for the kernel with
# cooperative matrices, if its GLSL has changed, glslangValidator 15 or later (GLSLANG names it).
# A module that does not exist yet is created empty first, since the table embeds it.
set -eu
cd "$(dirname "$0")"
for shader in *.comp; do
    for module in "spirv/${shader%.comp}.spv" "spirv/${shader%.comp}.texel.spv"; do
        [ -e "$module" ] || : >"$module"
    done
done
cargo run --release --features spirv --bin unfog-spirv -- --write
# Of kernels that share memory there is one module.
find spirv -name '*.spv' -size 0 -delete
