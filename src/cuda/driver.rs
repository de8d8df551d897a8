//! The CUDA driver: whether there is one, how old it is, and its errors as values.
//!
//! `cudarc` loads the driver's library on first use and panics where there is none, or where it lacks a
//! function. So the library is probed here first, and every function that this crate calls, itself or through
//! `cudarc`, is looked up once.

#![allow(unsafe_code)]

use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use crate::error::{Error, Result};

/// What PTX 8.0 needs: CUDA 12.0, driver R525.
const NEEDED_DRIVER: (u32, u32) = (12, 0);

/// The names under which `cudarc` finds the driver too.
#[cfg(not(windows))]
const LIBRARIES: [&str; 2] = ["libcuda.so", "libcuda.so.1"];
#[cfg(windows)]
const LIBRARIES: [&str; 1] = ["nvcuda.dll"];

/// The functions of the driver that this crate calls, itself or through `cudarc`. All are in CUDA 11.2 and
/// later.
const FUNCTIONS: [&str; 34] = [
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventQuery",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAllocAsync",
    "cuMemAlloc_v2",
    "cuMemFreeAsync",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemHostGetDevicePointer_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamDestroy_v2",
    "cuStreamIsCapturing",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
];

/// Makes sure that the driver can be called and is new enough.
pub(super) fn ready() -> Result<()> {
    static PROBED: OnceLock<()> = OnceLock::new();
    if PROBED.get().is_none() {
        probe()?;
        PROBED.get_or_init(|| ());
    }
    Ok(())
}

fn probe() -> Result<()> {
    let unavailable = |reason: String| Error::DriverUnavailable { library: LIBRARIES[0], reason };
    let mut reasons = Vec::new();
    for name in LIBRARIES {
        // SAFETY: loading the driver runs its initialisers, as `cudarc` will do in a moment anyway.
        let library = match unsafe { libloading::Library::new(name) } {
            Ok(library) => library,
            Err(error) => {
                // What the loader says stands in the source.
                let source = std::error::Error::source(&error).map(ToString::to_string);
                reasons.push(source.unwrap_or_else(|| error.to_string()));
                continue;
            }
        };
        let missing = |functions: &[&str]| {
            let missing = functions.iter().find(|function| {
                // SAFETY: the symbol is only looked up, never called or read through.
                unsafe { library.get::<*const ()>(function.as_bytes()) }.is_err()
            });
            missing.map_or(Ok(()), |function| Err(unavailable(format!("{name} has no function {function}"))))
        };
        // The version first: a driver that is too old lacks functions, too.
        missing(&["cuDriverGetVersion"])?;
        let found = version()?;
        if found < NEEDED_DRIVER {
            return Err(Error::DriverTooOld { found, needed: NEEDED_DRIVER });
        }
        return missing(&FUNCTIONS);
    }
    Err(unavailable(reasons.join("; ")))
}

/// The CUDA release that the driver supports, as (major, minor).
fn version() -> Result<(u32, u32)> {
    let mut version = 0;
    // SAFETY: the library was found and has the function, and the pointer is valid for the call.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(|e| failed("reading the driver's version", e))?;
    let version = version.unsigned_abs();
    Ok((version / 1000, version % 1000 / 10))
}

/// Initialises the driver, and gives the number of devices.
pub(super) fn device_count(ordinal: usize) -> Result<usize> {
    match result::init() {
        Ok(()) => {}
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => {
            return Err(Error::NoDevice { ordinal, count: 0 });
        }
        Err(DriverError(sys::CUresult::CUDA_ERROR_STUB_LIBRARY)) => {
            let reason = "the library that was found is the toolkit's stub, not a driver".into();
            return Err(Error::DriverUnavailable { library: LIBRARIES[0], reason });
        }
        Err(error) => return Err(failed("initialising the driver", error)),
    }
    let count = result::device::get_count().map_err(|e| failed("counting the devices", e))?;
    Ok(count.unsigned_abs() as usize)
}

/// A driver's error as a value.
pub(super) fn failed(call: &'static str, error: DriverError) -> Error {
    let text = |text: std::result::Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(|_| "unknown".into(), |text| text.to_string_lossy().into_owned())
    };
    let (name, message) = (text(error.error_name()), text(error.error_string()));
    Error::Driver { call, code: error.0 as u32, name, message }
}

/// Makes a context current on this thread while it lives. Then it restores the one that was current before.
pub(super) struct Current {
    /// The context to restore, null for none; `None` where nothing was changed.
    previous: Option<sys::CUcontext>,
}

impl Current {
    pub(super) fn enter(context: &CudaContext) -> Result<Self> {
        let previous = result::ctx::get_current().map_err(|e| failed("reading the current context", e))?;
        if previous == Some(context.cu_ctx()) {
            return Ok(Self { previous: None });
        }
        // SAFETY: the context is alive, since somebody holds it.
        unsafe { result::ctx::set_current(context.cu_ctx()) }
            .map_err(|e| failed("making the context current", e))?;
        Ok(Self { previous: Some(previous.unwrap_or(std::ptr::null_mut())) })
    }

    /// Remembers what is current on this thread, to restore it after calls that change it.
    pub(super) fn keep() -> Result<Self> {
        let previous = result::ctx::get_current().map_err(|e| failed("reading the current context", e))?;
        Ok(Self { previous: Some(previous.unwrap_or(std::ptr::null_mut())) })
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        if let Some(previous) = self.previous {
            // SAFETY: it was current on this thread a moment ago, so it was alive; the driver reports one
            // that died meanwhile. There is nobody to tell about a failure.
            let _ = unsafe { result::ctx::set_current(previous) };
        }
    }
}

/// Checks that a stream records no CUDA graph. The context must be current.
pub(super) fn not_capturing(stream: &CudaStream, call: &'static str) -> Result<()> {
    // SAFETY: the stream is alive.
    let status = unsafe { result::stream::is_capturing(stream.cu_stream()) };
    match status.map_err(|e| failed("reading the capture status", e))? {
        sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => Ok(()),
        _ => Err(Error::Capturing { call }),
    }
}

/// Errors that earlier calls left in the context, because they could not return them.
pub(super) fn pending_error(context: &Arc<CudaContext>, call: &'static str) -> Result<()> {
    context.check_err().map_err(|e| failed(call, e))
}
