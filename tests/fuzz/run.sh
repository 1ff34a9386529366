#!/usr/bin/env bash
# Fuzzes the readers of files that others made, each for SECONDS, two at a time:
#
#     tests/fuzz/run.sh [SECONDS (20) [TARGET ..]]
#
# Takes rustup's stable compiler on x86-64 Linux and a C++ compiler: it builds as `cargo fuzz` does. Where that is installed,
# `RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz TARGET` works too. New inputs are kept in tests/fuzz/corpus, and what
# crashes, hangs or takes more memory than it may lands in tests/fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-20}
targets=("${@:2}")
[ "${#targets[@]}" -gt 0 ] || targets=(pack recipe scheduler_config weights)

host=x86_64-unknown-linux-gnu
build=${CARGO_TARGET_DIR:-$PWD/target}
# Coverage and the address sanitizer are parts of the stable compiler that only this variable opens.
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="--cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"
# With --target, programs that only the build runs are built without all that.
cargo build --locked --release --target "$host" --target-dir "$build"

folder=/dev/shm
[ -d "$folder" ] || folder=${TMPDIR:-/tmp}
TMPDIR=$(mktemp -d -p "$folder" unfog-fuzz.XXXXXX)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

fuzz() {
    mkdir -p "corpus/$1" "artifacts/$1"
    # 256 MiB at once and 1 GiB in all, 10 seconds an input: the largest input is 16 KiB.
    "$build/$host/release/$1" "corpus/$1" "seeds/$1" -artifact_prefix="artifacts/$1/" -max_total_time="$seconds" \
        -max_len=16384 -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=256 -print_final_stats=1 >"$TMPDIR/$1.log" 2>&1
}

failed=0
for ((i = 0; i < ${#targets[@]}; i += 2)); do
    jobs=()
    for target in "${targets[@]:i:2}"; do
        fuzz "$target" &
        jobs+=("$target $!")
    done
    for job in "${jobs[@]}"; do
        target=${job% *}
        if wait "${job#* }"; then
            grep -E 'DONE|peak_rss' "$TMPDIR/$target.log" | sed "s/^/$target: /"
        else
            failed=1
            echo "$target failed:" >&2
            tail -n 60 "$TMPDIR/$target.log" >&2
        fi
    done
done
exit "$failed"
