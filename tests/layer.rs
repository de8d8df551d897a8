//! The layer y = act(M (x Θᵀ) + b) + s and its gradients: against their definition in `f64`, against
//! difference quotients, and in bits against themselves.

use hyperscatter::{
    Accumulator, Activation, Batch, Conv, Error, Incidence, Normalization, Operator, Out, Path, Repeats,
    Rows, WeightUse, cpu,
};
use proptest::prelude::*;

use crate::allocator::allocations;
use crate::backend::{Backend, Cpu, Operators, Write};
use crate::common::{
    Rounded, TestElement, bits, features, numbers, poison, sums, weights, widen, with_threads,
};
use crate::convolutions::sizes_of_terms;
use crate::layouts::{Layout, Place, WindowKind, edges, empty_batches, layout, pairs, tall_layout};
use crate::operands::{F, assert_negative_degree, out, rows};
use crate::per_backend::per_backend;
use crate::reference;

/// The number of features of x, where the layout does not say it.
const INPUTS: usize = 3;

/// Which layer, and what becomes of the outputs.
#[derive(Debug, Clone)]
struct Case {
    inputs: usize,
    activation: Activation,
    bias: bool,
    residual: bool,
    /// All on one path where it is available, or as the plan chooses.
    path: Option<Path>,
    /// Of y, ∂x, ∂Θ, ∂w, ∂b and ∂residual.
    writes: [Write; 6],
}

prop_compose! {
    fn case()(
        inputs in prop_oneof![12 => 1usize..20, 2 => 30usize..70, 1 => 500usize..530, 1 => Just(0usize)],
        activation in prop::sample::select(Activation::ALL), bias in any::<bool>(), residual in any::<bool>(),
        path in prop_oneof![Just(None), prop::sample::select(Path::ALL).prop_map(Some)],
        writes in [Write::any(), Write::any(), Write::any(), Write::any(), Write::any(), Write::any()],
    ) -> Case {
        Case { inputs, activation, bias, residual, path, writes }
    }
}

impl Case {
    /// The same with fewer inputs, where the products would take long.
    fn within(&self, layout: &Layout) -> Self {
        let most = 1_000_000 / (layout.n_rows(false) * layout.features).max(1);
        Self { inputs: self.inputs.min(most), ..self.clone() }
    }

    /// A path for each topology: the one of the case where it can be taken, and the chosen one else.
    fn paths<T: TestElement>(&self, batch: &Batch) -> Vec<Path> {
        let chosen = cpu::Plan::<T>::builder(batch, 1).build().unwrap().paths().to_vec();
        let alone = batch.topologies().iter().map(|topology| Batch::replicate(topology.clone()));
        let can_take = |alone: &Batch, path| cpu::Plan::<T>::builder(alone, 1).paths(&[path]).build().is_ok();
        let paths = alone.zip(chosen).map(|(alone, chosen)| match self.path {
            Some(path) if can_take(&alone, path) => path,
            _ => chosen,
        });
        paths.collect()
    }
}

/// The operands of a case, in contiguous rows.
#[derive(Clone)]
struct Operands<T: TestElement> {
    x: Vec<T>,
    theta: Vec<T>,
    residual: Vec<T>,
    g: Vec<T>,
    weights: Vec<T::Acc>,
    bias: Vec<T::Acc>,
}

impl<T: TestElement> Operands<T> {
    fn new(layout: &Layout, case: &Case, poisoned: bool) -> Self {
        let (seed, n) = (layout.seed, layout.n_rows(false));
        let mut operands = Self {
            x: features(seed ^ 1, n * case.inputs),
            theta: features(seed ^ 2, layout.features * case.inputs),
            residual: features(seed ^ 3, n * layout.features),
            g: features(seed ^ 4, n * layout.features),
            // Of one sign: where degrees cancel out, no error is small.
            weights: weights::<T>(seed, layout.n_weights(), false),
            bias: sums::<T>(seed ^ 5, layout.features),
        };
        if poisoned {
            poison(&mut operands.x, seed ^ 6);
            poison(&mut operands.g, seed ^ 7);
            poison(&mut operands.residual, seed ^ 8);
        }
        operands
    }

    /// The same in the type of sums.
    fn of_sums(&self) -> Operands<T::Acc>
    where
        T::Acc: TestElement,
    {
        let wide = |values: &[T]| values.iter().map(|x| x.widen()).collect();
        Operands {
            x: wide(&self.x),
            theta: wide(&self.theta),
            residual: wide(&self.residual),
            g: wide(&self.g),
            weights: self.weights.clone(),
            bias: self.bias.clone(),
        }
    }
}

/// The outputs, in contiguous rows.
#[derive(Clone)]
struct Outputs<T: TestElement> {
    y: Vec<T>,
    grad_x: Vec<T>,
    grad_residual: Vec<T>,
    grad_theta: Vec<T::Acc>,
    grad_weights: Vec<T::Acc>,
    grad_bias: Vec<T::Acc>,
}

impl<T: TestElement> Outputs<T> {
    /// What they hold before a call.
    fn before(layout: &Layout, case: &Case) -> Self {
        let (seed, n) = (layout.seed, layout.n_rows(false));
        Self {
            y: features(seed ^ 11, n * layout.features),
            grad_x: features(seed ^ 12, n * case.inputs),
            grad_residual: features(seed ^ 13, n * layout.features),
            grad_theta: sums::<T>(seed ^ 14, layout.features * case.inputs),
            grad_weights: sums::<T>(seed ^ 15, layout.n_weights()),
            grad_bias: sums::<T>(seed ^ 16, if case.bias { layout.features } else { 0 }),
        }
    }

    fn bits(&self) -> [(&'static str, Vec<u64>); 6] {
        let Self { y, grad_x, grad_residual, grad_theta, grad_weights, grad_bias } = self;
        [
            ("y", bits(y)),
            ("grad_x", bits(grad_x)),
            ("grad_residual", bits(grad_residual)),
            ("grad_theta", bits(grad_theta)),
            ("grad_weights", bits(grad_weights)),
            ("grad_bias", bits(grad_bias)),
        ]
    }

    fn values(&self) -> [(&'static str, Vec<f64>); 6] {
        let Self { y, grad_x, grad_residual, grad_theta, grad_weights, grad_bias } = self;
        [
            ("y", widen(y)),
            ("grad_x", widen(grad_x)),
            ("grad_residual", widen(grad_residual)),
            ("grad_theta", widen(grad_theta)),
            ("grad_weights", widen(grad_weights)),
            ("grad_bias", widen(grad_bias)),
        ]
    }
}

fn operators<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    inputs: usize,
    paths: &[Path],
) -> Box<dyn Operators<T>> {
    let (batch, most, widths) = (&layout.batch, layout.max_instances(), (inputs, layout.features));
    backend.layers_on(batch, widths, layout.conv, most, Some(paths)).unwrap()
}

/// What the operators give, whose outputs hold `before`.
fn found<T: TestElement>(
    operators: &mut dyn Operators<T>,
    layout: &Layout,
    case: &Case,
    operands: &Operands<T>,
    before: Outputs<T>,
) -> Outputs<T> {
    let mut outputs = before;
    let (nan, gap) = (T::of(f64::NAN), T::of(7.0));
    let [a, b, c, d, e] = layout.places;
    let of_inputs = Layout { features: case.inputs, ..layout.clone() };
    let x = of_inputs.spread(&operands.x, a, false, nan);
    let mut grad_x = of_inputs.spread(&outputs.grad_x, e, false, gap);
    let place = |rows: &[T], place, filler| layout.spread(rows, place, false, filler);
    let (residual, g) = (place(&operands.residual, b, nan), place(&operands.g, c, nan));
    let (mut y, mut grad_residual) = (place(&outputs.y, d, gap), place(&outputs.grad_residual, b, gap));
    let table = layout.table();
    let weights = layout.weights(&operands.weights, &table);
    let epilogue = cpu::Epilogue::new(case.activation).bias(case.bias.then_some(&operands.bias[..]));
    let [of_y, of_x, of_theta, of_weights, of_bias, of_residual] = case.writes;
    let (theta, added) = (&operands.theta[..], case.residual.then(|| residual.rows()));
    operators.layer(x.rows(), theta, weights, &epilogue, added, of_y.to(y.rows_mut())).unwrap();
    let gradients = cpu::LayerGradients::none()
        .x(of_x.to(grad_x.rows_mut()))
        .theta(of_theta.to(&mut outputs.grad_theta[..]))
        .weights(of_weights.to(&mut outputs.grad_weights[..]))
        .bias(of_bias.to(&mut outputs.grad_bias[..]))
        .residual(of_residual.to(grad_residual.rows_mut()));
    operators.layer_backward(x.rows(), theta, weights, &epilogue, g.rows(), gradients).unwrap();
    for placed in [&y, &grad_x, &grad_residual] {
        assert!(placed.gaps().iter().all(|&value| value == gap), "written between rows");
    }
    Outputs { y: y.gathered(), grad_x: grad_x.gathered(), grad_residual: grad_residual.gathered(), ..outputs }
}

/// `[n, m]` = `[n, k]` times the transpose of `[m, k]`.
fn times_transposed(a: &[f64], b: &[f64], (n, m, k): (usize, usize, usize)) -> Vec<f64> {
    let dot = |r: usize, c: usize| (0..k).map(|i| a[r * k + i] * b[c * k + i]).sum();
    (0..n * m).map(|i| dot(i / m, i % m)).collect()
}

/// `[n, m]` = `[n, k]` times `[k, m]`.
fn times(a: &[f64], b: &[f64], (n, m, k): (usize, usize, usize)) -> Vec<f64> {
    let dot = |r: usize, c: usize| (0..k).map(|i| a[r * k + i] * b[i * m + c]).sum();
    (0..n * m).map(|i| dot(i / m, i % m)).collect()
}

fn transposed(a: &[f64], (n, m): (usize, usize)) -> Vec<f64> {
    (0..n * m).map(|i| a[i % n * m + i / n]).collect()
}

fn absolute(values: &[f64]) -> Vec<f64> {
    values.iter().map(|x| x.abs()).collect()
}

/// What a layer is by its definition, before it is stored or added, and how large the terms are that each
/// value is the sum of.
struct Defined {
    values: [Vec<f64>; 6],
    sizes: [Vec<f64>; 6],
    /// Whether a derivative is on one side of a jump or on the other.
    is_at_jump: bool,
}

fn defined<T: TestElement>(layout: &Layout, case: &Case, operands: &Operands<T>) -> Defined {
    let (f, k) = (layout.features, case.inputs);
    let (theta, w, bias) = (widen(&operands.theta), widen(&operands.weights), widen(&operands.bias));
    let bias = |i: usize| if case.bias { bias[i % f] } else { 0.0 };
    let before = Outputs::<T>::before(layout, case).values().map(|(_, values)| vec![0.0; values.len()]);
    let (mut values, mut sizes, mut is_at_jump) = (before.clone(), before, false);
    let add = |to: &mut [f64], from: &[f64]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
    for instance in 0..layout.instances {
        let (topology, n) = (layout.batch.topology(instance), layout.n_rows_of(instance, false));
        let of_inputs = Layout { features: k, ..layout.clone() }.elements_of(instance, false);
        let of_features = layout.elements_of(instance, false);
        let x = widen(&operands.x[of_inputs.clone()]);
        let (g, s) =
            (widen(&operands.g[of_features.clone()]), widen(&operands.residual[of_features.clone()]));
        let window = layout.offset(instance)..layout.offset(instance) + topology.n_hyperedges();
        let w = &w[window.clone()];
        let conv = |x: &[f64], g: &[f64]| reference::conv(topology, f, layout.conv, w, x, g);
        let p = times_transposed(&x, &theta, (n, f, k));
        let p_size = times_transposed(&absolute(&x), &absolute(&theta), (n, f, k));
        let a: Vec<f64> = conv(&p, &g).y.iter().enumerate().map(|(i, u)| u + bias(i)).collect();
        let u_size = conv(&p_size, &g).y;
        let a_size: Vec<f64> = u_size.iter().enumerate().map(|(i, u)| u + bias(i).abs() + 1.0).collect();
        is_at_jump |= case.activation == Activation::Relu
            && a.iter().zip(&a_size).any(|(a, size)| a.abs() < 1e-3 * size);
        let residual = |i: usize| if case.residual { s[i] } else { 0.0 };
        let y = |(i, &a): (usize, &f64)| case.activation.value(a) + residual(i);
        let y: Vec<f64> = a.iter().enumerate().map(y).collect();
        let y_size: Vec<f64> = a_size.iter().enumerate().map(|(i, a)| a + residual(i).abs()).collect();
        let t: Vec<f64> = a.iter().zip(&g).map(|(&a, g)| g * case.activation.derivative(a)).collect();
        let t_size: Vec<f64> = a_size.iter().zip(&g).map(|(a, g)| g.abs() * a).collect();
        let back = conv(&p, &t);
        let dp_size = conv(&p_size, &t_size).grad_x;
        for ((to, y), (grad_x, grad_theta, grad_weights, t, g)) in [
            (
                (&mut values, &y),
                (
                    times(&back.grad_x, &theta, (n, k, f)),
                    times(&transposed(&back.grad_x, (n, f)), &x, (f, k, n)),
                    back.grad_weights,
                    &t,
                    &g,
                ),
            ),
            (
                (&mut sizes, &y_size),
                (
                    times(&dp_size, &absolute(&theta), (n, k, f)),
                    times(&transposed(&dp_size, (n, f)), &absolute(&x), (f, k, n)),
                    sizes_of_terms(topology, layout.conv, w, &p_size, &t_size),
                    &t_size,
                    &absolute(&g),
                ),
            ),
        ] {
            let [of_y, of_x, of_residual, of_theta, of_weights, of_bias] = to;
            add(&mut of_y[of_features.clone()], y);
            add(&mut of_x[of_inputs.clone()], &grad_x);
            add(&mut of_residual[of_features.clone()], g);
            add(of_theta, &grad_theta);
            if f > 0 {
                add(&mut of_weights[window.clone()], &grad_weights);
            }
            t.chunks(f.max(1)).for_each(|t| add(of_bias, t));
        }
    }
    Defined { values, sizes, is_at_jump }
}

/// Each value differs from its definition by at most the rounding of its type once and a thousand of those of
/// its sums, times the size of its terms: sums here have a few thousand terms, in segments of some hundreds.
fn a_layer_is_what_it_is_defined_to_be<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    case: &Case,
) {
    let case = &case.within(layout);
    let operands = Operands::new(layout, case, false);
    let before = Outputs::<T>::before(layout, case);
    let paths = case.paths::<T>(&layout.batch);
    let mut operators = operators(backend, layout, case.inputs, &paths);
    let found = found(&mut *operators, layout, case, &operands, before.clone());
    let Defined { values, sizes, is_at_jump } = defined(layout, case, &operands);
    let [of_y, of_x, of_theta, of_weights, of_bias, of_residual] = case.writes;
    let writes = [of_y, of_x, of_residual, of_theta, of_weights, of_bias];
    let before = before.values();
    for (k, (name, found)) in found.values().into_iter().enumerate() {
        let is_of_rows = k < 3;
        if is_at_jump && k != 0 && k != 2 {
            continue;
        }
        let rounding = if is_of_rows { T::ROUNDING } else { 0.0 } + 1000.0 * <T::Acc as Rounded>::ROUNDING;
        for (i, &found) in found.iter().enumerate() {
            let before = before[k].1[i];
            let (expected, size) = match writes[k] {
                Write::Skip => (before, 0.0),
                Write::Overwrite => (values[k][i], sizes[k][i]),
                Write::Accumulate => (before + values[k][i], before.abs() + sizes[k][i]),
            };
            let bound =
                if writes[k] == Write::Skip { 0.0 } else { rounding * size + 1e-7 * T::ROUNDING.max(1e-5) };
            let error = (found - expected).abs();
            assert!(error <= bound, "{name}[{i}] in {}: {found}, not {expected}: {error} > {bound}", T::NAME);
        }
    }
}

/// Sums are formed in the type of sums, and rounded once: those of narrow elements are those of the same
/// numbers in that type.
fn a_layer_of_narrow_elements_is_one_of_sums_rounded_once<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    case: &Case,
    poisoned: bool,
) where
    T::Acc: TestElement,
{
    let case = &case.within(layout);
    let operands = Operands::<T>::new(layout, case, poisoned);
    let before = Outputs::<T>::before(layout, case);
    let paths = case.paths::<T>(&layout.batch);
    let mut operators = operators(backend, layout, case.inputs, &paths);
    let found = self::found(&mut *operators, layout, case, &operands, before.clone());
    // Nothing is left of a call in the next.
    let again = self::found(&mut *operators, layout, case, &operands, before.clone());
    assert_eq!(again.bits(), found.bits());

    let wide = |values: &[T]| values.iter().map(|x| x.widen()).collect();
    let narrow = |values: &[T::Acc]| values.iter().map(|&x| T::narrow(x)).collect();
    let of_sums: &dyn Backend<T::Acc> = &Cpu;
    let mut operators = self::operators(of_sums, layout, case.inputs, &paths);
    let before = Outputs {
        y: wide(&before.y),
        grad_x: wide(&before.grad_x),
        grad_residual: wide(&before.grad_residual),
        grad_theta: before.grad_theta,
        grad_weights: before.grad_weights,
        grad_bias: before.grad_bias,
    };
    let expected = self::found(&mut *operators, layout, case, &operands.of_sums(), before);
    let expected = Outputs::<T> {
        y: narrow(&expected.y),
        grad_x: narrow(&expected.grad_x),
        grad_residual: narrow(&expected.grad_residual),
        grad_theta: expected.grad_theta,
        grad_weights: expected.grad_weights,
        grad_bias: expected.grad_bias,
    };
    for ((name, found), (_, expected)) in found.bits().into_iter().zip(expected.bits()) {
        assert_eq!(found, expected, "{name} in {}", T::NAME);
    }
}

/// y and ∂x of an instance have the same bits alone and in the batch.
fn an_instance_alone_has_the_same_bits<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    case: &Case,
) {
    let case = &Case { writes: [Write::Overwrite; 6], ..case.within(layout) };
    let operands = Operands::<T>::new(layout, case, false);
    let paths = case.paths::<T>(&layout.batch);
    let mut all = operators(backend, layout, case.inputs, &paths);
    let all = found(&mut *all, layout, case, &operands, Outputs::before(layout, case));
    let of_inputs = Layout { features: case.inputs, ..layout.clone() };
    // Some of many.
    for g in (0..layout.instances).filter(|g| g % (layout.instances / 8 + 1) == 0) {
        let alone = layout.alone(g);
        let window = layout.offset(g)..layout.offset(g) + layout.n_rows_of(g, true);
        let (x, y) = (of_inputs.elements_of(g, false), layout.elements_of(g, false));
        let of_instance = Operands {
            x: operands.x[x.clone()].to_vec(),
            residual: operands.residual[y.clone()].to_vec(),
            g: operands.g[y.clone()].to_vec(),
            weights: operands.weights[window].to_vec(),
            ..operands.clone()
        };
        let path = [paths[layout.batch.topology_id(g)]];
        let mut operators = operators(backend, &alone, case.inputs, &path);
        let found = found(&mut *operators, &alone, case, &of_instance, Outputs::before(&alone, case));
        assert_eq!(bits(&found.y), bits(&all.y[y]), "y of {g} in {}", T::NAME);
        assert_eq!(bits(&found.grad_x), bits(&all.grad_x[x]), "grad_x of {g} in {}", T::NAME);
    }
}

per_backend! {
    on [cpu], in [any_type]:
    a_layer_is_what_it_is_defined_to_be(&layout, &case) for layout in layout(), case in case();
    a_layer_of_narrow_elements_is_one_of_sums_rounded_once(&layout, &case, poisoned)
        for layout in prop_oneof![2 => layout(), 1 => tall_layout()], case in case(),
            poisoned in prop::bool::weighted(0.2);
    an_instance_alone_has_the_same_bits(&layout, &case)
        for layout in prop_oneof![2 => layout(), 1 => tall_layout()], case in case();
}

/// Every number of vertices that small dense operators have, and a larger one, of several topologies in one
/// batch: through every kind of windows, at every kind of places.
fn layers_of_every_size_are_what_they_are_defined_to_be<T: TestElement>(backend: &dyn Backend<T>)
where
    T::Acc: TestElement,
{
    for n in (1..17).chain([33, 70]) {
        let all: Vec<u32> = (0..n as u32).collect();
        let pairs = Incidence::subsets(n, n.min(2)).unwrap();
        let one = Incidence::from_edges(n, &[all, vec![0]], Repeats::Keep).unwrap();
        let few = Incidence::from_edges(n.div_ceil(2), &[[0u32]], Repeats::Keep).unwrap();
        let ids = [0, 1, 0, 2, 1];
        let batch = Batch::from_table(vec![pairs, one, few], &ids).unwrap();
        let windows = WindowKind::ALL[n % 3];
        let place = [Place::Contiguous, Place::RowGap(3), Place::Padded(2), Place::VertexMajor];
        let conventions = [
            Conv::default(),
            Conv::new(Normalization::Symmetric, WeightUse::Documented),
            Conv::new(Normalization::None, WeightUse::MessageOnly),
            Conv::new(Normalization::Row, WeightUse::DegreeOnly),
        ];
        for (i, (features, inputs)) in [(20, 9), (5, 24), (64, 17)].into_iter().enumerate() {
            let layout = Layout {
                batch: batch.clone(),
                instances: ids.len(),
                features,
                windows,
                offsets: vec![0, 4, 0, 2, 7],
                places: std::array::from_fn(|k| place[(n + i + k) % 4]),
                conv: conventions[(n + i) % 4],
                seed: (100 * n + i) as u64,
            };
            let activation = [Activation::Gelu, Activation::Silu, Activation::Identity][(n + i) % 3];
            let (write, path) = ([Write::Overwrite, Write::Accumulate][i % 2], None);
            let case = Case { inputs, activation, bias: i != 1, residual: i != 2, path, writes: [write; 6] };
            a_layer_is_what_it_is_defined_to_be(backend, &layout, &case);
            a_layer_of_narrow_elements_is_one_of_sums_rounded_once(backend, &layout, &case, false);
        }
    }
}

/// Rows of x Θᵀ that are large and cancel out in the convolution: rounded to 16 bits before it, nothing would
/// be left of their sum.
fn products_are_not_rounded_before_the_convolution<T: TestElement>(backend: &dyn Backend<T>) {
    let batch = Batch::replicate(Incidence::from_edges(2, &[[0u32, 1]], Repeats::Keep).unwrap());
    for path in Path::ALL {
        let paths = Some(std::slice::from_ref(path));
        let mut operators = backend.layers_on(&batch, (2, 1), Conv::default(), 1, paths).unwrap();
        // 64 + 1/64 and 1/64 − 64 are no numbers of 16 bits.
        let x = [64.0, 1.0, -64.0, 1.0].map(T::of);
        let theta = [1.0, 1.0 / 64.0].map(T::of);
        let w = [T::acc(1.0)];
        let (weights, mut y) = (cpu::Weights::shared(&w[..]), [T::of(f64::NAN); 2]);
        let none = cpu::Epilogue::default();
        let to = Out::Overwrite(Rows::contiguous(&mut y[..], 1));
        operators.layer(Rows::contiguous(&x[..], 2), &theta, weights, &none, None, to).unwrap();
        assert_eq!(widen(&y), [1.0 / 64.0; 2], "{path:?}");
    }
}

/// Infinities and NaN in a row of x reach those vertices that share a hyperedge with it, and no others.
fn what_is_not_finite_stays_with_its_hyperedges<T: TestElement>(backend: &dyn Backend<T>) {
    // Vertex 4 is in no hyperedge, and vertex 3 alone with itself.
    let edges = [vec![0u32, 1], vec![1, 2], vec![3]];
    let batch = Batch::replicate(Incidence::from_edges(5, &edges, Repeats::Keep).unwrap());
    for (path, value) in Path::ALL.iter().flat_map(|path| [(path, f64::INFINITY), (path, f64::NAN)]) {
        let paths = Some(std::slice::from_ref(path));
        let mut operators = backend.layers_on(&batch, (INPUTS, F), Conv::default(), 2, paths).unwrap();
        let mut x: Vec<T> = features(1, 2 * 5 * INPUTS);
        x[5 * INPUTS] = T::of(value);
        x[9 * INPUTS] = T::of(value);
        let (theta, w) = (features::<T>(2, F * INPUTS), weights::<T>(3, 3, false).map_zeros());
        let mut y = vec![T::of(0.0); 2 * 5 * F];
        let (x, weights) = (Rows::contiguous(&x, INPUTS), cpu::Weights::shared(&w[..]));
        let bias = sums::<T>(4, F);
        let epilogue = cpu::Epilogue::new(Activation::Identity).bias(&bias[..]);
        operators.layer(x, &theta, weights, &epilogue, None, Out::Overwrite(out(&mut y))).unwrap();
        for (row, y) in widen(&y).chunks(F).enumerate() {
            // The first two vertices of the second instance share a hyperedge with its first.
            let is_reached = row == 5 || row == 6;
            assert!(y.iter().all(|y| y.is_finite() != is_reached), "{path:?} {value} {row}: {y:?}");
        }
    }
}

/// Weights of which none is zero.
trait MapZeros {
    fn map_zeros(self) -> Self;
}

impl<A: Accumulator> MapZeros for Vec<A> {
    fn map_zeros(self) -> Self {
        self.into_iter().map(|w| if w == A::ZERO { A::ONE } else { w }).collect()
    }
}

/// Wrong shapes are errors that name the operand, and nothing is written.
fn shapes_are_checked_before_anything_is_written<T: TestElement>(backend: &dyn Backend<T>) {
    let mut operators = backend.layers_on(&pairs(), (INPUTS, F), Conv::default(), 3, None).unwrap();
    let (n, n_inputs, size) = (2 * 4 * F, 2 * 4 * INPUTS, F * INPUTS);
    let (x, g) = (features::<T>(1, n_inputs), features::<T>(2, n));
    let (x, g) = (Rows::contiguous(&x[..], INPUTS), rows(&g));
    let (theta, w) = (features::<T>(3, size + 1), weights::<T>(4, 7, false));
    let weights = cpu::Weights::shared(&w[..6]);
    let bias = sums::<T>(5, F + 1);
    let epilogue = cpu::Epilogue::new(Activation::Gelu).bias(&bias[..F]);
    let seven = T::of(7.0);
    let mut y = vec![seven; n];
    let of_features = |operand, value, bound| Error::FeaturesMismatch { operand, value, bound };
    let length = |table, value, bound, bound_of| Error::LengthMismatch { table, value, bound, bound_of };
    let mut forward = |x, theta: &[T], weights, epilogue: &cpu::Epilogue<'_, T::Acc>, residual, f| {
        let y = Out::Overwrite(Rows::contiguous(&mut y[..2 * 4 * f], f));
        operators.layer(x, theta, weights, epilogue, residual, y).unwrap_err()
    };
    let good = &theta[..size];
    let of_inputs = Rows::contiguous(x.buffer, INPUTS);
    assert_eq!(forward(g, good, weights, &epilogue, None, F), of_features("x", F, INPUTS));
    assert_eq!(forward(x, good, weights, &epilogue, Some(of_inputs), F), of_features("residual", INPUTS, F));
    assert_eq!(forward(x, good, weights, &epilogue, None, INPUTS), of_features("y", INPUTS, F));
    let wrong_theta = |value| length("theta", value, size, "the plan's features times its inputs");
    assert_eq!(forward(x, &theta, weights, &epilogue, None, F), wrong_theta(size + 1));
    assert_eq!(forward(x, &theta[..1], weights, &epilogue, None, F), wrong_theta(1));
    let bad = cpu::Epilogue::new(Activation::Gelu).bias(&bias[..]);
    let wrong_bias = length("bias", F + 1, F, "the plan's features");
    assert_eq!(forward(x, good, weights, &bad, None, F), wrong_bias);
    let unread = forward(x, good, cpu::Weights::shared(&w[..]), &epilogue, None, F);
    assert!(matches!(unread, Error::UnreadWeights { .. }), "{unread:?}");
    let one = rows(&g.buffer[..4 * F]);
    let fewer = |operand| Error::InstancesMismatch { operand, value: 1, bound: 2, bound_of: "x" };
    assert_eq!(forward(x, good, weights, &epilogue, Some(one), F), fewer("residual"));
    assert!(y.iter().all(|&value| value == seven));

    let (mut grad_x, mut grad_residual) = (vec![seven; n_inputs], vec![seven; n]);
    let acc = |len| vec![T::acc(7.0); len];
    let (mut grad_theta, mut grad_w, mut grad_bias) = (acc(size + 1), acc(7), acc(F + 1));
    let mut backward = |g: Rows<&[T]>, [theta_len, w_len, bias_len]: [usize; 3], instances: usize| {
        let gradients = cpu::LayerGradients::none()
            .x(Out::Overwrite(Rows::contiguous(&mut grad_x[..instances * 4 * INPUTS], INPUTS)))
            .theta(Out::Overwrite(&mut grad_theta[..theta_len]))
            .weights(Out::Overwrite(&mut grad_w[..w_len]))
            .bias(Out::Overwrite(&mut grad_bias[..bias_len]))
            .residual(Out::Overwrite(out(&mut grad_residual)));
        operators.layer_backward(x, good, weights, &epilogue, g, gradients).unwrap_err()
    };
    let gradient =
        |operand, value, bound, bound_of| Error::GradientMismatch { operand, value, bound, bound_of };
    assert_eq!(backward(of_inputs, [size, 6, F], 2), of_features("grad_y", INPUTS, F));
    assert_eq!(backward(one, [size, 6, F], 2), fewer("grad_y"));
    assert_eq!(backward(g, [size, 6, F], 1), fewer("grad_x"));
    assert_eq!(backward(g, [size + 1, 6, F], 2), gradient("grad_theta", size + 1, size, "theta"));
    assert_eq!(backward(g, [size, 7, F], 2), gradient("grad_weights", 7, 6, "weights"));
    assert_eq!(backward(g, [size, 6, F + 1], 2), gradient("grad_bias", F + 1, F, "bias"));
    for rows in [&grad_x, &grad_residual] {
        assert!(rows.iter().all(|&value| value == seven));
    }
    assert!(grad_theta.iter().chain(&grad_w).chain(&grad_bias).all(|&value| value == T::acc(7.0)));
}

/// A negative degree is found before anything is written, also where nothing is wanted.
fn negative_degrees_are_reported<T: TestElement>(backend: &dyn Backend<T>) {
    let conv = Conv::new(Normalization::Symmetric, WeightUse::Documented);
    for path in Path::ALL {
        let paths = Some(std::slice::from_ref(path));
        let mut operators = backend.layers_on(&pairs(), (INPUTS, F), conv, 2, paths).unwrap();
        let (x, g) = (features::<T>(1, 2 * 4 * INPUTS), features::<T>(2, 2 * 4 * F));
        let (x, theta, w) =
            (Rows::contiguous(&x[..], INPUTS), features::<T>(3, F * INPUTS), [T::acc(-1.0); 6]);
        let (weights, epilogue) = (cpu::Weights::shared(&w[..]), cpu::Epilogue::new(Activation::Silu));
        let mut y = vec![T::of(7.0); 2 * 4 * F];
        for wanted in [true, false] {
            let to = if wanted { Out::Overwrite(out(&mut y)) } else { Out::Skip };
            assert_negative_degree(operators.layer(x, &theta, weights, &epilogue, None, to));
            let gradients = cpu::LayerGradients::none();
            let gradients = match wanted {
                true => gradients.residual(Out::Overwrite(out(&mut y))),
                false => gradients,
            };
            let found = operators.layer_backward(x, &theta, weights, &epilogue, rows(&g), gradients);
            assert_negative_degree(found);
        }
        assert!(y.iter().all(|&value| value == T::of(7.0)));
    }
}

/// Without vertices, hyperedges, instances, features or inputs: rows of act(b), and gradients of zeros.
fn empty_batches_are_legal<T: TestElement>(backend: &dyn Backend<T>) {
    for batch in &empty_batches() {
        let instances = batch.n_instances().unwrap_or(3);
        for (features, inputs) in [(F, INPUTS), (0, INPUTS), (F, 0), (0, 0)] {
            let layout = Layout {
                batch: batch.clone(),
                instances,
                features,
                windows: WindowKind::Shared,
                offsets: vec![0; instances],
                places: [Place::Contiguous; 5],
                conv: Conv::default(),
                seed: 1,
            };
            for write in [Write::Overwrite, Write::Accumulate] {
                let (activation, path) = (Activation::Silu, None);
                let case = Case { inputs, activation, bias: true, residual: true, path, writes: [write; 6] };
                a_layer_is_what_it_is_defined_to_be(backend, &layout, &case);
            }
        }
    }
    // Vertices, but no inputs: the products are zeros, and so are the gradients of what they depend on.
    let mut operators = backend.layers_on(&pairs(), (0, F), Conv::default(), 1, None).unwrap();
    let (w, bias, none) = (weights::<T>(1, 6, false).map_zeros(), sums::<T>(2, F), Vec::<T>::new());
    let (x, mut y) = (Rows::contiguous(&none[..], 0), vec![T::of(f64::NAN); 4 * F]);
    let epilogue = cpu::Epilogue::new(Activation::Identity).bias(&bias[..]);
    let to = Out::Overwrite(out(&mut y));
    operators.layer(x, &[], cpu::Weights::shared(&w[..]), &epilogue, None, to).unwrap();
    let expected: Vec<T> = bias.iter().map(|&b| T::narrow(b)).collect();
    assert!(y.chunks(F).all(|row| row == expected));
    // No features: nothing depends on x.
    let mut operators = backend.layers_on(&pairs(), (INPUTS, 0), Conv::default(), 1, None).unwrap();
    let x: Vec<T> = features(3, 4 * INPUTS);
    let mut grad_x = vec![T::of(f64::NAN); 4 * INPUTS];
    let gradients = cpu::LayerGradients::none().x(Out::Overwrite(Rows::contiguous(&mut grad_x, INPUTS)));
    let (x, g) = (Rows::contiguous(&x[..], INPUTS), Rows::contiguous(&none[..], 0));
    let epilogue = cpu::Epilogue::default();
    operators.layer_backward(x, &[], cpu::Weights::shared(&w[..]), &epilogue, g, gradients).unwrap();
    assert!(grad_x.iter().all(|&value| value == T::of(0.0)));
}

per_backend! {
    on [cpu], in [f32, f64, f16, bf16]:
    layers_of_every_size_are_what_they_are_defined_to_be;
    products_are_not_rounded_before_the_convolution;
    negative_degrees_are_reported;
    empty_batches_are_legal;
}

// Of the other promises bounds and rounding are those of the CPU, which also finds a negative degree before
// it writes.
per_backend! {
    on [cpu, cuda(modes(&[Order::Forward, Order::Shuffled(1)]))], in [f32, f16, bf16]:
    what_is_not_finite_stays_with_its_hyperedges;
    shapes_are_checked_before_anything_is_written;
}

/// Devices have no layers in this type.
mod of_f64 {
    use super::*;

    per_backend! {
        on [cpu], in [f64]:
        what_is_not_finite_stays_with_its_hyperedges;
        shapes_are_checked_before_anything_is_written;
    }
}

/// What a loss has gradients of.
#[derive(Debug, Clone)]
struct Parameters {
    x: Vec<f64>,
    theta: Vec<f64>,
    w: Vec<f64>,
    bias: Vec<f64>,
    residual: Vec<f64>,
}

/// Two copies of a hypergraph, and the loss ⟨y, g⟩.
#[derive(Debug, Clone)]
struct Problem {
    batch: Batch,
    conv: Conv,
    activation: Activation,
    parameters: Parameters,
    g: Vec<f64>,
}

prop_compose! {
    fn problem()(
        (n, edges) in edges(), conv in crate::layouts::conventions(),
        activation in prop::sample::select(Activation::ALL), seed in any::<u64>(),
    ) -> Problem {
        let topology = Incidence::from_edges(n, &edges, Repeats::Keep).unwrap();
        let (n, m) = (2 * topology.n_vertices(), topology.n_hyperedges());
        let parameters = Parameters {
            x: numbers(seed ^ 1, n * INPUTS, -1.0, 1.0),
            theta: numbers(seed ^ 2, F * INPUTS, -1.0, 1.0),
            w: numbers(seed ^ 3, m, 0.4, 1.6),
            bias: numbers(seed ^ 4, F, -1.0, 1.0),
            residual: numbers(seed ^ 5, n * F, -1.0, 1.0),
        };
        let g = numbers(seed ^ 6, n * F, -1.0, 1.0);
        Problem { batch: Batch::replicate(topology), conv, activation, parameters, g }
    }
}

fn of_two(data: &[f64], features: usize) -> Rows<&[f64]> {
    let layout = hyperscatter::RowLayout::contiguous(features).instances(2);
    Rows::new(data, layout)
}

impl Problem {
    fn y(&self, operators: &mut dyn Operators<f64>, activation: Activation, of: &Parameters) -> Vec<f64> {
        let Parameters { x, theta, w, bias, residual } = of;
        let mut y = vec![f64::NAN; self.g.len()];
        let epilogue = cpu::Epilogue::new(activation).bias(&bias[..]);
        let (x, weights, residual) =
            (of_two(x, INPUTS), cpu::Weights::shared(&w[..]), Some(of_two(residual, F)));
        let layout = hyperscatter::RowLayout::contiguous(F).instances(2);
        let to = Out::Overwrite(Rows::new(&mut y[..], layout));
        operators.layer(x, theta, weights, &epilogue, residual, to).unwrap();
        y
    }

    fn gradients(&self, operators: &mut dyn Operators<f64>) -> Parameters {
        let Parameters { x, theta, w, bias, residual } = &self.parameters;
        let nan = |values: &[f64]| vec![f64::NAN; values.len()];
        let mut found =
            Parameters { x: nan(x), theta: nan(theta), w: nan(w), bias: nan(bias), residual: nan(residual) };
        let layout = |features| hyperscatter::RowLayout::contiguous(features).instances(2);
        let gradients = cpu::LayerGradients::none()
            .x(Out::Overwrite(Rows::new(&mut found.x[..], layout(INPUTS))))
            .theta(Out::Overwrite(&mut found.theta))
            .weights(Out::Overwrite(&mut found.w))
            .bias(Out::Overwrite(&mut found.bias))
            .residual(Out::Overwrite(Rows::new(&mut found.residual[..], layout(F))));
        let epilogue = cpu::Epilogue::new(self.activation).bias(&bias[..]);
        let (x, g, weights) = (of_two(x, INPUTS), of_two(&self.g, F), cpu::Weights::shared(&w[..]));
        operators.layer_backward(x, theta, weights, &epilogue, g, gradients).unwrap();
        found
    }
}

fn gradients_are_difference_quotients(backend: &dyn Backend<f64>, problem: &Problem) {
    const H: f64 = 1e-5;
    let operators = &mut *backend.layers_on(&problem.batch, (INPUTS, F), problem.conv, 2, None).unwrap();
    let no_residual = Parameters { residual: vec![0.0; problem.g.len()], ..problem.parameters.clone() };
    let preactivations = problem.y(operators, Activation::Identity, &no_residual);
    if problem.activation == Activation::Relu && preactivations.iter().any(|p| p.abs() < 1e-3) {
        return; // There are no difference quotients beside the kink.
    }
    let found = problem.gradients(operators);
    let mut check = |name: &str, found: &[f64], of: fn(&mut Parameters) -> &mut Vec<f64>| {
        for (i, &found) in found.iter().enumerate() {
            let [after, before] = [H, -H].map(|by| {
                let mut moved = problem.parameters.clone();
                of(&mut moved)[i] += by;
                let y = problem.y(operators, problem.activation, &moved);
                y.iter().zip(&problem.g).map(|(y, g)| y * g).sum::<f64>()
            });
            let quotient = (after - before) / (2.0 * H);
            let close = (found - quotient).abs() <= 1e-7 * (1.0 + quotient.abs());
            assert!(close, "{name}[{i}]: {found}, but the difference quotient is {quotient}");
        }
    };
    check("grad_x", &found.x, |p| &mut p.x);
    check("grad_theta", &found.theta, |p| &mut p.theta);
    check("grad_weights", &found.w, |p| &mut p.w);
    check("grad_bias", &found.bias, |p| &mut p.bias);
    check("grad_residual", &found.residual, |p| &mut p.residual);
}

per_backend! {
    on [cpu], in [f64]:
    gradients_are_difference_quotients(&problem) for problem in problem();
}

proptest! {
    #[test]
    fn the_number_of_threads_changes_no_bit(
        layout in prop_oneof![layout(), tall_layout()], case in case(), is_narrow in any::<bool>(),
    ) {
        fn results<T: TestElement>(layout: &Layout, case: &Case, threads: usize) -> impl PartialEq + std::fmt::Debug + use<T> {
            let operands = Operands::<T>::new(layout, case, false);
            let paths = case.paths::<T>(&layout.batch);
            with_threads(threads, || {
                let operators = &mut *operators::<T>(&Cpu, layout, case.inputs, &paths);
                found(operators, layout, case, &operands, Outputs::before(layout, case)).bits()
            })
        }
        let case = case.within(&layout);
        if is_narrow {
            prop_assert_eq!(results::<hyperscatter::half::bf16>(&layout, &case, 1), results::<hyperscatter::half::bf16>(&layout, &case, 3));
        } else {
            prop_assert_eq!(results::<f32>(&layout, &case, 1), results::<f32>(&layout, &case, 3));
        }
    }
}

/// A workspace has layers where it is made for them, and everything else always.
#[test]
fn a_workspace_has_layers_where_it_is_made_for_them() {
    let plan = cpu::Plan::<f32>::builder(&pairs(), F).inputs(INPUTS).build().unwrap();
    assert_eq!((plan.features(), plan.inputs()), (F, INPUTS));
    assert_eq!(cpu::Plan::<f32>::builder(&pairs(), F).build().unwrap().inputs(), F);
    let (x, theta, w) = (features::<f32>(1, 4 * INPUTS), features::<f32>(2, F * INPUTS), [1.0; 6]);
    let (x, weights) = (Rows::contiguous(&x[..], INPUTS), cpu::Weights::shared(&w[..]));
    let (g, epilogue) = (features::<f32>(3, 4 * F), cpu::Epilogue::default());
    for operators in [
        &[][..],
        &[Operator::Layer],
        &[Operator::LayerBackward],
        &[Operator::Layer, Operator::LayerBackward],
        Operator::ALL,
    ] {
        let mut workspace = plan.workspace_for(1, operators).unwrap();
        let mut y = [7.0; 4 * F];
        let done = workspace.layer(x, &theta, weights, &epilogue, None, Out::Overwrite(out(&mut y)));
        match operators.contains(&Operator::Layer) {
            true => assert!(done.is_ok() && y.iter().all(|&y| y != 7.0)),
            false => {
                assert_eq!(done, Err(Error::NotMadeFor { operator: "layer" }));
                assert_eq!(y, [7.0; 4 * F]);
            }
        }
        let mut grad_theta = [7.0; F * INPUTS];
        let gradients = cpu::LayerGradients::none().theta(Out::Overwrite(&mut grad_theta));
        let done = workspace.layer_backward(x, &theta, weights, &epilogue, rows(&g), gradients);
        match operators.contains(&Operator::LayerBackward) {
            true => assert!(done.is_ok() && grad_theta.iter().all(|&g| g != 7.0)),
            false => {
                assert_eq!(done, Err(Error::NotMadeFor { operator: "layer_backward" }));
                assert_eq!(grad_theta, [7.0; F * INPUTS]);
            }
        }
        workspace.conv(rows(&g), weights, Out::Overwrite(out(&mut y))).unwrap();
    }
    let none = plan.workspace(usize::MAX).and_then(|_| plan.workspace_for(usize::MAX, &[Operator::Layer]));
    assert!(matches!(none, Err(Error::TooLarge { .. } | Error::OutOfMemory { .. })), "{none:?}");
}

fn call_without_allocating<T: TestElement>() {
    const COPIES: usize = 70;
    let plan = cpu::Plan::<T>::builder(&pairs(), F).inputs(INPUTS).build().unwrap();
    let mut workspace = plan.workspace_for(COPIES, Operator::ALL).unwrap();
    let (x, g) = (features::<T>(1, COPIES * 4 * INPUTS), features::<T>(2, COPIES * 4 * F));
    let (theta, w, bias) = (features::<T>(3, F * INPUTS), weights::<T>(4, 6, false), sums::<T>(5, F));
    let (mut y, mut grad_x) = (g.clone(), x.clone());
    let (mut grad_theta, mut grad_w, mut grad_bias) =
        (vec![T::acc(0.0); F * INPUTS], w.clone(), bias.clone());
    let (weights, epilogue) =
        (cpu::Weights::shared(&w[..]), cpu::Epilogue::new(Activation::Gelu).bias(&bias[..]));
    let before = allocations();
    for copies in [COPIES, 1, 0, COPIES - 1] {
        let x = Rows::contiguous(&x[..copies * 4 * INPUTS], INPUTS);
        let g = rows(&g[..copies * 4 * F]);
        let to = Out::Overwrite(out(&mut y[..copies * 4 * F]));
        workspace.layer(x, &theta, weights, &epilogue, Some(g), to).unwrap();
        let gradients = cpu::LayerGradients::none()
            .x(Out::Accumulate(Rows::contiguous(&mut grad_x[..copies * 4 * INPUTS], INPUTS)))
            .theta(Out::Overwrite(&mut grad_theta))
            .weights(Out::Overwrite(&mut grad_w))
            .bias(Out::Overwrite(&mut grad_bias))
            .residual(Out::Overwrite(out(&mut y[..copies * 4 * F])));
        workspace.layer_backward(x, &theta, weights, &epilogue, g, gradients).unwrap();
    }
    assert_eq!(allocations(), before);
}

#[test]
fn no_call_allocates() {
    // On a pool's only thread, everything that a call does runs there and is counted.
    with_threads(1, || {
        call_without_allocating::<f32>();
        call_without_allocating::<hyperscatter::half::bf16>();
    });
}

/// The gradient of Θ over many rows, in one matrix and in more groups than one.
#[test]
fn the_gradient_of_theta_counts_every_row() {
    for (n, instances, features, inputs) in
        [(3, 5000, 2, 3), (20_000, 1, 3, 2), (4, 700, 65, 130), (257, 40, 1, 1), (2, 257, 65, 8065)]
    {
        let topology = Incidence::subsets(n, 1).unwrap();
        let batch = Batch::replicate(topology);
        let plan = cpu::Plan::<f32>::builder(&batch, features).inputs(inputs).build().unwrap();
        let mut workspace = plan.workspace_for(instances, &[Operator::LayerBackward]).unwrap();
        // Whole numbers: every sum is exact. The convolution is the identity.
        let rows = n * instances;
        let whole = |seed, len| numbers(seed, len, -3.0, 3.0).iter().map(|x| x.round() as f32).collect();
        let (x, g): (Vec<f32>, Vec<f32>) = (whole(1, rows * inputs), whole(2, rows * features));
        let (theta, w) = (vec![1.0f32; features * inputs], vec![1.0f32; n]);
        let mut found = vec![f32::NAN; features * inputs];
        let (rows_of_x, rows_of_g) = (Rows::contiguous(&x[..], inputs), Rows::contiguous(&g[..], features));
        let gradients = cpu::LayerGradients::none().theta(Out::Overwrite(&mut found));
        let epilogue = cpu::Epilogue::default();
        let weights = cpu::Weights::shared(&w[..]);
        workspace.layer_backward(rows_of_x, &theta, weights, &epilogue, rows_of_g, gradients).unwrap();
        let mut expected = vec![0.0f32; features * inputs];
        for (x, g) in x.chunks(inputs).zip(g.chunks(features)) {
            for (expected, g) in expected.chunks_mut(inputs).zip(g) {
                expected.iter_mut().zip(x).for_each(|(sum, x)| *sum += g * x);
            }
        }
        assert_eq!(found, expected, "{n} {instances} {features} {inputs}");
    }
}
