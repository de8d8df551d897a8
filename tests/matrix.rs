//! Matrices of instances: that of the convolution, that of inner products, and the gradients of both.

use hyperscatter::{
    Accumulator, Axis, Batch, Conv, Element, Error, Incidence, Normalization, Out, Path, Repeats, RowLayout,
    Rows, WeightUse, cpu,
};
use proptest::prelude::*;

use crate::backend::{Backend, Cpu, Operators, Write};
use crate::common::{
    Rounded, TestElement, bits, features, norm, numbers, sums, weights, widen, with_threads,
};
use crate::convolutions::{self, sizes_of_terms};
use crate::layouts::{Layout, Place, WindowKind, edges, empty_batches, matrix_layout, pairs};
use crate::operands::{F, assert_negative_degree, out, rows};
use crate::orders::{gram as products, parts, slices};
use crate::per_backend::per_backend;

/// The rows of a matrix: as many as the largest topology in use has vertices.
fn side(layout: &Layout) -> usize {
    layout.batch.largest(Axis::Vertex)
}

/// The operands of all calls, in contiguous rows.
#[derive(Clone)]
struct Operands<T: TestElement> {
    x: Vec<T>,
    g: Vec<T>,
    weights: Vec<T::Acc>,
    /// Any gradients of matrices.
    grad: Vec<T::Acc>,
    // Outputs, and what they hold before.
    matrix: Vec<T::Acc>,
    gram: Vec<T::Acc>,
    grad_weights: Vec<T::Acc>,
    grad_x: Vec<T>,
}

impl<T: TestElement> Operands<T> {
    fn new(layout: &Layout) -> Self {
        let (seed, len) = (layout.seed, layout.n_rows(false) * layout.features);
        let of_matrices = layout.instances * side(layout).pow(2);
        let signed = layout.conv.normalization != Normalization::Symmetric;
        Self {
            x: features(seed ^ 1, len),
            g: features(seed ^ 2, len),
            weights: weights::<T>(seed, layout.n_weights(), signed),
            grad: sums::<T>(seed ^ 3, of_matrices),
            matrix: sums::<T>(seed ^ 4, of_matrices),
            gram: sums::<T>(seed ^ 5, of_matrices),
            grad_weights: sums::<T>(seed ^ 6, layout.n_weights()),
            grad_x: features(seed ^ 7, len),
        }
    }

    /// Calls all operators, in these ways.
    fn call(&mut self, operators: &mut dyn Operators<T>, layout: &Layout, writes: [Write; 4]) {
        let Self { weights, grad, matrix, grad_weights, .. } = self;
        let table = layout.table();
        let weights = layout.weights(weights, &table);
        operators.conv_matrix(weights, writes[0].to(&mut matrix[..])).unwrap();
        operators.conv_matrix_backward(weights, grad, writes[1].to(&mut grad_weights[..])).unwrap();
        self.call_products(operators, layout, writes);
    }

    /// Calls those of inner products.
    fn call_products(&mut self, operators: &mut dyn Operators<T>, layout: &Layout, writes: [Write; 4]) {
        let Self { x, grad, gram, grad_x, .. } = self;
        let [x_place, x_out, ..] = layout.places;
        let x = layout.spread(x, x_place, false, T::of(f64::NAN));
        operators.gram(x.rows(), writes[2].to(&mut gram[..])).unwrap();
        let mut to = layout.spread(grad_x, x_out, false, T::of(7.0));
        operators.gram_backward(x.rows(), grad, writes[3].to(to.rows_mut())).unwrap();
        assert!(to.gaps().iter().all(|&gap| gap == T::of(7.0)));
        *grad_x = to.gathered();
    }

    fn bits(&self) -> [(&'static str, Vec<u64>); 4] {
        let Self { matrix, gram, grad_weights, grad_x, .. } = self;
        [
            ("matrix", bits(matrix)),
            ("grad_weights", bits(grad_weights)),
            ("gram", bits(gram)),
            ("grad_x", bits(grad_x)),
        ]
    }

    /// x, g and weights of instance `g` alone.
    fn alone(&self, layout: &Layout, g: usize) -> convolutions::Operands<T> {
        let Self { x, g: grad_y, weights, .. } = self;
        let (x, g_of_y, weights) = (x.clone(), grad_y.clone(), weights.clone());
        convolutions::Operands { x, g: g_of_y, weights }.alone(layout, g)
    }

    /// The rows of an instance.
    fn rows_of<'a>(rows: &'a [T], layout: &Layout, g: usize) -> &'a [T] {
        &rows[layout.elements_of(g, false)]
    }
}

fn writes() -> impl Strategy<Value = [Write; 4]> {
    [Write::any(), Write::any(), Write::any(), Write::any()]
}

/// All topologies on one path, as far as they can be.
fn paths<T: TestElement>(layout: &Layout, path: Path) -> Vec<Path> {
    let can_be_dense = |topology: &Incidence| {
        let alone = Batch::replicate(topology.clone());
        cpu::Plan::<T>::builder(&alone, 1).paths(&[Path::Dense]).build().is_ok()
    };
    let topologies = layout.batch.topologies().iter();
    topologies.map(|topology| if can_be_dense(topology) { path } else { Path::Gather }).collect()
}

/// The first topology in use that has no matrix of the convolution, and the first that has no inner products.
fn without_matrices(layout: &Layout) -> [Option<usize>; 2] {
    let topologies = layout.batch.topologies();
    let used = |id: usize| {
        layout.batch.is_replicated() || (0..layout.instances).any(|g| layout.batch.topology_id(g) == id)
    };
    let has_matrix = |id: usize| {
        let alone = Batch::replicate(topologies[id].clone());
        let mut workspace = cpu::Plan::<f32>::builder(&alone, 1).build().unwrap().workspace(0).unwrap();
        workspace.conv_matrix(cpu::Weights::shared(&[]), Out::Skip).is_ok()
    };
    let first = |has: &dyn Fn(usize) -> bool| (0..topologies.len()).find(|&id| used(id) && !has(id));
    [first(&has_matrix), first(&|id| topologies[id].n_vertices() <= 64)]
}

/// The operators on a path; `None` where a topology in use has no matrix of the convolution. That is refused
/// then, and inner products where it has too many vertices.
fn operators<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    path: Path,
) -> Option<Box<dyn Operators<T>>> {
    let [too_large, too_many_vertices] = without_matrices(layout);
    let (batch, most) = (&layout.batch, layout.max_instances());
    let paths = paths::<T>(layout, path);
    let mut operators =
        backend.operators_on(batch, layout.features, layout.conv, most, Some(&paths)).unwrap();
    let Some(too_large) = too_large else { return Some(operators) };
    let Operands { x, weights, grad, .. } = Operands::<T>::new(layout);
    let table = layout.table();
    let (weights, x) =
        (layout.weights(&weights, &table), layout.spread(&x, layout.places[0], false, T::of(0.0)));
    let refused = [
        ("conv_matrix", operators.conv_matrix(weights, Out::Skip)),
        ("conv_matrix_backward", operators.conv_matrix_backward(weights, &grad, Out::Skip)),
        ("gram", operators.gram(x.rows(), Out::Skip)),
        ("gram_backward", operators.gram_backward(x.rows(), &grad, Out::Skip)),
    ];
    for (i, (name, refused)) in refused.into_iter().enumerate() {
        if i >= 2 && too_many_vertices.is_none() {
            assert_eq!(refused, Ok(()), "{name}");
            continue;
        }
        let Err(Error::MatrixUnavailable { operator, topology, what, value, bound }) = refused else {
            panic!("{name}: {refused:?}")
        };
        let first = if i < 2 { Some(too_large) } else { too_many_vertices };
        assert_eq!((operator, Some(topology)), (name, first));
        assert!(value > bound && (what != "vertices" || bound == 64), "{value} {what} of at most {bound}");
    }
    None
}

/// A result that is stored, added to what there was, or not wanted.
fn written<A: Accumulator>(write: Write, before: A, result: A) -> A {
    match write {
        Write::Overwrite => result,
        Write::Accumulate => before + result,
        Write::Skip => before,
    }
}

/// The values of a matrix: of an instance's vertices those of `entry`, and beyond zeros or what there was.
fn matrices<A: Accumulator>(
    layout: &Layout,
    write: Write,
    before: &[A],
    entry: impl Fn(usize, usize, usize) -> A,
) -> Vec<A> {
    let side = side(layout);
    let value = |at: usize| {
        let (g, u, v) = (at / (side * side), at / side % side, at % side);
        let n = layout.n_rows_of(g, false);
        match (u < n && v < n, write) {
            (true, _) => written(write, before[at], entry(g, u, v)),
            (false, Write::Overwrite) => A::ZERO,
            (false, _) => before[at],
        }
    };
    (0..before.len()).map(value).collect()
}

/// M x, one fused multiply-add after the other, is what the convolution stores on the path of dense
/// operators; and M is the same whatever the path.
fn the_matrix_is_that_of_the_convolution<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    writes: [Write; 4],
) where
    T::Acc: TestElement,
{
    let is_dense = |path: &Path| *path == Path::Dense;
    let on_path = paths::<T>(layout, Path::Dense).iter().all(is_dense);
    let Some(mut dense) = operators(backend, layout, Path::Dense).filter(|_| on_path) else { return };
    let mut gathering = operators(backend, layout, Path::Gather).unwrap();
    let whole = [Write::Overwrite; 4];
    let before = Operands::<T>::new(layout);
    let [mut found, mut of_gathers] = [before.clone(), before.clone()];
    found.call(&mut *dense, layout, whole);
    of_gathers.call(&mut *gathering, layout, whole);
    for ((name, of_gathers), (_, found)) in of_gathers.bits().into_iter().zip(found.bits()) {
        assert_eq!(of_gathers, found, "{name} in {}", T::NAME);
    }
    // What is added to, or not wanted.
    let mut other = before.clone();
    other.call(&mut *dense, layout, writes);
    let side = side(layout);
    let entry = |g: usize, u: usize, v: usize| found.matrix[(g * side + u) * side + v];
    assert_eq!(bits(&matrices(layout, writes[0], &before.matrix, entry)), bits(&other.matrix), "{}", T::NAME);
    let beyond = matrices(layout, Write::Overwrite, &found.matrix, entry);
    assert_eq!(bits(&beyond), bits(&found.matrix), "zeros beyond the vertices");

    let f = layout.features;
    let contiguous = RowLayout::contiguous(f).instances(layout.instances);
    let table = layout.table();
    let weights = layout.weights(&found.weights, &table);
    let mut y = vec![T::of(f64::NAN); found.x.len()];
    let x = Rows::new(&found.x[..], contiguous);
    dense.conv(x, weights, None, Out::Overwrite(Rows::new(&mut y[..], contiguous))).unwrap();
    for g in 0..layout.instances {
        let (x, y) = (Operands::rows_of(&found.x, layout, g), Operands::rows_of(&y, layout, g));
        let n = layout.n_rows_of(g, false);
        for (u, i) in (0..n).flat_map(|u| (0..f).map(move |i| (u, i))) {
            let add = |sum, v: usize| entry(g, u, v).fused_multiply_add(x[v * f + i].widen(), sum);
            let sum = (0..n).fold(T::Acc::ZERO, add);
            assert_eq!(bits(&[T::narrow(sum)]), bits(&y[u * f + i..][..1]), "{g}, {u}, {i}, {}", T::NAME);
        }
    }
}

/// The gradient of M that the convolution's backward has, Γ_uv = ⟨g_u, x_v⟩, gives its gradients of weights.
fn the_gradient_of_the_matrix_is_that_of_the_convolution<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    add: bool,
) {
    if paths::<T>(layout, Path::Dense).contains(&Path::Gather) {
        return;
    }
    let Some(mut operators) = operators(backend, layout, Path::Dense) else { return };
    let mut operands = Operands::<T>::new(layout);
    let adds_before = layout.batch.is_replicated() && layout.windows == WindowKind::Shared;
    if adds_before {
        // Degrees that are not small.
        operands.weights = weights::<T>(layout.seed, layout.n_weights(), false);
    }
    let (f, side) = (layout.features, side(layout));
    for g in 0..layout.instances {
        let [x, of_y] = [&operands.x, &operands.g].map(|rows| Operands::rows_of(rows, layout, g));
        let n = layout.n_rows_of(g, false);
        let gamma = products(n, f, slots::<T>(n, f), &[(x, of_y)]);
        for (u, v) in (0..n).flat_map(|u| (0..n).map(move |v| (u, v))) {
            operands.grad[(g * side + u) * side + v] = T::Acc::from_f64(gamma[u][v]);
        }
    }
    let contiguous = RowLayout::contiguous(f).instances(layout.instances);
    let table = layout.table();
    let weights = layout.weights(&operands.weights, &table);
    let (x, g) = (Rows::new(&operands.x[..], contiguous), Rows::new(&operands.g[..], contiguous));
    let write = if add { Write::Accumulate } else { Write::Overwrite };
    let [mut found, mut expected] = [operands.grad_weights.clone(), operands.grad_weights.clone()];
    let to = write.to(&mut expected[..]);
    operators.conv_backward(x, None, weights, g, Out::Skip, to).unwrap();
    operators.conv_matrix_backward(weights, &operands.grad, write.to(&mut found[..])).unwrap();
    if adds_before && f > 0 {
        // Another order. Terms may cancel out.
        let mut sizes = vec![0.0; expected.len()];
        for g in 0..layout.instances {
            let convolutions::Operands { x, g: grad_y, weights } = operands.alone(layout, g);
            let [w, x, grad_y] = [widen(&weights), widen(&x), widen(&grad_y)];
            let of_terms = sizes_of_terms(layout.batch.topology(g), layout.conv, &w, &x, &grad_y);
            sizes.iter_mut().zip(of_terms).for_each(|(size, of_terms)| *size += of_terms);
        }
        let steps = steps_of_both::<T>(layout.batch.topology(0), layout.instances, f);
        for (e, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
            let [found, expected] = [found, expected].map(Accumulator::to_f64);
            let bound = T::Acc::ROUNDING * (steps * sizes[e] + found.abs() + expected.abs());
            let difference = (found - expected).abs();
            // What is of second order in the rounding.
            assert!(difference <= 1.01 * bound, "{e}: {found} is not {expected}: {difference:e} > {bound:e}");
        }
    } else if f > 0 {
        assert_eq!(bits(&found), bits(&expected), "{}", T::NAME);
    }
}

/// How many roundings a term of ∂w of all copies goes through, in its two ways together. On its way through
/// the convolution it is one of the products that a slot adds, in chunks of copies, and in the other of those
/// of its instance. Both are rounded once as Γ and once as ∂w. The rest is `f64`: two trees over the copies,
/// and twice the formula of `src/cpu/dense/weight_gradient.rs`.
fn steps_of_both<T: TestElement>(topology: &Incidence, copies: usize, f: usize) -> f64 {
    let (len, slices) = slices::<T>(f);
    let n = topology.n_vertices();
    let chunk = copies.min(1 << (512 / slices).clamp(1, 64).ilog2());
    let in_slot = |slices: usize, slots: usize| slices.div_ceil(slots) * len;
    let of_slots = in_slot(chunk * slices, 128 / parts(n).pow(2)) + in_slot(slices, slots::<T>(n, f));
    let longest = topology.by_edge().rows().map(<[u32]>::len).max().unwrap_or(0);
    let of_doubles = 2 * (copies.max(1).ilog2() as usize + 1 + n + 2 * longest + 8);
    (of_slots + 4) as f64 + if size_of::<T::Acc>() == 8 { of_doubles as f64 } else { 1.0 }
}

/// The slots of the products of an instance alone.
fn slots<T: Element>(n: usize, f: usize) -> usize {
    slices::<T>(f).1.next_power_of_two().min(128 / parts(n).pow(2))
}

/// The order of the sums of inner products is that of `src/dense.rs`; that of their gradient is the one of
/// the vertices.
fn inner_products_add_in_the_promised_order<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    writes: [Write; 4],
) {
    let Some(mut operators) = operators(backend, layout, Path::Dense) else { return };
    let before = Operands::<T>::new(layout);
    let mut found = before.clone();
    found.call(&mut *operators, layout, writes);
    assert_inner_products(layout, writes, &before, &found);
}

fn assert_inner_products<T: TestElement>(
    layout: &Layout,
    writes: [Write; 4],
    before: &Operands<T>,
    found: &Operands<T>,
) {
    let (f, side) = (layout.features, side(layout));
    let grams: Vec<_> = (0..layout.instances)
        .map(|g| {
            let (n, x) = (layout.n_rows_of(g, false), Operands::rows_of(&before.x, layout, g));
            products(n, f, slots::<T>(n, f), &[(x, x)])
        })
        .collect();
    let entry = |g: usize, u: usize, v: usize| {
        assert_eq!(grams[g][u][v].to_bits(), grams[g][v][u].to_bits());
        T::Acc::from_f64(grams[g][u][v])
    };
    let gram = matrices(layout, writes[2], &before.gram, entry);
    assert_eq!(bits(&gram), bits(&found.gram), "{}", T::NAME);

    for g in 0..layout.instances {
        let n = layout.n_rows_of(g, false);
        let [x, old, new] =
            [&before.x, &before.grad_x, &found.grad_x].map(|rows| Operands::rows_of(rows, layout, g));
        for (u, i) in (0..n).flat_map(|u| (0..f).map(move |i| (u, i))) {
            let grad = |u: usize, v: usize| before.grad[(g * side + u) * side + v];
            let add = |sum, v: usize| (grad(u, v) + grad(v, u)).fused_multiply_add(x[v * f + i].widen(), sum);
            let sum = (0..n).fold(T::Acc::ZERO, add);
            let old = old[u * f + i];
            let expected = match writes[3] {
                Write::Skip => old,
                write => T::narrow(written(write, old.widen(), sum)),
            };
            assert_eq!(bits(&[expected]), bits(&new[u * f + i..][..1]), "{g}, {u}, {i}, {}", T::NAME);
        }
    }
}

/// Inner products depend on the vertices alone: also where hyperedges are such that there is no matrix of the
/// convolution, in a table and as copies.
fn inner_products_ask_for_no_hyperedges<T: TestElement>(backend: &dyn Backend<T>) {
    let repeated = Incidence::from_edges(64, &[[3u32; 100]], Repeats::Keep).unwrap();
    let long = Incidence::from_edges(3, &vec![[0u32, 2]; 5000], Repeats::Keep).unwrap();
    let triples = Incidence::subsets(34, 3).unwrap();
    let several = vec![Incidence::subsets(5, 2).unwrap(), long.clone(), triples, repeated.clone()];
    let table = Batch::from_table(several, &[0u8, 1, 3, 2, 1]).unwrap();
    for (i, (batch, instances, first)) in
        [(table, 5, 1), (Batch::replicate(long), 4, 0), (Batch::replicate(repeated), 2, 0)]
            .into_iter()
            .enumerate()
    {
        let layout = Layout {
            batch,
            instances,
            features: 9,
            windows: WindowKind::Shared,
            offsets: vec![0; instances],
            places: [
                Place::RowGap(2),
                Place::Padded(3),
                Place::Contiguous,
                Place::Contiguous,
                Place::Contiguous,
            ],
            conv: Conv::default(),
            seed: i as u64,
        };
        let mut operators = backend.operators(&layout.batch, 9, layout.conv, instances).unwrap();
        let w = vec![T::acc(1.0); layout.n_weights()];
        let refused = operators.conv_matrix(cpu::Weights::shared(&w[..]), Out::Skip);
        let is_refused =
            matches!(refused, Err(Error::MatrixUnavailable { topology, .. }) if topology == first);
        assert!(is_refused, "{refused:?}");
        let before = Operands::<T>::new(&layout);
        for write in [Write::Overwrite, Write::Accumulate] {
            let mut found = before.clone();
            found.call_products(&mut *operators, &layout, [write; 4]);
            assert_inner_products(&layout, [write; 4], &before, &found);
        }
    }
}

per_backend! {
    on [cpu, cuda([Mode::QUICK, Mode::PLAIN])], in [f32, f64, f16, bf16]:
    inner_products_ask_for_no_hyperedges;
}

/// What one call leaves behind changes nothing of the next, and the CPU has the same bits.
fn matrices_have_the_bits_of_the_cpu<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    writes: [Write; 4],
) {
    let Some(mut operators) = operators(backend, layout, Path::Gather) else { return };
    let mut on_cpu = self::operators::<T>(&Cpu, layout, Path::Dense).unwrap();
    let before = Operands::<T>::new(layout);
    let mut expected = before.clone();
    expected.call(&mut *on_cpu, layout, writes);
    for _ in 0..2 {
        let mut found = before.clone();
        found.call(&mut *operators, layout, writes);
        for ((name, found), (_, expected)) in found.bits().into_iter().zip(expected.bits()) {
            assert_eq!(found, expected, "{name} in {}", T::NAME);
        }
    }
}

/// The bits of all matrices and their gradients; `None` where a topology in use is too large.
pub fn matrix_bits<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
) -> Option<[(&'static str, Vec<u64>); 4]> {
    let mut operators = operators(backend, layout, Path::Gather)?;
    let mut operands = Operands::new(layout);
    operands.call(&mut *operators, layout, [Write::Overwrite; 4]);
    Some(operands.bits())
}

/// Layouts of topologies that the path is not for: alone, as copies, and in a table beside smaller ones.
fn wide_layout() -> impl Strategy<Value = Layout> {
    let sizes = prop_oneof![
        prop::sample::select(vec![33usize, 40, 48, 63, 64]).prop_map(|n| vec![n]),
        // The larger of two beyond 32 is not the first.
        Just(vec![5, 40, 50]),
        Just(vec![50, 20, 33]),
    ];
    let edges = prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..7), 1..40);
    let has_all = prop::bool::weighted(0.3);
    let topologies = (sizes, edges, has_all).prop_map(|(sizes, edges, has_all)| {
        let topology = |&n: &usize| {
            let members = |edge: &Vec<prop::sample::Index>| edge.iter().map(|i| i.index(n) as u32).collect();
            let mut edges: Vec<Vec<u32>> = edges.iter().map(members).collect();
            // A hyperedge of all vertices.
            edges.extend(has_all.then(|| (0..n as u32).collect()));
            Incidence::from_edges(n, &edges, Repeats::Keep).unwrap()
        };
        sizes.iter().map(topology).collect::<Vec<_>>()
    });
    crate::layouts::with((topologies, 1usize..6, any::<bool>(), 0usize..20).prop_map(
        |(mut topologies, instances, replicated, features)| {
            if replicated {
                return (Batch::replicate(topologies.swap_remove(0)), instances, features);
            }
            let ids: Vec<usize> = (0..instances).map(|g| g % topologies.len()).collect();
            (Batch::from_table(topologies, &ids).unwrap(), instances, features)
        },
    ))
}

/// M of `n` > 32 vertices applied to x is the convolution, which gathers; its gradient is the one that the
/// gathers give for Γ_uv = ⟨g_u, x_v⟩. Both but for the order of sums.
fn wide_matrices_are_those_of_the_convolution(backend: &dyn Backend<f64>, layout: &Layout) {
    let (f, side) = (layout.features, side(layout));
    let mut operands = Operands::<f64>::new(layout);
    // Degrees that are not small.
    operands.weights = weights::<f64>(layout.seed, layout.n_weights(), false);
    let most = layout.max_instances();
    let mut operators = backend.operators(&layout.batch, f, layout.conv, most).unwrap();
    let table = layout.table();
    let weights = layout.weights(&operands.weights, &table);
    let contiguous = RowLayout::contiguous(f).instances(layout.instances);
    let (x, g) = (Rows::new(&operands.x[..], contiguous), Rows::new(&operands.g[..], contiguous));
    let (mut matrix, mut y) = (vec![f64::NAN; operands.grad.len()], vec![f64::NAN; operands.x.len()]);
    operators.conv_matrix(weights, Out::Overwrite(&mut matrix)).unwrap();
    operators.conv(x, weights, None, Out::Overwrite(Rows::new(&mut y[..], contiguous))).unwrap();
    let mut grad = vec![0.0; matrix.len()];
    for k in 0..layout.instances {
        let [x, g, y] = [&operands.x, &operands.g, &y].map(|rows| Operands::rows_of(rows, layout, k));
        let n = layout.n_rows_of(k, false);
        for u in 0..n {
            let entry = |v: usize| matrix[(k * side + u) * side + v];
            for i in 0..f {
                let sum: f64 = (0..n).map(|v| entry(v) * x[v * f + i]).sum();
                let found = y[u * f + i];
                assert!((sum - found).abs() <= 1e-10 * (1.0 + found.abs()), "{k}, {u}, {i}: {sum}, {found}");
            }
            for v in 0..n {
                grad[(k * side + u) * side + v] = (0..f).map(|i| g[u * f + i] * x[v * f + i]).sum();
            }
        }
    }
    let [mut found, mut expected] = [operands.grad_weights.clone(), operands.grad_weights.clone()];
    operators.conv_backward(x, None, weights, g, Out::Skip, Out::Overwrite(&mut expected[..])).unwrap();
    operators.conv_matrix_backward(weights, &grad, Out::Overwrite(&mut found[..])).unwrap();
    let difference: Vec<f64> = found.iter().zip(&expected).map(|(a, b)| a - b).collect();
    assert!(norm(&difference) <= 1e-9 * (1.0 + norm(&expected)), "{found:?} instead of {expected:?}");
}

per_backend! {
    on [cpu, cuda(cases(12))], in [f64]:
    wide_matrices_are_those_of_the_convolution(&layout) for layout in wide_layout();
}

/// Wide instances of three sizes: rows and gradients with gaps behind rows, behind instances, and vertex by
/// vertex, overwritten and added to. What no row owns stays.
fn wide_rows_are_where_their_layout_says<T: TestElement>(backend: &dyn Backend<T>) {
    let topologies = [40, 50, 33].map(|n| Incidence::subsets(n, 1).unwrap()).to_vec();
    let batch = Batch::from_table(topologies, &[0usize, 1, 2, 0]).unwrap();
    for (i, place) in [Place::RowGap(2), Place::Padded(3), Place::VertexMajor].into_iter().enumerate() {
        let layout = Layout {
            batch: batch.clone(),
            instances: 4,
            features: 5,
            windows: WindowKind::Shared,
            offsets: vec![0; 4],
            places: [place; 5],
            conv: Conv::default(),
            seed: i as u64,
        };
        for write in [Write::Overwrite, Write::Accumulate] {
            matrices_have_the_bits_of_the_cpu(backend, &layout, [write; 4]);
        }
    }
}

per_backend! {
    on [cpu, cuda([Mode::QUICK])], in [f32, f64, f16, bf16]:
    wide_rows_are_where_their_layout_says;
}

/// All pairs of the most vertices that there may be, and the most triples: more work than the CPU gives to a
/// chunk.
fn the_largest_matrices_have_the_bits_of_the_cpu<T: TestElement>(backend: &dyn Backend<T>) {
    let subsets = [(64, 2), (33, 3)].map(|(n, k)| Incidence::subsets(n, k).unwrap());
    let windows = [WindowKind::Shared, WindowKind::Consecutive];
    for (topology, windows) in subsets.iter().flat_map(|t| windows.map(|windows| (t, windows))) {
        let layout = Layout {
            batch: Batch::replicate(topology.clone()),
            instances: 3,
            features: 5,
            windows,
            offsets: vec![0; 3],
            places: [Place::Contiguous; 5],
            conv: Conv::new(Normalization::Symmetric, WeightUse::Documented),
            seed: 64,
        };
        matrices_have_the_bits_of_the_cpu(backend, &layout, [Write::Overwrite; 4]);
        let found = [1, 3].map(|threads| with_threads(threads, || matrix_bits::<T>(&Cpu, &layout)));
        assert_eq!(found[0], found[1]);
    }
}

per_backend! {
    on [cpu, cuda([Mode::QUICK])], in [f32, f64]:
    the_largest_matrices_have_the_bits_of_the_cpu;
}

mod wide {
    use super::*;

    per_backend! {
        on [cpu, cuda(cases(12))], in [any_type]:
        inner_products_add_in_the_promised_order(&layout, writes)
            for layout in wide_layout(), writes in writes();
        matrices_have_the_bits_of_the_cpu(&layout, writes) for layout in wide_layout(), writes in writes();
    }
}

per_backend! {
    on [cpu, cuda(cases(48))], in [any_type]:
    the_matrix_is_that_of_the_convolution(&layout, writes) for layout in matrix_layout(), writes in writes();
    the_gradient_of_the_matrix_is_that_of_the_convolution(&layout, add)
        for layout in matrix_layout(), add in any::<bool>();
    inner_products_add_in_the_promised_order(&layout, writes) for layout in matrix_layout(), writes in writes();
    matrices_have_the_bits_of_the_cpu(&layout, writes) for layout in matrix_layout(), writes in writes();
}

proptest! {
    #[test]
    fn the_number_of_threads_changes_no_bit(layout in matrix_layout(), writes in writes()) {
        let found = [1, 3].map(|threads| {
            with_threads(threads, || {
                let mut operands = Operands::<f32>::new(&layout);
                let operators = operators::<f32>(&Cpu, &layout, Path::Dense);
                operators.map(|mut operators| {
                    operands.call(&mut *operators, &layout, writes);
                    operands.bits()
                })
            })
        });
        prop_assert_eq!(&found[0], &found[1]);
    }
}

/// A small hypergraph of two copies, and losses ⟨M, G⟩ and ⟨S, G⟩.
#[derive(Debug, Clone)]
struct Problem {
    batch: Batch,
    conv: Conv,
    x: Vec<f64>,
    w: Vec<f64>,
    grad: Vec<f64>,
}

prop_compose! {
    fn problem()(
        (n, edges) in edges(), conv in crate::layouts::conventions(), seed in any::<u64>(),
    ) -> Problem {
        let topology = Incidence::from_edges(n, &edges, Repeats::Keep).unwrap();
        let (n, m) = (topology.n_vertices(), topology.n_hyperedges());
        Problem {
            batch: Batch::replicate(topology),
            conv,
            x: numbers(seed ^ 1, 2 * n * F, -1.0, 1.0),
            w: numbers(seed ^ 2, m, 0.4, 1.6),
            grad: numbers(seed ^ 3, 2 * n * n, -1.0, 1.0),
        }
    }
}

fn gradients_are_difference_quotients(backend: &dyn Backend<f64>, problem: &Problem) {
    const H: f64 = 1e-5;
    let Problem { batch, conv, x, w, grad } = problem;
    let operators = &mut *backend.operators(batch, F, *conv, 2).unwrap();
    let layout = RowLayout::contiguous(F).instances(2);
    let (mut grad_w, mut grad_x) = (vec![f64::NAN; w.len()], vec![f64::NAN; x.len()]);
    operators.conv_matrix_backward(cpu::Weights::shared(&w[..]), grad, Out::Overwrite(&mut grad_w)).unwrap();
    let to = Out::Overwrite(Rows::new(&mut grad_x[..], layout));
    operators.gram_backward(Rows::new(&x[..], layout), grad, to).unwrap();
    let loss = |matrix: &[f64]| matrix.iter().zip(grad).map(|(a, b)| a * b).sum::<f64>();
    let check = |name: &str, found: &[f64], of: &[f64], loss: &mut dyn FnMut(&[f64]) -> f64| {
        for (i, &found) in found.iter().enumerate() {
            let [after, before] = [H, -H].map(|by| {
                let mut moved = of.to_vec();
                moved[i] += by;
                loss(&moved)
            });
            let quotient = (after - before) / (2.0 * H);
            let close = (found - quotient).abs() <= 1e-7 * (1.0 + quotient.abs());
            assert!(close, "{name}[{i}]: {found}, but the difference quotient is {quotient}");
        }
    };
    check("grad_weights", &grad_w, w, &mut |w| {
        let mut matrix = vec![f64::NAN; grad.len()];
        operators.conv_matrix(cpu::Weights::shared(w), Out::Overwrite(&mut matrix)).unwrap();
        loss(&matrix)
    });
    check("grad_x", &grad_x, x, &mut |x| {
        let mut gram = vec![f64::NAN; grad.len()];
        operators.gram(Rows::new(x, layout), Out::Overwrite(&mut gram)).unwrap();
        loss(&gram)
    });
}

per_backend! {
    on [cpu, cuda(cases(6))], in [f64]:
    gradients_are_difference_quotients(&problem) for problem in problem();
}

/// Matrices that are known: a pair halves whatever its weight, and a table has room for its largest topology.
fn matrices_of_small_topologies_are_known<T: TestElement>(backend: &dyn Backend<T>) {
    let pair = Incidence::from_edges(2, &[[0u32, 1]], Repeats::Reject).unwrap();
    let path = Incidence::from_edges(3, &[vec![0u32, 1], vec![1, 2]], Repeats::Reject).unwrap();
    let alone = Incidence::from_edges(1, &[] as &[Vec<u32>], Repeats::Reject).unwrap();
    let batch = Batch::from_table(vec![pair, path, alone], &[1u8, 0, 2]).unwrap();
    let w = [1.0, 3.0, 0.7].map(T::acc);
    let mut operators = backend.operators(&batch, 0, Conv::default(), 3).unwrap();
    let mut matrix = vec![T::acc(f64::NAN); 27];
    operators.conv_matrix(cpu::Weights::consecutive(&w[..]), Out::Overwrite(&mut matrix)).unwrap();
    #[rustfmt::skip]
    let expected = [
        0.5, 0.5, 0.0,      0.125, 0.5, 0.375,      0.0, 0.5, 0.5,
        0.5, 0.5, 0.0,      0.5, 0.5, 0.0,          0.0, 0.0, 0.0,
        0.0, 0.0, 0.0,      0.0, 0.0, 0.0,          0.0, 0.0, 0.0,
    ];
    assert_eq!(widen(&matrix), expected);
    // Without features all products are 0.
    let mut gram = vec![T::acc(f64::NAN); 27];
    let none = Rows::new(&[] as &[T], RowLayout::contiguous(0).instances(3));
    operators.gram(none, Out::Overwrite(&mut gram)).unwrap();
    assert!(gram.iter().all(|&product| product == T::acc(0.0)));
    // The rows 1, 2 and 3, of one feature.
    let mut operators =
        backend.operators(&Batch::replicate(batch.topologies()[1].clone()), 1, Conv::default(), 1);
    let operators = operators.as_mut().unwrap();
    let x = [1.0, 2.0, 3.0].map(T::of);
    let mut gram = vec![T::acc(f64::NAN); 9];
    operators.gram(Rows::contiguous(&x[..], 1), Out::Overwrite(&mut gram)).unwrap();
    assert_eq!(widen(&gram), [1.0, 2.0, 3.0, 2.0, 4.0, 6.0, 3.0, 6.0, 9.0]);
    // An infinity reaches all rows, also where the gradient is 0.
    let x = [1.0, f64::INFINITY, 3.0].map(T::of);
    let mut grad_x = [T::of(0.0); 3];
    let zeros = [T::acc(0.0); 9];
    let to = Out::Overwrite(Rows::contiguous(&mut grad_x[..], 1));
    operators.gram_backward(Rows::contiguous(&x[..], 1), &zeros, to).unwrap();
    assert!(widen(&grad_x).iter().all(|value| value.is_nan()));
}

/// Wrong lengths are errors that name the operand, and nothing is written.
fn shapes_are_checked_before_anything_is_written<T: TestElement>(backend: &dyn Backend<T>) {
    let mut operators = backend.operators(&pairs(), F, Conv::default(), 3).unwrap();
    let (x, w) = (features::<T>(1, 2 * 4 * F), weights::<T>(2, 12, false));
    let (x, shared) = (rows(&x), cpu::Weights::shared(&w[..6]));
    let grad = sums::<T>(3, 4 * 16);
    let seven = T::acc(7.0);
    let (mut matrix, mut grad_weights) = (vec![seven; 4 * 16], vec![seven; 6]);
    let mut grad_x = vec![T::of(7.0); 2 * 4 * F];
    let partial = |operand, value| Error::PartialMatrix { operand, value, bound: 16 };
    let length = |table, value| {
        let (bound, bound_of) = (32, "a matrix for each instance");
        Error::LengthMismatch { table, value, bound, bound_of }
    };
    let found = operators.conv_matrix(shared, Out::Overwrite(&mut matrix[..33]));
    assert_eq!(found.unwrap_err(), partial("matrix", 33));
    let found = operators.conv_matrix(shared, Out::Accumulate(&mut matrix[..]));
    assert_eq!(found.unwrap_err(), Error::TooManyInstances { value: 4, bound: 3 });
    // Two matrices, and the weights of two instances; not of three.
    let consecutive = cpu::Weights::consecutive(&w[..]);
    let found = operators.conv_matrix(consecutive, Out::Overwrite(&mut matrix[..48]));
    assert!(matches!(found, Err(Error::WindowOutOfRange { table: "weights", instance: 2, .. })), "{found:?}");
    let found = operators.conv_matrix_backward(shared, &grad[..31], Out::Overwrite(&mut grad_weights));
    assert_eq!(found.unwrap_err(), partial("grad_matrix", 31));
    let found = operators.conv_matrix_backward(shared, &grad[..32], Out::Overwrite(&mut grad_weights[..5]));
    let (operand, bound_of) = ("grad_weights", "weights");
    assert_eq!(found.unwrap_err(), Error::GradientMismatch { operand, value: 5, bound: 6, bound_of });
    for len in [31, 16, 33] {
        let found = operators.gram(x, Out::Overwrite(&mut matrix[..len]));
        assert_eq!(found.unwrap_err(), length("gram", len));
        let found = operators.gram_backward(x, &grad[..len], Out::Overwrite(out(&mut grad_x)));
        assert_eq!(found.unwrap_err(), length("grad_gram", len));
    }
    let found = operators.gram_backward(x, &grad[..32], Out::Overwrite(out(&mut grad_x[..4 * F])));
    let (operand, bound_of) = ("grad_x", "x");
    assert_eq!(found.unwrap_err(), Error::InstancesMismatch { operand, value: 1, bound: 2, bound_of });
    // Where the rows do not tell how many there are, the matrices do.
    let untold = Rows::new(x.buffer, RowLayout::contiguous(F).instance_stride(4 * F));
    operators.gram(untold, Out::Skip).unwrap_err();
    assert!(matrix.iter().chain(&grad_weights).all(|&value| value == seven));
    assert!(grad_x.iter().all(|&value| value == T::of(7.0)));
    operators.gram(untold, Out::Overwrite(&mut matrix[..32])).unwrap();
    assert!(matrix[..32].iter().all(|&value| value != seven));
}

/// Topologies of more vertices are refused, on either path; others of the batch that no instance has are not.
fn larger_topologies_are_refused(backend: &dyn Backend<f32>) {
    let larger = Incidence::subsets(65, 1).unwrap();
    let small = Incidence::subsets(3, 2).unwrap();
    let used = Batch::from_table(vec![small.clone(), larger.clone()], &[0u8, 1, 0]).unwrap();
    let unused = Batch::from_table(vec![larger.clone(), small], &[1u8, 1]).unwrap();
    let w = [1.0f32; 65];
    let mut matrix = vec![7.0f32; 3 * 65 * 65];
    for (batch, topology) in [(&used, 1), (&Batch::replicate(larger), 0)] {
        let mut operators = backend.operators(batch, F, Conv::default(), 3).unwrap();
        let refused = operators.conv_matrix(cpu::Weights::shared(&w[..]), Out::Overwrite(&mut matrix));
        let (operator, what) = ("conv_matrix", "vertices");
        let expected = Error::MatrixUnavailable { operator, topology, what, value: 65, bound: 64 };
        assert_eq!(refused, Err(expected));
    }
    assert!(matrix.iter().all(|&value| value == 7.0));
    // Where there is room for as many vertices: too many incidences, also for the vertices that there are.
    let repeated = Incidence::from_edges(64, &[[0u32; 100]], Repeats::Keep).unwrap();
    let refused = backend
        .operators(&Batch::replicate(repeated), F, Conv::default(), 1)
        .unwrap()
        .conv_matrix(cpu::Weights::shared(&w[..1]), Out::Overwrite(&mut matrix[..64 * 64]));
    let (operator, what) = ("conv_matrix", "pairs of incidences");
    let expected = Error::MatrixUnavailable { operator, topology: 0, what, value: 10_000, bound: 6400 };
    assert_eq!(refused, Err(expected));
    let mut operators = backend.operators(&unused, F, Conv::default(), 2).unwrap();
    operators.conv_matrix(cpu::Weights::shared(&w[..3]), Out::Overwrite(&mut matrix[..18])).unwrap();
    let sums = matrix[..18].chunks(3).map(|row| row.iter().sum::<f32>());
    assert!(sums.into_iter().all(|sum| (sum - 1.0).abs() < 1e-6));
}

fn negative_degrees_are_reported(backend: &dyn Backend<f32>) {
    let conv = Conv::new(Normalization::Symmetric, WeightUse::Documented);
    let mut operators = backend.operators(&pairs(), F, conv, 2).unwrap();
    let w = [1.0f32, -4.0, 1.0, 1.0, 1.0, 1.0];
    let weights = cpu::Weights::shared(&w[..]);
    let (mut matrix, mut grad) = ([7.0f32; 32], [7.0f32; 6]);
    let found = [
        operators.conv_matrix(weights, Out::Overwrite(&mut matrix)),
        operators.conv_matrix_backward(weights, &[1.0; 32], Out::Overwrite(&mut grad)),
        operators.conv_matrix_backward(weights, &[1.0; 32], Out::Skip),
    ];
    found.into_iter().for_each(assert_negative_degree);
}

fn empty_batches_are_legal(backend: &dyn Backend<f32>) {
    for (batch, features) in empty_batches().iter().flat_map(|batch| [0, F].map(|f| (batch, f))) {
        for instances in batch.n_instances().map_or(vec![0, 4], |n| vec![n]) {
            let side = batch.largest(Axis::Vertex);
            let layout = RowLayout::contiguous(features).instances(instances);
            let w = vec![1.0f32; batch.largest(Axis::Hyperedge)];
            let (x, weights) =
                (vec![1.0f32; batch.start(Axis::Vertex, instances) * features], cpu::Weights::shared(&w[..]));
            let mut matrix = vec![f32::NAN; instances * side * side];
            let mut operators = backend.operators(batch, features, Conv::default(), instances).unwrap();
            operators.conv_matrix(weights, Out::Overwrite(&mut matrix)).unwrap();
            assert!(matrix.iter().all(|&entry| entry == 0.0));
            let mut grad_w = vec![f32::NAN; w.len()];
            operators.conv_matrix_backward(weights, &matrix, Out::Overwrite(&mut grad_w)).unwrap();
            assert!(grad_w.iter().all(|&gradient| gradient == 0.0));
            let x = Rows::new(&x[..], layout);
            operators.gram(x, Out::Overwrite(&mut matrix)).unwrap();
            let ends = |g: usize| batch.topology(g).n_vertices();
            for (g, matrix) in matrix.chunks(side.max(1).pow(2)).enumerate() {
                let exists = |at: usize| at / side < ends(g) && at % side < ends(g);
                let expected = |at| if exists(at) { features as f32 } else { 0.0 };
                assert!(matrix.iter().enumerate().all(|(at, &product)| product == expected(at)));
            }
            let mut grad_x = vec![f32::NAN; x.buffer.len()];
            let to = Out::Overwrite(Rows::new(&mut grad_x[..], layout));
            operators.gram_backward(x, &matrix, to).unwrap();
            assert!(grad_x.iter().all(|gradient| gradient.is_finite()));
        }
    }
}

per_backend! {
    on [cpu, cuda(modes(&[Order::Forward, Order::Shuffled(1)]))], in [f32, f64, f16, bf16]:
    matrices_of_small_topologies_are_known;
    shapes_are_checked_before_anything_is_written;
}

per_backend! {
    on [cpu, cuda(modes(&[Order::Forward, Order::Shuffled(1)]))], in [f32]:
    larger_topologies_are_refused;
    negative_degrees_are_reported;
    empty_batches_are_legal;
}
