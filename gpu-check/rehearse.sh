#!/usr/bin/env bash
# Runs the tests as on a real driver, with the emulated one in its place, without packing anything
# (README.md).
#
#     gpu-check/rehearse.sh [ARGUMENTS OF THE TESTS]
set -euo pipefail
cd "$(dirname "$0")/.."
. gpu-check/stand-in.sh

# With the features that the whole workspace gives its packages: `cargo test --workspace` has the same tests.
tests=$(cargo test --workspace --test tests --locked --no-run --message-format json-render-diagnostics |
    sed -n "s|.*\"src_path\":\"$PWD/tests/main.rs\".*\"executable\":\"\([^\"]*\)\".*|\1|p")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export HYPERSCATTER_GPU=real
stand_in "$(dirname "$tests")/libhyperscatter_emulator.so" "$scratch"
"$tests" "$@"
