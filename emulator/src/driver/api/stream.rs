//! Streams and their capture.

use std::ffi::{c_int, c_uint, c_void};

use super::context::{PRIORITIES, primary};
use crate::driver::capture::{CaptureStatus, Mode};
use crate::driver::entry::{Out, exports, release_in_stream, with_current, with_object, with_stream};
use crate::driver::handle::{Handle, Kind};
use crate::driver::operation::{HostFunction, Operation};
use crate::driver::status::{Outcome, Status};
use crate::driver::stream::{Stream, default_stream};

const NON_BLOCKING: c_uint = 1;

fn create(stream: Out<Handle>, flags: c_uint, priority: c_int) -> Outcome {
    with_current(|state| {
        if flags & !NON_BLOCKING != 0 {
            return Err(Status::INVALID_VALUE);
        }
        state.create()?;
        let serial = state.new_serial();
        let priority = priority.clamp(PRIORITIES.1, PRIORITIES.0);
        state.streams.insert(serial, Stream::new(flags & NON_BLOCKING == 0, priority));
        stream.set(state.handle(Kind::Stream, serial))
    })
}

exports! {
    /// Makes a stream.
    fn cuStreamCreate(stream: Out<Handle>, flags: c_uint) {
        create(stream, flags, PRIORITIES.0)
    }

    /// Makes a stream with a priority, which changes nothing here.
    fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: c_uint, priority: c_int) {
        create(stream, flags, priority)
    }

    /// Destroys a stream; what it was given still runs.
    fn cuStreamDestroy_v2(stream: Handle) {
        if default_stream(stream).is_some() {
            return Err(Status::INVALID_HANDLE);
        }
        release_in_stream(stream, |state, stream| state.destroy_stream(stream))
    }

    /// Waits for a stream.
    fn cuStreamSynchronize(stream: Handle) {
        with_stream(stream, |state, stream| {
            state.refuse_if_captured(stream)?;
            state.refuse_unsafe_call()?;
            state.finish(stream)
        })
    }

    /// Whether a stream is idle.
    fn cuStreamQuery(stream: Handle) {
        with_stream(stream, |state, stream| {
            state.refuse_if_captured(stream)?;
            state.refuse_unsafe_call()?;
            state.order_with_default(stream)?;
            let end = state.end_of(stream)?;
            state.poll(end)
        })
    }

    /// Makes a stream wait for an event. One of another device is waited for now: devices run one at a time.
    fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint) {
        if flags & !1 != 0 {
            return Err(Status::INVALID_VALUE);
        }
        let (ordinal, serial) = event.open(Kind::Event)?;
        let same = with_stream(stream, |state, stream| {
            let same = state.ordinal == ordinal;
            if same {
                state.wait_event(stream, serial)?;
            }
            Ok(same)
        })?;
        if same { Ok(()) } else { with_object(event, Kind::Event, |state, event| state.finish_event(event)) }
    }

    /// The context of a stream.
    fn cuStreamGetCtx(stream: Handle, context: Out<Handle>) {
        with_stream(stream, |state, _| context.set(primary(state.ordinal)))
    }

    /// The flags of a stream.
    fn cuStreamGetFlags(stream: Handle, flags: Out<c_uint>) {
        with_stream(stream, |state, stream| {
            let blocking = state.stream(stream)?.blocking;
            flags.set(if blocking { 0 } else { NON_BLOCKING })
        })
    }

    /// The priority of a stream.
    fn cuStreamGetPriority(stream: Handle, priority: Out<c_int>) {
        with_stream(stream, |state, stream| priority.set(state.stream(stream)?.priority))
    }

    /// Calls the host when the stream gets there.
    fn cuLaunchHostFunc(
        stream: Handle,
        function: Option<unsafe extern "C" fn(*mut c_void)>,
        data: *mut c_void,
    ) {
        let function = function.ok_or(Status::INVALID_VALUE)?;
        let host = HostFunction { function, data };
        with_stream(stream, |state, stream| state.submit(stream, Operation::Host(host)))
    }

    /// Begins to capture a stream.
    fn cuStreamBeginCapture_v2(stream: Handle, mode: c_uint) {
        let mode = match mode {
            0 => Mode::Global,
            1 => Mode::ThreadLocal,
            2 => Mode::Relaxed,
            _ => return Err(Status::INVALID_VALUE),
        };
        with_stream(stream, |state, stream| state.begin_capture(stream, mode))
    }

    /// Ends a capture and gives its graph; null after an error.
    fn cuStreamEndCapture(stream: Handle, graph: Out<Handle>) {
        graph.set(Handle::NULL)?;
        with_stream(stream, |state, stream| {
            let captured = state.end_capture(stream)?;
            let serial = state.add_graph(captured);
            graph.set(state.handle(Kind::Graph, serial))
        })
    }

    /// Whether a stream is being captured.
    fn cuStreamIsCapturing(stream: Handle, status: Out<CaptureStatus>) {
        with_stream(stream, |state, stream| status.set(state.capture_status(stream)?))
    }
}
