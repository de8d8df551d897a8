//! In which pieces a call is computed, and what is computed in parallel.

use rayon::prelude::*;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::plan::Plan;
use crate::axis::Axis;
use crate::batch::Batch;
use crate::chunks::{Chunk, Chunks, Members};
use crate::element::Element;
use crate::incidence::Incidence;
use crate::windows::{WindowTable, Windows};

/// What is computed in parallel. A function of the topology alone; the bits are the same either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parallel {
    /// Chunks of instances. A chunk is computed by one thread.
    Instances,
    /// The rows of an instance, one instance at a time.
    Rows,
}

impl Parallel {
    pub(super) fn of(topology: &Incidence) -> Self {
        if topology.is_large() { Self::Rows } else { Self::Instances }
    }

    /// Whether something is computed like this in a batch.
    pub(super) fn is_in(self, batch: &Batch) -> bool {
        batch.topologies().iter().any(|topology| Self::of(topology) == self)
    }
}

/// The chunks of a call: all instances of a chunk have the same topology and the same window along `axis`.
pub(super) struct Schedule<'a, T> {
    plan: &'a Plan<T>,
    axis: Axis,
    windows: Windows<&'a WindowTable>,
    instances: usize,
    kind: Kind<'a>,
}

enum Kind<'a> {
    /// Copies of one topology with one window, in chunks of this many.
    Copies(usize),
    /// Every instance has a window of its own, which no other overlaps: all orders have the same bits.
    Single,
    Table(&'a Chunks),
}

/// A chunk that has instances.
pub(super) struct Task<'a> {
    pub(super) topology: &'a Incidence,
    pub(super) chunk: Chunk<'a>,
    /// The instance that probably comes next behind those of the chunk, if it has the same topology.
    pub(super) following: Option<usize>,
}

impl Task<'_> {
    /// The instances, ascending.
    pub(super) fn instances(&self) -> impl Iterator<Item = usize> + '_ {
        self.chunk.members.iter()
    }

    pub(super) fn parallel(&self) -> Parallel {
        Parallel::of(self.topology)
    }
}

impl<'a, T: Element> Schedule<'a, T> {
    pub(super) fn new(
        plan: &'a Plan<T>,
        axis: Axis,
        windows: Windows<&'a WindowTable>,
        instances: usize,
    ) -> Self {
        let batch = plan.batch();
        let kind = match (windows, batch.chunks(axis)) {
            (Windows::Table(table), _) => Kind::Table(table.chunks()),
            (Windows::Shared, Some(chunks)) => Kind::Table(chunks),
            (Windows::Shared, None) => Kind::Copies(batch.topologies()[0].chunk_len()),
            (Windows::Consecutive, _) => Kind::Single,
        };
        Self { plan, axis, windows, instances, kind }
    }

    /// The number of instances of a chunk of copies with one window; `None` for other batches and windows.
    pub(super) fn copies_of_chunk(&self) -> Option<usize> {
        if let Kind::Copies(len) = self.kind { Some(len) } else { None }
    }

    /// The same copies in chunks of `len`, where no order of summation depends on it.
    pub(super) fn of_copies(&self, len: usize) -> Self {
        Self { kind: Kind::Copies(len), ..*self }
    }

    pub(super) fn n_chunks(&self) -> usize {
        match self.kind {
            Kind::Copies(len) => self.instances.div_ceil(len),
            Kind::Single => self.instances,
            Kind::Table(chunks) => chunks.n_chunks(),
        }
    }

    fn chunk(&self, c: usize) -> Chunk<'a> {
        match self.kind {
            Kind::Copies(len) => {
                let members = Members::Range(c * len..((c + 1) * len).min(self.instances));
                Chunk { topology: 0, offset: 0, members }
            }
            Kind::Single => Chunk {
                topology: self.plan.batch().topology_id(c),
                offset: self.plan.batch().start(self.axis, c),
                members: Members::Range(c..c + 1),
            },
            Kind::Table(chunks) => chunks.chunk(c, self.instances),
        }
    }

    /// A chunk, if it has instances.
    pub(super) fn task(&self, c: usize) -> Option<Task<'a>> {
        let chunk = self.chunk(c);
        chunk.members.iter().next()?;
        let topology = &self.plan.batch().topologies()[chunk.topology];
        let next = (c + 1 < self.instances && matches!(self.kind, Kind::Single)).then_some(c + 1);
        let following = next.filter(|&next| self.plan.batch().topology_id(next) == chunk.topology);
        Some(Task { topology, chunk, following })
    }

    /// The same, if it is computed like this.
    pub(super) fn task_of(&self, parallel: Parallel, c: usize) -> Option<Task<'a>> {
        self.task(c).filter(|task| task.parallel() == parallel)
    }

    /// The instances of a range, ascending, in tasks of those that follow each other with one topology and
    /// one window, whatever their chunks are.
    pub(super) fn tasks_of(&self, range: Range<usize>) -> impl Iterator<Item = Task<'a>> + use<'a, T> {
        let (batch, axis, windows) = (self.plan.batch(), self.axis, self.windows);
        let len = if let Kind::Copies(_) = self.kind { range.len() } else { 1 };
        range.clone().step_by(len.max(1)).map(move |first| {
            let members = Members::Range(first..(first + len).min(range.end));
            let offset = windows.offset(batch, axis, first);
            let chunk = Chunk { topology: batch.topology_id(first), offset, members };
            Task { topology: batch.topology(first), chunk, following: None }
        })
    }

    /// The chunks whose instances come one at a time, with their rows in parallel.
    pub(super) fn large(&self) -> impl Iterator<Item = Task<'a>> + '_ {
        let all = if Parallel::Rows.is_in(self.plan.batch()) { self.n_chunks() } else { 0 };
        (0..all).filter_map(|c| self.task_of(Parallel::Rows, c))
    }

    /// Where the gradients of a chunk belong in those of the batch.
    pub(super) fn window(&self, task: &Task<'_>) -> Range<usize> {
        let start = task.chunk.offset;
        start..start + task.topology.size(self.axis)
    }
}

/// The most numbers that a thread takes at once: single instances are short, and rows that follow each other
/// in memory are read faster.
const MOST_AT_ONCE: usize = 16;

/// Into how many parts at least the numbers of a thread are cut, so that all end at about the same time.
const PARTS_OF_THREAD: usize = 16;

/// Calls `f` once for each number of `range`, on as many threads as there are `states`; each call has one of
/// them to itself.
pub(super) fn for_each<S: Send>(states: &mut [S], range: Range<usize>, f: impl Fn(&mut S, usize) + Sync) {
    let next = AtomicUsize::new(range.start);
    let at_once = (range.len() / (states.len().max(1) * PARTS_OF_THREAD)).clamp(1, MOST_AT_ONCE);
    states.par_iter_mut().for_each(|state| {
        loop {
            let first = next.fetch_add(at_once, Ordering::Relaxed);
            if first >= range.end {
                break;
            }
            (first..range.end.min(first + at_once)).for_each(|i| f(state, i));
        }
    });
}

/// The rows of one instance that a task computes in parallel.
const MIN_ROWS: usize = 16;

/// Calls `f` for each number below `n`.
pub(super) fn each(parallel: Parallel, n: usize, f: impl Fn(usize) + Sync) {
    if parallel == Parallel::Rows {
        (0..n).into_par_iter().with_min_len(MIN_ROWS).for_each(&f);
    } else {
        (0..n).for_each(f);
    }
}

/// Calls `f` for each value and its position.
pub(super) fn each_value<A: Send>(parallel: Parallel, values: &mut [A], f: impl Fn(usize, &mut A) + Sync) {
    if parallel == Parallel::Rows {
        values.par_iter_mut().with_min_len(MIN_ROWS).enumerate().for_each(|(i, value)| f(i, value));
    } else {
        values.iter_mut().enumerate().for_each(|(i, value)| f(i, value));
    }
}

/// Calls `f` for each row of `width` elements (at least one) and its position.
pub(super) fn each_row<A: Send>(
    parallel: Parallel,
    rows: &mut [A],
    width: usize,
    f: impl Fn(usize, &mut [A]) + Sync,
) {
    if parallel == Parallel::Rows {
        rows.par_chunks_mut(width).with_min_len(MIN_ROWS).enumerate().for_each(|(i, row)| f(i, row));
    } else {
        rows.chunks_mut(width).enumerate().for_each(|(i, row)| f(i, row));
    }
}
