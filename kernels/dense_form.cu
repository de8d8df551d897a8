// Dense operators, formed and stored: of each topology where all instances share a window, and else of each
// instance. Everything at the places of the launch's items is overwritten.
//
// Some kernels of the forward form operators of instances themselves, see dense_conv.cuh. Launched by
// src/cuda/conv/dense.rs; src/cpu/dense has the same bits.
//
// Modules: sums.

#include "dense_form.cuh"
#include "modules.cuh"

template <typename A, bool Checked>
__device__ __forceinline__ void dense_form(const DenseFormArgs& args) {
    u32 n_items = args.items.per_block;
    u32 row = args.items.operators.row;
    DenseItem* items = reinterpret_cast<DenseItem*>(shared_memory);
    A* degrees = reinterpret_cast<A*>(items + n_items);
    int* shifts = reinterpret_cast<int*>(degrees + n_items * row);
    A* windows = reinterpret_cast<A*>(shifts + n_items * row);
    bool staged = !Checked && args.window_room != 0;
    Forming<A> forming = {items,
                          n_items,
                          row,
                          degrees,
                          shifts,
                          static_cast<A*>(args.items.operators.entries),
                          args.items.operators.words,
                          true,
                          args.of_topologies != 0,
                          windows};
    for (u64 block = blockIdx.x; block < args.items.blocks; block += gridDim.x) {
        if (threadIdx.x < n_items) {
            find_formed<Checked>(args, DENSE_FORM, forming.of_topologies, block * n_items + threadIdx.x,
                                 items[threadIdx.x]);
        }
        __syncthreads();
        if (staged) {
            stage_windows(args, forming);
        }
        clear_operators<A, Checked>(forming);
        __syncthreads();
        form_operators<A, Checked>(args, DENSE_FORM, forming, staged);
        __syncthreads();  // the next items have the same memory
    }
}

// Checks take registers, of which there are more with fewer blocks.
#define KERNELS(A, NAME, CHECKS) \
    extern "C" __global__ void __launch_bounds__(THREADS, CHECKS ? 6 : 8) \
        dense_form_##NAME(const DenseFormArgs args) { \
        dense_form<A, CHECKS>(args); \
    }

MODULES_OF_SUMS(KERNELS)
