// How a thread loads and stores some features of a row: a vector of them, or one, in kernels in which a
// thread keeps to its features and walks through rows.

#pragma once

#include "common.cuh"

// The features of a thread. Elements of 16 bits come 8 bytes at a time: each becomes a register of its own.
template <typename T>
struct alignas(sizeof(T) == 2 ? 8 : 16) Features {
    static constexpr u32 LEN = sizeof(T) == 8 ? 2 : 4;
    T at[LEN];
};

// How much of its features a thread loads and stores: a vector of them, or one, and the others are zeros.
enum : u32 { NOTHING = 0, ONE_FEATURE = 1, ALL_FEATURES = 2 };

// The features of a thread, widened. On a device it is one statement, in which instructions have predicates:
// from an `if` the compiler makes branches, with moves of zeros in each, and it would rather widen elements
// of 16 bits again for each use than keep them.
#if defined(__CUDA_ARCH__)
#define LOAD_BEGIN "{\n.reg .pred p, q;\nsetp.eq.u32 p, %5, 2;\nsetp.eq.u32 q, %5, 1;\n"
__device__ __forceinline__ void load_features(float (&to)[4], u32 much, const float* from) {
    asm volatile(LOAD_BEGIN
                 "mov.f32 %0, 0f00000000;\nmov.f32 %1, 0f00000000;\nmov.f32 %2, 0f00000000;\n"
                 "mov.f32 %3, 0f00000000;\n@p ld.global.v4.f32 {%0, %1, %2, %3}, [%4];\n"
                 "@q ld.global.f32 %0, [%4];\n}"
                 : "=f"(to[0]), "=f"(to[1]), "=f"(to[2]), "=f"(to[3])
                 : "l"(from), "r"(much));
}
__device__ __forceinline__ void load_features(double (&to)[2], u32 much, const double* from) {
    asm volatile(
        "{\n.reg .pred p, q;\nsetp.eq.u32 p, %3, 2;\nsetp.eq.u32 q, %3, 1;\n"
        "mov.f64 %0, 0d0000000000000000;\nmov.f64 %1, 0d0000000000000000;\n"
        "@p ld.global.v2.f64 {%0, %1}, [%2];\n@q ld.global.f64 %0, [%2];\n}"
        : "=d"(to[0]), "=d"(to[1])
        : "l"(from), "r"(much));
}
#define LOAD_16_BITS \
    ".reg .b32 r, s;\nmov.b32 r, 0;\nmov.b32 s, 0;\n@p ld.global.v2.b32 {r, s}, [%4];\n" \
    "@q ld.global.u16 r, [%4];\n"
__device__ __forceinline__ void load_features(float (&to)[4], u32 much, const Bf16* from) {
    asm volatile(LOAD_BEGIN LOAD_16_BITS
                 ".reg .b32 t;\nshl.b32 t, r, 16;\nmov.b32 %0, t;\nand.b32 t, r, 0xffff0000;\n"
                 "mov.b32 %1, t;\nshl.b32 t, s, 16;\nmov.b32 %2, t;\nand.b32 t, s, 0xffff0000;\n"
                 "mov.b32 %3, t;\n}"
                 : "=f"(to[0]), "=f"(to[1]), "=f"(to[2]), "=f"(to[3])
                 : "l"(from), "r"(much));
}
__device__ __forceinline__ void load_features(float (&to)[4], u32 much, const F16* from) {
    asm volatile(LOAD_BEGIN LOAD_16_BITS
                 ".reg .b16 t, u;\nmov.b32 {t, u}, r;\ncvt.f32.f16 %0, t;\ncvt.f32.f16 %1, u;\n"
                 "mov.b32 {t, u}, s;\ncvt.f32.f16 %2, t;\ncvt.f32.f16 %3, u;\n}"
                 : "=f"(to[0]), "=f"(to[1]), "=f"(to[2]), "=f"(to[3])
                 : "l"(from), "r"(much));
}
#else
template <typename T, typename A, u32 LEN>
__device__ __forceinline__ void load_features(A (&to)[LEN], u32 much, const T* from) {
    Features<T> loaded = {};
    if (much == ALL_FEATURES) {
        loaded = *reinterpret_cast<const Features<T>*>(from);
    } else if (much == ONE_FEATURE) {
        loaded.at[0] = *from;
    }
    for (u32 i = 0; i < LEN; i++) {
        to[i] = Element<T>::widen(loaded.at[i]);
    }
}
#endif

// Has a row brought to the second-level cache.
__device__ __forceinline__ void prefetch(const void* address) {
#if defined(__CUDA_ARCH__)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#endif
}

// Stores features of a row, or nothing. Here, too, it is one statement: of two branches the compiler would
// rather store one by one what both have in common.
#if defined(__CUDA_ARCH__)
#define STORE_BEGIN "{\n.reg .pred p, q;\nsetp.eq.u32 p, %5, 2;\nsetp.eq.u32 q, %5, 1;\n"
__device__ __forceinline__ void write_features(float* to, u32 much, const float (&values)[4]) {
    asm volatile(
        STORE_BEGIN
        "@p st.global.v4.f32 [%4], {%0, %1, %2, %3};\n@q st.global.f32 [%4], %0;\n}" ::"f"(values[0]),
        "f"(values[1]), "f"(values[2]), "f"(values[3]), "l"(to), "r"(much)
        : "memory");
}
__device__ __forceinline__ void write_features(double* to, u32 much, const double (&values)[2]) {
    asm volatile(
        "{\n.reg .pred p, q;\nsetp.eq.u32 p, %3, 2;\nsetp.eq.u32 q, %3, 1;\n"
        "@p st.global.v2.f64 [%2], {%0, %1};\n@q st.global.f64 [%2], %0;\n}" ::"d"(values[0]),
        "d"(values[1]), "l"(to), "r"(much)
        : "memory");
}
// Two values, narrowed.
__device__ __forceinline__ u32 narrow_pair(F16, float low, float high) {
    return u32(Element<F16>::narrow(high).bits) << 16 | Element<F16>::narrow(low).bits;
}
// As Element<Bf16>::narrow, in half as many instructions. Of a NaN the upper half is kept, which is one: what
// has been computed is a quiet NaN.
__device__ __forceinline__ u32 narrow_pair(Bf16, float low, float high) {
    u32 bits[2] = {__float_as_uint(low), __float_as_uint(high)};
    bits[0] += low != low ? 0 : 0x7fffu + (bits[0] >> 16 & 1u);
    bits[1] += high != high ? 0 : 0x7fffu + (bits[1] >> 16 & 1u);
    return __byte_perm(bits[0], bits[1], 0x7632);
}
template <typename T>
__device__ __forceinline__ void write_features(T* to, u32 much, const float (&values)[4]) {
    u32 low = narrow_pair(T{}, values[0], values[1]);
    u32 high = narrow_pair(T{}, values[2], values[3]);
    asm volatile(
        "{\n.reg .pred p, q;\nsetp.eq.u32 p, %3, 2;\nsetp.eq.u32 q, %3, 1;\n"
        "@p st.global.v2.b32 [%2], {%0, %1};\n@q st.global.u16 [%2], %0;\n}" ::"r"(low),
        "r"(high), "l"(to), "r"(much)
        : "memory");
}
#else
template <typename T, typename A, u32 LEN>
__device__ __forceinline__ void write_features(T* to, u32 much, const A (&values)[LEN]) {
    Features<T> stored;
    for (u32 i = 0; i < LEN; i++) {
        stored.at[i] = Element<T>::narrow(values[i]);
    }
    if (much == ALL_FEATURES) {
        *reinterpret_cast<Features<T>*>(to) = stored;
    } else if (much == ONE_FEATURE) {
        *to = stored.at[0];
    }
}
#endif

// Stores features of a row, or adds them to what is there.
template <typename T, typename A, u32 LEN>
__device__ __forceinline__ void store_features(T* to, u32 much, bool add, const A (&values)[LEN]) {
    if (!add) {
        write_features(to, much, values);
        return;
    }
    A old[LEN];
    load_features(old, much, to);
#pragma unroll
    for (u32 i = 0; i < LEN; i++) {
        old[i] += values[i];
    }
    write_features(to, much, old);
}
