//! Allocation, copies and what may go wrong with them.

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, DevicePtr, LaunchConfig, PushKernelArg, result};

use super::fixture::{code, control, device, ptx, threads};

#[test]
fn copies_round_trip_through_pageable_and_pinned_memory() {
    let device = device();
    let stream = device.stream();
    let values: Vec<u32> = (0..1000).collect();
    let there = stream.clone_htod(&values).unwrap();
    let copy = stream.clone_dtod(&there).unwrap();
    assert_eq!(stream.clone_dtoh(&copy).unwrap(), values);

    // SAFETY: it is written before it is read.
    let mut pinned = unsafe { device.context.alloc_pinned::<u32>(1000) }.unwrap();
    stream.memcpy_dtoh(&copy, &mut pinned).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(pinned.as_slice().unwrap(), values);
    pinned.as_mut_slice().unwrap().reverse();
    let back = stream.clone_htod(&pinned).unwrap();
    assert!(stream.clone_dtoh(&back).unwrap().iter().rev().eq(&values));
    drop((there, copy, back, pinned, stream));
    device.close();
}

#[test]
fn memsets_fill_words_of_each_width() {
    let device = device();
    let stream = device.stream();
    let data = stream.clone_htod(&[0u32; 4]).unwrap();
    let base = data.device_ptr(&stream).0;
    // SAFETY: 16 bytes, of which each memset writes some.
    unsafe {
        sys::cuMemsetD32Async(base, 0x0102_0304, 2, stream.cu_stream()).result().unwrap();
        sys::cuMemsetD16Async(base + 8, 0x0506, 2, stream.cu_stream()).result().unwrap();
        sys::cuMemsetD8Async(base + 12, 7, 3, stream.cu_stream()).result().unwrap();
    }
    let expected = [0x0102_0304, 0x0102_0304, 0x0506_0506, 0x0007_0707];
    assert_eq!(stream.clone_dtoh(&data).unwrap(), expected);
    drop((data, stream));
    device.close();
}

#[test]
fn fresh_memory_holds_nan() {
    let device = device();
    let stream = device.stream();
    // SAFETY: every bit pattern is a number.
    let fresh = unsafe { stream.alloc::<f32>(16) }.unwrap();
    assert!(stream.clone_dtoh(&fresh).unwrap().iter().all(|x| x.is_nan()));
    drop((fresh, stream));
    device.close();
}

#[test]
fn pageable_memory_is_read_at_the_call_and_pinned_memory_when_the_copy_runs() {
    let device = device();
    let stream = device.stream();
    // SAFETY: nothing is read but what was written.
    let mut pinned = unsafe { device.context.alloc_pinned::<u32>(1) }.unwrap();
    let pointer = pinned.as_mut_ptr().unwrap();
    // SAFETY: as above.
    let mut slots = unsafe { stream.alloc::<u32>(2) }.unwrap();
    let mut pageable = [1u32];
    stream.memcpy_htod(&pageable, &mut slots.slice_mut(0..1)).unwrap();
    pageable[0] = 2;
    // SAFETY: the memory has one element; its owner would wait for the copy.
    unsafe { pointer.write(1) };
    stream.memcpy_htod(&pinned, &mut slots.slice_mut(1..2)).unwrap();
    // SAFETY: as above; this is the mistake that the test is about.
    unsafe { pointer.write(2) };
    assert_eq!(pageable, [2]);
    assert_eq!(stream.clone_dtoh(&slots).unwrap(), [1, 2]);
    drop((slots, pinned, stream));
    device.close();
}

#[test]
fn a_double_free_is_an_error_and_reported() {
    let device = device();
    // SAFETY: the second free is the mistake that the test is about.
    unsafe {
        let address = result::malloc_sync(100).unwrap();
        result::free_sync(address).unwrap();
        assert_eq!(code(result::free_sync(address)), CUresult::CUDA_ERROR_INVALID_VALUE);
        let stream = device.stream();
        let address = result::malloc_async(stream.cu_stream(), 64).unwrap();
        result::free_async(address, stream.cu_stream()).unwrap();
        assert_eq!(code(result::free_async(address, stream.cu_stream())), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(code(result::free_sync(address + 8)), CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let reports = device.control.take_reports();
    assert_eq!(reports.len(), 3, "{reports:?}");
    assert_eq!(reports[0], "double free of allocation 1 (100 bytes of device memory)");
    assert_eq!(reports[1], "double free of allocation 2 (64 bytes of device memory)");
    assert!(reports[2].contains("byte 8 of allocation 2"), "{}", reports[2]);
    device.close();
}

#[test]
fn a_copy_out_of_range_is_an_error_and_reported() {
    let device = device();
    let stream = device.stream();
    let data = stream.clone_htod(&[0u8; 10]).unwrap();
    let base = data.device_ptr(&stream).0;
    let mut host = [0u8; 11];
    let stream_handle = stream.cu_stream();
    let wrong = CUresult::CUDA_ERROR_INVALID_VALUE;
    // SAFETY: the driver refuses each of these.
    unsafe {
        assert_eq!(code(result::memcpy_htod_async(base, &host, stream_handle)), wrong);
        assert_eq!(code(result::memcpy_dtoh_async(&mut host, base, stream_handle)), wrong);
        assert_eq!(code(result::memcpy_dtod_async(base, base + 1, 10, stream_handle)), wrong);
        assert_eq!(code(result::memset_d8_async(base + 10, 0, 1, stream_handle)), wrong);
        assert_eq!(code(result::memset_d8_async(base, 0, 10, stream_handle)), CUresult::CUDA_SUCCESS);
    }
    let reports = device.control.take_reports();
    assert_eq!(reports.len(), 4, "{reports:?}");
    assert!(reports.iter().all(|report| report.contains("allocation 1 (10 bytes of device memory)")));
    assert!(reports[3].contains("0 bytes behind the end"), "{}", reports[3]);
    drop((data, stream));
    device.close();
}

#[test]
fn memory_that_a_stream_will_free_cannot_be_given_to_anything_new() {
    let device = device();
    let stream = device.stream();
    // SAFETY: the use after the free is the mistake that the test is about.
    unsafe {
        let address = result::malloc_async(stream.cu_stream(), 64).unwrap();
        result::free_async(address, stream.cu_stream()).unwrap();
        let late = result::memset_d8_async(address, 0, 64, stream.cu_stream());
        assert_eq!(code(late), CUresult::CUDA_ERROR_INVALID_VALUE);
        let kernel = device.kernel("driver_nothing");
        stream.launch_builder(&kernel).launch(threads(1)).unwrap();
        let kernel = device.kernel("driver_increment");
        let launch = stream.launch_builder(&kernel).arg(&address).arg(&1u32).launch(threads(1));
        assert_eq!(code(launch), CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let reports = device.control.take_reports();
    assert_eq!(reports.len(), 2, "{reports:?}");
    assert!(reports.iter().all(|report| report.contains("after the call that frees it")), "{reports:?}");
    drop(stream);
    device.close();
}

#[test]
fn the_nth_creation_fails_and_everything_stays_usable() {
    let control = control();
    let scenario = || -> Result<(), result::DriverError> {
        let context = CudaContext::new(control.ordinal())?;
        let stream = context.new_stream()?;
        let module = context.load_module(ptx("8.0", "sm_80", &["driver_increment"]))?;
        let kernel = module.load_function("driver_increment")?;
        // SAFETY: the memory is written before it is read.
        let mut pinned = unsafe { context.alloc_pinned::<f32>(4) }?;
        pinned.as_mut_slice()?.fill(1.0);
        let mut data = stream.clone_htod(&pinned)?;
        // SAFETY: four elements.
        unsafe { stream.launch_builder(&kernel).arg(&mut data).arg(&4u32).launch(threads(4)) }?;
        assert_eq!(stream.clone_dtoh(&data)?, [2.0; 4]);
        Ok(())
    };
    scenario().unwrap();
    let creations = control.creations();
    // A stream, a module, pinned memory and its event, device memory and the two events that track it.
    assert_eq!(creations, 7);
    for nth in 1..=creations {
        control.fail_creation(Some(nth));
        assert_eq!(code(scenario()), CUresult::CUDA_ERROR_OUT_OF_MEMORY, "creation {nth}");
        assert_eq!(control.live(), [""; 0], "creation {nth}");
        scenario().unwrap();
        // cudarc 0.19.10 forgets the memory when it cannot make the events that track it: the last two
        // creations.
        let leaks = control.take_reports();
        assert_eq!(leaks.len(), usize::from(nth > creations - 2), "creation {nth}: {leaks:?}");
    }
}

#[test]
fn memory_is_limited_and_freed_memory_is_available_again() {
    let device = device();
    device.control.set_memory_limit(Some(1 << 20));
    let stream = device.stream();
    assert_eq!(device.context.mem_get_info().unwrap(), (1 << 20, 1 << 20));
    assert_eq!(device.context.total_mem().unwrap(), 1 << 20);
    // SAFETY: nothing reads the memory.
    let most = unsafe { stream.alloc::<u8>(1 << 20) }.unwrap();
    assert_eq!(device.context.mem_get_info().unwrap(), (0, 1 << 20));
    // SAFETY: as above.
    assert_eq!(code(unsafe { stream.alloc::<u8>(1) }), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    drop(most);
    // The stream frees before it allocates, without anybody waiting for it.
    // SAFETY: as above.
    drop(unsafe { stream.alloc::<u8>(1 << 20) }.unwrap());
    drop(stream);
    device.close();
}

#[test]
fn the_last_element_of_ten_gibibytes_can_be_written_and_read() {
    let device = device();
    let stream = device.stream();
    let count = (10usize << 30) / 4;
    assert!(count > 1 << 31);
    // SAFETY: nothing is read but what was written.
    let mut data = unsafe { stream.alloc::<u32>(count) }.unwrap();
    let kernel = device.kernel("driver_store");
    let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
    let last = count as u64 - 1;
    // SAFETY: within the allocation.
    unsafe { stream.launch_builder(&kernel).arg(&mut data).arg(&last).arg(&7u32).launch(config) }.unwrap();
    assert_eq!(stream.clone_dtoh(&data.slice(count - 1..)).unwrap(), [7]);

    // SAFETY: one behind the end, which the checked build refuses.
    unsafe { stream.launch_builder(&kernel).arg(&mut data).arg(&(last + 1)).arg(&7u32).launch(config) }
        .unwrap();
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(device.control.take_reports().len(), 1);
    drop((data, kernel, stream));
    device.close();
}

#[test]
fn freeing_pinned_memory_that_queued_work_may_use_is_reported() {
    let device = device();
    let stream = device.stream();
    let data = stream.clone_htod(&[1u8; 8]).unwrap();
    let kernel = device.kernel("driver_flag");
    // SAFETY: the early frees are the mistakes that the test is about; the emulator keeps freed memory for a
    // while.
    unsafe {
        let host = result::malloc_host(8, 0).unwrap();
        let target = std::slice::from_raw_parts_mut(host.cast::<u8>(), 8);
        result::memcpy_dtoh_async(target, data.device_ptr(&stream).0, stream.cu_stream()).unwrap();
        result::free_host(host).unwrap();
        let host = result::malloc_host(8, 0).unwrap();
        stream.launch_builder(&kernel).arg(&(host as u64)).arg(&1u32).launch(threads(1)).unwrap();
        result::free_host(host).unwrap();
        let host = result::malloc_host(8, 0).unwrap();
        result::free_host(host).unwrap();
    }
    let reports = device.control.take_reports();
    assert_eq!(reports.len(), 2, "{reports:?}");
    assert!(reports.iter().all(|report| report.contains("1 queued operations may use it")), "{reports:?}");
    assert!(reports[0].contains("8 bytes of pinned host memory"), "{reports:?}");
    // The copy then finds its target freed.
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    drop((data, kernel, stream));
    device.control.take_reports();
    device.close();
}

#[test]
fn what_is_not_freed_is_reported_when_the_context_ends() {
    let control = control();
    let context = CudaContext::new(control.ordinal()).unwrap();
    // SAFETY: nothing uses the memory and the event.
    unsafe {
        result::malloc_sync(5).unwrap();
        result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap();
        result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
    }
    let objects = ["5 bytes of device memory", "stream", "event"];
    let live = control.live();
    assert_eq!(live.len(), 4, "{live:?}");
    assert!(live.iter().zip(objects).all(|(object, what)| object.contains(what)), "{live:?}");
    assert_eq!(live[3], "primary context (1 references)");
    assert_eq!(control.take_reports(), [""; 0]);
    drop(context);
    assert_eq!(control.live(), [""; 0]);
    let reports = control.take_reports();
    assert_eq!(reports.len(), 3, "{reports:?}");
    for (report, what) in reports.iter().zip(objects) {
        assert!(report.starts_with("leak at the end of the context") && report.contains(what), "{report}");
    }
}

#[test]
fn an_address_tells_what_it_belongs_to() {
    let device = device();
    let stream = device.stream();
    let data = stream.clone_htod(&[0u64; 4]).unwrap();
    // SAFETY: nothing uses the memory.
    let mut pinned = unsafe { device.context.alloc_pinned::<u64>(4) }.unwrap();
    let host = pinned.as_mut_ptr().unwrap() as u64;
    let base = data.device_ptr(&stream).0;
    assert_eq!(data.num_bytes(), 32);
    let kind = |address| {
        let mut kind = 0u32;
        let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
        // SAFETY: a place for a number.
        let result = unsafe { sys::cuPointerGetAttribute((&raw mut kind).cast(), attribute, address) };
        result.result().map(|()| kind)
    };
    assert_eq!(kind(base + 31), Ok(2));
    assert_eq!(kind(host), Ok(1));
    assert_eq!(code(kind(&raw const kind as u64)), CUresult::CUDA_ERROR_INVALID_VALUE);
    drop((data, pinned, stream));
    device.close();
}

#[test]
fn a_call_that_is_made_to_fail_has_no_effect() {
    let device = device();
    let stream = device.stream();
    let mut data = stream.clone_htod(&[1.0f32, 2.0]).unwrap();
    device.control.fail_call("cuMemcpyHtoDAsync_v2", 2);
    stream.memcpy_htod(&[3.0f32, 4.0], &mut data).unwrap();
    let failed = stream.memcpy_htod(&[5.0f32, 6.0], &mut data);
    assert_eq!(code(failed), CUresult::CUDA_ERROR_UNKNOWN);
    assert_eq!(stream.clone_dtoh(&data).unwrap(), [3.0, 4.0]);
    // Once only, and not after a change of mind.
    stream.memcpy_htod(&[7.0f32, 8.0], &mut data).unwrap();
    device.control.fail_call("cuMemcpyHtoDAsync_v2", 1);
    device.control.fail_no_call();
    stream.memcpy_htod(&[7.0f32, 8.0], &mut data).unwrap();
    drop((data, stream));
    device.close();
}
