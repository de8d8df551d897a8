// Planted: accesses outside of what belongs to the kernel, each beside its correct twin (`_ok`).
//
// All planted kernels take the same parameters: `out` and `in` have n elements.

#include "planted.cuh"

extern __shared__ __align__(16) unsigned char dynamic_shared[];

extern "C" __global__ void read_behind_end(float* out, const float* in, int n) {
    int i = index_of_thread();
    if (i < n) {
        out[i] = in[i + 1];  // BUG: the last thread reads behind the end
    }
}

extern "C" __global__ void read_behind_end_ok(float* out, const float* in, int n) {
    int i = index_of_thread();
    if (i < n) {
        out[i] = i + 1 < n ? in[i + 1] : 0.0f;
    }
}

extern "C" __global__ void read_before_start(float* out, const float* in, int n) {
    int i = index_of_thread();
    if (i < n) {
        out[i] = in[i - 1];  // BUG: the first thread reads before the start
    }
}

extern "C" __global__ void read_before_start_ok(float* out, const float* in, int n) {
    int i = index_of_thread();
    if (i < n) {
        out[i] = i > 0 ? in[i - 1] : 0.0f;
    }
}

extern "C" __global__ void write_behind_end(float* out, const float* in, int n) {
    int i = index_of_thread();
    if (i <= n) {
        out[i] = 7.0f;  // BUG: i may be n
    }
}

extern "C" __global__ void write_behind_end_ok(float* out, const float* in, int n) {
    int i = index_of_thread();
    if (i < n) {
        out[i] = 7.0f;
    }
}

// A thread owns a tile of four elements; n need not be a multiple of four.
extern "C" __global__ void partial_tile(float* out, const float* in, int n) {
    int first = 4 * index_of_thread();
    if (first >= n) {
        return;
    }
    for (int i = first; i < first + 4; ++i) {
        out[i] = 2.0f * in[i];  // BUG: the last tile is partial
    }
}

extern "C" __global__ void partial_tile_ok(float* out, const float* in, int n) {
    int first = 4 * index_of_thread();
    if (first >= n) {
        return;
    }
    for (int i = first; i < min(first + 4, n); ++i) {
        out[i] = 2.0f * in[i];
    }
}

extern "C" __global__ void static_shared_bounds(float* out, const float* in, int n) {
    __shared__ float tile[32];
    int i = static_cast<int>(threadIdx.x);
    tile[i + 1] = in[i];  // BUG: lane 31 writes element 32
    __syncthreads();
    out[i] = tile[i + 1];
}

extern "C" __global__ void static_shared_bounds_ok(float* out, const float* in, int n) {
    __shared__ float tile[33];
    int i = static_cast<int>(threadIdx.x);
    tile[i + 1] = in[i];
    __syncthreads();
    out[i] = tile[i + 1];
}

extern "C" __global__ void dynamic_shared_bounds(float* out, const float* in, int n) {
    float* tile = reinterpret_cast<float*>(dynamic_shared);
    int i = static_cast<int>(threadIdx.x);
    tile[i + 1] = in[i];  // BUG: the launch has n elements
    __syncthreads();
    out[i] = tile[i + 1];
}

// Right with n elements of dynamic shared memory, and a bug of the launch with less.
extern "C" __global__ void dynamic_shared_bounds_ok(float* out, const float* in, int n) {
    float* tile = reinterpret_cast<float*>(dynamic_shared);
    int i = static_cast<int>(threadIdx.x);
    tile[i] = in[i];  // BUG: of a launch with too little shared memory
    __syncthreads();
    out[i] = tile[i];
}

extern "C" __global__ void null_pointer(float* out, const float* in, int n) {
    const float* row = n > 0 ? nullptr : in;
    out[threadIdx.x] = row[threadIdx.x];  // BUG: row is null
}

extern "C" __global__ void null_pointer_ok(float* out, const float* in, int n) {
    const float* row = n > 0 ? in : nullptr;
    out[threadIdx.x] = row[threadIdx.x];
}

// Right, and wrong if `in` has been freed.
extern "C" __global__ void copy(float* out, const float* in, int n) {
    int i = index_of_thread();
    if (i < n) {
        out[i] = in[i];  // BUG: of a launch with memory that was freed, or never written
    }
}

// Copied as a whole, by one instrumented range.
struct Row {
    float values[32];
};

extern "C" __global__ void copy_struct(float* out, const float* in, int n) {
    if (threadIdx.x == 0) {
        *reinterpret_cast<Row*>(out) = *reinterpret_cast<const Row*>(in + 1);  // BUG: one element too far
    }
}

extern "C" __global__ void copy_struct_ok(float* out, const float* in, int n) {
    if (threadIdx.x == 0) {
        *reinterpret_cast<Row*>(out) = *reinterpret_cast<const Row*>(in);
    }
}

// The body, and its bug, are in planted.cuh.
extern "C" __global__ void bug_in_header(float* out, const float* in, int n) { reversed<true>(out, in, n); }

extern "C" __global__ void bug_in_header_ok(float* out, const float* in, int n) {
    reversed<false>(out, in, n);
}

// Shared memory that an earlier block wrote, in a file with both sorts of it.
extern "C" __global__ void unwritten_dynamic(float* out, const float* in, int n) {
    float* tile = reinterpret_cast<float*>(dynamic_shared);
    if (blockIdx.x == 0) {
        tile[threadIdx.x] = in[threadIdx.x];
    }
    out[index_of_thread()] = tile[threadIdx.x];  // BUG: the second block has not written it
}

extern "C" __global__ void unwritten_dynamic_ok(float* out, const float* in, int n) {
    float* tile = reinterpret_cast<float*>(dynamic_shared);
    tile[threadIdx.x] = in[threadIdx.x];
    out[index_of_thread()] = tile[threadIdx.x];
}

extern "C" __global__ void unwritten_static(float* out, const float* in, int n) {
    __shared__ float tile[32];
    if (blockIdx.x == 0) {
        tile[threadIdx.x] = in[threadIdx.x];
    }
    out[index_of_thread()] = tile[threadIdx.x];  // BUG: the second block has not written it
}

extern "C" __global__ void unwritten_static_ok(float* out, const float* in, int n) {
    __shared__ float tile[32];
    tile[threadIdx.x] = in[threadIdx.x];
    out[index_of_thread()] = tile[threadIdx.x];
}
