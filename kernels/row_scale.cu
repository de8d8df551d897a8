// The row scale: the factor that a row's gradient is passed on with, for each target row of a batch.
//
//     row_scale  p_d = (2^-hs t_d) mean_d
//
// where mean_d is 1, or 1/count for a mean; s is the shift of d, and h is how often that counts.
//
// Factors are of the accumulation type and are overwritten. Launched by src/cuda/row_scale.rs.
//
// Modules: sums.

#include "modules.cuh"
#include "tables.cuh"

// That of row `i` of the batch.
template <typename A, bool Checked>
__device__ __forceinline__ bool row_scale_of(const RowScaleArgs& args, Check<Checked>& check, u64 i,
                                             u64& instance, A& row_scale) {
    const TablesArgs& tables = args.tables;
    u64 id = 0;
    if (tables.topology_ids != nullptr) {
        instance = search(tables.target_starts, tables.instances, i);
    }
    if (!find_topology_id(tables, check, instance, id)) {
        return false;
    }
    const TopologyWords t = tables.topologies[id];
    if (!(fits(tables, check, id, t) && check.below(WORK_ITEMS, i, 0, t.n_targets))) {
        return false;
    }
    if (tables.topology_ids == nullptr) {
        instance = divide(i, t.n_targets);
        if (!check.below(WORK_ITEMS, i, instance, tables.instances)) {
            return false;
        }
    }
    u64 first = 0;
    if (!start_of(check, TARGET_STARTS, tables.target_starts, instance, t.n_targets, tables.n_targets,
                  first)) {
        return false;
    }
    u64 row = i - first;
    if (!check.below(WORK_ITEMS, i, row, t.n_targets)) {
        return false;
    }
    u32 start = 0;
    u32 end = 0;
    if (!find_incidences(tables, check, t, t.pointers + row, start, end)) {
        return false;
    }
    A factor = 1;
    if (args.scale.windows != NO_SCALE) {
        u64 window = 0;
        if (!window_of(check, TARGET_WINDOWS, args.scale, instance, first, t.n_targets, window)) {
            return false;
        }
        factor = static_cast<const A*>(args.scale.values)[window + row];
    }
    if (args.shifts != nullptr) {
        factor =
            times_power_of_two(factor, times_shift(-static_cast<int>(args.shifts_of_degree), args.shifts[i]));
    }
    row_scale = factor * (args.mean != 0 ? inverse_count<A>(end - start) : A(1));
    return true;
}

template <typename A, bool Checked>
__device__ __forceinline__ void row_scales(const RowScaleArgs& args) {
    u64 step = u64(gridDim.x) * THREADS;
    for (u64 i = u64(blockIdx.x) * THREADS + threadIdx.x; i < args.tables.n_targets; i += step) {
        Check<Checked> check;
        u64 instance = 0;
        A row_scale = 0;
        bool known = row_scale_of(args, check, i, instance, row_scale);
        static_cast<A*>(args.row_scale)[i] = known ? row_scale : not_a_number<A>();
        check.publish(args.record, ROW_SCALE, args.tables.orientation, instance);
    }
}

// Without a number of blocks the assembler spills in some of these, to make room for more.
#define KERNELS(A, NAME, CHECKS) \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) row_scale_##NAME(const RowScaleArgs args) { \
        row_scales<A, CHECKS>(args); \
    }

MODULES_OF_SUMS(KERNELS)
