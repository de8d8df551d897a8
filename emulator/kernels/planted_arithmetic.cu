// Planted: misalignment, undefined arithmetic and endless loops, each beside its correct twin (`_ok`).

extern "C" __global__ void misaligned_vector(float* out, const float* in, int n) {
    int i = static_cast<int>(threadIdx.x);
    float4 v = *reinterpret_cast<const float4*>(in + 4 * i + 1);  // BUG: four bytes off
    *reinterpret_cast<float4*>(out + 4 * i) = v;
}

extern "C" __global__ void misaligned_vector_ok(float* out, const float* in, int n) {
    int i = static_cast<int>(threadIdx.x);
    float4 v = *reinterpret_cast<const float4*>(in + 4 * i);
    *reinterpret_cast<float4*>(out + 4 * i) = v;
}

extern "C" __global__ void misaligned_store(float* out, const float* in, int n) {
    int i = static_cast<int>(threadIdx.x);
    float4 v = __ldg(reinterpret_cast<const float4*>(in + 4 * i));
    __stcs(reinterpret_cast<float4*>(out + 4 * i + (i == 1 ? 2 : 0)), v);  // BUG: eight bytes off
}

extern "C" __global__ void misaligned_store_ok(float* out, const float* in, int n) {
    int i = static_cast<int>(threadIdx.x);
    float4 v = __ldg(reinterpret_cast<const float4*>(in + 4 * i));
    __stcs(reinterpret_cast<float4*>(out + 4 * i), v);
}

extern "C" __global__ void signed_overflow(float* out, const float* in, int n) {
    int row = static_cast<int>(threadIdx.x), width = 1 << 27;
    int offset = row * width;  // BUG: 16 rows do not fit
    out[row] = in[row] + static_cast<float>(offset & 1);
}

extern "C" __global__ void signed_overflow_ok(float* out, const float* in, int n) {
    int row = static_cast<int>(threadIdx.x), width = 1 << 27;
    long long offset = static_cast<long long>(row) * width;
    out[row] = in[row] + static_cast<float>(offset & 1);
}

extern "C" __global__ void division_by_zero(float* out, const float* in, int n) {
    int i = static_cast<int>(threadIdx.x);
    out[i] = static_cast<float>(n / (i % 4));  // BUG: i may be a multiple of 4
}

extern "C" __global__ void division_by_zero_ok(float* out, const float* in, int n) {
    int i = static_cast<int>(threadIdx.x);
    out[i] = static_cast<float>(n / (i % 4 + 1));
}

extern "C" __global__ void wide_shift(float* out, const float* in, int n) {
    int i = static_cast<int>(threadIdx.x);
    out[i] = static_cast<float>(1u << (i + 1));  // BUG: lane 31 shifts by 32
}

extern "C" __global__ void wide_shift_ok(float* out, const float* in, int n) {
    int i = static_cast<int>(threadIdx.x);
    out[i] = static_cast<float>(1u << i);
}

// Without any access inside of the loop.
extern "C" __global__ void endless_loop(float* out, const float* in, int n) {
    unsigned state = threadIdx.x;
    while (state < 1000) state *= 2;  // BUG: 0 stays below 1000
    out[threadIdx.x] = in[threadIdx.x] + static_cast<float>(state);
}

extern "C" __global__ void endless_loop_ok(float* out, const float* in, int n) {
    unsigned state = threadIdx.x + 1;
    while (state < 1000) state *= 2;
    out[threadIdx.x] = in[threadIdx.x] + static_cast<float>(state);
}

// Waits for a value that nobody writes.
extern "C" __global__ void endless_wait(float* out, const float* in, int n) {
    const volatile float* flag = in;
    while (flag[0] != 0.0f) {}  // BUG: it stays 1
    out[threadIdx.x] = 0.0f;
}

extern "C" __global__ void endless_wait_ok(float* out, const float* in, int n) {
    const volatile float* flag = in;
    while (flag[0] != 1.0f) {}
    out[threadIdx.x] = 0.0f;
}

extern "C" __global__ void trap(float* out, const float* in, int n) {
    if (in[threadIdx.x] > 3.0f) {
        __trap();  // BUG: the fourth element is 4
    }
    out[threadIdx.x] = in[threadIdx.x];
}

extern "C" __global__ void trap_ok(float* out, const float* in, int n) {
    if (in[threadIdx.x] > 100.0f) {
        __trap();
    }
    out[threadIdx.x] = in[threadIdx.x];
}
