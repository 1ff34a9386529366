#!/bin/sh
# Builds the command line with all its backends for AArch64 Linux and samples a pack with it under qemu-user. Prints
# `vectors N`: its instructions that multiply and add vectors of four f32 values.
#
#     unfog pack -o glyph.pack && tests/firmware/host.sh glyph.pack --backend cpu --steps 4 --out glyph.png
#
# Needs qemu-aarch64, aarch64-linux-gnu-gcc with its C library, and rustup's target aarch64-unknown-linux-gnu or a rustc with
# the sources of its standard library. Exits with 77 when one is missing.
set -eu
pack=$(realpath "$1")
shift
root=$(cd "$(dirname "$0")/../.." && pwd)
target=aarch64-unknown-linux-gnu
. "$root/tests/firmware/toolchain.sh"
need qemu-aarch64 qemu-user
need aarch64-linux-gnu-gcc "gcc-aarch64-linux-gnu and libc6-dev-arm64-cross"
choose_rustc std,panic_unwind

# The profile of tests: what computes is optimised. What doesn't is not optimised at all, which saves minutes.
folder=${CARGO_TARGET_DIR:-$root/target}/aarch64-host
CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    cargo build -q --locked $std --target "$target" --target-dir "$folder" --config profile.dev.debug=false \
    --config profile.dev.opt-level=0 --manifest-path "$root/host/Cargo.toml"
program=$folder/$target/debug/unfog
echo "vectors $(aarch64-linux-gnu-objdump -d "$program" | grep -c 'fmla[[:space:]]*v[0-9]*\.4s')"
exec qemu-aarch64 -L /usr/aarch64-linux-gnu "$program" sample --model "$pack" "$@"
