//! A workspace: the scratch memory of one stream, and the violation record.

#![allow(unsafe_code)]

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, result, sys};

use super::args::RecordArgs;
use super::call::Call;
use super::count::needs;
use super::description::Description;
use super::driver::{Current, failed, not_capturing, pending_error};
use super::kernels::Kernels;
use super::launches::{Memory, Queue};
use super::lent::{Parts, Region};
use super::operands::DevicePointer;
use super::plan::Plan;
use super::record::Record;
use super::retired::Mark;
use super::scratch::{Scratch, Sizes};
use super::split::Split;
use super::tables::Tables;
use super::{Checks, DeviceElement};
use crate::error::{Error, Result, fits_u32};
use crate::operator::Operator;

/// Where the scratch memory of a workspace's calls comes from.
enum Source {
    Owned(Box<Scratch>),
    /// What was last lent.
    Lent(Option<Region>),
}

/// What a workspace's launches use, besides the operands of each call.
pub(super) struct Held {
    pub(super) tables: Arc<Tables>,
    /// By path, and by class.
    splits: [Option<Arc<Split>>; 2],
    scratch: Source,
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
/// | [`Error::LayerUnavailable`] | a layer that no kernel computes in one pass is wanted |
/// | those [of operands](crate::cpu#errors-of-operands) | shapes, windows or strides are wrong |
/// | [`Error::Misaligned`] | an operand does not start at a whole element |
/// | [`Error::SharedMemory`] | an output shares memory with another operand |
/// | [`Error::NotMadeFor`] | the workspace was made for other operators |
/// | [`Error::NoScratch`], [`Error::ScratchTooSmall`] | it has no memory of its own, and was lent too little |
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
    /// In `f32` without checks they are up to 184 KB, for topologies on one path and, on
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
    /// topology in use is too large for them, nothing is made for them. So it is with
    /// [layers](Workspace::layer), whose backward has parts of the gradient of Θ and, like that of an
    /// epilogue, `N` rows of elements.
    ///
    /// # Errors
    /// As [`workspace`](Self::workspace).
    pub fn workspace_for(
        &self,
        stream: &Arc<CudaStream>,
        max_instances: usize,
        operators: &[Operator],
    ) -> Result<Workspace<T>> {
        Workspace::new(self.clone(), stream.clone(), max_instances, operators, true)
    }

    /// A workspace for these operators whose scratch memory is the caller's, who lends it by
    /// [`lend_scratch`](Workspace::lend_scratch) before the calls that need some;
    /// [`scratch_bytes`](Workspace::scratch_bytes) tells how much a call needs. What else calls need on the
    /// device, such as the record of violations, is made here: no call allocates.
    ///
    /// Calls have the bits that they have with memory of the workspace's own, and may be captured in the
    /// [raw tier](super::raw). Their host's part is up to twice as long, since the parts of the memory are
    /// laid out anew for each. Where instances of a batch are on several paths, a call also queues fills with
    /// zeros of the numbers of vertices and hyperedges that all paths read.
    ///
    /// # Errors
    /// As [`workspace`](Self::workspace).
    pub fn workspace_without_memory(
        &self,
        stream: &Arc<CudaStream>,
        max_instances: usize,
        operators: &[Operator],
    ) -> Result<Workspace<T>> {
        Workspace::new(self.clone(), stream.clone(), max_instances, operators, false)
    }

    /// The bytes of device memory that a workspace for these operators takes, if it owns its scratch memory.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for 2³² instances and more, or for 2⁶⁴ rows.
    pub fn workspace_bytes(&self, max_instances: usize, operators: &[Operator]) -> Result<u128> {
        fits_u32("the number of instances", max_instances)?;
        Ok(needs(self, operators, max_instances)?.sizes.bytes())
    }
}

impl<T: DeviceElement> Workspace<T> {
    #[inline(never)]
    pub(super) fn new(
        plan: Plan<T>,
        stream: Arc<CudaStream>,
        max_instances: usize,
        operators: &[Operator],
        owns_scratch: bool,
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
            scratch: match owns_scratch {
                true => {
                    let has_several_paths = plan.routes().len() > 1;
                    Source::Owned(Box::new(Scratch::new(&needs.sizes, &stream, has_several_paths)?))
                }
                false => Source::Lent(None),
            },
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

    /// The bytes of scratch memory that suffice for a call of an operator with so many instances, whatever
    /// its other options; with a table batch, for all of its instances. A workspace that owns its memory
    /// tells what one without would need.
    ///
    /// # Errors
    /// [`Error::NotMadeFor`], [`Error::TooManyInstances`], [`Error::TooLarge`].
    pub fn scratch_bytes(&self, operator: Operator, instances: usize) -> Result<usize> {
        if !self.is_made_for(operator) {
            return Err(Error::NotMadeFor { operator: operator.name() });
        }
        if instances > self.max_instances {
            return Err(Error::TooManyInstances { value: instances, bound: self.max_instances });
        }
        let value = Parts::bytes(&needs(&self.plan, &[operator], instances)?.sizes);
        let bound = usize::MAX as u128;
        usize::try_from(value).map_err(|_| Error::TooLarge { what: "the scratch memory", value, bound })
    }

    /// Lends scratch memory for the calls that follow, instead of what was lent before: `memory.len` bytes
    /// from an address on that is a multiple of 256. What it holds does not matter, and nothing of it is read
    /// by later calls. An address of 0 lends none. The driver is not called.
    ///
    /// # Errors
    /// [`Error::OwnsScratch`] for a workspace that was not made by
    /// [`workspace_without_memory`](Plan::workspace_without_memory), and [`Error::ScratchMisaligned`]; what
    /// was lent before is used on then.
    ///
    /// # Safety
    /// Until other memory is lent or the workspace is dropped, and until the work of all calls made meanwhile
    /// has ended (captured ones: until their last replay has), the memory is alive, is device memory of the
    /// workspace's device, and while that work or a replay of it runs nobody else reads or writes it. Other
    /// uses are ordered before or after that work; those of the stream's own order are.
    pub unsafe fn lend_scratch(&mut self, memory: DevicePointer<u8>) -> Result<()> {
        let DevicePointer { address, len, .. } = memory;
        let held = self.held.as_mut().expect("only `drop` takes it");
        match &mut held.scratch {
            Source::Owned(_) => return Err(Error::OwnsScratch),
            Source::Lent(lent) => *lent = if address == 0 { None } else { Some(Region::new(address, len)?) },
        }
        Ok(())
    }

    /// The scratch memory that was last lent.
    pub(super) fn lent(&self) -> Option<Region> {
        match self.held().scratch {
            Source::Owned(_) => None,
            Source::Lent(lent) => lent,
        }
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

    /// Makes a call of an operator on a stream, given its description.
    ///
    /// # Errors
    /// [`Error::NotMadeFor`], [`Error::NoScratch`], [`Error::ScratchTooSmall`], and those of the description.
    ///
    /// # Safety
    /// The context of the stream is current. Until the work has ended, the operands' memory stays alive,
    /// nobody else writes what is read or touches what is written, and no output shares memory with another
    /// operand. Whatever else uses this workspace is ordered before or after the work. (Tables, scratch
    /// memory and record are held until an event after their last use, see `retired`, and who lends scratch
    /// memory promises as much.)
    #[inline(never)]
    pub(super) unsafe fn call<D: Description>(
        &self,
        operator: Operator,
        stream: sys::CUstream,
        instances: usize,
        description: D,
    ) -> Result<()> {
        if !self.is_made_for(operator) {
            return Err(Error::NotMadeFor { operator: operator.name() });
        }
        let Held { scratch, record, .. } = self.held();
        let record = record.as_ref().map_or(RecordArgs::none(), |record| record.args());
        let memory = match scratch {
            Source::Owned(scratch) => Memory::Owned(scratch),
            Source::Lent(lent) => {
                let mut sizes = Sizes::default();
                // SAFETY: nothing is launched.
                unsafe { description.run(&mut Call::new(&self.plan, &mut sizes, instances)?)? };
                Memory::Lent(Parts::new(sizes, *lent, operator, self.plan.routes().len() > 1, stream)?)
            }
        };
        // SAFETY: the caller's promise; the plan is a checked one where tables were overwritten.
        unsafe {
            let launches = Queue::new(operator, &self.kernels, memory, record, stream);
            description.run(&mut Call::new(&self.plan, launches, instances)?)
        }
    }

    /// What the launches use.
    pub(super) fn held(&self) -> &Held {
        self.held.as_ref().expect("only `drop` takes it")
    }
}

compiled_here!(Workspace::<T>::new as fn(_, _, _, _, _) -> _);

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
