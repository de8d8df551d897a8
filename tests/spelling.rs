//! Operands are spelled the simple way: references to vectors, arrays, boxes and slices, at the call or
//! before it.

use std::sync::Arc;

use hyperscatter::cpu::{Plan, Step, StepGradients, Weights};
use hyperscatter::{Batch, Incidence, Out, RowLayout, Rows, WindowTable};

const F: usize = 2;

#[test]
fn references_to_vectors_and_arrays_are_operands() {
    let batch = Batch::replicate(Incidence::subsets(3, 2).unwrap());
    let mut workspace = Plan::<f32>::builder(&batch, F).build().unwrap().workspace(2).unwrap();
    let (x, w) = (vec![1.0; 2 * 3 * F], vec![0.5; 3]);
    let (mut y, mut grad_x, mut grad_w) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; w.len()]);

    // At the call.
    let out = Out::Overwrite(Rows::contiguous(&mut y, F));
    workspace.conv(Rows::contiguous(&x, F), Weights::shared(&w), out).unwrap();
    assert_eq!(y, [1.0; 12]);
    // Before it, for several calls.
    let (rows, weights, g) = (Rows::contiguous(&x, F), Weights::shared(&w), Rows::contiguous(&y, F));
    let grad_rows = Rows::contiguous(&mut grad_x, F);
    workspace
        .conv_backward(rows, weights, g, Out::Overwrite(grad_rows), Out::Overwrite(&mut grad_w))
        .unwrap();
    workspace.conv_backward(rows, weights, g, Out::Skip, Out::Accumulate(&mut grad_w)).unwrap();
    // Arrays, boxes, and slices by themselves.
    let (array, boxed, shared) = ([1.0f32; 12], vec![1.0f32; 12].into_boxed_slice(), Arc::from([1.0f32; 12]));
    let table = WindowTable::new(&batch, &[0u8, 3]).unwrap();
    let six = [0.5; 6];
    let (mut to_array, mut to_box) = ([0.0; 12], boxed.clone());
    for x in [Rows::contiguous(&array, F), Rows::contiguous(&boxed, F), Rows::contiguous(&shared, F)] {
        let out = Rows::contiguous(&mut to_array, F);
        workspace.conv(x, Weights::consecutive(&six), Out::Overwrite(out)).unwrap();
        let out = Rows::new(&mut to_box, RowLayout::contiguous(F));
        workspace.conv(x, Weights::table(&six[..], &table), Out::Overwrite(out)).unwrap();
        assert_eq!((&to_array[..], &to_box[..]), (&y[..], &y[..]));
    }
    let (slice, slice_mut): (&[f32], &mut [f32]) = (&x, &mut to_array);
    for slice in [&slice, &&x[..]] {
        let out = Out::Overwrite(Rows::contiguous(&mut *slice_mut, F));
        workspace.conv(Rows::contiguous(slice, F), weights, out).unwrap();
    }
}

#[test]
fn one_step_serves_several_calls() {
    let batch = Batch::replicate(Incidence::subsets(3, 2).unwrap());
    let mut workspace = Plan::<f32>::builder(&batch, F).build().unwrap().workspace(1).unwrap();
    let (x, scale) = (vec![1.0; 3 * F], vec![2.0; 3]);
    let (mut z, mut grad_scale) = (vec![0.0; 3 * F], vec![0.0; 3]);
    let step = Step::mean().vertex_scale(Weights::shared(&scale));
    let x = Rows::contiguous(&x, F);
    workspace.vertex_to_hyperedge(&step, x, Out::Overwrite(Rows::contiguous(&mut z, F))).unwrap();
    let gradients = StepGradients::none().vertex_scale(Out::Overwrite(&mut grad_scale));
    let grad_z = Rows::contiguous(&z, F);
    workspace.vertex_to_hyperedge_backward(&step, x, grad_z, gradients).unwrap();
    assert_eq!((&z[..], &grad_scale[..]), (&[2.0; 6][..], &[4.0; 3][..]));
}
