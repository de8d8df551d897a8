//! In which pieces a call is computed.

use rayon::prelude::*;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::batch::{Axis, Batch};
use crate::groups::{Chunk, Groups, Members};
use crate::windows::{WindowTable, Windows};

/// The chunks of a convolution call: all instances of a chunk have the same topology and the same weights.
pub(super) struct Schedule<'a> {
    batch: &'a Batch,
    instances: usize,
    kind: Kind<'a>,
}

enum Kind<'a> {
    /// Copies of one topology with shared weights, in chunks of this many.
    Copies(usize),
    /// Every instance has a window of its own.
    Single,
    Groups(&'a Groups),
}

impl<'a> Schedule<'a> {
    pub(super) fn new(batch: &'a Batch, windows: Windows<&'a WindowTable>, instances: usize) -> Self {
        let kind = match (windows, batch.by_topology()) {
            (Windows::Table(table), _) => Kind::Groups(table.groups()),
            (Windows::Shared, Some(groups)) => Kind::Groups(groups),
            (Windows::Shared, None) => Kind::Copies(batch.topologies()[0].chunk_len()),
            (Windows::Consecutive, _) => Kind::Single,
        };
        Self { batch, instances, kind }
    }

    pub(super) fn n_chunks(&self) -> usize {
        match self.kind {
            Kind::Copies(len) => self.instances.div_ceil(len),
            Kind::Single => self.instances,
            Kind::Groups(groups) => groups.n_chunks(),
        }
    }

    pub(super) fn chunk(&self, c: usize) -> Chunk<'a> {
        match self.kind {
            Kind::Copies(len) => {
                let members = Members::Range(c * len..((c + 1) * len).min(self.instances));
                Chunk { topology: 0, offset: 0, members }
            }
            Kind::Single => Chunk {
                topology: self.batch.topology_id(c),
                offset: self.batch.start(Axis::Hyperedge, c),
                members: Members::Range(c..c + 1),
            },
            Kind::Groups(groups) => groups.chunk(self.batch.topologies(), c, self.instances),
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
