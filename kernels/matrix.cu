// The matrices of instances, between the memory of the caller and scratch memory:
//
//     STORE_OPERATOR    M, as dense_form.cu has formed it, with the factors of its rows
//     LOAD_GRADIENT     dloss/dM times the factors of the rows: the products that dense_gradient.cu takes
//     MAKE_UNIT         operators of 0 whose rows have the factor 1: g stays what it is in dense_backward.cuh
//     STORE_PRODUCTS    the products <x_u, x_v> of dense_backward.cuh
//     LOAD_SYMMETRIC    G_uv + G_vu, an operator that dense_conv.cuh applies, all of whose entries are terms
//
// The caller's matrices have the rows of the largest topology in use. They are overwritten or added to, each
// element by one thread; beyond the vertices of a topology they become 0 or stay, and are not read. An
// instance that is not found, or whose operator could not be formed, gets a matrix of NaN.
// Launched by src/cuda/conv/dense/matrix.rs; src/cpu/conv/matrix.rs has the same bits.
//
// Modules: f32, f64.

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
        u64 first = 0;
        // As the kernels of rows find instances: where those have left out one, its products are not there.
        if (of_topologies ||
            start_of(check, TARGET_STARTS, tables.target_starts, item.number, n, tables.n_targets, first)) {
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

template <typename A, bool Checked>
__device__ __forceinline__ void matrix(const MatrixArgs& args) {
    DenseItem* items = reinterpret_cast<DenseItem*>(shared_memory);
    for (u64 block = blockIdx.x; block < args.items.blocks; block += gridDim.x) {
        if (threadIdx.x < args.items.per_block) {
            find<Checked>(args, block * args.items.per_block + threadIdx.x, items[threadIdx.x]);
        }
        __syncthreads();
        if (args.what == STORE_OPERATOR || args.what == STORE_PRODUCTS) {
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

MODULES_OF_F32(UNCHECKED(KERNELS(float, f32, false)) CHECKED(KERNELS(float, f32_checked, true)))
MODULES_OF_F64(UNCHECKED(KERNELS(double, f64, false)) CHECKED(KERNELS(double, f64_checked, true)))
