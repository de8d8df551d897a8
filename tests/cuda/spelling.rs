//! The simple spelling of operands, with `cudarc`'s slices and views.

use hyperscatter::cuda::{Checks, Plan, Step};
use hyperscatter::{Batch, Incidence, Operator, Out, Rows, StepGradients, Weights};

use super::gpu::{Gpu, Mode, to_host};

const F: usize = 2;

#[test]
fn references_to_slices_and_views_are_operands_and_a_step_serves_several_calls() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let stream = gpu.device().context().default_stream();
    let batch = gpu.device().upload(&Batch::replicate(Incidence::subsets(3, 2).unwrap())).unwrap();
    let plan = Plan::<f32>::builder(&batch, F).checks(Checks::On).build().unwrap();
    let mut workspace = plan.workspace_for(&stream, 2, Operator::ALL).unwrap();
    let x = stream.clone_htod(&[1.0; 2 * 3 * F]).unwrap();
    let w = stream.clone_htod(&[0.5; 3]).unwrap();
    let [mut y, mut z] = [(); 2].map(|()| stream.alloc_zeros(2 * 3 * F).unwrap());
    let mut grad = stream.alloc_zeros(3).unwrap();

    let out = Out::Overwrite(Rows::contiguous(&mut y, F));
    workspace.conv(Rows::contiguous(&x, F), Weights::shared(&w), out).unwrap();
    workspace.check().unwrap();
    assert_eq!(to_host(&stream, &y, 12), [1.0; 12]);
    // A view stays usable.
    let (view, mut half) = (x.slice(..3 * F), y.slice_mut(..3 * F));
    for _ in 0..2 {
        let out = Out::Accumulate(Rows::contiguous(&mut half, F));
        workspace.conv(Rows::contiguous(&view, F), Weights::shared(&w), out).unwrap();
    }
    let out = Out::Accumulate(Rows::contiguous(half, F));
    workspace.conv(Rows::contiguous(view, F), Weights::shared(w.as_view()), out).unwrap();
    workspace.check().unwrap();
    assert_eq!(to_host(&stream, &y, 12), [[4.0; 6], [1.0; 6]].concat());

    let step = Step::mean().vertex_scale(Weights::shared(&w));
    let out = Out::Overwrite(Rows::contiguous(&mut z, F));
    workspace.vertex_to_hyperedge(&step, Rows::contiguous(&x, F), out).unwrap();
    let gradients = StepGradients::none().vertex_scale(Out::Overwrite(grad.as_view_mut()));
    let (x, grad_z) = (Rows::contiguous(&x, F), Rows::contiguous(&z, F));
    workspace.vertex_to_hyperedge_backward(&step, x, grad_z, gradients).unwrap();
    workspace.check().unwrap();
    assert_eq!(to_host(&stream, &z, 12), [0.5; 12]);
    assert_eq!(to_host(&stream, &grad, 3), [2.0; 3]);
}
