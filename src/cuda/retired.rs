//! What was dropped while the device may still be using it, until an event behind its last use has passed.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaEvent, CudaStream};

use super::buffer::Buffer;
use super::record::Record;
use super::tables::Tables;

/// What a workspace's launches use, besides the operands of each call.
pub(super) struct Held {
    pub(super) tables: Arc<Tables>,
    /// Sums of segments of long rows, in bytes; empty where there are none.
    pub(super) partials: Buffer<u8>,
    /// Where there are checks.
    pub(super) record: Option<Record>,
}

/// The list of one device.
#[derive(Default)]
pub(super) struct Retired(Mutex<Vec<(CudaEvent, Held)>>);

impl Retired {
    /// Keeps `held` until the work that is on `stream` now has ended. `event` is recorded for that.
    pub(super) fn push(&self, stream: &CudaStream, event: CudaEvent, held: Held) {
        if event.record(stream).is_ok() {
            self.lock().push((event, held));
        } else if stream.synchronize().is_err() {
            // Nothing is known about the work on this stream (it may be recording a graph): rather lose the memory than
            // take it from a kernel.
            std::mem::forget(held);
        }
    }

    /// Lets go of what is no longer in use, without waiting.
    pub(super) fn sweep(&self) {
        let finished: Vec<_> =
            self.lock().extract_if(.., |(event, _)| event.try_is_complete() == Ok(true)).collect();
        // Freed here, with the lock released.
        drop(finished);
    }

    /// Waits until nothing is in use, and lets go of everything.
    pub(super) fn finish(&self) {
        for (event, held) in self.lock().drain(..) {
            if event.synchronize().is_err() {
                std::mem::forget(held);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(CudaEvent, Held)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
