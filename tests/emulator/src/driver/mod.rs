//! The functions of the driver's interface. Only those that a CUDA 12.0 driver has are exported: code that needs newer ones
//! does not run on it.

mod context;
mod copies;
mod events;
mod graphs;
mod launches;
mod modules;
mod streams;

/// Result codes, of those that CUDA 12.0 has.
pub(crate) mod code {
    pub(crate) type Code = i32;
    pub(crate) const SUCCESS: Code = 0;
    pub(crate) const INVALID_VALUE: Code = 1;
    pub(crate) const OUT_OF_MEMORY: Code = 2;
    pub(crate) const NOT_INITIALIZED: Code = 3;
    pub(crate) const NO_DEVICE: Code = 100;
    pub(crate) const INVALID_DEVICE: Code = 101;
    pub(crate) const INVALID_IMAGE: Code = 200;
    pub(crate) const INVALID_CONTEXT: Code = 201;
    pub(crate) const NO_BINARY_FOR_GPU: Code = 209;
    pub(crate) const INVALID_PTX: Code = 218;
    pub(crate) const UNSUPPORTED_PTX_VERSION: Code = 222;
    pub(crate) const INVALID_HANDLE: Code = 400;
    pub(crate) const NOT_FOUND: Code = 500;
    pub(crate) const NOT_READY: Code = 600;
    pub(crate) const ILLEGAL_ADDRESS: Code = 700;
    pub(crate) const LAUNCH_TIMEOUT: Code = 702;
    pub(crate) const MISALIGNED_ADDRESS: Code = 716;
    pub(crate) const LAUNCH_FAILED: Code = 719;
    pub(crate) const STREAM_CAPTURE_UNSUPPORTED: Code = 900;
    pub(crate) const STREAM_CAPTURE_INVALIDATED: Code = 901;
    pub(crate) const STREAM_CAPTURE_UNMATCHED: Code = 903;
    pub(crate) const STREAM_CAPTURE_UNJOINED: Code = 904;
    pub(crate) const STREAM_CAPTURE_ISOLATION: Code = 905;
    pub(crate) const CAPTURED_EVENT: Code = 907;

    /// The name of a code, with its terminating zero.
    pub(crate) fn name(code: Code) -> Option<&'static str> {
        Some(match code {
            SUCCESS => "CUDA_SUCCESS\0",
            INVALID_VALUE => "CUDA_ERROR_INVALID_VALUE\0",
            OUT_OF_MEMORY => "CUDA_ERROR_OUT_OF_MEMORY\0",
            NOT_INITIALIZED => "CUDA_ERROR_NOT_INITIALIZED\0",
            NO_DEVICE => "CUDA_ERROR_NO_DEVICE\0",
            INVALID_DEVICE => "CUDA_ERROR_INVALID_DEVICE\0",
            INVALID_IMAGE => "CUDA_ERROR_INVALID_IMAGE\0",
            INVALID_CONTEXT => "CUDA_ERROR_INVALID_CONTEXT\0",
            NO_BINARY_FOR_GPU => "CUDA_ERROR_NO_BINARY_FOR_GPU\0",
            INVALID_PTX => "CUDA_ERROR_INVALID_PTX\0",
            UNSUPPORTED_PTX_VERSION => "CUDA_ERROR_UNSUPPORTED_PTX_VERSION\0",
            INVALID_HANDLE => "CUDA_ERROR_INVALID_HANDLE\0",
            NOT_FOUND => "CUDA_ERROR_NOT_FOUND\0",
            NOT_READY => "CUDA_ERROR_NOT_READY\0",
            ILLEGAL_ADDRESS => "CUDA_ERROR_ILLEGAL_ADDRESS\0",
            LAUNCH_TIMEOUT => "CUDA_ERROR_LAUNCH_TIMEOUT\0",
            MISALIGNED_ADDRESS => "CUDA_ERROR_MISALIGNED_ADDRESS\0",
            LAUNCH_FAILED => "CUDA_ERROR_LAUNCH_FAILED\0",
            STREAM_CAPTURE_UNSUPPORTED => "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED\0",
            STREAM_CAPTURE_INVALIDATED => "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED\0",
            STREAM_CAPTURE_UNMATCHED => "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED\0",
            STREAM_CAPTURE_UNJOINED => "CUDA_ERROR_STREAM_CAPTURE_UNJOINED\0",
            STREAM_CAPTURE_ISOLATION => "CUDA_ERROR_STREAM_CAPTURE_ISOLATION\0",
            CAPTURED_EVENT => "CUDA_ERROR_CAPTURED_EVENT\0",
            _ => return None,
        })
    }
}

/// Defines exported functions. The body gives a `Result<(), Code>`; each call is counted for the current device.
macro_rules! driver {
    ($($(#[$meta:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$meta])*
        #[allow(non_snake_case, clippy::missing_safety_doc)]
        // SAFETY: the name is the driver's own, and nothing else in this library has it.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $crate::driver::code::Code {
            $crate::driver::count(stringify!($name));
            #[allow(clippy::redundant_closure_call)]
            let result: Result<(), $crate::driver::code::Code> = (|| { $body })();
            result.err().unwrap_or($crate::driver::code::SUCCESS)
        }
    )*};
}
pub(crate) use driver;

/// Counts a call for the current device.
pub(crate) fn count(name: &'static str) {
    if let Ok(device) = crate::state::current() {
        *device.lock().calls.entry(name).or_default() += 1;
    }
}

/// Writes a result through an out-pointer.
pub(crate) fn put<T>(to: *mut T, value: T) -> Result<(), code::Code> {
    if to.is_null() {
        return Err(code::INVALID_VALUE);
    }
    // SAFETY: the interface's contract: the caller's pointer is valid for a write of its type.
    unsafe { to.write(value) };
    Ok(())
}
