//! Launches: their checks, their failures, and what is counted.

use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUfunction_attribute, CUresult};
use cudarc::driver::{CudaContext, DevicePtr, LaunchConfig, PushKernelArg, result};
use hyperscatter_emulator::interface::{Build, Order};

use super::fixture::{code, device, threads};

fn config(grid_dim: (u32, u32, u32), block_dim: (u32, u32, u32), shared_mem_bytes: u32) -> LaunchConfig {
    LaunchConfig { grid_dim, block_dim, shared_mem_bytes }
}

#[test]
fn kernels_give_the_same_in_every_build_and_order() {
    let device = device();
    let stream = device.stream();
    let kernel = device.kernel("driver_scale");
    let input: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let doubled: Vec<f32> = input.iter().map(|x| x * 2.0).collect();
    let there = stream.clone_htod(&input).unwrap();
    for build in [Build::Fast, Build::Checked] {
        for order in [Order::Forward, Order::Reverse, Order::Shuffled(3), Order::Preempting(4)] {
            device.control.set_build(build);
            device.control.set_order(order);
            // SAFETY: every element is written before it is read.
            let mut out = unsafe { stream.alloc::<f32>(1000) }.unwrap();
            let mut launch = stream.launch_builder(&kernel);
            launch.arg(&mut out).arg(&there).arg(&2.0f32).arg(&1000u32);
            // SAFETY: both have 1000 elements.
            unsafe { launch.launch(config((8, 1, 1), (128, 1, 1), 0)) }.unwrap();
            assert_eq!(stream.clone_dtoh(&out).unwrap(), doubled, "{build:?} {order:?}");
        }
    }
    drop((there, kernel, stream));
    device.close();
}

#[test]
fn wrong_launch_sizes_are_errors_and_reported() {
    let device = device();
    let stream = device.stream();
    let kernel = device.kernel("driver_nothing");
    // SAFETY: the kernel does nothing.
    let launch = |config| code(unsafe { stream.launch_builder(&kernel).launch(config) });
    let wrong = [
        config((0, 1, 1), (1, 1, 1), 0),
        config((1, 0, 1), (1, 1, 1), 0),
        config((1, 1, 0), (1, 1, 1), 0),
        config((1 << 31, 1, 1), (1, 1, 1), 0),
        config((1, 65_536, 1), (1, 1, 1), 0),
        config((1, 1, 65_536), (1, 1, 1), 0),
        config((1, 1, 1), (0, 1, 1), 0),
        config((1, 1, 1), (1025, 1, 1), 0),
        config((1, 1, 1), (1, 1, 65), 0),
        config((1, 1, 1), (32, 33, 1), 0),
        config((1, 1, 1), (1, 1, 1), (48 << 10) + 1),
    ];
    for config in wrong {
        assert_eq!(launch(config), CUresult::CUDA_ERROR_INVALID_VALUE, "{config:?}");
        let reports = device.control.take_reports();
        assert!(reports.len() == 1 && reports[0].contains("launch of driver_nothing"), "{reports:?}");
    }
    for config in [
        config((70_000, 1, 1), (1, 1, 1), 0),
        config((1, 1, 1), (1024, 1, 1), 48 << 10),
        config((1, 1, 1), (4, 4, 64), 0),
    ] {
        assert_eq!(launch(config), CUresult::CUDA_SUCCESS, "{config:?}");
    }
    stream.synchronize().unwrap();
    drop((kernel, stream));
    device.close();
}

#[test]
fn more_dynamic_shared_memory_has_to_be_asked_for() {
    let device = device();
    let stream = device.stream();
    let kernel = device.kernel("driver_reverse");
    let mut out = stream.alloc_zeros::<u32>(64).unwrap();
    let bytes = 100 << 10;
    let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let mut launch = || {
        // SAFETY: 64 elements.
        unsafe { stream.launch_builder(&kernel).arg(&mut out).launch(config((1, 1, 1), (64, 1, 1), bytes)) }
    };
    assert_eq!(code(launch()), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(device.control.take_reports().len(), 1);
    assert_eq!(code(kernel.set_attribute(attribute, (227 << 10) + 1)), CUresult::CUDA_ERROR_INVALID_VALUE);
    kernel.set_attribute(attribute, bytes as i32).unwrap();
    assert_eq!(kernel.get_attribute(attribute), Ok(bytes as i32));
    launch().unwrap();
    let reversed: Vec<u32> = (0..64).rev().collect();
    assert_eq!(stream.clone_dtoh(&out).unwrap(), reversed);
    drop((out, kernel, stream));
    device.close();
}

#[test]
fn parameters_that_are_missing_or_misaligned_are_errors_and_reported() {
    let device = device();
    let stream = device.stream();
    let data = stream.alloc_zeros::<f32>(8).unwrap();
    let base = data.device_ptr(&stream).0;
    let wrong = CUresult::CUDA_ERROR_INVALID_VALUE;
    let kernel = device.kernel("driver_vector");
    // SAFETY: the driver refuses the wrong ones.
    let launch =
        |address: u64| code(unsafe { stream.launch_builder(&kernel).arg(&address).launch(threads(1)) });
    assert_eq!(launch(base + 4), wrong);
    assert_eq!(launch(base + 16), CUresult::CUDA_SUCCESS);
    let raw = |list: *mut *mut std::ffi::c_void| {
        let function = kernel.cu_function();
        // SAFETY: the driver refuses the wrong ones.
        unsafe {
            sys::cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream.cu_stream(), list, ptr::null_mut())
        }
    };
    assert_eq!(raw(ptr::null_mut()), wrong);
    assert_eq!(raw([ptr::null_mut()].as_mut_ptr()), wrong);
    let reports = device.control.take_reports();
    assert_eq!(reports.len(), 3, "{reports:?}");
    assert!(
        reports[0].contains("parameter 0") && reports[0].contains("not aligned to 16 bytes"),
        "{reports:?}"
    );
    stream.synchronize().unwrap();
    drop((data, kernel, stream));
    device.close();
}

#[test]
fn parameters_are_copied_at_the_launch() {
    let device = device();
    let stream = device.stream();
    let kernel = device.kernel("driver_store");
    let mut data = stream.alloc_zeros::<u32>(1).unwrap();
    let mut value = 1u32;
    // SAFETY: one element.
    unsafe { stream.launch_builder(&kernel).arg(&mut data).arg(&0u64).arg(&value).launch(threads(1)) }
        .unwrap();
    value += 1;
    assert_eq!(stream.clone_dtoh(&data).unwrap(), [1], "not {value}");
    drop((data, kernel, stream));
    device.close();
}

#[test]
fn functions_and_streams_of_another_context_are_refused() {
    let (one, other) = (device(), device());
    let (here, there) = (one.stream(), other.stream());
    let kernel = other.kernel("driver_nothing");
    let wrong = CUresult::CUDA_ERROR_INVALID_HANDLE;
    // SAFETY: the driver refuses them.
    let launch = |stream: sys::CUstream| unsafe {
        result::launch_kernel(kernel.cu_function(), (1, 1, 1), (1, 1, 1), 0, stream, &mut [])
    };
    one.context.bind_to_thread().unwrap();
    assert_eq!(code(launch(here.cu_stream())), wrong);
    assert_eq!(code(launch(there.cu_stream())), wrong);
    other.context.bind_to_thread().unwrap();
    assert_eq!(code(launch(here.cu_stream())), wrong);
    launch(there.cu_stream()).unwrap();
    drop((here, there, kernel));
    one.close();
    other.close();
}

#[test]
fn after_a_fault_every_call_returns_it_until_the_device_is_reset() {
    let device = device();
    let control = Arc::clone(&device.control);
    let stream = device.stream();
    let event = device.context.new_event(None).unwrap();
    let mut data = stream.clone_htod(&[1.0f32; 4]).unwrap();
    let kernel = device.kernel("driver_increment");
    // SAFETY: the checked build refuses the accesses behind the end.
    unsafe { stream.launch_builder(&kernel).arg(&mut data).arg(&5u32).launch(threads(5)) }.unwrap();
    let fault = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
    assert_eq!(code(stream.synchronize()), fault);
    let reports = control.take_reports();
    assert_eq!(reports.len(), 1, "{reports:?}");
    for part in ["OutOfBounds", "driver_increment", "driver.cu:", "allocation 1"] {
        assert!(reports[0].contains(part), "{part}: {}", reports[0]);
    }
    assert_eq!(code(stream.synchronize()), fault);
    assert_eq!(code(device.context.synchronize()), fault);
    assert_eq!(code(stream.clone_dtoh(&data)), fault);
    assert_eq!(code(stream.clone_htod(&[0u8])), fault);
    assert_eq!(code(device.context.new_stream()), fault);
    assert_eq!(code(device.context.new_event(None)), fault);
    assert_eq!(code(event.record(&stream)), fault);
    assert_eq!(code(event.try_is_complete()), fault);
    // SAFETY: nothing runs any more.
    let late = unsafe { stream.launch_builder(&kernel).arg(&mut data).arg(&1u32).launch(threads(1)) };
    assert_eq!(code(late), fault);
    drop((data, event, kernel, stream, device));
    assert_eq!(control.live(), [""; 0]);
    assert_eq!(control.take_reports(), [""; 0], "what was refused left nothing behind");

    let context = CudaContext::new(control.ordinal()).unwrap();
    assert_eq!(code(context.synchronize()), fault, "a new context does not help");
    control.reset();
    context.synchronize().unwrap();
}

#[test]
fn after_a_fault_nothing_that_is_queued_runs() {
    let device = device();
    let stream = device.stream();
    // SAFETY: the memory is written before it is read.
    let mut pinned = unsafe { device.context.alloc_pinned::<u32>(1) }.unwrap();
    pinned.as_mut_slice().unwrap()[0] = 0;
    let host = pinned.as_mut_ptr().unwrap();
    let (wrong, flag) = (device.kernel("driver_increment"), device.kernel("driver_flag"));
    // SAFETY: the checked build refuses the access through null.
    unsafe {
        stream.launch_builder(&wrong).arg(&0u64).arg(&1u32).launch(threads(1)).unwrap();
        stream.launch_builder(&flag).arg(&(host as u64)).arg(&5u32).launch(threads(1)).unwrap();
    }
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(device.control.pending(), 0);
    // SAFETY: the memory lives.
    assert_eq!(unsafe { host.read_volatile() }, 0);
    assert_eq!(device.control.take_reports().len(), 1);
    drop((pinned, wrong, flag, stream));
    device.close();
}

#[test]
fn each_kind_of_fault_has_its_code() {
    let fails = |name: &str, expected: CUresult, kind: &str| {
        let device = device();
        let stream = device.stream();
        let mut data = stream.alloc_zeros::<u8>(16).unwrap();
        let kernel = device.kernel(name);
        // SAFETY: the checked build stops the kernel.
        unsafe { stream.launch_builder(&kernel).arg(&mut data).launch(threads(1)) }.unwrap();
        assert_eq!(code(stream.synchronize()), expected, "{name}");
        let reports = device.control.take_reports();
        assert!(reports.len() == 1 && reports[0].starts_with(kind), "{reports:?}");
        drop((data, kernel, stream));
        device.close();
    };
    fails("driver_misaligned", CUresult::CUDA_ERROR_MISALIGNED_ADDRESS, "Misaligned");
    fails("driver_endless", CUresult::CUDA_ERROR_LAUNCH_TIMEOUT, "Timeout");

    let device = device();
    let stream = device.stream();
    // SAFETY: what was not written is read: the mistake that this is about.
    let mut data = unsafe { stream.alloc::<f32>(1) }.unwrap();
    let kernel = device.kernel("driver_increment");
    // SAFETY: as above.
    unsafe { stream.launch_builder(&kernel).arg(&mut data).arg(&1u32).launch(threads(1)) }.unwrap();
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    assert!(device.control.take_reports()[0].starts_with("Uninitialised"));
    drop((data, kernel, stream));
    device.close();
}

#[test]
fn memory_that_is_filled_may_be_read() {
    let device = device();
    device.control.set_fill_memory(true);
    let stream = device.stream();
    // SAFETY: the driver fills it.
    let mut data = unsafe { stream.alloc::<f32>(1) }.unwrap();
    assert!(stream.clone_dtoh(&data).unwrap()[0].is_nan());
    let kernel = device.kernel("driver_increment");
    // SAFETY: as above.
    unsafe { stream.launch_builder(&kernel).arg(&mut data).arg(&1u32).launch(threads(1)) }.unwrap();
    stream.synchronize().unwrap();
    drop((data, kernel, stream));
    device.close();
}

#[test]
fn a_kernel_writes_mapped_host_memory_that_the_host_polls() {
    let device = device();
    let stream = device.stream();
    let flags = sys::CU_MEMHOSTALLOC_DEVICEMAP;
    // SAFETY: the memory is written before it is read.
    let mut pinned = unsafe { device.context.alloc_pinned_with_flags::<u32>(1, flags) }.unwrap();
    pinned.as_mut_slice().unwrap()[0] = 0;
    let host = pinned.as_mut_ptr().unwrap();
    let mut mapped = 0;
    // SAFETY: pinned memory, and a place for its address.
    unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut mapped, host.cast(), 0) }.result().unwrap();
    let kernel = device.kernel("driver_flag");
    // SAFETY: one element.
    unsafe { stream.launch_builder(&kernel).arg(&mapped).arg(&5u32).launch(threads(1)) }.unwrap();
    // SAFETY: the memory lives; the kernel runs on this thread.
    let poll = || unsafe { host.read_volatile() };
    assert_eq!(poll(), 0, "nothing has waited for the kernel");
    stream.synchronize().unwrap();
    assert_eq!(poll(), 5);
    drop((pinned, kernel, stream));
    device.close();
}

#[test]
fn calls_are_counted_by_name() {
    let device = device();
    let stream = device.stream();
    let kernel = device.kernel("driver_nothing");
    device.control.reset_calls();
    for _ in 0..3 {
        // SAFETY: the kernel does nothing.
        unsafe { stream.launch_builder(&kernel).launch(threads(1)) }.unwrap();
    }
    stream.synchronize().unwrap();
    let calls = device.control.calls();
    let expected = [("cuCtxGetCurrent", 4), ("cuLaunchKernel", 3), ("cuStreamSynchronize", 1)];
    assert!(calls.iter().map(|(name, count)| (name.as_str(), *count)).eq(expected), "{calls:?}");
    device.control.reset_calls();
    assert!(device.control.calls().is_empty());
    drop((kernel, stream));
    device.close();
}

#[test]
fn kernels_that_were_launched_are_named_in_order() {
    let device = device();
    let stream = device.stream();
    let (nothing, increment) = (device.kernel("driver_nothing"), device.kernel("driver_increment"));
    let mut data = stream.clone_htod(&[1.0f32]).unwrap();
    for execute in [true, false] {
        device.control.set_execute(execute);
        device.control.reset_calls();
        assert!(device.control.launched().is_empty());
        for _ in 0..2 {
            // SAFETY: one element.
            unsafe { stream.launch_builder(&increment).arg(&mut data).arg(&1u32).launch(threads(1)) }
                .unwrap();
            // SAFETY: the kernel does nothing.
            unsafe { stream.launch_builder(&nothing).launch(threads(1)) }.unwrap();
        }
        // A launch that is refused is none.
        // SAFETY: as above.
        code(unsafe { stream.launch_builder(&nothing).launch(threads(0)) });
        assert_eq!(device.control.launched(), ["driver_increment", "driver_nothing"]);
        assert_eq!(device.control.take_reports().len(), 1);
    }
    drop((data, nothing, increment, stream));
    device.close();
}

#[test]
fn without_execution_launches_are_checked_and_counted_only() {
    let device = device();
    let stream = device.stream();
    let kernel = device.kernel("driver_increment");
    let mut data = stream.clone_htod(&[1.0f32]).unwrap();
    device.control.set_execute(false);
    // SAFETY: nothing runs.
    unsafe { stream.launch_builder(&kernel).arg(&mut data).arg(&1u32).launch(threads(1)) }.unwrap();
    // SAFETY: as above.
    let wrong = unsafe { stream.launch_builder(&kernel).arg(&mut data).arg(&1u32).launch(threads(0)) };
    assert_eq!(code(wrong), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(device.control.take_reports().len(), 1);
    assert_eq!(device.control.calls()["cuLaunchKernel"], 2);
    assert_eq!(stream.clone_dtoh(&data).unwrap(), [1.0]);
    device.control.set_execute(true);
    // SAFETY: one element.
    unsafe { stream.launch_builder(&kernel).arg(&mut data).arg(&1u32).launch(threads(1)) }.unwrap();
    assert_eq!(stream.clone_dtoh(&data).unwrap(), [2.0]);
    drop((data, kernel, stream));
    device.close();
}
