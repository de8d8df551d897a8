// What the kernels of the dense-operator path share. Small hypergraphs are computed by their operators
//
//     y = M x,    M = L H U B^-1 H^T R
//
// of n x n entries. dense_form.cuh forms M, dense_conv.cuh is the forward, dense_backward.cuh the backward,
// and dense_gradient.cu the gradients of weights. With checks dense_find.cu finds the instances of the two
// kernels of rows. DENSE.md says what moves and why it is cut so.
//
// Operators are stored in scratch memory, see DenseOperatorsArgs: one for each topology where all instances
// share one window, and else one for each instance.

#pragma once

#include "features.cuh"
#include "rows.cuh"
#include "tables.cuh"

extern __shared__ __align__(16) u8 shared_memory[];

// The blocks that a kernel of rows leaves registers for on a multiprocessor: with sums of 4 bytes, or of 8.
template <typename T>
__device__ constexpr u32 blocks_for(u32 of_4, u32 of_8) {
    return sizeof(typename Element<T>::Acc) == 8 ? of_8 : of_4;
}

// -----------------------------------------------------------------------------------------------------------
// Which instances a block has.

// An instance, or a topology.
struct DenseItem {
    u64 number;
    u64 topology;
    // Where its vertices start in the batch.
    u64 first_vertex;
    union {
        // Where an operator is formed: its window in the weights.
        u64 window;
        // Where gradients of weights are found.
        u64 n_hyperedges;
    };
    // The first entry and the first word of its operator.
    u64 entries;
    u64 words;
    // 0 where there is nothing to compute.
    u32 n_vertices;
    // Its operator has a place.
    unsigned short is_placed;
    // It was found, with or without vertices.
    unsigned short is_found;
};
static_assert(sizeof(DenseItem) == DENSE_ITEM_BYTES, "item");

// What a block keeps of an item in shared memory, with numbers of type `A`. The host has the same number.
template <typename Kept, typename A>
__device__ constexpr u32 bytes_of() {
    return Kept::NUMBERS * sizeof(A) + Kept::OTHERS;
}

__device__ __forceinline__ u32 operator_entries(u32 row) { return row * row + 2 * row; }
__device__ __forceinline__ u32 operator_words(u32 row) { return 3 * row; }
// Whether M_uv is a term, by the words of an operator.
__device__ __forceinline__ bool is_term(const u32* words, u32 row, u32 u, u32 v) {
    return (words[v / WARP * (2 * row) + u] >> v % WARP & 1) != 0;
}

// Operators are plain where all vertices are terms of all rows, and sums are multiplied by 1: those of
// cliques. Kernels ask nothing about them.

// What stands for a vertex that is not there, whose features are +0: the product is -0, which changes no sum.
template <typename A>
__device__ __forceinline__ A no_entry() {
    return A(-0.0);
}

// The terms of a row of all `n` vertices.
__device__ __forceinline__ u32 all_terms(u32 n) { return n < WARP ? (1u << n) - 1 : ALL_LANES; }

// The topology is in the class of these kernels, and its operator has a place.
template <bool Checked>
__device__ __forceinline__ bool fits_class(const DenseItemsArgs& args, Check<Checked>& check, u64 id) {
    if (!Checked) {
        return true;
    }
    const TablesArgs& tables = args.by_vertex;
    const DenseOperatorsArgs& operators = args.operators;
    const TopologyWords& vertices = tables.topologies[id];
    const DenseTopologyWords& t = args.dense.topologies[id];
    u64 at = id * DENSE_TOPOLOGY_WORDS;
    u64 most = tables.largest_targets < operators.row ? tables.largest_targets : operators.row;
    // A topology of another class, whose operators other launches store.
    bool is_smaller = operators.row > SMALLEST_DENSE_CLASS && t.n_vertices <= operators.row / 2;
    auto has_room = [&](u32 place, u64 start, u64 size, u64 len) {
        return check.below(DENSE_TOPOLOGIES, at + place, start, len < size ? 0 : len - size + 1);
    };
    return (!is_smaller || check.below(DENSE_TOPOLOGIES, at, t.n_vertices, 0)) &&
           check.below(DENSE_TOPOLOGIES, at + DENSE_TOPOLOGY_N_VERTICES, t.n_vertices, most + 1) &&
           check.below(DENSE_TOPOLOGIES, at + DENSE_TOPOLOGY_N_VERTICES, t.n_vertices,
                       vertices.n_targets + 1) &&
           check.below(TOPOLOGIES, id * TOPOLOGY_WORDS + TOPOLOGY_N_TARGETS, vertices.n_targets,
                       t.n_vertices + 1) &&
           (operators.of_items != 0 ||
            (has_room(DENSE_TOPOLOGY_ENTRIES, t.entries, operator_entries(operators.row),
                      operators.n_entries) &&
             has_room(DENSE_TOPOLOGY_TERMS, t.terms, operator_words(operators.row), operators.n_words)));
}

// Finds item `place` of the launch: its topology, and where its operator is. False where that is not known.
template <bool Checked>
__device__ __forceinline__ bool find_item(const DenseItemsArgs& args, Check<Checked>& check, u64 place,
                                          bool is_topology, DenseItem& item) {
    const TablesArgs& tables = args.by_vertex;
    const DenseOperatorsArgs& operators = args.operators;
    item = {};
    if (place >= args.n_items) {
        return false;
    }
    if (operators.of_items != 0) {
        item.entries = place * operator_entries(operators.row);
        item.words = place * operator_words(operators.row);
        item.is_placed = 1;
    } else if (args.n_vertices != 0) {
        // Copies of topology 0 look up no place, so it gets an operator of NaN where something is wrong.
        item.is_placed = 1;
    }
    u64 number = args.numbers != nullptr ? args.numbers[place] : place;
    if (is_topology) {
        item.topology = number;
        if (!check.below(PATH_INSTANCES, place, number, tables.n_topologies)) {
            return false;
        }
    } else {
        item.number = number;
        if (!(check.below(PATH_INSTANCES, place, number, tables.instances) &&
              find_topology_id(tables, check, number, item.topology))) {
            return false;
        }
    }
    if (!fits_class(args, check, item.topology)) {
        return false;
    }
    if (operators.of_items == 0) {
        item.entries = args.dense.topologies[item.topology].entries;
        item.words = args.dense.topologies[item.topology].terms;
        item.is_placed = 1;
    }
    return true;
}

// The same for an instance, and where its rows are.
template <bool Checked>
__device__ __forceinline__ void find_rows(const DenseItemsArgs& args, Check<Checked>& check, u64 place,
                                          DenseItem& item) {
    const TablesArgs& tables = args.by_vertex;
    if (find_item(args, check, place, false, item)) {
        u64 n = tables.topologies[item.topology].n_targets;
        if (start_of(check, TARGET_STARTS, tables.target_starts, item.number, n, tables.n_targets,
                     item.first_vertex)) {
            item.n_vertices = static_cast<u32>(n);
            item.is_found = 1;
        }
    }
}

// The same for kernels of rows, which test nothing: with checks dense_find.cu has found their items. A single
// thread does this for each item of a block.
__device__ __forceinline__ void take_rows(const DenseItemsArgs& args, u64 place, DenseItem& item) {
    if (args.found != nullptr && place < args.n_items) {
        item = static_cast<const DenseItem*>(args.found)[place];
        return;
    }
    // Behind the last item there is nothing to find.
    Check<false> check;
    find_rows(args, check, place, item);
}

// The instance that a report about a topology names: the first that has it, or the last of all.
__device__ __forceinline__ u64 first_instance_of(const DenseItemsArgs& args, const DenseItem& item) {
    const u32* ids = args.by_vertex.topology_ids;
    u64 number = item.number;
    if (ids != nullptr) {
#pragma unroll 1
        while (number + 1 < args.by_vertex.instances && ids[number] != item.topology) {
            number++;
        }
    }
    return number;
}
