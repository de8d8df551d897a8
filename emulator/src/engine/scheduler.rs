//! Which thread of a block runs next, and where threads wait for each other.

use super::clock::Clock;
use super::failure::{Failure, Site};
use super::matrices::Words;
use super::random::Random;
use super::warp::{Operation, Request, Warp, lanes};
use crate::interface::{FaultKind, Order};

/// One thread of the block that runs.
#[derive(Clone, Copy, Default)]
struct Thread {
    /// The fiber that it runs on, once it has begun.
    fiber: u32,
    /// What its last barrier or warp operation gave it.
    result: u64,
    waits_at_barrier: bool,
}

/// `__syncthreads`, as far as it has been reached.
struct Barrier {
    site: Site,
    first: u32,
    waiting: u32,
    /// How many threads passed a true predicate.
    count: u32,
}

/// What to run.
pub(super) enum Next {
    /// A thread that has not begun yet.
    Begin(u32),
    /// A thread that waits on this fiber.
    Resume(u32),
}

pub(super) struct Scheduler {
    order: Order,
    random: Random,
    threads: Vec<Thread>,
    /// Threads that have not begun, the next one last.
    pending: Vec<u32>,
    /// Threads that may go on, and how many of them already have (in the fixed orders, a queue).
    ready: Vec<u32>,
    taken: usize,
    exited: u32,
    barrier: Option<Barrier>,
    warps: Vec<Warp>,
    /// Fibers without a thread.
    pub(super) idle: Vec<u32>,
    pub(super) clock: Clock,
}

impl Scheduler {
    pub(super) fn new(order: Order, threads: usize, clock: Clock) -> Self {
        let seed = match order {
            Order::Shuffled(seed) | Order::Preempting(seed) => seed,
            Order::Forward | Order::Reverse => 0,
        };
        let mut warps = Vec::new();
        warps.resize_with(threads.div_ceil(32), Warp::default);
        Self {
            order,
            random: Random::new(seed),
            threads: vec![Thread::default(); threads],
            pending: Vec::with_capacity(threads),
            ready: Vec::with_capacity(threads),
            taken: 0,
            exited: 0,
            barrier: None,
            warps,
            idle: Vec::new(),
            clock,
        }
    }

    /// Begins a block.
    pub(super) fn begin_block(&mut self, block: u64) {
        let count = self.threads.len() as u32;
        self.clock.begin_block(block);
        self.pending.clear();
        match self.order {
            Order::Forward => self.pending.extend((0..count).rev()),
            Order::Reverse => self.pending.extend(0..count),
            Order::Shuffled(_) | Order::Preempting(_) => {
                self.pending.extend(0..count);
                self.random.shuffle(&mut self.pending);
            }
        }
        self.ready.clear();
        self.taken = 0;
        self.exited = 0;
        self.barrier = None;
        for (i, warp) in self.warps.iter_mut().enumerate() {
            warp.begin((count - 32 * i as u32).min(32));
        }
    }

    fn random_order(&self) -> bool {
        matches!(self.order, Order::Shuffled(_) | Order::Preempting(_))
    }

    /// What the root runs next; `None` when no thread can run.
    pub(super) fn next(&mut self) -> Option<Next> {
        if self.random_order() {
            let count = self.ready.len() + self.pending.len();
            if count == 0 {
                return None;
            }
            let i = self.random.below(count);
            if i < self.ready.len() {
                let thread = self.ready.swap_remove(i);
                return Some(Next::Resume(self.threads[thread as usize].fiber));
            }
        } else if self.taken < self.ready.len() {
            let thread = self.ready[self.taken];
            self.taken += 1;
            if self.taken == self.ready.len() {
                self.ready.clear();
                self.taken = 0;
            }
            return Some(Next::Resume(self.threads[thread as usize].fiber));
        }
        self.pending.pop().map(Next::Begin)
    }

    /// The thread that a fiber goes on with when its own has exited, without a switch to the root; `None` if
    /// it is not the turn of a new thread.
    fn next_to_begin(&mut self) -> Option<u32> {
        let others = self.ready.len() - self.taken;
        let begins = if self.random_order() && others > 0 {
            self.random.below(others + self.pending.len()) >= others
        } else {
            others == 0
        };
        if begins { self.pending.pop() } else { None }
    }

    /// A thread begins on a fiber.
    pub(super) fn begin(&mut self, thread: u32, fiber: u32) {
        self.threads[thread as usize] = Thread { fiber, ..Thread::default() };
    }

    /// A thread has returned from the kernel. The fiber begins the thread that this returns, or becomes idle.
    pub(super) fn exit(&mut self, thread: u32, fiber: u32) -> Result<Option<u32>, Box<Failure>> {
        self.exited += 1;
        if let Some(barrier) = &self.barrier {
            let what =
                format!("__syncthreads, which thread {thread} of the block does not reach: it has exited,");
            return Err(Failure::new(FaultKind::Divergence, barrier.first, barrier.site, what));
        }
        self.warps[thread as usize / 32].exit(thread)?;
        let next = self.next_to_begin();
        match next {
            Some(next) => self.begin(next, fiber),
            None => self.idle.push(fiber),
        }
        Ok(next)
    }

    pub(super) fn result(&self, thread: u32) -> u64 {
        self.threads[thread as usize].result
    }

    /// A running thread lets others run.
    pub(super) fn preempt(&mut self, thread: u32) {
        self.ready.push(thread);
    }

    /// How many accesses until the next preemption.
    pub(super) fn next_preemption(&mut self) -> u32 {
        1 + self.random.below(64) as u32
    }

    /// A thread arrives at a barrier of the block.
    pub(super) fn barrier(&mut self, thread: u32, site: Site, predicate: bool) -> Result<(), Box<Failure>> {
        if self.exited > 0 {
            let what = format!("__syncthreads, after {} threads of the block have exited,", self.exited);
            return Err(Failure::new(FaultKind::Divergence, thread, site, what));
        }
        let barrier = self.barrier.get_or_insert(Barrier { site, first: thread, waiting: 0, count: 0 });
        if barrier.site != site {
            let (first, other) = (barrier.first, barrier.site);
            return Err(Failure::new(FaultKind::Divergence, thread, site, "__syncthreads").with(
                Some(first),
                other,
                "another thread of the block waits in __syncthreads",
            ));
        }
        barrier.waiting += 1;
        barrier.count += u32::from(predicate);
        self.threads[thread as usize].waits_at_barrier = true;
        if barrier.waiting as usize == self.threads.len() {
            let count = barrier.count;
            self.barrier = None;
            self.clock.sync_block();
            for thread in &mut self.threads {
                thread.waits_at_barrier = false;
                thread.result = count.into();
            }
            self.release(0..self.threads.len() as u32);
        }
        Ok(())
    }

    /// A thread arrives at an operation of its warp.
    pub(super) fn warp(&mut self, thread: u32, request: Request) -> Result<(), Box<Failure>> {
        let Some(met) = self.warps[thread as usize / 32].arrive(thread, request)? else { return Ok(()) };
        let first = thread / 32 * 32;
        if met.operation == Operation::Sync {
            self.clock.sync_warp(first, met.mask);
        }
        for lane in lanes(met.mask) {
            self.threads[(first + lane) as usize].result = met.results[lane as usize];
        }
        if self.order == Order::Reverse {
            self.ready
                .extend((0..32).rev().filter(|lane| met.mask >> lane & 1 == 1).map(|lane| first + lane));
        } else {
            self.ready.extend(lanes(met.mask).map(|lane| first + lane));
        }
        Ok(())
    }

    /// A thread arrives at an operation on matrices, of all lanes of its warp.
    pub(super) fn exchange(&mut self, thread: u32, site: Site, words: Words) -> Result<(), Box<Failure>> {
        self.warps[thread as usize / 32].give(thread % 32, words);
        let (mask, operation) = (u32::MAX, Operation::Exchange);
        self.warp(thread, Request { mask, operation, value: 0, source: 0, site })
    }

    /// What the lanes of its warp gave to the operation that a thread was last in.
    pub(super) fn exchanged(&self, thread: u32) -> [Words; 32] {
        self.warps[thread as usize / 32].given(thread % 32)
    }

    fn release(&mut self, threads: std::ops::Range<u32>) {
        if self.order == Order::Reverse {
            self.ready.extend(threads.rev());
        } else {
            self.ready.extend(threads);
        }
    }

    /// Why no thread can run; `None` when all have exited.
    pub(super) fn deadlock(&self) -> Option<Box<Failure>> {
        let mut groups: Vec<(Site, String, u32, u32)> = Vec::new();
        for (i, thread) in (0..).zip(&self.threads) {
            let waiting = match &self.barrier {
                Some(barrier) if thread.waits_at_barrier => Some((barrier.site, "in __syncthreads".into())),
                _ => self.warps[i as usize / 32].waiting(i),
            };
            let Some((site, what)) = waiting else { continue };
            match groups.iter_mut().find(|g| g.0 == site && g.1 == what) {
                Some(group) => group.3 += 1,
                None => groups.push((site, what, i, 1)),
            }
        }
        let mut groups = groups
            .into_iter()
            .map(|(site, what, first, count)| (first, site, format!("{count} threads wait {what}")));
        let (first, site, what) = groups.next()?;
        let failure = Failure::new(FaultKind::Deadlock, first, site, format!("no thread can run: {what}"));
        Some(groups.fold(failure, |failure, (first, site, what)| failure.with(Some(first), site, what)))
    }
}
