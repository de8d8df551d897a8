//! The generic suite of the two steps: what every backend promises, once for all of them.

use hyperscatter::half::{bf16, f16};
use hyperscatter::{Batch, Error, Incidence, Out, Reduce, RowLayout, Rows};
use proptest::prelude::*;

use crate::backend::{Backend, Cpu, StepKind};
use crate::common::{TestElement, bits, features};
#[cfg(feature = "cuda")]
use crate::cuda::gpu::{Cuda, Mode, mode};
use crate::golden;
use crate::layouts::{Layout, Place, empty_batches, layout};

const F: usize = 5;
const TO_HYPEREDGES: StepKind = StepKind { to_hyperedges: true, reduce: Reduce::Sum };

fn kinds() -> impl Strategy<Value = StepKind> {
    let reduce = prop_oneof![Just(Reduce::Sum), Just(Reduce::Mean)];
    (any::<bool>(), reduce).prop_map(|(to_hyperedges, reduce)| StepKind { to_hyperedges, reduce })
}

/// The sources of each target of one instance.
fn rows_of(topology: &Incidence, to_hyperedges: bool) -> Vec<&[u32]> {
    match to_hyperedges {
        true => topology.by_edge().rows().collect(),
        false => topology.by_vertex().rows().collect(),
    }
}

/// The definition of a step, in `f64`, and the sums of the terms' absolute values.
fn by_definition<T: TestElement>(layout: &Layout, kind: StepKind, x: &[T]) -> (Vec<f64>, Vec<f64>) {
    let f = layout.features;
    let (mut y, mut sizes) = (vec![], vec![]);
    let mut source_start = 0;
    for g in 0..layout.instances {
        for sources in rows_of(layout.batch.topology(g), kind.to_hyperedges) {
            let mean = match kind.reduce {
                Reduce::Mean if !sources.is_empty() => 1.0 / sources.len() as f64,
                _ => 1.0,
            };
            for k in 0..f {
                let terms = sources.iter().map(|&s| x[(source_start + s as usize) * f + k].widen());
                let terms: Vec<f64> = terms.map(|x| hyperscatter::Accumulator::to_f64(x) * mean).collect();
                y.push(terms.iter().sum());
                sizes.push(terms.iter().map(|t: &f64| t.abs()).sum());
            }
        }
        source_start += layout.n_rows_of(g, !kind.to_hyperedges);
    }
    (y, sizes)
}

/// The layout's batch in one call, at the layout's places, twice with the same workspace. What lies between the rows is
/// neither read nor written.
fn batched<T: TestElement>(backend: &dyn Backend<T>, layout: &Layout, kind: StepKind, x: &[T]) -> Vec<T> {
    let (from, to) = (!kind.to_hyperedges, kind.to_hyperedges);
    let (nan, filler) = (T::of(f64::NAN), T::of(7.0));
    let x = layout.spread(x, layout.places[0], from, nan);
    let empty = vec![nan; layout.n_rows(to) * layout.features];
    let mut operators = backend.operators(&layout.batch, layout.features, layout.instances).unwrap();
    let mut run = || {
        let mut y = layout.spread(&empty, layout.places[1], to, filler);
        operators.step(kind, x.rows(), Out::Overwrite(y.rows_mut())).unwrap();
        assert!(y.gaps().iter().all(|&gap| gap == filler), "written between rows");
        y.gathered()
    };
    let (first, second) = (run(), run());
    assert_eq!(bits(&first), bits(&second), "the same call twice");
    first
}

/// A step is what its definition says, and has the same bits alone, at any position, and at any strides.
fn a_step_is_its_definition<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    kind: StepKind,
    rounding: f64,
) {
    let f = layout.features;
    let x: Vec<T> = features(layout.seed, layout.n_rows(!kind.to_hyperedges) * f);
    let y = batched(backend, layout, kind, &x);
    let (expected, sizes) = by_definition(layout, kind, &x);
    let longest = (0..layout.instances).map(|g| layout.batch.topology(g).n_incidences()).max().unwrap_or(0);
    let epsilon = if size_of::<T>() == 8 { f64::EPSILON } else { f64::from(f32::EPSILON) };
    for (i, (a, b)) in crate::common::widen(&y).iter().zip(&expected).enumerate() {
        // n terms in any order are off by at most n ε of the sum of their sizes; subnormal results have an absolute error.
        let bound = rounding * (b.abs() + 1e-4) + epsilon * (longest + 4) as f64 * sizes[i];
        assert!((a - b).abs() <= bound, "y[{i}] in {}: {a} is not {b} within {bound:.1e}", T::NAME);
    }

    let (mut start, mut alone) = (0, vec![]);
    for g in 0..layout.instances {
        let topology = layout.batch.topology(g).clone();
        let end = start + layout.n_rows_of(g, !kind.to_hyperedges) * f;
        let single = Layout {
            batch: Batch::replicate(topology),
            instances: 1,
            places: [Place::Contiguous; 4],
            ..layout.clone()
        };
        alone.extend(batched(backend, &single, kind, &x[start..end]));
        start = end;
    }
    assert_eq!(bits(&y), bits(&alone), "alone, in {}", T::NAME);
}

/// Results are added to what is there, or skipped.
fn outputs_are_added_to_or_skipped<T: TestElement>(backend: &dyn Backend<T>) {
    let batch = Batch::replicate(Incidence::subsets(4, 2).unwrap());
    let mut operators = backend.operators(&batch, F, 3).unwrap();
    let (x, base): (Vec<T>, Vec<T>) = (features(1, 3 * 4 * F), features(2, 3 * 6 * F));
    let rows = |x| Rows::contiguous(x, F);
    let mut y = vec![T::of(f64::NAN); base.len()];
    operators.step(TO_HYPEREDGES, rows(&x[..]), Out::Overwrite(Rows::contiguous(&mut y[..], F))).unwrap();
    let mut added = base.clone();
    operators.step(TO_HYPEREDGES, rows(&x[..]), Out::Add(Rows::contiguous(&mut added[..], F))).unwrap();
    operators.step(TO_HYPEREDGES, rows(&x[..]), Out::Skip).unwrap();
    let tolerance = 2.0 * rounding::<T>();
    for ((&added, &base), &y) in added.iter().zip(&base).zip(&y) {
        let [added, base, y] = [added, base, y].map(|v| hyperscatter::Accumulator::to_f64(v.widen()));
        assert!(
            (added - (base + y)).abs() <= tolerance * (base.abs() + y.abs()),
            "{added} is not {base} + {y}"
        );
    }
}

fn rounding<T: TestElement>() -> f64 {
    match T::NAME {
        "f64" => 1e-14,
        "f32" => 1e-6,
        "f16" => 1e-3,
        _ => 8e-3,
    }
}

/// The number of copies is an operand: one workspace serves any, up to what it was made for.
fn a_replicated_batch_serves_any_number_of_copies<T: TestElement>(backend: &dyn Backend<T>, most: usize) {
    let batch = Batch::replicate(Incidence::subsets(4, 2).unwrap());
    let mut operators = backend.operators(&batch, F, most).unwrap();
    let x: Vec<T> = features(1, (most + 1) * 4 * F);
    let filler = T::of(7.0);
    let mut all = vec![filler; most * 6 * F];
    for copies in [most, 7, 1, 0] {
        let mut y = vec![filler; most * 6 * F];
        let out = Out::Overwrite(Rows::contiguous(&mut y[..copies * 6 * F], F));
        operators.step(TO_HYPEREDGES, Rows::contiguous(&x[..copies * 4 * F], F), out).unwrap();
        if copies == most {
            all.clone_from(&y);
        }
        let (written, rest) = y.split_at(copies * 6 * F);
        assert_eq!(bits(written), bits(&all[..written.len()]), "{copies} copies");
        assert!(rest.iter().all(|&y| y == filler), "written past {copies} copies");
    }
    let error = operators.step(TO_HYPEREDGES, Rows::contiguous(&x[..], F), Out::Skip).unwrap_err();
    assert_eq!(error, Error::TooManyInstances { value: most + 1, bound: most });
}

/// Nothing of anything is legal, and rows without sources are zeros.
fn zero_of_everything_is_legal<T: TestElement>(backend: &dyn Backend<T>) {
    for (batch, features) in empty_batches().iter().flat_map(|batch| [0, F].map(|f| (batch, f))) {
        let instances = batch.n_instances().unwrap_or(4);
        let (n, m) = (batch.vertex_start(instances) * features, batch.hyperedge_start(instances) * features);
        let mut operators = backend.operators(batch, features, instances).unwrap();
        let layout = RowLayout::contiguous(features).instances(instances);
        for (to_hyperedges, from, to) in [(true, n, m), (false, m, n)] {
            let kind = StepKind { to_hyperedges, reduce: Reduce::Mean };
            let (x, mut y) = (vec![T::of(1.0); from], vec![T::of(f64::NAN); to]);
            operators.step(kind, Rows::new(&x, layout), Out::Overwrite(Rows::new(&mut y, layout))).unwrap();
            assert!(y.iter().all(|&y| y == T::of(0.0)), "rows without sources are zeros");
        }
    }
}

/// Shapes, strides and overlaps are checked before anything is written.
fn shapes_are_checked<T: TestElement>(backend: &dyn Backend<T>) {
    let mut operators =
        backend.operators(&Batch::replicate(Incidence::subsets(3, 2).unwrap()), 4, 2).unwrap();
    let x: Vec<T> = features(1, 24);
    let contiguous = RowLayout::contiguous(4);
    let good = Rows::contiguous(&x[..], 4);
    let filler = T::of(7.0);
    let overlap = |what, value, bound| Error::Overlap { operand: "z", what, value, bound };
    let cases: [(_, _, _, Error); 4] = [
        (Rows::contiguous(&x[..24], 3), contiguous, 24, {
            let relation = "are the plan's features";
            Error::Shape { operand: "x", what: "features", value: 3, bound: 4, relation }
        }),
        (good, contiguous.instances(2), 23, {
            let (row_stride, instance_stride) = (4, 0);
            let (operand, instances, rows) = ("z", 2, 6);
            Error::Stride { operand, instances, rows, row_stride, instance_stride, value: 24, bound: 23 }
        }),
        (good, contiguous.row_stride(3).instances(2), 24, overlap("row", 3, 4)),
        (good, contiguous.instance_stride(11).instances(2), 24, overlap("instance", 11, 12)),
    ];
    for (x, layout, len, expected) in cases {
        let mut z = vec![filler; len];
        let error = operators.step(TO_HYPEREDGES, x, Out::Overwrite(Rows::new(&mut z, layout))).unwrap_err();
        assert_eq!(error, expected);
        assert!(z.iter().all(|&z| z == filler), "nothing is written");
    }
}

fn suite<T: TestElement>(backend: &dyn Backend<T>, copies: usize) {
    outputs_are_added_to_or_skipped(backend);
    a_replicated_batch_serves_any_number_of_copies(backend, copies);
    zero_of_everything_is_legal(backend);
    shapes_are_checked(backend);
    golden::mean_of_vertices(backend, golden::mean_tolerance::<T>());
}

#[test]
fn suite_on_the_cpu() {
    suite::<f64>(&Cpu, 24_576);
    suite::<f32>(&Cpu, 24_576);
    suite::<f16>(&Cpu, 24_576);
    suite::<bf16>(&Cpu, 24_576);
}

#[cfg(feature = "cuda")]
#[test]
fn suite_on_the_gpu() {
    use hyperscatter::cuda::Checks;
    use hyperscatter_emulator::interface::{Build, Order};
    for build in [Build::Fast, Build::Checked] {
        for (order, checks) in [
            (Order::Forward, Checks::On),
            (Order::Reverse, Checks::Off),
            (Order::Shuffled(1), Checks::On),
            (Order::Preempting(2), Checks::Off),
        ] {
            let backend = Cuda::new(Mode { build, order, checks, ..Mode::PLAIN });
            suite::<f32>(&backend, 100);
            suite::<f64>(&backend, 20);
            suite::<f16>(&backend, 20);
            suite::<bf16>(&backend, 20);
        }
    }
}

proptest! {
    #[test]
    fn steps_are_their_definition_on_the_cpu(layout in layout(), kind in kinds(), element in 0..4) {
        match element {
            0 => a_step_is_its_definition::<f32>(&Cpu, &layout, kind, rounding::<f32>()),
            1 => a_step_is_its_definition::<f64>(&Cpu, &layout, kind, rounding::<f64>()),
            2 => a_step_is_its_definition::<f16>(&Cpu, &layout, kind, rounding::<f16>()),
            _ => a_step_is_its_definition::<bf16>(&Cpu, &layout, kind, rounding::<bf16>()),
        }
    }
}

#[cfg(feature = "cuda")]
fn same_bits_on_cpu_and_gpu<T: crate::cuda::gpu::GpuElement>(layout: &Layout, kind: StepKind, mode: Mode) {
    let x: Vec<T> = features(layout.seed, layout.n_rows(!kind.to_hyperedges) * layout.features);
    let (cpu, gpu) = (batched(&Cpu, layout, kind, &x), batched(&Cuda::new(mode), layout, kind, &x));
    assert_eq!(bits(&cpu), bits(&gpu), "in {}", T::NAME);
    // Added to what is there, too.
    let added = |backend: &dyn Backend<T>| {
        let rows = RowLayout::contiguous(layout.features).instances(layout.instances);
        let mut y: Vec<T> = features(layout.seed ^ 1, cpu.len());
        let mut operators = backend.operators(&layout.batch, layout.features, layout.instances).unwrap();
        operators.step(kind, Rows::new(&x, rows), Out::Add(Rows::new(&mut y, rows))).unwrap();
        bits(&y)
    };
    assert_eq!(added(&Cpu), added(&Cuda::new(mode)), "added, in {}", T::NAME);
}

#[cfg(feature = "cuda")]
proptest! {
    #[test]
    fn steps_are_their_definition_on_the_gpu(
        layout in layout(),
        kind in kinds(),
        mode in mode(),
        element in 0..4,
    ) {
        let backend = Cuda::new(mode);
        match element {
            0 => a_step_is_its_definition::<f32>(&backend, &layout, kind, rounding::<f32>()),
            1 => a_step_is_its_definition::<f64>(&backend, &layout, kind, rounding::<f64>()),
            2 => a_step_is_its_definition::<f16>(&backend, &layout, kind, rounding::<f16>()),
            _ => a_step_is_its_definition::<bf16>(&backend, &layout, kind, rounding::<bf16>()),
        }
    }

    #[test]
    fn steps_have_the_same_bits_on_cpu_and_gpu(
        layout in layout(),
        kind in kinds(),
        mode in mode(),
        element in 0..4,
    ) {
        match element {
            0 => same_bits_on_cpu_and_gpu::<f32>(&layout, kind, mode),
            1 => same_bits_on_cpu_and_gpu::<f64>(&layout, kind, mode),
            2 => same_bits_on_cpu_and_gpu::<f16>(&layout, kind, mode),
            _ => same_bits_on_cpu_and_gpu::<bf16>(&layout, kind, mode),
        }
    }
}
