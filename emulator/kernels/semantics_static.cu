// As semantics_fresh_shared, in a file without dynamic shared memory.

extern "C" __global__ void semantics_fresh_static(unsigned* out) {
    __shared__ unsigned tile[8];
    volatile unsigned* at = tile + threadIdx.x;
    out[blockIdx.x * 8 + threadIdx.x] = *at;
    *at = 1;
}
