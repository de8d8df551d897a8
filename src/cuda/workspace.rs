//! A workspace: the scratch memory of one stream, and the violation record.

#![allow(unsafe_code)]

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, result, sys};

use super::buffer::Buffer;
use super::driver::{Current, failed};
use super::plan::Plan;
use super::record::Record;
use super::retired::Held;
use super::tables::Orientation;
use super::{Checks, DeviceElement};
use crate::element::Element;
use crate::error::{Error, Result, fits_u32};

/// The scratch memory of a plan for one stream, and the operators. It may be dropped while its work is in flight.
pub struct Workspace<T: DeviceElement> {
    pub(super) plan: Plan<T>,
    pub(super) stream: Arc<CudaStream>,
    pub(super) max_instances: usize,
    /// Taken when the workspace is dropped.
    held: Option<(CudaEvent, Held)>,
}

impl<T: DeviceElement> Workspace<T> {
    pub(super) fn new(plan: Plan<T>, stream: Arc<CudaStream>, max_instances: usize) -> Result<Self> {
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
        let _current = device.enter()?;
        device.retired().sweep();
        let tables = plan.batch().tables();
        let segments = Orientation::ALL.map(|o| tables.side(o).items(batch, max_instances).partial);
        let row_bytes = plan.features() as u128 * size_of::<<T as Element>::Acc>() as u128;
        let bytes = u128::from(segments[0].max(segments[1])) * row_bytes;
        let what = "the sums of the segments of long rows";
        let bytes = usize::try_from(bytes).map_err(|_| Error::TooLarge {
            what,
            value: bytes,
            bound: usize::MAX as u128,
        })?;
        let held = Held {
            tables: tables.clone(),
            partials: Buffer::new(what, &stream, bytes)?,
            record: match plan.checks() {
                Checks::On => Some(Record::new(&stream)?),
                Checks::Off => None,
            },
        };
        let event = device.context().new_event(None).map_err(|e| failed("making an event", e))?;
        drop(_current);
        Ok(Self { plan, stream, max_instances, held: Some((event, held)) })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan<T> {
        &self.plan
    }

    /// The stream that the operators queue their work on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The most instances that a call may have.
    pub fn max_instances(&self) -> usize {
        self.max_instances
    }

    /// Waits until all work on the stream has ended, and reports a wrong index that a checked kernel found since the last
    /// check. The report is cleared: the workspace, its plan and its stream can be used on. Without checks it only waits.
    ///
    /// # Errors
    /// [`Error::IndexOutOfBounds`]: then all outputs of this workspace since the last clean check are unspecified, and the
    /// rows that the index was for are NaN. [`Error::Capturing`] while the stream records a CUDA graph.
    /// [`Error::Driver`].
    pub fn check(&mut self) -> Result<()> {
        let _current = self.plan.batch().device().enter()?;
        self.not_capturing("check")?;
        self.stream.synchronize().map_err(|e| failed("waiting for the stream", e))?;
        let report = self.poll();
        if let (Err(_), Some(record)) = (&report, &self.held().record) {
            record.clear()?;
        }
        report
    }

    /// A report that a kernel has published, without a call of the driver.
    pub(super) fn poll(&self) -> Result<()> {
        let record = self.held().record.as_ref();
        record.map_or(Ok(()), |record| record.published(self.plan.kernels().names))
    }

    /// That the stream records no CUDA graph. The context must be current.
    pub(super) fn not_capturing(&self, call: &'static str) -> Result<()> {
        // SAFETY: the stream is alive.
        let status = unsafe { result::stream::is_capturing(self.stream.cu_stream()) };
        let status = status.map_err(|e| failed("reading the capture status", e))?;
        match status {
            sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => Ok(()),
            _ => Err(Error::Capturing { call }),
        }
    }

    /// What the launches use.
    pub(super) fn held(&self) -> &Held {
        let (_, held) = self.held.as_ref().expect("only `drop` takes it");
        held
    }
}

impl<T: DeviceElement> Drop for Workspace<T> {
    fn drop(&mut self) {
        let Some((event, held)) = self.held.take() else { return };
        let device = self.plan.batch().device();
        match Current::enter(device.context()) {
            Ok(_current) => device.retired().push(&self.stream, event, held),
            Err(_) => std::mem::forget((event, held)),
        }
    }
}

impl<T: DeviceElement> std::fmt::Debug for Workspace<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Workspace");
        shown.field("plan", &self.plan).field("max_instances", &self.max_instances).finish_non_exhaustive()
    }
}
