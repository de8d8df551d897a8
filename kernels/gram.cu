// The inner products of the rows of each instance, or their gradient, for topologies of more vertices than
// the path of dense operators has kernels for (and no more than 64):
//
//     S_uv = <x_u, x_v>
//     dloss/dx_u = sum over v of (G_uv + G_vu) x_v,    G = dloss/dS
//
// A block has 8 x 8 products of an instance, those on or above the diagonal; the others have the same bits.
// A thread has 2 x 2 of them and a slot: it adds every 8th slice, feature by feature. The slots are then
// added in shared memory. In the gradient a thread has a feature of a row, and adds the
// vertices one by one, by one fused multiply-add each. src/dense.rs states the order of all sums, and
// src/cpu/dense has the same bits.
//
// The caller's matrices are as in matrix.cu. Rows of the gradient are overwritten or added to; of an instance
// that is not found nothing is stored. Launched by src/cuda/conv/dense/matrix.rs.
//
// Modules: f32, f64.

#include "dense.cuh"
#include "modules.cuh"

enum : u32 {
    GRAM_BLOCK = 8,
    // Products of a thread along either side, and such squares along a side of a block.
    SQUARE = 2,
    SQUARES = GRAM_BLOCK / SQUARE,
    PRODUCTS = SQUARE * SQUARE,
    SLOTS = THREADS / (SQUARES * SQUARES),
    RUNS = 4,
};
static_assert(SLOTS == 2 * RUNS, "slots");

// Element `at` of some rows, widened. The kernels know its type at run time: four of each would be large.
template <typename A>
__device__ __forceinline__ A load(const GramArgs& args, const void* rows, u64 at) {
    bool is_half = sizeof(A) == sizeof(float) && args.element != ELEMENT_OF_SUMS;
    const u8* from = static_cast<const u8*>(rows) + at * (is_half ? sizeof(F16) : sizeof(A));
    if (!is_half) {
        return *reinterpret_cast<const A*>(from);
    }
    F16 value = *reinterpret_cast<const F16*>(from);
    return static_cast<A>(args.element == ELEMENT_F16 ? Element<F16>::widen(value)
                                                      : Element<Bf16>::widen({value.bits}));
}

template <typename A>
__device__ __forceinline__ void store(const GramArgs& args, void* rows, u64 at, A value) {
    if (args.add != 0) {
        value = load<A>(args, rows, at) + value;
    }
    if (sizeof(A) == sizeof(float) && args.element == ELEMENT_F16) {
        static_cast<F16*>(rows)[at] = Element<F16>::narrow(static_cast<float>(value));
    } else if (sizeof(A) == sizeof(float) && args.element == ELEMENT_BF16) {
        static_cast<Bf16*>(rows)[at] = Element<Bf16>::narrow(static_cast<float>(value));
    } else {
        static_cast<A*>(rows)[at] = value;
    }
}

// The products of a thread's slot, in shared memory: one by one those of all threads.
template <typename A>
__device__ __forceinline__ void add_slices(const GramArgs& args, const DenseItem& item, u32 first_u,
                                           u32 first_v, A* sums) {
    // The features of a slice.
    constexpr u32 LEN = sizeof(A) == sizeof(double) ? 2 : 4;
    u64 x = element(args.x, item.number, item.first_vertex, 0);
    u32 square = threadIdx.x / SLOTS;
    u32 u = first_u + square / SQUARES * SQUARE;
    u32 v = first_v + square % SQUARES * SQUARE;
    A products[PRODUCTS] = {};
    u64 feature = u64(threadIdx.x % SLOTS) * LEN;
#pragma unroll 1
    while (feature < args.features) {
        A of_u[SQUARE];
#pragma unroll
        for (u32 i = 0; i < SQUARE; i++) {
            u64 at = x + (u + i) * args.x.row_stride + feature;
            of_u[i] = u + i < item.n_vertices ? load<A>(args, args.x.data, at) : A(0);
        }
#pragma unroll
        for (u32 j = 0; j < SQUARE; j++) {
            u64 at = x + (v + j) * args.x.row_stride + feature;
            A of_v = v + j < item.n_vertices ? load<A>(args, args.x.data, at) : A(0);
#pragma unroll
            for (u32 i = 0; i < SQUARE; i++) {
                products[i * SQUARE + j] = fused_multiply_add(of_u[i], of_v, products[i * SQUARE + j]);
            }
        }
        // The next of the slice, or the first of the slot's next slice.
        feature += feature % LEN == LEN - 1 ? (SLOTS - 1) * LEN + 1 : 1;
    }
#pragma unroll
    for (u32 i = 0; i < PRODUCTS; i++) {
        sums[i * THREADS + threadIdx.x] = products[i];
    }
}

template <typename A>
__device__ __forceinline__ void find_products(const GramArgs& args, const DenseItem& item, u32 part,
                                              A* sums) {
    // Blocks on or above the diagonal, row by row.
    u32 blocks = (args.side + GRAM_BLOCK - 1) / GRAM_BLOCK;
    u32 row = 0;
#pragma unroll 1
    while (part >= blocks - row) {
        part -= blocks - row;
        row++;
    }
    u32 first_u = row * GRAM_BLOCK;
    u32 first_v = (row + part) * GRAM_BLOCK;
    bool found = item.is_found != 0;
    if (found) {
        add_slices<A>(args, item, first_u, first_v, sums);
    }
    __syncthreads();
    if (item.number >= args.items.by_vertex.instances) {
        return;
    }
    A* matrix = static_cast<A*>(args.matrices) + item.number * args.side * args.side;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < GRAM_BLOCK * GRAM_BLOCK; i += THREADS) {
        u32 square = i / PRODUCTS;
        u32 product = i % PRODUCTS;
        u32 u = first_u + square / SQUARES * SQUARE + product / SQUARE;
        u32 v = first_v + square % SQUARES * SQUARE + product % SQUARE;
        if (u >= args.side || v >= args.side) {
            continue;
        }
        bool exists = !found || (u < item.n_vertices && v < item.n_vertices);
        if (!exists && args.add != 0) {
            continue;
        }
        A value = found ? A(0) : not_a_number<A>();
        if (found && exists) {
            const A* slots = sums + product * THREADS + square * SLOTS;
            auto run = [&](u32 r) {
                return (0.0 + static_cast<double>(slots[r])) + static_cast<double>(slots[RUNS + r]);
            };
            value = static_cast<A>((run(0) + run(1)) + (run(2) + run(3)));
        }
        u32 at = u * args.side + v;
#pragma unroll 1
        for (u32 sides = first_u == first_v ? 1 : 2; sides > 0; sides--) {
            matrix[at] = args.add != 0 ? matrix[at] + value : value;
            at = v * args.side + u;
        }
    }
}

template <typename A>
__device__ __forceinline__ void find_gradient(const GramArgs& args, const DenseItem& item, u64 part) {
    u64 number = part * THREADS + threadIdx.x;
    u64 u = divide(number, args.features);
    u64 feature = number - u * args.features;
    u32 n = item.n_vertices;
    if (u >= n) {
        return;
    }
    u64 x = element(args.x, item.number, item.first_vertex, 0) + feature;
    const A* matrix = static_cast<const A*>(args.matrices) + item.number * args.side * args.side;
    const A* row = matrix + u * args.side;
    const A* column = matrix + u;
    A sum = 0;
#pragma unroll 1
    for (u32 v = 0; v < n; v++) {
        A of_v = load<A>(args, args.x.data, x);
        sum = fused_multiply_add(row[v] + *column, of_v, sum);
        x += args.x.row_stride;
        column += args.side;
    }
    u64 to = element(args.grad_x, item.number, item.first_vertex, static_cast<u32>(u)) + feature;
    store(args, args.grad_x.data, to, sum);
}

template <typename A, bool Checked>
__device__ __forceinline__ void gram(const GramArgs& args) {
    DenseItem& item = *reinterpret_cast<DenseItem*>(shared_memory);
    A* sums = reinterpret_cast<A*>(&item + 1);
#pragma unroll 1
    for (u64 block = blockIdx.x; block < args.items.blocks * args.parts; block += gridDim.x) {
        u64 place = divide(block, args.parts);
        u64 part = block - place * args.parts;
        if (threadIdx.x == 0) {
            find_rows<Checked>(args.items, GRAM, place, item);
        }
        __syncthreads();
        if (args.grad_x.data == nullptr) {
            find_products<A>(args, item, static_cast<u32>(part), sums);
        } else {
            find_gradient<A>(args, item, part);
        }
        __syncthreads();  // the next item has the same memory
    }
}

#define KERNELS(A, NAME, CHECKS) \
    extern "C" __global__ void __launch_bounds__(THREADS, 4) gram_##NAME(const GramArgs args) { \
        gram<A, CHECKS>(args); \
    }

MODULES_OF_F32(UNCHECKED(KERNELS(float, f32, false)) CHECKED(KERNELS(float, f32_checked, true)))
MODULES_OF_F64(UNCHECKED(KERNELS(double, f64, false)) CHECKED(KERNELS(double, f64_checked, true)))
