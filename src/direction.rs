//! The direction of a step: rows of a source axis are gathered into rows of a target axis.

use crate::axis::Axis;

/// Which of the two steps. Source rows are read, target rows are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Rows of vertices are reduced to rows of hyperedges.
    VertexToHyperedge,
    /// Rows of hyperedges are reduced to rows of vertices.
    HyperedgeToVertex,
}

impl Direction {
    /// Both.
    pub const ALL: &'static [Self] = &[Self::VertexToHyperedge, Self::HyperedgeToVertex];

    /// The axis whose rows it reads.
    pub fn source(self) -> Axis {
        match self {
            Self::VertexToHyperedge => Axis::Vertex,
            Self::HyperedgeToVertex => Axis::Hyperedge,
        }
    }

    /// The axis whose rows it computes.
    pub fn target(self) -> Axis {
        self.source().other()
    }

    /// What vertices and hyperedges have, as what sources and targets have.
    pub(crate) fn by_place<V>(self, [vertex, hyperedge]: [V; 2]) -> [V; 2] {
        match self {
            Self::VertexToHyperedge => [vertex, hyperedge],
            Self::HyperedgeToVertex => [hyperedge, vertex],
        }
    }

    /// The opposite direction.
    pub fn reversed(self) -> Self {
        match self {
            Self::VertexToHyperedge => Self::HyperedgeToVertex,
            Self::HyperedgeToVertex => Self::VertexToHyperedge,
        }
    }

    /// The names of its operands in errors.
    pub(crate) fn names(self) -> Names {
        match self {
            Self::VertexToHyperedge => {
                Names { input: "x", output: "z", grad_input: "grad_x", grad_output: "grad_z" }
            }
            Self::HyperedgeToVertex => {
                Names { input: "z", output: "y", grad_input: "grad_z", grad_output: "grad_y" }
            }
        }
    }
}

/// The names of the feature operands of a step and its backward.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    pub(crate) input: &'static str,
    pub(crate) output: &'static str,
    pub(crate) grad_input: &'static str,
    pub(crate) grad_output: &'static str,
}

/// The names of the scales of a step and of their gradients, in errors.
pub(crate) const VERTEX_SCALE: &str = "vertex_scale";
pub(crate) const HYPEREDGE_SCALE: &str = "hyperedge_scale";
pub(crate) const VERTEX_GRADIENT: &str = "gradients.vertex_scale";
pub(crate) const HYPEREDGE_GRADIENT: &str = "gradients.hyperedge_scale";
