// Gather-reduce: each target row is a weighted sum of its source rows, or their mean. One step of a
// hypergraph is this on the incidence structure (targets are hyperedges, sources vertices), the other is this
// on its transpose; the gradients of both, and the convolution with its gradients, are made of them.
//
//     y_d = t_d mean_d * sum over the incidences s of d, in their order, of p_s x_s
//     dot_d = <o_d, mean_d * the same sum>, in double        mean_d = 1, or 1/count for a mean
//
// p and t are factors that the instances read through windows, or 1. Both results are optional; o are rows
// like y's. Where there are shifts, p_s is multiplied by 2^(shift of s + shift of d), which the sum does not
// round: see `Conv::shift`.
//
// A row is owned: one group of lanes computes it and stores it once (overwritten, or added to what was
// there), so there are no atomics and the bits depend on nothing but the row. A lane owns 16 bytes of
// features; all lanes of a group see the same incidences. Sums start at 0 and add the incidences in order,
// one fused multiply-add each. A row of more than SEGMENT incidences is cut into segments of that length,
// counted from the row's start; `gather_*` stores their sums in scratch memory (overwritten), and
// `add_partials_*` adds them in order. A dot product is stored for each block of features (of the lanes of a
// group): a lane adds the products of its features in order, and the lanes are added in halves.
// `gather_sums_*` is the same for 16-bit results of rows in the accumulation type. All are launched by
// src/cuda/gather.rs; src/cpu/gather.rs is the same sum on the CPU, with the same bits.
//
// A group has 8, 16 or 32 lanes, as many as the features need. A warp takes a segment or a row of medium
// length for each of its groups, or four short rows, whose indices it loads at once.
//
// Modules: features; long rows apart.

#include "epilogue.cuh"
#include "modules.cuh"
#include "rows.cuh"
#include "tables.cuh"

enum : u32 {
    // The source rows that a lane loads before it adds the first. By arithmetic, not yet measured: 4 for each
    // of 32 warps are 64 KiB under way on a multiprocessor, and 3 TB/s times a latency of 0.8 us are 18 KB
    // for each of 132. With 8, the registers left room for 20 warps.
    IN_FLIGHT = 4,
};

// A row whose sums are complete: what has to be known of it.
template <typename A>
struct Target {
    u64 instance;
    u64 first;  // where the rows of its instance start in the batch
    u32 row;
    u32 length;
    u32 n_targets;  // of its instance
    A factor;
};

// An epilogue of a vector of features, of which `len` are to be stored.
template <typename T, typename A, u32 LEN>
__device__ __forceinline__ void apply_epilogue(const GatherArgs& args, const Target<A>& target, u64 feature,
                                               u32 len, A (&values)[LEN]) {
    const EpilogueArgs& epilogue = args.epilogue;
    if (epilogue.bias != nullptr) {
        A bias[LEN];
        const A* from = static_cast<const A*>(epilogue.bias) + feature;
        constexpr u32 WIDTH = Vector<A>::LEN;
#pragma unroll
        for (u32 v = 0; v < LEN; v += WIDTH) {
            Vector<A> loaded =
                args.aligned ? load_vector(from + v) : load_elements(from + v, len > v ? len - v : 0);
#pragma unroll
            for (u32 i = 0; i < WIDTH; i++) {
                bias[v + i] = loaded.at[i];
            }
        }
        add_bias(epilogue, values, bias);
    }
    activate_all(epilogue, values);
    if (epilogue.rows.data != nullptr) {
        A rows[LEN];
        const T* from = static_cast<const T*>(epilogue.rows.data) +
                        element(epilogue.rows, target.instance, target.first, target.row) + feature;
        Vector<T> loaded = args.aligned ? load_vector(from) : load_elements(from, len);
#pragma unroll
        for (u32 i = 0; i < LEN; i++) {
            rows[i] = Element<T>::widen(loaded.at[i]);
        }
        combine_rows(epilogue, values, rows, target.n_targets);
    }
}

// Stores a lane's part of a row of elements of type `D`, or adds it to what is there, and gives the lane's
// part of the dot product, each where it is asked for. `HasEpilogue`: there may be one.
template <typename T, typename D, bool HasEpilogue, typename A = typename Element<T>::Acc>
__device__ __forceinline__ double finish_lane(const GatherArgs& args, const Target<A>& target, bool poisoned,
                                              const Lane& lane, const SumsOf<T>& sums) {
    constexpr u32 WIDTH = Vector<D>::LEN;
    A mean = args.mean != 0 ? inverse_count<A>(target.length) : A(1);
    bool left_out = args.target_scale.skip_zero != 0 && target.factor == A(0);
    A factor = target.factor * mean;
    double dot = 0;
#pragma unroll
    for (u32 v = 0; v < Vector<T>::LEN; v += WIDTH) {
        u32 len = lane.len > v ? lane.len - v : 0;
        if (args.others.data != nullptr && len != 0) {
            const D* from = static_cast<const D*>(args.others.data) +
                            element(args.others, target.instance, target.first, target.row) + lane.first + v;
            Vector<D> other = args.aligned ? load_vector(from) : load_elements(from, len);
#pragma unroll
            for (u32 i = 0; i < WIDTH; i++) {
                dot += static_cast<double>(Element<D>::widen(other.at[i])) *
                       static_cast<double>(sums.at[v + i] * mean);
            }
        }
        if (args.targets.data != nullptr && len != 0) {
            D* to = static_cast<D*>(args.targets.data) +
                    element(args.targets, target.instance, target.first, target.row) + lane.first + v;
            A values[WIDTH];
#pragma unroll
            for (u32 i = 0; i < WIDTH; i++) {
                // A row whose factor is 0 is a store of zeros, not a product with 0.
                values[i] = left_out ? A(0) : sums.at[v + i] * factor;
            }
            if (HasEpilogue && args.epilogue.exists != 0) {
                apply_epilogue<D>(args, target, lane.first + v, len, values);
            }
            store_row(to, args.aligned != 0, args.add != 0, len, values, poisoned);
        }
    }
    return dot;
}

// Which lanes of the warp work together, and where this one stands among them.
struct Group {
    u32 lane_of_warp;
    u32 number;
    u32 lane;
};

__device__ __forceinline__ Group group_of(const GatherArgs& args) {
    u32 lane_of_warp = threadIdx.x % WARP;
    return {lane_of_warp, lane_of_warp / args.lanes, lane_of_warp % args.lanes};
}

// Stores the row of each group, if it has one, and its dot product.
template <typename T, bool HasEpilogue, typename A = typename Element<T>::Acc>
__device__ __forceinline__ void finish_row(const GatherArgs& args, const Target<A>& target, bool exists,
                                           bool poisoned, const Group& group, const Lane& lane, u32 block,
                                           const SumsOf<T>& sums) {
    double dot = 0;
    if (exists) {
        if (sizeof(T) != sizeof(A) && args.wide != 0) {
            dot = finish_lane<T, A, false>(args, target, poisoned, lane, sums);
        } else {
            dot = finish_lane<T, T, HasEpilogue>(args, target, poisoned, lane, sums);
        }
    }
    if (args.others.data == nullptr) {
        return;
    }
    dot = sum_of_group(dot, args.lanes);
    if (exists && group.lane == 0) {
        args.dots[(target.first + target.row) * args.feature_blocks + block] =
            poisoned ? not_a_number<double>() : dot;
    }
}

// Stores the sums of a segment.
template <typename T>
__device__ __forceinline__ void store_partial(const GatherArgs& args, u64 item, bool poisoned,
                                              const Lane& lane, const SumsOf<T>& sums) {
    using Acc = typename Element<T>::Acc;
    constexpr u32 LEN = Vector<Acc>::LEN;
    Acc* to = static_cast<Acc*>(args.partials) + item * args.features + lane.first;
#pragma unroll
    for (u32 i = 0; i < Vector<T>::LEN; i += LEN) {
        Vector<Acc> values;
#pragma unroll
        for (u32 j = 0; j < LEN; j++) {
            values.at[j] = poisoned ? not_a_number<Acc>() : sums.at[i + j];
        }
        if (lane.len <= i) {
            return;
        }
        if (args.aligned) {
            store_vector(to + i, values);
        } else {
            store_elements(to + i, lane.len - i, values);
        }
    }
}

// The factor of a target row.
template <typename A, bool Checked>
__device__ __forceinline__ A target_factor(const GatherArgs& args, Check<Checked>& check, const Row& row) {
    if (args.target_scale.windows == NO_SCALE || !row.exists) {
        return 1;
    }
    u64 start = 0;
    if (!window_of(check, TARGET_WINDOWS, args.target_scale, row.instance, row.first_target, row.n_targets,
                   start)) {
        return 1;
    }
    return static_cast<const A*>(args.target_scale.values)[start + row.row];
}

// The source rows of one instance, and where it reads their factors.
template <typename S, typename A>
struct Sources {
    const S* rows;
    u64 stride;
    const A* factors;  // null: all are 1

    // The factor of a source of `row`; one that is left out becomes none. Where the shifts lie is found again
    // for each source, from what is at hand anyway: with two registers more, the assembler no longer has all
    // loads under way together, and gathers take 3 to 13 % longer.
    __device__ __forceinline__ A factor(const GatherArgs& args, const Row& row, u32& source) const {
        if (source == NO_SOURCE) {
            return 1;
        }
        A factor = factors == nullptr ? A(1) : factors[source];
        if (args.source_scale.skip_zero != 0 && factor == A(0)) {
            source = NO_SOURCE;
            return 1;
        }
        int shift = 0;
        if (args.source_shifts != nullptr) {
            // They lie as the factors do, for each source row of the batch.
            shift = args.source_shifts[factors - static_cast<const A*>(args.source_scale.values) + source];
        }
        if (args.target_shifts != nullptr) {
            shift = add_shifts(shift, args.target_shifts[row.first_target + row.row]);
        }
        return shifted(factor, shift);
    }
};

template <typename S, typename A, bool Checked>
__device__ __forceinline__ Sources<S, A> sources_of(const GatherArgs& args, Check<Checked>& check, Row& row) {
    const S* rows =
        static_cast<const S*>(args.sources.data) + element(args.sources, row.instance, row.first_source, 0);
    const A* factors = nullptr;
    if (args.source_scale.windows != NO_SCALE && row.count != 0) {
        u64 start = 0;
        if (!window_of(check, SOURCE_WINDOWS, args.source_scale, row.instance, row.first_source,
                       row.n_sources, start)) {
            row.count = 0;
        }
        factors = static_cast<const A*>(args.source_scale.values) + start;
    }
    return {rows, args.sources.row_stride, factors};
}

// A tile. In the classes PARTIAL and MEDIUM each group of lanes has a row (or segment) to itself. In the
// class SHORT each 8 lanes know a row and load its indices; then each group of lanes computes its share of
// the four rows (one, two or all four), one after the other.
template <typename T, typename S, bool Checked>
__device__ __forceinline__ void gather_tile(const GatherArgs& args, Check<Checked>& check, const Item& item,
                                            Row& row, const Group& group, u32 block) {
    using Acc = typename Element<T>::Acc;
    // The sums of the convolution are those of rows of the accumulation type.
    constexpr bool HAS_EPILOGUE = sizeof(S) == sizeof(Acc);
    bool is_short = item.work_class == SHORT;
    u32 width = is_short ? SHORT_ROW : args.lanes;  // the lanes that know the same row
    u32 rows_of_group = is_short ? args.lanes / SHORT_ROW : 1;

    Sources<S, Acc> sources = sources_of<S, Acc>(args, check, row);
    Acc factor = item.work_class == PARTIAL ? Acc(1) : target_factor<Acc>(args, check, row);
    bool has_factors = args.source_scale.windows != NO_SCALE || args.source_shifts != nullptr ||
                       args.target_shifts != nullptr;
    u32 exist = __ballot_sync(ALL_LANES, row.exists);
    u32 longest = warp_max(row.count);
    Lane lane = features_of<T>(args.features, args.lanes, block, group.lane);
    u32 mine = NO_SOURCE;
    Acc my_factor = 1;
    for (u32 r = 0; r < rows_of_group; r++) {
        u32 leader = group.number * args.lanes + r * width;
        const S* rows = shuffle(sources.rows, leader) + lane.first;
        SumsOf<T> sums = {};
        for (u32 first = 0; first < longest; first += width) {
            if (r == 0) {
                mine = source_of(args.tables, check, row, first + group.lane_of_warp % width);
                my_factor = has_factors ? sources.factor(args, row, mine) : Acc(1);
            }
            for (u32 k = 0; k < width && first + k < longest; k += IN_FLIGHT) {
                add_rows<S, IN_FLIGHT>(sums, args.aligned, lane.len, [&](u32 j) -> Source<S, Acc> {
                    u32 source = __shfl_sync(ALL_LANES, mine, static_cast<int>(leader + k + j));
                    Acc its_factor = has_factors ? shuffle(my_factor, leader + k + j) : Acc(1);
                    return {source == NO_SOURCE ? nullptr : rows + source * sources.stride, its_factor};
                });
            }
        }
        bool poisoned = false;
        if (Checked) {
            u32 lanes = width == WARP ? ALL_LANES : ((1u << width) - 1) << leader;
            poisoned = (__ballot_sync(ALL_LANES, check.failed) & lanes) != 0;
        }
        if (item.work_class == PARTIAL) {
            // Also where no row was found: the kernel that adds the segments reads this place.
            if (item.number < args.tables.items.partial) {
                store_partial<T>(args, item.number, poisoned, lane, sums);
            }
            continue;
        }
        Target<Acc> target = {
            shuffle(row.instance, leader),
            shuffle(row.first_target, leader),
            __shfl_sync(ALL_LANES, row.row, static_cast<int>(leader)),
            __shfl_sync(ALL_LANES, row.length, static_cast<int>(leader)),
            HAS_EPILOGUE ? __shfl_sync(ALL_LANES, row.n_targets, static_cast<int>(leader)) : 0,
            shuffle(factor, leader)};
        finish_row<T, HAS_EPILOGUE>(args, target, (exist >> leader & 1) != 0, poisoned, group, lane, block,
                                    sums);
    }
}

// All rows but the long ones, and the segments of those. Warps take tiles: segments first, then medium rows,
// then short ones, so that the longest work starts first. Blocks in y take blocks of features.
template <typename T, typename S, bool Checked>
__device__ __forceinline__ void gather(const GatherArgs& args, u32 kernel) {
    Group group = group_of(args);
    u32 groups = WARP / args.lanes;
    for (u32 block = blockIdx.y; block < args.feature_blocks; block += gridDim.y) {
        for (u64 tile = first_tile(); tile < args.tiles.all; tile += tile_step()) {
            Item item = item_of(args.tiles, tile, groups, group.number, group.lane_of_warp);
            Check<Checked> check;
            Row row = find_row(args.tables, check, item.work_class, item.number);
            gather_tile<T, S>(args, check, item, row, group, block);
            check.publish(args.record, kernel, args.tables.orientation, row.instance);
        }
    }
}

// The long rows, from the sums of their segments.
template <typename T, bool Checked>
__device__ __forceinline__ void add_partials(const GatherArgs& args) {
    using Acc = typename Element<T>::Acc;
    Group group = group_of(args);
    u32 groups = WARP / args.lanes;
    for (u32 block = blockIdx.y; block < args.feature_blocks; block += gridDim.y) {
        Lane lane = features_of<T>(args.features, args.lanes, block, group.lane);
        for (u64 tile = first_tile(); tile < args.tiles.long_row; tile += tile_step()) {
            Check<Checked> check;
            Row row = find_row(args.tables, check, LONG, tile * groups + group.number);
            Acc factor = target_factor<Acc>(args, check, row);
            const Acc* partials =
                static_cast<const Acc*>(args.partials) + row.partials * args.features + lane.first;
            SumsOf<T> sums = {};
            for (u32 first = 0; first < row.n_partials; first += IN_FLIGHT) {
                add_rows<Acc, IN_FLIGHT>(sums, args.aligned, lane.len, [&](u32 j) -> Source<Acc, Acc> {
                    return {first + j < row.n_partials ? partials + u64(first + j) * args.features : nullptr,
                            1};
                });
            }
            Target<Acc> target = {row.instance, row.first_target, row.row, row.length, row.n_targets, factor};
            finish_row<T, true>(args, target, row.exists, check.failed, group, lane, block, sums);
            check.publish(args.record, ADD_PARTIALS, args.tables.orientation, row.instance);
        }
    }
}

// With 72 registers a thread, 7 blocks fit on a multiprocessor; doubles, 16-bit features, of which a lane has
// more, and the checked builds need more. With one block more, `f16`, `f64` and those of checked builds spill
// (kernels/resources.py).
template <typename T>
__device__ constexpr u32 blocks_of(bool checks) {
    return sizeof(T) == 2 ? (checks ? 4 : 5) : sizeof(T) == 4 && !checks ? 7 : 5;
}

#define KERNELS(T, NAME, CHECKS) \
    OTHER_ROWS(extern "C" __global__ void __launch_bounds__(THREADS, blocks_of<T>(CHECKS)) \
                   gather_##NAME(const GatherArgs args) { gather<T, T, CHECKS>(args, GATHER); }) \
    LONG_ROWS(extern "C" __global__ void __launch_bounds__(THREADS, blocks_of<T>(CHECKS)) \
                  add_partials_##NAME(const GatherArgs args) { add_partials<T, CHECKS>(args); })
// From rows of sums to features that are narrower.
#define KERNELS_FROM_SUMS(T, NAME, CHECKS) \
    OTHER_ROWS(extern "C" __global__ void __launch_bounds__(THREADS, blocks_of<T>(CHECKS)) \
                   gather_sums_##NAME(const GatherArgs args) { \
                       gather<T, Element<T>::Acc, CHECKS>(args, GATHER_SUMS); \
                   })

MODULES_OF_FEATURES(KERNELS)
MODULES_OF_NARROW_FEATURES(KERNELS_FROM_SUMS)
