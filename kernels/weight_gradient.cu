// The gradients of the weights of each instance alone, of one number for each hyperedge of the batch:
//
//     weight_gradient  dloss/dw_e = <q_e, z_e> + sum of dloss/dD_v over the vertices of e
//
// The dot products come from gather.cu, the gradients of degrees from degree.cu. All are double, whatever the
// type of the features, and are overwritten. q and dloss/dD were multiplied by powers of two, which is undone
// here: see `Conv::shift` in src/conv.rs. instance_sums.cu then adds what instances have for the same weight.
// Launched by src/cuda/weight_gradient.rs.
//
// Modules: one for all types.

#include "modules.cuh"
#include "sums.cuh"

// Stores a hyperedge's gradient.
struct WeightGradients {
    using Value = double;
    using Combine = Plus;
    static constexpr u32 KERNEL = WEIGHT_GRADIENT;

    static __device__ __forceinline__ double zero() { return 0; }
    static __device__ __forceinline__ double poison() { return not_a_number<double>(); }

    static __device__ __forceinline__ double value(const SumArgs& args, const Row& row, u64 at) {
        double gradient = static_cast<const double*>(args.values.values)[at];
        int shift = add_shifts(args.edge_shifts[row.first_target + row.row], args.vertex_shifts[at]);
        return times_power_of_two(gradient, times_shift(static_cast<int>(args.shifts_of_degree), shift));
    }

    static __device__ __forceinline__ void epilogue(const SumArgs& args, const Row& row, bool poisoned,
                                                    double sum) {
        u64 at = row.first_target + row.row;
        int shift = args.edge_shifts[at];
        int shifts_of_degree = static_cast<int>(args.shifts_of_degree);
        double gradient = args.dots != nullptr ? sum_of_blocks(args.dots, at, args.dot_blocks) : 0;
        gradient = times_power_of_two(gradient, times_shift(shifts_of_degree - 1, shift)) + sum;
        gradient = times_power_of_two(gradient, times_shift(-shifts_of_degree, shift));
        args.gradient[at] = poisoned ? not_a_number<double>() : gradient;
    }
};

// Without a number of blocks the assembler spills in some of these, to make room for more.
#define KERNELS(NAME, CHECKS) \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) weight_gradient##NAME(const SumArgs args) { \
        sum_rows<WeightGradients, CHECKS>(args); \
    }

UNCHECKED(KERNELS(, false))
CHECKED(KERNELS(_checked, true))
