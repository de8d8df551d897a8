#!/usr/bin/env bash
# Installs the C library: libraries, header, pkg-config file and CMake package.
#
#     bindings/c/install.sh PREFIX            builds them first, optimised
#     bindings/c/install.sh PREFIX FOLDER     takes the libraries that lie in FOLDER
set -euo pipefail
prefix=${1:?where to? bindings/c/install.sh PREFIX}
here=$(cd "$(dirname "$0")" && pwd)
version=$(cargo pkgid --manifest-path "$here/Cargo.toml" | sed 's/.*[@#]//')

built=${2:-}
if [[ -z $built ]]; then
    cargo build --release --locked --manifest-path "$here/Cargo.toml"
    built=$(cargo metadata --format-version 1 --no-deps --locked --manifest-path "$here/Cargo.toml" |
        sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release
fi

mkdir -p "$prefix"/{lib/pkgconfig,lib/cmake/hyperscatter,include}
prefix=$(cd "$prefix" && pwd)
install -m 755 "$built/libhyperscatter_c.so" "$prefix/lib/"
install -m 644 "$built/libhyperscatter_c.a" "$prefix/lib/"
install -m 644 "$here/include/hyperscatter.h" "$prefix/include/"
# What the static library needs of the system: `rustc --print native-static-libs`.
escaped=$(printf %s "$prefix" | sed 's/[|&\\]/\\&/g')
filled() {
    sed -e "s|@prefix@|$escaped|" -e "s|@version@|$version|" -e "s|@minor@|${version%.*}|" \
        -e 's|@libraries@|-lpthread -ldl -lm -lgcc_s|' "$1"
}
filled "$here/pkgconfig/hyperscatter.pc.in" >"$prefix/lib/pkgconfig/hyperscatter.pc"
filled "$here/cmake/hyperscatter-config-version.cmake.in" \
    >"$prefix/lib/cmake/hyperscatter/hyperscatter-config-version.cmake"
install -m 644 "$here/cmake/hyperscatter-config.cmake" "$prefix/lib/cmake/hyperscatter/"
echo "hyperscatter $version is in $prefix"
