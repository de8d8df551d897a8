// What follows from the degree of a vertex: its inverse L, and the shift that keeps that in range.
//
// `args` are those of a kernel that has the conventions of the convolution: `least_exponent`,
// `plain_exponents` and `shifts_of_degree`, as in src/conv.rs.

#pragma once

#include "tables.cuh"

// Whether L is 1/sqrt(D).
template <typename Args>
__device__ __forceinline__ bool is_symmetric(const Args& args) {
    return args.shifts_of_degree == 2;
}

template <typename A>
__device__ __forceinline__ bool is_finite(A value) {
    return value - value == A(0);
}

// L of a degree that was multiplied by 2^shift, or by its square.
template <typename A>
struct Inverse {
    A inv_degree;
    int shift;
};

// As `Conv::shift`. Without shifts, `is_shifted`, the shift is 0.
template <typename A, typename Args>
__device__ __forceinline__ Inverse<A> inverse_of(const Args& args, A degree, bool is_shifted) {
    bool finite = is_finite(degree);
    A shifted_degree = degree;
    int shift = is_shifted ? NO_SHIFT : 0;
    if (is_shifted && finite && degree != A(0)) {
        int n = exponent(degree);
        bool plain = (n < 0 ? -n : n) <= args.plain_exponents;
        n = n < args.least_exponent ? args.least_exponent : n;
        // Rounded down: the last bit of the exponent stays with the degree.
        shift = plain ? 0 : -(is_symmetric(args) ? n >> 1 : n);
        shifted_degree = times_power_of_two(degree, static_cast<int>(args.shifts_of_degree) * shift);
    }
    A inv_degree = is_symmetric(args) ? A(1) / square_root(shifted_degree) : A(1) / shifted_degree;
    return {degree == A(0) ? A(0) : finite ? inv_degree : not_a_number<A>(), shift};
}

// As `Conv::edge_shift`, of the largest and the smallest shift of some vertices; NO_SHIFT: of none.
template <typename A, typename Args>
__device__ __forceinline__ int edge_shift(const Args& args, int largest, int smallest) {
    int range = -Powers<A>::LEAST / static_cast<int>(args.shifts_of_degree);
    int spread = add_shifts(largest, times_shift(-1, smallest));
    int more = clamp(add_shifts(spread, -range / 3), 0, range / 2);
    return largest == NO_SHIFT ? 0 : add_shifts(times_shift(-1, largest), more);
}

// Publishes a weighted degree that has no square root, where one is taken; in unchecked builds too.
template <typename A, typename Args>
__device__ __forceinline__ void publish_if_negative(const RecordArgs& record, const Args& args, u32 kernel,
                                                    u32 orientation, const Row& row, A degree) {
    if (is_symmetric(args) && degree < A(0)) {
        u64 value = static_cast<u64>(__double_as_longlong(static_cast<double>(degree)));
        publish_first(record, {0, kernel, NEGATIVE_DEGREE, orientation, row.instance, row.row, value, 0});
    }
}
