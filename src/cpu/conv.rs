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
//! The two terms of ∂w cancel out where vertices are alike, and where a vertex has one hyperedge only. So z (unless the
//! caller kept it) and y are recomputed in the accumulation type and never rounded to a narrower one, and the scalars of
//! ∂w are formed in `f64`. A vertex of a single incidence is left out of both terms where they cancel out whatever the
//! weight.
//!
//! Where weights are part of the degrees, all factors are shifted by powers of two, see [`Conv::shift`].

#![allow(unsafe_code)]

use rayon::prelude::*;

use super::gather::{Dot, Source, Store, gather, sum};
use super::operands::{Input, Output, operand, output, started};
use super::schedule::{Schedule, Task, each, each_row, each_value};
use super::workspace::{Scratch, Workspace};
use super::{Plan, Weights, inverse_count};
use crate::axis::Axis;
use crate::conv::{NO_SHIFT, Normalization};
use crate::element::{Accumulator, Element};
use crate::error::{Error, Result};
use crate::incidence::Incidence;
use crate::rows::{Operand, Out, Rows, check_gradient};

impl<T: Element> Workspace<T> {
    /// y = L H U B⁻¹ Hᵀ R x with the plan's conventions.
    ///
    /// * `x`: `N` rows of vertices;
    /// * `weights`: one for each hyperedge, read through windows;
    /// * `y`: `N` rows of vertices, overwritten or added to, and nothing between them. A vertex of degree 0 gets
    ///   zeros, unless the normalization is `None`.
    ///
    /// # Errors
    /// Those [of operands](super#errors-of-operands), and [`Error::NegativeDegree`]. Nothing is written then.
    pub fn conv(
        &mut self,
        x: Rows<&[T]>,
        weights: Weights<'_, T::Acc>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        self.forward(x, weights, None, y)
    }

    /// [`conv`](Self::conv), with the same bits, that also keeps z = B⁻¹ Hᵀ R x, unrounded, for
    /// [`conv_backward_from_z`](Self::conv_backward_from_z). That saves the backward one of its gathers, the forward's
    /// first, and costs memory for `M` rows of type `T::Acc` from the forward to the backward.
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
        self.forward(x, weights, Some(z), y)
    }

    /// The gradients of [`conv`](Self::conv) for g = ∂loss/∂y, from the same `x` and `weights`.
    ///
    /// * `x`, `grad_y`: `N` rows of vertices;
    /// * `grad_x`: `N` rows of vertices, overwritten, added to or skipped;
    /// * `grad_weights`: as many elements as `weights` has values, overwritten, added to or skipped: for each, the sum
    ///   over all instances whose windows cover it, 0 where there are none.
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
        self.backward(x, None, weights, grad_y, grad_x, grad_weights)
    }

    /// [`conv_backward`](Self::conv_backward), with the same bits, from the z that
    /// [`conv_saving_z`](Self::conv_saving_z) kept for the same `x` and `weights`, instead of computing it again.
    ///
    /// * `z`: `M` rows of hyperedges. What they hold is used as it is; where no gradient needs z (that of the weights is
    ///   skipped, or the weights have none), it is not read;
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
        self.backward(x, Some(z), weights, grad_y, grad_x, grad_weights)
    }

    fn forward(
        &mut self,
        x: Rows<&[T]>,
        weights: Weights<'_, T::Acc>,
        z: Option<Rows<&mut [T::Acc]>>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        let z = z.map_or(Out::Skip, Out::Overwrite);
        let x_operand = operand("x", Axis::Vertex, &x);
        let z_operand = output("z", Axis::Hyperedge, &z);
        let y_operand = output("y", Axis::Vertex, &y);
        let operands = [Some(x_operand), z_operand, y_operand];
        let call = Call::new(&self.plan, self.max_instances, &operands, weights)?;
        let (batch, instances) = (call.plan.batch(), call.instances);
        let forward = Forward {
            x: Input::new(x, x_operand, batch, instances)?,
            z: Output::new(z, z_operand, batch, instances)?,
            y: Output::new(y, y_operand, batch, instances)?,
            call,
        };
        forward.call.check_degrees()?;
        if forward.call.has_elements() && (forward.z.is_some() || forward.y.is_some()) {
            self.memory.for_each_chunk(&forward.call.schedule, |task, scratch| forward.chunk(task, scratch));
        }
        Ok(())
    }

    fn backward(
        &mut self,
        x: Rows<&[T]>,
        z: Option<Rows<&[T::Acc]>>,
        weights: Weights<'_, T::Acc>,
        grad_y: Rows<&[T]>,
        grad_x: Out<Rows<&mut [T]>>,
        grad_weights: Out<&mut [T::Acc]>,
    ) -> Result<()> {
        let x_operand = operand("x", Axis::Vertex, &x);
        let z = z.map(|z| (z, operand("z", Axis::Hyperedge, &z)));
        let grad_y_operand = operand("grad_y", Axis::Vertex, &grad_y);
        let grad_x_operand = output("grad_x", Axis::Vertex, &grad_x);
        let z_operand = z.map(|(_, operand)| operand);
        let operands = [Some(x_operand), z_operand, Some(grad_y_operand), grad_x_operand];
        let call = Call::new(&self.plan, self.max_instances, &operands, weights)?;
        let (batch, instances) = (call.plan.batch(), call.instances);
        let len = grad_weights.as_ref().map(|values| values.len());
        check_gradient(("grad_weights", len), ("weights", weights.values.len()))?;
        let wanted = grad_weights.is_wanted();
        let backward = Backward {
            x: Input::new(x, x_operand, batch, instances)?,
            z: z.map(|(z, operand)| Input::new(z, operand, batch, instances)).transpose()?,
            grad_y: Input::new(grad_y, grad_y_operand, batch, instances)?,
            grad_x: Output::new(grad_x, grad_x_operand, batch, instances)?,
            through_degree: wanted && call.plan.conv().weights_in_degree(),
            through_message: wanted && call.plan.conv().weight_use.in_message(),
            call,
        };
        backward.call.check_degrees()?;
        // Where the weights have no part in y, nothing is added, not even zeros.
        let grad_weights = started(grad_weights).filter(|_| backward.weights_wanted());
        if backward.call.has_elements() && (backward.grad_x.is_some() || grad_weights.is_some()) {
            self.memory.sum_chunks(&backward.call.schedule, grad_weights, |task, scratch, sums| {
                backward.chunk(task, scratch, sums);
            });
        }
        Ok(())
    }
}

/// A checked call of the convolution or its backward.
struct Call<'a, T: Element> {
    plan: &'a Plan<T>,
    instances: usize,
    weights: &'a [T::Acc],
    schedule: Schedule<'a, T>,
}

impl<'a, T: Element> Call<'a, T> {
    fn new(
        plan: &'a Plan<T>,
        max_instances: usize,
        operands: &[Option<Operand>],
        weights: Weights<'a, T::Acc>,
    ) -> Result<Self> {
        let instances = plan.instances(operands, max_instances)?;
        let Weights { values, windows } = weights;
        windows.check("weights", plan.batch(), Axis::Hyperedge, instances, values.len())?;
        Ok(Self {
            plan,
            instances,
            weights: values,
            schedule: Schedule::new(plan, Axis::Hyperedge, windows, instances),
        })
    }

    fn has_elements(&self) -> bool {
        self.instances > 0 && self.plan.features() > 0
    }

    /// The weights that a chunk's instances read.
    fn window(&self, task: &Task<'_>) -> &'a [T::Acc] {
        &self.weights[task.chunk.offset..][..task.topology.n_hyperedges()]
    }

    /// D_v.
    fn degree(&self, topology: &Incidence, weights: &[T::Acc], v: usize) -> T::Acc {
        let edges = topology.by_vertex().row(v);
        if self.plan.conv().weight_use.in_degree() {
            sum(edges, |e| weights[e])
        } else {
            T::Acc::from_count(edges.len())
        }
    }

    /// U, where it is not 1.
    fn message<'w>(&self, weights: &'w [T::Acc]) -> Option<&'w [T::Acc]> {
        self.plan.conv().weight_use.in_message().then_some(weights)
    }

    fn is_normalized(&self) -> bool {
        self.plan.conv().normalization != Normalization::None
    }

    fn is_symmetric(&self) -> bool {
        self.plan.conv().normalization == Normalization::Symmetric
    }

    /// Refuses the first negative degree under symmetric normalization.
    fn check_degrees(&self) -> Result<()> {
        if !self.plan.conv().checks_degrees() {
            return Ok(());
        }
        let negative = |c| {
            let task = self.schedule.task(c)?;
            let (topology, weights) = (task.topology, self.window(&task));
            let instance = task.instances().next()?;
            let mut degrees = (0..topology.n_vertices()).map(|v| (v, self.degree(topology, weights, v)));
            let (vertex, degree) = degrees.find(|&(_, d)| d < T::Acc::ZERO)?;
            Some((instance, vertex, degree.to_f64()))
        };
        let first = (0..self.schedule.n_chunks()).into_par_iter().filter_map(negative);
        match first.min_by_key(|&(instance, vertex, _)| (instance, vertex)) {
            Some((instance, vertex, value)) => Err(Error::NegativeDegree { instance, vertex, value }),
            None => Ok(()),
        }
    }

    /// Whether factors are shifted.
    fn is_shifted(&self) -> bool {
        self.plan.conv().weights_in_degree()
    }

    /// D, L and the shift of all vertices, where the normalization uses them.
    fn degrees(&self, task: &Task<'_>, scratch: &mut Scratch<T::Acc>) {
        if !self.is_normalized() {
            return;
        }
        let (topology, weights) = (task.topology, self.window(task));
        let n = topology.n_vertices();
        each_value(task.parallel, &mut scratch.degree[..n], |v, degree| {
            *degree = self.degree(topology, weights, v);
        });
        for (v, &degree) in scratch.degree[..n].iter().enumerate() {
            let left = &mut scratch.left[v];
            (*left, scratch.vertex_shift[v]) = self.left(degree);
            let is_single = topology.by_vertex().row(v).len() == 1;
            let is_left_out =
                is_single && degree.is_finite() && self.plan.conv().single_incidences_cancel_out();
            scratch.weight_left[v] = if is_left_out { T::Acc::ZERO } else { *left };
        }
    }

    /// L of a vertex of this degree, and its shift.
    fn left(&self, degree: T::Acc) -> (T::Acc, i32) {
        let conv = self.plan.conv();
        let (shift, shifted) = match self.is_shifted() {
            true => {
                let shift = conv.shift(degree);
                (shift, degree.times_power_of_two(conv.shifts_of_degree() * shift))
            }
            false => (0, degree),
        };
        let left = if degree == T::Acc::ZERO {
            T::Acc::ZERO
        } else if !degree.is_finite() {
            T::Acc::NAN
        } else if self.is_symmetric() {
            T::Acc::ONE / shifted.square_root()
        } else {
            T::Acc::ONE / shifted
        };
        (left, shift)
    }

    /// z of one instance: B⁻¹ Hᵀ R x. It is also stored in `kept`.
    fn hyperedges(
        &self,
        task: &Task<'_>,
        x: Input<'_, T>,
        instance: usize,
        (left, shifts): (&[T::Acc], &[i32]),
        z: &mut [T::Acc],
        kept: Option<&Output<'_, T::Acc>>,
    ) {
        let (topology, features) = (task.topology, self.plan.features());
        let batch = self.plan.batch();
        let right = self.is_symmetric().then_some(left);
        let shifts = right.filter(|_| self.is_shifted()).map(|_| shifts);
        let x = x.source(batch, instance, right, true).shifted(shifts, 0);
        each_row(task.parallel, &mut z[..topology.n_hyperedges() * features], features, |e, row| {
            let members = topology.by_edge().row(e);
            let scale = inverse_count(members.len());
            // SAFETY: each instance is in one chunk, each chunk is computed once, and each hyperedge once in it.
            let kept = kept.map(|out| unsafe { out.store(batch, instance, e, scale) });
            gather(x, members, &mut (Store { row, scale, add: false }, kept));
        });
    }
}

/// A checked call of the forward, and its operands.
struct Forward<'a, T: Element> {
    call: Call<'a, T>,
    x: Input<'a, T>,
    z: Option<Output<'a, T::Acc>>,
    y: Option<Output<'a, T>>,
}

impl<T: Element> Forward<'_, T> {
    fn chunk(&self, task: &Task<'_>, scratch: &mut Scratch<T::Acc>) {
        let call = &self.call;
        let (topology, weights) = (task.topology, call.window(task));
        let (batch, features) = (call.plan.batch(), call.plan.features());
        call.degrees(task, scratch);
        for instance in task.instances() {
            let Scratch { left, vertex_shift, z, .. } = &mut *scratch;
            call.hyperedges(task, self.x, instance, (left, vertex_shift), z, self.z.as_ref());
            let Some(y) = &self.y else { continue };
            let z = edge_rows(&scratch.z, features, call.message(weights));
            let left = call.is_normalized().then_some(&scratch.left[..]);
            each(task.parallel, topology.n_vertices(), |v| {
                let scale = left.map_or(T::Acc::ONE, |left| left[v]);
                // A row of degree zero is a store of zeros, not a product with zero.
                let edges = if scale == T::Acc::ZERO { &[] } else { topology.by_vertex().row(v) };
                // SAFETY: each instance is in one chunk, each chunk is computed once, and each vertex once in it.
                let mut store = unsafe { y.store(batch, instance, v, scale) };
                let shift = if call.is_shifted() { scratch.vertex_shift[v] } else { 0 };
                gather(z.shifted(None, shift), edges, &mut store);
            });
        }
    }
}

/// Rows of hyperedges in scratch memory, to gather from.
fn edge_rows<'a, A: Accumulator>(rows: &'a [A], features: usize, scale: Option<&'a [A]>) -> Source<'a, A> {
    Source { rows, row_stride: features, features, scale, shifts: None, shift: 0, skip_zero: false }
}

/// A checked call of the backward, and its operands.
struct Backward<'a, T: Element> {
    call: Call<'a, T>,
    x: Input<'a, T>,
    z: Option<Input<'a, T::Acc>>,
    grad_y: Input<'a, T>,
    grad_x: Option<Output<'a, T>>,
    /// By which ways gradients of weights are wanted.
    through_degree: bool,
    through_message: bool,
}

impl<T: Element> Backward<'_, T> {
    fn weights_wanted(&self) -> bool {
        self.through_degree || self.through_message
    }

    /// Computes a chunk: ∂x, and the weight gradients of its instances added to `sums`.
    fn chunk(&self, task: &Task<'_>, scratch: &mut Scratch<T::Acc>, sums: &mut [T::Acc]) {
        let call = &self.call;
        let &Self { through_degree, through_message, .. } = self;
        let (topology, weights, parallel) = (task.topology, call.window(task), task.parallel);
        let (n, m, features) = (topology.n_vertices(), topology.n_hyperedges(), call.plan.features());
        let batch = call.plan.batch();

        call.degrees(task, scratch);
        let is_shifted = call.is_shifted();
        let shifts_of_degree = call.plan.conv().shifts_of_degree();
        if is_shifted {
            let vertex_shift = &scratch.vertex_shift[..];
            each_value(parallel, &mut scratch.edge_shift[..m], |e, shift| {
                let shifts = topology.by_edge().row(e).iter().map(|&v| vertex_shift[v as usize]);
                let shifts = shifts.filter(|&shift| shift != NO_SHIFT);
                *shift = match shifts.clone().max().zip(shifts.min()) {
                    Some((largest, smallest)) => call.plan.conv().edge_shift::<T::Acc>(largest, smallest),
                    None => 0,
                };
            });
        }
        for (e, pull) in scratch.pull[..m].iter_mut().enumerate() {
            let message = call.message(weights).map_or(T::Acc::ONE, |w| w[e]);
            let shift = if is_shifted { -shifts_of_degree * scratch.edge_shift[e] } else { 0 };
            *pull = message.times_power_of_two(shift) * inverse_count(topology.by_edge().row(e).len());
        }
        for instance in task.instances() {
            let Scratch {
                z,
                q,
                degree,
                left,
                weight_left,
                vertex_shift,
                degree_gradient,
                edge_shift,
                pull,
                ..
            } = &mut *scratch;
            let (degree, left, weight_left, pull) = (&degree[..], &left[..], &weight_left[..], &pull[..]);
            let (vertex_shift, edge_shift) = (&vertex_shift[..], &edge_shift[..]);
            let shift_of = |shifts: &[i32], i: usize| if is_shifted { shifts[i] } else { 0 };
            if self.weights_wanted() && self.z.is_none() {
                call.hyperedges(task, self.x, instance, (left, vertex_shift), z, None);
            }
            let z = match self.z {
                Some(z) => z.source(batch, instance, None, false),
                None => edge_rows(z, features, None),
            };
            let scale = call.is_normalized().then_some(left);
            let shifts = is_shifted.then_some(vertex_shift);
            let grad_y = self.grad_y.source(batch, instance, scale, true);
            each_row(parallel, &mut q[..m * features], features, |e, row| {
                let mut store = Store { row, scale: T::Acc::ONE, add: false };
                let shift = shift_of(edge_shift, e);
                gather(grad_y.shifted(shifts, shift), topology.by_edge().row(e), &mut store);
            });

            let x = self.x.source(batch, instance, None, false);
            let y_rows = z.scaled(call.message(weights));
            let grad_x_rows = edge_rows(q, features, Some(pull));
            each_value(parallel, &mut degree_gradient[..n], |v, grad_degree| {
                let edges = topology.by_vertex().row(v);
                let no_degree = call.is_normalized() && left[v] == T::Acc::ZERO;
                let right = if call.is_symmetric() { left[v] } else { T::Acc::ONE };
                let shift = shift_of(vertex_shift, v);
                // A degree of zero has no gradient, and makes the right factor of the symmetric normalization zero.
                let through_degree = through_degree && weight_left[v] != T::Acc::ZERO;
                let edges_of_x = if no_degree && call.is_symmetric() { &[] } else { edges };
                let grad_x_rows = match call.is_symmetric() && is_shifted {
                    true => grad_x_rows.shifted(Some(edge_shift), shift),
                    false => grad_x_rows,
                };

                let dot_x =
                    (through_degree && call.is_symmetric()).then(|| Dot::<T, _>::new(x.row(v), T::Acc::ONE));
                // SAFETY: each instance is in one chunk, each chunk is computed once, and each vertex once in it.
                let store = self.grad_x.as_ref().map(|out| unsafe { out.store(batch, instance, v, right) });
                let mut sink = (store, dot_x);
                if sink.0.is_some() || sink.1.is_some() {
                    gather(grad_x_rows, edges_of_x, &mut sink);
                }
                if !through_degree {
                    *grad_degree = 0.0;
                    return;
                }
                let mut dot_y = Dot::<T, _>::new(grad_y.row(v), T::Acc::ONE);
                gather(y_rows.shifted(None, shift), edges, &mut dot_y);
                let both = left[v].to_f64() * dot_y.value();
                let degree = degree[v].times_power_of_two(shifts_of_degree * shift).to_f64();
                *grad_degree = -match sink.1 {
                    None => both / degree,
                    Some(dot_x) => (both + right.to_f64() * dot_x.value()) / (2.0 * degree),
                };
            });

            if !self.weights_wanted() {
                continue;
            }
            let (q, degree_gradient) = (&q[..], &degree_gradient[..]);
            each_value(parallel, &mut sums[..m], |e, sum_of_chunk| {
                let members = topology.by_edge().row(e);
                let shift = shift_of(edge_shift, e);
                let mut grad = 0.0;
                if through_message {
                    grad = if members.iter().any(|&v| weight_left[v as usize] != left[v as usize]) {
                        // The same sum without the vertices of a single incidence.
                        let grad_y = grad_y.scaled(Some(weight_left)).shifted(shifts, shift);
                        let mut dot = Dot::<T, _>::new(z.row(e), T::Acc::ONE);
                        gather(grad_y, members, &mut dot);
                        dot.value()
                    } else {
                        let mut dot = Dot::<T, _>::new(&q[e * features..][..features], T::Acc::ONE);
                        gather(z, &[e as u32], &mut dot);
                        dot.value()
                    };
                    grad = grad.times_power_of_two((shifts_of_degree - 1) * shift);
                }
                if through_degree {
                    grad += sum(members, |v| {
                        let shift = shifts_of_degree * (shift + vertex_shift[v]);
                        degree_gradient[v].times_power_of_two(shift)
                    });
                }
                *sum_of_chunk += T::Acc::from_f64(grad.times_power_of_two(-shifts_of_degree * shift));
            });
        }
    }
}
