//! The gradients of weights from Γ_uv = ⟨ĝ_u, x_v⟩, in `f64`; ĝ_u is g_u times the scale of y_u.
//!
//! ```text
//! c_u  = Σ_v M_uv Γ_uv / D_u                                    row
//!      = (Σ_v M_uv Γ_uv + Σ_v M_vu Γ_vu) / (2 D_u)              symmetric
//! G_uv = Γ_uv / D_u                                             row
//!      = Γ_uv / √(D_u D_v)                                      symmetric
//!      = Γ_uv                                                   none
//! ∂w_e = Σ_{u∈e} ((Σ_{v∈e} G_uv) / B_e [w in the message] − c_u [w in the degree])
//! ```
//!
//! Vertices of degree 0 are left out, and those of a single incidence whose weight cancels out. Where weights
//! are part of degrees, D'_u and the shifts s_u of M stand for D_u. With E the largest shift of those
//! vertices of e that take part, or less where they lie further apart than products in `f64` have room for
//! (−E is [`Conv::edge_shift`] of `f64`; of degrees in `f32` it is the largest):
//!
//! ```text
//! ∂w_e = 2^(h E) Σ_{u∈e} 2^(s_u − E) ((Σ_{v∈e} 2^(s_v − E) G_uv) / B_e − 2^(s_u − E) c_u)
//! ```
//!
//! with the inner powers and h = 2 under `Symmetric`, without them and h = 1 under `Row`.

use super::DenseOperator;
use crate::conv::{Conv, NO_SHIFT, Normalization};
use crate::element::Accumulator;
use crate::incidence::Incidence;
use crate::pairs::MOST_VERTICES;

impl<A: Accumulator> DenseOperator<A> {
    /// Calls `f` with each hyperedge and the gradient of its weight, from Γ_uv at u n + v, which is
    /// overwritten. M must have been formed for this topology.
    pub(in crate::cpu) fn weight_gradients(
        &self,
        conv: Conv,
        topology: &Incidence,
        gamma: &mut [f64],
        mut f: impl FnMut(usize, f64),
    ) {
        let mut degrees = [0.0; MOST_VERTICES];
        degrees.iter_mut().zip(&self.weight_degrees).for_each(|(to, degree)| *to = degree.to_f64());
        let degree_terms = self.degree_terms(conv, &degrees, gamma);
        if conv.weight_use.in_message() {
            normalize(conv.normalization, topology.n_vertices(), &degrees, gamma);
        }
        let terms = Terms {
            conv,
            n: topology.n_vertices(),
            messages: gamma,
            degree_terms: &degree_terms,
            degrees: &degrees,
            shifts: &self.shifts,
        };
        for (e, members) in topology.by_edge().rows().enumerate() {
            f(e, terms.weight_gradient(members));
        }
    }

    /// c_u of all vertices, where weights are part of the degrees.
    fn degree_terms(&self, conv: Conv, degrees: &[f64], gamma: &[f64]) -> [f64; MOST_VERTICES] {
        let mut degree_terms = [0.0; MOST_VERTICES];
        if !conv.weights_in_degree() {
            return degree_terms;
        }
        let (n, entries, terms) = (self.matrix.n, &self.matrix.entries, &self.matrix.terms);
        let product = |at: usize| entries[at].to_f64() * gamma[at];
        for u in (0..n).filter(|&u| degrees[u] != 0.0) {
            let of_y = (0..n).filter(|&v| terms[u] >> v & 1 == 1);
            let of_y = of_y.fold(0.0, |sum, v| sum + product(u * n + v));
            degree_terms[u] = if conv.normalization == Normalization::Symmetric {
                let of_x = (0..n).filter(|&v| terms[v] >> u & 1 == 1);
                let of_x = of_x.fold(0.0, |sum, v| sum + product(v * n + u));
                (of_y + of_x) / (2.0 * degrees[u])
            } else {
                of_y / degrees[u]
            };
        }
        degree_terms
    }
}

/// Makes Γ to G.
fn normalize(normalization: Normalization, n: usize, degrees: &[f64], gamma: &mut [f64]) {
    for (row, &of_row) in gamma.chunks_exact_mut(n.max(1)).zip(degrees) {
        match normalization {
            Normalization::Row => row.iter_mut().for_each(|value| *value /= of_row),
            Normalization::Symmetric => {
                row.iter_mut().zip(degrees).for_each(|(value, degree)| *value /= (of_row * degree).sqrt());
            }
            Normalization::None => {}
        }
    }
}

/// What the gradients of an instance's weights are made of.
struct Terms<'a> {
    conv: Conv,
    n: usize,
    /// G_uv at u n + v.
    messages: &'a [f64],
    /// c_u.
    degree_terms: &'a [f64],
    degrees: &'a [f64],
    shifts: &'a [i32],
}

impl Terms<'_> {
    /// ∂w of a hyperedge.
    fn weight_gradient(&self, members: &[u32]) -> f64 {
        let Self { conv, n, messages, degree_terms, degrees, shifts } = *self;
        let is_normalized = conv.normalization != Normalization::None;
        let is_symmetric = conv.normalization == Normalization::Symmetric;
        let members = || members.iter().map(|&v| v as usize);
        let is_shifted = conv.weights_in_degree();
        let reference = if is_shifted { self.reference_shift(members()) } else { 0 };
        let shifted = |value: f64, v: usize| value.times_power_of_two(shifts[v] - reference);
        let mut total = 0.0;
        for u in members().filter(|&u| !(is_normalized && degrees[u] == 0.0)) {
            let mut inner = 0.0;
            if conv.weight_use.in_message() {
                let mut sum = 0.0;
                for v in members().filter(|&v| !(is_symmetric && degrees[v] == 0.0)) {
                    let message = messages[u * n + v];
                    sum += if is_shifted && is_symmetric { shifted(message, v) } else { message };
                }
                inner = sum / members().len() as f64;
            }
            if conv.weights_in_degree() {
                let degree_term = degree_terms[u];
                inner -= if is_symmetric { shifted(degree_term, u) } else { degree_term };
            }
            total += if is_shifted { shifted(inner, u) } else { inner };
        }
        if is_shifted { total.times_power_of_two(conv.shifts_of_degree() * reference) } else { total }
    }

    /// E of a hyperedge. Vertices that are left out have no say.
    fn reference_shift(&self, members: impl Iterator<Item = usize>) -> i32 {
        let mut range = None;
        let takes_part = |&v: &usize| self.degrees[v] != 0.0 && self.shifts[v] != NO_SHIFT;
        for shift in members.filter(takes_part).map(|v| self.shifts[v]) {
            let (largest, smallest) = range.unwrap_or((shift, shift));
            range = Some((shift.max(largest), shift.min(smallest)));
        }
        range.map_or(0, |(largest, smallest)| -self.conv.edge_shift::<f64>(largest, smallest))
    }
}
