// How a dense operator is formed from the weights of its hyperedges.
//
//     P_uv = sum of U_e / B_e over the hyperedges that have u and v      in the order of src/pairs.rs
//     M_uv = P_uv / D_u              row
//          = P_uv / sqrt(D_u D_v)    symmetric
//          = P_uv                    none
//
// M_uv is a term of y_u where u and v share a hyperedge, unless u has degree 0 (or v, under the symmetric
// normalization). src/cpu/dense has the same bits, and the powers of two that D and P are multiplied by.

#pragma once

#include "degree.cuh"
#include "dense.cuh"

// Where a block forms its operators. Those of all items begin at `entries` and `words`, at the places that
// each item has.
template <typename A>
struct Forming {
    DenseItem* items;
    u32 n_items;
    // A class of so many vertices.
    u32 row;
    // Of each item, `row`: D times a power of two, 0 or NaN where D is 0 or not finite, and the shift that
    // the power has.
    A* degrees;
    int* shifts;
    A* entries;
    u32* words;
    // Whether what gradients need is there, too: see DenseOperatorsArgs.
    bool is_stored;
    // The items are topologies.
    bool of_topologies;
    // Where staged: the windows of the items in shared memory, `args.window_room` numbers each.
    A* windows;
};

// The instance that a report names.
__device__ __forceinline__ u64 reported(const DenseFormArgs& args, bool of_topologies,
                                        const DenseItem& item) {
    return of_topologies ? first_instance_of(args.items, item) : item.number;
}

template <bool Checked>
__device__ __forceinline__ void publish(const DenseFormArgs& args, u32 kernel, bool of_topologies,
                                        const DenseItem& item, const Check<Checked>& check) {
    if (check.failed) {
        check.publish(args.items.record, kernel, args.items.by_vertex.orientation,
                      reported(args, of_topologies, item));
    }
}

// The parts of the tables that a topology's operator is formed from lie within them.
template <bool Checked>
__device__ __forceinline__ bool fits_pairs(const DenseFormArgs& args, Check<Checked>& check, u64 id) {
    if (!Checked) {
        return true;
    }
    const DenseTablesArgs& tables = args.items.dense;
    const DenseTopologyWords& t = tables.topologies[id];
    auto at_most = [&](u32 place, u64 value, u64 most) {
        return check.below(DENSE_TOPOLOGIES, id * DENSE_TOPOLOGY_WORDS + place, value, most + 1);
    };
    // `size` values from word `place` on, in a table of `len`.
    auto within = [&](u32 place, u64 start, u64 size, u64 len) {
        return check.below(DENSE_TOPOLOGIES, id * DENSE_TOPOLOGY_WORDS + place, start,
                           len < size ? 0 : len - size + 1);
    };
    u64 row = args.items.operators.row;
    return fits(args.items.by_vertex, check, id, args.items.by_vertex.topologies[id]) &&
           within(DENSE_TOPOLOGY_NEIGHBORS, t.neighbors, row > WARP ? 2 * t.n_vertices : t.n_vertices,
                  tables.n_neighbors) &&
           at_most(DENSE_TOPOLOGY_N_PAIRS, t.n_pairs, row * (row + 1) / 2) &&
           within(DENSE_TOPOLOGY_PAIRS, t.pairs, 2 * (t.n_pairs + 1), tables.n_pairs) &&
           at_most(DENSE_TOPOLOGY_N_LISTED, t.n_listed, tables.n_lists) &&
           at_most(DENSE_TOPOLOGY_UNIFORM_SIZE, t.uniform_size, t.n_vertices) &&
           within(DENSE_TOPOLOGY_LISTS, t.lists, t.n_listed, tables.n_lists);
}

// Finds item `place` of the launch, an instance or a topology, and its window. Where something is wrong it
// has no vertices. A single thread does this.
template <bool Checked>
__device__ __forceinline__ void find_formed(const DenseFormArgs& args, u32 kernel, bool of_topologies,
                                            u64 place, DenseItem& item) {
    const TablesArgs& tables = args.items.by_vertex;
    Check<Checked> check;
    if (find_item(args.items, check, place, of_topologies, item) && fits_pairs(args, check, item.topology)) {
        const TopologyWords& t = tables.topologies[item.topology];
        u64 first_hyperedge = 0;
        if (of_topologies || (start_of(check, TARGET_STARTS, tables.target_starts, item.number, t.n_targets,
                                       tables.n_targets, item.first_vertex) &&
                              start_of(check, SOURCE_STARTS, tables.source_starts, item.number, t.n_sources,
                                       tables.n_sources, first_hyperedge) &&
                              window_of(check, SOURCE_WINDOWS, args.weights, item.number, first_hyperedge,
                                        t.n_sources, item.window))) {
            item.n_vertices = static_cast<u32>(t.n_targets);
            item.is_found = 1;
        }
    }
    publish(args, kernel, of_topologies, item, check);
}

// Finds the window of an instance that take_rows has found, where nothing is checked.
__device__ __forceinline__ void find_window(const DenseFormArgs& args, DenseItem& item) {
    const TablesArgs& tables = args.items.by_vertex;
    if (item.n_vertices != 0) {
        Check<false> check;
        u64 n_sources = tables.topologies[item.topology].n_sources;
        u64 first_hyperedge = 0;
        start_of(check, SOURCE_STARTS, tables.source_starts, item.number, n_sources, tables.n_sources,
                 first_hyperedge);
        window_of(check, SOURCE_WINDOWS, args.weights, item.number, first_hyperedge, n_sources, item.window);
    }
}

// -----------------------------------------------------------------------------------------------------------
// Windows in shared memory. Where the hyperedges of all topologies of a launch are of one size and nothing is
// checked, a block has the windows of its items there, and reads which hyperedges to add from tables of which
// lanes that lie side by side read words that do. Sums are in the same order as without.

// The threads of a block that share an item.
struct Share {
    u32 item;
    // Of those, and how many there are.
    u32 lane;
    u32 lanes;
};

__device__ __forceinline__ Share share_of_thread(u32 n_items) {
    u32 lanes = THREADS / n_items;
    u32 item = threadIdx.x / lanes;
    return {item, threadIdx.x - item * lanes, lanes};
}

// The words of a topology in the table, see StagedTable in src/cuda/dense_tables.rs.
struct StagedWords {
    // For each vertex the number of its hyperedges.
    const u32* lengths;
    // For each vertex `t.staged_ids` numbers of hyperedges, two in a word.
    const u32* of_vertices;
    // For each pair of two vertices u + v 2^8, and the number of its hyperedges times 2^16.
    const u32* pairs;
    // Their hyperedges, two in a word: word k of all pairs, then word k + 1.
    const u32* of_pairs;
};

__device__ __forceinline__ StagedWords staged_words(const DenseFormArgs& args, const DenseTopologyWords& t) {
    const u32* lengths = args.items.dense.staged + t.staged;
    const u32* of_vertices = lengths + t.n_vertices;
    const u32* pairs = of_vertices + t.n_vertices * (t.staged_ids / 2);
    return {lengths, of_vertices, pairs, pairs + t.n_staged};
}

// Brings the windows of all items to shared memory, with a zero behind each: what lists are padded with.
// A barrier must precede, and another one follow.
template <typename A>
__device__ __forceinline__ void stage_windows(const DenseFormArgs& args, const Forming<A>& forming) {
    Share share = share_of_thread(forming.n_items);
    if (share.item >= forming.n_items) {
        return;
    }
    const DenseItem& item = forming.items[share.item];
    A* window = forming.windows + share.item * args.window_room;
    u32 len = 0;
    if (item.n_vertices != 0 && (args.conventions.in_degree | args.conventions.in_message) != 0) {
        len = static_cast<u32>(args.items.by_vertex.topologies[item.topology].n_sources);
    }
    if (share.lane == 0) {
        window[len] = 0;
    }
    const A* weights = static_cast<const A*>(args.weights.values) + item.window;
    constexpr u32 IN_FLIGHT = 6;
#pragma unroll 1
    for (u32 first = share.lane; first < len; first += IN_FLIGHT * share.lanes) {
        // Without branches, so that all are under way together: what is too much reads the last one again.
        A values[IN_FLIGHT];
#pragma unroll
        for (u32 j = 0; j < IN_FLIGHT; j++) {
            values[j] = weights[min(first + j * share.lanes, len - 1)];
        }
#pragma unroll
        for (u32 j = 0; j < IN_FLIGHT; j++) {
            if (first + j * share.lanes < len) {
                window[first + j * share.lanes] = values[j];
            }
        }
    }
}

// The sum of the weights of a vertex that falls to a lane of a group: of hyperedge `lane`, lane + lanes, ...
template <typename A>
__device__ __forceinline__ A staged_sum_of_vertex(const A* windows, u32 window, const unsigned short* ids,
                                                  u32 len, u32 lane, u32 lanes) {
    constexpr u32 IN_FLIGHT = 4;
    A sum = 0;
#pragma unroll 1
    for (u32 first = lane; first < len; first += IN_FLIGHT * lanes) {
        u32 places[IN_FLIGHT];
#pragma unroll
        for (u32 j = 0; j < IN_FLIGHT; j++) {
            // The last one is that of the zero.
            places[j] = window + ids[min(first + j * lanes, len - 1)];
        }
#pragma unroll
        for (u32 j = 0; j < IN_FLIGHT; j++) {
            sum += windows[places[j]];
        }
    }
    return sum;
}

// The sum of a list of ids, one behind the other: `len` words, a multiple of STAGED_TOGETHER, each `stride`
// words behind the last one.
template <typename A>
__device__ __forceinline__ A staged_sum_of_list(const A* windows, u32 window, const u32* ids, u32 len,
                                                u32 stride) {
    A sum = 0;
#pragma unroll 1
    for (u32 first = 0; first < len; first += STAGED_TOGETHER) {
        u32 words[STAGED_TOGETHER];
#pragma unroll
        for (u32 j = 0; j < STAGED_TOGETHER; j++) {
            words[j] = *ids;
            ids += stride;
        }
#pragma unroll
        for (u32 j = 0; j < STAGED_TOGETHER; j++) {
            sum += windows[window + (words[j] & 0xffffu)];
            sum += windows[window + (words[j] >> 16)];
        }
    }
    return sum;
}

// -----------------------------------------------------------------------------------------------------------
// Forming M.

// The shift of a degree, as `Conv::dense_shift`, and the degree itself, shifted.
template <typename A>
__device__ __forceinline__ A shifted_degree(const DenseConventions& conventions, A degree, int& shift) {
    // A negative degree has no square root; that of a product of two would be one.
    bool is_number = is_finite(degree) && !(is_symmetric(conventions) && degree < A(0));
    shift = 0;
    if (conventions.shifted != 0) {
        shift = NO_SHIFT;
        if (is_number && degree != A(0)) {
            int n = exponent(degree);
            n = n < conventions.least_exponent ? conventions.least_exponent : n;
            shift = -(is_symmetric(conventions) ? n >> 1 : n);
        }
    }
    A shifted = times_power_of_two(degree, static_cast<int>(conventions.shifts_of_degree) * shift);
    return is_number ? shifted : not_a_number<A>();
}

// The degrees of the vertices of all items: a group of `args.row_lanes` lanes takes one.
template <typename A, bool Checked>
__device__ __forceinline__ void find_degrees(const DenseFormArgs& args, u32 kernel, const Forming<A>& forming,
                                             bool staged) {
    const TablesArgs& tables = args.items.by_vertex;
    const DenseConventions& conventions = args.conventions;
    u32 row = forming.row;
    u32 lanes = args.row_lanes;
    u32 lane = threadIdx.x % lanes;
    // A class is a multiple of the groups of a warp: all its lanes leave the loop together.
#pragma unroll 1
    for (u32 i = threadIdx.x / lanes; i < forming.n_items * row; i += THREADS / lanes) {
        const DenseItem& item = forming.items[i / row];
        u32 v = i % row;
        Check<Checked> check;
        u32 length = 0;
        u64 first = 0;
        u64 n_sources = 0;
        const unsigned short* ids = nullptr;
        u32 n_ids = 0;
        if (staged && v < item.n_vertices) {
            const DenseTopologyWords& t = args.items.dense.topologies[item.topology];
            StagedWords words = staged_words(args, t);
            n_ids = static_cast<u32>(t.staged_ids);
            ids = reinterpret_cast<const unsigned short*>(words.of_vertices) + v * n_ids;
            length = words.lengths[v];
        } else if (v < item.n_vertices) {
            const TopologyWords& t = tables.topologies[item.topology];
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
        if (conventions.in_degree != 0) {
            const A* weights = static_cast<const A*>(args.weights.values) + item.window;
            A sum = 0;
            if (staged) {
                sum = staged_sum_of_vertex(forming.windows, i / row * args.window_room, ids, n_ids, lane,
                                           lanes);
            } else {
#pragma unroll 1
                for (u32 k = lane; k < length; k += lanes) {
                    u32 source = tables.indices[first + k];
                    if (check.below(INDICES, first + k, source, n_sources)) {
                        sum += weights[source];
                    }
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
        if (v < item.n_vertices && lane == 0) {
            A shifted = shifted_degree(conventions, degree, forming.shifts[i]);
            forming.degrees[i] = shifted;
            if (forming.is_stored) {
                bool is_left_out = conventions.leaves_out_single != 0 && length == 1 && is_finite(degree);
                forming.entries[item.entries + row * row + row + v] = is_left_out ? A(0) : shifted;
                forming.words[item.words + row + v] = static_cast<u32>(forming.shifts[i]);
            }
            if (conventions.in_degree != 0 && degree < A(0)) {
                Row of_degree = {};
                of_degree.instance = reported(args, forming.of_topologies, item);
                of_degree.row = v;
                publish_if_negative(args.items.record, conventions, kernel, tables.orientation, of_degree,
                                    degree);
            }
        }
        publish(args, kernel, forming.of_topologies, item, check);
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
__device__ __forceinline__ Messages<A> sum_of_list(const DenseFormArgs& args, Check<Checked>& check,
                                                   const A* weights, const TopologyWords& t, u64 start,
                                                   u64 end, const PairShifts& shifts) {
    const u32* lists = args.items.dense.lists;
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
        if (args.conventions.in_message != 0) {
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

// U and the power of two that brings D to about 1 go together. Without U the power is left to the rows.
__device__ __forceinline__ PairShifts shifts_of_pair(const DenseConventions& conventions, const int* shifts,
                                                     u32 u, u32 v) {
    PairShifts of_pair = {0, 0};
    if (conventions.in_message != 0 && conventions.normalized != 0) {
        of_pair = {shifts[u], shifts[v]};
        if (is_symmetric(conventions)) {
            of_pair.of_u = add_shifts(of_pair.of_u, of_pair.of_v);
            of_pair.of_v = of_pair.of_u;
        }
    }
    return of_pair;
}

// M_uv and M_vu, from P_uv: `message` of 0 and of 1.
template <typename A, typename Message>
__device__ __forceinline__ void store_entries(const DenseConventions& conventions, const Forming<A>& forming,
                                              u32 k, u32 u, u32 v, const Message& message, bool failed) {
    const DenseItem& item = forming.items[k];
    const A* degrees = forming.degrees + k * forming.row;
    // M_uv first, then M_vu.
    u32 row = u;
    u32 column = v;
#pragma unroll 1
    for (u32 side = 0; side < 2; side++) {
        A entry = message(side);
        if (conventions.normalized != 0) {
            A divisor = degrees[row];
            if (is_symmetric(conventions)) {
                divisor = square_root(divisor * degrees[column]);
                if (conventions.in_message == 0) {
                    entry = times_power_of_two(entry, forming.shifts[k * forming.row + column]);
                }
            }
            entry = entry / divisor;
        }
        forming.entries[item.entries + row * forming.row + column] = failed ? not_a_number<A>() : entry;
        row = v;
        column = u;
    }
}

// The entries of all pairs that share a hyperedge. A thread takes a pair.
template <typename A, bool Checked>
__device__ __forceinline__ void find_entries(const DenseFormArgs& args, u32 kernel,
                                             const Forming<A>& forming) {
    const DenseConventions& conventions = args.conventions;
    u32 most = forming.row * (forming.row + 1) / 2;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < forming.n_items * most; i += THREADS) {
        u32 k = i / most;
        const DenseItem& item = forming.items[k];
        u32 number = i % most;
        u32 n = item.n_vertices;
        if (n == 0) {
            continue;
        }
        const DenseTopologyWords& t = args.items.dense.topologies[item.topology];
        if (number >= t.n_pairs) {
            continue;
        }
        Check<Checked> check;
        const u32* pairs = args.items.dense.pairs;
        u64 at = t.pairs + 2 * number;
        u32 vertices = pairs[at];
        u32 start = pairs[at + 1];
        u32 end = pairs[at + 3];
        u32 u = vertices & 0xffffu;
        u32 v = vertices >> 16;
        if (check.below(PAIRS, at, u, n) && check.below(PAIRS, at, v, n)) {
            Messages<A> messages = {not_a_number<A>(), not_a_number<A>()};
            if (u == v && t.uniform_size != 0 && conventions.in_degree != 0 && conventions.in_message != 0) {
                A message =
                    forming.degrees[k * forming.row + u] / static_cast<A>(static_cast<u32>(t.uniform_size));
                messages = {message, message};
            } else if (check.below(PAIRS, at + 3, end, t.n_listed + 1) &&
                       check.below(PAIRS, at + 1, start, u64(end) + 1)) {
                PairShifts of_pair = shifts_of_pair(conventions, forming.shifts + k * forming.row, u, v);
                const A* weights = static_cast<const A*>(args.weights.values) + item.window;
                messages = sum_of_list(args, check, weights, args.items.by_vertex.topologies[item.topology],
                                       t.lists + start, t.lists + end, of_pair);
            }
            store_entries(
                conventions, forming, k, u, v,
                [&](u32 side) { return side == 0 ? messages.of_u : messages.of_v; }, check.failed);
        }
        publish(args, kernel, forming.of_topologies, item, check);
    }
}

// The same from windows in shared memory: pairs of two vertices, and then each vertex with itself.
template <typename A>
__device__ __forceinline__ void find_staged_entries(const DenseFormArgs& args, const Forming<A>& forming) {
    const DenseConventions& conventions = args.conventions;
    Share share = share_of_thread(forming.n_items);
    u32 n = share.item < forming.n_items ? forming.items[share.item].n_vertices : 0;
    if (n == 0) {
        return;
    }
    const DenseTopologyWords& t = args.items.dense.topologies[forming.items[share.item].topology];
    StagedWords words = staged_words(args, t);
    u32 n_pairs = static_cast<u32>(t.n_staged);
    A size = static_cast<A>(static_cast<u32>(t.uniform_size));
#pragma unroll 1
    for (u32 i = share.lane; i < n_pairs + n; i += share.lanes) {
        const u32* ids = words.of_pairs + i;
        u32 len = static_cast<u32>(t.staged_words);
        u32 stride = n_pairs;
        u32 u = 0;
        u32 v = 0;
        u32 count = 0;
        if (i < n_pairs) {
            u32 pair = words.pairs[i];
            u = pair & 0xffu;
            v = pair >> 8 & 0xffu;
            count = pair >> 16;
        } else {
            u = i - n_pairs;
            v = u;
            count = words.lengths[u];
            len = static_cast<u32>(t.staged_ids) / 2;
            ids = words.of_vertices + u * len;
            stride = 1;
        }
        // A vertex without hyperedges is a term of no row.
        if (count == 0) {
            continue;
        }
        A sum = static_cast<A>(count);
        PairShifts of_pair = {0, 0};
        if (u == v && conventions.in_degree != 0 && conventions.in_message != 0) {
            sum = forming.degrees[share.item * forming.row + u];
        } else if (conventions.in_message != 0) {
            sum = staged_sum_of_list(forming.windows, share.item * args.window_room, ids, len, stride);
            of_pair = shifts_of_pair(conventions, forming.shifts + share.item * forming.row, u, v);
        }
        store_entries(
            conventions, forming, share.item, u, v,
            [&](u32 side) {
                // As sum_of_list, which adds it to a zero: no entry is -0.
                return A(0) + times_power_of_two(sum, side == 0 ? of_pair.of_u : of_pair.of_v) / size;
            },
            false);
    }
}

// Which M_uv are terms, and what sums are multiplied by.
template <typename A, bool Checked>
__device__ __forceinline__ void find_terms(const DenseFormArgs& args, u32 kernel, const Forming<A>& forming) {
    const DenseConventions& conventions = args.conventions;
    u32 row = forming.row;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < forming.n_items * row; i += THREADS) {
        const DenseItem& item = forming.items[i / row];
        const A* degrees = forming.degrees + i / row * row;
        u32 u = i % row;
        u32 n = item.n_vertices;
        if (u >= n) {
            continue;
        }
        Check<Checked> check;
        u64 position = args.items.dense.topologies[item.topology].neighbors + u;
        // A word has 32 vertices.
#pragma unroll 1
        for (u32 first = 0; first == 0 || (row > WARP && first < n); first += WARP) {
            u32 left = row > WARP && n - first > WARP ? u32(WARP) : n - first;
            u32 terms = args.items.dense.neighbors[position];
            if (!check.below(NEIGHBORS, position, terms, u64(1) << left)) {
                terms = u - first < WARP ? 1u << u % WARP : 0;
                forming.entries[item.entries + u * row + u] = not_a_number<A>();
            }
            if (conventions.normalized != 0) {
                if (degrees[u] == A(0)) {
                    terms = 0;
                }
#pragma unroll 1
                for (u32 v = 0; is_symmetric(conventions) && v < left; v++) {
                    terms &= degrees[first + v] == A(0) ? ~(1u << v) : ALL_LANES;
                }
            }
            forming.words[item.words + first / WARP * (2 * row) + u] = terms;
            position += n;
        }
        bool has_power = conventions.shifted != 0 && conventions.in_message == 0;
        forming.entries[item.entries + row * row + u] =
            has_power ? times_power_of_two(A(1), forming.shifts[i]) : A(1);
        publish(args, kernel, forming.of_topologies, item, check);
    }
}

// Of which rows M_uv is a term, for each column.
template <typename A>
__device__ __forceinline__ void transpose_terms(const Forming<A>& forming) {
    u32 row = forming.row;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < forming.n_items * row; i += THREADS) {
        const DenseItem& item = forming.items[i / row];
        u32 v = i % row;
        if (v >= item.n_vertices) {
            continue;
        }
        u32 terms = 0;
#pragma unroll 1
        for (u32 u = 0; u < item.n_vertices; u++) {
            terms |= (forming.words[item.words + u] >> v & 1) << u;
        }
        forming.words[item.words + 2 * row + v] = terms;
    }
}

// What an operator has where no hyperedge is.
template <typename A, bool Checked>
__device__ __forceinline__ void clear_operators(const Forming<A>& forming) {
    u32 row = forming.row;
    u32 size = row * row + (forming.is_stored ? 2 * row : row);
    // What a wrong value keeps from being stored stays NaN. Without wrong values all terms are stored. Of
    // what is stored in scratch memory nobody reads rows and columns of vertices that are not there.
#pragma unroll 1
    for (u32 i = threadIdx.x; i < forming.n_items * size; i += THREADS) {
        const DenseItem& item = forming.items[i / size];
        u32 at = i % size;
        u32 n = item.n_vertices;
        bool missing = Checked && n == 0;
        bool is_read = missing || !forming.is_stored || (at % row < n && (at >= row * row || at / row < n));
        if (item.is_placed == 0 || !is_read) {
            continue;
        }
        forming.entries[item.entries + at] = Checked ? not_a_number<A>() : A(0);
        if (at < row) {
            forming.words[item.words + at] = missing ? 1u << at % WARP : 0;
        }
        if (at < row && forming.is_stored) {
            forming.words[item.words + row + at] = 0;
            forming.words[item.words + 2 * row + at] = missing ? 1u << at % WARP : 0;
        }
    }
}

// Forms the operators of all items, which have been found and cleared and, where `staged`, have their windows
// in shared memory. All threads of the block take part; barriers must precede and follow.
template <typename A, bool Checked>
__device__ __forceinline__ void form_operators(const DenseFormArgs& args, u32 kernel,
                                               const Forming<A>& forming, bool staged) {
    if (args.conventions.normalized != 0) {
        find_degrees<A, Checked>(args, kernel, forming, !Checked && staged);
    }
    __syncthreads();
    if (!Checked && staged) {
        find_staged_entries(args, forming);
    } else {
        find_entries<A, Checked>(args, kernel, forming);
    }
    if (Checked) {
        __syncthreads();  // where its terms are wrong, an entry becomes NaN
    }
    find_terms<A, Checked>(args, kernel, forming);
    if (forming.is_stored && forming.row <= WARP) {
        __syncthreads();
        transpose_terms(forming);
    }
}
