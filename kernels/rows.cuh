// Rows of features: where they lie, how a lane sums its part of some, and what is stored of the sums.
//
// A lane owns 16 bytes of features, and all lanes of a group see the same incidences. Sums start at 0 and
// add the incidences in order, one fused multiply-add each. src/cpu/gather.rs is the same sum on the CPU,
// with the same bits.

#pragma once

#include "common.cuh"

// Where row `row` of an instance starts, whose rows start at `first` in the batch.
__device__ __forceinline__ u64 element(const RowsArgs& rows, u64 instance, u64 first, u32 row) {
    return (rows.packed != 0 ? first * rows.row_stride : instance * rows.instance_stride) +
           row * rows.row_stride;
}

// -----------------------------------------------------------------------------------------------------------
// Sums.

template <typename A, u32 N>
struct Sums {
    A at[N];
};

// The sums of a lane's features.
template <typename T>
using SumsOf = Sums<typename Element<T>::Acc, Vector<T>::LEN>;

// The features of this lane.
struct Lane {
    u64 first;
    u32 len;  // 0: none
};

// Those of block `block`, of which each lane of a group of `lanes` has a vector.
template <typename T>
__device__ __forceinline__ Lane features_of(u32 features, u32 lanes, u32 block, u32 lane_of_group) {
    u64 first = (u64(block) * lanes + lane_of_group) * Vector<T>::LEN;
    u64 rest = first < features ? features - first : 0;
    return {first, rest < Vector<T>::LEN ? static_cast<u32>(rest) : Vector<T>::LEN};
}

// A source row, and its factor.
template <typename S, typename A>
struct Source {
    const S* row;  // null: none
    A factor;
};

// Adds `N` rows of elements of type `S`, those that `at(j)` tells, to `LEN` sums. Aligned rows are all loaded
// before the first sum; others come one by one, which is slower and a fraction of the code.
template <typename S, u32 N, typename A, u32 LEN, typename At>
__device__ __forceinline__ void add_rows(Sums<A, LEN>& sums, bool aligned, u32 len, At at) {
    constexpr u32 WIDTH = Vector<S>::LEN;
    constexpr u32 VECTORS = LEN / WIDTH;
    // A row that is left out changes no sum: not even by +0, which would make +0 of a sum that underflowed to
    // -0.
    if (!aligned) {
#pragma unroll 1
        for (u32 j = 0; j < N; j++) {
            Source<S, A> source = at(j);
#pragma unroll
            for (u32 i = 0; i < LEN; i++) {
                if (source.row != nullptr && i < len) {
                    sums.at[i] =
                        fused_multiply_add(source.factor, Element<S>::widen(source.row[i]), sums.at[i]);
                }
            }
        }
        return;
    }
    Source<S, A> from[N];
    u32 present = 0;
#pragma unroll
    for (u32 j = 0; j < N; j++) {
        from[j] = at(j);
        present |= (from[j].row != nullptr ? 1u : 0u) << j;
    }
    Vector<S> rows[N][VECTORS];
#pragma unroll
    for (u32 j = 0; j < N; j++) {
#pragma unroll
        for (u32 v = 0; v < VECTORS; v++) {
            rows[j][v] = {};
            if (from[j].row != nullptr && len > v * WIDTH) {
                rows[j][v] = load_vector(from[j].row + v * WIDTH);
            }
        }
    }
#pragma unroll
    for (u32 j = 0; j < N; j++) {
#pragma unroll
        for (u32 i = 0; i < LEN; i++) {
            A value = Element<S>::widen(rows[j][i / WIDTH].at[i % WIDTH]);
            A sum = fused_multiply_add(from[j].factor, value, sums.at[i]);
            sums.at[i] = (present >> j & 1) != 0 ? sum : sums.at[i];
        }
    }
}

// A factor of a row, multiplied by 2^shift.
template <typename A>
__device__ __forceinline__ A shifted(A factor, int shift) {
    return shift == 0 ? factor : times_power_of_two(factor, shift);
}

// Stores a vector of features as elements of type `D`, or adds them to what is there. `len` of them are to be
// stored.
template <typename D, typename A>
__device__ __forceinline__ void store_row(D* to, bool aligned, bool add, u32 len, const A* values,
                                          bool poisoned) {
    Vector<D> result = {};
    if (add) {
        result = aligned ? load_vector(to) : load_elements(to, len);
    }
#pragma unroll
    for (u32 i = 0; i < Vector<D>::LEN; i++) {
        A value = values[i];
        if (add) {
            value = Element<D>::widen(result.at[i]) + value;
        }
        result.at[i] = Element<D>::narrow(poisoned ? not_a_number<A>() : value);
    }
    if (aligned) {
        store_vector(to, result);
    } else {
        store_elements(to, len, result);
    }
}
