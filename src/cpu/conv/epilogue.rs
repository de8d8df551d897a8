//! The convolution with an epilogue: what follows it in the same pass, and the gradients of both together.
//!
//! With u the sums of the convolution, b the bias, s the residual and g = ∂loss/∂y:
//!
//! ```text
//! y_v       = act(u_v + b) + s_v                 readout = Σ_v y_v / n
//! t_v       = g_v act'(u_v + b)                  g_v     = ∂loss/∂readout / n
//! ∂x, ∂w    = those of the convolution, with t in the place of g
//! ∂b        = Σ t_v,  ∂s_v = g_v
//! ```
//!
//! Everything is computed in the accumulation type. u is not rounded before the epilogue; y, t and ∂s are
//! rounded once. The sum of a readout is one of the rounded rows of y, and ∂b of the rounded t.

#![allow(unsafe_code)]

use super::super::disjoint::Disjoint;
use super::super::epilogue::{StoreGradient, store_row};
use super::super::gather::{Source, Store};
use super::super::operands::Weights;
use super::super::schedule::{Task, each};
use super::super::scratch::{Scratch, ScratchRows};
use super::super::vertex_sums::add_rows;
use super::super::workspace::Workspace;
use super::operands::{Destination, Epilogue, EpilogueGradients, Finish, Gradient};
use super::{Backward, Forward, Ready, edge_rows};
use crate::element::{Accumulator, Element};
use crate::error::Result;
use crate::rows::{Out, Rows};

impl<T: Element> Workspace<T> {
    /// y = act(u + b) + residual, where u is what [`conv`](Self::conv) computes, before it is rounded.
    ///
    /// * `x`, `weights`: as for [`conv`](Self::conv);
    /// * `epilogue`: the activation, and a bias of F elements of type `T::Acc`, if there is one;
    /// * `residual`: `N` rows of vertices, if there are any;
    /// * `y`: `N` rows of vertices, overwritten, added to or skipped. A vertex of degree 0 has u = 0.
    ///
    /// Without an activation, bias and residual this is [`conv`](Self::conv), with the same bits.
    ///
    /// # Errors
    /// As [`conv`](Self::conv), and [`Error::LengthMismatch`](crate::Error::LengthMismatch) of the bias.
    pub fn conv_epilogue(
        &mut self,
        x: Rows<&[T]>,
        weights: Weights<'_, T::Acc>,
        epilogue: &Epilogue<'_, T::Acc>,
        residual: Option<Rows<&[T]>>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        let following = Finish { epilogue, residual };
        self.forward(x, weights, None, Some(following), y, Out::Skip)
    }

    /// The gradients of [`conv_epilogue`](Self::conv_epilogue) for g = ∂loss/∂y, from the same `x`, `weights`
    /// and `epilogue`. What the activation was applied to is computed again.
    ///
    /// With t = g act'(u + b), rounded to `T`, and 0 where the derivative is 0, whatever g is there:
    ///
    /// * `gradients.x`, `gradients.weights`: those of [`conv_backward`](Self::conv_backward) for t in the
    ///   place of `grad_y`, with the same shapes and bits;
    /// * `gradients.bias`: F elements of type `T::Acc`, the sum of all rows of t; none without a bias;
    /// * `gradients.residual`: `N` rows of vertices, g itself.
    ///
    /// Each is overwritten, added to or skipped. The gradient of the bias is summed in `f64`, in an order
    /// that the batch alone decides, see [above](crate::cpu#bits). It takes another pass over `x` and g,
    /// unless the gradient of weights is wanted too, which all copies of a topology that is computed by its
    /// dense operator share.
    ///
    /// # Errors
    /// As [`conv_epilogue`](Self::conv_epilogue).
    pub fn conv_epilogue_backward(
        &mut self,
        x: Rows<&[T]>,
        weights: Weights<'_, T::Acc>,
        epilogue: &Epilogue<'_, T::Acc>,
        grad_y: Rows<&[T]>,
        gradients: EpilogueGradients<'_, T>,
    ) -> Result<()> {
        self.backward(x, None, weights, epilogue, Gradient::Rows(grad_y), gradients)
    }

    /// The mean over the vertices of each instance of what [`conv_epilogue`](Self::conv_epilogue) computes:
    /// the sum of the rows that it would store, in `T::Acc`, divided by their number. The rows themselves are
    /// not stored.
    ///
    /// * `x`, `weights`, `epilogue`, `residual`: as for [`conv_epilogue`](Self::conv_epilogue);
    /// * `readout`: a row of F elements for each instance, one behind the other, overwritten, added to or
    ///   skipped. An instance without vertices has a row of zeros.
    ///
    /// # Errors
    /// As [`conv_epilogue`](Self::conv_epilogue), and
    /// [`Error::LengthMismatch`](crate::Error::LengthMismatch) of the readout. It does not tell the number of
    /// copies of a replicated batch.
    pub fn conv_readout(
        &mut self,
        x: Rows<&[T]>,
        weights: Weights<'_, T::Acc>,
        epilogue: &Epilogue<'_, T::Acc>,
        residual: Option<Rows<&[T]>>,
        readout: Out<&mut [T]>,
    ) -> Result<()> {
        let following = Finish { epilogue, residual };
        self.forward(x, weights, None, Some(following), Out::Skip, readout)
    }

    /// The gradients of [`conv_readout`](Self::conv_readout) for ∂loss/∂readout, from the same `x`, `weights`
    /// and `epilogue`.
    ///
    /// * `grad_readout`: a row of F elements for each instance, one behind the other. Divided by the number
    ///   of vertices, and not rounded to `T`, it is g of each vertex;
    /// * the others as for [`conv_epilogue_backward`](Self::conv_epilogue_backward).
    ///
    /// # Errors
    /// As [`conv_readout`](Self::conv_readout).
    pub fn conv_readout_backward(
        &mut self,
        x: Rows<&[T]>,
        weights: Weights<'_, T::Acc>,
        epilogue: &Epilogue<'_, T::Acc>,
        grad_readout: &[T],
        gradients: EpilogueGradients<'_, T>,
    ) -> Result<()> {
        self.backward(x, None, weights, epilogue, Gradient::Readout(grad_readout), gradients)
    }
}

impl<T: Element> Forward<'_, T> {
    /// The mean of the rows of an instance that are in scratch memory, if that is what is wanted.
    pub(super) fn compute_readout(&self, task: &Task<'_>, instance: usize, scratch: &mut Scratch<T>) {
        let Some(Destination::Readout(readout)) = &self.y else { return };
        let (n, features) = (task.topology.n_vertices(), self.call.plan.features());
        let Scratch { rows, instance_row: sums, .. } = scratch;
        sums.fill(T::Acc::ZERO);
        add_rows(task.parallel, sums, &scratch_rows(rows.read(), features, features), n, T::widen);
        if n > 0 {
            let count = T::Acc::from_count(n);
            sums.iter_mut().for_each(|sum| *sum = *sum / count);
        }
        // SAFETY: each instance is in one chunk, and each chunk is computed once.
        store_row(unsafe { readout.store(instance, features) }, sums);
    }
}

impl<T: Element> Backward<'_, T> {
    /// t of an instance, times these factors of the vertices. Where it is not g itself, it is what
    /// [`compute_t`](Self::compute_t) left in `rows`.
    pub(super) fn t<'s>(
        &'s self,
        instance: usize,
        rows: &'s ScratchRows<T>,
        scale: Option<&'s [T::Acc]>,
    ) -> Source<'s, T> {
        let (plan, needs_u) = (self.call.plan, self.arriving.needs_u());
        let row_stride = match &self.arriving.gradient {
            Gradient::Rows(g) if !needs_u => return g.source(plan.batch(), instance, scale, true),
            // All vertices have one row.
            Gradient::Readout(_) if !needs_u => 0,
            _ => plan.features(),
        };
        scratch_rows(rows.read(), row_stride, plan.features()).scaled(scale)
    }

    /// Computes t of an instance in scratch memory, where it is not g itself. If it depends on u: on the
    /// gather path from z, which is there already, and else from M. `next` is the instance that is next.
    pub(super) fn compute_t(
        &self,
        task: &Task<'_>,
        instance: usize,
        next: Option<usize>,
        scratch: &mut Scratch<T>,
    ) {
        let (n, batch, features) =
            (task.topology.n_vertices(), self.call.plan.batch(), self.call.plan.features());
        if n == 0 {
            return;
        }
        let Scratch { z, inv_degree, vertex_shift, dense, rows, instance_row, .. } = scratch;
        let from = Ready { z, inv_degree, vertex_shift, dense };
        match &self.arriving.gradient {
            Gradient::Rows(_) if !self.arriving.needs_u() => {}
            Gradient::Rows(g) => {
                self.store_t(task, (instance, next), g.source(batch, instance, None, false), from, rows);
            }
            Gradient::Readout(g) => {
                mean(g, instance, n, instance_row);
                if self.arriving.needs_u() {
                    let g = Source { row_stride: 0, ..edge_rows(instance_row, features, None) };
                    self.store_t(task, (instance, next), g, from, rows);
                } else {
                    store_row(
                        Store { row: rows.write(features), scale: T::Acc::ONE, accumulate: false },
                        instance_row,
                    );
                }
            }
        }
    }

    /// Computes the rows of t, for these rows of g.
    fn store_t<S: Element<Acc = T::Acc>>(
        &self,
        task: &Task<'_>,
        (instance, next): (usize, Option<usize>),
        g: Source<'_, S>,
        from: Ready<'_, T>,
        rows: &mut ScratchRows<T>,
    ) {
        let (call, activated) = (&self.call, self.arriving.activated);
        let (n, features) = (task.topology.n_vertices(), call.plan.features());
        let rows = Disjoint::new(rows.write(n * features));
        let store = |v, scale| {
            // SAFETY: rows do not overlap, and each vertex is computed once.
            let row = unsafe { rows.part(v * features..(v + 1) * features) };
            StoreGradient { row, scale, activated, gradient: g.row(v) }
        };
        call.store_u(task, self.x, (instance, next), from, store);
    }

    /// The gradient of the residual of an instance, if it is wanted.
    pub(super) fn pass_on_to_residual(&self, task: &Task<'_>, instance: usize, scratch: &mut Scratch<T>) {
        let Some(grad_residual) = &self.grad_residual else { return };
        let (batch, n) = (self.call.plan.batch(), task.topology.n_vertices());
        // SAFETY: each instance is in one chunk, each chunk is computed once, and each vertex is once in it.
        let store = |v| unsafe { grad_residual.store(batch, instance, v, T::Acc::ONE) };
        match &self.arriving.gradient {
            Gradient::Rows(g) => {
                let g = g.source(batch, instance, None, false);
                each(task.parallel, n, |v| store_row(store(v), g.row(v)));
            }
            Gradient::Readout(g) => {
                mean(g, instance, n, &mut scratch.instance_row);
                let g = &scratch.instance_row[..];
                each(task.parallel, n, |v| store_row(store(v), g));
            }
        }
    }
}

/// Rows in scratch memory.
fn scratch_rows<T: Element>(rows: &[T], row_stride: usize, features: usize) -> Source<'_, T> {
    Source { rows, row_stride, features, scale: None, shifts: None, shift: 0, skip_zero: true }
}

/// g of each of the `n` vertices of an instance, given the gradient of their mean.
fn mean<T: Element>(gradients: &[T], instance: usize, n: usize, g: &mut [T::Acc]) {
    let count = T::Acc::from_count(n);
    let gradients = &gradients[instance * g.len()..];
    for (g, gradient) in g.iter_mut().zip(gradients) {
        *g = gradient.widen() / count;
    }
}
