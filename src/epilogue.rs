//! What follows the convolution in the same pass, on both backends.

use crate::activation::Activation;
use crate::rows::{Out, Rows};

/// What becomes of the convolution's sums u before they are stored: act(u + b), to which a residual may be
/// added.
///
/// `B` is a buffer of F elements of the accumulation type: a bias for each feature, which all rows share.
/// Operators take an epilogue by reference, so that a call and its backward can share one.
///
/// ```
/// use hyperscatter::{Activation, Epilogue};
///
/// let bias = [0.5f32; 64];
/// let epilogue = Epilogue::new(Activation::Gelu).bias(&bias[..]);
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Epilogue<B> {
    /// What is applied to each element.
    pub activation: Activation,
    /// What is added to each row first; 0 where there is none.
    pub bias: Option<B>,
}

impl<B> Epilogue<B> {
    /// This activation, without a bias.
    pub fn new(activation: Activation) -> Self {
        Self { activation, bias: None }
    }

    /// With this bias, or with none.
    pub fn bias(self, bias: impl Into<Option<B>>) -> Self {
        Self { bias: bias.into(), ..self }
    }
}

impl<B> Default for Epilogue<B> {
    /// The sums as they are.
    fn default() -> Self {
        Self::new(Activation::Identity)
    }
}

/// What is given for each vertex, or for each instance: the two levels that results of a convolution have.
#[cfg(feature = "cuda")]
pub(crate) enum Level<R, I> {
    /// Rows of vertices.
    Vertices(R),
    /// A row for each instance.
    Instances(I),
}

/// Where the gradients of a convolution with an epilogue go. A gradient that is not asked for is not
/// computed.
///
/// `R` is a mutable buffer of elements, and `A` one of elements of the accumulation type.
#[derive(Debug)]
#[non_exhaustive]
pub struct EpilogueGradients<R, A> {
    /// ∂loss/∂x: `N` rows of vertices.
    pub x: Out<Rows<R>>,
    /// The gradient of the weights: as many elements as there are weights.
    pub weights: Out<A>,
    /// The gradient of the bias: F elements. Without a bias there are none.
    pub bias: Out<A>,
    /// The gradient of the residual: `N` rows of vertices.
    pub residual: Out<Rows<R>>,
}

impl<R, A> EpilogueGradients<R, A> {
    /// No gradient.
    pub fn none() -> Self {
        Self { x: Out::Skip, weights: Out::Skip, bias: Out::Skip, residual: Out::Skip }
    }

    /// With that of x.
    pub fn x(self, x: Out<Rows<R>>) -> Self {
        Self { x, ..self }
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

impl<R, A> Default for EpilogueGradients<R, A> {
    /// No gradient.
    fn default() -> Self {
        Self::none()
    }
}
