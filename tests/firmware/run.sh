#!/bin/sh
# Builds the firmware for a Cortex-M4F with a pack inside and runs it in QEMU; prints what it prints.
#
#     unfog pack -o glyph.pack && tests/firmware/run.sh glyph.pack
#
# Needs qemu-system-arm, arm-none-eabi-gcc (which links), and either rustup's target thumbv7em-none-eabihf or a rustc with the
# sources of its standard library (Debian: rustc-web and rust-web-src). Exits with 77 when one is missing.
set -eu
pack=$(realpath "$1")
cd "$(dirname "$0")/rust"
target=thumbv7em-none-eabihf
missing() {
    echo "missing: $1" >&2
    exit 77
}
command -v qemu-system-arm >/dev/null || missing qemu-system-arm
command -v arm-none-eabi-gcc >/dev/null || missing gcc-arm-none-eabi

std=
if ! { command -v rustup && rustup target list --installed | grep -qx "$target"; } >/dev/null 2>&1; then
    rustc=/usr/bin/rustc
    [ -e "$("$rustc" --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/core/Cargo.toml" ] ||
        missing "the target $target, or the packages rustc-web and rust-web-src"
    # Without the target's libraries core is built from its sources, which a stable compiler does only when told so.
    export RUSTC="$rustc" RUSTC_BOOTSTRAP=1
    std=-Zbuild-std=core
fi

folder=${CARGO_TARGET_DIR:-$PWD/../../../target}/firmware
UNFOG_PACK="$pack" CARGO_TARGET_THUMBV7EM_NONE_EABIHF_LINKER=arm-none-eabi-gcc \
    cargo build -q --locked --release $std --target "$target" --target-dir "$folder"
program=$folder/$target/release/unfog-firmware
arm-none-eabi-size "$program" >&2
exec qemu-system-arm -cpu cortex-m4 -machine mps2-an386 -nographic -icount shift=0 -semihosting-config enable=on,target=native \
    -kernel "$program" </dev/null
