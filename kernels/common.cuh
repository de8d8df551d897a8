// What every kernel file shares: element types, the violation record of the checked builds, arithmetic.
//
// Kernel sources include no header of any toolkit, so that the same text compiles under nvcc, NVRTC and, for
// the emulated driver of the tests, a host compiler.

#pragma once

#include "abi.cuh"

enum : u32 { ALL_LANES = 0xffffffffu };

// -----------------------------------------------------------------------------------------------------------
// Elements: how features are loaded and stored, and in what type they are summed.

// Conversions have the bits of those in src/element.rs, but for the payloads of NaN.

struct F16 {
    unsigned short bits;
};

struct Bf16 {
    unsigned short bits;
};

template <typename T>
struct Element;

template <>
struct Element<float> {
    using Acc = float;
    static __device__ __forceinline__ Acc widen(float value) { return value; }
    static __device__ __forceinline__ float narrow(Acc value) { return value; }
};

template <>
struct Element<double> {
    using Acc = double;
    static __device__ __forceinline__ Acc widen(double value) { return value; }
    static __device__ __forceinline__ double narrow(Acc value) { return value; }
};

template <>
struct Element<Bf16> {
    using Acc = float;
    static __device__ __forceinline__ Acc widen(Bf16 value) { return __uint_as_float(u32(value.bits) << 16); }
    // To nearest, ties to even: add just under half, and one more where the kept part is odd.
    static __device__ __forceinline__ Bf16 narrow(Acc value) {
        u32 bits = __float_as_uint(value);
        u32 rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
        u32 quiet_nan = bits >> 16 | 0x40u;
        bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
        return {static_cast<unsigned short>(is_nan ? quiet_nan : rounded)};
    }
};

template <>
struct Element<F16> {
    using Acc = float;
    static __device__ __forceinline__ Acc widen(F16 value) {
#if defined(__CUDA_ARCH__)
        float wide;
        asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
        return wide;
#else
        u32 magnitude = (value.bits & 0x7fffu) << 13;
        // The exponents differ in bias by 112; the product is exact and makes subnormals normal.
        u32 scaled = __float_as_uint(__uint_as_float(magnitude) * __uint_as_float((127u + 112u) << 23));
        bool special = magnitude >= 0x1fu << 23;
        u32 payload = (magnitude & 0x007fffffu) != 0 ? 0x00400000u : 0u;
        return __uint_as_float((special ? 0x7f800000u | magnitude | payload : scaled) | (value.bits & 0x8000u)
                                                                                            << 16);
#endif
    }
    static __device__ __forceinline__ F16 narrow(Acc value) {
#if defined(__CUDA_ARCH__)
        F16 half;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half.bits) : "f"(value));
        return half;
#else
        u32 bits = __float_as_uint(value);
        u32 magnitude = bits & 0x7fffffffu;
        // From 2^-14 on the result is normal: move the exponent's bias, round to nearest even in the 13 lost
        // bits. Below that, adding 1/2 aligns the subnormal's last bit with a float's last bit, which rounds.
        u32 normal = (magnitude - (112u << 23) + 0x0fffu + (magnitude >> 13 & 1u)) >> 13;
        u32 half_one = 126u << 23;
        u32 subnormal = __float_as_uint(__uint_as_float(magnitude) + __uint_as_float(half_one)) - half_one;
        u32 finite = magnitude < 113u << 23 ? subnormal : normal;
        u32 special = magnitude > 0x7f800000u ? 0x7e00u | (magnitude >> 13 & 0x1ffu) : 0x7c00u;
        u32 result = magnitude >= 0x477ff000u ? special : finite;
        return {static_cast<unsigned short>((bits >> 16 & 0x8000u) | result)};
#endif
    }
};

// What becomes of a row that a wrong value was for.
template <typename A>
__device__ __forceinline__ A not_a_number() {
    return static_cast<A>(__uint_as_float(0x7fc00000u));
}

// The features of one lane: as many as one vector access holds.
template <typename T>
struct alignas(VECTOR_BYTES) Vector {
    static constexpr u32 LEN = VECTOR_BYTES / sizeof(T);
    T at[LEN];
};

// One vector access; the address must be aligned.
template <typename T>
__device__ __forceinline__ Vector<T> load_vector(const T* from) {
    return *reinterpret_cast<const Vector<T>*>(from);
}

template <typename T>
__device__ __forceinline__ void store_vector(T* to, const Vector<T>& values) {
    *reinterpret_cast<Vector<T>*>(to) = values;
}

// The first `len` elements of a vector, one by one; those beyond are zero.
template <typename T>
__device__ __forceinline__ Vector<T> load_elements(const T* from, u32 len) {
    Vector<T> values = {};
#pragma unroll
    for (u32 i = 0; i < Vector<T>::LEN; i++) {
        if (i < len) {
            values.at[i] = from[i];
        }
    }
    return values;
}

template <typename T>
__device__ __forceinline__ void store_elements(T* to, u32 len, const Vector<T>& values) {
#pragma unroll
    for (u32 i = 0; i < Vector<T>::LEN; i++) {
        if (i < len) {
            to[i] = values.at[i];
        }
    }
}

// -----------------------------------------------------------------------------------------------------------
// Violations. In a checked build every value of a table is tested where it is loaded. The access that a wrong
// value was for is left out, the rows that it was for become NaN, and the kernel goes on to its end. The
// first thread that finds a wrong value claims the record and publishes what it found to host memory.

// Publishes a violation, unless another thread was first.
__device__ __forceinline__ void publish_first(const RecordArgs& record, const Violation& found) {
    if (atomicCAS(record.claim, 0u, 1u) != 0u) {
        return;
    }
    Violation* violation = record.published;
    violation->kernel = found.kernel;
    violation->table = found.table;
    violation->orientation = found.orientation;
    violation->instance = found.instance;
    violation->position = found.position;
    violation->value = found.value;
    violation->bound = found.bound;
    __threadfence_system();
    *reinterpret_cast<volatile u32*>(&violation->ready) = 1;
}

// The first violation that this thread found; in an unchecked build nothing, and every test is passed.
template <bool Checked>
struct Check {
    bool failed = false;
    u32 table = 0;
    u64 position = 0;
    u64 value = 0;
    u64 bound = 0;

    // Whether `value`, found at `position` of `table`, is below `bound`.
    __device__ __forceinline__ bool below(u32 in_table, u64 at_position, u64 found, u64 its_bound) {
        if (found < its_bound) {
            return true;
        }
        if (!failed) {
            failed = true;
            table = in_table;
            position = at_position;
            value = found;
            bound = its_bound;
        }
        return false;
    }

    // Whether the prefix sums `start` and `end`, at `position` of `table` and `stride` behind it, lie `size`
    // apart.
    __device__ __forceinline__ bool apart(u32 in_table, u64 at_position, u64 start, u64 end, u64 size,
                                          u64 stride = 1) {
        if (start <= end && end - start > size) {
            return below(in_table, at_position + stride, end, start + size + 1);
        }
        return below(in_table, at_position, start, end >= size ? end - size + 1 : 0);
    }

    __device__ __forceinline__ void publish(const RecordArgs& record, u32 kernel, u32 orientation,
                                            u64 instance) const {
        if (failed) {
            publish_first(record, {0, kernel, table, orientation, instance, position, value, bound});
        }
    }
};

template <>
struct Check<false> {
    static constexpr bool failed = false;
    __device__ __forceinline__ bool below(u32, u64, u64, u64) { return true; }
    __device__ __forceinline__ bool apart(u32, u64, u64, u64, u64, u64 = 1) { return true; }
    __device__ __forceinline__ void publish(const RecordArgs&, u32, u32, u64) const {}
};

// -----------------------------------------------------------------------------------------------------------

// a / b in 32 bits where both fit, which is several times faster.
__device__ __forceinline__ u64 divide(u64 a, u64 b) {
    if (((a | b) >> 32) == 0) {
        return static_cast<u32>(a) / static_cast<u32>(b);
    }
    return a / b;
}

__device__ __forceinline__ float fused_multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ double fused_multiply_add(double a, double b, double c) {
    return __fma_rn(a, b, c);
}

__device__ __forceinline__ float square_root(float value) { return __fsqrt_rn(value); }
__device__ __forceinline__ double square_root(double value) { return __dsqrt_rn(value); }

// What powers of two are in a type. `exponent` and `times_power_of_two` have the bits of those in
// src/element.rs.
template <typename A>
struct Powers;

template <>
struct Powers<float> {
    static constexpr int LEAST = -126;  // the exponents of normal powers
    static constexpr int MOST = 127;
    static __device__ __forceinline__ float of(int n) {
        return __uint_as_float(static_cast<u32>(n + MOST) << 23);
    }
    static __device__ __forceinline__ int exponent_of_normal(float value) {
        return static_cast<int>(__float_as_uint(value) >> 23 & 0xffu) - MOST;
    }
};

template <>
struct Powers<double> {
    static constexpr int LEAST = -1022;
    static constexpr int MOST = 1023;
    static __device__ __forceinline__ double of(int n) {
        return __longlong_as_double(static_cast<long long>(static_cast<u64>(n + MOST) << 52));
    }
    static __device__ __forceinline__ int exponent_of_normal(double value) {
        return static_cast<int>(static_cast<u64>(__double_as_longlong(value)) >> 52 & 0x7ffu) - MOST;
    }
};

__device__ __forceinline__ int clamp(int value, int least, int most) {
    return value < least ? least : value > most ? most : value;
}

// floor(log2 |value|), of a value that is neither 0, infinite nor NaN.
template <typename A>
__device__ __forceinline__ int exponent(A value) {
    int of_normal = Powers<A>::exponent_of_normal(value);
    // 2^64 makes every subnormal number a normal one.
    return of_normal >= Powers<A>::LEAST ? of_normal
                                         : Powers<A>::exponent_of_normal(value * Powers<A>::of(64)) - 64;
}

// value 2^n, rounded once.
template <typename A>
__device__ __forceinline__ A times_power_of_two(A value, int n) {
    // Three powers take any number to any other. Each product is exact, or so small (or large) that the next
    // ones make it 0 (or infinite) in any case.
    int last = clamp(n, Powers<A>::LEAST, Powers<A>::MOST);
    int second = clamp(n - last, Powers<A>::LEAST, Powers<A>::MOST);
    int first = clamp(n - last - second, Powers<A>::LEAST, Powers<A>::MOST);
    return value * Powers<A>::of(first) * Powers<A>::of(second) * Powers<A>::of(last);
}

// Of shifts, without overflow whatever an unwritten one may hold.
__device__ __forceinline__ int add_shifts(int a, int b) {
    return static_cast<int>(static_cast<u32>(a) + static_cast<u32>(b));
}
__device__ __forceinline__ int times_shift(int times, int shift) {
    return static_cast<int>(static_cast<u32>(times) * static_cast<u32>(shift));
}

// 1 / `count`, and 0 for a count of 0.
template <typename A>
__device__ __forceinline__ A inverse_count(u32 count) {
    return count == 0 ? A(0) : A(1) / static_cast<A>(count);
}

__device__ __forceinline__ u64 shuffle(u64 value, u32 lane) {
    u32 low = __shfl_sync(ALL_LANES, static_cast<u32>(value), static_cast<int>(lane));
    u32 high = __shfl_sync(ALL_LANES, static_cast<u32>(value >> 32), static_cast<int>(lane));
    return static_cast<u64>(high) << 32 | low;
}

__device__ __forceinline__ float shuffle(float value, u32 lane) {
    return __shfl_sync(ALL_LANES, value, static_cast<int>(lane));
}

__device__ __forceinline__ double shuffle(double value, u32 lane) {
    return __longlong_as_double(
        static_cast<long long>(shuffle(static_cast<u64>(__double_as_longlong(value)), lane)));
}

template <typename T>
__device__ __forceinline__ const T* shuffle(const T* value, u32 lane) {
    return reinterpret_cast<const T*>(shuffle(reinterpret_cast<u64>(value), lane));
}

struct Plus {
    template <typename A>
    __device__ __forceinline__ A operator()(A a, A b) const {
        return a + b;
    }
};

// What `combine` makes of the values of each group of `lanes` lanes, in halves; all of them get it.
template <typename A, typename Combine>
__device__ __forceinline__ A fold_group(A value, u32 lanes, Combine combine) {
    u32 lane = threadIdx.x % WARP;
#pragma unroll 1
    for (u32 half = lanes / 2; half > 0; half /= 2) {
        value = combine(value, shuffle(value, lane ^ half));
    }
    return value;
}

// Their sum.
template <typename A>
__device__ __forceinline__ A sum_of_group(A value, u32 lanes) {
    return fold_group(value, lanes, Plus{});
}

// What a row has in each of its blocks, in order. There is mostly one: unrolled, it would be PTX for nothing.
__device__ __forceinline__ double sum_of_blocks(const double* values, u64 row, u32 blocks) {
    double sum = 0;
#pragma unroll 1
    for (u32 b = 0; b < blocks; b++) {
        sum += values[row * blocks + b];
    }
    return sum;
}

// The largest value of the warp.
__device__ __forceinline__ u32 warp_max(u32 value) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        u32 other = __shfl_xor_sync(ALL_LANES, value, offset);
        value = other > value ? other : value;
    }
    return value;
}
