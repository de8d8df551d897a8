//! How M is formed, of one window of weights or of several at once: a lane of vectors for each. What is done
//! in each lane, and its order, is the same for any number of them.

#![allow(unsafe_code)]

use arrayvec::ArrayVec;

use super::super::lanes::{Lanes, Powers, most_lanes, vectors, vectors_mut, with_lanes};
use super::super::weighted_degree::degree;
use super::room::Room;
use crate::conv::{Conv, Normalization};
use crate::element::Accumulator;
use crate::error::{Result, try_with_capacity, try_zeroed};
use crate::incidence::Incidence;
use crate::pairs::{MOST_VERTICES, PairList, Pairs, VertexSet};
use crate::vectors::vectorized;

/// The operators of some windows. Numbers are in vectors of [`lanes`](Self::lanes).
pub(super) struct Formed<A> {
    /// The lanes of a vector: one, or those of a vector of the processor. Those without a window have the
    /// numbers of the last one.
    pub(super) lanes: usize,
    /// The weights of a hyperedge, where there are several lanes.
    weights: Box<[A]>,
    /// M_uv at u n + v; only what `terms` names has a meaning.
    pub(super) entries: Box<[A]>,
    /// For each lane, for each vertex u the vertices v whose entry is a term of its row: bit v.
    pub(super) terms: Box<[[VertexSet; MOST_VERTICES]]>,
    /// For each vertex what its sum is multiplied by.
    pub(super) scales: Box<[A]>,
    /// For each vertex D', where weights get gradients through it: 0 where it is 0, and where the vertex is
    /// left out of them, see [`Conv::single_incidences_cancel_out`].
    pub(super) weight_degrees: Box<[A]>,
    /// For each vertex its shift, where there are any.
    pub(super) shifts: Box<[i32]>,
}

/// The degrees of a vertex, shifted, and their shifts; NaN where a degree is not finite.
#[derive(Clone, Copy)]
struct Degree<A, const L: usize> {
    degree: Lanes<A, L>,
    shifted: Lanes<A, L>,
    shift: [i32; L],
}

impl<A: Accumulator, const L: usize> Degree<A, L> {
    #[inline(always)]
    fn new(conv: Conv, degree: Lanes<A, L>) -> Self {
        let (mut shift, mut exponents) = ([0; L], [0; L]);
        for i in 0..L {
            shift[i] = conv.dense_shift(degree.0[i]);
            exponents[i] = conv.shifts_of_degree() * shift[i];
        }
        let mut shifted = degree.times_powers_of_two(exponents);
        for i in 0..L {
            let degree = degree.0[i];
            // A negative degree has no square root; that of a product of two would be one.
            let has_root = conv.normalization != Normalization::Symmetric || degree >= A::ZERO;
            if !(degree.is_finite() && has_root) {
                shifted.0[i] = A::NAN;
            }
        }
        Self { degree, shifted, shift }
    }
}

impl<A: Accumulator> Formed<A> {
    pub(super) fn with_room(room: Room) -> Result<Self> {
        let what = "the workspace";
        let zeros = |len| try_zeroed(what, len).map(Vec::into_boxed_slice);
        let mut terms = try_with_capacity(what, room.lanes)?;
        terms.resize(room.lanes, [0; MOST_VERTICES]);
        Ok(Self {
            lanes: 1,
            weights: zeros(room.of_hyperedges)?,
            entries: zeros(room.pairs)?,
            terms: terms.into_boxed_slice(),
            scales: zeros(room.of_vertices)?,
            weight_degrees: zeros(room.of_vertices)?,
            shifts: try_zeroed(what, room.of_vertices)?.into_boxed_slice(),
        })
    }

    /// Forms the operators of all `windows`, which lie one behind the other: of one, or of as many as there
    /// are lanes at most. Code for AVX2 is used where the processor has it.
    pub(super) fn form(&mut self, of: &Structure<'_>, windows: &[A], n_windows: usize) {
        let lanes = if n_windows > 1 { most_lanes::<A>() } else { 1 };
        with_lanes!(A, lanes, L => self.form_detected::<L>(of, windows, n_windows));
    }

    fn form_detected<const L: usize>(&mut self, of: &Structure<'_>, windows: &[A], n_windows: usize) {
        vectorized!(
            [A: Accumulator, const L: usize] [A, L]
            (
                formed: &mut Formed<A> = self,
                of: &Structure<'_> = of,
                windows: &[A] = windows,
                n_windows: usize = n_windows,
            )
            { formed.form_portable::<L>(of, windows, n_windows) }
        )
    }

    /// [`form`](Self::form) for whatever processor the caller is compiled for; the bits are the same on all.
    #[inline(always)]
    fn form_portable<const L: usize>(&mut self, of: &Structure<'_>, windows: &[A], n_windows: usize) {
        let Structure { conv, topology, pairs } = *of;
        let (n, m) = (topology.n_vertices(), topology.n_hyperedges());
        let Self { lanes, weights, entries, terms, scales, weight_degrees, shifts } = self;
        *lanes = L;
        let weights = if L == 1 {
            vectors(windows)
        } else {
            let weights = &mut vectors_mut::<A, L>(weights)[..m];
            for i in 0..L {
                let window = &windows[i.min(n_windows - 1) * m..][..m];
                for (weights, &weight) in weights.iter_mut().zip(window) {
                    weights[i] = weight;
                }
            }
            &*weights
        };
        let normalization = conv.normalization;
        let mut degrees = ArrayVec::<Degree<A, L>, MOST_VERTICES>::new();
        if normalization != Normalization::None {
            for hyperedges in topology.by_vertex().rows() {
                degrees.push(Degree::new(conv, degree(conv, hyperedges, |e| weights[e])));
            }
        }
        for (i, terms) in terms[..L].iter_mut().enumerate() {
            let mut zero = 0;
            for (v, degree) in degrees.iter().enumerate() {
                zero |= VertexSet::from(degree.degree.0[i] == A::ZERO) << v;
            }
            let left_out = if normalization == Normalization::Symmetric { zero } else { 0 };
            for (u, (terms, &neighbors)) in terms.iter_mut().zip(&pairs.neighbors).enumerate() {
                *terms = if zero >> u & 1 == 1 { 0 } else { neighbors & !left_out };
            }
        }
        form_entries(of, weights, &degrees, vectors_mut(entries));
        let is_scaled = conv.weights_in_degree() && !conv.weight_use.in_message();
        let scales = &mut vectors_mut::<A, L>(scales)[..n];
        for scales in &mut *scales {
            *scales = [A::ONE; L];
        }
        let (weight_degrees, shifts) = (vectors_mut::<A, L>(weight_degrees), vectors_mut::<i32, L>(shifts));
        for (u, degree) in degrees.iter().enumerate() {
            let is_single = topology.by_vertex().row(u).len() == 1;
            let cancels_out = is_single && conv.single_incidences_cancel_out();
            for i in 0..L {
                if is_scaled {
                    scales[u][i] = A::ONE.times_power_of_two(degree.shift[i]);
                }
                let is_left_out = cancels_out && degree.degree.0[i].is_finite();
                weight_degrees[u][i] = if is_left_out { A::ZERO } else { degree.shifted.0[i] };
            }
            shifts[u] = degree.shift;
        }
    }
}

/// What is formed of each window.
#[derive(Clone, Copy)]
pub(super) struct Structure<'a> {
    pub(super) conv: Conv,
    pub(super) topology: &'a Incidence,
    pub(super) pairs: &'a Pairs,
}

/// Fills in the entries of all pairs.
#[inline(always)]
fn form_entries<A: Accumulator, const L: usize>(
    of: &Structure<'_>,
    weights: &[[A; L]],
    degrees: &[Degree<A, L>],
    entries: &mut [[A; L]],
) {
    let Structure { conv, topology, pairs } = *of;
    let n = topology.n_vertices();
    let in_message = conv.weight_use.in_message();
    // P_uu is D_u over the size of all hyperedges, if they have one.
    let uniform = pairs.uniform_size as usize;
    let has_diagonal = uniform > 0 && conv.weights_in_degree() && in_message;
    let size = Lanes::splat(A::from_count(uniform));
    for (u, v, list) in pairs.iter() {
        let is_diagonal = has_diagonal && u == v;
        let (of_row, of_column) = match conv.normalization {
            Normalization::None => {
                let [entry] = messages(conv, list, weights, [[0; L]]);
                (entry, entry)
            }
            Normalization::Symmetric => {
                let (d_u, d_v) = (&degrees[u], &degrees[v]);
                let root = (d_u.shifted * d_v.shifted).square_root();
                let mut shift = [0; L];
                for (i, shift) in shift.iter_mut().enumerate() {
                    *shift = if in_message { d_u.shift[i] + d_v.shift[i] } else { 0 };
                }
                let message = match is_diagonal {
                    true => d_u.shifted / size,
                    false => messages(conv, list, weights, [shift])[0],
                };
                if in_message {
                    let entry = message / root;
                    (entry, entry)
                } else {
                    let entry = |shift| message.times_powers_of_two(shift) / root;
                    (entry(d_v.shift), entry(d_u.shift))
                }
            }
            Normalization::Row => {
                let (d_u, d_v) = (&degrees[u], &degrees[v]);
                let shifts = if in_message { [d_u.shift, d_v.shift] } else { [[0; L]; 2] };
                let [of_u, of_v] = match is_diagonal {
                    true => [d_u.shifted / size; 2],
                    false => messages(conv, list, weights, shifts),
                };
                (of_u / d_u.shifted, of_v / d_v.shifted)
            }
        };
        entries[u * n + v] = of_row.0;
        entries[v * n + u] = of_column.0;
    }
}

/// Σ 2^shift U_e / B_e over the hyperedges of a pair, for each of these shifts.
#[inline(always)]
fn messages<A: Accumulator, const L: usize, const S: usize>(
    conv: Conv,
    list: PairList<'_>,
    weights: &[[A; L]],
    shifts: [[i32; L]; S],
) -> [Lanes<A, L>; S] {
    let mut powers = [Powers::Any([0; L]); S];
    for s in 0..S {
        powers[s] = Powers::new(shifts[s]);
    }
    let mut totals = [Lanes::splat(A::ZERO); S];
    for (size, hyperedges) in list {
        let mut sum = Lanes::splat(A::ZERO);
        if conv.weight_use.in_message() {
            for &e in hyperedges {
                sum += Lanes(weights[e as usize]);
            }
        } else {
            sum = Lanes::splat(A::from_count(hyperedges.len()));
        }
        let size = Lanes::splat(A::from_count(size as usize));
        for s in 0..S {
            totals[s] += sum.times(powers[s]) / size;
        }
    }
    totals
}
