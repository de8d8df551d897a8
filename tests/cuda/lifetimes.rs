//! What may be dropped when, and what is left behind.

use hyperscatter::cuda::cudarc::driver::{CudaSlice, CudaStream, result};
use hyperscatter::cuda::{Checks, Device, Plan, Step, Workspace};
use hyperscatter::{Batch, Conv, Error, Incidence, Operator, Out, Repeats, Result, Rows, Weights, cpu};
use hyperscatter_emulator::control::DeviceControl;
use hyperscatter_emulator::interface::Build;
use std::any::Any;
use std::sync::Arc;

use super::gpu::{Gpu, Mode, to_device};
use super::operators::{
    AllWindows, Buffer, Case, F, How, OnHost, Part, Slices, WindowKind, pairs, symmetric, table_batch,
};
use crate::backend::{Backend, Cpu};
use crate::common::{bits, features};

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
    Plan::builder(&device.upload(&batch())?, F).checks(checks).build()?.workspace_for(
        stream,
        COPIES,
        Operator::ALL,
    )
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
            workspace.vertex_to_hyperedge(&Step::mean(), Rows::contiguous(x.as_view(), F), out).unwrap();
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

/// What all calls give, one behind the other, with nothing dropped meanwhile.
fn quiet_results(device: &Device, batch: (&Batch, usize), kind: WindowKind) -> Vec<(Part, Vec<u64>)> {
    let stream = device.context().default_stream();
    let case = Case::<f32>::new(device, batch, symmetric(), Checks::Off, kind);
    let (mut workspace, mut slices) = (case.workspace(&stream), Slices::upload(&stream, &case.host));
    for &call in Operator::ALL {
        slices.call(call, &mut workspace, case.how()).unwrap();
        workspace.check().unwrap();
    }
    slices.results(&stream)
}

/// Workspace, plan, windows, batch and device, in different orders, and all that is read.
#[test]
fn everything_may_be_dropped_in_any_order_behind_all_operators() {
    let orders = [
        [0, 1, 2, 3, 4],
        [4, 3, 2, 1, 0],
        [2, 0, 4, 1, 3],
        [1, 3, 0, 2, 4],
        [3, 2, 4, 0, 1],
        [2, 4, 3, 1, 0],
    ];
    let batches = [(pairs(), 6), (table_batch(), 5)];
    for (i, order) in orders.into_iter().enumerate() {
        let (batch, instances) = &batches[i % 2];
        let kind = if i < 4 { WindowKind::Table } else { WindowKind::Consecutive };
        let (own_stream, checks) = (i % 3 != 0, if i < 3 { Checks::On } else { Checks::Off });
        let gpu = Gpu::take();
        gpu.set(Mode::PLAIN);
        let expected = quiet_results(gpu.device(), (batch, *instances), kind);
        let stream = super::gpu::stream(gpu.device(), own_stream);
        // A device of its own, which nobody else holds.
        let device = Device::from_context(gpu.device().context()).unwrap();
        let Case { plan, windows, host, .. } =
            Case::<f32>::new(&device, (batch, *instances), symmetric(), checks, kind);
        let mut slices = Slices::upload(&stream, &host);
        let mut workspace = plan.workspace_for(&stream, *instances, Operator::ALL).unwrap();
        for &call in Operator::ALL {
            slices.call(call, &mut workspace, How::overwriting(&windows)).unwrap();
        }
        if let Some(control) = gpu.control("that the work is still queued") {
            assert!(control.pending() > 0, "nothing is in flight: this test shows nothing");
        }
        let uploaded = plan.batch().clone();
        let mut parts: [Option<Box<dyn Any>>; 5] = [
            Some(Box::new(workspace)),
            Some(Box::new(plan)),
            Some(Box::new(windows)),
            Some(Box::new(uploaded)),
            Some(Box::new(device)),
        ];
        order.into_iter().for_each(|part| drop(parts[part].take()));
        // What was read goes, too, and new zeros may take its memory.
        for part in Part::ALL.into_iter().filter(|part| !part.is_written()) {
            match slices.part(part) {
                Buffer::Rows(rows) => *rows = stream.alloc_zeros(rows.len()).unwrap(),
                Buffer::Sums(sums) => *sums = stream.alloc_zeros(sums.len()).unwrap(),
            }
        }
        let mut others: Vec<_> = (1..20).map(|i| stream.alloc_zeros::<u8>(i * 97).unwrap()).collect();
        others.iter_mut().for_each(|other| stream.memset_zeros(other).unwrap());
        assert_eq!(slices.results(&stream), expected, "dropped in the order {order:?}");
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
    workspace.vertex_to_hyperedge(&Step::mean(), Rows::contiguous(x.as_view(), F), out).unwrap();
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
        first.vertex_to_hyperedge(&Step::mean(), Rows::contiguous(x.as_view(), F), out).unwrap();
        let out = Out::Overwrite(Rows::contiguous(y.as_view_mut(), F));
        second.hyperedge_to_vertex(&Step::mean(), Rows::contiguous(z.as_view(), F), out).unwrap();
        // Overwrites what the second stream reads, once that has been read.
        streams[0].memset_zeros(&mut z).unwrap();
        streams[0].synchronize().unwrap();
        assert_eq!(bits(&streams[1].clone_dtoh(&y).unwrap()), bits(&y_expected));
    }
    let out = Out::Overwrite(Rows::contiguous(z.as_view_mut(), F));
    workspaces[0].vertex_to_hyperedge(&Step::mean(), Rows::contiguous(x.as_view(), F), out).unwrap();
    assert_eq!(bits(&streams[0].clone_dtoh(&z).unwrap()), bits(&z_expected));
    for workspace in &mut workspaces {
        workspace.check().unwrap();
    }
}

/// A window table that two streams read is let go behind both, whichever read it last.
#[test]
fn windows_of_two_streams_may_be_dropped_while_both_are_in_flight() {
    for last in [0, 1] {
        let gpu = Gpu::take();
        gpu.set(Mode::PLAIN);
        let context = gpu.device().context();
        let case = Case::<f32>::new(gpu.device(), (&pairs(), 6), symmetric(), Checks::On, WindowKind::Table);
        let inputs = Slices::<f32>::upload(&context.default_stream(), &case.host);
        let streams = [context.new_stream().unwrap(), context.new_stream().unwrap()];
        let mut workspaces = streams.each_ref().map(|stream| case.workspace(stream));
        let mut outputs = streams.each_ref().map(|stream| Outputs::new(stream, &case.host));
        for i in [1 - last, last] {
            outputs[i].forward(&mut workspaces[i], &inputs, &case.windows);
            outputs[i].backward(&mut workspaces[i], &inputs, &case.windows);
        }
        drop(case);
        // What is free is used again, behind the work of the stream that read last.
        let stream = &streams[last];
        let last_bits = outputs[last].bits(stream);
        let mut others: Vec<_> = (1..20).map(|i| stream.alloc_zeros::<u8>(i * 97).unwrap()).collect();
        others.iter_mut().for_each(|other| stream.memset_zeros(other).unwrap());
        context.default_stream().synchronize().unwrap();
        assert_eq!(outputs[1 - last].bits(&streams[1 - last]), last_bits);
    }
}

/// Forward and backward of a convolution on two streams, in turns, with the same inputs.
#[test]
fn two_workspaces_work_at_once() {
    for kind in WindowKind::ALL {
        let gpu = Gpu::take();
        gpu.set(Mode::PLAIN);
        let context = gpu.device().context();
        let case = Case::<f32>::new(gpu.device(), (&table_batch(), 5), symmetric(), Checks::On, kind);
        let upload = || Slices::<f32>::upload(&context.default_stream(), &case.host);
        let streams = [context.new_stream().unwrap(), context.new_stream().unwrap()];
        let mut workspaces = streams.each_ref().map(|stream| case.workspace(stream));
        let mut outputs = streams.each_ref().map(|stream| Outputs::new(stream, &case.host));
        let expected = {
            let stream = context.default_stream();
            let mut quiet = Outputs::new(&stream, &case.host);
            let mut workspace = case.workspace(&stream);
            let inputs = upload();
            quiet.forward(&mut workspace, &inputs, &case.windows);
            quiet.backward(&mut workspace, &inputs, &case.windows);
            quiet.bits(&stream)
        };
        // Both streams have to wait for the copies, which are still queued.
        let inputs = upload();
        for _ in 0..2 {
            for (workspace, outputs) in workspaces.iter_mut().zip(&mut outputs) {
                outputs.forward(workspace, &inputs, &case.windows);
            }
            for (workspace, outputs) in workspaces.iter_mut().zip(&mut outputs) {
                outputs.backward(workspace, &inputs, &case.windows);
            }
            if let Some(control) = gpu.control("that both have work in flight") {
                assert!(control.pending() > 0, "nothing is in flight: this test shows nothing");
            }
            // The second first: nothing of its work may be where the first has its own.
            for (stream, outputs) in streams.iter().zip(&mut outputs).rev() {
                assert_eq!(outputs.bits(stream), expected, "{kind:?}");
                outputs.spoil(stream);
            }
        }
        workspaces.iter_mut().for_each(|workspace| workspace.check().unwrap());
    }
}

/// The results of a convolution and of its gradients.
struct Outputs {
    y: CudaSlice<f32>,
    grad_x: CudaSlice<f32>,
    grad_weights: CudaSlice<f32>,
}

impl Outputs {
    fn new(stream: &Arc<CudaStream>, host: &OnHost<f32>) -> Self {
        let [y, grad_x, grad_weights] =
            [&host.y, &host.grad_x, &host.grad_weights].map(|values| to_device(stream, values));
        Self { y, grad_x, grad_weights }
    }

    fn forward(&mut self, workspace: &mut Workspace<f32>, inputs: &Slices<f32>, windows: &AllWindows) {
        let weights = Weights { values: inputs.weights.as_view(), windows: windows.hyperedges.as_deref() };
        let y = Out::Overwrite(Rows::contiguous(self.y.as_view_mut(), F));
        workspace.conv(Rows::contiguous(inputs.x.as_view(), F), weights, y).unwrap();
    }

    /// The gradients of |y|², but for a factor: of what the forward gave.
    fn backward(&mut self, workspace: &mut Workspace<f32>, inputs: &Slices<f32>, windows: &AllWindows) {
        let weights = Weights { values: inputs.weights.as_view(), windows: windows.hyperedges.as_deref() };
        let [x, grad_y] = [&inputs.x, &self.y].map(|rows| Rows::contiguous(rows.as_view(), F));
        let grad_x = Out::Overwrite(Rows::contiguous(self.grad_x.as_view_mut(), F));
        let grad_weights = Out::Overwrite(self.grad_weights.as_view_mut());
        workspace.conv_backward(x, weights, grad_y, grad_x, grad_weights).unwrap();
    }

    fn bits(&self, stream: &Arc<CudaStream>) -> [Vec<u64>; 3] {
        [&self.y, &self.grad_x, &self.grad_weights].map(|values| {
            let values = stream.clone_dtoh(values).unwrap();
            stream.synchronize().unwrap();
            bits(&values)
        })
    }

    fn spoil(&mut self, stream: &Arc<CudaStream>) {
        for values in [&mut self.y, &mut self.grad_x, &mut self.grad_weights] {
            stream.memset_zeros(values).unwrap();
        }
    }
}

/// Operands of all calls on the default stream. `cudarc` makes them, and loses memory where one of its own
/// creations fails.
struct Buffers {
    stream: Arc<CudaStream>,
    host: OnHost<f32>,
    slices: Slices<f32>,
}

/// The batch of [`everything`], which is small: it runs very often.
fn small() -> (Batch, usize) {
    (pairs(), 2)
}

impl Buffers {
    fn new(device: &Device) -> Self {
        let stream = device.context().default_stream();
        let ((batch, copies), kind) = (small(), WindowKind::Table);
        let host = Case::<f32>::new(device, (&batch, copies), symmetric(), Checks::On, kind).host;
        let slices = Slices::upload(&stream, &host);
        stream.synchronize().unwrap();
        Self { stream, host, slices }
    }

    fn renew(&mut self) {
        self.slices.write(&self.stream, &mut self.host);
    }

    fn assert_right(&self, expected: &[(Part, Vec<u64>)]) {
        assert_eq!(self.slices.results(&self.stream), expected);
    }
}

/// Runs everything that the crate offers, and `look` after each step.
fn everything(device: &Device, buffers: &mut Buffers, look: &dyn Fn(&str)) -> Result<()> {
    let (batch, copies) = small();
    let batch = device.upload(&batch)?;
    look("upload");
    let windows = AllWindows::upload(&batch, copies, WindowKind::Table)?;
    look("upload_windows");
    let plan = Plan::<f32>::builder(&batch, F).conv(symmetric()).checks(Checks::On).build()?;
    look("plan");
    let all = Operator::ALL;
    for operators in [&all[..4], &all[4..6], all] {
        let mut workspace = plan.workspace_for(&buffers.stream, copies, operators)?;
        look("workspace_for");
        for call in Operator::ALL.iter().copied().filter(|call| operators.contains(call)) {
            buffers.slices.call(call, &mut workspace, How::overwriting(&windows))?;
            look(call.name());
        }
        workspace.check()?;
        look("check");
        drop(workspace);
        look("dropping the workspace");
    }
    drop(windows);
    look("dropping the windows");
    drop(plan);
    drop(batch);
    look("dropping the batch");
    Ok(())
}

#[test]
fn the_threads_current_context_stays_as_it_was() {
    let gpu = Gpu::take();
    let ordinal = gpu.ordinal();
    // On a real machine, which has no second device, no context is current.
    let other = Gpu::second();
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

/// Runs [`everything`] with something made to fail.
struct Failing<'a> {
    gpu: &'a Gpu,
    control: &'a DeviceControl,
    buffers: Buffers,
    expected: Vec<(Part, Vec<u64>)>,
    /// What lives once all is over.
    live: Vec<String>,
}

impl<'a> Failing<'a> {
    fn new(gpu: &'a Gpu, control: &'a DeviceControl) -> Self {
        control.set_build(Build::Fast);
        let mut buffers = Buffers::new(gpu.device());
        everything(gpu.device(), &mut buffers, &|_| {}).unwrap();
        let expected = buffers.slices.results(&buffers.stream);
        let mut failing = Self { gpu, control, buffers, expected, live: vec![] };
        failing.live = failing.settle();
        failing
    }

    fn run(&mut self) -> Result<()> {
        everything(self.gpu.device(), &mut self.buffers, &|_| {})
    }

    /// What waits for an event goes with the next upload.
    fn settle(&self) -> Vec<String> {
        let device = self.gpu.device();
        for _ in 0..2 {
            device.context().synchronize().unwrap();
            drop(device.upload(&small().0).unwrap());
        }
        device.context().synchronize().unwrap();
        self.control.live()
    }

    /// After `what` failed: nothing is lost, and everything works.
    fn assert_usable(&mut self, what: &str) {
        assert_eq!(self.settle(), self.live, "after {what} failed");
        self.buffers.renew();
        self.run().unwrap_or_else(|e| panic!("after {what} failed: {e}"));
        self.buffers.assert_right(&self.expected);
    }
}

#[test]
fn each_failed_allocation_is_an_error_and_everything_is_usable_afterwards() {
    let gpu = Gpu::take();
    let Some(control) = gpu.control("failing allocations") else { return };
    let mut failing = Failing::new(&gpu, control);
    let before = control.creations();
    failing.run().unwrap();
    let creations = control.creations() - before;
    assert!(creations > 50, "{creations} allocations and creations");
    for nth in 1..=creations {
        control.fail_creation(Some(nth));
        let result = failing.run();
        control.fail_creation(None);
        match &result {
            Err(Error::OutOfMemory { what, bytes }) => assert!(!what.is_empty() && *bytes > 0),
            Err(Error::Driver { code: 2, .. }) => {}
            other => panic!("creation {nth}: {other:?}"),
        }
        failing.assert_usable(&format!("creation {nth}"));
    }
}

/// Everything that the driver is asked for, once each.
#[test]
fn each_failed_call_of_the_driver_is_an_error_and_everything_is_usable_afterwards() {
    for several_streams in [false, true] {
        let gpu = Gpu::take();
        let Some(control) = gpu.control("failing calls") else { return };
        let mut failing = Failing::new(&gpu, control);
        let context = gpu.device().context();
        let _second = several_streams.then(|| context.new_stream().unwrap());
        failing.live = failing.settle();
        control.reset_calls();
        failing.run().unwrap();
        let calls = control.calls();
        // Creations have a test of their own. Memory that cannot be freed, and a thread whose context cannot
        // be known, are beyond repair.
        let beyond =
            ["cuMemFreeAsync", "cuMemFree_v2", "cuMemFreeHost", "cuEventDestroy_v2", "cuCtxGetCurrent"];
        let creations = ["cuMemAllocAsync", "cuMemAlloc_v2", "cuMemHostAlloc", "cuEventCreate"];
        let is_tried = |name: &str| !beyond.contains(&name) && !creations.contains(&name);
        let mut silent = vec![];
        for (name, n) in calls.into_iter().filter(|(name, _)| is_tried(name)) {
            // The operators' own calls are many and alike.
            let step = if n > 20 { 5 } else { 1 };
            for nth in (1..=n as u32).step_by(step) {
                control.fail_call(&name, nth);
                let result = failing.run();
                control.fail_no_call();
                let what = format!("{name} {nth}, several streams: {several_streams}");
                // What is left in the context is the error of a call that had nobody to tell.
                match result.as_ref().map_err(code).and(context.check_err().map_err(|e| e.0 as u32)) {
                    Err(999) => {}
                    Ok(()) => silent.push(name.clone()),
                    other => panic!("{what}: {other:?}, {result:?}"),
                }
                failing.assert_usable(&what);
            }
        }
        // Where something is dropped, the events behind three workspaces and two window tables are recorded
        // later: nobody has to be told.
        let of = |name: &str| silent.iter().filter(|silent| *silent == name).count();
        assert!(of("cuEventRecord") <= 5 && of("cuStreamIsCapturing") <= 5, "{silent:?}");
        let known = ["cuEventQuery", "cuEventRecord", "cuStreamIsCapturing"];
        assert!(silent.iter().all(|name| known.contains(&&**name)), "{silent:?}");
    }
}

/// The code of a driver's error; 0 for another.
fn code(error: &Error) -> u32 {
    match error {
        Error::Driver { code, .. } => *code,
        _ => 0,
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
        Plan::<f32>::builder(&batch, F)
            .checks(Checks::Off)
            .build()?
            .workspace_for(&device.context().default_stream(), COPIES, Operator::ALL)
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

/// A plan serves several threads, each with a stream and a workspace of its own, and workspaces move between
/// threads.
#[test]
fn plans_are_shared_by_threads() {
    fn is_send_and_sync<T: Send + Sync>(_: &T) {}
    fn is_send<T: Send>(_: &T) {}
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let context = gpu.device().context();
    let batch = gpu.device().upload(&batch()).unwrap();
    let plan = Plan::<f32>::builder(&batch, F).checks(Checks::On).build().unwrap();
    is_send_and_sync(gpu.device());
    is_send_and_sync(&batch);
    is_send_and_sync(&plan);
    let windows = AllWindows::upload(&batch, COPIES, WindowKind::Shared).unwrap();
    is_send_and_sync(&windows);
    let host = OnHost::new(batch.batch(), COPIES, &windows, 3);
    let inputs = Slices::<f32>::upload(&context.default_stream(), &host);
    let results = |workspace: &mut Workspace<f32>, stream: &Arc<CudaStream>| {
        let mut outputs = Outputs::new(stream, &host);
        outputs.forward(workspace, &inputs, &windows);
        outputs.backward(workspace, &inputs, &windows);
        outputs.bits(stream)
    };
    let default = context.default_stream();
    let expected = results(&mut plan.workspace_for(&default, COPIES, Operator::ALL).unwrap(), &default);
    // The events of the inputs begin with the first stream that is not the default one.
    let streams: Vec<_> = (0..4).map(|_| context.new_stream().unwrap()).collect();
    context.synchronize().unwrap();
    std::thread::scope(|scope| {
        for stream in &streams {
            let mut workspace = plan.workspace_for(stream, COPIES, Operator::ALL).unwrap();
            is_send(&workspace);
            let (results, expected) = (&results, &expected);
            scope.spawn(move || {
                for _ in 0..2 {
                    assert_eq!(results(&mut workspace, stream), *expected);
                    workspace.check().unwrap();
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
        let plan = Plan::<f32>::builder(&batch, F).checks(Checks::On).build().unwrap();
        let stream = device.context().new_stream().unwrap();
        let workspace = plan.workspace_for(&stream, COPIES, Operator::ALL).unwrap();
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
