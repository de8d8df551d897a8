// What the kernels of the dense-operator path share. Small hypergraphs are computed by their operators
//
//     y = M x,    M = L H U B^-1 H^T R
//
// of n x n entries. dense_form.cuh forms M, dense_conv.cuh is the forward, dense_backward.cuh the backward,
// and dense_gradient.cu the gradients of weights. DENSE.md says what moves and why it is cut so.
//
// Operators are stored in scratch memory, see DenseOperatorsArgs: one for each topology where all instances
// share one window, and else one for each instance.

#pragma once

#include "rows.cuh"
#include "tables.cuh"

extern __shared__ __align__(16) u8 shared_memory[];

// -----------------------------------------------------------------------------------------------------------
// Features.

// The features of a thread. Elements of 16 bits come 8 bytes at a time: each becomes a register of its own.
template <typename T>
struct alignas(sizeof(T) == 2 ? 8 : 16) Features {
    static constexpr u32 LEN = sizeof(T) == 8 ? 2 : 4;
    T at[LEN];
};

// How much of its features a thread loads and stores: a vector of them, or one, and the others are zeros.
enum : u32 { NOTHING = 0, ONE_FEATURE = 1, ALL_FEATURES = 2 };

// The features of a thread, widened. On a device it is one statement, in which instructions have predicates:
// from an `if` the compiler makes branches, with moves of zeros in each, and it would rather widen elements
// of 16 bits again for each use than keep them.
#if defined(__CUDA_ARCH__)
#define LOAD_BEGIN "{\n.reg .pred p, q;\nsetp.eq.u32 p, %5, 2;\nsetp.eq.u32 q, %5, 1;\n"
__device__ __forceinline__ void load_features(float (&to)[4], u32 much, const float* from) {
    asm volatile(LOAD_BEGIN
                 "mov.f32 %0, 0f00000000;\nmov.f32 %1, 0f00000000;\nmov.f32 %2, 0f00000000;\n"
                 "mov.f32 %3, 0f00000000;\n@p ld.global.v4.f32 {%0, %1, %2, %3}, [%4];\n"
                 "@q ld.global.f32 %0, [%4];\n}"
                 : "=f"(to[0]), "=f"(to[1]), "=f"(to[2]), "=f"(to[3])
                 : "l"(from), "r"(much));
}
__device__ __forceinline__ void load_features(double (&to)[2], u32 much, const double* from) {
    asm volatile(
        "{\n.reg .pred p, q;\nsetp.eq.u32 p, %3, 2;\nsetp.eq.u32 q, %3, 1;\n"
        "mov.f64 %0, 0d0000000000000000;\nmov.f64 %1, 0d0000000000000000;\n"
        "@p ld.global.v2.f64 {%0, %1}, [%2];\n@q ld.global.f64 %0, [%2];\n}"
        : "=d"(to[0]), "=d"(to[1])
        : "l"(from), "r"(much));
}
#define LOAD_16_BITS \
    ".reg .b32 r, s;\nmov.b32 r, 0;\nmov.b32 s, 0;\n@p ld.global.v2.b32 {r, s}, [%4];\n" \
    "@q ld.global.u16 r, [%4];\n"
__device__ __forceinline__ void load_features(float (&to)[4], u32 much, const Bf16* from) {
    asm volatile(LOAD_BEGIN LOAD_16_BITS
                 ".reg .b32 t;\nshl.b32 t, r, 16;\nmov.b32 %0, t;\nand.b32 t, r, 0xffff0000;\n"
                 "mov.b32 %1, t;\nshl.b32 t, s, 16;\nmov.b32 %2, t;\nand.b32 t, s, 0xffff0000;\n"
                 "mov.b32 %3, t;\n}"
                 : "=f"(to[0]), "=f"(to[1]), "=f"(to[2]), "=f"(to[3])
                 : "l"(from), "r"(much));
}
__device__ __forceinline__ void load_features(float (&to)[4], u32 much, const F16* from) {
    asm volatile(LOAD_BEGIN LOAD_16_BITS
                 ".reg .b16 t, u;\nmov.b32 {t, u}, r;\ncvt.f32.f16 %0, t;\ncvt.f32.f16 %1, u;\n"
                 "mov.b32 {t, u}, s;\ncvt.f32.f16 %2, t;\ncvt.f32.f16 %3, u;\n}"
                 : "=f"(to[0]), "=f"(to[1]), "=f"(to[2]), "=f"(to[3])
                 : "l"(from), "r"(much));
}
#else
template <typename T, typename A, u32 LEN>
__device__ __forceinline__ void load_features(A (&to)[LEN], u32 much, const T* from) {
    Features<T> loaded = {};
    if (much == ALL_FEATURES) {
        loaded = *reinterpret_cast<const Features<T>*>(from);
    } else if (much == ONE_FEATURE) {
        loaded.at[0] = *from;
    }
    for (u32 i = 0; i < LEN; i++) {
        to[i] = Element<T>::widen(loaded.at[i]);
    }
}
#endif

// Has a row brought to the second-level cache.
__device__ __forceinline__ void prefetch(const void* address) {
#if defined(__CUDA_ARCH__)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#endif
}

// Stores features of a row, or nothing. Here, too, it is one statement: of two branches the compiler would
// rather store one by one what both have in common.
#if defined(__CUDA_ARCH__)
#define STORE_BEGIN "{\n.reg .pred p, q;\nsetp.eq.u32 p, %5, 2;\nsetp.eq.u32 q, %5, 1;\n"
__device__ __forceinline__ void write_features(float* to, u32 much, const float (&values)[4]) {
    asm volatile(
        STORE_BEGIN
        "@p st.global.v4.f32 [%4], {%0, %1, %2, %3};\n@q st.global.f32 [%4], %0;\n}" ::"f"(values[0]),
        "f"(values[1]), "f"(values[2]), "f"(values[3]), "l"(to), "r"(much)
        : "memory");
}
__device__ __forceinline__ void write_features(double* to, u32 much, const double (&values)[2]) {
    asm volatile(
        "{\n.reg .pred p, q;\nsetp.eq.u32 p, %3, 2;\nsetp.eq.u32 q, %3, 1;\n"
        "@p st.global.v2.f64 [%2], {%0, %1};\n@q st.global.f64 [%2], %0;\n}" ::"d"(values[0]),
        "d"(values[1]), "l"(to), "r"(much)
        : "memory");
}
template <typename T>
__device__ __forceinline__ void write_features(T* to, u32 much, const float (&values)[4]) {
    u32 bits[4];
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        bits[i] = Element<T>::narrow(values[i]).bits;
    }
    u32 low = bits[1] << 16 | bits[0];
    u32 high = bits[3] << 16 | bits[2];
    asm volatile(
        "{\n.reg .pred p, q;\nsetp.eq.u32 p, %3, 2;\nsetp.eq.u32 q, %3, 1;\n"
        "@p st.global.v2.b32 [%2], {%0, %1};\n@q st.global.u16 [%2], %0;\n}" ::"r"(low),
        "r"(high), "l"(to), "r"(much)
        : "memory");
}
#else
template <typename T, typename A, u32 LEN>
__device__ __forceinline__ void write_features(T* to, u32 much, const A (&values)[LEN]) {
    Features<T> stored;
    for (u32 i = 0; i < LEN; i++) {
        stored.at[i] = Element<T>::narrow(values[i]);
    }
    if (much == ALL_FEATURES) {
        *reinterpret_cast<Features<T>*>(to) = stored;
    } else if (much == ONE_FEATURE) {
        *to = stored.at[0];
    }
}
#endif

// Stores features of a row, or adds them to what is there.
template <typename T, typename A, u32 LEN>
__device__ __forceinline__ void store_features(T* to, u32 much, bool add, const A (&values)[LEN]) {
    A old[LEN];
    load_features(old, add ? much : u32(NOTHING), to);
    A sums[LEN];
#pragma unroll
    for (u32 i = 0; i < LEN; i++) {
        sums[i] = add ? old[i] + values[i] : values[i];
    }
    write_features(to, much, sums);
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
    u32 is_placed;
};
static_assert(sizeof(DenseItem) == DENSE_ITEM_BYTES, "item");

// What a block keeps of an item in shared memory, with numbers of type `A`. The host has the same number.
template <typename Kept, typename A>
__device__ constexpr u32 bytes_of() {
    return Kept::NUMBERS * sizeof(A) + Kept::OTHERS;
}

__device__ __forceinline__ u32 operator_entries(u32 row) { return row * row + 2 * row; }
__device__ __forceinline__ u32 operator_words(u32 row) { return 3 * row; }

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

// The same for an instance, and where its rows are. A single thread does this for each item of a block.
template <bool Checked>
__device__ __forceinline__ void find_rows(const DenseItemsArgs& args, u32 kernel, u64 place,
                                          DenseItem& item) {
    const TablesArgs& tables = args.by_vertex;
    Check<Checked> check;
    if (find_item(args, check, place, false, item)) {
        u64 n = tables.topologies[item.topology].n_targets;
        if (start_of(check, TARGET_STARTS, tables.target_starts, item.number, n, tables.n_targets,
                     item.first_vertex)) {
            item.n_vertices = static_cast<u32>(n);
        }
    }
    check.publish(args.record, kernel, tables.orientation, item.number);
}
