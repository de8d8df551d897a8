//! The convolution y = L H U B⁻¹ Hᵀ R x and its gradients on the device, by gather-reduce.
//!
//! The formulas and the order of every sum are those of the CPU backend (`src/cpu/conv.rs`). What one kernel leaves for the next
//! is in scratch memory: D and L of each vertex, rows of unrounded sums z = B⁻¹Hᵀ R x and q = Hᵀ L g of each hyperedge,
//! and dot products in `f64`.
//!
//! ```text
//! forward     degree → gather z → gather y
//! backward    degree → shifts of hyperedges → gather z → gather q, ⟨q, z⟩ → pull U/B → gather ∂x, ⟨x, ∂x⟩
//!             → gather ⟨g, y⟩ → degree gradient → weight gradient of each instance → sums over the instances
//! ```
//!
//! Vertices of a single incidence have no part in ∂w under `Row` and `Documented`; where there are some, ⟨q, z⟩ is a gather of
//! its own.

#![allow(unsafe_code)]

use cudarc::driver::{CudaView, CudaViewMut, sys};

use super::args::ScaleArgs;
use super::buffer::Buffer;
use super::call::Call;
use super::gather::{Destination, Dots, Elements, Gather, Operand};
use super::operands::{
    DevicePointer, Memory, RawWeights, check_memory, destination, into_parts, read, read_weights,
    same_context, same_context_out, same_context_weights, shape, write, write_out, write_values,
};
use super::ranges::Range;
use super::scratch::Uses;
use super::tables::Orientation;
use super::window_table::DeviceWindows;
use super::windows::Gradient;
use super::workspace::Workspace;
use super::{DeviceElement, Operator};
use crate::axis::Axis;
use crate::conv::{Conv, Normalization, Reduce};
use crate::error::{Error, Result};
use crate::rows::{Out, Rows, check_gradient};
use crate::windows::Weights;

/// What cannot be captured.
const CALL: &str = "a convolution";

const WEIGHTS: &str = "weights";
const GRAD_WEIGHTS: &str = "grad_weights";

impl<T: DeviceElement> Workspace<T> {
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
        let _range = Range::enter(Operator::Conv);
        self.forward(x, weights, None, y)
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
        let _range = Range::enter(Operator::Conv);
        self.forward(x, weights, Some(z), y)
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
        let _range = Range::enter(Operator::ConvBackward);
        self.backward(x, None, weights, grad_y, grad_x, grad_weights)
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
        let _range = Range::enter(Operator::ConvBackward);
        self.backward(x, Some(z), weights, grad_y, grad_x, grad_weights)
    }

    fn forward(
        &mut self,
        x: Rows<CudaView<'_, T>>,
        weights: Weights<CudaView<'_, T::Acc>, &DeviceWindows>,
        mut z: Option<Rows<CudaViewMut<'_, T::Acc>>>,
        mut y: Out<Rows<CudaViewMut<'_, T>>>,
    ) -> Result<()> {
        let device = self.plan.batch().device();
        same_context(device, "x", &x.buffer)?;
        same_context_weights(device, WEIGHTS, &weights)?;
        z.as_ref().map_or(Ok(()), |z| same_context(device, "z", &z.buffer))?;
        same_context_out(device, "y", &y)?;
        let stream = self.stream();
        let _current = self.begin(CALL)?;
        let (x, x_guard) = read(&x, stream);
        let (weights, weights_guard) = read_weights(&weights, stream);
        let (z, z_guard) = z.as_mut().map(|z| write(z, stream)).unzip();
        let (y, y_guard) = write_out(&mut y, stream);
        let _guards = self.guarded(CALL, (x_guard, weights_guard, z_guard, y_guard))?;
        // SAFETY: the context is current. Tables, scratch memory and record are held until an event behind their last use (see
        // `retired`); scratch memory and record are this workspace's, on its one stream. The guards order other users of the
        // operands behind or before, and `cudarc` frees those behind.
        unsafe { self.queue_conv(stream.cu_stream(), x, weights, z, y) }
    }

    fn backward(
        &mut self,
        x: Rows<CudaView<'_, T>>,
        z: Option<Rows<CudaView<'_, T::Acc>>>,
        weights: Weights<CudaView<'_, T::Acc>, &DeviceWindows>,
        grad_y: Rows<CudaView<'_, T>>,
        mut grad_x: Out<Rows<CudaViewMut<'_, T>>>,
        mut grad_weights: Out<CudaViewMut<'_, T::Acc>>,
    ) -> Result<()> {
        let device = self.plan.batch().device();
        same_context(device, "x", &x.buffer)?;
        z.as_ref().map_or(Ok(()), |z| same_context(device, "z", &z.buffer))?;
        same_context_weights(device, WEIGHTS, &weights)?;
        same_context(device, "grad_y", &grad_y.buffer)?;
        same_context_out(device, "grad_x", &grad_x)?;
        grad_weights.as_ref().map_or(Ok(()), |values| same_context(device, GRAD_WEIGHTS, values))?;
        let stream = self.stream();
        let _current = self.begin(CALL)?;
        let (x, x_guard) = read(&x, stream);
        let (z, z_guard) = z.as_ref().map(|z| read(z, stream)).unzip();
        let (weights, weights_guard) = read_weights(&weights, stream);
        let (grad_y, grad_y_guard) = read(&grad_y, stream);
        let (grad_x, grad_x_guard) = write_out(&mut grad_x, stream);
        let (grad_weights, grad_weights_guard) = write_values(&mut grad_weights, stream);
        let (inputs, outputs) =
            ((x_guard, z_guard, weights_guard, grad_y_guard), (grad_x_guard, grad_weights_guard));
        let _guards = self.guarded(CALL, (inputs, outputs))?;
        // SAFETY: as in `forward`.
        unsafe { self.queue_conv_backward(stream.cu_stream(), x, z, weights, grad_y, grad_x, grad_weights) }
    }

    /// Queues a convolution; z is stored where it is given.
    ///
    /// # Safety
    /// The context is current, and the rest is as [`Call`] says but for what is checked here: shapes, places, windows,
    /// alignment, and that outputs share no memory with other operands.
    pub(super) unsafe fn queue_conv(
        &self,
        stream: sys::CUstream,
        x: Rows<DevicePointer<T>>,
        weights: RawWeights<'_, T::Acc>,
        z: Option<Rows<DevicePointer<T::Acc>>>,
        y: Out<Rows<DevicePointer<T>>>,
    ) -> Result<()> {
        let x_shape = shape("x", Axis::Vertex, &x);
        let z_shape = z.as_ref().map(|z| shape("z", Axis::Hyperedge, z));
        let y_shape = y.as_ref().map(|y| shape("y", Axis::Vertex, y));
        let call = Call::new(self, stream, &[Some(x_shape), z_shape, y_shape])?;
        let factors = Factors::new(&call, &weights)?;
        let x_rows = call.place(x_shape, x.buffer.address, false)?;
        let kept = z_shape.zip(z).map(|(shape, z)| call.place(shape, z.buffer.address, true)).transpose()?;
        check_memory(&[
            Some(Memory::read("x", x.buffer)),
            Some(Memory::read(WEIGHTS, weights.values)),
            z.map(|z| Memory::written("z", z.buffer)),
            y.as_ref().map(|y| Memory::written("y", y.buffer)),
        ])?;
        let targets = destination(&call, y_shape, y)?;
        if kept.is_none() && targets.is_some() {
            call.needs(Uses::Conv, "conv")?;
        }
        let is_wanted = call.features() > 0 && (kept.is_some() || targets.is_some());
        if call.instances() == 0 || !(is_wanted || factors.conv.checks_degrees()) {
            return Ok(());
        }
        // SAFETY: the caller's promise; the placements and windows were checked against the buffers, and scratch memory has
        // a row for each hyperedge and a number for each vertex.
        unsafe {
            factors.degrees(&call)?;
            if !is_wanted {
                return Ok(());
            }
            let z_rows = match kept {
                Some(kept) => kept,
                None => call.scratch_rows(Axis::Hyperedge, call.scratch().q.address())?,
            };
            factors.hyperedges(&call, x_rows, z_rows)?;
            let Some(targets) = targets else { return Ok(()) };
            let gather = Gather {
                orientation: Orientation::ByVertex,
                elements: Elements::FromSums,
                sources: z_rows,
                source_scale: factors.message,
                target_scale: factors.left,
                shifts: [None, factors.vertex_shifts],
                reduce: Reduce::Sum,
                targets: Some(targets),
                dots: None,
            };
            gather.launch(&call)
        }
    }

    /// Queues the gradients of a convolution; z is computed unless it is given.
    ///
    /// # Safety
    /// As [`queue_conv`](Self::queue_conv).
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn queue_conv_backward(
        &self,
        stream: sys::CUstream,
        x: Rows<DevicePointer<T>>,
        z: Option<Rows<DevicePointer<T::Acc>>>,
        weights: RawWeights<'_, T::Acc>,
        grad_y: Rows<DevicePointer<T>>,
        grad_x: Out<Rows<DevicePointer<T>>>,
        grad_weights: Out<DevicePointer<T::Acc>>,
    ) -> Result<()> {
        let x_shape = shape("x", Axis::Vertex, &x);
        let z_shape = z.as_ref().map(|z| shape("z", Axis::Hyperedge, z));
        let grad_y_shape = shape("grad_y", Axis::Vertex, &grad_y);
        let grad_x_shape = grad_x.as_ref().map(|rows| shape("grad_x", Axis::Vertex, rows));
        let call = Call::new(self, stream, &[Some(x_shape), z_shape, Some(grad_y_shape), grad_x_shape])?;
        let factors = Factors::new(&call, &weights)?;
        let len = grad_weights.as_ref().map(|values| values.len);
        check_gradient((GRAD_WEIGHTS, len), (WEIGHTS, weights.values.len))?;
        let x_rows = call.place(x_shape, x.buffer.address, false)?;
        let kept = z_shape.zip(z).map(|(shape, z)| call.place(shape, z.buffer.address, false)).transpose()?;
        let grad_y_rows = call.place(grad_y_shape, grad_y.buffer.address, false)?;
        check_memory(&[
            Some(Memory::read("x", x.buffer)),
            z.map(|z| Memory::read("z", z.buffer)),
            Some(Memory::read(WEIGHTS, weights.values)),
            Some(Memory::read("grad_y", grad_y.buffer)),
            grad_x.as_ref().map(|rows| Memory::written("grad_x", rows.buffer)),
            grad_weights.as_ref().map(|&values| Memory::written(GRAD_WEIGHTS, values)),
        ])?;
        let targets = destination(&call, grad_x_shape, grad_x)?;
        let weights_out = into_parts(grad_weights);

        let conv = factors.conv;
        let through_degree = weights_out.is_some() && conv.weights_in_degree();
        let through_message = weights_out.is_some() && conv.weight_use.in_message();
        let needs_z = through_degree || through_message;
        // ⟨x, ∂x⟩ is a part of the symmetric degree's gradient.
        let needs_products_with_x = through_degree && factors.is_symmetric();
        let needs_q = targets.is_some() || needs_products_with_x;
        if needs_z && kept.is_none() {
            call.needs(Uses::All, "conv_backward")?;
        } else if needs_q || through_degree {
            call.needs(Uses::Conv, "conv_backward")?;
        }
        let scratch = call.scratch();
        // SAFETY: the caller's promise; the placements and windows were checked against the buffers, and scratch memory has
        // what is needed: rows of hyperedges, and numbers of vertices and hyperedges.
        unsafe {
            let is_wanted = call.has_elements() && (needs_z || targets.is_some());
            if call.instances() > 0 && (is_wanted || conv.checks_degrees()) {
                factors.degrees(&call)?;
            }
            if !is_wanted {
                return weights_out
                    .map_or(Ok(()), |(values, add)| call.no_gradient(values.address, values.len, add));
            }
            let z_rows = match kept {
                Some(kept) => kept,
                None => call.scratch_rows(Axis::Hyperedge, scratch.z.address())?,
            };
            if needs_z && kept.is_none() {
                factors.hyperedges(&call, x_rows, z_rows)?;
            }
            if factors.is_shifted() {
                call.edge_shifts()?;
            }
            let q_rows = call.scratch_rows(Axis::Hyperedge, scratch.q.address())?;
            let gather_q = |left: ScaleArgs, targets: bool, dots: bool| Gather {
                orientation: Orientation::ByEdge,
                elements: Elements::ToSums,
                sources: grad_y_rows,
                source_scale: left,
                target_scale: ScaleArgs::none(),
                shifts: [factors.vertex_shifts, factors.edge_shifts],
                reduce: Reduce::Sum,
                targets: targets.then_some(Destination { rows: q_rows, add: false }),
                dots: dots.then(|| Dots { others: z_rows, to: scratch.dots.address() }),
            };
            let has_own_dots = through_message && call.plan().leaves_out_single_incidences();
            if needs_q || (through_message && !has_own_dots) {
                gather_q(factors.left, needs_q, through_message && !has_own_dots).launch(&call)?;
            }
            if has_own_dots {
                let left = call.scratch_scale(Axis::Vertex, call.weight_left())?.skipping_zeros();
                gather_q(left, false, true).launch(&call)?;
            }
            if needs_q {
                // A hyperedge passes its gradient on by U B⁻¹.
                call.pull(Orientation::ByEdge, factors.message, Reduce::Mean, factors.edge_shifts)?;
                let to = scratch.dots_x.address();
                let gather = Gather {
                    orientation: Orientation::ByVertex,
                    elements: Elements::FromSums,
                    sources: q_rows,
                    source_scale: call.scratch_scale(Axis::Hyperedge, scratch.pull.address())?,
                    target_scale: factors.right(),
                    shifts: match factors.is_symmetric() {
                        true => [factors.edge_shifts, factors.vertex_shifts],
                        false => [None; 2],
                    },
                    reduce: Reduce::Sum,
                    targets,
                    dots: needs_products_with_x.then_some(Dots { others: x_rows, to }),
                };
                gather.launch(&call)?;
            }
            if through_degree {
                let gather = Gather {
                    orientation: Orientation::ByVertex,
                    elements: Elements::FromSums,
                    sources: z_rows,
                    source_scale: factors.message,
                    target_scale: ScaleArgs::none(),
                    shifts: [None, factors.vertex_shifts],
                    reduce: Reduce::Sum,
                    targets: None,
                    dots: Some(Dots { others: grad_y_rows, to: scratch.dots_y.address() }),
                };
                gather.launch(&call)?;
                call.degree_gradient(factors.is_symmetric())?;
                call.weight_gradient(through_message)?;
            }
            let Some((to, add)) = weights_out else { return Ok(()) };
            if !needs_z {
                return call.no_gradient(to.address, to.len, add);
            }
            // Without a part through the degrees, the products are all there is.
            let (values, blocks) = match through_degree {
                true => (scratch.weight_gradient.address(), 1),
                false => (scratch.dots.address(), call.feature_blocks()),
            };
            call.gradient(Gradient {
                orientation: Orientation::ByEdge,
                windows: weights.windows,
                values,
                blocks,
                to: to.address,
                len: to.len,
                add,
            })
        }
    }
}

/// The factors of a convolution.
struct Factors {
    conv: Conv,
    weights: ScaleArgs,
    /// U.
    message: ScaleArgs,
    /// L.
    left: ScaleArgs,
    /// Where weights are part of the degrees.
    vertex_shifts: Option<sys::CUdeviceptr>,
    edge_shifts: Option<sys::CUdeviceptr>,
}

impl Factors {
    fn new<T: DeviceElement>(call: &Call<'_, T>, weights: &RawWeights<'_, T::Acc>) -> Result<Self> {
        let conv = call.plan().conv();
        let weights = call.scale(WEIGHTS, Axis::Hyperedge, weights)?;
        // A vertex of degree 0 has L = 0, and takes no part: neither as a row, whose store is zeros, nor as a factor.
        let left = match conv.normalization {
            Normalization::None => ScaleArgs::none(),
            Normalization::Row | Normalization::Symmetric => {
                call.scratch_scale(Axis::Vertex, call.scratch().left.address())?.skipping_zeros()
            }
        };
        let message = if conv.weight_use.in_message() { weights } else { ScaleArgs::none() };
        let scratch = call.scratch();
        let shifts = |shifts: &Buffer<i32>| conv.weights_in_degree().then(|| shifts.address());
        let (vertex_shifts, edge_shifts) = (shifts(&scratch.vertex_shifts), shifts(&scratch.edge_shifts));
        Ok(Self { conv, weights, message, left, vertex_shifts, edge_shifts })
    }

    fn is_shifted(&self) -> bool {
        self.conv.weights_in_degree()
    }

    fn is_symmetric(&self) -> bool {
        self.conv.normalization == Normalization::Symmetric
    }

    /// R.
    fn right(&self) -> ScaleArgs {
        if self.is_symmetric() { self.left } else { ScaleArgs::none() }
    }

    /// Queues D and L, where the normalization uses them.
    ///
    /// # Safety
    /// As [`Call`] says.
    unsafe fn degrees<T: DeviceElement>(&self, call: &Call<'_, T>) -> Result<()> {
        if self.conv.normalization == Normalization::None {
            return Ok(());
        }
        let weights = if self.conv.weight_use.in_degree() { self.weights } else { ScaleArgs::none() };
        // SAFETY: the caller's promise; the windows were checked.
        unsafe { call.degrees(weights) }
    }

    /// Queues z = B⁻¹ Hᵀ R x.
    ///
    /// # Safety
    /// As [`Call`] says; `x` has rows of vertices, and `z` rows of hyperedges of the accumulation type.
    unsafe fn hyperedges<T: DeviceElement>(&self, call: &Call<'_, T>, x: Operand, z: Operand) -> Result<()> {
        let gather = Gather {
            orientation: Orientation::ByEdge,
            elements: Elements::ToSums,
            sources: x,
            source_scale: self.right(),
            target_scale: ScaleArgs::none(),
            shifts: [self.vertex_shifts.filter(|_| self.is_symmetric()), None],
            reduce: Reduce::Mean,
            targets: Some(Destination { rows: z, add: false }),
            dots: None,
        };
        // SAFETY: the caller's promise.
        unsafe { gather.launch(call) }
    }
}

impl<T: DeviceElement> Call<'_, T> {
    /// Checks that the workspace has scratch memory for an operator.
    fn needs(&self, uses: Uses, call: &'static str) -> Result<()> {
        if self.scratch().uses >= uses {
            return Ok(());
        }
        Err(Error::NoScratch { call, value: self.scratch().uses.name(), bound: uses.name() })
    }
}
