//! Windows of weights and scales.

use hyperscatter::WindowTable;
use hyperscatter::cuda::DeviceWindows;

use crate::error::quietly;

/// Where each instance's window of weights (or scales) begins. It never changes, and any number of threads
/// may use it.
#[allow(non_camel_case_types)]
pub struct hs_windows {
    pub(crate) table: WindowTable,
    /// For a plan on a device.
    pub(crate) on_device: Option<DeviceWindows>,
}

/// Frees a handle, or does nothing for null.
///
/// # Safety
/// `windows` is null or a living handle, which nobody uses any more: no call, no work on a device, and no
/// CUDA graph.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_windows_free(windows: *mut hs_windows) {
    // SAFETY: the caller's promise; handles are boxes.
    quietly(|| drop((!windows.is_null()).then(|| unsafe { Box::from_raw(windows) })));
}
