//! What C hands over: pointers, numbers that stand for choices, arrays of indices.

use crate::error::{Failure, Result};

/// A reference to what a pointer points to.
///
/// # Safety
/// The pointer is null or misaligned, or points to a `T` that lives and is not written for as long as the
/// result is used.
pub(crate) unsafe fn reference<'a, T>(what: &'static str, pointer: *const T) -> Result<&'a T> {
    // SAFETY: the caller's promise.
    unsafe { optional(what, pointer)? }.ok_or(Failure::Null(what))
}

/// The same, of what may be null.
///
/// # Safety
/// As above.
pub(crate) unsafe fn optional<'a, T>(what: &'static str, pointer: *const T) -> Result<Option<&'a T>> {
    check_pointer(what, pointer)?;
    // SAFETY: the caller's promise; the rest was just checked.
    Ok(unsafe { pointer.as_ref() })
}

/// `len` elements from a pointer on. Nothing may be at a null pointer.
///
/// # Safety
/// The pointer is null, or there are `len` elements that live and are not written for as long as the result
/// is used.
pub(crate) unsafe fn slice<'a, T>(what: &'static str, pointer: *const T, len: usize) -> Result<&'a [T]> {
    check_length(what, len, size_of::<T>())?;
    match (pointer.is_null(), len) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Failure::Null(what)),
        (false, _) => {
            check_pointer(what, pointer)?;
            // SAFETY: the caller's promise; the rest was just checked.
            Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
        }
    }
}

/// The bytes of an array: no more than an `isize` counts.
pub(crate) fn check_length(what: &'static str, len: usize, size: usize) -> Result<usize> {
    let (value, bound) = (len as u128 * size as u128, isize::MAX as u128);
    match value <= bound {
        true => Ok(value as usize),
        false => Err(hyperscatter::Error::TooLarge { what, value, bound }.into()),
    }
}

/// That a pointer may point to a `T`, if it is not null.
fn check_pointer<T>(what: &'static str, pointer: *const T) -> Result<()> {
    check_alignment(what, pointer as usize as u64, align_of::<T>() as u64)
}

pub(crate) fn check_alignment(operand: &'static str, value: u64, bound: u64) -> Result<()> {
    match value.is_multiple_of(bound) {
        true => Ok(()),
        false => Err(hyperscatter::Error::Misaligned { operand, value, bound }.into()),
    }
}

/// Where a result goes.
///
/// # Safety
/// The pointer is null or misaligned, or may be written.
pub(crate) unsafe fn give<T>(what: &'static str, to: *mut T, value: T) -> Result<()> {
    if to.is_null() {
        return Err(Failure::Null(what));
    }
    check_pointer(what, to)?;
    // SAFETY: the caller's promise.
    unsafe { to.write(value) };
    Ok(())
}

/// Where a handle goes. It is null until it is made, so that a call that fails leaves nothing to free.
///
/// # Safety
/// The pointer is null or misaligned, or may be written.
pub(crate) unsafe fn make<T>(
    what: &'static str,
    to: *mut *mut T,
    of: impl FnOnce() -> Result<T>,
) -> Result<()> {
    // SAFETY: the caller's promise, here and below.
    unsafe { give(what, to, std::ptr::null_mut())? };
    let handle = Box::into_raw(Box::new(of()?));
    // SAFETY: as above.
    unsafe { give(what, to, handle) }
}

/// What a number stands for, in a list of all choices.
pub(crate) fn choice<T: Copy>(what: &'static str, number: u32, choices: &[T]) -> Result<T> {
    let (value, bound) = (u64::from(number), choices.len() as u64);
    choices.get(number as usize).copied().ok_or(Failure::Argument { what, value, bound })
}

/// Indices are `int32_t`.
pub const HS_INT32: u32 = 0;
/// Indices are `int64_t`.
pub const HS_INT64: u32 = 1;
/// Indices are `uint32_t`.
pub const HS_UINT32: u32 = 2;
/// Indices are `uint64_t`.
pub const HS_UINT64: u32 = 3;

/// An array of ids, pointers, counts or offsets.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct hs_indices {
    /// The first; may be null where there are none.
    pub data: *const std::ffi::c_void,
    /// How many there are.
    pub len: usize,
    /// Their type: `HS_INT32`, …
    pub integers: u32,
}

/// Indices of one of the types that there are.
#[derive(Clone, Copy)]
pub(crate) enum Indices<'a> {
    I32(&'a [i32]),
    I64(&'a [i64]),
    U32(&'a [u32]),
    U64(&'a [u64]),
}

/// # Safety
/// The pointer is null, or points to an `hs_indices` whose array is as it says and is not written for as long
/// as the result is used.
pub(crate) unsafe fn indices<'a>(what: &'static str, indices: *const hs_indices) -> Result<Indices<'a>> {
    // SAFETY: the caller's promise, here and below.
    unsafe {
        let &hs_indices { data, len, integers } = reference(what, indices)?;
        Ok(match choice("integers", integers, &[HS_INT32, HS_INT64, HS_UINT32, HS_UINT64])? {
            HS_INT32 => Indices::I32(slice(what, data.cast(), len)?),
            HS_INT64 => Indices::I64(slice(what, data.cast(), len)?),
            HS_UINT32 => Indices::U32(slice(what, data.cast(), len)?),
            _ => Indices::U64(slice(what, data.cast(), len)?),
        })
    }
}

/// Runs an expression with the slices of indices, whatever their type.
macro_rules! with_indices {
    ($indices:expr, $slice:ident => $body:expr) => {
        match $indices {
            $crate::arguments::Indices::I32($slice) => $body,
            $crate::arguments::Indices::I64($slice) => $body,
            $crate::arguments::Indices::U32($slice) => $body,
            $crate::arguments::Indices::U64($slice) => $body,
        }
    };
}
pub(crate) use with_indices;
