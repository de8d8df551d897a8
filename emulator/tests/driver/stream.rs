//! Streams and events: what runs when, and what a missing wait does.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::sys::{self, CUevent_flags, CUresult};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, PushKernelArg, result};

use super::fixture::{Device, code, device, threads};

fn scale(device: &Device, stream: &Arc<CudaStream>, from: &CudaSlice<f32>, to: &mut CudaSlice<f32>) {
    let kernel = device.kernel("driver_scale");
    let count = from.len() as u32;
    // SAFETY: both have as many elements.
    unsafe {
        stream.launch_builder(&kernel).arg(to).arg(from).arg(&2.0f32).arg(&count).launch(threads(count))
    }
    .unwrap();
}

/// What arrives when `consumer` copies what `producer` makes of 1: stale data is 5, and poisoned data is not
/// a number.
fn handed_over(wait: bool, synchronise_context: bool) -> f32 {
    let device = device();
    let (producer, consumer) = (device.stream(), device.stream());
    let input = producer.clone_htod(&[1.0f32]).unwrap();
    let mut made = producer.clone_htod(&[5.0f32]).unwrap();
    let mut arrived = consumer.alloc_zeros::<f32>(1).unwrap();
    device.context.synchronize().unwrap();
    scale(&device, &producer, &input, &mut made);
    if wait {
        consumer.join(&producer).unwrap();
    }
    consumer.memcpy_dtod(&made, &mut arrived).unwrap();
    if synchronise_context {
        device.context.synchronize().unwrap();
    }
    let value = consumer.clone_dtoh(&arrived).unwrap()[0];
    drop((input, made, arrived, producer, consumer));
    device.close();
    value
}

#[test]
fn a_missing_wait_gives_stale_data_and_a_wait_the_right_data() {
    for synchronise_context in [false, true] {
        assert_eq!(handed_over(false, synchronise_context), 5.0);
        assert_eq!(handed_over(true, synchronise_context), 2.0);
    }
}

#[test]
fn only_what_is_waited_for_runs() {
    let device = device();
    let (first, second) = (device.stream(), device.stream());
    let mut a = first.alloc_zeros::<f32>(4).unwrap();
    let b = second.alloc_zeros::<f32>(4).unwrap();
    let event = first.record_event(None).unwrap();
    first.memset_zeros(&mut a).unwrap();
    assert_eq!(device.control.pending(), 3);
    second.wait(&event).unwrap();
    second.synchronize().unwrap();
    assert_eq!(device.control.pending(), 1, "the part of the first stream behind the event");
    event.synchronize().unwrap();
    assert_eq!(device.control.pending(), 1);
    first.synchronize().unwrap();
    assert_eq!(device.control.pending(), 0);
    drop((a, b, event));
    assert_eq!(device.control.pending(), 2, "memory is freed in the order of the streams");
    drop((first, second));
    device.close();
}

#[test]
fn a_long_chain_of_waits_between_two_streams_runs_in_order() {
    let device = device();
    let streams = [device.stream(), device.stream()];
    let mut data = streams[0].alloc_zeros::<f32>(1).unwrap();
    let kernel = device.kernel("driver_increment");
    const STEPS: usize = 2000;
    for i in 0..STEPS {
        let (one, other) = (&streams[i % 2], &streams[(i + 1) % 2]);
        // SAFETY: one element.
        unsafe { one.launch_builder(&kernel).arg(&mut data).arg(&1u32).launch(threads(1)) }.unwrap();
        other.join(one).unwrap();
    }
    assert_eq!(streams[STEPS % 2].clone_dtoh(&data).unwrap(), [STEPS as f32]);
    drop((data, kernel, streams));
    device.close();
}

#[test]
fn memory_lives_until_the_stream_that_frees_it_gets_there() {
    let device = device();
    let (owner, other) = (device.stream(), device.stream());
    let kernel = device.kernel("driver_increment");
    let data = owner.clone_htod(&[1.0f32]).unwrap();
    let address = data.device_ptr(&owner).0;
    // SAFETY: the kernel is ahead of the free in the same stream.
    unsafe { owner.launch_builder(&kernel).arg(&address).arg(&1u32).launch(threads(1)) }.unwrap();
    drop(data);
    owner.synchronize().unwrap();
    assert_eq!(device.control.take_reports(), [""; 0]);

    let data = owner.clone_htod(&[1.0f32]).unwrap();
    let address = data.device_ptr(&owner).0;
    // SAFETY: nothing orders the kernel before the free: the mistake that the test is about.
    unsafe { other.launch_builder(&kernel).arg(&address).arg(&1u32).launch(threads(1)) }.unwrap();
    drop(data);
    owner.synchronize().unwrap();
    assert_eq!(code(other.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let reports = device.control.take_reports();
    assert!(reports.len() == 1 && reports[0].starts_with("UseAfterFree"), "{reports:?}");
    drop((owner, other, kernel));
    device.close();
}

/// What a stream reads of memory that the default stream is to set to 7.
fn behind_default_stream(kind: result::stream::StreamKind) -> u8 {
    let device = device();
    let handle = result::stream::create(kind).unwrap();
    // SAFETY: the memory has one byte.
    let byte = unsafe {
        let address = result::malloc_sync(1).unwrap();
        result::memset_d8_sync(address, 7, 1).unwrap();
        assert_eq!(device.control.pending(), 1, "a memset returns before it runs");
        let mut byte = [0u8];
        result::memcpy_dtoh_async(&mut byte, address, handle).unwrap();
        result::free_sync(address).unwrap();
        result::stream::destroy(handle).unwrap();
        byte[0]
    };
    device.close();
    byte
}

#[test]
fn blocking_streams_are_ordered_with_the_default_stream_and_others_are_not() {
    assert_eq!(behind_default_stream(result::stream::StreamKind::Default), 7);
    assert_eq!(behind_default_stream(result::stream::StreamKind::NonBlocking), 0xff);
}

#[test]
fn the_default_stream_waits_for_blocking_streams() {
    let device = device();
    let blocking = result::stream::create(result::stream::StreamKind::Default).unwrap();
    let other = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
    // SAFETY: the memory has two bytes.
    unsafe {
        let address = result::malloc_sync(2).unwrap();
        result::memset_d8_async(address, 1, 1, blocking).unwrap();
        result::memset_d8_async(address + 1, 1, 1, other).unwrap();
        let mut bytes = [0u8; 2];
        result::memcpy_dtoh_sync(&mut bytes, address).unwrap();
        assert_eq!(bytes, [1, 0xff]);
        result::free_sync(address).unwrap();
        result::stream::destroy(blocking).unwrap();
        result::stream::destroy(other).unwrap();
    }
    device.close();
}

#[test]
fn a_query_says_not_ready_and_a_loop_of_queries_ends() {
    let device = device();
    let stream = device.stream();
    let event = device.context.new_event(None).unwrap();
    assert_eq!(event.try_is_complete(), Ok(true), "an event that was never recorded is complete");
    let data = stream.alloc_zeros::<u8>(1).unwrap();
    event.record(&stream).unwrap();
    assert_eq!(event.try_is_complete(), Ok(false));
    assert_eq!(device.control.pending(), 1);
    let polls = (0..100).take_while(|_| !event.is_complete()).count();
    assert!(polls < 100);
    assert_eq!(device.control.pending(), 0);

    drop(data);
    // SAFETY: a live stream.
    let query = || unsafe { sys::cuStreamQuery(stream.cu_stream()) };
    assert_eq!(query(), CUresult::CUDA_ERROR_NOT_READY);
    assert!((0..100).any(|_| query() == CUresult::CUDA_SUCCESS));
    drop((event, stream));
    device.close();
}

#[test]
fn a_loop_of_queries_of_the_default_stream_ends_too() {
    let device = device();
    let blocking = result::stream::create(result::stream::StreamKind::Default).unwrap();
    // SAFETY: the memory has one byte; live handles.
    unsafe {
        let address = result::malloc_sync(1).unwrap();
        result::memset_d8_sync(address, 1, 1).unwrap();
        result::memset_d8_async(address, 2, 1, blocking).unwrap();
        assert_eq!(sys::cuStreamQuery(std::ptr::null_mut()), CUresult::CUDA_ERROR_NOT_READY);
        assert!((0..100).any(|_| sys::cuStreamQuery(std::ptr::null_mut()) == CUresult::CUDA_SUCCESS));
        assert_eq!(device.control.pending(), 0, "the default stream waits for blocking ones");
        result::free_sync(address).unwrap();
        result::stream::destroy(blocking).unwrap();
    }
    device.close();
}

#[test]
fn elapsed_time_needs_two_timed_and_recorded_events() {
    // The binding for the newest CUDA calls a function that CUDA 12.0 has not, so this goes past it.
    type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> CUresult;
    let device = device();
    // SAFETY: the emulated driver is loaded under this name, and the function has this type.
    let driver = unsafe { libloading::Library::new("libcuda.so") }.unwrap();
    // SAFETY: as above.
    let elapsed = unsafe { driver.get::<Elapsed>(b"cuEventElapsedTime\0") }.unwrap();
    let milliseconds = |a: &cudarc::driver::CudaEvent, b: &cudarc::driver::CudaEvent| {
        let mut time = f32::NAN;
        // SAFETY: live events, and a place for the time.
        unsafe { elapsed(&raw mut time, a.cu_event(), b.cu_event()) }.result().map(|()| time)
    };
    let stream = device.stream();
    let timed = || device.context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    let (start, end, untimed) = (timed(), timed(), stream.record_event(None).unwrap());
    start.record(&stream).unwrap();
    assert_eq!(code(milliseconds(&start, &end)), CUresult::CUDA_ERROR_INVALID_HANDLE, "not recorded");
    assert_eq!(code(milliseconds(&start, &untimed)), CUresult::CUDA_ERROR_INVALID_HANDLE, "not timed");
    let data = stream.alloc_zeros::<u8>(1 << 20).unwrap();
    end.record(&stream).unwrap();
    assert_eq!(code(milliseconds(&start, &end)), CUresult::CUDA_ERROR_NOT_READY);
    end.synchronize().unwrap();
    assert!(milliseconds(&start, &end).unwrap() > 0.0);
    assert!(milliseconds(&end, &start).unwrap() < 0.0);
    drop((data, start, end, untimed, stream));
    device.close();
}

#[test]
fn the_work_of_a_destroyed_stream_still_runs() {
    let device = device();
    let (keeper, stream) = (device.stream(), device.stream());
    let mut data = keeper.clone_htod(&[1.0f32]).unwrap();
    keeper.synchronize().unwrap();
    stream.memset_zeros(&mut data).unwrap();
    let event = stream.record_event(None).unwrap();
    drop(stream);
    assert_eq!(device.control.pending(), 1);
    event.synchronize().unwrap();
    assert_eq!(keeper.clone_dtoh(&data).unwrap(), [0.0]);
    drop((data, event, keeper));
    device.close();
}

#[test]
fn host_functions_run_in_order_and_may_not_call_the_driver() {
    static SEEN: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn note(data: *mut c_void) {
        // SAFETY: the test hands over a number that lives until the stream is done.
        let value = unsafe { *data.cast::<u8>() };
        let refused = code(result::device::get_count()) == CUresult::CUDA_ERROR_NOT_PERMITTED;
        SEEN.store(u32::from(value) | u32::from(refused) << 8, Ordering::SeqCst);
    }
    let device = device();
    let stream = device.stream();
    // SAFETY: the memory is written before it is read.
    let mut pinned = unsafe { device.context.alloc_pinned::<u8>(1) }.unwrap();
    pinned.as_mut_slice().unwrap()[0] = 1;
    let data = stream.clone_htod(&[9u8]).unwrap();
    stream.memcpy_dtoh(&data, &mut pinned).unwrap();
    let pointer = {
        // SAFETY: only the address is taken.
        let (slice, _) = unsafe { cudarc::driver::HostSlice::stream_synced_slice(&pinned, &stream) };
        slice.as_ptr().cast_mut().cast()
    };
    // SAFETY: the pinned memory lives until the stream is synchronised.
    unsafe { result::stream::launch_host_function(stream.cu_stream(), note, pointer) }.unwrap();
    assert_eq!(SEEN.load(Ordering::SeqCst), 0);
    stream.synchronize().unwrap();
    assert_eq!(SEEN.load(Ordering::SeqCst), 9 | 1 << 8);
    drop((data, pinned, stream));
    device.close();
}

#[test]
fn without_deferral_operations_run_at_once() {
    let device = device();
    let stream = device.stream();
    let mut data = stream.alloc_zeros::<f32>(2).unwrap();
    assert_eq!(device.control.pending(), 1);
    device.control.set_deferred(false);
    assert_eq!(device.control.pending(), 0, "what was queued has run");
    stream.memset_zeros(&mut data).unwrap();
    assert_eq!(device.control.pending(), 0);
    drop((data, stream));
    device.close();
}

#[test]
fn handles_of_destroyed_objects_are_errors() {
    let device = device();
    let stream = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
    let event = result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap();
    let wrong = CUresult::CUDA_ERROR_INVALID_HANDLE;
    // SAFETY: the driver refuses stale handles.
    unsafe {
        assert_eq!(code(result::event::synchronize(stream.cast())), wrong, "a stream is no event");
        result::stream::destroy(stream).unwrap();
        result::event::destroy(event).unwrap();
        assert_eq!(code(result::stream::destroy(stream)), wrong);
        assert_eq!(code(result::stream::synchronize(stream)), wrong);
        assert_eq!(code(result::event::destroy(event)), wrong);
        assert_eq!(code(result::event::query(event)), wrong);
        assert_eq!(code(result::event::record(event, std::ptr::null_mut())), wrong);
    }
    device.close();
}

#[test]
fn a_stream_waits_for_an_event_of_another_device() {
    let (one, other) = (device(), device());
    let (here, there) = (one.stream(), other.stream());
    let data = there.alloc_zeros::<u8>(1).unwrap();
    let event = there.record_event(None).unwrap();
    here.wait(&event).unwrap();
    assert_eq!(other.control.pending(), 0);
    // An event is recorded in streams of its own context only.
    // SAFETY: live handles.
    let foreign = unsafe { result::event::record(event.cu_event(), here.cu_stream()) };
    assert_eq!(code(foreign), CUresult::CUDA_ERROR_INVALID_HANDLE);
    drop((data, event, here, there));
    one.close();
    other.close();
}
