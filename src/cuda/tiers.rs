//! The operators of both tiers: what happens between a method of a workspace and the launches.
//!
//! A call looks for an earlier report, makes the context current, binds and checks its operands, and runs the
//! description of its operator. The tiers differ in the buffers (`cudarc`'s views, or addresses) and in the
//! stream.

#![allow(unsafe_code)]

use cudarc::driver::sys;

use super::description::Description;
use super::driver::{Current, not_capturing};
use super::operands::{Operands, Read, Write};
use super::ranges::Range;
use super::window_table::DeviceWindows;
use super::workspace::Workspace;
use super::{DeviceElement, conv, step};
use crate::direction::Direction;
use crate::epilogue::{Epilogue, EpilogueGradients, Level};
use crate::error::Result;
use crate::layer::LayerGradients;
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

/// # Safety
/// Of each method that is `unsafe`: in the safe tier, buffers are `cudarc`'s views; in the raw tier, the
/// contract of the [raw tier](super::raw) holds.
impl<T: DeviceElement> Workspace<T> {
    /// A step.
    pub(super) unsafe fn step_in(
        &mut self,
        tier: Tier,
        direction: Direction,
        step: &Step<Weights<impl Read<T::Acc>, &DeviceWindows>>,
        x: Rows<impl Read<T>>,
        mut y: Out<Rows<impl Write<T>>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.run(tier, Operator::step(direction), |operands| {
                step::Forward::bind(operands, direction, step, &x, &mut y)
            })
        }
    }

    /// The gradients of a step.
    pub(super) unsafe fn step_backward_in(
        &mut self,
        tier: Tier,
        direction: Direction,
        step: &Step<Weights<impl Read<T::Acc>, &DeviceWindows>>,
        x: Rows<impl Read<T>>,
        grad_y: Rows<impl Read<T>>,
        mut gradients: StepGradients<impl Write<T>, impl Write<T::Acc>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.run(tier, Operator::step_backward(direction), |operands| {
                step::Backward::bind(operands, direction, step, &x, &grad_y, &mut gradients)
            })
        }
    }

    /// The convolution; z is saved where it is given.
    pub(super) unsafe fn conv_in(
        &mut self,
        tier: Tier,
        operator: Operator,
        x: Rows<impl Read<T>>,
        weights: Weights<impl Read<T::Acc>, &DeviceWindows>,
        mut z: Option<Rows<impl Write<T::Acc>>>,
        mut y: Out<Rows<impl Write<T>>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.run(tier, operator, |operands| {
                conv::Forward::bind(operands, &x, &weights, z.as_mut(), &mut y)
            })
        }
    }

    /// The gradients of the convolution, from z where it was saved.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn conv_backward_in(
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
        // SAFETY: the caller's promise.
        unsafe {
            self.run(tier, operator, |operands| {
                let (z, out) = (z.as_ref(), &mut grad_weights);
                conv::Backward::bind(operands, &x, z, &weights, &grad_y, &mut grad_x, out)
            })
        }
    }

    /// The convolution with an epilogue, or its readout.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn conv_epilogue_in<W: Write<T>>(
        &mut self,
        tier: Tier,
        operator: Operator,
        x: Rows<impl Read<T>>,
        weights: Weights<impl Read<T::Acc>, &DeviceWindows>,
        epilogue: &Epilogue<impl Read<T::Acc>>,
        residual: Option<Rows<impl Read<T>>>,
        mut result: Level<Out<Rows<W>>, Out<W>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.run(tier, operator, |operands| {
                conv::Forward::bind_epilogue(operands, &x, &weights, epilogue, residual.as_ref(), &mut result)
            })
        }
    }

    /// The gradients of the convolution with an epilogue, or of its readout.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn conv_epilogue_backward_in<G: Read<T>>(
        &mut self,
        tier: Tier,
        operator: Operator,
        x: Rows<impl Read<T>>,
        weights: Weights<impl Read<T::Acc>, &DeviceWindows>,
        epilogue: &Epilogue<impl Read<T::Acc>>,
        grad: Level<Rows<G>, G>,
        mut gradients: EpilogueGradients<impl Write<T>, impl Write<T::Acc>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.run(tier, operator, |operands| {
                conv::EpilogueBackward::bind(operands, &x, &weights, epilogue, &grad, &mut gradients)
            })
        }
    }

    /// A layer.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn layer_in(
        &mut self,
        tier: Tier,
        x: Rows<impl Read<T>>,
        theta: impl Read<T>,
        weights: Weights<impl Read<T::Acc>, &DeviceWindows>,
        epilogue: &Epilogue<impl Read<T::Acc>>,
        residual: Option<Rows<impl Read<T>>>,
        mut y: Out<Rows<impl Write<T>>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.run(tier, Operator::Layer, |operands| {
                let residual = residual.as_ref();
                conv::LayerForward::bind(operands, &x, &theta, &weights, epilogue, residual, &mut y)
            })
        }
    }

    /// The gradients of a layer.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn layer_backward_in(
        &mut self,
        tier: Tier,
        x: Rows<impl Read<T>>,
        theta: impl Read<T>,
        weights: Weights<impl Read<T::Acc>, &DeviceWindows>,
        epilogue: &Epilogue<impl Read<T::Acc>>,
        grad_y: Rows<impl Read<T>>,
        mut gradients: LayerGradients<impl Write<T>, impl Write<T::Acc>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.run(tier, Operator::LayerBackward, |operands| {
                let gradients = &mut gradients;
                conv::LayerBackward::bind(operands, &x, &theta, &weights, epilogue, &grad_y, gradients)
            })
        }
    }

    /// M of the convolution.
    pub(super) unsafe fn conv_matrix_in(
        &mut self,
        tier: Tier,
        weights: Weights<impl Read<T::Acc>, &DeviceWindows>,
        mut matrix: Out<impl Write<T::Acc>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.run(tier, Operator::ConvMatrix, |operands| {
                conv::MatrixForward::bind(operands, &weights, &mut matrix)
            })
        }
    }

    /// The gradient of M.
    pub(super) unsafe fn conv_matrix_backward_in(
        &mut self,
        tier: Tier,
        weights: Weights<impl Read<T::Acc>, &DeviceWindows>,
        grad_matrix: impl Read<T::Acc>,
        mut grad_weights: Out<impl Write<T::Acc>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.run(tier, Operator::ConvMatrixBackward, |operands| {
                conv::MatrixBackward::bind(operands, &weights, &grad_matrix, &mut grad_weights)
            })
        }
    }

    /// The inner products of rows.
    pub(super) unsafe fn gram_in(
        &mut self,
        tier: Tier,
        x: Rows<impl Read<T>>,
        mut gram: Out<impl Write<T::Acc>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.run(tier, Operator::Gram, |operands| conv::GramForward::bind(operands, &x, &mut gram)) }
    }

    /// Their gradient.
    pub(super) unsafe fn gram_backward_in(
        &mut self,
        tier: Tier,
        x: Rows<impl Read<T>>,
        grad_gram: impl Read<T::Acc>,
        mut grad_x: Out<Rows<impl Write<T>>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.run(tier, Operator::GramBackward, |operands| {
                conv::GramBackward::bind(operands, &x, &grad_gram, &mut grad_x)
            })
        }
    }

    /// A call: what comes before all operands, the operands, and the launches. `bind` gives the bound
    /// operands and the number of instances.
    #[inline(always)]
    unsafe fn run<'a, 'w, D: Description>(
        &'a self,
        tier: Tier,
        operator: Operator,
        bind: impl FnOnce(&mut Operands<'a, 'w, T>) -> Result<(D, usize)>,
    ) -> Result<()> {
        let begun = self.begin(tier, operator)?;
        let mut operands = self.operands(tier, operator);
        let (description, instances) = bind(&mut operands)?;
        // SAFETY: the caller's promise; the placements and windows were checked against the buffers. In the
        // safe tier the guards order other users of the operands before or after, and `cudarc` frees those
        // after.
        unsafe { self.call(operator, begun.stream, instances, description) }
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
        Operands::new(&self.plan, self.stream(), safe, self.max_instances).beside(self.lent())
    }
}

compiled_here!(
    Workspace::<T>::call::<step::Forward<'_>> as unsafe fn(_, _, _, _, _) -> _,
    Workspace::<T>::call::<step::Backward<'_>> as unsafe fn(_, _, _, _, _) -> _,
    Workspace::<T>::call::<conv::Forward<'_>> as unsafe fn(_, _, _, _, _) -> _,
    Workspace::<T>::call::<conv::Backward<'_>> as unsafe fn(_, _, _, _, _) -> _,
    Workspace::<T>::call::<conv::EpilogueBackward<'_>> as unsafe fn(_, _, _, _, _) -> _,
    Workspace::<T>::call::<conv::LayerForward<'_>> as unsafe fn(_, _, _, _, _) -> _,
    Workspace::<T>::call::<conv::LayerBackward<'_>> as unsafe fn(_, _, _, _, _) -> _,
    Workspace::<T>::call::<conv::MatrixForward<'_>> as unsafe fn(_, _, _, _, _) -> _,
    Workspace::<T>::call::<conv::MatrixBackward<'_>> as unsafe fn(_, _, _, _, _) -> _,
    Workspace::<T>::call::<conv::GramForward> as unsafe fn(_, _, _, _, _) -> _,
    Workspace::<T>::call::<conv::GramBackward> as unsafe fn(_, _, _, _, _) -> _,
);
