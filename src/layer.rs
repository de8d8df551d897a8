//! A layer: the convolution of x Θᵀ, with what follows it, on both backends.

use crate::rows::{Out, Rows};

/// How a layer multiplies `f32` on a device. Sums are `f32` in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Precision {
    /// By three products of `bf16`, of what that has of each factor and of the rest: the relative error of a
    /// product is about 2⁻¹⁶ at most. Finite factors of more than 3.38 · 10³⁸ become infinite, and an
    /// infinity becomes NaN.
    #[default]
    ThreeBf16,
    /// By TF32, which has 11 bits: faster, with a relative error of up to 2⁻¹⁰.
    Tf32,
}

/// Where the gradients of a layer go. A gradient that is not asked for is not computed.
///
/// `R` is a mutable buffer of elements, and `A` one of elements of the accumulation type.
#[derive(Debug)]
#[non_exhaustive]
pub struct LayerGradients<R, A> {
    /// ∂loss/∂x: `N` rows of vertices, of as many elements as the plan has inputs.
    pub x: Out<Rows<R>>,
    /// The gradient of Θ: `[F, inputs]` elements of the accumulation type, without gaps.
    pub theta: Out<A>,
    /// The gradient of the weights: as many elements as there are weights.
    pub weights: Out<A>,
    /// The gradient of the bias: F elements. Without a bias there are none.
    pub bias: Out<A>,
    /// The gradient of the residual: `N` rows of vertices, of F elements.
    pub residual: Out<Rows<R>>,
}

impl<R, A> LayerGradients<R, A> {
    /// No gradient.
    pub fn none() -> Self {
        Self { x: Out::Skip, theta: Out::Skip, weights: Out::Skip, bias: Out::Skip, residual: Out::Skip }
    }

    /// With that of x.
    pub fn x(self, x: Out<Rows<R>>) -> Self {
        Self { x, ..self }
    }

    /// With that of Θ.
    pub fn theta(self, theta: Out<A>) -> Self {
        Self { theta, ..self }
    }

    /// With that of the weights.
    pub fn weights(self, weights: Out<A>) -> Self {
        Self { weights, ..self }
    }

    /// With that of the bias.
    pub fn bias(self, bias: Out<A>) -> Self {
        Self { bias, ..self }
    }

    /// With that of the residual.
    pub fn residual(self, residual: Out<Rows<R>>) -> Self {
        Self { residual, ..self }
    }
}

impl<R, A> Default for LayerGradients<R, A> {
    /// No gradient.
    fn default() -> Self {
        Self::none()
    }
}
