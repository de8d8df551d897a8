//! What was dropped while the device may still be using it, until events behind its last uses have passed.

#![allow(unsafe_code)]

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaEvent, CudaStream, DriverError, result, sys};

use super::driver::not_capturing;

/// An event behind the last use on a stream.
pub(super) struct Mark {
    event: CudaEvent,
    stream: Arc<CudaStream>,
    /// Whether the event is recorded. A stream that records a CUDA graph would put it into the graph, so it has to wait for the
    /// end of that; launches of the safe tier are not in graphs, so they lie before.
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

    /// Whether the work before the event has ended, and nothing that is let go on the stream would end up in a graph.
    fn is_passed(&mut self) -> bool {
        if !self.is_recorded || not_capturing(&self.stream, "").is_err() {
            return false;
        }
        // SAFETY: the event is alive.
        match unsafe { result::event::query(self.event.cu_event()) } {
            Ok(()) => true,
            // It may have been recorded in a capture that another thread began at that moment: from the capture's end on it stands
            // for nothing. It is recorded again.
            Err(DriverError(sys::CUresult::CUDA_ERROR_INVALID_VALUE)) => {
                self.is_recorded = false;
                false
            }
            Err(_) => false,
        }
    }

    fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: the event is alive.
        unsafe { result::event::synchronize(self.event.cu_event()) }
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
    /// Keeps something until the work that is on the streams of its uses now has ended.
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
            if !entry.marks.iter().all(|mark| mark.is_recorded && mark.wait().is_ok()) {
                // Nothing is known about the work on this stream: rather lose the memory than take it from a kernel.
                std::mem::forget(entry);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
