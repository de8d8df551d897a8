//! The paths of the convolution: on each the bits of the CPU, whatever the layout, the options and the
//! mixture of paths.

use hyperscatter::cuda::{Checks, Device, DeviceBatch, Orientation, Plan, Request, Table};
use hyperscatter::{
    Axis, Batch, Conv, Error, Incidence, Normalization, Operator, Out, Path, Repeats, RowLayout, Rows,
    WeightUse, Weights, Windows,
};
use hyperscatter_emulator::interface::Order;
use proptest::prelude::*;

use super::gpu::{Cuda, Gpu, GpuElement, Mode, in_any_order, is_quick, mode, to_device, to_host};
use super::operators::{driver_calls, long_rows, symmetric};
use crate::backend::{Backend, Cpu, Operators, Write};
use crate::common::{bits, cases, element_types, features, poison, weights, with_element};
use crate::layouts::{Layout, Place, WindowKind, layout};

/// What the kernels report, and the bits of y, of both gradients, and of what lies between rows.
fn conv<T: GpuElement>(
    layout: &Layout,
    operators: &mut dyn Operators<T>,
    write: Write,
) -> (String, Vec<u64>) {
    let n = layout.n_rows(false) * layout.features;
    let mut x: Vec<T> = features(layout.seed, n);
    let mut g: Vec<T> = features(layout.seed ^ 3, n);
    if layout.seed.is_multiple_of(3) {
        poison(&mut x, layout.seed);
        poison(&mut g, layout.seed ^ 1);
    }
    let y: Vec<T> = features(layout.seed ^ 1, n);
    // Of any sign, if a negative degree is to be reported.
    let signed = layout.seed.is_multiple_of(5);
    let w = weights::<T>(layout.seed ^ 2, layout.n_weights(), signed);
    let x = layout.spread(&x, layout.places[0], false, T::of(f64::NAN));
    let g = layout.spread(&g, layout.places[2], false, T::of(f64::NAN));
    let mut grad_x = layout.spread(&y, layout.places[3], false, T::of(7.5));
    let mut y = layout.spread(&y, layout.places[1], false, T::of(7.5));
    let mut grad_weights = w.clone();
    let table = layout.table();
    let windows = layout.weights(&w, &table);
    let report = operators.conv(x.rows(), windows, None, write.to(y.rows_mut()));
    if let Err(error) = &report {
        assert!(matches!(error, Error::NegativeDegree { .. }), "{error}");
        // Which of several is reported depends on the order. What y is then, on none.
        return ("a negative degree".into(), vec![]);
    }
    // One of the gradients may be skipped.
    let rows = if layout.seed % 7 == 1 { Out::Skip } else { write.to(grad_x.rows_mut()) };
    let of_weights = if layout.seed % 7 == 2 { Out::Skip } else { write.to(&mut grad_weights[..]) };
    operators.conv_backward(x.rows(), None, windows, g.rows(), rows, of_weights).unwrap();
    let gradients = [bits(&grad_x.gathered()), bits(&grad_x.gaps()), bits(&grad_weights)].concat();
    (String::new(), [bits(&y.gathered()), bits(&y.gaps()), gradients].concat())
}

/// Each topology on the dense path where that is wanted and possible, and else on the gathers.
fn some_paths(batch: &Batch, dense: impl Fn(usize) -> bool) -> Vec<Path> {
    let can_be_dense = |topology: &Incidence| {
        let alone = Batch::replicate(topology.clone());
        hyperscatter::cpu::Plan::<f32>::builder(&alone, 1).paths(&[Path::Dense]).build().is_ok()
    };
    let wanted =
        |(id, topology)| if dense(id) && can_be_dense(topology) { Path::Dense } else { Path::Gather };
    batch.topologies().iter().enumerate().map(wanted).collect()
}

fn backends_agree<T: GpuElement>(layout: &Layout, mode: Mode, write: Write, dense: u64) {
    let cuda = Cuda::new(mode);
    let Layout { batch, features, conv: convention, .. } = layout;
    for mask in [0, u64::MAX, dense] {
        let paths = some_paths(batch, |topology| mask >> (topology % 64) & 1 == 1);
        let max = layout.max_instances();
        let on = |backend: &dyn Backend<T>| {
            let operators = backend.operators_on(batch, *features, *convention, max, Some(&paths));
            conv::<T>(layout, &mut *operators.unwrap(), write)
        };
        assert_eq!(on(&cuda), on(&Cpu), "{paths:?} in {}", T::NAME);
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn backends_have_the_same_bits_on_each_path(
        layout in layout(),
        mode in mode(),
        write in prop_oneof![Just(Write::Overwrite), Just(Write::Accumulate)],
        dense in any::<u64>(),
        element in element_types(),
    ) {
        with_element!(element, backends_agree(&layout, mode, write, dense));
    }
}

/// What random layouts rarely have: rows of every length up to a segment, classes of all sizes, and more
/// features than a group of lanes or a block takes at once, with all conventions.
#[test]
fn backends_have_the_same_bits_where_rows_are_long_and_wide() {
    let length = |len: usize| (0..len as u32).map(|i| i * 7 % 23).collect::<Vec<u32>>();
    let edges: Vec<Vec<u32>> = [0, 1, 7, 8, 9, 31, 32, 33, 100, 511, 512].map(length).into();
    let topology = Incidence::from_edges(24, &edges, Repeats::Keep).unwrap();
    let subsets = |n, k| Incidence::subsets(n, k).unwrap();
    let topologies = vec![topology, subsets(9, 2), subsets(16, 2), subsets(3, 3), subsets(7, 3)];
    let batch = Batch::from_table(topologies, &[0u8, 1, 0, 2, 3, 4]).unwrap();
    for (i, normalization) in
        [Normalization::Row, Normalization::Symmetric, Normalization::None].into_iter().enumerate()
    {
        for weight_use in [WeightUse::Documented, WeightUse::DegreeOnly, WeightUse::MessageOnly] {
            let layout = Layout {
                batch: batch.clone(),
                instances: 6,
                features: [68, 140, 33][i],
                windows: [WindowKind::Consecutive, WindowKind::Shared, WindowKind::Table][i],
                offsets: vec![0; 6],
                places: [Place::Contiguous; 5],
                conv: Conv::new(normalization, weight_use),
                seed: 8,
            };
            for (order, dense) in [(Order::Forward, 1), (Order::Shuffled(4), 2)] {
                let mode = Mode { order, ..Mode::PLAIN };
                backends_agree::<f32>(&layout, mode, Write::Overwrite, dense);
            }
            backends_agree::<hyperscatter::half::bf16>(&layout, Mode::QUICK, Write::Accumulate, 2);
        }
    }
}

/// Products of rows are added over chunks of instances, in a tree: of one chunk, of a few and of more than
/// one launch adds; rows of more slices than a class has slots, and rows that are no whole slices.
#[test]
fn backends_have_the_same_bits_where_many_instances_share_a_window() {
    fn agree<T: GpuElement>(n: usize, features: usize, instances: usize, conv: Conv) {
        let layout = Layout {
            batch: Batch::replicate(Incidence::subsets(n, 2).unwrap()),
            instances,
            features,
            windows: WindowKind::Shared,
            offsets: vec![0; instances],
            places: [Place::Contiguous; 5],
            conv,
            seed: 11,
        };
        backends_agree::<T>(&layout, Mode::QUICK, Write::Overwrite, u64::MAX);
    }
    // One part of vertices, two, three and four, each connected with all others.
    for (i, n) in [2, 9, 20, 31].into_iter().enumerate() {
        for (features, instances) in [(516, 1), (515, 3), (130, 10), (3, 130)] {
            let conv = [Conv::default(), symmetric()][(i + features) % 2];
            agree::<f32>(n, features, instances, conv);
            // Where calls take long, one of the other types.
            if is_quick() || (i + instances) % 2 == 0 {
                agree::<f64>(n, features, instances, conv);
            }
            if is_quick() || (i + instances) % 2 == 1 {
                agree::<hyperscatter::half::f16>(n, features, instances, conv);
            }
        }
    }
    // A chunk is one instance.
    for instances in [128, 129, 300] {
        agree::<f32>(2, 516, instances, Conv::default());
    }
}

/// y and ∂x of these rows, which are x and ∂loss/∂y, of copies on the dense path with weights of 1.
fn on_dense_path(
    backend: &dyn Backend<f32>,
    topology: &Incidence,
    instances: usize,
    is_shared: bool,
    rows: &[f32],
) -> [Vec<f32>; 2] {
    let features = rows.len() / (instances * topology.n_vertices());
    let w = vec![1.0f32; topology.n_hyperedges() * if is_shared { 1 } else { instances }];
    let weights = || match is_shared {
        true => hyperscatter::Weights::shared(&w[..]),
        false => hyperscatter::Weights::consecutive(&w[..]),
    };
    let batch = Batch::replicate(topology.clone());
    let [mut y, mut grad_x] = [(); 2].map(|()| vec![f32::NAN; rows.len()]);
    let at = RowLayout::contiguous(features).instances(instances);
    let mut operators =
        backend.operators_on(&batch, features, Conv::default(), instances, Some(&[Path::Dense])).unwrap();
    let x = || Rows::new(rows, at);
    operators.conv(x(), weights(), None, Out::Overwrite(Rows::new(&mut y[..], at))).unwrap();
    let to = Out::Overwrite(Rows::new(&mut grad_x[..], at));
    operators.conv_backward(x(), None, weights(), x(), to, Out::Skip).unwrap();
    [y, grad_x]
}

/// The backends that have loops of their own for cliques: kernels with checks have none.
fn with_plain_loops() -> (Cpu, Cuda) {
    (Cpu, Cuda::new(Mode { checks: Checks::Off, ..Mode::PLAIN }))
}

/// A sum that underflows to -0 stays -0: vertices that a class has and a topology does not are no terms.
#[test]
fn sums_that_underflow_have_the_same_sign_in_classes_that_are_not_full() {
    let (cpu, cuda) = with_plain_loops();
    // Not of 17 to 24 vertices: a part of them that is empty adds a sum of no terms, which is +0.
    for n in (2..=16).chain([25, 31, 32]) {
        let topology = Incidence::subsets(n, 2).unwrap();
        let rows = vec![-f32::from_bits(1); 5 * n * 4];
        for is_shared in [true, false] {
            for backend in [&cpu as &dyn Backend<f32>, &cuda] {
                for (name, found) in
                    ["y", "∂x"].into_iter().zip(on_dense_path(backend, &topology, 5, is_shared, &rows))
                {
                    let is_same = found.iter().all(|value| value.to_bits() == (-0.0f32).to_bits());
                    assert!(is_same, "{name}, {n} vertices, shared: {is_shared}");
                }
            }
        }
    }
}

/// An infinity reaches vertices that share a hyperedge with it and no others, also where kernels have a loop
/// for cliques that asks nothing.
#[test]
fn an_infinity_in_a_chain_reaches_its_neighbors_alone() {
    let (cpu, cuda) = with_plain_loops();
    for n in [3usize, 8, 9, 16, 17] {
        let edges: Vec<_> = (1..n as u32).map(|v| vec![v - 1, v]).collect();
        let topology = Incidence::from_edges(n, &edges, Repeats::Keep).unwrap();
        let rows: Vec<f32> =
            (0..5 * n * 4).map(|i| if i / 4 % n == 0 { f32::INFINITY } else { 1.0 }).collect();
        for is_shared in [true, false] {
            for backend in [&cpu as &dyn Backend<f32>, &cuda] {
                for (name, found) in
                    ["y", "∂x"].into_iter().zip(on_dense_path(backend, &topology, 5, is_shared, &rows))
                {
                    let is_right = |(i, value): (usize, &f32)| value.is_finite() == (i / 4 % n > 1);
                    let are_right = found.iter().enumerate().all(is_right);
                    assert!(are_right, "{name}, {n} vertices, shared: {is_shared}");
                }
            }
        }
    }
}

/// Rows that are copied to shared memory asynchronously, and rows that are loaded where they are needed, give
/// the bits of the CPU: with all, some and a few of the vertices of a class, whole vectors and single
/// features, more slices than slots, windows for all and for each, gradients that are skipped or added to.
#[test]
fn stages_have_the_bits_of_direct_loads() {
    fn agree<T: GpuElement>(gpu: &Gpu, copies_async: bool, has_stages: bool) {
        let device = Device::open(gpu.ordinal()).unwrap();
        let capability = device.context().compute_capability().unwrap();
        let is_staged = has_stages && copies_async && capability >= (8, 0);
        let stream = device.context().default_stream();
        let mut number = 0;
        // A block has up to 11 small instances, so that 25 are several blocks.
        for (n, f, instances) in
            [(16, 64, 7), (16, 516, 3), (9, 20, 7), (12, 7, 7), (10, 130, 7), (16, 1, 25), (12, 4, 25)]
        {
            let topology = Incidence::subsets(n, 2).unwrap();
            let edges = topology.n_hyperedges();
            let batch = Batch::replicate(topology);
            let uploaded = device.upload(&batch).unwrap();
            let plan = Plan::<T>::builder(&uploaded, f).conv(symmetric()).checks(Checks::Off);
            let plan = plan.copies_async(copies_async).build().unwrap();
            let mut workspace = plan.workspace(&stream, instances).unwrap();
            let mut on_cpu = hyperscatter::cpu::Plan::<T>::builder(&batch, f)
                .conv(symmetric())
                .build()
                .unwrap()
                .workspace(instances)
                .unwrap();
            let len = instances * n * f;
            let (x, g) = (features::<T>(1, len), features::<T>(2, len));
            for (is_shared, skipped) in [(true, 0), (false, 0), (true, 1), (false, 2)] {
                let w = weights::<T>(3, if is_shared { edges } else { instances * edges }, false);
                let (mut rows, mut of_weights) = (features::<T>(4, len), w.clone());
                let at = RowLayout::contiguous(f).instances(instances);
                let write = if skipped == 1 { Write::Overwrite } else { Write::Accumulate };
                let [x_there, g_there] = [&x, &g].map(|values| to_device(&stream, values));
                let [mut rows_there] = [&rows].map(|values| to_device(&stream, values));
                let [w_there, mut of_weights_there] =
                    [&w, &of_weights].map(|values| to_device(&stream, values));
                let weights_there = match is_shared {
                    true => Weights::shared(w_there.as_view()),
                    false => Weights::consecutive(w_there.as_view()),
                };
                let weights_here = match is_shared {
                    true => hyperscatter::Weights::shared(&w[..]),
                    false => hyperscatter::Weights::consecutive(&w[..]),
                };
                let to = if skipped == 1 { Out::Skip } else { write.to(Rows::new(&mut rows_there, at)) };
                let to_weights =
                    if skipped == 2 { Out::Skip } else { write.to(of_weights_there.as_view_mut()) };
                workspace
                    .conv_backward(
                        Rows::new(&x_there, at),
                        weights_there,
                        Rows::new(&g_there, at),
                        to,
                        to_weights,
                    )
                    .unwrap();
                let to = if skipped == 1 { Out::Skip } else { write.to(Rows::new(&mut rows[..], at)) };
                let to_weights = if skipped == 2 { Out::Skip } else { write.to(&mut of_weights[..]) };
                on_cpu
                    .conv_backward(Rows::new(&x[..], at), weights_here, Rows::new(&g[..], at), to, to_weights)
                    .unwrap();
                let found = [
                    bits(&to_host(&stream, &rows_there, len)),
                    bits(&to_host(&stream, &of_weights_there, of_weights.len())),
                ];
                let case = format!("{} {capability:?}: {n} vertices, {f} features", T::NAME);
                assert_eq!(found, [bits(&rows), bits(&of_weights)], "{case}, {is_shared}, {skipped}");
                number += 1;
            }
        }
        assert_eq!(number, 28);
        // Without features there is no step, and nothing to copy.
        let uploaded = device.upload(&Batch::replicate(Incidence::subsets(12, 2).unwrap())).unwrap();
        let plan = Plan::<T>::builder(&uploaded, 0).checks(Checks::Off).copies_async(copies_async);
        let plan = plan.build().unwrap();
        let mut workspace = plan.workspace_for(&stream, 3, &[Operator::Gram]).unwrap();
        let none = to_device::<T>(&stream, &[]);
        let mut gram = to_device(&stream, &[weights::<T>(5, 1, false)[0]; 3 * 144]);
        let x = Rows::new(&none, RowLayout::contiguous(0).instances(3));
        workspace.gram(x, Out::Overwrite(gram.as_view_mut())).unwrap();
        assert!(to_host(&stream, &gram, 3 * 144).iter().all(|&product| product == T::acc(0.0)));
        let has = |name: &str| device.loaded_modules().iter().any(|module| module.name == name);
        let names = ["dense16_backward_async_", "dense16_backward_"].map(|name| format!("{name}{}", T::NAME));
        assert_eq!(names.map(|name| has(&name)), [is_staged, !is_staged], "{capability:?}");
    }
    // A real GPU has what it has: there the plan says which kernels are used.
    for (capability, copies_async) in [((7, 5), true), ((8, 0), true), ((9, 0), true), ((9, 0), false)] {
        let gpu = Gpu::take();
        gpu.set(Mode::PLAIN);
        let control = if capability < (9, 0) { gpu.control("devices of other architectures") } else { None };
        if let Some(control) = control {
            control.set_compute_capability(capability.0, capability.1);
        } else if capability < (9, 0) {
            continue;
        }
        agree::<f32>(&gpu, copies_async, true);
        agree::<f64>(&gpu, copies_async, false);
        agree::<hyperscatter::half::f16>(&gpu, copies_async, true);
        agree::<hyperscatter::half::bf16>(&gpu, copies_async, true);
        if let Some(control) = control {
            control.set_compute_capability(9, 0);
        }
    }
}

/// How many launches small batches take, and what memory. Rows of hyperedges need none.
#[test]
fn a_small_batch_takes_few_launches() {
    let gpu = Gpu::take();
    let Some(control) = gpu.control("counting launches") else { return };
    let stream = gpu.device().context().default_stream();
    let batch = Batch::replicate(Incidence::subsets(8, 2).unwrap());
    let batch = gpu.device().upload(&batch).unwrap();
    let (instances, f) = (5, 16);
    let x = to_device(&stream, &features::<f32>(1, instances * 8 * f));
    let w = to_device(&stream, &weights::<f32>(2, 28 * instances, false));
    let mut y = to_device(&stream, &vec![0f32; instances * 8 * f]);
    let mut grad_w = to_device(&stream, &vec![0f32; 28 * instances]);
    for (checks, is_shared) in [Checks::On, Checks::Off].into_iter().flat_map(|c| [(c, true), (c, false)]) {
        let plan = Plan::<f32>::builder(&batch, f).checks(checks).build().unwrap();
        assert_eq!(plan.paths(), [Path::Dense]);
        let operators = [Operator::Conv, Operator::ConvBackward];
        let mut workspace = plan.workspace_for(&stream, instances, &operators).unwrap();
        let len = if is_shared { 28 } else { 28 * instances };
        let weights = || match is_shared {
            true => Weights::shared(w.slice(..len)),
            false => Weights::consecutive(w.as_view()),
        };
        let calls = driver_calls(control, || {
            let y = Out::Overwrite(Rows::contiguous(&mut y, f));
            workspace.conv(Rows::contiguous(&x, f), weights(), y).unwrap();
        });
        // Unchecked kernels form the operators of few instances themselves. With checks instances that have
        // operators of their own are found before.
        let finds = u64::from(checks == Checks::On && !is_shared);
        let launches = if checks == Checks::On { 2 + finds } else { 1 };
        assert_eq!(calls.get("cuLaunchKernel"), Some(&launches));
        // To form operators, for both gradients, and for the gradients of weights.
        let calls = driver_calls(control, || {
            let grad_x = Out::Overwrite(Rows::contiguous(&mut y, f));
            let grad_weights = Out::Overwrite(grad_w.slice_mut(..len));
            let (x, g) = (Rows::contiguous(&x, f), Rows::contiguous(&x, f));
            workspace.conv_backward(x, weights(), g, grad_x, grad_weights).unwrap();
        });
        assert_eq!(calls.get("cuLaunchKernel"), Some(&(3 + finds)));
        workspace.check().unwrap();
    }
    let plan = Plan::<f32>::builder(&batch, f).conv(symmetric()).checks(Checks::On).build().unwrap();
    let explained = plan.explain(instances).unwrap();
    let conv = explained.of(Operator::Conv);
    let kernels = ["dense_form_f32_checked", "dense8_conv_f32"];
    assert_eq!((conv.launches, &conv.kernels[..]), (2, &kernels[..]));
    let backward = explained.of(Operator::ConvBackward);
    let kernels = ["dense_form_f32_checked", "dense8_backward_f32", "dense_gradient_f32_checked"];
    assert_eq!((backward.launches, &backward.kernels[..]), (3, &kernels[..]));
    let own = Request::new(Operator::Conv, instances).weights(Windows::Consecutive);
    let kernels = ["dense_form_f32_checked", "dense_find_checked", "dense8_conv_f32"];
    assert_eq!(plan.explain_call(&own).unwrap().kernels, kernels);
    // A negative degree is reported where y is skipped, too: for that there are D, L and a shift of each
    // vertex. Each instance may have a window, and so an operator, of its own, and with checks is found.
    let (of_degrees, of_operator) = (instances * 8 * 3 * 4, (8 * 8 + 2 * 8 + 3 * 8) * 4);
    assert_eq!(conv.workspace_bytes, (of_degrees + instances * (of_operator + 56)) as u128);
    let by_rows = Plan::<f32>::builder(&batch, f).checks(Checks::Off).build().unwrap();
    // One operator for all instances that share a window: nothing grows with their number.
    assert_eq!(by_rows.workspace_bytes(1 << 20, &[Operator::Conv]).unwrap(), of_operator as u128);
    // 512 instances take three launches of their rows' gradients. More of them take more to add products.
    for (instances, launches) in [(512, 3), (8192, 3), (8193, 4), (1 << 20, 5), (1 << 30, 6)] {
        let explained = by_rows.explain_call(&Request::new(Operator::ConvBackward, instances)).unwrap();
        assert_eq!(explained.launches, launches, "{instances}");
    }
}

/// What has no dense operator, and what each of the reasons says.
#[test]
fn what_is_too_large_is_on_the_gather_path() {
    let gpu = Gpu::take();
    let many = Incidence::from_edges(33, &[vec![0u32, 32]], Repeats::Keep).unwrap();
    let repeated = Incidence::from_edges(2, &[vec![0u32; 200], vec![1; 200]], Repeats::Keep).unwrap();
    let sparse = Incidence::from_edges(20, &[vec![0u32, 19]], Repeats::Keep).unwrap();
    let wide = Incidence::from_edges(2, &vec![vec![0u32, 1]; 3000], Repeats::Keep).unwrap();
    let cases = [
        (long_rows(), Some(("incidences of a vertex", 605, 512))),
        (many, Some(("vertices", 33, 32))),
        (repeated, Some(("pairs of incidences", 80_000, 12_800))),
        (wide, Some(("incidences of a vertex", 3000, 512))),
        // It could be, but the gathers are faster.
        (sparse, None),
    ];
    for (topology, obstacle) in cases {
        let batch = gpu.device().upload(&Batch::replicate(topology)).unwrap();
        let plan = Plan::<f32>::builder(&batch, 8).checks(Checks::On).build().unwrap();
        assert_eq!(plan.paths(), [Path::Gather]);
        let forced = Plan::<f32>::builder(&batch, 8).checks(Checks::On).paths(&[Path::Dense]).build();
        match (forced, obstacle) {
            (Ok(plan), None) => assert_eq!(plan.paths(), [Path::Dense]),
            (Err(Error::PathUnavailable { what, value, bound, .. }), Some(expected)) => {
                assert_eq!((what, value, bound), expected);
            }
            (other, _) => panic!("{obstacle:?}: {other:?}"),
        }
    }
}

/// On the gather path, and on the dense path, with checks and without.
#[test]
fn a_negative_degree_is_reported_on_each_path() {
    let pairs = Incidence::subsets(3, 2).unwrap();
    let host = Batch::from_table(vec![pairs.clone(), pairs], &[0u8, 1, 0, 1]).unwrap();
    // The second instance alone has a vertex of negative degree: its first.
    let mut w = vec![1f32; 12];
    (w[3], w[4]) = (-3.0, 0.5);
    let paths = [[Path::Gather; 2], [Path::Dense; 2], [Path::Gather, Path::Dense]];
    in_any_order(|gpu| {
        let stream = gpu.device().context().default_stream();
        for (paths, checks) in paths.iter().flat_map(|p| [(p, Checks::On), (p, Checks::Off)]) {
            let batch = gpu.device().upload(&host).unwrap();
            let plan = Plan::<f32>::builder(&batch, 4)
                .conv(symmetric())
                .checks(checks)
                .paths(paths)
                .build()
                .unwrap();
            let mut workspace = plan.workspace(&stream, 4).unwrap();
            let x = to_device(&stream, &features::<f32>(1, 48));
            let mut y = to_device(&stream, &[0f32; 48]);
            let mut run = |w: &[f32]| {
                let w = to_device(&stream, w);
                let to = Out::Overwrite(Rows::contiguous(&mut y, 4));
                workspace.conv(Rows::contiguous(&x, 4), Weights::consecutive(&w), to).unwrap();
                (workspace.check(), to_host(&stream, &y, 48))
            };
            let (report, y) = run(&w);
            let Err(Error::NegativeDegree { instance, vertex, value }) = report else { panic!("{report:?}") };
            assert!(instance == 1 && vertex < 2 && value < 0.0, "{report:?}");
            // The rows that L is NaN for, and all that a hyperedge brings it to; no other instance's.
            assert!(y[..12].iter().chain(&y[24..]).all(|y| y.is_finite()), "{paths:?}: {y:?}");
            assert!(y[12..20].iter().all(|y| y.is_nan()), "{paths:?}: {y:?}");
            // The workspace goes on.
            let (report, y) = run(&[1.0; 12]);
            report.unwrap();
            assert!(y.iter().all(|y| y.is_finite()));
        }
    });
}

/// A topology that no instance has is not looked at, whatever its degrees with the shared weights would be.
#[test]
fn topologies_without_instances_report_nothing() {
    let joined = Incidence::from_edges(1, &[vec![0u32], vec![0]], Repeats::Reject).unwrap();
    let alone = Incidence::from_edges(1, &[vec![0u32], vec![]], Repeats::Reject).unwrap();
    let gpu = Gpu::take();
    let stream = gpu.device().context().default_stream();
    for (ids, is_negative) in [([0u8, 0], false), ([0, 1], true)] {
        let batch = Batch::from_table(vec![joined.clone(), alone.clone()], &ids).unwrap();
        let batch = gpu.device().upload(&batch).unwrap();
        for (path, checks) in Path::ALL.iter().flat_map(|&p| [(p, Checks::On), (p, Checks::Off)]) {
            let plan =
                Plan::<f32>::builder(&batch, 4).conv(symmetric()).checks(checks).paths(&[path; 2]).build();
            let mut workspace = plan.unwrap().workspace(&stream, 2).unwrap();
            let (x, w) = (to_device(&stream, &[1f32; 8]), to_device(&stream, &[-1f32, 5.0]));
            let mut y = to_device(&stream, &[0f32; 8]);
            let to = Out::Overwrite(Rows::contiguous(&mut y, 4));
            workspace.conv(Rows::contiguous(&x, 4), Weights::shared(&w), to).unwrap();
            let report = workspace.check();
            match report {
                Ok(()) => assert!(!is_negative, "{path:?}"),
                Err(Error::NegativeDegree { instance: 1, vertex: 0, value: -1.0 }) => assert!(is_negative),
                other => panic!("{path:?}: {other:?}"),
            }
        }
    }
}

/// Of two vertices of negative degree the product is positive, but their degrees have no roots.
#[test]
fn rows_of_negative_degrees_are_nan_on_each_path() {
    let gpu = Gpu::take();
    let stream = gpu.device().context().default_stream();
    let batch = gpu.device().upload(&Batch::replicate(Incidence::subsets(2, 2).unwrap())).unwrap();
    for &path in Path::ALL {
        let plan =
            Plan::<f32>::builder(&batch, 4).conv(symmetric()).checks(Checks::On).paths(&[path]).build();
        let mut workspace = plan.unwrap().workspace(&stream, 1).unwrap();
        let (x, w) = (to_device(&stream, &[1f32; 8]), to_device(&stream, &[-1f32]));
        let mut y = to_device(&stream, &[0f32; 8]);
        let to = Out::Overwrite(Rows::contiguous(&mut y, 4));
        workspace.conv(Rows::contiguous(&x, 4), Weights::shared(&w), to).unwrap();
        assert!(matches!(workspace.check(), Err(Error::NegativeDegree { value: -1.0, .. })));
        assert!(to_host(&stream, &y, 8).iter().all(|y| y.is_nan()), "{path:?}");
    }
}

/// On the gather path a hyperedge index that is wrong takes its row of y alone, unless the degree reads it,
/// too: then L is NaN, and so is all that it scales. A wrong vertex index takes the row of z, and all rows of
/// y that read that. On the dense path a value takes the rows whose entries it is for.
#[test]
fn a_wrong_index_poisons_the_rows_that_it_was_for() {
    let topology =
        Incidence::from_edges(5, &[vec![0u32, 1], vec![1, 2], vec![3, 4]], Repeats::Reject).unwrap();
    let at = RowLayout::contiguous(4).instances(2);
    // No degree reads an index under the first convention.
    let plain = Conv::new(Normalization::Row, WeightUse::MessageOnly);
    let weighted = Conv::new(Normalization::Symmetric, WeightUse::DegreeOnly);
    let cases = [
        // The first vertex of hyperedge 1, which vertices 1 and 2 have; and the hyperedge of vertex 3, which
        // it has in common with vertex 4.
        (plain, Path::Gather, Table::Indices(Orientation::ByEdge), 2, 5, vec![1, 2]),
        (plain, Path::Gather, Table::Indices(Orientation::ByVertex), 4, 5, vec![3]),
        (weighted, Path::Gather, Table::Indices(Orientation::ByEdge), 2, 5, vec![1, 2]),
        (weighted, Path::Gather, Table::Indices(Orientation::ByVertex), 4, 5, vec![3, 4]),
        (weighted, Path::Dense, Table::Indices(Orientation::ByVertex), 4, 5, vec![3, 4]),
        // The list of vertices 0 and 1: one hyperedge, of size 2, which is hyperedge 0. It is the second
        // list.
        (plain, Path::Dense, Table::PairLists, 5, 5, vec![0, 1]),
        (plain, Path::Dense, Table::PairLists, 3, 7, vec![0, 1]),
        // That list belongs to vertices that are not there, or starts behind its end.
        (plain, Path::Dense, Table::Pairs, 2, 5 << 16, vec![0, 1]),
        (plain, Path::Dense, Table::Pairs, 3, 30, vec![0, 1]),
        (plain, Path::Dense, Table::Neighbors, 3, 1 << 5, vec![3]),
    ];
    in_any_order(|gpu| {
        let stream = gpu.device().context().default_stream();
        for (conv, path, table, position, wrong, nan) in &cases {
            let mut batch = gpu.device().upload(&Batch::replicate(topology.clone())).unwrap();
            batch.overwrite_table(*table, *position, &[*wrong]).unwrap();
            let paths = [*path];
            let plan = Plan::<f32>::builder(&batch, 4).conv(*conv).checks(Checks::On).paths(&paths);
            let plan = plan.build().unwrap();
            let mut workspace = plan.workspace(&stream, 2).unwrap();
            let x = to_device(&stream, &features::<f32>(1, 40));
            let w = to_device(&stream, &[1f32; 6]);
            let mut y = to_device(&stream, &[0f32; 40]);
            for weights in [Weights::shared(w.slice(..3)), Weights::consecutive(w.as_view())] {
                let to = Out::Overwrite(Rows::new(&mut y, at));
                workspace.conv(Rows::new(&x, at), weights, to).unwrap();
                let report = workspace.check();
                let Err(Error::IndexOutOfBounds { kernel, table: named, .. }) = report else {
                    panic!("{table:?}: {report:?}")
                };
                assert_eq!((kernel.starts_with("dense_form"), named), (*path == Path::Dense, table.name()));
                for (i, row) in to_host(&stream, &y, 40).chunks(4).enumerate() {
                    let all = row.iter().all(|y| y.is_nan());
                    assert!(all || row.iter().all(|y| y.is_finite()), "{table:?}: {row:?}");
                    assert_eq!(all, nan.contains(&(i % 5)), "{table:?}, {position}: row {i}");
                }
            }
        }
    });
}

/// A vertex of degree 0 takes no part: not in z where its features are not finite, and not of z that is not.
#[test]
fn a_vertex_of_degree_zero_is_left_out_on_each_path() {
    let topology = Incidence::from_edges(3, &[vec![0u32, 1], vec![1, 2]], Repeats::Reject).unwrap();
    let conv = Conv::new(Normalization::Symmetric, WeightUse::DegreeOnly);
    let at = RowLayout::contiguous(4).instances(1);
    in_any_order(|gpu| {
        let stream = gpu.device().context().default_stream();
        let batch = gpu.device().upload(&Batch::replicate(topology.clone())).unwrap();
        // Vertex 0 has the degree 0; the features of one vertex are NaN, and so are these rows of y.
        for (&path, (vertex, nan)) in
            Path::ALL.iter().flat_map(|path| [(path, (0, [false; 3])), (path, (1, [false, true, true]))])
        {
            let plan =
                Plan::<f32>::builder(&batch, 4).conv(conv).checks(Checks::On).paths(&[path]).build().unwrap();
            let mut workspace = plan.workspace(&stream, 1).unwrap();
            let mut x = [1f32; 12];
            x[vertex * 4..][..4].fill(f32::NAN);
            let (x, w) = (to_device(&stream, &x), to_device(&stream, &[0f32, 1.0]));
            let mut y = to_device(&stream, &[7f32; 12]);
            let to = Out::Overwrite(Rows::new(&mut y, at));
            workspace.conv(Rows::new(&x, at), Weights::shared(&w), to).unwrap();
            workspace.check().unwrap();
            let y = to_host(&stream, &y, 12);
            assert_eq!(y[..4], [0.0; 4], "{path:?}");
            for (v, row) in y.chunks(4).enumerate() {
                assert!(row.iter().all(|y| y.is_nan() == nan[v]), "{path:?}: {y:?}");
            }
        }
    });
}

/// Small changes of what the dense path reads, which leave places within the tables: nothing leaves its
/// bounds, what is reported is a violation, and the batch is as good as before once the value is back.
#[test]
fn plausible_values_of_dense_tables_are_survived() {
    let edges = [vec![0u32, 1], vec![1, 2, 3, 0, 1, 2, 3, 1, 2, 0], vec![]];
    let first = Incidence::from_edges(4, &edges, Repeats::Keep).unwrap();
    let wide = Incidence::from_edges(9, &[vec![8u32, 0]], Repeats::Keep).unwrap();
    let topologies = vec![first.clone(), Incidence::subsets(5, 2).unwrap(), wide];
    let table = Batch::from_table(topologies, &[0u8, 1, 2, 0]).unwrap();
    let dense = [Path::Dense; 3];
    let tables = [
        Table::DenseTopologies,
        Table::Neighbors,
        Table::Pairs,
        Table::PairLists,
        Table::Topologies(Orientation::ByVertex),
        Table::Pointers(Orientation::ByVertex),
        Table::Indices(Orientation::ByVertex),
        Table::Topologies(Orientation::ByEdge),
        Table::Pointers(Orientation::ByEdge),
        Table::Indices(Orientation::ByEdge),
    ];
    let mixed = [Path::Gather, Path::Dense, Path::Gather];
    let cases = [(table.clone(), &dense[..]), (table, &mixed[..]), (Batch::replicate(first), &dense[..1])];
    for (case, (host, paths)) in cases.into_iter().enumerate() {
        let gpu = Gpu::take();
        gpu.set(Mode { deferred: false, ..Mode::PLAIN });
        if let Some(control) =
            gpu.control("races of pairs that claim to be the same, and what nobody computed")
        {
            control.set_detect_races(false);
            control.set_fill_memory(true);
        }
        let stream = gpu.device().context().default_stream();
        let mut batch = gpu.device().upload(&host).unwrap();
        let instances = host.n_instances().unwrap_or(3);
        let (f, at) = (4, RowLayout::contiguous(4).instances(instances));
        let n = host.start(Axis::Vertex, instances) * f;
        let x = to_device(&stream, &features::<f32>(1, n));
        let w = to_device(&stream, &weights::<f32>(2, host.start(Axis::Hyperedge, instances), false));
        let run = |batch: &DeviceBatch, is_shared: bool| {
            let plan = Plan::<f32>::builder(batch, f).conv(symmetric()).checks(Checks::On).paths(paths);
            let plan = plan.build().unwrap();
            let operators = [Operator::Conv, Operator::ConvBackward];
            let mut workspace = plan.workspace_for(&stream, instances, &operators).unwrap();
            let mut y = to_device(&stream, &vec![0f32; n]);
            let mut grad_x = to_device(&stream, &vec![0f32; n]);
            let len = if is_shared { host.largest(Axis::Hyperedge) } else { w.len() };
            let mut grad_w = to_device(&stream, &vec![0f32; len]);
            let weights = || match is_shared {
                true => Weights::shared(w.slice(..len)),
                false => Weights::consecutive(w.as_view()),
            };
            workspace.conv(Rows::new(&x, at), weights(), Out::Overwrite(Rows::new(&mut y, at))).unwrap();
            let forward = workspace.check();
            let (rows, of_weights) =
                (Out::Overwrite(Rows::new(&mut grad_x, at)), Out::Overwrite(grad_w.as_view_mut()));
            workspace
                .conv_backward(Rows::new(&x, at), weights(), Rows::new(&x, at), rows, of_weights)
                .unwrap();
            let report = forward.and(workspace.check());
            let y = [to_host(&stream, &y, n), to_host(&stream, &grad_x, n), to_host(&stream, &grad_w, len)];
            let y = y.concat();
            drop(workspace);
            // The batch is free once the event of the workspace has passed.
            stream.synchronize().unwrap();
            (report, y)
        };
        let right = [true, false].map(|is_shared| {
            let (report, y) = run(&batch, is_shared);
            report.unwrap();
            bits(&y)
        });
        let mut reports = 0;
        for table in tables {
            let words = batch.read_table(table).unwrap();
            for (position, &word) in words.iter().enumerate() {
                let values = [0, 4, word + 1, word.wrapping_sub(1) & 0xffff_ffff, 1 << 31];
                // Where calls take long, a word becomes every other of these, the others in the next case.
                let (first, step) = if is_quick() { (0, 1) } else { ((position + case) % 2, 2) };
                for (k, value) in values.into_iter().enumerate().skip(first).step_by(step) {
                    batch.overwrite_table(table, position, &[value]).unwrap();
                    match run(&batch, (position / 2 + k / step).is_multiple_of(2)).0 {
                        Ok(()) => {}
                        Err(Error::IndexOutOfBounds { value, bound, .. }) => {
                            assert!(value >= bound);
                            reports += 1;
                        }
                        Err(Error::NegativeDegree { value, .. }) => assert!(value < 0.0),
                        Err(other) => panic!("{other}"),
                    }
                }
                batch.overwrite_table(table, position, &[word]).unwrap();
            }
        }
        assert!(reports > 100, "{reports}");
        for (is_shared, right) in [true, false].into_iter().zip(right) {
            let (report, y) = run(&batch, is_shared);
            report.unwrap();
            assert_eq!(bits(&y), right);
        }
    }
}
