//! The convolution that saves z, and the backward from it: the same bits as without, on every backend.

use hyperscatter::{
    Accumulator, Axis, Conv, Error, Normalization, Out, Path, RowLayout, Rows, WeightUse, cpu,
};

use crate::backend::{Backend, Operators, Write};
use crate::common::{TestElement, bits, features, sums, weights};
use crate::layouts::{Layout, empty_batches, layout, pairs};
use crate::operands::{F, rows};
use crate::per_backend::per_backend;

/// Forward and backward with and without a saved z.
fn a_saved_z_changes_no_bit<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
    [write_y, write_x, write_w]: [Write; 3],
) {
    let len = layout.n_rows(false) * layout.features;
    let place = |seed, place, gap| layout.spread(&features::<T>(seed, len), place, false, T::of(gap));
    let [x_place, g_place, y_place, grad_place, z_place] = layout.places;
    let (x, g) = (place(1, x_place, f64::NAN), place(2, g_place, f64::NAN));
    let signed = layout.conv.normalization != Normalization::Symmetric;
    let w = weights::<T>(layout.seed, layout.n_weights(), signed);
    let table = layout.table();
    let windows = layout.weights(&w, &table);
    let mut operators =
        backend.operators(&layout.batch, layout.features, layout.conv, layout.max_instances()).unwrap();

    let empty = vec![T::acc(f64::NAN); layout.n_rows(true) * layout.features];
    let mut z = layout.spread(&empty, z_place, true, T::acc(7.0));
    let y = [false, true].map(|saves| {
        let mut y = place(3, y_place, 7.0);
        let saved = saves.then(|| z.rows_mut());
        operators.conv(x.rows(), windows, saved, write_y.to(y.rows_mut())).unwrap();
        bits(&y.buffer)
    });
    assert_eq!(y[0], y[1], "y in {}", T::NAME);
    assert!(z.gaps().iter().all(|&gap| gap == T::acc(7.0)), "written between rows");
    assert!(z.gathered().iter().all(|z| !z.to_f64().is_nan()), "all of z is written");

    // What lies between the rows of z is not read.
    let z = layout.spread(&z.gathered(), z_place, true, T::acc(f64::NAN));
    let gradients = [false, true].map(|from_z| {
        let mut grad_x = place(4, grad_place, 7.0);
        let mut grad_w = sums::<T>(5, w.len());
        let (rows, grads) = (write_x.to(grad_x.rows_mut()), write_w.to(&mut grad_w[..]));
        let saved = from_z.then(|| z.rows());
        operators.conv_backward(x.rows(), saved, windows, g.rows(), rows, grads).unwrap();
        (bits(&grad_x.buffer), bits(&grad_w))
    });
    assert_eq!(gradients[0], gradients[1], "gradients in {}", T::NAME);
}

// On the emulated driver a case takes a core 80 ms.
per_backend! {
    on [cpu, cuda(cases(48))], in [any_type]:
    a_saved_z_changes_no_bit(&layout, write)
        for layout in layout(), write in [Write::any(), Write::any(), Write::any()];
}

/// By gathers, which need z.
fn operators(backend: &dyn Backend<f32>, conv: Conv) -> Box<dyn Operators<f32>> {
    operators_on(backend, conv, Path::Gather)
}

fn operators_on(backend: &dyn Backend<f32>, conv: Conv, path: Path) -> Box<dyn Operators<f32>> {
    backend.operators_on(&pairs(), F, conv, 3, Some(&[path])).unwrap()
}

/// The gradients of two copies from `z`, as bits: of x and of the weights.
fn from_z(backend: &dyn Backend<f32>, conv: Conv, z: &[f32], weights_wanted: bool) -> (Vec<u64>, Vec<u64>) {
    from_z_with(&mut *operators(backend, conv), z, weights_wanted)
}

fn from_z_with(operators: &mut dyn Operators<f32>, z: &[f32], weights_wanted: bool) -> (Vec<u64>, Vec<u64>) {
    let (x, w) = (features::<f32>(1, 2 * 4 * F), weights::<f32>(2, 6, false));
    let (mut grad_x, mut grad_w) = (vec![0.0; x.len()], vec![0.0; w.len()]);
    let grads = if weights_wanted { Out::Overwrite(&mut grad_w[..]) } else { Out::Skip };
    let grad_rows = Out::Overwrite(Rows::contiguous(&mut grad_x[..], F));
    operators
        .conv_backward(rows(&x), Some(rows(z)), cpu::Weights::shared(&w), rows(&x), grad_rows, grads)
        .unwrap();
    (bits(&grad_x), bits(&grad_w))
}

fn the_given_z_is_what_is_used(backend: &dyn Backend<f32>) {
    let (saved, nan) = (vec![0.5f32; 2 * 6 * F], vec![f32::NAN; 2 * 6 * F]);
    for conv in [Conv::default(), Conv::new(Normalization::None, WeightUse::MessageOnly)] {
        let (grad_x, grad_w) = from_z(backend, conv, &nan, true);
        assert_eq!(grad_x, from_z(backend, conv, &saved, true).0, "the gradient of x needs no z");
        assert!(grad_w.iter().all(|&bits| f64::from_bits(bits).is_nan()), "a NaN is used as it is");
        assert_ne!(from_z(backend, conv, &saved, true).1, from_z(backend, conv, &[0.25; 2 * 6 * F], true).1);
    }
}

fn a_z_that_no_gradient_needs_is_not_read(backend: &dyn Backend<f32>) {
    let (saved, nan) = (vec![0.5f32; 2 * 6 * F], vec![f32::NAN; 2 * 6 * F]);
    assert_eq!(
        from_z(backend, Conv::default(), &nan, false),
        from_z(backend, Conv::default(), &saved, false)
    );
    let no_part = Conv::new(Normalization::None, WeightUse::DegreeOnly);
    assert_eq!(from_z(backend, no_part, &nan, true), from_z(backend, no_part, &saved, true));
    assert_eq!(from_z(backend, no_part, &nan, true).1, bits(&[0.0f32; 6]));
}

/// Gradients by the dense operator need no z at all.
fn a_dense_operator_reads_no_z(backend: &dyn Backend<f32>) {
    let (saved, nan) = (vec![0.5f32; 2 * 6 * F], vec![f32::NAN; 2 * 6 * F]);
    let mut operators = operators_on(backend, Conv::default(), Path::Dense);
    assert_eq!(from_z_with(&mut *operators, &nan, true), from_z_with(&mut *operators, &saved, true));
    assert!(from_z_with(&mut *operators, &nan, true).1.iter().all(|&bits| !f64::from_bits(bits).is_nan()));
}

fn the_shape_of_z_is_checked_before_anything_is_written(backend: &dyn Backend<f32>) {
    let (x, w) = (features::<f32>(1, 2 * 4 * F), weights::<f32>(2, 6, false));
    let weights = cpu::Weights::shared(&w[..]);
    let contiguous = RowLayout::contiguous(F);
    let operand = "z";
    let instances = |value| Error::InstancesMismatch { operand, value, bound: 2, bound_of: "x" };
    let too_short = Error::Stride {
        operand,
        instances: 2,
        rows: 12,
        row_stride: F + 1,
        instance_stride: None,
        value: 11 * (F as u128 + 1) + F as u128,
        bound: 70,
    };
    let cases = [
        (60, RowLayout::contiguous(F - 1), Error::FeaturesMismatch { operand, value: F - 1, bound: F }),
        (30, contiguous, instances(1)),
        (0, contiguous, instances(0)),
        (70, contiguous.row_stride(F + 1).instances(2), too_short),
    ];
    let mut operators = operators(backend, Conv::default());
    let (mut y, mut grad_x, mut grad_w) = (vec![7.0; x.len()], vec![7.0; x.len()], vec![7.0; w.len()]);
    for (len, layout, expected) in cases {
        let mut z = vec![7.0; len];
        let out = Out::Overwrite(Rows::contiguous(&mut y[..], F));
        let forward = operators.conv(rows(&x), weights, Some(Rows::new(&mut z, layout)), out);
        assert_eq!(forward.unwrap_err(), expected);
        assert!(z.iter().all(|&z| z == 7.0));
        let (grad_rows, grads) =
            (Out::Overwrite(Rows::contiguous(&mut grad_x[..], F)), Out::Overwrite(&mut grad_w[..]));
        let z = Rows::new(&z[..], layout);
        let backward = operators.conv_backward(rows(&x), Some(z), weights, rows(&x), grad_rows, grads);
        assert_eq!(backward.unwrap_err(), expected);
    }
    // Rows that are written must not overlap; rows that are read may.
    let overlapping = contiguous.row_stride(F - 2).instances(2);
    let mut z = vec![7.0; 60];
    let out = Out::Overwrite(Rows::contiguous(&mut y[..], F));
    let error = operators.conv(rows(&x), weights, Some(Rows::new(&mut z, overlapping)), out).unwrap_err();
    assert_eq!(error, Error::Overlap { operand: "z", what: "row", value: F - 2, bound: F as u128 });
    assert!(
        z.iter().chain(&y).chain(&grad_x).chain(&grad_w).all(|&value| value == 7.0),
        "nothing is written"
    );
    let z = Rows::new(&z[..], overlapping);
    operators
        .conv_backward(rows(&x), Some(z), weights, rows(&x), Out::Skip, Out::Overwrite(&mut grad_w))
        .unwrap();
}

/// z tells the number of copies as well as any other operand.
fn z_may_tell_the_number_of_copies(backend: &dyn Backend<f32>) {
    let (x, w) = (features::<f32>(1, 2 * 4 * F), weights::<f32>(2, 6, false));
    let padded = RowLayout::contiguous(F).instance_stride(4 * F);
    let (mut z, mut saved) = (vec![f32::NAN; 2 * 6 * F], vec![f32::NAN; 2 * 6 * F]);
    let mut operators = operators(backend, Conv::default());
    let (untold, weights) = (Rows::new(&x[..], padded), cpu::Weights::shared(&w[..]));
    operators.conv(untold, weights, Some(Rows::contiguous(&mut z[..], F)), Out::Skip).unwrap();
    operators.conv(rows(&x), weights, Some(Rows::contiguous(&mut saved[..], F)), Out::Skip).unwrap();
    assert_eq!(bits(&z), bits(&saved));
}

fn empty_batches_are_legal_and_give_zeros(backend: &dyn Backend<f32>) {
    for (batch, features) in empty_batches().iter().flat_map(|batch| [0, F].map(|f| (batch, f))) {
        let instances = batch.n_instances().unwrap_or(4);
        let (n, m) = (
            batch.start(Axis::Vertex, instances) * features,
            batch.start(Axis::Hyperedge, instances) * features,
        );
        let rows = RowLayout::contiguous(features).instances(instances);
        let w = vec![1.0f32; batch.largest(Axis::Hyperedge)];
        let (x, mut z, mut y) = (vec![1.0f32; n], vec![f32::NAN; m], vec![f32::NAN; n]);
        let mut operators = backend.operators(batch, features, Conv::default(), instances).unwrap();
        let (x, weights) = (Rows::new(&x[..], rows), cpu::Weights::shared(&w[..]));
        let out = Out::Overwrite(Rows::new(&mut y[..], rows));
        operators.conv(x, weights, Some(Rows::new(&mut z, rows)), out).unwrap();
        assert!(z.iter().chain(&y).all(|&value| value == 0.0), "rows without incidences are zeros");
        let mut grad_w = vec![f32::NAN; w.len()];
        let z = Rows::new(&z[..], rows);
        operators.conv_backward(x, Some(z), weights, x, Out::Skip, Out::Overwrite(&mut grad_w)).unwrap();
        assert!(grad_w.iter().all(|&value| value == 0.0));
    }
}

per_backend! {
    on [cpu, cuda(modes(&[Order::Forward, Order::Shuffled(1)]))], in [f32]:
    the_given_z_is_what_is_used;
    a_z_that_no_gradient_needs_is_not_read;
    a_dense_operator_reads_no_z;
    the_shape_of_z_is_checked_before_anything_is_written;
    z_may_tell_the_number_of_copies;
    empty_batches_are_legal_and_give_zeros;
}
