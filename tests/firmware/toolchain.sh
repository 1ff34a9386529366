# Shared by the scripts beside it: what they need, and a compiler that can build for $target.

missing() {
    echo "missing: $1" >&2
    exit 77
}

# A command, and what Debian calls the package.
need() {
    command -v "$1" >/dev/null || missing "$1 (Debian: $2)"
}

# Sets std to what makes cargo build for $target, with core or those libraries of the standard one that are named.
choose_rustc() {
    std=
    if ! { command -v rustup && rustup target list --installed | grep -qx "$target"; } >/dev/null 2>&1; then
        rustc=/usr/bin/rustc
        [ -e "$("$rustc" --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/core/Cargo.toml" ] ||
            missing "the target $target, or the packages rustc-web and rust-web-src"
        # Without the target's libraries they are built from their sources, which a stable compiler does only when told so.
        export RUSTC="$rustc" RUSTC_BOOTSTRAP=1
        std=-Zbuild-std=${1:-core}
    fi
}
