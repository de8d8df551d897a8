//! Streams, and what waits for them.

use std::ffi::{c_int, c_uint};

use super::code::{self, Code};
use super::{driver, put};
use crate::handle::{Id, Kind, pack, unpack};
use crate::state::{CURRENT, State, Stream, current};

/// Polls after which a poll itself lets the work go on, so that loops that poll come to an end.
pub(super) const POLLS: u32 = 3;

/// The stream of a handle. The state is that of the current context's device.
pub(crate) fn stream_id(state: &mut State, handle: usize) -> Result<Id, Code> {
    let id = match handle {
        0 | 1 => 0,
        2 => 2,
        _ => {
            let (ordinal, id) = unpack(Kind::Stream, handle)?;
            if CURRENT.get() != Some(ordinal) {
                return Err(code::INVALID_CONTEXT);
            }
            id
        }
    };
    state.streams.get(&id).filter(|s| !s.destroyed).map(|_| id).ok_or(code::INVALID_HANDLE)
}

fn create(to: *mut usize, flags: c_uint) -> Result<(), Code> {
    let ordinal = CURRENT.get().ok_or(code::INVALID_CONTEXT)?;
    let mut state = current()?.lock();
    state.create()?;
    let id = state.new_id();
    // 1: non-blocking.
    state.streams.insert(id, Stream { blocking: flags & 1 == 0, ..Stream::default() });
    put(to, pack(Kind::Stream, ordinal, id))
}

driver! {
    fn cuStreamCreate(to: *mut usize, flags: c_uint) {
        create(to, flags)
    }

    fn cuStreamCreateWithPriority(to: *mut usize, flags: c_uint, _priority: c_int) {
        create(to, flags)
    }

    fn cuStreamDestroy_v2(stream: usize) {
        let mut state = current()?.lock();
        let id = stream_id(&mut state, stream)?;
        if id < 16 {
            return Err(code::INVALID_HANDLE);
        }
        let known = state.streams.get_mut(&id).expect("found above");
        known.destroyed = true;
        if known.queue.is_empty() {
            state.streams.remove(&id);
        }
        Ok(())
    }

    fn cuStreamSynchronize(stream: usize) {
        let mut state = current()?.lock();
        let id = stream_id(&mut state, stream)?;
        state.not_capturing(id)?;
        match id {
            0 => state.run_default(),
            _ => state.run_stream(id, None),
        }
        state.sticky()
    }

    fn cuStreamQuery(stream: usize) {
        let mut state = current()?.lock();
        let id = stream_id(&mut state, stream)?;
        state.not_capturing(id)?;
        state.sticky()?;
        let known = state.streams.get_mut(&id).expect("found above");
        if known.queue.is_empty() {
            known.polls = 0;
            return Ok(());
        }
        known.polls += 1;
        if known.polls > POLLS {
            state.run_stream(id, None);
        }
        Err(code::NOT_READY)
    }

    fn cuStreamWaitEvent(stream: usize, event: usize, _flags: c_uint) {
        let mut state = current()?.lock();
        let id = stream_id(&mut state, stream)?;
        state.sticky()?;
        let (_, event) = unpack(Kind::Event, event)?;
        state.wait(id, event)
    }

    fn cuStreamIsCapturing(stream: usize, status: *mut c_int) {
        let mut state = current()?.lock();
        let id = stream_id(&mut state, stream)?;
        let capture = state.streams[&id].capture;
        let invalid = capture.is_some_and(|c| state.captures.get(&c).is_none_or(|c| c.invalid));
        put(status, if capture.is_none() { 0 } else { 1 + c_int::from(invalid) })
    }
}
