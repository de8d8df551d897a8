// The way from a kernel to the engine. Compiled without instrumentation and linked into every kernel library.

#include "bridge.h"

namespace emulator {

Word barrier(unsigned predicate, const char* file, unsigned line) {
    return lane()->bridge->barrier(lane(), predicate, file, line);
}

Word warp(unsigned mask, unsigned operation, Word value, unsigned source, const char* file, unsigned line) {
    return lane()->bridge->warp(lane(), mask, operation, value, source, file, line);
}

void begin_copy(void* to, const void* from, unsigned long bytes, unsigned long read) {
    lane()->bridge->begin_copy(lane(), to, from, bytes, read, __builtin_return_address(0));
}

void commit_copies() { lane()->bridge->commit_copies(lane()); }

void land_copies(unsigned left) { lane()->bridge->land_copies(lane(), left); }

void multiply(Elements elements, float* c, const unsigned* a, const unsigned* b, const char* file,
              unsigned line) {
    lane()->bridge->multiply(lane(), elements, c, a, b, file, line);
}

void load_matrices(unsigned* to, const void* row, bool transposed, const char* file, unsigned line) {
    lane()->bridge->load_matrices(lane(), to, row, transposed, file, line, __builtin_return_address(0));
}

unsigned transpose_matrix(unsigned elements, const char* file, unsigned line) {
    return lane()->bridge->transpose_matrix(lane(), elements, file, line);
}

[[noreturn]] void trap(const char* file, unsigned line) {
    lane()->bridge->mistake(lane(), UNDEFINED, "__trap()", file, line, nullptr);
    __builtin_unreachable();
}

namespace {

// One byte of the thread-local segment, to find it by.
thread_local unsigned char anchor;

}  // namespace
}  // namespace emulator

extern "C" void* emulator_anchor() { return &emulator::anchor; }
