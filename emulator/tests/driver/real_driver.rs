//! What a real driver said of waits in and out of a capture, word for word: `capture-h100.txt` is what this
//! program, as C, printed on an H100 with driver 580.159.04 (CUDA 13.0) on 2026-11-26.

use std::fmt::Write;
use std::ptr;

use cudarc::driver::sys::{
    self, CUevent, CUevent_flags, CUresult, CUstream, CUstream_flags, CUstreamCaptureMode,
    CUstreamCaptureStatus,
};

use super::fixture::device;

const TRANSCRIPT: &str = include_str!("capture-h100.txt");

/// Makes a call, and notes it with its answer.
macro_rules! tell {
    ($out:ident, $text:literal, $call:expr) => {{
        // SAFETY: the handles are alive, and the pointers valid for the call.
        let status: CUresult = unsafe { $call };
        writeln!($out, "  {:<70} {status:?}", $text).unwrap();
    }};
}

fn stream() -> CUstream {
    let (mut stream, flags) = (ptr::null_mut(), CUstream_flags::CU_STREAM_NON_BLOCKING);
    // SAFETY: the pointer is valid for the call.
    unsafe { sys::cuStreamCreate(&mut stream, flags as u32) }.result().unwrap();
    stream
}

fn event() -> CUevent {
    let (mut event, flags) = (ptr::null_mut(), CUevent_flags::CU_EVENT_DISABLE_TIMING);
    // SAFETY: the pointer is valid for the call.
    unsafe { sys::cuEventCreate(&mut event, flags as u32) }.result().unwrap();
    event
}

fn memory() -> sys::CUdeviceptr {
    let mut address = 0;
    // SAFETY: the pointer is valid for the call.
    unsafe { sys::cuMemAlloc_v2(&mut address, 1024) }.result().unwrap();
    address
}

fn status(out: &mut String, name: &str, stream: CUstream) {
    let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    // SAFETY: the stream is alive, and the pointer valid for the call.
    let result = unsafe { sys::cuStreamIsCapturing(stream, &mut status) };
    writeln!(out, "  status of {name}: {result:?} {}", status as u32).unwrap();
}

/// One round of the program.
fn round(out: &mut String, round: u32, [p, q]: [sys::CUdeviceptr; 2]) {
    let (a, b) = (stream(), stream());
    let (fresh, before, in_a) = (event(), event(), event());
    // SAFETY: the event is alive.
    let recorded = unsafe { sys::cuEventRecord(before, ptr::null_mut()).result() };
    recorded.and_then(|()| cudarc::driver::result::ctx::synchronize()).unwrap();
    writeln!(out, "round {round}").unwrap();
    if round == 0 {
        writeln!(out, " outside any capture").unwrap();
        tell!(out, "cuStreamWaitEvent(b,fresh,0)", sys::cuStreamWaitEvent(b, fresh, 0));
        tell!(out, "cuStreamWaitEvent(b,before,0)", sys::cuStreamWaitEvent(b, before, 0));
    } else {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        tell!(
            out,
            "cuStreamBeginCapture(a,CU_STREAM_CAPTURE_MODE_RELAXED)",
            sys::cuStreamBeginCapture_v2(a, mode)
        );
        tell!(out, "cuMemsetD8Async(p,1,64,a)", sys::cuMemsetD8Async(p, 1, 64, a));
        tell!(out, "cuEventRecord(inA,a)", sys::cuEventRecord(in_a, a));
        match round {
            1 => {
                writeln!(out, " the capturing stream waits").unwrap();
                tell!(out, "cuStreamWaitEvent(a,fresh,0)", sys::cuStreamWaitEvent(a, fresh, 0));
                status(out, "a", a);
                tell!(out, "cuStreamWaitEvent(a,before,0)", sys::cuStreamWaitEvent(a, before, 0));
                status(out, "a", a);
            }
            2 => {
                writeln!(out, " another stream waits for the captured event: joins").unwrap();
                tell!(out, "cuStreamWaitEvent(b,inA,0)", sys::cuStreamWaitEvent(b, in_a, 0));
                status(out, "b", b);
                tell!(out, "cuStreamWaitEvent(b,fresh,0)", sys::cuStreamWaitEvent(b, fresh, 0));
                status(out, "b", b);
            }
            3 => {
                tell!(out, "cuStreamWaitEvent(b,inA,0)", sys::cuStreamWaitEvent(b, in_a, 0));
                tell!(out, "cuStreamWaitEvent(b,before,0)", sys::cuStreamWaitEvent(b, before, 0));
                status(out, "b", b);
                tell!(out, "cuMemsetD8Async(q,1,64,b)", sys::cuMemsetD8Async(q, 1, 64, b));
            }
            4 => {
                tell!(out, "cuStreamWaitEvent(b,inA,0)", sys::cuStreamWaitEvent(b, in_a, 0));
                tell!(out, "cuEventRecord(fresh,b)", sys::cuEventRecord(fresh, b));
                tell!(out, "cuStreamWaitEvent(a,fresh,0)", sys::cuStreamWaitEvent(a, fresh, 0));
                status(out, "a", a);
            }
            _ => {
                let what =
                    "the other stream joined, and is waited for by an event recorded in it, then ended";
                writeln!(out, " {what}").unwrap();
                tell!(out, "cuStreamWaitEvent(b,inA,0)", sys::cuStreamWaitEvent(b, in_a, 0));
                tell!(out, "cuMemsetD8Async(q,1,64,b)", sys::cuMemsetD8Async(q, 1, 64, b));
                tell!(out, "cuEventRecord(fresh,b)", sys::cuEventRecord(fresh, b));
                tell!(out, "cuStreamWaitEvent(a,fresh,0)", sys::cuStreamWaitEvent(a, fresh, 0));
            }
        }
        let mut graph = ptr::null_mut();
        tell!(out, "cuStreamEndCapture(a,&g)", sys::cuStreamEndCapture(a, &mut graph));
        status(out, "a", a);
        status(out, "b", b);
        // After the capture: an event that was recorded in it.
        tell!(out, "cuStreamWaitEvent(b,inA,0)", sys::cuStreamWaitEvent(b, in_a, 0));
        tell!(out, "cuEventQuery(inA)", sys::cuEventQuery(in_a));
        tell!(out, "cuEventSynchronize(inA)", sys::cuEventSynchronize(in_a));
        tell!(out, "cuEventRecord(inA,b)", sys::cuEventRecord(in_a, b));
        tell!(out, "cuStreamSynchronize(b)", sys::cuStreamSynchronize(b));
        if !graph.is_null() {
            // SAFETY: the graph is alive.
            unsafe { sys::cuGraphDestroy(graph) }.result().unwrap();
        }
    }
    for event in [fresh, before, in_a] {
        // SAFETY: the event is alive.
        unsafe { sys::cuEventDestroy_v2(event) }.result().unwrap();
    }
    tell!(out, "cuStreamDestroy(a)", sys::cuStreamDestroy_v2(a));
    tell!(out, "cuStreamDestroy(b)", sys::cuStreamDestroy_v2(b));
}

#[test]
fn waits_in_and_out_of_a_capture_are_answered_as_a_real_driver_does() {
    let device = device();
    device.context.bind_to_thread().unwrap();
    let memory = [memory(), memory()];
    let mut out = String::new();
    for number in 0..6 {
        round(&mut out, number, memory);
    }
    for address in memory {
        // SAFETY: allocated above.
        unsafe { cudarc::driver::result::free_sync(address) }.unwrap();
    }
    for (number, (said, expected)) in out.lines().zip(TRANSCRIPT.lines()).enumerate() {
        assert_eq!(said, expected, "line {} of the transcript", number + 1);
    }
    assert_eq!(out.lines().count(), TRANSCRIPT.lines().count());
    device.close();
}
