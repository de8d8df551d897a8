//! The scale of the weights: where it cancels out it must not matter, however large or small it is, and where
//! a degree is not finite nobody may take the result for a healthy one.

use hyperscatter::{Accumulator, Batch, Conv, Incidence, Normalization, Out, Repeats, Rows, WeightUse, cpu};
use proptest::prelude::*;

use crate::backend::{Backend, Cpu};
use crate::common::{Rounded, TestElement, bits, numbers, widen};
use crate::convolutions::{Asked, Operands, Results, operators, run};
use crate::layouts::{Layout, WindowKind, layout};
use crate::per_backend::per_backend;
use crate::reference;

/// 2^`n`, also where that is a subnormal number.
fn power_of_two(n: i32) -> f64 {
    let half = n / 2;
    2f64.powi(half) * 2f64.powi(n - half)
}

/// What the accumulation type of an element type holds: the exponents of its smallest and of its largest
/// power of two.
fn exponents<T: TestElement>() -> (i32, i32) {
    if size_of::<T::Acc>() == 4 { (-149, 127) } else { (-1074, 1023) }
}

/// The convolution of one instance with rows of one feature: y, ∂x and ∂w.
fn one_feature<T: TestElement>(
    backend: &dyn Backend<T>,
    conv: Conv,
    (n, edges): (usize, &[&[u32]]),
    w: &[f64],
    x: &[f64],
    g: &[f64],
) -> [Vec<f64>; 3] {
    let batch = Batch::replicate(Incidence::from_edges(n, edges, Repeats::Keep).unwrap());
    let narrow = |values: &[f64]| values.iter().map(|&value| T::of(value)).collect::<Vec<T>>();
    let (x, g) = (narrow(x), narrow(g));
    let w: Vec<T::Acc> = w.iter().map(|&w| T::acc(w)).collect();
    let (mut y, mut grad_x, mut grad_w) = (x.clone(), x.clone(), w.clone());
    let mut operators = backend.operators(&batch, 1, conv, 1).unwrap();
    let weights = || cpu::Weights::shared(&w[..]);
    let rows = |values| Rows::contiguous(values, 1);
    let y_rows = Out::Overwrite(Rows::contiguous(&mut y[..], 1));
    operators.conv(rows(&x[..]), weights(), None, y_rows).unwrap();
    let grad_rows = Out::Overwrite(Rows::contiguous(&mut grad_x[..], 1));
    let grads = Out::Overwrite(&mut grad_w[..]);
    operators.conv_backward(rows(&x[..]), None, weights(), rows(&g[..]), grad_rows, grads).unwrap();
    [widen(&y), widen(&grad_x), grad_w.iter().map(|w| w.to_f64()).collect()]
}

/// Weights at both ends of what the type holds.
fn weights_at_the_ends_of_the_range_cancel_out<T: TestElement>(backend: &dyn Backend<T>) {
    let pair: &[&[u32]] = &[&[0, 1]];
    let (smallest, largest) = exponents::<T>();
    for w in [smallest, smallest + 17, largest - 1, largest].map(power_of_two) {
        let [y, grad_x, grad_w] =
            one_feature(backend, Conv::default(), (2, pair), &[w], &[1.0, 3.0], &[1.0, 2.0]);
        assert_eq!((y, grad_x, grad_w), (vec![2.0; 2], vec![1.5; 2], vec![0.0]), "w = {w:e} in {}", T::NAME);
        // Nothing is lost under loss scaling.
        let g = [65536.0, 0.0].map(|g| if T::NAME == "f16" { g / 2.0 } else { g });
        let [_, grad_x, grad_w] = one_feature(backend, Conv::default(), (2, pair), &[w], &[1.0, 3.0], &g);
        assert_eq!((grad_x, grad_w), (vec![g[0] / 2.0; 2], vec![0.0]), "w = {w:e} in {}", T::NAME);
    }
    // w = 1e38 and 2e38 in f32: their sum is finite, w z is not.
    let large = power_of_two(largest - 1);
    let twice: &[&[u32]] = &[&[0, 1], &[0, 1]];
    let [y, grad_x, _] =
        one_feature(backend, Conv::default(), (2, twice), &[large, large * 1.5], &[1.0, 3.0], &[1.0, 2.0]);
    for (value, right) in y.into_iter().zip([2.0; 2]).chain(grad_x.into_iter().zip([1.5; 2])) {
        let bound = 8.0 * (T::ROUNDING + T::Acc::ROUNDING);
        assert!((value - right).abs() <= bound, "{value} in {}", T::NAME);
    }
    // A vertex whose only hyperedges are masked by tiny weights, beside others that are not; and one that is
    // masked by 0.
    let edges: &[&[u32]] = &[&[0, 1], &[0, 2], &[1, 2], &[0, 3]];
    let tiny = power_of_two(smallest + 4);
    let w = [tiny, tiny * 3.0, 0.75, 0.0];
    let (x, g) = ([1.0, 3.0, 5.0, 7.0], [1.0, 2.0, 4.0, 8.0]);
    let [y, grad_x, grad_w] = one_feature(backend, Conv::default(), (4, edges), &w, &x, &g);
    // Vertex 0: (2 + 3 · 3) / 4. Vertices 1 and 2: the pair of both. Vertex 3 has no degree.
    assert_eq!(y, [2.75, 4.0, 4.0, 0.0], "in {}", T::NAME);
    // Of vertex 0's g half of a quarter to 1, half of three quarters to 2, and half of all to itself; 1 and 2
    // share theirs.
    assert_eq!(grad_x, [0.5, 3.125, 3.375, 0.0], "in {}", T::NAME);
    // ∂w = Σ g_u (z_e − y_u) / D_u: without bound for those of vertex 0, and nothing but rounding for that of
    // 1 and 2.
    assert_eq!(grad_w[..2], [f64::NEG_INFINITY, f64::INFINITY], "in {}", T::NAME);
    assert!(grad_w[2].abs() <= 64.0 * T::Acc::ROUNDING, "{:e} in {}", grad_w[2], T::NAME);
    assert_eq!(grad_w[3], f64::INFINITY, "in {}", T::NAME);
    // Degrees far apart in one hyperedge, and a gradient at the large one alone: g_1 (z_0 − y_1) / D_1.
    let path: &[&[u32]] = &[&[0, 1], &[1, 2]];
    let small = power_of_two(-20);
    for g in [[1.0, small, 1.0], [0.0, small, 0.0]] {
        let w = [tiny, 1.0];
        let [_, _, grad_w] = one_feature(backend, Conv::default(), (3, path), &w, &[5.0, 3.0, 1.0], &g);
        assert_eq!(grad_w[0], 2.0 * small, "in {}", T::NAME);
    }
}

/// Weights that no power of two is: a subnormal one, and two whose products with z are no `f32`.
fn a_pair_is_right_under_weights_of_any_scale(backend: &dyn Backend<f32>) {
    let conv = Conv::default();
    let subnormal = one_feature(backend, conv, (2, &[&[0, 1]]), &[1e-39], &[1.0, 3.0], &[1.0, 2.0]);
    assert_eq!(subnormal, [vec![2.0; 2], vec![1.5; 2], vec![0.0]]);
    let [y, grad_x, _] =
        one_feature(backend, conv, (2, &[&[0, 1], &[0, 1]]), &[1e38, 2e38], &[1.0, 3.0], &[1.0, 2.0]);
    for (value, right) in y.into_iter().zip([2.0; 2]).chain(grad_x.into_iter().zip([1.5; 2])) {
        assert!((value - right).abs() <= 1e-6, "{value} instead of {right}");
    }
}

/// A degree that is not finite makes its rows, and what is differentiated through them, NaN; a degree of zero
/// makes zeros.
fn a_degree_that_is_not_finite_is_seen<T: TestElement>(backend: &dyn Backend<T>) {
    let (x, g) = ([1.0, 3.0, 5.0, 7.0], [1.0, 2.0, 4.0, 8.0]);
    let edges: &[&[u32]] = &[&[0, 1], &[1, 2], &[2, 3]];
    let largest = power_of_two(exponents::<T>().1);
    let all = [Normalization::Row, Normalization::Symmetric].into_iter().flat_map(|normalization| {
        [WeightUse::Documented, WeightUse::DegreeOnly].map(|weight_use| Conv::new(normalization, weight_use))
    });
    for conv in all {
        // An infinite weight, NaN, and finite weights whose sum is not.
        for w in [[f64::INFINITY, 1.0, 1.0], [f64::NAN, 1.0, 1.0]] {
            let [y, grad_x, grad_w] = one_feature(backend, conv, (4, edges), &w, &x, &g);
            assert!(y[0].is_nan() && y[1].is_nan(), "{conv:?} {w:?} in {}: {y:?}", T::NAME);
            assert!(grad_x[0].is_nan() && grad_x[1].is_nan(), "{conv:?} {w:?} in {}: {grad_x:?}", T::NAME);
            assert!(grad_w[0].is_nan(), "{conv:?} {w:?} in {}: {grad_w:?}", T::NAME);
            assert!(y[3].is_finite(), "{conv:?} {w:?} in {}: {y:?}", T::NAME);
        }
        let [y, grad_x, grad_w] = one_feature(backend, conv, (4, edges), &[1.0, largest, largest], &x, &g);
        assert!(y[2].is_nan() && !y[0].is_nan(), "{conv:?} in {}: {y:?}", T::NAME);
        assert!(grad_x[2].is_nan() && grad_w[1].is_nan(), "{conv:?} in {}: {grad_x:?} {grad_w:?}", T::NAME);

        let [y, grad_x, grad_w] = one_feature(backend, conv, (4, edges), &[0.0, 1.0, 0.0], &x, &g);
        assert_eq!((y[0], y[3]), (0.0, 0.0), "{conv:?} in {}", T::NAME);
        assert!(grad_x.iter().chain(&grad_w).all(|value| value.is_finite()), "{conv:?} in {}", T::NAME);
    }
}

/// A degree of only the degree's convention divides by as much as it says, down to the smallest.
fn the_smallest_degree_divides_as_it_says<T: TestElement>(backend: &dyn Backend<T>) {
    let edges: &[&[u32]] = &[&[0, 1]];
    let conv = Conv::new(Normalization::Row, WeightUse::DegreeOnly);
    let (smallest, largest) = exponents::<T>();
    // x, y and everything between are representable, if only just.
    let room = if T::NAME == "f16" { 14 } else { largest - 4 };
    for exponent in [smallest, smallest + 20, -room, 0, room] {
        let (w, x) = (power_of_two(exponent), power_of_two(exponent.clamp(-room, room)));
        let [y, grad_x, _] = one_feature(backend, conv, (2, edges), &[w], &[x, 3.0 * x], &[x, 2.0 * x]);
        let scale = power_of_two(exponent.clamp(-room, room) - exponent);
        let bounded = |value: f64| T::of(value * scale).widen().to_f64();
        assert_eq!((y, grad_x), (vec![bounded(2.0); 2], vec![bounded(1.5); 2]), "w = {w:e} in {}", T::NAME);
    }
}

/// Weights of few bits, some of them zero, and up to 2^±20 apart: they stay exact far down.
fn short_weights<T: TestElement>(layout: &Layout) -> Vec<T::Acc> {
    let draw = |seed, high| numbers(layout.seed ^ seed, layout.n_weights(), 0.0, high);
    let (digits, shifts) = (draw(21, 36.0), draw(22, 41.0));
    let weight = |(digits, shift): (f64, f64)| {
        let digits = if digits >= 32.0 { 0.0 } else { 1.0 + digits.floor() };
        T::acc(digits * power_of_two(shift as i32 - 25))
    };
    digits.into_iter().zip(shifts).map(weight).collect()
}

/// How far such weights can be scaled, down and up.
fn range_of_scale<T: TestElement>() -> std::ops::RangeInclusive<i32> {
    let (smallest, largest) = exponents::<T>();
    // Up to 2600 incidences of a vertex, of 32 · 2^15 each, sum to a finite degree.
    smallest + 25..=largest - 33
}

/// The `k` that an index draws.
fn drawn<T: TestElement>(k: prop::sample::Index) -> i32 {
    let range = range_of_scale::<T>();
    range.start() + k.index((range.end() - range.start()) as usize + 1) as i32
}

fn operands<T: TestElement>(layout: &Layout) -> Operands<T> {
    Operands { weights: short_weights::<T>(layout), ..Operands::of(layout) }
}

/// What they give with weights times 2^k and g times `g`.
fn scaled<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    operands: &Operands<T>,
    k: i32,
    g: f64,
) -> Results<T> {
    let mut operands = operands.clone();
    for w in &mut operands.weights {
        *w = T::acc(w.to_f64() * power_of_two(k));
    }
    for value in &mut operands.g {
        *value = T::of(value.widen().to_f64() * g);
    }
    run(&mut *operators(backend, layout), layout, &operands, Asked::ALL)
}

/// y(w · 2^k) and ∂x have the bits of y(w) and ∂x; ∂w is 2^-k times what it was.
fn a_power_of_two_of_the_weights_cancels_out<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    k: prop::sample::Index,
    symmetric: bool,
) {
    let k = drawn::<T>(k);
    let normalization = if symmetric { Normalization::Symmetric } else { Normalization::Row };
    let layout = Layout { conv: Conv::new(normalization, WeightUse::Documented), ..layout.clone() };
    let k = if symmetric { k & !1 } else { k };
    let operands = operands::<T>(&layout);
    let scaled = |k, g| scaled(backend, &layout, &operands, k, g);
    let (plain, other) = (scaled(0, 1.0), scaled(k, 1.0));
    assert_eq!(bits(&other.y), bits(&plain.y), "y at 2^{k} in {}", T::NAME);
    assert_eq!(bits(&other.grad_x), bits(&plain.grad_x), "grad_x at 2^{k} in {}", T::NAME);
    // Sums of gradients round alike while none of them is a subnormal number or infinite.
    let smallest = power_of_two(exponents::<T>().0 + 60);
    for (i, (a, b)) in widen(&plain.grad_weights).into_iter().zip(widen(&other.grad_weights)).enumerate() {
        let expected = a * power_of_two(-k / 2) * power_of_two(-k - -k / 2);
        if expected == 0.0 || (expected.abs() > smallest && b.is_finite()) {
            assert_eq!(b, expected, "the gradient of weight {i} at 2^{k} in {}", T::NAME);
        }
    }
    // Loss scaling; g in f16 has no room for it.
    if T::NAME != "f16" {
        let loss = 65536.0;
        let under_loss = scaled(k, loss);
        let expected: Vec<T> = plain.grad_x.iter().map(|x| T::of(x.widen().to_f64() * loss)).collect();
        assert_eq!(bits(&under_loss.grad_x), bits(&expected), "grad_x under loss scaling in {}", T::NAME);
    }
}

/// An odd power of two goes through a square root, and is right to the rounding of the sums: half a unit in
/// the last place of the accumulation type for each term of two rows and eight more, and the rounding of the
/// result.
fn an_odd_power_of_two_cancels_out_but_for_rounding<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    k: prop::sample::Index,
) {
    let conv = Conv::new(Normalization::Symmetric, WeightUse::Documented);
    let layout = Layout { conv, ..layout.clone() };
    let mut operands = operands::<T>(&layout);
    // All terms positive: none of them cancel out.
    for value in operands.x.iter_mut().chain(&mut operands.g) {
        *value = T::of(value.widen().to_f64().abs());
    }
    let (k, scaled) = (drawn::<T>(k) | 1, |k| scaled(backend, &layout, &operands, k, 1.0));
    let (plain, other) = (scaled(0), scaled(k));
    let longest = |hyperedges: bool| {
        let rows = layout.batch.topologies().iter().flat_map(|t| match hyperedges {
            true => t.by_edge().rows().map(<[u32]>::len).collect::<Vec<_>>(),
            false => t.by_vertex().rows().map(<[u32]>::len).collect(),
        });
        rows.max().unwrap_or(0) as f64
    };
    let terms = longest(true) + longest(false) + 8.0;
    let bound = terms * T::Acc::ROUNDING + 2.0 * T::ROUNDING;
    for (what, a, b) in [("y", &other.y, &plain.y), ("grad_x", &other.grad_x, &plain.grad_x)] {
        for (a, b) in widen(a).into_iter().zip(widen(b)) {
            let tiny = if T::NAME == "f16" { 6e-8 } else { 0.0 };
            assert!((a - b).abs() <= bound * b + tiny, "{what} at 2^{k}: {a} instead of {b} in {}", T::NAME);
        }
    }
}

/// Exponents between two, of which half are close to one of them.
fn exponents_between(seed: u64, len: usize, least: f64, most: f64) -> Vec<f64> {
    let draws = numbers(seed, len, 0.0, 2.0);
    let place = |draw: f64| match draw {
        draw if draw < 0.5 => draw / 4.0,
        draw if draw < 1.0 => 1.0 - (draw - 0.5) / 4.0,
        _ => draw - 1.0,
    };
    draws.into_iter().map(|draw| least + (most - least) * place(draw)).collect()
}

/// Some rows of a gradient become zeros, and some tiny.
fn thin_out<T: TestElement>(g: &mut [T], layout: &Layout) {
    let draws = numbers(layout.seed ^ 32, g.len(), 0.0, 1.0);
    for (i, g) in g.iter_mut().enumerate() {
        let draw = draws[i - i % layout.features];
        let factor = if draw < 0.4 {
            0.0
        } else if draw < 0.7 {
            1e-7
        } else {
            1.0
        };
        *g = T::of(g.widen().to_f64() * factor);
    }
}

/// Σ |terms| of each element of a gradient of weights, from the results for absolute values.
fn sizes_of_weight_gradients(
    topology: &Incidence,
    conv: Conv,
    w: &[f64],
    (x, g): (&[f64], &[f64]),
    dense: &reference::Dense,
) -> Vec<f64> {
    let f = x.len() / topology.n_vertices().max(1);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let row = |rows: &[f64], i: usize| rows[i * f..][..f].to_vec();
    let symmetric = conv.normalization == Normalization::Symmetric;
    let degree = |v: usize| topology.by_vertex().row(v).iter().map(|&e| w[e as usize]).sum::<f64>();
    let term = |e: usize, v: usize| {
        let (d, g) = (degree(v), row(g, v));
        let left = if symmetric { d.sqrt() } else { d };
        let message =
            if conv.weight_use == WeightUse::DegreeOnly { 0.0 } else { dot(&g, &row(&dense.z, e)) / left };
        let x = if symmetric { dot(&row(x, v), &row(&dense.grad_x, v)) } else { 0.0 };
        message + (dot(&g, &row(&dense.y, v)) + x) / d
    };
    let edges = topology.by_edge().rows().enumerate();
    edges.map(|(e, members)| members.iter().map(|&v| term(e, v as usize)).sum()).collect()
}

/// Weights of any size up to about 1 side by side, gradients of any size, and of some vertices none: each
/// number in `f32` is right, to the rounding of its terms.
fn weights_of_any_size_side_by_side_are_right(backend: &dyn Backend<f32>, layout: &Layout, conv: Conv) {
    let layout = Layout { conv, features: layout.features.min(5), ..layout.clone() };
    if layout.features == 0 || layout.batch.topologies().iter().any(|t| t.n_incidences() > 500) {
        return;
    }
    let documented = conv.weight_use == WeightUse::Documented;
    // Of the degree alone, y and its gradients are as large as 1/w and 1/w².
    let (least, most) = if documented { (-149.0, 1.0) } else { (-40.0, 40.0) };
    let drawn = exponents_between(layout.seed ^ 31, layout.n_weights(), least, most);
    let weights: Vec<f32> = drawn.into_iter().map(|e| power_of_two(e as i32) as f32 * 1.25).collect();
    let mut operands = Operands::<f32> { weights, ..Operands::of(&layout) };
    thin_out(&mut operands.g, &layout);
    let results = run(&mut *operators(backend, &layout), &layout, &operands, Asked::ALL);

    // Below the smallest numbers, and for products of three powers of degrees below what three factors hold.
    let smallest = if conv.normalization == Normalization::Symmetric { 1e-31 } else { 1e-42 };
    let check = |what: &str, i: usize, a: f32, expected: f64, size: f64| {
        if size < 1e36 {
            let error = (f64::from(a) - expected).abs();
            let bound = 1e-5 * size + smallest;
            assert!(error <= bound, "{what} {i}: {a:e} instead of {expected:e}, of terms of {size:e}");
        }
    };
    let (mut grads, mut sizes) = (vec![0.0; operands.weights.len()], vec![0.0; operands.weights.len()]);
    for g in 0..layout.instances {
        let topology = layout.batch.topology(g);
        let alone = operands.alone(&layout, g);
        let [x, grad_y, w] = [&alone.x, &alone.g, &alone.weights].map(|values| widen(values));
        let dense = reference::conv(topology, layout.features, conv, &w, &x, &grad_y);
        let [x, grad_y] =
            [x, grad_y].map(|values| values.iter().map(|value| value.abs()).collect::<Vec<_>>());
        let size = reference::conv(topology, layout.features, conv, &w, &x, &grad_y);
        for (i, at) in layout.elements_of(g, false).enumerate() {
            check("y", at, results.y[at], dense.y[i], size.y[i]);
            check("grad_x", at, results.grad_x[at], dense.grad_x[i], size.grad_x[i]);
        }
        let of_weights = sizes_of_weight_gradients(topology, conv, &w, (&x, &grad_y), &size);
        for (e, (grad, size)) in dense.grad_weights.iter().zip(of_weights).enumerate() {
            grads[layout.offset(g) + e] += grad;
            sizes[layout.offset(g) + e] += size;
        }
    }
    for (i, (&grad, (expected, size))) in
        results.grad_weights.iter().zip(grads.into_iter().zip(sizes)).enumerate()
    {
        check("grad_weights", i, grad, expected, size);
    }
    // Of several instances both infinities may come together.
    if documented && (layout.instances == 1 || layout.windows == WindowKind::Consecutive) {
        assert!(results.grad_weights.iter().all(|grad| !grad.is_nan()), "{:?}", results.grad_weights);
    }
}

/// Weights at both ends of the type, zeros, infinities and NaN side by side have the same bits on both
/// backends.
fn extreme_weights_have_the_bits_of_the_cpu<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    conv: Conv,
) {
    let layout = &Layout { conv, ..layout.clone() };
    let (smallest, largest) = exponents::<T>();
    let signed = layout.conv.normalization != Normalization::Symmetric;
    let weight = |(exponent, kind): (f64, f64)| {
        let w = 1.3 * power_of_two(exponent as i32);
        T::acc(match kind {
            kind if kind < 0.1 => 0.0,
            kind if kind < 0.12 => f64::INFINITY,
            kind if kind < 0.14 => f64::NAN,
            kind if kind < 0.3 && signed => -w,
            _ => w,
        })
    };
    let drawn = exponents_between(layout.seed ^ 41, layout.n_weights(), smallest.into(), largest.into());
    let kinds = numbers(layout.seed ^ 42, layout.n_weights(), 0.0, 1.0);
    let weights = drawn.into_iter().zip(kinds).map(weight).collect();
    let mut operands = Operands::<T> { weights, ..Operands::of(layout) };
    thin_out(&mut operands.g, layout);
    let on = |backend: &dyn Backend<T>| {
        run(&mut *operators(backend, layout), layout, &operands, Asked::ALL).bits()
    };
    assert_eq!(on(&Cpu), on(backend), "in {}", T::NAME);
}

/// A normalization, with weights in the degree.
fn normalized() -> impl Strategy<Value = Conv> {
    let normalization = prop_oneof![Just(Normalization::Row), Just(Normalization::Symmetric)];
    let weight_use = prop_oneof![3 => Just(WeightUse::Documented), 1 => Just(WeightUse::DegreeOnly)];
    (normalization, weight_use).prop_map(|(normalization, weight_use)| Conv::new(normalization, weight_use))
}

per_backend! {
    on [cpu, cuda([Mode::PLAIN])], in [f32, f64, f16, bf16]:
    weights_at_the_ends_of_the_range_cancel_out;
    a_degree_that_is_not_finite_is_seen;
    the_smallest_degree_divides_as_it_says;
}

per_backend! {
    on [cpu, cuda([Mode::PLAIN])], in [f32]:
    a_pair_is_right_under_weights_of_any_scale;
}

per_backend! {
    on [cpu, cuda(cases(64))], in [any_type]:
    a_power_of_two_of_the_weights_cancels_out(&layout, k, symmetric)
        for layout in layout(), k in any::<prop::sample::Index>(), symmetric in any::<bool>();
}

per_backend! {
    on [cpu], in [any_type]:
    an_odd_power_of_two_cancels_out_but_for_rounding(&layout, k)
        for layout in layout(), k in any::<prop::sample::Index>();
}

per_backend! {
    on [cpu, cuda(cases(64))], in [f32]:
    weights_of_any_size_side_by_side_are_right(&layout, conv) for layout in layout(), conv in normalized();
}

per_backend! {
    on [cuda(cases(64))], in [any_type]:
    extreme_weights_have_the_bits_of_the_cpu(&layout, conv) for layout in layout(), conv in normalized();
}
