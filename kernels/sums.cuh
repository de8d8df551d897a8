// Sums of one number for each incidence of a row, and what is stored for the row.
//
// A row's sum runs in 32 interleaved lanes, which are then added in halves; a row of more than SEGMENT
// incidences is cut into segments of that length, counted from its start, whose sums are stored in scratch
// memory (overwritten), and `add_*` adds them in order. So the bits depend on the row alone. `sum` in
// src/cpu/gather.rs is the same sum.
//
// `Of` says what is summed: `value` of the source that is number `at` in the values, from `zero` on, by
// `Combine`; and what `epilogue` stores for the row. `poison` is what a segment has where a wrong value was
// found.

#pragma once

#include "tables.cuh"

// What `combine` makes of `value(i)` of a row's incidences, from `zero` on, where i is the number of the
// source in `values`: in all of the `width` lanes that know the row. Without values it is `zero`, and no
// index is read.
template <typename Combine, typename V, bool Checked, typename Value>
__device__ __forceinline__ V sum_of_row(const TablesArgs& tables, Check<Checked>& check,
                                        const ScaleArgs& values, const Row& row, u32 width, V zero,
                                        Value value) {
    Combine combine;
    V sum = zero;
    u64 start = 0;
    if (values.windows != NO_SCALE && row.count != 0 &&
        window_of(check, SOURCE_WINDOWS, values, row.instance, row.first_source, row.n_sources, start)) {
        for (u32 i = threadIdx.x % width; i < row.count; i += width) {
            u32 source = source_of(tables, check, row, i);
            if (source != NO_SOURCE) {
                sum = combine(sum, value(start + source));
            }
        }
    }
    return fold_group(sum, width, combine);
}

// All rows but the long ones, and the segments of those. A warp takes a segment, a row of medium length or
// four short ones.
template <typename Of, bool Checked>
__device__ __forceinline__ void sum_rows(const SumArgs& args) {
    using V = typename Of::Value;
    u32 lane_of_warp = threadIdx.x % WARP;
    for (u64 tile = first_tile(); tile < args.tiles.all; tile += tile_step()) {
        Item item = item_of(args.tiles, tile, 1, 0, lane_of_warp);
        Check<Checked> check;
        Row row = find_row(args.tables, check, item.work_class, item.number);
        u32 width = item.work_class == SHORT ? SHORT_ROW : WARP;
        u32 lane = lane_of_warp % width;
        V sum = sum_of_row<typename Of::Combine>(args.tables, check, args.values, row, width, Of::zero(),
                                                 [&](u64 at) { return Of::value(args, row, at); });
        bool poisoned = false;
        if (Checked) {
            u32 lanes = width == WARP ? ALL_LANES : ((1u << width) - 1) << lane_of_warp / width * width;
            poisoned = (__ballot_sync(ALL_LANES, check.failed) & lanes) != 0;
        }
        if (lane == 0) {
            if (item.work_class == PARTIAL) {
                // Also where no row was found: the kernel that adds the segments reads this place.
                if (item.number < args.tables.items.partial) {
                    static_cast<V*>(args.partials)[item.number] = poisoned ? Of::poison() : sum;
                }
            } else if (row.exists) {
                Of::epilogue(args, row, poisoned, sum);
            }
        }
        check.publish(args.record, Of::SUM, args.tables.orientation, row.instance);
    }
}

// The long rows, from the sums of their segments. A warp takes one.
template <typename Of, bool Checked>
__device__ __forceinline__ void add_sums(const SumArgs& args) {
    using V = typename Of::Value;
    u32 lane = threadIdx.x % WARP;
    for (u64 tile = first_tile(); tile < args.tiles.long_row; tile += tile_step()) {
        Check<Checked> check;
        Row row = find_row(args.tables, check, LONG, tile);
        const V* partials = static_cast<const V*>(args.partials) + row.partials;
        typename Of::Combine combine;
        V sum = Of::zero();
        for (u32 first = 0; first < row.n_partials; first += WARP) {
            V mine = first + lane < row.n_partials ? partials[first + lane] : Of::zero();
            for (u32 k = 0; k < WARP && first + k < row.n_partials; k++) {
                sum = combine(sum, shuffle(mine, k));
            }
        }
        if (row.exists && lane == 0) {
            Of::epilogue(args, row, check.failed, sum);
        }
        check.publish(args.record, Of::ADD, args.tables.orientation, row.instance);
    }
}
