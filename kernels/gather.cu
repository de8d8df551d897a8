// Gather-reduce: each target row is the sum of its source rows, or their mean. One step of a hypergraph is this on the
// incidence structure (targets are hyperedges, sources vertices), the other is this on its transpose.
//
//     y_d = scale_d * sum over the incidences s of d, in their order, of x_s        scale_d = 1, or 1/count for a mean
//
// A row is owned: one group of lanes computes it and stores it once (overwritten, or added to what was there), so
// there are no atomics and the bits depend on nothing but the row. A lane owns 16 bytes of features; all lanes of a group
// see the same incidences. Sums start at 0 and add the incidences in order. A row of more than SEGMENT incidences is
// cut into segments of that length, counted from the row's start; `gather_*` stores their sums in scratch memory
// (overwritten), and `add_partials_*` adds them in order. Both are launched by src/cuda/gather.rs; src/cpu/gather.rs is
// the same sum on the CPU, with the same bits.
//
// Rows of a topology are listed once, by length:
//
//     class     incidences          who computes one
//     PARTIAL   1 ... 512 of a      a group of 8, 16 or 32 lanes, as many as its features need
//               long row's
//     MEDIUM    9 ... 512           likewise
//     SHORT     0 ... 8             likewise, but one warp loads the indices of four rows at once
//     LONG      513 ...             likewise, from the sums of its segments
//
// An instance is not expanded: work item i of a class is entry `i mod count` of instance `i / count` for copies of one
// topology; for a table of instances it is found by binary search in the prefix sums of the counts.

#include "common.cuh"

enum : u32 {
    SEGMENT = 512,
    SHORT_ROW = 8,
    ROWS_OF_SHORT_TILE = WARP / SHORT_ROW,
    THREADS = 128,  // of a block; any multiple of a warp would do
    // The source rows that a lane loads before it adds the first. By arithmetic, not yet measured: 4 for each of 32 warps
    // are 64 KiB under way on a multiprocessor, and 3 TB/s times a latency of 0.8 us are 18 KB for each of 132. With 8, the
    // registers left room for 20 warps.
    IN_FLIGHT = 4,
    // No source: nothing to load. Ids are below 2^32 - 1.
    NO_SOURCE = 0xffffffffu,
};

// Kernels and tables in a violation; src/cuda/mod.rs and src/cuda/tables.rs have their names.
enum Kernel : u32 { GATHER = 0, ADD_PARTIALS = 1 };
enum Table : u32 {
    TOPOLOGIES = 0,
    POINTERS = 1,
    INDICES = 2,
    WORK = 3,
    TOPOLOGY_IDS = 4,
    WORK_STARTS = 5,
    TARGET_STARTS = 6,
    SOURCE_STARTS = 7,
    WORK_ITEMS = 8,  // not stored: a work item's entry in the list of its instance
};

enum Class : u32 { PARTIAL = 0, MEDIUM = 1, SHORT = 2, LONG = 3 };

// A number for each class.
struct Counts {
    u64 partial;
    u64 medium;
    u64 short_row;
    u64 long_row;

    // By selection: an index that is not constant would put the structure into local memory.
    __device__ __forceinline__ u64 of(u32 work_class) const {
        return work_class == PARTIAL ? partial
               : work_class == MEDIUM ? medium
               : work_class == SHORT  ? short_row
                                      : long_row;
    }
};

// One topology, seen from its targets: where its parts of the tables start, and their sizes. Its part of `work` holds
// (row, segment) of each segment of the long rows, the rows of 9 to 512 incidences by falling length, the rows of up to
// 8 by falling length, and (row, first segment in this list) of each long row.
struct Topology {
    u64 pointers;
    u64 indices;
    u64 work;
    u64 n_targets;
    u64 n_sources;
    u64 n_indices;
    Counts count;
};
enum : u32 { TOPOLOGY_WORDS = sizeof(Topology) / sizeof(u64) };

// A feature operand. Row i of instance g starts at g * instance_stride + i * row_stride, or, where rows are packed, at
// (starts[g] + i) * row_stride.
struct Rows {
    u64 data;
    u64 row_stride;
    u64 instance_stride;
    u64 total;  // rows of the batch
    u32 packed;
    u32 largest;  // rows of the largest topology in use
};

// The tiles of a call: a warp takes one at a time.
struct Tiles {
    u64 partial;   // of segments of long rows,
    u64 groups;    // with those of medium rows behind them,
    u64 all;       // and those of short rows
    u64 long_row;  // of `add_partials_*`
};

// src/cuda/gather.rs holds the same structure.
struct GatherArgs {
    const Topology* topologies;
    const u32* pointers;
    const u32* indices;
    const u32* work;
    const u32* topology_ids;   // null for copies of topology 0, and so are the next three
    const u64* work_starts;    // for each class instances + 1 prefix sums of the counts
    const u64* target_starts;  // instances + 1 prefix sums of the rows
    const u64* source_starts;
    u64 n_topologies;
    u64 n_pointers;
    u64 n_indices;
    u64 n_work;
    u64 instances;         // of this call
    Counts items;          // work items of this call
    Tiles tiles;
    Rows sources;
    Rows targets;
    u64 partials;  // scratch: items[PARTIAL] rows of sums, without gaps
    Record record;
    u32 features;
    u32 lanes;  // of a group: 8, 16 or 32
    u32 mean;
    u32 add;
    u32 aligned;
    u32 orientation;  // for messages: whose tables these are
    u32 feature_blocks;
    u32 padding;
};

// src/cuda/gather.rs asserts the same: neither side may move a field alone. NVRTC has no offsetof; the compilers of the tests
// and of native code have it.
static_assert(sizeof(Topology) == 80 && sizeof(Rows) == 40 && sizeof(Tiles) == 32 && sizeof(GatherArgs) == 304, "sizes");
#if !defined(__CUDACC_RTC__)
static_assert(__builtin_offsetof(GatherArgs, n_topologies) == 64 && __builtin_offsetof(GatherArgs, instances) == 96 &&
                  __builtin_offsetof(GatherArgs, items) == 104 && __builtin_offsetof(GatherArgs, tiles) == 136 &&
                  __builtin_offsetof(GatherArgs, sources) == 168 && __builtin_offsetof(GatherArgs, targets) == 208 &&
                  __builtin_offsetof(GatherArgs, partials) == 248 && __builtin_offsetof(GatherArgs, record) == 256 &&
                  __builtin_offsetof(GatherArgs, features) == 272 && __builtin_offsetof(GatherArgs, orientation) == 292,
              "offsets");
#endif

// ---------------------------------------------------------------------------------------------------------------------
// Which row a work item is.

struct Row {
    bool exists;  // there is such a row, and its place is known; where a check failed all the same, it becomes NaN
    u32 count;    // its incidences, or those of its segment
    u32 length;   // the incidences of the whole row
    u32 n_sources;
    u64 instance;
    u64 indices;   // where its incidences start
    u64 source;    // the element where row 0 of the sources starts
    u64 target;    // the element where this row starts
    u64 partials;  // for LONG: the first of its segments' sums
    u32 n_partials;
};

// The places in the tables that a topology may use lie within them.
template <bool Checked>
__device__ __forceinline__ bool fits(const GatherArgs& args, Check<Checked>& check, u64 id, const Topology& t) {
    if (!Checked) {
        return true;
    }
    u64 word = id * TOPOLOGY_WORDS;
    if (!(check.below(TOPOLOGIES, word + 3, t.n_targets, args.n_pointers) &&
          check.below(TOPOLOGIES, word + 3, t.n_targets, u64(args.targets.largest) + 1) &&
          check.below(TOPOLOGIES, word + 0, t.pointers, args.n_pointers - t.n_targets) &&
          check.below(TOPOLOGIES, word + 4, t.n_sources, u64(args.sources.largest) + 1) &&
          check.below(TOPOLOGIES, word + 5, t.n_indices, args.n_indices + 1) &&
          check.below(TOPOLOGIES, word + 1, t.indices, args.n_indices - t.n_indices + 1))) {
        return false;
    }
    u64 left = args.n_work;
    if (!check.below(TOPOLOGIES, word + 6, t.count.partial, left / 2 + 1)) return false;
    left -= 2 * t.count.partial;
    if (!check.below(TOPOLOGIES, word + 7, t.count.medium, left + 1)) return false;
    left -= t.count.medium;
    if (!check.below(TOPOLOGIES, word + 8, t.count.short_row, left + 1)) return false;
    left -= t.count.short_row;
    if (!check.below(TOPOLOGIES, word + 9, t.count.long_row, left / 2 + 1)) return false;
    left -= 2 * t.count.long_row;
    return check.below(TOPOLOGIES, word + 2, t.work, left + 1);
}

// Where row 0 of an instance starts.
template <bool Checked>
__device__ __forceinline__ bool base(Check<Checked>& check, u32 table, const Rows& rows, const u64* starts, u64 instance,
                                     u64 n_rows, u64& element) {
    if (!rows.packed) {
        element = instance * rows.instance_stride;
        return true;
    }
    u64 start = starts[instance];
    if (Checked) {
        u64 end = starts[instance + 1];
        if (!(check.apart(table, instance, start, end, n_rows) &&
              check.below(table, instance + 1, end, rows.total + 1))) {
            return false;
        }
    }
    element = start * rows.row_stride;
    return true;
}

// The last of the `n` + 1 ascending `starts` that is not above `item`; below `n` whatever they hold.
__device__ __forceinline__ u64 search(const u64* starts, u64 n, u64 item) {
    u64 low = 0;
    u64 high = n;
    while (high - low > 1) {
        u64 middle = low + (high - low) / 2;
        if (starts[middle] <= item) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

// Work item `item` of a class.
template <bool Checked>
__device__ __forceinline__ Row find_row(const GatherArgs& args, Check<Checked>& check, u32 work_class, u64 item) {
    Row found = {};
    if (item >= args.items.of(work_class)) {
        return found;
    }

    // The instance, its topology, and the item's entry in the topology's list.
    u64 id = 0;
    if (args.topology_ids != nullptr) {
        found.instance = search(args.work_starts + work_class * (args.instances + 1), args.instances, item);
        id = args.topology_ids[found.instance];
        if (!check.below(TOPOLOGY_IDS, found.instance, id, args.n_topologies)) {
            return found;
        }
    }
    const Topology t = args.topologies[id];
    if (!fits(args, check, id, t)) {
        return found;
    }
    u64 count = t.count.of(work_class);
    if (!check.below(WORK_ITEMS, item, 0, count)) {
        return found;
    }
    u64 start_of_items = 0;
    if (args.topology_ids == nullptr) {
        found.instance = divide(item, count);
        start_of_items = found.instance * count;
        if (!check.below(WORK_ITEMS, item, found.instance, args.instances)) {
            return found;
        }
    } else {
        u64 position = work_class * (args.instances + 1) + found.instance;
        start_of_items = args.work_starts[position];
        if (Checked && !(check.below(WORK_STARTS, position, start_of_items, item + 1) &&
                         check.apart(WORK_STARTS, position, start_of_items, args.work_starts[position + 1], count) &&
                         check.below(WORK_ITEMS, item, item - start_of_items, count))) {
            return found;
        }
    }
    u64 entry = item - start_of_items;

    // The entry: a row, and for the segments of long rows a second word.
    u64 position = t.work + entry;
    if (work_class == PARTIAL) {
        position += entry;
    } else {
        position += 2 * t.count.partial;
        if (work_class > MEDIUM) position += t.count.medium;
        if (work_class > SHORT) position += t.count.short_row + entry;
    }
    u32 row = args.work[position];
    if (!check.below(WORK, position, row, t.n_targets)) {
        return found;
    }

    // Where target and source rows lie. From here on a wrong value makes the target row NaN.
    u64 first_target = 0;
    if (!base(check, TARGET_STARTS, args.targets, args.target_starts, found.instance, t.n_targets, first_target)) {
        return found;
    }
    found.exists = true;
    found.target = first_target + row * args.targets.row_stride;
    if (!base(check, SOURCE_STARTS, args.sources, args.source_starts, found.instance, t.n_sources, found.source)) {
        return found;
    }
    found.n_sources = static_cast<u32>(t.n_sources);

    // Its incidences.
    u64 pointer = t.pointers + row;
    u32 start = args.pointers[pointer];
    u32 end = args.pointers[pointer + 1];
    if (!(check.below(POINTERS, pointer + 1, end, t.n_indices + 1) &&
          check.below(POINTERS, pointer, start, u64(end) + 1))) {
        return found;
    }
    found.length = end - start;
    found.indices = t.indices + start;

    if (work_class == PARTIAL) {
        u32 segment = args.work[position + 1];
        u64 segments = (u64(found.length) + (SEGMENT - 1)) / SEGMENT;
        if (!check.below(WORK, position + 1, segment, segments)) {
            return found;
        }
        u32 before = segment * SEGMENT;
        found.indices += before;
        found.count = found.length - before < SEGMENT ? found.length - before : SEGMENT;
    } else if (work_class == LONG) {
        // Its segments are those listed up to the first of the next long row.
        u32 first = args.work[position + 1];
        u64 next = t.count.partial;
        if (entry + 1 < t.count.long_row) {
            next = args.work[position + 3];
            if (!check.below(WORK, position + 3, next, t.count.partial + 1)) {
                return found;
            }
        }
        if (!check.below(WORK, position + 1, first, next)) {
            return found;
        }
        u64 listed = next - first;
        u64 least = (listed - 1) * SEGMENT + 1;
        if (!(check.below(POINTERS, pointer + 1, end, start + listed * SEGMENT + 1) &&
              check.below(POINTERS, pointer, start, end >= least ? end - least + 1 : 0))) {
            return found;
        }
        u64 before = 0;
        if (args.topology_ids == nullptr) {
            u64 of_each = Checked ? divide(args.items.partial, args.instances) : 0;
            if (!check.below(TOPOLOGIES, id * TOPOLOGY_WORDS + 6, t.count.partial, of_each + 1)) {
                return found;
            }
            before = found.instance * t.count.partial;
        } else {
            before = args.work_starts[found.instance];  // of the class PARTIAL
            if (Checked &&
                !(check.apart(WORK_STARTS, found.instance, before, args.work_starts[found.instance + 1],
                              t.count.partial) &&
                  check.below(WORK_STARTS, found.instance + 1, before + t.count.partial, args.items.partial + 1))) {
                return found;
            }
        }
        found.partials = before + first;
        found.n_partials = static_cast<u32>(listed);
    } else {
        u32 longest = work_class == SHORT ? SHORT_ROW : SEGMENT;
        if (check.below(POINTERS, pointer + 1, end, u64(start) + longest + 1)) {
            found.count = found.length;
        }
    }
    return found;
}

// Incidence `i` of a row, or NO_SOURCE.
template <bool Checked>
__device__ __forceinline__ u32 source_of(const GatherArgs& args, Check<Checked>& check, const Row& row, u32 i) {
    if (i >= row.count) {
        return NO_SOURCE;
    }
    u32 source = args.indices[row.indices + i];
    return check.below(INDICES, row.indices + i, source, row.n_sources) ? source : NO_SOURCE;
}

// ---------------------------------------------------------------------------------------------------------------------
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

template <typename T>
__device__ __forceinline__ Lane features_of(const GatherArgs& args, u32 block, u32 lane_of_group) {
    u64 first = (u64(block) * args.lanes + lane_of_group) * Vector<T>::LEN;
    u64 left = first < args.features ? args.features - first : 0;
    return {first, left < Vector<T>::LEN ? static_cast<u32>(left) : Vector<T>::LEN};
}

// Adds `N` rows of elements of type `S` that start at `at(j)`, where that is not null, to `LEN` sums. Aligned rows are all
// loaded before the first sum; others come one by one, which is slower and a fraction of the code.
template <typename S, u32 N, typename A, u32 LEN, typename At>
__device__ __forceinline__ void add_rows(Sums<A, LEN>& sums, bool aligned, u32 len, At at) {
    constexpr u32 WIDTH = Vector<S>::LEN;
    constexpr u32 VECTORS = LEN / WIDTH;
    // What is left out is zero, which changes no sum: one that started at +0 is never -0.
    if (!aligned) {
#pragma unroll 1
        for (u32 j = 0; j < N; j++) {
            const S* from = at(j);
#pragma unroll
            for (u32 i = 0; i < LEN; i++) {
                if (from != nullptr && i < len) {
                    sums.at[i] += Element<S>::widen(from[i]);
                }
            }
        }
        return;
    }
    const S* from[N];
#pragma unroll
    for (u32 j = 0; j < N; j++) {
        from[j] = at(j);
    }
    Vector<S> rows[N][VECTORS];
#pragma unroll
    for (u32 j = 0; j < N; j++) {
#pragma unroll
        for (u32 v = 0; v < VECTORS; v++) {
            rows[j][v] = {};
            if (from[j] != nullptr && len > v * WIDTH) {
                rows[j][v] = load_vector(from[j] + v * WIDTH);
            }
        }
    }
#pragma unroll
    for (u32 j = 0; j < N; j++) {
#pragma unroll
        for (u32 i = 0; i < LEN; i++) {
            sums.at[i] += Element<S>::widen(rows[j][i / WIDTH].at[i % WIDTH]);
        }
    }
}

// Stores a row: scaled, and added to what is there if that is asked for.
template <typename T>
__device__ __forceinline__ void finish(const GatherArgs& args, u64 target, u32 length, bool poisoned, const Lane& lane,
                                       const SumsOf<T>& sums) {
    using Acc = typename Element<T>::Acc;
    if (lane.len == 0) {
        return;
    }
    T* to = reinterpret_cast<T*>(args.targets.data) + target + lane.first;
    Acc scale = 1;
    if (args.mean) {
        scale = length == 0 ? Acc(0) : Acc(1) / static_cast<Acc>(length);
    }
    Vector<T> result = {};
    if (args.add) {
        result = args.aligned ? load_vector(to) : load_elements(to, lane.len);
    }
#pragma unroll
    for (u32 i = 0; i < Vector<T>::LEN; i++) {
        Acc value = sums.at[i] * scale;
        if (args.add) {
            value = Element<T>::widen(result.at[i]) + value;
        }
        result.at[i] = Element<T>::narrow(poisoned ? not_a_number<Acc>() : value);
    }
    if (args.aligned) {
        store_vector(to, result);
    } else {
        store_elements(to, lane.len, result);
    }
}

// Stores the sums of a segment.
template <typename T>
__device__ __forceinline__ void finish_partial(const GatherArgs& args, u64 item, bool poisoned, const Lane& lane,
                                               const SumsOf<T>& sums) {
    using Acc = typename Element<T>::Acc;
    constexpr u32 LEN = Vector<Acc>::LEN;
    Acc* to = reinterpret_cast<Acc*>(args.partials) + item * args.features + lane.first;
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

// A tile of the classes PARTIAL and MEDIUM: each group of lanes has a row (or segment) to itself.
template <typename T, bool Checked>
__device__ __forceinline__ void gather_groups(const GatherArgs& args, Check<Checked>& check, u32 work_class, u64 item,
                                              const Row& row, const Group& group, u32 block) {
    Lane lane = features_of<T>(args, block, group.lane);
    const T* sources = reinterpret_cast<const T*>(args.sources.data) + row.source + lane.first;
    SumsOf<T> sums = {};
    u32 longest = warp_max(row.count);
    for (u32 first = 0; first < longest; first += args.lanes) {
        u32 mine = source_of(args, check, row, first + group.lane);
        for (u32 k = 0; k < args.lanes && first + k < longest; k += IN_FLIGHT) {
            add_rows<T, IN_FLIGHT>(sums, args.aligned, lane.len, [&](u32 j) -> const T* {
                u32 source = __shfl_sync(ALL_LANES, mine, static_cast<int>(group.number * args.lanes + k + j));
                return source == NO_SOURCE ? nullptr : sources + source * args.sources.row_stride;
            });
        }
    }
    bool poisoned = false;
    if (Checked) {
        u32 lanes = args.lanes == WARP ? ALL_LANES : ((1u << args.lanes) - 1) << group.number * args.lanes;
        poisoned = (__ballot_sync(ALL_LANES, check.failed) & lanes) != 0;
    }
    if (work_class == PARTIAL) {
        // Also where no row could be found: somebody adds what is here.
        if (item < args.items.partial) {
            finish_partial<T>(args, item, poisoned, lane, sums);
        }
    } else if (row.exists) {
        finish<T>(args, row.target, row.length, poisoned, lane, sums);
    }
}

// A tile of the class SHORT: 8 lanes each know a row and load its indices; then each group of lanes computes its share
// of the four rows (one, two or all four), one after the other.
template <typename T, bool Checked>
__device__ __forceinline__ void gather_short(const GatherArgs& args, Check<Checked>& check, const Row& row,
                                             const Group& group, u32 block) {
    u32 mine = source_of(args, check, row, group.lane_of_warp % SHORT_ROW);
    u32 poisoned = Checked ? __ballot_sync(ALL_LANES, check.failed) : 0;
    u32 exist = __ballot_sync(ALL_LANES, row.exists);
    u32 longest = warp_max(row.count);
    Lane lane = features_of<T>(args, block, group.lane);
    u32 rows_of_group = args.lanes / SHORT_ROW;
    for (u32 r = 0; r < rows_of_group; r++) {
        u32 leader = (group.number * rows_of_group + r) * SHORT_ROW;
        u64 source_base = shuffle(row.source, leader);
        u64 target = shuffle(row.target, leader);
        u32 length = __shfl_sync(ALL_LANES, row.length, static_cast<int>(leader));
        const T* sources = reinterpret_cast<const T*>(args.sources.data) + source_base + lane.first;
        SumsOf<T> sums = {};
        for (u32 k = 0; k < longest; k += IN_FLIGHT) {
            add_rows<T, IN_FLIGHT>(sums, args.aligned, lane.len, [&](u32 j) -> const T* {
                u32 source = __shfl_sync(ALL_LANES, mine, static_cast<int>(leader + k + j));
                return source == NO_SOURCE ? nullptr : sources + source * args.sources.row_stride;
            });
        }
        if ((exist >> leader & 1) != 0) {
            bool is_poisoned = (poisoned >> leader & ((1u << SHORT_ROW) - 1)) != 0;
            finish<T>(args, target, length, is_poisoned, lane, sums);
        }
    }
}

// All rows but the long ones, and the segments of those. Warps take tiles: segments first, then medium rows, then short
// ones, so that the longest work starts first. Blocks in y take blocks of features.
template <typename T, bool Checked>
__device__ __forceinline__ void gather(const GatherArgs& args) {
    Group group = group_of(args);
    u32 groups = WARP / args.lanes;
    u64 first_tile = u64(blockIdx.x) * (THREADS / WARP) + threadIdx.x / WARP;
    for (u32 block = blockIdx.y; block < args.feature_blocks; block += gridDim.y) {
        for (u64 tile = first_tile; tile < args.tiles.all; tile += u64(gridDim.x) * (THREADS / WARP)) {
            u32 work_class = PARTIAL;
            u64 item = tile * groups + group.number;
            if (tile >= args.tiles.groups) {
                work_class = SHORT;
                item = (tile - args.tiles.groups) * ROWS_OF_SHORT_TILE + group.lane_of_warp / SHORT_ROW;
            } else if (tile >= args.tiles.partial) {
                work_class = MEDIUM;
                item = (tile - args.tiles.partial) * groups + group.number;
            }
            Check<Checked> check;
            Row row = find_row(args, check, work_class, item);
            if (work_class == SHORT) {
                gather_short<T>(args, check, row, group, block);
            } else {
                gather_groups<T>(args, check, work_class, item, row, group, block);
            }
            check.publish(args.record, GATHER, args.orientation, row.instance);
        }
    }
}

// The long rows, from the sums of their segments.
template <typename T, bool Checked>
__device__ __forceinline__ void add_partials(const GatherArgs& args) {
    using Acc = typename Element<T>::Acc;
    Group group = group_of(args);
    u32 groups = WARP / args.lanes;
    u64 first_tile = u64(blockIdx.x) * (THREADS / WARP) + threadIdx.x / WARP;
    for (u32 block = blockIdx.y; block < args.feature_blocks; block += gridDim.y) {
        Lane lane = features_of<T>(args, block, group.lane);
        for (u64 tile = first_tile; tile < args.tiles.long_row; tile += u64(gridDim.x) * (THREADS / WARP)) {
            Check<Checked> check;
            Row row = find_row(args, check, LONG, tile * groups + group.number);
            const Acc* partials = reinterpret_cast<const Acc*>(args.partials) + row.partials * args.features + lane.first;
            SumsOf<T> sums = {};
            for (u32 first = 0; first < row.n_partials; first += IN_FLIGHT) {
                add_rows<Acc, IN_FLIGHT>(sums, args.aligned, lane.len, [&](u32 j) -> const Acc* {
                    return first + j < row.n_partials ? partials + u64(first + j) * args.features : nullptr;
                });
            }
            if (row.exists) {
                finish<T>(args, row.target, row.length, check.failed, lane, sums);
            }
            check.publish(args.record, ADD_PARTIALS, args.orientation, row.instance);
        }
    }
}

// With 64 registers a thread, 8 blocks fit on a multiprocessor; 16-bit features, of which a lane has more, and the checked
// builds need more.
#define ENTRIES(T, NAME, CHECKED, BLOCKS)                                               \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) gather_##NAME(const GatherArgs args) { \
        gather<T, CHECKED>(args);                                                       \
    }                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) add_partials_##NAME(const GatherArgs args) { \
        add_partials<T, CHECKED>(args);                                                 \
    }

ENTRIES(float, f32, false, 8)
ENTRIES(float, f32_checked, true, 6)
ENTRIES(double, f64, false, 8)
ENTRIES(double, f64_checked, true, 6)
ENTRIES(F16, f16, false, 6)
ENTRIES(F16, f16_checked, true, 5)
ENTRIES(Bf16, bf16, false, 6)
ENTRIES(Bf16, bf16_checked, true, 5)
