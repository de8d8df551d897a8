//! What an epilogue does to a row of the convolution's sums, and to the gradient of such a row. Everything is
//! computed in the accumulation type, one operation after the other, and rounded once.

use super::gather::{Sink, Store, store_array};
use crate::activation::Activation;
use crate::element::{Accumulator, Element};
use crate::summation::LANES;

/// act(u + b).
#[derive(Clone, Copy)]
pub(super) struct Activated<'a, A> {
    pub(super) activation: Activation,
    pub(super) bias: Option<&'a [A]>,
}

impl<A: Accumulator> Activated<'_, A> {
    /// Whether this is u itself.
    pub(super) fn is_identity(&self) -> bool {
        self.activation == Activation::Identity && self.bias.is_none()
    }

    /// u + b of the features from `start` on.
    #[inline(always)]
    fn biased<const W: usize>(&self, start: usize, sums: &[A; W], scale: A) -> [A; W] {
        let mut values = *sums;
        for value in &mut values {
            *value = *value * scale;
        }
        if let Some(bias) = self.bias {
            let bias = &bias[start..][..W];
            for i in 0..W {
                values[i] += bias[i];
            }
        }
        values
    }
}

/// Stores act(u + b), and a residual added to it, in a row, or adds them to it. The scale of the row makes
/// the sums u.
pub(super) struct StoreActivated<'a, T: Element> {
    pub(super) row: Store<'a, T>,
    pub(super) activated: Activated<'a, T::Acc>,
    pub(super) residual: Option<&'a [T]>,
}

impl<T: Element> StoreActivated<'_, T> {
    #[inline(always)]
    fn store<const W: usize>(&mut self, start: usize, sums: &[T::Acc; W]) {
        let Store { row, scale, accumulate } = &mut self.row;
        let mut values = self.activated.biased(start, sums, *scale);
        self.activated.activation.values(&mut values);
        if let Some(residual) = self.residual {
            let residual = &residual[start..][..W];
            for i in 0..W {
                values[i] += residual[i].widen();
            }
        }
        store_array(&mut row[start..][..W], *accumulate, values);
    }
}

/// Stores t = g act'(u + b) in a row; 0 where the derivative is 0, whatever g is.
pub(super) struct StoreGradient<'a, T: Element, S: Element<Acc = T::Acc>> {
    pub(super) row: &'a mut [T],
    pub(super) scale: T::Acc,
    pub(super) activated: Activated<'a, T::Acc>,
    /// g.
    pub(super) gradient: &'a [S],
}

impl<T: Element, S: Element<Acc = T::Acc>> StoreGradient<'_, T, S> {
    #[inline(always)]
    fn store<const W: usize>(&mut self, start: usize, sums: &[T::Acc; W]) {
        let gradient = &self.gradient[start..][..W];
        let mut values = self.activated.biased(start, sums, self.scale);
        self.activated.activation.derivatives(&mut values);
        for i in 0..W {
            let product = gradient[i].widen() * values[i];
            values[i] = if values[i] == T::Acc::ZERO { T::Acc::ZERO } else { product };
        }
        store_array(&mut self.row[start..][..W], false, values);
    }
}

/// The sums of a row come in blocks of so many features.
macro_rules! by_blocks {
    ([$($generics:tt)*] $row:ty, $acc:ty) => {
        impl<$($generics)*> Sink<$acc> for $row {
            #[inline(always)]
            fn apply(&mut self, start: usize, sums: &[$acc]) {
                if let Ok(sums) = <&[_; LANES]>::try_from(sums) {
                    return self.store(start, sums);
                }
                if let Ok(sums) = <&[_; 8]>::try_from(sums) {
                    return self.store(start, sums);
                }
                for (i, &sum) in sums.iter().enumerate() {
                    self.store(start + i, &[sum]);
                }
            }

            #[inline(always)]
            fn apply_array<const W: usize>(&mut self, start: usize, sums: &[$acc; W]) {
                self.store(start, sums);
            }
        }
    };
}
by_blocks!([T: Element] StoreActivated<'_, T>, T::Acc);
by_blocks!([T: Element, S: Element<Acc = T::Acc>] StoreGradient<'_, T, S>, T::Acc);

/// Stores a row of gradients as it is, or adds it to what is there.
pub(super) fn store_row<T: Element, S: Element<Acc = T::Acc>>(to: Store<'_, T>, from: &[S]) {
    for (place, value) in to.row.iter_mut().zip(from) {
        let value = value.widen();
        *place = T::narrow(if to.accumulate { place.widen() + value } else { value });
    }
}
