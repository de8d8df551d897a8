// Barriers, shuffles, votes, matches and reductions. Each knows the line of the kernel that calls it.
#pragma once

#define EMULATOR_SITE const char *file = __builtin_FILE(), unsigned line = __builtin_LINE()

namespace emulator {

// Out of line and not instrumented (callbacks.cpp): the way to the engine is no part of the kernel.
Word barrier(unsigned predicate, const char* file, unsigned line);
Word warp(unsigned mask, unsigned operation, Word value, unsigned source, const char* file, unsigned line);
[[noreturn]] void trap(const char* file, unsigned line);

// The bits of a 4- or 8-byte value.
template <class T>
EMULATOR_INLINE Word to_word(T value) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "warp operations take 4 or 8 bytes");
    if constexpr (sizeof(T) == 4) {
        return __builtin_bit_cast(unsigned, value);
    } else {
        return __builtin_bit_cast(Word, value);
    }
}

template <class T>
EMULATOR_INLINE T from_word(Word word) {
    if constexpr (sizeof(T) == 4) {
        return __builtin_bit_cast(T, static_cast<unsigned>(word));
    } else {
        return __builtin_bit_cast(T, word);
    }
}

template <class T>
EMULATOR_INLINE T shuffle(unsigned mask, T value, unsigned source, const char* file, unsigned line) {
    return from_word<T>(warp(mask, SHUFFLE, to_word(value), source, file, line));
}

}  // namespace emulator

EMULATOR_INLINE void __syncthreads(EMULATOR_SITE) { emulator::barrier(0, file, line); }
EMULATOR_INLINE int __syncthreads_count(int predicate, EMULATOR_SITE) {
    return static_cast<int>(emulator::barrier(predicate != 0, file, line));
}
EMULATOR_INLINE int __syncthreads_or(int predicate, EMULATOR_SITE) {
    return emulator::barrier(predicate != 0, file, line) != 0;
}
EMULATOR_INLINE int __syncthreads_and(int predicate, EMULATOR_SITE) {
    return emulator::barrier(predicate != 0, file, line) == emulator::threads_in_block();
}

EMULATOR_INLINE void __syncwarp(unsigned mask = 0xffffffff, EMULATOR_SITE) {
    emulator::warp(mask, emulator::SYNC, 0, 0, file, line);
}

template <class T>
EMULATOR_INLINE T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATOR_SITE) {
    unsigned lane = emulator::thread_in_block() % 32, first = lane & ~(width - 1u);
    return emulator::shuffle(mask, value, first | (source & (width - 1u)), file, line);
}
template <class T>
EMULATOR_INLINE T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_SITE) {
    unsigned lane = emulator::thread_in_block() % 32, first = lane & ~(width - 1u);
    return emulator::shuffle(mask, value, lane - first >= delta ? lane - delta : lane, file, line);
}
template <class T>
EMULATOR_INLINE T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_SITE) {
    unsigned lane = emulator::thread_in_block() % 32, last = lane | (width - 1u);
    return emulator::shuffle(mask, value, last - lane >= delta ? lane + delta : lane, file, line);
}
template <class T>
EMULATOR_INLINE T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMULATOR_SITE) {
    unsigned lane = emulator::thread_in_block() % 32, source = lane ^ lanes;
    // A lane may read from an earlier segment, but not from a later one.
    return emulator::shuffle(mask, value, source <= (lane | (width - 1u)) ? source : lane, file, line);
}

EMULATOR_INLINE unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_SITE) {
    return static_cast<unsigned>(emulator::warp(mask, emulator::BALLOT, predicate != 0, 0, file, line));
}
EMULATOR_INLINE int __any_sync(unsigned mask, int predicate, EMULATOR_SITE) {
    return emulator::warp(mask, emulator::BALLOT, predicate != 0, 0, file, line) != 0;
}
EMULATOR_INLINE int __all_sync(unsigned mask, int predicate, EMULATOR_SITE) {
    return emulator::warp(mask, emulator::BALLOT, predicate != 0, 0, file, line) == mask;
}
template <class T>
EMULATOR_INLINE unsigned __match_any_sync(unsigned mask, T value, EMULATOR_SITE) {
    return static_cast<unsigned>(
        emulator::warp(mask, emulator::MATCH, emulator::to_word(value), 0, file, line));
}

#define EMULATOR_REDUCE(T, NAME, OPERATION) \
    EMULATOR_INLINE T __reduce_##NAME##_sync(unsigned mask, T value, EMULATOR_SITE) { \
        return static_cast<T>( \
            emulator::warp(mask, emulator::OPERATION, static_cast<unsigned>(value), 0, file, line)); \
    }
EMULATOR_REDUCE(unsigned, add, ADD)
EMULATOR_REDUCE(unsigned, min, MIN_UNSIGNED)
EMULATOR_REDUCE(unsigned, max, MAX_UNSIGNED)
EMULATOR_REDUCE(int, add, ADD)
EMULATOR_REDUCE(int, min, MIN_SIGNED)
EMULATOR_REDUCE(int, max, MAX_SIGNED)
EMULATOR_REDUCE(unsigned, and, AND)
EMULATOR_REDUCE(unsigned, or, OR)
EMULATOR_REDUCE(unsigned, xor, XOR)
#undef EMULATOR_REDUCE

[[noreturn]] EMULATOR_INLINE void __trap(EMULATOR_SITE) { emulator::trap(file, line); }

// A promise to the compiler, which is checked here.
#define __builtin_assume(condition) ((condition) ? void() : __trap())

// The threads of a block run on one OS thread, but the host may watch mapped memory.
EMULATOR_INLINE void __threadfence_block() { __atomic_signal_fence(__ATOMIC_SEQ_CST); }
EMULATOR_INLINE void __threadfence() { __atomic_signal_fence(__ATOMIC_SEQ_CST); }
EMULATOR_INLINE void __threadfence_system() { asm volatile("mfence" ::: "memory"); }
