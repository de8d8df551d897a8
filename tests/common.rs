//! What several tests need.

use hyperscatter::half::{bf16, f16};
use hyperscatter::{Accumulator, Element};
use proptest::prelude::*;

/// A type of elements or of sums, and how far it rounds.
pub trait Rounded {
    /// The relative error of rounding to this type once: half a unit in the last place.
    const ROUNDING: f64;
}

/// An element type that tests convert from `f64`.
pub trait TestElement: Element<Acc: Rounded> + Rounded {
    /// `x`, rounded to `Acc` and then to this type.
    fn of(x: f64) -> Self;

    /// `x`, rounded to `Acc`.
    fn acc(x: f64) -> Self::Acc;
}

macro_rules! test_element {
    ($t:ty, $narrow:expr, $acc:ty, $significant_bits:expr) => {
        impl Rounded for $t {
            const ROUNDING: f64 = 1.0 / (1u64 << $significant_bits) as f64;
        }

        impl TestElement for $t {
            fn of(x: f64) -> Self {
                $narrow(x as $acc)
            }

            fn acc(x: f64) -> $acc {
                x as $acc
            }
        }
    };
}
test_element!(f64, |x| x, f64, f64::MANTISSA_DIGITS);
test_element!(f32, |x| x, f32, f32::MANTISSA_DIGITS);
test_element!(f16, f16::from_f32, f32, f16::MANTISSA_DIGITS);
test_element!(bf16, bf16::from_f32, f32, bf16::MANTISSA_DIGITS);

/// An element type, as property cases draw it.
#[derive(Debug, Clone, Copy)]
pub enum ElementType {
    F32,
    F64,
    F16,
    Bf16,
}

pub fn element_types() -> impl Strategy<Value = ElementType> {
    use ElementType::{Bf16, F16, F32, F64};
    prop_oneof![Just(F32), Just(F64), Just(F16), Just(Bf16)]
}

/// So many cases of a dear property, or as many as `PROPTEST_CASES` says.
#[cfg(feature = "cuda")]
pub fn cases(cases: u32) -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(cases),
    }
}

/// Calls a function of the element type that a case has drawn.
macro_rules! with_element {
    ($element:expr, $test:ident($($argument:expr),* $(,)?)) => {
        match $element {
            $crate::common::ElementType::F32 => $test::<f32>($($argument),*),
            $crate::common::ElementType::F64 => $test::<f64>($($argument),*),
            $crate::common::ElementType::F16 => $test::<hyperscatter::half::f16>($($argument),*),
            $crate::common::ElementType::Bf16 => $test::<hyperscatter::half::bf16>($($argument),*),
        }
    };
}
pub(crate) use with_element;

/// The values as `f64`, which holds all of them exactly.
pub fn widen<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| x.widen().to_f64()).collect()
}

/// The bits of the values, to compare the signs of zeros and NaN too; all NaN are one, since the payload of a
/// sum of two is that of either.
pub fn bits<T: Element>(values: &[T]) -> Vec<u64> {
    let bits = |x: f64| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() };
    values.iter().map(|x| bits(x.widen().to_f64())).collect()
}

/// The Frobenius norm.
pub fn norm(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// ‖a − b‖ / ‖b‖ in the Frobenius norm; ‖a‖ where b is 0. NaN and infinities are errors without bound.
pub fn relative_error(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let size = norm(b);
    let error = norm(&difference) / if size == 0.0 { 1.0 } else { size };
    if error.is_nan() { f64::INFINITY } else { error }
}

/// `len` numbers in `low..high`, the same for the same seed (splitmix64).
pub fn numbers(seed: u64, len: usize, low: f64, high: f64) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..len).map(|_| low + (high - low) * ((next() >> 11) as f64 / (1u64 << 53) as f64)).collect()
}

/// The same as features of type `T`.
pub fn features<T: TestElement>(seed: u64, len: usize) -> Vec<T> {
    numbers(seed, len, -1.0, 1.0).into_iter().map(T::of).collect()
}

/// The same as sums (or scales) of type `T::Acc`.
pub fn sums<T: TestElement>(seed: u64, len: usize) -> Vec<T::Acc> {
    numbers(seed, len, -1.0, 1.0).into_iter().map(T::acc).collect()
}

/// Some of the values become what a careless product or comparison would lose: infinities, NaN, a negative
/// zero, the largest and the smallest numbers.
pub fn poison<T: TestElement>(values: &mut [T], seed: u64) {
    let kinds = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -0.0, f64::MAX, 65504.0, 1e-45, 6e-8];
    let draws = numbers(seed, values.len(), 0.0, 20.0 * kinds.len() as f64);
    for (value, draw) in values.iter_mut().zip(draws) {
        if let Some(&kind) = kinds.get(draw as usize) {
            *value = T::of(kind);
        }
    }
}

/// The same as weights, of which some are exactly zero; positive but for that, or of both signs.
pub fn weights<T: TestElement>(seed: u64, len: usize, signed: bool) -> Vec<T::Acc> {
    let zero = numbers(seed ^ 0x5eed, len, 0.0, 1.0).into_iter().map(|u| u < 0.15);
    let value = numbers(seed, len, if signed { -1.5 } else { 0.1 }, 1.5).into_iter();
    value.zip(zero).map(|(w, zero)| T::acc(if zero { 0.0 } else { w })).collect()
}

/// Runs `f` on a pool of its own.
pub fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}
