//! The gradients of the weights of each instance alone: ∂w_e = ⟨q_e, z_e⟩ + Σ_{v∈e} ∂D_v.

use super::gather::sum;
use crate::conv::Conv;
use crate::element::Accumulator;

/// ∂w_e. Both terms may be missing: the dot product where weights are no part of the message, the gradients
/// of the degrees where weights are no part of those. q and ∂D were multiplied by powers of two, which is
/// undone here, see [`Conv::shift`].
pub(super) fn weight_gradient(
    conv: Conv,
    members: &[u32],
    dot: Option<f64>,
    degree_gradients: Option<&[f64]>,
    (edge_shift, vertex_shifts): (i32, &[i32]),
) -> f64 {
    let shifts_of_degree = conv.shifts_of_degree();
    let mut gradient = dot.map_or(0.0, |dot| dot.times_power_of_two((shifts_of_degree - 1) * edge_shift));
    if let Some(degree_gradients) = degree_gradients {
        gradient += sum(members, |v| {
            let shift = shifts_of_degree * (edge_shift + vertex_shifts[v]);
            degree_gradients[v].times_power_of_two(shift)
        });
    }
    gradient.times_power_of_two(-shifts_of_degree * edge_shift)
}
