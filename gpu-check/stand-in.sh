# Puts the emulated driver in the real one's place, for run.sh and rehearse.sh.

# stand_in LIBRARY FOLDER: whoever is started from here on finds LIBRARY by the driver's name, in FOLDER.
#
# It runs without its checks. Nobody tells it which tests read unwritten memory on purpose; it would take that
# for a fault, and the only context would be lost, as on a real device. `cargo test` runs the tests with the
# checks.
stand_in() {
    ln -s "$1" "$2/libcuda.so"
    export LD_LIBRARY_PATH=$2 HYPERSCATTER_STAND_IN=1
    export HYPERSCATTER_EMULATOR_CHECKED=0 HYPERSCATTER_EMULATOR_DEVICES=1
    export HYPERSCATTER_BENCH_SMALL=1
}
