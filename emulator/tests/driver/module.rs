//! Modules: who can load them, and what is in them.

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, result};
use cudarc::nvrtc::Ptx;

use super::fixture::{code, control, device, ptx};

#[test]
fn a_module_has_the_kernels_of_its_text_that_are_compiled() {
    let device = device();
    let module =
        device.context.load_module(ptx("8.0", "sm_80", &["driver_store", "driver_unknown"])).unwrap();
    module.load_function("driver_store").unwrap();
    let missing = CUresult::CUDA_ERROR_NOT_FOUND;
    assert_eq!(code(module.load_function("driver_unknown")), missing, "in the text, but not compiled");
    assert_eq!(code(module.load_function("driver_scale")), missing, "compiled, but not in the text");
    drop(module);
    device.close();
}

#[test]
fn a_module_loads_by_target_and_version() {
    let control = control();
    control.set_compute_capability(8, 6);
    let context = CudaContext::new(control.ordinal()).unwrap();
    assert_eq!(context.compute_capability(), Ok((8, 6)));
    let load = |version, target| code(context.load_module(ptx(version, target, &["driver_store"])));
    assert_eq!(load("8.0", "sm_75"), CUresult::CUDA_SUCCESS);
    assert_eq!(load("8.0", "sm_86"), CUresult::CUDA_SUCCESS);
    assert_eq!(load("8.0", "sm_90"), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    assert_eq!(load("8.1", "sm_75"), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    assert_eq!(code(context.load_module(Ptx::from_src("nonsense"))), CUresult::CUDA_ERROR_INVALID_PTX);
    assert_eq!(
        code(context.load_module(Ptx::from_binary(b"\x7fELF machine code".to_vec()))),
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
    );
    assert_eq!(
        code(context.load_module(Ptx::from_file("/there/is/no/such.ptx"))),
        CUresult::CUDA_ERROR_FILE_NOT_FOUND
    );
    drop(context);
    assert_eq!(control.live(), [""; 0]);
}

#[test]
fn a_function_is_gone_with_its_module() {
    let device = device();
    let stream = device.stream();
    let image = std::ffi::CString::new(".version 8.0\n.target sm_80\n.entry driver_nothing() {}\n").unwrap();
    // SAFETY: the driver refuses stale handles.
    unsafe {
        let module = result::module::load_data(image.as_ptr().cast()).unwrap();
        let function = result::module::get_function(module, c"driver_nothing".to_owned()).unwrap();
        let launch = || result::launch_kernel(function, (1, 1, 1), (1, 1, 1), 0, stream.cu_stream(), &mut []);
        launch().unwrap();
        result::module::unload(module).unwrap();
        assert_eq!(code(launch()), CUresult::CUDA_ERROR_INVALID_HANDLE);
        assert_eq!(code(result::module::unload(module)), CUresult::CUDA_ERROR_INVALID_HANDLE);
    }
    stream.synchronize().unwrap();
    drop(stream);
    device.close();
}

#[test]
fn names_of_codes_are_those_of_the_interface() {
    let device = device();
    let name = |code| result::DriverError(code).error_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(name(CUresult::CUDA_SUCCESS), "CUDA_SUCCESS");
    assert_eq!(name(CUresult::CUDA_ERROR_OUT_OF_MEMORY), "CUDA_ERROR_OUT_OF_MEMORY");
    assert_eq!(name(CUresult::CUDA_ERROR_CAPTURED_EVENT), "CUDA_ERROR_CAPTURED_EVENT");
    assert!(result::DriverError(CUresult::CUDA_ERROR_ASSERT).error_name().is_err(), "never returned");
    device.close();
}
