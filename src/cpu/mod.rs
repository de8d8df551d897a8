//! The operators on slices, in parallel on the current rayon pool, or [on one thread](on_this_thread).
//!
//! A [`Plan`] is what stays from call to call: batch, features, conventions. A [`Workspace`] owns the scratch
//! memory of one caller at a time. Its methods are the operators, and none of them allocates. Outputs are
//! overwritten unless the call says [`Out::Accumulate`](crate::Out::Accumulate). A call that returns an error
//! has written nothing.
//!
//! # Bits
//! Results do not depend on the number of threads. The outputs and feature gradients of an instance have the
//! same bits alone and in any batch, at any position, with any strides and windows.
//!
//! Gradients of weights and scales are sums over the batch, to which each instance adds one value of the
//! accumulation type. The order depends on the batch and its windows alone, and a GPU can follow it:
//!
//! 1. up to 64 instances with the same topology and window make a chunk, which is summed in ascending order
//!    from 0 on;
//! 2. the sums of the chunks are added to the gradient, which starts at 0 or at what it holds. Chunks of
//!    small topologies come first; then they are ordered by the width of the window, rounded down to a power
//!    of two, by its offset, by topology id.
//!
//! Where all copies of a replicated batch share one window and are computed by their dense operator, ∂w is
//! formed once: from the products ⟨g_u, x_v⟩ of all instances, which are added first, in chunks whose length
//! depends on the topology, F and the type, and then in a binary tree over the chunks.
//!
//! The gradient of a bias is a sum over all vertices of the batch, in `f64`. Its order depends on the numbers
//! of vertices alone: consecutive instances make a chunk, the largest power of two of them that has no more
//! than 256 vertices if each has as many as the largest of the batch, and one where that has more than 128. A
//! chunk adds the rows of its vertices one by one, and an instance of more than 256 vertices the sums of
//! segments of 256. The chunks are added in a binary tree over their numbers. A readout adds the rows of its
//! instance in the same way, in the accumulation type.
//!
//! The gradient of Θ is a sum over all rows of vertices, too: segments of 256 rows, counted through the
//! batch, are summed in the accumulation type, and added in `f64` in an order that the number of rows, F and
//! the number of inputs decide.
//!
//! # What the backward computes again
//! The backward of the convolution by gathers needs z = B⁻¹ Hᵀ R x, unrounded, and computes it again: a
//! workspace holds nothing that a later call needs. A caller that has the memory saves z instead, by
//! [`conv_saving_z`](Workspace::conv_saving_z) for [`conv_backward_from_z`](Workspace::conv_backward_from_z).
//! The backward by a dense operator needs no z. The backward of an epilogue computes what the activation was
//! applied to again, on either path, and that of a layer the products x Θᵀ.
//!
//! # Shapes
//! All instances together have `N` vertices and `M` hyperedges. Features of vertices are `N` rows, and those
//! of hyperedges are `M` rows. A row has `F` elements of type `T`, and lies where the
//! [`RowLayout`](crate::RowLayout) of its operand places it. Weights, scales and their gradients are of type
//! `T::Acc`, and so are a bias, of F elements, and its gradient. A readout and its gradient have a row of F
//! elements of type `T` for each instance, one behind the other. Matrices, such as that of the convolution,
//! are of type `T::Acc`, and have for each instance as many rows and columns as the largest topology in use
//! has vertices.
//!
//! The x of a layer has rows of as many elements as the plan has [inputs](PlanBuilder::inputs), and so has
//! its gradient. Θ has F rows of as many elements, of type `T`, and its gradient has those of type `T::Acc`.
//!
//! Only the rows of an output are written. Elements that its layout places no row on stay as they are.
//!
//! # Errors of operands
//! The operators of both backends check their operands in this order, before anything is written:
//!
//! 1. features and the number of instances, operand by operand: [`Error::FeaturesMismatch`];
//!    [`Error::PartialRow`] and [`Error::PartialInstance`] where a length is no whole number of them;
//!    [`Error::InstancesMismatch`], [`Error::UnknownInstances`]; where no rows tell the number,
//!    [`Error::PartialMatrix`];
//! 2. the number of instances against the workspace ([`Error::TooManyInstances`]) and the batch
//!    ([`Error::TooLarge`]);
//! 3. windows: [`Error::WindowTableMismatch`], [`Error::WindowTableAxis`], [`Error::WindowTableLength`];
//!    [`Error::WindowOutOfRange`], [`Error::UnreadWeights`];
//! 4. the lengths of Θ, of a bias, of matrices, and of a readout or its gradient: [`Error::LengthMismatch`];
//! 5. gradients of weights, scales, Θ and a bias: [`Error::GradientMismatch`];
//! 6. places of rows: [`Error::RowsMismatch`], or [`Error::Stride`] where strides or instances are given;
//!    [`Error::Overlap`] of an output's rows.
//!
//! [`Error::FeaturesMismatch`]: crate::Error::FeaturesMismatch
//! [`Error::GradientMismatch`]: crate::Error::GradientMismatch
//! [`Error::InstancesMismatch`]: crate::Error::InstancesMismatch
//! [`Error::LengthMismatch`]: crate::Error::LengthMismatch
//! [`Error::Overlap`]: crate::Error::Overlap
//! [`Error::PartialInstance`]: crate::Error::PartialInstance
//! [`Error::PartialMatrix`]: crate::Error::PartialMatrix
//! [`Error::PartialRow`]: crate::Error::PartialRow
//! [`Error::RowsMismatch`]: crate::Error::RowsMismatch
//! [`Error::Stride`]: crate::Error::Stride
//! [`Error::TooLarge`]: crate::Error::TooLarge
//! [`Error::TooManyInstances`]: crate::Error::TooManyInstances
//! [`Error::UnknownInstances`]: crate::Error::UnknownInstances
//! [`Error::UnreadWeights`]: crate::Error::UnreadWeights
//! [`Error::WindowOutOfRange`]: crate::Error::WindowOutOfRange
//! [`Error::WindowTableAxis`]: crate::Error::WindowTableAxis
//! [`Error::WindowTableLength`]: crate::Error::WindowTableLength
//! [`Error::WindowTableMismatch`]: crate::Error::WindowTableMismatch

mod conv;
mod degree;
mod dense;
mod disjoint;
mod epilogue;
mod gather;
mod instance_sums;
mod lanes;
mod layer;
mod operands;
mod partials;
mod plan;
mod prefetch;
mod products;
mod row_scale;
mod schedule;
mod scratch;
mod step;
mod streams;
mod threads;
mod tree_sums;
mod vertex_sums;
mod weight_gradient;
mod weighted_degree;
mod workspace;

pub use conv::{Epilogue, EpilogueGradients};
pub use layer::LayerGradients;
pub use operands::Weights;
pub use plan::{Plan, PlanBuilder};
pub use step::{Step, StepGradients};
pub use threads::on_this_thread;
pub use workspace::Workspace;
