//! What the tests share: a device of their own, and a module with the kernels of `kernels/driver.cu`.

use std::sync::Arc;

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, LaunchConfig};
use cudarc::nvrtc::Ptx;
use hyperscatter_emulator::control::{self, DeviceLease};

/// The kernels of `kernels/driver.cu`.
const KERNELS: &[&str] = &[
    "driver_scale",
    "driver_increment",
    "driver_store",
    "driver_flag",
    "driver_reverse",
    "driver_vector",
    "driver_misaligned",
    "driver_endless",
    "driver_nothing",
];

/// A device that no other test uses.
pub struct Device {
    module: Arc<CudaModule>,
    pub context: Arc<CudaContext>,
    /// Last, as the device is reset with it.
    pub control: Arc<DeviceLease>,
}

/// The text of a module with these kernels.
pub fn ptx(version: &str, target: &str, kernels: &[&str]) -> Ptx {
    let entries: String =
        kernels.iter().map(|name| format!(".visible .entry {name}()\n{{\n\tret;\n}}\n")).collect();
    Ptx::from_src(format!(
        "//\n// Entries only.\n//\n.version {version}\n.target {target}\n.address_size 64\n{entries}"
    ))
}

/// A device without a context.
pub fn control() -> Arc<DeviceLease> {
    Arc::new(control::install().expect("the emulated driver is built").lease())
}

/// A device with a context that leaves ordering to the test.
pub fn device() -> Device {
    let control = control();
    let context = CudaContext::new(control.ordinal()).expect("the device is there");
    // SAFETY: the tests order what they do.
    unsafe { context.disable_event_tracking() };
    let module = context.load_module(ptx("8.0", "sm_80", KERNELS)).expect("the kernels are compiled");
    control.reset_calls();
    Device { module, context, control }
}

impl Device {
    pub fn stream(&self) -> Arc<CudaStream> {
        self.context.new_stream().expect("a stream")
    }

    pub fn kernel(&self, name: &str) -> CudaFunction {
        self.module.load_function(name).expect("one of the kernels")
    }

    /// Ends the context and checks that nothing was amiss.
    pub fn close(self) {
        let control = Arc::clone(&self.control);
        drop(self);
        assert_eq!(control.take_reports(), [""; 0]);
        assert_eq!(control.live(), [""; 0]);
    }
}

/// One block of threads.
pub fn threads(count: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (1, 1, 1), block_dim: (count, 1, 1), shared_mem_bytes: 0 }
}

/// The code of a failure.
pub fn code<T>(result: Result<T, DriverError>) -> CUresult {
    match result {
        Ok(_) => sys::CUresult::CUDA_SUCCESS,
        Err(DriverError(code)) => code,
    }
}
