//! What is fixed when the driver is loaded: its symbols, and what the environment sets.

use std::collections::BTreeSet;
use std::env;
use std::process::Command;

use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};
use cudarc::driver::{CudaContext, DriverError, PushKernelArg};

use super::fixture::{code, control, device, ptx, threads};
use hyperscatter_emulator::control::install;

/// The functions that `cuda.h` of CUDA 12.0 declares, by the names that the driver exports.
const SYMBOLS: &str = include_str!("symbols-12.0.txt");

/// Runs one of the ignored tests below in a process of its own, where the driver sees this environment.
fn passes_with(test: &str, variables: &[(&str, &str)]) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn only_symbols_of_cuda_12_0_are_exported() {
    device().close();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let library = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .find(|path| path.ends_with("/libhyperscatter_emulator.so"))
        .expect("the driver is loaded");
    let output = Command::new("nm").args(["--dynamic", "--defined-only", library]).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let exported: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .filter(|name| name.starts_with("cu"))
        .collect();
    let allowed: BTreeSet<&str> = SYMBOLS.lines().collect();
    assert!(exported.contains("cuLaunchKernel") && exported.len() > 80, "{exported:?}");
    let newer: Vec<_> = exported.difference(&allowed).collect();
    assert!(newer.is_empty(), "{newer:?}");
}

#[test]
fn the_driver_can_have_no_device() {
    passes_with("environment::child_without_devices", &[("HYPERSCATTER_EMULATOR_DEVICES", "0")]);
}

#[test]
#[ignore = "runs in a process of its own, with its environment"]
fn child_without_devices() {
    assert_eq!(install().unwrap().n_devices(), 0);
    assert_eq!(code(CudaContext::new(0)), CUresult::CUDA_ERROR_NO_DEVICE);
    assert_eq!(code(CudaContext::device_count()), CUresult::CUDA_ERROR_NO_DEVICE);
}

#[test]
fn kernels_can_run_unchecked_from_the_start() {
    passes_with("environment::child_without_checks", &[("HYPERSCATTER_EMULATOR_CHECKED", "0")]);
}

#[test]
#[ignore = "runs in a process of its own, with its environment"]
fn child_without_checks() {
    let device = device();
    let stream = device.stream();
    // SAFETY: one element, which the kernel reads although nobody has written it: the checked build would
    // stop there.
    let mut data = unsafe { stream.alloc::<f32>(1) }.unwrap();
    let kernel = device.kernel("driver_increment");
    // SAFETY: as many elements.
    unsafe { stream.launch_builder(&kernel).arg(&mut data).arg(&1u32).launch(threads(1)) }.unwrap();
    stream.synchronize().unwrap();
    drop((data, kernel, stream));
    device.close();
}

#[test]
fn the_driver_can_be_of_cuda_11_8() {
    let version = [("HYPERSCATTER_EMULATOR_DRIVER_VERSION", "11080"), ("HYPERSCATTER_EMULATOR_DEVICES", "2")];
    passes_with("environment::child_of_an_old_driver", &version);
}

#[test]
#[ignore = "runs in a process of its own, with its environment"]
fn child_of_an_old_driver() {
    let control = control();
    let context = CudaContext::new(control.ordinal()).unwrap();
    assert_eq!(CudaContext::device_count(), Ok(2));
    assert_eq!(code(CudaContext::new(2)), CUresult::CUDA_ERROR_INVALID_DEVICE);
    assert_eq!(driver_version(), Ok(11_080));
    let load = |version| code(context.load_module(ptx(version, "sm_80", &[])));
    assert_eq!(load("7.8"), CUresult::CUDA_SUCCESS);
    assert_eq!(load("8.0"), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
}

#[test]
fn the_devices_can_have_no_memory_pools() {
    passes_with("environment::child_without_memory_pools", &[("HYPERSCATTER_EMULATOR_ASYNC_ALLOC", "0")]);
}

#[test]
#[ignore = "runs in a process of its own, with its environment"]
fn child_without_memory_pools() {
    let device = device();
    assert!(!device.context.has_async_alloc());
    let stream = device.stream();
    let data = stream.clone_htod(&[1u8, 2]).unwrap();
    assert_eq!(stream.clone_dtoh(&data).unwrap(), [1, 2]);
    drop((data, stream));
    let calls = device.control.calls();
    assert!(calls.contains_key("cuMemAlloc_v2") && !calls.contains_key("cuMemAllocAsync"), "{calls:?}");
    device.close();
}

#[test]
fn without_settings_the_driver_is_of_cuda_12_0_with_64_devices_like_an_h100() {
    let device = device();
    assert_eq!(install().unwrap().n_devices(), 64);
    assert_eq!(driver_version(), Ok(12_000));
    assert!(device.context.has_async_alloc());
    assert_eq!(device.context.compute_capability(), Ok((9, 0)));
    assert_eq!(device.context.name().unwrap(), format!("Emulated GPU {}", device.control.ordinal()));
    let attribute = |attribute| device.context.attribute(attribute).unwrap();
    assert_eq!(attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE), 32);
    assert_eq!(attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 132);
    let shared = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    assert_eq!(attribute(shared), 227 << 10);
    let lease = control();
    let other = CudaContext::new(lease.ordinal()).unwrap();
    assert_ne!(device.context.uuid().unwrap().bytes, other.uuid().unwrap().bytes);
    drop(other);
    device.close();
}

#[test]
fn devices_do_not_see_each_other() {
    let (one, other) = (device(), device());
    let (here, there) = (one.stream(), other.stream());
    let data = here.alloc_zeros::<u8>(8).unwrap();
    assert_eq!((one.control.pending(), other.control.pending()), (1, 0));
    assert!(one.control.live().len() > other.control.live().len());
    // What changes the current context counts for the one before.
    other.context.bind_to_thread().unwrap();
    one.control.reset_calls();
    there.synchronize().unwrap();
    assert!(one.control.calls().is_empty(), "{:?}", one.control.calls());
    drop((data, here, there));
    one.close();
    other.close();
}

fn driver_version() -> Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: a place for a number.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    Ok(version)
}
