//! Memory that the backend owns: device buffers without events of their own, and one page of mapped host
//! memory.
//!
//! A `CudaSlice` carries two events. Once a context has several streams, each launch would wait for them and
//! record them. Tables and scratch memory need none: tables are written before anybody can use them, and
//! scratch memory is used on one stream only. Both are freed when an event after their last use has passed
//! (see `retired`).

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::Pod;
use cudarc::driver::{CudaStream, DriverError, result, sys};

use super::driver::{Current, failed};
use crate::error::{Error, Result};

/// `len` elements of device memory, allocated on a stream.
pub(super) struct Buffer<T> {
    address: sys::CUdeviceptr,
    len: usize,
    stream: Arc<CudaStream>,
    elements: PhantomData<T>,
}

// SAFETY: it owns its memory, and all its methods go through the driver, which is thread-safe.
unsafe impl<T: Send> Send for Buffer<T> {}
// SAFETY: a shared reference gives the address and the length, and copies out of it.
unsafe impl<T: Sync> Sync for Buffer<T> {}

impl<T: Pod> Buffer<T> {
    /// Unwritten memory. The context of `stream` must be current.
    pub(super) fn new(what: &'static str, stream: &Arc<CudaStream>, len: usize) -> Result<Self> {
        // The driver refuses to allocate nothing.
        let bytes = len.max(1).saturating_mul(size_of::<T>());
        // SAFETY: plain calls with a stream that is alive; the memory is freed once, in `drop`.
        let address = unsafe {
            match stream.context().has_async_alloc() {
                true => result::malloc_async(stream.cu_stream(), bytes),
                false => result::malloc_sync(bytes),
            }
        };
        let address = address.map_err(|e| no_memory(what, bytes, e))?;
        Ok(Self { address, len, stream: stream.clone(), elements: PhantomData })
    }

    /// A copy of `values`, complete when this returns. The context of `stream` must be current.
    pub(super) fn from_slice(what: &'static str, stream: &Arc<CudaStream>, values: &[T]) -> Result<Self> {
        let buffer = Self::new(what, stream, values.len())?;
        buffer.write(0, values)?;
        Ok(buffer)
    }

    pub(super) fn address(&self) -> sys::CUdeviceptr {
        self.address
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// Writes `values` from `start` on, and waits for it. The context must be current, and no kernel may be
    /// using the buffer.
    pub(super) fn write(&self, start: usize, values: &[T]) -> Result<()> {
        self.assert_within(start, values.len());
        if values.is_empty() {
            return Ok(());
        }
        let to = self.address + (start * size_of::<T>()) as u64;
        // SAFETY: the range was just checked; the host memory outlives the call, which waits for the copy.
        unsafe {
            result::memcpy_htod_async(to, values, self.stream.cu_stream())
                .and_then(|()| result::stream::synchronize(self.stream.cu_stream()))
        }
        .map_err(|e| failed("copying a table to the device", e))
    }

    /// A copy of the elements from `start` on. The context must be current.
    pub(super) fn read(&self, start: usize, values: &mut [T]) -> Result<()> {
        self.assert_within(start, values.len());
        if values.is_empty() {
            return Ok(());
        }
        let from = self.address + (start * size_of::<T>()) as u64;
        // SAFETY: as above; any bits are a `T`.
        unsafe {
            result::memcpy_dtoh_async(values, from, self.stream.cu_stream())
                .and_then(|()| result::stream::synchronize(self.stream.cu_stream()))
        }
        .map_err(|e| failed("copying a table from the device", e))
    }

    fn assert_within(&self, start: usize, len: usize) {
        let room = self.len.checked_sub(start);
        assert!(room.is_some_and(|room| len <= room), "{len} elements from {start} on, of {}", self.len);
    }

    /// Makes all bytes zero, in stream order. The context must be current.
    pub(super) fn zero(&self) -> Result<()> {
        // SAFETY: the buffer is alive and has this many bytes.
        unsafe { result::memset_d8_async(self.address, 0, self.bytes(), self.stream.cu_stream()) }
            .map_err(|e| failed("clearing device memory", e))
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        let context = self.stream.context();
        let Ok(_current) = Current::enter(context) else { return };
        // SAFETY: allocated in `new` by the matching call, and freed only here. Whoever drops a buffer knows
        // that no work outside its own stream's order uses it any more.
        context.record_err(unsafe {
            match context.has_async_alloc() {
                true => result::free_async(self.address, self.stream.cu_stream()),
                false => result::free_sync(self.address),
            }
        });
    }
}

/// One `T` in pinned host memory that kernels can write to. All its bytes start as zero.
pub(super) struct Mapped<T> {
    host: *mut T,
    device: sys::CUdeviceptr,
    stream: Arc<CudaStream>,
}

// SAFETY: it owns its memory, which is plain data.
unsafe impl<T: Send> Send for Mapped<T> {}
// SAFETY: a shared reference gives addresses only; whoever reads through them says why that is sound.
unsafe impl<T: Sync> Sync for Mapped<T> {}

impl<T: Pod> Mapped<T> {
    /// The context of `stream` must be current.
    pub(super) fn new(what: &'static str, stream: &Arc<CudaStream>) -> Result<Self> {
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        // SAFETY: plain call; the memory is freed once, in `drop`.
        let host = unsafe { result::malloc_host(size_of::<T>(), flags) };
        let host = host.map_err(|e| no_memory(what, size_of::<T>(), e))?.cast::<T>();
        // From here on dropping frees it.
        let mut mapped = Self { host, device: 0, stream: stream.clone() };
        // SAFETY: pinned memory is page-aligned and has room for a `T`, and nobody else knows it yet.
        unsafe { host.write(T::zeroed()) };
        // SAFETY: the memory was allocated as mapped, and the out-pointer is valid.
        unsafe { sys::cuMemHostGetDevicePointer_v2(&mut mapped.device, host.cast(), 0) }
            .result()
            .map_err(|e| failed("mapping host memory", e))?;
        Ok(mapped)
    }
}

impl<T> Mapped<T> {
    pub(super) fn host(&self) -> *mut T {
        self.host
    }

    pub(super) fn device(&self) -> sys::CUdeviceptr {
        self.device
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        let context = self.stream.context();
        let Ok(_current) = Current::enter(context) else { return };
        // SAFETY: allocated in `new`, freed only here, when no kernel can write to it any more.
        context.record_err(unsafe { result::free_host(self.host.cast()) });
    }
}

fn no_memory(what: &'static str, bytes: usize, error: DriverError) -> Error {
    match error.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { what, bytes: bytes as u128 },
        _ => failed("allocating memory", error),
    }
}
