// Sums of one number for each incidence of a row, and what is stored for the row.
//
// A row's sum runs in 32 interleaved lanes, which are then added in halves; a row of more than SEGMENT
// incidences is cut into segments of that length, counted from its start, whose sums are stored in scratch
// memory (overwritten) and added in order by a second launch. So the bits depend on the row alone. `sum` in
// src/cpu/gather.rs is the same sum.
//
// A violation names the kernel, which is the same for both launches: its table and position tell the rest.
//
// `Of` says what is summed: `value` of the source that is number `at` in the values, from `zero` on, by
// `Combine`; and what `epilogue` stores for the row. `poison` is what a segment has where a wrong value was
// found.

#pragma once

#include "tables.cuh"

enum : u32 {
    // The segments that a warp exchanges before it adds the first. The loop has no remainder: it is half as
    // much PTX as what the compiler unrolls by itself.
    TOGETHER = 4,
};

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

// What `combine` makes of the sums of a long row's segments, in order, from `zero` on.
template <typename Combine, typename V>
__device__ __forceinline__ V add_segments(const void* partials, const Row& row, V zero) {
    Combine combine;
    V sum = zero;
    u32 lane = threadIdx.x % WARP;
    const V* of_row = static_cast<const V*>(partials) + row.partials;
    for (u32 first = 0; first < row.n_partials; first += WARP) {
        V mine = first + lane < row.n_partials ? of_row[first + lane] : zero;
        // Behind the last segment there are zeros, which change no sum: one that begins at 0 is never -0.
        for (u32 k = 0; k < WARP && first + k < row.n_partials; k += TOGETHER) {
#pragma unroll
            for (u32 j = 0; j < TOGETHER; j++) {
                sum = combine(sum, shuffle(mine, k + j));
            }
        }
    }
    return sum;
}

// The rows of a launch: all but the long ones, and the segments of those; or the long ones. A warp takes a
// segment, a row or four short ones. It is one kernel for both launches, since most of its code finds a row
// and stores a row. Long rows are the tiles behind all others: a flag for the launch would cost registers.
template <typename Of, bool Checked>
__device__ __forceinline__ void sum_rows(const SumArgs& args) {
    using V = typename Of::Value;
    u32 lane_of_warp = threadIdx.x % WARP;
    for (u64 tile = args.begin_tile + first_tile(); tile < args.end_tile; tile += tile_step()) {
        Item item = tile < args.tiles.all ? item_of(args.tiles, tile, 1, 0, lane_of_warp)
                                          : Item{LONG, tile - args.tiles.all};
        Check<Checked> check;
        Row row = find_row(args.tables, check, item.work_class, item.number);
        u32 width = item.work_class == SHORT ? SHORT_ROW : WARP;
        u32 lane = lane_of_warp % width;
        using Combine = typename Of::Combine;
        V sum = item.work_class == LONG
                    ? add_segments<Combine>(args.partials, row, Of::zero())
                    : sum_of_row<Combine>(args.tables, check, args.values, row, width, Of::zero(),
                                          [&](u64 at) { return Of::value(args, row, at); });
        bool poisoned = false;
        if (Checked) {
            u32 lanes = width == WARP ? ALL_LANES : ((1u << width) - 1) << lane_of_warp / width * width;
            poisoned = (__ballot_sync(ALL_LANES, check.failed) & lanes) != 0;
        }
        if (lane == 0) {
            if (item.work_class == PARTIAL) {
                // Also where no row was found: the second launch reads this place.
                if (item.number < args.tables.items.partial) {
                    static_cast<V*>(args.partials)[item.number] = poisoned ? Of::poison() : sum;
                }
            } else if (row.exists) {
                Of::epilogue(args, row, poisoned, sum);
            }
        }
        check.publish(args.record, Of::KERNEL, args.tables.orientation, row.instance);
    }
}
