// Sums by a binary tree over the numbers of nodes: neighbors are added first, and one without a neighbor
// stays as it is. src/cpu/tree_sums.rs is the same sum.

#pragma once

#include "common.cuh"

// The tree that a thread adds.
enum : u32 { AT_ONCE = 8, LEVELS = 5 };
static_assert(AT_ONCE << (LEVELS - 1) >= MOST_NODES, "levels");

// The sum of `count` nodes, of which `value(i)` is the i-th.
template <typename Value>
__device__ __forceinline__ double sum_of_tree(u32 count, Value value) {
    // At `level` the sum of a tree of 8 2^level nodes whose right neighbor has not come yet.
    double waiting[LEVELS] = {};
    u32 n_blocks = (count + AT_ONCE - 1) / AT_ONCE;
#pragma unroll 1
    for (u32 block = 0; block < n_blocks; block++) {
        u32 first = block * AT_ONCE;
        double nodes[AT_ONCE];
#pragma unroll
        for (u32 i = 0; i < AT_ONCE; i++) {
            // Behind the last one it is taken again, which is cheaper than to test each, and left out below.
            nodes[i] = value(first + i < count ? first + i : count - 1);
        }
#pragma unroll
        for (u32 half = 1; half < AT_ONCE; half *= 2) {
#pragma unroll
            for (u32 i = 0; i < AT_ONCE; i += 2 * half) {
                nodes[i] = first + i + half < count ? nodes[i] + nodes[i + half] : nodes[i];
            }
        }
        bool carries = true;
#pragma unroll
        for (u32 level = 0; level < LEVELS; level++) {
            bool is_waiting = (block >> level & 1) != 0;
            double sum = waiting[level] + nodes[0];
            waiting[level] = carries && !is_waiting ? nodes[0] : waiting[level];
            nodes[0] = carries && is_waiting ? sum : nodes[0];
            carries = carries && is_waiting;
        }
    }
    double total = 0;
    bool is_first = true;
#pragma unroll
    for (u32 level = 0; level < LEVELS; level++) {
        if ((n_blocks >> level & 1) != 0) {
            total = is_first ? waiting[level] : waiting[level] + total;
            is_first = false;
        }
    }
    return total;
}
