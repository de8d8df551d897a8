//! The convolution y = L H U B⁻¹ Hᵀ R x and its gradients, by gather-reduce.
//!
//! With g = ∂loss/∂y, and 1/0 = 0:
//!
//! ```text
//! z_e  = 1/B_e Σ_{v∈e} R_v x_v             y_v  = L_v Σ_{e∋v} U_e z_e
//! q_e  = Σ_{v∈e} L_v g_v                   ∂x_v = R_v Σ_{e∋v} U_e/B_e q_e
//! ∂D_v = −⟨g_v, y_v⟩ / D_v                              row
//!      = −(⟨g_v, y_v⟩ + ⟨x_v, ∂x_v⟩) / (2 D_v)          symmetric
//! ∂w_e = ⟨q_e, z_e⟩ [w in the message] + Σ_{v∈e} ∂D_v [w in the degree]
//! ```
//!
//! The two terms of ∂w cancel out where vertices are alike, and where a vertex has one hyperedge only. So z
//! (unless the caller saved it) and y are computed again in the accumulation type and never rounded to a
//! narrower one, and the scalars of ∂w are formed in `f64`. A vertex of a single incidence is left out of
//! both terms where they cancel out whatever the weight.
//!
//! Where weights are part of the degrees, all factors are shifted by powers of two, see [`Conv::shift`].
//!
//! Instances whose topology has a dense operator are computed by that instead, see `conv/dense.rs`. What an
//! epilogue adds is in `conv/epilogue.rs`: the forward hands rows of sums to another store, and the backward
//! has other rows in the place of g.

#![allow(unsafe_code)]

mod bias;
mod dense;
mod epilogue;
mod matrix;
mod operands;

use operands::{Arriving, CheckedFinish, Destination, Finish, Gradient};
pub use operands::{Epilogue, EpilogueGradients};

use std::sync::atomic::{AtomicU64, Ordering};

use super::degree::{check_degrees, degree_gradient, fill_degrees, fill_edge_shifts};
use super::dense::DenseOperator;
use super::gather::{self, Dot, Source, Store, gather};
use super::instance_sums::GradientTo;
use super::lanes::most_lanes;
use super::operands::{Input, Operands, Output, Weights};
use super::plan::Plan;
use super::row_scale::fill_row_scales;
use super::schedule::{By, Schedule, Task, each, each_row, each_value};
use super::scratch::Scratch;
use super::weight_gradient::weight_gradient;
use super::workspace::Workspace;
use crate::axis::Axis;
use crate::conv::{Conv, Normalization, Reduce};
use crate::element::{Accumulator, Element};
use crate::error::Result;
use crate::path::Prepared;
use crate::rows::{Out, Rows};

const WEIGHTS: &str = "weights";
const BIAS: &str = "bias";

impl<T: Element> Workspace<T> {
    /// y = L H U B⁻¹ Hᵀ R x with the plan's conventions.
    ///
    /// * `x`: `N` rows of vertices;
    /// * `weights`: one for each hyperedge, read through windows;
    /// * `y`: `N` rows of vertices, overwritten or added to, and nothing between them. A vertex of degree 0
    ///   gets zeros, unless the normalization is `None`.
    ///
    /// # Errors
    /// Those [of operands](super#errors-of-operands), and
    /// [`Error::NegativeDegree`](crate::Error::NegativeDegree). Nothing is written then.
    pub fn conv(
        &mut self,
        x: Rows<&[T]>,
        weights: Weights<'_, T::Acc>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        self.forward(x, weights, None, None, y, Out::Skip)
    }

    /// [`conv`](Self::conv), with the same bits, that also stores z = B⁻¹ Hᵀ R x, unrounded, for
    /// [`conv_backward_from_z`](Self::conv_backward_from_z). That spares the backward the first of the
    /// forward's gathers, and costs memory for `M` rows of type `T::Acc` from the forward to the backward. On
    /// [`Path::Dense`](crate::Path::Dense) it takes a gather more, and spares nothing.
    ///
    /// * `z`: `M` rows of hyperedges, overwritten, also where `y` is skipped;
    /// * the others as for [`conv`](Self::conv).
    ///
    /// # Errors
    /// As [`conv`](Self::conv).
    pub fn conv_saving_z(
        &mut self,
        x: Rows<&[T]>,
        weights: Weights<'_, T::Acc>,
        z: Rows<&mut [T::Acc]>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        self.forward(x, weights, Some(z), None, y, Out::Skip)
    }

    /// The gradients of [`conv`](Self::conv) for g = ∂loss/∂y, from the same `x` and `weights`.
    ///
    /// * `x`, `grad_y`: `N` rows of vertices;
    /// * `grad_x`: `N` rows of vertices, overwritten, added to or skipped;
    /// * `grad_weights`: as many elements as `weights` has values, overwritten, added to or skipped: for
    ///   each, the sum over all instances whose windows cover it, 0 where there are none.
    ///
    /// # Errors
    /// As [`conv`](Self::conv).
    pub fn conv_backward(
        &mut self,
        x: Rows<&[T]>,
        weights: Weights<'_, T::Acc>,
        grad_y: Rows<&[T]>,
        grad_x: Out<Rows<&mut [T]>>,
        grad_weights: Out<&mut [T::Acc]>,
    ) -> Result<()> {
        let gradients = EpilogueGradients::none().x(grad_x).weights(grad_weights);
        self.backward(x, None, weights, &Epilogue::default(), Gradient::Rows(grad_y), gradients)
    }

    /// [`conv_backward`](Self::conv_backward), with the same bits, from the z that
    /// [`conv_saving_z`](Self::conv_saving_z) stored for the same `x` and `weights`, instead of computing it
    /// again.
    ///
    /// * `z`: `M` rows of hyperedges. What they hold is used as it is; where no gradient needs z, it is not
    ///   read: that of the weights is skipped, or the weights have none, or the instance is computed by its
    ///   dense operator ([`Path::Dense`](crate::Path::Dense));
    /// * the others as for [`conv_backward`](Self::conv_backward).
    ///
    /// # Errors
    /// As [`conv`](Self::conv).
    pub fn conv_backward_from_z(
        &mut self,
        x: Rows<&[T]>,
        z: Rows<&[T::Acc]>,
        weights: Weights<'_, T::Acc>,
        grad_y: Rows<&[T]>,
        grad_x: Out<Rows<&mut [T]>>,
        grad_weights: Out<&mut [T::Acc]>,
    ) -> Result<()> {
        let gradients = EpilogueGradients::none().x(grad_x).weights(grad_weights);
        self.backward(x, Some(z), weights, &Epilogue::default(), Gradient::Rows(grad_y), gradients)
    }

    #[inline(never)]
    fn forward(
        &mut self,
        x: Rows<&[T]>,
        weights: Weights<'_, T::Acc>,
        z: Option<Rows<&mut [T::Acc]>>,
        following: Option<Finish<'_, T>>,
        mut y: Out<Rows<&mut [T]>>,
        mut readout: Out<&mut [T]>,
    ) -> Result<()> {
        let mut z = z.map_or(Out::Skip, Out::Overwrite);
        let mut operands = Operands::new();
        let x = operands.read("x", Axis::Vertex, x);
        operands.weights(WEIGHTS, Axis::Hyperedge, weights);
        let following = following.map(|following| following.bind(&mut operands));
        let z = operands.write("z", Axis::Hyperedge, &mut z);
        let y = operands.write("y", Axis::Vertex, &mut y);
        let readout = operands.instance_rows_out("readout", &mut readout);
        let bound = operands.check(&self.plan, self.max_instances)?;
        let forward = Forward {
            call: Call::new(&self.plan, By::Path, bound.instances(), weights).in_lanes(),
            x: bound.input(x),
            following: following.and_then(|following| following.checked(&bound)),
            z: z.map(|z| bound.output(z)),
            y: y.map(|y| Destination::Rows(bound.output(y))).or(readout.map(Destination::Readout)),
        };
        forward.call.check_degrees()?;
        if forward.call.has_elements() && (forward.z.is_some() || forward.y.is_some()) {
            self.memory.for_each_chunk(&forward.call.schedule, |task, scratch| forward.chunk(task, scratch));
        }
        Ok(())
    }

    #[inline(never)]
    fn backward(
        &mut self,
        x: Rows<&[T]>,
        z: Option<Rows<&[T::Acc]>>,
        weights: Weights<'_, T::Acc>,
        epilogue: &Epilogue<'_, T::Acc>,
        gradient: Gradient<'_, T>,
        gradients: EpilogueGradients<'_, T>,
    ) -> Result<()> {
        let mut gradients = gradients;
        let mut operands = Operands::new();
        let x = operands.read("x", Axis::Vertex, x);
        let z = z.map(|z| operands.read("z", Axis::Hyperedge, z));
        operands.weights(WEIGHTS, Axis::Hyperedge, weights);
        let activated = operands.activated(epilogue);
        let gradient = gradient.bind(&mut operands);
        let grad_x = operands.write("grad_x", Axis::Vertex, &mut gradients.x);
        let of = (WEIGHTS, weights.values.len());
        let grad_weights = operands.gradient("grad_weights", of, &mut gradients.weights);
        let of = (BIAS, activated.bias.map_or(0, <[_]>::len));
        let grad_bias = operands.gradient("grad_bias", of, &mut gradients.bias);
        let grad_residual = operands.write("grad_residual", Axis::Vertex, &mut gradients.residual);
        let bound = operands.check(&self.plan, self.max_instances)?;
        let (conv, wanted) = (self.plan.conv(), grad_weights.is_some());
        let backward = Backward {
            call: Call::new(&self.plan, By::Path, bound.instances(), weights).in_lanes(),
            x: bound.input(x),
            z: z.map(|z| bound.input(z)),
            arriving: Arriving { activated, gradient: gradient.checked(&bound) },
            grad_x: grad_x.map(|grad_x| bound.output(grad_x)),
            grad_residual: grad_residual.map(|grad_residual| bound.output(grad_residual)),
            through_degree: wanted && conv.weights_in_degree(),
            through_message: wanted && conv.weight_use.in_message(),
        };
        backward.call.check_degrees()?;
        // Where the weights have no part in y, nothing is added, not even zeros.
        let grad_weights = grad_weights.map(GradientTo::start).filter(|_| backward.weights_wanted());
        if !backward.call.has_elements() {
            if let Some(grad_bias) = grad_bias {
                grad_bias.start();
            }
            return Ok(());
        }
        // Without a bias it has no elements.
        let grad_bias = grad_bias.filter(|_| activated.bias.is_some());
        let (memory, schedule) = (&mut self.memory, &backward.call.schedule);
        match (backward.dense_copies(grad_bias.is_some()), grad_weights) {
            (Some(copies), Some(gradient)) => {
                backward.add_up_copies(copies, memory, &mut self.tree_sums, gradient, grad_bias);
            }
            (_, grad_weights) => {
                if let Some(grad_bias) = grad_bias {
                    backward.compute_grad_bias(memory, &mut self.tree_sums, grad_bias);
                }
                if backward.is_passed_on() || backward.grad_residual.is_some() {
                    self.sums.add_up(memory, schedule, grad_weights, |task, scratch, sums| {
                        backward.chunk(task, scratch, sums);
                    });
                }
            }
        }
        Ok(())
    }
}

compiled_here!(
    Workspace::<T>::forward as fn(_, _, _, _, _, _, _) -> _,
    Workspace::<T>::backward as fn(_, _, _, _, _, _, _) -> _,
);

/// A checked call of the convolution or its backward.
struct Call<'a, T: Element> {
    /// Of all calls.
    number: u64,
    plan: &'a Plan<T>,
    conv: Conv,
    instances: usize,
    weights: &'a [T::Acc],
    schedule: Schedule<'a, T>,
}

impl<'a, T: Element> Call<'a, T> {
    fn new(plan: &'a Plan<T>, by: By, instances: usize, weights: Weights<'a, T::Acc>) -> Self {
        static CALLS: AtomicU64 = AtomicU64::new(0);

        let Weights { values, windows } = weights;
        let schedule = Schedule::new(plan, by, Axis::Hyperedge, windows, instances);
        let number = CALLS.fetch_add(1, Ordering::Relaxed);
        Self { number, plan, conv: plan.conv(), instances, weights: values, schedule }
    }

    /// The same, which forms M of several windows at once.
    fn in_lanes(self) -> Self {
        Self { schedule: self.schedule.in_lanes(most_lanes::<T::Acc>()), ..self }
    }

    fn has_elements(&self) -> bool {
        self.instances > 0 && self.plan.features() > 0
    }

    /// The weights that a task's instances read, window after window.
    fn window(&self, task: &Task<'_>) -> &'a [T::Acc] {
        &self.weights[self.schedule.window(task)]
    }

    /// U, where it is not 1.
    fn message<'w>(&self, weights: &'w [T::Acc]) -> Option<&'w [T::Acc]> {
        self.conv.weight_use.in_message().then_some(weights)
    }

    fn is_symmetric(&self) -> bool {
        self.conv.normalization == Normalization::Symmetric
    }

    /// L, where it is not 1.
    fn left<'s>(&self, inv_degree: &'s [T::Acc]) -> Option<&'s [T::Acc]> {
        (self.conv.normalization != Normalization::None).then_some(inv_degree)
    }

    /// R, where it is not 1.
    fn right<'s>(&self, inv_degree: &'s [T::Acc]) -> Option<&'s [T::Acc]> {
        self.is_symmetric().then_some(inv_degree)
    }

    /// The shifts of vertices or hyperedges, where there are any.
    fn shifts<'s>(&self, shifts: &'s [i32]) -> Option<&'s [i32]> {
        self.conv.weights_in_degree().then_some(shifts)
    }

    fn check_degrees(&self) -> Result<()> {
        check_degrees(self.conv, &self.schedule, |task| self.window(task))
    }

    fn fill_degrees(&self, task: &Task<'_>, scratch: &mut Scratch<T>) {
        fill_degrees(self.conv, task, self.window(task), scratch);
    }

    /// Makes ready what u, the y of a backward that needs it again, is computed from: what all instances of a
    /// task have in common.
    fn prepare_u(&self, task: &Task<'_>, scratch: &mut Scratch<T>) {
        match self.plan.prepared(task.chunk.topology) {
            Prepared::Gather { .. } => {}
            Prepared::Dense(pairs) => self.form(task, pairs, scratch),
        }
    }

    /// The same for the instances of one of its windows, of this number in the task.
    fn prepare_u_of_window(&self, number: usize, window: &Task<'_>, scratch: &mut Scratch<T>) {
        match self.plan.prepared(window.chunk.topology) {
            Prepared::Gather { .. } => self.fill_degrees(window, scratch),
            Prepared::Dense(_) => scratch.dense.select(number),
        }
    }

    /// The same for one instance.
    fn prepare_u_of(&self, task: &Task<'_>, x: Input<'_, T>, instance: usize, scratch: &mut Scratch<T>) {
        match self.plan.prepared(task.chunk.topology) {
            Prepared::Gather { .. } => self.compute_z(task, x, instance, scratch, None),
            Prepared::Dense(_) => {}
        }
    }

    /// u of an instance, from what is ready. `next` is the instance that is next, and `store` gives what
    /// becomes of the sums of a row, which it multiplies by a scale.
    fn store_u<S: gather::Sink<T::Acc>>(
        &self,
        task: &Task<'_>,
        x: Input<'_, T>,
        (instance, next): (usize, Option<usize>),
        ready: Ready<'_, T>,
        store: impl Fn(usize, T::Acc) -> S + Sync,
    ) {
        let Ready { z, inv_degree, vertex_shift, dense } = ready;
        match self.plan.prepared(task.chunk.topology) {
            Prepared::Gather { .. } => self.gather_y(task, (z, inv_degree, vertex_shift), store),
            Prepared::Dense(_) => {
                let x = |instance| x.source(self.plan.batch(), instance, None, false);
                dense.store(task.topology.n_vertices(), &x(instance), next.map(x).as_ref(), store);
            }
        }
    }

    /// Computes z = B⁻¹ Hᵀ R x of one instance in scratch memory, and stores it in `saved`, too.
    fn compute_z(
        &self,
        task: &Task<'_>,
        x: Input<'_, T>,
        instance: usize,
        scratch: &mut Scratch<T>,
        saved: Option<&Output<'_, T::Acc>>,
    ) {
        let Scratch { z, inv_degree, vertex_shift, .. } = scratch;
        let (by_edge, features, batch) = (task.topology.by_edge(), self.plan.features(), self.plan.batch());
        let x = self.source_of_z(x, instance, inv_degree, vertex_shift);
        each_row(task.parallel, &mut z[..by_edge.len() * features], features, |e, row| {
            let members = by_edge.row(e);
            let scale = Reduce::Mean.factor(members.len());
            // SAFETY: each instance is in one chunk, each chunk is computed once, and each hyperedge once in
            // it.
            let saved = saved.map(|out| unsafe { out.store(batch, instance, e, scale) });
            gather(x, members, &mut (Store { row, scale, accumulate: false }, saved));
        });
    }

    /// R x of one instance: what its z is gathered from.
    fn source_of_z<'s>(
        &self,
        x: Input<'s, T>,
        instance: usize,
        inv_degree: &'s [T::Acc],
        vertex_shift: &'s [i32],
    ) -> Source<'s, T> {
        let right = self.right(inv_degree);
        let shifts = right.and_then(|_| self.shifts(vertex_shift));
        x.source(self.plan.batch(), instance, right, true).shifted(shifts, 0)
    }

    /// y = L H U z of one instance, from its z, L and the shifts of its vertices. `store` gives what becomes
    /// of the sums of a row, which it multiplies by a scale.
    fn gather_y<E: gather::Sink<T::Acc>>(
        &self,
        task: &Task<'_>,
        (z, inv_degree, vertex_shift): (&[T::Acc], &[T::Acc], &[i32]),
        store: impl Fn(usize, T::Acc) -> E + Sync,
    ) {
        let by_vertex = task.topology.by_vertex();
        let z = edge_rows(z, self.plan.features(), self.message(self.window(task)));
        let left = self.left(inv_degree);
        each(task.parallel, by_vertex.len(), |v| {
            let scale = left.map_or(T::Acc::ONE, |left| left[v]);
            // A row of degree zero is a store of zeros, not a product with zero.
            let edges = if scale == T::Acc::ZERO { &[] } else { by_vertex.row(v) };
            gather(z.shifted(None, vertex_shift[v]), edges, &mut store(v, scale));
        });
    }
}

/// What u of an instance is computed from, in scratch memory.
struct Ready<'s, T: Element> {
    z: &'s [T::Acc],
    inv_degree: &'s [T::Acc],
    vertex_shift: &'s [i32],
    dense: &'s mut DenseOperator<T::Acc>,
}

/// Rows of hyperedges in scratch memory, to gather from.
fn edge_rows<'a, A: Accumulator>(rows: &'a [A], features: usize, scale: Option<&'a [A]>) -> Source<'a, A> {
    Source { rows, row_stride: features, features, scale, shifts: None, shift: 0, skip_zero: false }
}

/// A checked call of the forward, and its operands.
struct Forward<'a, T: Element> {
    call: Call<'a, T>,
    x: Input<'a, T>,
    /// The epilogue, where it changes anything.
    following: Option<CheckedFinish<'a, T>>,
    z: Option<Output<'a, T::Acc>>,
    y: Option<Destination<'a, T>>,
}

impl<T: Element> Forward<'_, T> {
    /// Computes a chunk.
    fn chunk(&self, task: &Task<'_>, scratch: &mut Scratch<T>) {
        match self.call.plan.prepared(task.chunk.topology) {
            Prepared::Gather { .. } => self.gather(task, scratch),
            Prepared::Dense(pairs) => self.dense(task, pairs, scratch),
        }
    }

    fn gather(&self, task: &Task<'_>, scratch: &mut Scratch<T>) {
        let call = &self.call;
        call.fill_degrees(task, scratch);
        for instance in task.instances() {
            call.compute_z(task, self.x, instance, scratch, self.z.as_ref());
            let Some(y) = &self.y else { continue };
            let (batch, shape) = (call.plan.batch(), (task.topology.n_vertices(), call.plan.features()));
            let Scratch { z, inv_degree, vertex_shift, rows, .. } = &mut *scratch;
            let z = (&z[..], &inv_degree[..], &vertex_shift[..]);
            let rows = y.rows((batch, instance), shape, rows);
            // SAFETY: each instance is in one chunk, each chunk is computed once, and each vertex once in it.
            let store = |v, scale| unsafe { rows.store(v, scale) };
            match self.following.as_ref().map(|following| following.of(batch, instance)) {
                None => call.gather_y(task, z, store),
                Some(following) => {
                    call.gather_y(task, z, |v, scale| following.store(v, store(v, scale)));
                }
            }
            self.compute_readout(task, instance, scratch);
        }
    }
}

/// A checked call of the backward, and its operands.
struct Backward<'a, T: Element> {
    call: Call<'a, T>,
    x: Input<'a, T>,
    z: Option<Input<'a, T::Acc>>,
    arriving: Arriving<'a, T>,
    grad_x: Option<Output<'a, T>>,
    grad_residual: Option<Output<'a, T>>,
    /// By which ways gradients of weights are wanted.
    through_degree: bool,
    through_message: bool,
}

impl<T: Element> Backward<'_, T> {
    fn weights_wanted(&self) -> bool {
        self.through_degree || self.through_message
    }

    /// Whether any gradient is wanted that is one of the convolution itself.
    fn is_passed_on(&self) -> bool {
        self.grad_x.is_some() || self.weights_wanted()
    }

    /// Computes a chunk: ∂x, and the weight gradients of its instances added to `sums`.
    fn chunk(&self, task: &Task<'_>, scratch: &mut Scratch<T>, sums: &mut [T::Acc]) {
        match self.call.plan.prepared(task.chunk.topology) {
            Prepared::Gather { .. } => self.gather(task, scratch, sums),
            Prepared::Dense(pairs) => self.dense(task, pairs, scratch, sums),
        }
    }

    fn gather(&self, task: &Task<'_>, scratch: &mut Scratch<T>, sums: &mut [T::Acc]) {
        let call = &self.call;
        call.fill_degrees(task, scratch);
        fill_edge_shifts(call.conv, task, scratch);
        self.fill_row_scales(task, scratch);
        for instance in task.instances() {
            self.pass_on_to_residual(task, instance, scratch);
            if !self.is_passed_on() {
                continue;
            }
            if (self.weights_wanted() && self.z.is_none()) || self.arriving.needs_u() {
                call.compute_z(task, self.x, instance, scratch, None);
            }
            self.compute_t(task, instance, None, scratch);
            self.compute_q(task, instance, scratch);
            self.compute_gradients_of_vertices(task, instance, scratch);
            if self.weights_wanted() {
                self.add_gradients_of_weights(task, instance, scratch, sums);
            }
        }
    }

    /// The factors U B⁻¹ that hyperedges pass q on with.
    fn fill_row_scales(&self, task: &Task<'_>, scratch: &mut Scratch<T>) {
        let Scratch { row_scale, edge_shift, .. } = scratch;
        let (call, by_edge) = (&self.call, task.topology.by_edge());
        let (message, shifts_of_degree) = (call.message(call.window(task)), call.conv.shifts_of_degree());
        let shift = |e| -shifts_of_degree * edge_shift[e];
        fill_row_scales(task.parallel, by_edge, Reduce::Mean, message, shift, row_scale);
    }

    /// z of an instance: what the caller saved, or what was computed again.
    fn z<'s>(&'s self, instance: usize, z: &'s [T::Acc]) -> Source<'s, T::Acc> {
        let plan = self.call.plan;
        match self.z {
            Some(z) => z.source(plan.batch(), instance, None, false),
            None => edge_rows(z, plan.features(), None),
        }
    }

    /// q = Hᵀ L g of one instance.
    fn compute_q(&self, task: &Task<'_>, instance: usize, scratch: &mut Scratch<T>) {
        let Scratch { q, inv_degree, vertex_shift, edge_shift, rows, .. } = scratch;
        let (call, by_edge, features) = (&self.call, task.topology.by_edge(), self.call.plan.features());
        let t = self.t(instance, rows, call.left(inv_degree));
        let shifts = call.shifts(vertex_shift);
        each_row(task.parallel, &mut q[..by_edge.len() * features], features, |e, row| {
            let mut store = Store { row, scale: T::Acc::ONE, accumulate: false };
            gather(t.shifted(shifts, edge_shift[e]), by_edge.row(e), &mut store);
        });
    }

    /// ∂x = R H U B⁻¹ q of one instance, and ∂D where gradients of weights pass through it.
    fn compute_gradients_of_vertices(&self, task: &Task<'_>, instance: usize, scratch: &mut Scratch<T>) {
        let Scratch {
            z,
            q,
            degree,
            inv_degree,
            weight_inv_degree,
            vertex_shift,
            degree_gradient: degree_gradients,
            edge_shift,
            row_scale,
            rows,
            ..
        } = scratch;
        let (call, by_vertex) = (&self.call, task.topology.by_vertex());
        let (batch, features) = (call.plan.batch(), call.plan.features());
        let is_symmetric = call.is_symmetric();
        let (right, edge_shifts) = (call.right(inv_degree), call.shifts(edge_shift));
        let x = self.x.source(batch, instance, None, false);
        let t = self.t(instance, rows, None);
        let z = self.z(instance, z).scaled(call.message(call.window(task)));
        let q = edge_rows(q, features, Some(row_scale));

        each_value(task.parallel, &mut degree_gradients[..by_vertex.len()], |v, grad_degree| {
            let (edges, shift) = (by_vertex.row(v), vertex_shift[v]);
            let right = right.map_or(T::Acc::ONE, |right| right[v]);
            // A degree of zero has no gradient, and makes the right factor of the symmetric normalization
            // zero.
            let through_degree = self.through_degree && weight_inv_degree[v] != T::Acc::ZERO;
            let edges_of_x = if right == T::Acc::ZERO { &[] } else { edges };
            let q = if is_symmetric { q.shifted(edge_shifts, shift) } else { q };

            let dot_x = (through_degree && is_symmetric).then(|| Dot::<T, _>::new(x.row(v), T::Acc::ONE));
            // SAFETY: each instance is in one chunk, each chunk is computed once, and each vertex once in it.
            let store = self.grad_x.as_ref().map(|out| unsafe { out.store(batch, instance, v, right) });
            let mut sinks = (store, dot_x);
            if sinks.0.is_some() || sinks.1.is_some() {
                gather(q, edges_of_x, &mut sinks);
            }
            *grad_degree = 0.0;
            if through_degree {
                let mut dot_y = Dot::<T, _>::new(t.row(v), T::Acc::ONE);
                gather(z.shifted(None, shift), edges, &mut dot_y);
                let (dot_x, dot_y) = (sinks.1.map(Dot::value), dot_y.value());
                *grad_degree = degree_gradient(call.conv, degree[v], (inv_degree[v], shift), dot_y, dot_x);
            }
        });
    }

    /// Adds ∂w of one instance to `sums`.
    fn add_gradients_of_weights(
        &self,
        task: &Task<'_>,
        instance: usize,
        scratch: &Scratch<T>,
        sums: &mut [T::Acc],
    ) {
        let Scratch { degree_gradient, vertex_shift, edge_shift, .. } = scratch;
        let (call, by_edge) = (&self.call, task.topology.by_edge());
        let degree_gradients = self.through_degree.then_some(&degree_gradient[..]);
        each_value(task.parallel, &mut sums[..by_edge.len()], |e, sum_of_chunk| {
            let (members, shifts) = (by_edge.row(e), (edge_shift[e], &vertex_shift[..]));
            let dot = self.through_message.then(|| self.dot_of_q_and_z(task, instance, scratch, e));
            let gradient = weight_gradient(call.conv, members, dot, degree_gradients, shifts);
            *sum_of_chunk += T::Acc::from_f64(gradient);
        });
    }

    /// ⟨q_e, z_e⟩, without the vertices of a single incidence where those cancel out.
    fn dot_of_q_and_z(&self, task: &Task<'_>, instance: usize, scratch: &Scratch<T>, e: usize) -> f64 {
        let Scratch { z, q, inv_degree, weight_inv_degree, vertex_shift, edge_shift, rows, .. } = scratch;
        let (call, features) = (&self.call, self.call.plan.features());
        let members = task.topology.by_edge().row(e);
        let z = self.z(instance, z);
        if members.iter().any(|&v| weight_inv_degree[v as usize] != inv_degree[v as usize]) {
            // q_e was summed over all members, so it is summed again.
            let t = self.t(instance, rows, Some(weight_inv_degree));
            let mut dot = Dot::<T, _>::new(z.row(e), T::Acc::ONE);
            gather(t.shifted(call.shifts(vertex_shift), edge_shift[e]), members, &mut dot);
            dot.value()
        } else {
            let mut dot = Dot::<T, _>::new(&q[e * features..][..features], T::Acc::ONE);
            gather(z, &[e as u32], &mut dot);
            dot.value()
        }
    }
}
