// The gradients of weights, from products of rows Gamma_uv = <g_u, x_v>:
//
//     dloss/dw_e = 1/B_e (sum over u, v in e of Gamma_uv / D_u) - sum over u in e of c_u
//     c_u = (sum over v of M_uv Gamma_uv) / D_u                                               row
//
//     the same with sqrt(D_u D_v) instead of the first D_u, and
//     c_u = (sum over v of M_uv Gamma_uv + M_vu Gamma_vu) / (2 D_u)                           symmetric
//
// with w in the message for the first term, and in the degree for the second. All of it is double. What a
// vertex of degree 0 would add is left out, and so is a vertex of a single incidence where its two terms
// cancel out.
//
// Where all instances share a window, Gamma is first added over chunks of them, in a binary tree in which
// neighbors are added first; one without a neighbor stays as it is. So the order depends on their number
// alone, and launches may cut the tree where they like: some store the roots of parts of it.
//
// With the shifts s of degrees and t of the hyperedge, as `Conv::edge_shift` of double, terms are multiplied
// by 2^(t + s_u), and the sum by 2^-t, once or twice: see src/cpu/dense, which has the same bits. The
// gradient of each instance alone is overwritten in scratch memory, or overwritten or added to where it
// belongs. Launched by src/cuda/conv/dense/backward.rs.
//
// Modules: sums.

#include "degree.cuh"
#include "dense.cuh"
#include "modules.cuh"
#include "tree.cuh"

template <typename A>
__device__ __forceinline__ double node_at(const void* nodes, bool wide, u64 at) {
    return wide ? static_cast<const double*>(nodes)[at]
                : static_cast<double>(static_cast<const A*>(nodes)[at]);
}

// What a block has in shared memory of its items, one behind the other.
struct Gradients {
    DenseItem* items;
    u64* first_hyperedges;
    double* products;  // Gamma_uv, divided by what its degrees say
    double* parts;  // M_uv Gamma_uv; of 64 vertices in the same memory, before
    double* degrees;  // 0 of vertices that are left out
    double* of_degrees;  // c_u
    u32* words;  // terms, and of 64 vertices also those from 32 on, behind the shifts
    int* shifts;
};

// Finds an item, and where its hyperedges are. A single thread does this.
template <bool Checked>
__device__ __forceinline__ void find_hyperedges(const DenseGradientArgs& args, u64 place, DenseItem& item,
                                                u64& first_hyperedge) {
    const TablesArgs& tables = args.by_edge;
    Check<Checked> of_item;
    bool found = find_item(args.items, of_item, place, false, item);
    of_item.publish(args.items.record, DENSE_GRADIENT, args.items.by_vertex.orientation, item.number);
    Check<Checked> check;
    if (found) {
        const TopologyWords& t = tables.topologies[item.topology];
        const TopologyWords& of_vertices = args.items.by_vertex.topologies[item.topology];
        u64 n = of_vertices.n_targets;
        u64 m = of_vertices.n_sources;
        u64 at = item.topology * TOPOLOGY_WORDS;
        // As many as the other side says.
        auto equal = [&](u32 word, u64 value, u64 expected) {
            return check.below(TOPOLOGIES, at + word, value, expected + 1) &&
                   (value == expected || check.below(TOPOLOGIES, at + word, value, 0));
        };
        if (fits(tables, check, item.topology, t) && equal(TOPOLOGY_N_SOURCES, t.n_sources, n) &&
            equal(TOPOLOGY_N_TARGETS, t.n_targets, m) &&
            start_of(check, TARGET_STARTS, tables.target_starts, item.number, t.n_targets, tables.n_targets,
                     first_hyperedge)) {
            item.n_vertices = static_cast<u32>(n);
            item.n_hyperedges = t.n_targets;
        }
    }
    check.publish(args.items.record, DENSE_GRADIENT, tables.orientation, item.number);
}

// What is known of the vertices of all items.
template <typename A>
__device__ __forceinline__ void load_vertices(const DenseGradientArgs& args, const Gradients& of) {
    u32 row = args.items.operators.row;
    const A* entries = static_cast<const A*>(args.items.operators.entries);
    const u32* words = args.items.operators.words;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < args.items.per_block * row; i += THREADS) {
        const DenseItem& item = of.items[i / row];
        if (i % row < item.n_vertices) {
            of.degrees[i] = entries[item.entries + row * row + row + i % row];
            of.words[i] = words[item.words + i % row];
            of.shifts[i] = static_cast<int>(words[item.words + row + i % row]);
            if (row > WARP) {
                of.words[2 * row + i] = words[item.words + 2 * row + i];
            }
        }
    }
}

// Gamma of all items, for make_products; or roots of the tree, which are stored: the block's part of them.
// Where the launch has copies of one topology, nothing needs to be known of the items.
template <typename A>
__device__ __forceinline__ void add_nodes(const DenseGradientArgs& args, u64 block, u32 part,
                                          const Gradients& of) {
    u32 row = args.items.operators.row;
    u32 size = row * row;
    // Gradients of any part need all products.
    bool stores_roots = args.roots != nullptr;
    u32 first_entry = stores_roots ? part * THREADS : 0;
    u32 entries_apart = stores_roots ? static_cast<u32>(args.parts) * THREADS : u32(THREADS);
#pragma unroll 1
    for (u32 i = first_entry + threadIdx.x; i < args.items.per_block * size; i += entries_apart) {
        u32 k = i / size;
        u32 at = i % size;
        u64 place = block * args.items.per_block + k;
        u64 first = place * args.nodes_of_item;
        if (first >= args.n_nodes) {
            break;
        }
        u32 n = args.items.n_vertices != 0 ? args.items.n_vertices : of.items[k].n_vertices;
        if (at % row >= n || at / row >= n) {
            continue;
        }
        u64 rest = args.n_nodes - first;
        u32 count = rest < args.nodes_of_item ? static_cast<u32>(rest) : args.nodes_of_item;
        auto node = [&](u32 number) {
            return node_at<A>(args.nodes, args.wide != 0, (first + number) * size + at);
        };
        double product = count == 1 ? node(0) : sum_of_tree(count, node);
        *(stores_roots ? args.roots + (place * size + at) : of.products + i) = product;
    }
}

// What is made of Gamma: its products with M, if these are wanted, or if they do not have the same memory,
// and its quotients. A thread has the entries that it had in add_nodes.
template <typename A>
__device__ __forceinline__ void make_products(const DenseGradientArgs& args, const Gradients& of,
                                              bool wants_parts) {
    u32 row = args.items.operators.row;
    u32 size = row * row;
    const A* entries = static_cast<const A*>(args.items.operators.entries);
#pragma unroll 1
    for (u32 i = threadIdx.x; i < args.items.per_block * size; i += THREADS) {
        u32 k = i / size;
        u32 at = i % size;
        u32 n = of.items[k].n_vertices;
        if (at % row >= n || at / row >= n) {
            continue;
        }
        double product = of.products[i];
        if (wants_parts) {
            of.parts[i] = static_cast<double>(entries[of.items[k].entries + at]) * product;
            if (of.parts == of.products) {
                continue;
            }
        }
        if (args.conventions.normalized != 0) {
            double divisor = of.degrees[k * row + at / row];
            if (is_symmetric(args.conventions)) {
                divisor = square_root(divisor * of.degrees[k * row + at % row]);
            }
            product = product / divisor;
        }
        of.products[i] = product;
    }
}

// c_u of all vertices that have degrees.
__device__ __forceinline__ void find_degree_terms(const DenseGradientArgs& args, const Gradients& of) {
    u32 row = args.items.operators.row;
    bool symmetric = is_symmetric(args.conventions);
#pragma unroll 1
    for (u32 i = threadIdx.x; i < args.items.per_block * row; i += THREADS) {
        u32 k = i / row;
        u32 u = i % row;
        u32 n = of.items[k].n_vertices;
        if (u >= n) {
            continue;
        }
        const double* parts = of.parts + k * row * row;
        const u32* words = of.words + k * row;
        double sum = 0;
        double transposed = 0;
#pragma unroll 1
        for (u32 v = 0; v < n; v++) {
            if (is_term(words, row, u, v)) {
                sum += parts[u * row + v];
            }
            if (symmetric && is_term(words, row, v, u)) {
                transposed += parts[v * row + u];
            }
        }
        double degree = of.degrees[i];
        of.of_degrees[i] = symmetric ? (sum + transposed) / (2 * degree) : sum / degree;
    }
}

// The gradient of a hyperedge's weight in item `k`: of incidences `start` ... `end` of its topology.
template <bool Checked>
__device__ __forceinline__ double gradient_of(const DenseGradientArgs& args, Check<Checked>& check,
                                              const Gradients& of, u32 k, u64 first, u32 length) {
    const DenseConventions& conventions = args.conventions;
    const u32* indices = args.by_edge.indices + first;
    u32 row = args.items.operators.row;
    u32 n = of.items[k].n_vertices;
    bool symmetric = is_symmetric(conventions);
    bool normalized = conventions.normalized != 0;
    bool is_shifted = conventions.shifted != 0;
    const double* products = of.products + k * row * row;
    const double* degrees = of.degrees + k * row;
    const double* of_degrees = of.of_degrees + k * row;
    const int* shifts = of.shifts + k * row;
    int largest = NO_SHIFT;
    int smallest = NO_SHIFT;
#pragma unroll 1
    for (u32 i = 0; i < length; i++) {
        u32 v = indices[i];
        if (!check.below(INDICES, first + i, v, n)) {
            return not_a_number<double>();
        }
        // Vertices that are left out have no say.
        if (is_shifted && degrees[v] != 0 && shifts[v] != NO_SHIFT) {
            smallest = largest == NO_SHIFT || shifts[v] < smallest ? shifts[v] : smallest;
            largest = shifts[v] > largest ? shifts[v] : largest;
        }
    }
    int of_edge = edge_shift<double>(conventions, largest, smallest);
    double total = 0;
#pragma unroll 1
    for (u32 i = 0; i < length; i++) {
        u32 u = indices[i];
        if (normalized && degrees[u] == 0) {
            continue;
        }
        int shift = add_shifts(shifts[u], of_edge);
        double inner = 0;
        if (conventions.in_message != 0) {
            double sum = 0;
#pragma unroll 1
            for (u32 j = 0; j < length; j++) {
                u32 v = indices[j];
                if (symmetric && normalized && degrees[v] == 0) {
                    continue;
                }
                double term = products[u * row + v];
                if (is_shifted && symmetric) {
                    term = shifted(term, add_shifts(shifts[v], of_edge));
                }
                sum += term;
            }
            inner = sum / static_cast<double>(length);
        }
        if (is_shifted) {
            double of_degree = of_degrees[u];
            inner -= symmetric ? shifted(of_degree, shift) : of_degree;
            inner = shifted(inner, shift);
        }
        total += inner;
    }
    if (is_shifted) {
        int shifts_of_degree = static_cast<int>(conventions.shifts_of_degree);
        total = shifted(total, times_shift(-shifts_of_degree, of_edge));
    }
    return total;
}

// The same of up to `FEW` incidences, without the symmetric normalization and without checks, which is what
// most batches of small hypergraphs have: what is known of them is loaded together, and no loop goes through
// it.
enum : u32 { FEW = 4 };
__device__ __forceinline__ double gradient_of_few(const DenseGradientArgs& args, const Gradients& of, u32 k,
                                                  u64 first, u32 length) {
    const DenseConventions& conventions = args.conventions;
    const u32* indices = args.by_edge.indices + first;
    u32 row = args.items.operators.row;
    bool is_shifted = conventions.shifted != 0;
    const double* products = of.products + k * row * row;
    u32 vertices[FEW];
    bool has_terms[FEW];
    int shifts[FEW];
    int largest = NO_SHIFT;
    int smallest = NO_SHIFT;
#pragma unroll
    for (u32 i = 0; i < FEW; i++) {
        vertices[i] = 0;
        shifts[i] = NO_SHIFT;
        has_terms[i] = false;
        if (i < length) {
            u32 v = indices[i];
            bool has_degree = of.degrees[k * row + v] != 0;
            int shift = of.shifts[k * row + v];
            if (is_shifted && has_degree && shift != NO_SHIFT) {
                smallest = largest == NO_SHIFT || shift < smallest ? shift : smallest;
                largest = shift > largest ? shift : largest;
            }
            vertices[i] = v;
            shifts[i] = shift;
            has_terms[i] = conventions.normalized == 0 || has_degree;
        }
    }
    int of_edge = edge_shift<double>(conventions, largest, smallest);
    double total = 0;
#pragma unroll
    for (u32 i = 0; i < FEW; i++) {
        if (!has_terms[i]) {
            continue;
        }
        double inner = 0;
        if (conventions.in_message != 0) {
            const double* of_vertex = products + vertices[i] * row;
            double sum = 0;
#pragma unroll
            for (u32 j = 0; j < FEW; j++) {
                if (j < length) {
                    sum += of_vertex[vertices[j]];
                }
            }
            inner = sum / static_cast<double>(length);
        }
        if (is_shifted) {
            inner = shifted(inner - of.of_degrees[k * row + vertices[i]], add_shifts(shifts[i], of_edge));
        }
        total += inner;
    }
    if (is_shifted) {
        int shifts_of_degree = static_cast<int>(conventions.shifts_of_degree);
        total = shifted(total, times_shift(-shifts_of_degree, of_edge));
    }
    return total;
}

// The gradients of all hyperedges of a block's items, or of its part of them.
template <typename A, bool Checked>
__device__ __forceinline__ void store_gradients(const DenseGradientArgs& args, u64 part,
                                                const Gradients& of) {
    const TablesArgs& tables = args.by_edge;
    u64 largest = tables.largest_targets;
    // Alone an instance adds to nothing: that makes +0 of -0, as where gradients are summed over instances.
    bool is_alone = args.items.operators.of_items != 0;
#pragma unroll 1
    for (u64 i = part * THREADS + threadIdx.x; i < args.items.per_block * largest;
         i += args.parts * THREADS) {
        u32 k = static_cast<u32>(divide(i, largest));
        u64 e = i - k * largest;
        const DenseItem& item = of.items[k];
        if (e >= item.n_hyperedges) {
            continue;
        }
        Check<Checked> check;
        const TopologyWords& t = tables.topologies[item.topology];
        u32 start = 0;
        u32 end = 0;
        double value = not_a_number<double>();
        // No longer than a topology with a dense operator may have, see src/pairs.rs: its pairs take time.
        u64 most = 64 * t.n_indices;
        if (find_incidences(tables, check, t, t.pointers + e, start, end) &&
            check.below(POINTERS, t.pointers + e + 1, u64(end - start) * (end - start), most + 1)) {
            u64 first = t.indices + start;
            u32 length = end - start;
            value = !Checked && length <= FEW && !is_symmetric(args.conventions)
                        ? gradient_of_few(args, of, k, first, length)
                        : gradient_of(args, check, of, k, first, length);
        }
        u64 at = of.first_hyperedges[k] + e;
        if (args.values != nullptr) {
#pragma unroll 1
            for (u32 b = 0; b < args.blocks; b++) {
                args.values[at * args.blocks + b] = b == 0 ? value : 0;
            }
        } else if (at < args.gradient_len) {
            A* to = static_cast<A*>(args.gradient) + at;
            A gradient = static_cast<A>(value);
            *to = (args.add != 0 ? *to : A(0)) + (is_alone ? A(0) + gradient : gradient);
        }
        check.publish(args.items.record, DENSE_GRADIENT, tables.orientation, item.number);
    }
}

template <typename A, bool Checked>
__device__ __forceinline__ void dense_gradient(const DenseGradientArgs& args) {
    u32 n_items = args.items.per_block;
    u32 row = args.items.operators.row;
    Gradients of;
    of.items = reinterpret_cast<DenseItem*>(shared_memory);
    of.first_hyperedges = reinterpret_cast<u64*>(of.items + n_items);
    of.products = reinterpret_cast<double*>(of.first_hyperedges + n_items);
    bool apart = row <= WARP;
    of.parts = apart ? of.products + n_items * row * row : of.products;
    of.degrees = of.parts + n_items * row * row;
    of.of_degrees = of.degrees + n_items * row;
    of.words = reinterpret_cast<u32*>(of.of_degrees + n_items * row);
    of.shifts = reinterpret_cast<int*>(of.words + n_items * row);
    for (u64 of_launch = blockIdx.x; of_launch < args.items.blocks * args.parts; of_launch += gridDim.x) {
        u64 block = divide(of_launch, args.parts);
        u64 part = of_launch - block * args.parts;
        bool has_gradients = args.roots == nullptr;
        // By the last threads: the first ones have nodes to add meanwhile, if there are few.
        u32 item = THREADS - 1 - threadIdx.x;
        if (has_gradients && item < n_items) {
            find_hyperedges<Checked>(args, block * n_items + item, of.items[item], of.first_hyperedges[item]);
        }
        if (has_gradients && args.items.n_vertices == 0) {
            __syncthreads();
        }
#pragma unroll 1
        for (u32 round = 0; round < (apart ? 1 : 2); round++) {
            add_nodes<A>(args, block, static_cast<u32>(part), of);
            if (!has_gradients) {
                break;
            }
            if (round == 0) {
                __syncthreads();
                load_vertices<A>(args, of);
            }
            __syncthreads();
            make_products<A>(args, of, round == 0);
            __syncthreads();
            if (args.conventions.shifted != 0 && round == 0) {
                find_degree_terms(args, of);
            }
            __syncthreads();
        }
        if (!has_gradients) {
            continue;
        }
        store_gradients<A, Checked>(args, part, of);
        __syncthreads();  // the next items have the same memory
    }
}

#define KERNELS(A, NAME, CHECKS) \
    extern "C" __global__ void __launch_bounds__(THREADS, 8 - CHECKS) \
        dense_gradient_##NAME(const DenseGradientArgs args) { \
        dense_gradient<A, CHECKS>(args); \
    }

MODULES_OF_SUMS(KERNELS)
