//! The integer types in which a caller may hand over ids, pointers and offsets.

/// An integer type that index arrays may have: Rust's own up to 64 bits, signed or not, so that an array that
/// comes from another library (often `i64`) need not be converted first. A negative or too large value is a
/// typed error.
///
/// This trait is sealed.
pub trait Index: Copy + sealed::Sealed {
    /// The value, unchanged.
    fn value(self) -> i128;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! index {
    ($($t:ty),*) => {$(
        impl sealed::Sealed for $t {}
        impl Index for $t {
            #[inline]
            fn value(self) -> i128 {
                self as i128
            }
        }
    )*};
}
index!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);

/// `index` as a position below `bound`, or `None`.
#[inline]
pub(crate) fn below<I: Index>(index: I, bound: usize) -> Option<usize> {
    usize::try_from(index.value()).ok().filter(|&i| i < bound)
}
