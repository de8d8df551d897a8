// Planted: barriers and warp operations that not all threads reach, or reach in the wrong way, each beside
// its correct twin (`_ok`).

constexpr unsigned ALL = 0xffffffff;

extern "C" __global__ void early_return(float* out, const float* in, int n) {
    __shared__ float tile[64];
    int i = static_cast<int>(threadIdx.x);
    if (i >= n) {
        return;
    }
    tile[i] = in[i];
    __syncthreads();  // BUG: the threads behind n are gone
    out[i] = tile[n - 1 - i];
}

extern "C" __global__ void early_return_ok(float* out, const float* in, int n) {
    __shared__ float tile[64];
    int i = static_cast<int>(threadIdx.x);
    if (i < n) {
        tile[i] = in[i];
    }
    __syncthreads();
    if (i < n) {
        out[i] = tile[n - 1 - i];
    }
}

extern "C" __global__ void barrier_on_two_lines(float* out, const float* in, int n) {
    if (threadIdx.x < 32) {
        __syncthreads();  // BUG: the other warp waits elsewhere
    } else {
        __syncthreads();
    }
    out[threadIdx.x] = in[threadIdx.x];
}

extern "C" __global__ void barrier_on_two_lines_ok(float* out, const float* in, int n) {
    __syncthreads();
    out[threadIdx.x] = in[threadIdx.x];
}

extern "C" __global__ void lane_outside_its_mask(float* out, const float* in, int n) {
    unsigned i = threadIdx.x;
    out[i] = __shfl_sync(0x7fffffff, in[i], 0);  // BUG: lane 31 is not in the mask
}

extern "C" __global__ void lane_outside_its_mask_ok(float* out, const float* in, int n) {
    unsigned i = threadIdx.x;
    out[i] = __shfl_sync(ALL, in[i], 0);
}

extern "C" __global__ void mask_of_exited_lane(float* out, const float* in, int n) {
    unsigned i = threadIdx.x;
    if (i == 0) {
        out[i] = in[1];
        return;
    }
    out[i] = __shfl_sync(ALL, in[i], 1);  // BUG: lane 0 is gone
}

extern "C" __global__ void mask_of_exited_lane_ok(float* out, const float* in, int n) {
    unsigned i = threadIdx.x;
    if (i == 0) {
        out[i] = in[1];
        return;
    }
    out[i] = __shfl_sync(0xfffffffe, in[i], 1);
}

extern "C" __global__ void source_outside_the_mask(float* out, const float* in, int n) {
    unsigned i = threadIdx.x, half = i < 16 ? 0xffffu : 0xffff0000u;
    out[i] = __shfl_xor_sync(half, in[i], 16);  // BUG: of the other half
}

extern "C" __global__ void source_outside_the_mask_ok(float* out, const float* in, int n) {
    unsigned i = threadIdx.x, half = i < 16 ? 0xffffu : 0xffff0000u;
    out[i] = __shfl_xor_sync(half, in[i], 8);
}

extern "C" __global__ void shuffle_on_two_lines(float* out, const float* in, int n) {
    unsigned i = threadIdx.x;
    if (i % 2 == 0) {
        out[i] = __shfl_sync(ALL, in[i], 0);  // BUG: the odd lanes are at another shuffle
    } else {
        out[i] = __shfl_sync(ALL, in[i], 1);
    }
}

extern "C" __global__ void shuffle_on_two_lines_ok(float* out, const float* in, int n) {
    unsigned i = threadIdx.x;
    if (i % 2 == 0) {
        out[i] = __shfl_sync(0x55555555, in[i], 0);
    } else {
        out[i] = __shfl_sync(0xaaaaaaaa, in[i], 1);
    }
}

extern "C" __global__ void deadlock(float* out, const float* in, int n) {
    if (threadIdx.x == 40) {
        __syncwarp();  // BUG: the rest of its warp waits in the barrier
    }
    __syncthreads();
    out[threadIdx.x] = in[threadIdx.x];
}

extern "C" __global__ void deadlock_ok(float* out, const float* in, int n) {
    if (threadIdx.x / 32 == 1) {
        __syncwarp();
    }
    __syncthreads();
    out[threadIdx.x] = in[threadIdx.x];
}
