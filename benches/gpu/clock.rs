//! The device's clock: two events, and the function for the time between them.

use std::time::Duration;

use hyperscatter::cuda::Device;
use hyperscatter::cuda::cudarc::driver::{CudaEvent, CudaStream, sys};

pub struct Clock {
    start: CudaEvent,
    end: CudaEvent,
    between: ElapsedTime,
}

type ElapsedTime = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;

impl Clock {
    pub fn new(device: &Device) -> Self {
        let event = || device.context().new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
        Self { start: event(), end: event(), between: elapsed_time() }
    }

    pub fn start(&self, stream: &CudaStream) {
        self.start.record(stream).unwrap();
    }

    /// Waits for all that was queued since the start, and gives the time that the device took for it.
    pub fn stop(&self, stream: &CudaStream) -> Duration {
        self.end.record(stream).unwrap();
        self.end.synchronize().unwrap();
        let mut milliseconds = 0.0;
        // SAFETY: both events are alive, with timing, and recorded; the pointer is valid for the call.
        unsafe { (self.between)(&mut milliseconds, self.start.cu_event(), self.end.cu_event()) }
            .result()
            .unwrap();
        // Criterion refuses 0, which is what the events' resolution may leave.
        Duration::from_secs_f64(f64::from(milliseconds) / 1e3).max(Duration::from_nanos(1))
    }
}

/// `cuEventElapsedTime`, which every driver has. Bindings of CUDA 13 know `cuEventElapsedTime_v2` alone,
/// which drivers before CUDA 12.8 do not have.
fn elapsed_time() -> ElapsedTime {
    let names = if cfg!(windows) { ["nvcuda.dll"; 2] } else { ["libcuda.so", "libcuda.so.1"] };
    // SAFETY: the driver was loaded by this name when the device was opened; this is another handle of the
    // same library.
    let library = names.into_iter().find_map(|name| unsafe { libloading::Library::new(name) }.ok());
    let library = library.expect("the driver, which has opened a device");
    // SAFETY: the function has this type, and the driver stays loaded as long as the process runs.
    unsafe { *library.get::<ElapsedTime>(b"cuEventElapsedTime").unwrap() }
}
