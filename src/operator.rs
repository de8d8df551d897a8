//! The operators, by name.

use crate::direction::Direction;

/// An operator, on either backend: a method of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operator {
    /// The step from vertices to hyperedges.
    VertexToHyperedge,
    /// Its gradients.
    VertexToHyperedgeBackward,
    /// The step from hyperedges to vertices.
    HyperedgeToVertex,
    /// Its gradients.
    HyperedgeToVertexBackward,
    /// The convolution.
    Conv,
    /// The convolution that also stores z = B⁻¹ Hᵀ R x for the backward.
    ConvSavingZ,
    /// The gradients of the convolution; z is computed again.
    ConvBackward,
    /// The gradients of the convolution, from a saved z.
    ConvBackwardFromZ,
    /// The convolution with an epilogue.
    ConvEpilogue,
    /// Its gradients.
    ConvEpilogueBackward,
    /// The mean over the vertices of what a convolution with an epilogue gives.
    ConvReadout,
    /// Its gradients.
    ConvReadoutBackward,
    /// The matrix M of the convolution y = M x.
    ConvMatrix,
    /// Its gradient.
    ConvMatrixBackward,
    /// The inner products of the rows of each instance.
    Gram,
    /// Their gradient.
    GramBackward,
    /// A layer: the convolution of the products x Θᵀ, with an epilogue.
    Layer,
    /// Its gradients.
    LayerBackward,
}

impl Operator {
    /// What training by the convolution calls.
    pub const TRAINING: &'static [Self] = &[Self::Conv, Self::ConvBackward];

    /// All operators.
    pub const ALL: &'static [Self] = &[
        Self::VertexToHyperedge,
        Self::VertexToHyperedgeBackward,
        Self::HyperedgeToVertex,
        Self::HyperedgeToVertexBackward,
        Self::Conv,
        Self::ConvSavingZ,
        Self::ConvBackward,
        Self::ConvBackwardFromZ,
        Self::ConvEpilogue,
        Self::ConvEpilogueBackward,
        Self::ConvReadout,
        Self::ConvReadoutBackward,
        Self::ConvMatrix,
        Self::ConvMatrixBackward,
        Self::Gram,
        Self::GramBackward,
        Self::Layer,
        Self::LayerBackward,
    ];

    /// The step in this direction.
    pub fn step(direction: Direction) -> Self {
        match direction {
            Direction::VertexToHyperedge => Self::VertexToHyperedge,
            Direction::HyperedgeToVertex => Self::HyperedgeToVertex,
        }
    }

    /// The gradients of the step in this direction.
    pub fn step_backward(direction: Direction) -> Self {
        match direction {
            Direction::VertexToHyperedge => Self::VertexToHyperedgeBackward,
            Direction::HyperedgeToVertex => Self::HyperedgeToVertexBackward,
        }
    }

    /// Whether it has an epilogue.
    #[cfg(feature = "cuda")]
    pub(crate) fn has_epilogue(self) -> bool {
        use Operator::{ConvEpilogue, ConvEpilogueBackward, ConvReadout, ConvReadoutBackward};
        let is_conv = matches!(self, ConvEpilogue | ConvEpilogueBackward | ConvReadout | ConvReadoutBackward);
        is_conv || matches!(self, Self::Layer | Self::LayerBackward)
    }

    /// Whether it has a matrix for each instance, and so takes small topologies only.
    pub(crate) fn has_matrices(self) -> bool {
        matches!(self, Self::ConvMatrix | Self::ConvMatrixBackward | Self::Gram | Self::GramBackward)
    }

    /// Whether a device computes it by dense operators, whatever the paths of the plan.
    #[cfg(feature = "cuda")]
    pub(crate) fn is_dense(self) -> bool {
        self.has_matrices() || matches!(self, Self::Layer | Self::LayerBackward)
    }

    /// Whether that has the inner products of rows, or is a gradient of them.
    pub(crate) fn has_products(self) -> bool {
        matches!(self, Self::Gram | Self::GramBackward)
    }

    /// The name of its method.
    pub fn name(self) -> &'static str {
        match self {
            Self::VertexToHyperedge => "vertex_to_hyperedge",
            Self::VertexToHyperedgeBackward => "vertex_to_hyperedge_backward",
            Self::HyperedgeToVertex => "hyperedge_to_vertex",
            Self::HyperedgeToVertexBackward => "hyperedge_to_vertex_backward",
            Self::Conv => "conv",
            Self::ConvSavingZ => "conv_saving_z",
            Self::ConvBackward => "conv_backward",
            Self::ConvBackwardFromZ => "conv_backward_from_z",
            Self::ConvEpilogue => "conv_epilogue",
            Self::ConvEpilogueBackward => "conv_epilogue_backward",
            Self::ConvReadout => "conv_readout",
            Self::ConvReadoutBackward => "conv_readout_backward",
            Self::ConvMatrix => "conv_matrix",
            Self::ConvMatrixBackward => "conv_matrix_backward",
            Self::Gram => "gram",
            Self::GramBackward => "gram_backward",
            Self::Layer => "layer",
            Self::LayerBackward => "layer_backward",
        }
    }
}
