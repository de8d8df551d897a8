//! What a call would launch, move and need: the operators' descriptions, counted instead of queued.

#![allow(unsafe_code)]

use bytemuck::Pod;

use super::DeviceElement;
use super::args::{Address, RecordArgs};
use super::call::Call;
use super::description::Description;
use super::geometry::Grid;
use super::kernels::{Kernel, KernelSet};
use super::launches::Launches;
use super::operands::{Operands, Unallocated};
use super::plan::Plan;
use super::scratch::{Sizes, Slot};
use super::window_table::DeviceWindows;
use super::{conv, step};
use crate::activation::Activation;
use crate::axis::Axis;
use crate::batch::Batch;
use crate::conv::Reduce;
use crate::direction::{Direction, HYPEREDGE_SCALE, VERTEX_SCALE};
use crate::epilogue::{Epilogue, EpilogueGradients, Level};
use crate::error::{Error, Result, fits_u32};
use crate::layer::LayerGradients;
use crate::operator::Operator;
use crate::rows::{Out, RowLayout, Rows};
use crate::step::{Step, StepGradients};
use crate::windows::{Weights, Windows};

/// A call that [`Plan::explain_call`] is asked about: an operator, and what of its operands matters for its
/// launches.
///
/// By default all results are wanted and windows are shared. A step is a mean with both scales, an epilogue
/// has a bias and a GELU, and there is a residual. Weights and scales, and so their gradients, are taken to
/// have as many values as their windows reach to.
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
    activation: Activation,
    bias: bool,
    residual: bool,
    bias_gradient: bool,
    residual_gradient: bool,
    theta_gradient: bool,
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
            activation: Activation::Gelu,
            bias: true,
            residual: true,
            bias_gradient: true,
            residual_gradient: true,
            theta_gradient: true,
        }
    }

    /// The activation of an epilogue.
    pub fn activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }

    /// Whether an epilogue has a bias.
    pub fn bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }

    /// Whether there is a residual.
    pub fn residual(self, residual: bool) -> Self {
        Self { residual, ..self }
    }

    /// Whether the gradient of a bias is wanted.
    pub fn bias_gradient(self, bias_gradient: bool) -> Self {
        Self { bias_gradient, ..self }
    }

    /// Whether the gradient of a residual is wanted.
    pub fn residual_gradient(self, residual_gradient: bool) -> Self {
        Self { residual_gradient, ..self }
    }

    /// Whether the gradient of a layer's Θ is wanted.
    pub fn theta_gradient(self, theta_gradient: bool) -> Self {
        Self { theta_gradient, ..self }
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

    /// Checks its window tables, also one that the operator has no use for.
    fn check_windows(&self, batch: &Batch) -> Result<()> {
        let of_vertices = (VERTEX_SCALE, Axis::Vertex, self.vertex_scale);
        let of_hyperedges = (HYPEREDGE_SCALE, Axis::Hyperedge, self.hyperedge_scale);
        for (name, axis, windows) in [of_vertices, of_hyperedges] {
            if let Some(Windows::Table(table)) = windows {
                Windows::Table(table.table()).check(name, batch, axis, self.instances, usize::MAX)?;
            }
        }
        Ok(())
    }
}

/// Counts what an operator queues.
pub(super) struct Count {
    kernels: &'static KernelSet,
    /// The names of the kernels, each once, in the order of their first launches.
    pub(super) names: Vec<&'static str>,
    pub(super) launches: usize,
    pub(super) zero_fills: usize,
    /// The bytes of feature rows that are moved without any cache.
    pub(super) moved: u128,
    /// The bytes of the feature operands.
    pub(super) compulsory: u128,
    /// Whether the instances of each path were computed apart.
    pub(super) by_path: bool,
}

impl Launches for Count {
    const COUNTS: bool = true;

    fn scratch(&mut self, _slot: Slot, _bytes: u128) -> Result<Address> {
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
        self.zero_fills += 1;
        Ok(())
    }

    fn moves(&mut self, bytes: u128) {
        self.moved += bytes;
    }

    fn by_path(&mut self) {
        self.by_path = true;
    }
}

/// What calls need, whatever their operands: scratch memory, and kernels.
#[derive(Debug, Default)]
pub(super) struct Needs {
    pub(super) sizes: Sizes,
    pub(super) kernels: [bool; Kernel::COUNT],
}

impl Launches for &mut Needs {
    const COUNTS: bool = false;
    const ANY_OPERANDS: bool = true;

    fn scratch(&mut self, slot: Slot, bytes: u128) -> Result<Address> {
        self.sizes.need(slot, bytes);
        Ok(0)
    }

    fn record(&self) -> RecordArgs {
        RecordArgs::none()
    }

    unsafe fn launch<A: Pod>(&mut self, kernel: Kernel, grid: Grid, _arguments: &A) -> Result<()> {
        // A gradient may be longer than its windows reach. Then there are sums to store where nothing is
        // summed.
        let of_gradients = matches!(kernel, Kernel::SumChunks | Kernel::SumWindows);
        self.kernels[kernel as usize] |= of_gradients || !grid.is_empty();
        Ok(())
    }

    unsafe fn zero(&mut self, _address: Address, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn moves(&mut self, _bytes: u128) {}

    fn by_path(&mut self) {}
}

/// Counts a call.
///
/// # Errors
/// [`Error::InstancesMismatch`] for another number of instances than a table batch has; those of a window
/// table of another batch, axis or length; [`Error::TooLarge`].
#[inline(never)]
pub(super) fn count<T: DeviceElement>(plan: &Plan<T>, request: &Request<'_>) -> Result<Count> {
    let counted = Count {
        kernels: plan.kernels(),
        names: Vec::new(),
        launches: 0,
        zero_fills: 0,
        moved: 0,
        compulsory: 0,
        by_path: false,
    };
    let (counted, compulsory) = run(plan, request, counted)?;
    Ok(Count { compulsory, ..counted })
}

/// Runs the description of a call, whose operands are bound as those of any call, but have no memory. Gives
/// where its launches went, and the bytes of its feature operands.
fn run<T: DeviceElement, L: Launches>(
    plan: &Plan<T>,
    request: &Request<'_>,
    launches: L,
) -> Result<(L, u128)> {
    let instances = request.instances;
    fits_u32("the number of instances", instances)?;
    if let Some(bound) = plan.batch().batch().n_instances().filter(|&n| n != instances) {
        let (operand, bound_of) = ("the call", "the batch");
        return Err(Error::InstancesMismatch { operand, value: instances, bound, bound_of });
    }
    let mut call = Call::new(plan, launches, instances)?;
    request.check_windows(plan.batch().batch())?;

    let layout = RowLayout::contiguous(plan.features()).instances(instances);
    let rows = Rows { buffer: Unallocated, layout };
    let values = |windows| Weights { values: Unallocated, windows };
    let weights = values(request.hyperedge_scale.unwrap_or(Windows::Shared));
    let step = Step::new(request.reduce)
        .vertex_scale(request.vertex_scale.map(values))
        .hyperedge_scale(request.hyperedge_scale.map(values));
    let mut out = StepGradients::none()
        .rows(output(request.rows, rows))
        .vertex_scale(output(request.vertex_gradient, Unallocated))
        .hyperedge_scale(output(request.hyperedge_gradient, Unallocated));
    let epilogue = Epilogue::<Unallocated>::new(request.activation).bias(request.bias.then_some(Unallocated));
    let (mut result, grad) = match request.operator {
        Operator::ConvReadout | Operator::ConvReadoutBackward => {
            (Level::Instances(output(request.rows, Unallocated)), Level::Instances(Unallocated))
        }
        _ => (Level::Vertices(output(request.rows, rows)), Level::Vertices(rows)),
    };
    let mut gradients = EpilogueGradients::none()
        .x(output(request.rows, rows))
        .weights(output(request.hyperedge_gradient, Unallocated))
        .bias(output(request.bias && request.bias_gradient, Unallocated))
        .residual(output(request.residual_gradient, rows));
    let layout = RowLayout::contiguous(plan.inputs()).instances(instances);
    let inputs = Rows { buffer: Unallocated, layout };
    let mut of_layer = LayerGradients::none()
        .x(output(request.rows, inputs))
        .theta(output(request.theta_gradient, Unallocated))
        .weights(output(request.hyperedge_gradient, Unallocated))
        .bias(output(request.bias && request.bias_gradient, Unallocated))
        .residual(output(request.residual_gradient, rows));
    let mut matrix = output(request.rows, Unallocated);
    let mut z = rows;
    // Nothing is queued on it.
    let stream = plan.batch().device().context().default_stream();
    let operands = &mut Operands::new(plan, &stream, None, instances);
    let is = |operator| request.operator == operator;
    // SAFETY: nothing is launched.
    unsafe {
        match request.operator {
            Operator::VertexToHyperedge | Operator::HyperedgeToVertex => {
                let direction = direction(is(Operator::VertexToHyperedge));
                let (forward, _) = step::Forward::bind(operands, direction, &step, &rows, &mut out.rows)?;
                forward.run(&mut call)?
            }
            Operator::VertexToHyperedgeBackward | Operator::HyperedgeToVertexBackward => {
                let direction = direction(is(Operator::VertexToHyperedgeBackward));
                let (backward, _) = step::Backward::bind(operands, direction, &step, &rows, &rows, &mut out)?;
                backward.run(&mut call)?
            }
            Operator::Conv | Operator::ConvSavingZ => {
                let z = is(Operator::ConvSavingZ).then_some(&mut z);
                let (forward, _) = conv::Forward::bind(operands, &rows, &weights, z, &mut out.rows)?;
                forward.run(&mut call)?
            }
            Operator::ConvEpilogue | Operator::ConvReadout => {
                let residual = request.residual.then_some(&rows);
                let (forward, _) = conv::Forward::bind_epilogue(
                    operands,
                    &rows,
                    &weights,
                    &epilogue,
                    residual,
                    &mut result,
                )?;
                forward.run(&mut call)?
            }
            Operator::ConvEpilogueBackward | Operator::ConvReadoutBackward => {
                let gradients = &mut gradients;
                let (backward, _) =
                    conv::EpilogueBackward::bind(operands, &rows, &weights, &epilogue, &grad, gradients)?;
                backward.run(&mut call)?
            }
            Operator::ConvMatrix => {
                let (forward, _) = conv::MatrixForward::bind(operands, &weights, &mut matrix)?;
                forward.run(&mut call)?
            }
            Operator::ConvMatrixBackward => {
                let grad_weights = &mut out.hyperedge_scale;
                let (backward, _) =
                    conv::MatrixBackward::bind(operands, &weights, &Unallocated, grad_weights)?;
                backward.run(&mut call)?
            }
            Operator::Gram => {
                let (forward, _) = conv::GramForward::bind(operands, &rows, &mut matrix)?;
                forward.run(&mut call)?
            }
            Operator::GramBackward => {
                let (backward, _) = conv::GramBackward::bind(operands, &rows, &Unallocated, &mut out.rows)?;
                backward.run(&mut call)?
            }
            Operator::ConvBackward | Operator::ConvBackwardFromZ => {
                let z = is(Operator::ConvBackwardFromZ).then_some(&rows);
                let (grad_x, grad_weights) = (&mut out.rows, &mut out.hyperedge_scale);
                let (backward, _) =
                    conv::Backward::bind(operands, &rows, z, &weights, &rows, grad_x, grad_weights)?;
                backward.run(&mut call)?
            }
            Operator::Layer => {
                let residual = request.residual.then_some(&rows);
                let theta = &Unallocated;
                let y = &mut out.rows;
                let (forward, _) =
                    conv::LayerForward::bind(operands, &inputs, theta, &weights, &epilogue, residual, y)?;
                forward.run(&mut call)?
            }
            Operator::LayerBackward => {
                let (theta, gradients) = (&Unallocated, &mut of_layer);
                let (backward, _) = conv::LayerBackward::bind(
                    operands, &inputs, theta, &weights, &epilogue, &rows, gradients,
                )?;
                backward.run(&mut call)?
            }
        }
    }
    let compulsory = operands.feature_bytes([call.total(Axis::Vertex), call.total(Axis::Hyperedge)]);
    Ok((call.launches, compulsory))
}

fn direction(to_hyperedges: bool) -> Direction {
    if to_hyperedges { Direction::VertexToHyperedge } else { Direction::HyperedgeToVertex }
}

/// An output, if it is wanted.
fn output<B>(is_wanted: bool, buffer: B) -> Out<B> {
    if is_wanted { Out::Overwrite(buffer) } else { Out::Skip }
}

/// What calls of these operators with up to `max_instances` instances need, whatever their operands.
#[inline(never)]
pub(super) fn needs<T: DeviceElement>(
    plan: &Plan<T>,
    operators: &[Operator],
    max_instances: usize,
) -> Result<Needs> {
    // A table batch has always all of its instances.
    let instances = plan.batch().batch().n_instances().unwrap_or(max_instances);
    let mut needs = Needs::default();
    // What wants less, or has fewer scales, may go another way.
    let scales = [None, Some(Windows::Shared), Some(Windows::Consecutive)];
    // What no call may do needs nothing.
    let is_available = |&operator: &Operator| plan.check_operator(operator).is_ok();
    for operator in operators.iter().copied().filter(is_available) {
        for (&reduce, wanted) in
            Reduce::ALL.iter().flat_map(|reduce| (0..8).map(move |wanted| (reduce, wanted)))
        {
            let [rows, vertex, hyperedge] = [1, 2, 4].map(|bit| wanted & bit != 0);
            let request = Request::new(operator, instances).reduce(reduce).rows(rows);
            let request = request.vertex_gradient(vertex).hyperedge_gradient(hyperedge);
            for windows in scales {
                let request = request.vertex_scale(windows).hyperedge_scale(windows);
                run(plan, &request, &mut needs)?;
                if operator.has_epilogue() {
                    run(plan, &request.activation(Activation::Identity), &mut needs)?;
                }
            }
        }
    }
    Ok(needs)
}

compiled_here!(count::<T> as fn(_, _) -> _, needs::<T> as fn(_, _, _) -> _);
