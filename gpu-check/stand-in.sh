# Puts the emulated driver in the real one's place, for run.sh and rehearse.sh.

# stand_in LIBRARY FOLDER: whoever is started from here on finds LIBRARY by the driver's name, in FOLDER.
#
# It runs without its checks: nobody tells it which tests are meant to read what was never written, and it would give the one
# context up, as a device does that has failed. The tests in the emulated driver's own way have the checks.
stand_in() {
    ln -s "$1" "$2/libcuda.so"
    export LD_LIBRARY_PATH=$2 HYPERSCATTER_STAND_IN=1
    export HYPERSCATTER_EMULATOR_CHECKED=0 HYPERSCATTER_EMULATOR_DEVICES=1
    export HYPERSCATTER_BENCH_SMALL=1
}
