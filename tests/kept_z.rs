//! The convolution that keeps z, and the backward from it: the same bits as without.

use hyperscatter::cpu::{Plan, Weights, Workspace};
use hyperscatter::half::{bf16, f16};
use hyperscatter::{
    Accumulator, Batch, Conv, Error, Incidence, Normalization, Out, RowLayout, Rows, WeightUse,
};
use proptest::prelude::*;

use crate::calls::allocations;
use crate::common::{TestElement, bits, features, weights};
use crate::layouts::{Layout, Place, empty_batches, layout, place};

const F: usize = 5;

/// Which of the two outputs of the backward are wanted, and whether they are added to.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    Overwrite,
    Add,
    Skip,
}

impl Wanted {
    fn out<B>(self, buffer: B) -> Out<B> {
        match self {
            Self::Overwrite => Out::Overwrite(buffer),
            Self::Add => Out::Add(buffer),
            Self::Skip => Out::Skip,
        }
    }
}

fn wanted() -> impl Strategy<Value = Wanted> {
    prop_oneof![Just(Wanted::Overwrite), Just(Wanted::Add), Just(Wanted::Skip)]
}

/// Forward and backward with and without a kept z, at places of its own for z.
fn keeping_z_changes_no_bit<T: TestElement>(layout: &Layout, z_place: Place, outputs: [Wanted; 3]) {
    let [want_y, want_x, want_w] = outputs;
    let len = layout.n_rows(false) * layout.features;
    let place = |seed, place, gap| layout.spread(&features::<T>(seed, len), place, false, T::of(gap));
    let [x_place, g_place, y_place, grad_place] = layout.places;
    let (x, g) = (place(1, x_place, f64::NAN), place(2, g_place, f64::NAN));
    let signed = layout.conv.normalization != Normalization::Symmetric;
    let w = weights::<T>(layout.seed, layout.n_weights(), signed);
    let table = layout.table();
    let windows = layout.weights(&w, &table);
    let mut workspace = Plan::<T>::new(&layout.batch, layout.features, layout.conv)
        .unwrap()
        .workspace(layout.instances)
        .unwrap();

    let empty = vec![T::acc(f64::NAN); layout.n_rows(true) * layout.features];
    let mut z = layout.spread(&empty, z_place, true, T::acc(7.0));
    let y = [false, true].map(|keep| {
        let mut y = place(3, y_place, 7.0);
        let out = want_y.out(y.rows_mut());
        match keep {
            false => workspace.conv(x.rows(), windows, out).unwrap(),
            true => workspace.conv_keeping_z(x.rows(), windows, z.rows_mut(), out).unwrap(),
        }
        bits(&y.buffer)
    });
    assert_eq!(y[0], y[1], "y in {}", T::NAME);
    assert!(z.gaps().iter().all(|&gap| gap == T::acc(7.0)), "written between rows");
    assert!(z.gathered().iter().all(|z| !z.to_f64().is_nan()), "all of z is written");

    // What lies between the rows of z is not read.
    let z = layout.spread(&z.gathered(), z_place, true, T::acc(f64::NAN));
    let gradients = [false, true].map(|from_z| {
        let mut grad_x = place(4, grad_place, 7.0);
        let mut grad_w = weights::<T>(5, w.len(), true);
        let (rows, grads) = (want_x.out(grad_x.rows_mut()), want_w.out(&mut grad_w[..]));
        match from_z {
            false => workspace.conv_backward(x.rows(), windows, g.rows(), rows, grads).unwrap(),
            true => {
                workspace.conv_backward_from_z(x.rows(), z.rows(), windows, g.rows(), rows, grads).unwrap()
            }
        }
        (bits(&grad_x.buffer), bits(&grad_w))
    });
    assert_eq!(gradients[0], gradients[1], "gradients in {}", T::NAME);
}

proptest! {
    #[test]
    fn a_kept_z_changes_no_bit(
        layout in layout(), z_place in place(), outputs in [wanted(), wanted(), wanted()], element in 0..4
    ) {
        match element {
            0 => keeping_z_changes_no_bit::<f32>(&layout, z_place, outputs),
            1 => keeping_z_changes_no_bit::<f64>(&layout, z_place, outputs),
            2 => keeping_z_changes_no_bit::<f16>(&layout, z_place, outputs),
            _ => keeping_z_changes_no_bit::<bf16>(&layout, z_place, outputs),
        }
    }
}

fn pairs() -> Batch {
    Batch::replicate(Incidence::subsets(4, 2).unwrap())
}

fn workspace(conv: Conv) -> Workspace<f32> {
    Plan::<f32>::new(&pairs(), F, conv).unwrap().workspace(3).unwrap()
}

fn rows<A>(values: &[A]) -> Rows<&[A]> {
    Rows::contiguous(values, F)
}

/// The gradients of two copies from `z`, as bits: of x and of the weights.
fn from_z(conv: Conv, z: &[f32], weights_wanted: bool) -> (Vec<u64>, Vec<u64>) {
    let (x, w) = (features::<f32>(1, 2 * 4 * F), weights::<f32>(2, 6, false));
    let (mut grad_x, mut grad_w) = (vec![0.0; x.len()], vec![0.0; w.len()]);
    let grads = if weights_wanted { Out::Overwrite(&mut grad_w[..]) } else { Out::Skip };
    let grad_rows = Out::Overwrite(Rows::contiguous(&mut grad_x[..], F));
    workspace(conv)
        .conv_backward_from_z(rows(&x), rows(z), Weights::shared(&w), rows(&x), grad_rows, grads)
        .unwrap();
    (bits(&grad_x), bits(&grad_w))
}

#[test]
fn the_given_z_is_what_is_used() {
    let (kept, nan) = (vec![0.5f32; 2 * 6 * F], vec![f32::NAN; 2 * 6 * F]);
    for conv in [Conv::default(), Conv::new(Normalization::None, WeightUse::MessageOnly)] {
        let (grad_x, grad_w) = from_z(conv, &nan, true);
        assert_eq!(grad_x, from_z(conv, &kept, true).0, "the gradient of x needs no z");
        assert!(grad_w.iter().all(|&bits| f64::from_bits(bits).is_nan()), "a NaN is used as it is");
        assert_ne!(from_z(conv, &kept, true).1, from_z(conv, &[0.25; 2 * 6 * F], true).1);
    }
}

#[test]
fn a_z_that_no_gradient_needs_is_not_read() {
    let (kept, nan) = (vec![0.5f32; 2 * 6 * F], vec![f32::NAN; 2 * 6 * F]);
    assert_eq!(from_z(Conv::default(), &nan, false), from_z(Conv::default(), &kept, false));
    let no_part = Conv::new(Normalization::None, WeightUse::DegreeOnly);
    assert_eq!(from_z(no_part, &nan, true), from_z(no_part, &kept, true));
    assert_eq!(from_z(no_part, &nan, true).1, bits(&[0.0f32; 6]));
}

#[test]
fn the_shape_of_z_is_checked_before_anything_is_written() {
    let (x, w) = (features::<f32>(1, 2 * 4 * F), weights::<f32>(2, 6, false));
    let weights = Weights::shared(&w[..]);
    let contiguous = RowLayout::contiguous(F);
    let shape = |what, value, bound, relation| Error::Shape { operand: "z", what, value, bound, relation };
    let too_short = Error::Stride {
        operand: "z",
        instances: 2,
        rows: 12,
        row_stride: F + 1,
        instance_stride: 0,
        value: 11 * (F as u128 + 1) + F as u128,
        bound: 70,
    };
    let cases = [
        (60, RowLayout::contiguous(F - 1), shape("features", F - 1, F, "are the plan's features")),
        (30, contiguous, shape("instances", 1, 2, "are those of the batch or the first operand")),
        (0, contiguous, shape("instances", 0, 2, "are those of the batch or the first operand")),
        (70, contiguous.row_stride(F + 1).instances(2), too_short),
    ];
    let mut workspace = workspace(Conv::default());
    let (mut y, mut grad_x, mut grad_w) = (vec![7.0; x.len()], vec![7.0; x.len()], vec![7.0; w.len()]);
    for (len, layout, expected) in cases {
        let mut z = vec![7.0; len];
        let out = Out::Overwrite(Rows::contiguous(&mut y[..], F));
        let forward = workspace.conv_keeping_z(rows(&x), weights, Rows::new(&mut z, layout), out);
        assert_eq!(forward.unwrap_err(), expected);
        assert!(z.iter().all(|&z| z == 7.0));
        let (grad_rows, grads) =
            (Out::Overwrite(Rows::contiguous(&mut grad_x[..], F)), Out::Overwrite(&mut grad_w[..]));
        let z = Rows::new(&z[..], layout);
        let backward = workspace.conv_backward_from_z(rows(&x), z, weights, rows(&x), grad_rows, grads);
        assert_eq!(backward.unwrap_err(), expected);
    }
    // Rows that are written must not overlap; rows that are read may.
    let overlapping = contiguous.row_stride(F - 2).instances(2);
    let mut z = vec![7.0; 60];
    let out = Out::Overwrite(Rows::contiguous(&mut y[..], F));
    let error = workspace.conv_keeping_z(rows(&x), weights, Rows::new(&mut z, overlapping), out).unwrap_err();
    assert_eq!(error, Error::Overlap { operand: "z", what: "row", value: F - 2, bound: F as u128 });
    assert!(
        z.iter().chain(&y).chain(&grad_x).chain(&grad_w).all(|&value| value == 7.0),
        "nothing is written"
    );
    let z = Rows::new(&z[..], overlapping);
    workspace
        .conv_backward_from_z(rows(&x), z, weights, rows(&x), Out::Skip, Out::Overwrite(&mut grad_w))
        .unwrap();
}

/// z tells the number of copies as well as any other operand.
#[test]
fn z_may_tell_the_number_of_copies() {
    let (x, w) = (features::<f32>(1, 2 * 4 * F), weights::<f32>(2, 6, false));
    let padded = RowLayout::contiguous(F).instance_stride(4 * F);
    let (mut z, mut kept) = (vec![f32::NAN; 2 * 6 * F], vec![f32::NAN; 2 * 6 * F]);
    let mut workspace = workspace(Conv::default());
    let (untold, weights) = (Rows::new(&x[..], padded), Weights::shared(&w[..]));
    workspace.conv_keeping_z(untold, weights, Rows::contiguous(&mut z[..], F), Out::Skip).unwrap();
    workspace.conv_keeping_z(rows(&x), weights, Rows::contiguous(&mut kept[..], F), Out::Skip).unwrap();
    assert_eq!(bits(&z), bits(&kept));
}

#[test]
fn nothing_of_anything_is_legal() {
    for (batch, features) in empty_batches().iter().flat_map(|batch| [0, F].map(|f| (batch, f))) {
        let instances = batch.n_instances().unwrap_or(4);
        let (n, m) = (batch.vertex_start(instances) * features, batch.hyperedge_start(instances) * features);
        let rows = RowLayout::contiguous(features).instances(instances);
        let w = vec![1.0f32; batch.max_hyperedges()];
        let (x, mut z, mut y) = (vec![1.0f32; n], vec![f32::NAN; m], vec![f32::NAN; n]);
        let mut workspace =
            Plan::<f32>::new(batch, features, Conv::default()).unwrap().workspace(instances).unwrap();
        let (x, weights) = (Rows::new(&x[..], rows), Weights::shared(&w[..]));
        let out = Out::Overwrite(Rows::new(&mut y[..], rows));
        workspace.conv_keeping_z(x, weights, Rows::new(&mut z, rows), out).unwrap();
        assert!(z.iter().chain(&y).all(|&value| value == 0.0), "rows without incidences are zeros");
        let mut grad_w = vec![f32::NAN; w.len()];
        let z = Rows::new(&z[..], rows);
        workspace.conv_backward_from_z(x, z, weights, x, Out::Skip, Out::Overwrite(&mut grad_w)).unwrap();
        assert!(grad_w.iter().all(|&value| value == 0.0));
    }
}

#[test]
fn keeping_z_allocates_nothing() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    // On the pool's only thread, everything that a call does runs there and is counted.
    pool.install(|| {
        let (x, w) = (features::<f32>(1, 2 * 4 * F), weights::<f32>(2, 6, false));
        let (mut z, mut y, mut grad_w) = (vec![0.0; 2 * 6 * F], x.clone(), w.clone());
        let mut workspace = workspace(Conv::default());
        let weights = Weights::shared(&w[..]);
        let before = allocations();
        let out = Out::Overwrite(Rows::contiguous(&mut y[..], F));
        workspace.conv_keeping_z(rows(&x), weights, Rows::contiguous(&mut z[..], F), out).unwrap();
        let grads = Out::Overwrite(&mut grad_w[..]);
        workspace.conv_backward_from_z(rows(&x), rows(&z), weights, rows(&y), Out::Skip, grads).unwrap();
        assert_eq!(allocations(), before);
    });
}
