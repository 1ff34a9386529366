#!/usr/bin/env bash
# Runs every test of the workspace. On a machine without a Vulkan driver it installs a software one (lavapipe) and the
# Khronos validation layer with apt, as root or with sudo; elsewhere it says what to install, and the GPU tests say SKIPPED.
#
#   REQUIRE_GPU=1        fail instead of skipping
#   VK_ICD_FILENAMES     choose the drivers to test with
#   arguments            go to cargo test
set -euo pipefail
cd "$(dirname "$0")"

if ! command -v cargo >/dev/null; then
    echo "cargo was not found: install Rust from https://rustup.rs" >&2
    exit 1
fi

# True when one of the folders that a Vulkan loader searches holds a manifest that matches: subfolder, pattern.
has_manifest() {
    local folder
    for folder in "${XDG_CONFIG_HOME:-${HOME:-}/.config}" "${XDG_DATA_HOME:-${HOME:-}/.local/share}" \
        /etc /usr/local/etc /usr/share /usr/local/share; do
        compgen -G "$folder/vulkan/$1/$2" >/dev/null && return 0
    done
    return 1
}

missing=()
# C programs find the library through it.
command -v pkg-config >/dev/null || missing+=(pkgconf)
libraries=$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null || true)
if [ "$(uname -s)" = Linux ]; then
    [[ $libraries == *libvulkan.so.1* ]] || missing+=(libvulkan1)
    [ -n "${VK_ICD_FILENAMES:-}${VK_DRIVER_FILES:-}" ] || has_manifest icd.d '*.json' || missing+=(mesa-vulkan-drivers)
    [ -n "${VK_LAYER_PATH:-}" ] || has_manifest explicit_layer.d 'VkLayer_khronos_validation*.json' ||
        missing+=(vulkan-validationlayers)
fi

if [ "${#missing[@]}" -gt 0 ]; then
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    if command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }; then
        echo "Installing ${missing[*]}, to test on Vulkan and from C." >&2
        export DEBIAN_FRONTEND=noninteractive
        # The lists may be older than the mirror.
        "${as_root[@]}" apt-get update -q >&2 &&
            "${as_root[@]}" apt-get install -yq --no-install-recommends "${missing[@]}" >&2 ||
            echo "Installation failed; GPU tests will be skipped, unless REQUIRE_GPU is 1." >&2
    else
        echo "To test on Vulkan, install a Vulkan driver (Mesa's lavapipe will do), the Vulkan loader and the Khronos" \
            "validation layer; to test from C, pkg-config. On Debian:" \
            "apt install libvulkan1 mesa-vulkan-drivers vulkan-validationlayers pkgconf" >&2
    fi
fi

exec cargo test --locked --workspace "$@"
