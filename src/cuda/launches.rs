//! Where an operator's kernel launches go, and where its scratch memory comes from.
//!
//! Each operator is described once, over [`Launches`]. [`Queue`] puts its launches on a stream.
//! [`Count`](super::count::Count) counts them and their bytes, for `explain`, and
//! [`Needs`](super::count::Needs) scratch memory and kernels, for a workspace.

#![allow(unsafe_code)]

use bytemuck::Pod;
use cudarc::driver::{result, sys};

use super::args::{Address, RecordArgs};
use super::driver::failed;
use super::geometry::Grid;
use super::kernels::{Kernel, Kernels};
use super::lent::Parts;
use super::scratch::{Scratch, Sizes, Slot};
use crate::error::{Error, Result};
use crate::operator::Operator;

/// Where the launches of an operator go.
pub(super) trait Launches {
    /// Where `bytes` bytes of scratch memory for `slot` are. The slot has the same place throughout a call.
    fn scratch(&mut self, slot: Slot, bytes: u128) -> Result<Address>;

    /// Where kernels report what is wrong.
    fn record(&self) -> RecordArgs;

    /// A launch; nothing if the grid is empty.
    ///
    /// # Safety
    /// The kernel takes one argument, an `A`, and what it does with it is sound in the order of the launches.
    unsafe fn launch<A: Pod>(&mut self, kernel: Kernel, grid: Grid, arguments: &A) -> Result<()>;

    /// Writes zeros to `bytes` bytes from `address` on.
    ///
    /// # Safety
    /// The memory is an output of the call.
    unsafe fn zero(&mut self, address: Address, bytes: usize) -> Result<()>;

    /// Whether `moves` is of any use. To find out what launches move takes time, which a queued call saves.
    const COUNTS: bool;

    /// Whether the launches stand for those of any call: then kernels and memory that calls with other
    /// windows need are asked for, too.
    const ANY_OPERANDS: bool = false;

    /// The bytes of feature rows that the next launches move if nothing is cached.
    fn moves(&mut self, bytes: u128);

    /// The launches that follow are those of each path in turn.
    fn by_path(&mut self);
}

/// The scratch memory of a call. It lies on the stack: a box would be an allocation in each call.
#[allow(clippy::large_enum_variant)]
pub(super) enum Memory<'a> {
    /// A workspace's own.
    Owned(&'a Scratch),
    /// Parts of what it was lent.
    Lent(Parts),
}

/// Launches on a stream.
pub(super) struct Queue<'a> {
    operator: Operator,
    kernels: &'a Kernels,
    memory: Memory<'a>,
    record: RecordArgs,
    stream: sys::CUstream,
}

impl<'a> Queue<'a> {
    /// The launches of a call of `operator`.
    ///
    /// # Safety
    /// The context of the stream is current. Until the work has ended, tables, scratch memory and record stay
    /// alive and are used by nothing that is not ordered before or after it; the operands' memory stays
    /// alive, nobody else writes what is read or touches what is written, and no output shares memory with
    /// another operand. The tables are those of the batch, or the plan is a checked one.
    pub(super) unsafe fn new(
        operator: Operator,
        kernels: &'a Kernels,
        memory: Memory<'a>,
        record: RecordArgs,
        stream: sys::CUstream,
    ) -> Self {
        Self { operator, kernels, memory, record, stream }
    }
}

impl Launches for Queue<'_> {
    #[inline]
    fn scratch(&mut self, slot: Slot, bytes: u128) -> Result<Address> {
        // A workspace is sized by this same description, so there is room. Nothing unsafe relies on that.
        let address = match &mut self.memory {
            Memory::Owned(scratch) => scratch.get(slot, bytes),
            Memory::Lent(parts) => parts.get(slot, bytes)?,
        };
        address.ok_or_else(|| Error::NotMadeFor { operator: self.operator.name() })
    }

    #[inline]
    fn record(&self) -> RecordArgs {
        self.record
    }

    unsafe fn launch<A: Pod>(&mut self, kernel: Kernel, grid: Grid, arguments: &A) -> Result<()> {
        // SAFETY: the caller's promise, and that of `new`.
        unsafe { self.kernels.launch(kernel, self.stream, grid, arguments) }
    }

    unsafe fn zero(&mut self, address: Address, bytes: usize) -> Result<()> {
        // SAFETY: as above.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream) }
            .map_err(|e| failed("clearing a gradient", e))
    }

    const COUNTS: bool = false;

    fn moves(&mut self, _bytes: u128) {}

    #[inline]
    fn by_path(&mut self) {}
}

/// What scratch memory this very call needs: the same launches, of which none is made.
impl Launches for &mut Sizes {
    const COUNTS: bool = false;

    fn scratch(&mut self, slot: Slot, bytes: u128) -> Result<Address> {
        self.need(slot, bytes);
        Ok(0)
    }

    fn record(&self) -> RecordArgs {
        RecordArgs::none()
    }

    unsafe fn launch<A: Pod>(&mut self, _kernel: Kernel, _grid: Grid, _arguments: &A) -> Result<()> {
        Ok(())
    }

    unsafe fn zero(&mut self, _address: Address, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn moves(&mut self, _bytes: u128) {}

    fn by_path(&mut self) {}
}
