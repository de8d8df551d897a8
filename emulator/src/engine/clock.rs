//! What happened before what, within one launch.
//!
//! Blocks run one after the other, so one counter serves all of them: it advances where threads synchronise,
//! and an access is stamped with it. Two accesses of a block are ordered if a `__syncthreads` lies between
//! them, or, within a warp, a chain of `__syncwarp`s in which both threads took part. Shuffles and votes
//! order no memory.

const LANES: usize = 32;

pub(super) struct Clock {
    now: u32,
    /// When the block that runs began.
    block_start: u32,
    /// When the threads of the block synchronised last, or began.
    phase_start: u32,
    /// For each thread: up to when it knows the accesses of the lanes of its warp. Empty where nothing is
    /// tracked.
    known: Vec<[u32; LANES]>,
    /// When each block began, and its number.
    blocks: Vec<(u32, u64)>,
}

impl Clock {
    /// A clock for blocks of so many threads; for none, one that only counts.
    pub(super) fn new(threads: usize) -> Self {
        Self { now: 1, block_start: 1, phase_start: 1, known: vec![[0; LANES]; threads], blocks: Vec::new() }
    }

    fn advance(&mut self) {
        self.now = self.now.checked_add(1).expect("a launch synchronises less than 2^32 times");
    }

    pub(super) fn begin_block(&mut self, block: u64) {
        self.advance();
        self.block_start = self.now;
        self.phase_start = self.now;
        if !self.known.is_empty() {
            self.blocks.push((self.now, block));
        }
    }

    /// All threads of the block synchronised.
    pub(super) fn sync_block(&mut self) {
        self.advance();
        self.phase_start = self.now;
    }

    /// The lanes of `mask` synchronised, in the warp that begins at thread `first`.
    pub(super) fn sync_warp(&mut self, first: u32, mask: u32) {
        if self.known.is_empty() {
            return;
        }
        self.advance();
        let first = first as usize;
        let lanes = || (0..LANES).filter(|lane| mask >> lane & 1 == 1);
        let mut joined = [0; LANES];
        if mask == u32::MAX {
            joined = [self.now; LANES];
        } else {
            for lane in lanes() {
                for (joined, &known) in joined.iter_mut().zip(&self.known[first + lane]) {
                    *joined = known.max(*joined);
                }
            }
            lanes().for_each(|lane| joined[lane] = self.now);
        }
        for lane in lanes() {
            self.known[first + lane] = joined;
        }
    }

    /// The time as a thread of the running block sees it.
    pub(super) fn view(&self, thread: u32) -> View<'_> {
        View {
            now: self.now,
            block_start: self.block_start,
            phase_start: self.phase_start,
            thread,
            known: &self.known[thread as usize],
        }
    }

    /// The block that ran at `stamp`.
    pub(super) fn block_at(&self, stamp: u32) -> u64 {
        let after = self.blocks.partition_point(|&(start, _)| start <= stamp);
        self.blocks[after - 1].1
    }
}

/// What one thread knows of the others' accesses.
pub(super) struct View<'a> {
    pub(super) now: u32,
    block_start: u32,
    phase_start: u32,
    pub(super) thread: u32,
    known: &'a [u32; LANES],
}

impl View<'_> {
    pub(super) fn warp(&self) -> u32 {
        self.thread / 32
    }

    /// Whether a stamp is of an earlier block.
    pub(super) fn other_block(&self, stamp: u32) -> bool {
        stamp < self.block_start
    }

    /// Whether a stamp is of this block, since its threads synchronised last.
    pub(super) fn this_phase(&self, stamp: u32) -> bool {
        stamp >= self.phase_start
    }

    /// Whether an access of this phase, by `thread`, came before what this thread does now.
    pub(super) fn knows(&self, thread: u32, stamp: u32) -> bool {
        thread == self.thread || (thread / 32 == self.warp() && self.known[(thread % 32) as usize] > stamp)
    }
}
