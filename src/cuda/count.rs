//! What a call would launch, move and need: the operators' descriptions, counted instead of queued.

#![allow(unsafe_code)]

use bytemuck::Pod;

use super::DeviceElement;
use super::args::{Address, RecordArgs, ScaleArgs};
use super::call::{Call, Destination, GradientTo, PlacedRows, PlacedWeights};
use super::geometry::Grid;
use super::kernels::{Kernel, Kernels};
use super::launches::Launches;
use super::plan::Plan;
use super::scratch::{Sizes, Slot};
use super::window_table::DeviceWindows;
use super::{conv, step};
use crate::axis::Axis;
use crate::conv::Reduce;
use crate::direction::{Direction, HYPEREDGE_SCALE, VERTEX_SCALE};
use crate::error::{Error, Result, fits_u32};
use crate::operator::Operator;
use crate::windows::Windows;

/// A call that [`Plan::explain_call`] is asked about: an operator, and what of its operands matters for its
/// launches.
///
/// By default all results are wanted and windows are shared. A step is a mean with both scales. Weights and
/// scales, and so their gradients, are taken to have as many values as their windows reach to.
#[derive(Debug, Clone, Copy)]
pub struct Request<'w> {
    pub(super) operator: Operator,
    pub(super) instances: usize,
    reduce: Reduce,
    vertex_scale: Option<Windows<&'w DeviceWindows>>,
    hyperedge_scale: Option<Windows<&'w DeviceWindows>>,
    rows: bool,
    vertex_gradient: bool,
    hyperedge_gradient: bool,
}

impl<'w> Request<'w> {
    /// A call of `operator` with this number of instances that wants all results.
    pub fn new(operator: Operator, instances: usize) -> Self {
        Self {
            operator,
            instances,
            reduce: Reduce::Mean,
            vertex_scale: Some(Windows::Shared),
            hyperedge_scale: Some(Windows::Shared),
            rows: true,
            vertex_gradient: true,
            hyperedge_gradient: true,
        }
    }

    /// The reduction of a step.
    pub fn reduce(self, reduce: Reduce) -> Self {
        Self { reduce, ..self }
    }

    /// The windows of a step's vertex scale, or none if it has no such scale.
    pub fn vertex_scale(self, windows: impl Into<Option<Windows<&'w DeviceWindows>>>) -> Self {
        Self { vertex_scale: windows.into(), ..self }
    }

    /// The windows of a step's hyperedge scale, or none if it has no such scale.
    pub fn hyperedge_scale(self, windows: impl Into<Option<Windows<&'w DeviceWindows>>>) -> Self {
        Self { hyperedge_scale: windows.into(), ..self }
    }

    /// The windows of the weights of a convolution.
    pub fn weights(self, windows: Windows<&'w DeviceWindows>) -> Self {
        self.hyperedge_scale(windows)
    }

    /// Whether the resulting rows, or for a backward the gradients of rows, are wanted.
    pub fn rows(self, rows: bool) -> Self {
        Self { rows, ..self }
    }

    /// Whether the gradient of the vertex scale is wanted.
    pub fn vertex_gradient(self, vertex_gradient: bool) -> Self {
        Self { vertex_gradient, ..self }
    }

    /// Whether the gradient of the hyperedge scale, or of the weights, is wanted.
    pub fn hyperedge_gradient(self, hyperedge_gradient: bool) -> Self {
        Self { hyperedge_gradient, ..self }
    }
}

/// Counts what an operator launches.
pub(super) struct Count<'a> {
    kernels: &'a Kernels,
    /// The names of the kernels, each once, in the order of their first launches.
    pub(super) names: Vec<&'static str>,
    pub(super) launches: usize,
    /// The bytes of feature rows that are moved without any cache.
    pub(super) moved: u128,
    /// The bytes of the feature operands.
    pub(super) compulsory: u128,
    /// The scratch memory.
    pub(super) sizes: Sizes,
    /// Whether the instances of each path were computed apart.
    pub(super) by_path: bool,
}

impl Launches for Count<'_> {
    const COUNTS: bool = true;

    fn scratch(&mut self, slot: Slot, bytes: u128) -> Result<Address> {
        self.sizes.need(slot, bytes);
        Ok(0)
    }

    fn record(&self) -> RecordArgs {
        RecordArgs::none()
    }

    unsafe fn launch<A: Pod>(&mut self, kernel: Kernel, grid: Grid, _arguments: &A) -> Result<()> {
        if !grid.is_empty() {
            self.launches += 1;
            let name = self.kernels.name(kernel);
            if !self.names.contains(&name) {
                self.names.push(name);
            }
        }
        Ok(())
    }

    unsafe fn zero(&mut self, _address: Address, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn moves(&mut self, bytes: u128) {
        self.moved += bytes;
    }

    fn by_path(&mut self) {
        self.by_path = true;
    }
}

impl<T: DeviceElement> Call<'_, T, Count<'_>> {
    /// A feature operand of elements of `size` bytes.
    fn operand(&mut self, axis: Axis, size: usize) -> Result<PlacedRows> {
        let rows = self.total(axis) as u128;
        self.launches.compulsory += rows * self.features() as u128 * size as u128;
        self.contiguous(axis, 0)
    }

    /// The same, if it is wanted.
    fn output(&mut self, is_wanted: bool, axis: Axis) -> Result<Option<Destination>> {
        if !is_wanted {
            return Ok(None);
        }
        let rows = self.operand(axis, size_of::<T>())?;
        Ok(Some(Destination { rows, accumulate: false }))
    }

    fn weights<'w>(&self, axis: Axis, windows: Windows<&'w DeviceWindows>) -> Result<PlacedWeights<'w>> {
        let scale = match windows {
            Windows::Shared => ScaleArgs::shared(0, self.values(axis, windows)),
            Windows::Consecutive => ScaleArgs::consecutive(0, self.values(axis, windows)),
            Windows::Table(table) => ScaleArgs::table(0, self.values(axis, windows), table.offsets()),
        };
        Ok(PlacedWeights { scale, windows })
    }

    /// Checks a window table against the call, as calls do.
    fn check(&self, name: &'static str, axis: Axis, windows: Option<Windows<&DeviceWindows>>) -> Result<()> {
        let Some(Windows::Table(table)) = windows else { return Ok(()) };
        Windows::Table(table.table()).check(name, self.batch(), axis, self.instances, usize::MAX)
    }

    /// The values that are read through windows.
    fn values(&self, axis: Axis, windows: Windows<&DeviceWindows>) -> usize {
        match windows {
            Windows::Shared => self.batch().largest(axis),
            Windows::Consecutive => self.total(axis),
            Windows::Table(table) => table.table().reach(self.instances),
        }
    }

    fn gradient(
        &self,
        is_wanted: bool,
        axis: Axis,
        windows: Option<Windows<&DeviceWindows>>,
    ) -> Result<Option<GradientTo>> {
        let Some(windows) = windows.filter(|_| is_wanted) else { return Ok(None) };
        Ok(Some(GradientTo { address: 0, len: self.values(axis, windows), accumulate: false }))
    }

    fn scales<'w>(&self, direction: Direction, request: &Request<'w>) -> Result<step::Scales<'w>> {
        let scale = |axis, windows: Option<_>| windows.map(|w| self.weights(axis, w)).transpose();
        let scales =
            [scale(Axis::Vertex, request.vertex_scale)?, scale(Axis::Hyperedge, request.hyperedge_scale)?];
        Ok(step::Scales::placed(direction, request.reduce, scales))
    }

    fn step(&mut self, direction: Direction, request: &Request<'_>) -> Result<()> {
        let forward = step::Forward {
            scales: self.scales(direction, request)?,
            x: self.operand(direction.source(), size_of::<T>())?,
            y: self.output(request.rows, direction.target())?,
        };
        // SAFETY: nothing is launched.
        unsafe { forward.run(self) }
    }

    fn step_backward(&mut self, direction: Direction, request: &Request<'_>) -> Result<()> {
        let Request { vertex_scale, hyperedge_scale, vertex_gradient, hyperedge_gradient, .. } = *request;
        let gradients = [
            self.gradient(vertex_gradient, Axis::Vertex, vertex_scale)?,
            self.gradient(hyperedge_gradient, Axis::Hyperedge, hyperedge_scale)?,
        ];
        let scales = self.scales(direction, request)?;
        let x = self.operand(direction.source(), size_of::<T>())?;
        let grad_y = self.operand(direction.target(), size_of::<T>())?;
        let grad_x = self.output(request.rows, direction.source())?;
        // SAFETY: nothing is launched.
        unsafe { step::Backward::placed(scales, x, grad_y, grad_x, gradients).run(self) }
    }

    fn saved_z(&mut self, is_saved: bool) -> Result<Option<PlacedRows>> {
        if is_saved { self.operand(Axis::Hyperedge, size_of::<T::Acc>()).map(Some) } else { Ok(None) }
    }

    fn conv(&mut self, saves_z: bool, request: &Request<'_>) -> Result<()> {
        let forward = conv::Forward {
            x: self.operand(Axis::Vertex, size_of::<T>())?,
            weights: self.weights(Axis::Hyperedge, request.hyperedge_scale.unwrap_or(Windows::Shared))?,
            z: self.saved_z(saves_z)?,
            y: self.output(request.rows, Axis::Vertex)?,
        };
        // SAFETY: nothing is launched.
        unsafe { forward.run(self) }
    }

    fn conv_backward(&mut self, from_z: bool, request: &Request<'_>) -> Result<()> {
        let windows = request.hyperedge_scale.unwrap_or(Windows::Shared);
        let backward = conv::Backward {
            x: self.operand(Axis::Vertex, size_of::<T>())?,
            z: self.saved_z(from_z)?,
            weights: self.weights(Axis::Hyperedge, windows)?,
            grad_y: self.operand(Axis::Vertex, size_of::<T>())?,
            grad_x: self.output(request.rows, Axis::Vertex)?,
            grad_weights: self.gradient(request.hyperedge_gradient, Axis::Hyperedge, Some(windows))?,
        };
        // SAFETY: nothing is launched.
        unsafe { backward.run(self) }
    }
}

/// Counts a call.
///
/// # Errors
/// [`Error::InstancesMismatch`] for another number of instances than a table batch has; those of a window
/// table of another batch, axis or length; [`Error::TooLarge`].
pub(super) fn count<'a, T: DeviceElement>(plan: &'a Plan<T>, request: &Request<'_>) -> Result<Count<'a>> {
    let value = request.instances;
    fits_u32("the number of instances", value)?;
    if let Some(bound) = plan.batch().batch().n_instances().filter(|&n| n != value) {
        return Err(Error::InstancesMismatch { operand: "the call", value, bound, bound_of: "the batch" });
    }
    let launches = Count {
        kernels: plan.kernels(),
        names: Vec::new(),
        launches: 0,
        moved: 0,
        compulsory: 0,
        sizes: Sizes::default(),
        by_path: false,
    };
    let mut call = Call::new(plan, launches, value)?;
    call.check(VERTEX_SCALE, Axis::Vertex, request.vertex_scale)?;
    call.check(HYPEREDGE_SCALE, Axis::Hyperedge, request.hyperedge_scale)?;
    match request.operator {
        Operator::VertexToHyperedge => call.step(Direction::VertexToHyperedge, request)?,
        Operator::HyperedgeToVertex => call.step(Direction::HyperedgeToVertex, request)?,
        Operator::VertexToHyperedgeBackward => call.step_backward(Direction::VertexToHyperedge, request)?,
        Operator::HyperedgeToVertexBackward => call.step_backward(Direction::HyperedgeToVertex, request)?,
        Operator::Conv => call.conv(false, request)?,
        Operator::ConvSavingZ => call.conv(true, request)?,
        Operator::ConvBackward => call.conv_backward(false, request)?,
        Operator::ConvBackwardFromZ => call.conv_backward(true, request)?,
    }
    Ok(call.launches)
}

/// The scratch memory for calls of these operators with up to `max_instances` instances, whatever their
/// operands.
pub(super) fn scratch_sizes<T: DeviceElement>(
    plan: &Plan<T>,
    operators: &[Operator],
    max_instances: usize,
) -> Result<Sizes> {
    // A table batch has always all of its instances.
    let instances = plan.batch().batch().n_instances().unwrap_or(max_instances);
    let mut sizes = Sizes::default();
    for &operator in operators {
        // What wants less may go another way.
        for (&reduce, wanted) in
            Reduce::ALL.iter().flat_map(|reduce| (0..8).map(move |wanted| (reduce, wanted)))
        {
            let [rows, vertex, hyperedge] = [1, 2, 4].map(|bit| wanted & bit != 0);
            let request = Request::new(operator, instances).reduce(reduce).rows(rows);
            let request = request.vertex_gradient(vertex).hyperedge_gradient(hyperedge);
            sizes = sizes.union(count(plan, &request)?.sizes);
        }
    }
    Ok(sizes)
}
