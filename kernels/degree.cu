// Sums of one number for each incidence of a row: weighted vertex degrees, and what of the weight gradient comes through
// them.
//
//     degree      D_v = sum of w_e over the hyperedges of v (or their number)     L_v = 1/D_v or 1/sqrt(D_v), and 0 for D_v = 0
//     degree_gradient   dloss/dD_v = -L_v <g_v, s_v> / D_v                                 row
//                                  = -(L_v <g_v, s_v> + L_v <x_v, r_v>) / (2 D_v)          symmetric, and 0 for D_v = 0
//     edge_shift        t_e = -(the largest shift s_v of the vertices of e), or more where the smallest is far below
//     weight_gradient   dloss/dw_e = <q_e, z_e> + sum of dloss/dD_v over the vertices of e
//
// where y_v = L_v s_v, dloss/dx_v = L_v r_v, and the dot products come from src/cuda/gather.rs. Degrees are of the accumulation
// type, the gradients double. Where weights are part of the degrees, L, dloss/dD and q are multiplied by powers of two, so that
// weights may have any scale: see `Conv::shift` in src/conv.rs, which has the formulas.
//
// A row's sum runs in 32 interleaved lanes, which are then added in halves; a row of more than SEGMENT incidences is cut into
// segments of that length, counted from its start, whose sums are stored in scratch memory (overwritten), and `add_*` adds them
// in order. So the bits depend on the row alone. Launched by src/cuda/degree.rs; `sum` in src/cpu/gather.rs is the same sum.
//
// A negative degree under the symmetric normalization is published like a violation, in unchecked builds too.

#include "tables.cuh"

// Whether L is 1/sqrt(D).
__device__ __forceinline__ bool is_symmetric(const SumArgs& args) { return args.shifts_of_degree == 2; }

// What is summed over the incidences of a row, from `zero` on: `value` of the source that is number `at` in the values.

// Stores a degree, its inverse and its shift.
template <typename A>
struct Degrees {
    using Value = A;
    using Combine = Plus;
    static constexpr u32 SUM = DEGREE;
    static constexpr u32 ADD = ADD_DEGREE;

    static __device__ __forceinline__ A zero() { return 0; }
    static __device__ __forceinline__ A poison() { return not_a_number<A>(); }

    static __device__ __forceinline__ A value(const SumArgs& args, const Row&, u64 at) {
        return reinterpret_cast<const A*>(args.values.values)[at];
    }

    static __device__ __forceinline__ void finish(const SumArgs& args, const Row& row, bool poisoned, A sum) {
        bool weighted = args.values.windows != NO_SCALE;
        A degree = weighted ? sum : static_cast<A>(row.length);
        if (poisoned) {
            degree = not_a_number<A>();
        }
        bool finite = degree - degree == A(0);
        A shifted = degree;
        u64 at = row.first_target + row.row;
        if (args.vertex_shifts != nullptr) {
            int shift = NO_SHIFT;
            if (finite && degree != A(0)) {
                int n = exponent(degree);
                bool plain = (n < 0 ? -n : n) <= args.plain_exponents;
                n = n < args.least_exponent ? args.least_exponent : n;
                // Rounded down: the last bit of the exponent stays with the degree.
                shift = plain ? 0 : -(is_symmetric(args) ? n >> 1 : n);
                shifted = times_power_of_two(degree, static_cast<int>(args.shifts_of_degree) * shift);
            }
            args.vertex_shifts[at] = shift;
        }
        A left = is_symmetric(args) ? A(1) / square_root(shifted) : A(1) / shifted;
        left = degree == A(0) ? A(0) : finite ? left : not_a_number<A>();
        static_cast<A*>(args.degree)[at] = degree;
        static_cast<A*>(args.left)[at] = left;
        if (args.weight_left != nullptr) {
            static_cast<A*>(args.weight_left)[at] = row.length == 1 && finite ? A(0) : left;
        }
        if (is_symmetric(args) && weighted && degree < A(0)) {
            u64 value = static_cast<u64>(__double_as_longlong(static_cast<double>(degree)));
            publish_first(args.record, {0, DEGREE, NEGATIVE_DEGREE, args.tables.orientation, row.instance, row.row, value, 0});
        }
    }
};

// Two integers as one number that lanes can exchange: the largest shift, and the largest of those with the other sign.
struct LargerOfEach {
    static __device__ __forceinline__ u64 pair(int a, int b) { return u64(static_cast<u32>(a)) << 32 | static_cast<u32>(b); }
    static __device__ __forceinline__ int first(u64 pair) { return static_cast<int>(static_cast<u32>(pair >> 32)); }
    static __device__ __forceinline__ int second(u64 pair) { return static_cast<int>(static_cast<u32>(pair)); }

    __device__ __forceinline__ u64 operator()(u64 a, u64 b) const {
        return pair(first(a) > first(b) ? first(a) : first(b), second(a) > second(b) ? second(a) : second(b));
    }
};

// Stores a hyperedge's shift, from those of its vertices. `A` is the accumulation type.
template <typename A>
struct EdgeShifts {
    using Value = u64;
    using Combine = LargerOfEach;
    static constexpr u32 SUM = EDGE_SHIFT;
    static constexpr u32 ADD = ADD_EDGE_SHIFT;

    static __device__ __forceinline__ u64 zero() { return LargerOfEach::pair(NO_SHIFT, NO_SHIFT); }
    static __device__ __forceinline__ u64 poison() { return zero(); }

    static __device__ __forceinline__ u64 value(const SumArgs& args, const Row&, u64 at) {
        int shift = args.vertex_shifts[at];
        return shift == NO_SHIFT ? zero() : LargerOfEach::pair(shift, times_shift(-1, shift));
    }

    // As `Conv::edge_shift`.
    static __device__ __forceinline__ void finish(const SumArgs& args, const Row& row, bool, u64 pair) {
        int largest = LargerOfEach::first(pair);
        int range = -Powers<A>::LEAST / static_cast<int>(args.shifts_of_degree);
        int spread = add_shifts(largest, LargerOfEach::second(pair));
        int more = clamp(add_shifts(spread, -range / 3), 0, range / 2);
        args.edge_shifts[row.first_target + row.row] = largest == NO_SHIFT ? 0 : add_shifts(times_shift(-1, largest), more);
    }
};

// Stores a hyperedge's gradient.
struct WeightGradients {
    using Value = double;
    using Combine = Plus;
    static constexpr u32 SUM = WEIGHT_GRADIENT;
    static constexpr u32 ADD = ADD_WEIGHT_GRADIENT;

    static __device__ __forceinline__ double zero() { return 0; }
    static __device__ __forceinline__ double poison() { return not_a_number<double>(); }

    static __device__ __forceinline__ double value(const SumArgs& args, const Row& row, u64 at) {
        double gradient = reinterpret_cast<const double*>(args.values.values)[at];
        int shift = add_shifts(args.edge_shifts[row.first_target + row.row], args.vertex_shifts[at]);
        return times_power_of_two(gradient, times_shift(static_cast<int>(args.shifts_of_degree), shift));
    }

    static __device__ __forceinline__ void finish(const SumArgs& args, const Row& row, bool poisoned, double sum) {
        u64 at = row.first_target + row.row;
        int shift = args.edge_shifts[at];
        int shifts_of_degree = static_cast<int>(args.shifts_of_degree);
        double gradient = args.dots != nullptr ? sum_of_blocks(args.dots, at, args.dot_blocks) : 0;
        gradient = times_power_of_two(gradient, times_shift(shifts_of_degree - 1, shift)) + sum;
        gradient = times_power_of_two(gradient, times_shift(-shifts_of_degree, shift));
        args.gradient[at] = poisoned ? not_a_number<double>() : gradient;
    }
};

// All rows but the long ones, and the segments of those. A warp takes a segment, a row of medium length or four short ones.
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
        typename Of::Combine combine;
        V sum = Of::zero();
        u64 start = 0;
        if (args.values.windows != NO_SCALE && row.count != 0 &&
            window_of(check, SOURCE_WINDOWS, args.values, row.instance, row.first_source, row.n_sources, start)) {
            for (u32 i = lane; i < row.count; i += width) {
                u32 source = source_of(args.tables, check, row, i);
                if (source != NO_SOURCE) {
                    sum = combine(sum, Of::value(args, row, start + source));
                }
            }
        }
        sum = fold_group(sum, width, combine);
        bool poisoned = false;
        if (Checked) {
            u32 lanes = width == WARP ? ALL_LANES : ((1u << width) - 1) << lane_of_warp / width * width;
            poisoned = (__ballot_sync(ALL_LANES, check.failed) & lanes) != 0;
        }
        if (lane == 0) {
            if (item.work_class == PARTIAL) {
                // Also where no row could be found: somebody adds what is here.
                if (item.number < args.tables.items.partial) {
                    static_cast<V*>(args.partials)[item.number] = poisoned ? Of::poison() : sum;
                }
            } else if (row.exists) {
                Of::finish(args, row, poisoned, sum);
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
            Of::finish(args, row, check.failed, sum);
        }
        check.publish(args.record, Of::ADD, args.tables.orientation, row.instance);
    }
}

// The gradients of all degrees, a thread for each.
template <typename A>
__device__ __forceinline__ void degree_gradient(const DegreeGradientArgs& args) {
    u64 step = u64(gridDim.x) * THREADS;
    for (u64 v = u64(blockIdx.x) * THREADS + threadIdx.x; v < args.n_vertices; v += step) {
        double left = static_cast<const A*>(args.left)[v];
        double gradient = 0;
        if (static_cast<const A*>(args.weight_left)[v] != A(0)) {
            int shift = times_shift(static_cast<int>(args.shifts_of_degree), args.shifts[v]);
            double degree = times_power_of_two(static_cast<const A*>(args.degree)[v], shift);
            double through_y = left * sum_of_blocks(args.dots_y, v, args.dot_blocks);
            if (args.dots_x == nullptr) {
                gradient = -(through_y / degree);
            } else {
                double through_x = left * sum_of_blocks(args.dots_x, v, args.dot_blocks);
                gradient = -((through_y + through_x) / (2 * degree));
            }
        }
        args.gradient[v] = gradient;
    }
}

// Without a number of blocks the assembler spills in some of these, to make room for more.
#define ENTRIES(A, NAME, CHECKED)                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) degree_##NAME(const SumArgs args) {                   \
        sum_rows<Degrees<A>, CHECKED>(args);                                                                    \
    }                                                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) add_degree_##NAME(const SumArgs args) {               \
        add_sums<Degrees<A>, CHECKED>(args);                                                                    \
    }                                                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) edge_shift_##NAME(const SumArgs args) {               \
        sum_rows<EdgeShifts<A>, CHECKED>(args);                                                                 \
    }                                                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) add_edge_shift_##NAME(const SumArgs args) {           \
        add_sums<EdgeShifts<A>, CHECKED>(args);                                                                 \
    }

ENTRIES(float, f32, false)
ENTRIES(float, f32_checked, true)
ENTRIES(double, f64, false)
ENTRIES(double, f64_checked, true)

// Gradients are double for all types.
#define ENTRIES_OF_GRADIENTS(NAME, CHECKED)                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) weight_gradient##NAME(const SumArgs args) {           \
        sum_rows<WeightGradients, CHECKED>(args);                                                               \
    }                                                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) add_weight_gradient##NAME(const SumArgs args) {       \
        add_sums<WeightGradients, CHECKED>(args);                                                               \
    }

ENTRIES_OF_GRADIENTS(, false)
ENTRIES_OF_GRADIENTS(_checked, true)

extern "C" __global__ void __launch_bounds__(THREADS, 8) degree_gradient_f32(const DegreeGradientArgs args) {
    degree_gradient<float>(args);
}
extern "C" __global__ void __launch_bounds__(THREADS, 8) degree_gradient_f64(const DegreeGradientArgs args) {
    degree_gradient<double>(args);
}
