//! Every operator has the bits of the library's own, on both backends, whatever the type, the windows, the
//! strides and what becomes of outputs.

use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use hyperscatter::cuda::DeviceElement;
use hyperscatter::cuda::cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, DevicePtr, DeviceRepr, ValidAsZeroBits,
};
use hyperscatter::half::{bf16, f16};
use hyperscatter::{
    Accumulator, Activation, Axis, Batch, Conv, Element, Epilogue, EpilogueGradients, Incidence,
    LayerGradients, Normalization, Operator, Out, Repeats, RowLayout, Rows, Step, StepGradients, WeightUse,
    WindowTable, cpu,
};
use hyperscatter_c::*;
use hyperscatter_emulator::control::install;

use super::allocator::allocations;

const F: usize = 5;

/// An operand of rows: of elements of vertices or hyperedges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum R {
    X,
    Z,
    GradY,
    GradZ,
    Residual,
    Y,
    NewZ,
    GradX,
    NewGradZ,
    GradResidual,
    // Of the accumulation type.
    SavedZ,
    NewSavedZ,
}

impl R {
    const ALL: [Self; 12] = [
        Self::X,
        Self::Z,
        Self::GradY,
        Self::GradZ,
        Self::Residual,
        Self::Y,
        Self::NewZ,
        Self::GradX,
        Self::NewGradZ,
        Self::GradResidual,
        Self::SavedZ,
        Self::NewSavedZ,
    ];

    fn axis(self) -> Axis {
        match self {
            Self::X | Self::GradY | Self::Residual | Self::Y | Self::GradX | Self::GradResidual => {
                Axis::Vertex
            }
            _ => Axis::Hyperedge,
        }
    }
}

/// An operand of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum V {
    Weights,
    Scale,
    Bias,
    GradMatrix,
    GradWeights,
    GradScale,
    GradBias,
    GradTheta,
    Matrix,
}

impl V {
    const ALL: [Self; 9] = [
        Self::Weights,
        Self::Scale,
        Self::Bias,
        Self::GradMatrix,
        Self::GradWeights,
        Self::GradScale,
        Self::GradBias,
        Self::GradTheta,
        Self::Matrix,
    ];
}

/// Windows of weights, and of scales of vertices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Shared,
    Consecutive,
    Table,
}

/// A batch, and how operands lie.
struct Case {
    batch: Batch,
    instances: usize,
    kind: Kind,
    /// Whether rows of all instances follow each other at the row stride.
    packed: bool,
    mode: u32,
    offsets: Vec<u64>,
}

impl Case {
    fn new(batch: Batch, instances: usize, kind: Kind, packed: bool, mode: u32) -> Self {
        let offsets = (0..instances as u64).map(|g| 2 * (g % 3)).collect();
        Self { batch, instances, kind, packed, mode, offsets }
    }

    fn row_stride(&self, of: R) -> usize {
        F + 1 + of as usize % 4
    }

    fn rows(&self, of: R) -> usize {
        if self.packed { self.batch.start(of.axis(), self.instances) } else { self.batch.largest(of.axis()) }
    }

    fn instance_stride(&self, of: R) -> usize {
        self.rows(of) * self.row_stride(of) + of as usize
    }

    fn layout(&self, of: R) -> RowLayout {
        let layout = RowLayout::contiguous(F).row_stride(self.row_stride(of)).instances(self.instances);
        if self.packed { layout } else { layout.instance_stride(self.instance_stride(of)) }
    }

    fn len(&self, of: R) -> usize {
        let outer = if self.packed { 0 } else { (self.instances - 1) * self.instance_stride(of) };
        outer + (self.rows(of) - 1) * self.row_stride(of) + F
    }

    fn values(&self, of: V) -> usize {
        let windows = |axis: Axis| match self.kind {
            Kind::Shared => self.batch.largest(axis),
            Kind::Consecutive => self.batch.start(axis, self.instances),
            Kind::Table => self.batch.largest(axis) + 4,
        };
        match of {
            V::Weights | V::GradWeights => windows(Axis::Hyperedge),
            V::Scale | V::GradScale => windows(Axis::Vertex),
            V::Bias | V::GradBias => F,
            V::GradTheta => F * F,
            V::GradMatrix | V::Matrix => self.instances * self.batch.largest(Axis::Vertex).pow(2),
        }
    }
}

/// All operands, on the host.
#[derive(Clone, PartialEq, Debug)]
struct Operands<T: Element> {
    rows: Vec<Vec<T>>,
    sums: Vec<Vec<T::Acc>>,
    values: Vec<Vec<T::Acc>>,
    readouts: [Vec<T>; 2],
    theta: [Vec<T>; 1],
}

pub(crate) fn numbers<T: Element>(seed: usize, len: usize, least: f64) -> Vec<T> {
    let number = |i: usize| least + ((i * 37 + seed * 11) % 23) as f64 / 23.0;
    (0..len).map(|i| T::narrow(T::Acc::from_f64(number(i)))).collect()
}

impl<T: Element> Operands<T> {
    fn new(case: &Case) -> Self {
        let elements = R::ALL.map(|of| numbers::<T>(of as usize, case.len(of), -0.4));
        let sums = R::ALL.map(|of| numbers::<T::Acc>(20 + of as usize, case.len(of), -0.4));
        let values = V::ALL.map(|of| numbers::<T::Acc>(40 + of as usize, case.values(of), 0.1));
        let readouts = [60, 61].map(|seed| numbers::<T>(seed, case.instances * F, -0.4));
        let theta = [numbers::<T>(62, F * F, -0.4)];
        Self { rows: elements.into(), sums: sums.into(), values: values.into(), readouts, theta }
    }
}

/// The library's own call on the CPU.
fn own<T: Element>(
    case: &Case,
    workspace: &mut cpu::Workspace<T>,
    operator: Operator,
    operands: &mut Operands<T>,
) -> hyperscatter::Result<()> {
    fn out<B>(case: &Case, buffer: B) -> Out<B> {
        match case.mode {
            HS_SKIP => Out::Skip,
            HS_OVERWRITE => Out::Overwrite(buffer),
            _ => Out::Accumulate(buffer),
        }
    }
    let from = operands.clone();
    let tables = (
        WindowTable::for_vertices(&case.batch, &case.offsets).unwrap(),
        WindowTable::new(&case.batch, &case.offsets).unwrap(),
    );
    fn weights<'a, A>(kind: Kind, values: &'a [A], table: &'a WindowTable) -> cpu::Weights<'a, A> {
        match kind {
            Kind::Shared => cpu::Weights::shared(values),
            Kind::Consecutive => cpu::Weights::consecutive(values),
            Kind::Table => cpu::Weights::table(values, table),
        }
    }
    let rows = |of: R| Rows::new(&from.rows[of as usize][..], case.layout(of));
    let w = weights(case.kind, &from.values[V::Weights as usize], &tables.1);
    let scale = weights(case.kind, &from.values[V::Scale as usize], &tables.0);
    let step = Step::mean().vertex_scale(scale).hyperedge_scale(w);
    let epilogue = Epilogue::new(Activation::Silu).bias(&from.values[V::Bias as usize][..]);
    let [y, new_z, grad_x, new_grad_z, grad_residual] = operands
        .rows
        .get_disjoint_mut([R::Y, R::NewZ, R::GradX, R::NewGradZ, R::GradResidual].map(|r| r as usize))
        .unwrap();
    let [grad_w, grad_scale, grad_bias, grad_theta, matrix] = operands
        .values
        .get_disjoint_mut(
            [V::GradWeights, V::GradScale, V::GradBias, V::GradTheta, V::Matrix].map(|v| v as usize),
        )
        .unwrap();
    let out_rows = |of: R, buffer| out(case, Rows { buffer, layout: case.layout(of) });
    let of_scales = |rows, grad_scale, grad_w| {
        StepGradients::none()
            .rows(rows)
            .vertex_scale(out(case, grad_scale))
            .hyperedge_scale(out(case, grad_w))
    };
    let saved = Rows::new(&from.sums[R::SavedZ as usize][..], case.layout(R::SavedZ));
    match operator {
        Operator::VertexToHyperedge => {
            workspace.vertex_to_hyperedge(&step, rows(R::X), out_rows(R::NewZ, &mut new_z[..]))
        }
        Operator::VertexToHyperedgeBackward => workspace.vertex_to_hyperedge_backward(
            &step,
            rows(R::X),
            rows(R::GradZ),
            of_scales(out_rows(R::GradX, &mut grad_x[..]), &mut grad_scale[..], &mut grad_w[..]),
        ),
        Operator::HyperedgeToVertex => {
            workspace.hyperedge_to_vertex(&step, rows(R::Z), out_rows(R::Y, &mut y[..]))
        }
        Operator::HyperedgeToVertexBackward => workspace.hyperedge_to_vertex_backward(
            &step,
            rows(R::Z),
            rows(R::GradY),
            of_scales(out_rows(R::NewGradZ, &mut new_grad_z[..]), &mut grad_scale[..], &mut grad_w[..]),
        ),
        Operator::Conv => workspace.conv(rows(R::X), w, out_rows(R::Y, &mut y[..])),
        Operator::ConvSavingZ => {
            let z = &mut operands.sums[R::NewSavedZ as usize][..];
            let z = Rows { buffer: z, layout: case.layout(R::NewSavedZ) };
            workspace.conv_saving_z(rows(R::X), w, z, out_rows(R::Y, &mut y[..]))
        }
        Operator::ConvBackward => {
            let (x, w_) = (out_rows(R::GradX, &mut grad_x[..]), out(case, &mut grad_w[..]));
            workspace.conv_backward(rows(R::X), w, rows(R::GradY), x, w_)
        }
        Operator::ConvBackwardFromZ => {
            let (x, w_) = (out_rows(R::GradX, &mut grad_x[..]), out(case, &mut grad_w[..]));
            workspace.conv_backward_from_z(rows(R::X), saved, w, rows(R::GradY), x, w_)
        }
        Operator::ConvEpilogue => {
            let y = out_rows(R::Y, &mut y[..]);
            workspace.conv_epilogue(rows(R::X), w, &epilogue, Some(rows(R::Residual)), y)
        }
        Operator::ConvReadout => {
            let readout = out(case, &mut operands.readouts[1][..]);
            workspace.conv_readout(rows(R::X), w, &epilogue, Some(rows(R::Residual)), readout)
        }
        Operator::ConvEpilogueBackward | Operator::ConvReadoutBackward => {
            let gradients = EpilogueGradients::none()
                .x(out_rows(R::GradX, &mut grad_x[..]))
                .weights(out(case, &mut grad_w[..]))
                .bias(out(case, &mut grad_bias[..]))
                .residual(out_rows(R::GradResidual, &mut grad_residual[..]));
            match operator {
                Operator::ConvEpilogueBackward => {
                    workspace.conv_epilogue_backward(rows(R::X), w, &epilogue, rows(R::GradY), gradients)
                }
                _ => {
                    let grad = &from.readouts[0][..];
                    workspace.conv_readout_backward(rows(R::X), w, &epilogue, grad, gradients)
                }
            }
        }
        Operator::ConvMatrix => workspace.conv_matrix(w, out(case, &mut matrix[..])),
        Operator::ConvMatrixBackward => {
            let grad = &from.values[V::GradMatrix as usize][..];
            workspace.conv_matrix_backward(w, grad, out(case, &mut grad_w[..]))
        }
        Operator::Gram => workspace.gram(rows(R::X), out(case, &mut matrix[..])),
        Operator::GramBackward => {
            let grad = &from.values[V::GradMatrix as usize][..];
            workspace.gram_backward(rows(R::X), grad, out_rows(R::GradX, &mut grad_x[..]))
        }
        Operator::Layer => {
            let (theta, y) = (&from.theta[0][..], out_rows(R::Y, &mut y[..]));
            workspace.layer(rows(R::X), theta, w, &epilogue, Some(rows(R::Residual)), y)
        }
        Operator::LayerBackward => {
            let gradients = LayerGradients::none()
                .x(out_rows(R::GradX, &mut grad_x[..]))
                .theta(out(case, &mut grad_theta[..]))
                .weights(out(case, &mut grad_w[..]))
                .bias(out(case, &mut grad_bias[..]))
                .residual(out_rows(R::GradResidual, &mut grad_residual[..]));
            workspace.layer_backward(rows(R::X), &from.theta[0], w, &epilogue, rows(R::GradY), gradients)
        }
        other => panic!("{other:?} is not called here"),
    }
}

/// Where operands are for a call in C.
struct Addresses {
    rows: Vec<*mut c_void>,
    sums: Vec<*mut c_void>,
    values: Vec<*mut c_void>,
    readouts: Vec<*mut c_void>,
    theta: Vec<*mut c_void>,
}

impl Addresses {
    fn of<T: Element>(operands: &mut Operands<T>) -> Self {
        fn all<E>(buffers: &mut [Vec<E>]) -> Vec<*mut c_void> {
            buffers.iter_mut().map(|buffer| buffer.as_mut_ptr().cast()).collect()
        }
        Self {
            rows: all(&mut operands.rows),
            sums: all(&mut operands.sums),
            values: all(&mut operands.values),
            readouts: all(&mut operands.readouts),
            theta: all(&mut operands.theta),
        }
    }
}

/// The call in C.
fn in_c(
    case: &Case,
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    operator: Operator,
    at: &Addresses,
    windows: [*const hs_windows; 2],
) -> i32 {
    let layout =
        |of: R| (case.row_stride(of), if case.packed { HS_PACKED } else { case.instance_stride(of) });
    let is_sum = |of: R| matches!(of, R::SavedZ | R::NewSavedZ);
    let data = |of: R| if is_sum(of) { at.sums[of as usize] } else { at.rows[of as usize] };
    let rows = |of: R| {
        let (row_stride, instance_stride) = layout(of);
        let (instances, rows) = (case.instances, case.rows(of));
        hs_rows { data: data(of), instances, rows, features: F, row_stride, instance_stride }
    };
    let out_rows = |of: R| {
        let (row_stride, instance_stride) = layout(of);
        let mode = if of == R::NewSavedZ { HS_OVERWRITE } else { case.mode };
        let (instances, rows) = (case.instances, case.rows(of));
        hs_out_rows { data: data(of), instances, rows, features: F, row_stride, instance_stride, mode }
    };
    let values = |of: V| hs_values { data: at.values[of as usize], len: case.values(of) };
    let out_values =
        |of: V| hs_out_values { data: at.values[of as usize], len: case.values(of), mode: case.mode };
    let kind = match case.kind {
        Kind::Shared => HS_WINDOWS_SHARED,
        Kind::Consecutive => HS_WINDOWS_CONSECUTIVE,
        Kind::Table => HS_WINDOWS_TABLE,
    };
    let w = hs_weights { values: values(V::Weights), windows: kind, table: windows[1] };
    let scale = hs_weights { values: values(V::Scale), windows: kind, table: windows[0] };
    let step = hs_step { reduce: HS_MEAN, vertex_scale: &scale, hyperedge_scale: &w };
    let bias = values(V::Bias);
    let epilogue = hs_epilogue { activation: HS_SILU, bias: &bias };
    let (x, z, grad_y, grad_z) = (rows(R::X), rows(R::Z), rows(R::GradY), rows(R::GradZ));
    let (residual, saved) = (rows(R::Residual), rows(R::SavedZ));
    let (y, new_z, new_saved) = (out_rows(R::Y), out_rows(R::NewZ), out_rows(R::NewSavedZ));
    let (grad_x, new_grad_z, grad_residual) =
        (out_rows(R::GradX), out_rows(R::NewGradZ), out_rows(R::GradResidual));
    let (grad_w, grad_scale, grad_bias) =
        (out_values(V::GradWeights), out_values(V::GradScale), out_values(V::GradBias));
    let (matrix, grad_matrix) = (out_values(V::Matrix), values(V::GradMatrix));
    let grad_readout = hs_values { data: at.readouts[0], len: case.instances * F };
    let readout = hs_out_values { data: at.readouts[1], len: case.instances * F, mode: case.mode };
    let of_step = |rows| hs_step_gradients { rows, vertex_scale: &grad_scale, hyperedge_scale: &grad_w };
    let of_epilogue =
        hs_epilogue_gradients { x: &grad_x, weights: &grad_w, bias: &grad_bias, residual: &grad_residual };
    let (theta, grad_theta) = (hs_values { data: at.theta[0], len: F * F }, out_values(V::GradTheta));
    let of_layer = hs_layer_gradients {
        x: &grad_x,
        theta: &grad_theta,
        weights: &grad_w,
        bias: &grad_bias,
        residual: &grad_residual,
    };
    let (s, ws) = (stream, workspace);
    // SAFETY: operands and workspace live, nobody else uses them, and streams are waited for.
    unsafe {
        match operator {
            Operator::VertexToHyperedge => hs_vertex_to_hyperedge(ws, s, &step, &x, &new_z),
            Operator::VertexToHyperedgeBackward => {
                hs_vertex_to_hyperedge_backward(ws, s, &step, &x, &grad_z, &of_step(&grad_x))
            }
            Operator::HyperedgeToVertex => hs_hyperedge_to_vertex(ws, s, &step, &z, &y),
            Operator::HyperedgeToVertexBackward => {
                hs_hyperedge_to_vertex_backward(ws, s, &step, &z, &grad_y, &of_step(&new_grad_z))
            }
            Operator::Conv => hs_conv(ws, s, &x, &w, &y),
            Operator::ConvSavingZ => hs_conv_saving_z(ws, s, &x, &w, &new_saved, &y),
            Operator::ConvBackward => hs_conv_backward(ws, s, &x, &w, &grad_y, &grad_x, &grad_w),
            Operator::ConvBackwardFromZ => {
                hs_conv_backward_from_z(ws, s, &x, &saved, &w, &grad_y, &grad_x, &grad_w)
            }
            Operator::ConvEpilogue => hs_conv_epilogue(ws, s, &x, &w, &epilogue, &residual, &y),
            Operator::ConvEpilogueBackward => {
                hs_conv_epilogue_backward(ws, s, &x, &w, &epilogue, &grad_y, &of_epilogue)
            }
            Operator::ConvReadout => hs_conv_readout(ws, s, &x, &w, &epilogue, &residual, &readout),
            Operator::ConvReadoutBackward => {
                hs_conv_readout_backward(ws, s, &x, &w, &epilogue, &grad_readout, &of_epilogue)
            }
            Operator::ConvMatrix => hs_conv_matrix(ws, s, &w, &matrix),
            Operator::ConvMatrixBackward => hs_conv_matrix_backward(ws, s, &w, &grad_matrix, &grad_w),
            Operator::Gram => hs_gram(ws, s, &x, &matrix),
            Operator::GramBackward => hs_gram_backward(ws, s, &x, &grad_matrix, &grad_x),
            Operator::Layer => hs_layer(ws, s, &x, &theta, &w, &epilogue, &residual, &y),
            Operator::LayerBackward => {
                hs_layer_backward(ws, s, &x, &theta, &w, &epilogue, &grad_y, &of_layer)
            }
            other => panic!("{other:?} is not called here"),
        }
    }
}

/// The message of the last error.
pub(crate) fn message() -> String {
    let mut error = std::mem::MaybeUninit::<hs_error>::zeroed();
    // SAFETY: the size is set, and the message is a string of this thread's.
    unsafe {
        (*error.as_mut_ptr()).size = size_of::<hs_error>();
        assert_eq!(hs_last_error(error.as_mut_ptr()), HS_OK);
        std::ffi::CStr::from_ptr(error.assume_init().message).to_str().unwrap().to_owned()
    }
}

pub(crate) fn ok(status: i32) {
    assert_eq!(status, HS_OK, "{}", message());
}

/// What the handles of a case are.
struct Handles {
    batch: *mut hs_batch,
    plan: *mut hs_plan,
    workspace: *mut hs_workspace,
    windows: [*mut hs_windows; 2],
}

pub(crate) fn abi() -> hs_abi {
    hs_abi {
        version: HS_ABI_VERSION,
        rows: (size_of::<hs_rows>() + size_of::<hs_out_rows>()) as u32,
        values: (size_of::<hs_values>() + size_of::<hs_out_values>() + size_of::<hs_weights>()) as u32,
        steps: (size_of::<hs_step>()
            + size_of::<hs_step_gradients>()
            + size_of::<hs_epilogue>()
            + size_of::<hs_epilogue_gradients>()
            + size_of::<hs_layer_gradients>()) as u32,
        options: (size_of::<hs_plan_options>() + size_of::<hs_workspace_options>() + size_of::<hs_error>())
            as u32,
    }
}

fn indices(of: &[u64]) -> hs_indices {
    hs_indices { data: of.as_ptr().cast(), len: of.len(), integers: HS_UINT64 }
}

/// The same batch, made in C.
fn batch_in_c(batch: &Batch) -> *mut hs_batch {
    let mut result = null_mut();
    let mut handles = vec![];
    // SAFETY: pointers are to what lives here.
    unsafe {
        for topology in batch.topologies() {
            let csr = topology.by_edge();
            let [pointers, members] =
                [csr.pointers, csr.indices].map(|all| all.iter().map(|&i| i.into()).collect::<Vec<u64>>());
            let (pointers, members) = (indices(&pointers), indices(&members));
            let mut handle = null_mut();
            let n = topology.n_vertices();
            ok(hs_incidence_from_csr(n, &pointers, &members, HS_REPEATS_KEEP, &mut handle));
            handles.push(handle.cast_const());
        }
        match batch.n_instances() {
            None => ok(hs_batch_copies(handles[0], &mut result)),
            Some(n) => {
                let ids: Vec<_> = (0..n).map(|g| batch.topology_id(g) as u64).collect();
                ok(hs_batch_from_table(handles.as_ptr(), handles.len(), &indices(&ids), &mut result));
            }
        }
        handles.iter().for_each(|&handle| hs_incidence_free(handle.cast_mut()));
    }
    result
}

impl Handles {
    fn new(case: &Case, conv: u32, element: u32, device: *const hs_device, scratch: u32) -> Self {
        let batch = batch_in_c(&case.batch);
        let (mut plan, mut workspace, mut windows) = (null_mut(), null_mut(), [null_mut(); 2]);
        let options = hs_plan_options {
            abi: abi(),
            device,
            element,
            features: F,
            normalization: conv,
            weight_use: HS_WEIGHTS_DOCUMENTED,
            checks: HS_CHECKS_ON,
            paths: null(),
            n_paths: 0,
            inputs: 0,
            precision: HS_PRECISION_THREE_BF16,
        };
        let room = hs_workspace_options {
            abi: abi(),
            max_instances: case.instances,
            operators: HS_OPERATORS_ALL,
            scratch,
        };
        let offsets = indices(&case.offsets);
        // SAFETY: pointers are to what lives here.
        unsafe {
            ok(hs_plan_create(batch, &options, &mut plan));
            ok(hs_workspace_create(plan, &room, &mut workspace));
            if case.kind == Kind::Table {
                ok(hs_windows_create(plan, HS_VERTEX, &offsets, &mut windows[0]));
                ok(hs_windows_create(plan, HS_HYPEREDGE, &offsets, &mut windows[1]));
            }
        }
        Self { batch, plan, workspace, windows }
    }

    fn windows(&self) -> [*const hs_windows; 2] {
        self.windows.map(|windows| windows.cast_const())
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        // SAFETY: nobody uses them any more.
        unsafe {
            // Whatever order: each keeps what it needs.
            hs_batch_free(self.batch);
            hs_plan_free(self.plan);
            self.windows.into_iter().for_each(|windows| hs_windows_free(windows));
            hs_workspace_free(self.workspace);
        }
    }
}

fn pairs() -> Batch {
    Batch::replicate(Incidence::subsets(4, 2).unwrap())
}

/// Instances of different sizes, one of them with a long row, an empty hyperedge and an isolated vertex.
fn table(with_long: bool) -> Batch {
    let members = if with_long { 600 } else { 3 };
    let edges = [(0..members).map(|i| i % 3).collect(), vec![1u32, 3], vec![]];
    let other = Incidence::from_edges(5, &edges, Repeats::Keep).unwrap();
    Batch::from_table(vec![Incidence::subsets(4, 2).unwrap(), other], &[0, 1, 1, 0]).unwrap()
}

fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for kind in [Kind::Shared, Kind::Consecutive, Kind::Table] {
        cases.push(Case::new(pairs(), 3, kind, false, HS_OVERWRITE));
        cases.push(Case::new(table(false), 4, kind, true, HS_ACCUMULATE));
        cases.push(Case::new(table(true), 4, kind, false, HS_OVERWRITE));
    }
    cases.push(Case::new(pairs(), 3, Kind::Shared, true, HS_SKIP));
    cases
}

const LAYERS: [Operator; 2] = [Operator::Layer, Operator::LayerBackward];

/// Those that have the same bits on both backends: all but layers.
const EXACT: &[Operator] = Operator::ALL.split_at(Operator::Layer as usize).0;

/// Operators that a plan has.
fn operators(plan: *const hs_plan) -> impl Iterator<Item = Operator> {
    // SAFETY: the plan lives.
    let is_there = move |operator: &Operator| match unsafe { hs_plan_check_operator(plan, *operator as u32) }
    {
        HS_OK => true,
        status => {
            let missing = [HS_ERROR_MATRIX_UNAVAILABLE, HS_ERROR_LAYER_UNAVAILABLE];
            assert!(missing.contains(&status), "{operator:?}: {}", message());
            false
        }
    };
    Operator::ALL.iter().copied().filter(is_there)
}

fn bits<E: std::fmt::Debug>(of: &E) -> String {
    format!("{of:?}")
}

fn assert_cpu_has_the_bits_of_the_library<T: DeviceElement>(element: u32) {
    for (case, conv) in
        cases().iter().zip([HS_NORMALIZATION_ROW, HS_NORMALIZATION_SYMMETRIC].into_iter().cycle())
    {
        let handles = Handles::new(case, conv, element, null(), HS_SCRATCH_LENT);
        let normalization = [Normalization::Row, Normalization::Symmetric][conv as usize];
        let conv = Conv::new(normalization, WeightUse::Documented);
        let plan = cpu::Plan::<T>::builder(&case.batch, F).conv(conv).build().unwrap();
        let mut workspace = plan.workspace_for(case.instances, Operator::ALL).unwrap();
        for operator in operators(handles.plan) {
            let [mut expected, mut found] = [(); 2].map(|()| Operands::<T>::new(case));
            own(case, &mut workspace, operator, &mut expected).unwrap();
            let at = Addresses::of(&mut found);
            ok(in_c(case, handles.workspace, null_mut(), operator, &at, handles.windows()));
            assert!(
                bits(&found) == bits(&expected),
                "{operator:?}, {:?}, packed: {}",
                case.kind,
                case.packed
            );
            let is_new = bits(&found) != bits(&Operands::<T>::new(case));
            assert!(is_new || case.mode == HS_SKIP, "{operator:?} computes nothing");
        }
    }
}

#[test]
fn operators_have_the_bits_of_the_library_on_the_cpu() {
    assert_cpu_has_the_bits_of_the_library::<f32>(HS_F32);
    assert_cpu_has_the_bits_of_the_library::<f64>(HS_F64);
    assert_cpu_has_the_bits_of_the_library::<f16>(HS_F16);
    assert_cpu_has_the_bits_of_the_library::<bf16>(HS_BF16);
}

/// Operands on a device, as copies.
struct OnDevice<T: Element> {
    rows: Vec<CudaSlice<T>>,
    sums: Vec<CudaSlice<T::Acc>>,
    values: Vec<CudaSlice<T::Acc>>,
    readouts: Vec<CudaSlice<T>>,
    theta: Vec<CudaSlice<T>>,
}

trait OnGpu: DeviceElement<Acc: DeviceRepr + ValidAsZeroBits> + DeviceRepr + ValidAsZeroBits {}
impl<T: DeviceElement<Acc: DeviceRepr + ValidAsZeroBits> + DeviceRepr + ValidAsZeroBits> OnGpu for T {}

impl<T: OnGpu> OnDevice<T> {
    fn new(stream: &Arc<CudaStream>, operands: &Operands<T>) -> Self {
        fn all<E: DeviceRepr>(stream: &Arc<CudaStream>, buffers: &[Vec<E>]) -> Vec<CudaSlice<E>> {
            buffers.iter().map(|buffer| stream.clone_htod(buffer).unwrap()).collect()
        }
        let result = Self {
            rows: all(stream, &operands.rows),
            sums: all(stream, &operands.sums),
            values: all(stream, &operands.values),
            readouts: all(stream, &operands.readouts),
            theta: all(stream, &operands.theta),
        };
        stream.synchronize().unwrap();
        result
    }

    fn addresses(&self, stream: &Arc<CudaStream>) -> Addresses {
        fn all<E>(stream: &Arc<CudaStream>, buffers: &[CudaSlice<E>]) -> Vec<*mut c_void> {
            buffers.iter().map(|buffer| buffer.device_ptr(stream).0 as usize as *mut c_void).collect()
        }
        Addresses {
            rows: all(stream, &self.rows),
            sums: all(stream, &self.sums),
            values: all(stream, &self.values),
            readouts: all(stream, &self.readouts),
            theta: all(stream, &self.theta),
        }
    }

    fn read(&self, stream: &Arc<CudaStream>) -> Operands<T> {
        fn all<E: DeviceRepr + Clone + Default>(
            stream: &Arc<CudaStream>,
            of: &[CudaSlice<E>],
        ) -> Vec<Vec<E>> {
            of.iter().map(|buffer| stream.clone_dtoh(buffer).unwrap()).collect()
        }
        let readouts = all(stream, &self.readouts).try_into().unwrap();
        let theta = all(stream, &self.theta).try_into().unwrap();
        let operands = Operands {
            rows: all(stream, &self.rows),
            sums: all(stream, &self.sums),
            values: all(stream, &self.values),
            readouts,
            theta,
        };
        stream.synchronize().unwrap();
        operands
    }
}

fn assert_a_device_has_the_bits_of_the_cpu<T: OnGpu>(element: u32, scratch: u32) {
    let lease = install().unwrap_or_else(|error| panic!("no emulated driver: {error}")).lease();
    let context = CudaContext::new(lease.ordinal()).unwrap();
    let stream = context.new_stream().unwrap();
    let mut device = null_mut();
    // SAFETY: the pointer is to what lives here.
    ok(unsafe { hs_device_open(lease.ordinal() as u32, &mut device) });
    for (case, conv) in
        cases().iter().zip([HS_NORMALIZATION_ROW, HS_NORMALIZATION_SYMMETRIC].into_iter().cycle())
    {
        let on_cpu = Handles::new(case, conv, element, null(), HS_SCRATCH_OWNED);
        let on_device = Handles::new(case, conv, element, device, scratch);
        for operator in operators(on_device.plan).filter(|operator| EXACT.contains(operator)) {
            let mut expected = Operands::<T>::new(case);
            let slices = OnDevice::new(&stream, &expected);
            let at = Addresses::of(&mut expected);
            ok(in_c(case, on_cpu.workspace, null_mut(), operator, &at, on_cpu.windows()));
            let mut bytes = 0;
            let number = operator as u32;
            // SAFETY: handles live, and the pointer is to what lives here.
            ok(unsafe {
                hs_workspace_scratch_bytes(on_device.workspace, number, case.instances, &mut bytes)
            });
            let memory = stream.alloc_zeros::<u8>(bytes.max(1)).unwrap();
            stream.synchronize().unwrap();
            if scratch == HS_SCRATCH_LENT {
                let address = memory.device_ptr(&stream).0 as usize as *mut c_void;
                // SAFETY: the memory lives until the stream has been waited for.
                ok(unsafe { hs_workspace_lend_scratch(on_device.workspace, address, bytes) });
            }
            let own_stream = stream.cu_stream().cast();
            let at = slices.addresses(&stream);
            ok(in_c(case, on_device.workspace, own_stream, operator, &at, on_device.windows()));
            // SAFETY: the workspace and the stream live.
            ok(unsafe { hs_workspace_check(on_device.workspace, own_stream) });
            let found = slices.read(&stream);
            assert!(
                bits(&found) == bits(&expected),
                "{operator:?}, {:?}, packed: {}",
                case.kind,
                case.packed
            );
        }
    }
    // SAFETY: nobody uses it any more.
    unsafe { hs_device_free(device) };
    drop((stream, context));
    assert_eq!(lease.take_reports(), Vec::<String>::new());
    assert_eq!(lease.live(), Vec::<String>::new());
}

#[test]
fn a_device_has_the_bits_of_the_cpu_f32() {
    assert_a_device_has_the_bits_of_the_cpu::<f32>(HS_F32, HS_SCRATCH_LENT);
}

#[test]
fn a_device_has_the_bits_of_the_cpu_f64() {
    assert_a_device_has_the_bits_of_the_cpu::<f64>(HS_F64, HS_SCRATCH_OWNED);
}

#[test]
fn a_device_has_the_bits_of_the_cpu_f16() {
    assert_a_device_has_the_bits_of_the_cpu::<f16>(HS_F16, HS_SCRATCH_LENT);
}

#[test]
fn a_device_has_the_bits_of_the_cpu_bf16() {
    assert_a_device_has_the_bits_of_the_cpu::<bf16>(HS_BF16, HS_SCRATCH_OWNED);
}

/// Two calls at once of one workspace: one of them is refused, and both workspaces go on.
#[test]
fn a_workspace_is_for_one_call_at_a_time() {
    struct Shared(*mut hs_workspace);
    // SAFETY: the interface allows calls from any thread, and refuses two at once.
    unsafe impl Sync for Shared {}
    let case = Case::new(pairs(), 3, Kind::Shared, false, HS_OVERWRITE);
    let handles = Handles::new(&case, HS_NORMALIZATION_ROW, HS_F32, null(), HS_SCRATCH_OWNED);
    let shared = &Shared(handles.workspace);
    let is_over = &std::sync::atomic::AtomicBool::new(false);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let refused = |shared: &Shared| {
        let mut operands = Operands::<f32>::new(&case);
        let at = Addresses::of(&mut operands);
        while !is_over.load(std::sync::atomic::Ordering::Relaxed) && std::time::Instant::now() < until {
            match in_c(&case, shared.0, null_mut(), Operator::ConvBackward, &at, [null(); 2]) {
                HS_OK => {}
                status => {
                    assert_eq!(status, HS_ERROR_BUSY, "{}", message());
                    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
                    return true;
                }
            }
        }
        false
    };
    let both = std::thread::scope(|scope| {
        [(); 2].map(|()| scope.spawn(|| refused(shared))).map(|thread| thread.join().unwrap())
    });
    assert!(both.contains(&true), "no call was refused");
    let mut operands = Operands::<f32>::new(&case);
    let at = Addresses::of(&mut operands);
    ok(in_c(&case, handles.workspace, null_mut(), Operator::Conv, &at, [null(); 2]));
}

/// A workspace for so many instances, and the status of making it.
pub(crate) fn made_for(
    plan: *const hs_plan,
    max_instances: usize,
    operators: u32,
    scratch: u32,
) -> (i32, *mut hs_workspace) {
    let mut workspace = null_mut();
    let options = hs_workspace_options { abi: abi(), max_instances, operators, scratch };
    // SAFETY: the plan lives, and pointers are to what lives here.
    (unsafe { hs_workspace_create(plan, &options, &mut workspace) }, workspace)
}

/// Lends memory for a call of an operator with the instances of a case: as much as it may need.
fn lend(
    workspace: *mut hs_workspace,
    stream: &Arc<CudaStream>,
    operator: Operator,
    instances: usize,
) -> CudaSlice<u8> {
    let mut bytes = 0;
    // SAFETY: the workspace lives, and the pointer is to what lives here.
    ok(unsafe { hs_workspace_scratch_bytes(workspace, operator as u32, instances, &mut bytes) });
    let memory = stream.alloc_zeros::<u8>(bytes.max(1)).unwrap();
    stream.synchronize().unwrap();
    let address = memory.device_ptr(stream).0 as usize as *mut c_void;
    // SAFETY: who calls this keeps the memory until the stream has been waited for.
    ok(unsafe { hs_workspace_lend_scratch(workspace, address, bytes) });
    memory
}

/// Who knows no bound may ask for all that there can be: on the CPU, and where memory is lent.
#[test]
fn room_for_any_number_of_instances_is_free() {
    let lease = install().unwrap_or_else(|error| panic!("no emulated driver: {error}")).lease();
    let context = CudaContext::new(lease.ordinal()).unwrap();
    let stream = context.new_stream().unwrap();
    let mut device = null_mut();
    // SAFETY: the pointer is to what lives here.
    ok(unsafe { hs_device_open(lease.ordinal() as u32, &mut device) });
    let all = HS_OPERATORS_ALL;
    let layers = HS_OPERATORS_LAYERS;
    assert_eq!(layers, LAYERS.iter().fold(0, |set, &operator| set | 1 << operator as u32));
    for conv in [HS_NORMALIZATION_ROW, HS_NORMALIZATION_SYMMETRIC] {
        let case = Case::new(pairs(), 3, Kind::Table, false, HS_OVERWRITE);
        let (on_cpu, on_device) = (
            Handles::new(&case, conv, HS_F32, null(), HS_SCRATCH_OWNED),
            Handles::new(&case, conv, HS_F32, device, HS_SCRATCH_LENT),
        );
        let made = |max_instances, scratch| {
            let before = lease.creations();
            let (status, workspace) = made_for(on_device.plan, max_instances, all, scratch);
            ok(status);
            (lease.creations() - before, workspace)
        };
        let ((few, small), (many, large)) =
            (made(case.instances, HS_SCRATCH_LENT), made(u32::MAX as usize, HS_SCRATCH_LENT));
        assert_eq!(few, many);
        // SAFETY: nobody uses it.
        unsafe { hs_workspace_free(small) };
        let (status, none) = made_for(on_device.plan, 1 << 32, all, HS_SCRATCH_LENT);
        assert_eq!((status, none), (HS_ERROR_TOO_LARGE, null_mut()));
        // A layer on the CPU has rows for all vertices.
        let (status, none) = made_for(on_cpu.plan, usize::MAX, layers, HS_SCRATCH_LENT);
        assert_eq!((status, none), (HS_ERROR_TOO_LARGE, null_mut()));
        let (status, of_cpu) = made_for(on_cpu.plan, usize::MAX, all & !layers, HS_SCRATCH_LENT);
        ok(status);
        for &operator in EXACT {
            let [mut expected, mut found] = [(); 2].map(|()| Operands::<f32>::new(&case));
            let slices = OnDevice::new(&stream, &expected);
            let at = Addresses::of(&mut expected);
            ok(in_c(&case, on_cpu.workspace, null_mut(), operator, &at, on_cpu.windows()));
            let at = Addresses::of(&mut found);
            ok(in_c(&case, of_cpu, null_mut(), operator, &at, on_cpu.windows()));
            assert_eq!(bits(&found), bits(&expected), "{operator:?}");
            let memory = lend(large, &stream, operator, case.instances);
            let (at, own) = (slices.addresses(&stream), stream.cu_stream().cast());
            ok(in_c(&case, large, own, operator, &at, on_device.windows()));
            assert_eq!(bits(&slices.read(&stream)), bits(&expected), "{operator:?}");
            drop(memory);
        }
        // SAFETY: nobody uses them any more.
        unsafe {
            hs_workspace_free(of_cpu);
            hs_workspace_free(large);
        }
    }
    // The elements of an operand, or of rows of hyperedges, have to be countable all the same.
    let subsets = |n| batch_in_c(&Batch::replicate(Incidence::subsets(n, 2).unwrap()));
    for (handle, features) in [(subsets(4), 1 << 31), (subsets(20), 1 << 27)] {
        let mut plan = null_mut();
        let options = hs_plan_options {
            abi: abi(),
            device,
            element: HS_F32,
            features,
            normalization: HS_NORMALIZATION_ROW,
            weight_use: HS_WEIGHTS_DOCUMENTED,
            checks: HS_CHECKS_DEFAULT,
            paths: &HS_PATH_GATHER,
            n_paths: 1,
            inputs: 0,
            precision: HS_PRECISION_THREE_BF16,
        };
        // SAFETY: pointers are to what lives here.
        ok(unsafe { hs_plan_create(handle, &options, &mut plan) });
        let (status, none) = made_for(plan, u32::MAX as usize, all, HS_SCRATCH_LENT);
        assert_eq!((status, none), (HS_ERROR_TOO_LARGE, null_mut()), "{}", message());
        // SAFETY: nobody uses them any more.
        unsafe {
            hs_plan_free(plan);
            hs_batch_free(handle);
        }
    }
    // SAFETY: as above.
    unsafe { hs_device_free(device) };
}

/// What a plan on the CPU computes for three copies of a batch, in C: the convolution with an activation, and
/// a step with a reduction.
fn computed_in_c(batch: &Batch, choices: [u32; 4]) -> [Vec<f32>; 2] {
    let [normalization, weight_use, activation, reduce] = choices;
    let case = Case::new(batch.clone(), 3, Kind::Shared, false, HS_OVERWRITE);
    let handle = batch_in_c(batch);
    let (mut plan, mut x) = (null_mut(), Operands::<f32>::new(&case));
    let options = hs_plan_options {
        abi: abi(),
        device: null(),
        element: HS_F32,
        features: F,
        normalization,
        weight_use,
        checks: HS_CHECKS_DEFAULT,
        paths: null(),
        n_paths: 0,
        inputs: 0,
        precision: HS_PRECISION_THREE_BF16,
    };
    let mut out = [vec![0.0; case.len(R::Y)], vec![0.0; case.len(R::NewZ)]];
    let at = |of: R, data| hs_rows {
        data,
        instances: 3,
        rows: case.rows(of),
        features: F,
        row_stride: case.row_stride(of),
        instance_stride: case.instance_stride(of),
    };
    let to = |of: R, data: *mut c_void| {
        let hs_rows { instances, rows, features, row_stride, instance_stride, .. } = at(of, data);
        hs_out_rows { data, instances, rows, features, row_stride, instance_stride, mode: HS_OVERWRITE }
    };
    let from = at(R::X, x.rows[R::X as usize].as_mut_ptr().cast());
    let w = &x.values[V::Weights as usize];
    let w = hs_values { data: w.as_ptr().cast(), len: w.len() };
    let w = hs_weights { values: w, windows: HS_WINDOWS_SHARED, table: null() };
    let epilogue = hs_epilogue { activation, bias: null() };
    let step = hs_step { reduce, vertex_scale: null(), hyperedge_scale: null() };
    let (y, z) = (to(R::Y, out[0].as_mut_ptr().cast()), to(R::NewZ, out[1].as_mut_ptr().cast()));
    // SAFETY: pointers are to what lives here.
    unsafe {
        ok(hs_plan_create(handle, &options, &mut plan));
        let (status, workspace) = made_for(plan, 3, HS_OPERATORS_ALL, HS_SCRATCH_OWNED);
        ok(status);
        ok(hs_conv_epilogue(workspace, null_mut(), &from, &w, &epilogue, null(), &y));
        ok(hs_vertex_to_hyperedge(workspace, null_mut(), &step, &from, &z));
        hs_workspace_free(workspace);
        hs_plan_free(plan);
        hs_batch_free(handle);
    }
    out
}

/// Each constant stands for what its name says.
#[test]
fn choices_are_those_of_the_library() {
    use Operator as O;
    let operators = [
        (HS_VERTEX_TO_HYPEREDGE, O::VertexToHyperedge),
        (HS_VERTEX_TO_HYPEREDGE_BACKWARD, O::VertexToHyperedgeBackward),
        (HS_HYPEREDGE_TO_VERTEX, O::HyperedgeToVertex),
        (HS_HYPEREDGE_TO_VERTEX_BACKWARD, O::HyperedgeToVertexBackward),
        (HS_CONV, O::Conv),
        (HS_CONV_SAVING_Z, O::ConvSavingZ),
        (HS_CONV_BACKWARD, O::ConvBackward),
        (HS_CONV_BACKWARD_FROM_Z, O::ConvBackwardFromZ),
        (HS_CONV_EPILOGUE, O::ConvEpilogue),
        (HS_CONV_EPILOGUE_BACKWARD, O::ConvEpilogueBackward),
        (HS_CONV_READOUT, O::ConvReadout),
        (HS_CONV_READOUT_BACKWARD, O::ConvReadoutBackward),
        (HS_CONV_MATRIX, O::ConvMatrix),
        (HS_CONV_MATRIX_BACKWARD, O::ConvMatrixBackward),
        (HS_GRAM, O::Gram),
        (HS_GRAM_BACKWARD, O::GramBackward),
        (HS_LAYER, O::Layer),
        (HS_LAYER_BACKWARD, O::LayerBackward),
    ];
    for (number, operator) in operators {
        // The number is a place in the list, and a bit in a set.
        assert_eq!((O::ALL[number as usize], operator as u32), (operator, number));
    }
    assert_eq!((O::ALL.len(), HS_OPERATORS_ALL), (operators.len(), (1 << operators.len()) - 1));

    let edges = [vec![0u32, 1, 2], vec![1, 3], vec![2]];
    let batch = Batch::replicate(Incidence::from_edges(5, &edges, Repeats::Keep).unwrap());
    let case = Case::new(batch.clone(), 3, Kind::Shared, false, HS_OVERWRITE);
    let from = Operands::<f32>::new(&case);
    let normalizations = [
        (HS_NORMALIZATION_ROW, Normalization::Row),
        (HS_NORMALIZATION_SYMMETRIC, Normalization::Symmetric),
        (HS_NORMALIZATION_NONE, Normalization::None),
    ];
    let uses = [
        (HS_WEIGHTS_DOCUMENTED, WeightUse::Documented),
        (HS_WEIGHTS_DEGREE_ONLY, WeightUse::DegreeOnly),
        (HS_WEIGHTS_MESSAGE_ONLY, WeightUse::MessageOnly),
    ];
    let activations = [
        (HS_IDENTITY, Activation::Identity),
        (HS_RELU, Activation::Relu),
        (HS_GELU, Activation::Gelu),
        (HS_GELU_TANH, Activation::GeluTanh),
        (HS_SILU, Activation::Silu),
    ];
    let mut all = vec![];
    for (normalization, of_rust) in normalizations {
        for (weight_use, of_weights) in uses {
            let conv = Conv::new(of_rust, of_weights);
            let plan = cpu::Plan::<f32>::builder(&batch, F).conv(conv).build().unwrap();
            let mut workspace = plan.workspace(3).unwrap();
            for (activation, of_epilogue) in activations {
                for (reduce, step) in [(HS_SUM, Step::sum()), (HS_MEAN, Step::mean())] {
                    let x = || Rows::new(&from.rows[R::X as usize][..], case.layout(R::X));
                    let w = cpu::Weights::shared(&from.values[V::Weights as usize][..]);
                    let [mut y, mut z] = [R::Y, R::NewZ].map(|of| vec![0.0f32; case.len(of)]);
                    let to = Out::Overwrite(Rows::new(&mut y[..], case.layout(R::Y)));
                    let epilogue = Epilogue::new(of_epilogue);
                    workspace.conv_epilogue(x(), w, &epilogue, None, to).unwrap();
                    let to = Out::Overwrite(Rows::new(&mut z[..], case.layout(R::NewZ)));
                    workspace.vertex_to_hyperedge(&step, x(), to).unwrap();
                    let found = computed_in_c(&batch, [normalization, weight_use, activation, reduce]);
                    assert_eq!(found, [y.clone(), z], "{conv:?}, {of_epilogue:?}, {reduce}");
                    all.push(bits(&y));
                }
            }
        }
    }
    all.sort();
    all.dedup();
    // Without degrees, weights are in the message or they are not.
    assert_eq!(all.len(), (3 + 3 + 2) * 5, "two choices are alike");

    // Repeats and loops tell by their numbers of incidences and hyperedges.
    let sizes = |handle: *mut hs_incidence| {
        let mut sizes = hs_incidence_sizes { vertices: 0, hyperedges: 0, incidences: 0 };
        // SAFETY: the handle lives, and is freed once.
        unsafe {
            ok(hs_incidence_get_sizes(handle, &mut sizes));
            hs_incidence_free(handle);
        }
        (sizes.hyperedges, sizes.incidences)
    };
    let (pointers, members) = ([0, 3], [1, 1, 2]);
    let (pointers, members) = (indices(&pointers), indices(&members));
    for (repeats, incidences) in [(HS_REPEATS_KEEP, 3), (HS_REPEATS_MERGE, 2)] {
        let mut handle = null_mut();
        // SAFETY: pointers are to what lives here.
        ok(unsafe { hs_incidence_from_csr(4, &pointers, &members, repeats, &mut handle) });
        assert_eq!(sizes(handle), (1, incidences));
    }
    for (loops, edges) in [(HS_SELF_LOOPS_NONE, 1), (HS_SELF_LOOPS_ISOLATED, 3), (HS_SELF_LOOPS_ALL, 5)] {
        let [mut handle, mut looped] = [null_mut(); 2];
        // SAFETY: pointers are to what lives here, and the handle lives until it is freed.
        unsafe {
            ok(hs_incidence_from_csr(4, &pointers, &members, HS_REPEATS_KEEP, &mut handle));
            ok(hs_incidence_with_self_loops(handle, loops, &mut looped));
            hs_incidence_free(handle);
        }
        assert_eq!(sizes(looped), (edges, edges + 2));
    }
}

/// Whatever is asked for, the memory and the kernels that a workspace says and has are enough.
#[test]
fn what_a_workspace_asks_for_is_enough_for_each_choice_of_an_epilogue() {
    let lease = install().unwrap_or_else(|error| panic!("no emulated driver: {error}")).lease();
    let context = CudaContext::new(lease.ordinal()).unwrap();
    let stream = context.new_stream().unwrap();
    let mut device = null_mut();
    // SAFETY: the pointer is to what lives here.
    ok(unsafe { hs_device_open(lease.ordinal() as u32, &mut device) });
    lease.set_execute(false);
    for case in [
        Case::new(pairs(), 3, Kind::Shared, false, HS_OVERWRITE),
        Case::new(table(true), 4, Kind::Consecutive, false, HS_ACCUMULATE),
    ] {
        let handles = Handles::new(&case, HS_NORMALIZATION_SYMMETRIC, HS_F32, device, HS_SCRATCH_LENT);
        let slices = OnDevice::new(&stream, &Operands::<f32>::new(&case));
        let at = slices.addresses(&stream);
        let s = stream.cu_stream().cast();
        let rows = |of: R| hs_rows {
            data: at.rows[of as usize],
            instances: case.instances,
            rows: case.rows(of),
            features: F,
            row_stride: case.row_stride(of),
            instance_stride: case.instance_stride(of),
        };
        let out_rows = |of: R| {
            let hs_rows { instances, rows, features, row_stride, instance_stride, .. } = rows(of);
            let (data, mode) = (at.rows[of as usize], case.mode);
            hs_out_rows { data, instances, rows, features, row_stride, instance_stride, mode }
        };
        let values = |of: V| hs_values { data: at.values[of as usize], len: case.values(of) };
        let out_values =
            |of: V| hs_out_values { data: at.values[of as usize], len: case.values(of), mode: case.mode };
        let windows = if case.kind == Kind::Shared { HS_WINDOWS_SHARED } else { HS_WINDOWS_CONSECUTIVE };
        let w = hs_weights { values: values(V::Weights), windows, table: null() };
        let (x, grad, residual, bias) = (rows(R::X), rows(R::GradY), rows(R::Residual), values(V::Bias));
        let (y, grad_x, grad_residual) = (out_rows(R::Y), out_rows(R::GradX), out_rows(R::GradResidual));
        let (grad_w, grad_bias) = (out_values(V::GradWeights), out_values(V::GradBias));
        let len = case.instances * F;
        let grad_readout = hs_values { data: at.readouts[0], len };
        let readout = hs_out_values { data: at.readouts[1], len, mode: case.mode };
        use Operator::{ConvEpilogue, ConvEpilogueBackward, ConvReadout, ConvReadoutBackward};
        for operator in [ConvEpilogue, ConvEpilogueBackward, ConvReadout, ConvReadoutBackward] {
            let operators = 1 << operator as u32;
            let (status, ws) = made_for(handles.plan, case.instances, operators, HS_SCRATCH_LENT);
            ok(status);
            let memory = lend(ws, &stream, operator, case.instances);
            for choice in 0..128 {
                fn pointer<T>(is_wanted: bool, to: &T) -> *const T {
                    if is_wanted { to } else { null() }
                }
                let is = |bit: u32| choice >> bit & 1 == 1;
                let activation = if is(0) { HS_GELU } else { HS_IDENTITY };
                let epilogue = hs_epilogue { activation, bias: pointer(is(1), &bias) };
                let residual = pointer(is(2), &residual);
                let gradients = hs_epilogue_gradients {
                    x: pointer(is(3), &grad_x),
                    weights: pointer(is(4), &grad_w),
                    bias: pointer(is(5) && is(1), &grad_bias),
                    residual: pointer(is(6), &grad_residual),
                };
                let (e, g) = (&epilogue, &gradients);
                // SAFETY: operands, memory and workspace live until the stream has been waited for.
                let status = unsafe {
                    match operator {
                        ConvEpilogue => hs_conv_epilogue(ws, s, &x, &w, e, residual, pointer(is(3), &y)),
                        ConvReadout => hs_conv_readout(ws, s, &x, &w, e, residual, pointer(is(3), &readout)),
                        ConvEpilogueBackward => hs_conv_epilogue_backward(ws, s, &x, &w, e, &grad, g),
                        _ => hs_conv_readout_backward(ws, s, &x, &w, e, &grad_readout, g),
                    }
                };
                assert_eq!(status, HS_OK, "{operator:?}, {choice:#b}: {}", message());
            }
            stream.synchronize().unwrap();
            drop(memory);
            // SAFETY: nobody uses it any more.
            unsafe { hs_workspace_free(ws) };
        }
    }
    lease.set_execute(true);
    // SAFETY: nobody uses it any more.
    unsafe { hs_device_free(device) };
}

/// Each call has memory of its own: so calls of one workspace on several streams need no order.
#[test]
fn calls_with_memory_of_their_own_need_no_order() {
    let lease = install().unwrap_or_else(|error| panic!("no emulated driver: {error}")).lease();
    let context = CudaContext::new(lease.ordinal()).unwrap();
    let streams = [context.new_stream().unwrap(), context.new_stream().unwrap()];
    let mut device = null_mut();
    // SAFETY: the pointer is to what lives here.
    ok(unsafe { hs_device_open(lease.ordinal() as u32, &mut device) });
    // On several paths, a call also clears some of its memory.
    for case in [
        Case::new(pairs(), 3, Kind::Table, false, HS_OVERWRITE),
        Case::new(table(false), 4, Kind::Shared, true, HS_OVERWRITE),
    ] {
        let handles = Handles::new(&case, HS_NORMALIZATION_SYMMETRIC, HS_F32, device, HS_SCRATCH_LENT);
        for operator in operators(handles.plan) {
            let operands = Operands::<f32>::new(&case);
            let slices = [(); 2].map(|()| OnDevice::new(&streams[0], &operands));
            lease.set_deferred(true);
            let memories = [0, 1].map(|i| {
                let memory = lend(handles.workspace, &streams[i], operator, case.instances);
                let at = slices[i].addresses(&streams[i]);
                let stream = streams[i].cu_stream().cast();
                ok(in_c(&case, handles.workspace, stream, operator, &at, handles.windows()));
                memory
            });
            // The later one first.
            streams[1].synchronize().unwrap();
            streams[0].synchronize().unwrap();
            lease.set_deferred(false);
            let [first, second] = [0, 1].map(|i| bits(&slices[i].read(&streams[i])));
            assert_eq!(first, second, "{operator:?}");
            assert_ne!(first, bits(&operands), "{operator:?} computes nothing");
            drop(memories);
        }
        let stream = streams[0].cu_stream().cast();
        // SAFETY: the workspace and the stream live.
        ok(unsafe { hs_workspace_check(handles.workspace, stream) });
    }
    // SAFETY: nobody uses it any more.
    unsafe { hs_device_free(device) };
    assert_eq!(lease.take_reports(), Vec::<String>::new());
}

/// On the CPU a block of the queue through which calls go to the pool is allocated now and then, on this
/// thread; what its threads allocate `tests/programs.rs` counts.
#[test]
fn no_call_allocates() {
    let lease = install().unwrap_or_else(|error| panic!("no emulated driver: {error}")).lease();
    let context = CudaContext::new(lease.ordinal()).unwrap();
    let stream = context.new_stream().unwrap();
    let mut device = null_mut();
    // SAFETY: the pointer is to what lives here.
    ok(unsafe { hs_device_open(lease.ordinal() as u32, &mut device) });
    let case = Case::new(pairs(), 3, Kind::Table, false, HS_OVERWRITE);
    let operands = &mut Operands::<f32>::new(&case);
    let slices = OnDevice::new(&stream, operands);
    for (device, stream, at, few) in [
        (null(), null_mut(), Addresses::of(operands), 2),
        (device.cast_const(), stream.cu_stream().cast(), slices.addresses(&stream), 0),
    ] {
        let handles = Handles::new(&case, HS_NORMALIZATION_ROW, HS_F32, device, HS_SCRATCH_OWNED);
        let each = || {
            for operator in operators(handles.plan) {
                ok(in_c(&case, handles.workspace, stream, operator, &at, handles.windows()));
            }
        };
        // The first time functions of the driver are looked up, and threads started.
        each();
        let (creations, before) = (lease.creations(), allocations());
        each();
        each();
        let made = allocations() - before;
        assert!(made <= few, "{made} allocations");
        assert_eq!(lease.creations(), creations);
        // SAFETY: the workspace and the stream live.
        ok(unsafe { hs_workspace_check(handles.workspace, stream) });
    }
    // SAFETY: nobody uses it any more.
    unsafe { hs_device_free(device) };
}
