// The activations of an epilogue and their derivatives, with the bits of src/activation.rs.
//
// Nothing here but additions, multiplications, divisions, fused operations where the source says so,
// comparisons and the bits of powers of two: the functions of a mathematical library have other bits on each
// platform. Each constant and each operation is that of src/activation.rs and the files of its folder. Those
// say where the formulas and the polynomials come from, and how accurate they are.

#pragma once

#include "common.cuh"

// c0 + t (c1 + t (c2 + ...)).
template <typename A>
__device__ __forceinline__ A polynomial(A, A last) {
    return last;
}
template <typename A, typename... Higher>
__device__ __forceinline__ A polynomial(A t, A lowest, Higher... higher) {
    return fused_multiply_add(polynomial(t, higher...), t, lowest);
}

template <typename A>
struct Smooth;

template <>
struct Smooth<float> {
    static constexpr float LEAST_SILU = -112, LEAST_GELU = -15, LEAST_GELU_TANH = -11;
    static constexpr float LOG2_E = 1.442695f, LN_2 = 0.6931472f, LN_2_LOW = -1.9046542e-9f;
    static constexpr float SHIFT = 12583103, UNSCALE = 5.421011e-20f;
    static constexpr float DENSITY = 0.3989423f;
    static constexpr float LINEAR = 1.5957689f, LINEAR_LOW = 1.930779e-7f;
    static constexpr float CUBIC = 0.071354814f, CUBIC_LOW = 2.3988325e-9f;
    static __device__ __forceinline__ float exponential(float r) {
        return polynomial(r, 1.0f, 1.0f, 0.49999988f, 0.16666518f, 0.04166965f, 0.008368947f, 0.0013745326f);
    }
    static __device__ __forceinline__ float tail(float t) {
        return polynomial(t, 0.75528514f, -0.60789657f, 0.3871367f, -0.1865238f, 0.06040504f, -0.00752338f,
                          -0.0035146791f, 0.00156634f, 0.00017964355f, -0.00013076937f);
    }
    static __device__ __forceinline__ float scaled_power(float shifted) {
        return __uint_as_float(__float_as_uint(shifted) << 23);
    }
};

template <>
struct Smooth<double> {
    static constexpr double LEAST_SILU = -768, LEAST_GELU = -39, LEAST_GELU_TANH = -22;
    static constexpr double LOG2_E = 1.4426950408889634, LN_2 = 0.6931471805599453,
                            LN_2_LOW = 2.3190468138462996e-17;
    static constexpr double SHIFT = 6755399441057023, UNSCALE = 8.636168555094445e-78;
    static constexpr double DENSITY = 0.3989422804014327;
    static constexpr double LINEAR = 1.5957691216057341, LINEAR_LOW = -3.430362161966579e-15;
    static constexpr double CUBIC = 0.07135481627260025, CUBIC_LOW = -6.175149918155315e-19;
    static __device__ __forceinline__ double exponential(double r) {
        return polynomial(r, 1.0, 1.0, 0.5000000000000012, 0.16666666666666471, 0.04166666666651975,
                          0.008333333333458665, 0.0013888888945921057, 0.00019841269581196487,
                          2.4801491030993337e-5, 2.755752164644174e-6, 2.763090755114223e-7,
                          2.5020074850572813e-8);
    }
    static __device__ __forceinline__ double tail(double t) {
        return polynomial(
            t, 0.7552851304157515, -0.6078966419718921, 0.3871374007422158, -0.18652185795966267,
            0.060396574890772936, -0.007540188966499314, -0.0034796923630385722, 0.001630818453924182,
            0.0001333442591956873, -0.00023109490690316495, -1.9078924021352955e-6, 3.5144576965971006e-5,
            7.151152930848781e-7, -5.9200126323200134e-6, -6.254874107618029e-7, 1.0218261327198842e-6,
            2.64454822715476e-7, -1.5652178187169982e-7, -7.741159362788689e-8, 1.600379374812648e-8,
            1.4682043014600665e-8, -3.158534177949883e-10, -1.2000579270677034e-9);
    }
    static __device__ __forceinline__ double scaled_power(double shifted) {
        return __longlong_as_double(
            static_cast<long long>(static_cast<u64>(__double_as_longlong(shifted)) << 52));
    }
};

// What is high - low.
template <typename A>
struct Difference {
    A high;
    A low;
};

// 1 / (z - 4) = high - low, for z <= 0.
template <typename A>
__device__ __forceinline__ Difference<A> minus_inverse(A z) {
    A m = z - A(4);
    A m_low = z - (m + A(4));
    A inverse = A(1) / m;
    return {inverse, inverse * fused_multiply_add(m_low, inverse, fused_multiply_add(m, inverse, A(-1)))};
}

// The activation at u, or its derivative there: `Activation::apply` in src/activation.rs. As text it is long,
// so call it once in a kernel, in a loop that is not unrolled.
template <typename A>
__device__ __forceinline__ A activate(u32 kind, bool derivative, A u) {
    using S = Smooth<A>;
    bool below = u <= A(0);
    A above = derivative ? A(1) : u;
    if (kind == IDENTITY) {
        return above;
    }
    A relu = below ? A(0) : above;
    if (kind == RELU) {
        return relu;
    }
    A least = kind == SILU ? S::LEAST_SILU : kind == GELU ? S::LEAST_GELU : S::LEAST_GELU_TANH;
    A y = below ? u : -u;
    y = y < least ? least : y;

    A p = y;
    A p_low = A(0);
    A slope = A(1);
    if (kind != SILU) {
        A square = y * y;
        A square_low = fused_multiply_add(y, y, -square);
        if (kind == GELU) {
            p = A(-0.5) * square;
            p_low = A(-0.5) * square_low;
        } else {
            A w = fused_multiply_add(S::CUBIC, square, S::LINEAR);
            A w_low = fused_multiply_add(S::CUBIC, square, S::LINEAR - w) + S::LINEAR_LOW;
            w_low = fused_multiply_add(S::CUBIC, square_low, fused_multiply_add(S::CUBIC_LOW, square, w_low));
            p = y * w;
            p_low = fused_multiply_add(y, w_low, fused_multiply_add(y, w, -p));
            slope = fused_multiply_add(S::CUBIC + S::CUBIC, square, w + w_low);
        }
    }

    A shifted = fused_multiply_add(p, S::LOG2_E, S::SHIFT);
    A n = shifted - S::SHIFT;
    A r = fused_multiply_add(n, -S::LN_2, p) + fused_multiply_add(n, -S::LN_2_LOW, p_low);
    A scaled = S::exponential(r) * S::scaled_power(shifted);

    Difference<A> inverse = minus_inverse(kind == GELU ? y : scaled * (A(-4) * S::UNSCALE));
    A sigma = inverse.low - inverse.high;
    A change;
    if (kind == GELU) {
        A t = fused_multiply_add(inverse.low, A(-8), fused_multiply_add(inverse.high, A(8), A(1)));
        sigma = S::tail(t) * sigma;
        change = fused_multiply_add(y, S::DENSITY, sigma);
    } else {
        sigma = A(4) * sigma;
        change = sigma * fused_multiply_add(y * slope, sigma, A(1));
    }
    A factor = derivative ? (below ? change : -change) : y * sigma;
    return fused_multiply_add(scaled * factor, S::UNSCALE, relu);
}
