//! Stores that go past the caches, of rows that are too many to stay there: the processor need not read a
//! line before it writes it.

#![allow(unsafe_code)]

use super::gather::{Sink, Store};
use crate::element::Element;

/// The bytes of an output from which on it is streamed: half of a last cache of 32 MiB. What is smaller may
/// still be there when the next operator reads it.
pub(super) const STREAMED_BYTES: usize = 16 << 20;

/// The streams of a thread. Nobody may rely on what was written before this is dropped, and no store outlives
/// it.
pub(super) struct Streams {
    are_wanted: bool,
}

impl Streams {
    /// If they are not wanted, stores are ordinary ones.
    pub(super) fn new(are_wanted: bool) -> Self {
        Self { are_wanted }
    }

    /// The same store, streamed where that is wanted and nothing is added to.
    pub(super) fn store<'a, T: Element>(&'a self, store: Store<'a, T>) -> Streamed<'a, T> {
        let is_streamed = cfg!(target_arch = "x86_64") && self.are_wanted && !store.accumulate;
        Streamed { store, is_streamed }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if self.are_wanted {
            // What is streamed may otherwise become visible to other threads after what is stored later.
            // SAFETY: every x86-64 has it.
            unsafe { std::arch::x86_64::_mm_sfence() };
        }
    }
}

/// Stores the scaled sums in a row. Where it is streamed, blocks should come in order, row after row: a line
/// that is not written as a whole soon is slow.
pub(super) struct Streamed<'a, T: Element> {
    store: Store<'a, T>,
    is_streamed: bool,
}

impl<T: Element> Sink<T::Acc> for Streamed<'_, T> {
    #[inline(always)]
    fn apply(&mut self, start: usize, sums: &[T::Acc]) {
        self.store.apply(start, sums);
    }

    #[inline(always)]
    fn apply_array<const W: usize>(&mut self, start: usize, sums: &[T::Acc; W]) {
        if !self.is_streamed {
            return self.store.apply_array(start, sums);
        }
        // Without closures, which the compiler does not always inline.
        let mut values = [T::default(); W];
        for i in 0..W {
            values[i] = T::narrow(sums[i] * self.store.scale);
        }
        stream(&mut self.store.row[start..][..W], &values);
    }

    #[inline(always)]
    fn fetch(&self, start: usize, len: usize) {
        if !self.is_streamed {
            self.store.fetch(start, len);
        }
    }

    #[inline(always)]
    fn wants_whole_rows(&self) -> bool {
        self.is_streamed
    }
}

/// Copies `values`, past the caches where `row` lies at a multiple of 16 bytes.
#[inline(always)]
fn stream<T: Element, const W: usize>(row: &mut [T], values: &[T; W]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
        let (from, to) = (values.as_ptr().cast::<__m128i>(), row.as_mut_ptr().cast::<__m128i>());
        let vectors = size_of_val(values) / size_of::<__m128i>();
        if to.is_aligned() && vectors * size_of::<__m128i>() == size_of_val(row) {
            for i in 0..vectors {
                // SAFETY: both have so many bytes, and `to` is aligned. Elements are plain numbers. `Streams`
                // makes a fence before anybody else looks at the row.
                unsafe { _mm_stream_si128(to.add(i), _mm_loadu_si128(from.add(i))) };
            }
            return;
        }
    }
    row.copy_from_slice(values);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::Accumulator;

    fn streams_what_is_stored<T: Element>(narrow: impl Fn(f64) -> T, to_f64: impl Fn(T) -> f64) {
        let sums: [T::Acc; 37] = std::array::from_fn(|i| T::Acc::from_f64(i as f64 * 0.25 - 5.0));
        // Each alignment that a row can have.
        for (start, accumulate) in (0..16).flat_map(|start| [(start, false), (start, true)]) {
            let rows = [false, true].map(|are_wanted| {
                let mut rows = vec![narrow(7.0); 64];
                let streams = Streams::new(are_wanted);
                let row = &mut rows[start..start + 37];
                let store = Store { row, scale: T::Acc::from_f64(0.5), accumulate };
                let mut streamed = streams.store(store);
                let can_be = cfg!(target_arch = "x86_64");
                assert_eq!(streamed.wants_whole_rows(), can_be && are_wanted && !accumulate);
                streamed.apply_array::<32>(0, sums[..32].first_chunk().unwrap());
                streamed.apply_array::<1>(32, &[sums[32]]);
                streamed.apply(33, &sums[33..]);
                drop(streams);
                rows.into_iter().map(&to_f64).collect::<Vec<_>>()
            });
            assert_eq!(rows[0], rows[1], "{}, {start}", T::NAME);
            assert_eq!(
                rows[0][start + 36],
                if accumulate { 7.0 } else { 0.0 } + to_f64(T::narrow(sums[36])) / 2.0
            );
        }
    }

    #[test]
    fn what_is_streamed_is_what_is_stored() {
        streams_what_is_stored::<f32>(|x| x as f32, f64::from);
        streams_what_is_stored::<f64>(|x| x, |x| x);
        streams_what_is_stored::<half::bf16>(half::bf16::from_f64, half::bf16::to_f64);
    }
}
