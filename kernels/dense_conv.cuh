// The convolution of small hypergraphs, forward, by their dense operators: y = M x.
//
// A thread owns up to 16 bytes of features of all n vertices, and keeps them in registers; M lies in shared
// memory. So x is read once and y written once, which is all the traffic there is, but for the rows of an
// epilogue, see epilogue.cuh. y is overwritten or added to, each row once, by one thread for each of its
// vectors; of a readout there is one row for each instance.
//
//     y_u  = sum of M_uv x_v         v ascending, one fused multiply-add each
//
// The sum runs over the terms of u, so that an infinity or NaN in x reaches only what it is connected with.
// src/cpu/dense has the same bits.
//
// M was stored by dense_form.cu, or a block forms M of its instances while x is under way: where instances
// have windows of their own, hyperedges are of one size, weights are in degrees and messages, M is normalized
// by rows, sums have 32 bits and nothing is checked. What a block knows of its instances is in shared memory;
// of copies of one topology that share a window it knows M alone.

#pragma once

#include "dense_form.cuh"
#include "epilogue.cuh"

// The numbers of an operator in shared memory: M and what sums are multiplied by, and terms.
template <u32 N>
struct ConvOperator {
    enum : u32 { ENTRIES = N * N + N, WORDS = N };

    // Of an instance all together, with degrees and shifts: numbers, and the bytes of all else.
    enum : u32 { NUMBERS = ENTRIES + N, OTHERS = (WORDS + N) * sizeof(u32) + sizeof(DenseItem) };
};

// Copies the operators of a block's items from scratch memory. Of copies of one topology there is one, and no
// table is read for it. transpose_operators of dense_backward.cuh finds them in the same way: by one function
// for both, nvcc 13 spills in the forward of up to 8 vertices. Whether what the thread has copied is plain.
template <typename A, u32 N>
__device__ __forceinline__ bool copy_operators(const DenseItemsArgs& args, const DenseItem* items,
                                               u32 n_items, A* entries, u32* words) {
    using Operator = ConvOperator<N>;
    const A* stored = static_cast<const A*>(args.operators.entries);
    bool plain = true;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < n_items * Operator::ENTRIES; i += THREADS) {
        u32 k = i / Operator::ENTRIES;
        u32 at = i % Operator::ENTRIES;
        u64 first_entry = 0;
        u64 first_word = 0;
        u32 n = args.n_vertices;
        if (args.per_block != 0) {
            n = items[k].n_vertices;
            first_entry = items[k].entries;
            first_word = items[k].words;
        }
        if (at % N >= n || (at < N * N && at / N >= n)) {
            entries[i] = no_entry<A>();
            continue;
        }
        A entry = stored[first_entry + at];
        entries[i] = entry;
        plain = plain && (at < N * N || entry == A(1));
        if (at < N) {
            u32 terms = args.operators.words[first_word + at];
            words[k * N + at] = terms;
            plain = plain && terms == all_terms(n);
        }
    }
    return plain;
}

// Whether the rows that a thread looks at are plain, of operators that the block has formed.
template <typename A, u32 N>
__device__ __forceinline__ bool look_at_operators(const DenseItem* items, u32 n_items, const A* entries,
                                                  const u32* words) {
    bool plain = true;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < n_items * N; i += THREADS) {
        u32 n = items[i / N].n_vertices;
        A scale = entries[i / N * ConvOperator<N>::ENTRIES + N * N + i % N];
        plain = plain && (i % N >= n || (words[i] == all_terms(n) && scale == A(1)));
    }
    return plain;
}

// Adds row u of M times x. `All`: all vertices are terms.
template <u32 N, u32 LEN, bool All, typename A>
__device__ __forceinline__ void add_terms(A (&sums)[LEN], const A (&x)[N][LEN], const A* row, u32 terms) {
    constexpr u32 TOGETHER = Vector<A>::LEN;
#pragma unroll
    for (u32 v = 0; v < N; v += TOGETHER) {
        Vector<A> entries = load_vector(row + v);
#pragma unroll
        for (u32 j = 0; j < TOGETHER; j++) {
            if (All || (terms >> (v + j) & 1) != 0) {
#pragma unroll
                for (u32 i = 0; i < LEN; i++) {
                    sums[i] = fused_multiply_add(entries.at[j], x[v + j][i], sums[i]);
                }
            }
        }
    }
}

// Features of all rows, where operators are plain: of cliques, whose sums are multiplied by 1 and stored as
// they are, in whole vectors. Small hypergraphs mostly are that, so they have a loop without a question.
template <u32 N, u32 LEN, typename T, typename A>
__device__ __forceinline__ void apply_plain_operator(const DenseConvArgs& args, const A* entries, u32 n,
                                                     const A (&in)[N][LEN], T* y) {
#pragma unroll 1
    for (u32 u = 0; u < n; u++) {
        A sums[LEN];
#pragma unroll
        for (u32 i = 0; i < LEN; i++) {
            sums[i] = 0;
        }
        add_terms<N, LEN, true>(sums, in, entries, 0);
        write_features(y, ALL_FEATURES, sums);
        entries += N;
        y += args.y.row_stride;
    }
}

// Features of all rows: `y` and `others`, the rows of an epilogue, are where they are in the first row, and
// `bias` is of these features.
template <u32 N, u32 LEN, typename T, typename A>
__device__ __forceinline__ void apply_operator(const DenseConvArgs& args, const A* entries, const u32* words,
                                               u32 n, u32 much, const A (&in)[N][LEN], T* y, const T* others,
                                               const A* bias) {
    const EpilogueArgs& epilogue = args.epilogue;
    // A readout: the mean over the rows that would be stored. In the largest class there are no registers for
    // it.
    bool is_mean = N < 32 && is_readout(epilogue);
    A means[LEN] = {};
    // A readout has something to store without vertices, too.
    u32 n_rows = n == 0 && is_mean ? 1 : n;
#pragma unroll 1
    for (u32 u = 0; u < n_rows; u++) {
        A sums[LEN];
#pragma unroll
        for (u32 i = 0; i < LEN; i++) {
            sums[i] = 0;
        }
        if (n != 0) {
            u32 terms = words[u];
            A scale = entries[N * N + u];
            add_terms<N, LEN, false>(sums, in, entries + u * N, terms);
#pragma unroll
            for (u32 i = 0; i < LEN; i++) {
                sums[i] *= scale;
            }
            if (epilogue.exists != 0) {
                A of_bias[LEN];
                A of_rows[LEN];
                load_features(of_bias, epilogue.bias != nullptr ? much : u32(NOTHING), bias);
                load_features(of_rows, epilogue.rows.data != nullptr ? much : u32(NOTHING), others);
                others += epilogue.rows.row_stride;
                add_bias(epilogue, sums, of_bias);
                activate_all(epilogue, sums);
                combine_rows(epilogue, sums, of_rows, n);
            }
            if (is_mean) {
#pragma unroll
                for (u32 i = 0; i < LEN; i++) {
                    means[i] += Element<T>::widen(Element<T>::narrow(sums[i]));
                }
                if (u + 1 < n) {
                    continue;
                }
                // The mean goes the way of the last row.
#pragma unroll
                for (u32 i = 0; i < LEN; i++) {
                    sums[i] = means[i] / static_cast<A>(n);
                }
            }
        }
        store_features(y, much, args.add != 0, sums);
        y += args.y.row_stride;
    }
}

// Which features of which instance a thread has.
struct DenseChunk {
    bool exists;
    u32 place;
    u32 n_vertices;
    u64 instance;
    u64 first_vertex;
    u64 chunk;
};

// Chunk `number` of a block.
__device__ __forceinline__ DenseChunk chunk_of_block(const DenseConvArgs& args, const DenseItem* items,
                                                     u64 block, u32 number, u32 n_chunks) {
    DenseChunk chunk = {};
    const DenseItemsArgs& of = args.form.items;
    if (of.per_block == 0) {
        u64 of_launch = block * THREADS + number;
        chunk.instance = divide(of_launch, args.chunks);
        chunk.chunk = of_launch - chunk.instance * args.chunks;
        chunk.exists = chunk.instance < of.n_items;
        chunk.n_vertices = of.n_vertices;
        chunk.first_vertex = chunk.instance * of.n_vertices;
    } else if (number < n_chunks) {
        chunk.place = number / args.chunks;
        chunk.chunk = number - chunk.place * args.chunks;
        const DenseItem& item = items[chunk.place];
        chunk.n_vertices = item.n_vertices;
        // A readout has a row for an instance without vertices, too.
        chunk.exists = item.n_vertices != 0 || (is_readout(args.epilogue) && item.is_found != 0);
        chunk.instance = item.number;
        chunk.first_vertex = item.first_vertex;
    }
    return chunk;
}

template <typename T, u32 N>
__device__ __forceinline__ void dense_conv(const DenseConvArgs& args, u32 kernel) {
    using A = typename Element<T>::Acc;
    using Operator = ConvOperator<N>;
    constexpr u32 LEN = Features<T>::LEN;
    const DenseItemsArgs& of = args.form.items;
    u32 n_items = of.per_block == 0 ? 1 : of.per_block;
    u32 n_chunks = of.per_block == 0 ? u32(THREADS) : of.per_block * args.chunks;
    A* entries = reinterpret_cast<A*>(shared_memory);
    A* degrees = entries + n_items * Operator::ENTRIES;
    u32* words = reinterpret_cast<u32*>(degrees + n_items * N);
    int* shifts = reinterpret_cast<int*>(words + n_items * Operator::WORDS);
    DenseItem* items = reinterpret_cast<DenseItem*>(shifts + n_items * N);
    A* windows = reinterpret_cast<A*>(items + n_items);
    bool forms = N < 32 && sizeof(A) == 4 && args.forms != 0;
    bool aligned = args.aligned != 0;
    // In the largest class there are no registers for the loop of plain operators.
    constexpr bool ASKS = N >= 32;
    for (u64 block = blockIdx.x; block < of.blocks; block += gridDim.x) {
        if (of.per_block != 0) {
            if (threadIdx.x < n_items) {
                u64 place = block * n_items + threadIdx.x;
                DenseItem& item = items[threadIdx.x];
                take_rows(of, place, item);
                if (forms) {
                    find_window(args.form, item);
                    item.entries = threadIdx.x * Operator::ENTRIES;
                    item.words = threadIdx.x * Operator::WORDS;
                }
            }
            __syncthreads();
        }
        if (forms) {
            Forming<A> forming = {items, n_items, N, degrees, shifts, entries, words, false, false, windows};
            // The only conventions by which M is formed here: code for others would be PTX in many kernels.
            DenseFormArgs form = args.form;
            form.conventions.in_degree = 1;
            form.conventions.in_message = 1;
            form.conventions.normalized = 1;
            form.conventions.shifted = 1;
            form.conventions.shifts_of_degree = 1;
            // First: M waits for the weights, and x for M.
            stage_windows(form, forming);
#pragma unroll 1
            for (u32 i = threadIdx.x; i < n_items * Operator::ENTRIES; i += THREADS) {
                entries[i] = no_entry<A>();
            }
#pragma unroll 1
            for (u32 i = threadIdx.x; i < n_items * Operator::WORDS; i += THREADS) {
                words[i] = 0;
            }
            u32 k = threadIdx.x / args.chunks;
            const DenseItem& item = items[k < n_items ? k : 0];
            const T* x = static_cast<const T*>(args.x.data) +
                         element(args.x, item.number, item.first_vertex, 0) +
                         u64(threadIdx.x - k * args.chunks) * LEN;
#pragma unroll 1
            for (u32 v = 0; aligned && k < n_items && v < item.n_vertices; v++) {
                prefetch(x + v * args.x.row_stride);
            }
            __syncthreads();
            form_operators<A, false>(form, kernel, forming, true);
            __syncthreads();
        }
        bool plain = false;
#pragma unroll 1
        for (u32 first = 0; first < n_chunks; first += THREADS) {
            DenseChunk chunk = chunk_of_block(args, items, block, first + threadIdx.x, n_chunks);
            u32 n = chunk.exists ? chunk.n_vertices : 0;
            u64 feature = chunk.chunk * (aligned ? LEN : 1);
            const T* x = static_cast<const T*>(args.x.data) +
                         element(args.x, chunk.instance, chunk.first_vertex, 0) + feature;
            T* y = static_cast<T*>(args.y.data) + element(args.y, chunk.instance, chunk.first_vertex, 0) +
                   feature;
            const A* its_entries = entries + chunk.place * Operator::ENTRIES;
            A in[N][LEN];
#pragma unroll
            for (u32 v = 0; v < N; v++) {
                u32 much = aligned ? ALL_FEATURES : ONE_FEATURE;
                load_features(in[v], v < n ? much : u32(NOTHING), x);
                x += args.x.row_stride;
            }
            // x is under way while operators are read.
            if (first == 0) {
                plain = forms ? look_at_operators<A, N>(items, n_items, entries, words)
                              : copy_operators<A, N>(of, items, n_items, entries, words);
                plain = plain && aligned && args.epilogue.exists == 0 && args.add == 0;
                plain = __syncthreads_and(plain) != 0 && !ASKS;
            }
            if (plain) {
                apply_plain_operator<N>(args, its_entries, n, in, y);
            } else if (chunk.exists) {
                const T* others = static_cast<const T*>(args.epilogue.rows.data) +
                                  element(args.epilogue.rows, chunk.instance, chunk.first_vertex, 0) +
                                  feature;
                const A* bias = static_cast<const A*>(args.epilogue.bias) + feature;
                const u32* its_words = words + chunk.place * Operator::WORDS;
                u32 much = args.aligned != 0 ? ALL_FEATURES : ONE_FEATURE;
                apply_operator<N>(args, its_entries, its_words, n, much, in, y, others, bias);
            }
        }
        __syncthreads();  // the next instances have the same memory
    }
}

// The kernel of a class: for topologies of up to `N` vertices. The numbers of blocks are those that the
// registers of x leave room for.
#define DENSE_CONV(N, BLOCKS, BLOCKS_OF_8, T, NAME) \
    extern "C" __global__ void __launch_bounds__(THREADS, blocks_for<T>(BLOCKS, BLOCKS_OF_8)) \
        dense##N##_conv_##NAME(const DenseConvArgs args) { \
        dense_conv<T, N>(args, DENSE##N##_CONV); \
    }

// What the kernels of any class hold.
#define DENSE_CONV_BYTES(N) \
    static_assert(bytes_of<ConvOperator<N>, float>() == DENSE##N##_CONV_BYTES_OF_4, "bytes"); \
    static_assert(bytes_of<ConvOperator<N>, double>() == DENSE##N##_CONV_BYTES_OF_8, "bytes");
