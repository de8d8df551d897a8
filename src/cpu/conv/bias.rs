//! The gradient of a bias: the sum of all rows of t, in `f64`.
//!
//! Its order depends on the batch alone, and not on windows. Chunks of consecutive instances, up to 256 rows
//! in all ([`instances_of_bias_chunk`]), add their rows one by one. An instance of more vertices is cut into
//! segments of 256 rows, which are added in order. The chunks are added in a binary tree over their numbers.

use super::super::instance_sums::GradientTo;
use super::super::schedule::{Parallel, Task};
use super::super::scratch::{Memory, Scratch, ScratchRows};
use super::super::tree_sums::TreeSums;
use super::super::vertex_sums::add_rows;
use super::Backward;
use crate::axis::Axis;
use crate::element::{Accumulator, Element};
use crate::summation::instances_of_bias_chunk;

impl<T: Element> Backward<'_, T> {
    /// Computes ∂b, in a pass of its own.
    pub(super) fn compute_grad_bias(
        &self,
        memory: &mut Memory<T>,
        sums: &mut TreeSums,
        grad_bias: GradientTo<'_, T::Acc>,
    ) {
        let call = &self.call;
        let batch = call.plan.batch();
        let len = instances_of_bias_chunk(batch.largest(Axis::Vertex));
        let instances = |c: usize| c * len..call.instances.min((c + 1) * len);
        let any_large = call.schedule.has_large();
        let is_large = |g: usize| call.schedule.parallel(batch.topology_id(g)) == Parallel::Rows;
        let has_large = |c: usize| any_large && instances(c).any(is_large);
        let Memory { threads, large } = memory;
        let root = sums.add_up(
            call.plan.features(),
            threads,
            call.instances.div_ceil(len),
            |scratch, c, sums| {
                if !has_large(c) {
                    let tasks = call.schedule.tasks_of(instances(c));
                    tasks.for_each(|task| self.add_rows_of_t(&task, scratch, sums));
                }
            },
            |threads, c, sums| {
                if !has_large(c) {
                    return;
                }
                for task in call.schedule.tasks_of(instances(c)) {
                    match (task.parallel, threads.first_mut()) {
                        (Parallel::Instances, Some(scratch)) => self.add_rows_of_t(&task, scratch, sums),
                        _ => self.add_rows_of_t(&task, large, sums),
                    }
                }
            },
        );
        grad_bias.store(root);
    }

    /// Adds t of some instances of a chunk.
    fn add_rows_of_t(&self, task: &Task<'_>, scratch: &mut Scratch<T>, sums: &mut [f64]) {
        let (call, needs_u) = (&self.call, self.arriving.needs_u());
        if needs_u {
            call.prepare_u(task, scratch);
        }
        for (number, task) in task.by_window().enumerate() {
            if needs_u {
                call.prepare_u_of_window(number, &task, scratch);
            }
            let mut instances = task.instances().peekable();
            while let Some(instance) = instances.next() {
                if needs_u {
                    call.prepare_u_of(&task, self.x, instance, scratch);
                }
                self.compute_t(&task, instance, instances.peek().copied(), scratch);
                self.add_t(&task, instance, &scratch.rows, sums);
            }
        }
    }

    /// Adds t of an instance, which is there already.
    pub(super) fn add_t(&self, task: &Task<'_>, instance: usize, rows: &ScratchRows<T>, sums: &mut [f64]) {
        let t = self.t(instance, rows, None);
        add_rows(task.parallel, sums, &t, task.topology.n_vertices(), |t| t.widen().to_f64());
    }
}
