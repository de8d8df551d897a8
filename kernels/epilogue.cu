// What surrounds the convolution with an epilogue: three walks through the rows of vertices.
//
//     COPY     residual gradient = g, and the t of a readout without an activation
//                                                            g = dloss/dy, or dloss/dreadout / n
//     MEAN     readout = (sum of y_v over the vertices v of an instance) / n, and 0 for n = 0
//     SUM      sums of dloss/du, in double, of which add_sums.cu makes the gradient of the bias
//
// A thread has a slice of features, and walks through the rows of a unit: of a few instances, or of a segment
// of one that has more than SEGMENT_ROWS vertices. It adds rows from 0 on, in order. The segments of an
// instance are added in order; what has no rows has sums of 0. src/cpu/vertex_sums.rs and
// src/cpu/conv/bias.rs have the same bits.
//
// Targets are overwritten or added to. An instance whose tables hold a wrong value is left out; sums that it
// belongs to become NaN. Launched by src/cuda/epilogue.rs.
//
// Modules: features.

#include "features.cuh"
#include "modules.cuh"
#include "rows.cuh"
#include "tables.cuh"

// What a thread does with rows: a slice of a unit.
struct Walk {
    u64 unit;
    u64 first_instance;
    u64 end_instance;
    u64 segment;
    u64 feature;
    u32 much;
};

// Where the segments of an instance start among those of all: of copies each has as many. In a table batch
// instance g, whose first vertex is v in the batch, has room from v / SEGMENT_ROWS + g on, which is enough.
__device__ __forceinline__ u64 first_segment(const WalkArgs& args, u64 segments, u64 instance) {
    const u64* starts = args.tables.target_starts;
    return starts == nullptr ? instance * segments : starts[instance] / SEGMENT_ROWS + instance;
}

// The instance of a table batch that has the segment; below the number of instances whatever tables hold.
__device__ __forceinline__ u64 instance_of(const WalkArgs& args, u64 segment) {
    u64 low = 0;
    u64 high = args.tables.instances;
    while (high - low > 1) {
        u64 middle = low + (high - low) / 2;
        if (first_segment(args, 0, middle) <= segment) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

// The walk of thread `number` of the launch.
__device__ __forceinline__ Walk walk_of(const WalkArgs& args, u64 number, u32 features_of_slice) {
    Walk walk = {};
    walk.unit = divide(number, args.slices);
    walk.first_instance = walk.unit * args.unit_instances;
    if (args.unit_segments > 1) {
        bool is_table = args.tables.target_starts != nullptr;
        walk.first_instance = is_table ? instance_of(args, walk.unit) : divide(walk.unit, args.unit_segments);
        walk.segment = walk.unit - first_segment(args, args.unit_segments, walk.first_instance);
    }
    walk.end_instance = walk.first_instance + args.unit_instances;
    u64 instances = args.tables.instances;
    walk.end_instance = walk.end_instance < instances ? walk.end_instance : instances;
    walk.feature = (number - walk.unit * args.slices) * (args.aligned != 0 ? features_of_slice : 1);
    walk.much = args.aligned != 0 ? ALL_FEATURES : ONE_FEATURE;
    return walk;
}

// The vertices of an instance.
struct Vertices {
    u64 instance;
    u64 first;  // in the batch
    u64 count;
};

// Those of an instance, and the rows `begin` ... `end` of a segment of it. False where a table has a wrong
// value.
template <bool Checked>
__device__ __forceinline__ bool find_vertices(const WalkArgs& args, u64 instance, u64 segment,
                                              Vertices& vertices, u32& begin, u32& end) {
    const TablesArgs& tables = args.tables;
    Check<Checked> check;
    u64 id = 0;
    vertices.instance = instance;
    bool found = find_topology_id(tables, check, instance, id);
    if (found) {
        u64 n = tables.topologies[id].n_targets;
        vertices.count = n;
        found = check.below(TOPOLOGIES, id * TOPOLOGY_WORDS + TOPOLOGY_N_TARGETS, n,
                            u64(tables.largest_targets) + 1) &&
                start_of(check, TARGET_STARTS, tables.target_starts, instance, n, tables.n_targets,
                         vertices.first);
    }
    check.publish(args.record, WALK_ROWS, tables.orientation, instance);
    // Behind the last segment there is room that no rows are for.
    bool exists = found && segment <= vertices.count / SEGMENT_ROWS;
    u64 first = exists ? segment * SEGMENT_ROWS : 0;
    u64 rest = exists ? vertices.count - first : 0;
    bool is_cut = args.unit_segments > 1 && rest > SEGMENT_ROWS;
    begin = static_cast<u32>(first);
    end = static_cast<u32>(first + (is_cut ? u64(SEGMENT_ROWS) : rest));
    return found;
}

// The first row of an instance in an operand, at a thread's features.
template <typename T>
__device__ __forceinline__ T* rows_of(const RowsArgs& rows, const Vertices& vertices, const Walk& walk) {
    return static_cast<T*>(rows.data) + element(rows, vertices.instance, vertices.first, 0) + walk.feature;
}

// The rows that a thread loads before it adds the first.
enum : u32 { ROWS_AT_ONCE = 4 };

// Adds rows `begin` ... `end` of a source, in order.
template <typename T, typename Sum, u32 LEN>
__device__ __forceinline__ void add_rows_of(const T* from, u64 stride, u32 much, u32 begin, u32 end,
                                            Sum (&sums)[LEN]) {
    using A = typename Element<T>::Acc;
    from += begin * stride;
    u32 count = end - begin;
#pragma unroll 1
    for (u32 first = 0; first < count; first += ROWS_AT_ONCE) {
        A rows[ROWS_AT_ONCE][LEN];
#pragma unroll
        for (u32 j = 0; j < ROWS_AT_ONCE; j++) {
            load_features(rows[j], first + j < count ? much : u32(NOTHING), from + (first + j) * stride);
        }
        // Behind the last row there are zeros, which change no sum: one that begins at +0 is never -0.
#pragma unroll
        for (u32 j = 0; j < ROWS_AT_ONCE; j++) {
#pragma unroll
            for (u32 k = 0; k < LEN; k++) {
                sums[k] += static_cast<Sum>(rows[j][k]);
            }
        }
    }
}

// Copies rows `begin` ... `end` of an instance, or divides the one that it has by the number of its vertices.
template <typename T>
__device__ __forceinline__ void copy_rows(const WalkArgs& args, const Walk& walk, const Vertices& vertices,
                                          u32 begin, u32 end) {
    using A = typename Element<T>::Acc;
    constexpr u32 LEN = Features<T>::LEN;
    const T* from = rows_of<const T>(args.source, vertices, walk);
    T* to = rows_of<T>(args.target, vertices, walk);
#pragma unroll 1
    for (u32 v = begin; v < end; v++) {
        A values[LEN];
        load_features(values, walk.much, from + v * args.source.row_stride);
        if (args.mean != 0) {
#pragma unroll
            for (u32 k = 0; k < LEN; k++) {
                values[k] = values[k] / static_cast<A>(vertices.count);
            }
        }
        store_features(to + v * args.target.row_stride, walk.much, args.add != 0, values);
    }
}

// Stores the mean of an instance, or the sums of a segment of it.
template <typename T, typename A, u32 LEN>
__device__ __forceinline__ void store_mean(const WalkArgs& args, const Walk& walk, const Vertices& vertices,
                                           bool poisoned, A (&sums)[LEN]) {
    if (args.sums != nullptr && args.sum_segments == 0) {
        A* to = static_cast<A*>(args.sums) + walk.unit * args.features + walk.feature;
        write_features(to, walk.much, sums);
        return;
    }
#pragma unroll
    for (u32 k = 0; k < LEN; k++) {
        A mean = vertices.count == 0 ? A(0) : sums[k] / static_cast<A>(vertices.count);
        sums[k] = poisoned ? not_a_number<A>() : mean;
    }
    T* to =
        static_cast<T*>(args.target.data) + vertices.instance * args.target.instance_stride + walk.feature;
    store_features(to, walk.much, args.add != 0, sums);
}

// Stores the sums of a unit.
template <u32 LEN>
__device__ __forceinline__ void store_sums(const WalkArgs& args, const Walk& walk, bool poisoned,
                                           const double (&sums)[LEN]) {
    double* to = static_cast<double*>(args.sums) + walk.unit * args.features + walk.feature;
#pragma unroll
    for (u32 k = 0; k < LEN; k += 2) {
        double pair[2] = {sums[k], sums[k + 1]};
        if (poisoned) {
            pair[0] = pair[1] = not_a_number<double>();
        }
        write_features(to + k, walk.much == ALL_FEATURES || k == 0 ? walk.much : u32(NOTHING), pair);
    }
}

template <typename T, bool Checked>
__device__ __forceinline__ void walk_rows(const WalkArgs& args) {
    using A = typename Element<T>::Acc;
    constexpr u32 LEN = Features<T>::LEN;
    for (u64 i = u64(blockIdx.x) * THREADS + threadIdx.x; i < args.n_units * args.slices;
         i += u64(gridDim.x) * THREADS) {
        Walk walk = walk_of(args, i, LEN);
        A means[LEN] = {};
        double sums[LEN] = {};
        bool poisoned = false;
        Vertices vertices = {};
#pragma unroll 1
        for (u64 place = walk.first_instance; place < walk.end_instance; place++) {
            u32 begin = 0;
            u32 end = 0;
            if (!find_vertices<Checked>(args, place, walk.segment, vertices, begin, end)) {
                poisoned = true;
                continue;
            }
            if (args.what == COPY) {
                copy_rows<T>(args, walk, vertices, begin, end);
                continue;
            }
            const T* rows = rows_of<const T>(args.source, vertices, walk);
            u64 n_segments = (vertices.count + (SEGMENT_ROWS - 1)) / SEGMENT_ROWS;
            u64 partial = first_segment(args, args.sum_segments, place) * args.features + walk.feature;
            if (args.sum_segments == 0 && args.what == SUM) {
                add_rows_of(rows, args.source.row_stride, walk.much, begin, end, sums);
            } else if (args.sum_segments == 0) {
                add_rows_of(rows, args.source.row_stride, walk.much, begin, end, means);
            } else if (args.what == SUM) {
                const double* partials = static_cast<const double*>(args.source.data) + partial;
#pragma unroll 1
                for (u64 s = 0; s < n_segments; s++) {
#pragma unroll
                    for (u32 k = 0; k < LEN; k++) {
                        if (k == 0 || walk.much == ALL_FEATURES) {
                            sums[k] += partials[s * args.features + k];
                        }
                    }
                }
            } else {
                add_rows_of(static_cast<const A*>(args.sums) + partial, args.features, walk.much, 0,
                            static_cast<u32>(n_segments), means);
            }
        }
        if (args.what == SUM) {
            store_sums(args, walk, poisoned, sums);
        } else if (args.what == MEAN) {
            store_mean<T>(args, walk, vertices, poisoned, means);
        }
    }
}

// Without a number of blocks the assembler spills in some of these, to make room for more.
#define KERNELS(T, NAME, CHECKS) \
    extern "C" __global__ void __launch_bounds__(THREADS, 6) walk_rows_##NAME(const WalkArgs args) { \
        walk_rows<T, CHECKS>(args); \
    }

MODULES_OF_FEATURES(KERNELS)
