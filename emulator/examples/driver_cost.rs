//! What calls of the emulated driver cost when kernels do not run, in nanoseconds: the least that a
//! measurement of the host side of a launch contains.

use std::ptr;
use std::time::Instant;

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, result};
use hyperscatter_emulator::control;

const CALLS: u32 = 100_000;

/// The best of several rounds.
fn best(mut call: impl FnMut() -> CUresult) -> f64 {
    let round = |_| {
        let start = Instant::now();
        for _ in 0..CALLS {
            assert_eq!(call(), CUresult::CUDA_SUCCESS);
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    (0..7).map(round).fold(f64::INFINITY, f64::min)
}

fn main() {
    let device = control::install().expect("the emulated driver is built").lease();
    device.set_execute(false);
    let context = CudaContext::new(device.ordinal()).expect("the device is there");
    let stream = context.new_stream().expect("a stream");
    let data = stream.alloc_zeros::<f32>(64).expect("memory");
    let image = c".version 8.0\n.target sm_80\n.entry driver_increment() {}\n";
    // SAFETY: a text that ends with a zero byte; its kernel is compiled.
    let function = unsafe {
        let module = result::module::load_data(image.as_ptr().cast()).expect("the kernels are compiled");
        result::module::get_function(module, c"driver_increment".to_owned()).expect("as above")
    };
    let (address, _record) = cudarc::driver::DevicePtr::device_ptr(&data, &stream);
    let count = 64u32;
    let mut params = [(&raw const address).cast_mut().cast(), (&raw const count).cast_mut().cast()];
    let launch = best(|| {
        // SAFETY: the parameters of the kernel.
        unsafe {
            sys::cuLaunchKernel(
                function,
                1,
                1,
                1,
                64,
                1,
                1,
                0,
                stream.cu_stream(),
                params.as_mut_ptr(),
                ptr::null_mut(),
            )
        }
    });
    let mut current = ptr::null_mut();
    // SAFETY: a place for a handle.
    let get_current = best(|| unsafe { sys::cuCtxGetCurrent(&raw mut current) });
    let event = context.new_event(None).expect("an event");
    // SAFETY: live handles.
    let record = best(|| unsafe { sys::cuEventRecord(event.cu_event(), stream.cu_stream()) });
    println!(
        "cuLaunchKernel {launch:.0} ns, cuCtxGetCurrent {get_current:.0} ns, cuEventRecord {record:.0} ns"
    );
}
