//! The device that a test runs on: one of the emulated driver's, to itself, or the real one, in turn.
//!
//! `HYPERSCATTER_GPU=real` is the switch. Nothing else differs: the tests, the crate and `cudarc` are the
//! same. Tests that need what only the emulated driver has print SKIPPED and why.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use hyperscatter::cuda::cudarc::driver::{
    CudaSlice, CudaStream, CudaView, CudaViewMut, DeviceRepr, ValidAsZeroBits,
};
use hyperscatter::cuda::{
    Checks, Device, DeviceBatch, DeviceElement, DeviceWindows, Epilogue, EpilogueGradients, LayerGradients,
    Plan, Step, Workspace,
};
use hyperscatter::{
    Activation, Batch, Conv, Element, Operator, Out, Path, Result, RowLayout, Rows, StepGradients, Weights,
    Windows, cpu,
};
use hyperscatter_emulator::control::{DeviceControl, DeviceLease, install};
use hyperscatter_emulator::interface::{Build, Order};
use proptest::prelude::*;

use crate::backend::{Backend, Operators, StepKind};
use crate::common::TestElement;

/// Whether tests run on the real driver.
pub fn is_real() -> bool {
    std::env::var_os("HYPERSCATTER_GPU").is_some_and(|gpu| gpu == "real")
}

/// Whether the emulated driver is in the real one's place, to which everything is the same but for the time
/// it takes.
pub fn is_stand_in() -> bool {
    std::env::var_os("HYPERSCATTER_STAND_IN").is_some_and(|stands_in| stands_in == "1")
}

/// Whether calls take no time worth speaking of: on a real GPU, without a tool.
pub fn is_quick() -> bool {
    is_real() && !is_stand_in() && std::env::var_os("HYPERSCATTER_TOOL").is_none()
}

/// Whether a tool is under way, as `HYPERSCATTER_TOOL` names it: memcheck takes a call that the driver
/// refuses for an error, also where a test wants it refused. Says so where it is.
pub fn under_tool(what_for: &str) -> bool {
    let Ok(tool) = std::env::var("HYPERSCATTER_TOOL") else { return false };
    println!("SKIPPED under {tool}: {what_for}");
    true
}

/// A device, and the right to use it. A thread has one at a time, but for a [`second`](Gpu::second).
pub struct Gpu {
    device: Option<Device>,
    place: Place,
    is_second: bool,
}

enum Place {
    Emulated(DeviceLease),
    /// Tests take turns.
    Real {
        _turn: MutexGuard<'static, ()>,
    },
}

static TURN: Mutex<()> = Mutex::new(());

/// Kept open: a context takes long to make, and property tests take a device for each case.
static REAL: OnceLock<Device> = OnceLock::new();

thread_local! {
    /// Whether this thread has a device.
    static HELD: Cell<bool> = const { Cell::new(false) };
}

impl Gpu {
    /// Waits for a device.
    ///
    /// # Panics
    /// If this thread has one: on the real driver it would wait for itself for ever.
    pub fn take() -> Self {
        assert!(
            !HELD.get(),
            "this thread holds a Gpu, and would wait for itself on a real driver: drop it first, or ask for Gpu::second"
        );
        let gpu = if is_real() {
            let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
            let open = || Device::open(0).unwrap_or_else(|e| panic!("HYPERSCATTER_GPU=real: {e}"));
            let device = REAL.get_or_init(open).clone();
            Self { device: Some(device), place: Place::Real { _turn: turn }, is_second: false }
        } else {
            Self::emulated(false)
        };
        HELD.set(true);
        gpu
    }

    /// Another device beside the one that this thread has; on the real driver `None`, and says so.
    pub fn second() -> Option<Self> {
        if is_real() {
            println!("SKIPPED on a real GPU: a second device");
            return None;
        }
        Some(Self::emulated(true))
    }

    fn emulated(is_second: bool) -> Self {
        let emulator = install().unwrap_or_else(|e| panic!("no emulated driver: {e}"));
        let lease = emulator.lease();
        let device = Device::open(lease.ordinal()).unwrap();
        Self { device: Some(device), place: Place::Emulated(lease), is_second }
    }

    pub fn device(&self) -> &Device {
        self.device.as_ref().unwrap()
    }

    pub fn ordinal(&self) -> usize {
        self.device().context().ordinal()
    }

    /// The controls of the emulated device; on the real driver `None`, and says so.
    pub fn control(&self, what_for: &str) -> Option<&DeviceControl> {
        match &self.place {
            Place::Emulated(lease) => Some(lease),
            Place::Real { .. } => {
                println!("SKIPPED on a real GPU, which has no controls: {what_for}");
                None
            }
        }
    }

    /// Sets what only the emulated driver has.
    pub fn set(&self, mode: Mode) {
        if let Place::Emulated(control) = &self.place {
            control.set_build(mode.build);
            control.set_order(mode.order);
            control.set_deferred(mode.deferred);
        }
    }
}

impl Drop for Gpu {
    /// A test leaves nothing behind, and nothing went wrong unheard.
    fn drop(&mut self) {
        if !self.is_second {
            HELD.set(false);
        }
        let device = self.device.take();
        let error = device.as_ref().map_or(Ok(()), |device| device.context().check_err());
        drop(device);
        if !std::thread::panicking() {
            assert_eq!(error, Ok(()), "an error is left in the context");
        }
        let Place::Emulated(lease) = &self.place else { return };
        let (reports, live) = (lease.take_reports(), lease.live());
        if std::thread::panicking() {
            eprintln!("reports of the emulated driver: {reports:#?}\nlive: {live:#?}");
        } else {
            assert!(reports.is_empty(), "reports of the emulated driver: {reports:#?}");
            assert!(live.is_empty(), "left behind: {live:#?}");
        }
    }
}

#[test]
#[should_panic(expected = "this thread holds a Gpu")]
fn a_test_that_would_wait_for_itself_on_a_real_gpu_fails() {
    let _first = Gpu::take();
    let _second = Gpu::take();
}

/// How a case runs: drawn inside property cases.
#[derive(Debug, Clone, Copy)]
pub struct Mode {
    pub build: Build,
    pub order: Order,
    pub checks: Checks,
    /// On a stream of its own instead of the default stream.
    pub own_stream: bool,
    pub deferred: bool,
}

impl Mode {
    pub const PLAIN: Self = Self {
        build: Build::Checked,
        order: Order::Forward,
        checks: Checks::On,
        own_stream: false,
        deferred: true,
    };

    /// What the emulated driver does not check here, other tests have it check.
    pub const QUICK: Self = Self { build: Build::Fast, checks: Checks::Off, ..Self::PLAIN };
}

pub fn mode() -> impl Strategy<Value = Mode> {
    let build = prop_oneof![Just(Build::Fast), Just(Build::Checked)];
    let order = prop_oneof![
        Just(Order::Forward),
        Just(Order::Reverse),
        any::<u64>().prop_map(Order::Shuffled),
        any::<u64>().prop_map(Order::Preempting),
    ];
    (build, order, prop_oneof![Just(Checks::On), Just(Checks::Off)], any::<bool>(), any::<bool>()).prop_map(
        |(build, order, checks, own_stream, deferred)| Mode { build, order, checks, own_stream, deferred },
    )
}

/// Both builds of the kernels with each of the orders, and every other one with checks. A real GPU has one
/// build and an order of its own: only the checks differ.
pub fn modes(orders: &[Order]) -> impl Iterator<Item = Mode> {
    let modes = [Build::Fast, Build::Checked].into_iter().enumerate().flat_map(move |(i, build)| {
        orders.iter().enumerate().map(move |(j, &order)| {
            let checks = if (i + j) % 2 == 0 { Checks::On } else { Checks::Off };
            Mode { build, order, checks, ..Mode::PLAIN }
        })
    });
    modes.take(if is_real() { 2 } else { usize::MAX })
}

/// Runs a test under several orders of blocks and threads, each on a device to itself: which of several
/// violations of one kernel is reported depends on the order. A real GPU has its own.
pub fn in_any_order(test: impl Fn(&Gpu)) {
    let orders =
        [Order::Forward, Order::Reverse, Order::Shuffled(1), Order::Shuffled(2), Order::Preempting(3)];
    for order in orders.into_iter().take(if is_real() { 1 } else { orders.len() }) {
        let gpu = Gpu::take();
        gpu.set(Mode { order, ..Mode::PLAIN });
        test(&gpu);
    }
}

/// The CUDA backend for the generic suite.
pub struct Cuda {
    gpu: Gpu,
    mode: Mode,
}

impl Cuda {
    pub fn new(mode: Mode) -> Self {
        let gpu = Gpu::take();
        gpu.set(mode);
        Self { gpu, mode }
    }

    pub fn device(&self) -> &Device {
        self.gpu.device()
    }

    /// The operators of a plan of so many inputs and features.
    fn on<T: GpuElement>(
        &self,
        batch: &Batch,
        (inputs, features): (usize, usize),
        conv: Conv,
        max_instances: usize,
        paths: Option<&[Path]>,
    ) -> Result<Box<dyn Operators<T>>> {
        let batch = self.device().upload(batch)?;
        let plan = Plan::builder(&batch, features).inputs(inputs).conv(conv).checks(self.mode.checks);
        let plan = paths.map_or(plan.clone(), |paths| plan.paths(paths)).build()?;
        let stream = stream(self.device(), self.mode.own_stream);
        let workspace = plan.workspace_for(&stream, max_instances, Operator::ALL)?;
        Ok(Box::new(OnCuda { workspace, batch, stream }))
    }
}

/// An element type that tests move to a device.
pub trait GpuElement:
    TestElement<Acc: DeviceRepr + ValidAsZeroBits> + DeviceElement + DeviceRepr + ValidAsZeroBits
{
}

impl<T> GpuElement for T where
    T: TestElement<Acc: DeviceRepr + ValidAsZeroBits> + DeviceElement + DeviceRepr + ValidAsZeroBits
{
}

impl<T: GpuElement> Backend<T> for Cuda {
    /// The emulated driver takes a microsecond for each incidence and feature, and a tool is slow, too.
    fn affords(&self, elements: usize) -> bool {
        is_quick() || elements < 1000
    }

    fn operators_on(
        &self,
        batch: &Batch,
        features: usize,
        conv: Conv,
        max_instances: usize,
        paths: Option<&[Path]>,
    ) -> Result<Box<dyn Operators<T>>> {
        self.on(batch, (features, features), conv, max_instances, paths)
    }

    fn layers_on(
        &self,
        batch: &Batch,
        widths: (usize, usize),
        conv: Conv,
        max_instances: usize,
        paths: Option<&[Path]>,
    ) -> Result<Box<dyn Operators<T>>> {
        self.on(batch, widths, conv, max_instances, paths)
    }
}

/// A copy of `values`, in a buffer that may be longer: the driver does not allocate nothing.
pub fn to_device<T: DeviceRepr + ValidAsZeroBits>(stream: &Arc<CudaStream>, values: &[T]) -> CudaSlice<T> {
    let mut buffer = stream.alloc_zeros(values.len().max(1)).unwrap();
    if !values.is_empty() {
        stream.memcpy_htod(values, &mut buffer.slice_mut(..values.len())).unwrap();
    }
    buffer
}

/// The first `len` elements, once everything on the stream has ended.
pub fn to_host<T: DeviceRepr>(stream: &Arc<CudaStream>, buffer: &CudaSlice<T>, len: usize) -> Vec<T> {
    let mut values = stream.clone_dtoh(buffer).unwrap();
    stream.synchronize().unwrap();
    values.truncate(len);
    values
}

pub fn stream(device: &Device, own: bool) -> Arc<CudaStream> {
    match own {
        true => device.context().new_stream().unwrap(),
        false => device.context().default_stream(),
    }
}

/// The operators on copies of host arrays. An operator ends with a check, so that whatever its kernels report
/// is its result.
struct OnCuda<T: GpuElement> {
    workspace: Workspace<T>,
    batch: DeviceBatch,
    stream: Arc<CudaStream>,
}

/// A copy of what is read.
struct Input<T> {
    buffer: CudaSlice<T>,
    len: usize,
    layout: RowLayout,
}

impl<T: Element + DeviceRepr + ValidAsZeroBits> Input<T> {
    fn new(stream: &Arc<CudaStream>, rows: Rows<&[T]>) -> Self {
        Self { buffer: to_device(stream, rows.buffer), len: rows.buffer.len(), layout: rows.layout }
    }

    fn rows(&self) -> Rows<CudaView<'_, T>> {
        Rows::new(self.buffer.slice(..self.len), self.layout)
    }
}

/// A copy of weights or of a scale.
struct Values<A> {
    buffer: CudaSlice<A>,
    len: usize,
    windows: Windows<Box<DeviceWindows>>,
}

impl<A: Element + DeviceRepr + ValidAsZeroBits> Values<A> {
    fn new(batch: &DeviceBatch, stream: &Arc<CudaStream>, weights: cpu::Weights<'_, A>) -> Result<Self> {
        let windows = match weights.windows {
            Windows::Shared => Windows::Shared,
            Windows::Consecutive => Windows::Consecutive,
            Windows::Table(table) => Windows::Table(Box::new(batch.upload_windows(table)?)),
            other => panic!("{other:?} cannot be uploaded"),
        };
        Ok(Self { buffer: to_device(stream, weights.values), len: weights.values.len(), windows })
    }

    fn weights(&self) -> Weights<CudaView<'_, A>, &DeviceWindows> {
        Weights { values: self.buffer.slice(..self.len), windows: self.windows.as_deref() }
    }
}

/// A copy of what an output holds, and where it goes back to.
struct Output<'a, T> {
    host: &'a mut [T],
    buffer: CudaSlice<T>,
    add: bool,
}

impl<'a, T: Element + DeviceRepr + ValidAsZeroBits> Output<'a, T> {
    /// `None` where the result is not wanted.
    fn new(stream: &Arc<CudaStream>, out: Out<&'a mut [T]>) -> Option<Self> {
        let (host, add) = match out {
            Out::Overwrite(host) => (host, false),
            Out::Accumulate(host) => (host, true),
            Out::Skip => return None,
        };
        let buffer = to_device(stream, host);
        Some(Self { host, buffer, add })
    }

    fn view(&mut self) -> CudaViewMut<'_, T> {
        self.buffer.slice_mut(..self.host.len())
    }

    fn out(output: &mut Option<Self>) -> Out<CudaViewMut<'_, T>> {
        let Some(output) = output else { return Out::Skip };
        match output.add {
            true => Out::Accumulate(output.view()),
            false => Out::Overwrite(output.view()),
        }
    }

    /// Also after an error, which a caller may show to have written nothing.
    fn fetch(output: Option<Self>, stream: &Arc<CudaStream>) {
        if let Some(Self { host, buffer, .. }) = output {
            host.copy_from_slice(&to_host(stream, &buffer, host.len()));
        }
    }
}

/// An output of rows.
struct OutputRows<'a, T> {
    output: Option<Output<'a, T>>,
    layout: RowLayout,
}

impl<'a, T: Element + DeviceRepr + ValidAsZeroBits> OutputRows<'a, T> {
    fn new(stream: &Arc<CudaStream>, rows: Out<Rows<&'a mut [T]>>) -> Self {
        let (out, layout) = match rows {
            Out::Overwrite(rows) => (Out::Overwrite(rows.buffer), rows.layout),
            Out::Accumulate(rows) => (Out::Accumulate(rows.buffer), rows.layout),
            Out::Skip => (Out::Skip, RowLayout::contiguous(0)),
        };
        Self { output: Output::new(stream, out), layout }
    }

    fn out(&mut self) -> Out<Rows<CudaViewMut<'_, T>>> {
        match Output::out(&mut self.output) {
            Out::Overwrite(view) => Out::Overwrite(Rows::new(view, self.layout)),
            Out::Accumulate(view) => Out::Accumulate(Rows::new(view, self.layout)),
            Out::Skip => Out::Skip,
        }
    }

    fn fetch(self, stream: &Arc<CudaStream>) {
        Output::fetch(self.output, stream);
    }
}

impl<T: GpuElement> OnCuda<T> {
    fn values(&self, weights: cpu::Weights<'_, T::Acc>) -> Result<Values<T::Acc>> {
        Values::new(&self.batch, &self.stream, weights)
    }

    fn scales(&self, step: &cpu::Step<'_, T::Acc>) -> Result<[Option<Values<T::Acc>>; 2]> {
        let [vertices, hyperedges] =
            [step.vertex_scale, step.hyperedge_scale].map(|scale| scale.map(|s| self.values(s)).transpose());
        Ok([vertices?, hyperedges?])
    }
}

/// The step with its scales on the device.
fn scaled<'a, A: Element + DeviceRepr + ValidAsZeroBits>(
    step: &cpu::Step<'_, A>,
    scales: &'a [Option<Values<A>>; 2],
) -> Step<'a, A> {
    let [vertex_scale, hyperedge_scale] = scales.each_ref().map(|scale| scale.as_ref().map(Values::weights));
    Step::new(step.reduce).vertex_scale(vertex_scale).hyperedge_scale(hyperedge_scale)
}

impl<T: GpuElement> Operators<T> for OnCuda<T> {
    fn step(
        &mut self,
        to_hyperedges: bool,
        step: cpu::Step<'_, T::Acc>,
        x: Rows<&[T]>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        let scales = self.scales(&step)?;
        let step = scaled(&step, &scales);
        let x = Input::new(&self.stream, x);
        let mut y = OutputRows::new(&self.stream, y);
        let result = match to_hyperedges {
            true => self.workspace.vertex_to_hyperedge(&step, x.rows(), y.out()),
            false => self.workspace.hyperedge_to_vertex(&step, x.rows(), y.out()),
        };
        let checked = self.workspace.check();
        y.fetch(&self.stream);
        result.and(checked)
    }

    fn step_backward(
        &mut self,
        to_hyperedges: bool,
        step: cpu::Step<'_, T::Acc>,
        x: Rows<&[T]>,
        grad_y: Rows<&[T]>,
        gradients: cpu::StepGradients<'_, T>,
    ) -> Result<()> {
        let scales = self.scales(&step)?;
        let step = scaled(&step, &scales);
        let (x, grad_y) = (Input::new(&self.stream, x), Input::new(&self.stream, grad_y));
        let mut rows = OutputRows::new(&self.stream, gradients.rows);
        let mut vertex_scale = Output::new(&self.stream, gradients.vertex_scale);
        let mut hyperedge_scale = Output::new(&self.stream, gradients.hyperedge_scale);
        let gradients = StepGradients::none()
            .rows(rows.out())
            .vertex_scale(Output::out(&mut vertex_scale))
            .hyperedge_scale(Output::out(&mut hyperedge_scale));
        let (x, grad_y) = (x.rows(), grad_y.rows());
        let result = match to_hyperedges {
            true => self.workspace.vertex_to_hyperedge_backward(&step, x, grad_y, gradients),
            false => self.workspace.hyperedge_to_vertex_backward(&step, x, grad_y, gradients),
        };
        let checked = self.workspace.check();
        rows.fetch(&self.stream);
        Output::fetch(vertex_scale, &self.stream);
        Output::fetch(hyperedge_scale, &self.stream);
        result.and(checked)
    }

    fn conv(
        &mut self,
        x: Rows<&[T]>,
        weights: cpu::Weights<'_, T::Acc>,
        z: Option<Rows<&mut [T::Acc]>>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        let weights = self.values(weights)?;
        let x = Input::new(&self.stream, x);
        let mut y = OutputRows::new(&self.stream, y);
        let mut z = z.map(|z| (Output::new(&self.stream, Out::Overwrite(z.buffer)), z.layout));
        let result = match &mut z {
            Some((Some(z), layout)) => {
                let z = Rows::new(z.view(), *layout);
                self.workspace.conv_saving_z(x.rows(), weights.weights(), z, y.out())
            }
            _ => self.workspace.conv(x.rows(), weights.weights(), y.out()),
        };
        let checked = self.workspace.check();
        y.fetch(&self.stream);
        if let Some((z, _)) = z {
            Output::fetch(z, &self.stream);
        }
        result.and(checked)
    }

    fn conv_backward(
        &mut self,
        x: Rows<&[T]>,
        z: Option<Rows<&[T::Acc]>>,
        weights: cpu::Weights<'_, T::Acc>,
        grad_y: Rows<&[T]>,
        grad_x: Out<Rows<&mut [T]>>,
        grad_weights: Out<&mut [T::Acc]>,
    ) -> Result<()> {
        let weights = self.values(weights)?;
        let (x, grad_y) = (Input::new(&self.stream, x), Input::new(&self.stream, grad_y));
        let z = z.map(|z| Input::new(&self.stream, z));
        let mut grad_x = OutputRows::new(&self.stream, grad_x);
        let mut grad_weights = Output::new(&self.stream, grad_weights);
        let (rows, sums) = (grad_x.out(), Output::out(&mut grad_weights));
        let (x, weights, grad_y) = (x.rows(), weights.weights(), grad_y.rows());
        let result = match &z {
            Some(z) => self.workspace.conv_backward_from_z(x, z.rows(), weights, grad_y, rows, sums),
            None => self.workspace.conv_backward(x, weights, grad_y, rows, sums),
        };
        let checked = self.workspace.check();
        grad_x.fetch(&self.stream);
        Output::fetch(grad_weights, &self.stream);
        result.and(checked)
    }

    fn conv_epilogue(
        &mut self,
        x: Rows<&[T]>,
        weights: cpu::Weights<'_, T::Acc>,
        epilogue: &cpu::Epilogue<'_, T::Acc>,
        residual: Option<Rows<&[T]>>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        let weights = self.values(weights)?;
        let (x, bias) = (Input::new(&self.stream, x), Bias::new(&self.stream, epilogue));
        let residual = residual.map(|residual| Input::new(&self.stream, residual));
        let mut y = OutputRows::new(&self.stream, y);
        let (epilogue, rows) = (bias.epilogue(), residual.as_ref().map(Input::rows));
        let result = self.workspace.conv_epilogue(x.rows(), weights.weights(), &epilogue, rows, y.out());
        let checked = self.workspace.check();
        y.fetch(&self.stream);
        result.and(checked)
    }

    fn conv_epilogue_backward(
        &mut self,
        x: Rows<&[T]>,
        weights: cpu::Weights<'_, T::Acc>,
        epilogue: &cpu::Epilogue<'_, T::Acc>,
        grad_y: Rows<&[T]>,
        gradients: cpu::EpilogueGradients<'_, T>,
    ) -> Result<()> {
        let weights = self.values(weights)?;
        let (x, bias) = (Input::new(&self.stream, x), Bias::new(&self.stream, epilogue));
        let grad_y = Input::new(&self.stream, grad_y);
        let mut outputs = OutputsOfEpilogue::new(&self.stream, gradients);
        let (epilogue, out) = (bias.epilogue(), outputs.out());
        let (x, weights, grad_y) = (x.rows(), weights.weights(), grad_y.rows());
        let result = self.workspace.conv_epilogue_backward(x, weights, &epilogue, grad_y, out);
        let checked = self.workspace.check();
        outputs.fetch(&self.stream);
        result.and(checked)
    }

    fn conv_readout(
        &mut self,
        x: Rows<&[T]>,
        weights: cpu::Weights<'_, T::Acc>,
        epilogue: &cpu::Epilogue<'_, T::Acc>,
        residual: Option<Rows<&[T]>>,
        readout: Out<&mut [T]>,
    ) -> Result<()> {
        let weights = self.values(weights)?;
        let (x, bias) = (Input::new(&self.stream, x), Bias::new(&self.stream, epilogue));
        let residual = residual.map(|residual| Input::new(&self.stream, residual));
        let mut readout = Output::new(&self.stream, readout);
        let (epilogue, rows) = (bias.epilogue(), residual.as_ref().map(Input::rows));
        let (x, weights, out) = (x.rows(), weights.weights(), Output::out(&mut readout));
        let result = self.workspace.conv_readout(x, weights, &epilogue, rows, out);
        let checked = self.workspace.check();
        Output::fetch(readout, &self.stream);
        result.and(checked)
    }

    fn conv_readout_backward(
        &mut self,
        x: Rows<&[T]>,
        weights: cpu::Weights<'_, T::Acc>,
        epilogue: &cpu::Epilogue<'_, T::Acc>,
        grad_readout: &[T],
        gradients: cpu::EpilogueGradients<'_, T>,
    ) -> Result<()> {
        let weights = self.values(weights)?;
        let (x, bias) = (Input::new(&self.stream, x), Bias::new(&self.stream, epilogue));
        let grad = to_device(&self.stream, grad_readout);
        let mut outputs = OutputsOfEpilogue::new(&self.stream, gradients);
        let (epilogue, out) = (bias.epilogue(), outputs.out());
        let (x, weights, grad) = (x.rows(), weights.weights(), grad.slice(..grad_readout.len()));
        let result = self.workspace.conv_readout_backward(x, weights, &epilogue, grad, out);
        let checked = self.workspace.check();
        outputs.fetch(&self.stream);
        result.and(checked)
    }

    fn conv_matrix(&mut self, weights: cpu::Weights<'_, T::Acc>, matrix: Out<&mut [T::Acc]>) -> Result<()> {
        let weights = self.values(weights)?;
        let mut matrix = Output::new(&self.stream, matrix);
        let result = self.workspace.conv_matrix(weights.weights(), Output::out(&mut matrix));
        let checked = self.workspace.check();
        Output::fetch(matrix, &self.stream);
        result.and(checked)
    }

    fn conv_matrix_backward(
        &mut self,
        weights: cpu::Weights<'_, T::Acc>,
        grad_matrix: &[T::Acc],
        grad_weights: Out<&mut [T::Acc]>,
    ) -> Result<()> {
        let weights = self.values(weights)?;
        let grad = to_device(&self.stream, grad_matrix);
        let mut grad_weights = Output::new(&self.stream, grad_weights);
        let (grad, out) = (grad.slice(..grad_matrix.len()), Output::out(&mut grad_weights));
        let result = self.workspace.conv_matrix_backward(weights.weights(), grad, out);
        let checked = self.workspace.check();
        Output::fetch(grad_weights, &self.stream);
        result.and(checked)
    }

    fn gram(&mut self, x: Rows<&[T]>, gram: Out<&mut [T::Acc]>) -> Result<()> {
        let x = Input::new(&self.stream, x);
        let mut gram = Output::new(&self.stream, gram);
        let result = self.workspace.gram(x.rows(), Output::out(&mut gram));
        let checked = self.workspace.check();
        Output::fetch(gram, &self.stream);
        result.and(checked)
    }

    fn gram_backward(
        &mut self,
        x: Rows<&[T]>,
        grad_gram: &[T::Acc],
        grad_x: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        let (x, grad) = (Input::new(&self.stream, x), to_device(&self.stream, grad_gram));
        let mut grad_x = OutputRows::new(&self.stream, grad_x);
        let result = self.workspace.gram_backward(x.rows(), grad.slice(..grad_gram.len()), grad_x.out());
        let checked = self.workspace.check();
        grad_x.fetch(&self.stream);
        result.and(checked)
    }

    fn layer(
        &mut self,
        x: Rows<&[T]>,
        theta: &[T],
        weights: cpu::Weights<'_, T::Acc>,
        epilogue: &cpu::Epilogue<'_, T::Acc>,
        residual: Option<Rows<&[T]>>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        let weights = self.values(weights)?;
        let (x, bias) = (Input::new(&self.stream, x), Bias::new(&self.stream, epilogue));
        let (of_theta, len) = (to_device(&self.stream, theta), theta.len());
        let residual = residual.map(|residual| Input::new(&self.stream, residual));
        let mut y = OutputRows::new(&self.stream, y);
        let (epilogue, rows) = (bias.epilogue(), residual.as_ref().map(Input::rows));
        let (x, theta, weights) = (x.rows(), of_theta.slice(..len), weights.weights());
        let result = self.workspace.layer(x, theta, weights, &epilogue, rows, y.out());
        let checked = self.workspace.check();
        y.fetch(&self.stream);
        result.and(checked)
    }

    fn layer_backward(
        &mut self,
        x: Rows<&[T]>,
        theta: &[T],
        weights: cpu::Weights<'_, T::Acc>,
        epilogue: &cpu::Epilogue<'_, T::Acc>,
        grad_y: Rows<&[T]>,
        gradients: cpu::LayerGradients<'_, T>,
    ) -> Result<()> {
        let weights = self.values(weights)?;
        let (x, bias) = (Input::new(&self.stream, x), Bias::new(&self.stream, epilogue));
        let (of_theta, len) = (to_device(&self.stream, theta), theta.len());
        let grad_y = Input::new(&self.stream, grad_y);
        let mut grad_theta = Output::new(&self.stream, gradients.theta);
        let of_epilogue = cpu::EpilogueGradients::none()
            .x(gradients.x)
            .weights(gradients.weights)
            .bias(gradients.bias)
            .residual(gradients.residual);
        let mut outputs = OutputsOfEpilogue::new(&self.stream, of_epilogue);
        let out = outputs.out();
        let out = LayerGradients::none()
            .x(out.x)
            .theta(Output::out(&mut grad_theta))
            .weights(out.weights)
            .bias(out.bias)
            .residual(out.residual);
        let (x, theta, weights) = (x.rows(), of_theta.slice(..len), weights.weights());
        let (epilogue, grad_y) = (bias.epilogue(), grad_y.rows());
        let result = self.workspace.layer_backward(x, theta, weights, &epilogue, grad_y, out);
        let checked = self.workspace.check();
        outputs.fetch(&self.stream);
        Output::fetch(grad_theta, &self.stream);
        result.and(checked)
    }
}

/// A copy of what an epilogue reads.
struct Bias<A> {
    activation: Activation,
    bias: Option<(CudaSlice<A>, usize)>,
}

impl<A: Element + DeviceRepr + ValidAsZeroBits> Bias<A> {
    fn new(stream: &Arc<CudaStream>, epilogue: &cpu::Epilogue<'_, A>) -> Self {
        let bias = epilogue.bias.map(|bias| (to_device(stream, bias), bias.len()));
        Self { activation: epilogue.activation, bias }
    }

    fn epilogue(&self) -> Epilogue<'_, A> {
        let bias = self.bias.as_ref().map(|(bias, len)| bias.slice(..*len));
        Epilogue::new(self.activation).bias(bias)
    }
}

/// The gradients of a convolution with an epilogue.
struct OutputsOfEpilogue<'a, T: GpuElement> {
    x: OutputRows<'a, T>,
    weights: Option<Output<'a, T::Acc>>,
    bias: Option<Output<'a, T::Acc>>,
    residual: OutputRows<'a, T>,
}

impl<'a, T: GpuElement> OutputsOfEpilogue<'a, T> {
    fn new(stream: &Arc<CudaStream>, gradients: cpu::EpilogueGradients<'a, T>) -> Self {
        Self {
            x: OutputRows::new(stream, gradients.x),
            weights: Output::new(stream, gradients.weights),
            bias: Output::new(stream, gradients.bias),
            residual: OutputRows::new(stream, gradients.residual),
        }
    }

    fn out(&mut self) -> EpilogueGradients<'_, T> {
        EpilogueGradients::none()
            .x(self.x.out())
            .weights(Output::out(&mut self.weights))
            .bias(Output::out(&mut self.bias))
            .residual(self.residual.out())
    }

    fn fetch(self, stream: &Arc<CudaStream>) {
        self.x.fetch(stream);
        Output::fetch(self.weights, stream);
        Output::fetch(self.bias, stream);
        self.residual.fetch(stream);
    }
}

/// A step without scales.
pub fn step<T: GpuElement>(
    workspace: &mut Workspace<T>,
    kind: StepKind,
    x: Rows<CudaView<'_, T>>,
    y: Out<Rows<CudaViewMut<'_, T>>>,
) -> Result<()> {
    let step = Step::new(kind.reduce);
    match kind.to_hyperedges {
        true => workspace.vertex_to_hyperedge(&step, x, y),
        false => workspace.hyperedge_to_vertex(&step, x, y),
    }
}
