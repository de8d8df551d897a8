//! The same number of several instances, each in a lane of its own: an operation on lanes is that operation
//! on each, with the same bits as alone. Where functions are inlined into code for vectors, it is one
//! instruction.

use std::ops::{Add, AddAssign, Div, Mul, Sub};

use super::gather::Summand;
use crate::element::Accumulator;

/// `L` numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(transparent)]
pub(super) struct Lanes<A, const L: usize>(pub(super) [A; L]);

/// The lanes of a vector of AVX2.
pub(super) const fn most_lanes<A>() -> usize {
    32 / size_of::<A>()
}

/// What `$call` is with the number of lanes as a constant: one, or the most of the type. No code is made for
/// other numbers.
macro_rules! with_lanes {
    ($type:ty, $lanes:expr, $constant:ident => $call:expr) => {
        if $lanes == 1 {
            const $constant: usize = 1;
            $call
        } else if const { most_lanes::<$type>() == 4 } {
            const $constant: usize = 4;
            $call
        } else {
            const $constant: usize = 8;
            $call
        }
    };
}
pub(super) use with_lanes;

// Loops over arrays everywhere: the compiler does not always inline a closure, and then keeps no vector in a
// register.

macro_rules! operator {
    ($($trait:ident $method:ident),*) => {$(
        impl<A: Accumulator, const L: usize> $trait for Lanes<A, L> {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                let mut result = self;
                for i in 0..L {
                    result.0[i] = self.0[i].$method(other.0[i]);
                }
                result
            }
        }
    )*};
}
operator!(Add add, Sub sub, Mul mul, Div div);

impl<A: Accumulator, const L: usize> AddAssign for Lanes<A, L> {
    #[inline(always)]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl<A: Accumulator, const L: usize> Summand for Lanes<A, L> {
    const START: Self = Self([A::ZERO; L]);
}

impl<A: Accumulator, const L: usize> Lanes<A, L> {
    /// The same number in all lanes.
    #[inline(always)]
    pub(super) fn splat(value: A) -> Self {
        Self([value; L])
    }

    #[inline(always)]
    pub(super) fn square_root(self) -> Self {
        let mut result = self;
        for i in 0..L {
            result.0[i] = self.0[i].square_root();
        }
        result
    }

    /// Each lane times 2^n, see [`Accumulator::times_power_of_two`].
    #[inline(always)]
    pub(super) fn times_powers_of_two(self, n: [i32; L]) -> Self {
        self.times(Powers::new(n))
    }

    #[inline(always)]
    pub(super) fn times(self, powers: Powers<A, L>) -> Self {
        let mut result = self;
        match powers {
            Powers::Normal(powers) => result = self * powers,
            Powers::Any(n) => {
                for (lane, n) in result.0.iter_mut().zip(n) {
                    *lane = lane.times_power_of_two(n);
                }
            }
        }
        result
    }
}

/// A power of two for each lane.
#[derive(Clone, Copy)]
pub(super) enum Powers<A, const L: usize> {
    /// All are normal numbers, and a product is one multiplication.
    Normal(Lanes<A, L>),
    /// The exponents.
    Any([i32; L]),
}

impl<A: Accumulator, const L: usize> Powers<A, L> {
    #[inline(always)]
    pub(super) fn new(n: [i32; L]) -> Self {
        let mut all_normal = true;
        for n in n {
            all_normal &= n >= A::LEAST_EXPONENT && n <= A::MOST_EXPONENT;
        }
        if !all_normal {
            return Self::Any(n);
        }
        let mut powers = [A::ONE; L];
        for i in 0..L {
            powers[i] = A::power_of_two(n[i]);
        }
        Self::Normal(Lanes(powers))
    }
}

/// Numbers that lie one behind the other, in vectors of `L` lanes.
#[inline(always)]
pub(super) fn vectors<A, const L: usize>(values: &[A]) -> &[[A; L]] {
    values.as_chunks().0
}

/// The same, to write.
#[inline(always)]
pub(super) fn vectors_mut<A, const L: usize>(values: &mut [A]) -> &mut [[A; L]] {
    values.as_chunks_mut().0
}
