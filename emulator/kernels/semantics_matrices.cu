// What the operations on matrices mean, written out for the tests: `tests/planted_semantics.rs` compares with
// its own formulas. Each lane has words of `in` as its fragments, and stores what it gets.

#include "../../kernels/tensor_cores.cuh"

// C += A B: `in` has a fragment of A, one of B and one of C for each lane.
template <typename T>
__device__ void multiply_fragments(u32* out, const u32* in) {
    const u32* of_lane = in + 10 * threadIdx.x;
    u32 a[4];
    u32 b[2];
    float c[4];
    for (u32 i = 0; i < 4; i++) {
        a[i] = of_lane[i];
        c[i] = __uint_as_float(of_lane[6 + i]);
    }
    b[0] = of_lane[4];
    b[1] = of_lane[5];
    multiply<T>(c, a, b);
    // Once more, at once: words of one product are not taken for those of the next.
    float twice[4] = {c[0], c[1], c[2], c[3]};
    b[0] = of_lane[5];
    b[1] = of_lane[4];
    multiply<T>(twice, a, b);
    for (u32 i = 0; i < 4; i++) {
        out[8 * threadIdx.x + i] = __float_as_uint(c[i]);
        out[8 * threadIdx.x + 4 + i] = __float_as_uint(twice[i]);
    }
}

extern "C" __global__ void semantics_multiply_bf16(u32* out, const u32* in) {
    multiply_fragments<Bf16>(out, in);
}
extern "C" __global__ void semantics_multiply_f16(u32* out, const u32* in) {
    multiply_fragments<F16>(out, in);
}
extern "C" __global__ void semantics_multiply_tf32(u32* out, const u32* in) {
    multiply_fragments<float>(out, in);
}

// Four matrices, as they are and transposed, and the first of them transposed in registers; of two warps.
extern "C" __global__ void semantics_load_matrices(u32* out, const u32* in) {
    __shared__ __align__(16) u32 rows[2][32][4];
    u32 lane = threadIdx.x % WARP;
    u32 warp = threadIdx.x / WARP;
    for (u32 i = 0; i < 4; i++) {
        rows[warp][lane][i] = in[4 * threadIdx.x + i];
    }
    __syncwarp();
    u32 as_they_are[4];
    u32 transposed[4];
    load_matrices<false>(as_they_are, rows[warp][lane]);
    load_matrices<true>(transposed, rows[warp][lane]);
    for (u32 i = 0; i < 4; i++) {
        out[9 * threadIdx.x + i] = as_they_are[i];
        out[9 * threadIdx.x + 4 + i] = transposed[i];
    }
    out[9 * threadIdx.x + 8] = transpose_matrix(as_they_are[0]);
}
