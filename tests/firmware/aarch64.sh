#!/bin/sh
# Builds core's C interface and its example for AArch64 Linux and samples a pack with it under qemu-user.
#
#     unfog pack -o glyph.pack && tests/firmware/aarch64.sh glyph.pack 20
#
# Needs qemu-aarch64, aarch64-linux-gnu-gcc with its C library, and rustup's target aarch64-unknown-linux-gnu or a rustc with
# the sources of its standard library. Exits with 77 when one is missing.
set -eu
pack=$(realpath "$1")
shift
cd "$(dirname "$0")"
target=aarch64-unknown-linux-gnu
. ./toolchain.sh
need qemu-aarch64 qemu-user
need aarch64-linux-gnu-gcc "gcc-aarch64-linux-gnu and libc6-dev-arm64-cross"
choose_rustc

capi=../../core/capi
folder=${CARGO_TARGET_DIR:-$PWD/../../target}/aarch64
cargo build -q --locked --release $std --target "$target" --target-dir "$folder" --manifest-path "$capi/Cargo.toml"
program=$folder/sample
aarch64-linux-gnu-gcc -std=c11 -Wall -Wextra -Werror -O1 -static -I "$capi" "$capi/examples/sample.c" \
    "$folder/$target/release/libunfog_core.a" -o "$program"
exec qemu-aarch64 "$program" "$pack" "$@"
