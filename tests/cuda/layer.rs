//! Layers in one pass: against their definition in `f64`, by the errors that their documents state, and in
//! bits against themselves.

use hyperscatter::cuda::cudarc::driver::{CudaSlice, CudaStream, DeviceSlice};
use hyperscatter::cuda::{Checks, Device, Epilogue, LayerGradients, Plan};
use hyperscatter::half::{bf16, f16};
use hyperscatter::{
    Activation, Batch, Conv, Error, Incidence, Normalization, Operator, Out, Precision, Repeats, RowLayout,
    Rows, WeightUse, Weights, cpu,
};

use super::gpu::{Gpu, GpuElement, Mode, is_quick};
use crate::common::{numbers, widen};
use hyperscatter::Accumulator as _;

/// A layer, and what its operands are like.
#[derive(Debug, Clone)]
struct Case {
    batch: Batch,
    instances: usize,
    inputs: usize,
    features: usize,
    conv: Conv,
    precision: Precision,
    /// All instances read one window of weights; else each reads its own.
    shared: bool,
    activation: Activation,
    bias: bool,
    residual: bool,
    /// Rows of x, y and g lie vertex by vertex, as of tensors `[n, G, F]`.
    by_vertex: bool,
    add: bool,
}

impl Case {
    fn new(batch: Batch, instances: usize, inputs: usize, features: usize) -> Self {
        Self {
            batch,
            instances,
            inputs,
            features,
            conv: Conv::default(),
            precision: Precision::default(),
            shared: true,
            activation: Activation::Identity,
            bias: false,
            residual: false,
            by_vertex: false,
            add: false,
        }
    }

    /// Of the pairs of so many vertices.
    fn pairs(n: usize, instances: usize, inputs: usize, features: usize) -> Self {
        Self::new(Batch::replicate(cliques(n)), instances, inputs, features)
    }

    /// With an epilogue that has everything.
    fn with(self, activation: Activation) -> Self {
        Self { activation, bias: true, residual: true, ..self }
    }

    fn own(self) -> Self {
        Self { shared: false, ..self }
    }

    fn topology(&self, instance: usize) -> &Incidence {
        self.batch.topology(instance)
    }

    fn sizes(&self, of: impl Fn(&Incidence) -> usize) -> Vec<usize> {
        (0..self.instances).map(|g| of(self.topology(g))).collect()
    }

    fn n_rows(&self) -> usize {
        self.sizes(Incidence::n_vertices).iter().sum()
    }

    fn n_weights(&self) -> usize {
        let sizes = self.sizes(Incidence::n_hyperedges);
        if self.shared { sizes.iter().copied().max().unwrap_or(0) } else { sizes.iter().sum() }
    }

    fn layout(&self, features: usize) -> RowLayout {
        let layout = RowLayout::contiguous(features).instances(self.instances);
        match self.by_vertex {
            true => layout.row_stride(self.instances * features).instance_stride(features),
            false => layout,
        }
    }

    /// Where a row lies.
    fn row(&self, instance: usize, first: usize, v: usize) -> usize {
        if self.by_vertex { v * self.instances + instance } else { first + v }
    }
}

/// All pairs of vertices, all of them together, and the first alone.
fn cliques(n: usize) -> Incidence {
    let pairs = (0..n as u32).flat_map(|u| (u + 1..n as u32).map(move |v| vec![u, v]));
    let edges: Vec<Vec<u32>> =
        pairs.chain([(0..n as u32).collect(), (0..n as u32).take(1).collect()]).collect();
    Incidence::from_edges(n, &edges, Repeats::Reject).unwrap()
}

/// The operands of a case, rounded to `T`.
struct Operands<T: GpuElement> {
    x: Vec<T>,
    theta: Vec<T>,
    weights: Vec<T::Acc>,
    bias: Vec<T::Acc>,
    residual: Vec<T>,
    g: Vec<T>,
}

impl<T: GpuElement> Operands<T> {
    fn new(case: &Case, seed: u64) -> Self {
        let n = case.n_rows();
        let of = |seed: u64, len: usize| {
            numbers(seed, len, -1.0, 1.0).iter().map(|&x| T::of(x)).collect::<Vec<T>>()
        };
        let weights = numbers(seed ^ 3, case.n_weights(), 0.2, 2.0).iter().map(|&w| T::acc(w)).collect();
        Self {
            x: of(seed ^ 1, n * case.inputs),
            theta: of(seed ^ 2, case.features * case.inputs),
            weights,
            bias: numbers(seed ^ 4, case.features, -1.0, 1.0).iter().map(|&x| T::acc(x)).collect(),
            residual: of(seed ^ 5, n * case.features),
            g: of(seed ^ 6, n * case.features),
        }
    }
}

/// The results, as `f64`: y, ∂x, ∂Θ, ∂weights, ∂bias and ∂residual.
type Results = [Vec<f64>; 6];

const NAMES: [&str; 6] = ["y", "grad_x", "grad_theta", "grad_weights", "grad_bias", "grad_residual"];

/// What outputs hold before a call.
const BEFORE: f64 = 0.5;

fn upload<E: hyperscatter::cuda::cudarc::driver::DeviceRepr>(
    stream: &std::sync::Arc<CudaStream>,
    values: &[E],
) -> CudaSlice<E> {
    stream.clone_htod(values).unwrap()
}

fn out<B>(add: bool, buffer: B) -> Out<B> {
    if add { Out::Accumulate(buffer) } else { Out::Overwrite(buffer) }
}

/// What a device gives.
fn found<T: GpuElement>(device: &Device, case: &Case, of: &Operands<T>, checks: Checks) -> Results {
    let stream = device.context().default_stream();
    let batch = device.upload(&case.batch).unwrap();
    let plan = Plan::<T>::builder(&batch, case.features)
        .inputs(case.inputs)
        .conv(case.conv)
        .precision(case.precision)
        .checks(checks)
        .build()
        .unwrap();
    let operators = [Operator::Layer, Operator::LayerBackward];
    let mut workspace = plan.workspace_for(&stream, case.instances, &operators).unwrap();
    let (x, theta, residual, g) = (
        upload(&stream, &of.x),
        upload(&stream, &of.theta),
        upload(&stream, &of.residual),
        upload(&stream, &of.g),
    );
    let (weights, bias) = (upload(&stream, &of.weights), upload(&stream, &of.bias));
    let before = |len: usize| upload(&stream, &vec![T::of(BEFORE); len]);
    let sums_before = |len: usize| upload(&stream, &vec![T::acc(BEFORE); len]);
    let mut y = before(of.g.len());
    let (mut grad_x, mut grad_residual) = (before(of.x.len()), before(of.g.len()));
    let (mut grad_theta, mut grad_weights) = (sums_before(of.theta.len()), sums_before(of.weights.len()));
    let mut grad_bias = sums_before(of.bias.len());
    let (inputs, outputs) = (case.layout(case.inputs), case.layout(case.features));
    let windows =
        |weights| if case.shared { Weights::shared(weights) } else { Weights::consecutive(weights) };
    let epilogue = || Epilogue::new(case.activation).bias(case.bias.then(|| bias.as_view()));
    let added = case.residual.then(|| Rows::new(&residual, outputs));
    workspace
        .layer(
            Rows::new(&x, inputs),
            theta.as_view(),
            windows(&weights),
            &epilogue(),
            added,
            out(case.add, Rows::new(&mut y, outputs)),
        )
        .unwrap();
    let gradients = LayerGradients::none()
        .x(out(case.add, Rows::new(&mut grad_x, inputs)))
        .theta(out(case.add, grad_theta.as_view_mut()))
        .weights(out(case.add, grad_weights.as_view_mut()))
        .bias(if case.bias { out(case.add, grad_bias.as_view_mut()) } else { Out::Skip })
        .residual(out(case.add, Rows::new(&mut grad_residual, outputs)));
    workspace
        .layer_backward(
            Rows::new(&x, inputs),
            theta.as_view(),
            windows(&weights),
            &epilogue(),
            Rows::new(&g, outputs),
            gradients,
        )
        .unwrap();
    workspace.check().unwrap();
    let rows = |rows: &CudaSlice<T>| widen(&stream.clone_dtoh(rows).unwrap());
    let sums =
        |sums: &CudaSlice<T::Acc>| stream.clone_dtoh(sums).unwrap().iter().map(|s| s.to_f64()).collect();
    [rows(&y), rows(&grad_x), sums(&grad_theta), sums(&grad_weights), sums(&grad_bias), rows(&grad_residual)]
}

/// The definition, from the operands as they are.
fn expected<T: GpuElement>(case: &Case, of: &Operands<T>) -> Results {
    let (inputs, features) = (case.inputs, case.features);
    let plan = cpu::Plan::<f64>::builder(&case.batch, 1).conv(case.conv).build().unwrap();
    let mut workspace = plan.workspace(case.instances).unwrap();
    let side = case.batch.topologies().iter().map(Incidence::n_vertices).max().unwrap_or(0);
    let weights: Vec<f64> = of.weights.iter().map(|w| w.to_f64()).collect();
    let windows = || if case.shared { Weights::shared(&weights) } else { Weights::consecutive(&weights) };
    let mut matrices = vec![0.0; case.instances * side * side];
    workspace.conv_matrix(windows(), Out::Overwrite(&mut matrices)).unwrap();
    let [x, theta, residual, g] = [&of.x, &of.theta, &of.residual, &of.g].map(|values| widen(values));
    let bias: Vec<f64> = of.bias.iter().map(|b| b.to_f64()).collect();
    let start = |len: usize| vec![if case.add { BEFORE } else { 0.0 }; len];
    let (mut y, mut grad_x, mut grad_theta) = (start(g.len()), start(x.len()), start(theta.len()));
    let (mut grad_weights, mut grad_bias) = (start(weights.len()), start(bias.len()));
    let grad_residual = start(g.len()).iter().zip(&g).map(|(a, b)| a + b).collect();
    let mut grad_matrices = vec![0.0; matrices.len()];
    let mut first = 0;
    for (instance, n) in case.sizes(Incidence::n_vertices).into_iter().enumerate() {
        let m = |u: usize, v: usize| matrices[(instance * side + u) * side + v];
        let row = |v: usize| case.row(instance, first, v);
        let product = |v: usize, o: usize| -> f64 {
            (0..inputs).map(|i| x[row(v) * inputs + i] * theta[o * inputs + i]).sum()
        };
        let s: Vec<f64> = (0..n * features).map(|k| product(k / features, k % features)).collect();
        let mut t = vec![0.0; n * features];
        for (u, o) in (0..n).flat_map(|u| (0..features).map(move |o| (u, o))) {
            let sum: f64 = (0..n).map(|v| m(u, v) * s[v * features + o]).sum();
            let sum = sum + if case.bias { bias[o] } else { 0.0 };
            let at = row(u) * features + o;
            y[at] += case.activation.value(sum) + if case.residual { residual[at] } else { 0.0 };
            t[u * features + o] = g[at] * case.activation.derivative(sum);
            if case.bias {
                grad_bias[o] += t[u * features + o];
            }
            for v in 0..n {
                grad_matrices[(instance * side + u) * side + v] += t[u * features + o] * s[v * features + o];
            }
        }
        for (v, o) in (0..n).flat_map(|v| (0..features).map(move |o| (v, o))) {
            let h: f64 = (0..n).map(|u| m(u, v) * t[u * features + o]).sum();
            for i in 0..inputs {
                grad_x[row(v) * inputs + i] += h * theta[o * inputs + i];
                grad_theta[o * inputs + i] += h * x[row(v) * inputs + i];
            }
        }
        first += n;
    }
    workspace.conv_matrix_backward(windows(), &grad_matrices, out(case.add, &mut grad_weights[..])).unwrap();
    if !case.add && !case.bias {
        grad_bias.fill(BEFORE);
    }
    [y, grad_x, grad_theta, grad_weights, grad_bias, grad_residual]
}

/// ‖found − expected‖ / ‖expected‖; of what cancels out, such as gradients of weights that change nothing,
/// ‖found − expected‖.
fn error(found: &[f64], expected: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(f, e)| f - e));
    let of = norm(&mut expected.iter().copied());
    if of < 1e-9 { difference } else { difference / of }
}

/// The largest relative error of each result in the Frobenius norm.
fn bounds<T: GpuElement>(case: &Case) -> [f64; 6] {
    // An element of t is 0 or not as the sum before it has one sign or the other: near 0 rounding decides.
    let jumps = if case.activation == Activation::Relu { 8.0 } else { 1.0 };
    let bounds = match (T::NAME, case.precision) {
        // Rounded results have half a unit in the last place; ∂Θ has it of Mᵀ t.
        ("bf16", _) => [2.5e-3, 4e-3, 4e-3, 4e-3, 3e-3, 2.5e-3],
        ("f16", _) => [5e-4, 8e-4, 8e-4, 8e-4, 5e-4, 3e-4],
        (_, Precision::Tf32) => [1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-6],
        _ => [1e-5, 1e-5, 1e-5, 3e-5, 1e-5, 1e-6],
    };
    std::array::from_fn(|i| if (1..5).contains(&i) { jumps * bounds[i] } else { bounds[i] })
}

fn assert_close<T: GpuElement>(gpu: &Gpu, case: &Case, seed: u64) {
    let of = Operands::<T>::new(case, seed);
    let expected = expected(case, &of);
    let checks = if seed % 2 == 0 { Checks::On } else { Checks::Off };
    let found = found(gpu.device(), case, &of, checks);
    for (i, bound) in bounds::<T>(case).into_iter().enumerate() {
        let error = error(&found[i], &expected[i]);
        println!("{} of {} in {:?}: {error:.2e}", NAMES[i], T::NAME, case.precision);
        assert!(error <= bound, "{} of {}: {error:e}, above {bound:e}, {case:?}", NAMES[i], T::NAME);
    }
}

/// A case of each type and precision.
fn assert_close_in_all(gpu: &Gpu, case: &Case, seed: u64) {
    assert_close::<bf16>(gpu, case, seed);
    assert_close::<f16>(gpu, case, seed + 1);
    assert_close::<f32>(gpu, case, seed + 2);
    assert_close::<f32>(gpu, &Case { precision: Precision::Tf32, ..case.clone() }, seed + 3);
}

#[test]
fn a_layer_of_pairs_is_its_definition() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    assert_close_in_all(&gpu, &Case::pairs(8, 5, 64, 32), 1);
    assert_close_in_all(&gpu, &Case::pairs(8, 5, 64, 32).own().with(Activation::Relu), 7);
}

/// Each number of vertices has a place of its own in a group of rows.
#[test]
fn layers_of_each_number_of_vertices_are_their_definition() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    for n in 1..=16 {
        let instances = 16 / n + 2;
        let case = Case::pairs(n, instances, 40, 24).with(Activation::Relu);
        assert_close::<bf16>(&gpu, &case, n as u64);
        assert_close::<bf16>(&gpu, &case.clone().own(), n as u64 + 1);
        let case = Case { add: true, by_vertex: true, ..case.with(Activation::Silu) };
        assert_close::<f32>(&gpu, &case, n as u64);
        assert_close::<f32>(&gpu, &case.own(), n as u64 + 1);
    }
}

/// Features that fill steps, warps, blocks and chunks of 16 bytes, or do not.
#[test]
fn layers_of_many_widths_are_their_definition() {
    let gpu = Gpu::take();
    gpu.set(Mode::QUICK);
    let widths = [1, 7, 8, 31, 32, 33, 64, 100, 128, 200, 256];
    for (i, &inputs) in widths.iter().enumerate() {
        let features = widths[(i * 7 + 3) % widths.len()];
        let case = Case::pairs(3 + i % 4, 6, inputs, features).with(Activation::GeluTanh);
        let case = Case { shared: i % 2 == 0, by_vertex: i % 3 == 0, ..case };
        assert_close_in_all(&gpu, &case, i as u64);
    }
    for (inputs, features) in [(264, 16), (16, 264), (300, 310), (512, 8), (9, 511), (512, 512)] {
        let case = Case::pairs(4, 5, inputs, features).with(Activation::Gelu);
        assert_close::<bf16>(&gpu, &case, inputs as u64);
        assert_close::<f16>(&gpu, &case.own(), features as u64);
    }
    // More features than a block has, which blocks side by side share out.
    let gradients_of_few = Case::pairs(2, 3, 20, 256).own();
    assert_close::<f32>(&gpu, &gradients_of_few, 5);
}

/// So many instances that blocks have several tiles, and chunks several nodes.
#[test]
fn layers_of_many_instances_are_their_definition() {
    let gpu = Gpu::take();
    gpu.set(Mode::QUICK);
    let instances = if is_quick() { 30_000 } else { 1_100 };
    let case = Case::pairs(4, instances, 16, 16).with(Activation::Relu);
    assert_close::<bf16>(&gpu, &case, 1);
    assert_close::<f32>(&gpu, &case.clone().own(), 2);
    assert_close::<f16>(&gpu, &Case::pairs(1, instances, 8, 8), 3);
}

/// Instances of several topologies, some without vertices, in both classes.
fn mixed() -> Batch {
    let topologies = [3, 8, 0, 12, 16, 1].map(cliques).to_vec();
    Batch::from_table(topologies, &[0u32, 3, 1, 2, 4, 4, 5, 0, 3, 1, 1, 2, 5]).unwrap()
}

#[test]
fn layers_of_several_topologies_are_their_definition() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    for shared in [true, false] {
        let case = Case { shared, ..Case::new(mixed(), 13, 24, 40).with(Activation::Silu) };
        assert_close_in_all(&gpu, &case, 3);
    }
}

#[test]
fn layers_of_all_conventions_are_their_definition() {
    let gpu = Gpu::take();
    gpu.set(Mode::QUICK);
    for normalization in [Normalization::Row, Normalization::Symmetric, Normalization::None] {
        for weight_use in [WeightUse::Documented, WeightUse::DegreeOnly, WeightUse::MessageOnly] {
            let conv = Conv::new(normalization, weight_use);
            let case = Case { conv, ..Case::pairs(5, 6, 16, 24) };
            assert_close::<f32>(&gpu, &case, 1);
            assert_close::<bf16>(&gpu, &case.own(), 2);
        }
    }
}
