// Arithmetic. Built with -ffp-contract=off: nothing is fused but what the kernel fuses.
#pragma once

#define EMULATOR_UNARY(NAME) \
    EMULATOR_INLINE double NAME(double x) { return __builtin_##NAME(x); } \
    EMULATOR_INLINE float NAME(float x) { return __builtin_##NAME##f(x); } \
    EMULATOR_INLINE float NAME##f(float x) { return __builtin_##NAME##f(x); }
EMULATOR_UNARY(sqrt)
EMULATOR_UNARY(fabs)
EMULATOR_UNARY(floor)
EMULATOR_UNARY(ceil)
EMULATOR_UNARY(trunc)
EMULATOR_UNARY(rint)
EMULATOR_UNARY(round)
EMULATOR_UNARY(exp)
EMULATOR_UNARY(exp2)
EMULATOR_UNARY(expm1)
EMULATOR_UNARY(log)
EMULATOR_UNARY(log2)
EMULATOR_UNARY(log1p)
EMULATOR_UNARY(sin)
EMULATOR_UNARY(cos)
EMULATOR_UNARY(tanh)
EMULATOR_UNARY(erf)
#undef EMULATOR_UNARY

#define EMULATOR_BINARY(NAME) \
    EMULATOR_INLINE double NAME(double x, double y) { return __builtin_##NAME(x, y); } \
    EMULATOR_INLINE float NAME(float x, float y) { return __builtin_##NAME##f(x, y); } \
    EMULATOR_INLINE float NAME##f(float x, float y) { return __builtin_##NAME##f(x, y); }
EMULATOR_BINARY(fmin)
EMULATOR_BINARY(fmax)
EMULATOR_BINARY(fmod)
EMULATOR_BINARY(pow)
EMULATOR_BINARY(copysign)
#undef EMULATOR_BINARY

EMULATOR_INLINE double fma(double x, double y, double z) { return __builtin_fma(x, y, z); }
EMULATOR_INLINE float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
EMULATOR_INLINE float fmaf(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
EMULATOR_INLINE float rsqrtf(float x) { return 1.0f / __builtin_sqrtf(x); }
EMULATOR_INLINE double rsqrt(double x) { return 1.0 / __builtin_sqrt(x); }

EMULATOR_INLINE float __fmaf_rn(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
EMULATOR_INLINE float __fadd_rn(float x, float y) { return x + y; }
EMULATOR_INLINE float __fsub_rn(float x, float y) { return x - y; }
EMULATOR_INLINE float __fmul_rn(float x, float y) { return x * y; }
EMULATOR_INLINE float __fdiv_rn(float x, float y) { return x / y; }
EMULATOR_INLINE float __frcp_rn(float x) { return 1.0f / x; }
EMULATOR_INLINE float __fsqrt_rn(float x) { return __builtin_sqrtf(x); }
EMULATOR_INLINE double __fma_rn(double x, double y, double z) { return __builtin_fma(x, y, z); }
EMULATOR_INLINE double __dadd_rn(double x, double y) { return x + y; }
EMULATOR_INLINE double __dsub_rn(double x, double y) { return x - y; }
EMULATOR_INLINE double __dmul_rn(double x, double y) { return x * y; }
EMULATOR_INLINE double __ddiv_rn(double x, double y) { return x / y; }
EMULATOR_INLINE double __drcp_rn(double x) { return 1.0 / x; }
EMULATOR_INLINE double __dsqrt_rn(double x) { return __builtin_sqrt(x); }

template <class T>
EMULATOR_INLINE bool isnan(T x) {
    return __builtin_isnan(x);
}
template <class T>
EMULATOR_INLINE bool isinf(T x) {
    return __builtin_isinf_sign(x) != 0;
}
template <class T>
EMULATOR_INLINE bool isfinite(T x) {
    return __builtin_isfinite(x);
}
template <class T>
EMULATOR_INLINE bool signbit(T x) {
    return __builtin_signbit(x) != 0;
}

// Of two numbers in their common type; a NaN is not chosen.
template <class A, class B>
EMULATOR_INLINE auto min(A a, B b) {
    using T = decltype(A() + B());
    T x = a, y = b;
    if constexpr (static_cast<T>(0.5f) != 0) {
        return fmin(x, y);
    } else {
        return y < x ? y : x;
    }
}
template <class A, class B>
EMULATOR_INLINE auto max(A a, B b) {
    using T = decltype(A() + B());
    T x = a, y = b;
    if constexpr (static_cast<T>(0.5f) != 0) {
        return fmax(x, y);
    } else {
        return x < y ? y : x;
    }
}
EMULATOR_INLINE int abs(int x) { return x < 0 ? -x : x; }
EMULATOR_INLINE long long abs(long long x) { return x < 0 ? -x : x; }
EMULATOR_INLINE float abs(float x) { return __builtin_fabsf(x); }
EMULATOR_INLINE double abs(double x) { return __builtin_fabs(x); }

EMULATOR_INLINE int __popc(unsigned x) { return __builtin_popcount(x); }
EMULATOR_INLINE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
EMULATOR_INLINE int __ffs(int x) { return __builtin_ffs(x); }
EMULATOR_INLINE int __ffsll(long long x) { return __builtin_ffsll(x); }
EMULATOR_INLINE int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
EMULATOR_INLINE int __clzll(long long x) {
    return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
EMULATOR_INLINE unsigned __umulhi(unsigned x, unsigned y) {
    return static_cast<unsigned>(static_cast<unsigned long long>(x) * y >> 32);
}
EMULATOR_INLINE unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(x) * y >> 64);
}

EMULATOR_INLINE unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
EMULATOR_INLINE int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
EMULATOR_INLINE float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
EMULATOR_INLINE float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
EMULATOR_INLINE long long __double_as_longlong(double x) { return __builtin_bit_cast(long long, x); }
EMULATOR_INLINE double __longlong_as_double(long long x) { return __builtin_bit_cast(double, x); }

EMULATOR_INLINE float __int2float_rn(int x) { return static_cast<float>(x); }
EMULATOR_INLINE float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
EMULATOR_INLINE float __double2float_rn(double x) { return static_cast<float>(x); }
