// Sums of one number for each incidence of a row: weighted vertex degrees, and what of the weight gradient comes through
// them.
//
//     degree      D_v = sum of w_e over the hyperedges of v (or their number)     L_v = 1/D_v or 1/sqrt(D_v), and 0 for D_v = 0
//     degree_gradient   dloss/dD_v = -L_v <g_v, s_v> / D_v                                 row
//                                  = -(L_v <g_v, s_v> + L_v <x_v, r_v>) / (2 D_v)          symmetric, and 0 for D_v = 0
//     weight_gradient   dloss/dw_e = <q_e, z_e> + sum of dloss/dD_v over the vertices of e
//
// where y_v = L_v s_v, dloss/dx_v = L_v r_v, and the dot products come from src/cuda/gather.rs. Degrees are of the accumulation
// type, the gradients double.
//
// A row's sum runs in 32 interleaved lanes, which are then added in halves; a row of more than SEGMENT incidences is cut into
// segments of that length, counted from its start, whose sums are stored in scratch memory (overwritten), and `add_*` adds them
// in order. So the bits depend on the row alone. Launched by src/cuda/degree.rs; `sum` in src/cpu/gather.rs is the same sum.
//
// A negative degree under the symmetric normalization is published like a violation, in unchecked builds too.

#include "tables.cuh"

// src/cuda/degree.rs holds the same structure.
struct SumArgs {
    Tables tables;
    Tiles tiles;
    Scale values;  // of the sources; NO_SCALE: the degree is the number of incidences
    void* partials;
    Record record;
    void* degree;  // of the accumulation type, as `left`
    void* left;
    const double* dots;  // of each row `dot_blocks`; null: none
    double* gradient;
    u32 dot_blocks;
    u32 symmetric;
};

struct DegreeGradientArgs {
    const void* degree;
    const void* left;
    const double* dots_y;
    const double* dots_x;  // null unless symmetric
    double* gradient;
    u64 n_vertices;  // of all instances
    u32 dot_blocks;
    u32 padding;
};

static_assert(sizeof(SumArgs) == 296 && sizeof(DegreeGradientArgs) == 56, "sizes");
#if !defined(__CUDACC_RTC__)
static_assert(__builtin_offsetof(SumArgs, values) == 200 && __builtin_offsetof(SumArgs, partials) == 232 &&
                  __builtin_offsetof(SumArgs, record) == 240 && __builtin_offsetof(SumArgs, degree) == 256 &&
                  __builtin_offsetof(SumArgs, gradient) == 280 && __builtin_offsetof(SumArgs, symmetric) == 292,
              "offsets");
#endif

// Stores a degree and its inverse.
template <typename A>
struct Degrees {
    using Value = A;
    static constexpr u32 SUM = DEGREE;
    static constexpr u32 ADD = ADD_DEGREE;

    static __device__ __forceinline__ void finish(const SumArgs& args, const Row& row, bool poisoned, A sum) {
        bool weighted = args.values.windows != NO_SCALE;
        A degree = weighted ? sum : static_cast<A>(row.length);
        if (poisoned) {
            degree = not_a_number<A>();
        }
        A left = args.symmetric != 0 ? A(1) / square_root(degree) : A(1) / degree;
        u64 at = row.first_target + row.row;
        static_cast<A*>(args.degree)[at] = degree;
        static_cast<A*>(args.left)[at] = degree == A(0) ? A(0) : left;
        if (args.symmetric != 0 && weighted && degree < A(0)) {
            u64 value = static_cast<u64>(__double_as_longlong(static_cast<double>(degree)));
            publish_first(args.record, {0, DEGREE, NEGATIVE_DEGREE, args.tables.orientation, row.instance, row.row, value, 0});
        }
    }
};

// Stores a hyperedge's gradient.
struct WeightGradients {
    using Value = double;
    static constexpr u32 SUM = WEIGHT_GRADIENT;
    static constexpr u32 ADD = ADD_WEIGHT_GRADIENT;

    static __device__ __forceinline__ void finish(const SumArgs& args, const Row& row, bool poisoned, double sum) {
        u64 at = row.first_target + row.row;
        double gradient = args.dots != nullptr ? sum_of_blocks(args.dots, at, args.dot_blocks) : 0;
        args.gradient[at] = poisoned ? not_a_number<double>() : gradient + sum;
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
        V sum = 0;
        u64 start = 0;
        if (args.values.windows != NO_SCALE && row.count != 0 &&
            window_of(check, SOURCE_WINDOWS, args.values, row.instance, row.first_source, row.n_sources, start)) {
            const V* values = reinterpret_cast<const V*>(args.values.values) + start;
            for (u32 i = lane; i < row.count; i += width) {
                u32 source = source_of(args.tables, check, row, i);
                if (source != NO_SOURCE) {
                    sum += values[source];
                }
            }
        }
        sum = sum_of_group(sum, width);
        bool poisoned = false;
        if (Checked) {
            u32 lanes = width == WARP ? ALL_LANES : ((1u << width) - 1) << lane_of_warp / width * width;
            poisoned = (__ballot_sync(ALL_LANES, check.failed) & lanes) != 0;
        }
        if (lane == 0) {
            if (item.work_class == PARTIAL) {
                // Also where no row could be found: somebody adds what is here.
                if (item.number < args.tables.items.partial) {
                    static_cast<V*>(args.partials)[item.number] = poisoned ? not_a_number<V>() : sum;
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
        V sum = 0;
        for (u32 first = 0; first < row.n_partials; first += WARP) {
            V mine = first + lane < row.n_partials ? partials[first + lane] : V(0);
            for (u32 k = 0; k < WARP && first + k < row.n_partials; k++) {
                sum += shuffle(mine, k);
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
        double degree = static_cast<const A*>(args.degree)[v];
        double left = static_cast<const A*>(args.left)[v];
        double gradient = 0;
        if (left != 0) {
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
