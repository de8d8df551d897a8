//! The raw tier: the operators on memory and streams that belong to another framework.
//!
//! Operands are [`DevicePointer`]s, and the stream is a `CUstream` of the device's context. A call records no
//! event and waits for none. All that it asks of the driver is
//!
//! * the current context, which it changes and restores if it is another than the device's;
//! * a launch for each kernel;
//! * a fill with zeros for a gradient that no instance adds to.
//!
//! So these calls can be captured into a CUDA graph, for instance a whole forward and backward, and replayed
//! with new data in the same memory.
//!
//! # Contract
//! Shapes, strides, windows, alignment and overlaps of the operands are checked as in the safe tier, from the
//! addresses and lengths that are given. The rest is up to the caller:
//!
//! 1. **Alive.** The operands' memory, the workspace and the window tables are not dropped or freed before
//!    the work has ended. If the call was captured, that is when the last replay has ended. Window tables are
//!    not overwritten before then either, unless the plan has [`Checks::On`](super::Checks::On) and the
//!    overwriting is ordered like any other use. Each [`DevicePointer`] has `len` elements of its type on the
//!    device of the plan, aligned, with any bits.
//! 2. **Ordered.** The stream is of the device's very context. It is not the per-thread default stream if the
//!    workspace moves to another thread. Every other use of the same workspace, on this stream or another, is
//!    ordered before or after this work, since the workspace's scratch memory is shared. So is every write to
//!    an operand that is read, and every use of an output. The simple way to keep this is a workspace for
//!    each stream, and for each graph that may run beside others. Calls that were lent scratch memory of
//!    their own ([`Workspace::lend_scratch`]) need no order: all else that they write is the record of
//!    violations, which one thread of all claims. But all have ended before [`Workspace::check_raw`].
//! 3. **Disjoint.** While the work or a replay of it runs, nothing else writes to the operands' memory, and
//!    nothing else reads an output or holds a reference of any kind into it. Between replays, new data may be
//!    written.
//!
//! # Graphs
//! A captured call keeps the addresses, the strides and the number of instances that it was given. For a
//! replicated batch nothing else ties it to the data. Window tables and tables of instances are read anew at
//! each replay.
//!
//! Capturing allocates nothing, since the memory of a workspace is fixed when it is made. Kernels are loaded
//! when it is made, but a driver may put that off until the first launch (`CUDA_MODULE_LOADING=LAZY`,
//! the default of newer drivers). So call each operator once before you capture it.
//!
//! Kernels record wrong indices and negative degrees in host memory at each replay, and
//! [`Workspace::check_raw`] reads them once the stream is done. Until then new calls return the error,
//! captured or not. Replays go on.

#![allow(unsafe_code)]

use cudarc::driver::{result, sys};

use super::DeviceElement;
use super::driver::{Current, failed};
use super::operands::DevicePointer;
use super::tiers::Tier;
use super::window_table::DeviceWindows;
use super::workspace::Workspace;
use crate::direction::Direction;
use crate::element::Element;
use crate::epilogue::Level;
use crate::error::{Error, Result};
use crate::operator::Operator;
use crate::rows::{Out, Rows};

/// Weights (or scales) in memory that somebody else owns.
pub type Weights<'a, A> = crate::Weights<DevicePointer<A>, &'a DeviceWindows>;

/// What a step computes.
pub type Step<'a, A> = crate::Step<Weights<'a, A>>;

/// The gradients of a step.
pub type StepGradients<T> = crate::StepGradients<DevicePointer<T>, DevicePointer<<T as Element>::Acc>>;

/// What follows the convolution.
pub type Epilogue<A> = crate::Epilogue<DevicePointer<A>>;

/// The gradients of a layer.
pub type LayerGradients<T> = crate::LayerGradients<DevicePointer<T>, DevicePointer<<T as Element>::Acc>>;

/// The gradients of a convolution with an epilogue.
pub type EpilogueGradients<T> =
    crate::EpilogueGradients<DevicePointer<T>, DevicePointer<<T as Element>::Acc>>;

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
        step: &Step<'_, T::Acc>,
        x: Rows<DevicePointer<T>>,
        z: Out<Rows<DevicePointer<T>>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.step_in(Tier::Raw(stream), Direction::VertexToHyperedge, step, x, z) }
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
        step: &Step<'_, T::Acc>,
        x: Rows<DevicePointer<T>>,
        grad_z: Rows<DevicePointer<T>>,
        gradients: StepGradients<T>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.step_backward_in(Tier::Raw(stream), Direction::VertexToHyperedge, step, x, grad_z, gradients)
        }
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
        step: &Step<'_, T::Acc>,
        z: Rows<DevicePointer<T>>,
        y: Out<Rows<DevicePointer<T>>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.step_in(Tier::Raw(stream), Direction::HyperedgeToVertex, step, z, y) }
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
        step: &Step<'_, T::Acc>,
        z: Rows<DevicePointer<T>>,
        grad_y: Rows<DevicePointer<T>>,
        gradients: StepGradients<T>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.step_backward_in(Tier::Raw(stream), Direction::HyperedgeToVertex, step, z, grad_y, gradients)
        }
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
        weights: Weights<'_, T::Acc>,
        y: Out<Rows<DevicePointer<T>>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.conv_in(
                Tier::Raw(stream),
                Operator::Conv,
                x,
                weights,
                None::<Rows<DevicePointer<T::Acc>>>,
                y,
            )
        }
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
        weights: Weights<'_, T::Acc>,
        z: Rows<DevicePointer<T::Acc>>,
        y: Out<Rows<DevicePointer<T>>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.conv_in(Tier::Raw(stream), Operator::ConvSavingZ, x, weights, Some(z), y) }
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
        weights: Weights<'_, T::Acc>,
        grad_y: Rows<DevicePointer<T>>,
        grad_x: Out<Rows<DevicePointer<T>>>,
        grad_weights: Out<DevicePointer<T::Acc>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.conv_backward_in(
                Tier::Raw(stream),
                Operator::ConvBackward,
                x,
                None::<Rows<DevicePointer<T::Acc>>>,
                weights,
                grad_y,
                grad_x,
                grad_weights,
            )
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
        weights: Weights<'_, T::Acc>,
        grad_y: Rows<DevicePointer<T>>,
        grad_x: Out<Rows<DevicePointer<T>>>,
        grad_weights: Out<DevicePointer<T::Acc>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.conv_backward_in(
                Tier::Raw(stream),
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

    /// [`conv_epilogue`](Self::conv_epilogue) in the [raw tier](super::raw).
    ///
    /// # Errors
    /// As the safe call, without [`Error::WrongContext`] of buffers and [`Error::Capturing`].
    ///
    /// # Safety
    /// The [contract](super::raw) of the raw tier.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn conv_epilogue_raw(
        &mut self,
        stream: sys::CUstream,
        x: Rows<DevicePointer<T>>,
        weights: Weights<'_, T::Acc>,
        epilogue: &Epilogue<T::Acc>,
        residual: Option<Rows<DevicePointer<T>>>,
        y: Out<Rows<DevicePointer<T>>>,
    ) -> Result<()> {
        let (operator, result) = (Operator::ConvEpilogue, Level::Vertices(y));
        // SAFETY: the caller's promise.
        unsafe { self.conv_epilogue_in(Tier::Raw(stream), operator, x, weights, epilogue, residual, result) }
    }

    /// [`conv_epilogue_backward`](Self::conv_epilogue_backward) in the [raw tier](super::raw).
    ///
    /// # Errors
    /// As the safe call, without [`Error::WrongContext`] of buffers and [`Error::Capturing`].
    ///
    /// # Safety
    /// The [contract](super::raw) of the raw tier.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn conv_epilogue_backward_raw(
        &mut self,
        stream: sys::CUstream,
        x: Rows<DevicePointer<T>>,
        weights: Weights<'_, T::Acc>,
        epilogue: &Epilogue<T::Acc>,
        grad_y: Rows<DevicePointer<T>>,
        gradients: EpilogueGradients<T>,
    ) -> Result<()> {
        let (operator, grad) = (Operator::ConvEpilogueBackward, Level::Vertices(grad_y));
        // SAFETY: the caller's promise.
        unsafe {
            self.conv_epilogue_backward_in(Tier::Raw(stream), operator, x, weights, epilogue, grad, gradients)
        }
    }

    /// [`layer`](Self::layer) in the [raw tier](super::raw).
    ///
    /// # Errors
    /// As the safe call, without [`Error::WrongContext`] of buffers and [`Error::Capturing`].
    ///
    /// # Safety
    /// The [contract](super::raw) of the raw tier.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn layer_raw(
        &mut self,
        stream: sys::CUstream,
        x: Rows<DevicePointer<T>>,
        theta: DevicePointer<T>,
        weights: Weights<'_, T::Acc>,
        epilogue: &Epilogue<T::Acc>,
        residual: Option<Rows<DevicePointer<T>>>,
        y: Out<Rows<DevicePointer<T>>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.layer_in(Tier::Raw(stream), x, theta, weights, epilogue, residual, y) }
    }

    /// [`layer_backward`](Self::layer_backward) in the [raw tier](super::raw).
    ///
    /// # Errors
    /// As the safe call, without [`Error::WrongContext`] of buffers and [`Error::Capturing`].
    ///
    /// # Safety
    /// The [contract](super::raw) of the raw tier.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn layer_backward_raw(
        &mut self,
        stream: sys::CUstream,
        x: Rows<DevicePointer<T>>,
        theta: DevicePointer<T>,
        weights: Weights<'_, T::Acc>,
        epilogue: &Epilogue<T::Acc>,
        grad_y: Rows<DevicePointer<T>>,
        gradients: LayerGradients<T>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.layer_backward_in(Tier::Raw(stream), x, theta, weights, epilogue, grad_y, gradients) }
    }

    /// [`conv_readout`](Self::conv_readout) in the [raw tier](super::raw).
    ///
    /// # Errors
    /// As the safe call, without [`Error::WrongContext`] of buffers and [`Error::Capturing`].
    ///
    /// # Safety
    /// The [contract](super::raw) of the raw tier.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn conv_readout_raw(
        &mut self,
        stream: sys::CUstream,
        x: Rows<DevicePointer<T>>,
        weights: Weights<'_, T::Acc>,
        epilogue: &Epilogue<T::Acc>,
        residual: Option<Rows<DevicePointer<T>>>,
        readout: Out<DevicePointer<T>>,
    ) -> Result<()> {
        let (operator, result) = (Operator::ConvReadout, Level::Instances(readout));
        // SAFETY: the caller's promise.
        unsafe { self.conv_epilogue_in(Tier::Raw(stream), operator, x, weights, epilogue, residual, result) }
    }

    /// [`conv_readout_backward`](Self::conv_readout_backward) in the [raw tier](super::raw).
    ///
    /// # Errors
    /// As the safe call, without [`Error::WrongContext`] of buffers and [`Error::Capturing`].
    ///
    /// # Safety
    /// The [contract](super::raw) of the raw tier.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn conv_readout_backward_raw(
        &mut self,
        stream: sys::CUstream,
        x: Rows<DevicePointer<T>>,
        weights: Weights<'_, T::Acc>,
        epilogue: &Epilogue<T::Acc>,
        grad_readout: DevicePointer<T>,
        gradients: EpilogueGradients<T>,
    ) -> Result<()> {
        let (operator, grad) = (Operator::ConvReadoutBackward, Level::Instances(grad_readout));
        // SAFETY: the caller's promise.
        unsafe {
            self.conv_epilogue_backward_in(Tier::Raw(stream), operator, x, weights, epilogue, grad, gradients)
        }
    }

    /// [`conv_matrix`](Self::conv_matrix) in the [raw tier](super::raw).
    ///
    /// # Errors
    /// As the safe call, without [`Error::WrongContext`] of buffers and [`Error::Capturing`].
    ///
    /// # Safety
    /// The [contract](super::raw) of the raw tier.
    pub unsafe fn conv_matrix_raw(
        &mut self,
        stream: sys::CUstream,
        weights: Weights<'_, T::Acc>,
        matrix: Out<DevicePointer<T::Acc>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.conv_matrix_in(Tier::Raw(stream), weights, matrix) }
    }

    /// [`conv_matrix_backward`](Self::conv_matrix_backward) in the [raw tier](super::raw).
    ///
    /// # Errors
    /// As the safe call, without [`Error::WrongContext`] of buffers and [`Error::Capturing`].
    ///
    /// # Safety
    /// The [contract](super::raw) of the raw tier.
    pub unsafe fn conv_matrix_backward_raw(
        &mut self,
        stream: sys::CUstream,
        weights: Weights<'_, T::Acc>,
        grad_matrix: DevicePointer<T::Acc>,
        grad_weights: Out<DevicePointer<T::Acc>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.conv_matrix_backward_in(Tier::Raw(stream), weights, grad_matrix, grad_weights) }
    }

    /// [`gram`](Self::gram) in the [raw tier](super::raw).
    ///
    /// # Errors
    /// As the safe call, without [`Error::WrongContext`] of buffers and [`Error::Capturing`].
    ///
    /// # Safety
    /// The [contract](super::raw) of the raw tier.
    pub unsafe fn gram_raw(
        &mut self,
        stream: sys::CUstream,
        x: Rows<DevicePointer<T>>,
        gram: Out<DevicePointer<T::Acc>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.gram_in(Tier::Raw(stream), x, gram) }
    }

    /// [`gram_backward`](Self::gram_backward) in the [raw tier](super::raw).
    ///
    /// # Errors
    /// As the safe call, without [`Error::WrongContext`] of buffers and [`Error::Capturing`].
    ///
    /// # Safety
    /// The [contract](super::raw) of the raw tier.
    pub unsafe fn gram_backward_raw(
        &mut self,
        stream: sys::CUstream,
        x: Rows<DevicePointer<T>>,
        grad_gram: DevicePointer<T::Acc>,
        grad_x: Out<Rows<DevicePointer<T>>>,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.gram_backward_in(Tier::Raw(stream), x, grad_gram, grad_x) }
    }

    /// [`check`](Self::check) for work on another stream. Synchronises that stream, and then the workspace's
    /// own.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    ///
    /// # Safety
    /// `stream` is alive and of the device's context, and no replay that uses the workspace is queued on a
    /// third stream.
    pub unsafe fn check_raw(&mut self, stream: sys::CUstream) -> Result<()> {
        {
            let _current = Current::enter(self.plan.batch().device().context())?;
            // To wait for a stream that records a graph would make the capture invalid.
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
}
