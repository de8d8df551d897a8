//! Captures of other streams, and what they leave behind: calls of the safe tier stay out of them, and leave
//! nothing in them.
//!
//! `cudarc` orders streams by two events of each slice. An event that was recorded in a capture is an invalid
//! handle once that has ended, so a slice that a capture used last cannot be waited for any more.

use std::sync::Arc;

use hyperscatter::Error;
use hyperscatter::cuda::cudarc::driver::sys::{
    CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode, CUstreamCaptureStatus,
};
use hyperscatter::cuda::cudarc::driver::{CudaContext, CudaGraph, CudaSlice, CudaStream, DriverError};
use hyperscatter::cuda::{Checks, Device, Orientation, Plan, Table};

use super::gpu::{Gpu, Mode, under_tool};
use super::operators::{
    Buffer, Case, F, Operates as _, Operator, Part, Slices, WindowKind, pairs, symmetric,
};

const COPIES: usize = 2;
const RELAXED: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
const FLAGS: CUgraphInstantiate_flags = CUgraphInstantiate_flags(0);

/// Two copies of the pairs of four, and operands on the default stream.
fn case(device: &Device) -> (Case<f32>, Slices<f32>) {
    // Of no other test, whose streams would make events be recorded from the start.
    settle(device, []);
    let case = Case::new(device, (&pairs(), COPIES), symmetric(), Checks::Off, WindowKind::Shared);
    let slices = Slices::upload(&device.context().default_stream(), &case.host);
    device.context().synchronize().unwrap();
    (case, slices)
}

/// Lets go of what waits for its end, so that no stream of the test is left and slices may go: with a single
/// stream, `cudarc` does not wait for their events.
fn settle(device: &Device, streams: impl IntoIterator<Item = Arc<CudaStream>>) {
    device.context().synchronize().unwrap();
    for _ in 0..2 {
        drop(device.upload(&pairs()).unwrap());
        device.context().synchronize().unwrap();
    }
    drop(streams.into_iter().collect::<Vec<_>>());
    assert!(!device.context().is_managing_stream_synchronization(), "a stream is left");
}

/// Writes a slice in a capture of a stream, which is ended. No earlier use of it lies outside, by its events.
fn write_in_a_capture(stream: &Arc<CudaStream>, weights: &mut CudaSlice<f32>) -> CudaGraph {
    renew_events(weights).unwrap();
    stream.context().synchronize().unwrap();
    stream.begin_capture(RELAXED).unwrap();
    let written = stream.memset_zeros(weights);
    let graph = stream.end_capture(FLAGS);
    written.unwrap();
    graph.unwrap().unwrap()
}

/// Gives a slice new events, for the same memory, and tells how the last wait for the old ones went.
fn renew_events(slice: &mut CudaSlice<f32>) -> Result<(), DriverError> {
    let (stream, len) = (slice.stream().clone(), slice.len());
    let address = std::mem::replace(slice, stream.alloc_zeros(1).unwrap()).leak();
    let waited = stream.context().check_err();
    // SAFETY: the memory is that of the slice, which was given up.
    *slice = unsafe { stream.upgrade_device_ptr(address, len) };
    waited
}

/// The operators that read the weights.
fn with_weights() -> impl Iterator<Item = Operator> {
    Operator::ALL.iter().copied().filter(|call| call.has_weights())
}

/// A stream that waits for work of a capturing stream becomes part of its graph: the operand's guard does
/// that.
#[test]
fn calls_that_an_operand_would_take_into_a_graph_are_refused_and_leave_nothing_in_it() {
    for call in with_weights() {
        let gpu = Gpu::take();
        let context = gpu.device().context();
        // Made before there are streams, so that no event of theirs lies outside the graph.
        let (case, mut slices) = case(gpu.device());
        let [own, other] = [context.new_stream().unwrap(), context.new_stream().unwrap()];
        let mut workspace = case.workspace(&own);
        context.synchronize().unwrap();
        other.begin_capture(RELAXED).unwrap();
        let captured = other.memset_zeros(&mut slices.weights);
        let called = slices.call(call, &mut workspace, case.how());
        let joined = other.join(&own);
        let graph = other.end_capture(FLAGS);
        assert_eq!(called, Err(Error::Capturing { call: call.name() }));
        assert_eq!((captured, joined), (Ok(()), Ok(())));
        // Nothing of the workspace is in the graph.
        let graph = graph.unwrap().unwrap();
        graph.launch().unwrap();
        other.synchronize().unwrap();
        // Nor of the other operands: only the one that the capture wrote has to be made anew.
        let fresh = context.default_stream().clone_htod(&case.host.weights).unwrap();
        let captured = std::mem::replace(&mut slices.weights, fresh);
        slices.call(call, &mut workspace, case.how()).unwrap();
        workspace.check().unwrap();
        drop((workspace, case, graph));
        settle(gpu.device(), [own, other]);
        drop((slices, captured));
        assert_eq!(context.check_err(), Ok(()), "{call:?}");
    }
}

/// A capture takes nothing in that was used outside: the other operands' waits spoil it. The call says why
/// all the same, and nothing is left of it.
#[test]
fn calls_that_would_take_operands_from_outside_into_a_graph_are_refused_and_leave_nothing_in_it() {
    if under_tool("calls that the driver refuses count as errors") {
        return;
    }
    let gpu = Gpu::take();
    let context = gpu.device().context();
    let (case, mut slices) = case(gpu.device());
    let [own, other] = [context.new_stream().unwrap(), context.new_stream().unwrap()];
    let mut workspace = case.workspace(&own);
    // From now on the events of all operands are recorded, outside.
    for &call in Operator::ALL {
        slices.call(call, &mut workspace, case.how()).unwrap();
    }
    workspace.check().unwrap();
    for call in with_weights() {
        let before = slices.results(&own);
        other.begin_capture(RELAXED).unwrap();
        let mut weights = own.clone_htod(&case.host.weights).unwrap();
        // Its first write is not in the capture, so its event must not be waited for there.
        renew_events(&mut weights).unwrap();
        other.memset_zeros(&mut weights).unwrap();
        let weights = std::mem::replace(&mut slices.weights, weights);
        let called = slices.call(call, &mut workspace, case.how());
        let captured = std::mem::replace(&mut slices.weights, weights);
        drop(other.end_capture(FLAGS));
        for stream in [&own, &other] {
            assert_eq!(stream.capture_status(), Ok(CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE));
        }
        assert_eq!(called, Err(Error::Capturing { call: call.name() }), "{call:?}");
        assert_eq!(context.check_err(), Ok(()), "{call:?}");
        // Of the slice that the capture wrote, `cudarc` remembers that it could not be waited for.
        drop(captured);
        assert_eq!(context.check_err(), Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE)));
        assert!(slices.results(&own) == before, "{call:?} has written something");
        slices.call(call, &mut workspace, case.how()).unwrap();
    }
    workspace.check().unwrap();
}

/// An operand that a capture used last cannot be waited for: calls say so, each, and everything else goes on.
/// Events of its own make it an operand again.
#[test]
fn operands_that_a_capture_used_last_are_refused_until_they_are_made_anew() {
    if under_tool("calls that the driver refuses count as errors") {
        return;
    }
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let context = gpu.device().context();
    let (mut case, mut slices) = case(gpu.device());
    let [own, other] = [context.new_stream().unwrap(), context.new_stream().unwrap()];
    let mut workspace = case.workspace(&own);
    for &call in Operator::ALL {
        slices.call(call, &mut workspace, case.how()).unwrap();
    }
    let expected = slices.results(&own);
    // An operand that is read, and one that is written.
    for part in [Part::Weights, Part::GradWeights] {
        let Buffer::Sums(slice) = slices.part(part) else { unreachable!() };
        let graph = write_in_a_capture(&other, slice);
        for &call in Operator::ALL {
            let is_used = call.operands().iter().any(|operand| operand.part == part);
            for _ in 0..2 {
                let called = slices.call(call, &mut workspace, case.how());
                if is_used {
                    let Err(Error::Driver { call: what, code: 1, .. }) = called else {
                        panic!("{call:?}: {called:?}")
                    };
                    assert_eq!(what, "waiting for an operand that a stream capture used last");
                } else {
                    called.unwrap();
                }
                // No other call hears of it.
                assert_eq!(context.check_err(), Ok(()), "{call:?}");
                workspace.check().unwrap();
                drop(gpu.device().upload(&pairs()).unwrap());
            }
        }
        // Replays go on as they please; then the memory gets events of its own.
        graph.launch().unwrap();
        other.synchronize().unwrap();
        let Buffer::Sums(slice) = slices.part(part) else { unreachable!() };
        assert_eq!(renew_events(slice), Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE)));
        slices.write(&own, &mut case.host);
        for &call in Operator::ALL {
            slices.call(call, &mut workspace, case.how()).unwrap();
        }
        workspace.check().unwrap();
        assert!(slices.results(&own) == expected, "{part:?}");
    }
    // Dropped as it is, the context remembers the failed wait, and the next call tells that it is not its
    // own.
    let graph = write_in_a_capture(&other, &mut slices.weights);
    let fresh = own.clone_htod(&case.host.weights).unwrap();
    drop(std::mem::replace(&mut slices.weights, fresh));
    let called = slices.call(Operator::Conv, &mut workspace, case.how());
    let Err(Error::Driver { call: "an earlier call of this context", code: 1, .. }) = called else {
        panic!("{called:?}")
    };
    slices.call(Operator::Conv, &mut workspace, case.how()).unwrap();
    workspace.check().unwrap();
    drop(graph);
}

/// Where a call is refused for one operand, and another could not be waited for, the next call reports that,
/// once.
#[test]
fn a_failed_wait_is_reported_after_an_operand_of_another_context() {
    if under_tool("calls that the driver refuses count as errors") {
        return;
    }
    let gpu = Gpu::take();
    let context = gpu.device().context();
    let (case, mut slices) = case(gpu.device());
    let [own, other] = [context.new_stream().unwrap(), context.new_stream().unwrap()];
    let mut workspace = case.workspace(&own);
    // Of the same device it is the same primary context, but held by another `Arc`.
    let foreign = CudaContext::new(gpu.ordinal()).unwrap();
    let mut foreign = Slices::upload(&foreign.default_stream(), &case.host);
    let graph = write_in_a_capture(&other, &mut slices.weights);
    let (value, bound) = (gpu.ordinal(), gpu.ordinal());
    for call in with_weights() {
        // Outputs are bound after the weights.
        let operand = call.operands().into_iter().rfind(|operand| operand.is_output).unwrap();
        slices.swap(operand.part, &mut foreign);
        let refused = slices.call(call, &mut workspace, case.how());
        slices.swap(operand.part, &mut foreign);
        assert_eq!(refused, Err(Error::WrongContext { operand: operand.name, value, bound }), "{call:?}");
        let Err(Error::Driver { call: "an earlier call of this context", code: 1, .. }) = workspace.check()
        else {
            panic!("{call:?}: the failed wait is lost")
        };
        workspace.check().unwrap();
    }
    assert_eq!(renew_events(&mut slices.weights), Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE)));
    drop(graph);
}

/// A workspace is not made, and not let go of too early, while its stream records a graph.
#[test]
fn a_workspace_is_neither_made_nor_freed_while_its_stream_captures() {
    let gpu = Gpu::take();
    let stream = gpu.device().context().new_stream().unwrap();
    let batch = gpu.device().upload(&pairs()).unwrap();
    let plan = Plan::<f32>::builder(&batch, F).checks(Checks::On).build().unwrap();
    let workspace = plan.workspace(&stream, 2).unwrap();
    stream.synchronize().unwrap();
    stream.begin_capture(RELAXED).unwrap();
    let refused = plan.workspace(&stream, 2).map(drop);
    drop(workspace);
    // Looks at what was dropped, and must not disturb the capture.
    let uploaded = gpu.device().upload(&pairs()).map(drop);
    let graph = stream.end_capture(FLAGS).map(drop);
    assert_eq!(refused, Err(Error::Capturing { call: "making a workspace" }));
    assert_eq!((uploaded, graph), (Ok(()), Ok(())));
    // Once the capture is over, what was dropped goes too.
    drop(plan);
    for _ in 0..2 {
        drop(gpu.device().upload(&pairs()).unwrap());
        stream.synchronize().unwrap();
    }
    let mut batch = batch;
    batch.overwrite_table(Table::Indices(Orientation::ByEdge), 0, &[1]).unwrap();
}

/// What was dropped before a capture began is not let go of in it: the stream that its memory is freed on
/// records a graph.
#[test]
fn memory_that_is_out_of_use_is_not_freed_into_a_graph() {
    let gpu = Gpu::take();
    let stream = gpu.device().context().new_stream().unwrap();
    let batch = gpu.device().upload(&pairs()).unwrap();
    let plan = Plan::<f32>::builder(&batch, F).checks(Checks::On).build().unwrap();
    drop(plan.workspace(&stream, COPIES).unwrap());
    gpu.device().context().synchronize().unwrap();
    stream.begin_capture(RELAXED).unwrap();
    let uploaded = [(); 3].map(|()| gpu.device().upload(&pairs()).map(drop));
    let status = stream.capture_status();
    let graph = stream.end_capture(FLAGS);
    assert_eq!(uploaded, [(); 3].map(Ok));
    assert_eq!(status, Ok(CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE));
    drop(graph.unwrap());
    assert_eq!(gpu.device().context().check_err(), Ok(()));
    // Once the capture is over, it goes.
    if let Some(control) = gpu.control("counting what lives") {
        let before = control.live().len();
        settle(gpu.device(), [stream]);
        assert!(control.live().len() < before, "{:?}", control.live());
    }
}
