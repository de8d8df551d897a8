//! The weighted degrees D of the vertices, what the convolution divides by (L = D⁻¹ or D^(−1/2)), and the
//! shifts that keep factors in range, see [`Conv::shift`].

use rayon::prelude::*;

use super::gather::sum;
use super::schedule::{Schedule, Task, each_value};
use super::scratch::Scratch;
use crate::conv::{Conv, NO_SHIFT, Normalization};
use crate::element::{Accumulator, Element};
use crate::error::{Error, Result};
use crate::incidence::Incidence;

/// D_v.
fn degree<A: Accumulator>(conv: Conv, topology: &Incidence, weights: &[A], v: usize) -> A {
    let edges = topology.by_vertex().row(v);
    if conv.weight_use.in_degree() { sum(edges, |e| weights[e]) } else { A::from_count(edges.len()) }
}

/// L of a vertex of this degree, and its shift.
fn inv_degree<A: Accumulator>(conv: Conv, degree: A) -> (A, i32) {
    let shift = if conv.weights_in_degree() { conv.shift(degree) } else { 0 };
    let shifted = degree.times_power_of_two(conv.shifts_of_degree() * shift);
    let inv_degree = if degree == A::ZERO {
        A::ZERO
    } else if !degree.is_finite() {
        A::NAN
    } else if conv.normalization == Normalization::Symmetric {
        A::ONE / shifted.square_root()
    } else {
        A::ONE / shifted
    };
    (inv_degree, shift)
}

/// Refuses the first negative degree where its square root is needed. `window` gives the weights of a chunk.
pub(super) fn check_degrees<'w, T: Element>(
    conv: Conv,
    schedule: &Schedule<'_, T>,
    window: impl Fn(&Task<'_>) -> &'w [T::Acc] + Sync,
) -> Result<()> {
    if !conv.checks_degrees() {
        return Ok(());
    }
    let negative = |c| {
        let task = schedule.task(c)?;
        let (topology, weights) = (task.topology, window(&task));
        let instance = task.instances().next()?;
        let mut degrees = (0..topology.n_vertices()).map(|v| (v, degree(conv, topology, weights, v)));
        let (vertex, degree) = degrees.find(|&(_, d)| d < T::Acc::ZERO)?;
        Some((instance, vertex, degree.to_f64()))
    };
    let first = (0..schedule.n_chunks()).into_par_iter().filter_map(negative);
    match first.min_by_key(|&(instance, vertex, _)| (instance, vertex)) {
        Some((instance, vertex, value)) => Err(Error::NegativeDegree { instance, vertex, value }),
        None => Ok(()),
    }
}

/// Fills in D, L and the shift of all vertices of a chunk, where the normalization uses them.
pub(super) fn fill_degrees<T: Element>(
    conv: Conv,
    task: &Task<'_>,
    weights: &[T::Acc],
    scratch: &mut Scratch<T>,
) {
    if conv.normalization == Normalization::None {
        return;
    }
    let topology = task.topology;
    let n = topology.n_vertices();
    each_value(task.parallel(), &mut scratch.degree[..n], |v, d| *d = degree(conv, topology, weights, v));
    for (v, &degree) in scratch.degree[..n].iter().enumerate() {
        let (inv_degree, shift) = inv_degree(conv, degree);
        (scratch.inv_degree[v], scratch.vertex_shift[v]) = (inv_degree, shift);
        let is_single = topology.by_vertex().row(v).len() == 1;
        let cancels_out = is_single && degree.is_finite() && conv.single_incidences_cancel_out();
        scratch.weight_inv_degree[v] = if cancels_out { T::Acc::ZERO } else { inv_degree };
    }
}

/// Fills in the shifts of all hyperedges of a chunk, where there are any, from those of the vertices.
pub(super) fn fill_edge_shifts<T: Element>(conv: Conv, task: &Task<'_>, scratch: &mut Scratch<T>) {
    if !conv.weights_in_degree() {
        return;
    }
    let (by_edge, vertex_shift) = (task.topology.by_edge(), &scratch.vertex_shift[..]);
    each_value(task.parallel(), &mut scratch.edge_shift[..by_edge.len()], |e, edge_shift| {
        let shifts = by_edge.row(e).iter().map(|&v| vertex_shift[v as usize]);
        let shifts = shifts.filter(|&shift| shift != NO_SHIFT);
        *edge_shift = match shifts.clone().max().zip(shifts.min()) {
            Some((largest, smallest)) => conv.edge_shift::<T::Acc>(largest, smallest),
            None => 0,
        };
    });
}

/// ∂loss/∂D_v, from the dot products ⟨g_v, y_v / L_v⟩ and, where R depends on the degree, ⟨x_v, ∂x_v / R_v⟩.
/// L and its shift are those that [`fill_degrees`] found.
pub(super) fn degree_gradient<A: Accumulator>(
    conv: Conv,
    degree: A,
    (inv_degree, shift): (A, i32),
    dot_y: f64,
    dot_x: Option<f64>,
) -> f64 {
    let inv_degree = inv_degree.to_f64();
    let degree = degree.times_power_of_two(conv.shifts_of_degree() * shift).to_f64();
    let through_y = inv_degree * dot_y;
    match dot_x {
        None => -(through_y / degree),
        Some(dot_x) => -((through_y + inv_degree * dot_x) / (2.0 * degree)),
    }
}
