#!/usr/bin/env bash
# Measures unfog beside its peers: torch and ncnn on the CPU, ncnn on Vulkan, torch on CUDA where there is a GPU. One go: makes a
# Python environment, builds unfog, and runs peers.py, whose first lines say what its options and its table mean.
#
#     tests/bench/peers.sh models/mednist-ddpm
#     tests/bench/peers.sh FOLDER_OF_SD15 --size 32 --batch 2 --rounds 1 --json sd15.json
#
#   VENV=FOLDER      the environment, made if it is missing [default: target/peers/venv]
#   UNFOG=PATH       a program to measure, instead of building one
#   TORCH_INDEX=URL  where pip finds torch, such as an index of builds for the CPU alone
#   VK_ICD_FILENAMES chooses the Vulkan driver
#   CLOCK=COMMAND    runs the part that takes times, such as a program that keeps others away
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
[ "$#" -gt 0 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
venv=${VENV:-$root/target/peers/venv}
if [ ! -e "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch diffusers transformers safetensors numpy ncnn pnnx
fi
unfog=${UNFOG:-}
if [ -z "$unfog" ]; then
    cargo build -q --locked --release --manifest-path "$root/host/Cargo.toml"
    unfog=${CARGO_TARGET_DIR:-$root/target}/release/unfog
fi
peers=("$venv/bin/python" "$root/tests/bench/peers.py")
# Threads that wait would take time from the others.
export OMP_WAIT_POLICY=PASSIVE
"${peers[@]}" "$@" --unfog "$unfog" --prepare-only
exec ${CLOCK:-} "${peers[@]}" "$@" --unfog "$unfog" --time-only
