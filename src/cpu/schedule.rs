//! In which pieces a call is computed, and in which order the gradients of the pieces are added up.

#![allow(unsafe_code)]

use rayon::prelude::*;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::disjoint::Disjoint;
use super::workspace::{Memory, Scratch};
use super::{Path, Plan, add_to};
use crate::axis::Axis;
use crate::chunk::{Chunk, Members};
use crate::element::{Accumulator, Element};
use crate::groups::Groups;
use crate::incidence::Incidence;
use crate::windows::{WindowTable, Windows};

/// The chunks of a call: all instances of a chunk have the same topology and the same window along `axis`.
pub(super) struct Schedule<'a, T> {
    plan: &'a Plan<T>,
    axis: Axis,
    instances: usize,
    kind: Kind<'a>,
}

enum Kind<'a> {
    /// Copies of one topology with one window, in chunks of this many.
    Copies(usize),
    /// Every instance has a window of its own, which no other overlaps: all orders have the same bits.
    Single,
    Groups(&'a Groups),
}

/// A chunk that has instances.
pub(super) struct Task<'a> {
    pub(super) topology: &'a Incidence,
    /// Whether the rows of an instance are worth computing in parallel.
    pub(super) parallel: bool,
    pub(super) chunk: Chunk<'a>,
}

impl Task<'_> {
    /// The instances, ascending.
    pub(super) fn instances(&self) -> impl Iterator<Item = usize> + '_ {
        self.chunk.members.iter()
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
        let kind = match (windows, batch.by_topology(axis)) {
            (Windows::Table(table), _) => Kind::Groups(table.groups()),
            (Windows::Shared, Some(groups)) => Kind::Groups(groups),
            (Windows::Shared, None) => Kind::Copies(batch.topologies()[0].chunk_len()),
            (Windows::Consecutive, _) => Kind::Single,
        };
        Self { plan, axis, instances, kind }
    }

    pub(super) fn n_chunks(&self) -> usize {
        match self.kind {
            Kind::Copies(len) => self.instances.div_ceil(len),
            Kind::Single => self.instances,
            Kind::Groups(groups) => groups.n_chunks(),
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
            Kind::Groups(groups) => groups.chunk(c, self.instances),
        }
    }

    /// A chunk, if it has instances.
    pub(super) fn task(&self, c: usize) -> Option<Task<'a>> {
        let chunk = self.chunk(c);
        chunk.members.iter().next()?;
        let topology = &self.plan.batch().topologies()[chunk.topology];
        Some(Task { topology, parallel: self.plan.path(chunk.topology) == Path::GatherRows, chunk })
    }

    /// The same, if its topology is on `path`.
    fn task_on(&self, path: Path, c: usize) -> Option<Task<'a>> {
        self.task(c).filter(|task| task.parallel == (path == Path::GatherRows))
    }

    /// Adds the sums of a chunk to those of the batch.
    fn add(&self, task: &Task<'_>, sums: &[T::Acc], gradient: &mut [T::Acc]) {
        let width = task.topology.size(self.axis);
        add_to(&mut gradient[task.chunk.offset..][..width], &sums[..width]);
    }
}

impl<A: Accumulator> Memory<A> {
    /// Calls `f` for each chunk of `schedule` that has instances.
    pub(super) fn for_each_chunk<T: Element<Acc = A>>(
        &mut self,
        schedule: &Schedule<'_, T>,
        f: impl Fn(&Task<'_>, &mut Scratch<A>) + Sync,
    ) {
        for_each(&mut self.slots, 0..schedule.n_chunks(), |scratch, c| {
            if let Some(task) = schedule.task_on(Path::Gather, c) {
                f(&task, scratch);
            }
        });
        if schedule.plan.has(Path::GatherRows) {
            for task in (0..schedule.n_chunks()).filter_map(|c| schedule.task_on(Path::GatherRows, c)) {
                f(&task, &mut self.large);
            }
        }
    }

    /// Calls `f` for each chunk of `schedule` that has instances, with zeros (at least one for each element of its window)
    /// to add the gradients of its instances to. These sums are then added to `gradient`, if it is wanted, in the order
    /// of the chunks: groups have the chunks of small topologies first.
    pub(super) fn sum_chunks<T: Element<Acc = A>>(
        &mut self,
        schedule: &Schedule<'_, T>,
        mut gradient: Option<&mut [A]>,
        f: impl Fn(&Task<'_>, &mut Scratch<A>, &mut [A]) + Sync,
    ) {
        let (slots, width) = (&mut self.slots, self.partials.width);
        self.partials.for_each_block(schedule.n_chunks(), |block, partials| {
            let rows = Disjoint::new(&mut *partials);
            for_each(slots, block.clone(), |scratch, c| {
                let Some(task) = schedule.task_on(Path::Gather, c) else { return };
                let row = (c - block.start) * width;
                // SAFETY: each chunk of the block has a row of its own, and is computed once.
                f(&task, scratch, unsafe { rows.part(row..row + width) });
            });
            let Some(gradient) = gradient.as_deref_mut() else { return };
            for c in block.clone() {
                if let Some(task) = schedule.task_on(Path::Gather, c) {
                    schedule.add(&task, &partials[(c - block.start) * width..], gradient);
                }
            }
        });
        if schedule.plan.has(Path::GatherRows) {
            for task in (0..schedule.n_chunks()).filter_map(|c| schedule.task_on(Path::GatherRows, c)) {
                self.large_sums.fill(A::ZERO);
                f(&task, &mut self.large, &mut self.large_sums);
                if let Some(gradient) = gradient.as_deref_mut() {
                    schedule.add(&task, &self.large_sums, gradient);
                }
            }
        }
    }
}

/// Calls `f` once for each number of `range`, on as many threads as there are `slots`; each call has a slot to itself.
pub(super) fn for_each<S: Send>(slots: &mut [S], range: Range<usize>, f: impl Fn(&mut S, usize) + Sync) {
    let next = AtomicUsize::new(range.start);
    slots.par_iter_mut().for_each(|slot| {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= range.end {
                break;
            }
            f(slot, i);
        }
    });
}

/// The rows of one instance that a task computes in parallel.
const MIN_ROWS: usize = 16;

/// Calls `f` for each number below `n`.
pub(super) fn each(parallel: bool, n: usize, f: impl Fn(usize) + Sync) {
    if parallel {
        (0..n).into_par_iter().with_min_len(MIN_ROWS).for_each(&f);
    } else {
        (0..n).for_each(f);
    }
}

/// Calls `f` for each value and its position.
pub(super) fn each_value<A: Send>(parallel: bool, values: &mut [A], f: impl Fn(usize, &mut A) + Sync) {
    if parallel {
        values.par_iter_mut().with_min_len(MIN_ROWS).enumerate().for_each(|(i, value)| f(i, value));
    } else {
        values.iter_mut().enumerate().for_each(|(i, value)| f(i, value));
    }
}

/// Calls `f` for each row of `width` elements (at least one) and its position.
pub(super) fn each_row<A: Send>(
    parallel: bool,
    rows: &mut [A],
    width: usize,
    f: impl Fn(usize, &mut [A]) + Sync,
) {
    if parallel {
        rows.par_chunks_mut(width).with_min_len(MIN_ROWS).enumerate().for_each(|(i, row)| f(i, row));
    } else {
        rows.chunks_mut(width).enumerate().for_each(|(i, row)| f(i, row));
    }
}
