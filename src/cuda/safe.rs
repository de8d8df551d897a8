//! The operators of the safe tier: `cudarc`'s slices and views on the workspace's stream.

#![allow(unsafe_code)]

use cudarc::driver::{CudaView, CudaViewMut};

use super::driver::{Current, not_capturing};
use super::operands::{Operands, Step};
use super::ranges::Range;
use super::window_table::DeviceWindows;
use super::workspace::Workspace;
use super::{DeviceElement, conv, step};
use crate::direction::Direction;
use crate::error::Result;
use crate::operator::Operator;
use crate::rows::{Out, Rows};
use crate::step::StepGradients;
use crate::windows::Weights;

impl<T: DeviceElement> Workspace<T> {
    /// z_e = s_e Σ_{v∈e} r_v x_v, divided by |e| for a mean; r is the vertex scale and s the hyperedge scale of `step`.
    ///
    /// * `x`: `N` rows of vertices;
    /// * `z`: `M` rows of hyperedges, overwritten or added to, and nothing between them. An empty hyperedge gets zeros.
    ///
    /// The work is queued on the workspace's stream, in at most 2 launches; the call does not wait for it, and allocates nothing.
    ///
    /// # Errors
    /// Those [of operands](crate::cpu#errors-of-operands);
    /// [`Error::WrongContext`], [`Error::Misaligned`], [`Error::SharedMemory`], [`Error::UncheckedTables`];
    /// [`Error::Capturing`]; [`Error::IndexOutOfBounds`] or [`Error::NegativeDegree`] of an earlier call until
    /// [`check`](Self::check) has cleared it; [`Error::Driver`].
    /// No kernel is queued then, unless the driver failed between two launches. Where several streams take turns on an operand,
    /// waits for it may be.
    ///
    /// [`Error::WrongContext`]: crate::Error::WrongContext
    /// [`Error::Misaligned`]: crate::Error::Misaligned
    /// [`Error::SharedMemory`]: crate::Error::SharedMemory
    /// [`Error::UncheckedTables`]: crate::Error::UncheckedTables
    /// [`Error::Capturing`]: crate::Error::Capturing
    /// [`Error::IndexOutOfBounds`]: crate::Error::IndexOutOfBounds
    /// [`Error::NegativeDegree`]: crate::Error::NegativeDegree
    /// [`Error::Driver`]: crate::Error::Driver
    pub fn vertex_to_hyperedge(
        &mut self,
        step: &Step<'_, CudaView<'_, T::Acc>>,
        x: Rows<CudaView<'_, T>>,
        z: Out<Rows<CudaViewMut<'_, T>>>,
    ) -> Result<()> {
        self.step(Direction::VertexToHyperedge, step, x, z)
    }

    /// The gradients of [`vertex_to_hyperedge`](Self::vertex_to_hyperedge) from the same `x`.
    ///
    /// * `x`: `N` rows of vertices;
    /// * `grad_z`: ∂loss/∂z, `M` rows of hyperedges;
    /// * `gradients.rows`: ∂loss/∂x, `N` rows of vertices.
    ///
    /// In at most 9 launches.
    ///
    /// # Errors
    /// As [`vertex_to_hyperedge`](Self::vertex_to_hyperedge).
    pub fn vertex_to_hyperedge_backward(
        &mut self,
        step: &Step<'_, CudaView<'_, T::Acc>>,
        x: Rows<CudaView<'_, T>>,
        grad_z: Rows<CudaView<'_, T>>,
        gradients: StepGradients<CudaViewMut<'_, T>, CudaViewMut<'_, T::Acc>>,
    ) -> Result<()> {
        self.step_backward(Direction::VertexToHyperedge, step, x, grad_z, gradients)
    }

    /// y_v = t_v Σ_{e∋v} u_e z_e, divided by the number of incidences of v for a mean; u is the hyperedge scale and t
    /// the vertex scale of `step`.
    ///
    /// * `z`: `M` rows of hyperedges;
    /// * `y`: `N` rows of vertices, overwritten or added to, and nothing between them. An isolated vertex gets zeros.
    ///
    /// In at most 2 launches.
    ///
    /// # Errors
    /// As [`vertex_to_hyperedge`](Self::vertex_to_hyperedge).
    pub fn hyperedge_to_vertex(
        &mut self,
        step: &Step<'_, CudaView<'_, T::Acc>>,
        z: Rows<CudaView<'_, T>>,
        y: Out<Rows<CudaViewMut<'_, T>>>,
    ) -> Result<()> {
        self.step(Direction::HyperedgeToVertex, step, z, y)
    }

    /// The gradients of [`hyperedge_to_vertex`](Self::hyperedge_to_vertex) from the same `z`.
    ///
    /// * `z`: `M` rows of hyperedges;
    /// * `grad_y`: ∂loss/∂y, `N` rows of vertices;
    /// * `gradients.rows`: ∂loss/∂z, `M` rows of hyperedges.
    ///
    /// In at most 9 launches.
    ///
    /// # Errors
    /// As [`vertex_to_hyperedge`](Self::vertex_to_hyperedge).
    pub fn hyperedge_to_vertex_backward(
        &mut self,
        step: &Step<'_, CudaView<'_, T::Acc>>,
        z: Rows<CudaView<'_, T>>,
        grad_y: Rows<CudaView<'_, T>>,
        gradients: StepGradients<CudaViewMut<'_, T>, CudaViewMut<'_, T::Acc>>,
    ) -> Result<()> {
        self.step_backward(Direction::HyperedgeToVertex, step, z, grad_y, gradients)
    }

    /// y = L H U B⁻¹ Hᵀ R x with the plan's conventions.
    ///
    /// * `x`: `N` rows of vertices;
    /// * `weights`: one for each hyperedge, read through windows;
    /// * `y`: `N` rows of vertices, overwritten or added to, and nothing between them. A vertex of degree 0 gets
    ///   zeros, unless the normalization is `None`.
    ///
    /// The work is queued on the workspace's stream, in at most 6 launches; the call does not wait for it, and allocates nothing.
    /// A negative degree under symmetric normalization is found by a kernel, with checks or without, and
    /// reported as a wrong index is: by a later call, or by [`check`](Self::check).
    ///
    /// # Errors
    /// Those [of operands](crate::cpu#errors-of-operands); [`Error::NoScratch`] if the workspace was made for less;
    /// [`Error::WrongContext`], [`Error::Misaligned`], [`Error::SharedMemory`], [`Error::UncheckedTables`];
    /// [`Error::Capturing`]; [`Error::IndexOutOfBounds`] or [`Error::NegativeDegree`] of an earlier call until
    /// [`check`](Self::check) has cleared it; [`Error::Driver`].
    /// No kernel is queued then, unless the driver failed between two launches. Where several streams take turns on an operand,
    /// waits for it may be.
    pub fn conv(
        &mut self,
        x: Rows<CudaView<'_, T>>,
        weights: Weights<CudaView<'_, T::Acc>, &DeviceWindows>,
        y: Out<Rows<CudaViewMut<'_, T>>>,
    ) -> Result<()> {
        self.forward(Operator::Conv, x, weights, None, y)
    }

    /// [`conv`](Self::conv), which also stores z = B⁻¹ Hᵀ R x for [`conv_backward_from_z`](Self::conv_backward_from_z), with the
    /// same bits of y.
    ///
    /// * `z`: `M` rows of hyperedges of the accumulation type, overwritten, also where y is skipped.
    ///
    /// It needs no scratch memory for rows, and saves the backward one of its four gathers; in exchange the caller keeps
    /// M · F elements of the accumulation type from here to there.
    ///
    /// # Errors
    /// As [`conv`](Self::conv).
    pub fn conv_saving_z(
        &mut self,
        x: Rows<CudaView<'_, T>>,
        weights: Weights<CudaView<'_, T::Acc>, &DeviceWindows>,
        z: Rows<CudaViewMut<'_, T::Acc>>,
        y: Out<Rows<CudaViewMut<'_, T>>>,
    ) -> Result<()> {
        self.forward(Operator::ConvSavingZ, x, weights, Some(z), y)
    }

    /// The gradients of [`conv`](Self::conv) for g = ∂loss/∂y, from the same `x` and `weights`; z is computed again.
    ///
    /// * `x`, `grad_y`: `N` rows of vertices;
    /// * `grad_x`: `N` rows of vertices, overwritten, added to or skipped;
    /// * `grad_weights`: as many elements as `weights` has values, overwritten, added to or skipped: for each, the sum
    ///   over all instances whose windows cover it, 0 where there are none.
    ///
    /// In at most 20 launches.
    ///
    /// # Errors
    /// As [`conv`](Self::conv).
    pub fn conv_backward(
        &mut self,
        x: Rows<CudaView<'_, T>>,
        weights: Weights<CudaView<'_, T::Acc>, &DeviceWindows>,
        grad_y: Rows<CudaView<'_, T>>,
        grad_x: Out<Rows<CudaViewMut<'_, T>>>,
        grad_weights: Out<CudaViewMut<'_, T::Acc>>,
    ) -> Result<()> {
        self.backward(Operator::ConvBackward, x, None, weights, grad_y, grad_x, grad_weights)
    }

    /// [`conv_backward`](Self::conv_backward) with the z that [`conv_saving_z`](Self::conv_saving_z) stored for the same `x` and
    /// `weights`, and the same bits.
    ///
    /// * `z`: `M` rows of hyperedges of the accumulation type.
    ///
    /// # Errors
    /// As [`conv`](Self::conv).
    pub fn conv_backward_from_z(
        &mut self,
        x: Rows<CudaView<'_, T>>,
        z: Rows<CudaView<'_, T::Acc>>,
        weights: Weights<CudaView<'_, T::Acc>, &DeviceWindows>,
        grad_y: Rows<CudaView<'_, T>>,
        grad_x: Out<Rows<CudaViewMut<'_, T>>>,
        grad_weights: Out<CudaViewMut<'_, T::Acc>>,
    ) -> Result<()> {
        self.backward(Operator::ConvBackwardFromZ, x, Some(z), weights, grad_y, grad_x, grad_weights)
    }

    fn step(
        &mut self,
        direction: Direction,
        step: &Step<'_, CudaView<'_, T::Acc>>,
        x: Rows<CudaView<'_, T>>,
        mut y: Out<Rows<CudaViewMut<'_, T>>>,
    ) -> Result<()> {
        let operator = Operator::step(direction);
        let _range = Range::enter(operator);
        let _current = self.begin(operator)?;
        let mut operands = self.operands(operator);
        let (forward, instances) =
            step::Forward::bind(&mut operands, self.max_instances, direction, step, &x, &mut y)?;
        // SAFETY: as `call` says: the placements and windows were checked against the buffers.
        unsafe { forward.run(&mut self.call(operator, self.stream().cu_stream(), instances)?) }
    }

    fn step_backward(
        &mut self,
        direction: Direction,
        step: &Step<'_, CudaView<'_, T::Acc>>,
        x: Rows<CudaView<'_, T>>,
        grad_y: Rows<CudaView<'_, T>>,
        mut gradients: StepGradients<CudaViewMut<'_, T>, CudaViewMut<'_, T::Acc>>,
    ) -> Result<()> {
        let operator = Operator::step_backward(direction);
        let _range = Range::enter(operator);
        let _current = self.begin(operator)?;
        let mut operands = self.operands(operator);
        let max = self.max_instances;
        let (backward, instances) =
            step::Backward::bind(&mut operands, max, direction, step, &x, &grad_y, &mut gradients)?;
        // SAFETY: as in `step`.
        unsafe { backward.run(&mut self.call(operator, self.stream().cu_stream(), instances)?) }
    }

    fn forward(
        &mut self,
        operator: Operator,
        x: Rows<CudaView<'_, T>>,
        weights: Weights<CudaView<'_, T::Acc>, &DeviceWindows>,
        mut z: Option<Rows<CudaViewMut<'_, T::Acc>>>,
        mut y: Out<Rows<CudaViewMut<'_, T>>>,
    ) -> Result<()> {
        let _range = Range::enter(operator);
        let _current = self.begin(operator)?;
        let mut operands = self.operands(operator);
        let (forward, instances) =
            conv::Forward::bind(&mut operands, self.max_instances, &x, &weights, z.as_mut(), &mut y)?;
        // SAFETY: as in `step`.
        unsafe { forward.run(&mut self.call(operator, self.stream().cu_stream(), instances)?) }
    }

    #[allow(clippy::too_many_arguments)]
    fn backward(
        &mut self,
        operator: Operator,
        x: Rows<CudaView<'_, T>>,
        z: Option<Rows<CudaView<'_, T::Acc>>>,
        weights: Weights<CudaView<'_, T::Acc>, &DeviceWindows>,
        grad_y: Rows<CudaView<'_, T>>,
        mut grad_x: Out<Rows<CudaViewMut<'_, T>>>,
        mut grad_weights: Out<CudaViewMut<'_, T::Acc>>,
    ) -> Result<()> {
        let _range = Range::enter(operator);
        let _current = self.begin(operator)?;
        let mut operands = self.operands(operator);
        let (max, z, out) = (self.max_instances, z.as_ref(), &mut grad_weights);
        let (backward, instances) =
            conv::Backward::bind(&mut operands, max, &x, z, &weights, &grad_y, &mut grad_x, out)?;
        // SAFETY: as in `step`.
        unsafe { backward.run(&mut self.call(operator, self.stream().cu_stream(), instances)?) }
    }

    /// What comes first in a call: an earlier report, the current context, and that the stream records no graph.
    fn begin(&self, operator: Operator) -> Result<Current> {
        self.poll()?;
        let current = self.plan.batch().device().enter()?;
        not_capturing(self.stream(), operator.name())?;
        Ok(current)
    }

    #[inline(always)]
    fn operands<'w>(&self, operator: Operator) -> Operands<'_, 'w, T> {
        Operands::new(&self.plan, self.stream(), Some(operator.name()))
    }
}
