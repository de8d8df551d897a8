//! In which pieces a call is computed, and what is computed in parallel.

use rayon::prelude::*;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::plan::Plan;
use super::threads::{is_alone, n_threads};
use crate::axis::Axis;
use crate::batch::Batch;
use crate::chunks::{Chunk, Chunks, Members};
use crate::element::Element;
use crate::incidence::Incidence;
use crate::path::Prepared;
use crate::windows::{WindowTable, Windows};

/// What is computed in parallel. The bits are the same either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parallel {
    /// Chunks of instances. A chunk is computed by one thread.
    Instances,
    /// The rows of an instance, one instance at a time.
    Rows,
}

impl Parallel {
    /// Of a topology whose rows are gathered.
    pub(super) fn of(topology: &Incidence) -> Self {
        if topology.is_large() { Self::Rows } else { Self::Instances }
    }

    /// Whether anything of a topology is computed like this: steps are gathers on every path.
    pub(super) fn is_of<T: Element>(self, plan: &Plan<T>, topology: usize) -> bool {
        let is_in_chunks = self == Self::Instances && plan.has_matrices(topology);
        is_in_chunks || Self::of(&plan.batch().topologies()[topology]) == self
    }

    /// Whether something is gathered like this in a batch.
    pub(super) fn is_in(self, batch: &Batch) -> bool {
        batch.topologies().iter().any(|topology| Self::of(topology) == self)
    }
}

/// By what the instances of a call are computed. Those that are computed by a matrix of their few vertices
/// are never worth several threads, whatever their hyperedges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// Gathers, whatever the path.
    Gathers,
    /// The path of each topology.
    Path,
    /// Matrices, whatever the path.
    Matrices,
}

/// How many tasks a thread has at least, before instances with windows of their own are computed several at
/// once.
const TASKS_OF_THREAD: usize = 4;

/// The chunks of a call. All instances of a chunk have the same topology and the same window along `axis`, or
/// each has its own.
pub(super) struct Schedule<'a, T> {
    plan: &'a Plan<T>,
    by: By,
    axis: Axis,
    windows: Windows<&'a WindowTable>,
    instances: usize,
    kind: Kind<'a>,
}

#[derive(Clone, Copy)]
enum Kind<'a> {
    /// Copies of one topology with one window, in chunks of this many.
    Copies(usize),
    /// Every instance has a window of its own, which no other overlaps: all orders have the same bits. Of
    /// topologies that are computed by their dense operators, this many at most are in one task.
    Single(usize),
    Table(&'a Chunks),
}

/// A chunk that has instances. Its window is that of the first instance; the others read the same, or there
/// are as many windows as instances, one behind the other.
#[derive(Clone)]
pub(super) struct Task<'a> {
    pub(super) topology: &'a Incidence,
    pub(super) parallel: Parallel,
    pub(super) chunk: Chunk<'a>,
    pub(super) n_windows: usize,
    /// The values of a window.
    pub(super) width: usize,
    /// The instance that probably comes next behind those of the chunk, if it has the same topology.
    pub(super) following: Option<usize>,
}

impl<'a> Task<'a> {
    /// A task for each window.
    pub(super) fn by_window(&self) -> impl Iterator<Item = Task<'a>> + '_ {
        self.instances().take(self.n_windows).enumerate().map(|(i, instance)| {
            if self.n_windows == 1 {
                return self.clone();
            }
            let chunk = Chunk {
                offset: self.chunk.offset + i * self.width,
                members: Members::Range(instance..instance + 1),
                ..self.chunk
            };
            let following = if i + 1 < self.n_windows { Some(instance + 1) } else { self.following };
            Task { chunk, n_windows: 1, following, ..*self }
        })
    }

    /// The instances, ascending.
    pub(super) fn instances(&self) -> impl Iterator<Item = usize> + '_ {
        self.chunk.members.iter()
    }
}

impl<'a, T: Element> Schedule<'a, T> {
    pub(super) fn new(
        plan: &'a Plan<T>,
        by: By,
        axis: Axis,
        windows: Windows<&'a WindowTable>,
        instances: usize,
    ) -> Self {
        let batch = plan.batch();
        let kind = match (windows, batch.chunks(axis)) {
            (Windows::Table(table), _) => Kind::Table(table.chunks()),
            (Windows::Shared, Some(chunks)) => Kind::Table(chunks),
            (Windows::Shared, None) => Kind::Copies(batch.topologies()[0].chunk_len()),
            (Windows::Consecutive, _) => Kind::Single(1),
        };
        Self { plan, by, axis, windows, instances, kind }
    }

    /// What is computed in parallel of the instances of a topology.
    pub(super) fn parallel(&self, topology: usize) -> Parallel {
        let is_gathered = match self.by {
            By::Gathers => true,
            By::Path => matches!(self.plan.prepared(topology), Prepared::Gather { .. }),
            By::Matrices => false,
        };
        let topology = &self.plan.batch().topologies()[topology];
        if is_gathered { Parallel::of(topology) } else { Parallel::Instances }
    }

    /// Whether some instances come one at a time, with their rows in parallel.
    pub(super) fn has_large(&self) -> bool {
        (0..self.plan.batch().topologies().len()).any(|id| self.parallel(id) == Parallel::Rows)
    }

    /// The same, where instances with windows of their own may be in tasks of several. So many are computed
    /// in one go, unless threads would have no work then.
    pub(super) fn in_lanes(self, lanes: usize) -> Self {
        let for_all = self.instances / (n_threads() * TASKS_OF_THREAD);
        match self.kind {
            Kind::Single(_) => Self { kind: Kind::Single(for_all.clamp(1, lanes)), ..self },
            _ => self,
        }
    }

    /// Whether every instance has a window of its own.
    pub(super) fn has_own_windows(&self) -> bool {
        matches!(self.kind, Kind::Single(_))
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
            Kind::Single(len) => self.instances.div_ceil(len),
            Kind::Table(chunks) => chunks.n_chunks(),
        }
    }

    /// The tasks of a chunk: one, or none if it has no instances; or several where instances of several
    /// topologies have windows of their own.
    pub(super) fn tasks(&self, c: usize) -> impl Iterator<Item = Task<'a>> + use<'a, T> {
        let instances = |len: usize| c * len..((c + 1) * len).min(self.instances);
        let (shared, own, len) = match self.kind {
            Kind::Copies(len) => {
                (Some(Chunk { topology: 0, offset: 0, members: Members::Range(instances(len)) }), 0..0, 1)
            }
            Kind::Table(chunks) => (Some(chunks.chunk(c, self.instances)), 0..0, 1),
            Kind::Single(len) => (None, instances(len), len),
        };
        let shared = shared.filter(|chunk| chunk.members.iter().next().is_some());
        let shared = shared.map(|chunk| self.task_of_chunk(chunk, 1, None));
        shared.into_iter().chain(self.tasks_of_own(len, own))
    }

    fn task_of_chunk(&self, chunk: Chunk<'a>, n_windows: usize, following: Option<usize>) -> Task<'a> {
        let topology = &self.plan.batch().topologies()[chunk.topology];
        let (parallel, width) = (self.parallel(chunk.topology), topology.size(self.axis));
        Task { topology, parallel, chunk, n_windows, width, following }
    }

    /// The tasks of instances with windows of their own: of up to `len` that follow each other with one
    /// topology.
    fn tasks_of_own(&self, len: usize, range: Range<usize>) -> impl Iterator<Item = Task<'a>> + use<'a, T> {
        let schedule = Self { ..*self };
        let mut rest = range;
        std::iter::from_fn(move || {
            let (first, plan) = (rest.next()?, schedule.plan);
            let topology = plan.batch().topology_id(first);
            let is_alike = |&g: &usize| g < schedule.instances && plan.batch().topology_id(g) == topology;
            let most = if plan.prepared(topology).has_several_windows() { len } else { 1 };
            rest.start += rest.clone().take(most - 1).take_while(is_alike).count();
            let members = Members::Range(first..rest.start);
            let chunk = Chunk { topology, offset: plan.batch().start(schedule.axis, first), members };
            let following = Some(rest.start).filter(is_alike);
            Some(schedule.task_of_chunk(chunk, rest.start - first, following))
        })
    }

    /// The task of a chunk whose instances share a window, if it has instances.
    pub(super) fn task(&self, c: usize) -> Option<Task<'a>> {
        self.tasks(c).next()
    }

    /// The tasks of a chunk that are computed like this.
    pub(super) fn tasks_in(
        &self,
        parallel: Parallel,
        c: usize,
    ) -> impl Iterator<Item = Task<'a>> + use<'a, T> {
        self.tasks(c).filter(move |task| task.parallel == parallel)
    }

    /// The instances of a range, ascending, in tasks of those that follow each other with one topology and
    /// one window, whatever their chunks are; or of those with windows of their own.
    pub(super) fn tasks_of(&self, range: Range<usize>) -> impl Iterator<Item = Task<'a>> + use<'a, T> {
        let (batch, axis, windows) = (self.plan.batch(), self.axis, self.windows);
        let (len, shared, own) = match self.kind {
            Kind::Copies(_) => (range.len(), range, 0..0),
            Kind::Table(_) => (1, range, 0..0),
            Kind::Single(len) => (len, 0..0, range),
        };
        let schedule = Self { ..*self };
        let shared = shared.clone().step_by(len.max(1)).map(move |first| {
            let members = Members::Range(first..(first + len).min(shared.end));
            let offset = windows.offset(batch, axis, first);
            let chunk = Chunk { topology: batch.topology_id(first), offset, members };
            schedule.task_of_chunk(chunk, 1, None)
        });
        shared.chain(self.tasks_of_own(len, own))
    }

    /// The chunks whose instances come one at a time, with their rows in parallel.
    pub(super) fn large(&self) -> impl Iterator<Item = Task<'a>> + '_ {
        let all = if self.has_large() { self.n_chunks() } else { 0 };
        (0..all).flat_map(|c| self.tasks_in(Parallel::Rows, c))
    }

    /// The windows of a task, and where its gradients belong in those of the batch.
    pub(super) fn window(&self, task: &Task<'_>) -> Range<usize> {
        let start = task.chunk.offset;
        start..start + task.n_windows * task.width
    }
}

/// The most numbers that a thread takes at once: single instances are short, and rows that follow each other
/// in memory are read faster.
const MOST_AT_ONCE: usize = 16;

/// Into how many parts at least the numbers of a thread are cut, so that all end at about the same time.
const PARTS_OF_THREAD: usize = 16;

/// Calls `f` once for each number of `range`, on at most as many threads as there are `states`; each call has
/// one of them to itself.
pub(super) fn for_each<S: Send>(states: &mut [S], range: Range<usize>, f: impl Fn(&mut S, usize) + Sync) {
    let most = if is_alone() { 1 } else { states.len() };
    let states = &mut states[..most.min(range.len())];
    if let [] | [_] = states {
        // Also for nothing rayon starts threads.
        states.iter_mut().for_each(|state| range.clone().for_each(|i| f(state, i)));
        return;
    }
    let next = AtomicUsize::new(range.start);
    let at_once = (range.len() / (states.len() * PARTS_OF_THREAD)).clamp(1, MOST_AT_ONCE);
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

/// Whether the rows of an instance are computed on several threads.
pub(super) fn is_shared_out(parallel: Parallel) -> bool {
    parallel == Parallel::Rows && !is_alone()
}

/// Calls `f` for each number below `n`.
pub(super) fn each(parallel: Parallel, n: usize, f: impl Fn(usize) + Sync) {
    if is_shared_out(parallel) {
        (0..n).into_par_iter().with_min_len(MIN_ROWS).for_each(&f);
    } else {
        (0..n).for_each(f);
    }
}

/// Calls `f` for each value and its position.
pub(super) fn each_value<A: Send>(parallel: Parallel, values: &mut [A], f: impl Fn(usize, &mut A) + Sync) {
    if is_shared_out(parallel) {
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
    if is_shared_out(parallel) {
        rows.par_chunks_mut(width).with_min_len(MIN_ROWS).enumerate().for_each(|(i, row)| f(i, row));
    } else {
        rows.chunks_mut(width).enumerate().for_each(|(i, row)| f(i, row));
    }
}
