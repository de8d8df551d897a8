//! Allocation of device memory and of pinned host memory.

use std::ffi::{c_int, c_uint, c_void};

use super::context::primary;
use crate::driver::entry::{
    Out, current_device, exports, release_in_current, release_in_stream, with_current, with_stream,
};
use crate::driver::handle::Handle;
use crate::driver::operation::Operation;
use crate::driver::state::State;
use crate::driver::status::{Outcome, Status};
use crate::interface::Space;

/// The flags of `cuMemHostAlloc`: portable, mapped, write-combined.
const HOST_FLAGS: c_uint = 7;

fn pinned(state: &mut State, bytes: usize) -> Outcome<usize> {
    state.refuse_unsafe_call()?;
    if bytes == 0 {
        return Err(Status::INVALID_VALUE);
    }
    state.allocate(bytes, Space::Mapped, None)
}

exports! {
    /// Allocates device memory.
    fn cuMemAlloc_v2(address: Out<usize>, bytes: usize) {
        with_current(|state| {
            state.refuse_unsafe_call()?;
            if bytes == 0 {
                return Err(Status::INVALID_VALUE);
            }
            address.set(state.allocate(bytes, Space::Device, None)?)
        })
    }

    /// Frees device memory, once everything that was queued has run.
    fn cuMemFree_v2(address: usize) {
        release_in_current(|state| {
            state.refuse_unsafe_call()?;
            if address == 0 {
                return Ok(());
            }
            state.memory.begin_free(address, Space::Device).or_else(|why| state.mistake(why))?;
            state.run_all();
            state.memory.finish_free(address);
            Ok(())
        })
    }

    /// Allocates device memory in the order of a stream. The address of 0 bytes is null.
    fn cuMemAllocAsync(address: Out<usize>, bytes: usize, stream: Handle) {
        with_stream(stream, |state, stream| {
            state.refuse_if_captured(stream)?;
            if bytes == 0 {
                return address.set(0);
            }
            address.set(state.allocate(bytes, Space::Device, Some(stream))?)
        })
    }

    /// Frees device memory when the stream gets there.
    fn cuMemFreeAsync(address: usize, stream: Handle) {
        release_in_stream(stream, |state, stream| {
            state.refuse_if_captured(stream)?;
            if address == 0 {
                return Ok(());
            }
            state.memory.begin_free(address, Space::Device).or_else(|why| state.mistake(why))?;
            state.enqueue(stream, Operation::Free(address))
        })
    }

    /// Allocates pinned host memory; kernels may always use it, as host and device have one address space.
    fn cuMemHostAlloc(address: Out<usize>, bytes: usize, flags: c_uint) {
        with_current(|state| {
            if flags & !HOST_FLAGS != 0 {
                return Err(Status::INVALID_VALUE);
            }
            address.set(pinned(state, bytes)?)
        })
    }

    /// Allocates pinned host memory.
    fn cuMemAllocHost_v2(address: Out<usize>, bytes: usize) {
        with_current(|state| address.set(pinned(state, bytes)?))
    }

    /// Frees pinned host memory. It waits for nothing: what still uses the memory is reported.
    fn cuMemFreeHost(address: usize) {
        release_in_current(|state| {
            state.refuse_unsafe_call()?;
            state.memory.begin_free(address, Space::Mapped).or_else(|why| state.mistake(why))?;
            if let Ok(Some(allocation)) = state.memory.present(address, 1) {
                let len = allocation.len;
                let queued = state.streams.values().flat_map(|stream| stream.queue());
                let users = queued.filter(|operation| operation.may_use(address, len)).count();
                if users > 0 {
                    let place = state.memory.place(address);
                    state.reports.push(format!("{place} is freed while {users} queued operations may use it"));
                }
            }
            state.memory.finish_free(address);
            Ok(())
        })
    }

    /// The address by which kernels know pinned host memory: the same.
    fn cuMemHostGetDevicePointer_v2(address: Out<usize>, host: usize, flags: c_uint) {
        with_current(|state| {
            if flags != 0 || !state.memory.is_pinned(host, 1) {
                return Err(Status::INVALID_VALUE);
            }
            address.set(host)
        })
    }

    /// How much memory is free, and how much there is.
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        with_current(|state| {
            free.set(state.free_bytes() as usize)?;
            total.set(state.total_bytes() as usize)
        })
    }

    /// What an address belongs to.
    fn cuPointerGetAttribute(value: *mut c_void, attribute: c_uint, address: usize) {
        let ordinal = current_device()?.lock().ordinal;
        with_current(|state| {
            let Ok(Some(allocation)) = state.memory.present(address, 1) else {
                return Err(Status::INVALID_VALUE);
            };
            match attribute {
                1 => Out::at(value).set(primary(ordinal)),
                // Host memory is 1, device memory 2.
                2 => Out::at(value).set(if allocation.space == Space::Mapped { 1 as c_uint } else { 2 }),
                3 => Out::at(value).set(address),
                4 if allocation.space == Space::Mapped => Out::at(value).set(address),
                9 => Out::at(value).set(ordinal as c_int),
                11 => Out::at(value).set(allocation.base),
                12 => Out::at(value).set(allocation.len),
                _ => Err(Status::INVALID_VALUE),
            }
        })
    }
}
