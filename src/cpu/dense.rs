//! The convolution of small hypergraphs by their dense operators: y = M x and ∂x = Mᵀ g with
//! M = L H U B⁻¹ Hᵀ R. The gradients of weights come from Γ, see `dense/gram.rs`, and from M, see
//! `dense/weight_gradient.rs`.
//!
//! ```text
//! P_uv = Σ U_e / B_e over the hyperedges that have u and v      in the order of `pairs.rs`
//! M_uv = P_uv / D_u                                             row
//!      = P_uv / √(D_u D_v)                                      symmetric
//!      = P_uv                                                   none
//! y_u  = Σ M_uv x_v                                             v ascending, one fused multiply-add each
//! ```
//!
//! The sum runs over the vertices that share a hyperedge with u: nothing is multiplied by a structural zero,
//! so an infinity or NaN in x reaches what it is connected with, and nothing else. As in the gathers, a row
//! of degree 0 is a store of zeros, and under `Symmetric` a vertex of degree 0 is left out.
//!
//! Where weights are part of the degrees, D and P are shifted by powers of two, for the reason that
//! [`Conv::shift`] has: with s_v the shift of a vertex and D'_v its shifted degree
//!
//! ```text
//! with weights in the message, P' = Σ 2^t U_e / B_e:
//! M_uv = P'_uv / D'_u,                       t = s_u                row
//!      = P'_uv / √(D'_u D'_v),               t = s_u + s_v          symmetric
//! without, y_u = 2^s_u Σ M'_uv x_v:
//! M'_uv = P_uv / D'_u                                               row
//!       = 2^s_v P_uv / √(D'_u D'_v)                                 symmetric
//! ```
//!
//! `kernels/dense_form.cuh` and `kernels/dense_conv.cuh` are the same on a GPU, with the same bits.

mod gram;
mod matrix;
mod weight_gradient;

use arrayvec::ArrayVec;

pub(super) use gram::{Gram, Room};
use matrix::{Matrix, Order, room_for_features};

use super::gather::{Epilogue, Source};
use crate::conv::{Conv, Normalization};
use crate::element::{Accumulator, Element};
use crate::error::Result;
use crate::incidence::Incidence;
use crate::pairs::{MOST_VERTICES, PairList, Pairs, VertexSet};

/// M of a topology and the weights of its hyperedges.
pub(super) struct DenseOperator<A> {
    /// M. The terms of y_u are the vertices v that share a hyperedge with u, without those that are left out.
    matrix: Matrix<A>,
    /// Mᵀ, where that was asked for.
    transposed: Matrix<A>,
    /// For each vertex what its sum is multiplied by.
    scales: [A; MOST_VERTICES],
    /// For each vertex D', where weights get gradients through it: 0 where it is 0, and where the vertex is
    /// left out of them, see [`Conv::single_incidences_cancel_out`].
    weight_degrees: [A; MOST_VERTICES],
    /// For each vertex its shift, where there are any.
    shifts: [i32; MOST_VERTICES],
    /// The features of all vertices that are under way, widened.
    wide: Box<[A]>,
}

/// The degree of a vertex, shifted, and its shift; NaN where the degree is not finite.
#[derive(Clone, Copy)]
struct Degree<A> {
    shifted: A,
    shift: i32,
}

impl<A: Accumulator> Degree<A> {
    fn new(conv: Conv, degree: A) -> Self {
        let shift = conv.dense_shift(degree);
        let shifted = degree.times_power_of_two(conv.shifts_of_degree() * shift);
        // A negative degree has no square root; that of a product of two would be one.
        let has_root = conv.normalization != Normalization::Symmetric || degree >= A::ZERO;
        Self { shifted: if degree.is_finite() && has_root { shifted } else { A::NAN }, shift }
    }
}

impl<A: Accumulator> DenseOperator<A> {
    /// Room for the operators of topologies of up to `n` vertices.
    pub(super) fn with_room(n: usize) -> Result<Self> {
        Ok(Self {
            matrix: Matrix::with_room(n)?,
            transposed: Matrix::with_room(n)?,
            scales: [A::ONE; MOST_VERTICES],
            weight_degrees: [A::ZERO; MOST_VERTICES],
            shifts: [0; MOST_VERTICES],
            wide: room_for_features(n)?,
        })
    }

    /// Forms M, given the degrees of the vertices where the normalization uses them.
    pub(super) fn form(
        &mut self,
        conv: Conv,
        topology: &Incidence,
        pairs: &Pairs,
        weights: &[A],
        degrees: &[A],
    ) {
        let n = topology.n_vertices();
        let Matrix { entries, terms, .. } = &mut self.matrix;
        let shifted: ArrayVec<_, MOST_VERTICES> = degrees.iter().map(|&d| Degree::new(conv, d)).collect();
        let is_zero = |v: usize| degrees[v] == A::ZERO;
        let normalization = conv.normalization;
        let mut nonzero = VertexSet::MAX;
        if normalization == Normalization::Symmetric {
            (0..n).filter(|&v| is_zero(v)).for_each(|v| nonzero &= !(1 << v));
        }
        for (u, &neighbors) in pairs.neighbors.iter().enumerate() {
            let is_left_out = normalization != Normalization::None && is_zero(u);
            terms[u] = if is_left_out { 0 } else { neighbors & nonzero };
        }
        // P_uu is D_u over the size of all hyperedges, if they have one.
        let uniform = pairs.uniform_size as usize;
        let diagonal = (uniform > 0 && conv.weights_in_degree() && conv.weight_use.in_message())
            .then_some(A::from_count(uniform));
        for (u, v, list) in pairs.iter() {
            let message = |shift| match diagonal {
                Some(size) if u == v => shifted[u].shifted / size,
                _ => message_of_pair(conv, list, weights, shift),
            };
            let (d_u, d_v) = (shifted[u], shifted[v]);
            let (at, transposed) = (u * n + v, v * n + u);
            let in_message = conv.weight_use.in_message();
            (entries[at], entries[transposed]) = match normalization {
                Normalization::None => {
                    let entry = message(0);
                    (entry, entry)
                }
                Normalization::Symmetric => {
                    let root = (d_u.shifted * d_v.shifted).square_root();
                    let entry = |message: A, shift| message.times_power_of_two(shift) / root;
                    match in_message {
                        true => {
                            let entry = entry(message(d_u.shift + d_v.shift), 0);
                            (entry, entry)
                        }
                        false => (entry(message(0), d_v.shift), entry(message(0), d_u.shift)),
                    }
                }
                Normalization::Row => {
                    let shift = |d: Degree<A>| if in_message { d.shift } else { 0 };
                    let of_u = message(shift(d_u));
                    // Most degrees are of one size.
                    let is_same = u == v || shift(d_u) == shift(d_v);
                    let of_v = if is_same { of_u } else { message(shift(d_v)) };
                    (of_u / d_u.shifted, of_v / d_v.shifted)
                }
            };
        }
        for u in 0..n {
            let is_scaled = conv.weights_in_degree() && !conv.weight_use.in_message();
            self.scales[u] = if is_scaled { A::ONE.times_power_of_two(shifted[u].shift) } else { A::ONE };
            if normalization != Normalization::None {
                let is_single = topology.by_vertex().row(u).len() == 1;
                let cancels_out = is_single && degrees[u].is_finite() && conv.single_incidences_cancel_out();
                self.weight_degrees[u] = if cancels_out { A::ZERO } else { shifted[u].shifted };
                self.shifts[u] = shifted[u].shift;
            }
        }
        self.matrix.n = n;
    }

    /// What the sum of each row of y is multiplied by.
    pub(super) fn scales(&self) -> &[A] {
        &self.scales
    }

    /// M_uv, with what the sum of row u is multiplied by.
    pub(super) fn entry(&self, u: usize, v: usize) -> A {
        let Matrix { n, entries, terms } = &self.matrix;
        if terms[u] >> v & 1 == 1 { entries[u * n + v] * self.scales[u] } else { A::ZERO }
    }

    /// Makes M another matrix of `n` rows, all of whose entries are terms.
    pub(super) fn set(&mut self, n: usize, entry: impl Fn(usize, usize) -> A) {
        let Matrix { n: of_matrix, entries, terms } = &mut self.matrix;
        *of_matrix = n;
        for (u, v) in (0..n).flat_map(|u| (0..n).map(move |v| (u, v))) {
            entries[u * n + v] = entry(u, v);
        }
        let all = VertexSet::MAX.checked_shr(VertexSet::BITS - n as u32).unwrap_or(0);
        terms[..n].fill(all);
        self.scales[..n].fill(A::ONE);
    }

    /// y = M x of one instance: `x` has its `n` rows, and `store` gives what becomes of each row of y, which
    /// multiplies it by the scale. `next` has the rows of the instance that is next, which are fetched
    /// meanwhile.
    #[inline]
    pub(super) fn store<T: Element<Acc = A>, E: Epilogue<A>>(
        &mut self,
        n: usize,
        x: &Source<'_, T>,
        next: Option<&Source<'_, T>>,
        store: impl Fn(usize, A) -> E,
    ) {
        let mut y: ArrayVec<_, MOST_VERTICES> = (0..n).map(|u| store(u, self.scales[u])).collect();
        let ones = [A::ONE; MOST_VERTICES];
        self.matrix.apply(Order::Sequence, (x, &ones), next, &mut y, &mut self.wide);
    }

    /// Makes ready for [`apply_transposed`](Self::apply_transposed).
    pub(super) fn transpose(&mut self) {
        self.transposed.transpose(&self.matrix);
    }

    /// ∂x = Mᵀ ĝ of one instance: `g` has its rows, which are multiplied by the scales of y, and `grad_x`
    /// where each row is stored. `next` is as for [`store`](Self::store).
    #[inline]
    pub(super) fn apply_transposed<T: Element<Acc = A>>(
        &mut self,
        g: &Source<'_, T>,
        next: Option<&Source<'_, T>>,
        grad_x: &mut [impl Epilogue<A>],
    ) {
        self.transposed.apply(Order::Parts, (g, &self.scales), next, grad_x, &mut self.wide);
    }
}

/// Σ 2^shift U_e / B_e over the hyperedges of a pair.
fn message_of_pair<A: Accumulator>(conv: Conv, list: PairList<'_>, weights: &[A], shift: i32) -> A {
    list.fold(A::ZERO, |total, (size, hyperedges)| {
        let sum = match conv.weight_use.in_message() {
            true => hyperedges.iter().fold(A::ZERO, |sum, &e| sum + weights[e as usize]),
            false => A::from_count(hyperedges.len()),
        };
        total + sum.times_power_of_two(shift) / A::from_count(size as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::WeightUse;
    use crate::incidence::Repeats;

    fn operator<A: Accumulator>(conv: Conv, topology: &Incidence, weights: &[A]) -> DenseOperator<A> {
        let pairs = Pairs::new(topology).unwrap();
        let degrees: Vec<A> = topology
            .by_vertex()
            .rows()
            .map(|edges| match conv.weight_use.in_degree() {
                true => edges.iter().fold(A::ZERO, |sum, &e| sum + weights[e as usize]),
                false => A::from_count(edges.len()),
            })
            .collect();
        let mut operator = DenseOperator::with_room(topology.n_vertices()).unwrap();
        operator.form(conv, topology, &pairs, weights, &degrees);
        operator
    }

    fn entry<A: Accumulator>(operator: &DenseOperator<A>, u: usize, v: usize) -> Option<A> {
        (operator.matrix.terms[u] >> v & 1 == 1).then(|| operator.matrix.entries[u * operator.matrix.n + v])
    }

    #[test]
    fn a_single_pair_halves_whatever_its_weight() {
        let pair = Incidence::subsets(2, 2).unwrap();
        for normalization in [Normalization::Row, Normalization::Symmetric] {
            let conv = Conv::new(normalization, WeightUse::Documented);
            for weight in [1.0f32, 0.7, 3e38, 1e-45, 1.1e-39, f32::MAX] {
                let operator = operator(conv, &pair, &[weight]);
                assert!(
                    operator.matrix.entries[..4].iter().all(|&entry| entry == 0.5),
                    "{weight}: {normalization:?}"
                );
            }
        }
    }

    #[test]
    fn what_shares_no_hyperedge_is_no_term() {
        let edges = [vec![0u32, 1], vec![2], vec![1, 3]];
        let topology = Incidence::from_edges(5, &edges, Repeats::Reject).unwrap();
        let operator_of = |normalization, weights: &[f64]| {
            operator(Conv::new(normalization, WeightUse::Documented), &topology, weights)
        };
        let operator = operator_of(Normalization::Row, &[1.0, 0.0, 2.0]);
        // Vertex 2 has degree 0, and vertex 4 no hyperedge.
        assert_eq!(operator.matrix.terms[..5], [0b0011, 0b1011, 0, 0b1010, 0]);
        assert_eq!(entry(&operator, 1, 0), Some(1.0 / 6.0));
        let operator = operator_of(Normalization::Symmetric, &[0.0, 1.0, 2.0]);
        // Vertex 0 has degree 0: it is no term of vertex 1 either.
        assert_eq!(operator.matrix.terms[..5], [0, 0b1010, 0b0100, 0b1010, 0]);
        let operator = operator_of(Normalization::None, &[0.0, 1.0, 2.0]);
        assert_eq!(operator.matrix.terms[..5], [0b0011, 0b1011, 0b0100, 0b1010, 0]);
    }

    /// Where a degree cancels out, its rows are large, and those of its neighbours are not.
    #[test]
    fn a_small_degree_is_its_own_rows_matter() {
        let edges = [vec![0u32, 1], vec![1], vec![1]];
        let topology = Incidence::from_edges(2, &edges, Repeats::Reject).unwrap();
        let operator = operator(Conv::default(), &topology, &[1e30f32, -1e30, 1e-20]);
        assert_eq!([entry(&operator, 0, 0), entry(&operator, 0, 1)], [Some(0.5); 2]);
        assert_eq!(entry(&operator, 1, 0), Some(f32::INFINITY));
    }

    #[test]
    fn degrees_that_are_not_finite_make_nan() {
        let topology = Incidence::subsets(3, 2).unwrap();
        let operator = operator(Conv::default(), &topology, &[f32::INFINITY, 1.0, 1.0]);
        let nan = |u| (0..3).all(|v| entry(&operator, u, v).unwrap().is_nan());
        assert!(nan(0) && nan(1) && !nan(2));
    }
}
