// Shared by the planted kernels.
#pragma once

__device__ __forceinline__ int index_of_thread() {
    return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

// What bug_in_header() and its twin call.
template <bool BUG>
__device__ void reversed(float* out, const float* in, int n) {
    int i = index_of_thread();
    if (i < n) {
        out[i] = in[n - i - (BUG ? 0 : 1)];  // BUG: thread 0 reads behind the end
    }
}
