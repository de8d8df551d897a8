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

#![allow(unsafe_code)]

use super::super::lanes::{Lanes, most_lanes, vectors, vectors_mut, with_lanes};
use super::DenseOperator;
use super::form::Formed;
use crate::conv::{Conv, NO_SHIFT, Normalization};
use crate::element::Accumulator;
use crate::incidence::Incidence;
use crate::pairs::MOST_VERTICES;
use crate::vectors::vectorized;

impl<A: Accumulator> DenseOperator<A> {
    /// Calls `f` with each hyperedge and the gradients of its weight, one for each lane, from Γ_uv at
    /// u n + v, which has [`lanes`](Self::lanes), too, and is overwritten. M must have been formed for this
    /// topology. Code for AVX2 is used where the processor has it.
    pub(in crate::cpu) fn weight_gradients(
        &self,
        conv: Conv,
        topology: &Incidence,
        gamma: &mut [f64],
        f: impl FnMut(usize, &[f64]),
    ) {
        let formed = &self.formed;
        with_lanes!(A, formed.lanes, L => weight_gradients::<A, L>(formed, conv, topology, gamma, f));
    }
}

fn weight_gradients<A: Accumulator, const L: usize>(
    formed: &Formed<A>,
    conv: Conv,
    topology: &Incidence,
    gamma: &mut [f64],
    f: impl FnMut(usize, &[f64]),
) {
    vectorized!(
        [A: Accumulator, const L: usize] [A, L]
        (
            formed: &Formed<A> = formed,
            conv: Conv = conv,
            topology: &Incidence = topology,
            gamma: &mut [f64] = gamma,
            f: impl FnMut(usize, &[f64]) = f,
        )
        { weight_gradients_portable::<A, L>(formed, conv, topology, gamma, f) }
    )
}

/// The same for whatever processor the caller is compiled for; the bits are the same on all.
#[inline(always)]
fn weight_gradients_portable<A: Accumulator, const L: usize>(
    formed: &Formed<A>,
    conv: Conv,
    topology: &Incidence,
    gamma: &mut [f64],
    mut f: impl FnMut(usize, &[f64]),
) {
    let n = topology.n_vertices();
    let gamma = vectors_mut::<f64, L>(gamma);
    let mut degrees = [[0.0; L]; MOST_VERTICES];
    for (degrees, of_weights) in degrees.iter_mut().zip(&vectors::<A, L>(&formed.weight_degrees)[..n]) {
        for i in 0..L {
            degrees[i] = of_weights[i].to_f64();
        }
    }
    let degree_terms = degree_terms(formed, conv, n, &degrees, gamma);
    if conv.weight_use.in_message() {
        normalize(conv.normalization, n, &degrees, gamma);
    }
    let shifts = vectors(&formed.shifts);
    let mut terms = Terms {
        conv,
        n,
        messages: gamma,
        degree_terms: &degree_terms,
        degrees: &degrees,
        shifts,
        ranges: [[[NO_SHIFT; L], [-NO_SHIFT; L]]; MOST_VERTICES],
    };
    if conv.weights_in_degree() {
        for v in 0..n {
            for i in 0..L {
                if degrees[v][i] != 0.0 && shifts[v][i] != NO_SHIFT {
                    (terms.ranges[v][0][i], terms.ranges[v][1][i]) = (shifts[v][i], shifts[v][i]);
                }
            }
        }
    }
    for (e, members) in topology.by_edge().rows().enumerate() {
        f(e, &terms.weight_gradient(members).0);
    }
}

/// c_u of all vertices, where weights are part of the degrees.
#[inline(always)]
fn degree_terms<A: Accumulator, const L: usize>(
    formed: &Formed<A>,
    conv: Conv,
    n: usize,
    degrees: &[[f64; L]; MOST_VERTICES],
    gamma: &[[f64; L]],
) -> [[f64; L]; MOST_VERTICES] {
    let mut degree_terms = [[0.0; L]; MOST_VERTICES];
    if !conv.weights_in_degree() {
        return degree_terms;
    }
    let entries = vectors::<A, L>(&formed.entries);
    let terms = &formed.terms[..L];
    // Mostly no degree is 0.
    let all_alike = terms.iter().all(|of_lane| of_lane[..n] == terms[0][..n]);
    // Σ M_uv Γ_uv over the terms of row u, or of a column.
    let sum = |u: usize, is_row: bool| {
        let mut sum = Lanes::splat(0.0);
        for v in 0..n {
            let (row, column) = if is_row { (u, v) } else { (v, u) };
            let at = row * n + column;
            let mut product = [0.0; L];
            for i in 0..L {
                product[i] = entries[at][i].to_f64() * gamma[at][i];
            }
            if all_alike {
                if terms[0][row] >> column & 1 == 1 {
                    sum += Lanes(product);
                }
            } else {
                for i in 0..L {
                    if terms[i][row] >> column & 1 == 1 {
                        sum.0[i] += product[i];
                    }
                }
            }
        }
        sum
    };
    for u in 0..n {
        let degree = Lanes(degrees[u]);
        let mut term = sum(u, true);
        if conv.normalization == Normalization::Symmetric {
            term += sum(u, false);
            term = term / (Lanes::splat(2.0) * degree);
        } else {
            term = term / degree;
        }
        for i in 0..L {
            degree_terms[u][i] = if degrees[u][i] != 0.0 { term.0[i] } else { 0.0 };
        }
    }
    degree_terms
}

/// Makes Γ to G.
#[inline(always)]
fn normalize<const L: usize>(
    normalization: Normalization,
    n: usize,
    degrees: &[[f64; L]; MOST_VERTICES],
    gamma: &mut [[f64; L]],
) {
    for (row, &of_row) in gamma.chunks_exact_mut(n.max(1)).zip(degrees) {
        for (value, &of_column) in row.iter_mut().zip(degrees) {
            let divisor = match normalization {
                Normalization::Row => Lanes(of_row),
                Normalization::Symmetric => (Lanes(of_row) * Lanes(of_column)).square_root(),
                Normalization::None => continue,
            };
            *value = (Lanes(*value) / divisor).0;
        }
    }
}

/// What the gradients of an instance's weights are made of; of several, in lanes.
struct Terms<'a, const L: usize> {
    conv: Conv,
    n: usize,
    /// G_uv at u n + v.
    messages: &'a [[f64; L]],
    /// c_u.
    degree_terms: &'a [[f64; L]; MOST_VERTICES],
    degrees: &'a [[f64; L]; MOST_VERTICES],
    shifts: &'a [[i32; L]],
    /// The shift of each vertex that has a say in that of its hyperedges: as one of the largest, and one of
    /// the smallest. Of the others what is neither.
    ranges: [[[i32; L]; 2]; MOST_VERTICES],
}

impl<const L: usize> Terms<'_, L> {
    /// ∂w of a hyperedge.
    #[inline(always)]
    fn weight_gradient(&self, members: &[u32]) -> Lanes<f64, L> {
        let Self { conv, n, messages, degree_terms, degrees, shifts, .. } = *self;
        let is_normalized = conv.normalization != Normalization::None;
        let is_symmetric = conv.normalization == Normalization::Symmetric;
        let is_shifted = conv.weights_in_degree();
        let reference = if is_shifted { self.reference_shift(members) } else { [0; L] };
        let shifted = |value: Lanes<f64, L>, v: usize| {
            let mut exponents = [0; L];
            for i in 0..L {
                exponents[i] = shifts[v][i] - reference[i];
            }
            value.times_powers_of_two(exponents)
        };
        let size = Lanes::splat(members.len() as f64);
        let mut total = Lanes::splat(0.0);
        for &u in members {
            let u = u as usize;
            let mut inner = Lanes::splat(0.0);
            if conv.weight_use.in_message() {
                let mut sum = Lanes::splat(0.0);
                for &v in members {
                    let v = v as usize;
                    let message = Lanes(messages[u * n + v]);
                    let message = if is_shifted && is_symmetric { shifted(message, v) } else { message };
                    add(&mut sum, message, is_symmetric.then_some(&degrees[v]));
                }
                inner = sum / size;
            }
            if conv.weights_in_degree() {
                let degree_term = Lanes(degree_terms[u]);
                inner = inner - if is_symmetric { shifted(degree_term, u) } else { degree_term };
            }
            let inner = if is_shifted { shifted(inner, u) } else { inner };
            add(&mut total, inner, is_normalized.then_some(&degrees[u]));
        }
        if is_shifted {
            let mut exponents = reference;
            for exponent in &mut exponents {
                *exponent *= conv.shifts_of_degree();
            }
            total = total.times_powers_of_two(exponents);
        }
        total
    }

    /// E of a hyperedge. Vertices that are left out have no say.
    #[inline(always)]
    fn reference_shift(&self, members: &[u32]) -> [i32; L] {
        let [mut largest, mut smallest] = [[NO_SHIFT; L], [-NO_SHIFT; L]];
        for &v in members {
            let of_vertex = &self.ranges[v as usize];
            for i in 0..L {
                largest[i] = largest[i].max(of_vertex[0][i]);
                smallest[i] = smallest[i].min(of_vertex[1][i]);
            }
        }
        let mut reference = [0; L];
        for i in 0..L {
            if largest[i] != NO_SHIFT {
                reference[i] = -self.conv.edge_shift::<f64>(largest[i], smallest[i]);
            }
        }
        reference
    }
}

/// Adds a term, but for vertices of degree 0, where these are left out.
#[inline(always)]
fn add<const L: usize>(sum: &mut Lanes<f64, L>, term: Lanes<f64, L>, degrees: Option<&[f64; L]>) {
    let with_term = *sum + term;
    match degrees {
        None => *sum = with_term,
        Some(degrees) => {
            for (i, &degree) in degrees.iter().enumerate() {
                sum.0[i] = if degree == 0.0 { sum.0[i] } else { with_term.0[i] };
            }
        }
    }
}
