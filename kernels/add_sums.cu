// The gradient of a bias, from sums of rows.
//
//     gradient_f = sum of the nodes of feature f, in a binary tree over their numbers
//
// Nodes are rows of F doubles. So many are added by a thread that launches may cut the tree where they like:
// all but the last store the roots of parts of it. The gradient is overwritten or added to.
// src/cpu/tree_sums.rs is the same sum. Launched by src/cuda/epilogue.rs.
//
// Modules: sums.

#include "modules.cuh"
#include "tree.cuh"

// It reads no table: checked modules have it as it is.
template <typename A>
__device__ __forceinline__ void add_sums(const AddSumsArgs& args) {
    for (u64 i = u64(blockIdx.x) * THREADS + threadIdx.x; i < args.n_roots * args.features;
         i += u64(gridDim.x) * THREADS) {
        u64 root = divide(i, args.features);
        u64 first = root * args.nodes_per_root;
        u64 rest = args.n_nodes - first;
        u64 feature = i - root * args.features;
        const double* nodes = args.nodes + first * args.features + feature;
        double sum = sum_of_tree(static_cast<u32>(rest < args.nodes_per_root ? rest : args.nodes_per_root),
                                 [&](u32 k) { return nodes[k * args.features]; });
        if (args.roots != nullptr) {
            args.roots[i] = sum;
            continue;
        }
        A* to = static_cast<A*>(args.gradient) + feature;
        *to = args.add != 0 ? *to + static_cast<A>(sum) : static_cast<A>(sum);
    }
}

#define KERNELS(A, NAME, CHECKS) \
    extern "C" __global__ void __launch_bounds__(THREADS) add_sums_##NAME(const AddSumsArgs args) { \
        add_sums<A>(args); \
    }

MODULES_OF_SUMS(KERNELS)
