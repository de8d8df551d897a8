//! The operators of the safe tier: `cudarc`'s slices and views on the workspace's stream.

#![allow(unsafe_code)]

use cudarc::driver::{CudaView, CudaViewMut};

use super::DeviceElement;
use super::tiers::Tier;
use super::window_table::DeviceWindows;
use super::workspace::Workspace;
use crate::direction::Direction;
use crate::element::Element;
use crate::epilogue::Level;
use crate::error::Result;
use crate::operator::Operator;
use crate::rows::{Out, Rows};

/// Weights (or scales) in a view.
pub type Weights<'a, A> = crate::Weights<CudaView<'a, A>, &'a DeviceWindows>;

/// What a step computes. A view is not `Clone`, so neither is a step with one.
pub type Step<'a, A> = crate::Step<Weights<'a, A>>;

/// The gradients of a step.
pub type StepGradients<'a, T> =
    crate::StepGradients<CudaViewMut<'a, T>, CudaViewMut<'a, <T as Element>::Acc>>;

/// What follows the convolution, with a bias in a view.
pub type Epilogue<'a, A> = crate::Epilogue<CudaView<'a, A>>;

/// The gradients of a convolution with an epilogue.
pub type EpilogueGradients<'a, T> =
    crate::EpilogueGradients<CudaViewMut<'a, T>, CudaViewMut<'a, <T as Element>::Acc>>;

/// The gradients of a layer.
pub type LayerGradients<'a, T> =
    crate::LayerGradients<CudaViewMut<'a, T>, CudaViewMut<'a, <T as Element>::Acc>>;

impl<T: DeviceElement> Workspace<T> {
    /// z_e = s_e Σ_{v∈e} r_v x_v, divided by |e| for a mean; r is the vertex scale and s the hyperedge scale
    /// of `step`.
    ///
    /// * `x`: `N` rows of vertices;
    /// * `z`: `M` rows of hyperedges, overwritten or added to; nothing between them is written. An empty
    ///   hyperedge gets zeros.
    ///
    /// The call queues its work on the workspace's stream. It waits for nothing and allocates nothing.
    ///
    /// # Errors
    /// Those [of operators](Workspace#errors-of-operators).
    pub fn vertex_to_hyperedge(
        &mut self,
        step: &Step<'_, T::Acc>,
        x: Rows<CudaView<'_, T>>,
        z: Out<Rows<CudaViewMut<'_, T>>>,
    ) -> Result<()> {
        // SAFETY: the buffers are `cudarc`'s.
        unsafe { self.step_in(Tier::Safe, Direction::VertexToHyperedge, step, x, z) }
    }

    /// The gradients of [`vertex_to_hyperedge`](Self::vertex_to_hyperedge) from the same `x`.
    ///
    /// * `x`: `N` rows of vertices;
    /// * `grad_z`: ∂loss/∂z, `M` rows of hyperedges;
    /// * `gradients.rows`: ∂loss/∂x, `N` rows of vertices.
    ///
    /// # Errors
    /// Those [of operators](Workspace#errors-of-operators).
    pub fn vertex_to_hyperedge_backward(
        &mut self,
        step: &Step<'_, T::Acc>,
        x: Rows<CudaView<'_, T>>,
        grad_z: Rows<CudaView<'_, T>>,
        gradients: StepGradients<'_, T>,
    ) -> Result<()> {
        // SAFETY: the buffers are `cudarc`'s.
        unsafe { self.step_backward_in(Tier::Safe, Direction::VertexToHyperedge, step, x, grad_z, gradients) }
    }

    /// y_v = t_v Σ_{e∋v} u_e z_e, divided by the number of incidences of v for a mean; u is the hyperedge
    /// scale and t the vertex scale of `step`.
    ///
    /// * `z`: `M` rows of hyperedges;
    /// * `y`: `N` rows of vertices, overwritten or added to; nothing between them is written. An isolated
    ///   vertex gets zeros.
    ///
    /// # Errors
    /// Those [of operators](Workspace#errors-of-operators).
    pub fn hyperedge_to_vertex(
        &mut self,
        step: &Step<'_, T::Acc>,
        z: Rows<CudaView<'_, T>>,
        y: Out<Rows<CudaViewMut<'_, T>>>,
    ) -> Result<()> {
        // SAFETY: the buffers are `cudarc`'s.
        unsafe { self.step_in(Tier::Safe, Direction::HyperedgeToVertex, step, z, y) }
    }

    /// The gradients of [`hyperedge_to_vertex`](Self::hyperedge_to_vertex) from the same `z`.
    ///
    /// * `z`: `M` rows of hyperedges;
    /// * `grad_y`: ∂loss/∂y, `N` rows of vertices;
    /// * `gradients.rows`: ∂loss/∂z, `M` rows of hyperedges.
    ///
    /// # Errors
    /// Those [of operators](Workspace#errors-of-operators).
    pub fn hyperedge_to_vertex_backward(
        &mut self,
        step: &Step<'_, T::Acc>,
        z: Rows<CudaView<'_, T>>,
        grad_y: Rows<CudaView<'_, T>>,
        gradients: StepGradients<'_, T>,
    ) -> Result<()> {
        // SAFETY: the buffers are `cudarc`'s.
        unsafe { self.step_backward_in(Tier::Safe, Direction::HyperedgeToVertex, step, z, grad_y, gradients) }
    }

    /// y = L H U B⁻¹ Hᵀ R x with the plan's conventions.
    ///
    /// * `x`: `N` rows of vertices;
    /// * `weights`: one for each hyperedge, read through windows;
    /// * `y`: `N` rows of vertices, overwritten or added to; nothing between them is written. A vertex of
    ///   degree 0 gets zeros, unless the normalization is `None`.
    ///
    /// The call queues its work on the workspace's stream. It waits for nothing and allocates nothing.
    /// Only a kernel can see a negative degree under symmetric normalization, with checks or without. It is
    /// reported as a wrong index is: by a later call, or by [`check`](Self::check).
    ///
    /// # Errors
    /// Those [of operators](Workspace#errors-of-operators).
    pub fn conv(
        &mut self,
        x: Rows<CudaView<'_, T>>,
        weights: Weights<'_, T::Acc>,
        y: Out<Rows<CudaViewMut<'_, T>>>,
    ) -> Result<()> {
        // SAFETY: the buffers are `cudarc`'s.
        unsafe {
            self.conv_in(Tier::Safe, Operator::Conv, x, weights, None::<Rows<CudaViewMut<'_, T::Acc>>>, y)
        }
    }

    /// [`conv`](Self::conv) that also stores z = B⁻¹ Hᵀ R x, for
    /// [`conv_backward_from_z`](Self::conv_backward_from_z). y has the same bits.
    ///
    /// * `z`: `M` rows of hyperedges of the accumulation type; overwritten, even if y is skipped.
    ///
    /// It needs no scratch memory for rows, and saves the backward a gather. In exchange the caller keeps
    /// M · F elements of the accumulation type until then. On [`Path::Dense`](crate::Path::Dense) it takes a
    /// gather more, and saves nothing: there the backward reads no z.
    ///
    /// # Errors
    /// Those [of operators](Workspace#errors-of-operators).
    pub fn conv_saving_z(
        &mut self,
        x: Rows<CudaView<'_, T>>,
        weights: Weights<'_, T::Acc>,
        z: Rows<CudaViewMut<'_, T::Acc>>,
        y: Out<Rows<CudaViewMut<'_, T>>>,
    ) -> Result<()> {
        // SAFETY: the buffers are `cudarc`'s.
        unsafe { self.conv_in(Tier::Safe, Operator::ConvSavingZ, x, weights, Some(z), y) }
    }

    /// The gradients of [`conv`](Self::conv) for g = ∂loss/∂y, from the same `x` and `weights`. On the path
    /// of the gathers z is computed again.
    ///
    /// * `x`, `grad_y`: `N` rows of vertices;
    /// * `grad_x`: `N` rows of vertices, overwritten, added to or skipped;
    /// * `grad_weights`: as many elements as `weights` has values, overwritten, added to or skipped. Each
    ///   gets the sum over all instances whose windows cover it, or 0 if none does.
    ///
    /// # Errors
    /// Those [of operators](Workspace#errors-of-operators).
    pub fn conv_backward(
        &mut self,
        x: Rows<CudaView<'_, T>>,
        weights: Weights<'_, T::Acc>,
        grad_y: Rows<CudaView<'_, T>>,
        grad_x: Out<Rows<CudaViewMut<'_, T>>>,
        grad_weights: Out<CudaViewMut<'_, T::Acc>>,
    ) -> Result<()> {
        // SAFETY: the buffers are `cudarc`'s.
        unsafe {
            self.conv_backward_in(
                Tier::Safe,
                Operator::ConvBackward,
                x,
                None::<Rows<CudaView<'_, T::Acc>>>,
                weights,
                grad_y,
                grad_x,
                grad_weights,
            )
        }
    }

    /// [`conv_backward`](Self::conv_backward) with the z that [`conv_saving_z`](Self::conv_saving_z) stored
    /// for the same `x` and `weights`. The results have the same bits.
    ///
    /// * `z`: `M` rows of hyperedges of the accumulation type. Those of instances on
    ///   [`Path::Dense`](crate::Path::Dense) are not read.
    ///
    /// The other operands are those of [`conv_backward`](Self::conv_backward).
    ///
    /// # Errors
    /// Those [of operators](Workspace#errors-of-operators).
    pub fn conv_backward_from_z(
        &mut self,
        x: Rows<CudaView<'_, T>>,
        z: Rows<CudaView<'_, T::Acc>>,
        weights: Weights<'_, T::Acc>,
        grad_y: Rows<CudaView<'_, T>>,
        grad_x: Out<Rows<CudaViewMut<'_, T>>>,
        grad_weights: Out<CudaViewMut<'_, T::Acc>>,
    ) -> Result<()> {
        // SAFETY: the buffers are `cudarc`'s.
        unsafe {
            self.conv_backward_in(
                Tier::Safe,
                Operator::ConvBackwardFromZ,
                x,
                Some(z),
                weights,
                grad_y,
                grad_x,
                grad_weights,
            )
        }
    }

    /// y = act(u + b) + r, where u is what [`conv`](Self::conv) gives before it is rounded, b the bias and r
    /// the residual. All of it happens in the store of the convolution.
    ///
    /// * `x`: `N` rows of vertices;
    /// * `weights`: one for each hyperedge, read through windows;
    /// * `epilogue`: the activation, and a bias of F elements of the accumulation type;
    /// * `residual`: `N` rows of vertices;
    /// * `y`: `N` rows of vertices, overwritten or added to.
    ///
    /// Negative degrees are reported as by [`conv`](Self::conv).
    ///
    /// # Errors
    /// Those [of operators](Workspace#errors-of-operators).
    pub fn conv_epilogue(
        &mut self,
        x: Rows<CudaView<'_, T>>,
        weights: Weights<'_, T::Acc>,
        epilogue: &Epilogue<'_, T::Acc>,
        residual: Option<Rows<CudaView<'_, T>>>,
        y: Out<Rows<CudaViewMut<'_, T>>>,
    ) -> Result<()> {
        let (operator, result) = (Operator::ConvEpilogue, Level::Vertices(y));
        // SAFETY: the buffers are `cudarc`'s.
        unsafe { self.conv_epilogue_in(Tier::Safe, operator, x, weights, epilogue, residual, result) }
    }

    /// The gradients of [`conv_epilogue`](Self::conv_epilogue) for g = ∂loss/∂y, from the same `x`, `weights`
    /// and `epilogue`: those of the convolution from t = g act′(u + b), rounded to the element type; u is
    /// computed again. The gradient of the bias is the sum of t over all vertices of all instances, in `f64`,
    /// and that of the residual is g.
    ///
    /// * `x`, `grad_y`: `N` rows of vertices;
    /// * `gradients`: see [`EpilogueGradients`]; that of the weights as by
    ///   [`conv_backward`](Self::conv_backward).
    ///
    /// It needs scratch memory for t: `N` rows of elements.
    ///
    /// # Errors
    /// Those [of operators](Workspace#errors-of-operators).
    pub fn conv_epilogue_backward(
        &mut self,
        x: Rows<CudaView<'_, T>>,
        weights: Weights<'_, T::Acc>,
        epilogue: &Epilogue<'_, T::Acc>,
        grad_y: Rows<CudaView<'_, T>>,
        gradients: EpilogueGradients<'_, T>,
    ) -> Result<()> {
        let (operator, grad) = (Operator::ConvEpilogueBackward, Level::Vertices(grad_y));
        // SAFETY: the buffers are `cudarc`'s.
        unsafe { self.conv_epilogue_backward_in(Tier::Safe, operator, x, weights, epilogue, grad, gradients) }
    }

    /// The mean over the vertices of each instance of what [`conv_epilogue`](Self::conv_epilogue) gives, as
    /// it gives it: rounded to the element type. Where all instances have up to 16
    /// vertices and are on [`Path::Dense`](crate::Path::Dense), y itself is never stored.
    ///
    /// * `readout`: G · F elements, a row for each of the G instances, without gaps; overwritten or added to.
    ///   An instance without vertices has the mean 0;
    /// * the others as for [`conv_epilogue`](Self::conv_epilogue).
    ///
    /// # Errors
    /// Those [of operators](Workspace#errors-of-operators).
    pub fn conv_readout(
        &mut self,
        x: Rows<CudaView<'_, T>>,
        weights: Weights<'_, T::Acc>,
        epilogue: &Epilogue<'_, T::Acc>,
        residual: Option<Rows<CudaView<'_, T>>>,
        readout: Out<CudaViewMut<'_, T>>,
    ) -> Result<()> {
        let (operator, result) = (Operator::ConvReadout, Level::Instances(readout));
        // SAFETY: the buffers are `cudarc`'s.
        unsafe { self.conv_epilogue_in(Tier::Safe, operator, x, weights, epilogue, residual, result) }
    }

    /// The gradients of [`conv_readout`](Self::conv_readout) from ∂loss/∂readout: those of
    /// [`conv_epilogue`](Self::conv_epilogue) for g = ∂loss/∂readout / n for all n vertices of an instance.
    ///
    /// * `grad_readout`: G · F elements;
    /// * the others as for [`conv_epilogue_backward`](Self::conv_epilogue_backward).
    ///
    /// # Errors
    /// Those [of operators](Workspace#errors-of-operators).
    pub fn conv_readout_backward(
        &mut self,
        x: Rows<CudaView<'_, T>>,
        weights: Weights<'_, T::Acc>,
        epilogue: &Epilogue<'_, T::Acc>,
        grad_readout: CudaView<'_, T>,
        gradients: EpilogueGradients<'_, T>,
    ) -> Result<()> {
        let (operator, grad) = (Operator::ConvReadoutBackward, Level::Instances(grad_readout));
        // SAFETY: the buffers are `cudarc`'s.
        unsafe { self.conv_epilogue_backward_in(Tier::Safe, operator, x, weights, epilogue, grad, gradients) }
    }

    /// A layer in one pass: y = act(M (x Θᵀ) + b) + r, where M is the operator of [`conv`](Self::conv).
    ///
    /// * `x`: `N` rows of vertices, of as many elements as the plan has [inputs](super::Plan::inputs);
    /// * `theta`: Θ, `[F, inputs]` elements without gaps, as PyTorch's `Linear` has them;
    /// * `weights`: one for each hyperedge, read through windows;
    /// * `epilogue`: the activation, and a bias of F elements of the accumulation type;
    /// * `residual`: `N` rows of vertices;
    /// * `y`: `N` rows of vertices, overwritten or added to.
    ///
    /// Tensor cores multiply, and add in `f32`. The products x Θᵀ are rounded to TF32 for M, of `f32` in two
    /// terms, as M is; `f32` are multiplied as the plan's [`Precision`](crate::Precision) says. So the bits
    /// are not those of the CPU, and may be others on a device of another architecture. But they are the same
    /// in each call, and those of an instance the same alone and at any place of a batch. An infinity or NaN
    /// in x reaches the rows of y of its instance alone, and of these only rows u with M_uv ≠ 0.
    ///
    /// There are kernels for `f32`, `f16` and `bf16` on devices of compute capability 8.0 and newer, where no
    /// topology in use has more than 16 vertices or has no dense operator, whatever the paths of the plan,
    /// and for up to 256 inputs, of 16-bit types 512. Elsewhere multiply x by Θᵀ with a library, and call
    /// [`conv_epilogue`](Self::conv_epilogue). [`Plan::explain`](super::Plan::explain) tells which it is.
    ///
    /// # Errors
    /// [`Error::LayerUnavailable`](crate::Error::LayerUnavailable) where there is no kernel,
    /// [`Error::MatrixUnavailable`](crate::Error::MatrixUnavailable) where a topology in use has no dense
    /// operator, and those [of operators](Workspace#errors-of-operators).
    pub fn layer(
        &mut self,
        x: Rows<CudaView<'_, T>>,
        theta: CudaView<'_, T>,
        weights: Weights<'_, T::Acc>,
        epilogue: &Epilogue<'_, T::Acc>,
        residual: Option<Rows<CudaView<'_, T>>>,
        y: Out<Rows<CudaViewMut<'_, T>>>,
    ) -> Result<()> {
        // SAFETY: the buffers are `cudarc`'s.
        unsafe { self.layer_in(Tier::Safe, x, theta, weights, epilogue, residual, y) }
    }

    /// The gradients of [`layer`](Self::layer) for g = ∂loss/∂y, from the same `x`, `theta`, `weights` and
    /// `epilogue`. With t = g act′(u + b), rounded to the element type, where u = M (x Θᵀ) is computed again
    /// unless there is no activation:
    ///
    /// * `x`, `grad_y`: `N` rows of vertices, as of the forward;
    /// * `gradients.x`: Mᵀ (t Θ);
    /// * `gradients.theta`: (Mᵀ t)ᵀ x, `[F, inputs]` elements of the accumulation type. Mᵀ t is rounded to
    ///   the element type, `f32` and t and x to two numbers of `bf16`. Sums over instances are cut by their
    ///   number, by the numbers of features and by how much shared memory the device has, and added in a
    ///   fixed order, in `f32` and then in `f64`. An infinity or NaN in t may make a whole row of it NaN;
    /// * `gradients.weights`: from the products ⟨(t Θ)_u, x_v⟩, see
    ///   [`conv_backward`](Self::conv_backward), of which each factor is rounded to two numbers of `bf16`;
    /// * `gradients.bias`: the sum of t over all vertices of all instances, in `f64`;
    /// * `gradients.residual`: g.
    ///
    /// Each is overwritten, added to or skipped. Where there are kernels: as for [`layer`](Self::layer), with
    /// the same limit for the features F as for inputs. A call that wants ∂Θ needs up to 64 or 128 `f32`
    /// parts of it in scratch memory, for topologies of up to 8 vertices and for larger ones, if both are in
    /// use.
    ///
    /// # Errors
    /// As [`layer`](Self::layer).
    pub fn layer_backward(
        &mut self,
        x: Rows<CudaView<'_, T>>,
        theta: CudaView<'_, T>,
        weights: Weights<'_, T::Acc>,
        epilogue: &Epilogue<'_, T::Acc>,
        grad_y: Rows<CudaView<'_, T>>,
        gradients: LayerGradients<'_, T>,
    ) -> Result<()> {
        // SAFETY: the buffers are `cudarc`'s.
        unsafe { self.layer_backward_in(Tier::Safe, x, theta, weights, epilogue, grad_y, gradients) }
    }

    /// M of the convolution y = M x, with the plan's conventions: what [`conv`](Self::conv) multiplies x by,
    /// also on [`Path::Gather`](crate::Path::Gather), where it sums in another order. Where u and v share no
    /// hyperedge, or one that takes part has degree 0, M_uv is 0. F has no part in it.
    ///
    /// * `weights`: one for each hyperedge, read through windows;
    /// * `matrix`: for each instance N · N elements, M_uv at u N + v, where N is the number of vertices of
    ///   the largest topology in use; overwritten, added to or skipped. Elements beyond the vertices of a
    ///   smaller topology are overwritten by 0, and not added to. The length tells the number of copies of a
    ///   replicated batch. Skipped, the call does nothing, and looks at no other operand.
    ///
    /// Negative degrees are reported as by [`conv`](Self::conv).
    ///
    /// # Errors
    /// [`Error::MatrixUnavailable`](crate::Error::MatrixUnavailable) where a topology in use has more than 64
    /// vertices, or one whose vertices are in more than 512 hyperedges or are repeated too often; and those
    /// [of operators](Workspace#errors-of-operators).
    pub fn conv_matrix(
        &mut self,
        weights: Weights<'_, T::Acc>,
        matrix: Out<CudaViewMut<'_, T::Acc>>,
    ) -> Result<()> {
        // SAFETY: the buffers are `cudarc`'s.
        unsafe { self.conv_matrix_in(Tier::Safe, weights, matrix) }
    }

    /// The gradient of [`conv_matrix`](Self::conv_matrix) from the same `weights`. From
    /// ∂loss/∂M_uv = ⟨g_u, x_v⟩ it is what [`conv_backward`](Self::conv_backward) gives on
    /// [`Path::Dense`](crate::Path::Dense), up to the order in which instances are added.
    ///
    /// * `grad_matrix`: ∂loss/∂M, as `matrix` of [`conv_matrix`](Self::conv_matrix); elements of pairs that
    ///   share no hyperedge, and beyond the vertices of a topology, have no part;
    /// * `grad_weights`: as many elements as `weights` has values, overwritten, added to or skipped. Each
    ///   gets the sum over all instances whose windows cover it, or 0 if none does.
    ///
    /// # Errors
    /// As [`conv_matrix`](Self::conv_matrix).
    pub fn conv_matrix_backward(
        &mut self,
        weights: Weights<'_, T::Acc>,
        grad_matrix: CudaView<'_, T::Acc>,
        grad_weights: Out<CudaViewMut<'_, T::Acc>>,
    ) -> Result<()> {
        // SAFETY: the buffers are `cudarc`'s.
        unsafe { self.conv_matrix_backward_in(Tier::Safe, weights, grad_matrix, grad_weights) }
    }

    /// The inner products of the rows of each instance, ⟨x_u, x_v⟩, in the order in which the backward of the
    /// convolution forms its products. The matrices are symmetric, in bits.
    ///
    /// * `x`: `N` rows of vertices;
    /// * `gram`: laid out, and overwritten, added to or skipped, as `matrix` of
    ///   [`conv_matrix`](Self::conv_matrix).
    ///
    /// # Errors
    /// As [`conv_matrix`](Self::conv_matrix), but that only the vertices count.
    pub fn gram(&mut self, x: Rows<CudaView<'_, T>>, gram: Out<CudaViewMut<'_, T::Acc>>) -> Result<()> {
        // SAFETY: the buffers are `cudarc`'s.
        unsafe { self.gram_in(Tier::Safe, x, gram) }
    }

    /// The gradient of [`gram`](Self::gram) for G = ∂loss/∂gram, from the same `x`:
    /// ∂x_u = Σ_v (G_uv + G_vu) x_v. The sum has a term for each vertex, also where the factor is 0.
    ///
    /// * `x`: `N` rows of vertices;
    /// * `grad_gram`: as `gram`, and not read beyond the vertices of a topology. It need not be symmetric;
    /// * `grad_x`: `N` rows of vertices, overwritten, added to or skipped.
    ///
    /// # Errors
    /// As [`gram`](Self::gram).
    pub fn gram_backward(
        &mut self,
        x: Rows<CudaView<'_, T>>,
        grad_gram: CudaView<'_, T::Acc>,
        grad_x: Out<Rows<CudaViewMut<'_, T>>>,
    ) -> Result<()> {
        // SAFETY: the buffers are `cudarc`'s.
        unsafe { self.gram_backward_in(Tier::Safe, x, grad_gram, grad_x) }
    }
}
