//! Properties of the operators over random layouts.

use hyperscatter::cpu::{Plan, Step, StepGradients};
use hyperscatter::half::{bf16, f16};
use hyperscatter::{
    Batch, Element, Incidence, Normalization, Out, Reduce, Repeats, Rows, WeightUse, WindowTable, cpu,
};
use proptest::prelude::*;

use crate::common::{TestElement, bits, features, norm, numbers, relative_error, weights, widen};
use crate::layouts::{Layout, Place, WindowKind, layout};
use crate::reference;

/// Everything that a convolution and its backward give, gathered into contiguous rows.
#[derive(Debug, PartialEq)]
struct Conv<T, A> {
    y: Vec<T>,
    grad_x: Vec<T>,
    grad_weights: Vec<A>,
}

/// The operands of a convolution.
struct Operands<T: TestElement> {
    x: Vec<T>,
    g: Vec<T>,
    weights: Vec<T::Acc>,
}

impl<T: TestElement> Operands<T> {
    fn of(layout: &Layout) -> Self {
        let len = layout.n_rows(false) * layout.features;
        let signed = layout.conv.normalization != Normalization::Symmetric
            || layout.conv.weight_use == WeightUse::MessageOnly;
        let weights = weights::<T>(layout.seed, layout.n_weights(), signed);
        Self { x: features(layout.seed ^ 1, len), g: features(layout.seed ^ 2, len), weights }
    }
}

/// The batch in one call, with the layout's places and windows. Gaps of outputs must stay as they are.
fn batched<T: TestElement>(layout: &Layout, operands: &Operands<T>) -> Conv<T, T::Acc> {
    let Operands { x, g, weights } = operands;
    let [x_place, g_place, y_place, grad_x_place] = layout.places;
    let filler = T::of(7.0);
    // What is read is never what lies between the rows.
    let (x, g) = (
        layout.spread(x, x_place, false, T::of(f64::NAN)),
        layout.spread(g, g_place, false, T::of(f64::NAN)),
    );
    let empty = vec![T::of(f64::NAN); x.gathered().len()];
    let mut y = layout.spread(&empty, y_place, false, filler);
    let mut grad_x = layout.spread(&empty, grad_x_place, false, filler);
    let mut grad_weights = vec![T::acc(f64::NAN); weights.len()];
    let table = layout.table();
    let windows = layout.weights(weights, &table);
    let plan = Plan::<T>::new(&layout.batch, layout.features, layout.conv).unwrap();
    let mut workspace = plan.workspace(layout.instances).unwrap();
    workspace.conv(x.rows(), windows, Out::Overwrite(y.rows_mut())).unwrap();
    let grad_rows = Out::Overwrite(grad_x.rows_mut());
    workspace
        .conv_backward(x.rows(), windows, g.rows(), grad_rows, Out::Overwrite(&mut grad_weights))
        .unwrap();
    assert!(y.gaps().iter().chain(&grad_x.gaps()).all(|&gap| gap == filler), "written between rows");
    Conv { y: y.gathered(), grad_x: grad_x.gathered(), grad_weights }
}

/// Each instance alone: a batch of one copy, contiguous rows, its window cut out. The second part is each instance's
/// weight gradient.
fn one_at_a_time<T: TestElement>(layout: &Layout, operands: &Operands<T>) -> (Conv<T, f64>, Vec<Vec<f64>>) {
    let f = layout.features;
    let mut all = Conv { y: vec![], grad_x: vec![], grad_weights: vec![0.0; operands.weights.len()] };
    let mut grads_of_instances = vec![];
    let mut row = 0;
    for g in 0..layout.instances {
        let topology = layout.batch.topology(g);
        let rows = row * f..(row + topology.n_vertices()) * f;
        row += topology.n_vertices();
        let window = layout.offset(g)..layout.offset(g) + topology.n_hyperedges();
        let weights = cpu::Weights::shared(&operands.weights[window.clone()]);
        let (x, grad_y) =
            (Rows::contiguous(&operands.x[rows.clone()], f), Rows::contiguous(&operands.g[rows.clone()], f));
        let (mut y, mut grad_x) = (vec![T::of(0.0); rows.len()], vec![T::of(0.0); rows.len()]);
        let mut grad_weights = vec![T::acc(0.0); topology.n_hyperedges()];
        let plan = Plan::<T>::new(&Batch::replicate(topology.clone()), f, layout.conv).unwrap();
        let mut workspace = plan.workspace(1).unwrap();
        workspace.conv(x, weights, Out::Overwrite(Rows::contiguous(&mut y[..], f))).unwrap();
        let out = Out::Overwrite(Rows::contiguous(&mut grad_x[..], f));
        workspace.conv_backward(x, weights, grad_y, out, Out::Overwrite(&mut grad_weights)).unwrap();
        all.y.extend(y);
        all.grad_x.extend(grad_x);
        for (sum, grad) in all.grad_weights[window].iter_mut().zip(widen(&grad_weights)) {
            *sum += grad;
        }
        grads_of_instances.push(widen(&grad_weights));
    }
    (all, grads_of_instances)
}

/// Batched = one at a time: outputs and ∂x bit for bit, ∂weights to the rounding of their sum.
fn batched_is_one_at_a_time<T: TestElement>(layout: &Layout) {
    let operands = Operands::<T>::of(layout);
    let (batched, (single, grads)) = (batched(layout, &operands), one_at_a_time(layout, &operands));
    assert_eq!(bits(&batched.y), bits(&single.y), "y in {}", T::NAME);
    assert_eq!(bits(&batched.grad_x), bits(&single.grad_x), "grad_x in {}", T::NAME);
    let mut sizes = vec![0.0; operands.weights.len()];
    for (g, grads) in grads.iter().enumerate() {
        for (size, grad) in sizes[layout.offset(g)..].iter_mut().zip(grads) {
            *size += grad.abs();
        }
    }
    let epsilon = accumulator_epsilon::<T>() * (layout.instances + 1) as f64;
    for (i, (a, b)) in widen(&batched.grad_weights).iter().zip(&single.grad_weights).enumerate() {
        assert!((a - b).abs() <= epsilon * sizes[i], "weight {i}: {a} is not the sum {b} in {}", T::NAME);
    }
}

fn accumulator_epsilon<T: TestElement>() -> f64 {
    if <T::Acc as Element>::NAME == "f64" { f64::EPSILON } else { f64::from(f32::EPSILON) }
}

/// Which scales a step has, and the windows through which they are read.
#[derive(Debug, Clone)]
struct StepLayout {
    layout: Layout,
    to_hyperedges: bool,
    reduce: Reduce,
    vertex_scale: Option<WindowKind>,
    hyperedge_scale: Option<WindowKind>,
}

fn step_layout() -> impl Strategy<Value = StepLayout> {
    let scale = || {
        prop_oneof![
            Just(None),
            Just(Some(WindowKind::Shared)),
            Just(Some(WindowKind::Consecutive)),
            Just(Some(WindowKind::Table))
        ]
    };
    let reduce = prop_oneof![Just(Reduce::Sum), Just(Reduce::Mean)];
    (layout(), any::<bool>(), reduce, scale(), scale()).prop_map(
        |(layout, to_hyperedges, reduce, vertex_scale, hyperedge_scale)| StepLayout {
            layout,
            to_hyperedges,
            reduce,
            vertex_scale,
            hyperedge_scale,
        },
    )
}

/// A scale of a step: values, their windows, and where each instance reads.
struct Scale<A> {
    values: Vec<A>,
    kind: WindowKind,
    table: WindowTable,
    windows: Vec<std::ops::Range<usize>>,
}

impl<A> Scale<A> {
    fn weights(&self) -> cpu::Weights<'_, A> {
        match self.kind {
            WindowKind::Shared => cpu::Weights::shared(&self.values),
            WindowKind::Consecutive => cpu::Weights::consecutive(&self.values),
            WindowKind::Table => cpu::Weights::table(&self.values, &self.table),
        }
    }
}

/// Operands and results of a step and its backward.
struct StepCase<T: TestElement> {
    x: Vec<T>,
    g: Vec<T>,
    vertex_scale: Option<Scale<T::Acc>>,
    hyperedge_scale: Option<Scale<T::Acc>>,
}

#[derive(Debug)]
struct StepResults<T: TestElement> {
    y: Vec<T>,
    grad_x: Vec<T>,
    grad_vertex_scale: Vec<T::Acc>,
    grad_hyperedge_scale: Vec<T::Acc>,
}

impl StepLayout {
    fn case<T: TestElement>(&self) -> StepCase<T> {
        let Layout { batch, features: f, offsets, seed, instances, .. } = &self.layout;
        let scale = |kind: Option<WindowKind>, hyperedges: bool| {
            let kind = kind?;
            let windows: Vec<_> = (0..*instances)
                .map(|g| {
                    let start = match kind {
                        WindowKind::Shared => 0,
                        WindowKind::Consecutive if hyperedges => batch.hyperedge_start(g),
                        WindowKind::Consecutive => batch.vertex_start(g),
                        WindowKind::Table => offsets[g],
                    };
                    start..start + self.layout.n_rows_of(g, hyperedges)
                })
                .collect();
            let uncovered = if kind == WindowKind::Table { 2 } else { 0 };
            let len = windows.iter().map(|w| w.end).max().unwrap_or(0) + uncovered;
            let make = if hyperedges { WindowTable::new } else { WindowTable::for_vertices };
            let values = weights::<T>(seed.rotate_left(8 + u32::from(hyperedges)), len, true);
            Some(Scale { values, kind, table: make(batch, offsets).unwrap(), windows })
        };
        StepCase {
            x: features(seed ^ 3, self.layout.n_rows(!self.to_hyperedges) * f),
            g: features(seed ^ 4, self.layout.n_rows(self.to_hyperedges) * f),
            vertex_scale: scale(self.vertex_scale, false),
            hyperedge_scale: scale(self.hyperedge_scale, true),
        }
    }

    fn batched<T: TestElement>(&self, case: &StepCase<T>) -> StepResults<T> {
        let Self { layout, to_hyperedges, reduce, .. } = self;
        let (from, to) = (!to_hyperedges, *to_hyperedges);
        let [x_place, g_place, y_place, grad_x_place] = layout.places;
        let (nan, filler) = (T::of(f64::NAN), T::of(7.0));
        let (x, g) = (layout.spread(&case.x, x_place, from, nan), layout.spread(&case.g, g_place, to, nan));
        let mut y = layout.spread(&vec![nan; case.g.len()], y_place, to, filler);
        let mut grad_x = layout.spread(&vec![nan; case.x.len()], grad_x_place, from, filler);
        let step = Step {
            reduce: *reduce,
            vertex_scale: case.vertex_scale.as_ref().map(Scale::weights),
            hyperedge_scale: case.hyperedge_scale.as_ref().map(Scale::weights),
        };
        let len = |scale: &Option<Scale<T::Acc>>| scale.as_ref().map_or(0, |s| s.values.len());
        let mut grad_vertex_scale = vec![T::acc(f64::NAN); len(&case.vertex_scale)];
        let mut grad_hyperedge_scale = vec![T::acc(f64::NAN); len(&case.hyperedge_scale)];
        let plan = Plan::<T>::new(&layout.batch, layout.features, layout.conv).unwrap();
        let mut workspace = plan.workspace(layout.instances).unwrap();
        let gradients = StepGradients {
            rows: Out::Overwrite(grad_x.rows_mut()),
            vertex_scale: Out::Overwrite(&mut grad_vertex_scale),
            hyperedge_scale: Out::Overwrite(&mut grad_hyperedge_scale),
        };
        let out = Out::Overwrite(y.rows_mut());
        if *to_hyperedges {
            workspace.vertex_to_hyperedge(step, x.rows(), out).unwrap();
            workspace.vertex_to_hyperedge_backward(step, x.rows(), g.rows(), gradients).unwrap();
        } else {
            workspace.hyperedge_to_vertex(step, x.rows(), out).unwrap();
            workspace.hyperedge_to_vertex_backward(step, x.rows(), g.rows(), gradients).unwrap();
        }
        assert!(y.gaps().iter().chain(&grad_x.gaps()).all(|&gap| gap == filler), "written between rows");
        StepResults { y: y.gathered(), grad_x: grad_x.gathered(), grad_vertex_scale, grad_hyperedge_scale }
    }

    /// Results by the definition of the step: plain loops over the incidences in `f64`. With `sizes`, the sums of the
    /// terms' absolute values.
    fn by_definition<T: TestElement>(&self, case: &StepCase<T>, sizes: bool) -> StepResults<f64> {
        let Self { layout, to_hyperedges, reduce, .. } = self;
        let f = layout.features;
        let size = |x: f64| if sizes { x.abs() } else { x };
        let values = |values: Vec<f64>| values.into_iter().map(size).collect::<Vec<_>>();
        let (x, g) = (values(widen(&case.x)), values(widen(&case.g)));
        let vertex_values = case.vertex_scale.as_ref().map(|s| values(widen(&s.values)));
        let hyperedge_values = case.hyperedge_scale.as_ref().map(|s| values(widen(&s.values)));
        let mut results = StepResults {
            y: vec![0.0; g.len()],
            grad_x: vec![0.0; x.len()],
            grad_vertex_scale: vec![0.0; vertex_values.as_ref().map_or(0, Vec::len)],
            grad_hyperedge_scale: vec![0.0; hyperedge_values.as_ref().map_or(0, Vec::len)],
        };
        let (mut x_row, mut y_row) = (0, 0);
        for instance in 0..layout.instances {
            let topology = layout.batch.topology(instance);
            let slot = |scale: &Option<Scale<T::Acc>>, i: usize| {
                scale.as_ref().map(|s| s.windows[instance].start + i)
            };
            for (v, e) in topology.incidences() {
                let (v, e) = (v as usize, e as usize);
                let (from, to) = if *to_hyperedges { (v, e) } else { (e, v) };
                let count = match to_hyperedges {
                    true => topology.by_edge().row(e).len(),
                    false => topology.by_vertex().row(v).len(),
                };
                let mean = if *reduce == Reduce::Mean { 1.0 / count as f64 } else { 1.0 };
                let (v_slot, e_slot) = (slot(&case.vertex_scale, v), slot(&case.hyperedge_scale, e));
                let r = v_slot.map_or(1.0, |i| vertex_values.as_ref().unwrap()[i]);
                let s = e_slot.map_or(1.0, |i| hyperedge_values.as_ref().unwrap()[i]);
                for k in 0..f {
                    let (xi, yi) = ((x_row + from) * f + k, (y_row + to) * f + k);
                    results.y[yi] += mean * r * s * x[xi];
                    results.grad_x[xi] += mean * r * s * g[yi];
                    if let Some(slot) = v_slot {
                        results.grad_vertex_scale[slot] += mean * s * x[xi] * g[yi];
                    }
                    if let Some(slot) = e_slot {
                        results.grad_hyperedge_scale[slot] += mean * r * x[xi] * g[yi];
                    }
                }
            }
            x_row += layout.n_rows_of(instance, !to_hyperedges);
            y_row += layout.n_rows_of(instance, *to_hyperedges);
        }
        results
    }

    /// The same step on one instance, with contiguous rows and its windows cut out.
    fn alone<T: TestElement>(&self, case: &StepCase<T>, instance: usize) -> (Self, StepCase<T>) {
        let layout = &self.layout;
        let f = layout.features;
        let rows = |hyperedges: bool| {
            let start: usize = (0..instance).map(|g| layout.n_rows_of(g, hyperedges)).sum();
            start * f..(start + layout.n_rows_of(instance, hyperedges)) * f
        };
        let batch = Batch::replicate(layout.batch.topology(instance).clone());
        let cut = |scale: &Option<Scale<T::Acc>>| {
            let scale = scale.as_ref()?;
            let window = scale.windows[instance].clone();
            let values = scale.values[window.clone()].to_vec();
            let windows = Vec::from_iter(std::iter::once(0..window.len()));
            let table = WindowTable::new(&batch, &[0u8]).unwrap();
            Some(Scale { values, kind: WindowKind::Shared, table, windows })
        };
        let case = StepCase {
            x: case.x[rows(!self.to_hyperedges)].to_vec(),
            g: case.g[rows(self.to_hyperedges)].to_vec(),
            vertex_scale: cut(&case.vertex_scale),
            hyperedge_scale: cut(&case.hyperedge_scale),
        };
        let layout = Layout {
            batch,
            instances: 1,
            windows: WindowKind::Shared,
            offsets: vec![0],
            places: [Place::Contiguous; 4],
            ..layout.clone()
        };
        (Self { layout, ..self.clone() }, case)
    }
}

/// A step is what its definition says, and the same bits alone and in a batch.
fn step_is_right<T: TestElement>(step: &StepLayout, rounding: f64) {
    let case = step.case::<T>();
    let batched = step.batched(&case);
    let (expected, sizes) = (step.by_definition(&case, false), step.by_definition(&case, true));
    // n terms in any order of summation are off by at most n ε of the sum of their sizes.
    let incidences = |g| step.layout.batch.topology(g).n_incidences();
    let n_terms = (0..step.layout.instances).map(incidences).sum::<usize>() * step.layout.features + 4;
    let epsilon = accumulator_epsilon::<T>() * n_terms as f64;
    for (what, a, b, size, rounding) in [
        ("y", widen(&batched.y), &expected.y, &sizes.y, rounding),
        ("grad_x", widen(&batched.grad_x), &expected.grad_x, &sizes.grad_x, rounding),
        (
            "grad_vertex_scale",
            widen(&batched.grad_vertex_scale),
            &expected.grad_vertex_scale,
            &sizes.grad_vertex_scale,
            0.0,
        ),
        (
            "grad_hyperedge_scale",
            widen(&batched.grad_hyperedge_scale),
            &expected.grad_hyperedge_scale,
            &sizes.grad_hyperedge_scale,
            0.0,
        ),
    ] {
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            // Subnormal results have an absolute error.
            let bound = rounding * (b.abs() + 1e-4) + epsilon * size[i];
            assert!((a - b).abs() <= bound, "{what}[{i}] in {}: {a} is not {b} within {bound:.1e}", T::NAME);
        }
    }
    let (mut y, mut grad_x) = (vec![], vec![]);
    for instance in 0..step.layout.instances {
        let (alone, case) = step.alone(&case, instance);
        let results = alone.batched(&case);
        y.extend(results.y);
        grad_x.extend(results.grad_x);
    }
    assert_eq!(bits(&batched.y), bits(&y), "y in {}", T::NAME);
    assert_eq!(bits(&batched.grad_x), bits(&grad_x), "grad_x in {}", T::NAME);
}

fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

fn the_same_bits_on_any_number_of_threads<T: TestElement>(layout: &Layout) {
    let operands = Operands::<T>::of(layout);
    let all = [1, 2, 8].map(|threads| {
        let results = with_threads(threads, || batched(layout, &operands));
        (bits(&results.y), bits(&results.grad_x), bits(&results.grad_weights))
    });
    assert_eq!(all[0], all[1]);
    assert_eq!(all[0], all[2]);
}

fn steps_have_the_same_bits_on_any_number_of_threads(step: &StepLayout) {
    let case = step.case::<f32>();
    let all = [1, 2, 8].map(|threads| {
        let results = with_threads(threads, || step.batched(&case));
        let StepResults { y, grad_x, grad_vertex_scale, grad_hyperedge_scale } = results;
        [bits(&y), bits(&grad_x), bits(&grad_vertex_scale), bits(&grad_hyperedge_scale)]
    });
    assert_eq!(all[0], all[1]);
    assert_eq!(all[0], all[2]);
}

/// The convolution in `f64` is what the dense operator gives.
fn conv_is_the_dense_operator(layout: &Layout) {
    let operands = Operands::<f64>::of(layout);
    let (batched, f) = (batched(layout, &operands), layout.features);
    let (mut y, mut grad_x, mut grad_weights) = (vec![], vec![], vec![0.0; operands.weights.len()]);
    let mut row = 0;
    for g in 0..layout.instances {
        let topology = layout.batch.topology(g);
        let rows = row * f..(row + topology.n_vertices()) * f;
        row += topology.n_vertices();
        let weights = &operands.weights[layout.offset(g)..][..topology.n_hyperedges()];
        let dense =
            reference::conv(topology, layout.conv, weights, &operands.x[rows.clone()], &operands.g[rows]);
        y.extend(dense.y);
        grad_x.extend(dense.grad_x);
        for (sum, grad) in grad_weights[layout.offset(g)..].iter_mut().zip(dense.grad_weights) {
            *sum += grad;
        }
    }
    // A degree in which signed weights nearly cancel out is ill-conditioned, and divides once or twice.
    let condition = degree_condition(layout, &operands.weights);
    let bound = 1e-12 * condition;
    assert!(relative_error(&batched.y, &y) <= bound, "y: {}", relative_error(&batched.y, &y));
    assert!(relative_error(&batched.grad_x, &grad_x) <= bound, "grad_x");
    let size = 1.0 + norm(&operands.x) * norm(&operands.g);
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
fn permuted_input_permutes_results(layout: &Layout) {
    let layout = Layout {
        batch: Batch::replicate(layout.batch.topologies()[0].clone()),
        instances: 1,
        windows: WindowKind::Shared,
        offsets: vec![0],
        places: [Place::Contiguous; 4],
        ..layout.clone()
    };
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
    let slots = |values: &[f64]| edges.iter().map(|&e| values[e]).collect::<Vec<_>>();

    let mut operands = Operands::<f64>::of(&layout);
    // Positive, so that no degree cancels out: the order of summation differs.
    operands.weights = weights::<f64>(layout.seed, operands.weights.len(), false);
    let permuted = Operands { x: rows(&operands.x), g: rows(&operands.g), weights: slots(&operands.weights) };
    let (expected, results) = (batched(&layout, &operands), batched(&permuted_layout, &permuted));
    assert!(relative_error(&results.y, &rows(&expected.y)) < 1e-12, "y");
    assert!(relative_error(&results.grad_x, &rows(&expected.grad_x)) < 1e-12, "grad_x");
    let difference: Vec<f64> =
        results.grad_weights.iter().zip(slots(&expected.grad_weights)).map(|(a, b)| a - b).collect();
    let size = 1.0 + 100.0 * norm(&operands.x) * norm(&operands.g);
    assert!(norm(&difference) < 1e-12 * size, "grad_weights: {}", norm(&difference));
}

proptest! {
    #[test]
    fn a_batch_equals_its_instances_one_at_a_time(layout in layout(), element in 0..4) {
        match element {
            0 => batched_is_one_at_a_time::<f32>(&layout),
            1 => batched_is_one_at_a_time::<f64>(&layout),
            2 => batched_is_one_at_a_time::<f16>(&layout),
            _ => batched_is_one_at_a_time::<bf16>(&layout),
        }
    }

    #[test]
    fn steps_are_their_definition_alone_and_in_a_batch(step in step_layout(), element in 0..4) {
        match element {
            0 => step_is_right::<f32>(&step, 1e-6),
            1 => step_is_right::<f64>(&step, 1e-14),
            2 => step_is_right::<f16>(&step, 1e-3),
            _ => step_is_right::<bf16>(&step, 8e-3),
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit(layout in layout(), wide in any::<bool>()) {
        if wide {
            the_same_bits_on_any_number_of_threads::<f64>(&layout);
        } else {
            the_same_bits_on_any_number_of_threads::<f32>(&layout);
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit_of_a_step(step in step_layout()) {
        steps_have_the_same_bits_on_any_number_of_threads(&step);
    }

    #[test]
    fn the_convolution_is_the_dense_operator(layout in layout()) {
        conv_is_the_dense_operator(&layout);
    }

    #[test]
    fn permuting_vertices_and_hyperedges_permutes_results(layout in layout()) {
        prop_assume!(!layout.batch.topologies().is_empty());
        permuted_input_permutes_results(&layout);
    }
}
