#!/bin/sh
# Unpacks SwiftShader (a Vulkan driver in software, poorer than lavapipe) and the validation layer that goes with it from
# Debian's package chromium-common, without installing it.
#
#     eval "$(tests/swiftshader.sh [FOLDER])"     # FOLDER: target/swiftshader
#
# prints the variables that make Vulkan programs use both. Needs apt-get, dpkg and the network at the first call.
set -eu
folder="${1:-$(dirname "$0")/../target/swiftshader}"
mkdir -p "$folder"
folder="$(cd "$folder" && pwd)"
libraries="$folder/usr/lib/chromium"
if [ ! -e "$folder/complete" ]; then
    (
        cd "$folder"
        rm -f chromium-common_*.deb
        apt-get download chromium-common >&2 || { apt-get update >&2 && apt-get download chromium-common >&2; }
        dpkg -x chromium-common_*.deb .
        rm -f chromium-common_*.deb
    )
    mkdir -p "$folder/layers"
    cat >"$folder/icd.json" <<EOF
{"file_format_version": "1.0.0", "ICD": {"library_path": "$libraries/libvk_swiftshader.so", "api_version": "1.3.0"}}
EOF
    cat >"$folder/layers/VkLayer_khronos_validation.json" <<EOF
{"file_format_version": "1.2.0", "layer": {"name": "VK_LAYER_KHRONOS_validation", "type": "GLOBAL",
 "library_path": "$libraries/libVkLayer_khronos_validation.so", "api_version": "1.3.0", "implementation_version": "1",
 "description": "Khronos validation layer", "instance_extensions": [
  {"name": "VK_EXT_debug_report", "spec_version": "9"}, {"name": "VK_EXT_debug_utils", "spec_version": "1"},
  {"name": "VK_EXT_layer_settings", "spec_version": "2"}, {"name": "VK_EXT_validation_features", "spec_version": "2"}]}}
EOF
    touch "$folder/complete"
fi
# Debian's own layer is older than this driver and complains of what it doesn't know.
echo "export VK_ICD_FILENAMES='$folder/icd.json' VK_DRIVER_FILES='$folder/icd.json' VK_LAYER_PATH='$folder/layers'"
