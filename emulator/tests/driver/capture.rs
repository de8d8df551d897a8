//! Stream capture and graphs.

use std::sync::Arc;
use std::thread;

use cudarc::driver::sys::{
    self, CUgraphInstantiate_flags as InstantiateFlags, CUresult, CUstreamCaptureMode as Mode,
    CUstreamCaptureStatus as CaptureStatus,
};
use cudarc::driver::{CudaGraph, CudaSlice, CudaStream, DevicePtr, PushKernelArg, result};

use super::fixture::{Device, code, device, threads};

const THREAD_LOCAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
const RELAXED: Mode = Mode::CU_STREAM_CAPTURE_MODE_RELAXED;
const GLOBAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_GLOBAL;

fn end(stream: &Arc<CudaStream>) -> Result<CudaGraph, result::DriverError> {
    Ok(stream.end_capture(InstantiateFlags(0))?.expect("a graph"))
}

fn increment(device: &Device, stream: &Arc<CudaStream>, data: &mut CudaSlice<f32>) {
    let kernel = device.kernel("driver_increment");
    let count = data.len() as u32;
    // SAFETY: as many elements.
    unsafe { stream.launch_builder(&kernel).arg(data).arg(&count).launch(threads(count)) }.unwrap();
}

#[test]
fn a_graph_runs_with_the_data_that_is_there_when_it_runs() {
    for mode in [GLOBAL, THREAD_LOCAL, RELAXED] {
        let device = device();
        let stream = device.stream();
        let mut data = stream.clone_htod(&[1.0f32, 2.0]).unwrap();
        let mut copy = stream.alloc_zeros::<f32>(2).unwrap();
        stream.synchronize().unwrap();
        stream.begin_capture(mode).unwrap();
        assert_eq!(stream.capture_status(), Ok(CaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE));
        increment(&device, &stream, &mut data);
        stream.memcpy_dtod(&data, &mut copy).unwrap();
        stream.memset_zeros(&mut data).unwrap();
        let graph = end(&stream).unwrap();
        assert_eq!(stream.capture_status(), Ok(CaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE));
        assert_eq!(device.control.pending(), 0, "capturing runs and queues nothing");
        assert_eq!(stream.clone_dtoh(&data).unwrap(), [1.0, 2.0]);

        graph.upload().unwrap();
        graph.launch().unwrap();
        assert_eq!(device.control.pending(), 1);
        assert_eq!(stream.clone_dtoh(&copy).unwrap(), [2.0, 3.0]);
        stream.memcpy_htod(&[5.0f32, 6.0], &mut data).unwrap();
        graph.launch().unwrap();
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&copy).unwrap(), [1.0, 1.0]);

        let mut count = 0;
        // SAFETY: a live graph, and a place for the count.
        unsafe { sys::cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &raw mut count) }
            .result()
            .unwrap();
        assert_eq!(count, 3);
        drop((graph, data, copy, stream));
        device.close();
    }
}

#[test]
fn a_graph_that_is_queued_outlives_its_destruction() {
    let device = device();
    let stream = device.stream();
    let mut data = stream.clone_htod(&[1.0f32]).unwrap();
    stream.begin_capture(THREAD_LOCAL).unwrap();
    increment(&device, &stream, &mut data);
    let graph = end(&stream).unwrap();
    graph.launch().unwrap();
    drop(graph);
    assert_eq!(stream.clone_dtoh(&data).unwrap(), [2.0]);
    drop((data, stream));
    device.close();
}

/// Copies what a second stream makes, in one graph, with or without a join.
fn forked(join: bool) -> Result<f32, CUresult> {
    let device = device();
    let (main, side) = (device.stream(), device.stream());
    let mut data = main.clone_htod(&[1.0f32]).unwrap();
    let mut copy = main.alloc_zeros::<f32>(1).unwrap();
    main.synchronize().unwrap();
    main.begin_capture(THREAD_LOCAL).unwrap();
    let fork = main.record_event(None).unwrap();
    side.wait(&fork).unwrap();
    assert_eq!(side.capture_status(), Ok(CaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE));
    increment(&device, &side, &mut data);
    let joined = side.record_event(None).unwrap();
    if join {
        main.wait(&joined).unwrap();
    }
    main.memcpy_dtod(&data, &mut copy).unwrap();
    let result = match end(&main) {
        Ok(graph) => {
            graph.launch().unwrap();
            Ok(main.clone_dtoh(&copy).unwrap()[0])
        }
        Err(result::DriverError(code)) => Err(code),
    };
    assert_eq!(side.capture_status(), Ok(CaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE));
    drop((fork, joined, data, copy, main, side));
    device.close();
    result
}

#[test]
fn a_capture_forks_and_joins_and_a_missing_join_is_an_error() {
    assert_eq!(forked(true), Ok(2.0));
    assert_eq!(forked(false), Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED));
}

#[test]
fn branches_that_nothing_orders_run_in_an_adverse_order() {
    let device = device();
    let (main, side) = (device.stream(), device.stream());
    let mut data = main.clone_htod(&[1.0f32]).unwrap();
    let mut copy = main.alloc_zeros::<f32>(1).unwrap();
    main.synchronize().unwrap();
    main.begin_capture(THREAD_LOCAL).unwrap();
    let fork = main.record_event(None).unwrap();
    side.wait(&fork).unwrap();
    // The copy should wait for the increment; the join comes too late for it.
    increment(&device, &main, &mut data);
    side.memcpy_dtod(&data, &mut copy).unwrap();
    let joined = side.record_event(None).unwrap();
    main.wait(&joined).unwrap();
    let graph = end(&main).unwrap();
    graph.launch().unwrap();
    assert_eq!(main.clone_dtoh(&copy).unwrap(), [1.0]);
    drop((graph, fork, joined, data, copy, main, side));
    device.close();
}

/// Ends a capture after a call that it forbids.
fn invalidated_by(mode: Mode, call: impl FnOnce(&Device, &Arc<CudaStream>) -> CUresult) -> CUresult {
    let device = device();
    let stream = device.stream();
    let mut data = stream.clone_htod(&[1.0f32]).unwrap();
    stream.synchronize().unwrap();
    stream.begin_capture(mode).unwrap();
    let status = call(&device, &stream);
    if status == CUresult::CUDA_SUCCESS {
        end(&stream).unwrap();
    } else {
        let invalid = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        assert_eq!(stream.capture_status(), Ok(CaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED));
        assert_eq!(code(stream.memset_zeros(&mut data)), invalid);
        assert_eq!(code(end(&stream)), invalid);
    }
    // The stream is an ordinary one again.
    stream.memset_zeros(&mut data).unwrap();
    assert_eq!(stream.clone_dtoh(&data).unwrap(), [0.0]);
    device.control.take_reports();
    drop((data, stream));
    device.close();
    status
}

#[test]
fn calls_that_wait_for_captured_work_are_errors_and_invalidate_the_capture() {
    let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    assert_eq!(invalidated_by(RELAXED, |_, stream| code(stream.synchronize())), unsupported);
    assert_eq!(invalidated_by(RELAXED, |device, _| code(device.context.synchronize())), unsupported);
    // SAFETY: a live stream.
    let query = |_: &Device, stream: &Arc<CudaStream>| unsafe { sys::cuStreamQuery(stream.cu_stream()) };
    assert_eq!(invalidated_by(RELAXED, query), unsupported);
    let captured = CUresult::CUDA_ERROR_CAPTURED_EVENT;
    assert_eq!(
        invalidated_by(RELAXED, |_, stream| code(stream.record_event(None).unwrap().try_is_complete())),
        captured
    );
    assert_eq!(
        invalidated_by(RELAXED, |_, stream| code(stream.record_event(None).unwrap().synchronize())),
        captured
    );
}

#[test]
fn calls_that_may_wait_are_errors_unless_the_capture_is_relaxed() {
    type Call = fn(&Device) -> CUresult;
    let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    let allocate: Call = |_| {
        // SAFETY: the memory is freed.
        code(unsafe { result::malloc_sync(4).and_then(|address| result::free_sync(address)) })
    };
    let pin: Call = |_| {
        // SAFETY: the memory is freed.
        code(unsafe { result::malloc_host(4, 0).and_then(|host| result::free_host(host)) })
    };
    let elsewhere: Call = |device| {
        let context = device.context.clone();
        let other = move || {
            context.bind_to_thread().unwrap();
            // SAFETY: the memory is freed.
            code(unsafe { result::malloc_sync(4).and_then(|address| result::free_sync(address)) })
        };
        thread::spawn(other).join().unwrap()
    };
    for call in [allocate, pin] {
        assert_eq!(invalidated_by(GLOBAL, |device, _| call(device)), unsupported);
        assert_eq!(invalidated_by(THREAD_LOCAL, |device, _| call(device)), unsupported);
        assert_eq!(invalidated_by(RELAXED, |device, _| call(device)), CUresult::CUDA_SUCCESS);
    }
    assert_eq!(invalidated_by(GLOBAL, |device, _| elsewhere(device)), unsupported);
    assert_eq!(invalidated_by(THREAD_LOCAL, |device, _| elsewhere(device)), CUresult::CUDA_SUCCESS);
}

#[test]
fn synchronous_copies_are_errors_during_a_capture() {
    let copy = |device: &Device, _: &Arc<CudaStream>| {
        let data = device.stream();
        // SAFETY: the memory has four bytes and is freed.
        unsafe {
            let address = result::malloc_async(data.cu_stream(), 4).unwrap();
            let status = code(result::memcpy_htod_sync(address, &[1u8; 4]));
            result::free_async(address, data.cu_stream()).unwrap();
            status
        }
    };
    let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    assert_eq!(invalidated_by(GLOBAL, copy), unsupported);
    assert_eq!(invalidated_by(THREAD_LOCAL, copy), unsupported);
    assert_eq!(invalidated_by(RELAXED, copy), CUresult::CUDA_SUCCESS);
}

#[test]
fn pageable_copies_and_allocations_cannot_be_captured() {
    let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    let pageable = |_: &Device, stream: &Arc<CudaStream>| code(stream.clone_htod(&[1u8; 4]));
    assert_eq!(invalidated_by(RELAXED, pageable), unsupported);
    let upload = |device: &Device, stream: &Arc<CudaStream>| {
        let other = device.stream();
        let mut data = other.alloc_zeros::<u8>(4).unwrap();
        code(stream.memcpy_htod(&[1u8; 4], &mut data))
    };
    assert_eq!(invalidated_by(RELAXED, upload), unsupported);
    let download = |device: &Device, stream: &Arc<CudaStream>| {
        let data = device.stream().alloc_zeros::<u8>(4).unwrap();
        code(stream.memcpy_dtoh(&data, &mut [0u8; 4]))
    };
    assert_eq!(invalidated_by(RELAXED, download), unsupported);
}

#[test]
fn pinned_copies_are_captured_and_read_at_each_replay() {
    let device = device();
    let stream = device.stream();
    let data = stream.alloc_zeros::<u32>(1).unwrap();
    // SAFETY: the memory is written before it is read.
    let host = unsafe { result::malloc_host(4, 0) }.unwrap().cast::<u32>();
    // SAFETY: pinned memory of one element.
    let source = unsafe { std::slice::from_raw_parts(host, 1) };
    stream.begin_capture(THREAD_LOCAL).unwrap();
    let address = data.device_ptr(&stream).0;
    // SAFETY: the pinned memory lives until the end of the test.
    unsafe { result::memcpy_htod_async(address, source, stream.cu_stream()) }.unwrap();
    let graph = end(&stream).unwrap();
    for value in [1u32, 7] {
        // SAFETY: as above; no copy is queued.
        unsafe { host.write(value) };
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&data).unwrap(), [value]);
    }
    drop((graph, data, stream));
    // SAFETY: nothing uses it any more.
    unsafe { result::free_host(host.cast()) }.unwrap();
    device.close();
}

#[test]
fn waiting_for_uncaptured_work_is_an_error() {
    let call = |device: &Device, stream: &Arc<CudaStream>| {
        let other = device.stream();
        let data = other.alloc_zeros::<u8>(1).unwrap();
        let event = other.record_event(None).unwrap();
        let status = code(stream.wait(&event));
        drop(data);
        status
    };
    assert_eq!(invalidated_by(RELAXED, call), CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
}

#[test]
fn merging_two_captures_is_an_error() {
    let call = |device: &Device, stream: &Arc<CudaStream>| {
        let other = device.stream();
        other.begin_capture(RELAXED).unwrap();
        let event = other.record_event(None).unwrap();
        let status = code(stream.wait(&event));
        assert_eq!(code(end(&other)), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        status
    };
    assert_eq!(invalidated_by(RELAXED, call), CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE);
}

#[test]
fn a_capture_ends_in_its_own_stream_and_thread() {
    let device = device();
    let (stream, side) = (device.stream(), device.stream());
    let illegal = CUresult::CUDA_ERROR_ILLEGAL_STATE;
    assert_eq!(code(end(&stream)), illegal);
    assert_eq!(
        code(device.context.default_stream().begin_capture(RELAXED)),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    );
    stream.begin_capture(THREAD_LOCAL).unwrap();
    assert_eq!(code(stream.begin_capture(THREAD_LOCAL)), illegal);
    let elsewhere = {
        let stream = stream.clone();
        thread::spawn(move || code(end(&stream))).join().unwrap()
    };
    assert_eq!(elsewhere, CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    end(&stream).unwrap();

    stream.begin_capture(RELAXED).unwrap();
    let fork = stream.record_event(None).unwrap();
    side.wait(&fork).unwrap();
    assert_eq!(code(end(&side)), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    assert_eq!(code(end(&stream)), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    drop((fork, stream, side));
    device.close();
}

#[test]
fn destroying_a_captured_stream_ends_or_invalidates_the_capture() {
    let device = device();
    let (origin, side, last) = (device.stream(), device.stream(), device.stream());
    origin.begin_capture(GLOBAL).unwrap();
    let fork = origin.record_event(None).unwrap();
    side.wait(&fork).unwrap();
    last.wait(&fork).unwrap();
    drop(last);
    assert_eq!(side.capture_status(), Ok(CaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED));
    drop(origin);
    assert_eq!(side.capture_status(), Ok(CaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE));
    device.context.synchronize().unwrap();
    assert_eq!(code(side.wait(&fork)), CUresult::CUDA_ERROR_INVALID_VALUE, "its work will never run");
    drop((fork, side));
    device.close();
}

#[test]
fn the_default_stream_is_off_limits_while_a_blocking_stream_is_captured() {
    let device = device();
    let blocking = result::stream::create(result::stream::StreamKind::Default).unwrap();
    // SAFETY: live handles; the memory has one byte.
    unsafe {
        let address = result::malloc_sync(1).unwrap();
        result::stream::begin_capture(blocking, RELAXED).unwrap();
        let implicit = CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
        assert_eq!(code(result::memset_d8_sync(address, 0, 1)), implicit);
        let ended = code(result::stream::end_capture(blocking));
        assert_eq!(ended, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        result::memset_d8_sync(address, 0, 1).unwrap();
        result::free_sync(address).unwrap();
        result::stream::destroy(blocking).unwrap();
    }
    device.close();
}
