//! Layers in one pass: against their definition in `f64`, by the errors that their documents state, and in
//! bits against themselves.

use hyperscatter::cuda::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr};
use hyperscatter::cuda::{Checks, Device, Epilogue, LayerGradients, Plan};
use hyperscatter::half::{bf16, f16};
use hyperscatter::{
    Activation, Batch, Conv, Error, Incidence, Normalization, Operator, Out, Precision, Repeats, RowLayout,
    Rows, WeightUse, Weights, cpu,
};

use super::gpu::{Gpu, GpuElement, Mode, in_any_order, is_quick};
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

    /// With an epilogue that has everything; with ReLU y tells the signs of its sums, so there is no
    /// residual.
    fn with(self, activation: Activation) -> Self {
        Self { activation, bias: true, residual: activation != Activation::Relu, ..self }
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

fn upload<E: DeviceRepr>(stream: &std::sync::Arc<CudaStream>, values: &[E]) -> CudaSlice<E> {
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

/// The definition, from the operands as they are. Of a sum near 0 rounding decides which sign it has, and
/// that whether ReLU passes its gradient on: `found`, what y is, tells it.
fn expected<T: GpuElement>(case: &Case, of: &Operands<T>, found: &[f64]) -> Results {
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
            let derivative = match case.activation {
                Activation::Relu => f64::from(found[at] > 0.0),
                activation => activation.derivative(sum),
            };
            t[u * features + o] = g[at] * derivative;
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
fn bounds<T: GpuElement>(precision: Precision) -> [f64; 6] {
    match (T::NAME, precision) {
        // Rounded results have half a unit in the last place; ∂Θ has it of Mᵀ t.
        ("bf16", _) => [2.5e-3, 4e-3, 4e-3, 8e-3, 2e-2, 2.5e-3],
        ("f16", _) => [5e-4, 8e-4, 8e-4, 2e-3, 3e-3, 3e-4],
        (_, Precision::Tf32) => [1e-3, 1e-3, 1e-3, 2e-3, 5e-3, 1e-6],
        _ => [1e-5, 1e-5, 1e-5, 3e-5, 3e-5, 1e-6],
    }
}

fn assert_close<T: GpuElement>(device: &Device, case: &Case, seed: u64) {
    let of = Operands::<T>::new(case, seed);
    let checks = if seed.is_multiple_of(2) { Checks::On } else { Checks::Off };
    let found = found(device, case, &of, checks);
    let expected = expected(case, &of, &found[0]);
    for (i, bound) in bounds::<T>(case.precision).into_iter().enumerate() {
        let error = error(&found[i], &expected[i]);
        println!("{} of {} in {:?}: {error:.2e}", NAMES[i], T::NAME, case.precision);
        assert!(error <= bound, "{} of {}: {error:e}, above {bound:e}, {case:?}", NAMES[i], T::NAME);
    }
}

/// A case of each type and precision.
fn assert_close_in_all(device: &Device, case: &Case, seed: u64) {
    assert_close::<bf16>(device, case, seed);
    assert_close::<f16>(device, case, seed + 1);
    assert_close::<f32>(device, case, seed + 2);
    assert_close::<f32>(device, &Case { precision: Precision::Tf32, ..case.clone() }, seed + 3);
}

#[test]
fn a_layer_of_pairs_is_its_definition() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    assert_close_in_all(gpu.device(), &Case::pairs(8, 5, 64, 32), 1);
    assert_close_in_all(gpu.device(), &Case::pairs(8, 5, 64, 32).own().with(Activation::Relu), 7);
}

/// Each number of vertices has a place of its own in a group of rows.
#[test]
fn layers_of_each_number_of_vertices_are_their_definition() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    for n in 1..=16 {
        let instances = 16 / n + 2;
        let case = Case::pairs(n, instances, 40, 24).with(Activation::Relu);
        assert_close::<bf16>(gpu.device(), &case, n as u64);
        assert_close::<bf16>(gpu.device(), &case.clone().own(), n as u64 + 1);
        let case = Case { add: true, by_vertex: true, ..case.with(Activation::Silu) };
        assert_close::<f32>(gpu.device(), &case, n as u64);
        assert_close::<f32>(gpu.device(), &case.own(), n as u64 + 1);
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
        assert_close_in_all(gpu.device(), &case, i as u64);
    }
    for (inputs, features) in [(264, 16), (16, 264), (300, 310), (512, 8), (9, 511), (512, 512)] {
        let case = Case::pairs(4, 5, inputs, features).with(Activation::Gelu);
        assert_close::<bf16>(gpu.device(), &case, inputs as u64);
        assert_close::<f16>(gpu.device(), &case.own(), features as u64);
    }
    // More features than a block has, which blocks side by side share out.
    let gradients_of_few = Case::pairs(2, 3, 20, 256).own();
    assert_close::<f32>(gpu.device(), &gradients_of_few, 5);
}

/// So many instances that blocks have several tiles, and chunks several nodes.
#[test]
fn layers_of_many_instances_are_their_definition() {
    let gpu = Gpu::take();
    gpu.set(Mode::QUICK);
    let instances = if is_quick() { 30_000 } else { 1_100 };
    let case = Case::pairs(4, instances, 16, 16).with(Activation::Relu);
    assert_close::<bf16>(gpu.device(), &case, 1);
    assert_close::<f32>(gpu.device(), &case.clone().own(), 2);
    assert_close::<f16>(gpu.device(), &Case::pairs(1, instances, 8, 8), 3);
}

/// Vertices that share no hyperedge, one that has none, and one whose degree is 0: their entries of M are 0.
#[test]
fn layers_of_few_hyperedges_are_their_definition() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let edges = [vec![0u32, 1], vec![2, 3], vec![4]];
    let topology = Incidence::from_edges(6, &edges, Repeats::Reject).unwrap();
    for normalization in [Normalization::Row, Normalization::Symmetric] {
        let conv = Conv::new(normalization, WeightUse::Documented);
        let case = Case { conv, ..Case::new(Batch::replicate(topology.clone()), 5, 16, 24) };
        for case in [case.clone(), case.own()] {
            for checks in [Checks::On, Checks::Off] {
                let mut of = Operands::<bf16>::new(&case, 3);
                // The hyperedge of vertex 4 has no weight.
                of.weights.iter_mut().skip(2).step_by(3).for_each(|w| *w = 0.0);
                let found = found(gpu.device(), &case, &of, checks);
                let expected = expected(&case, &of, &found[0]);
                for (i, bound) in bounds::<bf16>(case.precision).into_iter().enumerate() {
                    let error = error(&found[i], &expected[i]);
                    assert!(error <= bound, "{}: {error:e}, {checks:?}, {case:?}", NAMES[i]);
                }
            }
        }
    }
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
        assert_close_in_all(gpu.device(), &case, 3);
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
            assert_close::<f32>(gpu.device(), &case, 1);
            assert_close::<bf16>(gpu.device(), &case.own(), 2);
        }
    }
}

/// The rows of x with an infinity, or a NaN, reach those rows of y that share a hyperedge with them, and no
/// other instance, whether it lies in the same group of rows or not: all others have the bits that they have
/// without.
fn assert_reach<T: GpuElement>(gpu: &Gpu, precision: Precision, shared: bool, special: f64) {
    // {0, 1} and {2, 3}, with a group of four instances.
    let topology = Incidence::from_edges(4, &[vec![0u32, 1], vec![2, 3]], Repeats::Reject).unwrap();
    let case = Case::new(Batch::replicate(topology), 9, 16, 24);
    let case = Case { precision, shared, ..case }.with(Activation::Relu);
    let mut of = Operands::<T>::new(&case, 11);
    let [without, ..] = found(gpu.device(), &case, &of, Checks::Off);
    of.x[(4 * 5 + 1) * case.inputs + 3] = T::of(special);
    let [with, ..] = found(gpu.device(), &case, &of, Checks::Off);
    let rows = without.chunks(case.features).zip(with.chunks(case.features));
    for (row, (without, with)) in rows.enumerate() {
        match row {
            // ReLU makes 0 of minus infinity.
            20 | 21 => assert!(with.iter().any(|y| !y.is_finite()), "{row}: {with:?}"),
            _ => assert_eq!(with, without, "row {row} of {}", T::NAME),
        }
    }
}

#[test]
fn an_infinity_reaches_what_it_shares_a_hyperedge_with() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    for (shared, special) in [(true, f64::INFINITY), (false, f64::NAN)] {
        assert_reach::<bf16>(&gpu, Precision::default(), shared, special);
        assert_reach::<f16>(&gpu, Precision::default(), shared, special);
        assert_reach::<f32>(&gpu, Precision::ThreeBf16, shared, special);
        assert_reach::<f32>(&gpu, Precision::Tf32, shared, special);
    }
}

/// The rows of an instance have the same bits alone and at each place of a batch, and whatever its rows lie
/// between. Sums over instances have them in any order of blocks and threads.
fn assert_batch_invariant<T: GpuElement>(gpu: &Gpu, n: usize, precision: Precision, shared: bool) {
    let instances = 2 * (16 / n) + 3;
    let case = Case { precision, shared, ..Case::pairs(n, instances, 24, 40).with(Activation::Silu) };
    let of = Operands::<T>::new(&case, n as u64);
    let batch = found(gpu.device(), &case, &of, Checks::Off);
    let by_vertex = |rows: &[T], features: usize| {
        let mut moved = rows.to_vec();
        for (row, from) in rows.chunks(features).enumerate() {
            let to = (row % n * instances + row / n) * features;
            moved[to..to + features].copy_from_slice(from);
        }
        moved
    };
    let strided = Case { by_vertex: true, ..case.clone() };
    let moved = Operands {
        x: by_vertex(&of.x, case.inputs),
        residual: by_vertex(&of.residual, case.features),
        g: by_vertex(&of.g, case.features),
        theta: of.theta.clone(),
        weights: of.weights.clone(),
        bias: of.bias.clone(),
    };
    let in_place = found(gpu.device(), &strided, &moved, Checks::Off);
    for (i, of_sums) in [(2, "grad_theta"), (3, "grad_weights"), (4, "grad_bias")] {
        assert_eq!(in_place[i], batch[i], "{of_sums} of {}, strided", T::NAME);
    }
    let m = case.topology(0).n_hyperedges();
    for instance in 0..instances {
        let part = |rows: &[T], features: usize| rows[instance * n * features..][..n * features].to_vec();
        let weights = if shared { of.weights.clone() } else { of.weights[instance * m..][..m].to_vec() };
        let alone = Operands {
            x: part(&of.x, case.inputs),
            residual: part(&of.residual, case.features),
            g: part(&of.g, case.features),
            theta: of.theta.clone(),
            weights,
            bias: of.bias.clone(),
        };
        let alone = found(gpu.device(), &Case { instances: 1, ..case.clone() }, &alone, Checks::Off);
        for (i, features) in [(0, case.features), (1, case.inputs)] {
            let of_batch = &batch[i][instance * n * features..][..n * features];
            assert_eq!(alone[i], of_batch, "{} of instance {instance} of {n}", NAMES[i]);
            for v in 0..n {
                let found = &in_place[i][(v * instances + instance) * features..][..features];
                assert_eq!(found, &of_batch[v * features..][..features], "{} strided", NAMES[i]);
            }
        }
    }
}

#[test]
fn rows_have_the_same_bits_alone_and_at_any_place() {
    let gpu = Gpu::take();
    gpu.set(Mode::QUICK);
    for (i, n) in [1, 3, 5, 7, 8, 11, 16].into_iter().enumerate() {
        assert_batch_invariant::<bf16>(&gpu, n, Precision::default(), i % 2 == 0);
        assert_batch_invariant::<f32>(&gpu, n, Precision::ThreeBf16, i % 2 == 1);
    }
    assert_batch_invariant::<f32>(&gpu, 3, Precision::Tf32, true);
    assert_batch_invariant::<f16>(&gpu, 6, Precision::default(), false);
}

/// Whatever order threads and blocks run in: nothing is read before it is there.
#[test]
fn layers_have_the_same_bits_in_any_order() {
    let case = Case::new(mixed(), 13, 40, 72).with(Activation::Silu);
    let of = Operands::<bf16>::new(&case, 1);
    let bits = |gpu: &Gpu| found(gpu.device(), &case, &of, Checks::On);
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let first = bits(&gpu);
    drop(gpu);
    in_any_order(|gpu| assert_eq!(bits(gpu), first));
}

/// What no kernel computes in one pass is refused by name, before anything is written.
#[test]
fn layers_without_a_kernel_are_refused() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let refused = |what: &'static str, value: usize, bound: usize| {
        move |operator: Operator| Error::LayerUnavailable { operator: operator.name(), what, value, bound }
    };
    let both = [Operator::Layer, Operator::LayerBackward];
    let of_vertices = "the number of vertices of the largest topology in use";
    let n = |n| Batch::replicate(cliques(n));
    assert_refused::<f64>(gpu.device(), &n(4), (8, 8), &both, refused("the size of an element", 8, 4));
    assert_refused::<f32>(gpu.device(), &n(17), (8, 8), &both, refused(of_vertices, 17, 16));
    assert_refused::<f32>(gpu.device(), &n(4), (257, 8), &both, refused("the number of inputs", 257, 256));
    assert_refused::<bf16>(gpu.device(), &n(4), (513, 8), &both, refused("the number of inputs", 513, 512));
    let backward = [Operator::LayerBackward];
    assert_refused::<f16>(
        gpu.device(),
        &n(4),
        (8, 513),
        &backward,
        refused("the number of features", 513, 512),
    );
    if let Some(control) = gpu.control("a device without tensor cores for bf16") {
        control.set_compute_capability(7, 5);
        let device = Device::open(gpu.ordinal()).unwrap();
        let of_device = "ten times the compute capability of the device";
        assert_refused::<bf16>(&device, &n(4), (8, 8), &both, refused(of_device, 75, 80));
        control.set_compute_capability(9, 0);
    }
}

/// Tiles are as large as a device has room for.
#[test]
fn layers_are_right_with_less_shared_memory() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let Some(control) = gpu.control("devices with less shared memory") else { return };
    for capability in [(8, 0), (8, 6)] {
        control.set_compute_capability(capability.0, capability.1);
        let device = Device::open(gpu.ordinal()).unwrap();
        for case in [Case::pairs(16, 3, 256, 256), Case::pairs(16, 3, 256, 40), Case::pairs(1, 20, 40, 256)] {
            let case = case.own().with(Activation::Silu);
            assert_close_in_all(&device, &case, 3);
        }
        let case = Case::pairs(8, 3, 512, 16).own().with(Activation::Silu);
        assert_close::<bf16>(&device, &case, 4);
        assert_close::<f16>(&device, &Case::pairs(8, 3, 16, 512), 5);
    }
    control.set_compute_capability(9, 0);
}

fn assert_refused<T: GpuElement>(
    device: &Device,
    batch: &Batch,
    (inputs, features): (usize, usize),
    operators: &[Operator],
    expected: impl Fn(Operator) -> Error,
) {
    let stream = device.context().default_stream();
    let uploaded = device.upload(batch).unwrap();
    let plan = Plan::<T>::builder(&uploaded, features).inputs(inputs).build().unwrap();
    let mut workspace = plan.workspace_for(&stream, 2, Operator::ALL).unwrap();
    let case = Case::new(batch.clone(), 2, inputs, features);
    let of = Operands::<T>::new(&case, 1);
    let (x, theta, g) = (upload(&stream, &of.x), upload(&stream, &of.theta), upload(&stream, &of.g));
    let weights = upload(&stream, &of.weights);
    for &operator in operators {
        let (x, epilogue) = (Rows::new(&x, case.layout(inputs)), Epilogue::default());
        let of_weights = Weights::shared(&weights);
        let found = match operator {
            Operator::Layer => workspace.layer(x, theta.as_view(), of_weights, &epilogue, None, Out::Skip),
            _ => {
                let g = Rows::new(&g, case.layout(features));
                let gradients = LayerGradients::none();
                workspace.layer_backward(x, theta.as_view(), of_weights, &epilogue, g, gradients)
            }
        };
        assert_eq!(found, Err(expected(operator)));
        let explained = plan.explain(2).unwrap();
        assert_eq!(explained.of(operator).launches, 0);
        assert!(explained.to_string().contains("layer_backward: not in one pass: a product with Θ"));
    }
}

/// A negative degree is reported whatever is wanted of a backward, also what does not depend on M.
#[test]
fn negative_degrees_are_reported_whatever_is_wanted() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let stream = gpu.device().context().default_stream();
    let batch = gpu.device().upload(&Batch::replicate(cliques(3))).unwrap();
    let conv = Conv::new(Normalization::Symmetric, WeightUse::Documented);
    let plan = Plan::<f32>::builder(&batch, 4).conv(conv).build().unwrap();
    let mut workspace = plan.workspace_for(&stream, 2, &[Operator::LayerBackward]).unwrap();
    let (rows, theta) = (upload(&stream, &[1.0f32; 24]), upload(&stream, &[1.0f32; 16]));
    let weights = upload(&stream, &[-1.0f32; 5]);
    let mut grad_residual = upload(&stream, &[0.0f32; 24]);
    for activation in [Activation::Identity, Activation::Silu] {
        for wants_residual in [false, true] {
            let layout = RowLayout::contiguous(4);
            let gradients = LayerGradients::none().residual(match wants_residual {
                true => Out::Overwrite(Rows::new(&mut grad_residual, layout)),
                false => Out::Skip,
            });
            let (x, g) = (Rows::new(&rows, layout), Rows::new(&rows, layout));
            let (of_weights, epilogue) = (Weights::shared(&weights), Epilogue::new(activation));
            workspace.layer_backward(x, theta.as_view(), of_weights, &epilogue, g, gradients).unwrap();
            let reported = workspace.check();
            assert!(matches!(reported, Err(Error::NegativeDegree { .. })), "{activation:?}: {reported:?}");
        }
    }
}

/// Nothing to do is no error, and gradients that are sums are zeros.
#[test]
fn empty_layers_are_empty() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    for (instances, inputs, features) in [(0, 8, 8), (3, 0, 8), (3, 8, 0)] {
        for shared in [true, false] {
            let case = Case { shared, ..Case::pairs(4, instances, inputs, features) };
            let case = case.with(Activation::Silu);
            assert_close::<bf16>(gpu.device(), &case, 1);
            assert_close::<f32>(gpu.device(), &Case { add: true, ..case }, 2);
        }
    }
    assert_close::<bf16>(gpu.device(), &Case::pairs(0, 3, 8, 8).with(Activation::Silu), 1);
}
