//! What the operators compute: the conventions of the convolution, and the reductions of the two steps.
//!
//! Notation: incidence matrix H (n × m), hyperedge weights w, hyperedge sizes B_e = |e|, weighted vertex degrees D_v.
//! The convolution is `y = L H U B⁻¹ Hᵀ R x` (Bai, Zhang, Torr: *Hypergraph convolution and hypergraph attention*,
//! 2021, eq. 6, for `Row`; Feng et al.: *Hypergraph neural networks*, 2019, eq. 10, for `Symmetric`).

/// Where the hyperedge weights enter the convolution. Models trained under one convention and evaluated under another
/// lose accuracy, so this must match where weights come from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WeightUse {
    /// In the message and in the degree: U = w, D_v = Σ_{e∋v} w_e. The papers' formula, and the one that PyTorch
    /// Geometric documents.
    #[default]
    Documented,
    /// In the degree only: U = 1, D_v = Σ_{e∋v} w_e. What PyTorch Geometric 2.8 computes.
    DegreeOnly,
    /// In the message only: U = w, D_v = the number of incidences of v. DHG's HGNN smoothing.
    MessageOnly,
}

impl WeightUse {
    /// Whether the weights scale the hyperedges' messages.
    pub(crate) fn in_message(self) -> bool {
        self != Self::DegreeOnly
    }

    /// Whether the weights enter the vertex degrees.
    pub(crate) fn in_degree(self) -> bool {
        self != Self::MessageOnly
    }
}

/// How the convolution divides by the vertex degree. 1/0 counts as 0, with a zero gradient: a vertex of degree zero
/// gets a row of zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Normalization {
    /// L = D⁻¹, R = 1. With [`WeightUse::Documented`] the weights' common scale cancels out, and a vertex in a single
    /// hyperedge gives that hyperedge's weight a zero gradient.
    #[default]
    Row,
    /// L = R = D^(−1/2), as 1/√D. A negative degree is [`Error::NegativeDegree`](crate::Error::NegativeDegree).
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
}

/// How a step reduces the rows that it gathers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Reduce {
    /// Their sum.
    #[default]
    Sum,
    /// Their sum, divided by their number; repeated incidences count, and the mean of no rows is 0.
    Mean,
}
