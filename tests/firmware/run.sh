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
. ./toolchain.sh
need qemu-system-arm qemu-system-arm
need arm-none-eabi-gcc gcc-arm-none-eabi
choose_rustc

# Of their own each: two may run at a time.
folder=${CARGO_TARGET_DIR:-$PWD/../../target}/firmware-$language
# Builds the crate in the folder that comes first.
build() {
    crate=$1
    shift
    UNFOG_PACK="$pack" CARGO_TARGET_THUMBV7EM_NONE_EABIHF_LINKER=arm-none-eabi-gcc \
        cargo build -q --locked --release $std --target "$target" --target-dir "$folder" \
        --manifest-path "$crate/Cargo.toml" "$@"
}

case $language in
rust)
    build rust
    program=$folder/$target/release/unfog-firmware
    ;;
c)
    capi=../../core/capi
    # Without most samplers and as small as can be: a sixth more instructions, and 40 KB less flash.
    build "$capi" --no-default-features --config 'profile.release.opt-level="s"'
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
