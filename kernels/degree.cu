// Weighted vertex degrees, the shifts that keep them in range, and the gradients of degrees.
//
//     degree           D_v = sum of w_e over the hyperedges of v (or their number)
//                      L_v = 1/D_v or 1/sqrt(D_v), and 0 for D_v = 0
//     edge_shift       t_e = -(the largest shift s_v of the vertices of e), or more where the smallest is
//                      far below
//     degree_gradient  dloss/dD_v = -L_v <g_v, s_v> / D_v                            row
//                                 = -(L_v <g_v, s_v> + L_v <x_v, r_v>) / (2 D_v)     symmetric
//                                 = 0 for D_v = 0
//
// where y_v = L_v s_v, dloss/dx_v = L_v r_v, and the dot products come from gather.cu. Degrees are of the
// accumulation type, their gradients double. Everything is overwritten. Where weights are part of the
// degrees, L and dloss/dD are multiplied by powers of two, so that weights may have any scale: see
// `Conv::shift` in src/conv.rs, which has the formulas.
//
// A negative degree under the symmetric normalization is published like a violation, in unchecked builds too.
// Launched by src/cuda/degree.rs.
//
// Modules: sums.

#include "degree.cuh"
#include "modules.cuh"
#include "sums.cuh"

// Stores a degree, its inverse and its shift.
template <typename A>
struct Degrees {
    using Value = A;
    using Combine = Plus;
    static constexpr u32 KERNEL = DEGREE;

    static __device__ __forceinline__ A zero() { return 0; }
    static __device__ __forceinline__ A poison() { return not_a_number<A>(); }

    static __device__ __forceinline__ A value(const SumArgs& args, const Row&, u64 at) {
        return static_cast<const A*>(args.values.values)[at];
    }

    static __device__ __forceinline__ void epilogue(const SumArgs& args, const Row& row, bool poisoned,
                                                    A sum) {
        bool weighted = args.values.windows != NO_SCALE;
        A degree = weighted ? sum : static_cast<A>(row.length);
        if (poisoned) {
            degree = not_a_number<A>();
        }
        u64 at = row.first_target + row.row;
        bool is_shifted = args.vertex_shifts != nullptr;
        Inverse<A> inverse = inverse_of(args, degree, is_shifted);
        if (is_shifted) {
            args.vertex_shifts[at] = inverse.shift;
        }
        static_cast<A*>(args.degree)[at] = degree;
        static_cast<A*>(args.inv_degree)[at] = inverse.inv_degree;
        if (args.weight_inv_degree != nullptr) {
            bool is_left_out = row.length == 1 && is_finite(degree);
            static_cast<A*>(args.weight_inv_degree)[at] = is_left_out ? A(0) : inverse.inv_degree;
        }
        if (weighted) {
            publish_if_negative(args.record, args, DEGREE, args.tables.orientation, row, degree);
        }
    }
};

// Two integers as one number that lanes can exchange: the largest shift, and the largest of those with the
// other sign.
struct LargerOfEach {
    static __device__ __forceinline__ u64 pair(int a, int b) {
        return u64(static_cast<u32>(a)) << 32 | static_cast<u32>(b);
    }
    static __device__ __forceinline__ int first(u64 pair) {
        return static_cast<int>(static_cast<u32>(pair >> 32));
    }
    static __device__ __forceinline__ int second(u64 pair) {
        return static_cast<int>(static_cast<u32>(pair));
    }

    __device__ __forceinline__ u64 operator()(u64 a, u64 b) const {
        return pair(first(a) > first(b) ? first(a) : first(b), second(a) > second(b) ? second(a) : second(b));
    }
};

// Stores a hyperedge's shift, from those of its vertices. `A` is the accumulation type.
template <typename A>
struct EdgeShifts {
    using Value = u64;
    using Combine = LargerOfEach;
    static constexpr u32 KERNEL = EDGE_SHIFT;

    static __device__ __forceinline__ u64 zero() { return LargerOfEach::pair(NO_SHIFT, NO_SHIFT); }
    static __device__ __forceinline__ u64 poison() { return zero(); }

    static __device__ __forceinline__ u64 value(const SumArgs& args, const Row&, u64 at) {
        int shift = args.vertex_shifts[at];
        return shift == NO_SHIFT ? zero() : LargerOfEach::pair(shift, times_shift(-1, shift));
    }

    static __device__ __forceinline__ void epilogue(const SumArgs& args, const Row& row, bool, u64 pair) {
        int smallest = times_shift(-1, LargerOfEach::second(pair));
        int shift = edge_shift<A>(args, LargerOfEach::first(pair), smallest);
        args.edge_shifts[row.first_target + row.row] = shift;
    }
};

// The gradients of all degrees, a thread for each. It reads no table: checked modules have it as it is.
template <typename A>
__device__ __forceinline__ void degree_gradient(const DegreeGradientArgs& args) {
    u64 step = u64(gridDim.x) * THREADS;
    for (u64 v = u64(blockIdx.x) * THREADS + threadIdx.x; v < args.n_vertices; v += step) {
        double inv_degree = static_cast<const A*>(args.inv_degree)[v];
        double gradient = 0;
        if (static_cast<const A*>(args.weight_inv_degree)[v] != A(0)) {
            int shift = times_shift(static_cast<int>(args.shifts_of_degree), args.shifts[v]);
            double degree = times_power_of_two(static_cast<const A*>(args.degree)[v], shift);
            double through_y = inv_degree * sum_of_blocks(args.dots_y, v, args.dot_blocks);
            if (args.dots_x == nullptr) {
                gradient = -(through_y / degree);
            } else {
                double through_x = inv_degree * sum_of_blocks(args.dots_x, v, args.dot_blocks);
                gradient = -((through_y + through_x) / (2 * degree));
            }
        }
        args.gradient[v] = gradient;
    }
}

// Without a number of blocks the assembler spills in some of these, to make room for more.
#define KERNELS(A, NAME, CHECKS) \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) degree_##NAME(const SumArgs args) { \
        sum_rows<Degrees<A>, CHECKS>(args); \
    } \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) edge_shift_##NAME(const SumArgs args) { \
        sum_rows<EdgeShifts<A>, CHECKS>(args); \
    } \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) \
        degree_gradient_##NAME(const DegreeGradientArgs args) { \
        degree_gradient<A>(args); \
    }

MODULES_OF_SUMS(KERNELS)
