//! Runs kernels: one fiber for each thread of a block, one block after the other, on the OS thread that asks
//! for it.
//!
//! Barriers, shuffles, votes and `__trap` are checked in both builds, and an asynchronous copy lands at its
//! wait. The checked build also checks every
//! load and store (bounds, lifetime, alignment, whether the bytes were written, races) and the arithmetic
//! (signed overflow, shifts, division by zero), and stops endless loops.
//!
//! What is not seen:
//!
//! * an overrun from one static shared array into the next, through a pointer whose origin the compiler has
//!   lost;
//! * unwritten bytes that a register carries on;
//! * the weaker orders of the GPU's memory.
//!
//! In the fast build a wild access, a division by zero, or an endless loop without a barrier happens to the
//! process itself.
//!
//! To copy the padding of a structure that was written field by field counts as a read of unwritten bytes. A
//! `volatile` access counts as an atomic one.

mod access;
mod bridge;
mod clock;
mod copies;
mod failure;
mod lane;
mod library;
mod matrices;
mod races;
mod random;
mod scheduler;
mod warp;

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ops::Range;
use std::ptr;

use corosensei::{Coroutine, Yielder};

use self::access::{Access, Checks};
use self::clock::Clock;
use self::copies::Copies;
use self::failure::Failure;
use self::lane::{FiberStack, Lane};
use self::library::{Entry, SharedRanges};
use self::random::Random;
use self::scheduler::{Next, Scheduler};
use crate::interface::{Build, Fault, KernelInfo, Launch, Memory, Order};

/// What fresh shared memory holds: NaN in every floating-point type.
const POISON: u8 = 0xff;

/// The kernel of this name, of all compiled kernel files.
pub fn kernel(build: Build, name: &str) -> Option<&'static KernelInfo> {
    library::entry(build, name).map(|entry| &entry.info)
}

/// Runs a whole grid on the calling thread.
///
/// The dimensions are not 0, a block has at most 1024 threads, and the parameters have the sizes of the
/// kernel's.
///
/// # Errors
/// The first mistake that the kernel made; what it had written until then stays.
///
/// # Panics
/// If there is no such kernel, or the parameters do not fit it.
pub fn run(launch: &Launch<'_>, memory: &dyn Memory) -> Result<(), Fault> {
    let entry = library::entry(launch.build, launch.kernel)
        .unwrap_or_else(|| panic!("there is no kernel {}", launch.kernel));
    let sizes = entry.info.params.iter().map(|p| p.size);
    assert!(launch.params.iter().map(Vec::len).eq(sizes), "the parameters do not fit {}", launch.kernel);
    Grid::new(launch, entry, memory).run()
}

/// The place of number `i` in a box of this size, x first.
fn coordinates(i: u64, [x, y, _]: [u32; 3]) -> [u32; 3] {
    let (x, y) = (u64::from(x), u64::from(y));
    [(i % x) as u32, (i / x % y) as u32, (i / x / y) as u32]
}

/// What the fibers of a launch share.
struct Running<'a> {
    launch: &'a Launch<'a>,
    entry: &'static Entry,
    params: Vec<*const c_void>,
    scheduler: RefCell<Scheduler>,
    checks: Option<Checks<'a>>,
    shared: SharedRanges,
    /// The asynchronous copies of the block that runs.
    copies: RefCell<Copies>,
    /// The number of the block that runs.
    block: Cell<u64>,
    /// How many accesses until a thread is preempted; 0 where none is.
    preemption: Cell<u32>,
    failure: Cell<Option<Box<Failure>>>,
}

impl Running<'_> {
    /// Checks an access of a thread.
    fn check(&self, thread: u32, access: Access) -> Result<(), Box<Failure>> {
        let Some(checks) = &self.checks else { return Ok(()) };
        let checked = checks.access(&self.scheduler.borrow(), thread, access);
        checked.map_err(|failure| self.copies.borrow().explain(failure, thread, access))
    }

    /// Whether the running thread is preempted at the access that it is about to make.
    fn preempts(&self) -> bool {
        let left = self.preemption.get();
        if left > 1 {
            self.preemption.set(left - 1);
        } else if left == 1 {
            self.preemption.set(self.scheduler.borrow_mut().next_preemption());
        }
        left == 1
    }

    /// Stops the launch. The fiber that calls is never resumed.
    fn fail(&self, lane: &Lane, failure: Box<Failure>) -> ! {
        self.failure.set(Some(failure));
        loop {
            lane.suspend();
        }
    }

    /// The life of a fiber: it runs threads, one after the other, and rests when there is none to begin.
    fn live(&self, lane: &Lane, yielder: &Yielder<(), ()>) {
        lane.set_yielder(yielder);
        loop {
            // SAFETY: the library's own function for this kernel, with parameters of the sizes that it
            // states.
            unsafe { (self.entry.invoke)(self.params.as_ptr()) };
            if let Err(failure) = self.have_landed(lane) {
                self.fail(lane, failure);
            }
            let next = self.scheduler.borrow_mut().exit(lane.index(), lane.fiber());
            match next {
                Ok(Some(thread)) => self.begin(lane, thread),
                Ok(None) => lane.suspend(),
                Err(failure) => self.fail(lane, failure),
            }
        }
    }

    fn begin(&self, lane: &Lane, thread: u32) {
        lane.begin(coordinates(self.block.get(), self.launch.grid), thread);
    }
}

type Fiber = Coroutine<(), (), (), FiberStack>;

/// A launch that runs.
struct Grid<'a> {
    running: Box<Running<'a>>,
    fibers: Vec<(Fiber, *const Lane)>,
    /// The parameters' bytes, aligned.
    _params: Vec<Vec<u128>>,
}

impl<'a> Grid<'a> {
    fn new(launch: &'a Launch<'a>, entry: &'static Entry, memory: &'a dyn Memory) -> Self {
        let threads = launch.block.iter().product::<u32>() as usize;
        let shared = entry.library.shared();
        assert!(
            launch.dynamic_shared as usize <= shared.dynamic.len() || shared.dynamic.is_empty(),
            "more dynamic shared memory than any device has"
        );
        let dynamic_bytes = (launch.dynamic_shared as usize).min(shared.dynamic.len());
        let checked = launch.build == Build::Checked;
        let races = checked && launch.detect_races;
        let clock = Clock::new(if races { threads } else { 0 });
        let mut scheduler = Scheduler::new(launch.order, threads, clock);
        let preempting = checked && matches!(launch.order, Order::Preempting(_));
        let preemption = if preempting { scheduler.next_preemption() } else { 0 };
        let params: Vec<_> = launch.params.iter().map(|bytes| aligned(bytes)).collect();
        let running = Running {
            launch,
            entry,
            params: params.iter().map(|p| p.as_ptr().cast()).collect(),
            scheduler: RefCell::new(scheduler),
            checks: checked.then(|| Checks::new(memory, entry.library, shared.clone(), dynamic_bytes, races)),
            shared,
            copies: RefCell::default(),
            block: Cell::new(0),
            preemption: Cell::new(preemption),
            failure: Cell::new(None),
        };
        Self { running: Box::new(running), fibers: Vec::new(), _params: params }
    }

    fn run(mut self) -> Result<(), Fault> {
        let count = self.running.launch.grid.iter().map(|&n| u64::from(n)).product();
        let failure = match self.running.launch.order {
            Order::Forward => (0..count).find_map(|block| self.run_block(block)),
            Order::Reverse => (0..count).rev().find_map(|block| self.run_block(block)),
            Order::Shuffled(seed) | Order::Preempting(seed) => {
                let mut blocks: Vec<_> = (0..count).collect();
                Random::new(!seed).shuffle(&mut blocks);
                blocks.into_iter().find_map(|block| self.run_block(block))
            }
        };
        let Some(failure) = failure else { return Ok(()) };
        Err(failure.into_fault(&self.running, self.running.block.get()))
    }

    /// Runs one block to its end, or to its first mistake.
    fn run_block(&mut self, block: u64) -> Option<Box<Failure>> {
        self.poison_shared();
        if let Some(checks) = &self.running.checks {
            checks.begin_block();
        }
        self.running.block.set(block);
        self.running.scheduler.borrow_mut().begin_block(block);
        loop {
            let next = self.running.scheduler.borrow_mut().next();
            let fiber = match next {
                Some(Next::Begin(thread)) => self.begin(thread),
                Some(Next::Resume(fiber)) => fiber,
                None => return self.running.scheduler.borrow().deadlock(),
            };
            self.fibers[fiber as usize].0.resume(());
            let failure = self.running.failure.take();
            if failure.is_some() {
                return failure;
            }
        }
    }

    /// Prepares an idle fiber, or a new one, to run a thread.
    fn begin(&mut self, thread: u32) -> u32 {
        let idle = self.running.scheduler.borrow_mut().idle.pop();
        let fiber = idle.unwrap_or_else(|| self.add_fiber());
        self.running.scheduler.borrow_mut().begin(thread, fiber);
        // SAFETY: `add_fiber` placed it, and the stack lives as long as the fiber.
        self.running.begin(unsafe { &*self.fibers[fiber as usize].1 }, thread);
        fiber
    }

    fn add_fiber(&mut self) -> u32 {
        let fiber = self.fibers.len() as u32;
        let stack = lane::take_stack();
        let lane = Lane::place(&stack, fiber, &self.running);
        let running: *const Running<'a> = &raw const *self.running;
        // SAFETY: the fibers are reset before `running`, which does not move, is dropped.
        let coroutine = unsafe {
            Coroutine::with_stack_unchecked(stack, move |yielder: &Yielder<(), ()>, ()| {
                (*running).live(&*lane, yielder);
            })
        };
        self.fibers.push((coroutine, lane));
        fiber
    }

    /// Makes the shared memory of a block look as if it had never been written.
    fn poison_shared(&self) {
        let SharedRanges { all, dynamic } = &self.running.shared;
        let used = dynamic.start..dynamic.start + self.running.launch.dynamic_shared as usize;
        let used = if dynamic.is_empty() { dynamic.clone() } else { used };
        for Range { start, end } in [all.start..dynamic.start, used, dynamic.end..all.end] {
            // SAFETY: a part of the thread-local segment of a kernel library, which holds shared memory only;
            // no thread of a block runs.
            unsafe { ptr::write_bytes(start as *mut u8, POISON, end - start) };
        }
    }
}

impl Drop for Grid<'_> {
    fn drop(&mut self) {
        for (mut fiber, _) in self.fibers.drain(..) {
            // SAFETY: nothing on the stack owns anything: kernels have no destructors, and the engine's
            // functions suspend a fiber only while they own nothing.
            unsafe { fiber.force_reset() };
            lane::return_stack(fiber.into_stack());
        }
    }
}

/// A copy of a parameter's bytes, aligned for every type.
fn aligned(bytes: &[u8]) -> Vec<u128> {
    let mut words = vec![0; bytes.len().div_ceil(size_of::<u128>())];
    // SAFETY: the words have room for the bytes.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), words.as_mut_ptr().cast(), bytes.len()) };
    words
}
