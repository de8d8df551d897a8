//! A workspace: the scratch memory of one stream, and the violation record.

#![allow(unsafe_code)]

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, result, sys};

use super::args::RecordArgs;
use super::call::Call;
use super::count::scratch_sizes;
use super::driver::{Current, failed, not_capturing, pending_error};
use super::launches::Queue;
use super::plan::Plan;
use super::record::Record;
use super::retired::Mark;
use super::scratch::Scratch;
use super::split::Split;
use super::tables::Tables;
use super::{Checks, DeviceElement};
use crate::error::{Error, Result, fits_u32};
use crate::operator::Operator;

/// What a workspace's launches use, besides the operands of each call.
pub(super) struct Held {
    pub(super) tables: Arc<Tables>,
    split: Option<Arc<Split>>,
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
    /// The operators that it has scratch memory for, a bit each.
    operators: u32,
    /// Taken when the workspace is dropped.
    held: Option<Held>,
}

/// The handle that stands for another stream on each thread.
const PER_THREAD_STREAM: usize = 2;

impl<T: DeviceElement> Plan<T> {
    /// The scratch memory for calls with up to `max_instances` instances on `stream`, and the operators, all of them.
    /// Waits for the work that is on the stream, so that calls of the [raw tier](super::raw) may begin on any.
    ///
    /// # Errors
    /// [`Error::TooManyInstances`] where a table batch has more, [`Error::WrongContext`] for a stream of another context,
    /// [`Error::PerThreadStream`], [`Error::Capturing`] while the stream records a CUDA graph, [`Error::TooLarge`],
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn workspace(&self, stream: &Arc<CudaStream>, max_instances: usize) -> Result<Workspace<T>> {
        self.workspace_for(stream, max_instances, Operator::ALL)
    }

    /// The same with scratch memory for some operators only. What takes room are rows of hyperedges in the accumulation
    /// type: none for the steps and [`ConvSavingZ`](Operator::ConvSavingZ), M rows of F for [`Conv`](Operator::Conv) and
    /// [`ConvBackwardFromZ`](Operator::ConvBackwardFromZ), twice that for [`ConvBackward`](Operator::ConvBackward).
    ///
    /// # Errors
    /// As [`workspace`](Self::workspace).
    pub fn workspace_for(
        &self,
        stream: &Arc<CudaStream>,
        max_instances: usize,
        operators: &[Operator],
    ) -> Result<Workspace<T>> {
        Workspace::new(self.clone(), stream.clone(), max_instances, operators)
    }

    /// The bytes of device memory that such a workspace takes.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for 2³² instances and more, or for 2⁶⁴ rows.
    pub fn workspace_bytes(&self, max_instances: usize, operators: &[Operator]) -> Result<u128> {
        fits_u32("the number of instances", max_instances)?;
        Ok(scratch_sizes(self, operators, max_instances)?.bytes())
    }
}

impl<T: DeviceElement> Workspace<T> {
    pub(super) fn new(
        plan: Plan<T>,
        stream: Arc<CudaStream>,
        max_instances: usize,
        operators: &[Operator],
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
            split: plan.split().cloned(),
            scratch: Scratch::new(&scratch_sizes(&plan, operators, max_instances)?, &stream)?,
            record: if has_record { Some(Record::new(&stream)?) } else { None },
            event: device.context().new_event(None).map_err(|e| failed("making an event", e))?,
            stream,
        };
        // The first call may be one of the raw tier, on another stream.
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(held.stream.cu_stream()) }
            .map_err(|e| failed("waiting for the stream", e))?;
        let operators = operators.iter().fold(0, |set, &operator| set | bit(operator));
        Ok(Self { plan, max_instances, operators, held: Some(held) })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan<T> {
        &self.plan
    }

    /// The stream that the operators queue their work on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.held().stream
    }

    /// Whether it has scratch memory for an operator.
    pub fn is_made_for(&self, operator: Operator) -> bool {
        self.operators & bit(operator) != 0
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

    /// A report that a kernel has published, without a call of the driver.
    pub(super) fn poll(&self) -> Result<()> {
        let record = self.held().record.as_ref();
        record.map_or(Ok(()), |record| record.published(self.plan.kernels()))
    }

    /// A call of an operator on a stream.
    ///
    /// # Errors
    /// [`Error::NoScratch`].
    ///
    /// # Safety
    /// The context of the stream is current. Until the work has ended, the operands' memory stays alive, nobody else
    /// writes what is read or touches what is written, and no output shares memory with another operand. Whatever else
    /// uses this workspace is ordered before or behind the work. (Tables, scratch memory and record are held until an
    /// event behind their last use, see `retired`.)
    pub(super) unsafe fn call(
        &self,
        operator: Operator,
        stream: sys::CUstream,
        instances: usize,
    ) -> Result<Call<'_, T, Queue<'_>>> {
        if !self.is_made_for(operator) {
            return Err(Error::NoScratch { operator: operator.name() });
        }
        let Held { scratch, record, .. } = self.held();
        let record = record.as_ref().map_or(RecordArgs::none(), |record| record.args());
        // SAFETY: the caller's promise; the plan is a checked one where tables were overwritten.
        let launches = unsafe { Queue::new(operator, self.plan.kernels(), scratch, record, stream) };
        Call::new(&self.plan, launches, instances)
    }

    /// What the launches use.
    pub(super) fn held(&self) -> &Held {
        self.held.as_ref().expect("only `drop` takes it")
    }
}

/// An operator in a set of them.
fn bit(operator: Operator) -> u32 {
    1 << operator as u32
}

impl<T: DeviceElement> Drop for Workspace<T> {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        let device = self.plan.batch().device();
        match Current::enter(device.context()) {
            Ok(_current) => {
                let Held { tables, split, scratch, record, stream, event } = held;
                device
                    .retired()
                    .push(Box::new((tables, split, scratch, record)), vec![Mark::new(event, stream)]);
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
