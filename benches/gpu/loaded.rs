//! A case on the device, and the calls that are timed.

use std::sync::Arc;
use std::time::Duration;

use hyperscatter::cuda::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits};
use hyperscatter::cuda::{DeviceBatch, DeviceElement, Epilogue, Explanation, Plan, Request, Step, Workspace};
use hyperscatter::{Activation, EpilogueGradients, Operator, Out, Path, RowLayout, Rows, Weights};

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

    /// The operator that it calls.
    pub fn operator(self) -> Option<Operator> {
        match self {
            Self::Copy => None,
            Self::Of(operator) | Self::Own(operator) | Self::With(operator, ..) => Some(operator),
        }
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
            Self::With(Operator::ConvEpilogueBackward, ..) => "backward, GELU",
            Self::With(..) => "readout's backward, GELU",
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
    workspace: Workspace<T>,
    explanation: Explanation,
    /// Where rows of vertices are.
    vertices: RowLayout,
    pub copies: usize,
}

impl<T: Feature> Loaded<T> {
    /// As many of the `copies` as the memory has room for. Without `rotate` there are two sets of operands.
    pub fn new(batch: &DeviceBatch, run: Run, mut copies: usize, rotate: bool) -> Self {
        let Run { features, checks, .. } = run;
        let device = batch.device();
        let stream = device.context().default_stream();
        let copies_async = run.variant != Variant::DirectLoads;
        let plan = Plan::<T>::builder(batch, features).checks(checks).copies_async(copies_async);
        let paths: Vec<Path> = run.path.into_iter().collect();
        let plan = if paths.is_empty() { plan } else { plan.paths(&paths) }.build().unwrap();
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
        let set = |_| Set {
            x: numbers(&stream, len(n, copies)),
            y: stream.alloc_zeros(len(n, copies)).unwrap(),
            grad_x: stream.alloc_zeros(wanted(Operator::ConvBackward, len(n, copies))).unwrap(),
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
            bias: numbers(&stream, features),
            grad_bias: stream.alloc_zeros(features).unwrap(),
            workspace: plan.workspace_for(&stream, copies, &operators).unwrap(),
            explanation: plan.explain(copies).unwrap(),
            vertices,
            copies,
            stream,
        };
        // The command line may leave out the calls that write y (read as ∂loss/∂y) and both z.
        for set in 0..loaded.sets.len() {
            [Operator::VertexToHyperedge, Operator::ConvSavingZ]
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
        let is_own = matches!(call, Call::Own(_));
        let weights = match call {
            Call::Own(_) => Weights::consecutive(self.own_weights.as_view()),
            _ => Weights::shared(self.weights.as_view()),
        };
        let x_rows = Rows::new(x.as_view(), at);
        let operator = match call {
            Call::Copy => {
                return self.stream.memcpy_dtod(x, y).unwrap();
            }
            Call::Of(operator) | Call::Own(operator) | Call::With(operator, ..) => operator,
        };
        let (activation, has_residual) = match call {
            Call::With(_, activation, has_residual) => (activation, has_residual),
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
                let len = if is_own { self.own_weights.len() } else { self.weights.len() };
                let grad_weights = Out::Overwrite(self.grad_weights.slice_mut(..len));
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
                let grad_weights = self.grad_weights.slice_mut(..self.weights.len());
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
        let own = match call {
            Call::Own(Operator::Conv) => own,
            Call::Own(_) => 2 * own,
            _ => 0,
        };
        if let Call::With(_, activation, has_residual) = call {
            let request = Request::new(operator, self.copies).activation(activation);
            let request = request.residual(has_residual).residual_gradient(false);
            let explained = self.workspace.plan().explain_call(&request).unwrap();
            return Bytes { compulsory: explained.compulsory_bytes, uncached: explained.uncached_bytes };
        }
        let explained = self.explanation.of(operator);
        Bytes { compulsory: explained.compulsory_bytes + own, uncached: explained.uncached_bytes + own }
    }
}

/// Numbers on the device. Zeros would take less power to compute with, and so run at a higher clock.
fn numbers<T: Feature>(stream: &Arc<CudaStream>, len: usize) -> CudaSlice<T> {
    const PIECE: usize = 1 << 22;
    let piece: Vec<T> = (0..len.min(PIECE)).map(|i| T::narrow((i % 1013) as f32 / 500.0 - 1.0)).collect();
    let mut to = stream.alloc_zeros(len).unwrap();
    for start in (0..len).step_by(PIECE) {
        let end = len.min(start + PIECE);
        stream.memcpy_htod(&piece[..end - start], &mut to.slice_mut(start..end)).unwrap();
    }
    to
}
