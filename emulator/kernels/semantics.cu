// What the built-ins mean, written out for the tests: `tests/planted_semantics.rs` compares with its own
// formulas.

struct Rows {
    const float* data;
    long long stride;
    unsigned char flag;
};

struct Arguments {
    Rows from;
    float* to;
    unsigned count;
};

// A structure by value, with pointers inside.
extern "C" __global__ void semantics_arguments(const Arguments args, const void* tag,
                                               const double* __restrict__ scale) {
    unsigned i = threadIdx.x;
    if (i < args.count && args.from.flag == 7 && tag == nullptr) {
        args.to[i] = args.from.data[i * args.from.stride] * static_cast<float>(scale[0]);
    }
}

// Where a thread is, in three dimensions.
extern "C" __global__ void semantics_indices(unsigned* out) {
    unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    unsigned place = block * (blockDim.x * blockDim.y * blockDim.z) + thread;
    out[place] = threadIdx.x | threadIdx.y << 4 | threadIdx.z << 8 | blockIdx.x << 12 | blockIdx.y << 16 |
                 blockIdx.z << 20;
}

// Every warp operation, one row of 32 results for each.
extern "C" __global__ void semantics_warp(unsigned* out, const unsigned* in) {
    constexpr unsigned ALL = 0xffffffff;
    unsigned lane = threadIdx.x, value = in[lane];
    unsigned half = lane < 12 ? 0xfffu : ~0xfffu;
    unsigned results[] = {
        __shfl_sync(ALL, value, 5),
        __shfl_sync(ALL, value, static_cast<int>(lane) + 3, 8),
        __shfl_up_sync(ALL, value, 3),
        __shfl_up_sync(ALL, value, 3, 8),
        __shfl_down_sync(ALL, value, 5),
        __shfl_down_sync(ALL, value, 5, 16),
        __shfl_xor_sync(ALL, value, 6),
        __shfl_xor_sync(ALL, value, 16, 16),
        __float_as_uint(__shfl_xor_sync(ALL, __uint_as_float(value), 1)),
        static_cast<unsigned>(__shfl_xor_sync(ALL, static_cast<unsigned long long>(value) << 32, 1) >> 32),
        __ballot_sync(half, value % 3 == 0),
        static_cast<unsigned>(__any_sync(half, lane == 3)),
        static_cast<unsigned>(__all_sync(half, lane >= 12)),
        __match_any_sync(ALL, value % 5),
        __reduce_add_sync(half, value),
        __reduce_min_sync(half, value),
        __reduce_max_sync(half, value),
        static_cast<unsigned>(__reduce_min_sync(half, static_cast<int>(value))),
        static_cast<unsigned>(__reduce_max_sync(half, static_cast<int>(value))),
        __reduce_and_sync(half, value | 1u),
        __reduce_or_sync(half, value),
        __reduce_xor_sync(half, value),
    };
    for (unsigned i = 0; i < sizeof(results) / sizeof(results[0]); ++i) {
        out[32 * i + lane] = results[i];
    }
}

// The barriers that count, of 48 threads.
extern "C" __global__ void semantics_barrier(unsigned* out) {
    unsigned i = threadIdx.x;
    unsigned count = static_cast<unsigned>(__syncthreads_count(i % 3 == 0));
    unsigned any = static_cast<unsigned>(__syncthreads_or(i == 47));
    unsigned none = static_cast<unsigned>(__syncthreads_or(i == 48));
    unsigned all = static_cast<unsigned>(__syncthreads_and(i < 48));
    unsigned most = static_cast<unsigned>(__syncthreads_and(i < 47));
    out[i] = count << 4 | any << 3 | none << 2 | all << 1 | most;
}

// Atomics of several blocks: each operation has its own element.
extern "C" __global__ void semantics_atomics(unsigned* out, float* sum, unsigned long long* wide) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&out[0], i);
    atomicMax(&out[1], i);
    atomicMin(&out[2], i);
    atomicOr(&out[3], 1u << (i % 32));
    atomicAnd(&out[4], ~(1u << (i % 7)));
    if (atomicCAS(&out[5], 0u, 1u) == 0u) {
        atomicAdd(&out[6], 1u);
    }
    if (atomicExch(&out[7], 1u) == 0u) {
        atomicAdd(&out[8], 1u);
    }
    atomicAdd(sum, 0.5f);
    atomicAdd(wide, 1ull << 33);
}

// The order in which the threads come.
extern "C" __global__ void semantics_order(unsigned* out, unsigned* counter) {
    out[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(counter, 1u);
    __syncthreads();
    out[(gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x] = atomicAdd(counter, 1u);
}

// Fused only where the kernel says so.
extern "C" __global__ void semantics_rounding(float* out, const float* in) {
    float a = in[0], b = in[1], c = in[2];
    out[0] = a * b + c;
    out[1] = fmaf(a, b, c);
    out[2] = __fadd_rn(__fmul_rn(a, b), c);
}

// Fresh shared memory, static and dynamic. (Only the fast build lets a kernel read it.)
extern __shared__ __align__(16) unsigned char semantics_dynamic[];
extern "C" __global__ void semantics_fresh_shared(unsigned* out) {
    __shared__ unsigned tile[4];
    unsigned* dynamic = reinterpret_cast<unsigned*>(semantics_dynamic);
    volatile unsigned* at = threadIdx.x < 4 ? tile + threadIdx.x : dynamic + (threadIdx.x - 4);
    out[blockIdx.x * 8 + threadIdx.x] = *at;
    *at = 1;
}

// Arrays in local memory, indexed at run time, are the thread's own.
extern "C" __global__ void semantics_local(unsigned* out) {
    unsigned values[16];
    for (unsigned i = 0; i < 16; ++i) {
        values[i ^ threadIdx.x % 16] = i;
    }
    __syncthreads();
    unsigned sum = 0;
    for (unsigned i = 0; i < 16; ++i) {
        sum += values[i] * i;
    }
    out[threadIdx.x] = sum;
}

// A full mask, whatever the size of the block.
extern "C" __global__ void semantics_full_mask(unsigned* out) {
    out[threadIdx.x] = __ballot_sync(0xffffffff, 1);
}

template <class T>
__device__ void store_two(T* out) {
    out[threadIdx.x] = T(2);
}

// Entries that a macro writes, with what may stand between the qualifier and the name.
#define SEMANTICS_ENTRY(NAME, T) \
    extern "C" __global__ void __launch_bounds__(64) __attribute__((noinline)) NAME(T* out) { \
        store_two<T>(out); \
    }
SEMANTICS_ENTRY(semantics_macro_f32, float)
SEMANTICS_ENTRY(semantics_macro_f64, double)
