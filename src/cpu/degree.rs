//! The weighted degrees D of the vertices, what the convolution divides by (L = D⁻¹ or D^(−1/2)), and the
//! shifts that keep factors in range, see [`Conv::shift`].

use rayon::prelude::*;

use super::schedule::{Schedule, Task, each_value};
use super::scratch::Scratch;
use super::threads::is_alone;
use super::weighted_degree::degree;
use crate::conv::{Conv, NO_SHIFT, Normalization};
use crate::element::{Accumulator, Element};
use crate::error::{Error, Result};

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
        // Instances of a chunk ascend.
        schedule
            .tasks(c)
            .find_map(|task| task.by_window().find_map(|task| first_negative(conv, &task, window(&task))))
    };
    let place = |&(instance, vertex, _): &(usize, usize, f64)| (instance, vertex);
    let chunks = 0..schedule.n_chunks();
    let first = if is_alone() || chunks.len() <= 1 {
        chunks.filter_map(negative).min_by_key(place)
    } else {
        chunks.into_par_iter().filter_map(negative).min_by_key(place)
    };
    match first {
        Some((instance, vertex, value)) => Err(Error::NegativeDegree { instance, vertex, value }),
        None => Ok(()),
    }
}

/// The first negative degree of a window: its instance, vertex and value.
fn first_negative<A: Accumulator>(conv: Conv, task: &Task<'_>, weights: &[A]) -> Option<(usize, usize, f64)> {
    let degrees = task.topology.by_vertex().rows().map(|hyperedges| degree_alone(conv, hyperedges, weights));
    let (vertex, degree) = degrees.enumerate().find(|&(_, degree)| degree < A::ZERO)?;
    Some((task.instances().next()?, vertex, degree.to_f64()))
}

fn degree_alone<A: Accumulator>(conv: Conv, hyperedges: &[u32], weights: &[A]) -> A {
    let [degree] = degree(conv, hyperedges, |e| [weights[e]]).0;
    degree
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
    each_value(task.parallel, &mut scratch.degree[..n], |v, d| {
        *d = degree_alone(conv, topology.by_vertex().row(v), weights);
    });
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
    each_value(task.parallel, &mut scratch.edge_shift[..by_edge.len()], |e, edge_shift| {
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

#[cfg(test)]
mod tests {
    use crate::batch::Batch;
    use crate::conv::{Conv, Normalization, WeightUse};
    use crate::cpu::{Plan, Weights};
    use crate::error::Error;
    use crate::incidence::Incidence;
    use crate::rows::{Out, Rows};

    /// Instances whose degrees are formed in lanes, with some negative ones: it is the first instance's first
    /// vertex that is named, also in lanes that are not full.
    #[test]
    fn the_first_negative_degree_is_named() {
        let batch = Batch::replicate(Incidence::subsets(4, 2).unwrap());
        let conv = Conv::new(Normalization::Symmetric, WeightUse::Documented);
        let plan = Plan::<f32>::builder(&batch, 1).conv(conv).build().unwrap();
        for (copies, negative) in
            [(301, [298, 300]), (300, [9, 12]), (300, [12, 9]), (37, [0, 36]), (5, [4, 4])]
        {
            let mut workspace = plan.workspace(copies).unwrap();
            let mut weights = vec![1.0; 6 * copies];
            // Hyperedge 5 joins vertices 2 and 3, and hyperedge 3 vertices 1 and 2.
            weights[6 * negative[0] + 5] = -8.0;
            weights[6 * negative[1] + 3] = -8.0;
            let x = vec![1.0; 4 * copies];
            let mut y = vec![0.0; 4 * copies];
            let x = Rows::contiguous(&x[..], 1);
            let y = Out::Overwrite(Rows::contiguous(&mut y[..], 1));
            let error = workspace.conv(x, Weights::consecutive(&weights), y).unwrap_err();
            let first = negative[0].min(negative[1]);
            let of_vertex = if first == negative[1] { 1 } else { 2 };
            let Error::NegativeDegree { instance, vertex, .. } = error else { panic!("{error}") };
            assert_eq!((instance, vertex), (first, of_vertex), "{copies} {negative:?}");
        }
    }
}
