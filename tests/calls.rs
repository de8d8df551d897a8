//! What stays from call to call on the CPU: nothing is allocated, and threads share plans.

use std::process::Command;

use hyperscatter::cpu::{self, Epilogue, EpilogueGradients, Plan, Step, StepGradients, Weights, Workspace};
use hyperscatter::{
    Activation, Axis, Batch, Conv, Error, Incidence, Normalization, Out, Path, Repeats, Rows, WeightUse,
    WindowTable,
};

use crate::allocator::allocations;
use crate::common::{features, weights};
use crate::layouts::pairs;
use crate::operands::{F, out, rows};

/// A call of every operator for `copies` copies of the pairs of four.
fn call_all(workspace: &mut Workspace<f32>, copies: usize, data: &mut Data) {
    let Data { x, z, w, y, grad_x, saved_z, z_out, grad_w, scale, grad_scale, grad_bias, readout, matrices } =
        data;
    let (n, m) = (copies * 4 * F, copies * 6 * F);
    let (x, z, weights) = (rows(&x[..n]), rows(&z[..m]), Weights::shared(&w[..]));
    workspace.conv(x, weights, Out::Overwrite(out(&mut y[..n]))).unwrap();
    let grad_rows = Out::Overwrite(out(&mut grad_x[..n]));
    workspace.conv_backward(x, weights, rows(&y[..n]), grad_rows, Out::Overwrite(grad_w)).unwrap();
    let saved = &mut saved_z[..m];
    workspace.conv_saving_z(x, weights, out(saved), Out::Skip).unwrap();
    let grad_rows = Out::Overwrite(out(&mut grad_x[..n]));
    workspace.conv_backward_from_z(x, rows(saved), weights, x, grad_rows, Out::Accumulate(grad_w)).unwrap();
    call_epilogues(
        workspace,
        (x, weights),
        (&mut y[..n], &mut grad_x[..n]),
        (&mut grad_w[..], grad_bias),
        readout,
    );
    call_matrices(workspace, (x, weights), (&mut grad_x[..n], &mut grad_w[..]), matrices);
    let step = Step::mean().vertex_scale(Weights::shared(&*scale)).hyperedge_scale(weights);
    workspace.vertex_to_hyperedge(&step, x, Out::Overwrite(out(&mut z_out[..m]))).unwrap();
    workspace.hyperedge_to_vertex(&step, z, Out::Accumulate(out(&mut y[..n]))).unwrap();
    let gradients = StepGradients::none()
        .rows(Out::Accumulate(out(&mut grad_x[..n])))
        .vertex_scale(Out::Accumulate(grad_scale))
        .hyperedge_scale(Out::Accumulate(grad_w));
    workspace.vertex_to_hyperedge_backward(&step, x, rows(&z_out[..m]), gradients).unwrap();
}

/// The operators with a matrix for each instance.
fn call_matrices(
    workspace: &mut Workspace<f32>,
    (x, weights): (Rows<&[f32]>, Weights<'_, f32>),
    (grad_x, grad_w): (&mut [f32], &mut [f32]),
    matrices: &mut [f32],
) {
    let batch = workspace.plan().batch();
    if batch.topologies().iter().any(|topology| topology.n_vertices() > 32) {
        return;
    }
    let side = batch.largest(Axis::Vertex);
    let len = x_instances(workspace, x) * side * side;
    let matrices = &mut matrices[..len];
    workspace.conv_matrix(weights, Out::Overwrite(&mut *matrices)).unwrap();
    workspace.conv_matrix_backward(weights, matrices, Out::Overwrite(grad_w)).unwrap();
    workspace.gram(x, Out::Accumulate(&mut *matrices)).unwrap();
    workspace.gram_backward(x, matrices, Out::Overwrite(out(grad_x))).unwrap();
}

/// The operators with an epilogue, for each activation.
fn call_epilogues(
    workspace: &mut Workspace<f32>,
    (x, weights): (Rows<&[f32]>, Weights<'_, f32>),
    (y, grad_x): (&mut [f32], &mut [f32]),
    (grad_w, grad_bias): (&mut [f32], &mut [f32]),
    readout: &mut [f32],
) {
    let bias = [0.5; F];
    let readout_len = x_instances(workspace, x) * F;
    let readout = &mut readout[..readout_len];
    for &activation in Activation::ALL {
        let epilogue = Epilogue::new(activation).bias(&bias[..]);
        workspace.conv_epilogue(x, weights, &epilogue, Some(x), Out::Overwrite(out(y))).unwrap();
        workspace.conv_readout(x, weights, &epilogue, Some(x), Out::Overwrite(&mut *readout)).unwrap();
        for weights_wanted in [true, false] {
            for of_readout in [true, false] {
                let grad_w = if weights_wanted { Out::Accumulate(&mut *grad_w) } else { Out::Skip };
                let gradients = EpilogueGradients::none()
                    .x(Out::Overwrite(out(grad_x)))
                    .weights(grad_w)
                    .bias(Out::Overwrite(&mut *grad_bias))
                    .residual(Out::Overwrite(out(y)));
                match of_readout {
                    true => {
                        workspace.conv_readout_backward(x, weights, &epilogue, readout, gradients).unwrap()
                    }
                    false => workspace.conv_epilogue_backward(x, weights, &epilogue, x, gradients).unwrap(),
                }
            }
        }
    }
}

/// The instances of a batch that `x` has all rows of.
fn x_instances(workspace: &Workspace<f32>, x: Rows<&[f32]>) -> usize {
    let batch = workspace.plan().batch();
    batch.n_instances().unwrap_or(x.buffer.len() / F / batch.largest(Axis::Vertex))
}

struct Data {
    x: Vec<f32>,
    z: Vec<f32>,
    w: Vec<f32>,
    scale: Vec<f32>,
    y: Vec<f32>,
    grad_x: Vec<f32>,
    saved_z: Vec<f32>,
    z_out: Vec<f32>,
    grad_w: Vec<f32>,
    grad_scale: Vec<f32>,
    grad_bias: Vec<f32>,
    readout: Vec<f32>,
    matrices: Vec<f32>,
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
            saved_z: vec![f32::NAN; m],
            z_out: vec![f32::NAN; m],
            grad_w: vec![f32::NAN; 6],
            grad_scale: vec![0.0; 4],
            grad_bias: vec![0.0; F],
            readout: vec![0.0; copies * F],
            matrices: vec![0.0; copies * 16],
        }
    }
}

/// Calls everything, none of which allocates on this thread, with workspaces that `make` gives.
fn call_without_allocating(make: impl Fn(Plan<f32>, usize) -> Workspace<f32>) {
    call_for_copies(&make);
    call_for_a_table(&make);
}

fn call_for_copies(make: impl Fn(Plan<f32>, usize) -> Workspace<f32>) {
    let mut workspace = make(Plan::<f32>::builder(&pairs(), F).build().unwrap(), 300);
    let mut data = Data::new(300);
    let before = allocations();
    drop(vec![0u8; 100]);
    assert!(allocations() > before, "the counter counts");
    let before = allocations();
    for copies in [300, 1, 0, 299] {
        call_all(&mut workspace, copies, &mut data);
    }
    assert_eq!(allocations(), before);
}

/// Small and large topologies, every kind of windows, and the check of degrees.
fn call_for_a_table(make: impl Fn(Plan<f32>, usize) -> Workspace<f32>) {
    let large = Incidence::subsets(60, 3).unwrap();
    let batch = Batch::from_table(vec![Incidence::subsets(4, 2).unwrap(), large], &[0, 1, 0, 0]).unwrap();
    let conv = Conv::new(Normalization::Symmetric, WeightUse::Documented);
    let mut workspace = make(Plan::<f32>::builder(&batch, F).conv(conv).build().unwrap(), 4);
    let table = WindowTable::new(&batch, &[3, 0, 3, 9]).unwrap();
    let (n, m) = (batch.start(Axis::Vertex, 4), batch.start(Axis::Hyperedge, 4));
    let (x, z) = (features::<f32>(1, n * F), features::<f32>(2, m * F));
    let (mut y, mut grad_z) = (x.clone(), z.clone());
    let w = weights::<f32>(3, m, false);
    let (mut grad_w, mut grad_bias, mut readout) = (w.clone(), [0.0; F], [0.0; 4 * F]);
    let mut grad_x = x.clone();
    let mut matrices = vec![0.0; 4 * batch.largest(Axis::Vertex).pow(2)];
    let most = batch.largest(Axis::Hyperedge);
    let before = allocations();
    for (weights, len) in [
        (Weights::shared(&w[..most]), most),
        (Weights::consecutive(&w[..]), m),
        (Weights::table(&w[..], &table), m),
    ] {
        workspace.conv(rows(&x), weights, Out::Overwrite(out(&mut y))).unwrap();
        let grad_w = &mut grad_w[..len];
        let grads = (Out::Accumulate(out(&mut y)), Out::Overwrite(&mut grad_w[..]));
        workspace.conv_backward(rows(&x), weights, rows(&x), grads.0, grads.1).unwrap();
        let grads = (&mut grad_w[..], &mut grad_bias[..]);
        call_epilogues(&mut workspace, (rows(&x), weights), (&mut y, &mut grad_x), grads, &mut readout);
        let grads = (&mut grad_x[..], &mut grad_w[..]);
        call_matrices(&mut workspace, (rows(&x), weights), grads, &mut matrices);
        let step = Step::mean().hyperedge_scale(weights);
        let gradients = StepGradients::none()
            .rows(Out::Overwrite(out(&mut grad_z)))
            .hyperedge_scale(Out::Accumulate(grad_w));
        workspace.hyperedge_to_vertex_backward(&step, rows(&z), rows(&x), gradients).unwrap();
    }
    assert_eq!(allocations(), before);
}

#[test]
fn no_call_allocates() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    // On the pool's only thread, everything that a call does runs there and is counted.
    pool.install(|| call_without_allocating(|plan, instances| plan.workspace(instances).unwrap()));
}

/// Set in the process that `calls_on_one_thread_start_no_other` starts.
const ALONE: &str = "HYPERSCATTER_TEST_ALONE";

/// In a process of its own, where nothing else has begun threads.
#[test]
fn calls_on_one_thread_start_no_other() {
    if std::env::var_os(ALONE).is_none() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "calls::calls_on_one_thread_start_no_other", "--test-threads=1"]);
        let output = command.env(ALONE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("test result: ok. 1 passed"), "{said}");
        return;
    }
    let threads = || std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    // Workspaces have memory for several threads, or for one.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let before = threads();
    let several = |plan: Plan<f32>, instances| pool.install(|| plan.workspace(instances).unwrap());
    cpu::on_this_thread(|| call_without_allocating(several));
    cpu::on_this_thread(|| call_without_allocating(|plan, instances| plan.workspace(instances).unwrap()));
    assert_eq!(threads(), before);
    let panics = || cpu::on_this_thread(|| panic!("as planned"));
    std::panic::catch_unwind(panics).unwrap_err();
    // A file system without processes cannot show them.
    if before > 0 {
        Plan::<f32>::builder(&pairs(), F).build().unwrap().workspace(1).unwrap();
        assert!(threads() > before, "threads are counted");
    }
}

/// A thread keeps what it forms of a window for the other chunks of a call, and for no other call.
#[test]
fn weights_may_change_from_call_to_call() {
    let plan = Plan::<f32>::builder(&pairs(), F).build().unwrap();
    assert_eq!(plan.paths(), [Path::Dense]);
    let mut kept = plan.workspace(300).unwrap();
    let x = features::<f32>(1, 300 * 4 * F);
    let both = |workspace: &mut Workspace<f32>, w: &[f32]| {
        let (mut y, mut grad_x, mut grad_w) = (x.clone(), x.clone(), vec![0.0; 6]);
        workspace.conv(rows(&x), Weights::shared(w), Out::Overwrite(out(&mut y))).unwrap();
        let gradients = (Out::Overwrite(out(&mut grad_x)), Out::Overwrite(&mut grad_w[..]));
        workspace.conv_backward(rows(&x), Weights::shared(w), rows(&y), gradients.0, gradients.1).unwrap();
        [y, grad_x, grad_w].map(|values| values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    let mut w = weights::<f32>(0, 6, false);
    for seed in 1..4 {
        let changed = both(&mut kept, &w);
        let fresh = both(&mut plan.workspace(300).unwrap(), &w);
        assert!(changed == fresh, "weights {seed}: not what a workspace gives that saw no others");
        // In place: the address is no sign.
        w.copy_from_slice(&weights::<f32>(seed, 6, false));
        assert!(changed != both(&mut kept, &w), "weights {seed} changed, and the results did not");
    }
}

/// Each operator counts: rows without hyperedges, which are the inner products' alone, and those of many
/// vertices, and hyperedges of one feature.
#[test]
fn a_call_is_small_if_every_operator_is() {
    let is_small = |topology: Incidence, features, instances| {
        Plan::<f32>::builder(&Batch::replicate(topology), features).build().unwrap().is_small(instances)
    };
    let pairs = |n| Incidence::subsets(n, 2).unwrap();
    assert!(is_small(pairs(2), 4, 1) && is_small(pairs(8), 32, 4) && is_small(pairs(8), 256, 0));
    assert!(!is_small(pairs(8), 256, 64));
    let alone = |n| Incidence::from_edges::<Vec<u32>, u32>(n, &[], Repeats::Reject).unwrap();
    assert!(is_small(alone(17), 64, 1) && !is_small(alone(17), 64, 2048) && !is_small(alone(64), 64, 1));
    let one_pair = Incidence::from_edges(200_000, &[[0u32, 1]], Repeats::Reject).unwrap();
    assert!(!is_small(one_pair, 64, 1));
    let triples = Incidence::subsets(16, 3).unwrap();
    assert!(is_small(triples.clone(), 1, 1) && !is_small(triples, 1, 128));
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
