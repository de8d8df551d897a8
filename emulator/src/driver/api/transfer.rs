//! Copies and memsets.
//!
//! The synchronous ones belong to the default stream, which does not wait for non-blocking streams. Those
//! between allocations, and all memsets of device memory, return before they have run.

use std::ffi::{c_uchar, c_uint, c_ushort};
use std::slice;
use std::sync::Arc;

use crate::driver::entry::{exports, with_current, with_stream};
use crate::driver::handle::Handle;
use crate::driver::operation::Operation;
use crate::driver::state::State;
use crate::driver::status::{Outcome, Status};
use crate::driver::stream::LEGACY;

/// The bytes of pageable host memory.
///
/// # Safety
/// They are readable as long as the slice is used.
unsafe fn host_bytes<'a>(host: *const u8, len: usize) -> Outcome<&'a [u8]> {
    if len == 0 {
        return Ok(&[]);
    }
    if host.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: the caller answers for them.
    Ok(unsafe { slice::from_raw_parts(host, len) })
}

fn usable(state: &mut State, what: &str, address: usize, len: usize) -> Outcome {
    state.memory.usable(address, len).or_else(|why| state.mistake(format!("{what}: {why}")))
}

/// Pageable memory cannot be captured: a graph would use it at every replay, long after its owner has gone.
fn refuse_pageable(state: &mut State, stream: u64) -> Outcome {
    if state.records(stream)? {
        state.reports.push("a copy from or to pageable memory is captured".to_owned());
    }
    state.refuse_if_captured(stream)
}

/// Copies to the device. Pageable memory is read now; pinned memory is read when the copy runs.
///
/// # Safety
/// `host` has `len` bytes.
unsafe fn upload(state: &mut State, stream: u64, to: usize, host: *const u8, len: usize) -> Outcome {
    usable(state, "copy to the device", to, len)?;
    if state.memory.is_pinned(host as usize, len) {
        usable(state, "copy to the device", host as usize, len)?;
        return state.submit(stream, Operation::Copy { from: host as usize, to, len });
    }
    refuse_pageable(state, stream)?;
    // SAFETY: the caller answers for them.
    let bytes = Arc::from(unsafe { host_bytes(host, len)? });
    state.submit(stream, Operation::Upload { to, bytes })
}

/// Copies to the host. A copy to pageable memory is done when the call returns.
///
/// # Safety
/// `host` has room for `len` bytes.
unsafe fn download(state: &mut State, stream: u64, host: *mut u8, from: usize, len: usize) -> Outcome {
    usable(state, "copy to the host", from, len)?;
    if state.memory.is_pinned(host as usize, len) {
        usable(state, "copy to the host", host as usize, len)?;
        return state.submit(stream, Operation::Copy { from, to: host as usize, len });
    }
    refuse_pageable(state, stream)?;
    if host.is_null() && len > 0 {
        return Err(Status::INVALID_VALUE);
    }
    state.finish(stream)?;
    state.healthy()?;
    // SAFETY: the caller answers for the target.
    let result = unsafe { state.memory.read(from, host, len) };
    result.or_else(|why| state.mistake(format!("copy to the host: {why}")))
}

fn copy(state: &mut State, stream: u64, to: usize, from: usize, len: usize) -> Outcome {
    usable(state, "copy from", from, len)?;
    usable(state, "copy to", to, len)?;
    state.submit(stream, Operation::Copy { from, to, len })
}

fn fill(state: &mut State, stream: u64, to: usize, value: u32, width: usize, count: usize) -> Outcome {
    let bytes = width.checked_mul(count).ok_or(Status::INVALID_VALUE)?;
    if !to.is_multiple_of(width) {
        return state.mistake(format!("memset: {} is not aligned to {width} bytes", state.memory.place(to)));
    }
    usable(state, "memset", to, bytes)?;
    state.submit(stream, Operation::Fill { to, pattern: value.to_le_bytes(), width, count })
}

/// A call of the default stream that is over when it returns.
fn synchronous(work: impl FnOnce(&mut State) -> Outcome) -> Outcome {
    with_current(|state| {
        state.refuse_unsafe_call()?;
        work(state)?;
        state.finish(LEGACY)
    })
}

/// A call of the default stream that returns at once.
fn default_stream(work: impl FnOnce(&mut State) -> Outcome) -> Outcome {
    with_current(|state| {
        state.refuse_unsafe_call()?;
        work(state)
    })
}

exports! {
    /// Copies from the host.
    fn cuMemcpyHtoD_v2(to: usize, host: *const u8, len: usize) {
        // SAFETY: the C interface demands that the source has `len` bytes.
        synchronous(|state| unsafe { upload(state, LEGACY, to, host, len) })
    }

    /// Copies to the host.
    fn cuMemcpyDtoH_v2(host: *mut u8, from: usize, len: usize) {
        // SAFETY: the C interface demands that the target has room for `len` bytes.
        synchronous(|state| unsafe { download(state, LEGACY, host, from, len) })
    }

    /// Copies within the device.
    fn cuMemcpyDtoD_v2(to: usize, from: usize, len: usize) {
        default_stream(|state| copy(state, LEGACY, to, from, len))
    }

    /// Copies from the host, in a stream.
    fn cuMemcpyHtoDAsync_v2(to: usize, host: *const u8, len: usize, stream: Handle) {
        // SAFETY: the C interface demands that the source has `len` bytes.
        with_stream(stream, |state, stream| unsafe { upload(state, stream, to, host, len) })
    }

    /// Copies to the host, in a stream.
    fn cuMemcpyDtoHAsync_v2(host: *mut u8, from: usize, len: usize, stream: Handle) {
        // SAFETY: the C interface demands that the target has room for `len` bytes.
        with_stream(stream, |state, stream| unsafe { download(state, stream, host, from, len) })
    }

    /// Copies within the device, in a stream.
    fn cuMemcpyDtoDAsync_v2(to: usize, from: usize, len: usize, stream: Handle) {
        with_stream(stream, |state, stream| copy(state, stream, to, from, len))
    }

    /// Sets bytes.
    fn cuMemsetD8_v2(to: usize, value: c_uchar, count: usize) {
        default_stream(|state| fill(state, LEGACY, to, value.into(), 1, count))
    }

    /// Sets 16-bit words.
    fn cuMemsetD16_v2(to: usize, value: c_ushort, count: usize) {
        default_stream(|state| fill(state, LEGACY, to, value.into(), 2, count))
    }

    /// Sets 32-bit words.
    fn cuMemsetD32_v2(to: usize, value: c_uint, count: usize) {
        default_stream(|state| fill(state, LEGACY, to, value, 4, count))
    }

    /// Sets bytes, in a stream.
    fn cuMemsetD8Async(to: usize, value: c_uchar, count: usize, stream: Handle) {
        with_stream(stream, |state, stream| fill(state, stream, to, value.into(), 1, count))
    }

    /// Sets 16-bit words, in a stream.
    fn cuMemsetD16Async(to: usize, value: c_ushort, count: usize, stream: Handle) {
        with_stream(stream, |state, stream| fill(state, stream, to, value.into(), 2, count))
    }

    /// Sets 32-bit words, in a stream.
    fn cuMemsetD32Async(to: usize, value: c_uint, count: usize, stream: Handle) {
        with_stream(stream, |state, stream| fill(state, stream, to, value, 4, count))
    }
}
