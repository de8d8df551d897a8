//! CUDA graphs of the raw tier: a forward and backward captured once, replayed with new data in the same
//! memory.

use hyperscatter::cuda::cudarc::driver::{CudaContext, result, sys};
use hyperscatter::cuda::{Checks, Orientation, Table, WindowPart, Workspace};
use hyperscatter::half::bf16;
use hyperscatter::{Batch, Conv, Error, Result, Windows};
use std::ptr;
use std::sync::Arc;

use super::gpu::{Gpu, GpuElement, Mode, in_any_order};
use super::operators::{
    Case, How, OnHost, Operates as _, Operator, Part, Pointers, RawStream, Slices, WindowKind, long_rows,
    pairs, symmetric, table_batch,
};
use crate::common::bits;

/// Everything that a layer's training step may do.
const FORWARD_AND_BACKWARD: [Operator; 6] = [
    Operator::ConvSavingZ,
    Operator::VertexToHyperedge,
    Operator::HyperedgeToVertex,
    Operator::ConvBackwardFromZ,
    Operator::VertexToHyperedgeBackward,
    Operator::HyperedgeToVertexBackward,
];

/// A layer in one pass, and its gradients.
const LAYER: [Operator; 2] = [Operator::Layer, Operator::LayerBackward];

/// A captured graph, made executable.
pub struct Graph {
    graph: sys::CUgraph,
    executable: sys::CUgraphExec,
    context: Arc<CudaContext>,
}

impl Graph {
    /// Captures what `queue` queues on the stream.
    pub fn capture(context: &Arc<CudaContext>, stream: &RawStream, queue: impl FnOnce()) -> Self {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
        context.bind_to_thread().unwrap();
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the stream is alive, and the pointers are valid for the calls.
        unsafe {
            sys::cuStreamBeginCapture_v2(stream.get(), mode).result().unwrap();
            queue();
            sys::cuStreamEndCapture(stream.get(), &mut graph).result().unwrap();
            sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0).result().unwrap();
        }
        Self { graph, executable, context: context.clone() }
    }

    pub fn replay(&self, stream: &RawStream) {
        self.context.bind_to_thread().unwrap();
        // SAFETY: both are alive, and so is what the graph uses: the caller has it.
        unsafe { result::graph::launch(self.executable, stream.get()) }.unwrap();
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made in `capture`, and destroyed only here.
        let destroyed =
            unsafe { result::graph::exec_destroy(self.executable).and(result::graph::destroy(self.graph)) };
        assert!(destroyed.is_ok() || std::thread::panicking(), "{destroyed:?}");
    }
}

/// Captures calls one behind the other. Nothing is allocated, waited for or run meanwhile.
fn capture<T: GpuElement>(
    gpu: &Gpu,
    (pointers, how): (&Pointers<T>, How<'_>),
    workspace: &mut Workspace<T>,
    stream: &RawStream,
    calls: &[Operator],
) -> Graph {
    let control = gpu.control("counting what is made during a capture");
    let made = || control.map(|control| (control.creations(), control.pending()));
    let before = made();
    let graph = Graph::capture(gpu.device().context(), stream, || {
        for &call in calls {
            // SAFETY: the tests keep operands, windows and workspace until the last replay has ended, and
            // wait for each.
            unsafe { pointers.call(call, workspace, stream.get(), how) }.unwrap();
        }
        assert_eq!(made(), before, "made during the capture");
    });
    // The executable graph is the only thing.
    assert_eq!(made(), before.map(|(made, pending)| (made + 1, pending)));
    graph
}

fn assert_replays<T: GpuElement>(
    (batch, instances): (&Batch, usize),
    kind: WindowKind,
    conv: Conv,
    checks: Checks,
    calls: &[Operator],
) {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let eager_stream = gpu.device().context().default_stream();
    let case = Case::<T>::new(gpu.device(), (batch, instances), conv, checks, kind);
    let [mut eager_workspace, mut workspace] = [(); 2].map(|()| case.workspace(&eager_stream));
    let [mut eager, mut replayed] = [(); 2].map(|()| Slices::upload(&eager_stream, &case.host));
    let stream = RawStream::new(gpu.device());
    eager_stream.synchronize().unwrap();
    let pointers = replayed.pointers();
    let graph = capture(&gpu, (&pointers, case.how()), &mut workspace, &stream, calls);
    let mut results = vec![];
    for round in 0..3 {
        let mut host = OnHost::new(batch, instances, &case.windows, 10 + round);
        // What the last replay left is spoilt, too: gradients are overwritten, also where no window covers
        // them.
        eager.write(&eager_stream, &mut host);
        replayed.write(&eager_stream, &mut host);
        for &call in calls {
            eager.call(call, &mut eager_workspace, case.how()).unwrap();
        }
        graph.replay(&stream);
        stream.synchronize();
        let found = replayed.results(&eager_stream);
        assert_eq!(found, eager.results(&eager_stream), "{kind:?}, replay {round}");
        if kind == WindowKind::Table {
            let (_, gradient) = found.iter().find(|(part, _)| *part == Part::GradWeights).unwrap();
            let zero = bits(&[T::acc(0.0)])[0];
            assert_eq!([gradient[0], *gradient.last().unwrap()], [zero; 2], "no window covers these");
        }
        results.push(found);
    }
    assert!(results[0] != results[1] && results[1] != results[2], "new data have new results");
    // SAFETY: the stream is alive, and no other has work of the workspace.
    unsafe { workspace.check_raw(stream.get()) }.unwrap();
    eager_workspace.check().unwrap();
}

#[test]
fn replays_have_the_bits_of_eager_calls() {
    for (batch, instances) in [(pairs(), 6), (table_batch(), 5)] {
        for kind in WindowKind::ALL {
            for calls in [&FORWARD_AND_BACKWARD[..], &LAYER] {
                assert_replays::<f32>((&batch, instances), kind, symmetric(), Checks::On, calls);
                assert_replays::<bf16>((&batch, instances), kind, Conv::default(), Checks::Off, calls);
            }
        }
    }
    let long = Batch::replicate(long_rows());
    let calls = &FORWARD_AND_BACKWARD;
    assert_replays::<f32>((&long, 4), WindowKind::Table, symmetric(), Checks::Off, calls);
}

/// What a replay finds wrong is reported behind it, cleared, and reported again behind the next.
fn assert_reports<T: GpuElement>(
    gpu: &Gpu,
    case: &Case<T>,
    calls: &[Operator],
    expected: impl Fn(&Error) -> bool,
) {
    let own = gpu.device().context().default_stream();
    let mut workspace = case.workspace(&own);
    let slices = Slices::upload(&own, &case.host);
    let stream = RawStream::new(gpu.device());
    own.synchronize().unwrap();
    for &call in calls {
        let pointers = slices.pointers();
        let graph = capture(gpu, (&pointers, case.how()), &mut workspace, &stream, &[call]);
        for replay in 0..3 {
            graph.replay(&stream);
            // SAFETY: the stream is alive, and no other has work of the workspace.
            let checked: Result<()> = unsafe { workspace.check_raw(stream.get()) };
            let Err(error) = checked else { panic!("{call:?}, replay {replay}: nothing was reported") };
            assert!(expected(&error), "{call:?}, replay {replay}: {error}");
        }
        // SAFETY: as above.
        unsafe { workspace.check_raw(stream.get()) }.unwrap();
    }
}

#[test]
fn wrong_indices_are_reported_behind_each_replay() {
    in_any_order(wrong_indices_are_reported);
}

fn wrong_indices_are_reported(gpu: &Gpu) {
    // All instances of a topology read the spoilt index: any of them may be the one that is named.
    let wrong = |error: &Error| matches!(error, Error::IndexOutOfBounds { position: 2, value: 77, .. });
    let calls = [&FORWARD_AND_BACKWARD[..], &LAYER].concat();
    let mut batch = gpu.device().upload(&table_batch()).unwrap();
    for &orientation in Orientation::ALL {
        batch.overwrite_table(Table::Indices(orientation), 2, &[77]).unwrap();
    }
    let case = Case::<f32>::on(&batch, 5, symmetric(), Checks::On, WindowKind::Table);
    assert_reports(gpu, &case, &calls, wrong);

    // A window of hyperedges that leaves the weights.
    let batch = gpu.device().upload(&table_batch()).unwrap();
    let mut case = Case::<f32>::on(&batch, 5, symmetric(), Checks::On, WindowKind::Table);
    let Windows::Table(windows) = &mut case.windows.hyperedges else { unreachable!() };
    windows.overwrite(WindowPart::Offsets, 1, &[77]).unwrap();
    let wrong = |error: &Error| {
        matches!(error, Error::IndexOutOfBounds { table: "hyperedge_windows", position: 1, value: 77, .. })
    };
    assert_reports(gpu, &case, &calls, wrong);
}

#[test]
fn negative_degrees_are_reported_behind_each_replay() {
    in_any_order(|gpu| {
        for checks in [Checks::Off, Checks::On] {
            let mut case =
                Case::<f32>::new(gpu.device(), (&pairs(), 3), symmetric(), checks, WindowKind::Shared);
            case.host.weights.fill(-0.5);
            let negative = |error: &Error| match *error {
                Error::NegativeDegree { instance, vertex, value } => {
                    instance < 3 && vertex < 4 && value == -1.5
                }
                _ => false,
            };
            let has_degrees = |call: &Operator| !call.is_step() && call.has_weights();
            let calls: Vec<_> = Operator::ALL.iter().copied().filter(has_degrees).collect();
            assert_reports(gpu, &case, &calls, negative);
        }
    });
}

/// A report does not stop replays: the right rows of each are computed.
#[test]
fn replays_are_right_again_once_a_table_is_repaired() {
    in_any_order(repaired_between_replays);
}

fn repaired_between_replays(gpu: &Gpu) {
    let own = gpu.device().context().default_stream();
    let mut case = Case::<f32>::new(gpu.device(), (&pairs(), 3), symmetric(), Checks::On, WindowKind::Table);
    let [mut workspace, mut eager_workspace] = [(); 2].map(|()| case.workspace(&own));
    let [slices, mut eager] = [(); 2].map(|()| Slices::upload(&own, &case.host));
    let stream = RawStream::new(gpu.device());
    own.synchronize().unwrap();
    for call in FORWARD_AND_BACKWARD {
        eager.call(call, &mut eager_workspace, case.how()).unwrap();
    }
    let expected = eager.results(&own);
    let pointers = slices.pointers();
    let graph = capture(gpu, (&pointers, case.how()), &mut workspace, &stream, &FORWARD_AND_BACKWARD);
    let mut overwrite = |value| {
        let Windows::Table(windows) = &mut case.windows.hyperedges else { unreachable!() };
        windows.overwrite(WindowPart::Offsets, 1, &[value]).unwrap();
    };
    for _ in 0..2 {
        overwrite(77);
        graph.replay(&stream);
        // SAFETY: the stream is alive, and no other has work of the workspace.
        let wrong = unsafe { workspace.check_raw(stream.get()) };
        assert!(matches!(wrong, Err(Error::IndexOutOfBounds { value: 77, .. })), "{wrong:?}");
        overwrite(6);
        graph.replay(&stream);
        // SAFETY: as above.
        unsafe { workspace.check_raw(stream.get()) }.unwrap();
        assert_eq!(slices.results(&own), expected);
    }
}

/// The safe calls stay refused, every one: a graph would use the operands beyond their borrow.
#[test]
fn safe_calls_are_not_captured() {
    use sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
    let gpu = Gpu::take();
    let stream = gpu.device().context().new_stream().unwrap();
    let case = Case::<f32>::new(gpu.device(), (&pairs(), 2), symmetric(), Checks::On, WindowKind::Table);
    let mut workspace = case.workspace(&stream);
    let mut slices = Slices::upload(&stream, &case.host);
    gpu.device().context().synchronize().unwrap();
    let before = slices.results(&stream);
    for &call in Operator::ALL {
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        let (called, checked) = (slices.call(call, &mut workspace, case.how()), workspace.check());
        let graph = stream.end_capture(CUgraphInstantiate_flags(0));
        assert_eq!(called, Err(Error::Capturing { call: call.name() }), "{call:?}");
        assert_eq!(checked, Err(Error::Capturing { call: "check" }));
        drop(graph.unwrap());
    }
    assert_eq!(slices.results(&stream), before);
    for &call in Operator::ALL {
        slices.call(call, &mut workspace, case.how()).unwrap();
    }
    workspace.check().unwrap();
}
