// What follows the sums u of the convolution in their store: an epilogue, or the backward of one.
//
//     forward      y = act(u + b) + r             r: rows of a residual
//     backward     dloss/du = g act'(u + b)       g = dloss/dy, or dloss/dreadout / n
//
// Both are computed where u is at hand, so that u is never stored. An addition is left out where there is
// nothing to add, and so is a product with a derivative of 0. src/cpu/conv/epilogue.rs has the same bits.

#pragma once

#include "activation.cuh"
#include "common.cuh"

// Whether the mean over an instance's vertices is stored instead of their rows.
__device__ __forceinline__ bool is_readout(const EpilogueArgs& args) {
    return args.mean != 0 && args.backward == 0;
}

// An epilogue of `LEN` features of a vertex: `values` are its sums, and become the result, not narrowed. It
// is in three steps, so that a kernel may load the bias and the rows of EpilogueArgs when it has registers
// for them.

// Adds the bias.
template <typename A, u32 LEN>
__device__ __forceinline__ void add_bias(const EpilogueArgs& args, A (&values)[LEN], const A (&bias)[LEN]) {
    if (args.bias != nullptr) {
#pragma unroll
        for (u32 i = 0; i < LEN; i++) {
            values[i] += bias[i];
        }
    }
}

// Applies the activation, or its derivative. Rolled: the values take turns in one place. Unrolled it would be
// most of a kernel's text.
template <typename A, u32 LEN>
__device__ __forceinline__ void activate_all(const EpilogueArgs& args, A (&values)[LEN]) {
    if (args.activation == IDENTITY) {
        return;
    }
#pragma unroll 1
    for (u32 k = 0; k < LEN; k++) {
        A value = activate(args.activation, args.backward != 0, values[0]);
#pragma unroll
        for (u32 i = 0; i + 1 < LEN; i++) {
            values[i] = values[i + 1];
        }
        values[LEN - 1] = value;
    }
}

// Adds the rows, or multiplies them with the derivatives. `n_vertices` are those of the instance.
template <typename A, u32 LEN>
__device__ __forceinline__ void combine_rows(const EpilogueArgs& args, A (&values)[LEN], const A (&rows)[LEN],
                                             u32 n_vertices) {
    if (args.backward != 0) {
#pragma unroll
        for (u32 i = 0; i < LEN; i++) {
            A gradient = args.mean != 0 ? rows[i] / static_cast<A>(n_vertices) : rows[i];
            values[i] = values[i] == A(0) ? A(0) : gradient * values[i];
        }
    } else if (args.rows.data != nullptr) {
#pragma unroll
        for (u32 i = 0; i < LEN; i++) {
            values[i] += rows[i];
        }
    }
}
