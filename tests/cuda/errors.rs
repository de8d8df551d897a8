//! Bad operands are typed errors before anything is launched.

use hyperscatter::cuda::cudarc::driver::{CudaContext, CudaSlice};
use hyperscatter::cuda::{Checks, Device, Orientation, Plan, Step, Table, Workspace};
use hyperscatter::{Batch, Conv, Error, Incidence, Out, Rows};

use super::gpu::Gpu;

const F: usize = 4;

fn pairs() -> Batch {
    Batch::replicate(Incidence::subsets(4, 2).unwrap())
}

fn workspace(device: &Device) -> Workspace<f32> {
    let plan = Plan::new(&device.upload(&pairs()).unwrap(), F, Conv::default(), Checks::On).unwrap();
    plan.workspace(&device.context().default_stream(), 2).unwrap()
}

fn call(
    workspace: &mut Workspace<f32>,
    x: &CudaSlice<f32>,
    z: &mut CudaSlice<f32>,
) -> hyperscatter::Result<()> {
    let out = Out::Overwrite(Rows::contiguous(z.as_view_mut(), F));
    workspace.vertex_to_hyperedge(Step::sum(), Rows::contiguous(x.as_view(), F), out)
}

#[test]
fn operands_of_another_context() {
    let gpu = Gpu::take();
    let mut workspace = workspace(gpu.device());
    let own = gpu.device().context().default_stream();
    // The same device and even the same primary context, but held by another `Arc`.
    let other = CudaContext::new(gpu.ordinal()).unwrap();
    let stream = other.default_stream();
    let (bound, value) = (gpu.ordinal(), gpu.ordinal());
    let wrong = |operand| Err(Error::WrongContext { operand, value, bound });
    let (x, z) = (vec![1.0f32; 2 * 4 * F], vec![0.0f32; 2 * 6 * F]);
    let (own_x, mut own_z) = (own.clone_htod(&x).unwrap(), own.clone_htod(&z).unwrap());
    let (other_x, mut other_z) = (stream.clone_htod(&x).unwrap(), stream.clone_htod(&z).unwrap());
    assert_eq!(call(&mut workspace, &other_x, &mut own_z), wrong("x"));
    assert_eq!(call(&mut workspace, &own_x, &mut other_z), wrong("z"));
    call(&mut workspace, &own_x, &mut own_z).unwrap();
    let error = workspace.plan().workspace(&stream, 2).unwrap_err();
    assert_eq!(error, Error::WrongContext { operand: "the stream", value, bound });
    // A device made from that context takes them.
    let device = Device::from_context(&other).unwrap();
    let plan = Plan::new(&device.upload(&pairs()).unwrap(), F, Conv::default(), Checks::On).unwrap();
    call(&mut plan.workspace(&stream, 2).unwrap(), &other_x, &mut other_z).unwrap();
    stream.synchronize().unwrap();
}

#[test]
fn misaligned_operands() {
    let gpu = Gpu::take();
    let mut workspace = workspace(gpu.device());
    let stream = gpu.device().context().default_stream();
    let (len_x, len_z) = (2 * 4 * F, 2 * 6 * F);
    let x = stream.alloc_zeros::<u8>(len_x * 4 + 16).unwrap();
    let mut z = stream.alloc_zeros::<u8>(len_z * 4 + 16).unwrap();
    for offset in [0, 1, 2, 4, 6, 8, 12] {
        let bytes = x.slice(offset..);
        // SAFETY: any bytes are `f32`s.
        let view = unsafe { bytes.transmute::<f32>(len_x) }.unwrap();
        // SAFETY: likewise.
        let mut out = unsafe { z.transmute_mut::<f32>(len_z) }.unwrap();
        let out = Out::Overwrite(Rows::contiguous(out.slice_mut(..), F));
        let result = workspace.vertex_to_hyperedge(Step::sum(), Rows::contiguous(view, F), out);
        match result {
            Ok(()) => assert_eq!(offset % 4, 0),
            Err(Error::Misaligned { operand: "x", value, bound: 4 }) => {
                assert_ne!(offset % 4, 0);
                assert_eq!(value % 4, offset as u64 % 4);
            }
            Err(error) => panic!("{error}"),
        }
    }
    let mut bytes = z.slice_mut(2..);
    // SAFETY: any bytes are `f32`s.
    let out = unsafe { bytes.transmute_mut::<f32>(len_z) }.unwrap();
    // SAFETY: likewise.
    let view = unsafe { x.transmute::<f32>(len_x) }.unwrap();
    let out = Out::Add(Rows::contiguous(out, F));
    let error = workspace.vertex_to_hyperedge(Step::sum(), Rows::contiguous(view, F), out).unwrap_err();
    assert!(matches!(error, Error::Misaligned { operand: "z", bound: 4, .. }), "{error}");
    workspace.check().unwrap();
}

#[test]
fn outputs_that_share_memory_with_inputs() {
    let gpu = Gpu::take();
    let mut workspace = workspace(gpu.device());
    let stream = gpu.device().context().default_stream();
    let (len_x, len_z) = (2 * 4 * F, 2 * 6 * F);
    let memory = stream.alloc_zeros::<f32>(len_x + len_z).unwrap();
    let address = memory.leak();
    for start in [0, 1, len_x - 1, len_x] {
        // SAFETY: both lie within the allocation, which nobody else uses; whether they overlap is what is tested.
        let (x, mut z) = unsafe {
            let z_address = address + (start * size_of::<f32>()) as u64;
            (
                stream.upgrade_device_ptr::<f32>(address, len_x),
                stream.upgrade_device_ptr::<f32>(z_address, len_z),
            )
        };
        let result = call(&mut workspace, &x, &mut z);
        let (value, bound) = (address + 4 * start as u64, address + 4 * len_x as u64);
        match start < len_x {
            true => assert_eq!(result, Err(Error::SharedMemory { operand: "z", other: "x", value, bound })),
            false => result.unwrap(),
        }
        workspace.check().unwrap();
        x.leak();
        z.leak();
    }
    // SAFETY: the allocation of the beginning.
    drop(unsafe { stream.upgrade_device_ptr::<f32>(address, len_x + len_z) });
}

#[test]
fn buffers_that_are_too_short() {
    let gpu = Gpu::take();
    let mut workspace = workspace(gpu.device());
    let stream = gpu.device().context().default_stream();
    let x = stream.alloc_zeros::<f32>(2 * 4 * F).unwrap();
    let mut z = stream.alloc_zeros::<f32>(6 * F).unwrap();
    let relation = "are those of the batch or the first operand";
    let expected = Error::Shape { operand: "z", what: "instances", value: 1, bound: 2, relation };
    assert_eq!(call(&mut workspace, &x, &mut z), Err(expected));
}

#[test]
fn calls_that_a_graph_would_capture() {
    use hyperscatter::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
    let gpu = Gpu::take();
    let device = gpu.device();
    let stream = device.context().new_stream().unwrap();
    let plan = Plan::<f32>::new(&device.upload(&pairs()).unwrap(), F, Conv::default(), Checks::On).unwrap();
    let mut workspace = plan.workspace(&stream, 2).unwrap();
    let x = stream.alloc_zeros::<f32>(2 * 4 * F).unwrap();
    let mut z = stream.alloc_zeros::<f32>(2 * 6 * F).unwrap();
    stream.synchronize().unwrap();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let (called, checked) = (call(&mut workspace, &x, &mut z), workspace.check());
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap();
    assert_eq!(called, Err(Error::Capturing { call: "a step" }));
    assert_eq!(checked, Err(Error::Capturing { call: "check" }));
    drop(graph);
    call(&mut workspace, &x, &mut z).unwrap();
    workspace.check().unwrap();
}

/// A stream that waits for work of a capturing stream becomes part of its graph: the operand's guard does that.
#[test]
fn calls_that_an_operand_would_take_into_a_graph() {
    use hyperscatter::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
    let gpu = Gpu::take();
    let context = gpu.device().context();
    // Made before there are streams, so that no event of theirs lies outside the graph.
    let mut x = context.default_stream().alloc_zeros::<f32>(2 * 4 * F).unwrap();
    let mut z = context.default_stream().alloc_zeros::<f32>(2 * 6 * F).unwrap();
    let [own, other] = [context.new_stream().unwrap(), context.new_stream().unwrap()];
    let plan =
        Plan::<f32>::new(&gpu.device().upload(&pairs()).unwrap(), F, Conv::default(), Checks::Off).unwrap();
    let mut workspace = plan.workspace(&own, 2).unwrap();
    context.synchronize().unwrap();
    other.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
    let captured = other.memset_zeros(&mut x);
    let called = call(&mut workspace, &x, &mut z);
    let joined = other.join(&own);
    let graph = other.end_capture(CUgraphInstantiate_flags(0));
    assert_eq!(called, Err(Error::Capturing { call: "a step" }));
    assert_eq!((captured, joined), (Ok(()), Ok(())));
    // Nothing of the workspace is in the graph.
    drop((workspace, plan));
    graph.unwrap().unwrap().launch().unwrap();
    other.synchronize().unwrap();
}

/// A workspace is not made, and not let go of too early, while its stream records a graph.
#[test]
fn workspaces_of_capturing_streams() {
    use hyperscatter::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
    let gpu = Gpu::take();
    let stream = gpu.device().context().new_stream().unwrap();
    let batch = gpu.device().upload(&pairs()).unwrap();
    let plan = Plan::<f32>::new(&batch, F, Conv::default(), Checks::On).unwrap();
    let workspace = plan.workspace(&stream, 2).unwrap();
    stream.synchronize().unwrap();
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    stream.begin_capture(mode).unwrap();
    let refused = plan.workspace(&stream, 2).map(drop);
    drop(workspace);
    // Looks at what was dropped, and must not disturb the capture.
    let uploaded = gpu.device().upload(&pairs()).map(drop);
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).map(drop);
    assert_eq!(refused, Err(Error::Capturing { call: "making a workspace" }));
    assert_eq!((uploaded, graph), (Ok(()), Ok(())));
    // Once the capture is over, what was dropped goes too.
    drop(plan);
    for _ in 0..2 {
        drop(gpu.device().upload(&pairs()).unwrap());
        stream.synchronize().unwrap();
    }
    let mut batch = batch;
    batch.overwrite_table(Table::Indices(Orientation::ByEdge), 0, &[1]).unwrap();
}

#[test]
fn the_per_thread_stream() {
    let gpu = Gpu::take();
    let plan =
        Plan::<f32>::new(&gpu.device().upload(&pairs()).unwrap(), F, Conv::default(), Checks::On).unwrap();
    let stream = gpu.device().context().per_thread_stream();
    assert_eq!(plan.workspace(&stream, 2).unwrap_err(), Error::PerThreadStream);
}
