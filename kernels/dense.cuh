// The convolution of small hypergraphs, forward, by their dense operators:
//
//     y = M x,    M = L H U B^-1 H^T R
//
// M is n x n. A thread owns up to 16 bytes of features of all n vertices, and keeps them in registers; M
// lies in shared memory. So x is read once and y written once, which is all the traffic there is. y is
// overwritten or added to, each row once, by one thread for each of its vectors.
//
//     P_uv = sum of U_e / B_e over the hyperedges that have u and v      in the order of src/pairs.rs
//     M_uv = P_uv / D_u              row
//          = P_uv / sqrt(D_u D_v)    symmetric
//          = P_uv                    none
//     y_u  = sum of M_uv x_v         v ascending, one fused multiply-add each
//
// The sum runs over the vertices that share a hyperedge with u, so that an infinity or NaN in x reaches
// only what it is connected with; for a vertex of degree 0 it has no terms. src/cpu/dense.rs, which also
// has the powers of two that D and P are multiplied by, has the same bits.
//
// A kernel has three tasks, see DenseTask. Where all instances share one window, a first launch forms M of
// each topology and stores it in scratch memory (overwritten), and a second one applies it. Elsewhere one
// launch does both, for each instance from its own window. What a block knows of its instances is in
// shared memory; of copies of one topology that share a window it knows M alone.

#pragma once

#include "degree.cuh"
#include "rows.cuh"

extern __shared__ __align__(16) u8 shared_memory[];

// The features of a thread. Elements of 16 bits come 8 bytes at a time: each becomes a register of its own.
template <typename T>
struct alignas(sizeof(T) == 2 ? 8 : 16) Features {
    static constexpr u32 LEN = sizeof(T) == 8 ? 2 : 4;
    T at[LEN];
};

// An instance of up to `N` vertices, or a topology.
template <typename A, u32 N>
struct alignas(16) DenseInstance {
    // M_uv at u N + v; what is no term is not read. Then for each row what its sum is multiplied by.
    A entries[N * N + N];
    // For each vertex u the vertices v whose M_uv is a term of y_u: bit v.
    u32 terms[N];
    // D_v times a power of two, 0 or NaN where D_v is 0 or not finite, and the shift that the power has.
    A degrees[N];
    int shifts[N];
    u64 number;
    u64 topology;
    // Where its vertices start in the batch, and its window in the weights.
    u64 first_vertex;
    u64 window;
    // 0 where there is nothing to compute.
    u32 n_vertices;
};

// -----------------------------------------------------------------------------------------------------------
// Which instances a block has.

// The parts of the tables that a topology may use lie within them.
template <u32 N, bool Checked>
__device__ __forceinline__ bool fits_dense(const DenseArgs& args, Check<Checked>& check, u64 id) {
    if (!Checked) {
        return true;
    }
    const DenseTablesArgs& tables = args.dense;
    const TopologyWords& vertices = args.by_vertex.topologies[id];
    const DenseTopologyWords& t = tables.topologies[id];
    // `size` values from word `place` on, in a table of `len`.
    auto within = [&](u32 place, u64 start, u64 size, u64 len) {
        return check.below(DENSE_TOPOLOGIES, id * DENSE_TOPOLOGY_WORDS + place, start,
                           len < size ? 0 : len - size + 1);
    };
    auto at_most = [&](u32 place, u64 value, u64 most) {
        return check.below(DENSE_TOPOLOGIES, id * DENSE_TOPOLOGY_WORDS + place, value, most + 1);
    };
    bool stores = args.task != DENSE_FORM_AND_APPLY;
    // A topology of another class, whose operators other launches store.
    bool is_smaller = N > SMALLEST_DENSE_CLASS && t.n_vertices <= N / 2;
    return fits(args.by_vertex, check, id, vertices) &&
           (!is_smaller || check.below(DENSE_TOPOLOGIES, id * DENSE_TOPOLOGY_WORDS, t.n_vertices, 0)) &&
           at_most(DENSE_TOPOLOGY_N_VERTICES, t.n_vertices,
                   vertices.n_targets < N ? vertices.n_targets : N) &&
           check.below(TOPOLOGIES, id * TOPOLOGY_WORDS + TOPOLOGY_N_TARGETS, vertices.n_targets,
                       t.n_vertices + 1) &&
           within(DENSE_TOPOLOGY_NEIGHBORS, t.neighbors, t.n_vertices, tables.n_neighbors) &&
           at_most(DENSE_TOPOLOGY_N_PAIRS, t.n_pairs, N * (N + 1) / 2) &&
           within(DENSE_TOPOLOGY_PAIRS, t.pairs, 2 * (t.n_pairs + 1), tables.n_pairs) &&
           at_most(DENSE_TOPOLOGY_N_LISTED, t.n_listed, tables.n_lists) &&
           at_most(DENSE_TOPOLOGY_UNIFORM_SIZE, t.uniform_size, t.n_vertices) &&
           within(DENSE_TOPOLOGY_LISTS, t.lists, t.n_listed, tables.n_lists) &&
           (!stores || (within(DENSE_TOPOLOGY_ENTRIES, t.entries, u64(N) * N + N, args.n_entries) &&
                        within(DENSE_TOPOLOGY_TERMS, t.terms, N, args.n_terms)));
}

// The instance that a report names: where a topology is looked at, the first that has it.
template <typename A, u32 N>
__device__ __forceinline__ u64 reported(const DenseArgs& args, const DenseInstance<A, N>& instance) {
    const u32* ids = args.by_vertex.topology_ids;
    u64 number = instance.number;
    if (args.task == DENSE_FORM_AND_STORE && ids != nullptr) {
#pragma unroll 1
        while (number + 1 < args.by_vertex.instances && ids[number] != instance.topology) {
            number++;
        }
    }
    return number;
}

template <typename A, u32 N, bool Checked>
__device__ __forceinline__ void publish(const DenseArgs& args, u32 kernel,
                                        const DenseInstance<A, N>& instance, const Check<Checked>& check) {
    if (check.failed) {
        check.publish(args.record, kernel, args.by_vertex.orientation, reported(args, instance));
    }
}

// Finds item `item` of the launch, an instance or a topology. Where something is wrong it stays empty. A
// single thread does this.
template <typename A, u32 N, bool Checked>
__device__ __forceinline__ void find_instance(const DenseArgs& args, u32 kernel, u64 item,
                                              DenseInstance<A, N>& instance) {
    instance.n_vertices = 0;
    instance.number = 0;
    instance.topology = item;
    instance.first_vertex = 0;
    instance.window = 0;
    if (item >= args.n_items) {
        return;
    }
    Check<Checked> check;
    const TablesArgs& tables = args.by_vertex;
    bool found;
    u64 number = args.items != nullptr ? args.items[item] : item;
    if (args.task == DENSE_FORM_AND_STORE) {
        instance.topology = number;
        found = check.below(PATH_INSTANCES, item, number, tables.n_topologies);
    } else {
        instance.number = number;
        found = check.below(PATH_INSTANCES, item, number, tables.instances) &&
                find_topology_id(tables, check, number, instance.topology);
    }
    if (found && fits_dense<N>(args, check, instance.topology)) {
        const TopologyWords& t = tables.topologies[instance.topology];
        u64 first_hyperedge = 0;
        if (args.task == DENSE_FORM_AND_STORE ||
            (start_of(check, TARGET_STARTS, tables.target_starts, instance.number, t.n_targets,
                      tables.n_targets, instance.first_vertex) &&
             start_of(check, SOURCE_STARTS, tables.source_starts, instance.number, t.n_sources,
                      tables.n_sources, first_hyperedge) &&
             window_of(check, SOURCE_WINDOWS, args.weights, instance.number, first_hyperedge, t.n_sources,
                       instance.window))) {
            instance.n_vertices = static_cast<u32>(t.n_targets);
        }
    }
    publish(args, kernel, instance, check);
}

// -----------------------------------------------------------------------------------------------------------
// Forming M.

// The shift of a degree, as `Conv::dense_shift`, and the degree itself, shifted.
template <typename A>
__device__ __forceinline__ A shifted_degree(const DenseArgs& args, A degree, int& shift) {
    // A negative degree has no square root; that of a product of two would be one.
    bool is_number = is_finite(degree) && !(is_symmetric(args) && degree < A(0));
    shift = 0;
    if (args.shifted != 0) {
        shift = NO_SHIFT;
        if (is_number && degree != A(0)) {
            int n = exponent(degree);
            n = n < args.least_exponent ? args.least_exponent : n;
            shift = -(is_symmetric(args) ? n >> 1 : n);
        }
    }
    A shifted = times_power_of_two(degree, static_cast<int>(args.shifts_of_degree) * shift);
    return is_number ? shifted : not_a_number<A>();
}

// The degrees of the vertices of all instances: a group of `args.row_lanes` lanes takes one.
template <typename A, u32 N, bool Checked>
__device__ __forceinline__ void find_degrees(const DenseArgs& args, u32 kernel,
                                             DenseInstance<A, N>* instances, u32 n_instances) {
    const TablesArgs& tables = args.by_vertex;
    u32 lanes = args.row_lanes;
    u32 lane = threadIdx.x % lanes;
    // N is a multiple of the groups of a warp: all its lanes leave the loop together.
#pragma unroll 1
    for (u32 i = threadIdx.x / lanes; i < n_instances * N; i += THREADS / lanes) {
        DenseInstance<A, N>& instance = instances[i / N];
        u32 v = i % N;
        Check<Checked> check;
        u32 length = 0;
        u64 first = 0;
        u64 n_sources = 0;
        if (v < instance.n_vertices) {
            const TopologyWords& t = tables.topologies[instance.topology];
            u32 start = 0;
            u32 end = 0;
            n_sources = t.n_sources;
            if (find_incidences(tables, check, t, t.pointers + v, start, end) &&
                check.below(POINTERS, t.pointers + v + 1, end, u64(start) + SEGMENT + 1)) {
                length = end - start;
                first = t.indices + start;
            }
        }
        A degree = static_cast<A>(length);
        if (args.in_degree != 0) {
            const A* weights = static_cast<const A*>(args.weights.values) + instance.window;
            A sum = 0;
#pragma unroll 1
            for (u32 k = lane; k < length; k += lanes) {
                u32 source = tables.indices[first + k];
                if (check.below(INDICES, first + k, source, n_sources)) {
                    sum += weights[source];
                }
            }
            degree = sum_of_group(sum, lanes);
        }
        if (Checked) {
            u32 group = lanes == WARP ? ALL_LANES : ((1u << lanes) - 1) << threadIdx.x % WARP / lanes * lanes;
            if ((__ballot_sync(ALL_LANES, check.failed) & group) != 0) {
                degree = not_a_number<A>();
            }
        }
        if (v < instance.n_vertices && lane == 0) {
            instance.degrees[v] = shifted_degree(args, degree, instance.shifts[v]);
            if (args.in_degree != 0 && degree < A(0)) {
                Row row = {};
                row.instance = reported(args, instance);
                row.row = v;
                publish_if_negative(args, kernel, tables.orientation, row, degree);
            }
        }
        publish(args, kernel, instance, check);
    }
}

// P_uv from the list of a pair: for each size its number of hyperedges, the size, and the hyperedges. Once
// with U multiplied by 2^shifts.of_u, and once by 2^shifts.of_v.
struct PairShifts {
    int of_u;
    int of_v;
};

template <typename A>
struct Messages {
    A of_u;
    A of_v;
};

template <typename A, bool Checked>
__device__ __forceinline__ Messages<A> sum_of_list(const DenseArgs& args, Check<Checked>& check,
                                                   const A* weights, const TopologyWords& t, u64 start,
                                                   u64 end, const PairShifts& shifts) {
    const u32* lists = args.dense.lists;
    Messages<A> total = {0, 0};
    u64 at = start;
#pragma unroll 1
    while (at < end) {
        u32 count = lists[at];
        // More than the list has: also where its two words are cut off.
        if (!check.below(PAIR_LISTS, at, u64(count) + 2, end - at + 1)) {
            break;
        }
        u32 size = lists[at + 1];
        check.below(PAIR_LISTS, at + 1, size, t.n_indices + 1);
        at += 2;
        A sum = static_cast<A>(count);
        if (args.in_message != 0) {
            sum = 0;
#pragma unroll 4
            for (u32 k = 0; k < count; k++) {
                u32 hyperedge = lists[at + k];
                if (check.below(PAIR_LISTS, at + k, hyperedge, t.n_sources)) {
                    sum += weights[hyperedge];
                }
            }
        }
        at += count;
        A of_u = times_power_of_two(sum, shifts.of_u) / static_cast<A>(size);
        A of_v = of_u;
        if (shifts.of_v != shifts.of_u) {
            of_v = times_power_of_two(sum, shifts.of_v) / static_cast<A>(size);
        }
        total.of_u += of_u;
        total.of_v += of_v;
    }
    return total;
}

// The entries of all pairs that share a hyperedge, M_uv and M_vu. A thread takes a pair.
template <typename A, u32 N, bool Checked>
__device__ __forceinline__ void find_entries(const DenseArgs& args, u32 kernel,
                                             DenseInstance<A, N>* instances, u32 n_instances) {
    constexpr u32 MOST = N * (N + 1) / 2;
    bool roots = args.normalized != 0 && is_symmetric(args);
#pragma unroll 1
    for (u32 i = threadIdx.x; i < n_instances * MOST; i += THREADS) {
        DenseInstance<A, N>& instance = instances[i / MOST];
        u32 number = i % MOST;
        u32 n = instance.n_vertices;
        if (n == 0) {
            continue;
        }
        const DenseTopologyWords& t = args.dense.topologies[instance.topology];
        if (number >= t.n_pairs) {
            continue;
        }
        Check<Checked> check;
        u64 at = t.pairs + 2 * number;
        u32 vertices = args.dense.pairs[at];
        u32 start = args.dense.pairs[at + 1];
        u32 end = args.dense.pairs[at + 3];
        u32 u = vertices & 0xffffu;
        u32 v = vertices >> 16;
        if (check.below(PAIRS, at, u, n) && check.below(PAIRS, at, v, n)) {
            // U and the power of two that brings D to about 1 go together. Without U the power is left to the
            // rows.
            PairShifts shifts = {0, 0};
            if (args.in_message != 0 && args.normalized != 0) {
                shifts = {instance.shifts[u], instance.shifts[v]};
                if (roots) {
                    shifts.of_u = add_shifts(shifts.of_u, shifts.of_v);
                    shifts.of_v = shifts.of_u;
                }
            }
            Messages<A> messages = {not_a_number<A>(), not_a_number<A>()};
            if (u == v && t.uniform_size != 0 && args.in_degree != 0 && args.in_message != 0) {
                A message = instance.degrees[u] / static_cast<A>(static_cast<u32>(t.uniform_size));
                messages = {message, message};
            } else if (check.below(PAIRS, at + 3, end, t.n_listed + 1) &&
                       check.below(PAIRS, at + 1, start, u64(end) + 1)) {
                const A* weights = static_cast<const A*>(args.weights.values) + instance.window;
                messages = sum_of_list(args, check, weights, args.by_vertex.topologies[instance.topology],
                                       t.lists + start, t.lists + end, shifts);
            }
            // M_uv first, then M_vu.
            u32 row = u;
            u32 column = v;
            A message = messages.of_u;
#pragma unroll 1
            for (u32 side = 0; side < 2; side++) {
                A entry = message;
                if (args.normalized != 0) {
                    A divisor = instance.degrees[row];
                    if (roots) {
                        divisor = square_root(divisor * instance.degrees[column]);
                        if (args.in_message == 0) {
                            entry = times_power_of_two(message, instance.shifts[column]);
                        }
                    }
                    entry = entry / divisor;
                }
                instance.entries[row * N + column] = check.failed ? not_a_number<A>() : entry;
                row = v;
                column = u;
                message = messages.of_v;
            }
        }
        publish(args, kernel, instance, check);
    }
}

// Which M_uv are terms: those of vertices that share a hyperedge, but for vertices of degree 0.
template <typename A, u32 N, bool Checked>
__device__ __forceinline__ void find_terms(const DenseArgs& args, u32 kernel, DenseInstance<A, N>* instances,
                                           u32 n_instances) {
#pragma unroll 1
    for (u32 i = threadIdx.x; i < n_instances * N; i += THREADS) {
        DenseInstance<A, N>& instance = instances[i / N];
        u32 u = i % N;
        u32 n = instance.n_vertices;
        if (u >= n) {
            continue;
        }
        Check<Checked> check;
        u64 position = args.dense.topologies[instance.topology].neighbors + u;
        u32 terms = args.dense.neighbors[position];
        if (!check.below(NEIGHBORS, position, terms, u64(1) << n)) {
            terms = 1u << u;
            instance.entries[u * N + u] = not_a_number<A>();
        }
        if (args.normalized != 0) {
            if (instance.degrees[u] == A(0)) {
                terms = 0;
            }
#pragma unroll 1
            for (u32 v = 0; is_symmetric(args) && v < n; v++) {
                terms &= instance.degrees[v] == A(0) ? ~(1u << v) : ALL_LANES;
            }
        }
        instance.terms[u] = terms;
        instance.entries[N * N + u] =
            args.shifted != 0 && args.in_message == 0 ? times_power_of_two(A(1), instance.shifts[u]) : A(1);
        publish(args, kernel, instance, check);
    }
}

// Forms M of all instances. All threads of the block take part; a barrier must follow.
template <typename A, u32 N, bool Checked>
__device__ __forceinline__ void form_operators(const DenseArgs& args, u32 kernel,
                                               DenseInstance<A, N>* instances, u32 n_instances) {
    if (args.normalized != 0) {
        find_degrees<A, N, Checked>(args, kernel, instances, n_instances);
    }
    // What a wrong value keeps from being stored stays NaN. Without wrong values all terms are stored.
#pragma unroll 1
    for (u32 i = threadIdx.x; i < n_instances * (N * N + N); i += THREADS) {
        instances[i / (N * N + N)].entries[i % (N * N + N)] = Checked ? not_a_number<A>() : A(0);
    }
    __syncthreads();
    find_entries<A, N, Checked>(args, kernel, instances, n_instances);
    if (Checked) {
        __syncthreads();  // where its terms are wrong, an entry becomes NaN
    }
    find_terms<A, N, Checked>(args, kernel, instances, n_instances);
}

// Copies M of a topology to scratch memory, or M of the block's instances from there. Of copies of one
// topology there is one, and no table is read for it.
template <typename A, u32 N, bool Checked>
__device__ __forceinline__ void copy_operators(const DenseArgs& args, DenseInstance<A, N>* instances,
                                               u32 n_instances, bool store) {
#pragma unroll 1
    for (u32 i = threadIdx.x; i < n_instances * (N * N + N); i += THREADS) {
        DenseInstance<A, N>& instance = instances[i / (N * N + N)];
        u32 at = i % (N * N + N);
        u64 first_entry = 0;
        u64 first_term = 0;
        if (args.n_vertices == 0) {
            if (instance.n_vertices == 0) {
                continue;
            }
            first_entry = args.dense.topologies[instance.topology].entries;
            first_term = args.dense.topologies[instance.topology].terms;
        }
        A* entry = static_cast<A*>(args.operators) + first_entry + at;
        u32* terms = args.terms + first_term + at;
        if (store) {
            // Where nothing could be formed, all is NaN.
            bool missing = Checked && instance.n_vertices == 0;
            *entry = missing ? not_a_number<A>() : instance.entries[at];
            if (at < N) {
                *terms = missing ? 1u << at : at < instance.n_vertices ? instance.terms[at] : 0;
            }
        } else {
            instance.entries[at] = *entry;
            if (at < N) {
                instance.terms[at] = *terms;
            }
        }
    }
}

// -----------------------------------------------------------------------------------------------------------
// Applying M.

// A register of its own for a feature: the compiler would rather widen 16-bit elements again for each row.
__device__ __forceinline__ void keep(float& value) {
#if defined(__CUDA_ARCH__)
    asm volatile("" : "+f"(value));
#endif
}
__device__ __forceinline__ void keep(double&) {}

// Has a row brought to the second-level cache.
__device__ __forceinline__ void prefetch(const void* address) {
#if defined(__CUDA_ARCH__)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#endif
}

// Adds row u of M times x. `All`: all N vertices are terms.
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

// `LEN` features of all rows: `x` and `y` are where they are in the first row.
template <typename T, u32 N, u32 LEN, typename A>
__device__ __forceinline__ void apply_operator(const DenseArgs& args, const DenseInstance<A, N>& instance,
                                               const A (&x)[N][LEN], u32 n, T* y) {
    struct alignas(LEN * sizeof(T)) Stored {
        T at[LEN];
    };
#pragma unroll 1
    for (u32 u = 0; u < n; u++) {
        u32 terms = instance.terms[u];
        A scale = instance.entries[N * N + u];
        A sums[LEN];
#pragma unroll
        for (u32 i = 0; i < LEN; i++) {
            sums[i] = 0;
        }
        // Cliques as large as the class do without tests. Single features are for what is slow anyway.
        constexpr u32 ALL = N == 32 ? 0xffffffffu : (1u << N) - 1;
        if (LEN > 1 && terms == ALL) {
            add_terms<N, LEN, true>(sums, x, instance.entries + u * N, terms);
        } else {
            add_terms<N, LEN, false>(sums, x, instance.entries + u * N, terms);
        }
        Stored stored = {};
        if (args.add != 0) {
            stored = *reinterpret_cast<Stored*>(y);
        }
#pragma unroll
        for (u32 i = 0; i < LEN; i++) {
            A value = sums[i] * scale;
            value = args.add != 0 ? Element<T>::widen(stored.at[i]) + value : value;
            stored.at[i] = Element<T>::narrow(value);
        }
        *reinterpret_cast<Stored*>(y) = stored;
        y += args.y.row_stride;
    }
}

// Which features of which instance a thread has.
struct DenseItem {
    bool exists;
    u32 place;
    u32 n_vertices;
    u64 instance;
    u64 first_vertex;
    u64 chunk;
};

// Item `number` of a block.
template <typename A, u32 N>
__device__ __forceinline__ DenseItem item_of_block(const DenseArgs& args,
                                                   const DenseInstance<A, N>* instances, u64 block,
                                                   u32 number, u32 n_items) {
    DenseItem item = {};
    if (args.per_block == 0) {
        u64 of_launch = block * THREADS + number;
        item.instance = divide(of_launch, args.chunks);
        item.chunk = of_launch - item.instance * args.chunks;
        item.exists = item.instance < args.n_items;
        item.n_vertices = args.n_vertices;
        item.first_vertex = item.instance * args.n_vertices;
    } else if (number < n_items) {
        item.place = number / args.chunks;
        item.chunk = number - item.place * args.chunks;
        const DenseInstance<A, N>& instance = instances[item.place];
        item.n_vertices = instance.n_vertices;
        item.exists = item.n_vertices != 0;
        item.instance = instance.number;
        item.first_vertex = instance.first_vertex;
    }
    return item;
}

template <typename T, u32 N, bool Checked>
__device__ __forceinline__ void dense_conv(const DenseArgs& args, u32 kernel) {
    using A = typename Element<T>::Acc;
    constexpr u32 LEN = Features<T>::LEN;
    DenseInstance<A, N>* instances = reinterpret_cast<DenseInstance<A, N>*>(shared_memory);
    u32 n_instances = args.per_block == 0 ? 1 : args.per_block;
    u32 n_items = args.per_block == 0 ? u32(THREADS) : args.per_block * args.chunks;
    bool aligned = args.aligned != 0;
    for (u64 block = blockIdx.x; block < args.blocks; block += gridDim.x) {
        if (args.per_block != 0) {
            if (threadIdx.x < n_instances) {
                find_instance<A, N, Checked>(args, kernel, block * n_instances + threadIdx.x,
                                             instances[threadIdx.x]);
            }
            __syncthreads();
        }
        for (u32 first = 0; first < n_items; first += THREADS) {
            DenseItem item = item_of_block(args, instances, block, first + threadIdx.x, n_items);
            const T* x = static_cast<const T*>(args.x.data) +
                         element(args.x, item.instance, item.first_vertex, 0) +
                         item.chunk * (aligned ? LEN : 1);
            if (first == 0 && args.task != DENSE_APPLY) {
                if (aligned && item.exists && args.task == DENSE_FORM_AND_APPLY) {
#pragma unroll 1
                    for (u32 v = 0; v < item.n_vertices; v++) {
                        prefetch(x + v * args.x.row_stride);
                    }
                }
                form_operators<A, N, Checked>(args, kernel, instances, n_instances);
                __syncthreads();
            }
            if (args.task == DENSE_FORM_AND_STORE) {
                copy_operators<A, N, Checked>(args, instances, n_instances, true);
                break;
            }
            Features<T> loaded[N];
            {
                const T* row = x;
#pragma unroll
                for (u32 v = 0; v < N; v++) {
                    loaded[v] = {};
                    if (aligned && item.exists && v < item.n_vertices) {
                        loaded[v] = *reinterpret_cast<const Features<T>*>(row);
                    }
                    row += args.x.row_stride;
                }
            }
            if (first == 0 && args.task == DENSE_APPLY) {
                copy_operators<A, N, Checked>(args, instances, n_instances, false);
                __syncthreads();
            }
            if (!item.exists) {
                continue;
            }
            const DenseInstance<A, N>& instance = instances[item.place];
            T* y = static_cast<T*>(args.y.data) + element(args.y, item.instance, item.first_vertex, 0) +
                   item.chunk * (aligned ? LEN : 1);
            if (aligned) {
                A wide[N][LEN];
#pragma unroll
                for (u32 v = 0; v < N; v++) {
#pragma unroll
                    for (u32 i = 0; i < LEN; i++) {
                        wide[v][i] = Element<T>::widen(loaded[v].at[i]);
                        if (sizeof(T) == 2) {
                            keep(wide[v][i]);
                        }
                    }
                }
                apply_operator(args, instance, wide, item.n_vertices, y);
            } else {
                A wide[N][1];
#pragma unroll
                for (u32 v = 0; v < N; v++) {
                    wide[v][0] = v < item.n_vertices ? Element<T>::widen(x[v * args.x.row_stride]) : A(0);
                }
                apply_operator(args, instance, wide, item.n_vertices, y);
            }
        }
        __syncthreads();  // the next instances have the same memory
    }
}

// The kernel of a class: for topologies of up to `N` vertices. The numbers of blocks are those that the
// registers of x leave room for; those of checks leave room for one less.
#define DENSE_KERNEL(N, BLOCKS, T, NAME, CHECKS) \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) \
        dense##N##_conv_##NAME(const DenseArgs args) { \
        dense_conv<T, N, CHECKS>(args, DENSE##N##_CONV); \
    }

#define DENSE_MODULES(N, BLOCKS) \
    static_assert(sizeof(DenseInstance<float, N>) == DENSE##N##_INSTANCE_OF_4, "instance"); \
    static_assert(sizeof(DenseInstance<double, N>) == DENSE##N##_INSTANCE_OF_8, "instance"); \
    MODULES_OF_F32(UNCHECKED(DENSE_KERNEL(N, BLOCKS, float, f32, false)) \
                       CHECKED(DENSE_KERNEL(N, BLOCKS - 1, float, f32_checked, true))) \
    MODULES_OF_F64(UNCHECKED(DENSE_KERNEL(N, BLOCKS, double, f64, false)) \
                       CHECKED(DENSE_KERNEL(N, BLOCKS - 1, double, f64_checked, true))) \
    MODULES_OF_F16(UNCHECKED(DENSE_KERNEL(N, BLOCKS, F16, f16, false)) \
                       CHECKED(DENSE_KERNEL(N, BLOCKS - 1, F16, f16_checked, true))) \
    MODULES_OF_BF16(UNCHECKED(DENSE_KERNEL(N, BLOCKS, Bf16, bf16, false)) \
                        CHECKED(DENSE_KERNEL(N, BLOCKS - 1, Bf16, bf16_checked, true)))
