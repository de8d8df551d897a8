//! What the emulator's two halves share: the driver (contexts, streams, memory) and the engine (fibers,
//! checks).

use std::sync::atomic::{AtomicU8, Ordering};

/// Which compilation of the kernels a device runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Build {
    /// Optimised, without checks.
    Fast,
    /// Every access is checked.
    Checked,
}

/// The order in which the threads of a block (and the blocks of a grid) run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// From the first to the last.
    Forward,
    /// From the last to the first.
    Reverse,
    /// A new random order for each block and after each barrier.
    Shuffled(u64),
    /// As `Shuffled`, and threads are also preempted at random accesses (checked build only).
    Preempting(u64),
}

/// Where an allocation lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Memory of the device.
    Device,
    /// Pinned host memory that kernels may access.
    Mapped,
}

/// One live or freed allocation of a device.
pub struct Allocation {
    /// Its first address.
    pub base: usize,
    /// Its size in bytes.
    pub len: usize,
    /// Whose memory it is.
    pub space: Space,
    /// Counts the allocations of a device, from 1; for messages.
    pub number: u64,
    /// Whether it has been freed; then it is kept for messages only.
    pub freed: bool,
    /// One byte for each byte: 1 once it has been written. `None` for allocations that are not tracked (very
    /// large ones, and mapped host memory).
    pub written: Option<Box<[AtomicU8]>>,
}

impl Allocation {
    /// Marks bytes as written.
    pub fn mark_written(&self, offset: usize, len: usize) {
        for byte in self.written.iter().flat_map(|w| &w[offset..offset + len]) {
            byte.store(1, Ordering::Relaxed);
        }
    }

    /// The first of the bytes that was never written.
    pub fn first_unwritten(&self, offset: usize, len: usize) -> Option<usize> {
        let written = self.written.as_ref()?;
        (offset..offset + len).find(|&i| written[i].load(Ordering::Relaxed) == 0)
    }
}

/// The allocations of one device, as a launch sees them. They do not change while a launch runs.
pub trait Memory {
    /// The live allocation that contains `address`, or else a freed one that did, or else the live allocation
    /// that ends closest before `address` (for messages: "16 bytes behind allocation 3"); `None` where there
    /// is nothing near.
    fn find(&self, address: usize) -> Option<&Allocation>;
}

/// One launch, ready to run.
pub struct Launch<'a> {
    /// Which kernel.
    pub kernel: &'static str,
    /// Which compilation of it.
    pub build: Build,
    /// How many blocks: x, y, z.
    pub grid: [u32; 3],
    /// How many threads a block has: x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub dynamic_shared: u32,
    /// The bytes of each parameter.
    pub params: &'a [Vec<u8>],
    /// In which order blocks and threads run.
    pub order: Order,
    /// Whether unordered accesses to the same bytes are a fault (checked build only).
    pub detect_races: bool,
}

/// Why a launch was stopped. The text names kernel, source line, block and thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What sort of mistake it is.
    pub kind: FaultKind,
    /// What happened, and where.
    pub message: String,
}

/// The sorts of mistakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// An access outside of every allocation, of a shared array, or of the dynamic shared memory.
    OutOfBounds,
    /// An access to an allocation that has been freed.
    UseAfterFree,
    /// A read of bytes that were never written.
    Uninitialised,
    /// An access to an address that is not a multiple of its size.
    Misaligned,
    /// Accesses of several threads to the same byte, one of them a plain write, that nothing orders.
    Race,
    /// A barrier, or an operation of a warp, that some threads do not reach or reach at another line.
    Divergence,
    /// Threads that wait for each other.
    Deadlock,
    /// A shuffle or vote with a wrong mask, or from a lane that does not take part.
    WarpMask,
    /// Undefined behaviour: signed overflow, shift, division by zero.
    Undefined,
    /// Too many accesses or switches: an endless loop.
    Timeout,
}

/// A kernel of one build, as the compiler exports it.
#[derive(Debug, Clone)]
pub struct KernelInfo {
    /// The name it is launched by.
    pub name: &'static str,
    /// Its parameters, in order.
    pub params: Vec<ParamInfo>,
    /// Static shared memory of the whole kernel library, in bytes (an upper bound).
    pub static_shared: usize,
}

/// One parameter of a kernel.
#[derive(Debug, Clone, Copy)]
pub struct ParamInfo {
    /// Its size in bytes.
    pub size: usize,
    /// Whether its type is a pointer.
    pub is_pointer: bool,
    /// The alignment of what a pointer points to; 1 for `void` and non-pointers.
    pub pointee_align: usize,
}
