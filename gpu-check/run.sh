#!/usr/bin/env bash
# Runs all tests, compute-sanitizer and the benchmarks on a real GPU. It runs in a folder that pack.sh made,
# and needs nothing but an NVIDIA driver (README.md).
#
#     ./run.sh OUT [STEP...]
#
# Without names of steps it runs all of them.
#
# On a machine without a GPU, HYPERSCATTER_STAND_IN=1 puts the emulated driver in the real one's place. That
# rehearses this script, and the tests as they run on a real driver. Times and benchmarks mean nothing then.
#
# OUT gets summary.md, a log for each step, and peers/ with tables, a chart and JSON; nothing else. The script
# fails if a step failed, ran out of time, or did not do what it is here for. What was skipped is in the
# summary.
set -u

# How long each step may take, in seconds. On an H100 the tests took 83, in release 51, the determinism 12,
# memcheck 75, initcheck 64 and synccheck 51.
declare -A BUDGET=(
    [tests]=150
    [tests-release]=90
    [determinism]=40
    [memcheck]=180
    [racecheck]=240
    [initcheck]=150
    [synccheck]=120
    [benches]=260
    [python]=300
    [peers]=480
)

# The tests that run under compute-sanitizer, which makes them many times slower: those of the CUDA backend
# itself, which call every operator in both tiers, and the suites of results on the GPU. Left out are
# cuda::shipping, which starts processes with the emulated driver, and cuda::unvalidated and $WRONG_TABLES,
# which have many cases, and make kernels read what nobody wrote.
BACKEND=(
    cuda::calls:: cuda::captures:: cuda::corrupted:: cuda::errors:: cuda::graphs:: cuda::lifetimes::
    cuda::paths:: cuda::raw:: cuda::window_tables::
)
SUITES=(
    golden:: saved_z:: operands:: steps:: convolutions:: gradients:: misalignment:: weight_scale:: epilogue::
    matrix:: layer::
)
WRONG_TABLES=cuda::paths::plausible_values_of_dense_tables_are_survived
# Racecheck follows every access to shared memory: fewer suites, and few cases of each property.
FEWER_SUITES=(
    golden::convolutions_have_the_golden_results::cuda::f32
    golden::convolutions_from_a_saved_z_have_the_golden_results::cuda::f32
    golden::means_have_the_golden_results::cuda::f32
    saved_z:: steps::steps_have_the_bits_of_the_cpu:: convolutions::convolutions_have_the_bits_of_the_cpu::
    gradients:: weight_scale::weights_at_the_ends_of_the_range_cancel_out::
    epilogue::an_epilogue_is_its_composition:: matrix::matrices_have_the_bits_of_the_cpu::
    cuda::layer::a_layer_of_pairs_is_its_definition
)
FEWER_CASES=4

# These have a step of their own: fifty calls of each operator, whose results are compared bit for bit.
REPEATED=cuda::determinism::

if [ $# -lt 1 ]; then
    echo "usage: ./run.sh OUT [STEP...]" >&2
    exit 2
fi
root=$(cd "$(dirname "$0")" && pwd)
if [ ! -x "$root/dev/tests" ]; then
    echo "$root has no dev/tests: make a folder with gpu-check/pack.sh, and run the run.sh in there" >&2
    exit 2
fi
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
if [ -n "$(ls -A "$out")" ]; then
    echo "$out is not empty" >&2
    exit 2
fi
# Temporary files go here.
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" || exit 2
shift
for name in "$@"; do
    if [ -z "${BUDGET[$name]:-}" ]; then
        echo "there is no step $name, but: ${!BUDGET[*]}" >&2
        exit 2
    fi
done
wanted=${*:-${!BUDGET[*]}}
is_wanted() {
    case " $wanted " in
    *" $1 "*) return 0 ;;
    *) return 1 ;;
    esac
}

export HYPERSCATTER_GPU=real         # tests and benchmarks fail without the real driver
export HYPERSCATTER_ROOT=$root       # where the tests find their fixtures
export CRITERION_HOME=$scratch       # not beside this script
export PROPTEST_DISABLE_FAILURE_PERSISTENCE=1
export RUST_BACKTRACE=0
unset HYPERSCATTER_EMULATED HYPERSCATTER_BENCH_SMALL HYPERSCATTER_TOOL PROPTEST_CASES

if [ "${HYPERSCATTER_STAND_IN:-}" = 1 ]; then
    . "$root/stand-in.sh"
    stand_in "$root/release/libhyperscatter_emulator.so" "$scratch"
    for name in "${!BUDGET[@]}"; do
        BUDGET[$name]=$((10 * BUDGET[$name]))
    done
else
    unset HYPERSCATTER_STAND_IN
fi

table=()
commands=()
failures=0

# A line of the table: step, outcome, seconds, remark.
report() {
    table+=("| $1 | $2 | $3 | $4 |")
    printf '%-14s %-12s %4s s  %s\n' "$1" "$2" "$3" "$4"
    case $2 in
    pass | skip) ;;
    *) failures=$((failures + 1)) ;;
    esac
}

# What a log must show besides the exit code of its step; prints a remark, or what is missing.
tests_ran() {
    local passed skipped
    passed=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$1" | tail -n 1)
    skipped=$(grep -c '^SKIPPED' "$1")
    if [ "${passed:-0}" -eq 0 ]; then
        echo "no test has passed"
        return 1
    fi
    echo "$passed passed, $skipped times something was skipped (SKIPPED in the log)"
}

backend_tests_ran() {
    # Of those that cannot pass without a device.
    if ! grep -q '^test cuda::calls::.* \.\.\. ok$' "$1"; then
        echo "no test of calls of the CUDA backend has passed"
        return 1
    fi
    tests_ran "$1"
}

repeats_ran() {
    if ! grep -q "^test $REPEATED.* \.\.\. ok$" "$1"; then
        echo "no repeated calls have passed"
        return 1
    fi
    tests_ran "$1"
}

# Racecheck counts hazards, the others errors.
sanitizer_ran() {
    if ! grep -qE '(ERROR SUMMARY: 0 errors|RACECHECK SUMMARY: 0 hazards)' "$1"; then
        echo "compute-sanitizer has no summary without errors"
        return 1
    fi
    backend_tests_ran "$1"
}

benches_ran() {
    if ! grep -q '% of copy' "$1"; then
        echo "the table is missing"
        return 1
    fi
    local left_out
    left_out=$(grep -c '^LEFT OUT' "$1")
    echo "the table is below, $left_out runs were left out for want of time"
}

# The tests that need a device are there, and none of them was skipped.
python_ran() {
    if grep -q 'needs a CUDA device' "$1" || ! grep -qE '[0-9]+ passed' "$1"; then
        echo "the tests on the device did not run"
        return 1
    fi
    grep -E '[0-9]+ passed' "$1" | tail -n 1
}

peers_ran() {
    if ! grep -q '^| hyperscatter | documented | \[G, n, F\] | [0-9]' "$1"; then
        echo "there are no times of the package"
        return 1
    fi
    local inexact left_out
    inexact=$(grep -c '^INEXACT' "$1")
    left_out=$(grep -c '^LEFT OUT' "$1")
    echo "all that was timed agrees but for $inexact rows of inexact sums of bf16, and $left_out cases were" \
        "left out for want of time"
}

# step NAME CHECK COMMAND...: runs a command within its budget, its output in NAME.log.
step() {
    local name=$1 check=$2 begin=$SECONDS code remark
    shift 2
    is_wanted "$name" || return 0
    local log=$out/$name.log
    commands+=("$name: ${*//"$root"/.}")
    timeout --kill-after=5 "${BUDGET[$name]}" "$@" >"$log" 2>&1
    code=$?
    local took=$((SECONDS - begin))
    if [ $code -eq 124 ] || [ $code -eq 137 ]; then
        report "$name" "OUT OF TIME" "$took" "stopped after ${BUDGET[$name]} s"
    elif [ $code -ne 0 ]; then
        remark=$(grep -E '^test result|^nothing was measured|^!!!|ERROR SUMMARY|RACECHECK SUMMARY' "$log" |
            tail -n 1)
        report "$name" FAIL "$took" "exit code $code. ${remark//|/ }"
    elif remark=$("$check" "$log"); then
        report "$name" pass "$took" "$remark"
    else
        report "$name" FAIL "$took" "$remark"
    fi
}

date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
if [ -n "${HYPERSCATTER_STAND_IN:-}" ]; then
    device="none: the emulated driver stands in for one, and times and benchmarks mean nothing"
elif ! command -v nvidia-smi >/dev/null; then
    device="unknown, there is no nvidia-smi on this machine"
elif ! device=$(nvidia-smi --query-gpu=name,compute_cap,memory.total,driver_version \
    --format=csv,noheader 2>&1); then
    device="unknown, nvidia-smi fails: ${device//$'\n'/ }"
fi
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)

step tests backend_tests_ran "$root/dev/tests" --show-output --skip "$REPEATED"
step tests-release backend_tests_ran "$root/release/tests" --show-output --skip "$REPEATED"
step determinism repeats_ran "$root/release/tests" --show-output "$REPEATED"
for tool in memcheck racecheck initcheck synccheck; do
    # The tests are told of the tool: memcheck counts calls that the driver refuses.
    environment=(HYPERSCATTER_TOOL=$tool)
    tested=("${BACKEND[@]}" "${SUITES[@]}")
    if [ $tool = racecheck ]; then
        environment+=(PROPTEST_CASES=$FEWER_CASES)
        tested=("${BACKEND[@]}" "${FEWER_SUITES[@]}")
    fi
    is_wanted $tool || continue
    if [ -n "${HYPERSCATTER_STAND_IN:-}" ]; then
        report $tool skip 0 "compute-sanitizer needs a GPU"
    elif [ -n "$sanitizer" ]; then
        # One test at a time: they take turns on the device anyway.
        step $tool sanitizer_ran env "${environment[@]}" "$sanitizer" --tool $tool --error-exitcode 1 \
            "$root/dev/tests" --show-output --test-threads 1 --skip ::cpu:: --skip "$WRONG_TABLES" \
            "${tested[@]}"
    else
        report $tool skip 0 "there is no compute-sanitizer on this machine"
    fi
done
# Without the driver's cache, so that the time for loading the kernels is that of compiling them.
step benches benches_ran env CUDA_CACHE_DISABLE=1 "$root/release/gpu" --bench --noplot

if is_wanted python || is_wanted peers; then
    # The wheels, unpacked.
    for wheel in "$root"/wheels/*.whl; do
        [ -e "$wheel" ] && python3 -m zipfile -e "$wheel" "$scratch/python"
    done
    export PYTHONPATH=$scratch/python
    skipped=
    if [ -n "${HYPERSCATTER_STAND_IN:-}" ]; then
        skipped="PyTorch needs a GPU"
    elif [ ! -d "$scratch/python/hyperscatter" ]; then
        skipped="the folder was packed without the Python package"
    elif ! remark=$(python3 -c "import hyperscatter, pytest, torch
assert torch.cuda.is_available()" 2>&1); then
        skipped="Python cannot run it: ${remark##*$'\n'}"
    fi
    if [ -n "$skipped" ]; then
        for name in python peers; do
            is_wanted $name && report $name skip 0 "${skipped//|/ }"
        done
    else
        step python python_ran python3 -m pytest -q -rs -p no:cacheprovider "$root/python-tests"
        step peers peers_ran python3 "$root/peers/peers.py" --device cuda --seconds 5 \
            --budget $((BUDGET[peers] - 120)) --out "$out/peers"
    fi
fi

{
    echo "# GPU check"
    echo
    echo "* device, compute capability, memory, driver: $device"
    echo "* date: $date"
    echo "* commit: $(cat "$root/COMMIT")"
    echo "* compute-sanitizer: $([ -n "$sanitizer" ] && "$sanitizer" --version 2>&1 | tail -n 1 || echo none)"
    echo
    echo "| step | outcome | seconds | |"
    echo "|---|---|---|---|"
    printf '%s\n' "${table[@]}"
    echo
    echo "The commands, in the packed folder, with HYPERSCATTER_GPU=real:"
    echo
    printf '    %s\n' "${commands[@]}"
    if grep -qs '% of copy' "$out/benches.log"; then
        echo
        sed -n 's/^loading the kernels took/Loading the kernels took/p' "$out/benches.log"
        echo
        echo "Device time of each call; the floor is what a copy takes for the compulsory bytes (MB), in" \
            "the same run:"
        echo
        sed -n '/% of copy/,$ s/^/    /p' "$out/benches.log"
    fi
    if [ -e "$out/peers/peers.md" ]; then
        echo
        echo "What PyTorch users have, beside the Python package (peers/peers.md has the rest):"
        echo
        sed -n '/^Operators:/,/^Times are of/ { /^Times are of/ !p }' "$out/peers/peers.md"
    fi
} >"$out/summary.md"

echo "$SECONDS s, $failures failed: $out/summary.md"
[ "$failures" -eq 0 ]
