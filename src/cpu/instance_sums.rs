//! The gradients of weights and scales: sums over the instances that read them, chunk by chunk. The order of
//! the sums is a function of the batch and its windows, see [above](super#bits).

#![allow(unsafe_code)]

use std::mem;

use super::disjoint::Disjoint;
use super::partials::Partials;
use super::plan::Plan;
use super::schedule::{Parallel, Schedule, Task, for_each};
use super::scratch::{Memory, Scratch};
use crate::element::{Accumulator, Element};
use crate::error::{Result, try_zeroed};

/// Room for the sums of chunks.
pub(super) struct ChunkSums<A> {
    /// Of many chunks that are computed in parallel.
    partials: Partials<A>,
    /// Of one chunk whose rows are.
    large: Vec<A>,
}

impl<A: Accumulator> ChunkSums<A> {
    pub(super) fn new<T: Element<Acc = A>>(plan: &Plan<T>, max_instances: usize) -> Result<Self> {
        let width = |parallel: Parallel| {
            let topologies = plan.batch().topologies().iter().enumerate();
            let topologies = topologies.filter(|&(id, _)| parallel.is_of(plan, id));
            topologies.map(|(_, t)| t.n_vertices().max(t.n_hyperedges())).max().unwrap_or(0)
        };
        let partials = Partials::new(width(Parallel::Instances), max_instances)?;
        Ok(Self { partials, large: try_zeroed("the workspace", width(Parallel::Rows))? })
    }

    /// Calls `f` for each chunk of `schedule` that has instances, with zeros (at least one for each element
    /// of its window) to add the gradients of its instances to. These sums are then added to `gradient`, if
    /// it is wanted, in the order of the chunks, whatever is computed in parallel.
    pub(super) fn add_up<T: Element<Acc = A>>(
        &mut self,
        memory: &mut Memory<T>,
        schedule: &Schedule<'_, T>,
        mut gradient: Option<&mut [A]>,
        f: impl Fn(&Task<'_>, &mut Scratch<T>, &mut [A]) + Sync,
    ) {
        let small = |c| schedule.tasks_in(Parallel::Instances, c);
        let Memory { threads, large: scratch_of_large } = memory;
        let mut compute_large = |task: &Task<'_>, gradient: Option<&mut [A]>| {
            self.large.fill(A::ZERO);
            f(task, scratch_of_large, &mut self.large);
            if let Some(gradient) = gradient {
                add(&mut gradient[schedule.window(task)], &self.large);
            }
        };
        if schedule.has_own_windows() {
            let shared = gradient.as_deref_mut().map(Disjoint::new);
            for_each(threads, 0..schedule.n_chunks(), |scratch, c| {
                for task in small(c) {
                    let window = schedule.window(&task);
                    let mut room = mem::take(&mut scratch.sums);
                    let sums = &mut room[..window.len()];
                    sums.fill(A::ZERO);
                    f(&task, scratch, sums);
                    if let Some(gradient) = &shared {
                        // SAFETY: no two windows overlap, and each instance is in one task.
                        add(unsafe { gradient.part(window) }, sums);
                    }
                    scratch.sums = room;
                }
            });
            schedule.large().for_each(|task| compute_large(&task, gradient.as_deref_mut()));
        } else {
            self.partials.for_each(
                threads,
                schedule.n_chunks(),
                |scratch, c, sums| small(c).for_each(|task| f(&task, scratch, sums)),
                |_, c, sums| {
                    for task in schedule.tasks(c) {
                        match (task.parallel, gradient.as_deref_mut()) {
                            (Parallel::Rows, gradient) => compute_large(&task, gradient),
                            (_, Some(gradient)) => add(&mut gradient[schedule.window(&task)], sums),
                            (_, None) => {}
                        }
                    }
                },
            );
        }
    }
}

fn add<A: Accumulator>(sums: &mut [A], values: &[A]) {
    for (sum, &value) in sums.iter_mut().zip(values) {
        *sum += value;
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

    /// Stores or adds a value of each element.
    pub(super) fn store(self, values: &[f64]) {
        for (place, &value) in self.values.iter_mut().zip(values) {
            let value = A::from_f64(value);
            *place = if self.accumulate { *place + value } else { value };
        }
    }
}
