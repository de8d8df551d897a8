//! The gradients of weights and scales: sums over the instances that read them, chunk by chunk. The order of
//! the sums is a function of the batch and its windows, see [above](super#bits).

#![allow(unsafe_code)]

use std::ops::Range;

use super::disjoint::Disjoint;
use super::plan::Plan;
use super::schedule::{Parallel, Schedule, Task, for_each};
use super::scratch::{Memory, Scratch};
use crate::element::{Accumulator, Element};
use crate::error::{Result, try_zeroed};

/// Room for the sums of chunks.
pub(super) struct ChunkSums<A> {
    /// Of many chunks of small topologies.
    partials: Partials<A>,
    /// Of one chunk of a large topology.
    large: Vec<A>,
}

impl<A: Accumulator> ChunkSums<A> {
    pub(super) fn new<T: Element<Acc = A>>(plan: &Plan<T>, max_instances: usize) -> Result<Self> {
        let width = |parallel| {
            let topologies = plan.batch().topologies().iter().filter(|t| Parallel::of(t) == parallel);
            topologies.map(|t| t.n_vertices().max(t.n_hyperedges())).max().unwrap_or(0)
        };
        let partials = Partials::new(width(Parallel::Instances), max_instances)?;
        Ok(Self { partials, large: try_zeroed("the workspace", width(Parallel::Rows))? })
    }

    /// Calls `f` for each chunk of `schedule` that has instances, with zeros (at least one for each element
    /// of its window) to add the gradients of its instances to. These sums are then added to `gradient`, if
    /// it is wanted, in the order of the chunks: those of small topologies come first.
    pub(super) fn add_up<T: Element<Acc = A>>(
        &mut self,
        memory: &mut Memory<A>,
        schedule: &Schedule<'_, T>,
        mut gradient: Option<&mut [A]>,
        f: impl Fn(&Task<'_>, &mut Scratch<A>, &mut [A]) + Sync,
    ) {
        let width = self.partials.width;
        self.partials.for_each_block(schedule.n_chunks(), |block, partials| {
            let rows = Disjoint::new(&mut *partials);
            for_each(&mut memory.threads, block.clone(), |scratch, c| {
                let Some(task) = schedule.task_of(Parallel::Instances, c) else { return };
                let row = (c - block.start) * width;
                // SAFETY: each chunk of the block has a row of its own, and is computed once.
                f(&task, scratch, unsafe { rows.part(row..row + width) });
            });
            let Some(gradient) = gradient.as_deref_mut() else { return };
            for c in block.clone() {
                if let Some(task) = schedule.task_of(Parallel::Instances, c) {
                    add(&mut gradient[schedule.window(&task)], &partials[(c - block.start) * width..]);
                }
            }
        });
        for task in schedule.large() {
            self.large.fill(A::ZERO);
            f(&task, &mut memory.large, &mut self.large);
            if let Some(gradient) = gradient.as_deref_mut() {
                add(&mut gradient[schedule.window(&task)], &self.large);
            }
        }
    }
}

fn add<A: Accumulator>(sums: &mut [A], values: &[A]) {
    for (sum, &value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}

/// The elements of [`Partials`]: 1 or 2 MiB, which stay in cache, and enough for hundreds of small instances.
const PARTIAL_ELEMENTS: usize = 1 << 18;

/// The sums of some chunks: one row each, as wide as the widest window of an instance.
#[derive(Debug)]
struct Partials<A> {
    values: Vec<A>,
    width: usize,
}

impl<A: Accumulator> Partials<A> {
    fn new(width: usize, max_rows: usize) -> Result<Self> {
        let rows = (PARTIAL_ELEMENTS / width.max(1)).clamp(1, max_rows.max(1));
        Ok(Self { values: try_zeroed("partial weight gradients", rows * width)?, width })
    }

    /// Calls `f` for consecutive blocks of `0..n`, with a zeroed row of partial gradients for each number.
    fn for_each_block(&mut self, n: usize, mut f: impl FnMut(Range<usize>, &mut [A])) {
        let rows = self.values.len().checked_div(self.width).unwrap_or(n.max(1));
        for start in (0..n).step_by(rows) {
            let block = start..(start + rows).min(n);
            let values = &mut self.values[..block.len() * self.width];
            values.fill(A::ZERO);
            f(block, values);
        }
    }
}

/// The gradient of weights or of a scale.
pub(super) struct GradientTo<'a, A> {
    pub(super) values: &'a mut [A],
    pub(super) accumulate: bool,
}

impl<'a, A: Accumulator> GradientTo<'a, A> {
    /// The sums so far: zeros, unless results are added to what there is.
    pub(super) fn start(self) -> &'a mut [A] {
        if !self.accumulate {
            self.values.fill(A::ZERO);
        }
        self.values
    }
}
