// Planted: misuse of asynchronous copies to shared memory, each beside its correct twin (`_ok`).

extern "C" __global__ void missing_wait(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x;
    __pipeline_memcpy_async(&tile[i], &in[i], 4);
    __pipeline_commit();
    out[i] = tile[i];  // BUG: the copy has not landed
    __pipeline_wait_prior(0);
}

extern "C" __global__ void missing_wait_ok(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x;
    __pipeline_memcpy_async(&tile[i], &in[i], 4);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    out[i] = tile[i];
}

extern "C" __global__ void never_waited_for(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x;
    out[i] = in[i];
    __pipeline_memcpy_async(&tile[i], &in[i], 4);  // BUG: it may be under way when the thread ends
    __pipeline_commit();
}

extern "C" __global__ void never_waited_for_ok(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x;
    out[i] = in[i];
    __pipeline_memcpy_async(&tile[i], &in[i], 4);
    __pipeline_commit();
    __pipeline_wait_prior(0);
}

// What a stage held before is gone once a copy to it is under way.
extern "C" __global__ void wait_for_too_few(float* out, const float* in, int n) {
    __shared__ float stages[2][32];
    unsigned i = threadIdx.x;
    stages[0][i] = stages[1][i] = 0;
    for (unsigned s = 0; s < 2; s++) {
        __pipeline_memcpy_async(&stages[s][i], &in[i], 4);
        __pipeline_commit();
    }
    __pipeline_wait_prior(1);
    float first = stages[0][i];
    out[i] = first + stages[1][i];  // BUG: the last group may be under way
    __pipeline_wait_prior(0);
}

extern "C" __global__ void wait_for_too_few_ok(float* out, const float* in, int n) {
    __shared__ float stages[2][32];
    unsigned i = threadIdx.x;
    stages[0][i] = stages[1][i] = 0;
    for (unsigned s = 0; s < 2; s++) {
        __pipeline_memcpy_async(&stages[s][i], &in[i], 4);
        __pipeline_commit();
    }
    __pipeline_wait_prior(1);
    float first = stages[0][i];
    __pipeline_wait_prior(0);
    out[i] = first + stages[1][i];
}

// A wait is for the thread's own copies.
extern "C" __global__ void wait_without_syncwarp(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x;
    tile[i] = 0;
    __syncwarp();
    __pipeline_memcpy_async(&tile[i], &in[i], 4);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    out[i] = tile[n - 1 - i];  // BUG: of another thread
}

extern "C" __global__ void wait_without_syncwarp_ok(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x;
    tile[i] = 0;
    __syncwarp();
    __pipeline_memcpy_async(&tile[i], &in[i], 4);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    __syncwarp();
    out[i] = tile[n - 1 - i];
}

// A stage is free once all that read it have met.
extern "C" __global__ void copy_over_a_read(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x;
    tile[i] = in[i];
    __syncwarp();
    float other = tile[n - 1 - i];
    __pipeline_memcpy_async(&tile[i], &in[i], 4);  // BUG: another thread may not have read it
    __pipeline_commit();
    __pipeline_wait_prior(0);
    out[i] = other + tile[i];
}

extern "C" __global__ void copy_over_a_read_ok(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x;
    tile[i] = in[i];
    __syncwarp();
    float other = tile[n - 1 - i];
    __syncwarp();
    __pipeline_memcpy_async(&tile[i], &in[i], 4);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    out[i] = other + tile[i];
}

extern "C" __global__ void copy_behind_the_end(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x;
    __pipeline_memcpy_async(&tile[i], &in[i + 1], 4);  // BUG: the last thread reads behind the end
    __pipeline_commit();
    __pipeline_wait_prior(0);
    out[i] = tile[i];
}

extern "C" __global__ void copy_behind_the_end_ok(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x;
    unsigned zeros = i + 1 < n ? 0 : 4;
    __pipeline_memcpy_async(&tile[i], &in[i + 1], 4, zeros);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    out[i] = tile[i];
}

extern "C" __global__ void misaligned_copy(float* out, const float* in, int n) {
    __shared__ __align__(16) float tile[32];
    unsigned i = threadIdx.x;
    tile[i] = in[i];
    __syncwarp();
    if (i == 0) {
        __pipeline_memcpy_async(&tile[0], &in[1], 16);  // BUG: 16 bytes from a multiple of 4
        __pipeline_commit();
        __pipeline_wait_prior(0);
    }
    __syncwarp();
    out[i] = tile[i];
}

extern "C" __global__ void misaligned_copy_ok(float* out, const float* in, int n) {
    __shared__ __align__(16) float tile[32];
    unsigned i = threadIdx.x;
    tile[i] = in[i];
    __syncwarp();
    if (i == 0) {
        __pipeline_memcpy_async(&tile[0], &in[4], 16);
        __pipeline_commit();
        __pipeline_wait_prior(0);
    }
    __syncwarp();
    out[i] = tile[i];
}

extern "C" __global__ void copy_to_global(float* out, const float* in, int n) {
    unsigned i = threadIdx.x;
    __pipeline_memcpy_async(&out[i], &in[i], 4);  // BUG: that is no shared memory
    __pipeline_commit();
    __pipeline_wait_prior(0);
}

extern "C" __global__ void copy_to_global_ok(float* out, const float* in, int n) {
    __shared__ float tile[32];
    unsigned i = threadIdx.x;
    __pipeline_memcpy_async(&tile[i], &in[i], 4);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    out[i] = tile[i];
}

// A copy under way to the end of what is read.
extern "C" __global__ void wide_read_of_a_copy(float* out, const float* in, int n) {
    __shared__ __align__(16) float tile[4];
    unsigned i = threadIdx.x;
    if (i < 4) {
        tile[i] = in[i];
    } else {
        out[i] = in[i];
    }
    __syncwarp();
    if (i == 0) {
        __pipeline_memcpy_async(&tile[3], &in[3], 4);
        __pipeline_commit();
        *reinterpret_cast<float4*>(out) = *reinterpret_cast<float4*>(tile);  // BUG: the copy has not landed
        __pipeline_wait_prior(0);
    }
}

extern "C" __global__ void wide_read_of_a_copy_ok(float* out, const float* in, int n) {
    __shared__ __align__(16) float tile[4];
    unsigned i = threadIdx.x;
    if (i < 4) {
        tile[i] = in[i];
    } else {
        out[i] = in[i];
    }
    __syncwarp();
    if (i == 0) {
        __pipeline_memcpy_async(&tile[3], &in[3], 4);
        __pipeline_commit();
        __pipeline_wait_prior(0);
        *reinterpret_cast<float4*>(out) = *reinterpret_cast<float4*>(tile);
    }
}
