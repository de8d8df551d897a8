//! The raw tier: the bits of the safe calls on memory and streams that `cudarc` knows nothing of, by nothing
//! but launches.

use hyperscatter::cuda::{Checks, Orientation, Request, Table};
use hyperscatter::half::bf16;
use hyperscatter::{Batch, Error};

use super::gpu::{Gpu, GpuElement, Mode, in_any_order};
use super::operators::{
    Case, How, Operates as _, Operator, RawStream, Slices, WindowKind, driver_calls, long_rows, named, pairs,
    symmetric, table_batch,
};

/// Each call in both tiers, overwriting and adding; the raw stream is not the workspace's.
fn assert_same_bits<T: GpuElement>(batch: &Batch, instances: usize, kind: WindowKind, checks: Checks) {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let stream = gpu.device().context().default_stream();
    let case = Case::<T>::new(gpu.device(), (batch, instances), symmetric(), checks, kind);
    let mut workspace = case.workspace(&gpu.device().context().new_stream().unwrap());
    let raw_stream = RawStream::new(gpu.device());
    let [mut safe, raw] = [(); 2].map(|()| Slices::upload(&stream, &case.host));
    stream.synchronize().unwrap();
    let pointers = raw.pointers();
    for add in [false, true] {
        for call in Operator::ALL.iter().copied().filter(|call| call.takes::<T>(batch)) {
            let how = How { add, ..case.how() };
            safe.call(call, &mut workspace, how).unwrap();
            workspace.check().unwrap();
            // SAFETY: the buffers live, nobody else uses them or the workspace, and the stream is waited for.
            unsafe { pointers.call(call, &mut workspace, raw_stream.get(), how) }.unwrap();
            raw_stream.synchronize();
            assert_eq!(raw.results(&stream), safe.results(&stream), "{call:?}, {kind:?}, add: {add}");
        }
    }
    // SAFETY: the stream is alive, and no other has work of the workspace.
    unsafe { workspace.check_raw(raw_stream.get()) }.unwrap();
}

#[test]
fn raw_calls_have_the_bits_of_safe_calls() {
    let long = Batch::replicate(long_rows());
    assert_same_bits::<f32>(&long, 4, WindowKind::Table, Checks::Off);
    for (batch, instances) in [(pairs(), 6), (table_batch(), 5)] {
        for kind in WindowKind::ALL {
            assert_same_bits::<f32>(&batch, instances, kind, Checks::On);
            assert_same_bits::<bf16>(&batch, instances, kind, Checks::Off);
        }
        assert_same_bits::<f64>(&batch, instances, WindowKind::Table, Checks::On);
    }
}

/// A workspace is ready for every stream when it has been made: its memory, and the empty record.
#[test]
fn a_workspace_serves_any_stream_from_the_start() {
    in_any_order(|gpu| {
        let own = gpu.device().context().default_stream();
        let case = spoilt_indices(gpu);
        let slices = Slices::upload(&own, &case.host);
        own.synchronize().unwrap();
        let (pointers, raw_stream) = (slices.pointers(), RawStream::new(gpu.device()));
        let mut workspace = case.workspace(&own);
        // SAFETY: the buffers live, nobody else uses them or the workspace, and the check waits for the
        // stream.
        let checked = unsafe {
            pointers.call(Operator::VertexToHyperedge, &mut workspace, raw_stream.get(), case.how()).unwrap();
            workspace.check_raw(raw_stream.get())
        };
        assert!(checked.as_ref().is_err_and(is_spoilt_index), "{checked:?}");
    });
}

/// A report of what [`spoilt_indices`] spoils, in either copy.
fn is_spoilt_index(error: &Error) -> bool {
    matches!(error, Error::IndexOutOfBounds { instance: 0..2, position: 3, value: 77, .. })
}

/// Two copies with a wrong index in each orientation.
fn spoilt_indices(gpu: &Gpu) -> Case<f32> {
    let mut batch = gpu.device().upload(&pairs()).unwrap();
    for &orientation in Orientation::ALL {
        batch.overwrite_table(Table::Indices(orientation), 3, &[77]).unwrap();
    }
    Case::on(&batch, 2, symmetric(), Checks::On, WindowKind::Shared)
}

#[test]
fn raw_calls_are_launches_and_a_look_at_the_current_context() {
    let gpu = Gpu::take();
    let Some(control) = gpu.control("counting driver calls") else { return };
    let context = gpu.device().context();
    let own = context.default_stream();
    let batch = Batch::replicate(long_rows());
    let case = Case::<f32>::new(gpu.device(), (&batch, 2), symmetric(), Checks::On, WindowKind::Table);
    let mut workspace = case.workspace(&own);
    let slices = Slices::upload(&own, &case.host);
    own.synchronize().unwrap();
    let (pointers, raw_stream) = (slices.pointers(), RawStream::new(gpu.device()));
    // Safe calls would now wait for the operands' events.
    let _several = context.new_stream().unwrap();
    let other = Gpu::second().expect("the emulated driver has one");
    for call in Operator::ALL.iter().copied().filter(|call| call.takes::<f32>(&batch)) {
        let windows = case.how().windows;
        let request = Request::new(call, 2)
            .vertex_scale(windows.vertices.as_deref())
            .hyperedge_scale(windows.hyperedges.as_deref());
        let launches = case.plan.explain_call(&request).unwrap().launches as u64;
        let mut queue = || {
            // SAFETY: the buffers live, nobody else uses them or the workspace, and the stream is waited for.
            unsafe { pointers.call(call, &mut workspace, raw_stream.get(), case.how()) }.unwrap();
        };
        let calls = driver_calls(control, &mut queue);
        assert_eq!(calls, named(&[("cuCtxGetCurrent", 1), ("cuLaunchKernel", launches)]), "{call:?}");
        // Where the context is not current, it is made current, and what was before is restored.
        other.device().context().bind_to_thread().unwrap();
        let calls = driver_calls(control, queue);
        // The look at the current context, and making that current again, are the other device's.
        assert_eq!(calls, named(&[("cuCtxSetCurrent", 1), ("cuLaunchKernel", launches)]), "{call:?}");
        context.bind_to_thread().unwrap();
        raw_stream.synchronize();
    }
}

/// What each call finds wrong with a table, and with a degree, is heard of by `check_raw`, once; until then
/// calls return it.
#[test]
fn what_a_raw_call_finds_wrong_is_reported_once() {
    in_any_order(|gpu| {
        let reads_indices = |call: &Operator| call.has_weights();
        let calls: Vec<_> = Operator::ALL.iter().copied().filter(reads_indices).collect();
        assert_reported(gpu, &spoilt_indices(gpu), &calls, is_spoilt_index);
        for checks in [Checks::Off, Checks::On] {
            let mut case = Case::new(gpu.device(), (&pairs(), 2), symmetric(), checks, WindowKind::Shared);
            case.host.weights.fill(-1.0);
            let has_degrees = |call: &Operator| !call.is_step() && call.has_weights();
            let calls: Vec<_> = Operator::ALL.iter().copied().filter(has_degrees).collect();
            let negative = |error: &Error| match *error {
                Error::NegativeDegree { instance, vertex, value } => {
                    instance < 2 && vertex < 4 && value == -3.0
                }
                _ => false,
            };
            assert_reported(gpu, &case, &calls, negative);
        }
    });
}

fn assert_reported(gpu: &Gpu, case: &Case<f32>, calls: &[Operator], expected: impl Fn(&Error) -> bool) {
    let own = gpu.device().context().default_stream();
    let mut workspace = case.workspace(&own);
    let slices = Slices::upload(&own, &case.host);
    own.synchronize().unwrap();
    let (pointers, raw_stream) = (slices.pointers(), RawStream::new(gpu.device()));
    for &call in calls {
        for round in 0..2 {
            // SAFETY: the buffers live, nobody else uses them or the workspace, and the stream is waited for.
            let (refused, checked) = unsafe {
                pointers.call(call, &mut workspace, raw_stream.get(), case.how()).unwrap();
                raw_stream.synchronize();
                let refused = pointers.call(call, &mut workspace, raw_stream.get(), case.how());
                (refused, workspace.check_raw(raw_stream.get()))
            };
            let Err(error) = &checked else { panic!("{call:?}, round {round}: nothing was reported") };
            assert!(expected(error), "{call:?}, round {round}: {error}");
            assert_eq!(refused, checked, "{call:?}, round {round}");
        }
    }
    // SAFETY: the stream is alive.
    unsafe { workspace.check_raw(raw_stream.get()) }.unwrap();
}
