//! What was dropped while the device may still be using it, until an event behind its last use has passed.

#![allow(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaEvent, CudaStream, DriverError, result};

use super::driver::not_capturing;
use super::record::Record;
use super::scratch::Scratch;
use super::tables::Tables;

/// What a workspace's launches use, besides the operands of each call.
pub(super) struct Held {
    pub(super) tables: Arc<Tables>,
    pub(super) scratch: Scratch,
    /// Where something is checked.
    pub(super) record: Option<Record>,
    pub(super) stream: Arc<CudaStream>,
    /// Is recorded behind the last launch.
    pub(super) event: CudaEvent,
}

/// Something that was dropped.
struct Entry {
    held: Held,
    /// Whether its event is recorded. A stream that records a CUDA graph would put the event into the graph, so it has to
    /// wait for the end of that; launches of the workspace are not in graphs, so they lie before.
    recorded: bool,
}

// Not by the methods of `CudaEvent`: they fail with whatever error an earlier call has left in the context.
impl Entry {
    fn record(&mut self) {
        let Held { stream, event, .. } = &self.held;
        if !self.recorded && not_capturing(stream, "").is_ok() {
            // SAFETY: event and stream are alive, and of the same context.
            let recorded = unsafe { result::event::record(event.cu_event(), stream.cu_stream()) };
            self.recorded = recorded.is_ok();
        }
    }

    fn is_over(&self) -> bool {
        // SAFETY: the event is alive.
        self.recorded && unsafe { result::event::query(self.held.event.cu_event()) }.is_ok()
    }

    fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: the event is alive.
        unsafe { result::event::synchronize(self.held.event.cu_event()) }
    }
}

/// The list of one device. Its methods need the context to be current.
#[derive(Default)]
pub(super) struct Retired(Mutex<Vec<Entry>>);

impl Retired {
    /// Keeps `held` until the work that is on its stream now has ended.
    pub(super) fn push(&self, held: Held) {
        let mut entry = Entry { held, recorded: false };
        entry.record();
        self.lock().push(entry);
    }

    /// Lets go of what is no longer in use, without waiting.
    pub(super) fn sweep(&self) {
        let mut entries = self.lock();
        entries.iter_mut().for_each(Entry::record);
        let finished: Vec<_> = entries.extract_if(.., |entry| entry.is_over()).collect();
        // Freed with the lock released.
        drop(entries);
        drop(finished);
    }

    /// Waits until nothing is in use, and lets go of everything.
    pub(super) fn finish(&self) {
        for mut entry in self.lock().drain(..) {
            entry.record();
            if !entry.recorded || entry.wait().is_err() {
                // Nothing is known about the work on this stream: rather lose the memory than take it from a kernel.
                std::mem::forget(entry);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
