// The tables of a batch, which row of which instance a work item is, and where a scale is read for it.
//
// Rows of a topology are listed once, by length:
//
//     class     incidences
//     PARTIAL   1 ... 512 of a long row's: a segment, counted from the row's start
//     MEDIUM    9 ... 512
//     SHORT     0 ... 8
//     LONG      513 ..., from the results of its segments
//
// An instance is not expanded: work item i of a class is entry `i mod count` of instance `i / count` for
// copies of one topology; for a table of instances it is found by binary search in the prefix sums of the
// counts.

#pragma once

#include "common.cuh"

// No source: nothing to load. Ids are below 2^32 - 1.
enum : u32 { NO_SOURCE = 0xffffffffu };

// The number of a class. By selection: an index that is not constant would put the structure into local
// memory.
__device__ __forceinline__ u64 of_class(const Counts& counts, u32 work_class) {
    return work_class == PARTIAL  ? counts.partial
           : work_class == MEDIUM ? counts.medium
           : work_class == SHORT  ? counts.short_row
                                  : counts.long_row;
}

// -----------------------------------------------------------------------------------------------------------
// Which row a work item is.

struct Row {
    bool exists;  // there is such a row, and its place is known: where a check fails later, it becomes NaN
    u32 row;      // in its instance
    u32 count;    // its incidences, or those of its segment
    u32 length;   // the incidences of the whole row
    u32 n_targets;
    u32 n_sources;
    u64 instance;
    u64 first_target;  // where the rows of its instance start in the batch
    u64 first_source;
    u64 indices;   // where its incidences start
    u64 partials;  // for LONG: the first of its segments
    u32 n_partials;
};

// The places in the tables that a topology may use lie within them.
template <bool Checked>
__device__ __forceinline__ bool fits(const TablesArgs& tables, Check<Checked>& check, u64 id,
                                     const TopologyWords& t) {
    if (!Checked) {
        return true;
    }
    u64 word = id * TOPOLOGY_WORDS;
    if (!(check.below(TOPOLOGIES, word + TOPOLOGY_N_TARGETS, t.n_targets, tables.n_pointers) &&
          check.below(TOPOLOGIES, word + TOPOLOGY_N_TARGETS, t.n_targets, u64(tables.largest_targets) + 1) &&
          check.below(TOPOLOGIES, word + TOPOLOGY_POINTERS, t.pointers, tables.n_pointers - t.n_targets) &&
          check.below(TOPOLOGIES, word + TOPOLOGY_N_SOURCES, t.n_sources, u64(tables.largest_sources) + 1) &&
          check.below(TOPOLOGIES, word + TOPOLOGY_N_INDICES, t.n_indices, tables.n_indices + 1) &&
          check.below(TOPOLOGIES, word + TOPOLOGY_INDICES, t.indices, tables.n_indices - t.n_indices + 1))) {
        return false;
    }
    u64 rest = tables.n_work;
    if (!check.below(TOPOLOGIES, word + TOPOLOGY_COUNT + PARTIAL, t.count.partial, rest / 2 + 1))
        return false;
    rest -= 2 * t.count.partial;
    if (!check.below(TOPOLOGIES, word + TOPOLOGY_COUNT + MEDIUM, t.count.medium, rest + 1)) return false;
    rest -= t.count.medium;
    if (!check.below(TOPOLOGIES, word + TOPOLOGY_COUNT + SHORT, t.count.short_row, rest + 1)) return false;
    rest -= t.count.short_row;
    if (!check.below(TOPOLOGIES, word + TOPOLOGY_COUNT + LONG, t.count.long_row, rest / 2 + 1)) return false;
    rest -= 2 * t.count.long_row;
    return check.below(TOPOLOGIES, word + TOPOLOGY_WORK, t.work, rest + 1);
}

// Where the rows of an instance start in the batch.
template <bool Checked>
__device__ __forceinline__ bool start_of(Check<Checked>& check, u32 table, const u64* starts, u64 instance,
                                         u64 n_rows, u64 total, u64& start) {
    if (starts == nullptr) {
        start = instance * n_rows;
        return true;
    }
    start = starts[instance];
    if (!Checked) {
        return true;
    }
    u64 end = starts[instance + 1];
    return check.apart(table, instance, start, end, n_rows) &&
           check.below(table, instance + 1, end, total + 1);
}

// Where an instance with `n_rows` rows, the first of which is `first` in the batch, reads its factors.
template <bool Checked>
__device__ __forceinline__ bool window_of(Check<Checked>& check, u32 table, const ScaleArgs& scale,
                                          u64 instance, u64 first, u64 n_rows, u64& start) {
    start = 0;
    if (scale.windows == CONSECUTIVE) {
        start = first;
    } else if (scale.windows == TABLE) {
        start = scale.offsets[instance];
        return check.below(table, instance, start, scale.len >= n_rows ? scale.len - n_rows + 1 : 0);
    }
    return true;
}

// The last of the `n` + 1 ascending numbers `starts[i * stride]` that is not above `item`; below `n` whatever
// they hold.
__device__ __forceinline__ u64 search(const u64* starts, u64 n, u64 item, u64 stride = 1) {
    u64 low = 0;
    u64 high = n;
    while (high - low > 1) {
        u64 middle = low + (high - low) / 2;
        if (starts[middle * stride] <= item) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

// The number of an instance's topology.
template <bool Checked>
__device__ __forceinline__ bool find_topology_id(const TablesArgs& tables, Check<Checked>& check,
                                                 u64 instance, u64& id) {
    if (tables.topology_ids == nullptr) {
        id = 0;
        return true;
    }
    id = tables.topology_ids[instance];
    return check.below(TOPOLOGY_IDS, instance, id, tables.n_topologies);
}

// The steps of find_row. Each takes what the ones before have found, and is false where a value is wrong:
// then nothing that follows from it can be found.

// The instance of a table batch that has the item, and its topology; copies all have topology 0, and
// find_entry finds theirs.
template <bool Checked>
__device__ __forceinline__ bool find_topology(const TablesArgs& tables, Check<Checked>& check, u32 work_class,
                                              u64 item, u64& instance, u64& id) {
    if (tables.topology_ids != nullptr) {
        instance = search(tables.work_starts + work_class * (tables.instances + 1), tables.instances, item);
    }
    return find_topology_id(tables, check, instance, id);
}

// The item's entry in the list of its topology, and for copies its instance.
template <bool Checked>
__device__ __forceinline__ bool find_entry(const TablesArgs& tables, Check<Checked>& check, u32 work_class,
                                           u64 item, const TopologyWords& t, u64& instance, u64& entry) {
    u64 count = of_class(t.count, work_class);
    if (!check.below(WORK_ITEMS, item, 0, count)) {
        return false;
    }
    if (tables.topology_ids == nullptr) {
        instance = divide(item, count);
        entry = item - instance * count;
        return check.below(WORK_ITEMS, item, instance, tables.instances);
    }
    u64 position = work_class * (tables.instances + 1) + instance;
    u64 start = tables.work_starts[position];
    if (Checked && !(check.below(WORK_STARTS, position, start, item + 1) &&
                     check.apart(WORK_STARTS, position, start, tables.work_starts[position + 1], count) &&
                     check.below(WORK_ITEMS, item, item - start, count))) {
        return false;
    }
    entry = item - start;
    return true;
}

// Where an entry stands in `work`: entries are one word, or two in the classes PARTIAL and LONG.
__device__ __forceinline__ u64 position_of(const TopologyWords& t, u32 work_class, u64 entry) {
    u64 position = t.work + entry;
    if (work_class == PARTIAL) {
        return position + entry;
    }
    position += 2 * t.count.partial;
    if (work_class > MEDIUM) position += t.count.medium;
    if (work_class > SHORT) position += t.count.short_row + entry;
    return position;
}

// Where the rows of its instance start in the batch, targets and sources.
template <bool Checked>
__device__ __forceinline__ bool find_instance_rows(const TablesArgs& tables, Check<Checked>& check,
                                                   const TopologyWords& t, Row& row) {
    row.n_targets = static_cast<u32>(t.n_targets);
    row.n_sources = static_cast<u32>(t.n_sources);
    if (!start_of(check, TARGET_STARTS, tables.target_starts, row.instance, t.n_targets, tables.n_targets,
                  row.first_target)) {
        return false;
    }
    // The row has a place now. From here on a wrong value makes it NaN.
    row.exists = true;
    return start_of(check, SOURCE_STARTS, tables.source_starts, row.instance, t.n_sources, tables.n_sources,
                    row.first_source);
}

// All incidences of a row: `start` ... `end` of its topology's.
template <bool Checked>
__device__ __forceinline__ bool find_incidences(const TablesArgs& tables, Check<Checked>& check,
                                                const TopologyWords& t, u64 pointer, u32& start, u32& end) {
    start = tables.pointers[pointer];
    end = tables.pointers[pointer + 1];
    return check.below(POINTERS, pointer + 1, end, t.n_indices + 1) &&
           check.below(POINTERS, pointer, start, u64(end) + 1);
}

// The place of row `row.row`, and all its incidences.
template <bool Checked>
__device__ __forceinline__ bool find_place(const TablesArgs& tables, Check<Checked>& check,
                                           const TopologyWords& t, Row& row, u32& start, u32& end) {
    if (!(find_instance_rows(tables, check, t, row) &&
          find_incidences(tables, check, t, t.pointers + row.row, start, end))) {
        return false;
    }
    row.length = end - start;
    row.indices = t.indices + start;
    return true;
}

// All incidences of a row that is summed in one go: up to `longest`.
template <bool Checked>
__device__ __forceinline__ void take_all(Check<Checked>& check, const TopologyWords& t, u32 longest,
                                         u32 start, u32 end, Row& row) {
    if (check.below(POINTERS, t.pointers + row.row + 1, end, u64(start) + longest + 1)) {
        row.count = row.length;
    }
}

// Of all incidences the segment that the second word of the entry says.
template <bool Checked>
__device__ __forceinline__ void find_segment(const TablesArgs& tables, Check<Checked>& check, u64 position,
                                             Row& row) {
    u32 segment = tables.work[position + 1];
    u64 segments = (u64(row.length) + (SEGMENT - 1)) / SEGMENT;
    if (!check.below(WORK, position + 1, segment, segments)) {
        return;
    }
    u32 before = segment * SEGMENT;
    row.indices += before;
    row.count = row.length - before < SEGMENT ? row.length - before : SEGMENT;
}

// The segments before those of the instance, in the whole batch.
template <bool Checked>
__device__ __forceinline__ bool find_first_partial(const TablesArgs& tables, Check<Checked>& check, u64 id,
                                                   const TopologyWords& t, u64 instance, u64& before) {
    if (tables.topology_ids == nullptr) {
        u64 of_each = Checked ? divide(tables.items.partial, tables.instances) : 0;
        if (!check.below(TOPOLOGIES, id * TOPOLOGY_WORDS + TOPOLOGY_COUNT + PARTIAL, t.count.partial,
                         of_each + 1)) {
            return false;
        }
        before = instance * t.count.partial;
        return true;
    }
    before = tables.work_starts[instance];  // of the class PARTIAL
    return !Checked ||
           (check.apart(WORK_STARTS, instance, before, tables.work_starts[instance + 1], t.count.partial) &&
            check.below(WORK_STARTS, instance + 1, before + t.count.partial, tables.items.partial + 1));
}

// The segments of a long row: those that are listed from the second word of its entry up to that of the next
// long row.
template <bool Checked>
__device__ __forceinline__ void find_partials(const TablesArgs& tables, Check<Checked>& check, u64 id,
                                              const TopologyWords& t, u64 entry, u64 position, u64 pointer,
                                              u32 start, u32 end, Row& row) {
    u32 first = tables.work[position + 1];
    u64 next = t.count.partial;
    if (entry + 1 < t.count.long_row) {
        next = tables.work[position + 3];
        if (!check.below(WORK, position + 3, next, t.count.partial + 1)) {
            return;
        }
    }
    if (!check.below(WORK, position + 1, first, next)) {
        return;
    }
    // As many as the row's incidences need.
    u64 listed = next - first;
    u64 least = (listed - 1) * SEGMENT + 1;
    if (!(check.below(POINTERS, pointer + 1, end, start + listed * SEGMENT + 1) &&
          check.below(POINTERS, pointer, start, end >= least ? end - least + 1 : 0))) {
        return;
    }
    u64 before = 0;
    if (!find_first_partial(tables, check, id, t, row.instance, before)) {
        return;
    }
    row.partials = before + first;
    row.n_partials = static_cast<u32>(listed);
}

// The row of work item `item` of a class: the item's topology and its entry in the list of that, which says
// the row; where the row is in the batch; and its incidences, or those of its segment, or the results of its
// segments.
template <bool Checked>
__device__ __forceinline__ Row find_row(const TablesArgs& tables, Check<Checked>& check, u32 work_class,
                                        u64 item) {
    Row row = {};
    if (item >= of_class(tables.items, work_class)) {
        return row;
    }
    u64 id = 0;
    if (!find_topology(tables, check, work_class, item, row.instance, id)) {
        return row;
    }
    const TopologyWords t = tables.topologies[id];
    u64 entry = 0;
    if (!(fits(tables, check, id, t) &&
          find_entry(tables, check, work_class, item, t, row.instance, entry))) {
        return row;
    }
    u64 position = position_of(t, work_class, entry);
    u32 number = tables.work[position];
    if (!check.below(WORK, position, number, t.n_targets)) {
        return row;
    }
    row.row = number;
    u32 start = 0;
    u32 end = 0;
    if (!find_place(tables, check, t, row, start, end)) {
        return row;
    }
    if (work_class == PARTIAL) {
        find_segment(tables, check, position, row);
    } else if (work_class == LONG) {
        find_partials(tables, check, id, t, entry, position, t.pointers + number, start, end, row);
    } else {
        take_all(check, t, work_class == SHORT ? SHORT_ROW : SEGMENT, start, end, row);
    }
    return row;
}

// Incidence `i` of a row, or NO_SOURCE.
template <bool Checked>
__device__ __forceinline__ u32 source_of(const TablesArgs& tables, Check<Checked>& check, const Row& row,
                                         u32 i) {
    if (i >= row.count) {
        return NO_SOURCE;
    }
    u32 source = tables.indices[row.indices + i];
    return check.below(INDICES, row.indices + i, source, row.n_sources) ? source : NO_SOURCE;
}

// The class of a tile, and the item that group `group` of its `groups` groups of lanes has; in a tile of
// short rows each SHORT_ROW lanes have one.
struct Item {
    u32 work_class;
    u64 number;
};

__device__ __forceinline__ Item item_of(const Tiles& tiles, u64 tile, u32 groups, u32 group,
                                        u32 lane_of_warp) {
    if (tile >= tiles.with_medium) {
        return {SHORT, (tile - tiles.with_medium) * ROWS_OF_SHORT_TILE + lane_of_warp / SHORT_ROW};
    }
    if (tile >= tiles.partial) {
        return {MEDIUM, (tile - tiles.partial) * groups + group};
    }
    return {PARTIAL, tile * groups + group};
}

// The tiles that this warp takes, one every `tile_step()`.
__device__ __forceinline__ u64 first_tile() {
    return u64(blockIdx.x) * (THREADS / WARP) + threadIdx.x / WARP;
}
__device__ __forceinline__ u64 tile_step() { return u64(gridDim.x) * (THREADS / WARP); }
