// threadIdx, blockIdx, blockDim, gridDim and warpSize.
#pragma once

namespace emulator {

// Reads a number of the control block. In assembler, so that the sanitizers do not take it for an access of
// the kernel; not volatile, because it never changes while a thread runs.
template <unsigned long OFFSET>
EMULATOR_INLINE unsigned lane_word() {
    unsigned value;
    asm("movl %c2(%1), %0" : "=r"(value) : "r"(lane()), "i"(OFFSET));
    return value;
}

template <unsigned long OFFSET>
EMULATOR_INLINE uint3 lane_words() {
    return uint3{lane_word<OFFSET>(), lane_word<OFFSET + 4>(), lane_word<OFFSET + 8>()};
}

EMULATOR_INLINE unsigned thread_in_block() { return lane_word<__builtin_offsetof(Lane, index)>(); }

EMULATOR_INLINE unsigned threads_in_block() {
    constexpr unsigned long dim = __builtin_offsetof(Lane, block_dim);
    return lane_word<dim>() * lane_word<dim + 4>() * lane_word<dim + 8>();
}

}  // namespace emulator

#define threadIdx (emulator::lane_words<__builtin_offsetof(emulator::Lane, thread)>())
#define blockIdx (emulator::lane_words<__builtin_offsetof(emulator::Lane, block)>())
#define blockDim (dim3(emulator::lane_words<__builtin_offsetof(emulator::Lane, block_dim)>()))
#define gridDim (dim3(emulator::lane_words<__builtin_offsetof(emulator::Lane, grid_dim)>()))

constexpr int warpSize = 32;
