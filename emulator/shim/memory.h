// Atomic operations, loads and stores with a cache hint, and asynchronous copies to shared memory.
#pragma once

namespace emulator {

// Replaces the value at `address` by `next(value)`; returns what was there.
template <class T, class Bits, class Next>
EMULATOR_INLINE T update(T* address, Next next) {
    static_assert(sizeof(T) == sizeof(Bits));
    Bits* bits = reinterpret_cast<Bits*>(address);
    Bits old = __atomic_load_n(bits, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(bits, &old,
                                        __builtin_bit_cast(Bits, next(__builtin_bit_cast(T, old))), false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {}
    return __builtin_bit_cast(T, old);
}

}  // namespace emulator

#define EMULATOR_ATOMICS(T) \
    EMULATOR_INLINE T atomicAdd(T* address, T value) { \
        return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST); \
    } \
    EMULATOR_INLINE T atomicExch(T* address, T value) { \
        return __atomic_exchange_n(address, value, __ATOMIC_SEQ_CST); \
    } \
    EMULATOR_INLINE T atomicCAS(T* address, T expected, T value) { \
        __atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
        return expected; \
    } \
    EMULATOR_INLINE T atomicAnd(T* address, T value) { \
        return __atomic_fetch_and(address, value, __ATOMIC_SEQ_CST); \
    } \
    EMULATOR_INLINE T atomicOr(T* address, T value) { \
        return __atomic_fetch_or(address, value, __ATOMIC_SEQ_CST); \
    } \
    EMULATOR_INLINE T atomicXor(T* address, T value) { \
        return __atomic_fetch_xor(address, value, __ATOMIC_SEQ_CST); \
    } \
    EMULATOR_INLINE T atomicMin(T* address, T value) { \
        return emulator::update<T, T>(address, [=](T old) { return value < old ? value : old; }); \
    } \
    EMULATOR_INLINE T atomicMax(T* address, T value) { \
        return emulator::update<T, T>(address, [=](T old) { return value > old ? value : old; }); \
    }
EMULATOR_ATOMICS(int)
EMULATOR_ATOMICS(unsigned)
EMULATOR_ATOMICS(long long)
EMULATOR_ATOMICS(unsigned long long)
#undef EMULATOR_ATOMICS

EMULATOR_INLINE int atomicSub(int* address, int value) {
    return __atomic_fetch_sub(address, value, __ATOMIC_SEQ_CST);
}
EMULATOR_INLINE unsigned atomicSub(unsigned* address, unsigned value) {
    return __atomic_fetch_sub(address, value, __ATOMIC_SEQ_CST);
}
EMULATOR_INLINE float atomicAdd(float* address, float value) {
    return emulator::update<float, unsigned>(address, [=](float old) { return old + value; });
}
EMULATOR_INLINE double atomicAdd(double* address, double value) {
    return emulator::update<double, unsigned long long>(address, [=](double old) { return old + value; });
}
EMULATOR_INLINE float atomicExch(float* address, float value) {
    return emulator::update<float, unsigned>(address, [=](float) { return value; });
}

#define EMULATOR_LOAD(NAME) \
    template <class T> \
    EMULATOR_INLINE T NAME(const T* address) { \
        return *address; \
    }
EMULATOR_LOAD(__ldg)
EMULATOR_LOAD(__ldca)
EMULATOR_LOAD(__ldcg)
EMULATOR_LOAD(__ldcs)
EMULATOR_LOAD(__ldlu)
EMULATOR_LOAD(__ldcv)
#undef EMULATOR_LOAD

#define EMULATOR_STORE(NAME) \
    template <class T> \
    EMULATOR_INLINE void NAME(T* address, T value) { \
        *address = value; \
    }
EMULATOR_STORE(__stwb)
EMULATOR_STORE(__stwt)
EMULATOR_STORE(__stcg)
EMULATOR_STORE(__stcs)
#undef EMULATOR_STORE

// The primitives of <cuda_pipeline_primitives.h>.
namespace emulator {

// Out of line and not instrumented (entry.cpp): the engine makes the accesses.
void begin_copy(void* to, const void* from, unsigned long bytes, unsigned long read);
void commit_copies();
void land_copies(unsigned left);

}  // namespace emulator

EMULATOR_INLINE void __pipeline_memcpy_async(void* to, const void* from, __SIZE_TYPE__ bytes,
                                             __SIZE_TYPE__ zeros = 0) {
    emulator::begin_copy(to, from, bytes, bytes - zeros);
}
EMULATOR_INLINE void __pipeline_commit() { emulator::commit_copies(); }
EMULATOR_INLINE void __pipeline_wait_prior(unsigned left) { emulator::land_copies(left); }

extern "C" {
void* memcpy(void* to, const void* from, __SIZE_TYPE__ bytes);
void* memset(void* to, int byte, __SIZE_TYPE__ bytes);
}
