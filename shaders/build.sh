#!/bin/sh
# Compiles every shader anew into spirv/. Needs a C++ compiler, cmake, python3 and git, or SHADERC_LIB_DIR.
# A module that does not exist yet is created empty first, since the table embeds it.
set -eu
cd "$(dirname "$0")"
for shader in *.comp; do
    for module in "spirv/${shader%.comp}.spv" "spirv/${shader%.comp}.texel.spv"; do
        [ -e "$module" ] || : >"$module"
    done
done
cargo run --release --features spirv --bin unfog-spirv -- --write
