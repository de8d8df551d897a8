// Matrices in the registers of a warp: products by tensor cores, and how fragments get from shared memory
// into registers and are transposed there. Needs sm_80. All lanes of a warp call each function together, and
// none orders memory: what others wrote to shared memory is there behind a barrier.
//
// A fragment is what a lane has of a matrix. With g = lane / 4 and t = lane % 4, and two elements of 16 bits
// in a word, the lower one first:
//
//     A, 16 x 16    a[i] = rows g + 8 (i % 2), columns 2 t + 8 (i / 2) and the next
//     B, 16 x 8     b[i] = rows 2 t + 8 i and the next, column g
//     A, 16 x 8     a[i] = row g + 8 (i % 2), column t + 4 (i / 2)         TF32
//     B, 8 x 8      b[i] = row t + 4 i, column g                           TF32
//     C, 16 x 8     c[i] = row g + 8 (i / 2), column 2 t + i % 2
//
// (PTX ISA 8.0, sections on mma.m16n8k16 and mma.m16n8k8.) Products are exact but for TF32, of which the last
// 13 bits do not count. In which order a device adds them, and how it rounds between, is not documented:
// results are the same from run to run, and not those of the CPU. emulator/src/engine/matrices.rs has the
// order of the emulated driver.

#pragma once

#include "common.cuh"

// C += A B, of elements T.
template <typename T>
__device__ __forceinline__ void multiply(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]);

#if defined(__CUDA_ARCH__)
#define MULTIPLY(T, INSTRUCTION) \
    template <> \
    __device__ __forceinline__ void multiply<T>(float (&c)[4], const u32(&a)[4], const u32(&b)[2]) { \
        asm(INSTRUCTION " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])); \
    }
MULTIPLY(Bf16, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32")
MULTIPLY(F16, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")
MULTIPLY(float, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32")
#else
#define MULTIPLY(T, ELEMENTS) \
    template <> \
    __device__ __forceinline__ void multiply<T>(float (&c)[4], const u32(&a)[4], const u32(&b)[2]) { \
        emulator::multiply(emulator::ELEMENTS, c, a, b); \
    }
MULTIPLY(Bf16, BF16)
MULTIPLY(F16, F16)
MULTIPLY(float, TF32)
#endif
#undef MULTIPLY

// Loads four matrices of 8 x 8 elements of 16 bits, or their transposes, from shared memory. Lanes 8 i to
// 8 i + 7 pass the rows of matrix i, 16 aligned bytes each. A lane gets elements 2 t and 2 t + 1 of row g of
// each: four matrices are a fragment of A, or two of B.
template <bool TRANSPOSED>
__device__ __forceinline__ void load_matrices(u32 (&to)[4], const void* row) {
#if defined(__CUDA_ARCH__)
    u32 address = static_cast<u32>(__cvta_generic_to_shared(row));
    if constexpr (TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(address)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(address)
                     : "memory");
    }
#else
    emulator::load_matrices(to, row, TRANSPOSED);
#endif
}

// The transpose of a matrix of 8 x 8 elements of 16 bits, of which each lane has elements 2 t and 2 t + 1 of
// row g.
__device__ __forceinline__ u32 transpose_matrix(u32 elements) {
#if defined(__CUDA_ARCH__)
    u32 transposed;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(elements));
    return transposed;
#else
    return emulator::transpose_matrix(elements);
#endif
}

// A number rounded to TF32, to nearest and away from zero where two are as near. The last 13 bits are those
// of no number.
__device__ __forceinline__ u32 round_to_tf32(float value) {
    u32 rounded;
#if defined(__CUDA_ARCH__)
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
#else
    rounded = __float_as_uint(value);
    rounded += (rounded & 0x7f800000u) != 0x7f800000u ? 0x1000u : 0u;
#endif
    return rounded;
}

// What it is.
__device__ __forceinline__ float value_of_tf32(u32 rounded) { return __uint_as_float(rounded & 0xffffe000u); }

// Two numbers, narrowed, in a word.
__device__ __forceinline__ u32 pack(Bf16, float low, float high) {
#if defined(__CUDA_ARCH__)
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#else
    return u32(Element<Bf16>::narrow(high).bits) << 16 | Element<Bf16>::narrow(low).bits;
#endif
}
__device__ __forceinline__ u32 pack(F16, float low, float high) {
#if defined(__CUDA_ARCH__)
    u32 both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#else
    return u32(Element<F16>::narrow(high).bits) << 16 | Element<F16>::narrow(low).bits;
#endif
}
