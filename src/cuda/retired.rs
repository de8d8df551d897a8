//! Memory that was dropped while the device may still use it. It is kept until events after its last uses
//! have passed.

#![allow(unsafe_code)]

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaEvent, CudaStream, DriverError, result, sys};

use super::driver::not_capturing;

/// An event after the last use on a stream.
pub(super) struct Mark {
    event: CudaEvent,
    stream: Arc<CudaStream>,
    /// Whether the event is recorded. A stream that records a CUDA graph would put the event into the graph,
    /// so it is recorded after the capture. That is early enough: launches of the safe tier are not in
    /// graphs, so they lie before it.
    is_recorded: bool,
}

// Not by the methods of `CudaEvent`: they fail with whatever error an earlier call has left in the context.
impl Mark {
    pub(super) fn new(event: CudaEvent, stream: Arc<CudaStream>) -> Self {
        Self { event, stream, is_recorded: false }
    }

    fn record(&mut self) {
        if !self.is_recorded && not_capturing(&self.stream, "").is_ok() {
            // SAFETY: event and stream are alive, and of the same context.
            let recorded = unsafe { result::event::record(self.event.cu_event(), self.stream.cu_stream()) };
            self.is_recorded = recorded.is_ok();
        }
    }

    /// Whether the work before the event has ended, and freeing memory on the stream would not become part of
    /// a graph.
    fn is_passed(&mut self) -> bool {
        // SAFETY: the event is alive.
        not_capturing(&self.stream, "").is_ok() && self.asked(|event| unsafe { result::event::query(event) })
    }

    /// Waits until the work before the event has ended. `false` if that is not known.
    fn wait(&mut self) -> bool {
        // SAFETY: the event is alive.
        let wait = |mark: &mut Self| mark.asked(|event| unsafe { result::event::synchronize(event) });
        wait(self) || {
            self.record();
            wait(self)
        }
    }

    /// Asks for the event, if it is recorded.
    fn asked(&mut self, ask: impl Fn(sys::CUevent) -> Result<(), DriverError>) -> bool {
        if !self.is_recorded {
            return false;
        }
        let answer = ask(self.event.cu_event());
        // Another thread may have begun a capture just before the event was recorded. Such an event is
        // invalid once the capture has ended, and has to be recorded again.
        self.is_recorded = answer != Err(DriverError(sys::CUresult::CUDA_ERROR_INVALID_VALUE));
        answer.is_ok()
    }
}

/// Something that was dropped.
struct Entry {
    _kept: Box<dyn Any + Send>,
    marks: Vec<Mark>,
}

/// The list of one device. Its methods need the context to be current.
#[derive(Default)]
pub(super) struct Retired(Mutex<Vec<Entry>>);

impl Retired {
    /// Keeps something until the work that is now on the streams of `marks` has ended.
    pub(super) fn push(&self, kept: Box<dyn Any + Send>, mut marks: Vec<Mark>) {
        marks.iter_mut().for_each(Mark::record);
        self.lock().push(Entry { _kept: kept, marks });
    }

    /// Lets go of what is no longer in use, without waiting.
    pub(super) fn sweep(&self) {
        let mut entries = self.lock();
        entries.iter_mut().flat_map(|entry| &mut entry.marks).for_each(Mark::record);
        let finished: Vec<_> =
            entries.extract_if(.., |entry| entry.marks.iter_mut().all(Mark::is_passed)).collect();
        // Freed with the lock released.
        drop(entries);
        drop(finished);
    }

    /// Waits until nothing is in use, and lets go of everything.
    pub(super) fn finish(&self) {
        for mut entry in self.lock().drain(..) {
            entry.marks.iter_mut().for_each(Mark::record);
            if !entry.marks.iter_mut().all(Mark::wait) {
                // Nothing is known about the work on this stream: rather lose the memory than take it from a
                // kernel.
                std::mem::forget(entry);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
