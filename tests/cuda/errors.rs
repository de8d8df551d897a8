//! Bad operands are typed errors before anything is launched.

use hyperscatter::cuda::cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use hyperscatter::cuda::{Checks, Device, DevicePointer, DeviceWindows, Plan, WindowPart, Workspace};
use hyperscatter::half::bf16;
use hyperscatter::{
    Conv, Error, Normalization, Operator, Result, RowLayout, WeightUse, WindowTable, Windows,
};
use std::sync::Arc;

use super::gpu::{Gpu, GpuElement, Mode};
use super::operators::{
    AllWindows, Buffer, Case, F, How, OnHost, Operates as _, Part, Pointers, Slices, WindowKind, pairs,
    symmetric, table_batch, with_slices,
};

const COPIES: usize = 2;

/// Two copies of the pairs of four.
fn case<T: GpuElement>(device: &Device, checks: Checks, kind: WindowKind) -> Case<T> {
    Case::new(device, (&pairs(), COPIES), symmetric(), checks, kind)
}

/// With guards of operands and without, that is in contexts with several streams and with one; from another
/// device, and from the same.
#[test]
fn operands_of_another_context_are_refused() {
    for (own_stream, other_device) in [(false, false), (true, false), (false, true), (true, true)] {
        let gpu = Gpu::take();
        let second = if other_device { Gpu::second() } else { None };
        if other_device && second.is_none() {
            continue;
        }
        let stream = super::gpu::stream(gpu.device(), own_stream);
        let case = case::<f32>(gpu.device(), Checks::On, WindowKind::Table);
        let mut workspace = case.workspace(&stream);
        // Of the same device it is even the same primary context, but held by another `Arc`.
        let other = CudaContext::new(second.as_ref().unwrap_or(&gpu).ordinal()).unwrap();
        let other_stream = super::gpu::stream(&Device::from_context(&other).unwrap(), own_stream);
        let (bound, value) = (gpu.ordinal(), other.ordinal());
        let mut own = Slices::upload(&stream, &case.host);
        let mut foreign = Slices::upload(&other_stream, &case.host);
        other_stream.synchronize().unwrap();
        let before = own.results(&stream);
        for &call in Operator::ALL {
            for operand in call.operands() {
                own.swap(operand.part, &mut foreign);
                let result = own.call(call, &mut workspace, case.how());
                own.swap(operand.part, &mut foreign);
                let expected = Error::WrongContext { operand: operand.name, value, bound };
                assert_eq!(result, Err(expected), "{call:?}");
            }
        }
        // Window tables of the same batch there.
        let other_device = Device::from_context(&other).unwrap();
        let other_batch = other_device.upload(case.plan.batch().batch()).unwrap();
        let mut windows = AllWindows::upload(case.plan.batch(), COPIES, WindowKind::Table).unwrap();
        let mut foreign_windows = AllWindows::upload(&other_batch, COPIES, WindowKind::Table).unwrap();
        for of_vertices in [false, true] {
            let exchange = |a: &mut AllWindows, b: &mut AllWindows| match of_vertices {
                true => std::mem::swap(&mut a.vertices, &mut b.vertices),
                false => std::mem::swap(&mut a.hyperedges, &mut b.hyperedges),
            };
            exchange(&mut windows, &mut foreign_windows);
            for call in reading_windows(of_vertices) {
                let result = own.call(call, &mut workspace, How::overwriting(&windows));
                let expected = Error::WrongContext { operand: "the window table", value, bound };
                assert_eq!(result, Err(expected), "{call:?}");
                // The error leaves no trace in the context.
                workspace.check().unwrap();
            }
            exchange(&mut windows, &mut foreign_windows);
        }
        assert_eq!(own.results(&stream), before);
        let error = workspace.plan().workspace(&other_stream, 2).unwrap_err();
        assert_eq!(error, Error::WrongContext { operand: "the stream", value, bound });
        // A device made from that context takes them.
        let there = Case::<f32>::on(&other_batch, COPIES, symmetric(), Checks::On, WindowKind::Table);
        let mut workspace = there.workspace(&other_stream);
        for &call in Operator::ALL {
            foreign.call(call, &mut workspace, there.how()).unwrap();
        }
        workspace.check().unwrap();
        // `cudarc` frees in whatever context is current.
        other.bind_to_thread().unwrap();
        drop(foreign);
        gpu.device().context().bind_to_thread().unwrap();
        drop(own);
    }
}

/// The operators that read something through windows of vertices, or of hyperedges.
fn reading_windows(of_vertices: bool) -> impl Iterator<Item = Operator> {
    let reads = move |call: &Operator| if of_vertices { call.is_step() } else { call.has_weights() };
    Operator::ALL.iter().copied().filter(reads)
}

/// Memory in which each buffer of a case has a place of its own, far from the others.
struct Arena {
    memory: CudaSlice<u8>,
    stream: Arc<CudaStream>,
}

impl Arena {
    const PLACE: u64 = 1 << 14;

    fn new(stream: &Arc<CudaStream>) -> Self {
        let memory = vec![0xabu8; Self::PLACE as usize * Part::ALL.len()];
        let memory = stream.clone_htod(&memory).unwrap();
        stream.synchronize().unwrap();
        Self { memory, stream: stream.clone() }
    }

    fn pointers<T: GpuElement>(&self, host: &OnHost<T>) -> Pointers<T> {
        use hyperscatter::cuda::cudarc::driver::DevicePtr;
        let (start, _guard) = self.memory.device_ptr(&self.stream);
        let places = std::cell::RefCell::new((0..).map(|i| start + i * Self::PLACE));
        let next = |len: usize, size: usize| {
            assert!((len * size) as u64 + 64 < Self::PLACE);
            places.borrow_mut().next().unwrap()
        };
        host.each_ref().map(
            |rows| DevicePointer::new(next(rows.len(), size_of::<T>()), rows.len()),
            |sums| DevicePointer::new(next(sums.len(), size_of::<T::Acc>()), sums.len()),
        )
    }

    fn assert_untouched(&self) {
        let memory = self.stream.clone_dtoh(&self.memory).unwrap();
        assert!(memory.iter().all(|&byte| byte == 0xab), "an error leaves all memory as it was");
    }
}

/// The errors of a call in both tiers.
fn refused<T: GpuElement>(
    call: Operator,
    workspace: &mut Workspace<T>,
    pointers: &Pointers<T>,
    how: How<'_>,
) -> [Result<()>; 2] {
    let stream = workspace.stream().clone();
    // SAFETY: the memory is alive, and calls that are refused do not use it.
    unsafe {
        let safe = with_slices(&stream, pointers, |slices| slices.call(call, workspace, how));
        [safe, pointers.call(call, workspace, stream.cu_stream(), how)]
    }
}

/// Address and end of a buffer.
fn range<T: GpuElement>(pointers: &mut Pointers<T>, part: Part) -> (u64, u64) {
    fn range<U>(pointer: &DevicePointer<U>) -> (u64, u64) {
        (pointer.address, pointer.address + (pointer.len * size_of::<U>()) as u64)
    }
    match pointers.part(part) {
        Buffer::Rows(rows) => range(rows),
        Buffer::Sums(sums) => range(sums),
    }
}

fn set_address<T: GpuElement>(pointers: &mut Pointers<T>, part: Part, address: u64) {
    match pointers.part(part) {
        Buffer::Rows(rows) => rows.address = address,
        Buffer::Sums(sums) => sums.address = address,
    }
}

fn assert_memory_is_checked<T: GpuElement>() {
    let gpu = Gpu::take();
    let stream = gpu.device().context().default_stream();
    // Shared windows have no value to spare.
    let case = case::<T>(gpu.device(), Checks::On, WindowKind::Shared);
    let mut workspace = case.workspace(&stream);
    let arena = Arena::new(&stream);
    let fresh = || arena.pointers(&case.host);
    let calls = Operator::ALL.iter().copied().filter(|call| call.takes::<T>(&pairs()));
    for (call, add) in calls.flat_map(|call| [(call, false), (call, true)]) {
        let how = How { add, ..case.how() };
        let operands = call.operands();
        for operand in &operands {
            // Addresses that are no multiples of the element's size.
            let mut pointers = fresh();
            let size = match pointers.part(operand.part) {
                Buffer::Rows(_) => size_of::<T>(),
                Buffer::Sums(_) => size_of::<T::Acc>(),
            } as u64;
            let (start, _) = range(&mut pointers, operand.part);
            for offset in 1..size {
                let value = start + offset;
                set_address(&mut pointers, operand.part, value);
                let expected = Error::Misaligned { operand: operand.name, value, bound: size };
                for result in refused(call, &mut workspace, &pointers, how) {
                    assert_eq!(result, Err(expected.clone()), "{call:?}");
                }
            }
            // One element too few.
            let mut pointers = fresh();
            match pointers.part(operand.part) {
                Buffer::Rows(rows) => rows.len -= 1,
                Buffer::Sums(sums) => sums.len -= 1,
            }
            for result in refused(call, &mut workspace, &pointers, how) {
                let is_named = match &result {
                    Err(
                        Error::PartialRow { operand: name, .. }
                        | Error::InstancesMismatch { operand: name, .. }
                        | Error::GradientMismatch { operand: name, .. }
                        | Error::PartialMatrix { operand: name, .. }
                        | Error::LengthMismatch { table: name, .. }
                        | Error::Stride { operand: name, .. },
                    ) => *name == operand.name,
                    // The gradient of a scale is compared with the scale, whichever is too short.
                    Err(Error::WindowOutOfRange { table, .. }) => *table == operand.name,
                    _ => false,
                };
                assert!(is_named, "{call:?}, {}: {result:?}", operand.name);
            }
        }
        for output in operands.iter().filter(|operand| operand.is_output) {
            for other in operands.iter().filter(|other| other.part != output.part) {
                // The output starts with the other's last 16 bytes, or ends with its first.
                for ends_there in [false, true] {
                    let mut pointers = fresh();
                    let (other_start, other_end) = range(&mut pointers, other.part);
                    let (start, end) = range(&mut pointers, output.part);
                    let value = if ends_there { other_start + 16 - (end - start) } else { other_end - 16 };
                    set_address(&mut pointers, output.part, value);
                    for result in refused(call, &mut workspace, &pointers, how) {
                        let Err(Error::SharedMemory { operand, other: read, value: found, bound }) = result
                        else {
                            panic!("{call:?}, {} in {}: {result:?}", output.name, other.name)
                        };
                        let (moved, stays) =
                            ((output.name, value, value + end - start), (other.name, other_start, other_end));
                        // Of two outputs, either may be the one that is named.
                        let as_found = |a: (_, u64, u64), b: (_, u64, u64)| {
                            (operand, read, found, bound) == (a.0, b.0, a.1, b.2)
                        };
                        let named = as_found(moved, stays) || (other.is_output && as_found(stays, moved));
                        assert!(named, "{call:?}: {operand} shares memory with {read}");
                    }
                }
            }
        }
        // Strides, and numbers of features.
        let layouts = [
            RowLayout::contiguous(F).row_stride(F - 1).instances(COPIES),
            RowLayout::contiguous(F).row_stride(1 << 40).instances(COPIES),
            RowLayout::contiguous(F - 1),
        ];
        // Rows of instances, matrices and Θ have no layout, and what is read may overlap.
        let has_layout = |part: Part| {
            let is_rows = matches!(fresh().part(part), Buffer::Rows(_));
            is_rows && !matches!(part, Part::Readout | Part::GradReadout | Part::Theta)
        };
        let with_layout = || operands.iter().filter(|operand| has_layout(operand.part));
        for (i, layout) in layouts.into_iter().enumerate() {
            if !with_layout().any(|operand| i > 0 || operand.is_output) {
                continue;
            }
            for result in refused(call, &mut workspace, &fresh(), How { layout, ..how }) {
                let is_right = matches!(
                    (i, &result),
                    (0, Err(Error::Overlap { .. }))
                        | (1, Err(Error::Stride { .. }))
                        | (2, Err(Error::FeaturesMismatch { bound: F, .. }))
                );
                assert!(is_right, "{call:?}, layout {i}: {result:?}");
            }
        }
        arena.assert_untouched();
        workspace.check().unwrap();
    }
}

#[test]
fn memory_that_is_misaligned_too_short_or_shared_is_refused() {
    assert_memory_is_checked::<f32>();
    // Elements and sums of different sizes.
    assert_memory_is_checked::<bf16>();
    assert_memory_is_checked::<f64>();
}

/// Operators that a workspace was made for work, with the bits of a workspace for everything; the rest is an
/// error.
#[test]
fn a_workspace_for_some_operators_has_those_and_refuses_the_others() {
    for conv in [symmetric(), Conv::default(), Conv::new(Normalization::None, WeightUse::MessageOnly)] {
        let gpu = Gpu::take();
        gpu.set(Mode::PLAIN);
        let stream = gpu.device().context().default_stream();
        let case =
            Case::<f32>::new(gpu.device(), (&table_batch(), 5), conv, Checks::On, WindowKind::Consecutive);
        let [mut all, mut some] = [(); 2].map(|()| Slices::upload(&stream, &case.host));
        let mut with_all = case.workspace(&stream);
        let alone = Operator::ALL.iter().map(std::slice::from_ref);
        let several: [&[Operator]; 2] = [&[], &[Operator::HyperedgeToVertexBackward, Operator::Conv]];
        for operators in alone.chain(several) {
            let mut workspace = case.plan.workspace_for(&stream, 5, operators).unwrap();
            for &call in Operator::ALL {
                let is_made_for = operators.contains(&call);
                assert_eq!(workspace.is_made_for(call), is_made_for);
                let before = some.results(&stream);
                let called = some.call(call, &mut workspace, case.how());
                if is_made_for {
                    called.unwrap();
                    all.call(call, &mut with_all, case.how()).unwrap();
                    assert_eq!(some.results(&stream), all.results(&stream), "{call:?}, {operators:?}");
                } else {
                    assert_eq!(called, Err(Error::NotMadeFor { operator: call.name() }), "{call:?}");
                    assert_eq!(some.results(&stream), before, "{call:?}, {operators:?}");
                }
            }
            workspace.check().unwrap();
        }
    }
}

#[test]
fn overwritten_window_tables_need_checks() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let stream = gpu.device().context().default_stream();
    for of_vertices in [false, true] {
        for &part in WindowPart::ALL {
            let mut case = case::<f32>(gpu.device(), Checks::Off, WindowKind::Table);
            let mut workspace = case.workspace(&stream);
            let mut slices = Slices::upload(&stream, &case.host);
            let before = slices.results(&stream);
            let windows = match of_vertices {
                true => &mut case.windows.vertices,
                false => &mut case.windows.hyperedges,
            };
            let Windows::Table(table) = windows else { unreachable!() };
            // The same value again: the crate does not know that nothing changed.
            let value = table.read(part).unwrap()[0];
            table.overwrite(part, 0, &[value]).unwrap();
            let checked = Plan::<f32>::builder(case.plan.batch(), F)
                .conv(symmetric())
                .checks(Checks::On)
                .build()
                .unwrap();
            let mut checked = checked.workspace_for(&stream, COPIES, Operator::ALL).unwrap();
            let pointers = slices.pointers();
            for call in reading_windows(of_vertices) {
                for result in refused(call, &mut workspace, &pointers, case.how()) {
                    assert_eq!(result, Err(Error::UncheckedTables), "{call:?}, {part:?}");
                }
                assert_eq!(slices.results(&stream), before, "{call:?}");
            }
            for &call in Operator::ALL {
                slices.call(call, &mut checked, case.how()).unwrap();
            }
            checked.check().unwrap();
        }
    }
}

#[test]
fn window_tables_of_other_batches_are_refused() {
    let gpu = Gpu::take();
    let batch = gpu.device().upload(&pairs()).unwrap();
    // The same in all values, but another batch.
    let table = WindowTable::new(&pairs(), &[0u8, 6]).unwrap();
    let error = batch.upload_windows(&table).unwrap_err();
    assert_eq!(error, Error::WindowTableMismatch { table: "table" });
    // And where it was uploaded for its own, calls of another batch refuse it.
    let mut case = case::<f32>(gpu.device(), Checks::On, WindowKind::Table);
    let other = AllWindows::upload(&batch, COPIES, WindowKind::Table).unwrap();
    case.windows = other;
    let stream = gpu.device().context().default_stream();
    let mut workspace = case.workspace(&stream);
    let mut slices = Slices::upload(&stream, &case.host);
    let before = slices.results(&stream);
    for call in reading_windows(false) {
        let error = slices.call(call, &mut workspace, case.how()).unwrap_err();
        let table = if call.is_step() { "vertex_scale" } else { "weights" };
        assert_eq!(error, Error::WindowTableMismatch { table }, "{call:?}");
    }
    assert_eq!(slices.results(&stream), before);
}

#[test]
fn ranges_outside_a_window_table_are_refused() {
    let gpu = Gpu::take();
    let batch = gpu.device().upload(&table_batch()).unwrap();
    let stream = gpu.device().context().default_stream();
    let mut windows = AllWindows::upload(&batch, 5, WindowKind::Table).unwrap();
    let name = |axis: &str, part| match part {
        WindowPart::Offsets => format!("{axis}_windows"),
        WindowPart::Chunks => format!("{axis}_chunks"),
        WindowPart::Members => format!("{axis}_members"),
        WindowPart::Ranks => format!("{axis}_ranks"),
        other => panic!("no name of {other:?}"),
    };
    let refuse = |axis, table: &mut DeviceWindows| {
        for &part in WindowPart::ALL {
            let before = table.read(part).unwrap();
            let len = before.len();
            for (position, count) in [(len, 1), (len - 1, 2), (0, len + 1), (len + 1, 0), (usize::MAX, 1)] {
                let error = table.overwrite(part, position, &vec![7; count]).unwrap_err();
                let Error::TableRange { table: found, position: at, value, bound } = error else {
                    panic!("{error}")
                };
                assert_eq!((found, at), (&*name(axis, part), position));
                assert_eq!((value, bound), (position.saturating_add(count), len));
            }
            table.overwrite(part, len, &[]).unwrap();
            assert_eq!(table.read(part).unwrap(), before);
        }
    };
    for (axis, windows) in [("vertex", &mut windows.vertices), ("hyperedge", &mut windows.hyperedges)] {
        let Windows::Table(table) = windows else { unreachable!() };
        refuse(axis, table);
    }
    // Nothing was written, so unchecked kernels may still read them.
    let mut case = Case::<f32>::on(&batch, 5, symmetric(), Checks::Off, WindowKind::Shared);
    case.windows = windows;
    case.host = OnHost::new(batch.batch(), 5, &case.windows, 1);
    let mut workspace = case.workspace(&stream);
    let mut slices = Slices::upload(&stream, &case.host);
    for &call in Operator::ALL {
        slices.call(call, &mut workspace, case.how()).unwrap();
    }
    workspace.check().unwrap();
}

#[test]
fn the_per_thread_stream_is_refused() {
    let gpu = Gpu::take();
    let plan =
        Plan::<f32>::builder(&gpu.device().upload(&pairs()).unwrap(), F).checks(Checks::On).build().unwrap();
    let stream = gpu.device().context().per_thread_stream();
    assert_eq!(plan.workspace_for(&stream, 2, Operator::ALL).unwrap_err(), Error::PerThreadStream);
}
