//! Element types of features, and the types in which sums are formed.

use crate::activation::constants::Constants;
use half::{bf16, f16};

/// A feature element: `f32`, `f64`, [`struct@f16`] or [`bf16`]. Sums, degrees, weights and their gradients
/// have the type [`Acc`](Self::Acc): `f64` for `f64`, `f32` for the other three.
///
/// This trait is sealed.
pub trait Element:
    sealed::Sealed + Copy + Default + PartialEq + std::fmt::Debug + Send + Sync + 'static
{
    /// The accumulation type.
    type Acc: Accumulator;

    /// The type's name as in kernel names and messages: `"f32"`, `"f64"`, `"f16"`, `"bf16"`.
    const NAME: &'static str;

    /// The value in the accumulation type; exact.
    fn widen(self) -> Self::Acc;

    /// The nearest value of this type, ties to even. A value that is too large becomes an infinity.
    fn narrow(value: Self::Acc) -> Self;

    /// The same elements, where the accumulation type is theirs.
    #[doc(hidden)]
    fn as_sums(_elements: &[Self]) -> Option<&[Self::Acc]> {
        None
    }

    /// The same elements, where the accumulation type is theirs.
    #[doc(hidden)]
    fn as_sums_mut(_elements: &mut [Self]) -> Option<&mut [Self::Acc]> {
        None
    }
}

/// The type of sums, degrees, weights and their gradients: `f32` or `f64`.
///
/// This trait is sealed.
pub trait Accumulator:
    Element<Acc = Self>
    + Constants
    + PartialOrd
    + std::fmt::Display
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Not a number.
    const NAN: Self;
    /// The exponent of the smallest power of two that is a normal number.
    const LEAST_EXPONENT: i32;
    /// The exponent of the largest one.
    const MOST_EXPONENT: i32;

    /// `self · factor + addend`, rounded once.
    fn fused_multiply_add(self, factor: Self, addend: Self) -> Self;

    /// The square root.
    fn square_root(self) -> Self;

    /// Whether this is neither infinite nor NaN.
    fn is_finite(self) -> bool;

    /// ⌊log₂|self|⌋. The number must be neither 0, infinite nor NaN; it may be subnormal.
    fn exponent(self) -> i32;

    /// 2^n, if that is a normal number.
    fn power_of_two(n: i32) -> Self;

    /// `self · 2^n`, rounded once.
    fn times_power_of_two(self, n: i32) -> Self;

    /// The nearest value to `count`.
    fn from_count(count: usize) -> Self;

    /// The value as `f64`; exact.
    fn to_f64(self) -> f64;

    /// The nearest value to `value`.
    fn from_f64(value: f64) -> Self;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! accumulator {
    ($t:ty, $name:literal, $bits:ty) => {
        impl sealed::Sealed for $t {}

        impl Element for $t {
            type Acc = Self;
            const NAME: &'static str = $name;

            #[inline(always)]
            fn widen(self) -> Self {
                self
            }

            #[inline(always)]
            fn narrow(value: Self) -> Self {
                value
            }

            fn as_sums(elements: &[Self]) -> Option<&[Self]> {
                Some(elements)
            }

            fn as_sums_mut(elements: &mut [Self]) -> Option<&mut [Self]> {
                Some(elements)
            }
        }

        impl Accumulator for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NAN: Self = <$t>::NAN;
            const LEAST_EXPONENT: i32 = <$t>::MIN_EXP - 1;
            const MOST_EXPONENT: i32 = <$t>::MAX_EXP - 1;

            #[inline(always)]
            fn fused_multiply_add(self, factor: Self, addend: Self) -> Self {
                self.mul_add(factor, addend)
            }

            #[inline(always)]
            fn square_root(self) -> Self {
                self.sqrt()
            }

            #[inline(always)]
            fn is_finite(self) -> bool {
                <$t>::is_finite(self)
            }

            #[inline(always)]
            fn exponent(self) -> i32 {
                const DIGITS: i32 = <$t>::MANTISSA_DIGITS as i32;
                let of_normal = |x: $t| ((x.abs().to_bits() >> (DIGITS - 1)) as i32) - (<$t>::MAX_EXP - 1);
                if self.abs() < <$t>::MIN_POSITIVE {
                    // 2^64 makes every subnormal number a normal one.
                    of_normal(self * (1u128 << 64) as $t) - 64
                } else {
                    of_normal(self)
                }
            }

            #[inline(always)]
            fn power_of_two(n: i32) -> Self {
                <$t>::from_bits(((n + <$t>::MOST_EXPONENT) as $bits) << (<$t>::MANTISSA_DIGITS - 1))
            }

            #[inline(always)]
            fn times_power_of_two(self, n: i32) -> Self {
                // The exponents of normal powers of two. Three of them take any number to any other.
                const LEAST: i32 = <$t>::LEAST_EXPONENT;
                const MOST: i32 = <$t>::MOST_EXPONENT;
                let power = <$t>::power_of_two;
                if (LEAST..=MOST).contains(&n) {
                    return self * power(n);
                }
                let last = n.clamp(LEAST, MOST);
                let second = (n - last).clamp(LEAST, MOST);
                let first = (n - last - second).clamp(LEAST, MOST);
                // Each product is exact, or so small (or large) that the next ones make it 0 (or infinite) in
                // any case.
                self * power(first) * power(second) * power(last)
            }

            #[inline(always)]
            fn from_count(count: usize) -> Self {
                count as Self
            }

            #[inline(always)]
            fn to_f64(self) -> f64 {
                self.into()
            }

            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as Self
            }
        }
    };
}
accumulator!(f32, "f32", u32);
accumulator!(f64, "f64", u64);

impl sealed::Sealed for bf16 {}
impl sealed::Sealed for f16 {}

// The conversions below are integer and float arithmetic without branches, so that loops over them vectorise
// and kernels can do the very same; `half` detects the processor's features anew for each element.

impl Element for bf16 {
    type Acc = f32;
    const NAME: &'static str = "bf16";

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        // Round to nearest, ties to even: add just under half, and one more where the kept part is odd.
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet_nan = (bits >> 16) | 0x40;
        let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
        Self::from_bits(if is_nan { quiet_nan } else { rounded } as u16)
    }
}

impl Element for f16 {
    type Acc = f32;
    const NAME: &'static str = "f16";

    #[inline(always)]
    fn widen(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let magnitude = (bits & 0x7fff) << 13;
        // The exponents differ in bias by 112; the product is exact and makes subnormals normal.
        let scaled = (f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)).to_bits();
        let special = magnitude >= 0x1f << 23; // infinities and NaN, made quiet
        let payload = if magnitude & 0x007f_ffff != 0 { 0x0040_0000 } else { 0 };
        let value = if special { 0x7f80_0000 | magnitude | payload } else { scaled };
        f32::from_bits(value | (bits & 0x8000) << 16)
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        let sign = (bits >> 16) & 0x8000;
        let magnitude = bits & 0x7fff_ffff;
        // From 2^-14 on the result is normal: move the exponent's bias, round to nearest even in the 13 lost
        // bits.
        let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0x0fff + ((magnitude >> 13) & 1)) >> 13;
        // Below that, adding 1/2 aligns the subnormal's last bit with a float's last bit, which rounds.
        let half_one = f32::from_bits(126 << 23);
        let subnormal = (f32::from_bits(magnitude) + half_one).to_bits().wrapping_sub(half_one.to_bits());
        let finite = if magnitude < 113 << 23 { subnormal } else { normal };
        let quiet_nan = 0x7e00 | ((magnitude >> 13) & 0x1ff);
        let special = if magnitude > 0x7f80_0000 { quiet_nan } else { 0x7c00 };
        // 65,520 and more rounds to infinity.
        let result = if magnitude >= 0x477f_f000 { special } else { finite };
        Self::from_bits((sign | result) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_are_those_of_the_next_power_of_two_below() {
        for n in -1074..1024 {
            let power = 2f64.powi(n / 2) * 2f64.powi(n - n / 2);
            let below = f64::from_bits(power.to_bits() - 1);
            assert_eq!((power.exponent(), (-power).exponent()), (n, n));
            assert!(below == 0.0 || below.exponent() == n - 1, "{n}");
            if (-149..128).contains(&n) {
                let power = power as f32;
                let below = f32::from_bits(power.to_bits() - 1);
                assert_eq!((power.exponent(), (-power).exponent()), (n, n));
                assert!(below == 0.0 || below.exponent() == n - 1, "{n}");
            }
        }
    }

    /// In `f64` the product of an `f32` with any power of two that matters is exact.
    #[test]
    fn products_with_powers_of_two_are_rounded_once() {
        let values = (0..1u32 << 14).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b1)));
        for (i, x) in values.filter(|x| !x.is_nan()).enumerate() {
            for n in [i as i32 % 700 - 350, i as i32 % 60 - 30, -150, -126, -127, 127, 128, 0] {
                let exact = f64::from(x) * 2f64.powi(n);
                let product = x.times_power_of_two(n);
                assert_eq!(product.to_bits(), (exact as f32).to_bits(), "{x:e} · 2^{n}");
            }
        }
        for n in [-2100, -1100, -1074, -1023, -1022, 1023, 1024, 2047, 2100] {
            let expected = 2f64.powi(n / 2) * 2f64.powi(n - n / 2);
            assert_eq!(1f64.times_power_of_two(n), expected, "{n}");
        }
        assert_eq!(f64::from_bits(3).times_power_of_two(1074), 3.0);
        assert_eq!(f64::MAX.times_power_of_two(-2098), f64::from_bits(1));
        assert_eq!(f64::from_bits(1).times_power_of_two(2097), 2f64.powi(1023));
    }

    #[test]
    fn every_16_bit_value_widens_as_in_half() {
        for bits in 0..=u16::MAX {
            let (h, b) = (f16::from_bits(bits), bf16::from_bits(bits));
            assert_eq!(h.widen().to_bits(), h.to_f32().to_bits() | quiet(h.is_nan()), "f16 {bits:#06x}");
            // `half` makes NaN quiet here; a NaN stays a NaN either way.
            assert!(b.widen().to_bits() == b.to_f32().to_bits() || b.is_nan(), "bf16 {bits:#06x}");
        }
    }

    fn quiet(is_nan: bool) -> u32 {
        if is_nan { 0x0040_0000 } else { 0 }
    }

    #[test]
    fn narrowing_rounds_as_in_half() {
        // Every 16-bit value, its neighbours as f32 and the ties between two, and a sweep over all exponents.
        let near = (0..=u16::MAX).flat_map(|bits| {
            let ends = [f16::from_bits(bits).to_f32(), bf16::from_bits(bits).to_f32()];
            let offsets = [0, 1, 0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001];
            ends.into_iter().flat_map(move |x| offsets.map(|d| x.to_bits().wrapping_add(d)))
        });
        let sweep = (0..1u32 << 20).map(|i| i.wrapping_mul(0x9e37_79b1));
        for bits in near.chain(sweep) {
            let x = f32::from_bits(bits);
            let (h, b) = (f16::narrow(x), bf16::narrow(x));
            if x.is_nan() {
                assert!(h.is_nan() && b.is_nan(), "{bits:#010x}");
            } else {
                assert_eq!(h.to_bits(), f16::from_f32(x).to_bits(), "f16 of {x:e} ({bits:#010x})");
                assert_eq!(b.to_bits(), bf16::from_f32(x).to_bits(), "bf16 of {x:e} ({bits:#010x})");
            }
        }
    }
}
