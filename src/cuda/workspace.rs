//! A workspace: the scratch memory of one stream, and the violation record.

#![allow(unsafe_code)]

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, result, sys};

use super::args::RecordArgs;
use super::call::Call;
use super::count::needs;
use super::driver::{Current, failed, not_capturing, pending_error};
use super::kernels::Kernels;
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
    /// By path, and by class.
    splits: [Option<Arc<Split>>; 2],
    pub(super) scratch: Scratch,
    /// Where something is checked.
    pub(super) record: Option<Record>,
    pub(super) stream: Arc<CudaStream>,
    /// Is recorded after the last launch, when the workspace is dropped.
    event: CudaEvent,
}

/// The scratch memory of a plan for one stream, and the operators. It may be dropped while its work is in
/// flight.
///
/// # Errors of operators
/// The operators of the safe tier return these errors:
///
/// | error | when |
/// |---|---|
/// | [`Error::IndexOutOfBounds`] | an earlier call met a wrong index; [`check`](Self::check) clears it |
/// | [`Error::NegativeDegree`] | an earlier call met a negative degree, likewise |
/// | [`Error::Capturing`] | the stream records a CUDA graph |
/// | [`Error::WrongContext`] | an operand or a window table is of another context than the device |
/// | [`Error::UncheckedTables`] | a window table was overwritten, and the plan has [`Checks::Off`] |
/// | [`Error::MatrixUnavailable`] | matrices of instances are wanted, and a topology in use is too large |
/// | those [of operands](crate::cpu#errors-of-operands) | shapes, windows or strides are wrong |
/// | [`Error::Misaligned`] | an operand does not start at a whole element |
/// | [`Error::SharedMemory`] | an output shares memory with another operand |
/// | [`Error::NotMadeFor`] | the workspace was made for other operators |
/// | [`Error::Driver`] | a call of the driver failed, or one of the same context did before |
///
/// A call that fails has queued no kernel, unless the driver failed between two launches. It may have made
/// its stream wait for operands that other streams use.
pub struct Workspace<T: DeviceElement> {
    // Before the plan, which may be the last holder of the device.
    kernels: Kernels,
    pub(super) plan: Plan<T>,
    pub(super) max_instances: usize,
    /// The operators that it is made for, a bit each.
    operators: u32,
    /// Taken when the workspace is dropped.
    held: Option<Held>,
}

/// The handle that stands for another stream on each thread.
const PER_THREAD_STREAM: usize = 2;

impl<T: DeviceElement> Plan<T> {
    /// A workspace for the convolution and its backward, [`Operator::TRAINING`], for calls with up to
    /// `max_instances` instances on `stream`. Loads their kernels, unless another workspace has, and waits
    /// for the work that is on the stream, so that the first call of the [raw tier](super::raw) may be on any
    /// other. Other operators are named in [`workspace_for`](Self::workspace_for): a driver takes seconds to
    /// compile a megabyte of kernels where it has not kept them, and few programs call more than these.
    /// In `f32` without checks they are up to 160 KB, for topologies on one path and, on
    /// [`Path::Dense`](crate::Path::Dense), in one class of up to 8, 16 or 32 vertices.
    ///
    /// # Errors
    /// [`Error::TooManyInstances`] where a table batch has more, [`Error::WrongContext`] for a stream of
    /// another context, [`Error::PerThreadStream`], [`Error::Capturing`] while the stream records a CUDA
    /// graph, [`Error::TooLarge`], [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn workspace(&self, stream: &Arc<CudaStream>, max_instances: usize) -> Result<Workspace<T>> {
        self.workspace_for(stream, max_instances, Operator::TRAINING)
    }

    /// A workspace for these operators, or [`Operator::ALL`], with kernels and scratch memory for no others.
    /// Most of that memory is rows of F elements of the accumulation type for hyperedges:
    ///
    /// | operator | rows |
    /// |---|---|
    /// | the steps, [`ConvSavingZ`](Operator::ConvSavingZ) | none |
    /// | [`Conv`](Operator::Conv), [`ConvBackwardFromZ`](Operator::ConvBackwardFromZ) | M |
    /// | [`ConvBackward`](Operator::ConvBackward) | 2 M |
    /// | [`ConvEpilogue`](Operator::ConvEpilogue), [`ConvReadout`](Operator::ConvReadout) | M |
    /// | their backwards | 2 M |
    ///
    /// That is where instances are on the path of the gathers; on [`Path::Dense`](crate::Path::Dense) there
    /// are none. The backwards of epilogues and readouts have `N` rows of elements of vertices besides, for
    /// the gradients of the convolution's sums, on each path. So have readouts of instances on the path of
    /// the gathers, or of more than 16 vertices.
    ///
    /// Operators with a matrix for each instance need no rows, but room for two matrices of each. Where some
    /// topology in use is too large for them, nothing is made for them.
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

    /// The bytes of device memory that a workspace for these operators takes.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for 2³² instances and more, or for 2⁶⁴ rows.
    pub fn workspace_bytes(&self, max_instances: usize, operators: &[Operator]) -> Result<u128> {
        fits_u32("the number of instances", max_instances)?;
        Ok(needs(self, operators, max_instances)?.sizes.bytes())
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
        let needs = needs(&plan, operators, max_instances)?;
        let kernels = Kernels::load(device, plan.kernels(), needs.kernels)?;
        let has_record = plan.checks() == Checks::On || plan.conv().checks_degrees();
        let held = Held {
            tables: plan.batch().tables().clone(),
            splits: [false, true].map(|by_class| plan.split(by_class).cloned()),
            scratch: Scratch::new(&needs.sizes, &stream, plan.routes().len() > 1)?,
            record: if has_record { Some(Record::new(&stream)?) } else { None },
            event: device.context().new_event(None).map_err(|e| failed("making an event", e))?,
            stream,
        };
        // The first call may be one of the raw tier, on another stream.
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(held.stream.cu_stream()) }
            .map_err(|e| failed("waiting for the stream", e))?;
        let operators = operators.iter().fold(0, |set, &operator| set | bit(operator));
        Ok(Self { kernels, plan, max_instances, operators, held: Some(held) })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan<T> {
        &self.plan
    }

    /// The stream that the operators queue their work on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.held().stream
    }

    /// Whether it has the kernels and the scratch memory for an operator.
    pub fn is_made_for(&self, operator: Operator) -> bool {
        self.operators & bit(operator) != 0
    }

    /// The most instances that a call may have.
    pub fn max_instances(&self) -> usize {
        self.max_instances
    }

    /// Synchronises the stream, then returns and clears the first error that a kernel recorded since the last
    /// check: a wrong index that a checked kernel found, or a negative degree under symmetric normalization.
    /// The workspace, its plan and its stream stay usable.
    ///
    /// After such an error every output since the last successful check is unspecified: an affected row holds
    /// NaN, or was not written at all if the corrupt value was the row's own position.
    ///
    /// # Errors
    /// * [`Error::IndexOutOfBounds`] or [`Error::NegativeDegree`], from the first kernel on the stream that
    ///   found something. If that kernel found several errors, scheduling decides which one it recorded.
    /// * [`Error::Capturing`] while the stream records a CUDA graph.
    /// * [`Error::Driver`], also for an earlier call of the context that could not return its error.
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

    /// Returns the error that a kernel has recorded, without a call of the driver.
    pub(super) fn poll(&self) -> Result<()> {
        let record = self.held().record.as_ref();
        record.map_or(Ok(()), |record| record.published(self.plan.kernels()))
    }

    /// A call of an operator on a stream.
    ///
    /// # Errors
    /// [`Error::NotMadeFor`].
    ///
    /// # Safety
    /// The context of the stream is current. Until the work has ended, the operands' memory stays alive,
    /// nobody else writes what is read or touches what is written, and no output shares memory with another
    /// operand. Whatever else uses this workspace is ordered before or after the work. (Tables, scratch
    /// memory and record are held until an event after their last use, see `retired`.)
    pub(super) unsafe fn call(
        &self,
        operator: Operator,
        stream: sys::CUstream,
        instances: usize,
    ) -> Result<Call<'_, T, Queue<'_>>> {
        if !self.is_made_for(operator) {
            return Err(Error::NotMadeFor { operator: operator.name() });
        }
        let Held { scratch, record, .. } = self.held();
        let record = record.as_ref().map_or(RecordArgs::none(), |record| record.args());
        // SAFETY: the caller's promise; the plan is a checked one where tables were overwritten.
        let launches = unsafe { Queue::new(operator, &self.kernels, scratch, record, stream) };
        Call::new(&self.plan, launches, instances)
    }

    /// What the launches use.
    pub(super) fn held(&self) -> &Held {
        self.held.as_ref().expect("only `drop` takes it")
    }
}

/// An operator in a set of them.
fn bit(operator: Operator) -> u32 {
    const { assert!(Operator::ALL.len() <= u32::BITS as usize, "a set of operators has a bit for each") };
    1 << operator as u32
}

impl<T: DeviceElement> Drop for Workspace<T> {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        let device = self.plan.batch().device();
        match Current::enter(device.context()) {
            Ok(_current) => {
                let Held { tables, splits, scratch, record, stream, event } = held;
                device
                    .retired()
                    .push(Box::new((tables, splits, scratch, record)), vec![Mark::new(event, stream)]);
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
