//! Events.

use std::ffi::c_uint;

use crate::driver::entry::{Out, exports, release_object, with_current, with_object, with_stream};
use crate::driver::event::Event;
use crate::driver::handle::{Handle, Kind};
use crate::driver::status::Status;

/// The flags of an event: blocking synchronisation, no timing, between processes.
const FLAGS: c_uint = 7;
const NO_TIMING: c_uint = 2;
const BETWEEN_PROCESSES: c_uint = 4;

exports! {
    /// Makes an event.
    fn cuEventCreate(event: Out<Handle>, flags: c_uint) {
        with_current(|state| {
            let timed = flags & NO_TIMING == 0;
            if flags & !FLAGS != 0 || (flags & BETWEEN_PROCESSES != 0 && timed) {
                return Err(Status::INVALID_VALUE);
            }
            state.create()?;
            let serial = state.new_serial();
            state.events.insert(serial, Event::new(timed));
            event.set(state.handle(Kind::Event, serial))
        })
    }

    /// Marks what a stream of the same context has been given so far.
    fn cuEventRecord(event: Handle, stream: Handle) {
        let (ordinal, serial) = event.open(Kind::Event)?;
        with_stream(stream, |state, stream| {
            if state.ordinal != ordinal {
                return Err(Status::INVALID_HANDLE);
            }
            state.record_event(serial, stream)
        })
    }

    /// Whether an event is complete.
    fn cuEventQuery(event: Handle) {
        with_object(event, Kind::Event, |state, event| state.query_event(event))
    }

    /// Waits for an event.
    fn cuEventSynchronize(event: Handle) {
        with_object(event, Kind::Event, |state, event| state.finish_event(event))
    }

    /// Destroys an event; streams that wait for it still do.
    fn cuEventDestroy_v2(event: Handle) {
        release_object(event, Kind::Event, |state, event| {
            state.events.remove(&event).map(drop).ok_or(Status::INVALID_HANDLE)
        })
    }

    /// The milliseconds between two events.
    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) {
        let (ordinal, start) = start.open(Kind::Event)?;
        with_object(end, Kind::Event, |state, end| {
            if state.ordinal != ordinal {
                return Err(Status::INVALID_HANDLE);
            }
            milliseconds.set(state.elapsed(start, end)?)
        })
    }
}
