//! Workspaces that are lent their scratch memory: the bits of those that own it, whatever it held before, in
//! as many bytes as they ask for and no more.

use hyperscatter::cuda::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use hyperscatter::cuda::{Checks, DevicePointer, Plan, Workspace};
use hyperscatter::half::{bf16, f16};
use hyperscatter::{Batch, Conv, Error, Incidence, Path, Repeats};
use std::ops::Range;
use std::sync::Arc;

use super::gpu::{Gpu, GpuElement, Mode};
use super::graphs::Graph;
use super::operators::{
    Case, F, How, Operates as _, Operator, RawStream, Slices, WindowKind, long_rows, pairs, symmetric,
    table_batch,
};
use crate::allocator::allocations;

/// Memory to lend, with more before and behind it that stays as it is.
struct Lent {
    memory: CudaSlice<u8>,
    start: usize,
    bytes: usize,
}

const ALIGNMENT: usize = 256;
const GUARD: usize = 4 * ALIGNMENT;

/// What the bytes around the memory are.
const KEPT: u8 = 0x5a;

impl Lent {
    /// So many bytes, each of them garbage, or unwritten where there is none.
    fn new(stream: &Arc<CudaStream>, bytes: usize, garbage: Option<u8>) -> Self {
        // SAFETY: what is read of it is written here; the rest is what calls are given.
        let memory = unsafe { stream.alloc::<u8>(bytes + 2 * GUARD) }.unwrap();
        let address = memory.device_ptr(stream).0 as usize;
        let start = (address + GUARD / 2).next_multiple_of(ALIGNMENT) - address;
        let mut lent = Self { memory, start, bytes };
        let (end, len) = (start + bytes, lent.memory.len());
        lent.write(stream, 0..start, KEPT);
        lent.write(stream, end..len, KEPT);
        if let Some(garbage) = garbage {
            lent.fill(stream, garbage);
        }
        lent
    }

    fn write(&mut self, stream: &Arc<CudaStream>, range: Range<usize>, byte: u8) {
        if !range.is_empty() {
            stream.memcpy_htod(&vec![byte; range.len()], &mut self.memory.slice_mut(range)).unwrap();
            stream.synchronize().unwrap();
        }
    }

    fn fill(&mut self, stream: &Arc<CudaStream>, garbage: u8) {
        self.write(stream, self.start..self.start + self.bytes, garbage);
    }

    fn pointer(&self) -> DevicePointer<u8> {
        let address = self.memory.device_ptr(self.memory.stream()).0;
        DevicePointer::new(address + self.start as u64, self.bytes)
    }

    fn lend_to<T: GpuElement>(&self, workspace: &mut Workspace<T>) {
        // SAFETY: the tests wait for the work before they drop or write the memory.
        unsafe { workspace.lend_scratch(self.pointer()) }.unwrap();
    }

    /// Whether the bytes around it are as they were.
    fn is_kept(&self, stream: &Arc<CudaStream>) -> bool {
        [0..self.start, self.start + self.bytes..self.memory.len()].into_iter().all(|range| {
            let bytes = stream.clone_dtoh(&self.memory.slice(range)).unwrap();
            stream.synchronize().unwrap();
            !bytes.is_empty() && bytes.iter().all(|&byte| byte == KEPT)
        })
    }
}

/// A topology without a dense operator among small ones: instances on several paths.
fn mixed() -> Batch {
    let other = Incidence::from_edges(4, &[vec![0u32, 1, 2], vec![3, 1], vec![]], Repeats::Keep).unwrap();
    Batch::from_table(vec![Incidence::subsets(4, 2).unwrap(), other], &[0, 1, 0, 1, 1]).unwrap()
}

fn case<T: GpuElement>(
    gpu: &Gpu,
    (batch, instances): (&Batch, usize),
    conv: Conv,
    checks: Checks,
    kind: WindowKind,
    paths: Option<&[Path]>,
) -> Case<T> {
    let mut case = Case::new(gpu.device(), (batch, instances), conv, checks, kind);
    if let Some(paths) = paths {
        let plan = Plan::builder(case.plan.batch(), F).conv(conv).checks(checks).paths(paths);
        case.plan = plan.build().unwrap();
    }
    case
}

fn lent_workspace<T: GpuElement>(case: &Case<T>, stream: &Arc<CudaStream>) -> Workspace<T> {
    case.plan.workspace_without_memory(stream, case.instances, Operator::ALL).unwrap()
}

/// Each call in both kinds of workspace, overwriting and adding, after each kind of garbage. The lent memory
/// has exactly the size that the workspace asks for.
fn assert_same_bits<T: GpuElement>(
    batch: (&Batch, usize),
    conv: Conv,
    checks: Checks,
    kind: WindowKind,
    paths: Option<&[Path]>,
) {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let stream = gpu.device().context().default_stream();
    let case = case::<T>(&gpu, batch, conv, checks, kind, paths);
    let (mut owning, mut borrowing) = (case.workspace(&stream), lent_workspace(&case, &stream));
    let [mut expected, mut found] = [(); 2].map(|()| Slices::upload(&stream, &case.host));
    let mut needed = 0;
    for (add, garbage) in [(false, None), (true, Some(0xff)), (false, Some(0x3c))] {
        for call in Operator::ALL.iter().copied().filter(|call| call.takes::<T>(batch.0)) {
            let how = How { add, ..case.how() };
            let bytes = borrowing.scratch_bytes(call, case.instances).unwrap();
            needed += bytes;
            let lent = Lent::new(&stream, bytes, garbage);
            lent.lend_to(&mut borrowing);
            checked(&mut owning, &mut expected, call, how);
            checked(&mut borrowing, &mut found, call, how);
            let what = format!("{call:?}, {kind:?}, {checks:?}, add: {add}, {bytes} bytes");
            assert_eq!(found.results(&stream), expected.results(&stream), "{what}");
            assert!(lent.is_kept(&stream), "bytes outside of the memory were written: {what}");
        }
    }
    assert!(needed > 0, "nothing needs scratch memory");
}

fn checked<T: GpuElement>(
    workspace: &mut Workspace<T>,
    slices: &mut Slices<T>,
    call: Operator,
    how: How<'_>,
) {
    slices.call(call, workspace, how).unwrap();
    workspace.check().unwrap();
}

fn assert_same_bits_of<T: GpuElement>() {
    let (long, mixed) = (Batch::replicate(long_rows()), mixed());
    let paths = [Path::Gather, Path::Dense];
    for checks in [Checks::On, Checks::Off] {
        for (conv, kind) in [(symmetric(), WindowKind::Shared), (Conv::default(), WindowKind::Table)] {
            assert_same_bits::<T>((&pairs(), 6), conv, checks, kind, None);
            assert_same_bits::<T>((&mixed, 5), conv, checks, kind, Some(&paths));
        }
        let kind = WindowKind::Consecutive;
        assert_same_bits::<T>((&table_batch(), 5), symmetric(), checks, kind, None);
        assert_same_bits::<T>((&long, 3), symmetric(), checks, WindowKind::Table, None);
        assert_same_bits::<T>((&pairs(), 6), symmetric(), checks, kind, Some(&[Path::Gather]));
    }
}

#[test]
fn calls_have_the_bits_of_those_with_owned_memory_f32() {
    assert_same_bits_of::<f32>();
}

#[test]
fn calls_have_the_bits_of_those_with_owned_memory_f64() {
    assert_same_bits_of::<f64>();
}

#[test]
fn calls_have_the_bits_of_those_with_owned_memory_f16() {
    assert_same_bits_of::<f16>();
}

#[test]
fn calls_have_the_bits_of_those_with_owned_memory_bf16() {
    assert_same_bits_of::<bf16>();
}

/// Memory is asked for by the instances of a call, and a smaller call does with less.
#[test]
fn fewer_instances_need_less_memory() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let stream = gpu.device().context().default_stream();
    let paths = Some(&[Path::Gather][..]);
    let of = |n| case::<f32>(&gpu, (&pairs(), n), symmetric(), Checks::On, WindowKind::Shared, paths);
    let (few, many) = (of(2), of(40));
    let (mut owning, mut borrowing) = (few.workspace(&stream), lent_workspace(&many, &stream));
    let [mut expected, mut found] = [(); 2].map(|()| Slices::upload(&stream, &few.host));
    for &call in Operator::ALL {
        let sizes = [0, 2, 40].map(|n| borrowing.scratch_bytes(call, n).unwrap());
        assert!(sizes.is_sorted(), "{call:?}: {sizes:?}");
        let lent = Lent::new(&stream, sizes[1], Some(0xff));
        lent.lend_to(&mut borrowing);
        checked(&mut owning, &mut expected, call, few.how());
        checked(&mut borrowing, &mut found, call, few.how());
        assert_eq!(found.results(&stream), expected.results(&stream), "{call:?}");
        assert!(lent.is_kept(&stream), "{call:?}");
    }
    let bytes = |n| borrowing.scratch_bytes(Operator::ConvBackward, n).unwrap();
    assert!(bytes(2) < bytes(40), "{} and {}", bytes(2), bytes(40));
}

/// What cannot be lent, and calls that were lent too little, which queue nothing.
#[test]
fn memory_that_is_missing_short_or_misplaced_is_refused() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let stream = gpu.device().context().default_stream();
    let paths = Some(&[Path::Gather][..]);
    let case = case::<f32>(&gpu, (&pairs(), 6), symmetric(), Checks::On, WindowKind::Shared, paths);
    let (mut owning, mut borrowing) = (case.workspace(&stream), lent_workspace(&case, &stream));
    let mut slices = Slices::upload(&stream, &case.host);
    let whole = Lent::new(&stream, 1 << 20, None);
    let DevicePointer { address, len, .. } = whole.pointer();
    // SAFETY: the memory lives until the end, and everything is waited for; here and below.
    let refused = unsafe { owning.lend_scratch(whole.pointer()) };
    assert_eq!(refused, Err(Error::OwnsScratch));
    let before = slices.results(&stream);
    let mut n_needing = 0;
    for &call in Operator::ALL {
        // SAFETY: as above.
        unsafe { borrowing.lend_scratch(DevicePointer::new(0, 7)) }.unwrap();
        let bytes = match slices.call(call, &mut borrowing, case.how()) {
            Ok(()) => {
                slices.write(&stream, &mut case.host.clone());
                continue;
            }
            Err(Error::NoScratch { operator, bytes }) => {
                assert_eq!(operator, call.name());
                usize::try_from(bytes).unwrap()
            }
            other => panic!("{call:?}: {other:?}"),
        };
        n_needing += 1;
        assert!(bytes <= borrowing.scratch_bytes(call, 6).unwrap(), "{call:?}");
        // SAFETY: as above.
        unsafe { borrowing.lend_scratch(DevicePointer::new(address, bytes - 1)) }.unwrap();
        let (operator, value, bound) = (call.name(), bytes - 1, bytes as u128);
        let expected = Err(Error::ScratchTooSmall { operator, value, bound });
        assert_eq!(slices.call(call, &mut borrowing, case.how()), expected);
        borrowing.check().unwrap();
        assert_eq!(slices.results(&stream), before, "{call:?} has written something");
        for offset in [1, 128] {
            let (value, bound) = (address + offset, 256);
            // SAFETY: as above.
            let refused = unsafe { borrowing.lend_scratch(DevicePointer::new(value, len)) };
            assert_eq!(refused, Err(Error::ScratchMisaligned { value, bound }));
        }
        // What was lent before is used on.
        assert_eq!(slices.call(call, &mut borrowing, case.how()), expected);
        // SAFETY: as above.
        unsafe { borrowing.lend_scratch(DevicePointer::new(address, bytes)) }.unwrap();
        slices.call(call, &mut borrowing, case.how()).unwrap();
        borrowing.check().unwrap();
        slices.write(&stream, &mut case.host.clone());
    }
    assert!(n_needing >= 8, "{n_needing}");
    assert!(n_needing < Operator::ALL.len(), "a step of short rows needs none");

    let value = 7;
    let expected = Err(Error::TooManyInstances { value, bound: 6 });
    assert_eq!(borrowing.scratch_bytes(Operator::Conv, value), expected);
    let other = case.plan.workspace_without_memory(&stream, 6, Operator::TRAINING).unwrap();
    let operator = Operator::Gram.name();
    assert_eq!(other.scratch_bytes(Operator::Gram, 1), Err(Error::NotMadeFor { operator }));
}

#[test]
fn scratch_that_shares_memory_with_an_operand_is_refused() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let stream = gpu.device().context().default_stream();
    let case = Case::<f32>::new(gpu.device(), (&pairs(), 40), symmetric(), Checks::On, WindowKind::Shared);
    let mut workspace = lent_workspace(&case, &stream);
    let mut slices = Slices::upload(&stream, &case.host);
    let addresses = [(slices.x.device_ptr(&stream).0, "x"), (slices.y.device_ptr(&stream).0, "y")];
    for (address, name) in addresses {
        // SAFETY: the calls are refused.
        unsafe { workspace.lend_scratch(DevicePointer::new(address, 64)) }.unwrap();
        let refused = slices.call(Operator::Conv, &mut workspace, case.how());
        let told = match refused {
            Err(Error::SharedMemory { operand: "scratch", other, .. }) => other,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(told, name);
    }
}

#[test]
fn no_call_allocates() {
    let batches = [(pairs(), 20, None), (mixed(), 5, Some(&[Path::Gather, Path::Dense][..]))];
    for (batch, instances, paths) in batches {
        let gpu = Gpu::take();
        let stream = gpu.device().context().default_stream();
        let kind = WindowKind::Table;
        let case = case::<f32>(&gpu, (&batch, instances), symmetric(), Checks::On, kind, paths);
        let mut workspace = lent_workspace(&case, &stream);
        let mut slices = Slices::upload(&stream, &case.host);
        let bytes = Operator::ALL.iter().map(|&call| workspace.scratch_bytes(call, instances).unwrap());
        let lent = Lent::new(&stream, bytes.max().unwrap(), None);
        let control = gpu.control("counting allocations of the device");
        let creations = || control.map(|control| control.creations());
        for counted in [false, true] {
            // The first time functions of the driver are looked up, which allocates.
            let (on_device, on_host) = (creations(), allocations());
            for &call in Operator::ALL {
                lent.lend_to(&mut workspace);
                slices.call(call, &mut workspace, case.how()).unwrap();
            }
            assert!(!counted || allocations() == on_host);
            assert_eq!(creations(), on_device);
            workspace.check().unwrap();
        }
    }
}

/// A graph keeps the address. What the memory holds when a replay begins does not matter.
#[test]
fn graphs_replay_calls_with_lent_memory() {
    // The last overwrite what they share with those before: of the layer the gradient of Θ is left.
    const CALLS: [Operator; 5] = [
        Operator::LayerBackward,
        Operator::Conv,
        Operator::ConvBackward,
        Operator::ConvEpilogue,
        Operator::ConvEpilogueBackward,
    ];
    let paths = [Path::Gather, Path::Dense];
    for (batch, instances, paths) in [(pairs(), 6, None), (mixed(), 5, Some(&paths[..]))] {
        let gpu = Gpu::take();
        gpu.set(Mode::PLAIN);
        let own = gpu.device().context().default_stream();
        let kind = WindowKind::Table;
        let case = case::<f32>(&gpu, (&batch, instances), symmetric(), Checks::On, kind, paths);
        let (mut owning, mut borrowing) = (case.workspace(&own), lent_workspace(&case, &own));
        let [mut expected, mut replayed] = [(); 2].map(|()| Slices::upload(&own, &case.host));
        let bytes = CALLS.map(|call| borrowing.scratch_bytes(call, instances).unwrap());
        let mut lent = Lent::new(&own, bytes.into_iter().max().unwrap(), None);
        lent.lend_to(&mut borrowing);
        let stream = RawStream::new(gpu.device());
        let pointers = replayed.pointers();
        let graph = Graph::capture(gpu.device().context(), &stream, || {
            for call in CALLS {
                // SAFETY: operands, windows, workspace and scratch memory live until the last replay has
                // ended, and each is waited for.
                unsafe { pointers.call(call, &mut borrowing, stream.get(), case.how()) }.unwrap();
            }
        });
        for garbage in [0xff, 0x3c, 0x00] {
            let mut host = case.host.clone();
            replayed.write(&own, &mut host);
            expected.write(&own, &mut host);
            lent.fill(&own, garbage);
            for call in CALLS {
                expected.call(call, &mut owning, case.how()).unwrap();
            }
            graph.replay(&stream);
            stream.synchronize();
            assert_eq!(replayed.results(&own), expected.results(&own), "{garbage:#x}");
            assert!(lent.is_kept(&own), "{garbage:#x}");
        }
        // SAFETY: the stream is alive, and no other has work of the workspace.
        unsafe { borrowing.check_raw(stream.get()) }.unwrap();
    }
}
