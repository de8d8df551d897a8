//! The generic suite of the convolution and its backward over random layouts: what every backend promises,
//! once for all of them.

use hyperscatter::{
    Activation, Batch, Conv, Incidence, Normalization, Out, Path, Reduce, Repeats, Rows, WeightUse, cpu,
};
use proptest::prelude::*;

use crate::backend::{Backend, Cpu, Operators, StepKind, Write};
use crate::common::{
    Rounded, TestElement, bits, features, norm, numbers, poison, relative_error, sums, weights, widen,
    with_threads,
};
use crate::epilogue::epilogue_bits;
use crate::layouts::{Layout, Place, WindowKind, extremes, layout, long_and_wide_layout};
use crate::matrix::matrix_bits;
use crate::per_backend::per_backend;
use crate::reference;
use crate::steps::step_bits;

/// What a convolution and its backward are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub y: Write,
    pub grad_x: Write,
    pub grad_weights: Write,
    /// Whether z is saved for the backward.
    pub save_z: bool,
}

impl Asked {
    pub const ALL: Self =
        Self { y: Write::Overwrite, grad_x: Write::Overwrite, grad_weights: Write::Overwrite, save_z: false };
}

fn asked() -> impl Strategy<Value = Asked> {
    (Write::any(), Write::any(), Write::any(), any::<bool>())
        .prop_map(|(y, grad_x, grad_weights, save_z)| Asked { y, grad_x, grad_weights, save_z })
}

/// The operands of a convolution, in contiguous rows.
#[derive(Clone)]
pub struct Operands<T: TestElement> {
    pub x: Vec<T>,
    pub g: Vec<T>,
    pub weights: Vec<T::Acc>,
}

impl<T: TestElement> Operands<T> {
    pub fn of(layout: &Layout) -> Self {
        let len = layout.n_rows(false) * layout.features;
        let Conv { normalization, weight_use, .. } = layout.conv;
        let signed = normalization != Normalization::Symmetric || weight_use == WeightUse::MessageOnly;
        let weights = weights::<T>(layout.seed, layout.n_weights(), signed);
        Self { x: features(layout.seed ^ 1, len), g: features(layout.seed ^ 2, len), weights }
    }

    /// With infinities and NaN among the features, or not.
    fn poisoned(layout: &Layout, poisoned: bool) -> Self {
        let mut operands = Self::of(layout);
        if poisoned {
            poison(&mut operands.x, layout.seed ^ 7);
            poison(&mut operands.g, layout.seed ^ 8);
        }
        operands
    }

    /// Those of instance `g` alone.
    pub fn alone(&self, layout: &Layout, g: usize) -> Self {
        let rows = layout.elements_of(g, false);
        let window = layout.offset(g)..layout.offset(g) + layout.n_rows_of(g, true);
        let weights = self.weights[window].to_vec();
        Self { x: self.x[rows.clone()].to_vec(), g: self.g[rows].to_vec(), weights }
    }
}

/// Everything that a convolution and its backward give, in contiguous rows; empty where it is not asked for.
pub struct Results<T: TestElement> {
    pub z: Vec<T::Acc>,
    pub y: Vec<T>,
    pub grad_x: Vec<T>,
    pub grad_weights: Vec<T::Acc>,
}

impl<T: TestElement> Results<T> {
    /// By name.
    pub fn bits(&self) -> [(&'static str, Vec<u64>); 4] {
        let Self { z, y, grad_x, grad_weights } = self;
        [("z", bits(z)), ("y", bits(y)), ("grad_x", bits(grad_x)), ("grad_weights", bits(grad_weights))]
    }
}

pub fn operators<T: TestElement>(backend: &dyn Backend<T>, layout: &Layout) -> Box<dyn Operators<T>> {
    backend.operators(&layout.batch, layout.features, layout.conv, layout.max_instances()).unwrap()
}

/// The operators, with all topologies on the gather path.
pub fn gathers<T: TestElement>(backend: &dyn Backend<T>, layout: &Layout) -> Box<dyn Operators<T>> {
    let Layout { batch, features, conv, .. } = layout;
    let paths = vec![Path::Gather; batch.topologies().len()];
    backend.operators_on(batch, *features, *conv, layout.max_instances(), Some(&paths)).unwrap()
}

/// The batch in one call, at the layout's places and through its windows. What lies between the rows is
/// neither read nor written.
pub fn run<T: TestElement>(
    operators: &mut dyn Operators<T>,
    layout: &Layout,
    operands: &Operands<T>,
    asked: Asked,
) -> Results<T> {
    let [x_place, g_place, y_place, grad_x_place, z_place] = layout.places;
    let (nan, filler) = (T::of(f64::NAN), T::of(7.0));
    let x = layout.spread(&operands.x, x_place, false, nan);
    let g = layout.spread(&operands.g, g_place, false, nan);
    // What is overwritten is not read.
    let start = |write, seed, len| match write {
        Write::Accumulate => features(layout.seed ^ seed, len),
        _ => vec![nan; len],
    };
    let mut y = layout.spread(&start(asked.y, 3, operands.x.len()), y_place, false, filler);
    let mut grad_x = layout.spread(&start(asked.grad_x, 4, operands.x.len()), grad_x_place, false, filler);
    let mut grad_weights = match asked.grad_weights {
        Write::Accumulate => sums::<T>(layout.seed ^ 5, operands.weights.len()),
        _ => vec![T::acc(f64::NAN); operands.weights.len()],
    };
    let z = vec![T::acc(f64::NAN); layout.n_rows(true) * layout.features];
    let mut z = layout.spread(&z, z_place, true, T::acc(7.0));
    let table = layout.table();
    let windows = layout.weights(&operands.weights, &table);

    let saved = asked.save_z.then(|| z.rows_mut());
    operators.conv(x.rows(), windows, saved, asked.y.to(y.rows_mut())).unwrap();
    let saved = asked.save_z.then(|| z.rows());
    let (grad_rows, grad_w) =
        (asked.grad_x.to(grad_x.rows_mut()), asked.grad_weights.to(&mut grad_weights[..]));
    operators.conv_backward(x.rows(), saved, windows, g.rows(), grad_rows, grad_w).unwrap();
    assert!(y.gaps().iter().chain(&grad_x.gaps()).all(|&gap| gap == filler), "written between rows");
    assert!(z.gaps().iter().all(|&gap| gap == T::acc(7.0)), "written between rows of z");
    Results {
        z: if asked.save_z { z.gathered() } else { vec![] },
        y: if asked.y == Write::Skip { vec![] } else { y.gathered() },
        grad_x: if asked.grad_x == Write::Skip { vec![] } else { grad_x.gathered() },
        grad_weights: if asked.grad_weights == Write::Skip { vec![] } else { grad_weights },
    }
}

/// Σ |terms| of the gradients of an instance's weights: of ⟨g_u, x_v⟩ as the dense operator takes them.
pub fn sizes_of_terms(topology: &Incidence, conv: Conv, w: &[f64], x: &[f64], g: &[f64]) -> Vec<f64> {
    let (n, by_edge) = (topology.n_vertices(), topology.by_edge());
    let f = x.len() / n.max(1);
    let symmetric = conv.normalization == Normalization::Symmetric;
    let (normalized, through_degree) =
        (conv.normalization != Normalization::None, conv.weight_use != WeightUse::MessageOnly);
    let weight = |e: usize, is_used: bool| if is_used { w[e] } else { 1.0 };
    let (mut degrees, mut operator, mut gamma) = (vec![0.0; n], vec![0.0; n * n], vec![0.0; n * n]);
    for (e, members) in by_edge.rows().enumerate() {
        let message = weight(e, conv.weight_use != WeightUse::DegreeOnly) / members.len() as f64;
        for &u in members {
            degrees[u as usize] += weight(e, through_degree);
            members.iter().for_each(|&v| operator[u as usize * n + v as usize] += message);
        }
    }
    let factors = |u: usize, v: usize| match () {
        () if !normalized => 1.0,
        () if degrees[u] == 0.0 || (symmetric && degrees[v] == 0.0) => 0.0,
        () if symmetric => 1.0 / (degrees[u] * degrees[v]).sqrt(),
        () => 1.0 / degrees[u].abs(),
    };
    // From here on with the factors.
    for (u, v) in (0..n).flat_map(|u| (0..n).map(move |v| (u, v))) {
        let terms = g[u * f..].iter().zip(&x[v * f..]).take(f).map(|(g, x)| (g * x).abs());
        gamma[u * n + v] = terms.sum::<f64>() * factors(u, v);
    }
    let of_degree = |u: usize| {
        let terms = (0..n).flat_map(|v| [(u * n + v, true), (v * n + u, symmetric)]);
        let terms = terms.filter(|(_, is_one)| *is_one).map(|(at, _)| (operator[at] * gamma[at]).abs());
        if degrees[u] == 0.0 { 0.0 } else { terms.sum::<f64>() / degrees[u].abs() }
    };
    let size = |members: &[u32]| {
        let term = |&u: &u32| {
            let of_message = members.iter().map(|&v| gamma[u as usize * n + v as usize]);
            of_message.sum::<f64>() / members.len() as f64 + of_degree(u as usize)
        };
        members.iter().map(term).sum()
    };
    by_edge.rows().map(size).collect()
}

/// A batch gives what its instances give one at a time: outputs and ∂x bit for bit, ∂weights to the rounding
/// of their sum, or of its terms where those of all instances are added up first. And the same call gives the
/// same bits again.
fn a_batch_has_the_bits_of_its_instances_alone<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    save_z: bool,
) {
    let operands = Operands::<T>::of(layout);
    let asked = Asked { save_z, ..Asked::ALL };
    let mut batch = operators(backend, layout);
    let batched = run(&mut *batch, layout, &operands, asked);
    assert_eq!(batched.bits(), run(&mut *batch, layout, &operands, asked).bits(), "again, in {}", T::NAME);

    let mut alone: Vec<Option<Box<dyn Operators<T>>>> =
        layout.batch.topologies().iter().map(|_| None).collect();
    let mut all = Results::<T> { z: vec![], y: vec![], grad_x: vec![], grad_weights: vec![] };
    let (mut sums, mut sizes) = (vec![0.0; operands.weights.len()], vec![0.0; operands.weights.len()]);
    // Products of rows are added in slots, over instances too: the longest has 256 products, see
    // src/dense.rs.
    let mut sizes_of_products = vec![0.0; operands.weights.len()];
    let adds_up_first = layout.batch.is_replicated() && layout.windows == WindowKind::Shared;
    for g in 0..layout.instances {
        let single = layout.alone(g);
        let alone = alone[layout.batch.topology_id(g)].get_or_insert_with(|| operators(backend, &single));
        let results = run(&mut **alone, &single, &operands.alone(layout, g), asked);
        all.z.extend(results.z);
        all.y.extend(results.y);
        all.grad_x.extend(results.grad_x);
        all.grad_weights.extend(&results.grad_weights);
        for (i, grad) in (layout.offset(g)..).zip(widen(&results.grad_weights)) {
            sums[i] += grad;
            sizes[i] += grad.abs();
        }
        if adds_up_first {
            let alone = operands.alone(layout, g);
            let [w, x, grad_y] = [widen(&alone.weights), widen(&alone.x), widen(&alone.g)];
            let of_terms = sizes_of_terms(layout.batch.topology(g), layout.conv, &w, &x, &grad_y);
            sizes_of_products.iter_mut().zip(of_terms).for_each(|(size, of_terms)| *size += of_terms);
        }
    }
    // Nothing is added to gradients that each instance has for itself.
    let exact = if layout.windows == WindowKind::Consecutive { 4 } else { 3 };
    assert_eq!(batched.bits()[..exact], all.bits()[..exact], "alone, in {}", T::NAME);
    for (i, (a, b)) in widen(&batched.grad_weights).iter().zip(&sums).enumerate() {
        let of_sums = (layout.instances + 1) as f64 * sizes[i];
        let bound = 2.0 * T::Acc::ROUNDING * (of_sums + 264.0 * sizes_of_products[i]);
        assert!((a - b).abs() <= bound, "weight {i}: {a} is not the sum {b} in {}", T::NAME);
    }
}

/// The convolution in `f64` is what the dense operator gives.
fn a_convolution_is_the_dense_operator(backend: &dyn Backend<f64>, layout: &Layout) {
    let operands = Operands::<f64>::of(layout);
    let asked = Asked { save_z: true, ..Asked::ALL };
    let batched = run(&mut *operators(backend, layout), layout, &operands, asked);
    let (mut z, mut y, mut grad_x, mut grad_weights) =
        (vec![], vec![], vec![], vec![0.0; operands.weights.len()]);
    for g in 0..layout.instances {
        let Operands { x, g: grad_y, weights } = operands.alone(layout, g);
        let dense =
            reference::conv(layout.batch.topology(g), layout.features, layout.conv, &weights, &x, &grad_y);
        z.extend(dense.z);
        y.extend(dense.y);
        grad_x.extend(dense.grad_x);
        for (sum, grad) in grad_weights[layout.offset(g)..].iter_mut().zip(dense.grad_weights) {
            *sum += grad;
        }
    }
    // A degree in which signed weights nearly cancel out is ill-conditioned, and divides once or twice.
    let condition = degree_condition(layout, &operands.weights);
    let bound = 1e-12 * condition;
    for (what, a, b) in [("z", &batched.z, &z), ("y", &batched.y, &y), ("grad_x", &batched.grad_x, &grad_x)] {
        let error = relative_error(a, b);
        assert!(error <= bound, "{what}: {error:.1e}, condition {condition:.1e}");
    }
    // The terms of a hyperedge are as many as it has vertices, and may cancel out.
    let sizes = layout.batch.topologies().iter().flat_map(|t| t.by_edge().rows().map(<[u32]>::len));
    let longest = sizes.max().unwrap_or(0).max(1) as f64;
    let size = longest * (1.0 + norm(&operands.x) * norm(&operands.g)) + norm(&grad_weights);
    let error = norm(&batched.grad_weights.iter().zip(&grad_weights).map(|(a, b)| a - b).collect::<Vec<_>>());
    assert!(
        error <= 1e-12 * condition * condition * size,
        "grad_weights: {error:.1e}, condition {condition:.1e}"
    );
}

/// The largest Σ|w| / |Σw| and 1 / |Σw| of a vertex, squared for what is divided twice.
fn degree_condition(layout: &Layout, weights: &[f64]) -> f64 {
    let mut worst: f64 = 1.0;
    for g in 0..layout.instances {
        for edges in layout.batch.topology(g).by_vertex().rows() {
            let window = || edges.iter().map(|&e| weights[layout.offset(g) + e as usize]);
            let (sum, size) = (window().sum::<f64>().abs(), window().map(f64::abs).sum::<f64>());
            if sum > 0.0 {
                worst = worst.max((1.0 + size) / sum);
            }
        }
    }
    worst
}

/// `0..n` in an order that `seed` gives.
fn permutation(n: usize, seed: u64) -> Vec<usize> {
    let keys = numbers(seed, n, 0.0, 1.0);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| keys[a].total_cmp(&keys[b]));
    order
}

/// Renaming vertices and hyperedges renames the results.
fn renaming_vertices_and_hyperedges_renames_results(backend: &dyn Backend<f64>, layout: &Layout) {
    let layout = Layout { batch: Batch::replicate(layout.batch.topologies()[0].clone()), ..layout.clone() };
    let layout = layout.alone(0);
    let (topology, f) = (&layout.batch.topologies()[0], layout.features);
    // Row i of the permuted problem is row vertices[i] of this one.
    let (n, m) = (topology.n_vertices(), topology.n_hyperedges());
    let (vertices, edges) = (permutation(n, layout.seed ^ 5), permutation(m, layout.seed ^ 6));
    let mut new_name = vec![0; n];
    for (new, &old) in vertices.iter().enumerate() {
        new_name[old] = new;
    }
    let renamed =
        |e: &usize| topology.by_edge().row(*e).iter().map(|&v| new_name[v as usize]).collect::<Vec<_>>();
    let permuted_edges: Vec<Vec<usize>> = edges.iter().map(renamed).collect();
    let permuted_topology = Incidence::from_edges(n, &permuted_edges, Repeats::Keep).unwrap();
    let permuted_layout = Layout { batch: Batch::replicate(permuted_topology), ..layout.clone() };
    let rows =
        |values: &[f64]| vertices.iter().flat_map(|&v| values[v * f..][..f].to_vec()).collect::<Vec<_>>();
    let permute = |values: &[f64]| edges.iter().map(|&e| values[e]).collect::<Vec<_>>();

    let mut operands = Operands::<f64>::of(&layout);
    // Positive, so that no degree cancels out: the order of summation differs.
    operands.weights = weights::<f64>(layout.seed, operands.weights.len(), false);
    let permuted =
        Operands { x: rows(&operands.x), g: rows(&operands.g), weights: permute(&operands.weights) };
    let of = |layout, operands| run(&mut *operators(backend, layout), layout, operands, Asked::ALL);
    let (expected, results) = (of(&layout, &operands), of(&permuted_layout, &permuted));
    assert!(relative_error(&results.y, &rows(&expected.y)) < 1e-12, "y");
    assert!(relative_error(&results.grad_x, &rows(&expected.grad_x)) < 1e-12, "grad_x");
    let difference: Vec<f64> =
        results.grad_weights.iter().zip(permute(&expected.grad_weights)).map(|(a, b)| a - b).collect();
    let size = 1.0 + 100.0 * norm(&operands.x) * norm(&operands.g);
    assert!(norm(&difference) < 1e-12 * size, "grad_weights: {}", norm(&difference));
}

fn the_number_of_threads_changes_no_bit<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    asked: Asked,
    poisoned: bool,
) {
    let operands = Operands::<T>::poisoned(layout, poisoned);
    let all = [1, 2, 8].map(|threads| {
        with_threads(threads, || run(&mut *operators(backend, layout), layout, &operands, asked).bits())
    });
    assert_eq!(all[0], all[1]);
    assert_eq!(all[0], all[2]);
}

/// Large outputs are stored past the caches.
#[test]
fn an_output_of_any_size_has_the_bits_of_its_parts() {
    const FEATURES: usize = 256;
    const COPIES: usize = 2_100;
    const AT_ONCE: usize = 300;
    let batch = Batch::replicate(Incidence::subsets(8, 2).unwrap());
    let len = 8 * FEATURES * COPIES;
    let (x, g) = (features::<f32>(1, len), features::<f32>(2, len));
    let w = weights::<f32>(3, 28 * COPIES, false);
    let plan = cpu::Plan::<f32>::builder(&batch, FEATURES).build().unwrap();
    assert_eq!(plan.paths(), [Path::Dense]);
    // y, ∂x and ∂w of so many copies at once, with an element before the rows or not.
    let run = |copies: usize, before: usize| {
        let mut workspace = plan.workspace(copies).unwrap();
        let [mut y, mut grad_x] = [(); 2].map(|()| vec![f32::NAN; len + before]);
        let mut grad_w = vec![f32::NAN; w.len()];
        for first in (0..COPIES).step_by(copies) {
            let of_copies = |len: usize| first * len..(first + copies) * len;
            let (rows, window) = (of_copies(8 * FEATURES), of_copies(28));
            let of = |values| Rows::contiguous(values, FEATURES);
            let (x, weights) = (of(&x[rows.clone()]), cpu::Weights::consecutive(&w[window.clone()]));
            let g = of(&g[rows.clone()]);
            let to = rows.start + before..rows.end + before;
            let rows_of = |values| Out::Overwrite(Rows::contiguous(values, FEATURES));
            workspace.conv(x, weights, rows_of(&mut y[to.clone()])).unwrap();
            let grad_w = Out::Overwrite(&mut grad_w[window]);
            workspace.conv_backward(x, weights, g, rows_of(&mut grad_x[to]), grad_w).unwrap();
        }
        [bits(&y[before..]), bits(&grad_x[before..]), bits(&grad_w)]
    };
    let expected = run(AT_ONCE, 0);
    assert!(run(COPIES, 0) == expected, "all at once");
    assert!(run(COPIES, 1) == expected, "all at once, at another alignment");
}

per_backend! {
    on [cpu], in [any_type]:
    the_number_of_threads_changes_no_bit(&layout, asked, poisoned)
        for layout in layout(), asked in asked(), poisoned in prop::bool::weighted(0.2);
}

fn convolutions_have_the_bits_of_the_cpu<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    asked: Asked,
    poisoned: bool,
) {
    let operands = Operands::<T>::poisoned(layout, poisoned);
    let on =
        |backend: &dyn Backend<T>| run(&mut *operators(backend, layout), layout, &operands, asked).bits();
    assert_eq!(on(&Cpu), on(backend), "in {}", T::NAME);
}

fn convolutions_of_long_and_wide_rows_have_the_bits_of_the_cpu<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    save_z: bool,
) {
    convolutions_have_the_bits_of_the_cpu(backend, layout, Asked { save_z, ..Asked::ALL }, false);
}

fn extreme_convolutions_have_the_bits_of_the_cpu<T: TestElement>(backend: &dyn Backend<T>) {
    for grad_weights in [Write::Overwrite, Write::Accumulate] {
        for layout in extremes() {
            let asked = Asked { grad_weights, ..Asked::ALL };
            convolutions_have_the_bits_of_the_cpu(backend, &layout, asked, false);
        }
    }
}

/// Batches of topologies whose dense operators are more work than the CPU gives to a chunk: alone, and in a
/// table with a small one and a large one that is not on the path, which shares their windows.
fn layouts_of_much_work() -> Vec<Layout> {
    let subsets = |n, k| Incidence::subsets(n, k).unwrap();
    let members = |e: u32| (0..11).map(|i| (e * 7 + i * i) % 100).collect::<Vec<_>>();
    let gathered = Incidence::from_edges(100, &(0..500).map(members).collect::<Vec<_>>(), Repeats::Keep);
    let several = vec![gathered.unwrap(), subsets(21, 3), subsets(5, 2), subsets(14, 4)];
    let table = Batch::from_table(several, &[1u8, 0, 2, 1, 3, 0, 2]).unwrap();
    let symmetric = Conv::new(Normalization::Symmetric, WeightUse::Documented);
    let cases = [
        (Batch::replicate(subsets(21, 3)), 3, 5, WindowKind::Shared, Conv::default()),
        (Batch::replicate(subsets(14, 4)), 2, 3, WindowKind::Consecutive, symmetric),
        (table.clone(), 7, 3, WindowKind::Shared, Conv::default()),
        (table, 7, 3, WindowKind::Table, symmetric),
    ];
    let layout = |(batch, instances, features, windows, conv)| {
        let (offsets, places) = ((0..instances).map(|g| g % 3 * 2).collect(), [Place::Contiguous; 5]);
        Layout { batch, instances, features, windows, offsets, places, conv, seed: 21 }
    };
    cases.map(layout).to_vec()
}

/// Of such topologies everything has the bits of the CPU, whatever the number of its threads. A layout that a
/// backend is too slow for in all types, it has in two.
fn much_work_has_the_bits_of_the_cpu<T: TestElement>(backend: &dyn Backend<T>) {
    for (i, layout) in layouts_of_much_work().into_iter().enumerate() {
        let is_its_turn = (i + i / 2) % 2 == usize::from(["f64", "bf16"].contains(&T::NAME));
        if !(backend.affords(usize::MAX) || is_its_turn) {
            continue;
        }
        let plan = cpu::Plan::<T>::builder(&layout.batch, layout.features).build().unwrap();
        let is_small = |topology: &Incidence| topology.n_vertices() <= 32;
        let is_dense = |path: &Path| *path == Path::Dense;
        assert!(plan.paths().iter().map(is_dense).eq(layout.batch.topologies().iter().map(is_small)));
        let operands = Operands::<T>::of(&layout);
        let asked = [false, true].map(|save_z| Asked { save_z, ..Asked::ALL });
        let all = |backend: &dyn Backend<T>| {
            let mut bits = vec![];
            let mut operators = operators(backend, &layout);
            for asked in asked {
                bits.extend(run(&mut *operators, &layout, &operands, asked).bits());
            }
            for readout in [false, true] {
                bits.extend(epilogue_bits(backend, &layout, Activation::Gelu, readout, None));
            }
            for to_hyperedges in [true, false] {
                let kind = StepKind { to_hyperedges, reduce: Reduce::Mean };
                bits.extend(step_bits(backend, &layout, kind, layout.windows));
            }
            bits.extend(matrix_bits(backend, &layout).into_iter().flatten());
            bits
        };
        let found = all(backend);
        for threads in [1, 3] {
            let expected = with_threads(threads, || all(&Cpu));
            for ((name, found), (_, expected)) in found.iter().zip(&expected) {
                assert_eq!(found, expected, "{name} with {threads} threads, in {}", T::NAME);
            }
            assert_eq!(found.len(), expected.len());
        }
    }
}

/// They are right.
fn much_work_is_the_dense_operator(backend: &dyn Backend<f64>) {
    for layout in layouts_of_much_work() {
        a_convolution_is_the_dense_operator(backend, &layout);
        a_batch_has_the_bits_of_its_instances_alone(backend, &layout, true);
    }
}

per_backend! {
    on [cpu, cuda([Mode::QUICK, Mode::PLAIN])], in [f32, f64, f16, bf16]:
    much_work_has_the_bits_of_the_cpu;
}

per_backend! {
    on [cpu, cuda([Mode::QUICK])], in [f64]:
    much_work_is_the_dense_operator;
}

// On the emulated driver a case of these takes a core 5 to 80 ms, and one of long and wide rows 170 ms.
per_backend! {
    on [cpu, cuda(cases(64))], in [any_type]:
    a_batch_has_the_bits_of_its_instances_alone(&layout, save_z)
        for layout in layout(), save_z in any::<bool>();
}

per_backend! {
    on [cpu, cuda(cases(64))], in [f64]:
    a_convolution_is_the_dense_operator(&layout) for layout in layout();
    renaming_vertices_and_hyperedges_renames_results(&layout) for layout in layout();
}

per_backend! {
    on [cuda(ProptestConfig::default())], in [any_type]:
    convolutions_have_the_bits_of_the_cpu(&layout, asked, poisoned)
        for layout in layout(), asked in asked(), poisoned in prop::bool::weighted(0.2);
}

per_backend! {
    on [cuda(cases(16))], in [any_type]:
    convolutions_of_long_and_wide_rows_have_the_bits_of_the_cpu(&layout, save_z)
        for layout in long_and_wide_layout(), save_z in any::<bool>();
}

per_backend! {
    on [cuda(modes(&[Order::Reverse]))], in [f32, f64]:
    extreme_convolutions_have_the_bits_of_the_cpu;
}
