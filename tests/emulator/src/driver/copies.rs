//! Memory: allocations, copies, fills.

use std::ffi::{c_uchar, c_uint, c_void};
use std::sync::Arc;

use super::code::{self, Code};
use super::streams::stream_id;
use super::{driver, put};
use crate::interface::Space;
use crate::queue::Operation;
use crate::state::{State, current};

/// A copy of host memory that the caller hands over.
fn bytes_at(from: *const c_void, len: usize) -> Vec<u8> {
    if len == 0 {
        return Vec::new();
    }
    // SAFETY: the interface's contract: the caller's memory has this length.
    unsafe { std::slice::from_raw_parts(from.cast::<u8>(), len) }.to_vec()
}

/// Reports what was wrong with a range, as an invalid value.
fn reported<T>(state: &mut State, result: Result<T, String>) -> Result<T, Code> {
    result.map_err(|report| {
        state.reports.push(report);
        code::INVALID_VALUE
    })
}

fn check_range(state: &mut State, what: &str, address: usize, len: usize) -> Result<(), Code> {
    if len == 0 {
        return Ok(());
    }
    let result = state.memory.range(address, len).map(drop).map_err(|e| format!("{what} {e}"));
    reported(state, result)
}

fn allocate(state: &mut State, to: *mut u64, len: usize, space: Space) -> Result<(), Code> {
    if len == 0 {
        return Err(code::INVALID_VALUE);
    }
    state.create()?;
    let base = state.memory.allocate(len, space)?;
    put(to, base as u64)
}

/// Device to host: complete when the call returns where the memory is pageable.
fn read(
    state: &mut State,
    stream: Option<usize>,
    to: *mut c_void,
    from: usize,
    len: usize,
) -> Result<(), Code> {
    check_range(state, "a copy from the device reads", from, len)?;
    let id = stream.map(|s| stream_id(state, s)).transpose()?;
    if let Some(id) = id {
        if state.memory.is_pinned(to as usize) {
            return state.enqueue(id, Operation::Copy { to: to as usize, from, len });
        }
        state.not_capturing(id)?;
        state.run_stream(id, None);
    } else {
        state.not_while_capturing()?;
        state.run_default();
    }
    state.sticky()?;
    check_range(state, "a copy from the device reads", from, len)?;
    if len > 0 {
        // SAFETY: the source was just checked, and the target is the caller's, of this length.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.cast::<u8>(), len) };
    }
    Ok(())
}

fn fill(state: &mut State, stream: usize, to: u64, pattern: &[u8], count: usize) -> Result<(), Code> {
    let id = stream_id(state, stream)?;
    state.sticky()?;
    check_range(state, "a memset writes", to as usize, pattern.len() * count)?;
    if count == 0 {
        return Ok(());
    }
    state.enqueue(id, Operation::Fill { to: to as usize, pattern: pattern.to_vec(), count })
}

impl State {
    /// What a synchronous copy waits for: the default stream and the blocking ones.
    pub(crate) fn run_default(&mut self) {
        let mut blocking: Vec<_> =
            self.streams.iter().filter(|(_, s)| s.blocking).map(|(&id, _)| id).collect();
        blocking.sort_unstable();
        blocking.into_iter().for_each(|id| self.run_stream(id, None));
    }
}

driver! {
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let state = current()?.lock();
        let all = state.memory.limit.unwrap_or(80 << 30) as usize;
        put(free, all.saturating_sub(state.memory.bytes() as usize))?;
        put(total, all)
    }

    fn cuMemAlloc_v2(to: *mut u64, len: usize) {
        let mut state = current()?.lock();
        state.not_while_capturing()?;
        allocate(&mut state, to, len, Space::Device)
    }

    fn cuMemAllocAsync(to: *mut u64, len: usize, stream: usize) {
        let mut state = current()?.lock();
        let id = stream_id(&mut state, stream)?;
        state.not_capturing(id)?;
        allocate(&mut state, to, len, Space::Device)
    }

    fn cuMemFree_v2(address: u64) {
        let mut state = current()?.lock();
        state.not_while_capturing()?;
        state.run_all();
        let result = state.memory.free(address as usize, Space::Device);
        reported(&mut state, result)
    }

    fn cuMemFreeAsync(address: u64, stream: usize) {
        let mut state = current()?.lock();
        let id = stream_id(&mut state, stream)?;
        state.not_capturing(id)?;
        check_range(&mut state, "a free names", address as usize, 1)?;
        if state.sticky.is_some() {
            // The context is lost, and its memory with it.
            let result = state.memory.free(address as usize, Space::Device);
            return reported(&mut state, result);
        }
        state.enqueue(id, Operation::Free { base: address as usize })
    }

    fn cuMemHostAlloc(to: *mut u64, len: usize, _flags: c_uint) {
        let mut state = current()?.lock();
        state.not_while_capturing()?;
        allocate(&mut state, to, len, Space::Mapped)
    }

    fn cuMemFreeHost(address: u64) {
        let mut state = current()?.lock();
        if state.is_in_flight(address as usize) {
            state.run_all();
            state.reports.push("pinned memory was freed with work in flight that uses it".into());
        }
        let result = state.memory.free(address as usize, Space::Mapped);
        reported(&mut state, result)
    }

    fn cuMemHostGetDevicePointer_v2(to: *mut u64, address: u64, _flags: c_uint) {
        let mut state = current()?.lock();
        state.create()?;
        if !state.memory.is_pinned(address as usize) {
            return Err(code::INVALID_VALUE);
        }
        put(to, address)
    }

    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, len: usize) {
        let mut state = current()?.lock();
        state.not_while_capturing()?;
        check_range(&mut state, "a copy to the device writes", to as usize, len)?;
        state.run_default();
        state.sticky()?;
        let result = if len == 0 { Ok(()) } else { state.write(to as usize, &bytes_at(from, len)) };
        reported(&mut state, result)
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, len: usize, stream: usize) {
        let mut state = current()?.lock();
        let id = stream_id(&mut state, stream)?;
        state.sticky()?;
        check_range(&mut state, "a copy to the device writes", to as usize, len)?;
        if len == 0 {
            return Ok(());
        }
        let operation = match state.memory.is_pinned(from as usize) {
            true => Operation::Copy { to: to as usize, from: from as usize, len },
            false => Operation::Write { to: to as usize, bytes: Arc::new(bytes_at(from, len)) },
        };
        state.enqueue(id, operation)
    }

    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, len: usize) {
        read(&mut current()?.lock(), None, to, from as usize, len)
    }

    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, len: usize, stream: usize) {
        read(&mut current()?.lock(), Some(stream), to, from as usize, len)
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, len: usize, stream: usize) {
        let mut state = current()?.lock();
        let id = stream_id(&mut state, stream)?;
        state.sticky()?;
        check_range(&mut state, "a copy writes", to as usize, len)?;
        check_range(&mut state, "a copy reads", from as usize, len)?;
        if len == 0 {
            return Ok(());
        }
        state.enqueue(id, Operation::Copy { to: to as usize, from: from as usize, len })
    }

    fn cuMemsetD8Async(to: u64, value: c_uchar, count: usize, stream: usize) {
        fill(&mut current()?.lock(), stream, to, &[value], count)
    }

    fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: usize) {
        fill(&mut current()?.lock(), stream, to, &value.to_ne_bytes(), count)
    }
}
