//! What may be dropped when, and what is left behind.

use hyperscatter::cuda::cudarc::driver::{CudaSlice, CudaStream, result};
use hyperscatter::cuda::{Checks, Device, Plan, Step, Workspace};
use hyperscatter::{Batch, Conv, Error, Incidence, Out, Repeats, Result, Rows, cpu};
use std::sync::Arc;

use super::gpu::{Gpu, Mode, is_real};
use crate::backend::{Backend, Cpu};
use crate::common::{bits, features};

const F: usize = 8;
const COPIES: usize = 9;

/// Short, medium and long rows in both orientations.
fn batch() -> Batch {
    let edges = [(0..1300).map(|i| i % 6).collect(), vec![0u32, 1], (0..20).map(|i| i % 5).collect(), vec![]];
    Batch::replicate(Incidence::from_edges(7, &edges, Repeats::Keep).unwrap())
}

fn x() -> Vec<f32> {
    features(1, COPIES * 7 * F)
}

/// z and then y = Hz, by the CPU backend.
fn expected() -> (Vec<f32>, Vec<f32>) {
    let mut operators = Cpu.operators(&batch(), F, Conv::default(), COPIES).unwrap();
    let (x, mut z, mut y) = (x(), vec![0.0f32; COPIES * 4 * F], vec![0.0f32; COPIES * 7 * F]);
    let mean = cpu::Step::mean();
    let to = Out::Overwrite(Rows::contiguous(&mut z[..], F));
    operators.step(true, mean, Rows::contiguous(&x, F), to).unwrap();
    let to = Out::Overwrite(Rows::contiguous(&mut y[..], F));
    operators.step(false, mean, Rows::contiguous(&z, F), to).unwrap();
    (z, y)
}

fn workspace(device: &Device, stream: &Arc<CudaStream>, checks: Checks) -> Result<Workspace<f32>> {
    Plan::new(&device.upload(&batch())?, F, Conv::default(), checks)?.workspace(stream, COPIES)
}

#[test]
fn everything_may_be_dropped_while_work_is_in_flight() {
    let (z_expected, _) = expected();
    for (own_stream, checks) in
        [(false, Checks::Off), (true, Checks::On), (true, Checks::Off), (false, Checks::On)]
    {
        let gpu = Gpu::take();
        gpu.set(Mode::PLAIN);
        let stream = super::gpu::stream(gpu.device(), own_stream);
        let mut z = stream.alloc_zeros::<f32>(COPIES * 4 * F).unwrap();
        {
            let mut workspace = workspace(gpu.device(), &stream, checks).unwrap();
            let x = stream.clone_htod(&x()).unwrap();
            let out = Out::Overwrite(Rows::contiguous(z.as_view_mut(), F));
            workspace.vertex_to_hyperedge(Step::mean(), Rows::contiguous(x.as_view(), F), out).unwrap();
            if let Some(control) = gpu.control("that the work is still queued") {
                assert!(control.pending() > 0, "nothing is in flight: this test shows nothing");
            }
        }
        // New work may take whatever memory was let go of too early.
        let mut others: Vec<_> = (1..20).map(|i| stream.alloc_zeros::<u8>(i * 997).unwrap()).collect();
        others.iter_mut().for_each(|other| stream.memset_zeros(other).unwrap());
        assert_eq!(bits(&stream.clone_dtoh(&z).unwrap()), bits(&z_expected));
    }
}

#[test]
fn a_device_may_be_dropped_while_its_work_is_in_flight() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let context = gpu.device().context().clone();
    let stream = context.new_stream().unwrap();
    let device = Device::from_context(&context).unwrap();
    let x = stream.clone_htod(&x()).unwrap();
    let mut z = stream.alloc_zeros::<f32>(COPIES * 4 * F).unwrap();
    let mut workspace = workspace(&device, &stream, Checks::On).unwrap();
    drop(device);
    let out = Out::Overwrite(Rows::contiguous(z.as_view_mut(), F));
    workspace.vertex_to_hyperedge(Step::mean(), Rows::contiguous(x.as_view(), F), out).unwrap();
    // The last holder.
    drop(workspace);
    assert_eq!(bits(&stream.clone_dtoh(&z).unwrap()), bits(&expected().0));
}

#[test]
fn streams_wait_for_each_other_where_they_share_buffers() {
    let (z_expected, y_expected) = expected();
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let context = gpu.device().context();
    let streams = [context.new_stream().unwrap(), context.new_stream().unwrap()];
    let mut workspaces =
        streams.each_ref().map(|stream| workspace(gpu.device(), stream, Checks::On).unwrap());
    let x = streams[0].clone_htod(&x()).unwrap();
    let mut z = streams[0].alloc_zeros::<f32>(COPIES * 4 * F).unwrap();
    let mut y = streams[1].alloc_zeros::<f32>(COPIES * 7 * F).unwrap();
    for _ in 0..3 {
        let [first, second] = &mut workspaces;
        let out = Out::Overwrite(Rows::contiguous(z.as_view_mut(), F));
        first.vertex_to_hyperedge(Step::mean(), Rows::contiguous(x.as_view(), F), out).unwrap();
        let out = Out::Overwrite(Rows::contiguous(y.as_view_mut(), F));
        second.hyperedge_to_vertex(Step::mean(), Rows::contiguous(z.as_view(), F), out).unwrap();
        // Overwrites what the second stream reads, once that has been read.
        streams[0].memset_zeros(&mut z).unwrap();
        streams[0].synchronize().unwrap();
        assert_eq!(bits(&streams[1].clone_dtoh(&y).unwrap()), bits(&y_expected));
    }
    let out = Out::Overwrite(Rows::contiguous(z.as_view_mut(), F));
    workspaces[0].vertex_to_hyperedge(Step::mean(), Rows::contiguous(x.as_view(), F), out).unwrap();
    assert_eq!(bits(&streams[0].clone_dtoh(&z).unwrap()), bits(&z_expected));
    for workspace in &mut workspaces {
        workspace.check().unwrap();
    }
}

/// Operands on the default stream. `cudarc` makes them, and loses memory where one of its own creations fails.
struct Buffers {
    stream: Arc<CudaStream>,
    x: CudaSlice<f32>,
    z: CudaSlice<f32>,
}

impl Buffers {
    fn new(device: &Device) -> Self {
        let stream = device.context().default_stream();
        let (x, z) = (stream.clone_htod(&x()).unwrap(), stream.alloc_zeros(COPIES * 4 * F).unwrap());
        Self { stream, x, z }
    }

    fn assert_right(&self) {
        assert_eq!(bits(&self.stream.clone_dtoh(&self.z).unwrap()), bits(&expected().0));
    }
}

/// Runs everything that the crate offers, and `look` after each step.
fn everything(device: &Device, buffers: &mut Buffers, look: &dyn Fn(&str)) -> Result<()> {
    let batch = device.upload(&batch())?;
    look("upload");
    let plan = Plan::<f32>::new(&batch, F, Conv::default(), Checks::On)?;
    look("plan");
    let mut workspace = plan.workspace(&buffers.stream, COPIES)?;
    look("workspace");
    let out = Out::Overwrite(Rows::contiguous(buffers.z.as_view_mut(), F));
    workspace.vertex_to_hyperedge(Step::mean(), Rows::contiguous(buffers.x.as_view(), F), out)?;
    look("vertex_to_hyperedge");
    workspace.check()?;
    look("check");
    drop(workspace);
    look("dropping the workspace");
    drop(plan);
    drop(batch);
    look("dropping the batch");
    Ok(())
}

#[test]
fn the_threads_current_context_stays_as_it_was() {
    let gpu = Gpu::take();
    let ordinal = gpu.ordinal();
    // A second emulated device; a real machine has none, and no context is current.
    let other = (!is_real()).then(Gpu::take);
    let test = || {
        let look = || result::ctx::get_current().unwrap();
        if let Some(other) = &other {
            other.device().context().bind_to_thread().unwrap();
        }
        let before = look();
        assert_eq!(before.is_some(), other.is_some());
        let device = Device::open(ordinal).unwrap();
        assert_eq!(look(), before, "open");
        let mut buffers = Buffers::new(&device);
        let restore = || {
            // SAFETY: that context is alive, or there is none.
            unsafe { result::ctx::set_current(before.unwrap_or(std::ptr::null_mut())) }.unwrap();
        };
        restore();
        everything(&device, &mut buffers, &|step| assert_eq!(look(), before, "{step}")).unwrap();
        // `cudarc` frees in whatever context is current.
        device.context().bind_to_thread().unwrap();
        drop(buffers);
        restore();
        drop(device);
        assert_eq!(look(), before, "dropping the device");
    };
    // A thread that has no current context yet.
    std::thread::scope(|scope| scope.spawn(test).join().unwrap());
}

#[test]
fn each_failed_allocation_is_an_error_and_everything_is_usable_afterwards() {
    let gpu = Gpu::take();
    let Some(control) = gpu.control("failing allocations") else { return };
    let mut buffers = Buffers::new(gpu.device());
    let run = |buffers: &mut Buffers| everything(gpu.device(), buffers, &|_| {});
    // What waits for an event goes with the next upload.
    let settle = || {
        for _ in 0..2 {
            gpu.device().context().synchronize().unwrap();
            drop(gpu.device().upload(&batch()).unwrap());
        }
        gpu.device().context().synchronize().unwrap();
        control.live()
    };
    run(&mut buffers).unwrap();
    let before = control.creations();
    run(&mut buffers).unwrap();
    let creations = control.creations() - before;
    assert!(creations > 10, "{creations} allocations and creations");
    let live = settle();
    for nth in 1..=creations {
        control.fail_creation(Some(nth));
        let result = run(&mut buffers);
        control.fail_creation(None);
        match result {
            Err(Error::OutOfMemory { what, bytes }) => assert!(!what.is_empty() && bytes > 0),
            Err(Error::Driver { code: 2, .. }) => {}
            other => panic!("creation {nth}: {other:?}"),
        }
        assert_eq!(settle(), live, "after failed creation {nth}");
        buffers.stream.memset_zeros(&mut buffers.z).unwrap();
        run(&mut buffers).unwrap_or_else(|e| panic!("after failed creation {nth}: {e}"));
        buffers.assert_right();
    }
}

/// A first use creates the context, the module and its functions, too.
#[test]
fn each_failed_creation_of_a_first_use_is_an_error() {
    let gpu = Gpu::take();
    let Some(control) = gpu.control("failing creations") else { return };
    let first_use = || {
        let device = Device::open(gpu.ordinal())?;
        let batch = device.upload(&batch())?;
        Plan::<f32>::new(&batch, F, Conv::default(), Checks::Off)?
            .workspace(&device.context().default_stream(), COPIES)
            .map(drop)
    };
    let before = control.creations();
    first_use().unwrap();
    let creations = control.creations() - before;
    let live = control.live();
    for nth in 1..=creations {
        control.fail_creation(Some(nth));
        let result = first_use();
        control.fail_creation(None);
        assert!(
            matches!(result, Err(Error::OutOfMemory { .. } | Error::Driver { code: 2, .. })),
            "creation {nth}: {result:?}"
        );
        gpu.device().context().synchronize().unwrap();
        assert_eq!(control.live(), live, "after failed creation {nth}");
        first_use().unwrap();
        gpu.device().context().synchronize().unwrap();
    }
}

/// A plan serves several threads, each with a stream and a workspace of its own, and workspaces move between threads.
#[test]
fn plans_are_shared_by_threads() {
    fn is_send_and_sync<T: Send + Sync>(_: &T) {}
    fn is_send<T: Send>(_: &T) {}
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let context = gpu.device().context();
    let batch = gpu.device().upload(&batch()).unwrap();
    let plan = Plan::<f32>::new(&batch, F, Conv::default(), Checks::On).unwrap();
    is_send_and_sync(gpu.device());
    is_send_and_sync(&batch);
    is_send_and_sync(&plan);
    let x = context.default_stream().clone_htod(&x()).unwrap();
    let expected = expected().0;
    // The events of `x` begin with the first stream that is not the default one.
    let streams: Vec<_> = (0..4).map(|_| context.new_stream().unwrap()).collect();
    context.synchronize().unwrap();
    std::thread::scope(|scope| {
        for stream in &streams {
            let mut workspace = plan.workspace(stream, COPIES).unwrap();
            is_send(&workspace);
            let (x, expected) = (&x, &expected);
            scope.spawn(move || {
                let mut z = stream.alloc_zeros::<f32>(COPIES * 4 * F).unwrap();
                for _ in 0..3 {
                    let out = Out::Overwrite(Rows::contiguous(z.as_view_mut(), F));
                    workspace
                        .vertex_to_hyperedge(Step::mean(), Rows::contiguous(x.as_view(), F), out)
                        .unwrap();
                    workspace.check().unwrap();
                    assert_eq!(bits(&stream.clone_dtoh(&z).unwrap()), bits(expected));
                }
            });
        }
    });
}

/// Whoever is dropped last lets go of the device.
#[test]
fn the_last_holder_of_a_device_leaves_the_current_context_as_it_was() {
    let gpu = Gpu::take();
    let ordinal = gpu.ordinal();
    let test = |last: &'static str| {
        let look = || result::ctx::get_current().unwrap();
        assert_eq!(look(), None, "a fresh thread");
        let device = Device::open(ordinal).unwrap();
        let batch = device.upload(&batch()).unwrap();
        let plan = Plan::<f32>::new(&batch, F, Conv::default(), Checks::On).unwrap();
        let stream = device.context().new_stream().unwrap();
        let workspace = plan.workspace(&stream, COPIES).unwrap();
        // The test's own calls of cudarc, and its stream, change the current context.
        drop((device, (last == "batch").then(|| batch.clone())));
        let holder: Box<dyn std::any::Any> = match last {
            "batch" => {
                drop((workspace, plan));
                Box::new(batch)
            }
            "plan" => {
                drop((workspace, batch));
                Box::new(plan)
            }
            _ => {
                drop((plan, batch));
                Box::new(workspace)
            }
        };
        drop(stream);
        // SAFETY: no context.
        unsafe { result::ctx::set_current(std::ptr::null_mut()) }.unwrap();
        drop(holder);
        assert_eq!(look(), None, "the last holder was the {last}");
    };
    for last in ["batch", "plan", "workspace"] {
        std::thread::scope(|scope| scope.spawn(move || test(last)).join().unwrap());
    }
}
