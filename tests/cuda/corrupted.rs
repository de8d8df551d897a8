//! Corrupted tables under checks: the call ends, nothing leaves its bounds, an `Err` names a real violation,
//! and where there is none the result is what the tables say.
//!
//! Bounds are the emulated driver's to watch: its checked build reports every access outside an allocation.

use hyperscatter::cuda::{Checks, DeviceBatch, Orientation, Plan, Table};
use hyperscatter::{
    Axis, Batch, Conv, Error, Incidence, Normalization, Operator, Out, Path, Reduce, Repeats, Rows,
    WeightUse, Weights,
};
use hyperscatter_emulator::interface::Build;
use proptest::prelude::*;

use super::gpu::{Gpu, Mode, in_any_order, mode, step, stream, to_device, to_host};
use super::model::{Call, Outcome, Tables};
use crate::backend::StepKind;
use crate::common::{bits, features};
use crate::layouts::{Layout, layout};

/// One value of one table becomes another.
#[derive(Debug, Clone)]
struct Corruption {
    table: Which,
    position: prop::sample::Index,
    value: Value,
}

#[derive(Debug, Clone, Copy)]
enum Which {
    Any(prop::sample::Index),
    /// The table of topologies.
    First,
}

/// What a value becomes.
#[derive(Debug, Clone, Copy)]
pub enum Value {
    Small(u64),
    Plus(i64),
    Largest,
    /// That of another position of the table.
    Of(prop::sample::Index),
}

impl Value {
    pub fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            2 => (0u64..12).prop_map(Self::Small),
            3 => (-3i64..4).prop_map(Self::Plus),
            1 => prop_oneof![Just(1i64 << 31), Just(512), Just(-512), Just(600)].prop_map(Self::Plus),
            1 => Just(Self::Largest),
            2 => any::<prop::sample::Index>().prop_map(Self::Of),
        ]
    }

    /// The value at `position`, in a table whose values may be as large as `largest`.
    pub fn instead_of(self, values: &[u64], position: usize, largest: u64) -> u64 {
        match self {
            Self::Small(value) => value,
            Self::Plus(difference) => values[position].wrapping_add_signed(difference) & largest,
            Self::Largest => largest,
            Self::Of(other) => values[other.index(values.len())],
        }
    }
}

fn corruption() -> impl Strategy<Value = Corruption> {
    (any::<prop::sample::Index>(), any::<prop::sample::Index>(), Value::any())
        .prop_map(|(table, position, value)| Corruption { table: Which::Any(table), position, value })
}

/// Several words of one topology, or of neighbouring rows, each by a little: sizes that fit each other again,
/// and lie.
fn related() -> impl Strategy<Value = Vec<Corruption>> {
    let change =
        (any::<prop::sample::Index>(), prop_oneof![Just(-2i64), Just(-1), Just(1), Just(2), Just(512)]);
    (any::<bool>(), prop::collection::vec(change, 2..6)).prop_map(|(topologies, changes)| {
        let of = |(position, difference)| Corruption {
            table: if topologies { Which::First } else { Which::Any(position) },
            position,
            value: Value::Plus(difference),
        };
        changes.into_iter().map(of).collect()
    })
}

fn corruptions() -> impl Strategy<Value = Vec<Corruption>> {
    prop_oneof![3 => prop::collection::vec(corruption(), 0..4), 1 => related()]
}

/// The largest value that fits into a table.
pub fn largest(table: Table) -> u64 {
    match table {
        Table::Pointers(_) | Table::Indices(_) | Table::Work(_) | Table::TopologyIds => u64::from(u32::MAX),
        Table::Neighbors | Table::Pairs | Table::PairLists => u64::from(u32::MAX),
        _ => u64::MAX,
    }
}

/// The tables that a step in this orientation reads.
fn tables_of(orientation: Orientation, batch: &Batch) -> Vec<Table> {
    let own = |table: &Table| match table {
        Table::Topologies(o) | Table::Pointers(o) | Table::Indices(o) | Table::Work(o) => *o == orientation,
        Table::WorkStarts(o) => *o == orientation && !batch.is_replicated(),
        Table::TopologyIds | Table::VertexStarts | Table::HyperedgeStarts => !batch.is_replicated(),
        Table::Chunks(_) | Table::Members(_) | Table::Ranks(_) => false,
        Table::DenseTopologies | Table::Neighbors | Table::Pairs | Table::PairLists => false,
        other => panic!("does a step read {other:?}?"),
    };
    Table::ALL.iter().copied().filter(own).collect()
}

fn corrupt(batch: &mut DeviceBatch, orientation: Orientation, corruptions: &[Corruption]) {
    for corruption in corruptions {
        let tables = tables_of(orientation, batch.batch());
        let table = match corruption.table {
            Which::Any(table) => *table.get(&tables),
            Which::First => tables[0],
        };
        let values = batch.read_table(table).unwrap();
        if values.is_empty() {
            continue;
        }
        let position = corruption.position.index(values.len());
        let new = corruption.value.instead_of(&values, position, largest(table));
        batch.overwrite_table(table, position, &[new]).unwrap();
    }
}

/// The call that the model computes: contiguous rows.
fn model_call<'a>(layout: &Layout, kind: StepKind, items: [u64; 4], x: &'a [f32]) -> Call<'a> {
    let largest = |hyperedges: bool| match hyperedges {
        true => layout.batch.largest(Axis::Hyperedge) as u64,
        false => layout.batch.largest(Axis::Vertex) as u64,
    };
    let total = |hyperedges| layout.n_rows(hyperedges) as u64;
    Call {
        orientation: orientation(kind),
        reduce: kind.reduce,
        features: layout.features,
        instances: layout.instances,
        largest: [largest(!kind.to_hyperedges), largest(kind.to_hyperedges)],
        total: [total(!kind.to_hyperedges), total(kind.to_hyperedges)],
        items,
        x,
    }
}

fn orientation(kind: StepKind) -> Orientation {
    if kind.to_hyperedges { Orientation::ByEdge } else { Orientation::ByVertex }
}

/// The work items of a batch, counted from its topologies.
fn items(layout: &Layout, kind: StepKind) -> [u64; 4] {
    let mut items = [0; 4];
    for g in 0..layout.instances {
        let topology = layout.batch.topology(g);
        let csr = if kind.to_hyperedges { topology.by_edge() } else { topology.by_vertex() };
        for row in csr.rows() {
            match row.len() {
                0..=8 => items[2] += 1,
                9..=512 => items[1] += 1,
                longer => {
                    items[0] += longer.div_ceil(512) as u64;
                    items[3] += 1;
                }
            }
        }
    }
    items
}

fn corrupted_tables_are_survived(layout: &Layout, kind: StepKind, mode: Mode, corruptions: &[Corruption]) {
    let gpu = Gpu::take();
    gpu.set(mode);
    if let Some(control) = gpu.control("races between the values that doubled work items store") {
        // A corrupted list may name a row twice: two groups then store it, in any order.
        control.set_detect_races(false);
    }
    let stream = stream(gpu.device(), mode.own_stream);
    let mut batch = gpu.device().upload(&layout.batch).unwrap();
    corrupt(&mut batch, orientation(kind), corruptions);
    let tables = Tables::read(&batch);

    let x: Vec<f32> = features(layout.seed, layout.n_rows(!kind.to_hyperedges) * layout.features);
    let outcome = tables.run(&model_call(layout, kind, items(layout, kind), &x));

    let plan = Plan::builder(&batch, layout.features).checks(Checks::On).build().unwrap();
    // Scratch memory for more instances than there are must not hide an access behind its rows.
    let spare = if mode.deferred { 0 } else { 3 };
    let mut workspace = plan.workspace_for(&stream, layout.instances + spare, Operator::ALL).unwrap();
    let x_device = to_device(&stream, &x);
    let before = vec![7.0f32; layout.n_rows(kind.to_hyperedges) * layout.features];
    let mut y_device = to_device(&stream, &before);
    let rows = hyperscatter::RowLayout::contiguous(layout.features).instances(layout.instances);
    let mut call = |y: &mut _| {
        let y: &mut hyperscatter::cuda::cudarc::driver::CudaSlice<f32> = y;
        let out = Out::Overwrite(Rows::new(y.slice_mut(..before.len()), rows));
        step(&mut workspace, kind, Rows::new(x_device.slice(..x.len()), rows), out).unwrap();
        let report = workspace.check();
        // Reported once: the workspace, the stream and the context go on.
        workspace.check().unwrap();
        report
    };
    let report = call(&mut y_device);
    assert_is_outcome(layout, &report, &outcome, &before, &to_host(&stream, &y_device, before.len()));
    assert_eq!(call(&mut y_device).is_err(), report.is_err(), "the same tables again");

    // Right tables in the same context and on the same stream give right results.
    drop((plan, workspace));
    let batch = gpu.device().upload(&layout.batch).unwrap();
    let right = Tables::read(&batch).run(&model_call(layout, kind, items(layout, kind), &x));
    let mut workspace = Plan::builder(&batch, layout.features)
        .checks(Checks::On)
        .build()
        .unwrap()
        .workspace_for(&stream, layout.instances, Operator::ALL)
        .unwrap();
    let out = Out::Overwrite(Rows::new(y_device.slice_mut(..before.len()), rows));
    step(&mut workspace, kind, Rows::new(x_device.slice(..x.len()), rows), out).unwrap();
    let report = workspace.check();
    assert_is_outcome(layout, &report, &right, &before, &to_host(&stream, &y_device, before.len()));
    assert_eq!(report, Ok(()));
}

/// The report is one of those that the tables give cause for; rows that they list are computed, those with a
/// wrong value are NaN.
fn assert_is_outcome(
    layout: &Layout,
    report: &hyperscatter::Result<()>,
    outcome: &Outcome,
    before: &[f32],
    y: &[f32],
) {
    if layout.features == 0 {
        // Nothing is launched.
        assert_eq!(*report, Ok(()));
        return;
    }
    match report {
        Ok(()) => assert!(outcome.wrong.is_empty(), "not reported: {:?}", outcome.wrong),
        Err(error) => {
            let is_real = outcome.wrong.iter().any(|(kernel, wrong)| wrong.is(*kernel, error));
            assert!(is_real, "reported {error:?}, but wrong is {:?}", outcome.wrong);
            let Error::IndexOutOfBounds { value, bound, .. } = error else { panic!("{error}") };
            assert!(value >= bound);
        }
    }
    if y.is_empty() {
        return;
    }
    for (i, (y, before)) in y.chunks(layout.features).zip(before.chunks(layout.features)).enumerate() {
        let before = before.to_vec();
        let possible = outcome.rows.get(&(i as u64)).map_or(std::slice::from_ref(&before), Vec::as_slice);
        // Two groups of lanes that were given the same row store it in any order, element by element.
        let is_one = |(at, &y): (usize, &f32)| possible.iter().any(|row| bits(&[row[at]]) == bits(&[y]));
        assert!(y.iter().enumerate().all(is_one), "row {i} is {y:?}, but not any of {possible:?}");
    }
}

proptest! {
    #[test]
    fn corrupted_tables_are_reported_and_nothing_leaves_its_bounds(
        layout in layout(),
        kind in StepKind::any(),
        mode in mode(),
        corruptions in corruptions(),
    ) {
        let mode = Mode { build: Build::Checked, checks: Checks::On, ..mode };
        corrupted_tables_are_survived(&layout, kind, mode, &corruptions);
    }
}

/// A wrong value in each table is an error that names it, and the next call is right.
#[test]
fn each_table_is_checked() {
    let long: Vec<u32> = (0..1300).map(|i| i % 7).collect();
    let edges = [long, vec![0, 1], vec![1, 2, 3, 4, 5, 6, 0, 1, 2, 3], vec![]];
    let first = Incidence::from_edges(7, &edges, Repeats::Keep).unwrap();
    let batch = Batch::from_table(vec![first, Incidence::subsets(5, 2).unwrap()], &[1, 0, 1]).unwrap();
    for &o in Orientation::ALL {
        for table in tables_of(o, &batch) {
            let positions: &[usize] = match table {
                // In the prefix sums of the short rows, which every topology here has.
                Table::WorkStarts(_) => &[2 * (3 + 1) + 1],
                // The row and the segment of a segment.
                Table::Work(_) => &[0, 1],
                _ => &[1],
            };
            for &position in positions {
                in_any_order(|gpu| a_wrong_value_is_reported(gpu, &batch, o, table, position));
            }
        }
    }
}

fn a_wrong_value_is_reported(gpu: &Gpu, batch: &Batch, o: Orientation, table: Table, position: usize) {
    let stream = gpu.device().context().default_stream();
    let mut on_device = gpu.device().upload(batch).unwrap();
    on_device.overwrite_table(table, position, &[largest(table)]).unwrap();
    let plan = Plan::<f32>::builder(&on_device, 4).checks(Checks::On).build().unwrap();
    let mut workspace = plan.workspace_for(&stream, 3, Operator::ALL).unwrap();
    let kind = StepKind { to_hyperedges: o == Orientation::ByEdge, reduce: Reduce::Sum };
    let (n, m) = (batch.start(Axis::Vertex, 3) * 4, batch.start(Axis::Hyperedge, 3) * 4);
    let (from, to) = if kind.to_hyperedges { (n, m) } else { (m, n) };
    let x = stream.clone_htod(&vec![1.0f32; from]).unwrap();
    let mut y = stream.alloc_zeros::<f32>(to).unwrap();
    let out = Out::Overwrite(Rows::contiguous(y.as_view_mut(), 4));
    step(&mut workspace, kind, Rows::contiguous(x.as_view(), 4), out).unwrap();
    let error = workspace.check().unwrap_err();
    // A wrong count is noticed where it leads to.
    let names = [table.name(), "work items"];
    assert!(
        matches!(error, Error::IndexOutOfBounds { table: found, .. } if names.contains(&found)),
        "{table:?}: {error}"
    );
}

/// Counts of one topology that fit each other, and the work lists, but not the scratch memory.
#[test]
fn counts_that_agree_with_each_other_are_checked_against_the_call() {
    in_any_order(counts_are_checked_against_the_call);
}

fn counts_are_checked_against_the_call(gpu: &Gpu) {
    let edges = [vec![0u32; 1024], vec![0], vec![1]];
    let batch = Batch::replicate(Incidence::from_edges(2, &edges, Repeats::Keep).unwrap());
    let stream = gpu.device().context().default_stream();
    let mut on_device = gpu.device().upload(&batch).unwrap();
    let o = Orientation::ByEdge;
    on_device.overwrite_table(Table::Topologies(o), 6, &[3]).unwrap();
    on_device.overwrite_table(Table::Topologies(o), 8, &[0]).unwrap();
    on_device.overwrite_table(Table::Pointers(o), 1, &[1025]).unwrap();
    let plan = Plan::<f32>::builder(&on_device, 4).checks(Checks::On).build().unwrap();
    let mut workspace = plan.workspace_for(&stream, 2, Operator::ALL).unwrap();
    let x = stream.clone_htod(&[1.0f32; 2 * 2 * 4]).unwrap();
    let mut z = stream.alloc_zeros::<f32>(2 * 3 * 4).unwrap();
    let out = Out::Overwrite(Rows::contiguous(z.as_view_mut(), 4));
    let kind = StepKind { to_hyperedges: true, reduce: Reduce::Sum };
    step(&mut workspace, kind, Rows::contiguous(x.as_view(), 4), out).unwrap();
    let error = workspace.check().unwrap_err();
    assert!(matches!(error, Error::IndexOutOfBounds { .. }), "{error}");
    workspace.check().unwrap();
}

/// A wrong index is seen by one lane; all features of its row become NaN, and no other row.
#[test]
fn the_whole_row_of_a_wrong_index_is_nan() {
    let edges = [3, 100, 700].map(|len| (0..len).map(|i| i % 5).collect::<Vec<u32>>());
    let batch = Batch::replicate(Incidence::from_edges(5, &edges, Repeats::Keep).unwrap());
    // In a short row, a medium row, and the second segment of a long row.
    for (row, position) in [(0, 1), (1, 3 + 50), (2, 3 + 100 + 600)] {
        for features in [3, 8, 64, 200] {
            let gpu = Gpu::take();
            let stream = gpu.device().context().default_stream();
            let mut on_device = gpu.device().upload(&batch).unwrap();
            on_device.overwrite_table(Table::Indices(Orientation::ByEdge), position, &[5]).unwrap();
            let plan = Plan::<f32>::builder(&on_device, features).checks(Checks::On).build().unwrap();
            let mut workspace = plan.workspace_for(&stream, 2, Operator::ALL).unwrap();
            let x = stream.clone_htod(&vec![1.0f32; 2 * 5 * features]).unwrap();
            let mut z = stream.alloc_zeros::<f32>(2 * 3 * features).unwrap();
            let out = Out::Overwrite(Rows::contiguous(z.as_view_mut(), features));
            let kind = StepKind { to_hyperedges: true, reduce: Reduce::Mean };
            step(&mut workspace, kind, Rows::contiguous(x.as_view(), features), out).unwrap();
            workspace.check().unwrap_err();
            for (i, z) in stream.clone_dtoh(&z).unwrap().chunks(features).enumerate() {
                let is_right = |z: &f32| if i % 3 == row { z.is_nan() } else { (z - 1.0).abs() < 1e-5 };
                assert!(z.iter().all(is_right), "row {i} of {features} features, {row} is wrong: {z:?}");
            }
        }
    }
}

/// Instances whose rows are not known get matrices of NaN, not what an earlier call left in scratch memory.
#[test]
fn matrices_of_instances_without_known_rows_are_nan() {
    const F: usize = 4;
    for (n, add) in [(4, false), (40, false), (40, true)] {
        let gpu = Gpu::take();
        let stream = gpu.device().context().default_stream();
        let batch = Batch::from_table(vec![Incidence::subsets(n, 2).unwrap()], &[0u8, 0, 0]).unwrap();
        let mut on_device = gpu.device().upload(&batch).unwrap();
        // The first instance ends, and the second begins, a vertex too early.
        on_device.overwrite_table(Table::VertexStarts, 1, &[n as u64 - 1]).unwrap();
        let plan = Plan::<f32>::builder(&on_device, F).checks(Checks::On).build().unwrap();
        let mut workspace = plan.workspace_for(&stream, 3, Operator::ALL).unwrap();
        let x = stream.clone_htod(&vec![1.0f32; 3 * n * F]).unwrap();
        let mut gram = stream.alloc_zeros::<f32>(3 * n * n).unwrap();
        let x = || Rows::contiguous(x.as_view(), F);
        let to = gram.as_view_mut();
        workspace.gram(x(), if add { Out::Accumulate(to) } else { Out::Overwrite(to) }).unwrap();
        workspace.check().unwrap_err();
        for (i, matrix) in stream.clone_dtoh(&gram).unwrap().chunks(n * n).enumerate() {
            let is_right = |&entry: &f32| if i < 2 { entry.is_nan() } else { entry == F as f32 };
            assert!(matrix.iter().all(is_right), "{n}, instance {i}: {matrix:?}");
        }
        // Their rows of the gradient are not known either.
        let ones = stream.clone_htod(&vec![1.0f32; 3 * n * n]).unwrap();
        let mut grad_x = stream.clone_htod(&vec![7.0f32; 3 * n * F]).unwrap();
        let to = Out::Overwrite(Rows::contiguous(grad_x.as_view_mut(), F));
        workspace.gram_backward(x(), ones.as_view(), to).unwrap();
        workspace.check().unwrap_err();
        for (i, rows) in stream.clone_dtoh(&grad_x).unwrap().chunks(n * F).enumerate() {
            let expected = if i < 2 { 7.0 } else { 2.0 * n as f32 };
            assert!(rows.iter().all(|&value| value == expected), "{n}, instance {i}: {rows:?}");
        }
    }
}

/// The dense kernels of rows leave out instances whose rows are not known, forward and backward, in each
/// class of vertices: a launch before them finds that out.
#[test]
fn rows_of_instances_without_known_rows_stay_on_the_dense_path() {
    const F: usize = 4;
    for (n, shared) in [4, 12, 20].into_iter().flat_map(|n| [(n, true), (n, false)]) {
        let gpu = Gpu::take();
        let stream = gpu.device().context().default_stream();
        let topology = Incidence::subsets(n, 2).unwrap();
        let m = topology.n_hyperedges();
        let batch = Batch::from_table(vec![topology], &[0u8, 0, 0]).unwrap();
        let [right, mut wrong] = [(); 2].map(|()| gpu.device().upload(&batch).unwrap());
        // The first instance ends, and the second begins, a vertex too early.
        wrong.overwrite_table(Table::VertexStarts, 1, &[n as u64 - 1]).unwrap();
        let len = if shared { m } else { 3 * m };
        let found = [right, wrong].map(|batch| {
            let plan = Plan::<f32>::builder(&batch, F).checks(Checks::On).paths(&[Path::Dense]);
            let mut workspace = plan.build().unwrap().workspace(&stream, 3).unwrap();
            let x = stream.clone_htod(&features::<f32>(1, 3 * n * F)).unwrap();
            let w = stream.clone_htod(&vec![1.0f32; len]).unwrap();
            let weights = || match shared {
                true => Weights::shared(w.as_view()),
                false => Weights::consecutive(w.as_view()),
            };
            let x = || Rows::contiguous(x.as_view(), F);
            let before = vec![7.0f32; 3 * n * F];
            let [mut y, mut grad_x] = [(); 2].map(|()| stream.clone_htod(&before).unwrap());
            workspace.conv(x(), weights(), Out::Overwrite(Rows::contiguous(y.as_view_mut(), F))).unwrap();
            let forward = workspace.check();
            let to = Out::Overwrite(Rows::contiguous(grad_x.as_view_mut(), F));
            workspace.conv_backward(x(), weights(), x(), to, Out::Skip).unwrap();
            let backward = workspace.check();
            let results = [&y, &grad_x].map(|values| stream.clone_dtoh(values).unwrap());
            ([forward, backward], results)
        });
        let [(fine, right), (reports, wrong)] = found;
        assert_eq!(fine, [Ok(()), Ok(())]);
        for report in reports {
            let Err(Error::IndexOutOfBounds { kernel, table, instance, .. }) = report else {
                panic!("{report:?}")
            };
            // Where an operator is formed for each instance, its rows are looked up for that, too.
            let expected = if shared { "dense_find_checked" } else { "dense_form_f32_checked" };
            assert_eq!((kernel, table), (expected, Table::VertexStarts.name()), "{n}");
            assert!(instance < 2, "{n}: {instance}");
        }
        for (right, wrong) in right.iter().zip(&wrong) {
            let known = 2 * n * F;
            assert!(wrong[..known].iter().all(|&value| value == 7.0), "{n}, {shared}: {wrong:?}");
            assert_eq!(wrong[known..], right[known..], "{n}, {shared}");
        }
    }
}

/// Where the operators of instances cannot be formed, all of their matrices are NaN, and so are the gradients
/// that they add to: of topologies that the path is for, and of larger ones.
#[test]
fn matrices_of_operators_that_are_not_formed_are_nan() {
    for (n, shared) in [(4, true), (4, false), (40, true), (40, false)] {
        let gpu = Gpu::take();
        let stream = gpu.device().context().default_stream();
        let pair = |n| Incidence::from_edges(n, &[[0u32, 3], [1, 3]], Repeats::Reject).unwrap();
        let batch = Batch::from_table(vec![pair(n), pair(n + 1)], &[0u8, 1, 0]).unwrap();
        let mut on_device = gpu.device().upload(&batch).unwrap();
        // Of the first topology: more hyperedges in the lists of its pairs than there are.
        let words = on_device.read_table(Table::DenseTopologies).unwrap().len() / 2;
        let is_listed = |&place: &usize| on_device.read_table(Table::DenseTopologies).unwrap()[place] == 16;
        let place = (0..words).find(is_listed).unwrap();
        on_device.overwrite_table(Table::DenseTopologies, place, &[1 << 40]).unwrap();
        let plan = Plan::<f32>::builder(&on_device, 1).checks(Checks::On).build().unwrap();
        let mut workspace = plan.workspace_for(&stream, 3, Operator::ALL).unwrap();
        let w = stream.clone_htod(&[1.0f32; 6]).unwrap();
        let weights =
            || if shared { Weights::shared(w.slice(..2)) } else { Weights::consecutive(w.slice(..6)) };
        let side = n + 1;
        let len = side * side;
        let mut matrix = stream.alloc_zeros::<f32>(3 * len).unwrap();
        workspace.conv_matrix(weights(), Out::Overwrite(matrix.as_view_mut())).unwrap();
        let error = workspace.check().unwrap_err();
        assert!(matches!(error, Error::IndexOutOfBounds { value: 0x100_0000_0000, .. }), "{error}");
        for (g, matrix) in stream.clone_dtoh(&matrix).unwrap().chunks(len).enumerate() {
            let n = n + usize::from(g == 1);
            for (u, v) in (0..n).flat_map(|u| (0..n).map(move |v| (u, v))) {
                let entry = matrix[u * side + v];
                assert_eq!(entry.is_nan(), g != 1, "{n}, instance {g}: M_{u},{v} = {entry}");
            }
        }
        let ones = stream.clone_htod(&vec![1.0f32; 3 * len]).unwrap();
        let mut grad = stream.alloc_zeros::<f32>(if shared { 2 } else { 6 }).unwrap();
        let to = Out::Overwrite(grad.as_view_mut());
        workspace.conv_matrix_backward(weights(), ones.as_view(), to).unwrap();
        workspace.check().unwrap_err();
        for (e, gradient) in stream.clone_dtoh(&grad).unwrap().into_iter().enumerate() {
            assert_eq!(gradient.is_nan(), shared || e / 2 != 1, "{n}: {e}");
        }
    }
}

/// More than 32 vertices have two words of neighbors each: the second ones are within the table, too.
#[test]
fn both_words_of_neighbors_are_checked() {
    let gpu = Gpu::take();
    let stream = gpu.device().context().default_stream();
    let topology = Incidence::from_edges(40, &[[0u32, 39]], Repeats::Reject).unwrap();
    let mut on_device = gpu.device().upload(&Batch::replicate(topology)).unwrap();
    assert_eq!(on_device.read_table(Table::Neighbors).unwrap().len(), 80);
    // Where the first ones would still be.
    on_device.overwrite_table(Table::DenseTopologies, 1, &[40]).unwrap();
    let plan = Plan::<f32>::builder(&on_device, 1).checks(Checks::On).build().unwrap();
    let mut workspace = plan.workspace_for(&stream, 1, Operator::ALL).unwrap();
    let w = stream.clone_htod(&[1.0f32]).unwrap();
    let mut matrix = stream.alloc_zeros::<f32>(40 * 40).unwrap();
    workspace.conv_matrix(Weights::shared(w.as_view()), Out::Overwrite(matrix.as_view_mut())).unwrap();
    let error = workspace.check().unwrap_err();
    assert!(matches!(error, Error::IndexOutOfBounds { position: 1, value: 40, bound: 1, .. }), "{error}");
}

/// The gradients of weights look up the vertices of each hyperedge, which nothing before them on the dense
/// path does: each index is checked there, too. The gradient of its hyperedge is NaN, and no other.
#[test]
fn a_wrong_vertex_is_seen_where_dense_gradients_are_made() {
    const F: usize = 4;
    // Of up to four vertices, of more, and one vertex.
    let edges: [&[u32]; 4] = [&[0, 1, 2], &[0, 1, 2, 3, 4, 5], &[3], &[2, 4]];
    let batch = Batch::replicate(Incidence::from_edges(6, &edges, Repeats::Reject).unwrap());
    let symmetric = Conv::new(Normalization::Symmetric, WeightUse::Documented);
    let places = [(0, 0), (0, 2), (1, 3), (1, 8), (2, 9), (3, 11)];
    for ((edge, position), conv) in places.into_iter().flat_map(|p| [(p, Conv::default()), (p, symmetric)]) {
        for (value, shared) in [(6, true), (6, false), (u64::from(u32::MAX), true)] {
            let gpu = Gpu::take();
            let stream = gpu.device().context().default_stream();
            let [right, mut wrong] = [(); 2].map(|()| gpu.device().upload(&batch).unwrap());
            wrong.overwrite_table(Table::Indices(Orientation::ByEdge), position, &[value]).unwrap();
            let len = if shared { 4 } else { 8 };
            let found = [right, wrong].map(|batch| {
                let plan = Plan::<f32>::builder(&batch, F).conv(conv).checks(Checks::On).build().unwrap();
                assert_eq!(plan.paths(), [Path::Dense]);
                let mut workspace = plan.workspace(&stream, 2).unwrap();
                let x = stream.clone_htod(&features::<f32>(1, 2 * 6 * F)).unwrap();
                let w = stream.clone_htod(&[1.0f32, 0.5, 2.0, 1.5, 1.0, 0.25, 3.0, 2.5][..len]).unwrap();
                let w = match shared {
                    true => Weights::shared(w.as_view()),
                    false => Weights::consecutive(w.as_view()),
                };
                let mut grad_w = stream.alloc_zeros::<f32>(len).unwrap();
                let x = || Rows::contiguous(x.as_view(), F);
                let to = Out::Overwrite(grad_w.as_view_mut());
                workspace.conv_backward(x(), w, x(), Out::Skip, to).unwrap();
                (workspace.check(), stream.clone_dtoh(&grad_w).unwrap())
            });
            let [(Ok(()), expected), (Err(error), found)] = found else { panic!("{found:?}") };
            let Error::IndexOutOfBounds { kernel, table, position: at, value: found_value, bound, .. } =
                error
            else {
                panic!("{error}")
            };
            let table_of_vertices = Table::Indices(Orientation::ByEdge).name();
            assert!(kernel.starts_with("dense_gradient"), "{kernel}");
            assert_eq!((table, at, found_value, bound), (table_of_vertices, position as u64, value, 6));
            for (e, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let is_right = if e % 4 == edge { found.is_nan() } else { found == expected };
                assert!(is_right, "hyperedge {e}, position {position}: {found} beside {expected}");
            }
        }
    }
}

/// A report stays until `check` clears it, and calls give it without waiting.
#[test]
fn later_calls_give_the_report_until_it_is_cleared() {
    in_any_order(reported_until_it_is_cleared);
}

fn reported_until_it_is_cleared(gpu: &Gpu) {
    let stream = gpu.device().context().default_stream();
    let mut batch = gpu.device().upload(&Batch::replicate(Incidence::subsets(4, 2).unwrap())).unwrap();
    batch.overwrite_table(Table::Indices(Orientation::ByEdge), 3, &[4]).unwrap();
    let plan = Plan::<f32>::builder(&batch, 4).checks(Checks::On).build().unwrap();
    let mut workspace = plan.workspace_for(&stream, 10, Operator::ALL).unwrap();
    let x = stream.clone_htod(&vec![1.0f32; 10 * 4 * 4]).unwrap();
    let mut z = stream.alloc_zeros::<f32>(10 * 6 * 4).unwrap();
    let mut call = |workspace: &mut hyperscatter::cuda::Workspace<f32>| {
        let out = Out::Overwrite(Rows::contiguous(z.as_view_mut(), 4));
        let kind = StepKind { to_hyperedges: true, reduce: Reduce::Sum };
        step(workspace, kind, Rows::contiguous(x.as_view(), 4), out)
    };
    call(&mut workspace).unwrap();
    stream.synchronize().unwrap();
    let error = call(&mut workspace).unwrap_err();
    let Error::IndexOutOfBounds { kernel, table, instance, position: 3, value: 4, bound: 4 } = error else {
        panic!("{error}")
    };
    assert_eq!((kernel, table), ("gather_f32_checked", "by_edge.indices"));
    assert!(instance < 10);
    assert_eq!(call(&mut workspace), Err(error.clone()));
    assert_eq!(workspace.check(), Err(error));
    assert_eq!(workspace.check(), Ok(()));
    call(&mut workspace).unwrap();
    workspace.check().unwrap_err();
    drop((plan, workspace));

    stream.synchronize().unwrap();

    // Values that were not validated never meet unchecked kernels, not even in a clone that was made before.
    assert_eq!(
        Plan::<f32>::builder(&batch, 4).checks(Checks::Off).build().unwrap_err(),
        Error::UncheckedTables
    );
    let clone = batch.clone();
    let error = batch.overwrite_table(Table::Indices(Orientation::ByEdge), 3, &[2]).unwrap_err();
    assert_eq!(error, Error::BatchInUse { value: 1 });
    drop(clone);
    let mut write =
        |position, value| batch.overwrite_table(Table::Indices(Orientation::ByEdge), position, &[value]);
    let table = "by_edge.indices";
    assert_eq!(write(12, 0), Err(Error::TableRange { table, position: 12, value: 13, bound: 12 }));
    let (position, value) = (usize::MAX, usize::MAX);
    let error = batch.overwrite_table(Table::Indices(Orientation::ByEdge), position, &[0, 0]).unwrap_err();
    assert_eq!(error, Error::TableRange { table, position, value, bound: 12 });
    let mut write =
        |position, value| batch.overwrite_table(Table::Indices(Orientation::ByEdge), position, &[value]);
    let expected = Error::TableValue { table, position: 3, value: 1 << 32, bound: 1 << 32 };
    assert_eq!(write(3, 1 << 32), Err(expected));
    write(3, 2).unwrap();
    let plan = Plan::<f32>::builder(&batch, 4).checks(Checks::On).build().unwrap();
    let mut workspace = plan.workspace_for(&stream, 10, Operator::ALL).unwrap();
    call(&mut workspace).unwrap();
    workspace.check().unwrap();
}
