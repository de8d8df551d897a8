//! The operators of both tiers: what happens between a method of a workspace and the launches.
//!
//! A call looks for an earlier report, makes the context current, binds and checks its operands, and runs the
//! description of its operator. The tiers differ in the buffers (`cudarc`'s views, or addresses) and in the
//! stream.

#![allow(unsafe_code)]

use cudarc::driver::sys;

use super::driver::{Current, not_capturing};
use super::operands::{Operands, Read, Write};
use super::ranges::Range;
use super::window_table::DeviceWindows;
use super::workspace::Workspace;
use super::{DeviceElement, conv, step};
use crate::direction::Direction;
use crate::epilogue::{Epilogue, EpilogueGradients, Level};
use crate::error::Result;
use crate::operator::Operator;
use crate::rows::{Out, Rows};
use crate::step::{Step, StepGradients};
use crate::windows::Weights;

/// Whose memory and stream a call is on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tier {
    /// `cudarc`'s views, on the workspace's stream.
    Safe,
    /// Addresses, on this stream.
    Raw(sys::CUstream),
}

/// A call that has begun. When it is dropped, the context that was current before is so again.
struct Begun {
    _range: Range,
    _current: Current,
    stream: sys::CUstream,
}

/// Each method's safety: in the safe tier, buffers are `cudarc`'s views; in the raw tier, the contract of the
/// [raw tier](super::raw) holds.
impl<T: DeviceElement> Workspace<T> {
    /// A step.
    ///
    /// # Safety
    /// As above.
    pub(super) unsafe fn step(
        &mut self,
        tier: Tier,
        direction: Direction,
        step: &Step<Weights<impl Read<T::Acc>, &DeviceWindows>>,
        x: Rows<impl Read<T>>,
        mut y: Out<Rows<impl Write<T>>>,
    ) -> Result<()> {
        let operator = Operator::step(direction);
        let begun = self.begin(tier, operator)?;
        let mut operands = self.operands(tier, operator);
        let (forward, instances) = step::Forward::bind(&mut operands, direction, step, &x, &mut y)?;
        // SAFETY: the caller's promise; the placements and windows were checked against the buffers. In the
        // safe tier the guards order other users of the operands before or after, and `cudarc` frees those
        // after.
        unsafe { forward.run(&mut self.call(operator, begun.stream, instances)?) }
    }

    /// The gradients of a step.
    ///
    /// # Safety
    /// As above.
    pub(super) unsafe fn step_backward(
        &mut self,
        tier: Tier,
        direction: Direction,
        step: &Step<Weights<impl Read<T::Acc>, &DeviceWindows>>,
        x: Rows<impl Read<T>>,
        grad_y: Rows<impl Read<T>>,
        mut gradients: StepGradients<impl Write<T>, impl Write<T::Acc>>,
    ) -> Result<()> {
        let operator = Operator::step_backward(direction);
        let begun = self.begin(tier, operator)?;
        let mut operands = self.operands(tier, operator);
        let (backward, instances) =
            step::Backward::bind(&mut operands, direction, step, &x, &grad_y, &mut gradients)?;
        // SAFETY: as in `step`.
        unsafe { backward.run(&mut self.call(operator, begun.stream, instances)?) }
    }

    /// The convolution; z is saved where it is given.
    ///
    /// # Safety
    /// As above.
    pub(super) unsafe fn convolve(
        &mut self,
        tier: Tier,
        operator: Operator,
        x: Rows<impl Read<T>>,
        weights: Weights<impl Read<T::Acc>, &DeviceWindows>,
        mut z: Option<Rows<impl Write<T::Acc>>>,
        mut y: Out<Rows<impl Write<T>>>,
    ) -> Result<()> {
        let begun = self.begin(tier, operator)?;
        let mut operands = self.operands(tier, operator);
        let (forward, instances) = conv::Forward::bind(&mut operands, &x, &weights, z.as_mut(), &mut y)?;
        // SAFETY: as in `step`.
        unsafe { forward.run(&mut self.call(operator, begun.stream, instances)?) }
    }

    /// The gradients of the convolution, from z where it was saved.
    ///
    /// # Safety
    /// As above.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn convolve_backward(
        &mut self,
        tier: Tier,
        operator: Operator,
        x: Rows<impl Read<T>>,
        z: Option<Rows<impl Read<T::Acc>>>,
        weights: Weights<impl Read<T::Acc>, &DeviceWindows>,
        grad_y: Rows<impl Read<T>>,
        mut grad_x: Out<Rows<impl Write<T>>>,
        mut grad_weights: Out<impl Write<T::Acc>>,
    ) -> Result<()> {
        let begun = self.begin(tier, operator)?;
        let mut operands = self.operands(tier, operator);
        let (z, out) = (z.as_ref(), &mut grad_weights);
        let (backward, instances) =
            conv::Backward::bind(&mut operands, &x, z, &weights, &grad_y, &mut grad_x, out)?;
        // SAFETY: as in `step`.
        unsafe { backward.run(&mut self.call(operator, begun.stream, instances)?) }
    }

    /// The convolution with an epilogue, or its readout.
    ///
    /// # Safety
    /// As above.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn convolve_with<W: Write<T>>(
        &mut self,
        tier: Tier,
        operator: Operator,
        x: Rows<impl Read<T>>,
        weights: Weights<impl Read<T::Acc>, &DeviceWindows>,
        epilogue: &Epilogue<impl Read<T::Acc>>,
        residual: Option<Rows<impl Read<T>>>,
        mut result: Level<Out<Rows<W>>, Out<W>>,
    ) -> Result<()> {
        let begun = self.begin(tier, operator)?;
        let mut operands = self.operands(tier, operator);
        let (residual, out) = (residual.as_ref(), &mut result);
        let (forward, instances) =
            conv::Forward::bind_epilogue(&mut operands, &x, &weights, epilogue, residual, out)?;
        // SAFETY: as in `step`.
        unsafe { forward.run(&mut self.call(operator, begun.stream, instances)?) }
    }

    /// The gradients of the convolution with an epilogue, or of its readout.
    ///
    /// # Safety
    /// As above.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn convolve_with_backward<G: Read<T>>(
        &mut self,
        tier: Tier,
        operator: Operator,
        x: Rows<impl Read<T>>,
        weights: Weights<impl Read<T::Acc>, &DeviceWindows>,
        epilogue: &Epilogue<impl Read<T::Acc>>,
        grad: Level<Rows<G>, G>,
        mut gradients: EpilogueGradients<impl Write<T>, impl Write<T::Acc>>,
    ) -> Result<()> {
        let begun = self.begin(tier, operator)?;
        let mut operands = self.operands(tier, operator);
        let (backward, instances) =
            conv::EpilogueBackward::bind(&mut operands, &x, &weights, epilogue, &grad, &mut gradients)?;
        // SAFETY: as in `step`.
        unsafe { backward.run(&mut self.call(operator, begun.stream, instances)?) }
    }

    /// M of the convolution.
    ///
    /// # Safety
    /// As above.
    pub(super) unsafe fn form_matrix(
        &mut self,
        tier: Tier,
        weights: Weights<impl Read<T::Acc>, &DeviceWindows>,
        mut matrix: Out<impl Write<T::Acc>>,
    ) -> Result<()> {
        let operator = Operator::ConvMatrix;
        let begun = self.begin(tier, operator)?;
        let mut operands = self.operands(tier, operator);
        let (forward, instances) = conv::MatrixForward::bind(&mut operands, &weights, &mut matrix)?;
        // SAFETY: as in `step`.
        unsafe { forward.run(&mut self.call(operator, begun.stream, instances)?) }
    }

    /// The gradient of M.
    ///
    /// # Safety
    /// As above.
    pub(super) unsafe fn form_matrix_backward(
        &mut self,
        tier: Tier,
        weights: Weights<impl Read<T::Acc>, &DeviceWindows>,
        grad_matrix: impl Read<T::Acc>,
        mut grad_weights: Out<impl Write<T::Acc>>,
    ) -> Result<()> {
        let operator = Operator::ConvMatrixBackward;
        let begun = self.begin(tier, operator)?;
        let mut operands = self.operands(tier, operator);
        let (backward, instances) =
            conv::MatrixBackward::bind(&mut operands, &weights, &grad_matrix, &mut grad_weights)?;
        // SAFETY: as in `step`.
        unsafe { backward.run(&mut self.call(operator, begun.stream, instances)?) }
    }

    /// The inner products of rows.
    ///
    /// # Safety
    /// As above.
    pub(super) unsafe fn multiply_rows(
        &mut self,
        tier: Tier,
        x: Rows<impl Read<T>>,
        mut gram: Out<impl Write<T::Acc>>,
    ) -> Result<()> {
        let operator = Operator::Gram;
        let begun = self.begin(tier, operator)?;
        let mut operands = self.operands(tier, operator);
        let (forward, instances) = conv::GramForward::bind(&mut operands, &x, &mut gram)?;
        // SAFETY: as in `step`.
        unsafe { forward.run(&mut self.call(operator, begun.stream, instances)?) }
    }

    /// Their gradient.
    ///
    /// # Safety
    /// As above.
    pub(super) unsafe fn multiply_rows_backward(
        &mut self,
        tier: Tier,
        x: Rows<impl Read<T>>,
        grad_gram: impl Read<T::Acc>,
        mut grad_x: Out<Rows<impl Write<T>>>,
    ) -> Result<()> {
        let operator = Operator::GramBackward;
        let begun = self.begin(tier, operator)?;
        let mut operands = self.operands(tier, operator);
        let (backward, instances) = conv::GramBackward::bind(&mut operands, &x, &grad_gram, &mut grad_x)?;
        // SAFETY: as in `step`.
        unsafe { backward.run(&mut self.call(operator, begun.stream, instances)?) }
    }

    /// What comes before all operands: an earlier report, the current context, and in the safe tier whether
    /// the stream records a graph.
    fn begin(&self, tier: Tier, operator: Operator) -> Result<Begun> {
        let _range = Range::enter(operator);
        self.poll()?;
        let _current = self.plan.batch().device().enter()?;
        let stream = match tier {
            Tier::Safe => {
                not_capturing(self.stream(), operator.name())?;
                self.stream().cu_stream()
            }
            Tier::Raw(stream) => stream,
        };
        Ok(Begun { _range, _current, stream })
    }

    #[inline(always)]
    fn operands<'w>(&self, tier: Tier, operator: Operator) -> Operands<'_, 'w, T> {
        let safe = matches!(tier, Tier::Safe).then(|| operator.name());
        Operands::new(&self.plan, self.stream(), safe, self.max_instances)
    }
}
