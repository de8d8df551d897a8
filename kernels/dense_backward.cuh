// The backward of the convolution of small hypergraphs, by their dense operators, from x and g = dloss/dy
// alone:
//
//     dloss/dx_v = sum of M_uv g_u
//     Gamma_uv   = <g_u, x_v>       from which dense_gradient.cu has the gradients of the weights
//
// x and g are read once, dloss/dx is written once (overwritten or added to), and Gamma once for each
// instance, or where all instances share a window once for each chunk of them. M was stored by dense_form.cu.
//
// The vertices of a class are cut into parts of up to 8. A pair of parts (u, v) is a tile, and a thread has a
// tile and a slot: 16 bytes (8 of 16-bit types) of features of the rows of g of its part u, and of x of its
// part v. It keeps the 64 products of these in registers, while it adds the slices of its slot. For dloss/dx
// it has the sums over part u of the rows of v, which the threads of all parts u then exchange: each stores
// the rows that it gets.
//
// Rows are loaded where they are needed, or copied to shared memory, asynchronously and one step ahead: with
// the sources below, and with the same bits.
//
// src/dense.rs states the order of all sums, and src/cpu/dense has the same bits. Part v has the vertices v,
// v + PARTS, ...: rows of M that are read at the same time then lie in different banks.

#pragma once

#include "dense.cuh"
#include "stages.cuh"

// How the threads of a block share out the work of a class of `N` vertices.
template <u32 N>
struct Cut {
    enum : u32 {
        PARTS = N <= DENSE_PART ? 1 : N / DENSE_PART,
        TILES = PARTS * PARTS,
        // The vertices of a part.
        SIDE = N / PARTS,
        // The lanes of a warp that have one tile: consecutive slots.
        LANES = WARP / TILES,
        SLOTS = THREADS / TILES,
        // A row of M^T in shared memory: other than a power of two, for the sake of the banks.
        ROW = N + 4,
        // M^T and what g is multiplied by.
        ENTRIES = N * ROW + N,
        // The rows of M whose entries are terms, for each column.
        WORDS = N,
    };

    // Of an item all together: numbers, and the bytes of all else.
    enum : u32 { NUMBERS = ENTRIES, OTHERS = WORDS * sizeof(u32) + sizeof(DenseItem) };
};

// Products are added over slots through shared memory, some of each thread at a time.
template <typename A, u32 N>
struct Exchange {
    using C = Cut<N>;
    enum : u32 {
        PRODUCTS = C::SIDE * C::SIDE,
        AT_ONCE = PRODUCTS < 128 / sizeof(A) ? PRODUCTS : 128 / sizeof(A),
        // Slots of one tile, and room that keeps tiles in different banks.
        TILE = C::TILES == 1 ? C::SLOTS : C::SLOTS + C::LANES,
        // Of one product; four lanes read one, and the next four the next.
        PRODUCT = C::TILES * TILE + 4,
        BYTES = AT_ONCE * PRODUCT * sizeof(A),
    };
};

// The operators of a block's items, transposed, from scratch memory. Whether what the thread has copied is
// plain.
template <typename A, u32 N>
__device__ __forceinline__ bool transpose_operators(const DenseItemsArgs& args, const DenseItem* items,
                                                    u32 n_items, A* entries, u32* words) {
    using C = Cut<N>;
    const A* stored = static_cast<const A*>(args.operators.entries);
    bool plain = true;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < n_items * (N * N + N); i += THREADS) {
        u32 k = i / (N * N + N);
        u32 at = i % (N * N + N);
        u64 first_entry = 0;
        u64 first_word = 0;
        u32 n = args.n_vertices;
        if (args.per_block != 0) {
            n = items[k].n_vertices;
            first_entry = items[k].entries;
            first_word = items[k].words;
        }
        bool exists = at % N < n && (at >= N * N || at / N < n);
        u32 to = at < N * N ? at % N * C::ROW + at / N : N * C::ROW + at - N * N;
        A entry = exists ? stored[first_entry + at] : no_entry<A>();
        entries[k * C::ENTRIES + to] = entry;
        plain = plain && (!exists || at < N * N || entry == A(1));
        if (at < N) {
            u32 terms = at < n ? args.operators.words[first_word + 2 * N + at] : 0;
            words[k * C::WORDS + at] = terms;
            plain = plain && (at >= n || terms == all_terms(n));
        }
    }
    return plain;
}

// What a thread has: its tile, and which of the slots that the block has for it.
struct Place {
    u32 part_u;
    u32 part_v;
    u32 slot;
};

template <u32 N>
__device__ __forceinline__ Place place_of_thread() {
    using C = Cut<N>;
    u32 lane = threadIdx.x % WARP;
    u32 tile = lane / C::LANES;
    return {tile / C::PARTS, tile % C::PARTS, threadIdx.x / WARP * C::LANES + lane % C::LANES};
}

// Sums of as many rows as there are parts: the thread of part u gets row u, added over the threads of all
// parts, of four first those that are two apart. It leaves it in `sums[0]`.
template <u32 N, u32 PARTS, u32 LEN, typename A>
__device__ __forceinline__ void add_parts(A (&sums)[PARTS][LEN], u32 part_u) {
    using C = Cut<N>;
#pragma unroll
    for (u32 half = PARTS / 2; half > 0; half /= 2) {
        // Two threads share out the rows that are left to both: each sends what the other keeps.
        bool keeps_second = (part_u & half) != 0;
#pragma unroll
        for (u32 row = 0; row < half; row++) {
#pragma unroll
            for (u32 w = 0; w < LEN; w++) {
                A sent = keeps_second ? sums[row][w] : sums[row + half][w];
                A kept = keeps_second ? sums[row + half][w] : sums[row][w];
                sums[row][w] = kept + shuffle(sent, threadIdx.x % WARP ^ (half * C::PARTS * C::LANES));
            }
        }
    }
}

// The rows of an instance that a thread has features of.
template <typename T>
struct BackwardRows {
    u32 much;
    u32 n_vertices;
    // The number of the first one.
    u64 feature;
    const T* x;
    const T* grad_y;
    // In elements: there may be no dloss/dx.
    u64 grad_x;
};

// Has a thread's features of some rows, which the threads of a slot share out, brought to the second-level
// cache.
template <u32 N, typename T>
__device__ __forceinline__ void prefetch_rows(const T* first, const RowsArgs& args, u32 much,
                                              const Place& place, u32 n) {
    using C = Cut<N>;
#pragma unroll 1
    for (u32 row = place.part_v + C::PARTS * place.part_u; row < n && much != NOTHING; row += C::TILES) {
        prefetch(first + row * args.row_stride);
    }
}

// Where a thread has its features of g and x from: global memory.
template <typename T, u32 N>
struct FromMemory {
    using C = Cut<N>;
    using A = typename Element<T>::Acc;
    static constexpr u32 LEN = Features<T>::LEN;
    // With one part there are registers for all of x; else it is loaded in halves, behind a prefetch.
    static constexpr u32 TOGETHER = C::PARTS == 1 ? C::SIDE : C::SIDE / 2;

    const DenseBackwardArgs& args;
    const Place& place;
    const BackwardRows<T>& rows;

    __device__ __forceinline__ u32 much_of_x() const {
        return args.wants_products != 0 ? rows.much : u32(NOTHING);
    }
    __device__ __forceinline__ void load_g(A (&g)[LEN], u32 u) const {
        load_features(g, u < rows.n_vertices ? rows.much : u32(NOTHING),
                      rows.grad_y + u * args.grad_y.row_stride);
    }
    __device__ __forceinline__ void load_x(A (&x)[LEN], u32 v) const {
        load_features(x, v < rows.n_vertices ? much_of_x() : u32(NOTHING), rows.x + v * args.x.row_stride);
    }
    __device__ __forceinline__ void prefetch_x() const {
        prefetch_rows<N>(rows.x, args.x, much_of_x(), place, rows.n_vertices);
    }
};

// The two stages of a warp: of each the rows of g, and behind them those of x, for the warp's slots.
template <typename T, u32 N>
struct Stages {
    using C = Cut<N>;
    enum : u32 { STAGE = 2 * N * C::LANES, WARPS = THREADS / WARP };
    enum : u32 { BYTES = WARPS * 2 * STAGE * sizeof(Features<T>) };

    // The first features of the thread's slot in stage 0.
    static __device__ __forceinline__ Features<T>* of_thread() {
        Features<T>* stages = reinterpret_cast<Features<T>*>(shared_memory);
        return stages + threadIdx.x / WARP * (2 * STAGE) + threadIdx.x % C::LANES;
    }

    // Begins to copy some rows to a stage; the threads of a slot share them out. Single features, which may
    // lie anywhere, are not copied asynchronously.
    static __device__ __forceinline__ void fill(const DenseBackwardArgs& args, Features<T>* stage,
                                                const BackwardRows<T>& rows) {
        u32 row = threadIdx.x % WARP / C::LANES;
        u32 n = rows.much != NOTHING ? rows.n_vertices : 0;
        const T* grad_y = rows.grad_y + row * args.grad_y.row_stride;
        const T* x = rows.x + row * args.x.row_stride;
        stage += row * C::LANES;
        if (args.aligned == 0) {
#pragma unroll 1
            for (; row < N; row += C::TILES) {
                stage[0] = one_feature(row < n, grad_y);
                stage[N * C::LANES] = one_feature(row < n && args.wants_products != 0, x);
                grad_y += C::TILES * args.grad_y.row_stride;
                x += C::TILES * args.x.row_stride;
                stage += C::TILES * C::LANES;
            }
            return;
        }
#pragma unroll
        for (u32 i = 0; i < N / C::TILES; i++) {
            bool exists = row + i * C::TILES < n;
            copy_features(stage, exists, grad_y);
            if (args.wants_products != 0) {
                copy_features(stage + N * C::LANES, exists, x);
            }
            grad_y += C::TILES * args.grad_y.row_stride;
            x += C::TILES * args.x.row_stride;
            stage += C::TILES * C::LANES;
        }
    }

private:
    static __device__ __forceinline__ Features<T> one_feature(bool exists, const T* from) {
        Features<T> one = {};
        if (exists) {
            one.at[0] = *from;
        }
        return one;
    }
};

// The same from a stage, in which rows that are not there are zeros.
template <typename T, u32 N>
struct FromStage {
    using C = Cut<N>;
    using A = typename Element<T>::Acc;
    static constexpr u32 LEN = Features<T>::LEN;
    static constexpr u32 TOGETHER = C::SIDE / 2;

    const Features<T>* stage;

    __device__ __forceinline__ void load_g(A (&g)[LEN], u32 u) const { read_stage(g, stage + u * C::LANES); }
    __device__ __forceinline__ void load_x(A (&x)[LEN], u32 v) const {
        read_stage(x, stage + (N + v) * C::LANES);
    }
    __device__ __forceinline__ void prefetch_x() const {}
};

// The sum of M_uv g_u over a part of column v, whose entries are consecutive: over those that are terms.
// `All`: all vertices are.
template <bool All, u32 SIDE, u32 LEN, typename A>
__device__ __forceinline__ void add_column(A (&sums)[LEN], const A (&g)[SIDE][LEN], const A* column,
                                           u32 terms) {
#pragma unroll
    for (u32 w = 0; w < LEN; w++) {
        sums[w] = 0;
    }
    constexpr u32 TOGETHER = Vector<A>::LEN;
#pragma unroll
    for (u32 i = 0; i < SIDE; i += TOGETHER) {
        Vector<A> of_column = load_vector(column + i);
#pragma unroll
        for (u32 k = 0; k < TOGETHER; k++) {
            if (All || (terms >> (i + k) & 1) != 0) {
#pragma unroll
                for (u32 w = 0; w < LEN; w++) {
                    sums[w] = fused_multiply_add(of_column.at[k], g[i + k][w], sums[w]);
                }
            }
        }
    }
}

// The features of a thread: stores its rows of dloss/dx, and adds to its products. All threads take part.
// `plain`: operators are those of cliques and multiply g by 1, and dloss/dx is overwritten in whole vectors.
template <u32 N, typename Source, typename T, typename A, u32 PRODUCTS>
__device__ __forceinline__ void backward_features(const DenseBackwardArgs& args, const A* entries,
                                                  const u32* words, bool plain, const Place& place,
                                                  const BackwardRows<T>& rows, const Source& source,
                                                  A (&products)[PRODUCTS]) {
    using C = Cut<N>;
    constexpr u32 LEN = Features<T>::LEN;
    u32 first_u = place.part_u * C::SIDE;
    // Rows that are not there are +0, which plain operators count on: see no_entry.
    A g[C::SIDE][LEN];
#pragma unroll
    for (u32 i = 0; i < C::SIDE; i++) {
        source.load_g(g[i], first_u + i);
    }
    constexpr u32 TOGETHER = Source::TOGETHER;
    A x[TOGETHER][LEN];
    auto load_x = [&](u32 first) {
#pragma unroll
        for (u32 j = 0; j < TOGETHER; j++) {
            source.load_x(x[j], place.part_v + C::PARTS * (first + j));
        }
    };
    if (TOGETHER == C::SIDE) {
        load_x(0);
    } else {
        source.prefetch_x();
    }
    if (!plain) {
#pragma unroll
        for (u32 i = 0; i < C::SIDE; i++) {
            A scale = entries[N * C::ROW + first_u + i];
#pragma unroll
            for (u32 w = 0; w < LEN; w++) {
                g[i][w] *= scale;
            }
        }
    }
    if (args.grad_x.data != nullptr) {
        const A* column = entries + place.part_v * C::ROW + first_u;
        const u32* its_words = words + place.part_v;
        // The row of each `PARTS` that the thread stores.
        u32 v = place.part_v + C::PARTS * place.part_u;
        T* to = static_cast<T*>(args.grad_x.data) + rows.grad_x + v * args.grad_x.row_stride;
        u32 n_stored = rows.much != NOTHING ? rows.n_vertices : 0;
        bool asks = !(plain && C::PARTS < 4);
#pragma unroll 1
        for (u32 j = 0; j < C::SIDE; j += C::PARTS) {
            A sums[C::PARTS][LEN];
#pragma unroll
            for (u32 k = 0; k < C::PARTS; k++) {
                if (asks) {
                    add_column<false>(sums[k], g, column, *its_words >> first_u);
                } else {
                    add_column<true>(sums[k], g, column, 0);
                }
                column += C::PARTS * C::ROW;
                its_words += C::PARTS;
            }
            add_parts<N>(sums, place.part_u);
            if (v < n_stored && asks) {
                store_features(to, rows.much, args.add != 0, sums[0]);
            } else if (v < n_stored) {
                write_features(to, ALL_FEATURES, sums[0]);
            }
            v += C::TILES;
            to += C::TILES * args.grad_x.row_stride;
        }
    }
    if (args.wants_products == 0 || rows.much == NOTHING) {
        return;
    }
#pragma unroll
    for (u32 first = 0; first < C::SIDE; first += TOGETHER) {
        if (TOGETHER < C::SIDE) {
            load_x(first);
        }
#pragma unroll
        for (u32 w = 0; w < LEN; w++) {
#pragma unroll
            for (u32 i = 0; i < C::SIDE; i++) {
#pragma unroll
                for (u32 j = 0; j < TOGETHER; j++) {
                    A& product = products[i * C::SIDE + first + j];
                    product = fused_multiply_add(g[i][w], x[j][w], product);
                }
            }
        }
    }
}

// Four numbers that are one behind the other; `Aligned`: whole vectors of them.
template <bool Aligned, typename A>
__device__ __forceinline__ void load_four(A (&to)[4], const A* from) {
    constexpr u32 TOGETHER = Vector<A>::LEN;
#pragma unroll
    for (u32 i = 0; i < 4; i += TOGETHER) {
        Vector<A> loaded = {};
        if (Aligned) {
            loaded = load_vector(from + i);
        }
#pragma unroll
        for (u32 j = 0; j < TOGETHER; j++) {
            to[i + j] = Aligned ? loaded.at[j] : from[i + j];
        }
    }
}

// Adds the products of all slots, in double: of four runs of slots each by itself, and then the runs. A
// thread has all of them, or four threads one each, where there are too few products for that. Stores them
// for each item of the block.
template <typename A, u32 N, u32 PRODUCTS>
__device__ __forceinline__ void store_products(const DenseBackwardArgs& args, u64 block,
                                               const DenseItem* items, u32 n_items, const Place& place,
                                               A* exchange, A (&products)[PRODUCTS]) {
    using C = Cut<N>;
    using E = Exchange<A, N>;
    u32 lane = threadIdx.x % WARP;
    u32 total = E::AT_ONCE * C::TILES * n_items;
    // Slots are a power of two, and fewer than four are a run each.
    u32 lanes = total * 4 > THREADS && args.slots >= 4 ? 1 : 4;
    u32 run = threadIdx.x % lanes;
    u64 n_results = args.chunk_len != 0 ? args.items.blocks : args.items.n_items;
#pragma unroll 1
    for (u32 first = 0; first < PRODUCTS; first += E::AT_ONCE) {
        __syncthreads();
        u32 column = (place.part_u * C::PARTS + place.part_v) * E::TILE + place.slot;
#pragma unroll
        for (u32 i = 0; i < E::AT_ONCE; i++) {
            exchange[i * E::PRODUCT + column] = products[i];
        }
        // Moves the rest down, so that every index is a constant.
#pragma unroll
        for (u32 i = 0; i + E::AT_ONCE < PRODUCTS; i++) {
            products[i] = products[i + E::AT_ONCE];
        }
        __syncthreads();
#pragma unroll 1
        for (u32 begin = 0; begin < total; begin += THREADS / lanes) {
            u32 number = begin + threadIdx.x / lanes;
            u32 product = number % E::AT_ONCE;
            u32 tile = number / E::AT_ONCE % C::TILES;
            u32 k = number / E::AT_ONCE / C::TILES;
            const A* slots = exchange + product * E::PRODUCT + tile * E::TILE + k * args.slots;
            u32 n_slots = number < total ? args.slots : 0;
            double sum = 0;
            if (lanes == 1) {
                double runs[4] = {};
#pragma unroll 2
                for (u32 s = 0; s < n_slots; s += 4) {
                    A of_runs[4];
                    load_four<E::TILE % 4 == 0>(of_runs, slots + s);
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        runs[i] += static_cast<double>(of_runs[i]);
                    }
                }
                sum = (runs[0] + runs[1]) + (runs[2] + runs[3]);
            } else {
#pragma unroll 4
                for (u32 s = run; s < n_slots; s += 4) {
                    sum += static_cast<double>(slots[s]);
                }
                sum += shuffle(sum, lane ^ 1);
                sum += shuffle(sum, lane ^ 2);
            }
            u64 result = block * n_items + k;
            u32 n = args.chunk_len != 0 || k >= n_items ? args.items.n_vertices : items[k].n_vertices;
            u32 u = tile / C::PARTS * C::SIDE + (first + product) / C::SIDE;
            u32 v = tile % C::PARTS + C::PARTS * ((first + product) % C::SIDE);
            if (run == 0 && number < total && result < n_results && u < n && v < n) {
                static_cast<A*>(args.products)[result * (N * N) + u * N + v] = static_cast<A>(sum);
            }
        }
    }
}

template <typename T, u32 N, bool Staged>
__device__ __forceinline__ void dense_backward(const DenseBackwardArgs& args) {
    using A = typename Element<T>::Acc;
    using C = Cut<N>;
    constexpr u32 LEN = Features<T>::LEN;
    const DenseItemsArgs& of = args.items;
    u32 n_items = of.per_block == 0 ? 1 : of.per_block;
    A* exchange = reinterpret_cast<A*>(shared_memory);
    // Stages and what is exchanged have the same memory.
    u32 before_entries = Exchange<A, N>::BYTES;
    if (Staged && Stages<T, N>::BYTES > before_entries) {
        before_entries = Stages<T, N>::BYTES;
    }
    A* entries = exchange + before_entries / sizeof(A);
    u32* words = reinterpret_cast<u32*>(entries + n_items * C::ENTRIES);
    DenseItem* items = reinterpret_cast<DenseItem*>(words + n_items * C::WORDS);
    Place place = place_of_thread<N>();
    u32 k = place.slot / args.slots;
    u32 slot = place.slot - k * args.slots;
    for (u64 block = blockIdx.x; block < of.blocks; block += gridDim.x) {
        if (of.per_block != 0) {
            if (threadIdx.x < n_items) {
                take_rows(of, block * n_items + threadIdx.x, items[threadIdx.x]);
            }
            __syncthreads();
        }
        u64 first_instance = block * args.chunk_len;
        u32 n_members = 1;
        if (args.chunk_len != 0) {
            u64 rest = of.n_items - first_instance;
            n_members = rest < args.chunk_len ? static_cast<u32>(rest) : args.chunk_len;
        }
        u32 n_slices = n_members * args.slices;
        // The slices of the thread's slot, one by one: of which member of a chunk, and which of its row.
        u32 member = args.chunk_len != 0 ? slot / args.slices : 0;
        u32 slice = slot - member * args.slices;
        u32 members_apart = args.chunk_len != 0 ? args.slots / args.slices : 0;
        u32 slices_apart = args.slots - members_apart * args.slices;
        auto next_slice = [&]() {
            member += members_apart;
            slice += slices_apart;
            if (args.chunk_len != 0 && slice >= args.slices) {
                member++;
                slice -= args.slices;
            }
        };
        auto rows_of = [&](bool exists) -> BackwardRows<T> {
            u64 instance = 0;
            u64 first_vertex = 0;
            u32 n = of.n_vertices;
            if (args.chunk_len != 0) {
                instance = first_instance + member;
                first_vertex = instance * n;
            } else if (exists) {
                instance = items[k].number;
                first_vertex = items[k].first_vertex;
                n = items[k].n_vertices;
            }
            u64 feature = u64(slice) * LEN;
            return {exists ? u32(ALL_FEATURES) : u32(NOTHING),
                    n,
                    feature,
                    static_cast<const T*>(args.x.data) + element(args.x, instance, first_vertex, 0) + feature,
                    static_cast<const T*>(args.grad_y.data) +
                        element(args.grad_y, instance, first_vertex, 0) + feature,
                    element(args.grad_x, instance, first_vertex, 0) + feature};
        };
        // Where features are no whole vectors, they come one by one, a step each.
        u32 pieces = args.aligned != 0 ? 1 : LEN;
        u32 n_steps = (n_slices + args.slots - 1) / args.slots * pieces;
        // Steps are asked for one after the other.
        auto rows_of_step = [&](u32 step) -> BackwardRows<T> {
            u32 i = args.aligned != 0 ? 0 : step % LEN;
            if (step != 0 && i == 0) {
                next_slice();
            }
            BackwardRows<T> rows =
                rows_of(k < n_items && (args.chunk_len != 0 ? member < n_members : slice < args.slices));
            if (args.aligned == 0) {
                bool exists = rows.much != NOTHING && rows.feature + i < args.features;
                rows.much = exists ? u32(ONE_FEATURE) : u32(NOTHING);
                rows.x += i;
                rows.grad_y += i;
                rows.grad_x += i;
            }
            return rows;
        };
        Features<T>* stages = Stages<T, N>::of_thread();
        BackwardRows<T> rows = rows_of_step(0);
        // The first rows are under way while operators are read.
        if constexpr (Staged) {
            // Without features there is no step that would wait.
            if (n_steps != 0) {
                Stages<T, N>::fill(args, stages, rows);
                commit_copies();
            }
        } else if (args.aligned != 0) {
            prefetch_rows<N>(rows.grad_y, args.grad_y, rows.much, place, rows.n_vertices);
            if (C::PARTS == 1 && args.wants_products != 0) {
                prefetch_rows<N>(rows.x, args.x, rows.much, place, rows.n_vertices);
            }
        }
        bool plain = transpose_operators<A, N>(of, items, n_items, entries, words);
        plain = __syncthreads_and(plain && args.aligned != 0 && args.add == 0) != 0;
        A products[C::SIDE * C::SIDE];
#pragma unroll
        for (u32 i = 0; i < C::SIDE * C::SIDE; i++) {
            products[i] = 0;
        }
        u32 operand = k < n_items ? k : 0;
        const A* its_entries = entries + operand * C::ENTRIES;
        const u32* its_words = words + operand * C::WORDS;
#pragma unroll 1
        for (u32 step = 0; step < n_steps; step++) {
            if constexpr (Staged) {
                BackwardRows<T> next = rows_of_step(step + 1);
                // Behind the last step nothing may be on its way: the memory has other uses then.
                if (step + 1 < n_steps) {
                    Stages<T, N>::fill(args, stages + (step + 1) % 2 * Stages<T, N>::STAGE, next);
                }
                commit_copies();
                wait_for_all_but<1>();
                __syncwarp();
                FromStage<T, N> source = {stages + step % 2 * Stages<T, N>::STAGE};
                backward_features<N>(args, its_entries, its_words, plain, place, rows, source, products);
                __syncwarp();  // the stage is filled again in the next step
                rows = next;
            } else {
                FromMemory<T, N> source = {args, place, rows};
                backward_features<N>(args, its_entries, its_words, plain, place, rows, source, products);
                rows = rows_of_step(step + 1);
            }
        }
        if (args.wants_products != 0) {
            store_products<A, N>(args, block, items, n_items, place, exchange, products);
        }
        __syncthreads();  // the next items have the same memory
    }
}

// The kernel of a class: for topologies of up to `N` vertices. The numbers of blocks are those that the
// registers of the products leave room for, of 4 bytes and of 8.
#define DENSE_BACKWARD(N, BLOCKS, BLOCKS_OF_8, T, NAME) \
    extern "C" __global__ void __launch_bounds__(THREADS, blocks_for<T>(BLOCKS, BLOCKS_OF_8)) \
        dense##N##_backward_##NAME(const DenseBackwardArgs args) { \
        dense_backward<T, N, false>(args); \
    }

// The same with stages.
#define DENSE_BACKWARD_ASYNC(N, BLOCKS, T, NAME) \
    static_assert(Stages<T, N>::BYTES == (sizeof(T) == 2 ? DENSE##N##_STAGES_BYTES_OF_16_BITS \
                                                         : DENSE##N##_STAGES_BYTES_OF_32_BITS), \
                  "bytes"); \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) \
        dense##N##_backward_async_##NAME(const DenseBackwardArgs args) { \
        dense_backward<T, N, true>(args); \
    }

// What the kernels of any class hold.
#define DENSE_BACKWARD_BYTES(N) \
    static_assert(bytes_of<Cut<N>, float>() == DENSE##N##_BACKWARD_BYTES_OF_4, "bytes"); \
    static_assert(bytes_of<Cut<N>, double>() == DENSE##N##_BACKWARD_BYTES_OF_8, "bytes"); \
    static_assert(Exchange<float, N>::BYTES == DENSE##N##_EXCHANGE_BYTES_OF_4, "bytes"); \
    static_assert(Exchange<double, N>::BYTES == DENSE##N##_EXCHANGE_BYTES_OF_8, "bytes");
