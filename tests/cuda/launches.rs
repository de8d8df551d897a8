//! What a plan explains is what its calls queue, exactly: for every operator, layout, option, element type
//! and path.

use hyperscatter::cuda::cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut};
use hyperscatter::cuda::{Checks, DeviceWindows, Epilogue, Plan, Request, Step, Workspace};
use hyperscatter::{
    Activation, Axis, Batch, Conv, EpilogueGradients, Error, Incidence, LayerGradients, Normalization,
    Operator, Out, Path, Reduce, Repeats, RowLayout, Rows, StepGradients, WeightUse, WindowTable, Windows,
};
use hyperscatter_emulator::control::DeviceControl;
use proptest::prelude::*;
use std::sync::Arc;

use super::gpu::{Gpu, GpuElement};
use super::operators::{Operates as _, long_rows, table_batch, values_of_matrices};
use crate::common::{cases, element_types, with_element};

/// Which windows scales and weights are read through.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Shared,
    Consecutive,
    Table,
}

/// A call, with what of its options matters.
#[derive(Debug, Clone, Copy)]
struct Options {
    operator: Operator,
    reduce: Reduce,
    /// Of vertices, and of hyperedges; a convolution without windows of hyperedges reads shared ones.
    scales: [Option<Kind>; 2],
    rows: bool,
    gradients: [bool; 2],
    activation: Activation,
    bias: bool,
    residual: bool,
    /// Whether the gradients of the bias and of the residual are wanted.
    gradients_of_epilogue: [bool; 2],
    /// Whether the gradient of Θ is wanted.
    theta: bool,
    /// Whether outputs are added to, which fills nothing with zeros.
    add: bool,
    features: usize,
    checks: Checks,
}

fn options() -> impl Strategy<Value = Options> {
    let kind =
        || prop::option::of(prop_oneof![Just(Kind::Shared), Just(Kind::Consecutive), Just(Kind::Table)]);
    (
        prop::sample::select(Operator::ALL),
        prop_oneof![Just(Reduce::Sum), Just(Reduce::Mean)],
        [kind(), kind()],
        any::<[bool; 2]>(),
        any::<[bool; 2]>(),
        prop::sample::select(&[0usize, 3, 8, 40][..]),
        prop_oneof![Just(Checks::On), Just(Checks::Off)],
        prop::sample::select(Activation::ALL),
        any::<[bool; 5]>(),
    )
        .prop_map(|options| {
            let (operator, reduce, scales, [rows, add], gradients, features, checks, activation, more) =
                options;
            let [bias, residual, grad_bias, grad_residual, theta] = more;
            Options {
                operator,
                reduce,
                scales,
                rows,
                gradients,
                activation,
                bias,
                residual,
                gradients_of_epilogue: [grad_bias, grad_residual],
                theta,
                add,
                features,
                checks,
            }
        })
}

/// Copies of a topology and tables of several: with and without long rows, single incidences, rows at all.
fn layout() -> impl Strategy<Value = (Batch, usize)> {
    let single = Incidence::from_edges(3, &[vec![0u32, 1], vec![0]], Repeats::Keep).unwrap();
    let edges_only = Incidence::from_edges(0, &[Vec::<u32>::new(), vec![]], Repeats::Keep).unwrap();
    let long_edge = Incidence::from_edges(2, &[vec![0u32; 513], vec![1]], Repeats::Keep).unwrap();
    let pairs = Incidence::subsets(4, 2).unwrap();
    // More vertices than a readout or the gradient of a bias adds in one go.
    let many_vertices = Incidence::from_edges(600, &[vec![0u32, 599], vec![1]], Repeats::Keep).unwrap();
    let class_32 = Incidence::from_edges(20, &[vec![0u32; 8], vec![0, 19]], Repeats::Keep).unwrap();
    // On the path of the gathers, and with matrices.
    let class_64 = Incidence::from_edges(40, &[vec![0u32; 8], vec![0, 39]], Repeats::Keep).unwrap();
    let topologies =
        vec![single, edges_only, long_edge, pairs, long_rows(), many_vertices, class_32, class_64];
    let mixed = Batch::from_table(topologies.clone(), &[3, 4, 0, 3, 2, 1, 6]).unwrap();
    let with_matrices = Batch::from_table(topologies.clone(), &[7, 3, 6, 7, 0]).unwrap();
    let replicated = (prop::sample::select(topologies), prop::sample::select(&[0usize, 1, 3, 70][..]));
    prop_oneof![
        4 => replicated.prop_map(|(topology, copies)| (Batch::replicate(topology), copies)),
        1 => Just((table_batch(), 5)),
        1 => Just((mixed, 7)),
        1 => Just((with_matrices, 5)),
    ]
}

fn conv() -> impl Strategy<Value = Conv> {
    let normalization =
        prop_oneof![Just(Normalization::Row), Just(Normalization::Symmetric), Just(Normalization::None)];
    let weight_use =
        prop_oneof![Just(WeightUse::Documented), Just(WeightUse::DegreeOnly), Just(WeightUse::MessageOnly)];
    (normalization, weight_use).prop_map(|(normalization, weight_use)| Conv::new(normalization, weight_use))
}

/// Windows of one kind and the values that they are windows of.
struct Scale<A> {
    windows: Windows<Box<DeviceWindows>>,
    len: usize,
    /// At least that many.
    values: CudaSlice<A>,
}

impl<A> Scale<A> {
    fn weights(&self) -> hyperscatter::Weights<CudaView<'_, A>, &DeviceWindows> {
        hyperscatter::Weights { values: self.values.slice(..self.len), windows: self.windows.as_deref() }
    }
}

fn scale<T: GpuElement>(
    plan: &Plan<T>,
    stream: &Arc<CudaStream>,
    axis: Axis,
    kind: Kind,
    instances: usize,
) -> Scale<T::Acc> {
    let batch = plan.batch().batch();
    let (windows, len) = match kind {
        Kind::Shared => (Windows::Shared, batch.largest(axis)),
        Kind::Consecutive => (Windows::Consecutive, batch.start(axis, instances)),
        Kind::Table => {
            let offsets: Vec<u64> = (0..instances as u64).map(|g| g % 2).collect();
            let table = match axis {
                Axis::Vertex => WindowTable::for_vertices(batch, &offsets),
                Axis::Hyperedge => WindowTable::new(batch, &offsets),
            };
            let windows = plan.batch().upload_windows(&table.unwrap()).unwrap();
            let end = |g: usize| offsets[g] as usize + batch.topology(g).size(axis);
            (Windows::Table(Box::new(windows)), (0..instances).map(end).max().unwrap_or(0))
        }
    };
    Scale { windows, len, values: stream.alloc_zeros(len.max(1)).unwrap() }
}

/// Makes the call. Buffers are made before the device forgets earlier calls.
fn call<T: GpuElement>(
    control: &DeviceControl,
    workspace: &mut Workspace<T>,
    options: Options,
    instances: usize,
    scales: [Option<&Scale<T::Acc>>; 2],
) {
    let (stream, plan) = (workspace.stream().clone(), workspace.plan().clone());
    let (batch, features) = (plan.batch().batch(), options.features);
    let rows = [batch.start(Axis::Vertex, instances), batch.start(Axis::Hyperedge, instances)];
    let len = |axis: usize| (rows[axis] * features).max(1);
    let layout = RowLayout::contiguous(features).instances(instances);
    let [x, g] =
        [(); 2].map(|()| [stream.alloc_zeros::<T>(len(0)).unwrap(), stream.alloc_zeros(len(1)).unwrap()]);
    let mut out = [stream.alloc_zeros::<T>(len(0)).unwrap(), stream.alloc_zeros(len(1)).unwrap()];
    let mut saved = stream.alloc_zeros::<T::Acc>(len(1)).unwrap();
    let values = [0, 1].map(|at| scales[at].map_or(0, |scale| scale.len));
    let [mut of_vertices, mut of_hyperedges] =
        values.map(|len| stream.alloc_zeros::<T::Acc>(len.max(1)).unwrap());
    let wanted = |at: usize| options.gradients[at] && scales[at].is_some();
    let step = || {
        Step::new(options.reduce)
            .vertex_scale(scales[0].map(Scale::weights))
            .hyperedge_scale(scales[1].map(Scale::weights))
    };
    fn out_to<B>(is_wanted: bool, add: bool, buffer: B) -> Out<B> {
        match (is_wanted, add) {
            (false, _) => Out::Skip,
            (true, false) => Out::Overwrite(buffer),
            (true, true) => Out::Accumulate(buffer),
        }
    }
    fn rows_out<T>(
        options: Options,
        buffer: &mut CudaSlice<T>,
        layout: RowLayout,
    ) -> Out<Rows<CudaViewMut<'_, T>>> {
        out_to(options.rows, options.add, Rows::new(buffer, layout))
    }
    let weights = || scales[1].unwrap().weights();
    let [out_x, out_z] = &mut out;
    let grad_w = out_to(wanted(1), options.add, of_hyperedges.slice_mut(..values[1]));
    let grad_scale = out_to(wanted(0), options.add, of_vertices.slice_mut(..values[0]));
    let gradients = StepGradients::none().vertex_scale(grad_scale);
    let of_instances = (instances * features).max(1);
    let per_instance = stream.alloc_zeros::<T>(of_instances).unwrap();
    let mut readout = stream.alloc_zeros::<T>(of_instances).unwrap();
    let mut grad_residual = stream.alloc_zeros::<T>(len(0)).unwrap();
    let bias = stream.alloc_zeros::<T::Acc>(features.max(1)).unwrap();
    let mut grad_bias = stream.alloc_zeros::<T::Acc>(features.max(1)).unwrap();
    let epilogue = Epilogue::new(options.activation).bias(options.bias.then(|| bias.slice(..features)));
    let residual = options.residual.then(|| Rows::new(&g[0], layout));
    let [wants_bias, wants_residual] = options.gradients_of_epilogue;
    let of_matrices = values_of_matrices(batch, instances);
    let mut matrices = stream.alloc_zeros::<T::Acc>(of_matrices.max(1)).unwrap();
    let grad_matrices = stream.alloc_zeros::<T::Acc>(of_matrices.max(1)).unwrap();
    // As many inputs as features.
    let len_of_theta = features * features;
    let theta = stream.alloc_zeros::<T>(len_of_theta.max(1)).unwrap();
    let mut grad_theta = stream.alloc_zeros::<T::Acc>(len_of_theta.max(1)).unwrap();
    control.reset_calls();
    match options.operator {
        Operator::VertexToHyperedge => {
            workspace.vertex_to_hyperedge(&step(), Rows::new(&x[0], layout), rows_out(options, out_z, layout))
        }
        Operator::HyperedgeToVertex => {
            workspace.hyperedge_to_vertex(&step(), Rows::new(&x[1], layout), rows_out(options, out_x, layout))
        }
        Operator::VertexToHyperedgeBackward => {
            let gradients = gradients.rows(rows_out(options, out_x, layout)).hyperedge_scale(grad_w);
            workspace.vertex_to_hyperedge_backward(
                &step(),
                Rows::new(&x[0], layout),
                Rows::new(&g[1], layout),
                gradients,
            )
        }
        Operator::HyperedgeToVertexBackward => {
            let gradients = gradients.rows(rows_out(options, out_z, layout)).hyperedge_scale(grad_w);
            workspace.hyperedge_to_vertex_backward(
                &step(),
                Rows::new(&x[1], layout),
                Rows::new(&g[0], layout),
                gradients,
            )
        }
        Operator::Conv => {
            workspace.conv(Rows::new(&x[0], layout), weights(), rows_out(options, out_x, layout))
        }
        Operator::ConvSavingZ => {
            let z = Rows::new(&mut saved, layout);
            workspace.conv_saving_z(Rows::new(&x[0], layout), weights(), z, rows_out(options, out_x, layout))
        }
        Operator::ConvBackward => {
            let grad_x = rows_out(options, out_x, layout);
            workspace.conv_backward(
                Rows::new(&x[0], layout),
                weights(),
                Rows::new(&g[0], layout),
                grad_x,
                grad_w,
            )
        }
        Operator::ConvBackwardFromZ => {
            let (z, grad_x) = (Rows::new(&saved, layout), rows_out(options, out_x, layout));
            workspace.conv_backward_from_z(
                Rows::new(&x[0], layout),
                z,
                weights(),
                Rows::new(&g[0], layout),
                grad_x,
                grad_w,
            )
        }
        Operator::ConvEpilogue => workspace.conv_epilogue(
            Rows::new(&x[0], layout),
            weights(),
            &epilogue,
            residual,
            rows_out(options, out_x, layout),
        ),
        Operator::ConvReadout => {
            let readout = out_to(options.rows, options.add, readout.slice_mut(..instances * features));
            workspace.conv_readout(Rows::new(&x[0], layout), weights(), &epilogue, residual, readout)
        }
        Operator::ConvEpilogueBackward | Operator::ConvReadoutBackward => {
            let grad_residual = Rows::new(&mut grad_residual, layout);
            let gradients = EpilogueGradients::none()
                .x(rows_out(options, out_x, layout))
                .weights(grad_w)
                .bias(out_to(options.bias && wants_bias, options.add, grad_bias.slice_mut(..features)))
                .residual(out_to(wants_residual, options.add, grad_residual));
            let x = Rows::new(&x[0], layout);
            if options.operator == Operator::ConvEpilogueBackward {
                let g = Rows::new(&g[0], layout);
                workspace.conv_epilogue_backward(x, weights(), &epilogue, g, gradients)
            } else {
                let g = per_instance.slice(..instances * features);
                workspace.conv_readout_backward(x, weights(), &epilogue, g, gradients)
            }
        }
        Operator::ConvMatrix => {
            let matrix = out_to(options.rows, options.add, matrices.slice_mut(..of_matrices));
            workspace.conv_matrix(weights(), matrix)
        }
        Operator::ConvMatrixBackward => {
            workspace.conv_matrix_backward(weights(), grad_matrices.slice(..of_matrices), grad_w)
        }
        Operator::Gram => {
            let gram = out_to(options.rows, options.add, matrices.slice_mut(..of_matrices));
            workspace.gram(Rows::new(&x[0], layout), gram)
        }
        Operator::GramBackward => {
            let g = grad_matrices.slice(..of_matrices);
            workspace.gram_backward(Rows::new(&x[0], layout), g, rows_out(options, out_x, layout))
        }
        Operator::Layer => workspace.layer(
            Rows::new(&x[0], layout),
            theta.slice(..len_of_theta),
            weights(),
            &epilogue,
            residual,
            rows_out(options, out_x, layout),
        ),
        Operator::LayerBackward => {
            let gradients = LayerGradients::none()
                .x(rows_out(options, out_x, layout))
                .theta(out_to(options.theta, options.add, grad_theta.slice_mut(..len_of_theta)))
                .weights(grad_w)
                .bias(out_to(options.bias && wants_bias, options.add, grad_bias.slice_mut(..features)))
                .residual(out_to(wants_residual, options.add, Rows::new(&mut grad_residual, layout)));
            let (x, g) = (Rows::new(&x[0], layout), Rows::new(&g[0], layout));
            workspace.layer_backward(x, theta.slice(..len_of_theta), weights(), &epilogue, g, gradients)
        }
        other => panic!("{other:?} is not called here"),
    }
    .unwrap();
}

fn explains_itself<T: GpuElement>(
    (batch, instances): &(Batch, usize),
    conv: Conv,
    mut options: Options,
    on_gather: u64,
) {
    let gpu = Gpu::take();
    let Some(control) = gpu.control("what is launched") else { return };
    let instances = *instances;
    let stream = gpu.device().context().default_stream();
    let batch = gpu.device().upload(batch).unwrap();
    let chosen =
        Plan::<T>::builder(&batch, options.features).conv(conv).checks(options.checks).build().unwrap();
    let stays = |topology: usize| on_gather >> (topology % 64) & 1 == 0;
    let paths = chosen.paths().iter().enumerate();
    let paths: Vec<Path> =
        paths.map(|(topology, &path)| if stays(topology) { path } else { Path::Gather }).collect();
    let plan = Plan::<T>::builder(&batch, options.features)
        .conv(conv)
        .checks(options.checks)
        .paths(&paths)
        .build()
        .unwrap();
    let name = options.operator.name();
    if name.starts_with("conv") || name.starts_with("layer") {
        options.scales = [None, options.scales[1].or(Some(Kind::Shared))];
    }
    let scales =
        [0, 1].map(|at| options.scales[at].map(|kind| scale(&plan, &stream, Axis::ALL[at], kind, instances)));
    let [vertex, hyperedge] = &scales;
    let request = Request::new(options.operator, instances)
        .reduce(options.reduce)
        .vertex_scale(vertex.as_ref().map(|scale| scale.windows.as_deref()))
        .hyperedge_scale(hyperedge.as_ref().map(|scale| scale.windows.as_deref()))
        .rows(options.rows)
        .vertex_gradient(options.gradients[0])
        .hyperedge_gradient(options.gradients[1])
        .activation(options.activation)
        .bias(options.bias)
        .residual(options.residual)
        .bias_gradient(options.gradients_of_epilogue[0])
        .residual_gradient(options.gradients_of_epilogue[1])
        .theta_gradient(options.theta);
    if !options.operator.takes::<T>(batch.batch()) {
        let refused = plan.explain_call(&request).unwrap_err();
        let is_layer = matches!(options.operator, Operator::Layer | Operator::LayerBackward);
        // Of layers, what no topology changes and the number of vertices come first.
        let has_kernel = size_of::<T>() <= size_of::<f32>() && batch.batch().largest(Axis::Vertex) <= 16;
        let is_named = match refused {
            Error::MatrixUnavailable { .. } => !is_layer || has_kernel,
            Error::LayerUnavailable { .. } => is_layer && !has_kernel,
            _ => false,
        };
        assert!(is_named, "{refused}");
        return;
    }
    let explained = plan.explain_call(&request).unwrap();
    let mut workspace = plan.workspace_for(&stream, instances, &[options.operator]).unwrap();
    call(control, &mut workspace, options, instances, [vertex.as_ref(), hyperedge.as_ref()]);
    let calls = control.calls();
    let count = |name| calls.get(name).copied().unwrap_or(0) as usize;
    assert_eq!(control.launched(), explained.kernels, "{explained:?}");
    assert_eq!(count("cuLaunchKernel"), explained.launches, "{explained:?}");
    let fills = if options.add { 0 } else { explained.zero_fills };
    assert_eq!(count("cuMemsetD8Async"), fills, "{explained:?}");
    workspace.check().unwrap();
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn a_call_queues_exactly_what_the_plan_explains(
        layout in layout(),
        conv in conv(),
        options in options(),
        on_gather in prop_oneof![2 => Just(0), 1 => Just(u64::MAX), 1 => any::<u64>()],
        element in element_types(),
    ) {
        with_element!(element, explains_itself(&layout, conv, options, on_gather));
    }
}

/// One launch forms operators, and one computes a layer, the gradients of rows or those of Θ, whose parts one
/// more adds. With checks one before each of these finds the instances of several topologies.
#[test]
fn layers_take_few_launches() {
    let gpu = Gpu::take();
    let copies = Batch::replicate(Incidence::subsets(4, 2).unwrap());
    for (batch, is_table) in [(copies, false), (table_batch(), true)] {
        let batch = gpu.device().upload(&batch).unwrap();
        for checks in [Checks::On, Checks::Off] {
            let plan = Plan::<f32>::builder(&batch, 8).checks(checks).build().unwrap();
            let launches = |request: Request<'_>| plan.explain_call(&request).unwrap().launches;
            let finds = usize::from(is_table && checks == Checks::On);
            assert_eq!(launches(Request::new(Operator::Layer, 5)), 2 + finds);
            let nothing = Request::new(Operator::LayerBackward, 5)
                .rows(false)
                .hyperedge_gradient(false)
                .theta_gradient(false)
                .bias_gradient(false)
                .residual_gradient(false);
            assert_eq!(launches(nothing), 0);
            assert_eq!(launches(nothing.residual_gradient(true)), 1);
            // With an activation t is computed first, as a layer.
            for (activation, of_t) in [(Activation::Identity, 0), (Activation::Gelu, 2 + finds)] {
                let nothing = nothing.activation(activation);
                assert_eq!(launches(nothing.rows(true)), of_t + 2 + finds);
                assert_eq!(launches(nothing.theta_gradient(true)), of_t + 3 + finds);
                assert_eq!(launches(nothing.rows(true).theta_gradient(true)), of_t + 4 + 2 * finds);
            }
        }
    }
}

/// Without caches no call moves less than its operands.
#[test]
fn epilogues_move_their_operands() {
    let gpu = Gpu::take();
    let subsets = |n| Incidence::subsets(n, 2).unwrap();
    let mixed = Batch::from_table(vec![subsets(4), subsets(20)], &[0u8, 1, 0]).unwrap();
    for (batch, instances) in
        [(Batch::replicate(subsets(4)), 5), (Batch::replicate(subsets(20)), 5), (mixed, 3)]
    {
        let batch = gpu.device().upload(&batch).unwrap();
        let chosen = Plan::<f32>::builder(&batch, 8).build().unwrap();
        let gathers = vec![Path::Gather; chosen.paths().len()];
        let gathers = Plan::<f32>::builder(&batch, 8).paths(&gathers).build().unwrap();
        for plan in [chosen, gathers] {
            for operator in [
                Operator::ConvEpilogue,
                Operator::ConvEpilogueBackward,
                Operator::ConvReadout,
                Operator::ConvReadoutBackward,
            ] {
                for &activation in Activation::ALL {
                    let request = Request::new(operator, instances).activation(activation);
                    let explained = plan.explain_call(&request).unwrap();
                    assert!(explained.uncached_bytes >= explained.compulsory_bytes, "{explained:?}");
                }
            }
        }
    }
}
