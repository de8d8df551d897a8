//! The activations that an epilogue applies, and their derivatives, with the same bits everywhere.
//!
//! The functions of a mathematical library have other bits on each platform. So these here are made of
//! additions, multiplications, divisions, fused operations where the source says so, comparisons, and the
//! bits of powers of two. `kernels/activation.cuh` has the same operations.
//!
//! Each smooth activation is ReLU less a tail. With x = |u|, and the probability s(u) that multiplies u,
//!
//! ```text
//! u s(u)    = max(u, 0) − x s(−x)
//! (u s(u))′ = T(u)        for u ≤ 0, where T(−x) = s(−x) − x s′(−x)
//!           = 1 − T(−u)   for u > 0
//! ```
//!
//! since s(u) + s(−u) = 1. Both s(−x) and T(−x) are e^p times a factor that varies slowly. The exponential is
//! the same code for all. A power of two keeps it from becoming subnormal before the last operation, which
//! multiplies by the inverse power and adds the part of ReLU.
//!
//! | | s(−x) e^−p | T(−x) e^−p | p |
//! |---|---|---|---|
//! | `Silu` | σ = σ(x) | σ (1 − x σ) | −x |
//! | `GeluTanh` | σ = σ(2 p(x)) | σ (1 − x 2 p′(x) σ) | −2 p(x) |
//! | `Gelu` | R(x) = Φ(−x) e^(x²/2) | R(x) − x / √(2π) | −x²/2 |
//!
//! There is no hyperbolic tangent, since σ(2 p) = (1 + tanh p) / 2. Nothing cancels but where a derivative is
//! near its zero. What is rounded in p would be multiplied by p in the result: p is a sum of two numbers.

use crate::element::Accumulator;

pub(crate) mod constants;

/// A function that is applied to each element. Its value and its derivative have the same bits on every
/// device and processor.
///
/// NaN gives NaN, but for derivatives of [`Identity`](Self::Identity) and [`Relu`](Self::Relu), which are 1
/// there. At ∞ the value is ∞ and the derivative 1. At −∞ both are zeros, but for the identity. A value of 0
/// may have lost its sign.
///
/// # Accuracy
///
/// The largest errors that were found, in units in the last place of the exact result, or of the smallest
/// normal number where the result is smaller:
///
/// | | value, `f32` | value, `f64` | derivative, `f32` | derivative, `f64` |
/// |---|---|---|---|---|
/// | `Gelu` | 4.18 | 3.92 | 3.70 | 3.27 |
/// | `GeluTanh` | 2.54 | 2.48 | 5.26 | 4.33 |
/// | `Silu` | 2.53 | 2.45 | 3.73 | 3.56 |
///
/// Between −2 and −1/4, where derivatives have a zero, what counts is their absolute error: it is below
/// 2^−23.4 in `f32` and 2^−52.5 in `f64`, and the table is for all other u. In `f32` all numbers of
/// magnitudes from 2^−30 to 128 were tested, in `f64` three million random ones of all magnitudes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Activation {
    /// u itself.
    #[default]
    Identity,
    /// The larger of u and 0. Its derivative at 0 is 0.
    Relu,
    /// u Φ(u), with the distribution function Φ of the normal distribution: the Gaussian error linear unit of
    /// [Hendrycks and Gimpel (2016)](https://arxiv.org/abs/1606.08415).
    Gelu,
    /// u σ(2 p) with p = √(2/π) (u + 0.044715 u³): the approximation of [`Gelu`](Self::Gelu) by tanh in the
    /// same article, since σ(2 p) = (1 + tanh p) / 2.
    GeluTanh,
    /// u σ(u), with the logistic function σ(u) = 1 / (1 + e^−u): the sigmoid linear unit of
    /// [Elfwing et al. (2017)](https://arxiv.org/abs/1702.03118), also known as swish
    /// ([Ramachandran et al. 2017](https://arxiv.org/abs/1710.05941)).
    Silu,
}

impl Activation {
    /// All activations.
    pub const ALL: &'static [Self] = &[Self::Identity, Self::Relu, Self::Gelu, Self::GeluTanh, Self::Silu];

    /// The value at u.
    #[inline(always)]
    pub fn value<A: Accumulator>(self, u: A) -> A {
        self.apply(false, u)
    }

    /// The derivative at u.
    #[inline(always)]
    pub fn derivative<A: Accumulator>(self, u: A) -> A {
        self.apply(true, u)
    }

    /// Replaces each element by the value there. It is compiled for the processor that the caller is compiled
    /// for; without instructions for fused operations it is slow.
    #[inline(always)]
    pub(crate) fn values<A: Accumulator>(self, row: &mut [A]) {
        self.apply_to_all(false, row);
    }

    /// Replaces each element by the derivative there, as [`values`](Self::values) does.
    #[inline(always)]
    pub(crate) fn derivatives<A: Accumulator>(self, row: &mut [A]) {
        self.apply_to_all(true, row);
    }

    /// A loop for each activation and each flag: they vectorise since they do not ask which it is.
    #[inline(always)]
    fn apply_to_all<A: Accumulator>(self, derivative: bool, row: &mut [A]) {
        macro_rules! one_loop {
            ($activation:ident) => {
                if derivative {
                    row.iter_mut().for_each(|u| *u = Self::$activation.derivative(*u));
                } else {
                    row.iter_mut().for_each(|u| *u = Self::$activation.value(*u));
                }
            };
        }
        match self {
            Self::Identity => one_loop!(Identity),
            Self::Relu => one_loop!(Relu),
            Self::Gelu => one_loop!(Gelu),
            Self::GeluTanh => one_loop!(GeluTanh),
            Self::Silu => one_loop!(Silu),
        }
    }

    /// The value at u, or the derivative. `activate` in `kernels/activation.cuh` is this function.
    #[inline(always)]
    fn apply<A: Accumulator>(self, derivative: bool, u: A) -> A {
        let below = u <= A::ZERO;
        let above = if derivative { A::ONE } else { u };
        let relu = if below { A::ZERO } else { above };
        let least = match self {
            Self::Identity => return above,
            Self::Relu => return relu,
            Self::Gelu => A::LEAST_GELU,
            Self::GeluTanh => A::LEAST_GELU_TANH,
            Self::Silu => A::LEAST_SILU,
        };
        // y = −x. The tail rounds to 0 from `least` on. Were y not bounded, ∞ and 0 would meet in products.
        let y = if below { u } else { -u };
        let y = if y < least { least } else { y };
        let (p, p_low, slope) = match self {
            Self::Gelu => gelu_exponent(y),
            Self::GeluTanh => gelu_tanh_exponent(y),
            _ => (y, A::ZERO, A::ONE),
        };
        let scaled = scaled_exponential(p, p_low);
        let (sigma, change) = if self == Self::Gelu {
            let sigma = normal_tail(y);
            (sigma, y.fused_multiply_add(A::DENSITY, sigma))
        } else {
            // 1 / (1 + e^p) = 4 / (4 + 4 e^p)
            let four = A::from_f64(4.0);
            let (inverse, excess) = minus_inverse(scaled * (-four * A::UNSCALE));
            let sigma = four * (excess - inverse);
            (sigma, sigma * (y * slope).fused_multiply_add(sigma, A::ONE))
        };
        let derivative_factor = if below { change } else { -change };
        let factor = if derivative { derivative_factor } else { y * sigma };
        (scaled * factor).fused_multiply_add(A::UNSCALE, relu)
    }
}

/// −y²/2 as a sum; it has no use for a slope.
#[inline(always)]
fn gelu_exponent<A: Accumulator>(y: A) -> (A, A, A) {
    let minus_half = A::from_f64(-0.5);
    let square = y * y;
    let square_low = y.fused_multiply_add(y, -square);
    (minus_half * square, minus_half * square_low, A::ONE)
}

/// 2 √(2/π) (y + 0.044715 y³) as a sum, and its derivative.
#[inline(always)]
fn gelu_tanh_exponent<A: Accumulator>(y: A) -> (A, A, A) {
    let square = y * y;
    let square_low = y.fused_multiply_add(y, -square);
    // p / y as a sum. LINEAR has as few digits as make its difference to w exact.
    let w = A::CUBIC.fused_multiply_add(square, A::LINEAR);
    let w_low = A::CUBIC.fused_multiply_add(square, A::LINEAR - w) + A::LINEAR_LOW;
    let w_low = A::CUBIC.fused_multiply_add(square_low, A::CUBIC_LOW.fused_multiply_add(square, w_low));
    let p = y * w;
    let p_low = y.fused_multiply_add(w_low, y.fused_multiply_add(w, -p));
    (p, p_low, (A::CUBIC + A::CUBIC).fused_multiply_add(square, w + w_low))
}

/// e^(p + p_low) / UNSCALE, for p ≤ 0 that is not below −1024 (−127 for `f32`).
#[inline(always)]
fn scaled_exponential<A: Accumulator>(p: A, p_low: A) -> A {
    // p = n ln 2 + r, with the integer n next to p / ln 2. The first difference is exact.
    let shifted = p.fused_multiply_add(A::LOG2_E, A::SHIFT);
    let n = shifted - A::SHIFT;
    let r = n.fused_multiply_add(-A::LN_2, p) + n.fused_multiply_add(-A::LN_2_LOW, p_low);
    A::exponential(r) * A::scaled_power(shifted)
}

/// Φ(y) e^(y²/2), for y ≤ 0.
#[inline(always)]
fn normal_tail<A: Accumulator>(y: A) -> A {
    // t = (x − 4)/(x + 4) = 1 − 8/(x + 4)
    let eight = A::from_f64(8.0);
    let (inverse, excess) = minus_inverse(y);
    let t = excess.fused_multiply_add(-eight, inverse.fused_multiply_add(eight, A::ONE));
    A::tail(t) * (excess - inverse)
}

/// 1 / (z − 4), and what that is too large by; for z ≤ 0. The correction is for the roundings of both
/// operations.
#[inline(always)]
fn minus_inverse<A: Accumulator>(z: A) -> (A, A) {
    let four = A::from_f64(4.0);
    let m = z - four;
    let m_low = z - (m + four);
    let inverse = A::ONE / m;
    let excess = inverse * m_low.fused_multiply_add(inverse, m.fused_multiply_add(inverse, -A::ONE));
    (inverse, excess)
}

// `f64` is compared with reference values (`tests/fixtures/activations/generate.py` says how they are made),
// `f32` with `f64`, and the kernels' header, compiled for the host, with both.
#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use safetensors::SafeTensors;

    use super::*;
    use crate::vectors::vectorized;

    const SMOOTH: [(Activation, &str); 3] =
        [(Activation::Gelu, "gelu"), (Activation::GeluTanh, "gelu_tanh"), (Activation::Silu, "silu")];
    const ROOT: &str = env!("CARGO_MANIFEST_DIR");

    /// The largest errors that the documentation states, of `f32` and `f64`.
    struct Bound {
        activation: Activation,
        value: [f64; 2],
        derivative: [f64; 2],
    }

    const BOUNDS: [Bound; 3] = [
        Bound { activation: Activation::Gelu, value: [4.2, 4.0], derivative: [3.8, 3.4] },
        Bound { activation: Activation::GeluTanh, value: [2.6, 2.6], derivative: [5.3, 4.4] },
        Bound { activation: Activation::Silu, value: [2.6, 2.6], derivative: [3.8, 3.6] },
    ];
    /// Of derivatives near their zeros, in units in the last place of 1/2.
    const ABSOLUTE_BOUND: [f64; 2] = [1.5, 1.4];
    /// That unit, of `f32` and `f64`.
    const UNIT_OF_HALF: [f64; 2] = [1.0 / (1u64 << 24) as f64, 1.0 / (1u64 << 53) as f64];

    /// Whether a derivative has the absolute bound there.
    fn near_zero_of_derivative(u: f64) -> bool {
        u > -2.0 && u < -0.25
    }

    /// The largest errors met.
    #[derive(Default, Clone, Copy, Debug)]
    struct Largest {
        relative: (f64, f64),
        near_zero: (f64, f64),
    }

    impl Largest {
        /// Adds the error at u, and the unit in the last place that it is measured in.
        fn add(&mut self, derivative: bool, u: f64, error: f64, unit: f64, unit_of_half: f64) {
            let near = derivative && near_zero_of_derivative(u);
            let (largest, error) = if near {
                (&mut self.near_zero, error.abs() / unit_of_half)
            } else {
                (&mut self.relative, error.abs() / unit)
            };
            if error > largest.0 || error.is_nan() {
                *largest = (error, u);
            }
        }

        fn check(&self, activation: Activation, derivative: bool, of_f64: usize) {
            let bound = BOUNDS.iter().find(|b| b.activation == activation).unwrap();
            let bound = if derivative { bound.derivative } else { bound.value }[of_f64];
            assert!(self.relative.0 <= bound, "{activation:?}, derivative {derivative}: {self:?}");
            let bound = ABSOLUTE_BOUND[of_f64];
            assert!(self.near_zero.0 <= bound, "{activation:?}, derivative {derivative}: {self:?}");
        }
    }

    /// The unit in the last place of a number, at least that of subnormal numbers.
    fn unit_f64(x: f64) -> f64 {
        let exponent = x.abs().to_bits() >> 52;
        if exponent > 52 {
            f64::from_bits((exponent - 52) << 52)
        } else {
            f64::from_bits(1 << (exponent.max(1) - 1))
        }
    }

    /// The unit in the last place that an `f32` next to `x` has.
    fn unit_f32(x: f64) -> f64 {
        let least_of_f32 = 1023 - 126;
        f64::from_bits(((x.abs().to_bits() >> 52).max(least_of_f32) - 23) << 52)
    }

    struct Reference {
        u: Vec<f64>,
        bytes: Vec<u8>,
    }

    impl Reference {
        fn load() -> Self {
            let bytes =
                std::fs::read(format!("{ROOT}/tests/fixtures/activations/reference.safetensors")).unwrap();
            let u = numbers(SafeTensors::deserialize(&bytes).unwrap().tensor("u").unwrap().data());
            Self { u, bytes }
        }

        /// The arguments, the reference values next to `f64`, and the rests in units in the last place.
        fn of(&self, name: &str) -> Vec<(f64, f64, f64)> {
            let file = SafeTensors::deserialize(&self.bytes).unwrap();
            let values = numbers(file.tensor(name).unwrap().data());
            let rests = file.tensor(&format!("{name}.rest")).unwrap();
            let rests = rests.data().iter().map(|&r| f64::from(r as i8) / 256.0);
            self.u.iter().zip(values).zip(rests).map(|((&u, value), rest)| (u, value, rest)).collect()
        }
    }

    fn numbers(bytes: &[u8]) -> Vec<f64> {
        bytes.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b)).collect()
    }

    #[test]
    fn f64_is_as_accurate_as_documented() {
        let reference = Reference::load();
        for (activation, name) in SMOOTH {
            for derivative in [false, true] {
                let what = if derivative { "derivative" } else { "value" };
                let mut largest = Largest::default();
                for (u, expected, rest) in reference.of(&format!("{name}.{what}")) {
                    let unit = unit_f64(expected);
                    // In units: differences of subnormal numbers are too.
                    let error = (activation.apply(derivative, u) - expected) / unit - rest;
                    largest.add(derivative, u, error, 1.0, UNIT_OF_HALF[1] / unit);
                }
                largest.check(activation, derivative, 1);
            }
        }
    }

    /// The largest error in units in the last place of `function` at the arguments from `least` to 0.
    fn largest_of_part(name: &str, least: f64, function: impl Fn(f64) -> f64) -> f64 {
        let reference = Reference::load();
        let cases = reference.of(name).into_iter().map(|(u, expected, rest)| (-u.abs(), expected, rest));
        let errors = cases.filter(|case| case.0 >= least).map(|(y, expected, rest)| {
            let error = ((function(y) - expected) / unit_f64(expected) - rest).abs();
            assert!(!error.is_nan(), "{name} of {y}");
            error
        });
        errors.fold(0.0, f64::max)
    }

    #[test]
    fn the_exponential_and_the_normal_tail_are_as_accurate_as_documented() {
        // Where the result is normal: the scale that keeps it normal is taken away here.
        let exponential = largest_of_part("exponential", -708.0, |y| {
            scaled_exponential(y, 0.0) * <f64 as constants::Constants>::UNSCALE
        });
        let tail = largest_of_part("normal_tail", -39.0, normal_tail);
        let mut exponential_f32 = 0f64;
        let mut tail_f32 = 0f64;
        for y in arguments_f32().filter(|y| *y <= 0.0) {
            if y >= -87.0 {
                let expected = f64::from(y).exp();
                let unscaled = scaled_exponential(y, 0.0) * <f32 as constants::Constants>::UNSCALE;
                exponential_f32 =
                    exponential_f32.max((f64::from(unscaled) - expected).abs() / unit_f32(expected));
            }
            if y >= -15.0 {
                let expected = normal_tail(f64::from(y));
                tail_f32 = tail_f32.max((f64::from(normal_tail(y)) - expected).abs() / unit_f32(expected));
            }
        }
        assert!(exponential < 1.0 && exponential_f32 < 1.0, "{exponential_f32} and {exponential}");
        assert!(tail < 2.0 && tail_f32 < 2.8, "{tail_f32} and {tail}");
    }

    /// Some 200,000 numbers: of each sign and exponent some, those from 2^−8 to 2^8 more densely.
    fn arguments_f32() -> impl Iterator<Item = f32> {
        let all = (0..1u32 << 16).map(|i| i << 16 | (i.wrapping_mul(0x9e37) & 0xffff));
        let dense = (0..140_000u32).map(|i| {
            let magnitude = (119 << 23) + (i / 2) * 1917 + i % 3;
            magnitude | i << 31
        });
        all.chain(dense).map(f32::from_bits).filter(|u| u.is_finite())
    }

    /// The largest errors of one function at these arguments.
    fn largest_of_f32(
        activation: Activation,
        derivative: bool,
        mut arguments: impl Iterator<Item = f32>,
    ) -> Largest {
        let mut largest = Largest::default();
        loop {
            let arguments: Vec<f32> = arguments.by_ref().take(4096).collect();
            if arguments.is_empty() {
                return largest;
            }
            let mut row = arguments.clone();
            let mut wide: Vec<_> = arguments.iter().map(|&u| f64::from(u)).collect();
            with_avx2(activation, derivative, &mut row);
            with_avx2(activation, derivative, &mut wide);
            for ((u, result), expected) in arguments.into_iter().zip(row).zip(wide) {
                let error = f64::from(result) - expected;
                largest.add(derivative, f64::from(u), error, unit_f32(expected), UNIT_OF_HALF[0]);
            }
        }
    }

    /// `f64` is the reference: its errors are a billionth of these.
    #[test]
    fn f32_is_as_accurate_as_documented() {
        assert!(arguments_f32().count() > 200_000);
        for (activation, _) in SMOOTH {
            for derivative in [false, true] {
                largest_of_f32(activation, derivative, arguments_f32()).check(activation, derivative, 0);
            }
        }
    }

    /// All numbers from 2^−30 to 128. The smaller ones are halved, and at the larger ones the tail is 0.
    #[test]
    #[ignore = "minutes for 600 million numbers"]
    fn f32_is_as_accurate_as_documented_everywhere() {
        let mut found = Vec::new();
        for (activation, _) in SMOOTH {
            for derivative in [false, true] {
                let magnitudes = 97 << 23..=134 << 23;
                let all = magnitudes.flat_map(|bits| [bits, 1 << 31 | bits]).map(f32::from_bits);
                let largest = largest_of_f32(activation, derivative, all);
                println!("{activation:?}, derivative {derivative}: {largest:?}");
                found.push((activation, derivative, largest));
            }
        }
        for (activation, derivative, largest) in found {
            largest.check(activation, derivative, 0);
        }
    }

    /// Values and derivatives at numbers that are none, infinite, 0, or so large that squares overflow.
    #[test]
    fn special_arguments_give_what_the_documentation_says() {
        fn check<A: Accumulator>(infinity: A, largest: A, least: A) {
            for &activation in Activation::ALL {
                let (value, slope) = (|u: A| activation.value(u), |u: A| activation.derivative(u));
                let what = format!("{activation:?} of {}", A::NAME);
                let smooth = SMOOTH.iter().any(|(smooth, _)| *smooth == activation);
                let is_nan = |x: A| x.to_f64().is_nan();
                assert!(is_nan(value(A::NAN)), "{what}");
                assert!(if smooth { is_nan(slope(A::NAN)) } else { slope(A::NAN) == A::ONE }, "{what}");
                for above in [infinity, largest, A::from_f64(1e30), A::from_f64(800.0)] {
                    assert_eq!((value(above), slope(above)), (above, A::ONE), "{what}, {above}");
                    let below = (value(-above), slope(-above));
                    if activation == Activation::Identity {
                        assert_eq!(below, (-above, A::ONE));
                    } else {
                        assert_eq!(below, (A::ZERO, A::ZERO), "{what}, -{above}");
                    }
                }
                for zero in [A::ZERO, -A::ZERO, least, -least] {
                    if smooth {
                        assert!(value(zero).to_f64().abs() <= least.to_f64(), "{what}");
                        assert_eq!(slope(zero), A::from_f64(0.5), "{what}");
                    }
                }
            }
            assert_eq!(Activation::Relu.derivative(A::ZERO), A::ZERO);
            assert_eq!(Activation::Relu.derivative(least), A::ONE);
        }
        check(f32::INFINITY, f32::MAX, f32::from_bits(1));
        check(f64::INFINITY, f64::MAX, f64::from_bits(1));
    }

    /// The arguments with which bits are compared.
    fn arguments<A: Accumulator>() -> Vec<A> {
        let special = [A::NAN, A::ONE / A::ZERO, -A::ONE / A::ZERO, A::ZERO, -A::ZERO];
        let reference = Reference::load().u.into_iter().map(A::from_f64);
        special.into_iter().chain(reference).chain(arguments_f32().map(|u| A::from_f64(u.into()))).collect()
    }

    /// The bits, one pattern for all NaN.
    fn bits<A: Accumulator>(x: A) -> u64 {
        let x = x.to_f64();
        if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() }
    }

    /// Instructions for fused operations and those of a mathematical library, in vectors and one by one.
    #[test]
    fn rows_have_the_same_bits_on_all_processors() {
        fn check<A: Accumulator>() {
            for &activation in Activation::ALL {
                let arguments = arguments::<A>();
                for derivative in [false, true] {
                    let one_by_one: Vec<_> =
                        arguments.iter().map(|&u| activation.apply(derivative, u)).collect();
                    let mut row = arguments.clone();
                    with_avx2(activation, derivative, &mut row);
                    for ((u, a), b) in arguments.iter().zip(one_by_one).zip(row) {
                        assert_eq!(bits(a), bits(b), "{activation:?}, derivative {derivative}, of {u}");
                    }
                }
            }
        }
        check::<f32>();
        check::<f64>();
    }

    /// The slices' methods, with AVX2 where the processor has it.
    #[allow(unsafe_code)]
    fn with_avx2<A: Accumulator>(activation: Activation, derivative: bool, row: &mut [A]) {
        #[inline(always)]
        fn portable<A: Accumulator>(activation: Activation, derivative: bool, row: &mut [A]) {
            if derivative {
                activation.derivatives(row);
            } else {
                activation.values(row);
            }
        }
        vectorized!(
            [A: Accumulator] [A]
            (activation: Activation = activation, derivative: bool = derivative, row: &mut [A] = row)
            { portable(activation, derivative, row) }
        )
    }

    /// What a C++ compiler makes of `kernels/activation.cuh`, as the emulated driver's kernels include it.
    #[test]
    fn the_header_of_the_kernels_has_the_same_bits() {
        let program = HeaderProgram::compile();
        check::<f32>(&program);
        check::<f64>(&program);

        fn check<A: Accumulator>(program: &HeaderProgram) {
            let arguments = arguments::<A>();
            let results = program.run(A::NAME, &arguments.iter().map(|u| u.to_f64()).collect::<Vec<_>>());
            assert_eq!(results.len(), arguments.len() * 2 * Activation::ALL.len());
            let mut results = results.into_iter();
            for u in arguments {
                for &activation in Activation::ALL {
                    for derivative in [false, true] {
                        let here = activation.apply(derivative, u).to_f64();
                        let there = results.next().unwrap();
                        let what = format!("{activation:?}, derivative {derivative}, of {u} ({})", A::NAME);
                        assert_eq!(bits(here), bits(there), "{what}: {here:e} here, {there:e} in the header");
                    }
                }
            }
        }
    }

    /// The last bits of coefficients of high degree hardly ever change a result.
    #[test]
    fn the_header_of_the_kernels_has_the_same_coefficients() {
        let read = |file: &str| std::fs::read_to_string(format!("{ROOT}/{file}")).unwrap();
        let here = coefficients(&read("src/activation/constants.rs"));
        assert_eq!(here.iter().map(Vec::len).collect::<Vec<_>>(), [7, 10, 12, 23]);
        assert_eq!(coefficients(&read("kernels/activation.cuh")), here);
    }

    /// The numbers of each polynomial in a source file.
    fn coefficients(source: &str) -> Vec<Vec<f64>> {
        let calls = source.split("polynomial").skip(1).filter_map(|rest| {
            let numbers = rest.trim_start_matches('!').strip_prefix('(')?.split(')').next()?;
            let numbers = numbers.split(',').skip(1).map(|n| n.trim().trim_end_matches('f').parse());
            numbers.collect::<Result<Vec<f64>, _>>().ok()
        });
        calls.filter(|numbers| !numbers.is_empty()).collect()
    }

    /// The program that applies the header's function to what it reads. All numbers are passed as `f64`.
    struct HeaderProgram {
        folder: std::path::PathBuf,
    }

    impl HeaderProgram {
        const SOURCE: &str = r#"
            #include "activation.cuh"

            extern "C" long read(int, void*, unsigned long);
            extern "C" long write(int, const void*, unsigned long);

            template <typename A>
            void apply_to_input() {
                for (double u; read(0, &u, sizeof u) == sizeof u;) {
                    double results[10];
                    for (u32 i = 0; i < 10; i++) {
                        results[i] = activate<A>(i / 2, i % 2 != 0, static_cast<A>(u));
                    }
                    write(1, results, sizeof results);
                }
            }

            int main(int, char** arguments) {
                arguments[1][1] == '3' ? apply_to_input<float>() : apply_to_input<double>();
            }
        "#;

        fn compile() -> Self {
            let folder = std::env::temp_dir().join(format!("activations_{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let program = Self { folder };
            let source = program.folder.join("header.cpp");
            std::fs::write(&source, Self::SOURCE).unwrap();
            let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
            // As in emulator/build.rs.
            let flags = ["-std=c++17", "-O2", "-w", "-ffp-contract=off", "-fno-math-errno", "-include"];
            let compiled = Command::new(compiler)
                .args(flags)
                .arg(format!("{ROOT}/emulator/shim/cuda.h"))
                .args(["-I", &format!("{ROOT}/kernels"), "-o"])
                .arg(program.folder.join("header"))
                .arg(&source)
                .output()
                .unwrap();
            assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
            program
        }

        fn run(&self, name: &str, arguments: &[f64]) -> Vec<f64> {
            let mut running = Command::new(self.folder.join("header"))
                .arg(name)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut input = running.stdin.take().unwrap();
            let bytes: Vec<u8> = arguments.iter().flat_map(|u| u.to_le_bytes()).collect();
            let writing = std::thread::spawn(move || input.write_all(&bytes));
            let output = running.wait_with_output().unwrap();
            writing.join().unwrap().unwrap();
            assert!(output.status.success());
            numbers(&output.stdout)
        }
    }

    impl Drop for HeaderProgram {
        fn drop(&mut self) {
            // What is left behind in a folder for temporary files harms nobody.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
