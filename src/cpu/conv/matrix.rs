//! Matrices of instances: M of the convolution y = M x, the inner products of rows, and the gradients of
//! both.
//!
//! ```text
//! conv_matrix            M_uv
//! conv_matrix_backward   ∂w, from Γ_uv = ∂loss/∂M_uv as the convolution's backward from Γ_uv = ⟨g_u, x_v⟩
//! gram                   S_uv = ⟨x_u, x_v⟩
//! gram_backward          ∂x_u = Σ_v (G_uv + G_vu) x_v,    G = ∂loss/∂S
//! ```
//!
//! All of it is what the dense operators of `cpu/dense` are made of, whatever the path of a topology.
//! `kernels/matrix.cu` is the same on a GPU.

#![allow(unsafe_code)]

use super::super::instance_sums::GradientTo;
use super::super::operands::{Operands, Weights};
use super::super::schedule::{By, Schedule, Task};
use super::super::scratch::Scratch;
use super::super::workspace::Workspace;
use super::{Call, WEIGHTS};
use crate::axis::Axis;
use crate::dense::{slices, slots};
use crate::element::{Accumulator, Element};
use crate::error::Result;
use crate::operator::Operator;
use crate::pairs::{MOST_VERTICES, VertexSet};
use crate::rows::{Out, Rows};
use crate::windows::Windows;

impl<T: Element> Workspace<T> {
    /// M of the convolution y = M x, with the plan's conventions: what [`conv`](Self::conv) multiplies x by,
    /// also on [`Path::Gather`](crate::Path::Gather), where it sums in another order. Where u and v share no
    /// hyperedge, or one that takes part has degree 0, M_uv is 0. F has no part in it.
    ///
    /// * `weights`: one for each hyperedge, read through windows;
    /// * `matrix`: for each instance N · N elements, M_uv at u N + v, where N is the number of vertices of
    ///   the largest topology in use; overwritten, added to or skipped. Elements beyond the vertices of a
    ///   smaller topology are overwritten by 0, and not added to. The length tells the number of copies of a
    ///   replicated batch. Skipped, the call does nothing, and looks at no other operand.
    ///
    /// # Errors
    /// [`Error::MatrixUnavailable`](crate::Error::MatrixUnavailable) where a topology in use has more than 64
    /// vertices, or one whose vertices are in more than 512 hyperedges or are repeated too often; those
    /// [of operands](crate::cpu#errors-of-operands); and
    /// [`Error::NegativeDegree`](crate::Error::NegativeDegree). Nothing is written then.
    #[inline(never)]
    pub fn conv_matrix(&mut self, weights: Weights<'_, T::Acc>, matrix: Out<&mut [T::Acc]>) -> Result<()> {
        let mut matrix = matrix;
        self.plan.check_matrices(Operator::ConvMatrix)?;
        if !matrix.is_wanted() {
            return Ok(());
        }
        let mut operands = Operands::new();
        operands.weights(WEIGHTS, Axis::Hyperedge, weights);
        let matrix = operands.matrices_out("matrix", &mut matrix, self.plan.batch());
        let bound = operands.check(&self.plan, self.max_instances)?;
        let call = Call::new(&self.plan, By::Matrices, bound.instances(), weights);
        call.check_degrees()?;
        let Some(matrix) = matrix else { return Ok(()) };
        self.memory.for_each_chunk(&call.schedule, |task, scratch| {
            call.form_matrix(task, scratch);
            for instance in task.instances() {
                // SAFETY: each instance is in one chunk, and each chunk is computed once.
                unsafe {
                    matrix.store(instance, task.topology.n_vertices(), |u, v| scratch.dense.entry(u, v));
                }
            }
        });
        Ok(())
    }

    /// The gradient of [`conv_matrix`](Self::conv_matrix) from the same `weights`. From
    /// ∂loss/∂M_uv = ⟨g_u, x_v⟩ it is what [`conv_backward`](Self::conv_backward) gives on
    /// [`Path::Dense`](crate::Path::Dense), up to the order in which instances are added.
    ///
    /// * `grad_matrix`: ∂loss/∂M, as `matrix` of [`conv_matrix`](Self::conv_matrix); elements of pairs that
    ///   share no hyperedge, and beyond the vertices of a topology, have no part;
    /// * `grad_weights`: as many elements as `weights` has values, overwritten, added to or skipped: for
    ///   each, the sum over all instances whose windows cover it, 0 where there are none.
    ///
    /// # Errors
    /// As [`conv_matrix`](Self::conv_matrix).
    #[inline(never)]
    pub fn conv_matrix_backward(
        &mut self,
        weights: Weights<'_, T::Acc>,
        grad_matrix: &[T::Acc],
        grad_weights: Out<&mut [T::Acc]>,
    ) -> Result<()> {
        let mut grad_weights = grad_weights;
        self.plan.check_matrices(Operator::ConvMatrixBackward)?;
        let mut operands = Operands::new();
        operands.weights(WEIGHTS, Axis::Hyperedge, weights);
        let grad_matrix = operands.matrices("grad_matrix", grad_matrix, self.plan.batch());
        let of = (WEIGHTS, weights.values.len());
        let grad_weights = operands.gradient("grad_weights", of, &mut grad_weights);
        let bound = operands.check(&self.plan, self.max_instances)?;
        let call = Call::new(&self.plan, By::Matrices, bound.instances(), weights);
        call.check_degrees()?;
        // Matrices without entries do not tell how many there are.
        let has_entries = call.instances > 0 && self.plan.batch().largest(Axis::Vertex) > 0;
        let is_wanted = call.conv.weights_matter() && has_entries;
        let Some(gradient) = grad_weights.map(GradientTo::start).filter(|_| is_wanted) else {
            return Ok(());
        };
        match call.schedule.copies_of_chunk().zip(self.plan.prepared(0).pairs()) {
            Some((copies, pairs)) => {
                // Whole parts of the tree over the instances.
                let schedule = call.schedule.of_copies(1 << copies.ilog2());
                let n = pairs.neighbors.len();
                let compute = |scratch: &mut Scratch<T>, c: usize, sums: &mut [f64]| {
                    let Some(task) = schedule.task(c) else { return };
                    call.form_matrix(&task, scratch);
                    let Scratch { dense, gram, tree, .. } = scratch;
                    tree.begin(n * n);
                    for instance in task.instances() {
                        tree.push(
                            gram.given(n, |u, v| grad_matrix.entry(instance, u, v) * dense.scales()[u]),
                        );
                    }
                    sums.copy_from_slice(tree.root());
                };
                let n_tasks = schedule.n_chunks();
                let threads = &mut self.memory.threads;
                let gamma = self.tree_sums.add_up(n * n, threads, n_tasks, compute, |_, _, _| {});
                // Any thread's memory will do.
                if let (Some(task), Some(scratch)) = (schedule.task(0), threads.first_mut()) {
                    call.form_matrix(&task, scratch);
                    scratch.dense.weight_gradients(call.conv, task.topology, gamma, |e, values| {
                        gradient[e] += T::Acc::from_f64(values[0]);
                    });
                }
            }
            None => {
                self.sums.add_up(&mut self.memory, &call.schedule, Some(gradient), |task, scratch, sums| {
                    call.form_matrix(task, scratch);
                    let n = task.topology.n_vertices();
                    let Scratch { dense, gram, .. } = scratch;
                    for instance in task.instances() {
                        let gamma =
                            gram.given(n, |u, v| grad_matrix.entry(instance, u, v) * dense.scales()[u]);
                        dense.weight_gradients(call.conv, task.topology, gamma, |e, values| {
                            sums[e] += T::Acc::from_f64(values[0]);
                        });
                    }
                })
            }
        }
        Ok(())
    }

    /// The inner products of the rows of each instance, ⟨x_u, x_v⟩, in the order in which the backward of the
    /// convolution forms its products. The matrices are symmetric, in bits.
    ///
    /// * `x`: `N` rows of vertices;
    /// * `gram`: laid out, and overwritten, added to or skipped, as `matrix` of
    ///   [`conv_matrix`](Self::conv_matrix).
    ///
    /// # Errors
    /// As [`conv_matrix`](Self::conv_matrix), but that only the vertices count, and that there are no
    /// degrees.
    #[inline(never)]
    pub fn gram(&mut self, x: Rows<&[T]>, gram: Out<&mut [T::Acc]>) -> Result<()> {
        let mut gram = gram;
        self.plan.check_matrices(Operator::Gram)?;
        let mut operands = Operands::new();
        let x = operands.read("x", Axis::Vertex, x);
        let gram = operands.matrices_out("gram", &mut gram, self.plan.batch());
        let bound = operands.check(&self.plan, self.max_instances)?;
        let Some(gram) = gram else { return Ok(()) };
        let (x, plan) = (bound.input(x), &self.plan);
        let schedule = Schedule::new(plan, By::Matrices, Axis::Vertex, Windows::Shared, bound.instances());
        self.memory.for_each_chunk(&schedule, |task, scratch| {
            let (n, features) = (task.topology.n_vertices(), plan.features());
            let slots = slots(n, slices(features, size_of::<T>()));
            let (all, ones) = ([VertexSet::MAX; MOST_VERTICES], [T::Acc::ONE; MOST_VERTICES]);
            for instance in task.instances() {
                let x = x.source(plan.batch(), instance, None, false);
                scratch.gram.begin(&all[..n], features, 1, slots);
                scratch.gram.add(&x, &ones, &x, None);
                let sums = scratch.gram.finish::<T>(None);
                // SAFETY: each instance is in one chunk, and each chunk is computed once.
                unsafe { gram.store(instance, n, |u, v| T::Acc::from_f64(sums[u * n + v])) };
            }
        });
        Ok(())
    }

    /// The gradient of [`gram`](Self::gram) for G = ∂loss/∂gram, from the same `x`:
    /// ∂x_u = Σ_v (G_uv + G_vu) x_v. The sum has a term for each vertex, also where the factor is 0.
    ///
    /// * `x`: `N` rows of vertices;
    /// * `grad_gram`: as `gram`, and not read beyond the vertices of a topology. It need not be symmetric;
    /// * `grad_x`: `N` rows of vertices, overwritten, added to or skipped.
    ///
    /// # Errors
    /// As [`gram`](Self::gram).
    #[inline(never)]
    pub fn gram_backward(
        &mut self,
        x: Rows<&[T]>,
        grad_gram: &[T::Acc],
        grad_x: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        let mut grad_x = grad_x;
        self.plan.check_matrices(Operator::GramBackward)?;
        let mut operands = Operands::new();
        let x = operands.read("x", Axis::Vertex, x);
        let grad_gram = operands.matrices("grad_gram", grad_gram, self.plan.batch());
        let grad_x = operands.write("grad_x", Axis::Vertex, &mut grad_x);
        let bound = operands.check(&self.plan, self.max_instances)?;
        let Some(grad_x) = grad_x.filter(|_| self.plan.features() > 0) else { return Ok(()) };
        let (x, grad_x, plan) = (bound.input(x), bound.output(grad_x), &self.plan);
        let schedule = Schedule::new(plan, By::Matrices, Axis::Vertex, Windows::Shared, bound.instances());
        self.memory.for_each_chunk(&schedule, |task, scratch| {
            let (n, batch) = (task.topology.n_vertices(), plan.batch());
            let source = |instance| x.source(batch, instance, None, false);
            let mut instances = task.instances().peekable();
            while let Some(instance) = instances.next() {
                let entry = |u, v| grad_gram.entry(instance, u, v);
                scratch.dense.set(n, |u, v| entry(u, v) + entry(v, u));
                let next = instances.peek().map(|&next| source(next));
                // SAFETY: each instance is in one chunk, each chunk is computed once, and each vertex is once
                // in it.
                let store = |v, scale| unsafe { grad_x.store(batch, instance, v, scale) };
                scratch.dense.store(n, &source(instance), next.as_ref(), store);
            }
        });
        Ok(())
    }
}

compiled_here!(
    Workspace::<T>::conv_matrix as fn(_, _, _) -> _,
    Workspace::<T>::conv_matrix_backward as fn(_, _, _, _) -> _,
    Workspace::<T>::gram as fn(_, _, _) -> _,
    Workspace::<T>::gram_backward as fn(_, _, _, _) -> _,
);

impl<T: Element> Call<'_, T> {
    /// Forms M of a chunk's window, whatever the path.
    fn form_matrix(&self, task: &Task<'_>, scratch: &mut Scratch<T>) {
        // There are pairs of all topologies in use, or the call was refused.
        if let Some(pairs) = self.plan.prepared(task.chunk.topology).pairs() {
            self.form(task, pairs, scratch);
        }
    }
}
