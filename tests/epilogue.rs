//! The convolution with an epilogue or a readout, and their backwards: what they are composed of, in bits.
//!
//! The reference takes the sums of the convolution, unrounded, from a plan in the accumulation type, and the
//! gradients from the backward of the convolution alone; everything between is written down here.

use hyperscatter::{
    Accumulator, Activation, Axis, Batch, Conv, Element, Error, Incidence, Normalization, Out, Path, Repeats,
    RowLayout, Rows, WeightUse, WindowTable, cpu,
};
use proptest::prelude::*;

use crate::backend::{Backend, Cpu, Operators, Write};
use crate::common::{TestElement, bits, features, numbers, poison, sums, weights, with_threads};
use crate::layouts::{Layout, Place, WindowKind, edges, empty_batches, layout, pairs, tall_layout};
use crate::operands::{F, assert_negative_degree, out, rows};
use crate::per_backend::per_backend;

/// Which epilogue, and what becomes of the outputs.
#[derive(Debug, Clone)]
struct Case {
    activation: Activation,
    bias: bool,
    residual: bool,
    /// Whether rows are wanted, or their mean.
    readout: bool,
    /// All on one path where it is available, or as the plan chooses.
    path: Option<Path>,
    /// Of y, ∂x, ∂w, ∂b and ∂residual.
    writes: [Write; 5],
    poisoned: bool,
}

fn activation() -> impl Strategy<Value = Activation> {
    prop::sample::select(Activation::ALL)
}

prop_compose! {
    fn case()(
        activation in activation(), bias in any::<bool>(), residual in any::<bool>(), readout in any::<bool>(),
        path in prop_oneof![Just(None), prop::sample::select(Path::ALL).prop_map(Some)],
        writes in [Write::any(), Write::any(), Write::any(), Write::any(), Write::any()],
        poisoned in prop::bool::weighted(0.2),
    ) -> Case {
        Case { activation, bias, residual, readout, path, writes, poisoned }
    }
}

impl Case {
    /// A path for each topology: the one of the case where it can be taken, and the chosen one else.
    fn paths<T: TestElement>(&self, batch: &Batch, features: usize) -> Vec<Path> {
        let chosen = cpu::Plan::<T>::builder(batch, features).build().unwrap().paths().to_vec();
        let alone = batch.topologies().iter().map(|topology| Batch::replicate(topology.clone()));
        let can_take = |alone: &Batch, path| {
            let paths = [path];
            cpu::Plan::<T>::builder(alone, features).paths(&paths).build().is_ok()
        };
        let paths = alone.zip(chosen).map(|(alone, chosen)| match self.path {
            Some(path) if can_take(&alone, path) => path,
            _ => chosen,
        });
        paths.collect()
    }
}

/// The operands of a case, in contiguous rows.
struct Operands<T: TestElement> {
    x: Vec<T>,
    residual: Vec<T>,
    /// The gradient of rows.
    g: Vec<T>,
    grad_readout: Vec<T>,
    weights: Vec<T::Acc>,
    bias: Vec<T::Acc>,
}

impl<T: TestElement> Operands<T> {
    fn new(layout: &Layout, poisoned: bool) -> Self {
        let seed = layout.seed;
        let (len, of_instances) =
            (layout.n_rows(false) * layout.features, layout.instances * layout.features);
        let mut operands = Self {
            x: features(seed ^ 1, len),
            residual: features(seed ^ 2, len),
            g: features(seed ^ 3, len),
            grad_readout: features(seed ^ 4, of_instances),
            weights: weights::<T>(
                seed,
                layout.n_weights(),
                layout.conv.normalization != Normalization::Symmetric,
            ),
            bias: sums::<T>(seed ^ 5, layout.features),
        };
        if poisoned {
            poison(&mut operands.x, seed ^ 6);
            poison(&mut operands.g, seed ^ 7);
            poison(&mut operands.grad_readout, seed ^ 8);
            poison(&mut operands.residual, seed ^ 9);
        }
        operands
    }
}

/// The outputs, in contiguous rows.
#[derive(Clone)]
struct Outputs<T: TestElement> {
    y: Vec<T>,
    readout: Vec<T>,
    grad_x: Vec<T>,
    grad_weights: Vec<T::Acc>,
    grad_bias: Vec<T::Acc>,
    grad_residual: Vec<T>,
}

impl<T: TestElement> Outputs<T> {
    /// What they hold before a call.
    fn before(layout: &Layout, bias: bool) -> Self {
        let (seed, len) = (layout.seed, layout.n_rows(false) * layout.features);
        Self {
            y: features(seed ^ 11, len),
            readout: features(seed ^ 12, layout.instances * layout.features),
            grad_x: features(seed ^ 13, len),
            grad_weights: sums::<T>(seed ^ 14, layout.n_weights()),
            grad_bias: sums::<T>(seed ^ 15, if bias { layout.features } else { 0 }),
            grad_residual: features(seed ^ 16, len),
        }
    }

    fn bits(&self) -> [(&'static str, Vec<u64>); 6] {
        let Self { y, readout, grad_x, grad_weights, grad_bias, grad_residual } = self;
        [
            ("y", bits(y)),
            ("readout", bits(readout)),
            ("grad_x", bits(grad_x)),
            ("grad_weights", bits(grad_weights)),
            ("grad_bias", bits(grad_bias)),
            ("grad_residual", bits(grad_residual)),
        ]
    }
}

/// Stores a value or adds it, as it is asked.
fn write<T: Element>(write: Write, place: &mut T, value: T::Acc) {
    *place = match write {
        Write::Overwrite => T::narrow(value),
        Write::Accumulate => T::narrow(place.widen() + value),
        Write::Skip => *place,
    };
}

/// The sum of rows, each element made an `A`: in segments of 256 rows, which are added in order.
fn sum_of_rows<A: Accumulator>(rows: &[Vec<A>], features: usize) -> Vec<A> {
    let mut total: Option<Vec<A>> = None;
    for segment in rows.chunks(256) {
        let mut sums = vec![A::ZERO; features];
        for row in segment {
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += x);
        }
        total = Some(match total {
            None => sums,
            Some(total) => total.iter().zip(&sums).map(|(&total, &sum)| total + sum).collect(),
        });
    }
    total.unwrap_or_else(|| vec![A::ZERO; features])
}

/// The sum of the rows of all instances by the tree that ARCHITECTURE.md has, halves first.
fn tree_of_rows(instances: &[Vec<Vec<f64>>], features: usize) -> Vec<f64> {
    let largest = instances.iter().map(Vec::len).max().unwrap_or(0);
    let mut len = 256;
    while len > 1 && len * largest > 256 {
        len /= 2;
    }
    let mut nodes: Vec<Vec<f64>> =
        instances.chunks(len).map(|chunk| sum_of_rows(&chunk.concat(), features)).collect();
    while nodes.len() > 1 {
        let add = |pair: &[Vec<f64>]| match pair {
            [a, b] => a.iter().zip(b).map(|(a, b)| a + b).collect(),
            alone => alone[0].clone(),
        };
        nodes = nodes.chunks(2).map(add).collect();
    }
    nodes.pop().unwrap_or_else(|| vec![0.0; features])
}

/// What a case should give.
fn expected<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    case: &Case,
    paths: &[Path],
    operands: &Operands<T>,
) -> Outputs<T>
where
    T::Acc: TestElement,
{
    let f = layout.features;
    let Operands { x, residual, g, grad_readout, weights, bias } = operands;
    let table = layout.table();
    let weights = layout.weights(weights, &table);
    let contiguous = RowLayout::contiguous(f).instances(layout.instances);

    // The sums do not depend on how elements are stored.
    let wide: Vec<T::Acc> = x.iter().map(|x| x.widen()).collect();
    let mut u = vec![T::acc(f64::NAN); x.len()];
    let of_sums: &dyn Backend<T::Acc> = &Cpu;
    let (batch, conv, most) = (&layout.batch, layout.conv, layout.max_instances());
    let mut operators = of_sums.operators_on(batch, f, conv, most, Some(paths)).unwrap();
    let out = Out::Overwrite(Rows::new(&mut u[..], contiguous));
    operators.conv(Rows::new(&wide[..], contiguous), weights, None, out).unwrap();

    let p: Vec<T::Acc> = match case.bias {
        true => u.iter().enumerate().map(|(i, &u)| u + bias[i % f]).collect(),
        false => u,
    };
    let activated = p.iter().map(|&p| case.activation.value(p));
    let r: Vec<T::Acc> = match case.residual {
        true => activated.zip(residual).map(|(a, s)| a + s.widen()).collect(),
        false => activated.collect(),
    };
    let mut outputs = Outputs::<T>::before(layout, case.bias);
    let [of_y, of_x, of_weights, of_bias, of_residual] = case.writes;
    // g of each row, not rounded.
    let mut all_g: Vec<T::Acc> = vec![];
    for instance in 0..layout.instances {
        let elements = layout.elements_of(instance, false);
        let count = T::Acc::from_count(layout.n_rows_of(instance, false));
        if !case.readout {
            for i in elements {
                write(of_y, &mut outputs.y[i], r[i]);
                all_g.push(g[i].widen());
            }
            continue;
        }
        let stored: Vec<Vec<T::Acc>> = r[elements.clone()]
            .chunks(f.max(1))
            .map(|row| row.iter().map(|&r| T::narrow(r).widen()).collect())
            .collect();
        let sum = sum_of_rows(&stored, f);
        for (i, sum) in sum.into_iter().enumerate() {
            let mean = if stored.is_empty() { T::Acc::ZERO } else { sum / count };
            write(of_y, &mut outputs.readout[instance * f + i], mean);
        }
        all_g.extend(elements.map(|i| grad_readout[instance * f + i % f].widen() / count));
    }
    let t: Vec<T> = p
        .iter()
        .zip(&all_g)
        .map(|(&p, &g)| {
            let d = case.activation.derivative(p);
            let product = if case.activation == Activation::Identity { g } else { g * d };
            T::narrow(if d == T::Acc::ZERO { T::Acc::ZERO } else { product })
        })
        .collect();
    for (place, &g) in outputs.grad_residual.iter_mut().zip(&all_g) {
        write(of_residual, place, g);
    }
    let mut operators = backend.operators_on(batch, f, conv, most, Some(paths)).unwrap();
    let grad_x = of_x.to(Rows::new(&mut outputs.grad_x[..], contiguous));
    let grad_weights = of_weights.to(&mut outputs.grad_weights[..]);
    let (x, t_rows) = (Rows::new(&x[..], contiguous), Rows::new(&t[..], contiguous));
    operators.conv_backward(x, None, weights, t_rows, grad_x, grad_weights).unwrap();
    if case.bias {
        let wide: Vec<Vec<f64>> =
            t.chunks(f.max(1)).map(|row| row.iter().map(|t| t.widen().to_f64()).collect()).collect();
        let instances: Vec<Vec<Vec<f64>>> = (0..layout.instances)
            .map(|g| {
                let start = layout.batch.start(Axis::Vertex, g);
                let n = if f == 0 { 0 } else { layout.n_rows_of(g, false) };
                wide[start.min(wide.len())..][..n].to_vec()
            })
            .collect();
        // Where there is nothing to add, nothing is added, not even zeros.
        let is_anything = layout.instances > 0 || of_bias == Write::Overwrite;
        for (place, sum) in outputs.grad_bias.iter_mut().zip(tree_of_rows(&instances, f)) {
            if is_anything {
                write(of_bias, place, T::Acc::from_f64(sum));
            }
        }
    }
    outputs
}

/// What the operators give.
fn found<T: TestElement>(
    operators: &mut dyn Operators<T>,
    layout: &Layout,
    case: &Case,
    operands: &Operands<T>,
) -> Outputs<T> {
    let mut outputs = Outputs::<T>::before(layout, case.bias);
    let gap = T::of(7.0);
    let [a, b, c, d, e] = layout.places;
    let place = |rows: &[T], place, filler| layout.spread(rows, place, false, filler);
    let x = place(&operands.x, a, T::of(f64::NAN));
    let residual = place(&operands.residual, b, T::of(f64::NAN));
    let g = place(&operands.g, c, T::of(f64::NAN));
    let (mut y, mut grad_x, mut grad_residual) =
        (place(&outputs.y, d, gap), place(&outputs.grad_x, e, gap), place(&outputs.grad_residual, b, gap));
    let table = layout.table();
    let weights = layout.weights(&operands.weights, &table);
    let epilogue = cpu::Epilogue::new(case.activation).bias(case.bias.then_some(&operands.bias[..]));
    let [of_y, of_x, of_weights, of_bias, of_residual] = case.writes;
    let residual = case.residual.then(|| residual.rows());
    let forward = match case.readout {
        false => operators.conv_epilogue(x.rows(), weights, &epilogue, residual, of_y.to(y.rows_mut())),
        true => {
            operators.conv_readout(x.rows(), weights, &epilogue, residual, of_y.to(&mut outputs.readout[..]))
        }
    };
    forward.unwrap();
    let gradients = cpu::EpilogueGradients::none()
        .x(of_x.to(grad_x.rows_mut()))
        .weights(of_weights.to(&mut outputs.grad_weights[..]))
        .bias(of_bias.to(&mut outputs.grad_bias[..]))
        .residual(of_residual.to(grad_residual.rows_mut()));
    let backward = match case.readout {
        false => operators.conv_epilogue_backward(x.rows(), weights, &epilogue, g.rows(), gradients),
        true => {
            let g = &operands.grad_readout[..];
            operators.conv_readout_backward(x.rows(), weights, &epilogue, g, gradients)
        }
    };
    backward.unwrap();
    for placed in [&y, &grad_x, &grad_residual] {
        assert!(placed.gaps().iter().all(|&value| value == gap), "written between rows");
    }
    Outputs { y: y.gathered(), grad_x: grad_x.gathered(), grad_residual: grad_residual.gathered(), ..outputs }
}

/// The bits of all results with a bias and a residual, on the paths that plans choose.
pub fn epilogue_bits<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    activation: Activation,
    readout: bool,
    path: Option<Path>,
) -> Vec<(&'static str, Vec<u64>)> {
    let writes = [Write::Overwrite; 5];
    let case = Case { activation, bias: true, residual: true, readout, path, writes, poisoned: false };
    let paths = case.paths::<T>(&layout.batch, layout.features);
    let operands = Operands::new(layout, false);
    found(&mut *operators(backend, layout, &paths), layout, &case, &operands).bits().to_vec()
}

fn operators<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    paths: &[Path],
) -> Box<dyn Operators<T>> {
    let (batch, most) = (&layout.batch, layout.max_instances());
    backend.operators_on(batch, layout.features, layout.conv, most, Some(paths)).unwrap()
}

/// Rows, means and all gradients, on every path, in every place.
fn an_epilogue_is_its_composition<T: TestElement>(backend: &dyn Backend<T>, layout: &Layout, case: &Case)
where
    T::Acc: TestElement,
{
    let operands = Operands::new(layout, case.poisoned);
    let paths = case.paths::<T>(&layout.batch, layout.features);
    let expected = expected(backend, layout, case, &paths, &operands);
    let mut operators = operators(backend, layout, &paths);
    let found = found(&mut *operators, layout, case, &operands);
    for ((name, found), (_, expected)) in found.bits().into_iter().zip(expected.bits()) {
        assert_eq!(found, expected, "{name} in {} on {paths:?}", T::NAME);
    }
    // Nothing is left of a call in the next.
    let again = self::found(&mut *operators, layout, case, &operands);
    assert_eq!(again.bits(), found.bits());
}

/// Forward and backward of no epilogue are those of the convolution.
fn an_epilogue_of_nothing_changes_no_bit<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    case: &Case,
) {
    let nothing = Case {
        activation: Activation::Identity,
        bias: false,
        residual: false,
        readout: false,
        ..case.clone()
    };
    let operands = Operands::<T>::new(layout, case.poisoned);
    let paths = nothing.paths::<T>(&layout.batch, layout.features);
    let mut operators = operators(backend, layout, &paths);
    let found = found(&mut *operators, layout, &nothing, &operands);
    let mut outputs = Outputs::<T>::before(layout, false);
    let contiguous = RowLayout::contiguous(layout.features).instances(layout.instances);
    let table = layout.table();
    let weights = layout.weights(&operands.weights, &table);
    let x = Rows::new(&operands.x[..], contiguous);
    let y = nothing.writes[0].to(Rows::new(&mut outputs.y[..], contiguous));
    operators.conv(x, weights, None, y).unwrap();
    let grad_x = nothing.writes[1].to(Rows::new(&mut outputs.grad_x[..], contiguous));
    let grad_weights = nothing.writes[2].to(&mut outputs.grad_weights[..]);
    let g = Rows::new(&operands.g[..], contiguous);
    operators.conv_backward(x, None, weights, g, grad_x, grad_weights).unwrap();
    for ((name, found), (_, expected)) in found.bits().into_iter().zip(outputs.bits()).take(4) {
        assert_eq!(found, expected, "{name} in {}", T::NAME);
    }
}

// On the emulated driver a case takes a core 100 ms.
per_backend! {
    on [cpu, cuda(cases(48))], in [any_type]:
    an_epilogue_is_its_composition(&layout, &case)
        for layout in prop_oneof![2 => layout(), 1 => tall_layout()], case in case();
    an_epilogue_of_nothing_changes_no_bit(&layout, &case) for layout in layout(), case in case();
}

/// Topologies of each class of dense kernels, on one path and mixed with long ones; and more chunks of rows
/// than a thread adds, so that their tree has levels.
fn epilogues_of_every_size_are_their_composition<T: TestElement>(backend: &dyn Backend<T>)
where
    T::Acc: TestElement,
{
    let subsets = |n| Incidence::subsets(n, 2).unwrap();
    let sparse = |n: usize| Incidence::from_edges(n, &[vec![0, n - 1], vec![1]], Repeats::Keep).unwrap();
    let table = |topologies, ids: &[usize]| (Batch::from_table(topologies, ids).unwrap(), ids.len());
    let nothing = || Incidence::from_edges(0, &[Vec::<u32>::new()], Repeats::Keep).unwrap();
    let batches = [
        ((Batch::replicate(subsets(20)), 2), 12),
        ((Batch::replicate(subsets(32)), 2), 6),
        (table(vec![subsets(3), subsets(20), sparse(60), nothing(), subsets(12)], &[0, 1, 2, 3, 4, 0]), 8),
        (table(vec![subsets(3), sparse(600), nothing(), sparse(257)], &[0, 1, 2, 0, 3, 1]), 2),
        (table(vec![nothing()], &[0, 0]), 4),
        ((Batch::replicate(sparse(130)), 131), 1),
    ];
    for (i, ((batch, instances), features)) in batches.into_iter().enumerate() {
        for (readout, write) in [(false, Write::Overwrite), (true, Write::Accumulate)] {
            let layout = Layout {
                batch: batch.clone(),
                instances,
                features,
                windows: WindowKind::Shared,
                offsets: vec![0; instances],
                places: [Place::Contiguous; 5],
                conv: Conv::default(),
                seed: i as u64,
            };
            let (activation, writes) = (Activation::Silu, [write; 5]);
            let case =
                Case { activation, bias: true, residual: true, readout, path: None, writes, poisoned: false };
            an_epilogue_is_its_composition(backend, &layout, &case);
        }
    }
}

per_backend! {
    on [cpu, cuda([Mode::QUICK])], in [f32, f64, f16, bf16]:
    epilogues_of_every_size_are_their_composition;
}

/// The bits of the bias's gradient for copies that all read the same weights, through any windows.
fn bits_of_grad_bias(backend: &dyn Backend<f32>, activation: Activation, windows: Option<bool>) -> Vec<u64> {
    const COPIES: usize = 300;
    let batch = pairs();
    let w = weights::<f32>(1, 6, false).repeat(COPIES);
    let table = WindowTable::new(&batch, &(0..COPIES).map(|g| g % 7 * 6).collect::<Vec<_>>()).unwrap();
    let weights = match windows {
        None => cpu::Weights::shared(&w[..6]),
        Some(false) => cpu::Weights::consecutive(&w[..]),
        Some(true) => cpu::Weights::table(&w[..], &table),
    };
    let (x, g): (Vec<f32>, Vec<f32>) = (features(2, COPIES * 4 * F), features(3, COPIES * 4 * F));
    let bias = sums::<f32>(4, F);
    let epilogue = cpu::Epilogue::new(activation).bias(&bias[..]);
    let mut operators = backend.operators(&batch, F, Conv::default(), COPIES).unwrap();
    let found = [false, true].map(|weights_wanted| {
        let (mut grad_bias, mut grad_weights) = ([f32::NAN; F], vec![f32::NAN; weights.values.len()]);
        let grad_weights = if weights_wanted { Out::Overwrite(&mut grad_weights[..]) } else { Out::Skip };
        let gradients =
            cpu::EpilogueGradients::none().weights(grad_weights).bias(Out::Overwrite(&mut grad_bias[..]));
        operators.conv_epilogue_backward(rows(&x), weights, &epilogue, rows(&g), gradients).unwrap();
        bits(&grad_bias)
    });
    assert_eq!(found[0], found[1], "with and without the gradient of the weights");
    found[0].clone()
}

fn the_gradient_of_a_bias_does_not_depend_on_windows(backend: &dyn Backend<f32>) {
    for &activation in Activation::ALL {
        let shared = bits_of_grad_bias(backend, activation, None);
        assert_eq!(shared, bits_of_grad_bias(backend, activation, Some(false)), "{activation:?}");
        assert_eq!(shared, bits_of_grad_bias(backend, activation, Some(true)), "{activation:?}");
    }
}

proptest! {
    #[test]
    fn the_number_of_threads_changes_no_bit(layout in prop_oneof![layout(), tall_layout()], case in case()) {
        let operands = Operands::<f32>::new(&layout, case.poisoned);
        let paths = case.paths::<f32>(&layout.batch, layout.features);
        let found = [1, 3].map(|threads| {
            with_threads(threads, || found(&mut *operators::<f32>(&Cpu, &layout, &paths), &layout, &case, &operands).bits())
        });
        prop_assert_eq!(&found[0], &found[1]);
    }
}

/// What a loss has gradients of.
#[derive(Debug, Clone)]
struct Parameters {
    x: Vec<f64>,
    w: Vec<f64>,
    bias: Vec<f64>,
    residual: Vec<f64>,
}

/// Two copies of a hypergraph, and the loss ⟨y, g⟩ or ⟨readout, g⟩.
#[derive(Debug, Clone)]
struct Problem {
    batch: Batch,
    conv: Conv,
    activation: Activation,
    readout: bool,
    parameters: Parameters,
    g: Vec<f64>,
}

prop_compose! {
    fn problem()(
        (n, edges) in edges(), conv in crate::layouts::conventions(), activation in activation(),
        readout in any::<bool>(), seed in any::<u64>(),
    ) -> Problem {
        let topology = Incidence::from_edges(n, &edges, Repeats::Keep).unwrap();
        let (n, m) = (2 * topology.n_vertices() * F, topology.n_hyperedges());
        let parameters = Parameters {
            x: numbers(seed ^ 1, n, -1.0, 1.0),
            w: numbers(seed ^ 2, m, 0.4, 1.6),
            bias: numbers(seed ^ 3, F, -1.0, 1.0),
            residual: numbers(seed ^ 4, n, -1.0, 1.0),
        };
        let g = numbers(seed ^ 5, if readout { 2 * F } else { n }, -1.0, 1.0);
        Problem { batch: Batch::replicate(topology), conv, activation, readout, parameters, g }
    }
}

impl Problem {
    fn rows(&self) -> RowLayout {
        RowLayout::contiguous(F).instances(2)
    }

    fn y(
        &self,
        operators: &mut dyn Operators<f64>,
        activation: Activation,
        parameters: &Parameters,
    ) -> Vec<f64> {
        let Parameters { x, w, bias, residual } = parameters;
        let mut y = vec![f64::NAN; self.g.len()];
        let (x, weights) = (Rows::new(&x[..], self.rows()), cpu::Weights::shared(&w[..]));
        let epilogue = cpu::Epilogue::new(activation).bias(&bias[..]);
        let residual = Some(Rows::new(&residual[..], self.rows()));
        let done = match self.readout {
            true => operators.conv_readout(x, weights, &epilogue, residual, Out::Overwrite(&mut y)),
            false => {
                let y = Out::Overwrite(Rows::new(&mut y[..], self.rows()));
                operators.conv_epilogue(x, weights, &epilogue, residual, y)
            }
        };
        done.unwrap();
        y
    }

    fn gradients(&self, operators: &mut dyn Operators<f64>) -> Parameters {
        let Parameters { x, w, bias, residual } = &self.parameters;
        let nan = |values: &[f64]| vec![f64::NAN; values.len()];
        let mut found = Parameters { x: nan(x), w: nan(w), bias: nan(bias), residual: nan(residual) };
        let gradients = cpu::EpilogueGradients::none()
            .x(Out::Overwrite(Rows::new(&mut found.x[..], self.rows())))
            .weights(Out::Overwrite(&mut found.w))
            .bias(Out::Overwrite(&mut found.bias))
            .residual(Out::Overwrite(Rows::new(&mut found.residual[..], self.rows())));
        let (x, weights) = (Rows::new(&x[..], self.rows()), cpu::Weights::shared(&w[..]));
        let epilogue = cpu::Epilogue::new(self.activation).bias(&bias[..]);
        let done = match self.readout {
            true => operators.conv_readout_backward(x, weights, &epilogue, &self.g, gradients),
            false => {
                let g = Rows::new(&self.g[..], self.rows());
                operators.conv_epilogue_backward(x, weights, &epilogue, g, gradients)
            }
        };
        done.unwrap();
        found
    }
}

fn gradients_are_difference_quotients(backend: &dyn Backend<f64>, problem: &Problem) {
    const H: f64 = 1e-5;
    let operators = &mut *backend.operators(&problem.batch, F, problem.conv, 2).unwrap();
    let no_residual =
        Parameters { residual: vec![0.0; problem.parameters.x.len()], ..problem.parameters.clone() };
    let rows = Problem { readout: false, g: no_residual.residual.clone(), ..problem.clone() };
    let preactivations = rows.y(operators, Activation::Identity, &no_residual);
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
    check("grad_weights", &found.w, |p| &mut p.w);
    check("grad_bias", &found.bias, |p| &mut p.bias);
    check("grad_residual", &found.residual, |p| &mut p.residual);
}

per_backend! {
    on [cpu, cuda(cases(6))], in [f64]:
    gradients_are_difference_quotients(&problem) for problem in problem();
}

/// A derivative of zero lets no infinity through.
fn a_derivative_of_zero_stops_an_infinity<T: TestElement>(backend: &dyn Backend<T>) {
    for path in [Path::Gather, Path::Dense] {
        let mut operators = backend.operators_on(&pairs(), F, Conv::default(), 2, Some(&[path])).unwrap();
        let x: Vec<T> = features(1, 2 * 4 * F);
        // u + b is positive in even features, and negative in odd ones.
        let is_even = |i: usize| (i % F).is_multiple_of(2);
        let bias: Vec<T::Acc> = (0..F).map(|f| T::acc(if is_even(f) { 9.0 } else { -9.0 })).collect();
        let g: Vec<T> = (0..x.len())
            .map(|i| T::of(if is_even(i) { 1.0 } else { [f64::INFINITY, f64::NAN][i % 3 % 2] }))
            .collect();
        let w = weights::<T>(2, 6, false);
        let (mut grad_x, mut grad_bias) = (vec![T::of(f64::NAN); x.len()], vec![T::acc(f64::NAN); F]);
        let mut grad_w = vec![T::acc(f64::NAN); 6];
        let gradients = cpu::EpilogueGradients::none()
            .x(Out::Overwrite(out(&mut grad_x)))
            .weights(Out::Overwrite(&mut grad_w))
            .bias(Out::Overwrite(&mut grad_bias));
        let epilogue = cpu::Epilogue::new(Activation::Relu).bias(&bias[..]);
        let weights = cpu::Weights::shared(&w[..]);
        operators.conv_epilogue_backward(rows(&x), weights, &epilogue, rows(&g), gradients).unwrap();
        for (i, g) in grad_x.iter().enumerate() {
            let g = g.widen().to_f64();
            assert!(g.is_finite() && (is_even(i) || g == 0.0), "{i}: {g}");
        }
        let expected: Vec<f64> = (0..F).map(|f| if is_even(f) { 8.0 } else { 0.0 }).collect();
        assert_eq!(crate::common::widen(&grad_bias), expected);
        assert!(crate::common::widen(&grad_w).iter().all(|g| g.is_finite()));
    }
}

/// Wrong shapes are errors that name the operand, and nothing is written.
fn shapes_are_checked_before_anything_is_written<T: TestElement>(backend: &dyn Backend<T>) {
    let mut operators = backend.operators(&pairs(), F, Conv::default(), 3).unwrap();
    let n = 2 * 4 * F;
    let (x, w) = (features::<T>(1, n), weights::<T>(2, 6, false));
    let (x, weights) = (rows(&x), cpu::Weights::shared(&w[..]));
    let bias = sums::<T>(3, F + 1);
    let (good, bad) = (
        cpu::Epilogue::new(Activation::Gelu).bias(&bias[..F]),
        cpu::Epilogue::new(Activation::Gelu).bias(&bias[..]),
    );
    let plain = cpu::Epilogue::new(Activation::Relu);
    let length = |table, value, bound, bound_of| Error::LengthMismatch { table, value, bound, bound_of };
    let wrong_bias = length("bias", F + 1, F, "the plan's features");
    let wrong_readout = |table| length(table, 2 * F - 1, 2 * F, "a row for each instance");
    let seven = T::of(7.0);
    let (mut y, mut readout) = (vec![seven; n], vec![seven; 2 * F]);
    let (mut grad_x, mut grad_residual) = (vec![seven; n], vec![seven; n]);
    let (mut grad_w, mut grad_bias) = (vec![T::acc(7.0); 6], vec![T::acc(7.0); F + 1]);

    for (residual, expected) in [
        (
            Rows::contiguous(&x.buffer[..24], 4),
            Error::FeaturesMismatch { operand: "residual", value: 4, bound: F },
        ),
        (
            rows(&x.buffer[..4 * F]),
            Error::InstancesMismatch { operand: "residual", value: 1, bound: 2, bound_of: "x" },
        ),
    ] {
        let found = operators.conv_epilogue(x, weights, &good, Some(residual), Out::Overwrite(out(&mut y)));
        assert_eq!(found.unwrap_err(), expected);
        let found = operators.conv_readout(x, weights, &good, Some(residual), Out::Overwrite(&mut readout));
        assert_eq!(found.unwrap_err(), expected);
    }
    let found = operators.conv_epilogue(x, weights, &bad, None, Out::Overwrite(out(&mut y)));
    assert_eq!(found.unwrap_err(), wrong_bias);
    let found = operators.conv_readout(x, weights, &bad, None, Out::Overwrite(&mut readout));
    assert_eq!(found.unwrap_err(), wrong_bias);
    let found = operators.conv_readout(x, weights, &good, None, Out::Accumulate(&mut readout[1..]));
    assert_eq!(found.unwrap_err(), wrong_readout("readout"));
    // A readout does not tell the number of instances.
    let untold = Rows::new(x.buffer, RowLayout::contiguous(F).instance_stride(4 * F));
    let found = operators.conv_readout(untold, weights, &good, None, Out::Overwrite(&mut readout));
    assert_eq!(found.unwrap_err(), Error::UnknownInstances { operand: "x" });

    let mut backward = |epilogue: &cpu::Epilogue<'_, T::Acc>,
                        of_readout: Option<usize>,
                        bias: usize,
                        one_less: bool| {
        let n = if one_less { 4 * F } else { n };
        let gradients = cpu::EpilogueGradients::none()
            .x(Out::Overwrite(out(&mut grad_x)))
            .weights(Out::Overwrite(&mut grad_w))
            .bias(Out::Overwrite(&mut grad_bias[..bias]))
            .residual(Out::Overwrite(out(&mut grad_residual[..n])));
        let found = match of_readout {
            Some(len) => operators.conv_readout_backward(x, weights, epilogue, &x.buffer[..len], gradients),
            None => operators.conv_epilogue_backward(x, weights, epilogue, x, gradients),
        };
        found.unwrap_err()
    };
    let gradient =
        |value, bound| Error::GradientMismatch { operand: "grad_bias", value, bound, bound_of: "bias" };
    for of_readout in [None, Some(2 * F)] {
        assert_eq!(backward(&bad, of_readout, F + 1, false), wrong_bias);
        assert_eq!(backward(&good, of_readout, F + 1, false), gradient(F + 1, F));
        assert_eq!(backward(&plain, of_readout, F, false), gradient(F, 0));
        let operand = "grad_residual";
        let fewer = Error::InstancesMismatch { operand, value: 1, bound: 2, bound_of: "x" };
        assert_eq!(backward(&good, of_readout, F, true), fewer);
    }
    assert_eq!(backward(&good, Some(2 * F - 1), F, false), wrong_readout("grad_readout"));
    for rows in [&y, &readout, &grad_x, &grad_residual] {
        assert!(rows.iter().all(|&value| value == seven));
    }
    assert!(grad_w.iter().chain(&grad_bias).all(|&value| value == T::acc(7.0)));
}

/// Negative degrees are reported as by the convolution.
fn negative_degrees_are_reported(backend: &dyn Backend<f32>) {
    let conv = Conv::new(Normalization::Symmetric, WeightUse::Documented);
    let mut operators = backend.operators(&pairs(), F, conv, 1).unwrap();
    let (x, w) = (features::<f32>(1, 4 * F), [1.0f32, -4.0, 1.0, 1.0, 1.0, 1.0]);
    let (x, weights) = (rows(&x), cpu::Weights::shared(&w[..]));
    let epilogue = cpu::Epilogue::new(Activation::Silu);
    let mut readout = [7.0f32; F];
    let mut grad_x = vec![7.0f32; 4 * F];
    let found = [
        operators.conv_epilogue(x, weights, &epilogue, None, Out::Skip),
        operators.conv_readout(x, weights, &epilogue, None, Out::Overwrite(&mut readout)),
        operators.conv_epilogue_backward(x, weights, &epilogue, x, cpu::EpilogueGradients::none()),
        operators.conv_readout_backward(
            x,
            weights,
            &epilogue,
            &x.buffer[..F],
            cpu::EpilogueGradients::none().x(Out::Overwrite(out(&mut grad_x))),
        ),
    ];
    found.into_iter().for_each(assert_negative_degree);
}

fn empty_batches_are_legal(backend: &dyn Backend<f32>) {
    for (batch, features) in empty_batches().iter().flat_map(|batch| [0, F].map(|f| (batch, f))) {
        for instances in batch.n_instances().map_or(vec![0, 4], |n| vec![n]) {
            let n = batch.start(Axis::Vertex, instances) * features;
            let layout = RowLayout::contiguous(features).instances(instances);
            let w = vec![1.0f32; batch.largest(Axis::Hyperedge)];
            let (x, weights) = (vec![1.0f32; n], cpu::Weights::shared(&w[..]));
            let x = Rows::new(&x[..], layout);
            let bias = vec![2.0f32; features];
            let epilogue = cpu::Epilogue::new(Activation::Relu).bias(&bias[..]);
            let mut operators = backend.operators(batch, features, Conv::default(), instances).unwrap();
            let (mut y, mut readout) = (vec![f32::NAN; n], vec![f32::NAN; instances * features]);
            let rows = Out::Overwrite(Rows::new(&mut y[..], layout));
            operators.conv_epilogue(x, weights, &epilogue, None, rows).unwrap();
            assert!(y.iter().all(|&y| y == 2.0), "rows without incidences have the bias");
            operators.conv_readout(x, weights, &epilogue, None, Out::Overwrite(&mut readout)).unwrap();
            for (instance, row) in readout.chunks(features.max(1)).enumerate() {
                let mean = if batch.topology(instance).n_vertices() == 0 { 0.0 } else { 2.0 };
                assert!(row.iter().all(|&value| value == mean));
            }
            let mut grad_bias = vec![f32::NAN; features];
            let gradients = cpu::EpilogueGradients::none().bias(Out::Overwrite(&mut grad_bias));
            let ones = vec![1.0f32; instances * features];
            operators.conv_readout_backward(x, weights, &epilogue, &ones, gradients).unwrap();
            let with_vertices = (0..instances).filter(|&g| batch.topology(g).n_vertices() > 0).count();
            assert!(grad_bias.iter().all(|&g| (g - with_vertices as f32).abs() < 1e-6), "{grad_bias:?}");
        }
    }
}

per_backend! {
    on [cpu, cuda(modes(&[Order::Forward, Order::Shuffled(1)]))], in [f32, f64, f16, bf16]:
    a_derivative_of_zero_stops_an_infinity;
    shapes_are_checked_before_anything_is_written;
}

per_backend! {
    on [cpu, cuda(modes(&[Order::Forward, Order::Shuffled(1)]))], in [f32]:
    the_gradient_of_a_bias_does_not_depend_on_windows;
    negative_degrees_are_reported;
    empty_batches_are_legal;
}
