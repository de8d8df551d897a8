//! CUDA devices.

use std::sync::Arc;

use hyperscatter::Error;
use hyperscatter::cuda::Device;
use hyperscatter::cuda::cudarc::driver::{CudaStream, DriverError, result, sys};

use crate::arguments::make;
use crate::error::{entry, quietly};

/// A CUDA device, by its primary context, which other frameworks use, too. Each handle is a device of its
/// own: tables and windows that were made for one are not for another, also where both have the same ordinal.
#[allow(non_camel_case_types)]
pub struct hs_device {
    pub(crate) device: Device,
    /// Workspaces are made on this one.
    pub(crate) stream: OwnStream,
}

/// The context that is current on this thread, which is so again in the end: `cudarc` makes another one
/// current where it makes and drops streams.
struct Kept(Option<sys::CUcontext>);

impl Kept {
    /// The driver must have been loaded.
    fn new() -> Result<Self, DriverError> {
        Ok(Self(result::ctx::get_current()?))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // SAFETY: it was current on this thread a moment ago. Nobody could be told of a failure.
        let _ = unsafe { result::ctx::set_current(self.0.unwrap_or(std::ptr::null_mut())) };
    }
}

/// A stream of the library's own.
#[derive(Clone)]
pub(crate) struct OwnStream(Option<Arc<CudaStream>>);

impl OwnStream {
    /// Not the default stream: that would wait for other frameworks' streams, and they for it, and it may not
    /// be used while one of them is captured.
    fn new(device: &Device) -> Result<Self, DriverError> {
        let _kept = Kept::new()?;
        Ok(Self(Some(device.context().new_stream()?)))
    }

    pub(crate) fn get(&self) -> &Arc<CudaStream> {
        self.0.as_ref().expect("only `drop` takes it")
    }
}

impl Drop for OwnStream {
    fn drop(&mut self) {
        let _kept = Kept::new();
        drop(self.0.take());
    }
}

/// Opens the CUDA device of this ordinal. Building and loading this library needs no CUDA: the driver is
/// looked for here. Waits for all work of the context, so no stream of it may be captured meanwhile. Open
/// each device once, and keep it: see `hs_device`.
///
/// Errors: `HS_ERROR_DRIVER_UNAVAILABLE`, `HS_ERROR_DRIVER_TOO_OLD`, `HS_ERROR_NO_DEVICE`,
/// `HS_ERROR_UNSUPPORTED_ARCHITECTURE`, `HS_ERROR_DRIVER`, `HS_ERROR_NULL`.
///
/// # Safety
/// `device` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_device_open(ordinal: u32, device: *mut *mut hs_device) -> i32 {
    entry(|| {
        let open = || {
            let device = Device::open(ordinal as usize)?;
            let stream = OwnStream::new(&device).map_err(|error| Error::Driver {
                call: "making a stream",
                code: error.0 as u32,
                name: format!("{:?}", error.0),
                message: error.to_string(),
            })?;
            Ok(hs_device { device, stream })
        };
        // SAFETY: the caller's promise.
        unsafe { make("device", device, open) }
    })
}

/// Frees a handle, or does nothing for null. Plans keep what they need.
///
/// # Safety
/// `device` is null or a living handle, which nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_device_free(device: *mut hs_device) {
    // SAFETY: the caller's promise; handles are boxes.
    quietly(|| drop((!device.is_null()).then(|| unsafe { Box::from_raw(device) })));
}
