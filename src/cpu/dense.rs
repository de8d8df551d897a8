//! The convolution of small hypergraphs, forward, by their dense operators: y = M x with M = L H U B⁻¹ Hᵀ R.
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
//! `kernels/dense.cuh` is the same on a GPU, with the same bits.

#![allow(unsafe_code)]

use arrayvec::ArrayVec;

use super::gather::{Source, Store};
use crate::conv::{Conv, Normalization};
use crate::element::{Accumulator, Element};
use crate::error::{Result, try_zeroed};
use crate::incidence::Incidence;
use crate::pairs::{MOST_VERTICES, PairList, Pairs};
use crate::summation::LANES;

/// M of a topology and the weights of its hyperedges.
pub(super) struct DenseOperator<A> {
    n: usize,
    /// M_uv at u n + v; only what `terms` names is read.
    entries: Box<[A]>,
    /// For each vertex u the vertices v whose M_uv is a term of y_u: bit v.
    terms: [u32; MOST_VERTICES],
    /// For each vertex what its sum is multiplied by.
    scales: [A; MOST_VERTICES],
    /// The features of all vertices that are under way, widened: [`WIDE_BYTES`].
    wide: Box<[A]>,
}

/// The memory for features that are under way, which half of a processor's nearest cache holds. Rows are read
/// as far as there is room, so that its prefetcher sees long runs.
const WIDE_BYTES: usize = 16 << 10;

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
        let what = "the workspace";
        let entries = try_zeroed(what, n * n)?.into_boxed_slice();
        let wide = try_zeroed(what, if n == 0 { 0 } else { WIDE_BYTES / size_of::<A>() })?.into_boxed_slice();
        Ok(Self { n: 0, entries, terms: [0; MOST_VERTICES], scales: [A::ONE; MOST_VERTICES], wide })
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
        self.n = n;
        let shifted: ArrayVec<_, MOST_VERTICES> = degrees.iter().map(|&d| Degree::new(conv, d)).collect();
        let is_zero = |v: usize| degrees[v] == A::ZERO;
        let normalization = conv.normalization;
        let mut nonzero = u32::MAX;
        if normalization == Normalization::Symmetric {
            (0..n).filter(|&v| is_zero(v)).for_each(|v| nonzero &= !(1 << v));
        }
        for (u, &neighbors) in pairs.neighbors.iter().enumerate() {
            let is_left_out = normalization != Normalization::None && is_zero(u);
            self.terms[u] = if is_left_out { 0 } else { neighbors & nonzero };
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
            (self.entries[at], self.entries[transposed]) = match normalization {
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
                    let entry = |d: &Degree<A>| message(if in_message { d.shift } else { 0 }) / d.shifted;
                    (entry(&d_u), entry(&d_v))
                }
            };
        }
        for u in 0..n {
            let is_scaled = conv.weights_in_degree() && !conv.weight_use.in_message();
            self.scales[u] = if is_scaled { A::ONE.times_power_of_two(shifted[u].shift) } else { A::ONE };
        }
    }

    /// What the sum of a row is multiplied by.
    pub(super) fn scale(&self, u: usize) -> A {
        self.scales[u]
    }

    /// y = M x of one instance: `x` has its rows, and `y` where each row is stored, times its
    /// [`scale`](Self::scale). `next` has the rows of the instance that is next, which are fetched meanwhile.
    #[inline]
    pub(super) fn apply<T: Element<Acc = A>>(
        &mut self,
        x: &Source<'_, T>,
        next: Option<&Source<'_, T>>,
        y: &mut [Store<'_, T>],
    ) {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma")]
            fn with_avx2<T: Element>(
                operator: &mut DenseOperator<T::Acc>,
                x: &Source<'_, T>,
                next: Option<&Source<'_, T>>,
                y: &mut [Store<'_, T>],
            ) {
                operator.apply_portable(x, next, y);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the processor has both features.
                return unsafe { with_avx2(self, x, next, y) };
            }
        }
        self.apply_portable(x, next, y);
    }

    /// [`apply`](Self::apply) for whatever processor the caller is compiled for; the bits are the same on
    /// all.
    #[inline(always)]
    fn apply_portable<T: Element<Acc = A>>(
        &mut self,
        x: &Source<'_, T>,
        next: Option<&Source<'_, T>>,
        y: &mut [Store<'_, T>],
    ) {
        let Self { n, ref entries, ref terms, ref mut wide, .. } = *self;
        if n == 0 {
            return;
        }
        // Rows of as many features as fit, in whole blocks.
        let len = wide.len() / n / LANES * LANES;
        let rows = Rows { n, entries, terms, len };
        for start in (0..x.features).step_by(len) {
            let features = len.min(x.features - start);
            for (v, wide) in wide.chunks_exact_mut(len).take(n).enumerate() {
                for (wide, &x) in wide.iter_mut().zip(&x.row(v)[start..][..features]) {
                    *wide = x.widen();
                }
            }
            let mut block = 0;
            while block + LANES <= features {
                if let Some(next) = next {
                    (0..n).for_each(|v| prefetch(&next.row(v)[start + block..][..LANES]));
                }
                rows.apply_block::<T, LANES>(wide, y, start, block);
                block += LANES;
            }
            while block + 8 <= features {
                rows.apply_block::<T, 8>(wide, y, start, block);
                block += 8;
            }
            while block < features {
                rows.apply_block::<T, 1>(wide, y, start, block);
                block += 1;
            }
        }
    }
}

/// Has the processor bring a block of features nearer.
#[inline(always)]
fn prefetch<T>(block: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        /// The bytes that come at once.
        const LINE: usize = 64;
        for element in block.iter().step_by((LINE / size_of::<T>()).max(1)) {
            // SAFETY: it reads nothing that the program sees, whatever the address; this one is of an
            // element.
            unsafe { _mm_prefetch::<_MM_HINT_T0>((&raw const *element).cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = block;
}

/// An operator, and how many features of each vertex are under way.
struct Rows<'a, A> {
    n: usize,
    entries: &'a [A],
    terms: &'a [u32; MOST_VERTICES],
    len: usize,
}

impl<A: Accumulator> Rows<'_, A> {
    /// `W` features of all rows, those from `block` on of what is under way, which is from `start` on.
    #[inline(always)]
    fn apply_block<T: Element<Acc = A>, const W: usize>(
        &self,
        wide: &[A],
        y: &mut [Store<'_, T>],
        start: usize,
        block: usize,
    ) {
        let n = self.n;
        let row = |u: usize| &self.entries[u * n..][..n];
        let of_vertex = |x: &[A]| -> [A; W] { std::array::from_fn(|i| x[block..][..W][i]) };
        let all = u32::MAX.checked_shr(u32::BITS - n as u32).unwrap_or(0);
        let x = || wide.chunks_exact(self.len).take(n).map(of_vertex);
        let mut u = 0;
        while u < n {
            // Two rows that have all terms share the loads of x.
            if u + 1 < n && self.terms[u] == all && self.terms[u + 1] == all {
                let mut sums = [[A::ZERO; W]; 2];
                for ((x, &a), &b) in x().zip(row(u)).zip(row(u + 1)) {
                    for i in 0..W {
                        sums[0][i] = a.fused_multiply_add(x[i], sums[0][i]);
                        sums[1][i] = b.fused_multiply_add(x[i], sums[1][i]);
                    }
                }
                y[u].store(start + block, &sums[0]);
                y[u + 1].store(start + block, &sums[1]);
                u += 2;
                continue;
            }
            let mut sums = [A::ZERO; W];
            for (v, (x, &entry)) in x().zip(row(u)).enumerate() {
                if self.terms[u] >> v & 1 == 1 {
                    for i in 0..W {
                        sums[i] = entry.fused_multiply_add(x[i], sums[i]);
                    }
                }
            }
            y[u].store(start + block, &sums);
            u += 1;
        }
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
        (operator.terms[u] >> v & 1 == 1).then(|| operator.entries[u * operator.n + v])
    }

    #[test]
    fn a_single_pair_halves_whatever_its_weight() {
        let pair = Incidence::subsets(2, 2).unwrap();
        for normalization in [Normalization::Row, Normalization::Symmetric] {
            let conv = Conv::new(normalization, WeightUse::Documented);
            for weight in [1.0f32, 0.7, 3e38, 1e-45, 1.1e-39, f32::MAX] {
                let operator = operator(conv, &pair, &[weight]);
                assert!(
                    operator.entries[..4].iter().all(|&entry| entry == 0.5),
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
        assert_eq!(operator.terms[..5], [0b0011, 0b1011, 0, 0b1010, 0]);
        assert_eq!(entry(&operator, 1, 0), Some(1.0 / 6.0));
        let operator = operator_of(Normalization::Symmetric, &[0.0, 1.0, 2.0]);
        // Vertex 0 has degree 0: it is no term of vertex 1 either.
        assert_eq!(operator.terms[..5], [0, 0b1010, 0b0100, 0b1010, 0]);
        let operator = operator_of(Normalization::None, &[0.0, 1.0, 2.0]);
        assert_eq!(operator.terms[..5], [0b0011, 0b1011, 0b0100, 0b1010, 0]);
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

    #[test]
    fn without_hardware_fma_the_bits_are_the_same() {
        let edges = [vec![0u32, 1, 2], vec![2, 3], vec![4, 1, 4]];
        let topologies =
            [Incidence::subsets(7, 3).unwrap(), Incidence::from_edges(6, &edges, Repeats::Keep).unwrap()];
        for topology in topologies {
            let (n, features) = (topology.n_vertices(), 43);
            let weights: Vec<f32> = (0..topology.n_hyperedges()).map(|e| 0.3 + e as f32).collect();
            let mut operator = operator(Conv::default(), &topology, &weights);
            let x: Vec<f32> = (0..n * features).map(|i| (i * 7919 % 1000) as f32 / 400.0 - 1.2).collect();
            let x = Source {
                rows: &x,
                row_stride: features,
                features,
                scale: None,
                shifts: None,
                shift: 0,
                skip_zero: false,
            };
            let mut y = [vec![0f32; n * features], vec![0f32; n * features]];
            for (detected, y) in y.iter_mut().enumerate() {
                let store = |row| Store { row, scale: 1.0, accumulate: false };
                let mut rows: Vec<_> = y.chunks_mut(features).map(store).collect();
                match detected {
                    0 => operator.apply_portable(&x, None, &mut rows),
                    _ => operator.apply(&x, Some(&x), &mut rows),
                }
            }
            assert_eq!(y[0], y[1]);
            assert!(y[0].iter().any(|&y| y != 0.0));
        }
    }
}
