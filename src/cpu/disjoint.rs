//! Writing disjoint parts of one slice from several threads. The `unsafe` code of the CPU backend is this,
//! its uses (each says why its part is nobody else's), the calls in `gather`, `products` and `dense/` that
//! follow the detection of the processor's features, stores that go past the caches (`streams`), and a
//! prefetch, which reads nothing.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice whose parts may be borrowed mutably at the same time, as long as they do not overlap: rows
/// of an output that lie interleaved in memory cannot be split off one behind the other.
pub(super) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for the exclusive borrow of a slice of `T`, which may move to another thread if `T` may.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: through a shared reference it hands out exclusive borrows of parts only, which the contract of
// `part` keeps disjoint; that moves `T`s to other threads, but never shares one.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Panics
    /// If `range` does not lie within the slice.
    ///
    /// # Safety
    /// As long as the returned borrow lives, no part that overlaps `range` is borrowed.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} is not within 0..{}", self.len);
        // SAFETY: the range was just checked to lie within the slice that is borrowed mutably for 'a, and the
        // caller promises that nobody else holds any of it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
