//! What an operator call promises: outputs overwritten, added to or skipped; nothing rebuilt or allocated from call to
//! call; plans that threads share.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use hyperscatter::cpu::{Plan, Step, StepGradients, Weights, Workspace};
use hyperscatter::{
    Batch, Conv, Error, Incidence, Normalization, Out, RowLayout, Rows, WeightUse, WindowTable,
};

use crate::common::{bits, features, weights};
use crate::layouts::empty_batches;

const F: usize = 5;

fn rows<T>(data: &[T]) -> Rows<&[T]> {
    Rows::contiguous(data, F)
}

fn out<T>(data: &mut [T]) -> Rows<&mut [T]> {
    Rows::contiguous(data, F)
}

fn pairs() -> Batch {
    Batch::replicate(Incidence::subsets(4, 2).unwrap())
}

/// A call of every operator for `copies` copies of the pairs of four, with the results.
fn call_all(workspace: &mut Workspace<f32>, copies: usize, data: &mut Data) {
    let Data { x, z, w, y, grad_x, z_out, grad_w, scale, grad_scale } = data;
    let (n, m) = (copies * 4 * F, copies * 6 * F);
    let (x, z, weights) = (rows(&x[..n]), rows(&z[..m]), Weights::shared(&w[..]));
    workspace.conv(x, weights, Out::Overwrite(out(&mut y[..n]))).unwrap();
    let grad_rows = Out::Overwrite(out(&mut grad_x[..n]));
    workspace.conv_backward(x, weights, rows(&y[..n]), grad_rows, Out::Overwrite(grad_w)).unwrap();
    let step =
        Step { vertex_scale: Some(Weights::shared(scale)), hyperedge_scale: Some(weights), ..Step::mean() };
    workspace.vertex_to_hyperedge(step, x, Out::Overwrite(out(&mut z_out[..m]))).unwrap();
    workspace.hyperedge_to_vertex(step, z, Out::Add(out(&mut y[..n]))).unwrap();
    let gradients = StepGradients {
        rows: Out::Add(out(&mut grad_x[..n])),
        vertex_scale: Out::Add(grad_scale),
        hyperedge_scale: Out::Add(grad_w),
    };
    workspace.vertex_to_hyperedge_backward(step, x, rows(&z_out[..m]), gradients).unwrap();
}

struct Data {
    x: Vec<f32>,
    z: Vec<f32>,
    w: Vec<f32>,
    scale: Vec<f32>,
    y: Vec<f32>,
    grad_x: Vec<f32>,
    z_out: Vec<f32>,
    grad_w: Vec<f32>,
    grad_scale: Vec<f32>,
}

impl Data {
    fn new(copies: usize) -> Self {
        let (n, m) = (copies * 4 * F, copies * 6 * F);
        Self {
            x: features(1, n),
            z: features(2, m),
            w: weights::<f32>(3, 6, false),
            scale: weights::<f32>(4, 4, true),
            y: vec![f32::NAN; n],
            grad_x: vec![f32::NAN; n],
            z_out: vec![f32::NAN; m],
            grad_w: vec![f32::NAN; 6],
            grad_scale: vec![0.0; 4],
        }
    }
}

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The allocations that this thread has made.
pub fn allocations() -> usize {
    ALLOCATIONS.get()
}

/// Counts the allocations of each thread.
struct Counting;

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is being torn down has no counter any more, and is not measured.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_call_allocates() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    // On the pool's only thread, everything that a call does runs there and is counted.
    pool.install(|| {
        let mut workspace = Plan::<f32>::new(&pairs(), F, Conv::default()).unwrap().workspace(300).unwrap();
        let mut data = Data::new(300);
        let before = ALLOCATIONS.get();
        drop(vec![0u8; 100]);
        assert!(ALLOCATIONS.get() > before, "the counter counts");
        let before = ALLOCATIONS.get();
        for copies in [300, 1, 0, 299] {
            call_all(&mut workspace, copies, &mut data);
        }
        assert_eq!(ALLOCATIONS.get(), before);

        // Small and large topologies, every kind of windows, and the check of degrees.
        let large = Incidence::subsets(60, 3).unwrap();
        let batch = Batch::from_table(vec![Incidence::subsets(4, 2).unwrap(), large], &[0, 1, 0, 0]).unwrap();
        let conv = Conv::new(Normalization::Symmetric, WeightUse::Documented);
        let mut workspace = Plan::<f32>::new(&batch, F, conv).unwrap().workspace(4).unwrap();
        let table = WindowTable::new(&batch, &[3, 0, 3, 9]).unwrap();
        let (n, m) = (batch.vertex_start(4), batch.hyperedge_start(4));
        let (x, z) = (features::<f32>(1, n * F), features::<f32>(2, m * F));
        let (mut y, mut grad_z) = (x.clone(), z.clone());
        let w = weights::<f32>(3, m, false);
        let mut grad_w = w.clone();
        let most = batch.max_hyperedges();
        let before = ALLOCATIONS.get();
        for (weights, len) in [
            (Weights::shared(&w[..most]), most),
            (Weights::consecutive(&w[..]), m),
            (Weights::table(&w[..], &table), m),
        ] {
            workspace.conv(rows(&x), weights, Out::Overwrite(out(&mut y))).unwrap();
            let grad_w = &mut grad_w[..len];
            let grads = (Out::Add(out(&mut y)), Out::Overwrite(&mut grad_w[..]));
            workspace.conv_backward(rows(&x), weights, rows(&x), grads.0, grads.1).unwrap();
            let step = Step { hyperedge_scale: Some(weights), ..Step::mean() };
            let gradients = StepGradients {
                rows: Out::Overwrite(out(&mut grad_z)),
                vertex_scale: Out::Skip,
                hyperedge_scale: Out::Add(grad_w),
            };
            workspace.hyperedge_to_vertex_backward(step, rows(&z), rows(&x), gradients).unwrap();
        }
        assert_eq!(ALLOCATIONS.get(), before);
    });
}

#[test]
fn a_replicated_batch_serves_any_number_of_copies() {
    let batch = pairs();
    let plan = Plan::<f32>::new(&batch, F, Conv::default()).unwrap();
    let mut workspace = plan.workspace(24_576).unwrap();
    let mut data = Data::new(24_576);
    call_all(&mut workspace, 24_576, &mut data);
    let first: Vec<u64> = bits(&data.y[..4 * F]);
    // A last, smaller batch has the same bits in the same workspace.
    for copies in [7, 1] {
        data.y.fill(f32::NAN);
        call_all(&mut workspace, copies, &mut data);
        assert_eq!(bits(&data.y[..4 * F]), first);
        assert!(data.y[copies * 4 * F..].iter().all(|y| y.is_nan()), "written past the copies");
    }
    let error =
        workspace.conv(rows(&vec![0.0; 24_577 * 4 * F]), Weights::shared(&data.w), Out::Skip).unwrap_err();
    assert_eq!(error, Error::TooManyInstances { value: 24_577, bound: 24_576 });
}

#[test]
fn outputs_are_added_to_or_skipped() {
    let plan = Plan::<f64>::new(&pairs(), F, Conv::default()).unwrap();
    let mut workspace = plan.workspace(3).unwrap();
    let (x, g): (Vec<f64>, Vec<f64>) = (features(1, 3 * 4 * F), features(2, 3 * 4 * F));
    let w = weights::<f64>(3, 6, false);
    let weights = Weights::shared(&w[..]);
    let (mut y, mut grad_x, mut grad_w) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; 6]);
    workspace.conv(rows(&x), weights, Out::Overwrite(out(&mut y))).unwrap();
    let both = (Out::Overwrite(out(&mut grad_x)), Out::Overwrite(&mut grad_w[..]));
    workspace.conv_backward(rows(&x), weights, rows(&g), both.0, both.1).unwrap();

    let base: Vec<f64> = features(4, x.len());
    let plus = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
    let (mut added_y, mut added_x, mut added_w) = (base.clone(), base.clone(), base[..6].to_vec());
    workspace.conv(rows(&x), weights, Out::Add(out(&mut added_y))).unwrap();
    assert_eq!(added_y, plus(&base, &y));
    let out_w = Out::Add(&mut added_w[..]);
    workspace.conv_backward(rows(&x), weights, rows(&g), Out::Add(out(&mut added_x)), out_w).unwrap();
    assert_eq!(added_x, plus(&base, &grad_x));
    assert_eq!(added_w, plus(&base[..6], &grad_w));

    // Skipping one leaves the other as it is.
    let (mut only_x, mut only_w) = (vec![f64::NAN; x.len()], vec![f64::NAN; 6]);
    workspace
        .conv_backward(rows(&x), weights, rows(&g), Out::Overwrite(out(&mut only_x)), Out::Skip)
        .unwrap();
    workspace.conv_backward(rows(&x), weights, rows(&g), Out::Skip, Out::Overwrite(&mut only_w)).unwrap();
    workspace.conv_backward(rows(&x), weights, rows(&g), Out::Skip, Out::Skip).unwrap();
    assert_eq!((only_x, only_w), (grad_x, grad_w));
}

#[test]
fn a_window_table_of_a_replicated_batch_serves_fewer_copies() {
    let batch = pairs();
    let table = WindowTable::new(&batch, &[0u32, 6, 12, 3]).unwrap();
    let plan = Plan::<f32>::new(&batch, F, Conv::default()).unwrap();
    let mut workspace = plan.workspace(4).unwrap();
    let (x, w): (Vec<f32>, Vec<f32>) = (features(1, 4 * 4 * F), weights::<f32>(2, 18, false));
    let mut all = vec![f32::NAN; x.len()];
    workspace.conv(rows(&x), Weights::table(&w, &table), Out::Overwrite(out(&mut all))).unwrap();
    for copies in 0..4 {
        // Fewer copies need fewer weights, too.
        let (n, needed) = (copies * 4 * F, 6 * copies);
        let mut fewer = vec![f32::NAN; n];
        workspace
            .conv(rows(&x[..n]), Weights::table(&w[..needed], &table), Out::Overwrite(out(&mut fewer)))
            .unwrap();
        assert_eq!(bits(&fewer), bits(&all[..n]));
        let mut grad_w = vec![f32::NAN; needed];
        let weights = Weights::table(&w[..needed], &table);
        let grads = Out::Overwrite(&mut grad_w[..]);
        workspace.conv_backward(rows(&x[..n]), weights, rows(&x[..n]), Out::Skip, grads).unwrap();
        assert!(grad_w.iter().all(|g| g.is_finite()));
    }
}

#[test]
fn weights_that_no_window_covers_have_gradient_zero() {
    let batch = pairs();
    let table = WindowTable::new(&batch, &[2u8, 10]).unwrap();
    let plan = Plan::<f32>::new(&batch, F, Conv::default()).unwrap();
    let (x, g): (Vec<f32>, Vec<f32>) = (features(1, 2 * 4 * F), features(2, 2 * 4 * F));
    let (w, mut grad_w) = (vec![1.0; 20], vec![f32::NAN; 20]);
    let (weights, grads) = (Weights::table(&w[..], &table), Out::Overwrite(&mut grad_w[..]));
    plan.workspace(2).unwrap().conv_backward(rows(&x), weights, rows(&g), Out::Skip, grads).unwrap();
    for (slot, &grad) in grad_w.iter().enumerate() {
        let covered = (2..8).contains(&slot) || (10..16).contains(&slot);
        assert_eq!(grad != 0.0, covered, "slot {slot}: {grad}");
    }
}

#[test]
fn expert_major_and_multi_head_tensors_are_read_in_place() {
    const E: usize = 4;
    const T: usize = 9;
    const HEADS: usize = 3;
    let plan = Plan::<f32>::new(&pairs(), F, Conv::default()).unwrap();
    let mut workspace = plan.workspace(T).unwrap();
    let w = weights::<f32>(1, 6, false);
    let weights = Weights::shared(&w[..]);
    // [T, E, HEADS, F]
    let heads: Vec<f32> = features(2, T * E * HEADS * F);
    let mut result = vec![0.0; heads.len()];
    for head in 0..HEADS {
        let token_major: Vec<f32> =
            heads.chunks(F).skip(head).step_by(HEADS).flat_map(<[f32]>::to_vec).collect();
        let mut expected = vec![f32::NAN; token_major.len()];
        workspace.conv(rows(&token_major), weights, Out::Overwrite(out(&mut expected))).unwrap();
        let layout = RowLayout::contiguous(F).row_stride(HEADS * F);
        let (from, to) = (Rows::new(&heads[head * F..], layout), Rows::new(&mut result[head * F..], layout));
        workspace.conv(from, weights, Out::Overwrite(to)).unwrap();
        let written: Vec<f32> =
            result.chunks(F).skip(head).step_by(HEADS).flat_map(<[f32]>::to_vec).collect();
        assert_eq!(bits(&written), bits(&expected), "head {head}");
        // [E, T, F]
        let expert_major: Vec<f32> =
            (0..E).flat_map(|e| token_major.chunks(F).skip(e).step_by(E).flat_map(<[f32]>::to_vec)).collect();
        let layout = RowLayout::contiguous(F).row_stride(T * F).instance_stride(F).instances(T);
        let mut back = vec![f32::NAN; token_major.len()];
        workspace.conv(Rows::new(&expert_major, layout), weights, Out::Overwrite(out(&mut back))).unwrap();
        assert_eq!(bits(&back), bits(&expected), "head {head}, expert-major");
    }
}

#[test]
fn zero_of_everything_is_legal() {
    for batch in empty_batches() {
        for features in [0, F] {
            let instances = batch.n_instances().unwrap_or(4);
            let (n, m) =
                (batch.vertex_start(instances) * features, batch.hyperedge_start(instances) * features);
            let plan = Plan::<f32>::new(&batch, features, Conv::default()).unwrap();
            let mut workspace = plan.workspace(instances).unwrap();
            let layout = RowLayout::contiguous(features).instances(instances);
            let (x, z) = (vec![1.0; n], vec![1.0; m]);
            let most = (0..instances).map(|g| batch.topology(g).n_hyperedges()).max().unwrap_or(0);
            let (mut y, mut z_out, mut grad_w) = (vec![f32::NAN; n], vec![f32::NAN; m], vec![f32::NAN; most]);
            let (x, z, w) = (Rows::new(&x[..], layout), Rows::new(&z[..], layout), vec![1.0; most]);
            workspace.conv(x, Weights::shared(&w), Out::Overwrite(Rows::new(&mut y, layout))).unwrap();
            assert!(y.iter().all(|&y| y == 0.0), "isolated vertices get zeros");
            let grads = Out::Overwrite(&mut grad_w[..]);
            workspace.conv_backward(x, Weights::shared(&w), x, Out::Skip, grads).unwrap();
            assert!(grad_w.iter().all(|&g| g == 0.0));
            let out = Out::Overwrite(Rows::new(&mut z_out[..], layout));
            workspace.vertex_to_hyperedge(Step::mean(), x, out).unwrap();
            assert!(z_out.iter().all(|&z| z == 0.0), "empty hyperedges get zeros");
            workspace
                .hyperedge_to_vertex(Step::mean(), z, Out::Overwrite(Rows::new(&mut y, layout)))
                .unwrap();
        }
    }
}

#[test]
fn plans_are_shared_by_threads() {
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Batch>();
    is_send_and_sync::<WindowTable>();
    is_send_and_sync::<Plan<hyperscatter::half::bf16>>();
    is_send_and_sync::<Error>();
    fn is_send<T: Send>() {}
    is_send::<Workspace<f32>>();
}
