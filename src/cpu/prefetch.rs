//! Having the processor bring memory nearer before a program gets there.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};

/// The bytes that come at once.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// What elements are brought nearer for.
pub(super) enum To {
    Read,
    Write,
}

/// Has the processor bring these elements nearer.
#[inline(always)]
pub(super) fn prefetch<T>(elements: &[T], to: To) {
    #[cfg(target_arch = "x86_64")]
    for element in elements.iter().step_by((LINE / size_of::<T>()).max(1)) {
        let address = (&raw const *element).cast();
        // SAFETY: it reads and writes nothing that the program sees, whatever the address; this one is of an
        // element.
        unsafe {
            match to {
                To::Read => _mm_prefetch::<_MM_HINT_T0>(address),
                To::Write => _mm_prefetch::<_MM_HINT_ET0>(address),
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (elements, to);
}
