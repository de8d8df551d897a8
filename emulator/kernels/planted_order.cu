// Planted: races and reads of shared memory that was not written, each beside its correct twin (`_ok`).

extern "C" __global__ void uninitialised_shared(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x;
    if (i % 2 == 0) {
        tile[i] = in[i];
    }
    __syncthreads();
    out[i] = tile[i];  // BUG: the odd elements were never written
}

extern "C" __global__ void uninitialised_shared_ok(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x;
    tile[i] = i % 2 == 0 ? in[i] : 0.0f;
    __syncthreads();
    out[i] = tile[i];
}

// What an earlier block wrote is gone.
extern "C" __global__ void unwritten_by_later_block(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x;
    if (blockIdx.x == 0) {
        tile[i] = in[i];
    }
    out[blockIdx.x * 32 + i] = tile[i];  // BUG: the second block has not written it
}

extern "C" __global__ void unwritten_by_later_block_ok(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x;
    tile[i] = in[i];
    out[blockIdx.x * 32 + i] = tile[i];
}

extern "C" __global__ void missing_syncthreads(float* out, const float* in, int n) {
    __shared__ float tile[64];
    unsigned i = threadIdx.x;
    tile[i] = 0.0f;
    __syncthreads();
    tile[i] = in[i];
    out[i] = tile[n - 1 - i];  // BUG: of another warp, without a barrier
}

extern "C" __global__ void missing_syncthreads_ok(float* out, const float* in, int n) {
    __shared__ float tile[64];
    unsigned i = threadIdx.x;
    tile[i] = 0.0f;
    __syncthreads();
    tile[i] = in[i];
    __syncthreads();
    out[i] = tile[n - 1 - i];
}

// Of a later block, which must not be taken for the end of an earlier one.
extern "C" __global__ void late_race(float* out, const float* in, int n) {
    __shared__ float tile[32];
    __shared__ float sum;
    unsigned i = threadIdx.x;
    if (i == 0) {
        sum = 0.0f;
    }
    tile[i] = 0.0f;
    __syncthreads();
    tile[i] = in[i];
    atomicAdd(&sum, 1.0f);
    if (blockIdx.x != 1) {
        __syncthreads();
    }
    out[blockIdx.x * 32 + i] = tile[31 - i] + sum;  // BUG: without a barrier in one block
}

extern "C" __global__ void late_race_ok(float* out, const float* in, int n) {
    __shared__ float tile[32];
    __shared__ float sum;
    unsigned i = threadIdx.x;
    if (i == 0) {
        sum = 0.0f;
    }
    tile[i] = 0.0f;
    __syncthreads();
    tile[i] = in[i];
    atomicAdd(&sum, 1.0f);
    __syncthreads();
    out[blockIdx.x * 32 + i] = tile[31 - i] + sum;
}

// The buffer is used again before all have read it.
extern "C" __global__ void reused_buffer(float* out, const float* in, int n) {
    __shared__ float tile[64];
    unsigned i = threadIdx.x;
    float sum = 0.0f;
    for (int round = 0; round < 3; ++round) {
        tile[i] = in[i] + round;  // BUG: others may still read the last round
        __syncthreads();
        sum += tile[n - 1 - i];
    }
    out[i] = sum;
}

extern "C" __global__ void reused_buffer_ok(float* out, const float* in, int n) {
    __shared__ float tile[64];
    unsigned i = threadIdx.x;
    float sum = 0.0f;
    for (int round = 0; round < 3; ++round) {
        tile[i] = in[i] + round;
        __syncthreads();
        sum += tile[n - 1 - i];
        __syncthreads();
    }
    out[i] = sum;
}

extern "C" __global__ void missing_syncwarp(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x;
    tile[i] = 0.0f;
    __syncwarp();
    tile[i] = in[i];
    out[i] = tile[31 - i];  // BUG: of another lane, without __syncwarp
}

extern "C" __global__ void missing_syncwarp_ok(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x;
    tile[i] = 0.0f;
    __syncwarp();
    tile[i] = in[i];
    __syncwarp();
    out[i] = tile[31 - i];
}

// Half-warps that synchronise on their own.
extern "C" __global__ void wrong_half(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x, half = i < 16 ? 0xffffu : 0xffff0000u;
    tile[i] = 0.0f;
    __syncwarp();
    tile[i] = in[i];
    __syncwarp(half);
    out[i] = tile[i ^ 16];  // BUG: of the other half
}

extern "C" __global__ void wrong_half_ok(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x, half = i < 16 ? 0xffffu : 0xffff0000u;
    tile[i] = 0.0f;
    __syncwarp();
    tile[i] = in[i];
    __syncwarp(half);
    out[i] = tile[i ^ 15];
}

extern "C" __global__ void shuffle_for_order(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x;
    tile[i] = 0.0f;
    __syncwarp();
    tile[i] = in[i];
    float other = __shfl_xor_sync(0xffffffff, in[i], 1);
    out[i] = tile[i ^ 1] - other;  // BUG: a shuffle orders no memory
}

extern "C" __global__ void shuffle_for_order_ok(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x;
    tile[i] = 0.0f;
    __syncwarp();
    tile[i] = in[i];
    float other = __shfl_xor_sync(0xffffffff, in[i], 1);
    __syncwarp();
    out[i] = tile[i ^ 1] - other;
}

extern "C" __global__ void global_race_in_block(float* out, const float* in, int n) {
    unsigned i = threadIdx.x;
    out[i / 2] = in[i / 2];  // BUG: two threads write the same element
    out[n / 2 + i / 2] = 1.0f;
}

extern "C" __global__ void global_race_in_block_ok(float* out, const float* in, int n) {
    unsigned i = threadIdx.x;
    if (i % 2 == 0) {
        out[i / 2] = in[i / 2];
        out[n / 2 + i / 2] = 1.0f;
    }
}

// Neighbouring bytes of one word are no race; the same byte is.
extern "C" __global__ void byte_race(float* out, const float* in, int n) {
    unsigned i = threadIdx.x;
    unsigned char* bytes = reinterpret_cast<unsigned char*>(out);
    for (unsigned j = i; j < 4 * static_cast<unsigned>(n); j += blockDim.x) {
        bytes[j & ~1u] = 0;  // BUG: of two threads
    }
}

extern "C" __global__ void byte_race_ok(float* out, const float* in, int n) {
    unsigned i = threadIdx.x;
    unsigned char* bytes = reinterpret_cast<unsigned char*>(out);
    for (unsigned j = i; j < 4 * static_cast<unsigned>(n); j += blockDim.x) {
        bytes[j] = 0;
    }
}

extern "C" __global__ void race_between_blocks(float* out, const float* in, int n) {
    unsigned i = threadIdx.x;
    out[blockIdx.x * blockDim.x + i] = in[i];
    out[i] = in[i];  // BUG: every block writes the first elements
}

extern "C" __global__ void race_between_blocks_ok(float* out, const float* in, int n) {
    unsigned i = threadIdx.x;
    out[blockIdx.x * blockDim.x + i] = in[i];
}

// The barrier orders the threads of one block only.
extern "C" __global__ void read_between_blocks(float* out, const float* in, int n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = in[i];
    __syncthreads();
    if (blockIdx.x == 0) {
        out[i] = out[n - 1 - i];  // BUG: of another block
    }
}

extern "C" __global__ void read_between_blocks_ok(float* out, const float* in, int n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = in[i];
    __syncthreads();
    float other = out[blockIdx.x * blockDim.x + blockDim.x - 1 - threadIdx.x];
    __syncthreads();
    out[i] = other;
}

extern "C" __global__ void store_against_atomic(float* out, const float* in, int n) {
    if (threadIdx.x == 33) {
        out[0] = 0.0f;  // BUG: others add to it
    }
    atomicAdd(&out[0], 1.0f);
}

extern "C" __global__ void store_against_atomic_ok(float* out, const float* in, int n) {
    if (threadIdx.x == 33) {
        out[0] = 0.0f;
    }
    __syncthreads();
    atomicAdd(&out[0], 1.0f);
    __syncthreads();
    if (threadIdx.x > 0) {
        out[threadIdx.x] = out[0];
    }
}
