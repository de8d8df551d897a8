//! What several tests need.

use hyperscatter::half::{bf16, f16};
use hyperscatter::{Accumulator, Element};

/// An element type that tests convert from `f64`.
pub trait TestElement: Element {
    /// `x`, rounded to `Acc` and then to this type.
    fn of(x: f64) -> Self;

    /// `x`, rounded to `Acc`.
    fn acc(x: f64) -> Self::Acc;
}

macro_rules! test_element {
    ($t:ty, $narrow:expr, $acc:ty) => {
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
test_element!(f64, |x| x, f64);
test_element!(f32, |x| x, f32);
test_element!(f16, f16::from_f32, f32);
test_element!(bf16, bf16::from_f32, f32);

/// The values as `f64`, which holds all of them exactly.
pub fn widen<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| x.widen().to_f64()).collect()
}

/// The bits of the values, to compare NaN and the signs of zeros too.
pub fn bits<T: Element>(values: &[T]) -> Vec<u64> {
    values.iter().map(|x| x.widen().to_f64().to_bits()).collect()
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

/// The same as weights, of which some are exactly zero; positive but for that, or of both signs.
pub fn weights<T: TestElement>(seed: u64, len: usize, signed: bool) -> Vec<T::Acc> {
    let zero = numbers(seed ^ 0x5eed, len, 0.0, 1.0).into_iter().map(|u| u < 0.15);
    let value = numbers(seed, len, if signed { -1.5 } else { 0.1 }, 1.5).into_iter();
    value.zip(zero).map(|(w, zero)| T::acc(if zero { 0.0 } else { w })).collect()
}
