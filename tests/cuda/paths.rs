//! The paths of the convolution: the same bits on each, whatever the layout, the options and the mixture of
//! paths.

use hyperscatter::cuda::{Checks, Device, DeviceBatch, Orientation, Plan, Table};
use hyperscatter::{
    Axis, Batch, Conv, Error, Incidence, Normalization, Operator, Out, Path, Repeats, RowLayout, Rows,
    WeightUse, Weights,
};
use hyperscatter_emulator::interface::Order;
use proptest::prelude::*;

use super::gpu::{Cuda, Gpu, GpuElement, Mode, in_any_order, mode, to_device, to_host};
use super::operators::{driver_calls, long_rows, symmetric};
use crate::backend::{Backend, Cpu, Operators, Write};
use crate::common::{bits, cases, element_types, features, poison, weights, with_element};
use crate::layouts::{Layout, Place, WindowKind, layout};

/// What the kernels report and the bits of y, and of what lies between its rows.
fn conv<T: GpuElement>(
    layout: &Layout,
    operators: &mut dyn Operators<T>,
    write: Write,
) -> (String, Vec<u64>) {
    let n = layout.n_rows(false) * layout.features;
    let mut x: Vec<T> = features(layout.seed, n);
    if layout.seed.is_multiple_of(3) {
        poison(&mut x, layout.seed);
    }
    let y: Vec<T> = features(layout.seed ^ 1, n);
    // Of any sign, if a negative degree is to be reported.
    let signed = layout.seed.is_multiple_of(5);
    let w = weights::<T>(layout.seed ^ 2, layout.n_weights(), signed);
    let x = layout.spread(&x, layout.places[0], false, T::of(f64::NAN));
    let mut y = layout.spread(&y, layout.places[1], false, T::of(7.5));
    let table = layout.table();
    let report = operators.conv(x.rows(), layout.weights(&w, &table), None, write.to(y.rows_mut()));
    if let Err(error) = &report {
        assert!(matches!(error, Error::NegativeDegree { .. }), "{error}");
        // Which of several is reported depends on the order. What y is then, on none.
        return ("a negative degree".into(), vec![]);
    }
    (String::new(), [bits(&y.gathered()), bits(&y.gaps())].concat())
}

/// Each topology on the path that `single_block` wants for it, if it can be there.
fn some_paths(
    device: &Device,
    layout: &Layout,
    single_block: impl Fn(usize) -> bool,
    element: Paths,
) -> Vec<Path> {
    let chosen = element(&device.upload(&layout.batch).unwrap(), layout.features);
    let wanted = |(topology, path): (usize, Path)| if single_block(topology) { path } else { Path::Gather };
    chosen.into_iter().enumerate().map(wanted).collect()
}

type Paths = fn(&DeviceBatch, usize) -> Vec<Path>;

fn chosen<T: GpuElement>(batch: &DeviceBatch, features: usize) -> Vec<Path> {
    Plan::<T>::builder(batch, features).checks(Checks::On).build().unwrap().paths().to_vec()
}

fn paths_agree<T: GpuElement>(layout: &Layout, mode: Mode, write: Write, on_path: u64) {
    let cpu = {
        let mut operators =
            Cpu.operators(&layout.batch, layout.features, layout.conv, layout.max_instances()).unwrap();
        conv::<T>(layout, &mut *operators, write)
    };
    let cuda = Cuda::new(mode);
    let chosen = chosen::<T> as Paths;
    for mask in [0, u64::MAX, on_path] {
        let paths = some_paths(cuda.device(), layout, |topology| mask >> (topology % 64) & 1 == 1, chosen);
        let mut operators = cuda
            .operators_on::<T>(&layout.batch, layout.features, layout.conv, layout.max_instances(), &paths)
            .unwrap();
        assert_eq!(conv::<T>(layout, &mut *operators, write), cpu, "{paths:?} in {}", T::NAME);
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn paths_have_the_same_bits(
        layout in layout(),
        mode in mode(),
        write in prop_oneof![Just(Write::Overwrite), Just(Write::Accumulate)],
        on_path in any::<u64>(),
        element in element_types(),
    ) {
        with_element!(element, paths_agree(&layout, mode, write, on_path));
    }
}

/// What random layouts rarely have: rows of every length up to a segment, and more features than a group of
/// lanes takes at once, with all conventions.
#[test]
fn paths_have_the_same_bits_where_rows_are_long_and_wide() {
    let length = |len: usize| (0..len as u32).map(|i| i * 7 % 23).collect::<Vec<u32>>();
    let edges: Vec<Vec<u32>> = [0, 1, 7, 8, 9, 31, 32, 33, 100, 511, 512].map(length).into();
    let topology = Incidence::from_edges(24, &edges, Repeats::Keep).unwrap();
    let batch =
        Batch::from_table(vec![topology, Incidence::subsets(9, 2).unwrap()], &[0u8, 1, 0, 0]).unwrap();
    for (i, normalization) in
        [Normalization::Row, Normalization::Symmetric, Normalization::None].into_iter().enumerate()
    {
        for weight_use in [WeightUse::Documented, WeightUse::DegreeOnly, WeightUse::MessageOnly] {
            let layout = Layout {
                batch: batch.clone(),
                instances: 4,
                features: [68, 140, 33][i],
                windows: WindowKind::Consecutive,
                offsets: vec![0; 4],
                places: [Place::Contiguous; 5],
                conv: Conv::new(normalization, weight_use),
                seed: 8,
            };
            for (order, on_path) in [(Order::Forward, 1), (Order::Shuffled(4), 2)] {
                let mode = Mode { order, ..Mode::PLAIN };
                paths_agree::<f32>(&layout, mode, Write::Overwrite, on_path);
            }
            paths_agree::<hyperscatter::half::bf16>(&layout, Mode::QUICK, Write::Accumulate, 2);
        }
    }
}

/// One launch, which needs no rows in scratch memory.
#[test]
fn a_small_batch_takes_one_launch() {
    let gpu = Gpu::take();
    let Some(control) = gpu.control("counting launches") else { return };
    let stream = gpu.device().context().default_stream();
    let batch = Batch::replicate(Incidence::subsets(8, 2).unwrap());
    let batch = gpu.device().upload(&batch).unwrap();
    let (instances, f) = (5, 16);
    let plan = Plan::<f32>::builder(&batch, f).conv(symmetric()).checks(Checks::On).build().unwrap();
    assert_eq!(plan.paths(), [Path::SingleBlock]);
    let mut workspace = plan.workspace_for(&stream, instances, &[Operator::Conv]).unwrap();
    let x = to_device(&stream, &features::<f32>(1, instances * 8 * f));
    let w = to_device(&stream, &weights::<f32>(2, 28, false));
    let mut y = to_device(&stream, &vec![0f32; instances * 8 * f]);
    let calls = driver_calls(control, || {
        let y = Out::Overwrite(Rows::contiguous(&mut y, f));
        workspace.conv(Rows::contiguous(&x, f), Weights::shared(&w), y).unwrap();
    });
    assert_eq!(calls.get("cuLaunchKernel"), Some(&1));
    let explained = plan.explain(instances).unwrap();
    let conv = explained.operators.iter().find(|o| o.operator == Operator::Conv).unwrap();
    assert_eq!((conv.launches, &conv.kernels[..]), (1, &["conv_single_block_f32_checked"][..]));
    workspace.check().unwrap();
}

/// Rows of more than a segment are summed in segments, which one block does not do.
#[test]
fn long_rows_are_on_the_gather_path() {
    let gpu = Gpu::take();
    let batch = gpu.device().upload(&Batch::replicate(long_rows())).unwrap();
    let plan = Plan::<f32>::builder(&batch, 8).checks(Checks::On).build().unwrap();
    assert_eq!(plan.paths(), [Path::Gather]);
    let forced = Plan::<f32>::builder(&batch, 8).checks(Checks::On).paths(&[Path::SingleBlock]).build();
    assert!(matches!(forced, Err(Error::PathUnavailable { value: 605, bound: 512, .. })), "{forced:?}");
}

/// On the gather path, and on the single-block path, with checks and without.
#[test]
fn a_negative_degree_is_reported_on_each_path() {
    let pairs = Incidence::subsets(3, 2).unwrap();
    let host = Batch::from_table(vec![pairs.clone(), pairs], &[0u8, 1, 0, 1]).unwrap();
    // The second instance alone has a vertex of negative degree: its first.
    let mut w = vec![1f32; 12];
    (w[3], w[4]) = (-3.0, 0.5);
    let paths = [[Path::Gather; 2], [Path::SingleBlock; 2], [Path::Gather, Path::SingleBlock]];
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

/// A hyperedge index that is wrong takes its row of y alone, unless the degree reads it, too: then L is NaN,
/// and so is all that it scales. A wrong vertex index takes the row of z, and all rows of y that read that.
#[test]
fn a_wrong_index_poisons_the_rows_that_it_was_for() {
    let topology =
        Incidence::from_edges(5, &[vec![0u32, 1], vec![1, 2], vec![3, 4]], Repeats::Reject).unwrap();
    let at = RowLayout::contiguous(4).instances(2);
    // The vertex of position 2 of `by_edge` is the first of hyperedge 1, which vertices 1 and 2 have;
    // position 4 of `by_vertex` belongs to vertex 3, which has hyperedge 2 in common with vertex 4.
    // No degree reads an index under the first convention.
    let plain = Conv::new(Normalization::Row, WeightUse::MessageOnly);
    let weighted = Conv::new(Normalization::Symmetric, WeightUse::DegreeOnly);
    let cases = [
        (plain, Orientation::ByEdge, 2, vec![1, 2]),
        (plain, Orientation::ByVertex, 4, vec![3]),
        (weighted, Orientation::ByEdge, 2, vec![1, 2]),
        (weighted, Orientation::ByVertex, 4, vec![3, 4]),
    ];
    in_any_order(|gpu| {
        let stream = gpu.device().context().default_stream();
        for (path, (conv, orientation, position, nan)) in
            Path::ALL.iter().flat_map(|&path| cases.iter().map(move |case| (path, case)))
        {
            let mut batch = gpu.device().upload(&Batch::replicate(topology.clone())).unwrap();
            batch.overwrite_table(Table::Indices(*orientation), *position, &[5]).unwrap();
            let plan = Plan::<f32>::builder(&batch, 4)
                .conv(*conv)
                .checks(Checks::On)
                .paths(&[path])
                .build()
                .unwrap();
            let mut workspace = plan.workspace(&stream, 2).unwrap();
            let x = to_device(&stream, &features::<f32>(1, 40));
            let w = to_device(&stream, &[1f32; 3]);
            let mut y = to_device(&stream, &[0f32; 40]);
            let to = Out::Overwrite(Rows::new(&mut y, at));
            workspace.conv(Rows::new(&x, at), Weights::shared(&w), to).unwrap();
            let report = workspace.check();
            let Err(Error::IndexOutOfBounds { kernel, value: 5, .. }) = report else { panic!("{report:?}") };
            assert_eq!(kernel.starts_with("conv_single_block"), path == Path::SingleBlock, "{kernel}");
            for (i, row) in to_host(&stream, &y, 40).chunks(4).enumerate() {
                let all = row.iter().all(|y| y.is_nan());
                assert!(all || row.iter().all(|y| y.is_finite()), "{path:?}: {row:?}");
                assert_eq!(all, nan.contains(&(i % 5)), "{path:?}: row {i}");
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

/// Small changes, which leave places within the tables: sizes that the two orientations disagree about, or
/// that no longer fit into shared memory. Nothing leaves its bounds, and wrong sizes are reported.
#[test]
fn plausible_words_of_topologies_are_survived() {
    // Words of a topology.
    const N_TARGETS: usize = 3;
    const N_SOURCES: usize = 4;
    let edges = [vec![0u32, 1], vec![1, 2, 3, 0, 1, 2, 3, 1, 2, 0], vec![]];
    let first = Incidence::from_edges(4, &edges, Repeats::Keep).unwrap();
    let wide = Incidence::from_edges(9, &[vec![8u32, 0]], Repeats::Keep).unwrap();
    let topologies = vec![first.clone(), Incidence::subsets(5, 2).unwrap(), wide];
    let table = Batch::from_table(topologies, &[0u8, 1, 2, 0]).unwrap();
    let single_block = [Path::SingleBlock; 3];
    // Of those on several paths, too, the tables are read as they are.
    let several = [Path::Gather, Path::SingleBlock, Path::Gather];
    let cases =
        [(&table, &single_block[..]), (&table, &several), (&Batch::replicate(first), &single_block[..1])];
    for (host, paths) in cases {
        let gpu = Gpu::take();
        gpu.set(Mode { deferred: false, ..Mode::PLAIN });
        if let Some(control) = gpu.control("rows that are listed twice, and rows of z that are not listed") {
            control.set_detect_races(false);
            control.set_fill_memory(true);
        }
        let stream = gpu.device().context().default_stream();
        let mut batch = gpu.device().upload(host).unwrap();
        let instances = host.n_instances().unwrap_or(3);
        let (f, at) = (4, RowLayout::contiguous(4).instances(instances));
        let n = host.start(Axis::Vertex, instances) * f;
        let x = to_device(&stream, &features::<f32>(1, n));
        let w = to_device(&stream, &weights::<f32>(2, host.largest(Axis::Hyperedge), false));
        let run = |batch: &DeviceBatch| {
            let plan = Plan::<f32>::builder(batch, f)
                .conv(symmetric())
                .checks(Checks::On)
                .paths(paths)
                .build()
                .unwrap();
            let mut workspace = plan.workspace_for(&stream, instances, &[Operator::Conv]).unwrap();
            let mut y = to_device(&stream, &vec![0f32; n]);
            let to = Out::Overwrite(Rows::new(&mut y, at));
            workspace.conv(Rows::new(&x, at), Weights::shared(&w), to).unwrap();
            let report = workspace.check();
            let y = to_host(&stream, &y, n);
            drop(workspace);
            // The batch is free once the event of the workspace has passed.
            stream.synchronize().unwrap();
            (report, y)
        };
        let (report, right) = run(&batch);
        report.unwrap();
        for orientation in [Orientation::ByEdge, Orientation::ByVertex] {
            let table = Table::Topologies(orientation);
            let words = batch.read_table(table).unwrap();
            for (position, &word) in words.iter().enumerate() {
                for value in (0..12).filter(|&value| value != word) {
                    batch.overwrite_table(table, position, &[value]).unwrap();
                    let (report, _) = run(&batch);
                    // The numbers of rows and of sources.
                    let is_size = [N_TARGETS, N_SOURCES].contains(&(position % 10));
                    match report {
                        Ok(()) => assert!(!is_size, "{paths:?}: {table:?}, {position}: {value}"),
                        Err(Error::IndexOutOfBounds { value, bound, .. }) => assert!(value >= bound),
                        Err(Error::NegativeDegree { value, .. }) => assert!(value < 0.0),
                        Err(other) => panic!("{other}"),
                    }
                }
                batch.overwrite_table(table, position, &[word]).unwrap();
            }
        }
        if host.topologies().len() > 1 {
            // Pairs of five with nine vertices, as the last topology: more than the block has memory for.
            batch.overwrite_table(Table::Topologies(Orientation::ByEdge), 10 + N_SOURCES, &[9]).unwrap();
            batch.overwrite_table(Table::Topologies(Orientation::ByVertex), 10 + N_TARGETS, &[9]).unwrap();
            let (report, _) = run(&batch);
            let Err(Error::IndexOutOfBounds { table, instance: 1, .. }) = report else {
                panic!("{report:?}")
            };
            assert!(table.ends_with(".topologies"), "{table}");
            batch.overwrite_table(Table::Topologies(Orientation::ByEdge), 10 + N_SOURCES, &[5]).unwrap();
            batch.overwrite_table(Table::Topologies(Orientation::ByVertex), 10 + N_TARGETS, &[5]).unwrap();
        }
        let (report, y) = run(&batch);
        report.unwrap();
        assert_eq!(bits(&y), bits(&right));
    }
}
