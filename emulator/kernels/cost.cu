// What the emulator itself costs: accesses, waits, and threads that do nothing. `examples/cost.rs` measures
// them.

extern "C" __global__ void cost_nothing(float* out, const float* in, int n) {}

// n reads and n writes of a thread, next to those of its neighbours.
extern "C" __global__ void cost_global(float* out, const float* in, int n) {
    for (int i = 0; i < n; ++i) {
        out[i * blockDim.x + threadIdx.x] = in[i * blockDim.x + threadIdx.x];
    }
}

extern "C" __global__ void cost_global_vector(float* out, const float* in, int n) {
    auto from = reinterpret_cast<const float4*>(in);
    auto to = reinterpret_cast<float4*>(out);
    for (int i = 0; i < n / 4; ++i) {
        to[i * blockDim.x + threadIdx.x] = from[i * blockDim.x + threadIdx.x];
    }
}

// 2 n accesses of a thread to shared memory.
extern "C" __global__ void cost_shared(float* out, const float* in, int n) {
    __shared__ float tile[1024];
    float* own = tile + threadIdx.x;
    *own = 0.0f;
    for (int i = 0; i < n; ++i) {
        *reinterpret_cast<volatile float*>(own) += 1.0f;
    }
}

extern "C" __global__ void cost_barrier(float* out, const float* in, int n) {
    for (int i = 0; i < n; ++i) {
        __syncthreads();
    }
}

extern "C" __global__ void cost_shuffle(float* out, const float* in, int n) {
    float value = threadIdx.x;
    for (int i = 0; i < n; ++i) {
        value += __shfl_xor_sync(0xffffffff, value, 1);
    }
    if (value < 0.0f) {
        out[0] = value;
    }
}
