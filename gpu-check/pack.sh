#!/usr/bin/env bash
# Builds the GPU check and packs it into a folder, which then runs on any x86-64 Linux with an NVIDIA driver
# (README.md).
#
#     gpu-check/pack.sh FOLDER
set -euo pipefail

LIMIT=$((60 * 1024 * 1024)) # bytes, of the whole folder
PYTHON=3.12                 # of the machine with the GPU

if [ $# -ne 1 ]; then
    echo "usage: gpu-check/pack.sh FOLDER" >&2
    exit 2
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
if [ -n "$(ls -A "$folder")" ]; then
    echo "$folder is not empty" >&2
    exit 2
fi
cd "$(dirname "$0")/.."

# The executable that a cargo command builds, as cargo says it.
executable() {
    local built
    built=$(cargo "$@" --package hyperscatter --locked --no-run --message-format json-render-diagnostics |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
    if [ ! -x "$built" ]; then
        echo "cargo $* built no executable: '$built'" >&2
        return 1
    fi
    echo "$built"
}

# Packs an executable, stripped.
pack() {
    mkdir -p "$(dirname "$folder/$2")"
    strip -o "$folder/$2" "$1"
    # Tests of missing, old and broken drivers start processes of their own with the emulated driver. They
    # look for it beside the executable.
    local emulator
    emulator=$(dirname "$1")/libhyperscatter_emulator.so
    if [ -e "$emulator" ]; then
        strip -o "$(dirname "$folder/$2")/$(basename "$emulator")" "$emulator"
    fi
}

# With debug assertions, as `cargo test` runs them, and without.
tests=$(executable test --test tests)
pack "$tests" dev/tests
tests=$(executable test --release --test tests)
pack "$tests" release/tests
bench=$(executable bench --bench gpu)
pack "$bench" release/gpu

# The Python package, as the wheel that maturin builds, its tests, and the peers that it is measured against.
# What they need besides torch comes along for the machine's Python, or else has to be there.
mkdir -p "$folder/peers" "$folder/wheels" "$folder/python-tests"
cp benches/peers/{peers,agreement,cases,contestants,measuring,tables}.py "$folder/peers/"
cp bindings/python/tests/{conftest,reference}.py "$folder/python-tests/"
cp bindings/python/tests/test_{autograd,compile,cuda,errors,functional,layer,pyg}.py "$folder/python-tests/"
if command -v maturin >/dev/null; then
    maturin build --quiet --release --locked --compatibility off \
        --manifest-path bindings/python/Cargo.toml --out "$folder/wheels"
    python3 -m pip download --quiet --no-deps --only-binary :all: --python-version "$PYTHON" \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest "$folder/wheels" \
        cffi pytest pluggy iniconfig packaging pygments ||
        echo "without cffi and pytest for Python $PYTHON, which pip could not download" >&2
else
    echo "there is no maturin: without the Python package, so its steps will be skipped" >&2
fi

mkdir -p "$folder/tests/fixtures"
cp tests/fixtures/*.safetensors "$folder/tests/fixtures/"
cp gpu-check/run.sh gpu-check/stand-in.sh "$folder/"
commit=$(git rev-parse --short=12 HEAD)
if [ -n "$(git status --porcelain)" ]; then
    commit+="-with-changes"
fi
echo "$commit" >"$folder/COMMIT"

size=$(du --summarize --apparent-size --block-size=1 "$folder" | cut -f 1)
# The oldest C library that has all symbols that the executables ask for.
library=$(strings "$folder"/*/tests "$folder/release/gpu" "$folder"/*/*.so | grep -o '^GLIBC_2\.[0-9]*' |
    sort -Vu | tail -n 1)
echo "$folder: commit $commit, $size of $LIMIT bytes, needs ${library:-an unknown C library}"
if [ "$size" -gt "$LIMIT" ]; then
    echo "$folder is over its size limit" >&2
    exit 1
fi
