//! The two scatter steps on the device, and their gradients.
//!
//! With rows x of sources s (factor p) and results y of targets d (factor t), and g = ∂loss/∂y, as on the CPU:
//!
//! ```text
//! y_d  = t_d/k_d Σ_{s∈d} p_s x_s              ∂t_d = ⟨g_d, 1/k_d Σ_{s∈d} p_s x_s⟩
//! ∂x_s = p_s Σ_{d∋s} t_d/k_d g_d              ∂p_s = ⟨x_s, Σ_{d∋s} t_d/k_d g_d⟩
//! ```

#![allow(unsafe_code)]

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, CudaViewMut, SyncOnDrop, sys};

use super::args::ScaleArgs;
use super::call::Call;
use super::gather::{Dots, Elements, Gather};
use super::operands::{
    DevicePointer, Memory, RawWeights, check_memory, destination, into_parts, read, read_weights,
    same_context, same_context_out, same_context_weights, shape, write_out, write_values,
};
use super::ranges::Range;
use super::tables::Orientation;
use super::window_table::DeviceWindows;
use super::windows::Gradient;
use super::workspace::Workspace;
use super::{DeviceElement, Operator};
use crate::axis::Axis;
use crate::conv::Reduce;
use crate::direction::{Direction, HYPEREDGE_GRADIENT, HYPEREDGE_SCALE, VERTEX_GRADIENT, VERTEX_SCALE};
use crate::error::Result;
use crate::rows::{Out, Rows, check_gradient};
use crate::step::StepGradients;
use crate::windows::{Weights, Windows};

/// What cannot be captured.
const CALL: &str = "a step";

/// What a step computes: `B` is a `CudaView` of elements of the accumulation type, or a [`DevicePointer`] in the raw
/// tier. `CudaView`s are not `Clone`, and neither is a step with them.
pub type Step<'a, B> = crate::Step<Weights<B, &'a DeviceWindows>>;

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
        let _range = Range::enter(Operator::VertexToHyperedge);
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
        let _range = Range::enter(Operator::VertexToHyperedgeBackward);
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
        let _range = Range::enter(Operator::HyperedgeToVertex);
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
        let _range = Range::enter(Operator::HyperedgeToVertexBackward);
        self.step_backward(Direction::HyperedgeToVertex, step, z, grad_y, gradients)
    }

    fn step(
        &mut self,
        direction: Direction,
        step: &Step<'_, CudaView<'_, T::Acc>>,
        x: Rows<CudaView<'_, T>>,
        mut y: Out<Rows<CudaViewMut<'_, T>>>,
    ) -> Result<()> {
        let device = self.plan.batch().device();
        same_context_scales(device, step)?;
        same_context(device, direction.names().input, &x.buffer)?;
        same_context_out(device, direction.names().output, &y)?;
        let stream = self.stream();
        let _current = self.begin(CALL)?;
        let (raw_step, scales) = read_scales(step, stream);
        let (x, x_guard) = read(&x, stream);
        let (y, y_guard) = write_out(&mut y, stream);
        let _guards = self.guarded(CALL, (scales, x_guard, y_guard))?;
        // SAFETY: the context is current. Tables, scratch memory and record are held until an event behind their last use (see
        // `retired`); scratch memory and record are this workspace's, on its one stream. The guards order other users of the
        // operands behind or before, and `cudarc` frees those behind.
        unsafe { self.queue_step(stream.cu_stream(), direction, &raw_step, x, y) }
    }

    fn step_backward(
        &mut self,
        direction: Direction,
        step: &Step<'_, CudaView<'_, T::Acc>>,
        x: Rows<CudaView<'_, T>>,
        grad_y: Rows<CudaView<'_, T>>,
        mut gradients: StepGradients<CudaViewMut<'_, T>, CudaViewMut<'_, T::Acc>>,
    ) -> Result<()> {
        let device = self.plan.batch().device();
        same_context_scales(device, step)?;
        same_context(device, direction.names().input, &x.buffer)?;
        same_context(device, direction.names().grad_output, &grad_y.buffer)?;
        same_context_out(device, direction.names().grad_input, &gradients.rows)?;
        for (name, values) in
            [(VERTEX_GRADIENT, &gradients.vertex_scale), (HYPEREDGE_GRADIENT, &gradients.hyperedge_scale)]
        {
            values.as_ref().map_or(Ok(()), |values| same_context(device, name, values))?;
        }
        let stream = self.stream();
        let _current = self.begin(CALL)?;
        let (raw_step, scales) = read_scales(step, stream);
        let (x, x_guard) = read(&x, stream);
        let (grad_y, grad_y_guard) = read(&grad_y, stream);
        let (rows, rows_guard) = write_out(&mut gradients.rows, stream);
        let (vertex_scale, vertex_guard) = write_values(&mut gradients.vertex_scale, stream);
        let (hyperedge_scale, hyperedge_guard) = write_values(&mut gradients.hyperedge_scale, stream);
        let outputs = (rows_guard, vertex_guard, hyperedge_guard);
        let _guards = self.guarded(CALL, (scales, x_guard, grad_y_guard, outputs))?;
        let gradients = StepGradients { rows, vertex_scale, hyperedge_scale };
        // SAFETY: as in `step`.
        unsafe { self.queue_step_backward(stream.cu_stream(), direction, &raw_step, x, grad_y, gradients) }
    }

    /// Queues a step.
    ///
    /// # Safety
    /// The context is current, and the rest is as [`Call`] says but for what is checked here: shapes, places, windows,
    /// alignment, and that the output shares no memory with the input.
    pub(super) unsafe fn queue_step(
        &self,
        stream: sys::CUstream,
        direction: Direction,
        step: &Step<'_, DevicePointer<T::Acc>>,
        x: Rows<DevicePointer<T>>,
        y: Out<Rows<DevicePointer<T>>>,
    ) -> Result<()> {
        let x_shape = shape(direction.names().input, direction.source(), &x);
        let y_shape = y.as_ref().map(|y| shape(direction.names().output, direction.target(), y));
        let call = Call::new(self, stream, &[Some(x_shape), y_shape])?;
        let scales = Scales::new(&call, direction, step)?;
        let sources = call.place(x_shape, x.buffer.address, false)?;
        let y_memory = y.as_ref().map(|y| Memory::written(direction.names().output, y.buffer));
        let x_memory = Some(Memory::read(direction.names().input, x.buffer));
        check_memory(&[x_memory, y_memory, scales.memory[0], scales.memory[1]])?;
        let targets = destination(&call, y_shape, y)?;
        if targets.is_none() || !call.has_elements() {
            return Ok(());
        }
        let gather = Gather {
            orientation: Orientation::with_rows(direction.target()),
            elements: Elements::Plain,
            sources,
            source_scale: scales.source,
            target_scale: scales.target,
            shifts: [None; 2],
            reduce: step.reduce,
            targets,
            dots: None,
        };
        // SAFETY: the placements and windows were checked against the buffers.
        unsafe { gather.launch(&call) }
    }

    /// Queues the gradients of a step.
    ///
    /// # Safety
    /// As [`queue_step`](Self::queue_step).
    pub(super) unsafe fn queue_step_backward(
        &self,
        stream: sys::CUstream,
        direction: Direction,
        step: &Step<'_, DevicePointer<T::Acc>>,
        x: Rows<DevicePointer<T>>,
        grad_y: Rows<DevicePointer<T>>,
        gradients: StepGradients<DevicePointer<T>, DevicePointer<T::Acc>>,
    ) -> Result<()> {
        let StepGradients { rows: grad_x, vertex_scale, hyperedge_scale } = gradients;
        let x_shape = shape(direction.names().input, direction.source(), &x);
        let grad_y_shape = shape(direction.names().grad_output, direction.target(), &grad_y);
        let grad_x_shape =
            grad_x.as_ref().map(|rows| shape(direction.names().grad_input, direction.source(), rows));
        let call = Call::new(self, stream, &[Some(x_shape), Some(grad_y_shape), grad_x_shape])?;
        let scales = Scales::new(&call, direction, step)?;
        let len = |scale: &Option<RawWeights<'_, T::Acc>>| scale.as_ref().map_or(0, |s| s.values.len);
        let of = |gradient: &Out<DevicePointer<T::Acc>>| gradient.as_ref().map(|values| values.len);
        check_gradient((VERTEX_GRADIENT, of(&vertex_scale)), (VERTEX_SCALE, len(&step.vertex_scale)))?;
        let hyperedges = (HYPEREDGE_GRADIENT, of(&hyperedge_scale));
        check_gradient(hyperedges, (HYPEREDGE_SCALE, len(&step.hyperedge_scale)))?;
        let x_rows = call.place(x_shape, x.buffer.address, false)?;
        let grad_y_rows = call.place(grad_y_shape, grad_y.buffer.address, false)?;
        check_memory(&[
            Some(Memory::read(direction.names().input, x.buffer)),
            Some(Memory::read(direction.names().grad_output, grad_y.buffer)),
            grad_x.as_ref().map(|rows| Memory::written(direction.names().grad_input, rows.buffer)),
            vertex_scale.as_ref().map(|&values| Memory::written(VERTEX_GRADIENT, values)),
            hyperedge_scale.as_ref().map(|&values| Memory::written(HYPEREDGE_GRADIENT, values)),
            scales.memory[0],
            scales.memory[1],
        ])?;
        let targets = destination(&call, grad_x_shape, grad_x)?;
        let of_vertices = wanted(vertex_scale, &step.vertex_scale);
        let of_hyperedges = wanted(hyperedge_scale, &step.hyperedge_scale);
        if !call.has_elements() {
            for (values, add, _) in [of_vertices, of_hyperedges].into_iter().flatten() {
                // SAFETY: the caller's promise.
                unsafe { call.no_gradient(values.address, values.len, add) }?;
            }
            return Ok(());
        }
        let (of_sources, of_targets) = match direction.source() {
            Axis::Vertex => (of_vertices, of_hyperedges),
            Axis::Hyperedge => (of_hyperedges, of_vertices),
        };
        let (by_source, by_target) =
            (Orientation::with_rows(direction.source()), Orientation::with_rows(direction.target()));
        let to = call.scratch().dots.address();
        let sum = |orientation, (values, add, windows): (DevicePointer<T::Acc>, bool, _)| Gradient {
            orientation,
            windows,
            values: to,
            blocks: call.feature_blocks(),
            to: values.address,
            len: values.len,
            add,
        };

        if targets.is_some() || of_sources.is_some() {
            let is_pulled = step.reduce == Reduce::Mean || scales.has_target;
            let source_scale = match is_pulled {
                true => call.scratch_scale(direction.target(), call.scratch().pull.address())?,
                false => ScaleArgs::none(),
            };
            let gather = Gather {
                orientation: by_source,
                elements: Elements::Plain,
                sources: grad_y_rows,
                source_scale,
                target_scale: scales.source,
                shifts: [None; 2],
                reduce: Reduce::Sum,
                targets,
                dots: of_sources.map(|_| Dots { others: x_rows, to }),
            };
            // SAFETY: the placements and windows were checked against the buffers; `pull` has a factor for each target, and
            // `dots` room for each row of either kind.
            unsafe {
                if is_pulled {
                    call.pull(by_target, scales.target, step.reduce, None)?;
                }
                gather.launch(&call)?;
                of_sources.map_or(Ok(()), |wanted| call.gradient(sum(by_source, wanted)))?;
            }
        }
        let Some(wanted) = of_targets else { return Ok(()) };
        let gather = Gather {
            orientation: by_target,
            elements: Elements::Plain,
            sources: x_rows,
            source_scale: scales.source,
            target_scale: ScaleArgs::none(),
            shifts: [None; 2],
            reduce: step.reduce,
            targets: None,
            dots: Some(Dots { others: grad_y_rows, to }),
        };
        // SAFETY: likewise.
        unsafe {
            gather.launch(&call)?;
            call.gradient(sum(by_target, wanted))
        }
    }
}

/// The scales of a step, checked, by their place in its direction.
struct Scales {
    source: ScaleArgs,
    target: ScaleArgs,
    has_target: bool,
    memory: [Option<Memory>; 2],
}

impl Scales {
    fn new<T: DeviceElement>(
        call: &Call<'_, T>,
        direction: Direction,
        step: &Step<'_, DevicePointer<T::Acc>>,
    ) -> Result<Self> {
        let scale = |name, axis, weights: &Option<RawWeights<'_, T::Acc>>| {
            weights.as_ref().map_or(Ok(ScaleArgs::none()), |weights| call.scale(name, axis, weights))
        };
        let vertex = scale(VERTEX_SCALE, Axis::Vertex, &step.vertex_scale)?;
        let hyperedge = scale(HYPEREDGE_SCALE, Axis::Hyperedge, &step.hyperedge_scale)?;
        let memory = |name, weights: &Option<RawWeights<'_, T::Acc>>| {
            weights.as_ref().map(|weights| Memory::read(name, weights.values))
        };
        let memory =
            [memory(VERTEX_SCALE, &step.vertex_scale), memory(HYPEREDGE_SCALE, &step.hyperedge_scale)];
        let (source, target, has_target) = match direction.source() {
            Axis::Vertex => (vertex, hyperedge, step.hyperedge_scale.is_some()),
            Axis::Hyperedge => (hyperedge, vertex, step.vertex_scale.is_some()),
        };
        Ok(Self { source, target, has_target, memory })
    }
}

fn same_context_scales<A>(device: &super::Device, step: &Step<'_, CudaView<'_, A>>) -> Result<()> {
    for (name, scale) in [(VERTEX_SCALE, &step.vertex_scale), (HYPEREDGE_SCALE, &step.hyperedge_scale)] {
        scale.as_ref().map_or(Ok(()), |scale| same_context_weights(device, name, scale))?;
    }
    Ok(())
}

/// The scales as addresses, and their guards.
fn read_scales<'a, 'w: 'a, A>(
    step: &'a Step<'w, CudaView<'_, A>>,
    stream: &'a Arc<CudaStream>,
) -> (Step<'w, DevicePointer<A>>, [Option<SyncOnDrop<'a>>; 2]) {
    let (vertex_scale, vertex_guards) =
        step.vertex_scale.as_ref().map(|scale| read_weights(scale, stream)).unzip();
    let (hyperedge_scale, hyperedge_guards) =
        step.hyperedge_scale.as_ref().map(|scale| read_weights(scale, stream)).unzip();
    (Step { reduce: step.reduce, vertex_scale, hyperedge_scale }, [vertex_guards, hyperedge_guards])
}

/// The gradient of a scale, whether it is added, and the scale's windows; `None` if there is no such gradient.
fn wanted<'w, A>(
    out: Out<DevicePointer<A>>,
    scale: &Option<RawWeights<'w, A>>,
) -> Option<(DevicePointer<A>, bool, Windows<&'w DeviceWindows>)> {
    let (values, add) = into_parts(out)?;
    Some((values, add, scale.as_ref()?.windows))
}
