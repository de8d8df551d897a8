// Small kernels for the tests of the driver: tests/driver.

// out[i] = in[i] · factor
extern "C" __global__ void driver_scale(float* out, const float* in, float factor, unsigned count) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) {
        out[i] = in[i] * factor;
    }
}

// data[i] += 1
extern "C" __global__ void driver_increment(float* data, unsigned count) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) {
        data[i] += 1.0f;
    }
}

// One element, far away.
extern "C" __global__ void driver_store(unsigned* data, unsigned long long index, unsigned value) {
    data[index] = value;
}

// A flag for the host to poll.
extern "C" __global__ void driver_flag(volatile unsigned* flag, unsigned value) {
    __threadfence_system();
    *flag = value;
}

// The threads of a block reverse their numbers through dynamic shared memory.
extern __shared__ __align__(16) unsigned char driver_shared[];

extern "C" __global__ void driver_reverse(unsigned* out) {
    unsigned* staged = reinterpret_cast<unsigned*>(driver_shared);
    staged[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = staged[blockDim.x - 1 - threadIdx.x];
}

// Each thread one 16-byte store.
extern "C" __global__ void driver_vector(float4* out) {
    out[threadIdx.x] = make_float4(1.0f, 2.0f, 3.0f, 4.0f);
}

// Reads what the type of the parameter does not promise to be aligned.
extern "C" __global__ void driver_misaligned(unsigned char* data) {
    *reinterpret_cast<unsigned*>(data + 1) = 1;
}

// Never ends.
extern "C" __global__ void driver_endless(volatile unsigned* data) {
    while (*data == 0) {}
}

// No parameters.
extern "C" __global__ void driver_nothing() {}
