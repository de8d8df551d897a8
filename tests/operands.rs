//! What an operator makes of its operands: outputs overwritten, added to or skipped; any number of copies;
//! windows; rows read and written in place; nothing of anything; what it refuses. The generic suite, for
//! every backend.

use hyperscatter::{
    Accumulator, Axis, Batch, Conv, Element, Error, Incidence, Normalization, Out, RowLayout, Rows,
    WeightUse, WindowTable, cpu,
};
use proptest::prelude::*;

use crate::backend::{Backend, Operators, Write};
use crate::common::{Rounded, TestElement, bits, features, sums, weights, widen};
use crate::layouts::{Layout, empty_batches, layout, pairs};
use crate::per_backend::per_backend;

pub const F: usize = 5;

pub fn rows<T>(data: &[T]) -> Rows<&[T]> {
    Rows::contiguous(data, F)
}

pub fn out<T>(data: &mut [T]) -> Rows<&mut [T]> {
    Rows::contiguous(data, F)
}

/// The first instance has a negative degree, and that is what a call says.
pub fn assert_negative_degree(found: Result<(), Error>) {
    let is_reported = matches!(found, Err(Error::NegativeDegree { instance: 0, value, .. }) if value < 0.0);
    assert!(is_reported, "{found:?}");
}

fn operators<T: TestElement>(
    backend: &dyn Backend<T>,
    batch: &Batch,
    instances: usize,
) -> Box<dyn Operators<T>> {
    backend.operators(batch, F, Conv::default(), instances).unwrap()
}

fn nan<T: TestElement>(len: usize) -> Vec<T> {
    vec![T::of(f64::NAN); len]
}

fn acc_nan<T: TestElement>(len: usize) -> Vec<T::Acc> {
    vec![T::acc(f64::NAN); len]
}

/// All operators over the pairs of four, for some number of copies: operands, and what the outputs hold
/// before.
struct Calls<T: TestElement> {
    x: Vec<T>,
    z: Vec<T>,
    w: Vec<T::Acc>,
    scale: Vec<T::Acc>,
    before: Outputs<T>,
}

/// The outputs of all operators, by name.
#[derive(Clone)]
struct Outputs<T: TestElement> {
    y: Vec<T>,
    grad_x: Vec<T>,
    grad_w: Vec<T::Acc>,
    /// Of the steps to the hyperedges and to the vertices.
    step_rows: [Vec<T>; 2],
    step_grad_rows: [Vec<T>; 2],
    grad_vertex_scale: [Vec<T::Acc>; 2],
    grad_hyperedge_scale: [Vec<T::Acc>; 2],
}

impl<T: TestElement> Outputs<T> {
    fn rows(&self) -> [&Vec<T>; 6] {
        let Self { y, grad_x, step_rows: [to_m, to_n], step_grad_rows: [of_n, of_m], .. } = self;
        [y, grad_x, to_m, to_n, of_n, of_m]
    }

    fn sums(&self) -> [&Vec<T::Acc>; 5] {
        let [v, t] = &self.grad_vertex_scale;
        let [s, u] = &self.grad_hyperedge_scale;
        [&self.grad_w, v, t, s, u]
    }

    fn bits(&self) -> Vec<Vec<u64>> {
        self.rows().into_iter().map(|r| bits(r)).chain(self.sums().into_iter().map(|s| bits(s))).collect()
    }
}

impl<T: TestElement> Calls<T> {
    /// With outputs that hold NaN.
    fn new(copies: usize) -> Self {
        let (n, m) = (copies * 4 * F, copies * 6 * F);
        let before = Outputs {
            y: nan(n),
            grad_x: nan(n),
            grad_w: acc_nan::<T>(6),
            step_rows: [nan(m), nan(n)],
            step_grad_rows: [nan(n), nan(m)],
            grad_vertex_scale: [acc_nan::<T>(4), acc_nan::<T>(4)],
            grad_hyperedge_scale: [acc_nan::<T>(6), acc_nan::<T>(6)],
        };
        Self {
            x: features(1, n),
            z: features(2, m),
            w: weights::<T>(3, 6, false),
            scale: weights::<T>(4, 4, true),
            before,
        }
    }

    /// Calls everything. `write` tells what becomes of rows, gradients of weights and vertex scales, and
    /// gradients of hyperedge scales.
    fn run(&self, operators: &mut dyn Operators<T>, write: [Write; 3]) -> Outputs<T> {
        let mut outputs = self.before.clone();
        let [of_rows, of_weights, of_scales] = write;
        let (x, z) = (rows(&self.x), rows(&self.z));
        let weights = cpu::Weights::shared(&self.w[..]);
        operators.conv(x, weights, None, of_rows.to(out(&mut outputs.y))).unwrap();
        let (grad_x, grad_w) = (of_rows.to(out(&mut outputs.grad_x)), of_weights.to(&mut outputs.grad_w[..]));
        operators.conv_backward(x, None, weights, x, grad_x, grad_w).unwrap();
        let vertex_scale = Some(cpu::Weights::shared(&self.scale[..]));
        let step = cpu::Step::mean().vertex_scale(vertex_scale).hyperedge_scale(weights);
        for (i, (to_hyperedges, from, to)) in [(true, x, z), (false, z, x)].into_iter().enumerate() {
            operators.step(to_hyperedges, step, from, of_rows.to(out(&mut outputs.step_rows[i]))).unwrap();
            let gradients = cpu::StepGradients::none()
                .rows(of_rows.to(out(&mut outputs.step_grad_rows[i])))
                .vertex_scale(of_weights.to(&mut outputs.grad_vertex_scale[i][..]))
                .hyperedge_scale(of_scales.to(&mut outputs.grad_hyperedge_scale[i][..]));
            operators.step_backward(to_hyperedges, step, from, to, gradients).unwrap();
        }
        outputs
    }
}

fn assert_added<T: Element + Rounded>(added: &[T], before: &[T], result: &[T]) {
    let [added, before, result] = [added, before, result].map(widen);
    for ((added, before), result) in added.iter().zip(before).zip(result) {
        // The result is rounded once on its own and once in the sum; its parts are sums in another order.
        let bound = 8.0 * T::ROUNDING * (before.abs() + result.abs());
        assert!(
            (added - (before + result)).abs() <= bound,
            "{added} is not {before} + {result} in {}",
            T::NAME
        );
    }
}

/// Results replace what is there, are added to it, or are skipped; what happens to one output changes no
/// other.
fn outputs_are_added_to_or_skipped<T: TestElement>(backend: &dyn Backend<T>) {
    use Write::{Accumulate, Overwrite, Skip};
    let batch = pairs();
    let mut operators = operators(backend, &batch, 3);
    let mut calls = Calls::<T>::new(3);
    let results = calls.run(&mut *operators, [Overwrite; 3]);
    let all = results.bits();
    let nothing = calls.before.bits();
    for kinds in [[Overwrite, Overwrite, Skip], [Overwrite, Skip, Overwrite], [Skip, Overwrite, Overwrite]] {
        let [of_rows, of_weights, of_scales] = kinds.map(|kind| if kind == Skip { &nothing } else { &all });
        let mixed = calls.run(&mut *operators, kinds).bits();
        assert_eq!(mixed[..6], of_rows[..6], "{kinds:?}");
        assert_eq!(mixed[6..9], of_weights[6..9], "{kinds:?}");
        assert_eq!(mixed[9..], of_scales[9..], "{kinds:?}");
    }
    assert_eq!(calls.run(&mut *operators, [Skip; 3]).bits(), nothing);

    let base = |len| features::<T>(6, len);
    let sums = |len| sums::<T>(7, len);
    calls.before = Outputs {
        y: base(results.y.len()),
        grad_x: base(results.grad_x.len()),
        grad_w: sums(6),
        step_rows: results.step_rows.clone().map(|r| base(r.len())),
        step_grad_rows: results.step_grad_rows.clone().map(|r| base(r.len())),
        grad_vertex_scale: [sums(4), sums(4)],
        grad_hyperedge_scale: [sums(6), sums(6)],
    };
    let added = calls.run(&mut *operators, [Accumulate; 3]);
    for ((added, before), result) in added.rows().iter().zip(calls.before.rows()).zip(results.rows()) {
        assert_added(added, before, result);
    }
    for ((added, before), result) in added.sums().iter().zip(calls.before.sums()).zip(results.sums()) {
        assert_added(added, before, result);
    }
}

/// The number of copies is an operand: one workspace serves any, up to what it was made for.
fn a_replicated_batch_serves_any_number_of_copies<T: TestElement>(backend: &dyn Backend<T>) {
    let most = match backend.affords(24_576 * F) {
        true => 24_576,
        false if cfg!(miri) => 7,
        false => 100,
    };
    let mut operators = operators(backend, &pairs(), most);
    let all = Calls::<T>::new(most).run(&mut *operators, [Write::Overwrite; 3]);
    for copies in [7, 1, 0] {
        let fewer = Calls::<T>::new(copies).run(&mut *operators, [Write::Overwrite; 3]);
        for (fewer, all) in fewer.rows().iter().zip(all.rows()) {
            assert_eq!(bits(fewer), bits(&all[..fewer.len()]), "{copies} copies");
        }
        assert!(fewer.sums().iter().all(|sums| widen(sums).iter().all(|s| s.is_finite())));
    }
    let calls = Calls::<T>::new(most + 1);
    let weights = cpu::Weights::shared(&calls.w[..]);
    let too_many = Error::TooManyInstances { value: most + 1, bound: most };
    let error = operators.conv(rows(&calls.x), weights, None, Out::Skip).unwrap_err();
    assert_eq!(error, too_many);
    let error = operators.conv_backward(rows(&calls.x), None, weights, rows(&calls.x), Out::Skip, Out::Skip);
    assert_eq!(error.unwrap_err(), too_many);
    let error = operators.step(true, cpu::Step::default(), rows(&calls.x), Out::Skip).unwrap_err();
    assert_eq!(error, too_many);
}

/// A window table has as many offsets as a call may have copies; fewer copies need fewer weights, too.
fn a_window_table_serves_fewer_copies<T: TestElement>(backend: &dyn Backend<T>) {
    let batch = pairs();
    let offsets = [0u32, 6, 12, 3];
    let (table, scales) =
        (WindowTable::new(&batch, &offsets).unwrap(), WindowTable::for_vertices(&batch, &offsets).unwrap());
    let mut operators = operators(backend, &batch, 4);
    let (x, w): (Vec<T>, _) = (features(1, 4 * 4 * F), weights::<T>(2, 18, false));
    let (mut all_y, mut all_z): (Vec<T>, Vec<T>) = (vec![], vec![]);
    for copies in (0..5).rev() {
        let needed = offsets[..copies].iter().max().map_or(0, |&offset| offset as usize + 6);
        let (x, w) = (rows(&x[..copies * 4 * F]), cpu::Weights::table(&w[..needed], &table));
        let mut y: Vec<T> = nan(x.buffer.len());
        operators.conv(x, w, None, Out::Overwrite(out(&mut y))).unwrap();
        let mut grad_w = acc_nan::<T>(needed);
        operators.conv_backward(x, None, w, x, Out::Skip, Out::Overwrite(&mut grad_w)).unwrap();
        assert!(widen(&grad_w).iter().all(|g| g.is_finite()));
        let mut z: Vec<T> = nan(copies * 6 * F);
        let vertex_scale = Some(cpu::Weights::table(w.values, &scales));
        let step = cpu::Step::sum().vertex_scale(vertex_scale).hyperedge_scale(w);
        operators.step(true, step, x, Out::Overwrite(out(&mut z))).unwrap();
        if copies == 4 {
            (all_y, all_z) = (y, z);
        } else {
            assert_eq!(bits(&y), bits(&all_y[..y.len()]), "{copies} copies");
            assert_eq!(bits(&z), bits(&all_z[..z.len()]), "{copies} copies");
        }
    }
}

/// The gradient of a value that no window covers is 0; where gradients are added, it stays as it is.
fn what_no_window_covers_has_gradient_zero<T: TestElement>(backend: &dyn Backend<T>) {
    let batch = pairs();
    let (table, scales) = (
        WindowTable::new(&batch, &[2u8, 10]).unwrap(),
        WindowTable::for_vertices(&batch, &[2u8, 10]).unwrap(),
    );
    let mut operators = operators(backend, &batch, 2);
    let (x, g, z): (Vec<T>, Vec<T>, Vec<T>) =
        (features(1, 2 * 4 * F), features(2, 2 * 4 * F), features(3, 2 * 6 * F));
    let (x, g, z) = (rows(&x), rows(&g), rows(&z));
    let ones = [T::acc(1.0); 20];
    let w = cpu::Weights::table(&ones[..], &table);
    let vertex_scale = Some(cpu::Weights::table(&ones[..], &scales));
    let step = cpu::Step::sum().vertex_scale(vertex_scale).hyperedge_scale(w);
    for (write, uncovered) in [(Write::Overwrite, 0.0), (Write::Accumulate, 7.0)] {
        let [mut of_conv, mut of_vertices, mut of_hyperedges] = [7.0; 3].map(|v| vec![T::acc(v); 20]);
        operators.conv_backward(x, None, w, g, Out::Skip, write.to(&mut of_conv[..])).unwrap();
        let gradients = cpu::StepGradients::none()
            .vertex_scale(write.to(&mut of_vertices[..]))
            .hyperedge_scale(write.to(&mut of_hyperedges[..]));
        operators.step_backward(true, step, x, z, gradients).unwrap();
        for (gradient, width) in [(&of_conv, 6), (&of_hyperedges, 6), (&of_vertices, 4)] {
            for (weight, gradient) in widen(gradient).into_iter().enumerate() {
                let covered = [2, 10].iter().any(|start| (*start..start + width).contains(&weight));
                assert_eq!(gradient != uncovered, covered, "{write:?}, weight {weight}: {gradient}");
            }
        }
    }
}

/// `[T, E, HEADS, F]` and `[E, T, F]` are read and written where they lie, with the bits of `[T, E, F]`.
fn expert_major_and_multi_head_tensors_stay_in_place<T: TestElement>(backend: &dyn Backend<T>) {
    const E: usize = 4;
    const TOKENS: usize = 9;
    const HEADS: usize = 3;
    let mut operators = operators(backend, &pairs(), TOKENS);
    let w = weights::<T>(1, 6, false);
    let w = cpu::Weights::shared(&w[..]);
    // y and ∂x, with x for ∂loss/∂y too.
    let mut both = |x: Rows<&[T]>, y: Rows<&mut [T]>, grad_x: Rows<&mut [T]>| {
        operators.conv(x, w, None, Out::Overwrite(y)).unwrap();
        operators.conv_backward(x, None, w, x, Out::Overwrite(grad_x), Out::Skip).unwrap();
    };
    let heads: Vec<T> = features(2, TOKENS * E * HEADS * F);
    let (mut y_heads, mut grad_heads): (Vec<T>, Vec<T>) = (nan(heads.len()), nan(heads.len()));
    for head in 0..HEADS {
        let of_head = |tensor: &[T]| -> Vec<T> {
            tensor.chunks(F).skip(head).step_by(HEADS).flat_map(<[T]>::to_vec).collect()
        };
        let token_major = of_head(&heads);
        let (mut y, mut grad_x): (Vec<T>, Vec<T>) = (nan(token_major.len()), nan(token_major.len()));
        both(rows(&token_major), out(&mut y), out(&mut grad_x));

        let layout = RowLayout::contiguous(F).row_stride(HEADS * F);
        let (y_rows, grad_rows) =
            (Rows::new(&mut y_heads[head * F..], layout), Rows::new(&mut grad_heads[head * F..], layout));
        both(Rows::new(&heads[head * F..], layout), y_rows, grad_rows);
        assert_eq!(bits(&of_head(&y_heads)), bits(&y), "head {head}");
        assert_eq!(bits(&of_head(&grad_heads)), bits(&grad_x), "head {head}");

        let expert_major: Vec<T> =
            (0..E).flat_map(|e| token_major.chunks(F).skip(e).step_by(E).flat_map(<[T]>::to_vec)).collect();
        let layout = RowLayout::contiguous(F).row_stride(TOKENS * F).instance_stride(F).instances(TOKENS);
        let (mut y_back, mut grad_back): (Vec<T>, Vec<T>) = (nan(y.len()), nan(y.len()));
        both(Rows::new(&expert_major, layout), out(&mut y_back), out(&mut grad_back));
        assert_eq!(bits(&y_back), bits(&y), "head {head}, expert-major");
        assert_eq!(bits(&grad_back), bits(&grad_x), "head {head}, expert-major");
    }
}

/// No features, no rows, no instances: all of it is legal, and what sums nothing is zero.
fn empty_batches_are_legal_and_give_zeros<T: TestElement>(backend: &dyn Backend<T>) {
    for (batch, features) in empty_batches().iter().flat_map(|batch| [0, F].map(|f| (batch, f))) {
        let instances = batch.n_instances().unwrap_or(4);
        let (n, m) = (
            batch.start(Axis::Vertex, instances) * features,
            batch.start(Axis::Hyperedge, instances) * features,
        );
        let mut operators = backend.operators(batch, features, Conv::default(), instances).unwrap();
        let layout = RowLayout::contiguous(features).instances(instances);
        let shared = |of: fn(&Incidence) -> usize| {
            let most = (0..instances).map(|g| of(batch.topology(g))).max().unwrap_or(0);
            vec![T::acc(1.0); most]
        };
        let (w, scale) = (shared(Incidence::n_hyperedges), shared(Incidence::n_vertices));
        let w = cpu::Weights::shared(&w[..]);
        let zeros = |values: &[f64]| values.iter().all(|&v| v == 0.0);

        let x = vec![T::of(1.0); n];
        let (mut y, mut grad_x, mut grad_w) = (nan::<T>(n), nan::<T>(n), acc_nan::<T>(w.values.len()));
        let x = Rows::new(&x[..], layout);
        operators.conv(x, w, None, Out::Overwrite(Rows::new(&mut y, layout))).unwrap();
        let out_x = Out::Overwrite(Rows::new(&mut grad_x[..], layout));
        operators.conv_backward(x, None, w, x, out_x, Out::Overwrite(&mut grad_w)).unwrap();
        assert!(zeros(&widen(&y)) && zeros(&widen(&grad_x)), "isolated vertices get zeros");
        assert!(zeros(&widen(&grad_w)));

        let vertex_scale = Some(cpu::Weights::shared(&scale[..]));
        let step = cpu::Step::mean().vertex_scale(vertex_scale).hyperedge_scale(w);
        for (to_hyperedges, from, to) in [(true, n, m), (false, m, n)] {
            let (x, g) = (vec![T::of(1.0); from], vec![T::of(1.0); to]);
            let (mut y, mut grad_x) = (nan::<T>(to), nan::<T>(from));
            let (mut grad_scale, mut grad_w) = (acc_nan::<T>(scale.len()), acc_nan::<T>(w.values.len()));
            let (x, g) = (Rows::new(&x[..], layout), Rows::new(&g[..], layout));
            operators.step(to_hyperedges, step, x, Out::Overwrite(Rows::new(&mut y, layout))).unwrap();
            let gradients = cpu::StepGradients::none()
                .rows(Out::Overwrite(Rows::new(&mut grad_x[..], layout)))
                .vertex_scale(Out::Overwrite(&mut grad_scale[..]))
                .hyperedge_scale(Out::Overwrite(&mut grad_w[..]));
            operators.step_backward(to_hyperedges, step, x, g, gradients).unwrap();
            assert!(zeros(&widen(&y)) && zeros(&widen(&grad_x)), "rows without sources are zeros");
            assert!(zeros(&widen(&grad_scale)) && zeros(&widen(&grad_w)));
        }
    }
}

/// Shapes, strides and overlaps are checked before anything is written.
fn shapes_are_checked_before_anything_is_written<T: TestElement>(backend: &dyn Backend<T>) {
    let batch = Batch::replicate(Incidence::subsets(3, 2).unwrap());
    let mut operators = backend.operators(&batch, 4, Conv::default(), 2).unwrap();
    let x: Vec<T> = features(1, 24);
    let contiguous = RowLayout::contiguous(4);
    let good = Rows::contiguous(&x[..], 4);
    let filler = T::of(7.0);
    let overlap = |what, value, bound| Error::Overlap { operand: "z", what, value, bound };
    let cases: [(_, _, _, Error); 4] = [
        (Rows::contiguous(&x[..24], 3), contiguous, 24, {
            Error::FeaturesMismatch { operand: "x", value: 3, bound: 4 }
        }),
        (good, contiguous.instances(2), 23, {
            let (row_stride, instance_stride) = (4, None);
            let (operand, instances, rows) = ("z", 2, 6);
            Error::Stride { operand, instances, rows, row_stride, instance_stride, value: 24, bound: 23 }
        }),
        (good, contiguous.row_stride(3).instances(2), 24, overlap("row", 3, 4)),
        (good, contiguous.instance_stride(11).instances(2), 24, overlap("instance", 11, 12)),
    ];
    for (x, layout, len, expected) in cases {
        let mut z = vec![filler; len];
        let out = Out::Overwrite(Rows::new(&mut z[..], layout));
        assert_eq!(operators.step(true, cpu::Step::default(), x, out).unwrap_err(), expected);
        assert!(z.iter().all(|&z| z == filler), "nothing is written");
    }
    for (values, gradients) in [(3, 2), (2, 2), (4, 4)] {
        let (w, mut grad_x) = (vec![T::acc(1.0); values], vec![filler; 24]);
        let mut grad_w = vec![T::acc(7.0); gradients];
        let out_x = Out::Overwrite(Rows::contiguous(&mut grad_x[..], 4));
        let w = cpu::Weights::shared(&w[..]);
        let error =
            operators.conv_backward(good, None, w, good, out_x, Out::Overwrite(&mut grad_w)).unwrap_err();
        let named = match values {
            2 => matches!(error, Error::WindowOutOfRange { table: "weights", instance: 0, .. }),
            3 => matches!(error, Error::GradientMismatch { operand: "grad_weights", value: 2, bound: 3, .. }),
            _ => matches!(error, Error::UnreadWeights { table: "weights", value: 4, bound: 3, .. }),
        };
        assert!(named, "{error:?}");
        assert!(grad_x.iter().all(|&g| g == filler) && widen(&grad_w).iter().all(|&g| g == 7.0));
    }
}

/// The same mistake is the same error of every backend, of the step and of the convolution, and of the
/// backward of each.
fn the_same_mistake_is_the_same_error_of_every_operator<T: TestElement>(backend: &dyn Backend<T>) {
    let pairs = || Incidence::subsets(3, 2).unwrap();
    let copies = Batch::replicate(pairs());
    let table = Batch::from_table(vec![pairs()], &[0, 0]).unwrap();
    let data: Vec<T> = features(1, 100);
    let layout = RowLayout::contiguous(4);
    let operand = "x";
    let what = "vertices";
    let stride = |rows, row_stride, instance_stride, value, bound| {
        let instances = 2;
        Error::Stride { operand, instances, rows, row_stride, instance_stride, value, bound }
    };
    let cases = [
        (&copies, 24, RowLayout::contiguous(3), Error::FeaturesMismatch { operand, value: 3, bound: 4 }),
        (&copies, 25, layout, Error::PartialRow { operand, value: 25, bound: 4 }),
        (&copies, 8, layout, Error::PartialInstance { operand, value: 2, bound: 3, what }),
        (&copies, 24, layout.instance_stride(12), Error::UnknownInstances { operand }),
        (&copies, 20, layout.instances(2), stride(6, 4, None, 24, 20)),
        (&copies, 28, layout.row_stride(5).instance_stride(16).instances(2), stride(3, 5, Some(16), 30, 28)),
        (&copies, 36, layout, Error::TooManyInstances { value: 3, bound: 2 }),
        (&table, 20, layout, Error::RowsMismatch { operand, value: 5, bound: 6, what }),
        (&table, 28, layout, Error::RowsMismatch { operand, value: 7, bound: 6, what }),
        (&table, 22, layout, Error::PartialRow { operand, value: 22, bound: 4 }),
        (
            &table,
            24,
            layout.instances(3),
            Error::InstancesMismatch { operand, value: 3, bound: 2, bound_of: "the batch" },
        ),
    ];
    for (batch, len, layout, expected) in cases {
        let mut operators = backend.operators(batch, 4, Conv::default(), 2).unwrap();
        let x = Rows::new(&data[..len], layout);
        let w = [T::acc(1.0); 3];
        let w = cpu::Weights::shared(&w);
        let none = cpu::StepGradients::default;
        assert_eq!(operators.conv(x, w, None, Out::Skip).as_ref(), Err(&expected));
        let backward = operators.conv_backward(x, None, w, x, Out::Skip, Out::Skip);
        assert_eq!(backward.as_ref(), Err(&expected));
        assert_eq!(operators.step(true, cpu::Step::sum(), x, Out::Skip).as_ref(), Err(&expected));
        let backward = operators.step_backward(true, cpu::Step::sum(), x, x, none());
        assert_eq!(backward.as_ref(), Err(&expected));
    }
    // With several mistakes, too.
    let mut operators = backend.operators(&copies, 4, Conv::default(), 2).unwrap();
    let (good, short) = (Rows::contiguous(&data[..24], 4), Rows::new(&data[..20], layout.instances(2)));
    let w = [T::acc(1.0); 4];
    let (few, many, right) =
        (cpu::Weights::shared(&w[..2]), cpu::Weights::shared(&w), cpu::Weights::shared(&w[..3]));
    let mut gradient = w;
    let mut backward = |w, x| {
        operators.conv_backward(x, None, w, good, Out::Skip, Out::Overwrite(&mut gradient)).unwrap_err()
    };
    let (table, windows) = ("weights", "shared");
    let narrow = Error::WindowOutOfRange { table, instance: 0, value: 0, width: 3, bound: 2 };
    let unread = Error::UnreadWeights { table, value: 4, bound: 3, windows, what: "hyperedges" };
    assert_eq!([backward(few, short), backward(many, short)], [narrow, unread]);
    let operand = "grad_weights";
    let gradient = Error::GradientMismatch { operand, value: 4, bound: 3, bound_of: table };
    assert_eq!(backward(right, short), gradient);
    assert_eq!(backward(right, good), gradient);
    // Of scales that are there and that are not.
    for (vertex_scale, bound) in [(Some(right), 3), (None, 0)] {
        let mut gradient = w;
        let gradients = cpu::StepGradients::none().vertex_scale(Out::Accumulate(&mut gradient));
        let step = cpu::Step::sum().vertex_scale(vertex_scale);
        let error = operators.step_backward(true, step, good, good, gradients).unwrap_err();
        let (operand, bound_of) = ("gradients.vertex_scale", "vertex_scale");
        assert_eq!(error, Error::GradientMismatch { operand, value: 4, bound, bound_of });
    }
}

/// What no layout places a row on stays as it is: gaps between rows, the padding of smaller instances, what
/// follows.
fn elements_between_rows_stay_as_they_are<T: TestElement>(backend: &dyn Backend<T>) {
    let topologies = [4, 2, 3].map(|n| Incidence::subsets(n, 2).unwrap()).to_vec();
    let batch = Batch::concat(topologies).unwrap();
    let mut operators = backend.operators(&batch, F, Conv::default(), 3).unwrap();
    // `[T, E_max, F + 1]`: up to 4 vertices and 6 hyperedges.
    let padded = |most: usize| {
        let stride = F + 1;
        RowLayout::contiguous(F).row_stride(stride).instance_stride(most * stride).instances(3)
    };
    let len = |most: usize| 3 * most * (F + 1);
    let is_row = |n_rows: &dyn Fn(usize) -> usize, most: usize, at: usize| {
        let (row, feature) = (at / (F + 1), at % (F + 1));
        feature < F && row % most < n_rows(row / most)
    };
    let vertices = |g: usize| batch.topology(g).n_vertices();
    let hyperedges = |g: usize| batch.topology(g).n_hyperedges();
    let (x, z): (Vec<T>, Vec<T>) = (features(1, len(4)), features(2, len(6)));
    let (x, z) = (Rows::new(&x, padded(4)), Rows::new(&z, padded(6)));
    let w = weights::<T>(3, 6, false);
    let w = cpu::Weights::shared(&w);
    let filler = T::of(7.0);
    for write in [Write::Overwrite, Write::Accumulate] {
        let (mut y, mut grad_x, mut to_n, mut of_n) = {
            let fresh = || vec![filler; len(4)];
            (fresh(), fresh(), fresh(), fresh())
        };
        let (mut to_m, mut of_m) = (vec![filler; len(6)], vec![filler; len(6)]);
        let mut saved = vec![T::acc(7.0); len(6)];
        let rows_4 = |buffer| write.to(Rows { buffer, layout: padded(4) });
        let rows_6 = |buffer| write.to(Rows { buffer, layout: padded(6) });
        operators.conv(x, w, Some(Rows::new(&mut saved, padded(6))), rows_4(&mut y[..])).unwrap();
        operators.conv_backward(x, None, w, x, rows_4(&mut grad_x[..]), Out::Skip).unwrap();
        let step = cpu::Step::mean();
        operators.step(true, step, x, rows_6(&mut to_m[..])).unwrap();
        operators.step(false, step, z, rows_4(&mut to_n[..])).unwrap();
        let gradients = |rows| cpu::StepGradients::none().rows(rows);
        operators.step_backward(true, step, x, z, gradients(rows_4(&mut of_n[..]))).unwrap();
        operators.step_backward(false, step, z, x, gradients(rows_6(&mut of_m[..]))).unwrap();
        let assert_kept = |values: Vec<f64>, n_rows: &dyn Fn(usize) -> usize, most: usize| {
            for (at, value) in values.into_iter().enumerate() {
                // What is added may be rounded away.
                let is_written = is_row(n_rows, most, at) && (write == Write::Overwrite || value != 7.0);
                assert_eq!(value != 7.0, is_written, "{write:?}, element {at}: {value}");
            }
        };
        for values in [&y, &grad_x, &to_n, &of_n] {
            assert_kept(widen(values), &vertices, 4);
        }
        for values in [&to_m, &of_m] {
            assert_kept(widen(values), &hyperedges, 6);
        }
        assert_kept(widen(&saved), &hyperedges, 6);
    }
}

per_backend! {
    on [cpu, cuda(modes(&[Order::Forward, Order::Reverse, Order::Shuffled(1), Order::Preempting(2)]))],
    in [f32, f64, f16, bf16]:
    outputs_are_added_to_or_skipped;
    a_replicated_batch_serves_any_number_of_copies;
    a_window_table_serves_fewer_copies;
    what_no_window_covers_has_gradient_zero;
    expert_major_and_multi_head_tensors_stay_in_place;
    empty_batches_are_legal_and_give_zeros;
    shapes_are_checked_before_anything_is_written;
    the_same_mistake_is_the_same_error_of_every_operator;
    elements_between_rows_stay_as_they_are;
}

/// A negative degree under the symmetric normalization is an error that names one, of the forward and of the
/// backward, and the next call is served.
fn negative_degrees_are_reported<T: TestElement>(backend: &dyn Backend<T>, layout: &Layout, negative: bool) {
    let weight_use = match layout.conv.weight_use {
        WeightUse::MessageOnly => WeightUse::Documented,
        other => other,
    };
    let conv = Conv::new(Normalization::Symmetric, weight_use);
    // Eighths: their sums are exact in any order.
    let mut w: Vec<T::Acc> = weights::<T>(layout.seed, layout.n_weights(), false);
    for w in &mut w {
        *w = T::acc((w.to_f64() * 8.0).round() / 8.0);
    }
    let good = w.clone();
    if let (true, false) = (negative, w.is_empty()) {
        let at = layout.seed as usize % w.len();
        w[at] = -w[at];
    }
    let degree = |instance: usize, vertex: usize| -> f64 {
        let edges = layout.batch.topology(instance).by_vertex().row(vertex);
        edges.iter().map(|&e| w[layout.offset(instance) + e as usize].to_f64()).sum()
    };
    let vertices = (0..layout.instances).flat_map(|g| (0..layout.n_rows_of(g, false)).map(move |v| (g, v)));
    let is_negative = vertices.clone().any(|(g, v)| degree(g, v) < 0.0);

    let mut operators =
        backend.operators(&layout.batch, layout.features, conv, layout.max_instances()).unwrap();
    let x: Vec<T> = features(layout.seed, layout.n_rows(false) * layout.features);
    let rows = RowLayout::contiguous(layout.features).instances(layout.instances);
    let x = Rows::new(&x[..], rows);
    let table = layout.table();
    let (mut y, mut grad_w): (Vec<T>, _) = (nan(x.buffer.len()), acc_nan::<T>(w.len()));
    let out = Out::Overwrite(Rows::new(&mut y[..], rows));
    let forward = operators.conv(x, layout.weights(&w, &table), None, out);
    let out = Out::Overwrite(&mut grad_w[..]);
    let backward = operators.conv_backward(x, None, layout.weights(&w, &table), x, Out::Skip, out);
    for result in [forward, backward] {
        match result {
            Ok(()) => assert!(!is_negative, "in {}", T::NAME),
            Err(Error::NegativeDegree { instance, vertex, value }) => {
                assert!(value < 0.0 && value == degree(instance, vertex), "{value} of {instance}, {vertex}");
            }
            Err(other) => panic!("{other}"),
        }
    }
    let out = Out::Overwrite(Rows::new(&mut y[..], rows));
    operators.conv(x, layout.weights(&good, &table), None, out).unwrap();
    assert!(widen(&y).iter().all(|y| y.is_finite()));
}

// On the emulated driver a case takes a core 50 ms.
per_backend! {
    on [cpu, cuda(cases(64))], in [any_type]:
    negative_degrees_are_reported(&layout, negative)
        for layout in layout(), negative in prop::bool::weighted(0.8);
}
