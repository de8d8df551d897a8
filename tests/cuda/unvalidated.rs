//! Tables that nobody validated, under all operators with checks: whatever they hold, nothing leaves its
//! bounds, every call ends, an `Err` names a value that is not below its bound, and right tables give right
//! results afterwards.
//!
//! Bounds are the emulated driver's to watch: its checked build reports every access outside an allocation.
//! What the steps then compute is compared with a model in `corrupted`; here it may be anything where nothing
//! is reported, but for values that are far out of range.

use std::sync::Arc;

use hyperscatter::cuda::cudarc::driver::{CudaStream, CudaView};
use hyperscatter::cuda::{
    Checks, DeviceBatch, DeviceWindows, Epilogue, Plan, Step, Table, WindowPart, Workspace,
};
use hyperscatter::{
    Activation, Axis, Batch, Conv, EpilogueGradients, Error, Incidence, Normalization, Operator, Out, Reduce,
    Repeats, Result, RowLayout, Rows, StepGradients, WeightUse, Weights, WindowTable,
};
use hyperscatter_emulator::interface::Build;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::corrupted::{self, Value};
use super::gpu::{Gpu, GpuElement, Mode, mode, stream, to_device, to_host};
use super::operators::has_matrix;
use crate::common::{bits, cases, element_types, features, sums, weights, with_element};
use crate::layouts::{Layout, Place, WindowKind, layout};

/// The tables of a batch, and those of windows of vertices and of hyperedges.
struct Uploaded {
    batch: DeviceBatch,
    windows: [DeviceWindows; 2],
}

/// A part of all that.
#[derive(Debug, Clone, Copy)]
enum Part {
    Batch(Table),
    Windows(usize, WindowPart),
}

fn parts() -> Vec<Part> {
    let windows =
        [0, 1].into_iter().flat_map(|i| WindowPart::ALL.iter().map(move |&part| Part::Windows(i, part)));
    Table::ALL.iter().copied().map(Part::Batch).chain(windows).collect()
}

impl Uploaded {
    fn new(gpu: &Gpu, layout: &Layout) -> Self {
        let batch = gpu.device().upload(&layout.batch).unwrap();
        let tables = [
            WindowTable::for_vertices(&layout.batch, &layout.offsets).unwrap(),
            WindowTable::new(&layout.batch, &layout.offsets).unwrap(),
        ];
        let windows = tables.map(|table| batch.upload_windows(&table).unwrap());
        Self { batch, windows }
    }

    fn read(&self, part: Part) -> Vec<u64> {
        match part {
            Part::Batch(table) => self.batch.read_table(table).unwrap(),
            Part::Windows(i, part) => self.windows[i].read(part).unwrap(),
        }
    }

    fn write(&mut self, part: Part, position: usize, value: u64) {
        match part {
            Part::Batch(table) => self.batch.overwrite_table(table, position, &[value]).unwrap(),
            Part::Windows(i, part) => self.windows[i].overwrite(part, position, &[value]).unwrap(),
        }
    }
}

fn largest(part: Part) -> u64 {
    match part {
        Part::Batch(table) => corrupted::largest(table),
        Part::Windows(..) => u64::MAX,
    }
}

/// The windows of scales: of vertices, and of hyperedges.
type Kinds = [WindowKind; 2];

/// Which operators run, forward and backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    Step { to_hyperedges: bool },
    Conv,
    Matrices,
}

/// Values that are read through windows of a kind.
fn through<'a, A>(
    kind: WindowKind,
    values: CudaView<'a, A>,
    windows: &'a DeviceWindows,
) -> Weights<CudaView<'a, A>, &'a DeviceWindows> {
    match kind {
        WindowKind::Shared => Weights::shared(values),
        WindowKind::Consecutive => Weights::consecutive(values),
        WindowKind::Table => Weights::table(values, windows),
    }
}

/// Runs operators, each to its check, and gives the reports and the bits of everything that they computed.
struct Run<'a, T: GpuElement> {
    layout: &'a Layout,
    kinds: Kinds,
    reduce: Reduce,
    stream: Arc<CudaStream>,
    workspace: Workspace<T>,
    reports: Vec<Result<()>>,
    results: Vec<Vec<u64>>,
}

impl<'a, T: GpuElement> Run<'a, T> {
    fn new(
        which: Which,
        layout: &'a Layout,
        uploaded: &Uploaded,
        kinds: Kinds,
        reduce: Reduce,
        stream: &Arc<CudaStream>,
        spare: usize,
    ) -> Self {
        let plan = Plan::<T>::builder(&uploaded.batch, layout.features)
            .conv(layout.conv)
            .checks(Checks::On)
            .build()
            .unwrap();
        let workspace = plan.workspace_for(stream, layout.instances + spare, Operator::ALL).unwrap();
        let mut run = Self {
            layout,
            kinds,
            reduce,
            stream: stream.clone(),
            workspace,
            reports: vec![],
            results: vec![],
        };
        for to_hyperedges in [true, false] {
            if [Which::All, Which::Step { to_hyperedges }].contains(&which) {
                run.step(&uploaded.windows, to_hyperedges);
            }
        }
        if which == Which::All || which == Which::Conv {
            run.conv(&uploaded.windows[1]);
            run.epilogue(&uploaded.windows[1]);
        }
        if !matches!(which, Which::Step { .. }) && has_matrix(&layout.batch) {
            run.matrices(&uploaded.windows[1]);
        }
        run
    }

    /// The report of the operators since the last.
    fn check(&mut self, queued: Result<()>) {
        queued.unwrap();
        self.reports.push(self.workspace.check());
        // Reported once: the workspace, the stream and the context go on.
        self.workspace.check().unwrap();
    }

    fn rows(&self, seed: u64, hyperedges: bool) -> Vec<T> {
        features(self.layout.seed ^ seed, self.layout.n_rows(hyperedges) * self.layout.features)
    }

    fn at(&self) -> RowLayout {
        RowLayout::contiguous(self.layout.features).instances(self.layout.instances)
    }

    /// As many values as windows along an axis need.
    fn values(&self, axis: usize) -> Vec<T::Acc> {
        let Layout { batch, instances, offsets, seed, .. } = self.layout;
        let start = |g| match (self.kinds[axis], axis) {
            (WindowKind::Shared, _) => 0,
            (WindowKind::Consecutive, 0) => batch.start(Axis::Vertex, g),
            (WindowKind::Consecutive, _) => batch.start(Axis::Hyperedge, g),
            (WindowKind::Table, _) => offsets[g],
        };
        let ends = (0..*instances).map(|g| start(g) + self.layout.n_rows_of(g, axis == 1));
        weights::<T>(seed ^ 77, ends.max().unwrap_or(0), false)
    }

    fn step(&mut self, windows: &[DeviceWindows; 2], to_hyperedges: bool) {
        let stream = self.stream.clone();
        let (x, g): (Vec<T>, Vec<T>) = (self.rows(1, !to_hyperedges), self.rows(2, to_hyperedges));
        let scales = [self.values(0), self.values(1)];
        let (x_device, g_device) = (to_device(&stream, &x), to_device(&stream, &g));
        let on_device = scales.each_ref().map(|values| to_device(&stream, values));
        let kinds = self.kinds;
        let weights = |i: usize| Some(through(kinds[i], on_device[i].slice(..scales[i].len()), &windows[i]));
        let reduce = self.reduce;
        let step = || Step::new(reduce).vertex_scale(weights(0)).hyperedge_scale(weights(1));
        let at = self.at();
        let mut y = to_device(&stream, &vec![T::of(7.0); g.len()]);
        let mut grad_x = to_device(&stream, &vec![T::of(7.0); x.len()]);
        let mut grads = scales.each_ref().map(|values| to_device(&stream, values));
        let rows = || Rows::new(x_device.slice(..x.len()), at);

        let to = Out::Overwrite(Rows::new(y.slice_mut(..g.len()), at));
        let queued = match to_hyperedges {
            true => self.workspace.vertex_to_hyperedge(&step(), rows(), to),
            false => self.workspace.hyperedge_to_vertex(&step(), rows(), to),
        };
        self.check(queued);
        let [of_vertices, of_hyperedges] = &mut grads;
        let gradients = StepGradients::none()
            .rows(Out::Overwrite(Rows::new(grad_x.slice_mut(..x.len()), at)))
            .vertex_scale(Out::Accumulate(of_vertices.slice_mut(..scales[0].len())))
            .hyperedge_scale(Out::Overwrite(of_hyperedges.slice_mut(..scales[1].len())));
        let grad_y = Rows::new(g_device.slice(..g.len()), at);
        let queued = match to_hyperedges {
            true => self.workspace.vertex_to_hyperedge_backward(&step(), rows(), grad_y, gradients),
            false => self.workspace.hyperedge_to_vertex_backward(&step(), rows(), grad_y, gradients),
        };
        self.check(queued);
        self.results.push(bits(&to_host(&stream, &y, g.len())));
        self.results.push(bits(&to_host(&stream, &grad_x, x.len())));
        for (values, grads) in scales.iter().zip(&grads) {
            self.results.push(bits(&to_host(&stream, grads, values.len())));
        }
    }

    fn conv(&mut self, windows: &DeviceWindows) {
        let stream = self.stream.clone();
        let (x, g): (Vec<T>, Vec<T>) = (self.rows(3, false), self.rows(4, false));
        let z: Vec<T::Acc> = sums::<T>(self.layout.seed, self.layout.n_rows(true) * self.layout.features);
        let w = self.values(1);
        let (x_device, g_device) = (to_device(&stream, &x), to_device(&stream, &g));
        let w_device = to_device(&stream, &w);
        let kind = self.kinds[1];
        let weights = || through(kind, w_device.slice(..w.len()), windows);
        let at = self.at();
        let mut z_device = to_device(&stream, &z);
        // On the path that is chosen; a z that is saved takes the gather path.
        let mut y = to_device(&stream, &x);
        let to = Out::Accumulate(Rows::new(y.slice_mut(..x.len()), at));
        let queued = self.workspace.conv(Rows::new(x_device.slice(..x.len()), at), weights(), to);
        self.check(queued);
        self.results.push(bits(&to_host(&stream, &y, x.len())));
        let mut y = to_device(&stream, &x);
        let mut grad_x = to_device(&stream, &x);
        let mut grad_w = to_device(&stream, &w);
        let rows = || Rows::new(x_device.slice(..x.len()), at);
        let grad_y = || Rows::new(g_device.slice(..g.len()), at);

        let saved = Rows::new(z_device.slice_mut(..z.len()), at);
        let to = Out::Accumulate(Rows::new(y.slice_mut(..x.len()), at));
        let queued = self.workspace.conv_saving_z(rows(), weights(), saved, to);
        self.check(queued);
        let to = Out::Overwrite(Rows::new(grad_x.slice_mut(..x.len()), at));
        let to_weights = Out::Overwrite(grad_w.slice_mut(..w.len()));
        let queued = self.workspace.conv_backward(rows(), weights(), grad_y(), to, to_weights);
        self.check(queued);
        self.results.push(bits(&to_host(&stream, &y, x.len())));
        self.results.push(bits(&to_host(&stream, &z_device, z.len())));
        self.results.push(bits(&to_host(&stream, &grad_x, x.len())));
        self.results.push(bits(&to_host(&stream, &grad_w, w.len())));
    }

    /// An epilogue and a readout: what they read of tables besides is where an instance's rows are.
    fn epilogue(&mut self, windows: &DeviceWindows) {
        let stream = self.stream.clone();
        let (x, g): (Vec<T>, Vec<T>) = (self.rows(5, false), self.rows(6, false));
        let w = self.values(1);
        let of_instances: Vec<T> =
            features(self.layout.seed ^ 7, self.layout.instances * self.layout.features);
        let [x_device, g_device, readout_device] =
            [&x, &g, &of_instances].map(|values| to_device(&stream, values));
        let w_device = to_device(&stream, &w);
        let bias = to_device(&stream, &sums::<T>(self.layout.seed ^ 8, self.layout.features));
        let kind = self.kinds[1];
        let weights = || through(kind, w_device.slice(..w.len()), windows);
        let (at, n_features) = (self.at(), self.layout.features);
        let rows = || Rows::new(x_device.slice(..x.len()), at);
        let epilogue = Epilogue::new(Activation::Relu).bias(bias.slice(..n_features));
        let mut y = to_device(&stream, &x);
        let mut readout = to_device(&stream, &of_instances);
        let mut grad_x = to_device(&stream, &x);
        let mut grad_residual = to_device(&stream, &x);
        let mut grad_w = to_device(&stream, &w);
        let mut grad_bias = to_device(&stream, &sums::<T>(self.layout.seed ^ 9, n_features));
        let residual = || Some(Rows::new(g_device.slice(..g.len()), at));
        let to = Out::Overwrite(Rows::new(y.slice_mut(..x.len()), at));
        let queued = self.workspace.conv_epilogue(rows(), weights(), &epilogue, residual(), to);
        self.check(queued);
        let to = Out::Accumulate(readout.slice_mut(..of_instances.len()));
        let queued = self.workspace.conv_readout(rows(), weights(), &epilogue, residual(), to);
        self.check(queued);
        for of_readout in [false, true] {
            let gradients = EpilogueGradients::none()
                .x(Out::Overwrite(Rows::new(grad_x.slice_mut(..x.len()), at)))
                .weights(Out::Overwrite(grad_w.slice_mut(..w.len())))
                .bias(Out::Accumulate(grad_bias.slice_mut(..n_features)))
                .residual(Out::Overwrite(Rows::new(grad_residual.slice_mut(..x.len()), at)));
            let queued = match of_readout {
                false => {
                    let g = Rows::new(g_device.slice(..g.len()), at);
                    self.workspace.conv_epilogue_backward(rows(), weights(), &epilogue, g, gradients)
                }
                true => {
                    let g = readout_device.slice(..of_instances.len());
                    self.workspace.conv_readout_backward(rows(), weights(), &epilogue, g, gradients)
                }
            };
            self.check(queued);
            self.results.push(bits(&to_host(&stream, &grad_x, x.len())));
            self.results.push(bits(&to_host(&stream, &grad_w, w.len())));
            self.results.push(bits(&to_host(&stream, &grad_bias, n_features)));
            self.results.push(bits(&to_host(&stream, &grad_residual, x.len())));
        }
        self.results.push(bits(&to_host(&stream, &y, x.len())));
        self.results.push(bits(&to_host(&stream, &readout, of_instances.len())));
    }

    /// The matrices of instances, and the gradients of both.
    fn matrices(&mut self, windows: &DeviceWindows) {
        let stream = self.stream.clone();
        let x: Vec<T> = self.rows(10, false);
        let w = self.values(1);
        let len = self.layout.instances * self.layout.batch.largest(Axis::Vertex).pow(2);
        let given: Vec<T::Acc> = sums::<T>(self.layout.seed ^ 11, len);
        let (x_device, w_device) = (to_device(&stream, &x), to_device(&stream, &w));
        let grad = to_device(&stream, &given);
        let kind = self.kinds[1];
        let weights = || through(kind, w_device.slice(..w.len()), windows);
        let at = self.at();
        let rows = || Rows::new(x_device.slice(..x.len()), at);
        let mut matrix = to_device(&stream, &given);
        let mut gram = to_device(&stream, &given);
        let mut grad_w = to_device(&stream, &w);
        let mut grad_x = to_device(&stream, &x);
        let queued = self.workspace.conv_matrix(weights(), Out::Overwrite(matrix.slice_mut(..len)));
        self.check(queued);
        let to = Out::Overwrite(grad_w.slice_mut(..w.len()));
        let queued = self.workspace.conv_matrix_backward(weights(), grad.slice(..len), to);
        self.check(queued);
        let queued = self.workspace.gram(rows(), Out::Accumulate(gram.slice_mut(..len)));
        self.check(queued);
        let to = Out::Accumulate(Rows::new(grad_x.slice_mut(..x.len()), at));
        let queued = self.workspace.gram_backward(rows(), grad.slice(..len), to);
        self.check(queued);
        self.results.push(bits(&to_host(&stream, &matrix, len)));
        self.results.push(bits(&to_host(&stream, &grad_w, w.len())));
        self.results.push(bits(&to_host(&stream, &gram, len)));
        self.results.push(bits(&to_host(&stream, &grad_x, x.len())));
    }

    /// Each report is an index out of bounds that is out of its bounds.
    fn assert_reports(&self) {
        for report in &self.reports {
            match report {
                Ok(()) => {}
                Err(Error::IndexOutOfBounds { value, bound, .. }) => assert!(value >= bound, "{report:?}"),
                // What a wrong index reads in place of weights may make a negative sum.
                Err(Error::NegativeDegree { value, .. }) => assert!(*value < 0.0, "{report:?}"),
                Err(other) => panic!("{other}"),
            }
        }
    }
}

fn survive(gpu: &Gpu) {
    if let Some(control) =
        gpu.control("races, and reading what nobody computed, where lists name rows twice or not")
    {
        control.set_detect_races(false);
        control.set_fill_memory(true);
    }
}

/// Every word of every table becomes the largest that there is, one after the other: that is reported, or
/// the word is not needed and the results are as before. Where windows are shared one in three of them does,
/// others with each batch.
#[test]
fn each_word_of_each_table_is_checked_or_not_needed() {
    let long: Vec<u32> = (0..520).map(|i| i % 3).collect();
    let edges = [long, vec![0, 1], vec![1, 2, 3, 0, 1, 2, 3, 1, 2, 0], vec![]];
    let first = Incidence::from_edges(4, &edges, Repeats::Keep).unwrap();
    let small = Incidence::subsets(3, 2).unwrap();
    let medium = Incidence::from_edges(4, &edges[1..], Repeats::Keep).unwrap();
    let table = Batch::from_table(vec![first.clone(), small.clone()], &[1u8, 0, 1]).unwrap();
    let conv = Conv::new(Normalization::Symmetric, WeightUse::Documented);
    // The first on both paths of the convolution, the second on the gather path, the others on the dense
    // path.
    // The last ones have matrices and are on the gather path.
    let wide =
        Incidence::from_edges(34, &[vec![0u32, 33, 32], vec![5, 31, 5], vec![]], Repeats::Keep).unwrap();
    let cases = [
        (Which::All, table, 3, vec![4usize, 0, 1]),
        (Which::All, Batch::replicate(first), 2, vec![0, 3]),
        (
            Which::All,
            Batch::from_table(vec![medium.clone(), small.clone()], &[1u8, 0, 1]).unwrap(),
            3,
            vec![4, 0, 1],
        ),
        (Which::All, Batch::replicate(medium), 2, vec![0, 3]),
        (
            Which::Matrices,
            Batch::from_table(vec![wide.clone(), small], &[1u8, 0, 1]).unwrap(),
            3,
            vec![4, 0, 1],
        ),
        (Which::Matrices, Batch::replicate(wide), 2, vec![0, 3]),
    ];
    let mut n_shared = 0;
    for (which, batch, instances, offsets) in cases {
        let layout = Layout {
            batch,
            instances,
            features: 4,
            windows: WindowKind::Table,
            offsets,
            places: [Place::Contiguous; 5],
            conv,
            seed: 5,
        };
        each_word_is_checked_or_not_needed(which, &layout, [WindowKind::Table; 2], Reduce::Mean, (0, 1));
        if !layout.batch.is_replicated() || which == Which::Matrices {
            let words = (n_shared % 3, 3);
            each_word_is_checked_or_not_needed(which, &layout, [WindowKind::Shared; 2], Reduce::Sum, words);
            n_shared += 1;
        }
    }
}

/// Each word, or from one on each of so many.
fn each_word_is_checked_or_not_needed(
    which: Which,
    layout: &Layout,
    kinds: Kinds,
    reduce: Reduce,
    (first, stride): (usize, usize),
) {
    let gpu = Gpu::take();
    gpu.set(Mode { deferred: false, ..Mode::PLAIN });
    survive(&gpu);
    let stream = stream(gpu.device(), false);
    let mut uploaded = Uploaded::new(&gpu, layout);
    let run = |uploaded: &Uploaded| Run::<f32>::new(which, layout, uploaded, kinds, reduce, &stream, 0);
    let right = run(&uploaded);
    assert!(right.reports.iter().all(Result::is_ok), "{:?}", right.reports);
    let results = right.results;
    // What was dropped is let go of, with its tables, once its stream is done.
    let drop = |workspace: Workspace<f32>| {
        drop(workspace);
        stream.synchronize().unwrap();
    };
    drop(right.workspace);
    let mut reported = 0;
    for part in parts() {
        let values = uploaded.read(part);
        // Indices are many, and alike.
        let (first, stride) = if values.len() > 100 { (0, 97) } else { (first, stride) };
        // Any value of a word of 32 vertices is within its bounds; the first topology has those first.
        let begin = match part {
            Part::Batch(Table::Neighbors) if which == Which::Matrices => {
                layout.batch.topologies()[0].n_vertices()
            }
            _ => 0,
        };
        for position in (begin + first..values.len()).step_by(stride) {
            uploaded.write(part, position, largest(part));
            let wrong = run(&uploaded);
            wrong.assert_reports();
            if wrong.reports.iter().any(Result::is_err) {
                reported += 1;
            } else {
                let is_unneeded = wrong.results == results;
                assert!(is_unneeded, "{part:?}, word {position}: neither reported nor unneeded");
            }
            drop(wrong.workspace);
            uploaded.write(part, position, values[position]);
        }
    }
    println!("{kinds:?}: {reported} words are reported");
    assert!(reported > 50 / stride, "{reported}");
    // Everything is as it was.
    assert_eq!(run(&uploaded).results, results);
}

/// A word becomes another.
#[derive(Debug, Clone, Copy)]
struct Change {
    part: prop::sample::Index,
    position: prop::sample::Index,
    value: Value,
}

fn change() -> impl Strategy<Value = Change> {
    (any::<prop::sample::Index>(), any::<prop::sample::Index>(), Value::any())
        .prop_map(|(part, position, value)| Change { part, position, value })
}

fn survived<T: GpuElement>(which: Which, layout: &Layout, kinds: Kinds, mode: Mode, changes: &[Change]) {
    let gpu = Gpu::take();
    gpu.set(mode);
    survive(&gpu);
    let stream = stream(gpu.device(), mode.own_stream);
    let reduce = if layout.seed.is_multiple_of(2) { Reduce::Sum } else { Reduce::Mean };
    let mut uploaded = Uploaded::new(&gpu, layout);
    for change in changes {
        let parts = parts();
        let part = *change.part.get(&parts);
        let values = uploaded.read(part);
        if values.is_empty() {
            continue;
        }
        let position = change.position.index(values.len());
        let value = change.value.instead_of(&values, position, largest(part));
        uploaded.write(part, position, value);
    }
    let spare = if mode.deferred { 0 } else { 3 };
    let run = Run::<T>::new(which, layout, &uploaded, kinds, reduce, &stream, spare);
    run.assert_reports();
    drop((run, uploaded));
    // Right tables in the same context and on the same stream give right results.
    let right = |gpu: &Gpu, stream: &Arc<CudaStream>| {
        let run = Run::<T>::new(which, layout, &Uploaded::new(gpu, layout), kinds, reduce, stream, 0);
        assert!(run.reports.iter().all(Result::is_ok), "{:?}", run.reports);
        run.results
    };
    let results = right(&gpu, &stream);
    if !layout.seed.is_multiple_of(4) {
        // Twice the cost for what one case in a few shows as well.
        return;
    }
    drop((stream, gpu));
    let gpu = Gpu::take();
    gpu.set(mode);
    let alone = right(&gpu, &super::gpu::stream(gpu.device(), mode.own_stream));
    assert_eq!(results, alone, "in {}", T::NAME);
}

/// Layouts with few features, and with no more than `most` incidences, or else one instance: what is to be
/// found is in the tables.
fn narrow(most: usize) -> impl Strategy<Value = Layout> {
    (layout(), 0usize..10).prop_map(move |(layout, features)| {
        let incidences: usize = (0..layout.instances).map(|g| layout.batch.topology(g).n_incidences()).sum();
        if incidences <= most {
            return Layout { features, ..layout };
        }
        let topology = layout.batch.topology(0).clone();
        let batch = match layout.batch.is_replicated() {
            true => Batch::replicate(topology),
            false => Batch::from_table(vec![topology], &[0u8]).unwrap(),
        };
        Layout { batch, features, instances: 1, offsets: layout.offsets[..1].to_vec(), ..layout }
    })
}

fn kinds() -> impl Strategy<Value = Kinds> {
    (WindowKind::any(), WindowKind::any()).prop_map(|(vertices, hyperedges)| [vertices, hyperedges])
}

/// Many layouts with changed tables, each under one of the operators and its backward: `HYPERSCATTER_SOAK`
/// tells how many.
#[test]
#[ignore = "it takes an hour or more: cargo test --release -- --ignored --nocapture soak"]
fn soak_of_unvalidated_tables() {
    let cases = std::env::var("HYPERSCATTER_SOAK").map_or(100_000, |cases| cases.parse().unwrap());
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let changes = prop::collection::vec(change(), 1..5);
    let which =
        prop_oneof![any::<bool>().prop_map(|to_hyperedges| Which::Step { to_hyperedges }), Just(Which::Conv)];
    let strategy = (which, narrow(100), kinds(), mode(), changes, element_types());
    let done = std::cell::Cell::new(0u32);
    let start = std::time::Instant::now();
    TestRunner::new(config)
        .run(&strategy, |(which, layout, kinds, mode, changes, element)| {
            let mode = Mode { build: Build::Checked, checks: Checks::On, ..mode };
            with_element!(element, survived(which, &layout, kinds, mode, &changes));
            done.set(done.get() + 1);
            if done.get().is_multiple_of(5000) {
                println!("{} layouts in {:.0?}", done.get(), start.elapsed());
            }
            Ok(())
        })
        .unwrap();
    println!("{cases} layouts with changed tables were survived, in {:.0?}", start.elapsed());
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn unvalidated_tables_are_survived(
        layout in narrow(1000),
        kinds in kinds(),
        mode in mode(),
        changes in prop::collection::vec(change(), 1..5),
        element in element_types(),
    ) {
        let mode = Mode { build: Build::Checked, checks: Checks::On, ..mode };
        let which = Which::All;
        with_element!(element, survived(which, &layout, kinds, mode, &changes));
    }
}
