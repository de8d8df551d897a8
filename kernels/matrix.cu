// The matrices of instances, between the memory of the caller and scratch memory:
//
//     STORE_OPERATOR    M, as dense_form.cu has formed it, with the factors of its rows
//     LOAD_GRADIENT     dloss/dM times the factors of the rows: the products that dense_gradient.cu takes
//     MAKE_UNIT         operators of 0 whose rows have the factor 1: g stays what it is in dense_backward.cuh
//     STORE_PRODUCTS    the products <x_u, x_v> of dense_backward.cuh
//     LOAD_SYMMETRIC    G_uv + G_vu, an operator that dense_conv.cuh applies, all of whose entries are terms
//
// and, for topologies of more vertices than those kernels are for,
//
//     GRAM              the products <x_u, x_v>, in the same order
//     GRAM_BACKWARD     dloss/dx_u = sum of (G_uv + G_vu) x_v, v ascending, one fused multiply-add each
//
// which no memory but the caches makes fast: each row is loaded for every other one.
//
// The caller's matrices have the rows of the largest topology in use. They are overwritten or added to, each
// element by one thread; beyond the vertices of a topology they become 0 or stay, and are not read. An
// instance that is not found, or whose operator could not be formed, gets a matrix of NaN. Rows of the
// gradient are overwritten or added to; of an instance that is not found none are.
// Launched by src/cuda/conv/dense/matrix.rs; src/cpu/conv/matrix.rs has the same bits.
//
// Modules: sums.

#include "dense.cuh"
#include "modules.cuh"

// Finds an instance, or a topology, and where its operator is. A single thread does this.
template <bool Checked>
__device__ __forceinline__ void find(const MatrixArgs& args, u64 place, DenseItem& item) {
    const TablesArgs& tables = args.items.by_vertex;
    bool of_topologies = args.of_topologies != 0;
    Check<Checked> check;
    if (find_item(args.items, check, place, of_topologies, item)) {
        u64 n = tables.topologies[item.topology].n_targets;
        // As the kernels of rows find instances: where those have left out one, its products are not there.
        if (of_topologies || start_of(check, TARGET_STARTS, tables.target_starts, item.number, n,
                                      tables.n_targets, item.first_vertex)) {
            item.n_vertices = static_cast<u32>(n);
            item.is_found = 1;
        }
    }
    if (check.failed) {
        check.publish(args.items.record, MATRIX, tables.orientation,
                      of_topologies ? first_instance_of(args.items, item) : item.number);
    }
}

// Stores the matrices of a block's instances.
template <typename A>
__device__ __forceinline__ void store_matrices(const MatrixArgs& args, u64 block, const DenseItem* items) {
    const DenseOperatorsArgs& operators = args.items.operators;
    const A* entries = static_cast<const A*>(operators.entries);
    const A* products = static_cast<const A*>(args.products);
    u32 row = operators.row;
    u32 size = args.side * args.side;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < args.items.per_block * size; i += THREADS) {
        u32 k = i / size;
        u32 at = i - k * size;
        u64 place = block * args.items.per_block + k;
        const DenseItem& item = items[k];
        if (place >= args.items.n_items || item.number >= args.items.by_vertex.instances) {
            continue;
        }
        u32 u = at / args.side;
        u32 v = at - u * args.side;
        A* to = static_cast<A*>(args.matrices) + item.number * size + at;
        A value = not_a_number<A>();
        if (item.is_found != 0) {
            if (u >= item.n_vertices || v >= item.n_vertices) {
                if (args.add == 0) {
                    *to = 0;
                }
                continue;
            }
            if (args.what == STORE_PRODUCTS) {
                value = products[place * (row * row) + u * row + v];
            } else {
                // NaN where the operator could not be formed, and else a power of two.
                A factor = entries[item.entries + row * row + u];
                value = factor == factor ? A(0) : factor;
                if (is_term(operators.words + item.words, row, u, v)) {
                    value = entries[item.entries + u * row + v] * factor;
                }
            }
        }
        *to = args.add != 0 ? *to + value : value;
    }
}

// Makes products or operators of a block's items. Nobody reads what is beyond the vertices of an item.
template <typename A>
__device__ __forceinline__ void load_matrices(const MatrixArgs& args, u64 block, const DenseItem* items) {
    const DenseOperatorsArgs& operators = args.items.operators;
    const A* matrices = static_cast<const A*>(args.matrices);
    A* entries = static_cast<A*>(operators.entries);
    u32 row = operators.row;
    // Entries, and factors of the rows.
    u32 size = row * row + row;
    u64 size_of_matrix = u64(args.side) * args.side;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < args.items.per_block * size; i += THREADS) {
        u32 k = i / size;
        u32 at = i - k * size;
        u64 place = block * args.items.per_block + k;
        const DenseItem& item = items[k];
        bool found = item.is_found != 0;
        u32 n = found ? item.n_vertices : row;
        u32 u = at / row;
        u32 v = at % row;
        if (place >= args.items.n_items || v >= n || (u < row && u >= n)) {
            continue;
        }
        const A* matrix = matrices + item.number * size_of_matrix;
        if (args.what == LOAD_GRADIENT) {
            if (u < row) {
                A value = not_a_number<A>();
                if (found) {
                    value = matrix[u * args.side + v] * entries[item.entries + row * row + u];
                }
                static_cast<A*>(args.products)[place * (row * row) + at] = value;
            }
            continue;
        }
        if (item.is_placed == 0) {
            continue;
        }
        A value = not_a_number<A>();
        if (found) {
            value = u < row ? A(0) : A(1);
            if (u < row && args.what == LOAD_SYMMETRIC) {
                value = matrix[u * args.side + v] + matrix[v * args.side + u];
            }
        }
        entries[item.entries + at] = value;
        if (u == row) {
            u32 terms = !found ? 1u << v : n == 32 ? u32(ALL_LANES) : (1u << n) - 1;
            operators.words[item.words + v] = terms;
            operators.words[item.words + 2 * row + v] = terms;
        }
    }
}

// -----------------------------------------------------------------------------------------------------------
// Rows. The kernels know their type at run time: one of each would be large.

template <typename A>
__device__ __forceinline__ A load(const MatrixArgs& args, const void* rows, u64 at) {
    if (sizeof(A) == sizeof(double) || args.element == ELEMENT_OF_SUMS) {
        return static_cast<const A*>(rows)[at];
    }
    F16 half = static_cast<const F16*>(rows)[at];
    return static_cast<A>(args.element == ELEMENT_F16 ? Element<F16>::widen(half)
                                                      : Element<Bf16>::widen({half.bits}));
}

template <typename A>
__device__ __forceinline__ void store(const MatrixArgs& args, void* rows, u64 at, A value) {
    if (args.add != 0) {
        value = load<A>(args, rows, at) + value;
    }
    if (sizeof(A) == sizeof(double) || args.element == ELEMENT_OF_SUMS) {
        static_cast<A*>(rows)[at] = value;
        return;
    }
    float single = static_cast<float>(value);
    bool is_half = args.element == ELEMENT_F16;
    static_cast<F16*>(rows)[at].bits =
        is_half ? Element<F16>::narrow(single).bits : Element<Bf16>::narrow(single).bits;
}

// Eight lanes have an element of an instance's matrix, and each of them a slot, see src/dense.rs.
template <typename A>
__device__ __forceinline__ void store_gram(const MatrixArgs& args, const DenseItem& item, u32 number) {
    constexpr u32 SLOTS = 8;
    // The features of a slice.
    constexpr u32 LEN = sizeof(A) == sizeof(double) ? 2 : 4;
    u32 lane = threadIdx.x % WARP;
    u32 at = number / SLOTS;
    u32 u = at / args.side;
    u32 v = at - u * args.side;
    bool exists = u < item.n_vertices && v < item.n_vertices;
    u64 x = element(args.x, item.number, item.first_vertex, 0);
    u64 x_u = x + u * args.x.row_stride;
    u64 x_v = x + v * args.x.row_stride;
    A product = 0;
    u64 feature = number % SLOTS * LEN;
#pragma unroll 1
    while (exists && feature < args.features) {
        A of_u = load<A>(args, args.x.data, x_u + feature);
        product = fused_multiply_add(of_u, load<A>(args, args.x.data, x_v + feature), product);
        // The next of the slice, or the first of the slot's next slice.
        feature += feature % LEN == LEN - 1 ? (SLOTS - 1) * LEN + 1 : 1;
    }
    // The two slots of a run, two runs, and all.
    double sum = 0.0 + static_cast<double>(product);
    sum += shuffle(sum, lane ^ 4);
    sum += shuffle(sum, lane ^ 1);
    sum += shuffle(sum, lane ^ 2);
    bool found = item.is_found != 0;
    bool has_place = u < args.side && item.number < args.items.by_vertex.instances;
    if (lane % SLOTS == 0 && has_place && (exists || !found || args.add == 0)) {
        A* to = static_cast<A*>(args.matrices) + item.number * args.side * args.side + at;
        A value = found ? static_cast<A>(sum) : not_a_number<A>();
        *to = args.add != 0 ? *to + value : value;
    }
}

// A thread has a feature of a row of the gradient.
template <typename A>
__device__ __forceinline__ void store_gram_backward(const MatrixArgs& args, const DenseItem& item,
                                                    u64 number) {
    u64 u = divide(number, args.features);
    u64 feature = number - u * args.features;
    u32 n = item.n_vertices;
    if (u >= n) {
        return;
    }
    const A* matrix = static_cast<const A*>(args.matrices) + item.number * args.side * args.side;
    u64 x = element(args.x, item.number, item.first_vertex, 0) + feature;
    A sum = 0;
#pragma unroll 1
    for (u32 v = 0; v < n; v++) {
        A entry = matrix[u * args.side + v] + matrix[v * args.side + u];
        sum = fused_multiply_add(entry, load<A>(args, args.x.data, x + v * args.x.row_stride), sum);
    }
    u64 to = element(args.grad_x, item.number, item.first_vertex, static_cast<u32>(u)) + feature;
    store(args, args.grad_x.data, to, sum);
}

template <typename A, bool Checked>
__device__ __forceinline__ void matrix(const MatrixArgs& args) {
    DenseItem* items = reinterpret_cast<DenseItem*>(shared_memory);
    for (u64 of_launch = blockIdx.x; of_launch < args.items.blocks * args.parts; of_launch += gridDim.x) {
        u64 block = divide(of_launch, args.parts);
        u64 number = (of_launch - block * args.parts) * THREADS + threadIdx.x;
        if (threadIdx.x < args.items.per_block) {
            find<Checked>(args, block * args.items.per_block + threadIdx.x, items[threadIdx.x]);
        }
        __syncthreads();
        if (args.what == GRAM) {
            store_gram<A>(args, *items, static_cast<u32>(number));
        } else if (args.what == GRAM_BACKWARD) {
            store_gram_backward<A>(args, *items, number);
        } else if (args.what == STORE_OPERATOR || args.what == STORE_PRODUCTS) {
            store_matrices<A>(args, block, items);
        } else {
            load_matrices<A>(args, block, items);
        }
        __syncthreads();  // the next items have the same memory
    }
}

#define KERNELS(A, NAME, CHECKS) \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) matrix_##NAME(const MatrixArgs args) { \
        matrix<A, CHECKS>(args); \
    }

MODULES_OF_SUMS(KERNELS)
