//! Events: recorded in streams, and waited for.

use std::ffi::c_uint;

use super::code::{self, Code};
use super::streams::{POLLS, stream_id};
use super::{driver, put};
use crate::handle::{Id, Kind, pack, unpack};
use crate::queue::Operation;
use crate::state::{CURRENT, Event, State, current};

fn event_id(state: &State, handle: usize) -> Result<Id, Code> {
    let (_, id) = unpack(Kind::Event, handle)?;
    state.events.get(&id).filter(|e| !e.destroyed).map(|_| id).ok_or(code::INVALID_HANDLE)
}

impl State {
    /// Makes a stream wait for an event. A stream that waits for a captured event joins its graph.
    pub(super) fn wait(&mut self, stream: Id, event: Id) -> Result<(), Code> {
        let known = self.events.get(&event).filter(|e| !e.destroyed).ok_or(code::INVALID_HANDLE)?;
        let (count, captured) = (known.recorded, known.capture);
        let own = self.streams[&stream].capture;
        match (captured, own) {
            (Some(graph), None) => {
                self.streams.get_mut(&stream).expect("the caller knows it").capture = Some(graph);
                Ok(())
            }
            (Some(graph), Some(own)) if graph == own => Ok(()),
            (None, None) => match count {
                0 => Ok(()),
                _ => self.enqueue(stream, Operation::Wait { event, count }),
            },
            // An event that was never recorded is nothing to wait for.
            (None, Some(_)) if count == 0 => Ok(()),
            (_, Some(own)) => {
                if let Some(capture) = self.captures.get_mut(&own) {
                    capture.invalid = true;
                }
                Err(code::STREAM_CAPTURE_ISOLATION)
            }
        }
    }

    /// An event whose last record is not in a graph.
    fn not_captured(&mut self, event: Id) -> Result<(), Code> {
        let Some(capture) = self.events[&event].capture else { return Ok(()) };
        match self.captures.get_mut(&capture) {
            Some(capture) => {
                capture.invalid = true;
                Err(code::CAPTURED_EVENT)
            }
            None => Err(code::CAPTURED_EVENT),
        }
    }
}

driver! {
    fn cuEventCreate(to: *mut usize, flags: c_uint) {
        let ordinal = CURRENT.get().ok_or(code::INVALID_CONTEXT)?;
        let mut state = current()?.lock();
        state.create()?;
        let id = state.new_id();
        // 2: without timing.
        let timed = flags & 2 == 0;
        let event =
            Event { timed, recorded: 0, passed: 0, time: None, capture: None, destroyed: false, polls: 0 };
        state.events.insert(id, event);
        put(to, pack(Kind::Event, ordinal, id))
    }

    fn cuEventDestroy_v2(event: usize) {
        let mut state = current()?.lock();
        let id = event_id(&state, event)?;
        // Its records in queues still count.
        state.events.get_mut(&id).expect("found above").destroyed = true;
        Ok(())
    }

    fn cuEventRecord(event: usize, stream: usize) {
        let mut state = current()?.lock();
        let id = event_id(&state, event)?;
        let stream = stream_id(&mut state, stream)?;
        state.sticky()?;
        let capture = state.streams[&stream].capture;
        let known = state.events.get_mut(&id).expect("found above");
        known.capture = capture;
        if capture.is_some() {
            return Ok(());
        }
        known.recorded += 1;
        known.polls = 0;
        let count = known.recorded;
        state.enqueue(stream, Operation::Record { event: id, count })
    }

    fn cuEventQuery(event: usize) {
        let mut state = current()?.lock();
        let id = event_id(&state, event)?;
        state.not_captured(id)?;
        state.sticky()?;
        let known = state.events.get_mut(&id).expect("found above");
        if known.passed >= known.recorded {
            return Ok(());
        }
        known.polls += 1;
        let (polls, count) = (known.polls, known.recorded);
        if polls > POLLS {
            state.run_event(id, count);
        }
        Err(code::NOT_READY)
    }

    fn cuEventSynchronize(event: usize) {
        let mut state = current()?.lock();
        let id = event_id(&state, event)?;
        state.not_captured(id)?;
        let (passed, count) = (state.events[&id].passed, state.events[&id].recorded);
        if passed < count {
            state.run_event(id, count);
        }
        state.sticky()
    }

    fn cuEventElapsedTime(milliseconds: *mut f32, start: usize, end: usize) {
        let state = current()?.lock();
        let time = |handle| {
            let event = &state.events[&event_id(&state, handle)?];
            match event.time {
                _ if !event.timed || event.recorded == 0 => Err(code::INVALID_HANDLE),
                _ if event.passed < event.recorded => Err(code::NOT_READY),
                Some(time) => Ok(time),
                None => Err(code::NOT_READY),
            }
        };
        let (start, end) = (time(start)?, time(end)?);
        put(milliseconds, end.saturating_duration_since(start).as_secs_f32() * 1e3)
    }
}
