//! The two steps as one: rows of a source axis are gathered into rows of a target axis.

use crate::batch::Axis;

/// The scales of a step and their gradients, in errors.
pub(crate) const VERTEX_SCALE: &str = "vertex_scale";
pub(crate) const HYPEREDGE_SCALE: &str = "hyperedge_scale";
pub(crate) const VERTEX_GRADIENT: &str = "gradients.vertex_scale";
pub(crate) const HYPEREDGE_GRADIENT: &str = "gradients.hyperedge_scale";

/// Which of the two steps, and the names of its operands in errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Direction {
    pub(crate) source: Axis,
    pub(crate) target: Axis,
    pub(crate) input: &'static str,
    pub(crate) output: &'static str,
    pub(crate) grad_input: &'static str,
    pub(crate) grad_output: &'static str,
}

impl Direction {
    pub(crate) const VERTEX_TO_HYPEREDGE: Self = Self {
        source: Axis::Vertex,
        target: Axis::Hyperedge,
        input: "x",
        output: "z",
        grad_input: "grad_x",
        grad_output: "grad_z",
    };
    pub(crate) const HYPEREDGE_TO_VERTEX: Self = Self {
        source: Axis::Hyperedge,
        target: Axis::Vertex,
        input: "z",
        output: "y",
        grad_input: "grad_z",
        grad_output: "grad_y",
    };
}
