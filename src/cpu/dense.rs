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

mod form;
mod gram;
mod matrix;
mod room;
mod weight_gradient;

use arrayvec::ArrayVec;

use form::{Formed, Structure};
pub(super) use gram::Gram;
use matrix::{Matrix, room_for_features};
pub(super) use room::Room;

use super::gather::{Sink, Source};
use crate::conv::Conv;
use crate::element::{Accumulator, Element};
use crate::error::Result;
use crate::incidence::Incidence;
use crate::pairs::{MOST_VERTICES, Pairs, VertexSet};

/// M of a topology and the weights of its hyperedges; or of several windows of weights, one of which is
/// selected.
pub(super) struct DenseOperator<A> {
    formed: Formed<A>,
    /// What was formed, if it is there.
    source: Option<FormedOf>,
    /// M. The terms of y_u are the vertices v that share a hyperedge with u, without those that are left out.
    matrix: Matrix<A>,
    /// Mᵀ, where that was asked for.
    transposed: Matrix<A>,
    /// For each vertex what its sum is multiplied by.
    scales: [A; MOST_VERTICES],
    /// The features of all vertices that are under way, widened.
    wide: Box<[A]>,
}

/// Which weights M is formed of: those of windows of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FormedOf {
    /// No two calls have the same number, so that nobody needs to tell when weights have changed.
    pub(super) call: u64,
    pub(super) topology: usize,
    pub(super) offset: usize,
    pub(super) n_windows: usize,
}

impl<A: Accumulator> DenseOperator<A> {
    pub(super) fn with_room(room: Room) -> Result<Self> {
        let n = room.vertices;
        Ok(Self {
            formed: Formed::with_room(room)?,
            source: None,
            matrix: Matrix::with_room(n)?,
            transposed: Matrix::with_room(n)?,
            scales: [A::ONE; MOST_VERTICES],
            wide: room_for_features(n)?,
        })
    }

    /// Forms M of each of the windows, which lie one behind the other, unless it is there, and selects the
    /// first.
    pub(super) fn form(
        &mut self,
        (conv, topology, pairs): (Conv, &Incidence, &Pairs),
        windows: &[A],
        source: FormedOf,
    ) {
        if self.source != Some(source) {
            self.source = None;
            self.formed.form(&Structure { conv, topology, pairs }, windows, source.n_windows);
            self.source = Some(source);
        }
        self.matrix.n = topology.n_vertices();
        self.select(0);
    }

    /// Makes M that of a window.
    pub(super) fn select(&mut self, window: usize) {
        let Formed { lanes, entries, terms, scales, .. } = &self.formed;
        let Matrix { n, entries: selected, terms: selected_terms } = &mut self.matrix;
        let of_window = |values: &[A], selected: &mut [A]| {
            for (selected, lanes) in selected.iter_mut().zip(values.chunks_exact(*lanes)) {
                *selected = lanes[window];
            }
        };
        of_window(entries, &mut selected[..*n * *n]);
        of_window(scales, &mut self.scales[..*n]);
        selected_terms[..*n].copy_from_slice(&terms[window][..*n]);
    }

    /// The lanes of what is formed: one for each window, and maybe some that have none.
    pub(super) fn lanes(&self) -> usize {
        self.formed.lanes
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
    pub(super) fn store<T: Element<Acc = A>, E: Sink<A>>(
        &mut self,
        n: usize,
        x: &Source<'_, T>,
        next: Option<&Source<'_, T>>,
        store: impl Fn(usize, A) -> E,
    ) {
        let mut y: ArrayVec<_, MOST_VERTICES> = (0..n).map(|u| store(u, self.scales[u])).collect();
        let ones = [A::ONE; MOST_VERTICES];
        self.matrix.apply((x, &ones), next, &mut y, &mut self.wide);
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
        grad_x: &mut [impl Sink<A>],
    ) {
        self.transposed.apply_in_parts((g, &self.scales), next, grad_x, &mut self.wide);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::conv::{Normalization, WeightUse};
    use crate::incidence::Repeats;

    /// Of a call of its own.
    fn source(n_windows: usize) -> FormedOf {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        FormedOf { call: CALLS.fetch_add(1, Ordering::Relaxed), topology: 0, offset: 0, n_windows }
    }

    fn operator<A: Accumulator>(conv: Conv, topology: &Incidence, weights: &[A]) -> DenseOperator<A> {
        let pairs = Pairs::new(topology).unwrap();
        let mut operator = DenseOperator::with_room(Room::of_operators(topology, 1)).unwrap();
        operator.form((conv, topology, &pairs), weights, source(1));
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
        let operator = operator(Conv::default(), &topology, &[1e30f32, 1e-20, -1e30]);
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

    /// The bits of what is formed of a window: entries that are terms, terms, scales, degrees and shifts.
    fn bits<A: Accumulator>(operator: &mut DenseOperator<A>, window: usize) -> Vec<u64> {
        operator.select(window);
        let n = operator.matrix.n;
        let Formed { lanes, terms, weight_degrees, shifts, .. } = &operator.formed;
        // All NaN are alike.
        let number = |x: A| if x.to_f64().is_nan() { u64::MAX } else { x.to_f64().to_bits() };
        let pairs = (0..n).flat_map(|u| (0..n).map(move |v| (u, v)));
        let mut bits: Vec<_> = pairs.map(|(u, v)| entry(operator, u, v).map_or(0, number)).collect();
        for u in 0..n {
            bits.push(terms[window][u]);
            bits.extend([operator.scales[u], weight_degrees[u * lanes + window]].map(number));
            bits.push(shifts[u * lanes + window] as u64);
        }
        bits
    }

    /// Windows of every kind: weights that cancel out, zeros, negative ones, small and large ones, and a NaN
    /// or an infinity in one of them.
    fn window<A: Accumulator>(m: usize, w: usize) -> Vec<A> {
        let value = |e: usize| ((e * 7919 + w * 104_729) % 1009) as f64 / 509.0 + 0.1;
        let weight = |e: usize| match w % 7 {
            1 if e.is_multiple_of(3) => 0.0,
            2 => value(e) * if size_of::<A>() == 4 { 1e-39 } else { 1e-300 },
            3 => value(e) * if e.is_multiple_of(2) { 1e30 } else { -1e-30 },
            4 if e == m / 2 => f64::NAN,
            5 => 0.0,
            6 if e == 0 => f64::INFINITY,
            _ => value(e),
        };
        (0..m).map(|e| A::from_f64(weight(e))).collect()
    }

    fn lanes_are_as_alone<A: Accumulator>() {
        // Several sizes, a vertex twice, vertices of one hyperedge and of none; and one size.
        let edges = [vec![0u32, 1, 4], vec![2, 3], vec![1, 3], vec![3, 3, 0], vec![5], vec![0, 1, 2, 3, 4]];
        let mixed = Incidence::from_edges(7, &edges, Repeats::Keep).unwrap();
        let topologies = [mixed, Incidence::subsets(9, 3).unwrap(), Incidence::subsets(2, 2).unwrap()];
        let most = super::super::lanes::most_lanes::<A>();
        let normalizations = [Normalization::Row, Normalization::Symmetric, Normalization::None];
        let uses = [WeightUse::Documented, WeightUse::DegreeOnly, WeightUse::MessageOnly];
        for (topology, normalization, weight_use) in topologies
            .iter()
            .flat_map(|topology| normalizations.map(|normalization| (topology, normalization)))
            .flat_map(|(topology, normalization)| {
                uses.map(|weight_use| (topology, normalization, weight_use))
            })
        {
            let conv = Conv::new(normalization, weight_use);
            let (n, m) = (topology.n_vertices(), topology.n_hyperedges());
            let pairs = Pairs::new(topology).unwrap();
            let room = Room::of_operators(topology, most);
            let [mut together, mut alone] = [(); 2].map(|()| DenseOperator::with_room(room).unwrap());
            for (first, n_windows) in (0..7).flat_map(|first| (2..=most).map(move |count| (first, count))) {
                let windows: Vec<A> = (first..first + n_windows).flat_map(|w| window(m, w)).collect();
                together.form((conv, topology, &pairs), &windows, source(n_windows));
                let lanes = together.lanes();
                assert_eq!(lanes, most);
                let gamma = |at: usize, w: usize| ((at * 31 + w * 17) % 101) as f64 / 50.0 - 1.0;
                let mut of_all: Vec<f64> =
                    (0..n * n * lanes).map(|i| gamma(i / lanes, (i % lanes).min(n_windows - 1))).collect();
                let mut gradients = vec![];
                together.weight_gradients(conv, topology, &mut of_all, |_, values| {
                    gradients.extend_from_slice(&values[..n_windows]);
                });
                for w in 0..n_windows {
                    let what = format!("{normalization:?} {weight_use:?} n {n}: {w} of {n_windows}");
                    alone.form((conv, topology, &pairs), &windows[w * m..][..m], source(1));
                    assert_eq!(bits(&mut together, w), bits(&mut alone, 0), "{what}");
                    let mut of_window: Vec<_> = (0..n * n).map(|at| gamma(at, w)).collect();
                    alone.weight_gradients(conv, topology, &mut of_window, |e, values| {
                        let (value, in_lanes) = (values[0], gradients[e * n_windows + w]);
                        let is_same = value.to_bits() == in_lanes.to_bits();
                        assert!(is_same || value.is_nan() && in_lanes.is_nan(), "{what}, hyperedge {e}");
                    });
                }
            }
        }
    }

    #[test]
    fn windows_in_lanes_have_the_bits_that_they_have_alone() {
        lanes_are_as_alone::<f32>();
        lanes_are_as_alone::<f64>();
    }
}
