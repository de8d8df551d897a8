//! Fibers: their stacks, and the control block at the top of each, which the kernels see (`shim/bridge.h`).

use std::cell::{Cell, RefCell};
use std::num::NonZeroUsize;
use std::ptr;

use corosensei::Yielder;
use corosensei::stack::{Stack, StackPointer};

use super::Running;
use super::bridge::Bridge;

/// The size of a stack, and its alignment. Most of it is never touched, and so takes no memory.
const STACK_BYTES: usize = 1 << 17;

/// What the control block occupies of it.
const LANE_BYTES: usize = 256;

const GUARD_BYTES: usize = 4096;

/// How many steps (basic blocks of the checked build; a wait counts as many) a thread may take: far more than
/// the threads of a test take, and used up in half a second.
const BUDGET: i64 = 20_000_000;

/// The same where threads are preempted, and an endless loop uses up the budgets of all threads together.
const PREEMPTED_BUDGET: i64 = 1_000_000;

/// What a wait costs of the budget.
const WAIT_STEPS: i64 = 16;

/// The control block of a fiber. The first part is read by the kernels.
#[repr(C)]
pub(super) struct Lane {
    thread: Cell<[u32; 3]>,
    block: Cell<[u32; 3]>,
    block_dim: [u32; 3],
    grid_dim: [u32; 3],
    index: Cell<u32>,
    budget: Cell<i64>,
    bridge: &'static Bridge,
    // From here on known to the engine only.
    running: *const Running<'static>,
    yielder: Cell<*const Yielder<(), ()>>,
    fiber: u32,
}

const _: () = assert!(size_of::<Lane>() <= LANE_BYTES);

impl Lane {
    /// Writes the control block of a fiber onto its stack.
    pub(super) fn place(stack: &FiberStack, fiber: u32, running: &Running<'_>) -> *const Lane {
        let lane = Lane {
            thread: Cell::default(),
            block: Cell::default(),
            block_dim: running.launch.block,
            grid_dim: running.launch.grid,
            index: Cell::new(0),
            budget: Cell::new(0),
            bridge: &super::bridge::BRIDGE,
            running: ptr::from_ref(running).cast(),
            yielder: Cell::new(ptr::null()),
            fiber,
        };
        let place = stack.base().get() as *mut Lane;
        // SAFETY: the stack owns LANE_BYTES above its base, which are aligned to 256 bytes.
        unsafe { place.write(lane) };
        place
    }

    /// The launch that this fiber belongs to.
    pub(super) fn running(&self) -> &Running<'_> {
        // SAFETY: `place` was given a reference to it, and the launch outlives its fibers. The lifetime
        // inside is shortened to that of the fiber.
        unsafe { &*self.running.cast() }
    }

    pub(super) fn set_yielder(&self, yielder: &Yielder<(), ()>) {
        self.yielder.set(yielder);
    }

    pub(super) fn fiber(&self) -> u32 {
        self.fiber
    }

    /// Which thread of its block runs here.
    pub(super) fn index(&self) -> u32 {
        self.index.get()
    }

    /// Prepares the fiber to run a thread.
    pub(super) fn begin(&self, block: [u32; 3], index: u32) {
        self.block.set(block);
        self.thread.set(super::coordinates(index.into(), self.block_dim));
        self.index.set(index);
        self.budget.set(if self.running().preemption.get() > 0 { PREEMPTED_BUDGET } else { BUDGET });
    }

    /// Switches to the scheduler until it resumes this fiber.
    pub(super) fn suspend(&self) {
        // SAFETY: the fiber set it before it ran anything, and it lives as long as the fiber.
        unsafe { (*self.yielder.get()).suspend(()) };
    }

    /// Takes the cost of a wait from the budget; false when it is used up.
    pub(super) fn pay_for_wait(&self) -> bool {
        self.budget.set(self.budget.get() - WAIT_STEPS);
        self.budget.get() >= 0
    }
}

/// The stack of a fiber: a guard page, the stack, the control block.
pub(super) struct FiberStack {
    /// The lowest address, a multiple of STACK_BYTES.
    bottom: usize,
}

impl FiberStack {
    fn new() -> Self {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping, of which all but the aligned part is given back at once.
        unsafe {
            let start = libc::mmap(ptr::null_mut(), 2 * STACK_BYTES, access, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED, "no memory for the stack of a fiber");
            let start = start as usize;
            let bottom = start.next_multiple_of(STACK_BYTES);
            let (before, after) = (bottom - start, start + STACK_BYTES - bottom);
            for (address, len) in [(start, before), (bottom + STACK_BYTES, after)] {
                assert!(len == 0 || libc::munmap(address as *mut _, len) == 0);
            }
            assert_eq!(libc::mprotect(bottom as *mut _, GUARD_BYTES, libc::PROT_NONE), 0);
            Self { bottom }
        }
    }
}

impl Drop for FiberStack {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, which nothing uses any more.
        unsafe { libc::munmap(self.bottom as *mut _, STACK_BYTES) };
    }
}

// SAFETY: the stack lies between a guard page and the control block, and is far larger than the least size.
unsafe impl Stack for FiberStack {
    fn base(&self) -> StackPointer {
        NonZeroUsize::new(self.bottom + STACK_BYTES - LANE_BYTES).expect("not at address 0")
    }

    fn limit(&self) -> StackPointer {
        NonZeroUsize::new(self.bottom).expect("not at address 0")
    }
}

thread_local! {
    /// The stacks of earlier launches of this OS thread.
    static POOL: RefCell<Vec<FiberStack>> = const { RefCell::new(Vec::new()) };
}

/// A stack of the pool, or a new one.
pub(super) fn take_stack() -> FiberStack {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_else(FiberStack::new)
}

/// Gives a stack back to the pool.
pub(super) fn return_stack(stack: FiberStack) {
    POOL.with_borrow_mut(|pool| pool.push(stack));
}
