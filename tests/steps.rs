//! The generic suite of the two steps and their backward over random layouts: what every backend promises,
//! once for all of them.

use std::ops::Range;

use hyperscatter::{Axis, Conv, Reduce, WindowTable, Windows, cpu};
use proptest::prelude::*;

use crate::backend::{Backend, Cpu, Operators, StepKind, Write};
use crate::common::{Rounded, TestElement, bits, features, poison, sums, weights, widen, with_threads};
use crate::layouts::{Layout, WindowKind, extremes, layout, long_and_wide_layout};
use crate::per_backend::per_backend;

/// A step over a layout: which scales it has, and the windows through which they are read.
#[derive(Debug, Clone)]
struct StepLayout {
    layout: Layout,
    kind: StepKind,
    vertex_scale: Option<WindowKind>,
    hyperedge_scale: Option<WindowKind>,
}

fn step_layout(layout: impl Strategy<Value = Layout>) -> impl Strategy<Value = StepLayout> {
    let scale = || prop::option::weighted(0.75, WindowKind::any());
    (layout, StepKind::any(), scale(), scale()).prop_map(|(layout, kind, vertex_scale, hyperedge_scale)| {
        StepLayout { layout, kind, vertex_scale, hyperedge_scale }
    })
}

/// What a step and its backward are asked for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    y: Write,
    grad_x: Write,
    grad_vertex_scale: Write,
    grad_hyperedge_scale: Write,
}

impl Asked {
    const ALL: Self = Self {
        y: Write::Overwrite,
        grad_x: Write::Overwrite,
        grad_vertex_scale: Write::Overwrite,
        grad_hyperedge_scale: Write::Overwrite,
    };
}

fn asked() -> impl Strategy<Value = Asked> {
    (Write::any(), Write::any(), Write::any(), Write::any()).prop_map(
        |(y, grad_x, grad_vertex_scale, grad_hyperedge_scale)| Asked {
            y,
            grad_x,
            grad_vertex_scale,
            grad_hyperedge_scale,
        },
    )
}

/// A scale of a step, and what of it each instance reads.
struct Scale<A> {
    values: Vec<A>,
    windows: Windows<Box<WindowTable>>,
    ranges: Vec<Range<usize>>,
}

impl<A> Scale<A> {
    fn weights(&self) -> cpu::Weights<'_, A> {
        cpu::Weights { values: &self.values, windows: self.windows.as_deref() }
    }

    fn len(scale: &Option<Self>) -> usize {
        scale.as_ref().map_or(0, |s| s.values.len())
    }
}

/// The operands of a step and its backward, in contiguous rows.
struct Operands<T: TestElement> {
    x: Vec<T>,
    g: Vec<T>,
    vertex_scale: Option<Scale<T::Acc>>,
    hyperedge_scale: Option<Scale<T::Acc>>,
}

/// Everything that a step and its backward give, in contiguous rows; empty where it is not asked for.
struct Results<T: TestElement> {
    y: Vec<T>,
    grad_x: Vec<T>,
    grad_vertex_scale: Vec<T::Acc>,
    grad_hyperedge_scale: Vec<T::Acc>,
}

impl<T: TestElement> Results<T> {
    /// By name.
    fn bits(&self) -> [(&'static str, Vec<u64>); 4] {
        let Self { y, grad_x, grad_vertex_scale, grad_hyperedge_scale } = self;
        [
            ("y", bits(y)),
            ("grad_x", bits(grad_x)),
            ("grad_vertex_scale", bits(grad_vertex_scale)),
            ("grad_hyperedge_scale", bits(grad_hyperedge_scale)),
        ]
    }
}

impl StepLayout {
    fn operands<T: TestElement>(&self) -> Operands<T> {
        let Layout { features: f, seed, .. } = self.layout;
        Operands {
            x: features(seed ^ 3, self.layout.n_rows(!self.kind.to_hyperedges) * f),
            g: features(seed ^ 4, self.layout.n_rows(self.kind.to_hyperedges) * f),
            vertex_scale: self.vertex_scale.map(|kind| self.scale::<T>(kind, false)),
            hyperedge_scale: self.hyperedge_scale.map(|kind| self.scale::<T>(kind, true)),
        }
    }

    /// With infinities and NaN among the features, or not.
    fn poisoned<T: TestElement>(&self, poisoned: bool) -> Operands<T> {
        let mut operands = self.operands::<T>();
        if poisoned {
            poison(&mut operands.x, self.layout.seed ^ 7);
            poison(&mut operands.g, self.layout.seed ^ 8);
        }
        operands
    }

    fn scale<T: TestElement>(&self, kind: WindowKind, hyperedges: bool) -> Scale<T::Acc> {
        let Layout { batch, offsets, seed, instances, .. } = &self.layout;
        let start = |g| match kind {
            WindowKind::Shared => 0,
            WindowKind::Consecutive if hyperedges => batch.start(Axis::Hyperedge, g),
            WindowKind::Consecutive => batch.start(Axis::Vertex, g),
            WindowKind::Table => offsets[g],
        };
        let range = |g| start(g)..start(g) + self.layout.n_rows_of(g, hyperedges);
        let ranges: Vec<_> = (0..*instances).map(range).collect();
        let needed = ranges.iter().map(|r| r.end).max().unwrap_or(0);
        let make = if hyperedges { WindowTable::new } else { WindowTable::for_vertices };
        let (windows, uncovered) = match kind {
            WindowKind::Shared => (Windows::Shared, 0),
            WindowKind::Consecutive => (Windows::Consecutive, 0),
            WindowKind::Table => (Windows::Table(Box::new(make(batch, offsets).unwrap())), 2),
        };
        let seed = seed.rotate_left(8 + u32::from(hyperedges));
        Scale { values: weights::<T>(seed, needed + uncovered, true), windows, ranges }
    }

    /// The same step on instance `g` alone, with its windows cut out.
    fn alone<T: TestElement>(&self, operands: &Operands<T>, g: usize) -> (Self, Operands<T>) {
        let layout = self.layout.alone(g);
        let cut = |scale: &Option<Scale<T::Acc>>| {
            let scale = scale.as_ref()?;
            let values = scale.values[scale.ranges[g].clone()].to_vec();
            Some(Scale { values, windows: Windows::Shared, ranges: vec![] })
        };
        let operands = Operands {
            x: operands.x[self.layout.elements_of(g, !self.kind.to_hyperedges)].to_vec(),
            g: operands.g[self.layout.elements_of(g, self.kind.to_hyperedges)].to_vec(),
            vertex_scale: cut(&operands.vertex_scale),
            hyperedge_scale: cut(&operands.hyperedge_scale),
        };
        (Self { layout, ..self.clone() }, operands)
    }

    fn operators<T: TestElement>(&self, backend: &dyn Backend<T>) -> Box<dyn Operators<T>> {
        let Layout { batch, features, .. } = &self.layout;
        backend.operators(batch, *features, Conv::default(), self.layout.max_instances()).unwrap()
    }

    /// The batch in one call, at the layout's places. What lies between the rows is neither read nor written.
    fn run<T: TestElement>(
        &self,
        operators: &mut dyn Operators<T>,
        operands: &Operands<T>,
        asked: Asked,
    ) -> Results<T> {
        let Self { layout, kind: StepKind { to_hyperedges, reduce }, .. } = self;
        let (from, to) = (!to_hyperedges, *to_hyperedges);
        let [x_place, g_place, y_place, grad_x_place, _] = layout.places;
        let (nan, filler) = (T::of(f64::NAN), T::of(7.0));
        let x = layout.spread(&operands.x, x_place, from, nan);
        let g = layout.spread(&operands.g, g_place, to, nan);
        let step = cpu::Step::new(*reduce)
            .vertex_scale(operands.vertex_scale.as_ref().map(Scale::weights))
            .hyperedge_scale(operands.hyperedge_scale.as_ref().map(Scale::weights));
        // What is overwritten is not read.
        let start = |write, seed, len| match write {
            Write::Accumulate => features(layout.seed ^ seed, len),
            _ => vec![nan; len],
        };
        let start_scale = |write, seed, scale| match write {
            Write::Accumulate => sums::<T>(layout.seed ^ seed, Scale::len(scale)),
            _ => vec![T::acc(f64::NAN); Scale::len(scale)],
        };
        let mut y = layout.spread(&start(asked.y, 5, operands.g.len()), y_place, to, filler);
        let mut grad_x = layout.spread(&start(asked.grad_x, 6, operands.x.len()), grad_x_place, from, filler);
        let mut grad_vertex_scale = start_scale(asked.grad_vertex_scale, 7, &operands.vertex_scale);
        let mut grad_hyperedge_scale = start_scale(asked.grad_hyperedge_scale, 8, &operands.hyperedge_scale);

        operators.step(*to_hyperedges, step, x.rows(), asked.y.to(y.rows_mut())).unwrap();
        let gradients = cpu::StepGradients::none()
            .rows(asked.grad_x.to(grad_x.rows_mut()))
            .vertex_scale(asked.grad_vertex_scale.to(&mut grad_vertex_scale[..]))
            .hyperedge_scale(asked.grad_hyperedge_scale.to(&mut grad_hyperedge_scale[..]));
        operators.step_backward(*to_hyperedges, step, x.rows(), g.rows(), gradients).unwrap();
        assert!(y.gaps().iter().chain(&grad_x.gaps()).all(|&gap| gap == filler), "written between rows");
        let wanted = |write, values| if write == Write::Skip { vec![] } else { values };
        Results {
            y: if asked.y == Write::Skip { vec![] } else { y.gathered() },
            grad_x: if asked.grad_x == Write::Skip { vec![] } else { grad_x.gathered() },
            grad_vertex_scale: wanted(asked.grad_vertex_scale, grad_vertex_scale),
            grad_hyperedge_scale: wanted(asked.grad_hyperedge_scale, grad_hyperedge_scale),
        }
    }

    /// Results by the definition of the step: plain loops over the incidences in `f64`. With `sizes`, the
    /// sums of the terms' absolute values.
    fn by_definition<T: TestElement>(&self, operands: &Operands<T>, sizes: bool) -> Results<f64> {
        let Self { layout, kind: StepKind { to_hyperedges, reduce }, .. } = self;
        let f = layout.features;
        let size = |x: f64| if sizes { x.abs() } else { x };
        let values = |values: Vec<f64>| values.into_iter().map(size).collect::<Vec<_>>();
        let (x, g) = (values(widen(&operands.x)), values(widen(&operands.g)));
        let vertex_values = operands.vertex_scale.as_ref().map(|s| values(widen(&s.values)));
        let hyperedge_values = operands.hyperedge_scale.as_ref().map(|s| values(widen(&s.values)));
        let mut results = Results {
            y: vec![0.0; g.len()],
            grad_x: vec![0.0; x.len()],
            grad_vertex_scale: vec![0.0; Scale::len(&operands.vertex_scale)],
            grad_hyperedge_scale: vec![0.0; Scale::len(&operands.hyperedge_scale)],
        };
        let (mut x_row, mut y_row) = (0, 0);
        for instance in 0..layout.instances {
            let topology = layout.batch.topology(instance);
            let at = |scale: &Option<Scale<T::Acc>>, i: usize| {
                scale.as_ref().map(|s| s.ranges[instance].start + i)
            };
            for (v, e) in topology.incidences() {
                let (v, e) = (v as usize, e as usize);
                let (from, to) = if *to_hyperedges { (v, e) } else { (e, v) };
                let count = match to_hyperedges {
                    true => topology.by_edge().row(e).len(),
                    false => topology.by_vertex().row(v).len(),
                };
                let mean = if *reduce == Reduce::Mean { 1.0 / count as f64 } else { 1.0 };
                let (v_at, e_at) = (at(&operands.vertex_scale, v), at(&operands.hyperedge_scale, e));
                let r = v_at.map_or(1.0, |i| vertex_values.as_ref().unwrap()[i]);
                let s = e_at.map_or(1.0, |i| hyperedge_values.as_ref().unwrap()[i]);
                for k in 0..f {
                    let (xi, yi) = ((x_row + from) * f + k, (y_row + to) * f + k);
                    results.y[yi] += mean * r * s * x[xi];
                    results.grad_x[xi] += mean * r * s * g[yi];
                    if let Some(at) = v_at {
                        results.grad_vertex_scale[at] += mean * s * x[xi] * g[yi];
                    }
                    if let Some(at) = e_at {
                        results.grad_hyperedge_scale[at] += mean * r * x[xi] * g[yi];
                    }
                }
            }
            x_row += layout.n_rows_of(instance, !to_hyperedges);
            y_row += layout.n_rows_of(instance, *to_hyperedges);
        }
        results
    }
}

/// A step is what its definition says, has the same bits alone, at any position and at any strides, and when
/// it is called again.
fn steps_are_their_definition<T: TestElement>(backend: &dyn Backend<T>, step: &StepLayout) {
    let operands = step.operands::<T>();
    let mut batch = step.operators(backend);
    let batched = step.run(&mut *batch, &operands, Asked::ALL);
    assert_eq!(batched.bits(), step.run(&mut *batch, &operands, Asked::ALL).bits(), "again, in {}", T::NAME);

    let expected = step.by_definition(&operands, false);
    let sizes = step.by_definition(&operands, true);
    // n terms in any order of summation are off by at most n ε of the sum of their sizes.
    let incidences = |g| step.layout.batch.topology(g).n_incidences();
    let n_terms = (0..step.layout.instances).map(incidences).sum::<usize>() * step.layout.features + 4;
    let epsilon = 2.0 * T::Acc::ROUNDING * n_terms as f64;
    for (what, a, b, size, rounding) in [
        ("y", widen(&batched.y), &expected.y, &sizes.y, T::ROUNDING),
        ("grad_x", widen(&batched.grad_x), &expected.grad_x, &sizes.grad_x, T::ROUNDING),
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
            let bound = 2.0 * rounding * (b.abs() + 1e-4) + epsilon * size[i];
            assert!((a - b).abs() <= bound, "{what}[{i}] in {}: {a} is not {b} within {bound:.1e}", T::NAME);
        }
    }

    let mut alone: Vec<Option<Box<dyn Operators<T>>>> =
        step.layout.batch.topologies().iter().map(|_| None).collect();
    let (mut y, mut grad_x) = (vec![], vec![]);
    for g in 0..step.layout.instances {
        let (single, operands) = step.alone(&operands, g);
        let alone = alone[step.layout.batch.topology_id(g)].get_or_insert_with(|| single.operators(backend));
        let results = single.run(&mut **alone, &operands, Asked::ALL);
        y.extend(results.y);
        grad_x.extend(results.grad_x);
    }
    assert_eq!(bits(&batched.y), bits(&y), "y alone, in {}", T::NAME);
    assert_eq!(bits(&batched.grad_x), bits(&grad_x), "grad_x alone, in {}", T::NAME);
}

fn the_number_of_threads_changes_no_bit<T: TestElement>(
    backend: &dyn Backend<T>,
    step: &StepLayout,
    asked: Asked,
    poisoned: bool,
) {
    let operands = step.poisoned::<T>(poisoned);
    let all = [1, 2, 8].map(|threads| {
        with_threads(threads, || step.run(&mut *step.operators(backend), &operands, asked).bits())
    });
    assert_eq!(all[0], all[1]);
    assert_eq!(all[0], all[2]);
}

/// The bits of a step and of all its gradients, by name.
pub fn step_bits<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    kind: StepKind,
    windows: WindowKind,
) -> [(&'static str, Vec<u64>); 4] {
    let layout = layout.clone();
    let step = StepLayout { layout, kind, vertex_scale: Some(windows), hyperedge_scale: Some(windows) };
    step.run(&mut *step.operators(backend), &step.operands(), Asked::ALL).bits()
}

per_backend! {
    on [cpu], in [any_type]:
    the_number_of_threads_changes_no_bit(&step, asked, poisoned)
        for step in step_layout(layout()), asked in asked(), poisoned in prop::bool::weighted(0.2);
}

fn steps_have_the_bits_of_the_cpu<T: TestElement>(
    backend: &dyn Backend<T>,
    step: &StepLayout,
    asked: Asked,
    poisoned: bool,
) {
    let operands = step.poisoned::<T>(poisoned);
    let on = |backend: &dyn Backend<T>| step.run(&mut *step.operators(backend), &operands, asked).bits();
    assert_eq!(on(&Cpu), on(backend), "in {}", T::NAME);
}

fn steps_of_long_and_wide_rows_have_the_bits_of_the_cpu<T: TestElement>(
    backend: &dyn Backend<T>,
    step: &StepLayout,
) {
    steps_have_the_bits_of_the_cpu(backend, step, Asked::ALL, false);
}

fn extreme_steps_have_the_bits_of_the_cpu<T: TestElement>(backend: &dyn Backend<T>) {
    for (write, to_hyperedges) in [(Write::Overwrite, true), (Write::Accumulate, false)] {
        let asked = Asked { grad_vertex_scale: write, grad_hyperedge_scale: write, ..Asked::ALL };
        let kind = StepKind { to_hyperedges, reduce: Reduce::Mean };
        let scale = Some(WindowKind::Table);
        for layout in extremes() {
            let step = StepLayout { layout, kind, vertex_scale: scale, hyperedge_scale: scale };
            steps_have_the_bits_of_the_cpu(backend, &step, asked, false);
        }
    }
}

// On the emulated driver a case of these takes a core 10 to 80 ms, and one of long and wide rows 70 ms.
per_backend! {
    on [cpu, cuda(cases(64))], in [any_type]:
    steps_are_their_definition(&step) for step in step_layout(layout());
}

per_backend! {
    on [cuda(ProptestConfig::default())], in [any_type]:
    steps_have_the_bits_of_the_cpu(&step, asked, poisoned)
        for step in step_layout(layout()), asked in asked(), poisoned in prop::bool::weighted(0.2);
}

per_backend! {
    on [cuda(cases(16))], in [any_type]:
    steps_of_long_and_wide_rows_have_the_bits_of_the_cpu(&step)
        for step in step_layout(long_and_wide_layout());
}

per_backend! {
    on [cuda(modes(&[Order::Reverse]))], in [f32, f64]:
    extreme_steps_have_the_bits_of_the_cpu;
}

/// A sum that underflows to -0 is -0 in any surroundings: with other rows beside it, at any strides, in
/// segments, on any backend.
fn a_sum_that_underflows_has_the_same_sign_everywhere(backend: &dyn Backend<f32>) {
    use hyperscatter::{Batch, Incidence, Out, Repeats, RowLayout, Rows};
    const F: usize = 4;
    let z = |backend: &dyn Backend<f32>, edges: &[Vec<u32>], stride: usize| {
        let batch = Batch::replicate(Incidence::from_edges(6, edges, Repeats::Keep).unwrap());
        let x = vec![-1e-30f32; 6 * stride];
        let scale = [1e-30f32; 6];
        let step = cpu::Step::sum().vertex_scale(cpu::Weights::shared(&scale[..]));
        let mut z = vec![f32::NAN; edges.len() * F];
        let mut operators = backend.operators(&batch, F, Conv::default(), 1).unwrap();
        let x = Rows::new(&x[..], RowLayout::contiguous(F).row_stride(stride).instances(1));
        operators.step(true, step, x, Out::Overwrite(Rows::contiguous(&mut z[..], F))).unwrap();
        bits(&z)
    };
    let of = |len: u32| (0..len).map(|i| i % 6).collect::<Vec<u32>>();
    for len in [1, 3, 4, 7, 9, 30, 512, 1024] {
        let alone = z(&Cpu, &[of(len)], F);
        assert_eq!(alone[0], if len <= 512 { (-0.0f64).to_bits() } else { 0 }, "{len} incidences");
        for (edges, stride) in [
            (vec![of(len)], F),
            (vec![of(len)], F + 1),
            (vec![of(len), of(8), of(2)], F),
            (vec![of(len), of(11), of(500)], F),
        ] {
            assert_eq!(z(backend, &edges, stride)[..F], alone, "{len} incidences, stride {stride}");
        }
    }
}

per_backend! {
    on [cpu, cuda([Mode::PLAIN])], in [f32]:
    a_sum_that_underflows_has_the_same_sign_everywhere;
}
