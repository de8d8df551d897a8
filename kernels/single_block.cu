// The convolution of small hypergraphs, forward: a block computes a whole instance, and z stays in its shared
// memory.
//
//     y = L H U B^-1 H^T R x        as src/cuda/conv.rs has it
//
// In three phases, with a barrier behind each: L and the shift of each vertex, rows of z, rows of y. Each
// number is made as degree.cu and gather.cu make it, by the same device functions and in the same order,
// so it has the same bits. Rows of y are overwritten or added to; each is stored once, by one group of
// lanes. No other memory is written.
//
// An instance is here only if no row has more than SEGMENT incidences, and its z, L and shifts fit into
// shared memory; see src/path.rs. Launched by src/cuda/conv/single_block.rs. There is no file on the CPU
// beside it: the bits are the same.
//
// Modules: bf16, f16, f32, f64.

#include "degree.cuh"
#include "modules.cuh"
#include "rows.cuh"
#include "sums.cuh"

enum : u32 {
    // The source rows that a lane loads before it adds the first. More would hide more of the latency, for
    // half as much PTX again.
    ROWS_TOGETHER = 1,
};

extern __shared__ __align__(16) u8 shared_memory[];

// What the block knows about its instance.
template <typename A>
struct Instance {
    u64 number;
    TopologyWords by_edge;
    TopologyWords by_vertex;
    // In shared memory: rows of sums without gaps, and for each vertex L and its shift.
    A* z;
    A* inv_degree;
    int* shifts;
};

// The two orientations have the same numbers of rows, and these fit into shared memory.
template <typename A, bool Checked>
__device__ __forceinline__ bool fits_block(const SingleBlockArgs& args, Check<Checked>& by_edge,
                                           Check<Checked>& by_vertex, const Instance<A>& instance, u64 id) {
    if (!Checked) {
        return true;
    }
    u64 targets = id * TOPOLOGY_WORDS + TOPOLOGY_N_TARGETS;
    u64 sources = id * TOPOLOGY_WORDS + TOPOLOGY_N_SOURCES;
    u64 vertices = instance.by_vertex.n_targets;
    u64 hyperedges = instance.by_edge.n_targets;
    u64 of_vertex = sizeof(A) + sizeof(int);
    u64 of_hyperedge = args.features * sizeof(A);
    if (!(by_edge.below(TOPOLOGIES, sources, instance.by_edge.n_sources, vertices + 1) &&
          by_vertex.below(TOPOLOGIES, targets, vertices, instance.by_edge.n_sources + 1) &&
          by_vertex.below(TOPOLOGIES, sources, instance.by_vertex.n_sources, hyperedges + 1) &&
          by_edge.below(TOPOLOGIES, targets, hyperedges, instance.by_vertex.n_sources + 1) &&
          by_vertex.below(TOPOLOGIES, targets, vertices, args.shared_bytes / of_vertex + 1))) {
        return false;
    }
    u64 left = args.shared_bytes - vertices * of_vertex;
    return of_hyperedge == 0 || by_edge.below(TOPOLOGIES, targets, hyperedges, left / of_hyperedge + 1);
}

// Instance number `item` of those of the launch. All threads of a block find the same.
template <typename A, bool Checked>
__device__ __forceinline__ bool find_instance(const SingleBlockArgs& args, u64 item, Instance<A>& instance) {
    Check<Checked> by_edge, by_vertex;
    u64 id = 0;
    instance.number = args.instances != nullptr ? args.instances[item] : item;
    bool found = by_vertex.below(PATH_INSTANCES, item, instance.number, args.by_vertex.instances) &&
                 find_topology_id(args.by_vertex, by_vertex, instance.number, id);
    if (found) {
        instance.by_vertex = args.by_vertex.topologies[id];
        instance.by_edge = args.by_edge.topologies[id];
        found = fits(args.by_vertex, by_vertex, id, instance.by_vertex) &&
                fits(args.by_edge, by_edge, id, instance.by_edge) &&
                fits_block(args, by_edge, by_vertex, instance, id);
    }
    by_vertex.publish(args.record, SINGLE_BLOCK, args.by_vertex.orientation, instance.number);
    by_edge.publish(args.record, SINGLE_BLOCK, args.by_edge.orientation, instance.number);
    if (!found) {
        return false;
    }
    instance.z = reinterpret_cast<A*>(shared_memory);
    instance.inv_degree = instance.z + instance.by_edge.n_targets * args.features;
    instance.shifts = reinterpret_cast<int*>(instance.inv_degree + instance.by_vertex.n_targets);
    return true;
}

// Row `number` of one orientation of an instance.
template <bool Checked>
__device__ __forceinline__ Row row_of(const TablesArgs& tables, Check<Checked>& check, const TopologyWords& t,
                                      u64 instance, u32 number) {
    Row row = {};
    row.instance = instance;
    row.row = number;
    u32 start = 0;
    u32 end = 0;
    if (find_place(tables, check, t, row, start, end)) {
        take_all(check, t, SEGMENT, start, end, row);
    }
    return row;
}

// L and the shifts. A warp takes a vertex at a time.
template <typename A, bool Checked>
__device__ __forceinline__ void find_degrees(const SingleBlockArgs& args, const Instance<A>& instance) {
    bool weighted = args.degree_weights.windows != NO_SCALE;
    for (u32 v = threadIdx.x / WARP; v < instance.by_vertex.n_targets; v += THREADS / WARP) {
        Inverse<A> inverse = {1, 0};
        if (args.normalized != 0) {
            Check<Checked> check;
            Row row = row_of(args.by_vertex, check, instance.by_vertex, instance.number, v);
            const A* weights = static_cast<const A*>(args.degree_weights.values);
            A degree = sum_of_row<Plus>(args.by_vertex, check, args.degree_weights, row, WARP, A(0),
                                        [&](u64 at) { return weights[at]; });
            if (!weighted) {
                degree = static_cast<A>(row.length);
            }
            if (Checked && __any_sync(ALL_LANES, check.failed)) {
                degree = not_a_number<A>();
            }
            inverse = inverse_of(args, degree, weighted);
            if (weighted && threadIdx.x % WARP == 0) {
                publish_if_negative(args, SINGLE_BLOCK, args.by_vertex.orientation, row, degree);
            }
            check.publish(args.record, SINGLE_BLOCK, args.by_vertex.orientation, instance.number);
        }
        if (threadIdx.x % WARP == 0) {
            instance.inv_degree[v] = inverse.inv_degree;
            instance.shifts[v] = inverse.shift;
        }
    }
}

// Sums the source rows of a row, those that `source(i)` tells of its incidences i, and passes each lane's
// sums to `store`. All lanes of a group do the same with features of their own, so they need not wait for
// each other.
template <typename T, typename S, typename SourceOf, typename Store>
__device__ __forceinline__ void sum_row(const SingleBlockArgs& args, u32 n_incidences, SourceOf source,
                                        Store store) {
    using A = typename Element<T>::Acc;
    for (u32 block = 0; block < args.feature_blocks; block++) {
        Lane lane = features_of<T>(args.features, args.lanes, block, threadIdx.x % args.lanes);
        SumsOf<T> sums = {};
#pragma unroll 1
        for (u32 i = 0; i < n_incidences; i += ROWS_TOGETHER) {
            add_rows<S, ROWS_TOGETHER>(sums, args.aligned != 0, lane.len, [&](u32 j) -> Source<S, A> {
                Source<S, A> from = source(i + j);
                return {from.row == nullptr ? nullptr : from.row + lane.first, from.factor};
            });
        }
        store(lane, sums);
    }
}

// Stores a lane's sums as elements of type `D`.
template <typename T, typename D, typename A>
__device__ __forceinline__ void store_row(const SingleBlockArgs& args, D* row, bool add, const Lane& lane,
                                          const SumsOf<T>& sums, const Epilogue<A>& epilogue) {
#pragma unroll
    for (u32 v = 0; v < Vector<T>::LEN; v += Vector<D>::LEN) {
        if (lane.len > v) {
            store_sums(row + lane.first + v, args.aligned != 0, add, lane.len - v, &sums.at[v], epilogue);
        }
    }
}

// z = B^-1 H^T R x. A group of lanes takes a hyperedge at a time.
template <typename T, bool Checked, typename A = typename Element<T>::Acc>
__device__ __forceinline__ void gather_hyperedges(const SingleBlockArgs& args, const Instance<A>& instance) {
    bool symmetric = args.normalized != 0 && is_symmetric(args);
    for (u32 e = threadIdx.x / args.lanes; e < instance.by_edge.n_targets; e += THREADS / args.lanes) {
        Check<Checked> check;
        Row row = row_of(args.by_edge, check, instance.by_edge, instance.number, e);
        const T* x =
            static_cast<const T*>(args.x.data) + element(args.x, instance.number, row.first_source, 0);
        auto source = [&](u32 i) -> Source<T, A> {
            u32 v = source_of(args.by_edge, check, row, i);
            if (v == NO_SOURCE) {
                return {nullptr, 1};
            }
            A factor = symmetric ? instance.inv_degree[v] : A(1);
            // A vertex of degree 0 is left out.
            const T* from = factor == A(0) ? nullptr : x + v * args.x.row_stride;
            return {from, symmetric ? shifted(factor, instance.shifts[v]) : factor};
        };
        A mean = inverse_count<A>(row.length);
        sum_row<T, T>(args, row.count, source, [&](const Lane& lane, const SumsOf<T>& sums) {
            Epilogue<A> epilogue = {mean, false, check.failed};
            store_row<T>(args, instance.z + u64(e) * args.features, false, lane, sums, epilogue);
        });
        check.publish(args.record, SINGLE_BLOCK, args.by_edge.orientation, instance.number);
    }
}

// y = L H U z. A group of lanes takes a vertex at a time.
template <typename T, bool Checked, typename A = typename Element<T>::Acc>
__device__ __forceinline__ void gather_vertices(const SingleBlockArgs& args, const Instance<A>& instance) {
    for (u32 v = threadIdx.x / args.lanes; v < instance.by_vertex.n_targets; v += THREADS / args.lanes) {
        Check<Checked> check;
        Row row = row_of(args.by_vertex, check, instance.by_vertex, instance.number, v);
        const ScaleArgs& message = args.message_weights;
        const A* weights = nullptr;
        if (message.windows != NO_SCALE && row.count != 0) {
            u64 start = 0;
            if (window_of(check, SOURCE_WINDOWS, message, instance.number, row.first_source, row.n_sources,
                          start)) {
                weights = static_cast<const A*>(message.values) + start;
            } else {
                row.count = 0;
            }
        }
        int shift = instance.shifts[v];
        auto source = [&](u32 i) -> Source<A, A> {
            u32 e = source_of(args.by_vertex, check, row, i);
            if (e == NO_SOURCE) {
                return {nullptr, 1};
            }
            return {instance.z + u64(e) * args.features,
                    shifted(weights == nullptr ? A(1) : weights[e], shift)};
        };
        A factor = instance.inv_degree[v];
        T* y = static_cast<T*>(args.y.data) + element(args.y, instance.number, row.first_target, v);
        sum_row<T, A>(args, row.count, source, [&](const Lane& lane, const SumsOf<T>& sums) {
            if (row.exists) {
                Epilogue<A> epilogue = {factor, factor == A(0), check.failed};
                store_row<T>(args, y, args.add != 0, lane, sums, epilogue);
            }
        });
        check.publish(args.record, SINGLE_BLOCK, args.by_vertex.orientation, instance.number);
    }
}

template <typename T, bool Checked>
__device__ __forceinline__ void conv_single_block(const SingleBlockArgs& args) {
    for (u64 item = blockIdx.x; item < args.n_instances; item += gridDim.x) {
        Instance<typename Element<T>::Acc> instance;
        if (!find_instance<typename Element<T>::Acc, Checked>(args, item, instance)) {
            continue;  // all threads of the block
        }
        find_degrees<typename Element<T>::Acc, Checked>(args, instance);
        __syncthreads();
        gather_hyperedges<T, Checked>(args, instance);
        __syncthreads();
        gather_vertices<T, Checked>(args, instance);
        __syncthreads();  // the next instance has the same memory
    }
}

// Without a number of blocks the assembler spills in some of these, to make room for more.
#define KERNELS(T, NAME, CHECKS) \
    extern "C" __global__ void __launch_bounds__(THREADS, 4) \
        conv_single_block_##NAME(const SingleBlockArgs args) { \
        conv_single_block<T, CHECKS>(args); \
    }

MODULES_OF_F32(UNCHECKED(KERNELS(float, f32, false)) CHECKED(KERNELS(float, f32_checked, true)))
MODULES_OF_F64(UNCHECKED(KERNELS(double, f64, false)) CHECKED(KERNELS(double, f64_checked, true)))
MODULES_OF_F16(UNCHECKED(KERNELS(F16, f16, false)) CHECKED(KERNELS(F16, f16_checked, true)))
MODULES_OF_BF16(UNCHECKED(KERNELS(Bf16, bf16, false)) CHECKED(KERNELS(Bf16, bf16_checked, true)))
