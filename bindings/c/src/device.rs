//! CUDA devices.

use std::sync::Arc;

use hyperscatter::Error;
use hyperscatter::cuda::Device;
use hyperscatter::cuda::cudarc::driver::CudaStream;

use crate::arguments::make;
use crate::error::{entry, quietly};

/// A CUDA device, by its primary context, which other frameworks use, too.
#[allow(non_camel_case_types)]
pub struct hs_device {
    pub(crate) device: Device,
    /// What is not on a caller's stream is on this one.
    pub(crate) stream: Arc<CudaStream>,
}

/// Opens the CUDA device of this ordinal. Building and loading this library needs no CUDA: the driver is
/// looked for here.
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
            // Not the default stream: work on that would wait for other frameworks' streams, and they for
            // it, and it may not be used while one of them records a CUDA graph.
            let stream = device.context().new_stream().map_err(|error| Error::Driver {
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
