//! A case on the device, and the calls that are timed.

use std::sync::Arc;
use std::time::Duration;

use hyperscatter::cuda::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits};
use hyperscatter::cuda::{
    DeviceBatch, DeviceElement, Epilogue, Explanation, LayerGradients, Plan, Request, Step, Workspace,
};
use hyperscatter::{
    Activation, EpilogueGradients, Error, Operator, Out, Path, RowLayout, Rows, Weights, Windows,
};

use crate::cases::{Run, Variant};
use crate::clock::Clock;

/// The least bytes of all sets of operands of a run together: three times the largest L2 cache (60 MB) of the
/// devices that this was written for.
const ROTATED_BYTES: u128 = 3 * 60_000_000;

/// The most memory of the device that a run takes.
const MOST_BYTES: u128 = 70_000_000_000;

/// The free memory that is left to the driver.
const RESERVED_BYTES: u128 = 1_000_000_000;

/// Features that are measured: their sums and weights are `f32`.
pub trait Feature: DeviceElement<Acc = f32> + DeviceRepr + ValidAsZeroBits {}

impl<T: DeviceElement<Acc = f32> + DeviceRepr + ValidAsZeroBits> Feature for T {}

/// A timed call.
#[derive(Clone, Copy, PartialEq)]
pub enum Call {
    /// A copy of x to y.
    Copy,
    Of(Operator),
    /// The convolution, or its backward, with weights of its own for each instance.
    Own(Operator),
    /// The convolution with a bias and this activation, and whether there is a residual; or an operator of
    /// such a convolution.
    With(Operator, Activation, bool),
    /// A layer in one pass with a bias and ReLU, or its gradients.
    Layer(Operator),
    /// The same with weights of its own for each instance.
    OwnLayer(Operator),
}

impl Call {
    pub const ALL: &'static [Self] = &[
        Self::Copy,
        Self::Of(Operator::VertexToHyperedge),
        Self::Of(Operator::HyperedgeToVertex),
        Self::Of(Operator::Conv),
        Self::Own(Operator::Conv),
        Self::Of(Operator::ConvSavingZ),
        Self::Of(Operator::ConvBackward),
        Self::Own(Operator::ConvBackward),
        Self::Of(Operator::ConvBackwardFromZ),
    ];

    /// Those of a training step of the convolution.
    pub const CONVOLUTION: &'static [Self] = &[
        Self::Copy,
        Self::Of(Operator::Conv),
        Self::Own(Operator::Conv),
        Self::Of(Operator::ConvBackward),
        Self::Own(Operator::ConvBackward),
    ];

    /// The convolution beside what it is with epilogues.
    pub const EPILOGUES: &'static [Self] = &[
        Self::Copy,
        Self::Of(Operator::Conv),
        Self::With(Operator::ConvEpilogue, Activation::Identity, false),
        Self::With(Operator::ConvEpilogue, Activation::Relu, false),
        Self::With(Operator::ConvEpilogue, Activation::Gelu, false),
        Self::With(Operator::ConvEpilogue, Activation::GeluTanh, false),
        Self::With(Operator::ConvEpilogue, Activation::Silu, false),
        Self::With(Operator::ConvEpilogue, Activation::Gelu, true),
        Self::With(Operator::ConvReadout, Activation::Gelu, false),
        Self::Of(Operator::ConvBackward),
        Self::With(Operator::ConvEpilogueBackward, Activation::Identity, false),
        Self::With(Operator::ConvEpilogueBackward, Activation::Gelu, false),
        Self::With(Operator::ConvReadoutBackward, Activation::Gelu, false),
    ];

    /// Those of a training step of a layer.
    pub const LAYER: &'static [Self] =
        &[Self::Copy, Self::Layer(Operator::Layer), Self::Layer(Operator::LayerBackward)];

    /// The same, also with weights of its own for each instance.
    pub const LAYER_AND_OWN: &'static [Self] = &[
        Self::Copy,
        Self::Layer(Operator::Layer),
        Self::OwnLayer(Operator::Layer),
        Self::Layer(Operator::LayerBackward),
        Self::OwnLayer(Operator::LayerBackward),
    ];

    /// Beside the convolution that does the rest of a layer behind a product with Θ.
    pub const LAYER_AND_CONVOLUTION: &'static [Self] = &[
        Self::Copy,
        Self::With(Operator::ConvEpilogue, Activation::Relu, false),
        Self::Layer(Operator::Layer),
        Self::OwnLayer(Operator::Layer),
        Self::With(Operator::ConvEpilogueBackward, Activation::Relu, false),
        Self::Layer(Operator::LayerBackward),
        Self::OwnLayer(Operator::LayerBackward),
    ];

    /// The operator that it calls.
    pub fn operator(self) -> Option<Operator> {
        match self {
            Self::Copy => None,
            Self::Of(operator) | Self::Own(operator) | Self::With(operator, ..) => Some(operator),
            Self::Layer(operator) | Self::OwnLayer(operator) => Some(operator),
        }
    }

    /// Whether each instance has weights of its own.
    fn is_own(self) -> bool {
        matches!(self, Self::Own(_) | Self::OwnLayer(_))
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy of x",
            Self::Of(operator) => operator.name(),
            Self::Own(Operator::Conv) => "conv, own weights",
            Self::Own(_) => "conv_backward, own weights",
            Self::With(Operator::ConvEpilogue, Activation::Identity, _) => "conv, bias",
            Self::With(Operator::ConvEpilogue, Activation::Relu, _) => "conv, bias, ReLU",
            Self::With(Operator::ConvEpilogue, Activation::Gelu, false) => "conv, bias, GELU",
            Self::With(Operator::ConvEpilogue, Activation::Gelu, true) => "conv, GELU, residual",
            Self::With(Operator::ConvEpilogue, Activation::GeluTanh, _) => "conv, GELU by tanh",
            Self::With(Operator::ConvEpilogue, ..) => "conv, bias, SiLU",
            Self::With(Operator::ConvReadout, ..) => "readout, GELU",
            Self::With(Operator::ConvEpilogueBackward, Activation::Identity, _) => "backward, bias",
            Self::With(Operator::ConvEpilogueBackward, Activation::Relu, _) => "backward, ReLU",
            Self::With(Operator::ConvEpilogueBackward, ..) => "backward, GELU",
            Self::With(..) => "readout's backward, GELU",
            Self::Layer(operator) => operator.name(),
            Self::OwnLayer(Operator::Layer) => "layer, own weights",
            Self::OwnLayer(_) => "layer_backward, own weights",
        }
    }
}

/// What a call moves, of all instances.
#[derive(Clone, Copy)]
pub struct Bytes {
    /// Each operand once.
    pub compulsory: u128,
    /// Without any cache.
    pub uncached: u128,
}

/// The operands of a call.
struct Set<T> {
    x: CudaSlice<T>,
    y: CudaSlice<T>,
    grad_x: CudaSlice<T>,
    z: CudaSlice<T>,
    saved: CudaSlice<f32>,
    /// A row for each instance.
    readout: CudaSlice<T>,
}

pub struct Loaded<T: Feature> {
    stream: Arc<CudaStream>,
    clock: Clock,
    /// Calls take turns on these.
    sets: Vec<Set<T>>,
    weights: CudaSlice<f32>,
    own_weights: CudaSlice<f32>,
    grad_weights: CudaSlice<f32>,
    bias: CudaSlice<f32>,
    grad_bias: CudaSlice<f32>,
    /// Of a layer: [F, F], and its gradient.
    theta: CudaSlice<T>,
    grad_theta: CudaSlice<f32>,
    workspace: Workspace<T>,
    explanation: Explanation,
    /// Where rows of vertices are.
    vertices: RowLayout,
    pub copies: usize,
}

/// The plan of a run; layers have as many inputs as features.
fn plan_of<T: Feature>(batch: &DeviceBatch, run: Run) -> Plan<T> {
    let Run { features, checks, precision, .. } = run;
    let copies_async = run.variant != Variant::DirectLoads;
    let paths: Vec<Path> = run.path.into_iter().collect();
    let plan = Plan::<T>::builder(batch, features).checks(checks).copies_async(copies_async);
    let plan = if paths.is_empty() { plan } else { plan.paths(&paths) };
    plan.precision(precision).build().unwrap()
}

/// What keeps the device from an operator of a run, if anything does.
pub fn obstacle<T: Feature>(batch: &DeviceBatch, run: Run) -> Option<Error> {
    let plan = plan_of::<T>(batch, run);
    let mut operators = run.calls().iter().filter_map(|call| call.operator());
    operators.find_map(|operator| plan.check_operator(operator).err())
}

impl<T: Feature> Loaded<T> {
    /// As many of the `copies` as the memory has room for. Without `rotate` there are two sets of operands.
    pub fn new(batch: &DeviceBatch, run: Run, mut copies: usize, rotate: bool) -> Self {
        let features = run.features;
        let device = batch.device();
        let stream = device.context().default_stream();
        let plan = plan_of::<T>(batch, run);
        let calls = run.calls();
        let operators: Vec<Operator> = calls.iter().filter_map(|call| call.operator()).collect();
        let has = |operator| operators.contains(&operator);
        let topology = &batch.batch().topologies()[0];
        let (n, m) = (topology.n_vertices(), topology.n_hyperedges());
        let len = |rows: usize, copies: usize| rows * copies * features;
        let sets = |copies| {
            let copied = 2 * len(n, copies) * size_of::<T>();
            if rotate { ROTATED_BYTES.div_ceil(copied as u128) as usize } else { 2 }
        };
        let bytes = |copies| {
            let features = (3 * len(n, copies) + len(m, copies)) * size_of::<T>();
            let set = features + len(m, copies) * size_of::<f32>();
            let set = if has(Operator::ConvSavingZ) { set } else { 3 * len(n, copies) * size_of::<T>() };
            let own = 2 * copies * m * size_of::<f32>();
            (sets(copies) * set + own) as u128 + plan.workspace_bytes(copies, &operators).unwrap()
        };
        // Frees the memory of the run before: to make a workspace frees the scratch memory of dropped ones,
        // and the driver takes freed memory back when somebody waits.
        stream.synchronize().unwrap();
        drop(plan.workspace_for(&stream, 1, &[]).unwrap());
        stream.synchronize().unwrap();
        let (free, _) = device.context().mem_get_info().unwrap();
        let room = (free as u128).saturating_sub(RESERVED_BYTES).min(MOST_BYTES);
        while copies > 1 && bytes(copies) > room {
            copies /= 2;
        }

        let vertices = RowLayout::contiguous(features).instances(copies);
        let vertices = match run.variant {
            Variant::VertexMajor => vertices.row_stride(copies * features).instance_stride(features),
            Variant::Default | Variant::DirectLoads => vertices,
        };
        let weights: Vec<f32> = (0..m).map(|e| 0.5 + (e % 7) as f32 / 7.0).collect();
        let own_weights: Vec<f32> = (0..m * copies).map(|e| 0.5 + (e % 11) as f32 / 7.0).collect();
        let wanted = |operator, len| if has(operator) { len } else { 1 };
        let has_grad_x = has(Operator::ConvBackward) || has(Operator::LayerBackward);
        let theta = wanted(Operator::Layer, features * features);
        let set = |_| Set {
            x: numbers(&stream, len(n, copies), 1.0),
            y: stream.alloc_zeros(len(n, copies)).unwrap(),
            grad_x: stream.alloc_zeros(if has_grad_x { len(n, copies) } else { 1 }).unwrap(),
            readout: stream.alloc_zeros(wanted(Operator::ConvReadout, len(1, copies))).unwrap(),
            z: stream.alloc_zeros(wanted(Operator::VertexToHyperedge, len(m, copies))).unwrap(),
            saved: stream.alloc_zeros(wanted(Operator::ConvSavingZ, len(m, copies))).unwrap(),
        };
        let mut loaded = Self {
            clock: Clock::new(device),
            sets: (0..sets(copies)).map(set).collect(),
            weights: stream.clone_htod(&weights).unwrap(),
            own_weights: stream.clone_htod(&own_weights).unwrap(),
            grad_weights: stream.alloc_zeros(m * copies).unwrap(),
            bias: numbers(&stream, features, 1.0),
            grad_bias: stream.alloc_zeros(features).unwrap(),
            // As a layer is initialised, so that products stay within what f16 has.
            theta: numbers(&stream, theta, 1.0 / (features as f32).sqrt()),
            grad_theta: stream.alloc_zeros(theta).unwrap(),
            workspace: plan.workspace_for(&stream, copies, &operators).unwrap(),
            explanation: plan.explain(copies).unwrap(),
            vertices,
            copies,
            stream,
        };
        // The command line may leave out the calls that write y (read as ∂loss/∂y) and both z.
        for set in 0..loaded.sets.len() {
            [Operator::VertexToHyperedge, Operator::ConvSavingZ, Operator::Layer]
                .into_iter()
                .filter(|&operator| has(operator))
                .for_each(|operator| loaded.call(Call::Of(operator), set));
        }
        loaded.check();
        loaded
    }

    /// Waits, and fails if a kernel reported something.
    pub fn check(&mut self) {
        self.workspace.check().unwrap();
    }

    /// Queues a call, the `number`-th.
    fn call(&mut self, call: Call, number: usize) {
        let features = self.explanation.features;
        let set = number % self.sets.len();
        let Set { x, y, grad_x, z, saved, readout } = &mut self.sets[set];
        let (workspace, at) = (&mut self.workspace, self.vertices);
        let is_own = call.is_own();
        let weights = match is_own {
            true => Weights::consecutive(self.own_weights.as_view()),
            false => Weights::shared(self.weights.as_view()),
        };
        let n_weights = if is_own { self.own_weights.len() } else { self.weights.len() };
        let x_rows = Rows::new(x.as_view(), at);
        let operator = match call {
            Call::Copy => {
                return self.stream.memcpy_dtod(x, y).unwrap();
            }
            Call::Of(operator) | Call::Own(operator) | Call::With(operator, ..) => operator,
            Call::Layer(operator) | Call::OwnLayer(operator) => operator,
        };
        let (activation, has_residual) = match call {
            Call::With(_, activation, has_residual) => (activation, has_residual),
            Call::Layer(_) | Call::OwnLayer(_) => (Activation::Relu, false),
            _ => (Activation::Identity, false),
        };
        let epilogue = Epilogue::new(activation).bias(self.bias.as_view());
        let done = match operator {
            Operator::VertexToHyperedge => {
                let z = Out::Overwrite(Rows::contiguous(z.as_view_mut(), features));
                workspace.vertex_to_hyperedge(&Step::sum(), x_rows, z)
            }
            Operator::HyperedgeToVertex => {
                let y = Out::Overwrite(Rows::new(y.as_view_mut(), at));
                workspace.hyperedge_to_vertex(&Step::sum(), Rows::contiguous(z.as_view(), features), y)
            }
            Operator::Conv => {
                let y = Out::Overwrite(Rows::new(y.as_view_mut(), at));
                workspace.conv(x_rows, weights, y)
            }
            Operator::ConvSavingZ => {
                let saved = Rows::contiguous(saved.as_view_mut(), features);
                let y = Out::Overwrite(Rows::new(y.as_view_mut(), at));
                workspace.conv_saving_z(x_rows, weights, saved, y)
            }
            Operator::ConvBackward | Operator::ConvBackwardFromZ => {
                let grad_y = Rows::new(y.as_view(), at);
                let grad_x = Out::Overwrite(Rows::new(grad_x.as_view_mut(), at));
                let grad_weights = Out::Overwrite(self.grad_weights.slice_mut(..n_weights));
                if operator == Operator::ConvBackward {
                    workspace.conv_backward(x_rows, weights, grad_y, grad_x, grad_weights)
                } else {
                    let saved = Rows::contiguous(saved.as_view(), features);
                    workspace.conv_backward_from_z(x_rows, saved, weights, grad_y, grad_x, grad_weights)
                }
            }
            Operator::ConvEpilogue => {
                let residual = has_residual.then(|| Rows::new(grad_x.as_view(), at));
                let y = Out::Overwrite(Rows::new(y.as_view_mut(), at));
                workspace.conv_epilogue(x_rows, weights, &epilogue, residual, y)
            }
            Operator::ConvReadout => {
                let readout = Out::Overwrite(readout.as_view_mut());
                workspace.conv_readout(x_rows, weights, &epilogue, None, readout)
            }
            Operator::ConvEpilogueBackward | Operator::ConvReadoutBackward => {
                let grad_weights = self.grad_weights.slice_mut(..n_weights);
                let gradients = EpilogueGradients::none()
                    .x(Out::Overwrite(Rows::new(grad_x.as_view_mut(), at)))
                    .weights(Out::Overwrite(grad_weights))
                    .bias(Out::Overwrite(self.grad_bias.as_view_mut()));
                if operator == Operator::ConvEpilogueBackward {
                    let grad_y = Rows::new(y.as_view(), at);
                    workspace.conv_epilogue_backward(x_rows, weights, &epilogue, grad_y, gradients)
                } else {
                    let grad = readout.as_view();
                    workspace.conv_readout_backward(x_rows, weights, &epilogue, grad, gradients)
                }
            }
            Operator::Layer => {
                let y = Out::Overwrite(Rows::new(y.as_view_mut(), at));
                workspace.layer(x_rows, self.theta.as_view(), weights, &epilogue, None, y)
            }
            Operator::LayerBackward => {
                let gradients = LayerGradients::none()
                    .x(Out::Overwrite(Rows::new(grad_x.as_view_mut(), at)))
                    .theta(Out::Overwrite(self.grad_theta.as_view_mut()))
                    .weights(Out::Overwrite(self.grad_weights.slice_mut(..n_weights)))
                    .bias(Out::Overwrite(self.grad_bias.as_view_mut()));
                let grad_y = Rows::new(y.as_view(), at);
                workspace.layer_backward(x_rows, self.theta.as_view(), weights, &epilogue, grad_y, gradients)
            }
            other => unreachable!("{other:?} is not timed"),
        };
        done.unwrap();
    }

    /// The time of the device for `calls` calls.
    pub fn time(&mut self, call: Call, calls: u64) -> Duration {
        self.clock.start(&self.stream);
        (0..calls as usize).for_each(|number| self.call(call, number));
        self.clock.stop(&self.stream)
    }

    /// What a call moves, as the plan explains it.
    pub fn bytes(&self, call: Call) -> Bytes {
        let Some(operator) = call.operator() else {
            let copied = 2 * (self.sets[0].x.len() * size_of::<T>()) as u128;
            return Bytes { compulsory: copied, uncached: copied };
        };
        // Shared weights and their gradients are next to nothing.
        let own = (self.own_weights.len() * size_of::<f32>()) as u128;
        let own = match (call.is_own(), operator) {
            (true, Operator::Conv | Operator::Layer) => own,
            (true, _) => 2 * own,
            (false, _) => 0,
        };
        let requested = match call {
            Call::With(_, activation, has_residual) => Some((activation, has_residual)),
            Call::Layer(_) | Call::OwnLayer(_) => Some((Activation::Relu, false)),
            Call::Copy | Call::Of(_) | Call::Own(_) => None,
        };
        let explained = match requested {
            None => self.explanation.of(operator).clone(),
            Some((activation, has_residual)) => {
                let windows = if call.is_own() { Windows::Consecutive } else { Windows::Shared };
                let request = Request::new(operator, self.copies).weights(windows).activation(activation);
                let request = request.residual(has_residual).residual_gradient(false);
                self.workspace.plan().explain_call(&request).unwrap()
            }
        };
        Bytes { compulsory: explained.compulsory_bytes + own, uncached: explained.uncached_bytes + own }
    }
}

/// Numbers on the device, of about `most` at most. Zeros would take less power to compute with, and so run at
/// a higher clock.
fn numbers<T: Feature>(stream: &Arc<CudaStream>, len: usize, most: f32) -> CudaSlice<T> {
    const PIECE: usize = 1 << 22;
    let number = |i| T::narrow(((i % 1013) as f32 / 500.0 - 1.0) * most);
    let piece: Vec<T> = (0..len.min(PIECE)).map(number).collect();
    let mut to = stream.alloc_zeros(len).unwrap();
    for start in (0..len).step_by(PIECE) {
        let end = len.min(start + PIECE);
        stream.memcpy_htod(&piece[..end - start], &mut to.slice_mut(start..end)).unwrap();
    }
    to
}
