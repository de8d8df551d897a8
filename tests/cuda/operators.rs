//! Calls of every operator in both tiers, on operands that a test may put where it likes.

pub use hyperscatter::Operator;
use hyperscatter::cuda::cudarc::driver::{
    CudaSlice, CudaStream, CudaViewMut, DevicePtr, DeviceRepr, ValidAsZeroBits, result, sys,
};
use hyperscatter::cuda::{Checks, Device, DeviceBatch, DevicePointer, DeviceWindows, Plan, Workspace};
use hyperscatter::{
    Activation, Axis, Batch, Conv, Element, Epilogue, EpilogueGradients, Incidence, LayerGradients,
    Normalization, Out, Repeats, Result, RowLayout, Rows, Step, StepGradients, WeightUse, Weights,
    WindowTable, Windows, cpu,
};
use hyperscatter_emulator::control::DeviceControl;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::gpu::{GpuElement, to_device};
use crate::common::{TestElement, bits, features, sums, weights};
pub use crate::layouts::{WindowKind, pairs};

/// The features of all rows here.
pub const F: usize = 8;

/// The convolution with the most kernels, but for the gather that leaves single incidences out.
pub fn symmetric() -> Conv {
    Conv::new(Normalization::Symmetric, WeightUse::Documented)
}

/// Short, medium and long rows in both orientations, an empty hyperedge, an isolated vertex and one of a
/// single incidence.
pub fn long_rows() -> Incidence {
    let edges = [vec![0u32; 600], vec![0, 1, 5], (0..20).map(|i| i % 5).collect(), vec![]];
    Incidence::from_edges(7, &edges, Repeats::Keep).unwrap()
}

/// Pairs of four, and a smaller topology with an empty hyperedge and an isolated vertex.
pub fn table_batch() -> Batch {
    let small = Incidence::from_edges(3, &[vec![0u32, 1], vec![]], Repeats::Keep).unwrap();
    Batch::from_table(vec![Incidence::subsets(4, 2).unwrap(), small], &[0, 1, 0, 0, 1]).unwrap()
}

/// A buffer of [`Operands`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    X,
    Z,
    GradY,
    GradZ,
    Y,
    NewZ,
    GradX,
    NewGradZ,
    Weights,
    VertexScale,
    SavedZ,
    GradWeights,
    GradVertexScale,
    Bias,
    GradBias,
    Residual,
    GradResidual,
    Readout,
    GradReadout,
    Matrix,
    GradMatrix,
    Theta,
    GradTheta,
}

/// An operand of a call: its buffer, its name in errors, and whether it is an output.
#[derive(Debug, Clone, Copy)]
pub struct Operand {
    pub part: Part,
    pub name: &'static str,
    pub is_output: bool,
}

const fn read(part: Part, name: &'static str) -> Operand {
    Operand { part, name, is_output: false }
}

const fn written(part: Part, name: &'static str) -> Operand {
    Operand { part, name, is_output: true }
}

const SCALES: [Operand; 2] =
    [read(Part::VertexScale, "vertex_scale"), read(Part::Weights, "hyperedge_scale")];
const SCALE_GRADIENTS: [Operand; 2] = [
    written(Part::GradVertexScale, "gradients.vertex_scale"),
    written(Part::GradWeights, "gradients.hyperedge_scale"),
];

/// What tests ask of an operator.
pub trait Operates {
    /// Whether it is a step or the gradient of one, with scales.
    fn is_step(&self) -> bool;

    /// Whether it has weights, or a scale of hyperedges.
    fn has_weights(&self) -> bool;

    /// Whether it takes the topologies of this batch, in rows of this type.
    fn takes<T>(&self, batch: &Batch) -> bool;

    fn operands(self) -> Vec<Operand>;
}

impl Operates for Operator {
    fn is_step(&self) -> bool {
        use Operator::{
            HyperedgeToVertex, HyperedgeToVertexBackward, VertexToHyperedge, VertexToHyperedgeBackward,
        };
        matches!(
            self,
            VertexToHyperedge | VertexToHyperedgeBackward | HyperedgeToVertex | HyperedgeToVertexBackward
        )
    }

    fn has_weights(&self) -> bool {
        !matches!(self, Self::Gram | Self::GramBackward)
    }

    fn takes<T>(&self, batch: &Batch) -> bool {
        match self {
            Self::ConvMatrix | Self::ConvMatrixBackward => has_matrix(batch),
            Self::Gram | Self::GramBackward => has_products(batch),
            Self::Layer | Self::LayerBackward => has_layers::<T>(batch),
            _ => true,
        }
    }

    fn operands(self) -> Vec<Operand> {
        use Part::{GradX, GradY, GradZ, NewGradZ, NewZ, SavedZ, X, Y, Z};
        let conv = |more: &[Operand]| [&[read(X, "x"), read(Part::Weights, "weights")], more].concat();
        let step = |rows: &[Operand]| [&SCALES[..], rows].concat();
        let gradients = |rows: &[Operand]| [&SCALES[..], &SCALE_GRADIENTS, rows].concat();
        let backward =
            [read(GradY, "grad_y"), written(GradX, "grad_x"), written(Part::GradWeights, "grad_weights")];
        let epilogue = |more: &[Operand]| conv(&[&[read(Part::Bias, "bias")], more].concat());
        let residual = read(Part::Residual, "residual");
        let gradients_of_epilogue = [
            written(GradX, "grad_x"),
            written(Part::GradWeights, "grad_weights"),
            written(Part::GradBias, "grad_bias"),
            written(Part::GradResidual, "grad_residual"),
        ];
        let epilogue_backward = |grad| epilogue(&[&[grad], &gradients_of_epilogue[..]].concat());
        let layer = |more: &[Operand]| epilogue(&[&[read(Part::Theta, "theta")], more].concat());
        match self {
            Self::VertexToHyperedge => step(&[read(X, "x"), written(NewZ, "z")]),
            Self::HyperedgeToVertex => step(&[read(Z, "z"), written(Y, "y")]),
            Self::VertexToHyperedgeBackward => {
                gradients(&[read(X, "x"), read(GradZ, "grad_z"), written(GradX, "grad_x")])
            }
            Self::HyperedgeToVertexBackward => {
                gradients(&[read(Z, "z"), read(GradY, "grad_y"), written(NewGradZ, "grad_z")])
            }
            Self::Conv => conv(&[written(Y, "y")]),
            Self::ConvSavingZ => conv(&[written(SavedZ, "z"), written(Y, "y")]),
            Self::ConvBackward => conv(&backward),
            Self::ConvBackwardFromZ => conv(&[&[read(SavedZ, "z")], &backward[..]].concat()),
            Self::ConvEpilogue => epilogue(&[residual, written(Y, "y")]),
            Self::ConvReadout => epilogue(&[residual, written(Part::Readout, "readout")]),
            Self::ConvEpilogueBackward => epilogue_backward(read(GradY, "grad_y")),
            Self::ConvReadoutBackward => epilogue_backward(read(Part::GradReadout, "grad_readout")),
            Self::ConvMatrix => {
                vec![read(Part::Weights, "weights"), written(Part::Matrix, "matrix")]
            }
            Self::ConvMatrixBackward => vec![
                read(Part::Weights, "weights"),
                read(Part::GradMatrix, "grad_matrix"),
                written(Part::GradWeights, "grad_weights"),
            ],
            Self::Gram => vec![read(X, "x"), written(Part::Matrix, "gram")],
            Self::GramBackward => {
                vec![read(X, "x"), read(Part::GradMatrix, "grad_gram"), written(GradX, "grad_x")]
            }
            Self::Layer => layer(&[residual, written(Y, "y")]),
            Self::LayerBackward => {
                let more = [read(GradY, "grad_y"), written(Part::GradTheta, "grad_theta")];
                layer(&[&more, &gradients_of_epilogue[..]].concat())
            }
            other => panic!("what are the operands of {other:?}?"),
        }
    }
}

/// Whether all topologies in use have inner products: by their vertices alone.
fn has_products(batch: &Batch) -> bool {
    batch.largest(Axis::Vertex) <= 64
}

/// Whether all topologies in use have a matrix of the convolution.
pub fn has_matrix(batch: &Batch) -> bool {
    let plan = cpu::Plan::<f32>::builder(batch, 1).build().unwrap();
    let mut workspace = plan.workspace(batch.n_instances().unwrap_or(0)).unwrap();
    workspace.conv_matrix(cpu::Weights::shared(&[]), Out::Skip).is_ok()
}

/// Whether a kernel has layers of these topologies, of as few features as here, on a device that has any.
fn has_layers<T>(batch: &Batch) -> bool {
    size_of::<T>() <= size_of::<f32>() && batch.largest(Axis::Vertex) <= 16 && has_matrix(batch)
}

/// The values of the matrices of so many instances; of topologies that are too large there are none.
pub fn values_of_matrices(batch: &Batch, instances: usize) -> usize {
    if has_products(batch) { instances * batch.largest(Axis::Vertex).pow(2) } else { 0 }
}

/// A buffer of rows of elements, or of sums.
pub enum Buffer<R, S> {
    Rows(R),
    Sums(S),
}

/// The buffers of all calls: `R` are elements, `S` numbers of the accumulation type. The weights are the
/// scale of hyperedges, too.
#[derive(Clone)]
pub struct Operands<R, S> {
    pub x: R,
    pub z: R,
    pub grad_y: R,
    pub grad_z: R,
    pub y: R,
    pub new_z: R,
    pub grad_x: R,
    pub new_grad_z: R,
    pub weights: S,
    pub vertex_scale: S,
    pub saved: S,
    pub grad_weights: S,
    pub grad_vertex_scale: S,
    pub bias: S,
    pub grad_bias: S,
    pub residual: R,
    pub grad_residual: R,
    /// A row for each instance, as the next.
    pub readout: R,
    pub grad_readout: R,
    /// A matrix for each instance, as the next.
    pub matrix: S,
    pub grad_matrix: S,
    /// Of as many inputs as features.
    pub theta: R,
    pub grad_theta: S,
}

pub type OnHost<T> = Operands<Vec<T>, Vec<<T as Element>::Acc>>;
pub type Slices<T> = Operands<CudaSlice<T>, CudaSlice<<T as Element>::Acc>>;
pub type Pointers<T> = Operands<DevicePointer<T>, DevicePointer<<T as Element>::Acc>>;

impl Part {
    pub const ALL: [Self; 23] = [
        Self::X,
        Self::Z,
        Self::GradY,
        Self::GradZ,
        Self::Y,
        Self::NewZ,
        Self::GradX,
        Self::NewGradZ,
        Self::Weights,
        Self::VertexScale,
        Self::SavedZ,
        Self::GradWeights,
        Self::GradVertexScale,
        Self::Bias,
        Self::GradBias,
        Self::Residual,
        Self::GradResidual,
        Self::Readout,
        Self::GradReadout,
        Self::Matrix,
        Self::GradMatrix,
        Self::Theta,
        Self::GradTheta,
    ];

    pub fn is_written(self) -> bool {
        use Part::{GradBias, GradResidual, GradTheta, GradVertexScale, GradWeights, GradX, NewGradZ};
        let of_parameters = matches!(self, GradWeights | GradVertexScale | GradBias | GradTheta);
        let of_rows = matches!(self, GradX | NewGradZ | GradResidual);
        let is_result = matches!(self, Self::Y | Self::NewZ | Self::SavedZ | Self::Readout | Self::Matrix);
        of_parameters || of_rows || is_result
    }
}

impl<R, S> Operands<R, S> {
    pub fn each_ref(&self) -> Operands<&R, &S> {
        Operands {
            x: &self.x,
            z: &self.z,
            grad_y: &self.grad_y,
            grad_z: &self.grad_z,
            y: &self.y,
            new_z: &self.new_z,
            grad_x: &self.grad_x,
            new_grad_z: &self.new_grad_z,
            weights: &self.weights,
            vertex_scale: &self.vertex_scale,
            saved: &self.saved,
            grad_weights: &self.grad_weights,
            grad_vertex_scale: &self.grad_vertex_scale,
            bias: &self.bias,
            grad_bias: &self.grad_bias,
            residual: &self.residual,
            grad_residual: &self.grad_residual,
            readout: &self.readout,
            grad_readout: &self.grad_readout,
            matrix: &self.matrix,
            grad_matrix: &self.grad_matrix,
            theta: &self.theta,
            grad_theta: &self.grad_theta,
        }
    }

    pub fn map<Q, A>(self, mut rows: impl FnMut(R) -> Q, mut sums: impl FnMut(S) -> A) -> Operands<Q, A> {
        Operands {
            x: rows(self.x),
            z: rows(self.z),
            grad_y: rows(self.grad_y),
            grad_z: rows(self.grad_z),
            y: rows(self.y),
            new_z: rows(self.new_z),
            grad_x: rows(self.grad_x),
            new_grad_z: rows(self.new_grad_z),
            weights: sums(self.weights),
            vertex_scale: sums(self.vertex_scale),
            saved: sums(self.saved),
            grad_weights: sums(self.grad_weights),
            grad_vertex_scale: sums(self.grad_vertex_scale),
            bias: sums(self.bias),
            grad_bias: sums(self.grad_bias),
            residual: rows(self.residual),
            grad_residual: rows(self.grad_residual),
            readout: rows(self.readout),
            grad_readout: rows(self.grad_readout),
            matrix: sums(self.matrix),
            grad_matrix: sums(self.grad_matrix),
            theta: rows(self.theta),
            grad_theta: sums(self.grad_theta),
        }
    }

    pub fn part(&mut self, part: Part) -> Buffer<&mut R, &mut S> {
        match part {
            Part::X => Buffer::Rows(&mut self.x),
            Part::Z => Buffer::Rows(&mut self.z),
            Part::GradY => Buffer::Rows(&mut self.grad_y),
            Part::GradZ => Buffer::Rows(&mut self.grad_z),
            Part::Y => Buffer::Rows(&mut self.y),
            Part::NewZ => Buffer::Rows(&mut self.new_z),
            Part::GradX => Buffer::Rows(&mut self.grad_x),
            Part::NewGradZ => Buffer::Rows(&mut self.new_grad_z),
            Part::Weights => Buffer::Sums(&mut self.weights),
            Part::VertexScale => Buffer::Sums(&mut self.vertex_scale),
            Part::SavedZ => Buffer::Sums(&mut self.saved),
            Part::GradWeights => Buffer::Sums(&mut self.grad_weights),
            Part::GradVertexScale => Buffer::Sums(&mut self.grad_vertex_scale),
            Part::Bias => Buffer::Sums(&mut self.bias),
            Part::GradBias => Buffer::Sums(&mut self.grad_bias),
            Part::Residual => Buffer::Rows(&mut self.residual),
            Part::GradResidual => Buffer::Rows(&mut self.grad_residual),
            Part::Readout => Buffer::Rows(&mut self.readout),
            Part::GradReadout => Buffer::Rows(&mut self.grad_readout),
            Part::Matrix => Buffer::Sums(&mut self.matrix),
            Part::GradMatrix => Buffer::Sums(&mut self.grad_matrix),
            Part::Theta => Buffer::Rows(&mut self.theta),
            Part::GradTheta => Buffer::Sums(&mut self.grad_theta),
        }
    }

    /// Exchanges one buffer.
    pub fn swap(&mut self, part: Part, other: &mut Self) {
        match (self.part(part), other.part(part)) {
            (Buffer::Rows(a), Buffer::Rows(b)) => std::mem::swap(a, b),
            (Buffer::Sums(a), Buffer::Sums(b)) => std::mem::swap(a, b),
            _ => unreachable!("one part has one type"),
        }
    }
}

/// Windows of scales of vertices, and of weights (and scales) of hyperedges.
pub struct AllWindows {
    pub vertices: Windows<Box<DeviceWindows>>,
    pub hyperedges: Windows<Box<DeviceWindows>>,
    /// The values that they are windows of.
    lens: [usize; 2],
}

impl AllWindows {
    /// Windows of one kind for so many instances.
    pub fn upload(batch: &DeviceBatch, instances: usize, kind: WindowKind) -> Result<Self> {
        let host = batch.batch();
        Ok(match kind {
            WindowKind::Shared => Self {
                vertices: Windows::Shared,
                hyperedges: Windows::Shared,
                lens: [host.largest(Axis::Vertex), host.largest(Axis::Hyperedge)],
            },
            WindowKind::Consecutive => Self {
                vertices: Windows::Consecutive,
                hyperedges: Windows::Consecutive,
                lens: [host.start(Axis::Vertex, instances), host.start(Axis::Hyperedge, instances)],
            },
            WindowKind::Table => {
                // Windows overlap, and no window covers the first value nor the last.
                let offsets: Vec<u64> = (0..instances as u64).map(|g| 1 + 5 * (g % 3)).collect();
                let upload = |table| Ok(Windows::Table(Box::new(batch.upload_windows(&table)?)));
                Self {
                    vertices: upload(WindowTable::for_vertices(host, &offsets)?)?,
                    hyperedges: upload(WindowTable::new(host, &offsets)?)?,
                    lens: [host.largest(Axis::Vertex) + 12, host.largest(Axis::Hyperedge) + 12],
                }
            }
        })
    }
}

impl<T: TestElement> OnHost<T> {
    /// For these instances; outputs hold what may be added to.
    pub fn new(batch: &Batch, instances: usize, windows: &AllWindows, seed: u64) -> Self {
        let [vertex_values, hyperedge_values] = windows.lens;
        let (n, m) = (batch.start(Axis::Vertex, instances) * F, batch.start(Axis::Hyperedge, instances) * F);
        let mut seed = 100 * seed;
        let mut next = || {
            seed += 1;
            seed
        };
        Self {
            x: features(next(), n),
            z: features(next(), m),
            grad_y: features(next(), n),
            grad_z: features(next(), m),
            y: features(next(), n),
            new_z: features(next(), m),
            grad_x: features(next(), n),
            new_grad_z: features(next(), m),
            weights: weights::<T>(next(), hyperedge_values, false),
            vertex_scale: weights::<T>(next(), vertex_values, true),
            saved: sums::<T>(next(), m),
            grad_weights: sums::<T>(next(), hyperedge_values),
            grad_vertex_scale: sums::<T>(next(), vertex_values),
            bias: sums::<T>(next(), F),
            grad_bias: sums::<T>(next(), F),
            residual: features(next(), n),
            grad_residual: features(next(), n),
            readout: features(next(), instances * F),
            grad_readout: features(next(), instances * F),
            matrix: sums::<T>(next(), values_of_matrices(batch, instances)),
            grad_matrix: sums::<T>(next(), values_of_matrices(batch, instances)),
            theta: features(next(), F * F),
            grad_theta: sums::<T>(next(), F * F),
        }
    }
}

/// What calls have besides their operands.
#[derive(Clone, Copy)]
pub struct How<'a> {
    pub windows: &'a AllWindows,
    /// Whether results are added.
    pub add: bool,
    /// Where the rows of all feature operands lie.
    pub layout: RowLayout,
}

impl<'a> How<'a> {
    pub fn overwriting(windows: &'a AllWindows) -> Self {
        Self { windows, add: false, layout: RowLayout::contiguous(F) }
    }

    fn out<B>(self, buffer: B) -> Out<B> {
        if self.add { Out::Accumulate(buffer) } else { Out::Overwrite(buffer) }
    }

    fn rows<B>(self, buffer: B) -> Rows<B> {
        Rows { buffer, layout: self.layout }
    }

    fn out_rows<B>(self, buffer: B) -> Out<Rows<B>> {
        self.out(self.rows(buffer))
    }

    fn weights<B>(self, values: B) -> Weights<B, &'a DeviceWindows> {
        Weights { values, windows: self.windows.hyperedges.as_deref() }
    }

    fn step<B>(self, vertex_scale: B, hyperedge_scale: B) -> Step<Weights<B, &'a DeviceWindows>> {
        let vertex_scale = Weights { values: vertex_scale, windows: self.windows.vertices.as_deref() };
        let hyperedge_scale = self.weights(hyperedge_scale);
        Step::mean().vertex_scale(vertex_scale).hyperedge_scale(hyperedge_scale)
    }

    /// The activation with the most operations.
    fn epilogue<B>(self, bias: B) -> Epilogue<B> {
        Epilogue::new(Activation::Gelu).bias(bias)
    }

    fn gradients_of_epilogue<R, S>(self, x: R, weights: S, bias: S, residual: R) -> EpilogueGradients<R, S> {
        EpilogueGradients::none()
            .x(self.out_rows(x))
            .weights(self.out(weights))
            .bias(self.out(bias))
            .residual(self.out_rows(residual))
    }

    fn gradients_of_layer<R, S>(
        self,
        (x, residual): (R, R),
        [theta, weights, bias]: [S; 3],
    ) -> LayerGradients<R, S> {
        LayerGradients::none()
            .x(self.out_rows(x))
            .theta(self.out(theta))
            .weights(self.out(weights))
            .bias(self.out(bias))
            .residual(self.out_rows(residual))
    }

    fn gradients<'b, R, S>(
        self,
        rows: &'b mut CudaSlice<R>,
        vertex_scale: &'b mut CudaSlice<S>,
        hyperedge_scale: &'b mut CudaSlice<S>,
    ) -> StepGradients<CudaViewMut<'b, R>, CudaViewMut<'b, S>> {
        StepGradients::none()
            .rows(self.out_rows(rows.as_view_mut()))
            .vertex_scale(self.out(vertex_scale.as_view_mut()))
            .hyperedge_scale(self.out(hyperedge_scale.as_view_mut()))
    }
}

impl<T: GpuElement> Slices<T> {
    pub fn upload(stream: &Arc<CudaStream>, host: &OnHost<T>) -> Self {
        host.each_ref().map(|rows| to_device(stream, rows), |sums| to_device(stream, sums))
    }

    /// Writes new values into the same memory.
    pub fn write(&mut self, stream: &Arc<CudaStream>, host: &mut OnHost<T>) {
        for part in Part::ALL {
            match (self.part(part), host.part(part)) {
                (Buffer::Rows(to), Buffer::Rows(from)) => stream.memcpy_htod(from, to).unwrap(),
                (Buffer::Sums(to), Buffer::Sums(from)) => stream.memcpy_htod(from, to).unwrap(),
                _ => unreachable!("one part has one type"),
            }
        }
        stream.synchronize().unwrap();
    }

    /// Makes a call of the safe tier.
    pub fn call(&mut self, call: Operator, workspace: &mut Workspace<T>, how: How<'_>) -> Result<()> {
        let Self { x, z, grad_y, grad_z, y, new_z, grad_x, new_grad_z, .. } = self;
        let Self { weights, vertex_scale, saved, grad_weights, grad_vertex_scale, .. } = self;
        let Self { bias, grad_bias, residual, grad_residual, readout, grad_readout, .. } = self;
        let Self { matrix, grad_matrix, theta, grad_theta, .. } = self;
        let epilogue = how.epilogue(bias.as_view());
        let step = how.step(vertex_scale.as_view(), weights.as_view());
        let weights = how.weights(weights.as_view());
        let (x, z) = (how.rows(x.as_view()), how.rows(z.as_view()));
        match call {
            Operator::VertexToHyperedge => {
                workspace.vertex_to_hyperedge(&step, x, how.out_rows(new_z.as_view_mut()))
            }
            Operator::VertexToHyperedgeBackward => {
                let gradients = how.gradients(grad_x, grad_vertex_scale, grad_weights);
                workspace.vertex_to_hyperedge_backward(&step, x, how.rows(grad_z.as_view()), gradients)
            }
            Operator::HyperedgeToVertex => {
                workspace.hyperedge_to_vertex(&step, z, how.out_rows(y.as_view_mut()))
            }
            Operator::HyperedgeToVertexBackward => {
                let gradients = how.gradients(new_grad_z, grad_vertex_scale, grad_weights);
                workspace.hyperedge_to_vertex_backward(&step, z, how.rows(grad_y.as_view()), gradients)
            }
            Operator::Conv => workspace.conv(x, weights, how.out_rows(y.as_view_mut())),
            Operator::ConvSavingZ => workspace.conv_saving_z(
                x,
                weights,
                how.rows(saved.as_view_mut()),
                how.out_rows(y.as_view_mut()),
            ),
            Operator::ConvBackward => {
                let (grad_x, grad_w) =
                    (how.out_rows(grad_x.as_view_mut()), how.out(grad_weights.as_view_mut()));
                workspace.conv_backward(x, weights, how.rows(grad_y.as_view()), grad_x, grad_w)
            }
            Operator::ConvBackwardFromZ => {
                let (grad_x, grad_w) =
                    (how.out_rows(grad_x.as_view_mut()), how.out(grad_weights.as_view_mut()));
                let (z, g) = (how.rows(saved.as_view()), how.rows(grad_y.as_view()));
                workspace.conv_backward_from_z(x, z, weights, g, grad_x, grad_w)
            }
            Operator::ConvEpilogue => {
                let y = how.out_rows(y.as_view_mut());
                workspace.conv_epilogue(x, weights, &epilogue, Some(how.rows(residual.as_view())), y)
            }
            Operator::ConvReadout => {
                let readout = how.out(readout.as_view_mut());
                workspace.conv_readout(x, weights, &epilogue, Some(how.rows(residual.as_view())), readout)
            }
            Operator::ConvEpilogueBackward | Operator::ConvReadoutBackward => {
                let gradients = how.gradients_of_epilogue(
                    grad_x.as_view_mut(),
                    grad_weights.as_view_mut(),
                    grad_bias.as_view_mut(),
                    grad_residual.as_view_mut(),
                );
                if call == Operator::ConvEpilogueBackward {
                    let g = how.rows(grad_y.as_view());
                    return workspace.conv_epilogue_backward(x, weights, &epilogue, g, gradients);
                }
                workspace.conv_readout_backward(x, weights, &epilogue, grad_readout.as_view(), gradients)
            }
            Operator::ConvMatrix => workspace.conv_matrix(weights, how.out(matrix.as_view_mut())),
            Operator::ConvMatrixBackward => {
                let grad_weights = how.out(grad_weights.as_view_mut());
                workspace.conv_matrix_backward(weights, grad_matrix.as_view(), grad_weights)
            }
            Operator::Gram => workspace.gram(x, how.out(matrix.as_view_mut())),
            Operator::GramBackward => {
                workspace.gram_backward(x, grad_matrix.as_view(), how.out_rows(grad_x.as_view_mut()))
            }
            Operator::Layer => {
                let (residual, y) = (Some(how.rows(residual.as_view())), how.out_rows(y.as_view_mut()));
                workspace.layer(x, theta.as_view(), weights, &epilogue, residual, y)
            }
            Operator::LayerBackward => {
                let of_sums = [grad_theta, grad_weights, grad_bias].map(|sums| sums.as_view_mut());
                let gradients =
                    how.gradients_of_layer((grad_x.as_view_mut(), grad_residual.as_view_mut()), of_sums);
                let g = how.rows(grad_y.as_view());
                workspace.layer_backward(x, theta.as_view(), weights, &epilogue, g, gradients)
            }
            other => panic!("{other:?} is not called here"),
        }
    }

    /// Where the buffers are. Nothing may be in flight that uses them.
    pub fn pointers(&self) -> Pointers<T> {
        fn pointer<U>(slice: &CudaSlice<U>) -> DevicePointer<U> {
            DevicePointer::new(slice.device_ptr(slice.stream()).0, slice.len())
        }
        self.each_ref().map(pointer, pointer)
    }

    /// The bits of all outputs, once the stream is done.
    pub fn results(&self, stream: &Arc<CudaStream>) -> Vec<(Part, Vec<u64>)> {
        fn read<U: Element + DeviceRepr>(stream: &Arc<CudaStream>, slice: &CudaSlice<U>) -> Vec<u64> {
            let host = stream.clone_dtoh(slice).unwrap();
            stream.synchronize().unwrap();
            bits(&host)
        }
        let mut all = self.each_ref().map(|rows| read(stream, rows), |sums| read(stream, sums));
        let written = Part::ALL.into_iter().filter(|part| part.is_written());
        written
            .map(|part| match all.part(part) {
                Buffer::Rows(bits) | Buffer::Sums(bits) => (part, std::mem::take(bits)),
            })
            .collect()
    }
}

impl<T: GpuElement> Pointers<T> {
    /// Makes a call of the raw tier.
    ///
    /// # Safety
    /// The contract of the raw tier.
    pub unsafe fn call(
        &self,
        call: Operator,
        workspace: &mut Workspace<T>,
        stream: sys::CUstream,
        how: How<'_>,
    ) -> Result<()> {
        let step = how.step(self.vertex_scale, self.weights);
        let weights = how.weights(self.weights);
        let gradients = |gradient| {
            StepGradients::none()
                .rows(how.out_rows(gradient))
                .vertex_scale(how.out(self.grad_vertex_scale))
                .hyperedge_scale(how.out(self.grad_weights))
        };
        let (x, z, grad_y, grad_z) =
            (how.rows(self.x), how.rows(self.z), how.rows(self.grad_y), how.rows(self.grad_z));
        let (y, grad_x, grad_weights) =
            (how.out_rows(self.y), how.out_rows(self.grad_x), how.out(self.grad_weights));
        let (epilogue, residual) = (how.epilogue(self.bias), Some(how.rows(self.residual)));
        let of_epilogue =
            how.gradients_of_epilogue(self.grad_x, self.grad_weights, self.grad_bias, self.grad_residual);
        // SAFETY: the caller's promise.
        unsafe {
            match call {
                Operator::VertexToHyperedge => {
                    workspace.vertex_to_hyperedge_raw(stream, &step, x, how.out_rows(self.new_z))
                }
                Operator::VertexToHyperedgeBackward => {
                    let gradients = gradients(self.grad_x);
                    workspace.vertex_to_hyperedge_backward_raw(stream, &step, x, grad_z, gradients)
                }
                Operator::HyperedgeToVertex => workspace.hyperedge_to_vertex_raw(stream, &step, z, y),
                Operator::HyperedgeToVertexBackward => {
                    let gradients = gradients(self.new_grad_z);
                    workspace.hyperedge_to_vertex_backward_raw(stream, &step, z, grad_y, gradients)
                }
                Operator::Conv => workspace.conv_raw(stream, x, weights, y),
                Operator::ConvSavingZ => {
                    workspace.conv_saving_z_raw(stream, x, weights, how.rows(self.saved), y)
                }
                Operator::ConvBackward => {
                    workspace.conv_backward_raw(stream, x, weights, grad_y, grad_x, grad_weights)
                }
                Operator::ConvBackwardFromZ => {
                    let z = how.rows(self.saved);
                    workspace.conv_backward_from_z_raw(stream, x, z, weights, grad_y, grad_x, grad_weights)
                }
                Operator::ConvEpilogue => {
                    workspace.conv_epilogue_raw(stream, x, weights, &epilogue, residual, y)
                }
                Operator::ConvReadout => {
                    let readout = how.out(self.readout);
                    workspace.conv_readout_raw(stream, x, weights, &epilogue, residual, readout)
                }
                Operator::ConvEpilogueBackward => {
                    let gradients = of_epilogue;
                    workspace.conv_epilogue_backward_raw(stream, x, weights, &epilogue, grad_y, gradients)
                }
                Operator::ConvReadoutBackward => {
                    let (grad, gradients) = (self.grad_readout, of_epilogue);
                    workspace.conv_readout_backward_raw(stream, x, weights, &epilogue, grad, gradients)
                }
                Operator::ConvMatrix => workspace.conv_matrix_raw(stream, weights, how.out(self.matrix)),
                Operator::ConvMatrixBackward => {
                    workspace.conv_matrix_backward_raw(stream, weights, self.grad_matrix, grad_weights)
                }
                Operator::Gram => workspace.gram_raw(stream, x, how.out(self.matrix)),
                Operator::GramBackward => workspace.gram_backward_raw(stream, x, self.grad_matrix, grad_x),
                Operator::Layer => {
                    workspace.layer_raw(stream, x, self.theta, weights, &epilogue, residual, y)
                }
                Operator::LayerBackward => {
                    let of_sums = [self.grad_theta, self.grad_weights, self.grad_bias];
                    let gradients = how.gradients_of_layer((self.grad_x, self.grad_residual), of_sums);
                    let (theta, g) = (self.theta, grad_y);
                    workspace.layer_backward_raw(stream, x, theta, weights, &epilogue, g, gradients)
                }
                other => panic!("{other:?} is not called here"),
            }
        }
    }
}

/// Lends memory at any addresses to `f`, as `cudarc`'s slices.
///
/// # Safety
/// The memory is alive and of the stream's context, and nobody else uses it meanwhile. Slices that overlap
/// are for calls that are refused.
pub unsafe fn with_slices<T: GpuElement, Q>(
    stream: &Arc<CudaStream>,
    pointers: &Pointers<T>,
    f: impl FnOnce(&mut Slices<T>) -> Q,
) -> Q {
    /// # Safety
    /// As above.
    unsafe fn slice<U: DeviceRepr + ValidAsZeroBits>(
        stream: &Arc<CudaStream>,
        pointer: &DevicePointer<U>,
    ) -> CudaSlice<U> {
        // SAFETY: the caller's promise.
        unsafe { stream.upgrade_device_ptr(pointer.address, pointer.len) }
    }
    let pointers = pointers.each_ref();
    // SAFETY: the caller's promise.
    let mut slices =
        pointers.map(|rows| unsafe { slice(stream, rows) }, |sums| unsafe { slice(stream, sums) });
    let result = f(&mut slices);
    slices.map(
        |rows| {
            rows.leak();
        },
        |sums| {
            sums.leak();
        },
    );
    result
}

/// A plan of a batch on a device, its windows, and operands.
pub struct Case<T: GpuElement> {
    pub plan: Plan<T>,
    pub windows: AllWindows,
    pub instances: usize,
    pub host: OnHost<T>,
}

impl<T: GpuElement> Case<T> {
    pub fn new(
        device: &Device,
        (batch, instances): (&Batch, usize),
        conv: Conv,
        checks: Checks,
        kind: WindowKind,
    ) -> Self {
        Self::on(&device.upload(batch).unwrap(), instances, conv, checks, kind)
    }

    pub fn on(batch: &DeviceBatch, instances: usize, conv: Conv, checks: Checks, kind: WindowKind) -> Self {
        let windows = AllWindows::upload(batch, instances, kind).unwrap();
        let plan = Plan::builder(batch, F).conv(conv).checks(checks).build().unwrap();
        let host = OnHost::new(batch.batch(), instances, &windows, 1);
        Self { plan, windows, instances, host }
    }

    pub fn workspace(&self, stream: &Arc<CudaStream>) -> Workspace<T> {
        self.plan.workspace_for(stream, self.instances, Operator::ALL).unwrap()
    }

    pub fn how(&self) -> How<'_> {
        How::overwriting(&self.windows)
    }
}

/// A stream that `cudarc` knows nothing of, as another framework's.
pub struct RawStream(sys::CUstream);

impl RawStream {
    /// The device's context becomes current.
    pub fn new(device: &Device) -> Self {
        device.context().bind_to_thread().unwrap();
        Self(result::stream::create(result::stream::StreamKind::NonBlocking).unwrap())
    }

    pub fn get(&self) -> sys::CUstream {
        self.0
    }

    pub fn synchronize(&self) {
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(self.0) }.unwrap();
    }
}

impl Drop for RawStream {
    fn drop(&mut self) {
        // SAFETY: made in `new`, and destroyed only here.
        let destroyed = unsafe { result::stream::destroy(self.0) };
        assert!(destroyed.is_ok() || std::thread::panicking(), "{destroyed:?}");
    }
}

/// The calls of the driver that `f` makes, by name.
pub fn driver_calls(control: &DeviceControl, f: impl FnOnce()) -> BTreeMap<String, u64> {
    control.reset_calls();
    f();
    control.calls()
}

/// Calls by name, as [`driver_calls`] gives them; those that are not made are left out.
pub fn named(calls: &[(&str, u64)]) -> BTreeMap<String, u64> {
    calls.iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_string(), *n)).collect()
}
