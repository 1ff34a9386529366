#!/bin/sh
# Builds the firmware for a Cortex-M4F with a pack inside and runs it in QEMU; prints what it prints.
#
#     unfog pack -o glyph.pack && tests/firmware/run.sh glyph.pack [rust|c]
#
# Needs qemu-system-arm, arm-none-eabi-gcc (which links), and either rustup's target thumbv7em-none-eabihf or a rustc with the
# sources of its standard library (Debian: rustc-web and rust-web-src). Exits with 77 when one is missing.
set -eu
pack=$(realpath "$1")
language=${2:-rust}
cd "$(dirname "$0")"
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

# Of their own each: two may run at a time.
folder=${CARGO_TARGET_DIR:-$PWD/../../target}/firmware-$language
# Builds the crate at $1.
build() {
    UNFOG_PACK="$pack" CARGO_TARGET_THUMBV7EM_NONE_EABIHF_LINKER=arm-none-eabi-gcc \
        cargo build -q --locked --release $std --target "$target" --target-dir "$folder" --manifest-path "$1/Cargo.toml"
}

case $language in
rust)
    build rust
    program=$folder/$target/release/unfog-firmware
    ;;
c)
    capi=../../core/capi
    build "$capi"
    program=$folder/unfog-firmware-c
    # A path with quotes or backslashes would end the assembler's string.
    cp "$pack" "$folder/model.pack"
    (cd c && arm-none-eabi-gcc -mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16 -std=c11 -Wall -Wextra -Werror -Os \
        -ffreestanding -ffunction-sections -fdata-sections -nostdlib -Wl,--gc-sections -T link.ld -I "../$capi" \
        "-DPACK=\"$folder/model.pack\"" startup.c main.c pack.S "$folder/$target/release/libunfog_core.a" -lgcc -o "$program")
    ;;
*)
    echo "rust or c, not $language" >&2
    exit 2
    ;;
esac
arm-none-eabi-size "$program" >&2
exec qemu-system-arm -cpu cortex-m4 -machine mps2-an386 -nographic -icount shift=0 -semihosting-config enable=on,target=native \
    -kernel "$program" </dev/null
