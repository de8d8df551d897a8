//! The raw tier: the operators on memory and streams that belong to another framework.
//!
//! Operands are [`DevicePointer`]s, the stream is a `CUstream` of the device's context. No event is recorded or waited for: the
//! current context, a launch for each kernel, and for a gradient that nothing adds to a fill with zeros, are all that the driver is
//! asked for. So these calls may be captured into a
//! CUDA graph, a whole forward and backward for instance, and replayed with new data in the same memory.
//!
//! # Contract
//! Shapes, strides, windows, alignment and overlaps of the operands are checked as in the safe tier, from the addresses and
//! lengths that are given. The rest is up to the caller:
//!
//! 1. **Alive.** From the call until its work has ended, and where it was captured until the last replay has ended and no other
//!    will follow, the operands' memory, the workspace and the window tables are not dropped or freed, and window tables are not
//!    overwritten, unless the plan has [`Checks::On`](super::Checks::On) and the overwriting is ordered like any other use. Each
//!    [`DevicePointer`] has `len` elements of its type, on the device of the plan, aligned and of any bits.
//! 2. **Ordered.** The stream is one of the device's very context (not the per-thread default stream, if the workspace moves to another
//!    thread). Whatever else uses the same workspace, on this stream or another, is ordered before or behind this work: its
//!    scratch memory is shared. The same holds for whoever writes operands that are read, and whoever uses outputs. A workspace for
//!    each stream, and for each graph that may run beside others, is the simple way to keep this.
//! 3. **Disjoint.** While the work or a replay of it is running, nothing else writes into the operands' memory, and no output's memory
//!    is read by anything else or seen through a reference of any kind. Between replays, new data may be written.
//!
//! # Graphs
//! A captured call keeps the addresses, the strides and the number of instances that it was given. For a replicated batch
//! those are all that ties it to the data; window tables and tables of instances are read anew at each replay. Memory of a
//! workspace is fixed when that is made, so nothing is allocated during capture. Kernels are loaded when the plan is made;
//! a driver that puts that off until the first launch (`CUDA_MODULE_LOADING=LAZY`, the default of newer ones) wants a call
//! of each operator before it is captured.
//!
//! Reports of wrong indices and negative degrees are written to host memory at each replay, and [`Workspace::check_raw`] reads them
//! once the stream is done. Until they are cleared, new calls return them, captured or not; replays go on.

#![allow(unsafe_code)]

use cudarc::driver::{result, sys};

use super::driver::{Current, failed};
use super::operands::{DevicePointer, Operands, Step};
use super::ranges::Range;
use super::window_table::DeviceWindows;
use super::workspace::Workspace;
use super::{DeviceElement, conv, step};
use crate::direction::Direction;
use crate::error::{Error, Result};
use crate::operator::Operator;
use crate::rows::{Out, Rows};
use crate::step::StepGradients;
use crate::windows::Weights;

impl<T: DeviceElement> Workspace<T> {
    /// [`vertex_to_hyperedge`](Self::vertex_to_hyperedge) in the [raw tier](super::raw).
    ///
    /// # Errors
    /// As the safe call, without [`Error::WrongContext`] of buffers and [`Error::Capturing`].
    ///
    /// # Safety
    /// The [contract](super::raw) of the raw tier.
    pub unsafe fn vertex_to_hyperedge_raw(
        &mut self,
        stream: sys::CUstream,
        step: &Step<'_, DevicePointer<T::Acc>>,
        x: Rows<DevicePointer<T>>,
        z: Out<Rows<DevicePointer<T>>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.step_raw(stream, Direction::VertexToHyperedge, step, x, z) }
    }

    /// [`vertex_to_hyperedge_backward`](Self::vertex_to_hyperedge_backward) in the [raw tier](super::raw).
    ///
    /// # Errors
    /// As the safe call, without [`Error::WrongContext`] of buffers and [`Error::Capturing`].
    ///
    /// # Safety
    /// The [contract](super::raw) of the raw tier.
    pub unsafe fn vertex_to_hyperedge_backward_raw(
        &mut self,
        stream: sys::CUstream,
        step: &Step<'_, DevicePointer<T::Acc>>,
        x: Rows<DevicePointer<T>>,
        grad_z: Rows<DevicePointer<T>>,
        gradients: StepGradients<DevicePointer<T>, DevicePointer<T::Acc>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.step_backward_raw(stream, Direction::VertexToHyperedge, step, x, grad_z, gradients) }
    }

    /// [`hyperedge_to_vertex`](Self::hyperedge_to_vertex) in the [raw tier](super::raw).
    ///
    /// # Errors
    /// As the safe call, without [`Error::WrongContext`] of buffers and [`Error::Capturing`].
    ///
    /// # Safety
    /// The [contract](super::raw) of the raw tier.
    pub unsafe fn hyperedge_to_vertex_raw(
        &mut self,
        stream: sys::CUstream,
        step: &Step<'_, DevicePointer<T::Acc>>,
        z: Rows<DevicePointer<T>>,
        y: Out<Rows<DevicePointer<T>>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.step_raw(stream, Direction::HyperedgeToVertex, step, z, y) }
    }

    /// [`hyperedge_to_vertex_backward`](Self::hyperedge_to_vertex_backward) in the [raw tier](super::raw).
    ///
    /// # Errors
    /// As the safe call, without [`Error::WrongContext`] of buffers and [`Error::Capturing`].
    ///
    /// # Safety
    /// The [contract](super::raw) of the raw tier.
    pub unsafe fn hyperedge_to_vertex_backward_raw(
        &mut self,
        stream: sys::CUstream,
        step: &Step<'_, DevicePointer<T::Acc>>,
        z: Rows<DevicePointer<T>>,
        grad_y: Rows<DevicePointer<T>>,
        gradients: StepGradients<DevicePointer<T>, DevicePointer<T::Acc>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.step_backward_raw(stream, Direction::HyperedgeToVertex, step, z, grad_y, gradients) }
    }

    /// [`conv`](Self::conv) in the [raw tier](super::raw).
    ///
    /// # Errors
    /// As the safe call, without [`Error::WrongContext`] of buffers and [`Error::Capturing`].
    ///
    /// # Safety
    /// The [contract](super::raw) of the raw tier.
    pub unsafe fn conv_raw(
        &mut self,
        stream: sys::CUstream,
        x: Rows<DevicePointer<T>>,
        weights: Weights<DevicePointer<T::Acc>, &DeviceWindows>,
        y: Out<Rows<DevicePointer<T>>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.forward_raw(Operator::Conv, stream, x, weights, None, y) }
    }

    /// [`conv_saving_z`](Self::conv_saving_z) in the [raw tier](super::raw).
    ///
    /// # Errors
    /// As the safe call, without [`Error::WrongContext`] of buffers and [`Error::Capturing`].
    ///
    /// # Safety
    /// The [contract](super::raw) of the raw tier.
    pub unsafe fn conv_saving_z_raw(
        &mut self,
        stream: sys::CUstream,
        x: Rows<DevicePointer<T>>,
        weights: Weights<DevicePointer<T::Acc>, &DeviceWindows>,
        z: Rows<DevicePointer<T::Acc>>,
        y: Out<Rows<DevicePointer<T>>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.forward_raw(Operator::ConvSavingZ, stream, x, weights, Some(z), y) }
    }

    /// [`conv_backward`](Self::conv_backward) in the [raw tier](super::raw).
    ///
    /// # Errors
    /// As the safe call, without [`Error::WrongContext`] of buffers and [`Error::Capturing`].
    ///
    /// # Safety
    /// The [contract](super::raw) of the raw tier.
    pub unsafe fn conv_backward_raw(
        &mut self,
        stream: sys::CUstream,
        x: Rows<DevicePointer<T>>,
        weights: Weights<DevicePointer<T::Acc>, &DeviceWindows>,
        grad_y: Rows<DevicePointer<T>>,
        grad_x: Out<Rows<DevicePointer<T>>>,
        grad_weights: Out<DevicePointer<T::Acc>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.backward_raw(Operator::ConvBackward, stream, x, None, weights, grad_y, grad_x, grad_weights)
        }
    }

    /// [`conv_backward_from_z`](Self::conv_backward_from_z) in the [raw tier](super::raw).
    ///
    /// # Errors
    /// As the safe call, without [`Error::WrongContext`] of buffers and [`Error::Capturing`].
    ///
    /// # Safety
    /// The [contract](super::raw) of the raw tier.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn conv_backward_from_z_raw(
        &mut self,
        stream: sys::CUstream,
        x: Rows<DevicePointer<T>>,
        z: Rows<DevicePointer<T::Acc>>,
        weights: Weights<DevicePointer<T::Acc>, &DeviceWindows>,
        grad_y: Rows<DevicePointer<T>>,
        grad_x: Out<Rows<DevicePointer<T>>>,
        grad_weights: Out<DevicePointer<T::Acc>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.backward_raw(
                Operator::ConvBackwardFromZ,
                stream,
                x,
                Some(z),
                weights,
                grad_y,
                grad_x,
                grad_weights,
            )
        }
    }

    /// [`check`](Self::check) for work on another stream: waits for that one, and then for the workspace's own.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    ///
    /// # Safety
    /// `stream` is alive and of the device's context, and no replay that uses the workspace is queued on a third stream.
    pub unsafe fn check_raw(&mut self, stream: sys::CUstream) -> Result<()> {
        {
            let _current = Current::enter(self.plan.batch().device().context())?;
            // Waiting for a stream that records a graph would end that.
            // SAFETY: the caller's promise, here and below.
            let status = unsafe { result::stream::is_capturing(stream) };
            if status.map_err(|e| failed("reading the capture status", e))?
                != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE
            {
                return Err(Error::Capturing { call: "check" });
            }
            // SAFETY: as above.
            unsafe { result::stream::synchronize(stream) }
                .map_err(|e| failed("waiting for the stream", e))?;
        }
        self.check()
    }

    /// # Safety
    /// The contract of the raw tier, here and below.
    unsafe fn step_raw(
        &mut self,
        stream: sys::CUstream,
        direction: Direction,
        step: &Step<'_, DevicePointer<T::Acc>>,
        x: Rows<DevicePointer<T>>,
        mut y: Out<Rows<DevicePointer<T>>>,
    ) -> Result<()> {
        let operator = Operator::step(direction);
        let _range = Range::enter(operator);
        let _current = self.begin_raw()?;
        let mut operands = self.operands_raw();
        let (forward, instances) =
            step::Forward::bind(&mut operands, self.max_instances, direction, step, &x, &mut y)?;
        // SAFETY: the caller's promise; the placements and windows were checked against the buffers.
        unsafe { forward.run(&mut self.call(operator, stream, instances)?) }
    }

    /// # Safety
    /// As above.
    unsafe fn step_backward_raw(
        &mut self,
        stream: sys::CUstream,
        direction: Direction,
        step: &Step<'_, DevicePointer<T::Acc>>,
        x: Rows<DevicePointer<T>>,
        grad_y: Rows<DevicePointer<T>>,
        mut gradients: StepGradients<DevicePointer<T>, DevicePointer<T::Acc>>,
    ) -> Result<()> {
        let operator = Operator::step_backward(direction);
        let _range = Range::enter(operator);
        let _current = self.begin_raw()?;
        let mut operands = self.operands_raw();
        let max = self.max_instances;
        let (backward, instances) =
            step::Backward::bind(&mut operands, max, direction, step, &x, &grad_y, &mut gradients)?;
        // SAFETY: as in `step_raw`.
        unsafe { backward.run(&mut self.call(operator, stream, instances)?) }
    }

    /// # Safety
    /// As above.
    unsafe fn forward_raw(
        &mut self,
        operator: Operator,
        stream: sys::CUstream,
        x: Rows<DevicePointer<T>>,
        weights: Weights<DevicePointer<T::Acc>, &DeviceWindows>,
        mut z: Option<Rows<DevicePointer<T::Acc>>>,
        mut y: Out<Rows<DevicePointer<T>>>,
    ) -> Result<()> {
        let _range = Range::enter(operator);
        let _current = self.begin_raw()?;
        let mut operands = self.operands_raw();
        let (forward, instances) =
            conv::Forward::bind(&mut operands, self.max_instances, &x, &weights, z.as_mut(), &mut y)?;
        // SAFETY: as in `step_raw`.
        unsafe { forward.run(&mut self.call(operator, stream, instances)?) }
    }

    /// # Safety
    /// As above.
    #[allow(clippy::too_many_arguments)]
    unsafe fn backward_raw(
        &mut self,
        operator: Operator,
        stream: sys::CUstream,
        x: Rows<DevicePointer<T>>,
        z: Option<Rows<DevicePointer<T::Acc>>>,
        weights: Weights<DevicePointer<T::Acc>, &DeviceWindows>,
        grad_y: Rows<DevicePointer<T>>,
        mut grad_x: Out<Rows<DevicePointer<T>>>,
        mut grad_weights: Out<DevicePointer<T::Acc>>,
    ) -> Result<()> {
        let _range = Range::enter(operator);
        let _current = self.begin_raw()?;
        let mut operands = self.operands_raw();
        let (max, z, out) = (self.max_instances, z.as_ref(), &mut grad_weights);
        let (backward, instances) =
            conv::Backward::bind(&mut operands, max, &x, z, &weights, &grad_y, &mut grad_x, out)?;
        // SAFETY: as in `step_raw`.
        unsafe { backward.run(&mut self.call(operator, stream, instances)?) }
    }

    fn begin_raw(&self) -> Result<Current> {
        self.poll()?;
        self.plan.batch().device().enter()
    }

    #[inline(always)]
    fn operands_raw<'w>(&self) -> Operands<'_, 'w, T> {
        Operands::new(&self.plan, self.stream(), None)
    }
}
