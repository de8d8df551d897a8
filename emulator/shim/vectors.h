// The built-in vector types, with the alignment that CUDA gives them.
#pragma once

using size_t = __SIZE_TYPE__;

#define EMULATOR_VECTORS(T, NAME, ALIGN2, ALIGN4) \
    struct NAME##1 { T x; }; \
    struct __align__(ALIGN2) NAME##2 { T x, y; }; \
    struct NAME##3 { T x, y, z; }; \
    struct __align__(ALIGN4) NAME##4 { T x, y, z, w; }; \
    EMULATOR_INLINE NAME##1 make_##NAME##1(T x) { return {x}; } \
    EMULATOR_INLINE NAME##2 make_##NAME##2(T x, T y) { return {x, y}; } \
    EMULATOR_INLINE NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; } \
    EMULATOR_INLINE NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }

EMULATOR_VECTORS(signed char, char, 2, 4)
EMULATOR_VECTORS(unsigned char, uchar, 2, 4)
EMULATOR_VECTORS(short, short, 4, 8)
EMULATOR_VECTORS(unsigned short, ushort, 4, 8)
EMULATOR_VECTORS(int, int, 8, 16)
EMULATOR_VECTORS(unsigned, uint, 8, 16)
EMULATOR_VECTORS(long, long, 16, 16)
EMULATOR_VECTORS(unsigned long, ulong, 16, 16)
EMULATOR_VECTORS(long long, longlong, 16, 16)
EMULATOR_VECTORS(unsigned long long, ulonglong, 16, 16)
EMULATOR_VECTORS(float, float, 8, 16)
EMULATOR_VECTORS(double, double, 16, 16)

#undef EMULATOR_VECTORS

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    constexpr operator uint3() const { return uint3{x, y, z}; }
};
