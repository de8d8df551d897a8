//! A workspace: the scratch memory of one stream, and the violation record.

#![allow(unsafe_code)]

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, DriverError, result, sys};

use super::driver::{Current, failed, not_capturing, pending_error};
use super::plan::Plan;
use super::record::Record;
use super::retired::Mark;
use super::scratch::{Scratch, Uses};
use super::tables::Tables;
use super::{Checks, DeviceElement};
use crate::error::{Error, Result, fits_u32};

/// What a workspace's launches use, besides the operands of each call.
pub(super) struct Held {
    pub(super) tables: Arc<Tables>,
    pub(super) scratch: Scratch,
    /// Where something is checked.
    pub(super) record: Option<Record>,
    pub(super) stream: Arc<CudaStream>,
    /// Is recorded behind the last launch, when the workspace is dropped.
    event: CudaEvent,
}

/// The scratch memory of a plan for one stream, and the operators. It may be dropped while its work is in flight.
pub struct Workspace<T: DeviceElement> {
    pub(super) plan: Plan<T>,
    pub(super) max_instances: usize,
    /// Taken when the workspace is dropped.
    held: Option<Held>,
}

/// The handle that stands for another stream on each thread.
const PER_THREAD_STREAM: usize = 2;

impl<T: DeviceElement> Workspace<T> {
    pub(super) fn new(
        plan: Plan<T>,
        stream: Arc<CudaStream>,
        max_instances: usize,
        uses: Uses,
    ) -> Result<Self> {
        let batch = plan.batch().batch();
        if let Some(value) = batch.n_instances().filter(|&n| n > max_instances) {
            return Err(Error::TooManyInstances { value, bound: max_instances });
        }
        fits_u32("the number of instances", max_instances)?;
        let device = plan.batch().device();
        if !Arc::ptr_eq(stream.context(), device.context()) {
            let (value, bound) = (stream.context().ordinal(), device.context().ordinal());
            return Err(Error::WrongContext { operand: "the stream", value, bound });
        }
        if stream.cu_stream() as usize == PER_THREAD_STREAM {
            return Err(Error::PerThreadStream);
        }
        let _current = device.enter()?;
        not_capturing(&stream, "making a workspace")?;
        device.retired().sweep();
        let has_record = plan.checks() == Checks::On || plan.conv().checks_degrees();
        let held = Held {
            tables: plan.batch().tables().clone(),
            scratch: Scratch::new(&plan, uses, max_instances, &stream)?,
            record: if has_record { Some(Record::new(&stream)?) } else { None },
            event: device.context().new_event(None).map_err(|e| failed("making an event", e))?,
            stream,
        };
        // The first call may be one of the raw tier, on another stream.
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(held.stream.cu_stream()) }
            .map_err(|e| failed("waiting for the stream", e))?;
        Ok(Self { plan, max_instances, held: Some(held) })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan<T> {
        &self.plan
    }

    /// The stream that the operators queue their work on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.held().stream
    }

    /// The operators that it has scratch memory for.
    pub fn uses(&self) -> Uses {
        self.held().scratch.uses
    }

    /// The most instances that a call may have.
    pub fn max_instances(&self) -> usize {
        self.max_instances
    }

    /// Waits until all work on the stream has ended, and reports a wrong index that a checked kernel found since the last
    /// check, or a negative degree under symmetric normalization. The report is cleared: the workspace, its plan and its
    /// stream can be used on. Where there is nothing to check it only waits.
    ///
    /// # Errors
    /// [`Error::IndexOutOfBounds`] or [`Error::NegativeDegree`]: then all outputs of this workspace since the last clean
    /// check are unspecified. Rows that the wrong value was for are NaN; where the value is what tells the place of a row,
    /// that row is left as it was. The report is that of the first kernel on the stream that found something; which of several
    /// that it found depends on scheduling. [`Error::Capturing`] while the stream records a CUDA graph. [`Error::Driver`], also for
    /// errors of earlier calls of the context that nobody was told of.
    pub fn check(&mut self) -> Result<()> {
        let device = self.plan.batch().device();
        let _current = Current::enter(device.context())?;
        not_capturing(self.stream(), "check")?;
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(self.stream().cu_stream()) }
            .map_err(|e| failed("waiting for the stream", e))?;
        device.retired().sweep();
        let report = self.poll();
        if let (Err(_), Some(record)) = (&report, &self.held().record) {
            record.clear()?;
        }
        report.and_then(|()| pending_error(device.context(), "an earlier call of this context"))
    }

    /// What comes first in a call of the safe tier: an earlier report, the current context, and that the stream records no
    /// graph.
    pub(super) fn begin(&self, call: &'static str) -> Result<Current> {
        self.poll()?;
        let current = self.plan.batch().device().enter()?;
        not_capturing(self.stream(), call)?;
        Ok(current)
    }

    /// What comes behind the guards of the operands: gives them back where the call may queue its work. Where it may not, the
    /// operands' events stay as they are: nothing has used them, and events recorded in a capture could not be waited for any
    /// more.
    pub(super) fn guarded<G>(&self, call: &'static str, guards: G) -> Result<G> {
        let context = self.plan.batch().device().context();
        // A wait that failed is remembered by the context.
        let waited = context.check_err().map_err(waiting_failed);
        // Waiting for an operand that was written on a stream that records a graph takes this stream into the graph. What was used
        // outside cannot be waited for then: that is why the wait failed.
        let capturing = match context.is_managing_stream_synchronization() {
            true => not_capturing(self.stream(), call),
            false => Ok(()),
        };
        match capturing.and(waited) {
            Ok(()) => Ok(guards),
            Err(error) => {
                std::mem::forget(guards);
                Err(error)
            }
        }
    }

    /// A report that a kernel has published, without a call of the driver.
    pub(super) fn poll(&self) -> Result<()> {
        let record = self.held().record.as_ref();
        record.map_or(Ok(()), |record| record.published(self.plan.kernels()))
    }

    /// What the launches use.
    pub(super) fn held(&self) -> &Held {
        self.held.as_ref().expect("only `drop` takes it")
    }
}

/// Why an operand could not be waited for. Its events are alive, so an invalid one was recorded in a capture that has ended.
fn waiting_failed(error: DriverError) -> Error {
    let call = match error.0 {
        sys::CUresult::CUDA_ERROR_INVALID_VALUE => "waiting for an operand that a stream capture used last",
        _ => "waiting for an operand",
    };
    failed(call, error)
}

impl<T: DeviceElement> Drop for Workspace<T> {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        let device = self.plan.batch().device();
        match Current::enter(device.context()) {
            Ok(_current) => {
                let Held { tables, scratch, record, stream, event } = held;
                device.retired().push(Box::new((tables, scratch, record)), vec![Mark::new(event, stream)]);
            }
            Err(_) => std::mem::forget(held),
        }
    }
}

impl<T: DeviceElement> std::fmt::Debug for Workspace<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Workspace");
        shown.field("plan", &self.plan).field("max_instances", &self.max_instances).finish_non_exhaustive()
    }
}
