//! The two kinds of rows.

/// What a row of features, or a weight, belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Axis {
    /// A vertex.
    Vertex,
    /// A hyperedge.
    Hyperedge,
}

impl Axis {
    /// Both.
    pub const ALL: &'static [Self] = &[Self::Vertex, Self::Hyperedge];

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Vertex => Self::Hyperedge,
            Self::Hyperedge => Self::Vertex,
        }
    }

    /// `"vertices"` or `"hyperedges"`, as in errors.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Vertex => "vertices",
            Self::Hyperedge => "hyperedges",
        }
    }

    /// The name of their number in a whole batch, in errors.
    pub(crate) fn total(self) -> &'static str {
        match self {
            Self::Vertex => "the number of vertices of the batch",
            Self::Hyperedge => "the number of hyperedges of the batch",
        }
    }
}
