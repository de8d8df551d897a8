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
//! The two terms of ∂w cancel out where vertices are alike, and where a vertex has one hyperedge only. So z and y are
//! recomputed in the accumulation type and never rounded to a narrower one, and the scalars of ∂w are formed in `f64`.

#![allow(unsafe_code)]

use rayon::prelude::*;

use super::disjoint::Disjoint;
use super::gather::{Dot, Source, Store, gather, sum};
use super::operands::{Input, Output, check_gradient, operand, output, started};
use super::schedule::{Schedule, each, each_row, each_value, for_each};
use super::workspace::{Scratch, Workspace};
use super::{Path, Plan, Weights, add_to, inverse_count};
use crate::batch::Axis;
use crate::conv::Normalization;
use crate::element::{Accumulator, Element};
use crate::error::{Error, Result};
use crate::groups::Chunk;
use crate::incidence::Incidence;
use crate::rows::{Operand, Out, Rows};

impl<T: Element> Workspace<T> {
    /// y = L H U B⁻¹ Hᵀ R x with the plan's conventions.
    ///
    /// * `x`: `N` rows of vertices;
    /// * `weights`: one for each hyperedge, read through windows;
    /// * `y`: `N` rows of vertices, overwritten or added to. A vertex of degree 0 gets zeros, unless the normalization
    ///   is `None`.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Stride`], [`Error::Overlap`], [`Error::WindowOutOfRange`],
    /// [`Error::WindowTableMismatch`], [`Error::LengthMismatch`], [`Error::TooManyInstances`],
    /// [`Error::NegativeDegree`], [`Error::TooLarge`]. Nothing is written then.
    pub fn conv(
        &mut self,
        x: Rows<&[T]>,
        weights: Weights<'_, T::Acc>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        let x_operand = operand("x", Axis::Vertex, &x);
        let y_operand = output("y", Axis::Vertex, &y);
        let call = Call::new(&self.plan, self.max_instances, &[Some(x_operand), y_operand], weights)?;
        let x = Input::new(x, x_operand, call.plan.batch(), call.instances)?;
        let y = Output::new(y, y_operand, call.plan.batch(), call.instances)?;
        call.check_degrees()?;
        let Some(y) = y.filter(|_| call.has_elements()) else { return Ok(()) };

        let n_chunks = call.schedule.n_chunks();
        for_each(&mut self.slots, 0..n_chunks, |scratch, c| call.forward(Path::Gather, c, x, &y, scratch));
        if call.plan.has(Path::GatherRows) {
            (0..n_chunks).for_each(|c| call.forward(Path::GatherRows, c, x, &y, &mut self.large));
        }
        Ok(())
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
        let x_operand = operand("x", Axis::Vertex, &x);
        let grad_y_operand = operand("grad_y", Axis::Vertex, &grad_y);
        let grad_x_operand = output("grad_x", Axis::Vertex, &grad_x);
        let operands = [Some(x_operand), Some(grad_y_operand), grad_x_operand];
        let call = Call::new(&self.plan, self.max_instances, &operands, weights)?;
        let batch = call.plan.batch();
        let backward = Backward {
            x: Input::new(x, x_operand, batch, call.instances)?,
            grad_y: Input::new(grad_y, grad_y_operand, batch, call.instances)?,
            grad_x: Output::new(grad_x, grad_x_operand, batch, call.instances)?,
            weights_wanted: grad_weights.is_wanted(),
            call,
        };
        check_gradient("grad_weights", &grad_weights, weights.values.len())?;
        backward.call.check_degrees()?;
        let mut grad_weights = started(grad_weights);
        if !backward.call.has_elements() {
            return Ok(());
        }

        let n_chunks = backward.call.schedule.n_chunks();
        let (slots, width) = (&mut self.slots, self.partials.width);
        self.partials.for_each_block(n_chunks, |block, partials| {
            let rows = Disjoint::new(&mut *partials);
            for_each(slots, block.clone(), |scratch, c| {
                let row = (c - block.start) * width;
                // SAFETY: each chunk of the block has a row of its own, and is computed once.
                let sums = unsafe { rows.part(row..row + width) };
                backward.chunk(Path::Gather, c, scratch, sums);
            });
            if let Some(grad_weights) = grad_weights.as_deref_mut() {
                for c in block.clone() {
                    backward.call.add_chunk(
                        Path::Gather,
                        c,
                        &partials[(c - block.start) * width..],
                        grad_weights,
                    );
                }
            }
        });
        if backward.call.plan.has(Path::GatherRows) {
            for c in 0..n_chunks {
                self.large_sums.fill(T::Acc::ZERO);
                backward.chunk(Path::GatherRows, c, &mut self.large, &mut self.large_sums);
                if let Some(grad_weights) = grad_weights.as_deref_mut() {
                    backward.call.add_chunk(Path::GatherRows, c, &self.large_sums, grad_weights);
                }
            }
        }
        Ok(())
    }
}

/// A checked call of the convolution or its backward.
struct Call<'a, T: Element> {
    plan: &'a Plan<T>,
    instances: usize,
    weights: &'a [T::Acc],
    schedule: Schedule<'a>,
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
            schedule: Schedule::new(plan.batch(), windows, instances),
        })
    }

    fn has_elements(&self) -> bool {
        self.instances > 0 && self.plan.features() > 0
    }

    /// A chunk, its topology and its weights, if it has instances.
    fn chunk(&self, c: usize) -> Option<(Chunk<'a>, &'a Incidence, &'a [T::Acc])> {
        let chunk = self.schedule.chunk(c);
        chunk.members.iter().next()?;
        let topology = &self.plan.batch().topologies()[chunk.topology];
        let weights = &self.weights[chunk.offset..][..topology.n_hyperedges()];
        Some((chunk, topology, weights))
    }

    /// The same, if its topology is on `path`.
    fn chunk_on(&self, path: Path, c: usize) -> Option<(Chunk<'a>, &'a Incidence, &'a [T::Acc])> {
        self.chunk(c).filter(|(chunk, ..)| self.plan.path(chunk.topology) == path)
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
        if !(self.is_symmetric() && self.plan.conv().weight_use.in_degree()) {
            return Ok(());
        }
        let negative = |c| {
            let (chunk, topology, weights) = self.chunk(c)?;
            let instance = chunk.members.iter().next()?;
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

    /// D and L of all vertices, where the normalization uses them.
    fn degrees(&self, path: Path, topology: &Incidence, weights: &[T::Acc], scratch: &mut Scratch<T::Acc>) {
        if !self.is_normalized() {
            return;
        }
        let n = topology.n_vertices();
        each_value(path == Path::GatherRows, &mut scratch.degree[..n], |v, degree| {
            *degree = self.degree(topology, weights, v);
        });
        for (left, &degree) in scratch.left[..n].iter_mut().zip(&scratch.degree) {
            *left = if degree == T::Acc::ZERO {
                T::Acc::ZERO
            } else if self.is_symmetric() {
                T::Acc::ONE / degree.square_root()
            } else {
                T::Acc::ONE / degree
            };
        }
    }

    /// z of one instance: B⁻¹ Hᵀ R x.
    fn hyperedges(
        &self,
        path: Path,
        topology: &Incidence,
        x: Input<'_, T>,
        instance: usize,
        left: &[T::Acc],
        z: &mut [T::Acc],
    ) {
        let features = self.plan.features();
        let right = self.is_symmetric().then_some(left);
        let x = x.source(self.plan.batch(), instance, right, true);
        each_row(
            path == Path::GatherRows,
            &mut z[..topology.n_hyperedges() * features],
            features,
            |e, row| {
                let members = topology.by_edge().row(e);
                gather(x, members, &mut Store { row, scale: inverse_count(members.len()), add: false });
            },
        );
    }

    /// Computes a chunk, if its topology is on `path`.
    fn forward(
        &self,
        path: Path,
        c: usize,
        x: Input<'_, T>,
        y: &Output<'_, T>,
        scratch: &mut Scratch<T::Acc>,
    ) {
        let Some((chunk, topology, weights)) = self.chunk_on(path, c) else { return };
        self.degrees(path, topology, weights, scratch);
        let features = self.plan.features();
        for instance in chunk.members.iter() {
            self.hyperedges(path, topology, x, instance, &scratch.left, &mut scratch.z);
            let z = edge_rows(&scratch.z, features, self.message(weights));
            let left = self.is_normalized().then_some(&scratch.left[..]);
            each(path == Path::GatherRows, topology.n_vertices(), |v| {
                let scale = left.map_or(T::Acc::ONE, |left| left[v]);
                // A row of degree zero is a store of zeros, not a product with zero.
                let edges = if scale == T::Acc::ZERO { &[] } else { topology.by_vertex().row(v) };
                // SAFETY: each instance is in one chunk, each chunk is computed once, and each vertex once in it.
                let mut store = unsafe { y.store(self.plan.batch(), instance, v, scale) };
                gather(z, edges, &mut store);
            });
        }
    }

    /// Adds the weight gradients of a chunk to those of the batch.
    fn add_chunk(&self, path: Path, c: usize, sums: &[T::Acc], grad_weights: &mut [T::Acc]) {
        let Some((chunk, topology, _)) = self.chunk_on(path, c) else { return };
        let m = topology.n_hyperedges();
        add_to(&mut grad_weights[chunk.offset..][..m], &sums[..m]);
    }
}

/// Rows of hyperedges in scratch memory, to gather from.
fn edge_rows<'a, A: Accumulator>(rows: &'a [A], features: usize, scale: Option<&'a [A]>) -> Source<'a, A> {
    Source { rows, row_stride: features, features, scale, skip_zero: false }
}

/// A checked call of the backward, and its operands.
struct Backward<'a, T: Element> {
    call: Call<'a, T>,
    x: Input<'a, T>,
    grad_y: Input<'a, T>,
    grad_x: Option<Output<'a, T>>,
    weights_wanted: bool,
}

impl<T: Element> Backward<'_, T> {
    /// Computes a chunk, if its topology is on `path`: ∂x, and the weight gradients of its instances added to `sums`.
    fn chunk(&self, path: Path, c: usize, scratch: &mut Scratch<T::Acc>, sums: &mut [T::Acc]) {
        let call = &self.call;
        let Some((chunk, topology, weights)) = call.chunk_on(path, c) else { return };
        let (n, m, features) = (topology.n_vertices(), topology.n_hyperedges(), call.plan.features());
        let batch = call.plan.batch();
        let parallel = path == Path::GatherRows;
        let through_degree = self.weights_wanted && call.plan.conv().weights_in_degree();
        let through_message = self.weights_wanted && call.plan.conv().weight_use.in_message();

        call.degrees(path, topology, weights, scratch);
        for (e, pull) in scratch.pull[..m].iter_mut().enumerate() {
            let message = call.message(weights).map_or(T::Acc::ONE, |w| w[e]);
            *pull = message * inverse_count(topology.by_edge().row(e).len());
        }
        for instance in chunk.members.iter() {
            let Scratch { z, q, degree, left, degree_gradient, pull } = &mut *scratch;
            let (degree, left, pull) = (&degree[..], &left[..], &pull[..]);
            if through_degree || through_message {
                call.hyperedges(path, topology, self.x, instance, left, z);
            }
            let scale = call.is_normalized().then_some(left);
            let grad_y = self.grad_y.source(batch, instance, scale, true);
            each_row(parallel, &mut q[..m * features], features, |e, row| {
                let mut store = Store { row, scale: T::Acc::ONE, add: false };
                gather(grad_y, topology.by_edge().row(e), &mut store);
            });

            let x = self.x.source(batch, instance, None, false);
            let y_rows = edge_rows(z, features, call.message(weights));
            let grad_x_rows = edge_rows(q, features, Some(pull));
            each_value(parallel, &mut degree_gradient[..n], |v, grad_degree| {
                let edges = topology.by_vertex().row(v);
                let no_degree = call.is_normalized() && left[v] == T::Acc::ZERO;
                let right = if call.is_symmetric() { left[v] } else { T::Acc::ONE };
                // A degree of zero has no gradient, and makes the right factor of the symmetric normalization zero.
                let through_degree = through_degree && !no_degree;
                let edges_of_x = if no_degree && call.is_symmetric() { &[] } else { edges };

                let dot_x = (through_degree && call.is_symmetric()).then(|| Dot::new(x.row(v)));
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
                let mut dot_y = Dot::new(grad_y.row(v));
                gather(y_rows, edges, &mut dot_y);
                let both = left[v].to_f64() * dot_y.value();
                let degree = degree[v].to_f64();
                *grad_degree = -match sink.1 {
                    None => both / degree,
                    Some(dot_x) => (both + right.to_f64() * dot_x.value()) / (2.0 * degree),
                };
            });

            if !self.weights_wanted {
                continue;
            }
            let (z, q, degree_gradient) = (&z[..], &q[..], &degree_gradient[..]);
            each_value(parallel, &mut sums[..m], |e, sum_of_chunk| {
                let mut grad = 0.0;
                if through_message {
                    let mut dot = Dot::new(&q[e * features..][..features]);
                    gather(edge_rows(z, features, None), &[e as u32], &mut dot);
                    grad = dot.value();
                }
                if through_degree {
                    grad += sum(topology.by_edge().row(e), |v| degree_gradient[v]);
                }
                *sum_of_chunk += T::Acc::from_f64(grad);
            });
        }
    }
}
