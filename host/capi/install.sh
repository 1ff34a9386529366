#!/bin/sh
# Builds libunfog.so and libunfog.a and installs them, unfog.h and unfog.pc.
#
#     host/capi/install.sh PREFIX [FOLDER]
#
# PREFIX, such as /usr/local, gets include/ and lib/ (LIBDIR: somewhere else). FOLDER holds libraries that are built already.
# DESTDIR, if set, stands before both, for packages.
set -eu
[ $# -ge 1 ] || {
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
case $1 in /*) prefix=$1 ;; *) prefix=$PWD/$1 ;; esac
libdir=${LIBDIR:-$prefix/lib}
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -ge 2 ]; then
    built=$2
else
    cargo build --locked --release --manifest-path "$here/Cargo.toml"
    built=${CARGO_TARGET_DIR:-$here/../../target}/release
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/../../Cargo.toml" | head -n 1)
# What Rust's library needs of the system: what `rustc --print native-static-libs` says for Linux with glibc.
private="-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc"

mkdir -p "${DESTDIR:-}$prefix/include" "${DESTDIR:-}$libdir/pkgconfig"
install -m 644 "$here/unfog.h" "${DESTDIR:-}$prefix/include/unfog.h"
install -m 644 "$built/libunfog_capi.a" "${DESTDIR:-}$libdir/libunfog.a"
# Programs ask for the name with the version up to the first number that is not 0: what may change, changes it.
soname=libunfog.so.$(echo "$version" | sed 's/^\(0\.[0-9]*\|[0-9]*\)\..*/\1/')
install -m 755 "$built/libunfog_capi.so" "${DESTDIR:-}$libdir/$soname"
ln -sf "$soname" "${DESTDIR:-}$libdir/libunfog.so"
sed -e "s|@prefix@|$prefix|" -e "s|@libdir@|$libdir|" -e "s|@version@|$version|" -e "s|@private@|$private|" \
    "$here/unfog.pc.in" >"${DESTDIR:-}$libdir/pkgconfig/unfog.pc"
chmod 644 "${DESTDIR:-}$libdir/pkgconfig/unfog.pc"
