//! The convolution of instances whose topology has a dense operator M, and its gradients: y = M x, ∂x = Mᵀ g,
//! and ∂w from Γ_uv = ⟨g_u, x_v⟩. z and q are not needed.
//!
//! Where all copies of one topology read one window, Γ is summed over the instances, and expanded to ∂w once.
//! Else each instance is expanded alone, and gradients are added up as on the other path.

#![allow(unsafe_code)]

use arrayvec::ArrayVec;

use super::super::degree::fill_degrees;
use super::super::schedule::{Schedule, Task};
use super::super::scratch::{Memory, Scratch};
use super::super::tree_sums::TreeSums;
use super::{Backward, Forward};
use crate::dense::{chunk_len, most_slots, slices, slots};
use crate::element::{Accumulator, Element};
use crate::pairs::{MOST_VERTICES, Pairs};

impl<T: Element> Forward<'_, T> {
    /// y = M x. z is gathered where it is wanted.
    pub(super) fn dense(&self, task: &Task<'_>, pairs: &Pairs, scratch: &mut Scratch<T::Acc>) {
        let call = &self.call;
        let (topology, batch) = (task.topology, call.plan.batch());
        fill_degrees(call.conv, task, call.window(task), scratch);
        if self.y.is_some() {
            let degrees = &scratch.degree[..topology.n_vertices()];
            scratch.dense.form(call.conv, topology, pairs, call.window(task), degrees);
        }
        let source = |instance| self.x.source(batch, instance, None, false);
        let mut instances = task.instances().peekable();
        while let Some(instance) = instances.next() {
            if self.z.is_some() {
                call.compute_z(task, self.x, instance, scratch, self.z.as_ref());
            }
            let Some(y) = &self.y else { continue };
            // SAFETY: each instance is in one chunk, each chunk is computed once, and each vertex is once in
            // it.
            let store = |v| unsafe { y.store(batch, instance, v, scratch.dense.scale(v)) };
            let mut rows: ArrayVec<_, MOST_VERTICES> = (0..topology.n_vertices()).map(store).collect();
            let next = instances.peek().map(|&next| source(next));
            scratch.dense.apply(&source(instance), next.as_ref(), &mut rows);
        }
    }
}

/// Copies of a topology with a dense operator that all read one window.
pub(super) struct Copies<'a, T> {
    pairs: &'a Pairs,
    /// The instances of a chunk, whose Γ is rounded.
    chunk_len: usize,
    /// Tasks of whole chunks: as many as make an aligned part of the tree over chunks.
    schedule: Schedule<'a, T>,
}

impl<'a, T: Element> Backward<'a, T> {
    /// The copies of a call, if it is one over copies whose sums over all instances come before ∂w.
    pub(super) fn dense_copies(&self) -> Option<Copies<'a, T>> {
        let call = &self.call;
        let copies = call.schedule.copies_of_chunk()?;
        let pairs = call.plan.pairs(0)?;
        let n = call.plan.batch().topologies()[0].n_vertices();
        let chunk_len = chunk_len(n, slices(call.plan.features(), size_of::<T>()));
        let schedule = call.schedule.of_copies(chunk_len.max(1 << copies.ilog2()));
        Some(Copies { pairs, chunk_len, schedule })
    }

    /// Computes all copies: ∂x, and ∂w added to `gradient`.
    pub(super) fn add_up_copies(
        &self,
        copies: Copies<'a, T>,
        memory: &mut Memory<T::Acc>,
        sums: &mut TreeSums,
        gradient: &mut [T::Acc],
    ) {
        let (conv, schedule) = (self.call.conv, &copies.schedule);
        let gamma = sums.add_up(&mut memory.threads, schedule.n_chunks(), |scratch, c, gamma| {
            if let Some(task) = schedule.task(c) {
                self.add_up_task(&copies, &task, scratch, gamma);
            }
        });
        // Any thread's memory will do.
        if let (Some(task), Some(scratch)) = (schedule.task(0), memory.threads.first_mut()) {
            self.form(&task, copies.pairs, scratch);
            scratch.dense.weight_gradients(conv, task.topology, gamma, |e, value| {
                gradient[e] += T::Acc::from_f64(value);
            });
        }
    }

    /// Computes the instances of a task: ∂x, and the sum of their Γ.
    fn add_up_task(
        &self,
        copies: &Copies<'a, T>,
        task: &Task<'_>,
        scratch: &mut Scratch<T::Acc>,
        gamma: &mut [f64],
    ) {
        self.form(task, copies.pairs, scratch);
        let slots = most_slots(task.topology.n_vertices());
        scratch.tree.begin(gamma.len());
        let mut instances = task.instances().peekable();
        while instances.peek().is_some() {
            let neighbors = &copies.pairs.neighbors;
            scratch.gram.begin(neighbors, self.call.plan.features(), copies.chunk_len, slots);
            for _ in 0..copies.chunk_len {
                let Some(instance) = instances.next() else { break };
                self.compute_dense_grad_x(task, instance, instances.peek().copied(), scratch);
                self.add_to_gram(instance, scratch);
            }
            scratch.tree.push(scratch.gram.finish());
        }
        gamma.copy_from_slice(scratch.tree.root());
    }

    /// Computes a chunk whose instances' gradients of weights are added up one by one.
    pub(super) fn dense(
        &self,
        task: &Task<'_>,
        pairs: &Pairs,
        scratch: &mut Scratch<T::Acc>,
        sums: &mut [T::Acc],
    ) {
        self.form(task, pairs, scratch);
        let (topology, features) = (task.topology, self.call.plan.features());
        let slots = slots(topology.n_vertices(), slices(features, size_of::<T>()));
        let mut instances = task.instances().peekable();
        while let Some(instance) = instances.next() {
            self.compute_dense_grad_x(task, instance, instances.peek().copied(), scratch);
            if self.weights_wanted() {
                scratch.gram.begin(&pairs.neighbors, features, 1, slots);
                self.add_to_gram(instance, scratch);
                let Scratch { gram, dense, .. } = &mut *scratch;
                dense.weight_gradients(self.call.conv, topology, gram.finish(), |e, value| {
                    sums[e] += T::Acc::from_f64(value);
                });
            }
        }
    }

    /// Forms M of a chunk's window, and Mᵀ if ∂x is wanted.
    fn form(&self, task: &Task<'_>, pairs: &Pairs, scratch: &mut Scratch<T::Acc>) {
        let (conv, weights) = (self.call.conv, self.call.window(task));
        fill_degrees(conv, task, weights, scratch);
        let degrees = &scratch.degree[..task.topology.n_vertices()];
        scratch.dense.form(conv, task.topology, pairs, weights, degrees);
        if self.grad_x.is_some() {
            scratch.dense.transpose();
        }
    }

    /// ∂x of one instance, if it is wanted.
    fn compute_dense_grad_x(
        &self,
        task: &Task<'_>,
        instance: usize,
        next: Option<usize>,
        scratch: &mut Scratch<T::Acc>,
    ) {
        let Some(grad_x) = &self.grad_x else { return };
        let batch = self.call.plan.batch();
        // SAFETY: each instance is in one chunk, each chunk is computed once, and each vertex is once in it.
        let store = |v| unsafe { grad_x.store(batch, instance, v, T::Acc::ONE) };
        let mut rows: ArrayVec<_, MOST_VERTICES> = (0..task.topology.n_vertices()).map(store).collect();
        let next = next.map(|next| self.grad_y(next, None));
        scratch.dense.apply_transposed(&self.grad_y(instance, None), next.as_ref(), &mut rows);
    }

    /// Adds one instance to the chunk whose Γ is under way.
    fn add_to_gram(&self, instance: usize, scratch: &mut Scratch<T::Acc>) {
        let x = self.x.source(self.call.plan.batch(), instance, None, false);
        scratch.gram.add(&self.grad_y(instance, None), scratch.dense.scales(), &x);
    }
}
