//! The convolution of instances whose topology has a dense operator M, and its gradients: y = M x, ∂x = Mᵀ g,
//! and ∂w from Γ_uv = ⟨g_u, x_v⟩. z and q are not needed.
//!
//! Where all copies of one topology read one window, Γ is summed over the instances, and expanded to ∂w once.
//! Else each instance is expanded alone, and gradients are added up as on the other path.

#![allow(unsafe_code)]

use arrayvec::ArrayVec;

use super::super::dense::FormedOf;
use super::super::gather::gather;
use super::super::instance_sums::GradientTo;
use super::super::operands::{Input, Output};
use super::super::schedule::{Schedule, Task};
use super::super::scratch::{Memory, Scratch};
use super::super::streams::Streams;
use super::super::tree_sums::TreeSums;
use super::{Backward, Call, Destination, Forward};
use crate::chunks::Chunk;
use crate::conv::Reduce;
use crate::dense::{chunk_len, most_slots, slices, slots};
use crate::element::{Accumulator, Element};
use crate::pairs::{MOST_VERTICES, Pairs};
use crate::path::Prepared;
use crate::summation::instances_of_bias_chunk;

impl<T: Element> Forward<'_, T> {
    /// y = M x. z is gathered where it is wanted.
    pub(super) fn dense(&self, task: &Task<'_>, pairs: &Pairs, scratch: &mut Scratch<T>) {
        if self.y.is_some() {
            self.call.form(task, pairs, scratch);
        }
        let streams = Streams::new(self.y.as_ref().is_some_and(Destination::is_streamed));
        for (i, task) in task.by_window().enumerate() {
            if self.y.is_some() {
                scratch.dense.select(i);
            }
            if self.z.is_some() {
                self.call.fill_degrees(&task, scratch);
            }
            self.apply(&task, &streams, scratch);
        }
    }

    /// The same, by the M that is selected.
    fn apply(&self, task: &Task<'_>, streams: &Streams, scratch: &mut Scratch<T>) {
        let call = &self.call;
        let (batch, shape) = (call.plan.batch(), (task.topology.n_vertices(), call.plan.features()));
        let source = |instance| self.x.source(batch, instance, None, false);
        let mut instances = task.instances().peekable();
        while let Some(instance) = instances.next() {
            if let Some(z) = &self.z {
                call.save_z(task, self.x, instance, scratch, z);
            }
            let Some(y) = &self.y else { continue };
            let next = instances.peek().copied().or(task.following).map(source);
            let Scratch { dense, rows, .. } = &mut *scratch;
            let rows = y.rows((batch, instance), shape, rows);
            // SAFETY: each instance is in one chunk, each chunk is computed once, and each vertex is once in
            // it.
            let store = |v, scale| unsafe { rows.store(v, scale) };
            match self.following.as_ref().map(|following| following.of(batch, instance)) {
                None => {
                    let store = |v, scale| streams.store(store(v, scale));
                    dense.store(shape.0, &source(instance), next.as_ref(), store);
                }
                Some(following) => {
                    let store = |v, scale| following.store(v, store(v, scale));
                    dense.store(shape.0, &source(instance), next.as_ref(), store);
                }
            }
            self.compute_readout(task, instance, scratch);
        }
    }
}

impl<T: Element> Call<'_, T> {
    /// Forms M of the windows of a task, unless the memory has it from another one, and selects the first.
    pub(super) fn form(&self, task: &Task<'_>, pairs: &Pairs, scratch: &mut Scratch<T>) {
        let &Task { chunk: Chunk { topology, offset, .. }, n_windows, .. } = task;
        let source = FormedOf { call: self.number, topology, offset, n_windows };
        scratch.dense.form((self.conv, task.topology, pairs), self.window(task), source);
    }

    /// Stores z of one instance, which nothing here is computed from.
    fn save_z(
        &self,
        task: &Task<'_>,
        x: Input<'_, T>,
        instance: usize,
        scratch: &Scratch<T>,
        z: &Output<'_, T::Acc>,
    ) {
        let x = self.source_of_z(x, instance, &scratch.inv_degree, &scratch.vertex_shift);
        for (e, members) in task.topology.by_edge().rows().enumerate() {
            let scale = Reduce::Mean.factor(members.len());
            // SAFETY: each instance is in one chunk, each chunk is computed once, and each hyperedge once in
            // it.
            gather(x, members, &mut unsafe { z.store(self.plan.batch(), instance, e, scale) });
        }
    }
}

/// Copies of a topology with a dense operator that all read one window.
pub(super) struct Copies<'a, T> {
    pairs: &'a Pairs,
    /// The instances of a chunk, whose Γ is rounded.
    chunk_len: usize,
    /// The instances of a chunk of the gradient of a bias.
    bias_chunk_len: usize,
    /// Tasks of whole chunks: as many as make an aligned part of the trees over chunks.
    schedule: Schedule<'a, T>,
}

impl<'a, T: Element> Backward<'a, T> {
    /// The copies of a call, if it is one over copies whose sums over all instances come before ∂w. Some may
    /// be those of the gradient of a bias.
    pub(super) fn dense_copies(&self, bias_wanted: bool) -> Option<Copies<'a, T>> {
        let call = &self.call;
        let copies = call.schedule.copies_of_chunk()?;
        let Prepared::Dense(pairs) = call.plan.prepared(0) else { return None };
        let n = call.plan.batch().topologies()[0].n_vertices();
        let chunk_len = chunk_len(slices(call.plan.features(), size_of::<T>()));
        let bias_chunk_len = instances_of_bias_chunk(n);
        let len = if bias_wanted { chunk_len.max(bias_chunk_len) } else { chunk_len };
        let schedule = call.schedule.of_copies(len.max(1 << copies.ilog2()));
        Some(Copies { pairs, chunk_len, bias_chunk_len, schedule })
    }

    /// Computes all copies: ∂x, ∂w added to `gradient`, and ∂b, if it is wanted.
    pub(super) fn add_up_copies(
        &self,
        copies: Copies<'a, T>,
        memory: &mut Memory<T>,
        sums: &mut TreeSums,
        gradient: &mut [T::Acc],
        grad_bias: Option<GradientTo<'_, T::Acc>>,
    ) {
        let (conv, schedule) = (self.call.conv, &copies.schedule);
        // A row of sums is Γ, and behind it ∂b.
        let n_pairs = copies.pairs.neighbors.len().pow(2);
        let width = n_pairs + if grad_bias.is_some() { self.call.plan.features() } else { 0 };
        let compute = |scratch: &mut Scratch<T>, c: usize, sums: &mut [f64]| {
            if let Some(task) = schedule.task(c) {
                let (gamma, bias) = sums.split_at_mut(n_pairs);
                self.add_up_task(&copies, &task, scratch, gamma, bias);
            }
        };
        let n_tasks = schedule.n_chunks();
        let sums = sums.add_up(width, &mut memory.threads, n_tasks, compute, |_, _, _| {});
        let (gamma, bias) = sums.split_at_mut(n_pairs);
        if let Some(grad_bias) = grad_bias {
            grad_bias.store(bias);
        }
        // Any thread's memory will do.
        if let (Some(task), Some(scratch)) = (schedule.task(0), memory.threads.first_mut()) {
            self.form(&task, copies.pairs, scratch);
            scratch.dense.weight_gradients(conv, task.topology, gamma, |e, values| {
                gradient[e] += T::Acc::from_f64(values[0]);
            });
        }
    }

    /// Computes the instances of a task: ∂x, and the sums of their Γ and of their rows of t, unless `bias` is
    /// empty.
    fn add_up_task(
        &self,
        copies: &Copies<'a, T>,
        task: &Task<'_>,
        scratch: &mut Scratch<T>,
        gamma: &mut [f64],
        bias: &mut [f64],
    ) {
        self.form(task, copies.pairs, scratch);
        let slots = most_slots(task.topology.n_vertices());
        scratch.tree.begin(gamma.len());
        scratch.bias.begin(bias.len(), copies.bias_chunk_len);
        let streams = self.streams();
        let mut instances = task.instances().peekable();
        while instances.peek().is_some() {
            let neighbors = &copies.pairs.neighbors;
            scratch.gram.begin(neighbors, self.call.plan.features(), copies.chunk_len, slots);
            for _ in 0..copies.chunk_len {
                let Some(instance) = instances.next() else { break };
                self.compute_dense_rows(task, instance, instances.peek().copied(), &streams, scratch);
                self.add_to_gram(instance, instances.peek().copied(), scratch);
                if !bias.is_empty() {
                    let Scratch { bias, rows, .. } = &mut *scratch;
                    bias.add(|sums| self.add_t(task, instance, rows, sums));
                }
            }
            scratch.tree.push(scratch.gram.finish::<T>(None));
        }
        gamma.copy_from_slice(scratch.tree.root());
        bias.copy_from_slice(scratch.bias.root());
    }

    /// Computes a chunk whose instances' gradients of weights are added up one by one.
    pub(super) fn dense(
        &self,
        task: &Task<'_>,
        pairs: &Pairs,
        scratch: &mut Scratch<T>,
        sums: &mut [T::Acc],
    ) {
        if self.is_passed_on() {
            self.call.form(task, pairs, scratch);
        }
        let (conv, topology, features) = (self.call.conv, task.topology, self.call.plan.features());
        let slots = slots(topology.n_vertices(), slices(features, size_of::<T>()));
        let n_pairs = pairs.neighbors.len().pow(2);
        let streams = self.streams();
        for (i, task_of_window) in task.by_window().enumerate() {
            if self.is_passed_on() {
                self.select(i, scratch);
            }
            let mut instances = task_of_window.instances().peekable();
            while let Some(instance) = instances.next() {
                let next = instances.peek().copied().or(task_of_window.following);
                self.compute_dense_rows(&task_of_window, instance, next, &streams, scratch);
                if !self.weights_wanted() {
                    continue;
                }
                scratch.gram.begin(&pairs.neighbors, features, 1, slots);
                self.add_to_gram(instance, None, scratch);
                let next = next.map(|next| self.x.source(self.call.plan.batch(), next, None, false));
                let Scratch { gram, dense, gamma, .. } = &mut *scratch;
                let lanes = dense.lanes();
                let gamma = &mut gamma[..n_pairs * lanes];
                for (gamma, &of_instance) in gamma.chunks_exact_mut(lanes).zip(&*gram.finish(next.as_ref())) {
                    gamma[i] = of_instance;
                }
                // Several windows have an instance each: all are expanded behind the last one.
                if i + 1 == task.n_windows {
                    dense.weight_gradients(conv, topology, gamma, |e, values| {
                        for (sums, &value) in sums.chunks_exact_mut(task.width).zip(values) {
                            sums[e] += T::Acc::from_f64(value);
                        }
                    });
                }
            }
        }
    }

    /// Forms M of a chunk's window, and Mᵀ if ∂x is wanted.
    fn form(&self, task: &Task<'_>, pairs: &Pairs, scratch: &mut Scratch<T>) {
        self.call.form(task, pairs, scratch);
        self.select(0, scratch);
    }

    /// Selects M of a window, and its transpose if ∂x is wanted.
    fn select(&self, window: usize, scratch: &mut Scratch<T>) {
        scratch.dense.select(window);
        if self.grad_x.is_some() {
            scratch.dense.transpose();
        }
    }

    /// The streams of a task, in which ∂x is stored.
    fn streams(&self) -> Streams {
        Streams::new(self.grad_x.as_ref().is_some_and(Output::is_streamed))
    }

    /// t of one instance, and ∂x, if it is wanted; and the gradient of its residual.
    fn compute_dense_rows(
        &self,
        task: &Task<'_>,
        instance: usize,
        next: Option<usize>,
        streams: &Streams,
        scratch: &mut Scratch<T>,
    ) {
        self.pass_on_to_residual(task, instance, scratch);
        if self.is_passed_on() {
            self.compute_t(task, instance, next, scratch);
        }
        let Some(grad_x) = &self.grad_x else { return };
        let batch = self.call.plan.batch();
        // SAFETY: each instance is in one chunk, each chunk is computed once, and each vertex is once in it.
        let store = |v| unsafe { grad_x.store(batch, instance, v, T::Acc::ONE) };
        let store = |v| streams.store(store(v));
        let mut rows: ArrayVec<_, MOST_VERTICES> = (0..task.topology.n_vertices()).map(store).collect();
        let Scratch { dense, rows: t, .. } = scratch;
        // What is in scratch memory is near already.
        let next = next.filter(|_| self.arriving.is_g()).map(|next| self.t(next, t, None));
        dense.apply_transposed(&self.t(instance, t, None), next.as_ref(), &mut rows);
    }

    /// Adds one instance to the chunk whose Γ is under way. `next` is the instance that is next.
    fn add_to_gram(&self, instance: usize, next: Option<usize>, scratch: &mut Scratch<T>) {
        let x = |instance| self.x.source(self.call.plan.batch(), instance, None, false);
        let Scratch { gram, dense, rows, .. } = scratch;
        gram.add(&self.t(instance, rows, None), dense.scales(), &x(instance), next.map(x).as_ref());
    }
}
