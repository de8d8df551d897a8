//! What the operators compute: the conventions of the convolution, and the reductions of the two steps.
//!
//! Notation: incidence matrix H (n × m), hyperedge weights w, hyperedge sizes B_e = |e|, weighted vertex
//! degrees D_v. The convolution is `y = L H U B⁻¹ Hᵀ R x` (Bai, Zhang, Torr: *Hypergraph convolution and
//! hypergraph attention*, 2021, eq. 6, for `Row`; Feng et al.: *Hypergraph neural networks*, 2019, eq. 10,
//! for `Symmetric`).

use crate::element::Accumulator;

/// Where the hyperedge weights enter the convolution. A model that was trained under one convention loses
/// accuracy under another, so this must match where weights come from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum WeightUse {
    /// In the message and in the degree: U = w, D_v = Σ_{e∋v} w_e. The papers' formula, and the one that
    /// PyTorch Geometric documents.
    #[default]
    Documented,
    /// In the degree only: U = 1, D_v = Σ_{e∋v} w_e. What PyTorch Geometric 2.8 computes.
    DegreeOnly,
    /// In the message only: U = w, D_v = the number of incidences of v. What DHG 0.9.7 computes with
    /// `v2v(x, "mean", e_weight=w)`.
    MessageOnly,
}

impl WeightUse {
    /// Whether the weights scale the hyperedges' messages.
    pub fn in_message(self) -> bool {
        self != Self::DegreeOnly
    }

    /// Whether the weights enter the vertex degrees.
    pub fn in_degree(self) -> bool {
        self != Self::MessageOnly
    }
}

/// How the convolution divides by the vertex degree.
///
/// 1/0 counts as 0, with a zero gradient: a vertex of degree zero gets a row of zeros. A degree that is not
/// finite makes its rows NaN, and the gradients that pass through it.
///
/// # The scale of weights
///
/// Under `Row` and `Symmetric` a common scale of [`WeightUse::Documented`] weights cancels out, even where
/// the type has no number for 1/D or for a sum of weighted rows. Where the weights 2^k w are exact and
/// degrees are finite, y and ∂x have the bits that they have with w, and ∂w is multiplied by 2^−k:
///
/// * under `Row` for every k;
/// * under `Symmetric` for every even k with which z, then multiplied by 2^(−k/2), stays in the type's range.
///   An odd k differs by the rounding of √2: half a unit in the last place for each term of its sums.
///
/// ∂w is as exact as its terms ⟨g, z_e − y_v⟩ / D_v. The rounding of y_v is divided by D_v, too: where
/// hyperedges of equal z should make a term 0, the rounding is what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Normalization {
    /// L = D⁻¹, R = 1. With [`WeightUse::Documented`] a vertex of a single incidence gives that hyperedge's
    /// weight a gradient of exactly zero.
    #[default]
    Row,
    /// L = R = D^(−1/2), as 1/√D. A negative degree is
    /// [`Error::NegativeDegree`](crate::Error::NegativeDegree).
    Symmetric,
    /// L = R = 1.
    None,
}

/// The conventions of a convolution. The default is `Row` normalization with `Documented` weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Conv {
    /// The division by vertex degrees.
    pub normalization: Normalization,
    /// Where the weights enter.
    pub weight_use: WeightUse,
}

impl Conv {
    /// The convolution with these conventions.
    pub fn new(normalization: Normalization, weight_use: WeightUse) -> Self {
        Self { normalization, weight_use }
    }

    /// Whether a degree may be negative where that is an error.
    pub(crate) fn checks_degrees(self) -> bool {
        self.normalization == Normalization::Symmetric && self.weight_use.in_degree()
    }

    /// Whether the weights reach the output through the vertex degrees.
    pub(crate) fn weights_in_degree(self) -> bool {
        self.normalization != Normalization::None && self.weight_use.in_degree()
    }

    /// Whether the weights have a part in the output at all. Where they have none, their gradient is zeros.
    pub(crate) fn weights_matter(self) -> bool {
        self.weights_in_degree() || self.weight_use.in_message()
    }

    /// Whether a vertex of a single incidence has y_v = z_e whatever the weight, which then gets no gradient
    /// from it.
    pub(crate) fn single_incidences_cancel_out(self) -> bool {
        self.normalization == Normalization::Row && self.weight_use == WeightUse::Documented
    }

    /// How many shifts of a vertex its degree has, see [`shift`](Self::shift).
    pub(crate) fn shifts_of_degree(self) -> i32 {
        if self.normalization == Normalization::Symmetric { 2 } else { 1 }
    }

    /// The least exponent that degrees are taken to have, see [`shift`](Self::shift).
    pub(crate) fn least_exponent<A: Accumulator>(self) -> i32 {
        // Where there is no weight in the message to go with it, the power of two alone has to be a finite
        // factor.
        if self.weight_use.in_message() { i32::MIN } else { A::LEAST_EXPONENT }
    }

    /// Up to which exponent, of either sign, degrees are not shifted; below 0: all are.
    pub(crate) fn plain_exponents<A: Accumulator>(self) -> i32 {
        // Without a weight in the message nothing cancels out, and 1/D is a factor like others while it is a
        // normal number.
        if self.weight_use.in_message() { -1 } else { -A::LEAST_EXPONENT - 6 }
    }

    /// t_e, from the largest and the smallest shift of the vertices of a hyperedge, see
    /// [`shift`](Self::shift).
    pub(crate) fn edge_shift<A: Accumulator>(self, largest: i32, smallest: i32) -> i32 {
        let range = -A::LEAST_EXPONENT / self.shifts_of_degree();
        // Where degrees lie so far apart that the products of the large ones with small gradients would be no
        // normal numbers, all factors are made larger: by half the range at most, which leaves the other half
        // for large gradients.
        -largest + (largest - smallest - range / 3).clamp(0, range / 2)
    }

    /// The shift of a vertex: the power of two that brings L_v (and so D_v, once or twice) to about 1;
    /// [`NO_SHIFT`] where the degree is 0 or not finite.
    ///
    /// Weights may have any scale: w and 2^k w have the same normalized convolution, but for w = 10⁻³⁹
    /// neither 1/D nor the sums Σ L_v g_v are `f32`. So where weights are part of degrees, all factors are
    /// multiplied by powers of two, which changes no bit of what is a normal number with and without: with
    /// s_v the shift of a vertex, D'_v = 2^s D_v (`Row`) or 2^2s D_v (`Symmetric`), L'_v that of D'_v, h
    /// shifts to a degree, and t_e = −max s_v over the vertices of a hyperedge (or more, see
    /// [`edge_shift`](Self::edge_shift)):
    ///
    /// ```text
    /// y_v    = L'_v Σ_{e∋v} (2^s_v U_e) z_e                R_v = 2^s_v L'_v                        symmetric
    /// q'_e   = Σ_{v∈e} (2^(t_e + s_v) L'_v) g_v
    /// p'_e   = (2^(−h t_e) U_e) / B_e
    /// ∂x_v   = Σ_{e∋v} p'_e q'_e                           row
    ///        = R'_v Σ_{e∋v} (2^(t_e + s_v) p'_e) q'_e      symmetric
    /// ∂D'_v  = 2^(−h s_v) ∂D_v, from D'_v and L'_v as ∂D_v is from D_v and L_v
    /// ∂w_e   = 2^(−h t_e) (2^((h−1) t_e) ⟨q'_e, z_e⟩ + Σ_{v∈e} 2^(h (t_e + s_v)) ∂D'_v)
    /// ```
    pub(crate) fn shift<A: Accumulator>(self, degree: A) -> i32 {
        if degree == A::ZERO || !degree.is_finite() {
            return NO_SHIFT;
        }
        let exponent = degree.exponent();
        if exponent.abs() <= self.plain_exponents::<A>() {
            return 0;
        }
        -exponent.max(self.least_exponent::<A>()).div_euclid(self.shifts_of_degree())
    }

    /// The shift of a vertex where the dense operator is formed: as [`shift`](Self::shift), but of all
    /// degrees that weights are part of, so that products of two degrees are in range.
    pub(crate) fn dense_shift<A: Accumulator>(self, degree: A) -> i32 {
        if !self.weights_in_degree() {
            return 0;
        }
        let has_root = self.normalization != Normalization::Symmetric || degree >= A::ZERO;
        if degree == A::ZERO || !degree.is_finite() || !has_root {
            return NO_SHIFT;
        }
        // A shift of bits, so that it is one for several lanes: rounded down, as division by 1 or 2.
        -(degree.exponent().max(self.least_exponent::<A>()) >> (self.shifts_of_degree() - 1))
    }
}

/// The shift of a vertex whose degree is 0 or not finite: below all others, and far from overflowing where it
/// is added to one. Its L is 0 or NaN whatever the shift.
pub(crate) const NO_SHIFT: i32 = -(1 << 20);

/// How a step reduces the rows that it gathers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Reduce {
    /// Their sum.
    #[default]
    Sum,
    /// Their sum, divided by their number. Repeated incidences count. The mean of no rows is 0.
    Mean,
}

impl Reduce {
    /// All reductions.
    pub const ALL: &'static [Self] = &[Self::Sum, Self::Mean];

    /// What a combination of `count` rows is multiplied by.
    pub(crate) fn factor<A: Accumulator>(self, count: usize) -> A {
        match self {
            Self::Sum => A::ONE,
            Self::Mean => inverse_count(count),
        }
    }
}

/// 1 / `count`, and 0 for a count of 0.
fn inverse_count<A: Accumulator>(count: usize) -> A {
    if count == 0 { A::ZERO } else { A::ONE / A::from_count(count) }
}
