//! The device that a test runs on: one of the emulated driver's, to itself, or the real one, in turn.
//!
//! `HYPERSCATTER_GPU=real` is the switch. Nothing else differs: the tests, the crate and `cudarc` are the same.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use hyperscatter::cuda::cudarc::driver::{
    CudaSlice, CudaStream, CudaView, CudaViewMut, DeviceRepr, ValidAsZeroBits,
};
use hyperscatter::cuda::{Checks, Device, DeviceElement, Plan, Step, Workspace};
use hyperscatter::{Batch, Conv, Out, Reduce, Result, Rows};
use hyperscatter_emulator::control::{DeviceControl, DeviceLease, install};
use hyperscatter_emulator::interface::{Build, Order};
use proptest::prelude::*;

use crate::backend::{Backend, Operators, StepKind};
use crate::common::TestElement;

/// Whether tests run on the real driver.
pub fn is_real() -> bool {
    std::env::var_os("HYPERSCATTER_GPU").is_some_and(|gpu| gpu == "real")
}

/// A device, and the right to use it.
pub struct Gpu {
    device: Option<Device>,
    place: Place,
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

impl Gpu {
    pub fn take() -> Self {
        if is_real() {
            let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
            let open = || Device::open(0).unwrap_or_else(|e| panic!("HYPERSCATTER_GPU=real: {e}"));
            let device = REAL.get_or_init(open).clone();
            return Self { device: Some(device), place: Place::Real { _turn: turn } };
        }
        let emulator = install().unwrap_or_else(|e| panic!("no emulated driver: {e}"));
        let lease = emulator.lease();
        let device = Device::open(lease.ordinal()).unwrap();
        Self { device: Some(device), place: Place::Emulated(lease) }
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
        drop(self.device.take());
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
}

/// An element type that tests move to a device.
pub trait GpuElement: TestElement + DeviceElement + DeviceRepr + ValidAsZeroBits {}

impl<T: TestElement + DeviceElement + DeviceRepr + ValidAsZeroBits> GpuElement for T {}

struct OnCuda<T: GpuElement>(Workspace<T>);

impl<T: GpuElement> Backend<T> for Cuda {
    fn operators(
        &self,
        batch: &Batch,
        features: usize,
        max_instances: usize,
    ) -> Result<Box<dyn Operators<T>>> {
        let device = self.gpu.device();
        let stream = stream(device, self.mode.own_stream);
        let plan = Plan::new(&device.upload(batch)?, features, Conv::default(), self.mode.checks)?;
        Ok(Box::new(OnCuda(plan.workspace(&stream, max_instances)?)))
    }
}

/// A copy of `values`, in a buffer that may be longer: the driver does not allocate nothing.
pub fn to_device<T: GpuElement>(stream: &Arc<CudaStream>, values: &[T]) -> CudaSlice<T> {
    let mut buffer = stream.alloc_zeros(values.len().max(1)).unwrap();
    if !values.is_empty() {
        stream.memcpy_htod(values, &mut buffer.slice_mut(..values.len())).unwrap();
    }
    buffer
}

/// The first `len` elements, once everything on the stream has ended.
pub fn to_host<T: GpuElement>(stream: &Arc<CudaStream>, buffer: &CudaSlice<T>, len: usize) -> Vec<T> {
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

impl<T: GpuElement> Operators<T> for OnCuda<T> {
    fn step(&mut self, kind: StepKind, x: Rows<&[T]>, y: Out<Rows<&mut [T]>>) -> Result<()> {
        let stream = self.0.stream().clone();
        let x_device = to_device(&stream, x.buffer);
        let x = Rows::new(x_device.slice(..x.buffer.len()), x.layout);
        let (y, add) = match y {
            Out::Overwrite(y) => (y, false),
            Out::Add(y) => (y, true),
            Out::Skip => return step(&mut self.0, kind, x, Out::Skip),
        };
        let mut y_device = to_device(&stream, y.buffer);
        let rows = Rows::new(y_device.slice_mut(..y.buffer.len()), y.layout);
        let result = step(&mut self.0, kind, x, if add { Out::Add(rows) } else { Out::Overwrite(rows) });
        let checked = self.0.check();
        y.buffer.copy_from_slice(&to_host(&stream, &y_device, y.buffer.len()));
        result.and(checked)
    }
}

/// A step by its kind.
pub fn step<T: GpuElement>(
    workspace: &mut Workspace<T>,
    kind: StepKind,
    x: Rows<CudaView<'_, T>>,
    y: Out<Rows<CudaViewMut<'_, T>>>,
) -> Result<()> {
    let step = match kind.reduce {
        Reduce::Sum => Step::sum(),
        Reduce::Mean => Step::mean(),
    };
    match kind.to_hyperedges {
        true => workspace.vertex_to_hyperedge(step, x, y),
        false => workspace.hyperedge_to_vertex(step, x, y),
    }
}
