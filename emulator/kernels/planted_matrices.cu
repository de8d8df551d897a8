// Planted: misuse of the operations on matrices, each beside its correct twin (`_ok`). Rows of four matrices
// have a word that counts, and three others.

constexpr unsigned ALL = 0xffffffff;

__device__ void fill(unsigned (*rows)[4], float value) {
    for (unsigned i = 0; i < 4; i++) {
        rows[threadIdx.x][i] = i == 0 ? __float_as_uint(value) : 0;
    }
}

// The first word of row `lane`, which lane 4 (lane % 8) got.
__device__ float first_word(const unsigned (&matrices)[4]) {
    unsigned lane = threadIdx.x, word = 0;
    for (unsigned i = 0; i < 4; i++) {
        unsigned of_row = __shfl_sync(ALL, matrices[i], 4 * (lane % 8));
        word = i == lane / 8 ? of_row : word;
    }
    return __uint_as_float(word);
}

extern "C" __global__ void matrix_row_misaligned(float* out, const float* in, int n) {
    __shared__ __align__(16) unsigned rows[33][4];
    fill(rows, in[threadIdx.x]);
    __syncwarp();
    unsigned matrices[4];
    emulator::load_matrices(matrices, rows[threadIdx.x] + 1, false);  // BUG: 4 bytes too far
    out[threadIdx.x] = first_word(matrices);
}

extern "C" __global__ void matrix_row_ok(float* out, const float* in, int n) {
    __shared__ __align__(16) unsigned rows[32][4];
    fill(rows, in[threadIdx.x]);
    __syncwarp();
    unsigned matrices[4];
    emulator::load_matrices(matrices, rows[threadIdx.x], false);
    out[threadIdx.x] = first_word(matrices);
}

extern "C" __global__ void matrix_row_of_global_memory(float* out, const float* in, int n) {
    unsigned matrices[4];
    emulator::load_matrices(matrices, in, false);  // BUG: rows lie in shared memory
    out[threadIdx.x] = first_word(matrices);
}

extern "C" __global__ void matrix_row_unwritten(float* out, const float* in, int n) {
    __shared__ __align__(16) unsigned rows[32][4];
    if (threadIdx.x < 31) {
        fill(rows, in[threadIdx.x]);
    }
    __syncwarp();
    unsigned matrices[4];
    emulator::load_matrices(matrices, rows[threadIdx.x], false);  // BUG: nobody wrote the last row
    out[threadIdx.x] = first_word(matrices);
}

extern "C" __global__ void matrix_row_without_syncwarp(float* out, const float* in, int n) {
    __shared__ __align__(16) unsigned rows[32][4];
    fill(rows, 0);
    __syncwarp();
    fill(rows, in[threadIdx.x]);
    unsigned matrices[4];
    emulator::load_matrices(matrices, rows[n - 1 - threadIdx.x], false);  // BUG: another lane wrote it
    out[threadIdx.x] = first_word(matrices);
}

extern "C" __global__ void matrix_row_without_syncwarp_ok(float* out, const float* in, int n) {
    __shared__ __align__(16) unsigned rows[32][4];
    fill(rows, 0);
    __syncwarp();
    fill(rows, in[threadIdx.x]);
    __syncwarp();
    unsigned matrices[4];
    emulator::load_matrices(matrices, rows[n - 1 - threadIdx.x], false);
    out[threadIdx.x] = first_word(matrices);
}

extern "C" __global__ void fragment_of_a_lane_that_is_gone(float* out, const float* in, int n) {
    if (threadIdx.x == 31) {
        out[31] = in[31];
        return;
    }
    unsigned word = emulator::transpose_matrix(0);  // BUG: lane 31 holds elements, too
    out[threadIdx.x] = in[threadIdx.x] + __uint_as_float(word);
}

extern "C" __global__ void fragment_of_a_lane_that_is_gone_ok(float* out, const float* in, int n) {
    unsigned word = emulator::transpose_matrix(0);
    out[threadIdx.x] = in[threadIdx.x] + __uint_as_float(word);
}

extern "C" __global__ void fragments_of_two_products(float* out, const float* in, int n) {
    unsigned a[4] = {}, b[2] = {};
    float c[4] = {in[threadIdx.x], 0, 0, 0};
    if (threadIdx.x % 2 == 0) {
        emulator::multiply(emulator::BF16, c, a, b);  // BUG: the other lanes are in another product
    } else {
        emulator::multiply(emulator::BF16, c, a, b);
    }
    out[threadIdx.x] = c[0];
}

extern "C" __global__ void fragments_of_two_products_ok(float* out, const float* in, int n) {
    unsigned a[4] = {}, b[2] = {};
    float c[4] = {in[threadIdx.x], 0, 0, 0};
    emulator::multiply(emulator::BF16, c, a, b);
    out[threadIdx.x] = c[0];
}
