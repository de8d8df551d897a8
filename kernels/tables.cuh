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
// An instance is not expanded: work item i of a class is entry `i mod count` of instance `i / count` for copies of one
// topology; for a table of instances it is found by binary search in the prefix sums of the counts.

#pragma once

#include "common.cuh"

// No source: nothing to load. Ids are below 2^32 - 1.
enum : u32 { NO_SOURCE = 0xffffffffu };

// The number of a class. By selection: an index that is not constant would put the structure into local memory.
__device__ __forceinline__ u64 of_class(const Counts& counts, u32 work_class) {
    return work_class == PARTIAL ? counts.partial
           : work_class == MEDIUM ? counts.medium
           : work_class == SHORT  ? counts.short_row
                                  : counts.long_row;
}

// ---------------------------------------------------------------------------------------------------------------------
// Which row a work item is.

struct Row {
    bool exists;  // there is such a row, and its place is known; where a check failed all the same, it becomes NaN
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
__device__ __forceinline__ bool fits(const TablesArgs& tables, Check<Checked>& check, u64 id, const TopologyWords& t) {
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
    u64 left = tables.n_work;
    if (!check.below(TOPOLOGIES, word + TOPOLOGY_COUNT + PARTIAL, t.count.partial, left / 2 + 1)) return false;
    left -= 2 * t.count.partial;
    if (!check.below(TOPOLOGIES, word + TOPOLOGY_COUNT + MEDIUM, t.count.medium, left + 1)) return false;
    left -= t.count.medium;
    if (!check.below(TOPOLOGIES, word + TOPOLOGY_COUNT + SHORT, t.count.short_row, left + 1)) return false;
    left -= t.count.short_row;
    if (!check.below(TOPOLOGIES, word + TOPOLOGY_COUNT + LONG, t.count.long_row, left / 2 + 1)) return false;
    left -= 2 * t.count.long_row;
    return check.below(TOPOLOGIES, word + TOPOLOGY_WORK, t.work, left + 1);
}

// Where the rows of an instance start in the batch.
template <bool Checked>
__device__ __forceinline__ bool start_of(Check<Checked>& check, u32 table, const u64* starts, u64 instance, u64 n_rows,
                                         u64 total, u64& start) {
    if (starts == nullptr) {
        start = instance * n_rows;
        return true;
    }
    start = starts[instance];
    if (!Checked) {
        return true;
    }
    u64 end = starts[instance + 1];
    return check.apart(table, instance, start, end, n_rows) && check.below(table, instance + 1, end, total + 1);
}

// Where an instance with `n_rows` rows, the first of which is `first` in the batch, reads its factors.
template <bool Checked>
__device__ __forceinline__ bool window_of(Check<Checked>& check, u32 table, const ScaleArgs& scale, u64 instance, u64 first,
                                          u64 n_rows, u64& start) {
    start = 0;
    if (scale.windows == CONSECUTIVE) {
        start = first;
    } else if (scale.windows == TABLE) {
        start = scale.offsets[instance];
        return check.below(table, instance, start, scale.len >= n_rows ? scale.len - n_rows + 1 : 0);
    }
    return true;
}

// The topology of an instance and its number, unless its tables are not to be used.
template <bool Checked>
__device__ __forceinline__ bool topology_of(const TablesArgs& tables, Check<Checked>& check, u64 instance, u64& id,
                                            TopologyWords& t) {
    id = 0;
    if (tables.topology_ids != nullptr) {
        id = tables.topology_ids[instance];
        if (!check.below(TOPOLOGY_IDS, instance, id, tables.n_topologies)) {
            return false;
        }
    }
    t = tables.topologies[id];
    return fits(tables, check, id, t);
}

// Where the incidences of a row start and end among those of its topology.
struct Pointers {
    u64 position;  // of the start in the table
    u32 start;
    u32 end;
};

template <bool Checked>
__device__ __forceinline__ bool pointers_of(const TablesArgs& tables, Check<Checked>& check, const TopologyWords& t, u64 row,
                                            Pointers& found) {
    u64 position = t.pointers + row;
    found = {position, tables.pointers[position], tables.pointers[position + 1]};
    return check.below(POINTERS, position + 1, found.end, t.n_indices + 1) &&
           check.below(POINTERS, position, found.start, u64(found.end) + 1);
}

// Fills in row `number` of an instance of topology `t`: its place, its length, and where its incidences start.
template <bool Checked>
__device__ __forceinline__ bool place_row(const TablesArgs& tables, Check<Checked>& check, const TopologyWords& t, u64 instance,
                                          u32 number, Row& row, Pointers& pointers) {
    row.instance = instance;
    row.row = number;
    row.n_targets = static_cast<u32>(t.n_targets);
    row.n_sources = static_cast<u32>(t.n_sources);
    if (!start_of(check, TARGET_STARTS, tables.target_starts, instance, t.n_targets, tables.n_targets, row.first_target)) {
        return false;
    }
    // From here on a wrong value makes the row NaN.
    row.exists = true;
    if (!(start_of(check, SOURCE_STARTS, tables.source_starts, instance, t.n_sources, tables.n_sources, row.first_source) &&
          pointers_of(tables, check, t, number, pointers))) {
        return false;
    }
    row.length = pointers.end - pointers.start;
    row.indices = t.indices + pointers.start;
    return true;
}

// Takes all incidences of a row, which are `longest` at most.
template <bool Checked>
__device__ __forceinline__ void take_whole_row(Check<Checked>& check, const Pointers& pointers, u32 longest, Row& row) {
    if (check.below(POINTERS, pointers.position + 1, pointers.end, u64(pointers.start) + longest + 1)) {
        row.count = row.length;
    }
}

// The last of the `n` + 1 ascending numbers `starts[i * stride]` that is not above `item`; below `n` whatever they hold.
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

// Work item `item` of a class.
template <bool Checked>
__device__ __forceinline__ Row find_row(const TablesArgs& tables, Check<Checked>& check, u32 work_class, u64 item) {
    Row found = {};
    if (item >= of_class(tables.items, work_class)) {
        return found;
    }

    // The instance, its topology, and the item's entry in the topology's list.
    if (tables.topology_ids != nullptr) {
        found.instance = search(tables.work_starts + work_class * (tables.instances + 1), tables.instances, item);
    }
    u64 id = 0;
    TopologyWords t;
    if (!topology_of(tables, check, found.instance, id, t)) {
        return found;
    }
    u64 count = of_class(t.count, work_class);
    if (!check.below(WORK_ITEMS, item, 0, count)) {
        return found;
    }
    u64 start_of_items = 0;
    if (tables.topology_ids == nullptr) {
        found.instance = divide(item, count);
        start_of_items = found.instance * count;
        if (!check.below(WORK_ITEMS, item, found.instance, tables.instances)) {
            return found;
        }
    } else {
        u64 position = work_class * (tables.instances + 1) + found.instance;
        start_of_items = tables.work_starts[position];
        if (Checked && !(check.below(WORK_STARTS, position, start_of_items, item + 1) &&
                         check.apart(WORK_STARTS, position, start_of_items, tables.work_starts[position + 1], count) &&
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
    u32 row = tables.work[position];
    if (!check.below(WORK, position, row, t.n_targets)) {
        return found;
    }

    Pointers pointers = {};
    if (!place_row(tables, check, t, found.instance, row, found, pointers)) {
        return found;
    }
    if (work_class == PARTIAL) {
        u32 segment = tables.work[position + 1];
        u64 segments = (u64(found.length) + (SEGMENT - 1)) / SEGMENT;
        if (!check.below(WORK, position + 1, segment, segments)) {
            return found;
        }
        u32 before = segment * SEGMENT;
        found.indices += before;
        found.count = found.length - before < SEGMENT ? found.length - before : SEGMENT;
    } else if (work_class == LONG) {
        // Its segments are those listed up to the first of the next long row.
        u32 first = tables.work[position + 1];
        u64 next = t.count.partial;
        if (entry + 1 < t.count.long_row) {
            next = tables.work[position + 3];
            if (!check.below(WORK, position + 3, next, t.count.partial + 1)) {
                return found;
            }
        }
        if (!check.below(WORK, position + 1, first, next)) {
            return found;
        }
        u64 listed = next - first;
        u64 least = (listed - 1) * SEGMENT + 1;
        auto [pointer, start, end] = pointers;
        if (!(check.below(POINTERS, pointer + 1, end, start + listed * SEGMENT + 1) &&
              check.below(POINTERS, pointer, start, end >= least ? end - least + 1 : 0))) {
            return found;
        }
        u64 before = 0;
        if (tables.topology_ids == nullptr) {
            u64 of_each = Checked ? divide(tables.items.partial, tables.instances) : 0;
            if (!check.below(TOPOLOGIES, id * TOPOLOGY_WORDS + TOPOLOGY_COUNT + PARTIAL, t.count.partial, of_each + 1)) {
                return found;
            }
            before = found.instance * t.count.partial;
        } else {
            before = tables.work_starts[found.instance];  // of the class PARTIAL
            if (Checked &&
                !(check.apart(WORK_STARTS, found.instance, before, tables.work_starts[found.instance + 1],
                              t.count.partial) &&
                  check.below(WORK_STARTS, found.instance + 1, before + t.count.partial, tables.items.partial + 1))) {
                return found;
            }
        }
        found.partials = before + first;
        found.n_partials = static_cast<u32>(listed);
    } else {
        take_whole_row(check, pointers, work_class == SHORT ? SHORT_ROW : SEGMENT, found);
    }
    return found;
}

// Incidence `i` of a row, or NO_SOURCE.
template <bool Checked>
__device__ __forceinline__ u32 source_of(const TablesArgs& tables, Check<Checked>& check, const Row& row, u32 i) {
    if (i >= row.count) {
        return NO_SOURCE;
    }
    u32 source = tables.indices[row.indices + i];
    return check.below(INDICES, row.indices + i, source, row.n_sources) ? source : NO_SOURCE;
}

// The class of a tile, and the item that group `group` of its `groups` groups of lanes has; in a tile of short rows each
// SHORT_ROW lanes have one.
struct Item {
    u32 work_class;
    u64 number;
};

__device__ __forceinline__ Item item_of(const Tiles& tiles, u64 tile, u32 groups, u32 group, u32 lane_of_warp) {
    if (tile >= tiles.groups) {
        return {SHORT, (tile - tiles.groups) * ROWS_OF_SHORT_TILE + lane_of_warp / SHORT_ROW};
    }
    if (tile >= tiles.partial) {
        return {MEDIUM, (tile - tiles.partial) * groups + group};
    }
    return {PARTIAL, tile * groups + group};
}

// The tiles that this warp takes, one every `tile_step()`.
__device__ __forceinline__ u64 first_tile() { return u64(blockIdx.x) * (THREADS / WARP) + threadIdx.x / WARP; }
__device__ __forceinline__ u64 tile_step() { return u64(gridDim.x) * (THREADS / WARP); }
