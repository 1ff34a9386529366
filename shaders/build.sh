#!/bin/sh
# Compiles every shader anew into spirv/. Needs a C++ compiler, cmake, python3 and git, or SHADERC_LIB_DIR.
# A module that does not exist yet is created empty first, since the table embeds it.
set -eu
cd "$(dirname "$0")"
for shader in *.comp; do
    module="spirv/${shader%.comp}.spv"
    [ -e "$module" ] || : >"$module"
done
cargo run --release --features spirv --bin unfog-spirv -- --write
