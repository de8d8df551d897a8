//! A device: its context, its kernels, and dropped memory that its work may still use.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cudarc::driver::sys::CUdevice_attribute;
use cudarc::driver::{CudaContext, CudaModule};
use cudarc::nvrtc::Ptx;

use super::driver::{self, Current, failed, pending_error};
use super::ranges::Range;
use super::retired::Retired;
use crate::error::{Error, Result};

/// The least compute capability that PTX was compiled for, as `ARCHITECTURE` in `kernels/generate.py`.
const NEEDED_CAPABILITY: (u32, u32) = (7, 5);

/// That from which on threads copy from global to shared memory asynchronously, and tensor cores multiply
/// `bf16` and TF32.
pub(super) const CAPABILITY_OF_ASYNC_COPIES: (u32, u32) = (8, 0);

/// An embedded module: one kernel file for one type, with checks or without.
struct Image {
    name: &'static str,
    ptx: &'static str,
    /// Native code by architecture (`90` for 9.0), only where the build asked for it.
    cubins: &'static [(u32, &'static [u8])],
}

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The number of the embedded module of this name. It is looked up at compile time; an unknown name does not
/// compile.
pub(super) const fn module(name: &str) -> usize {
    let mut number = 0;
    while number < IMAGES.len() {
        if same(IMAGES[number].name.as_bytes(), name.as_bytes()) {
            return number;
        }
        number += 1;
    }
    panic!("no module of this name is embedded")
}

/// `==`, which cannot be used at compile time.
const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

/// The names and the PTX of all modules that are embedded.
#[doc(hidden)]
pub fn embedded_modules() -> impl Iterator<Item = (&'static str, &'static str)> {
    IMAGES.iter().map(|image| (image.name, image.ptx))
}

/// Kernels that a device has loaded: those of one kernel file for one type, with checks or without.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadedModule {
    /// What it has, such as `gather_f32` or `degree_f64_checked`.
    pub name: &'static str,
    /// The size of what the driver was given.
    pub bytes: usize,
    /// Whether that was native code of the device's architecture, and not PTX, which the driver has to
    /// compile.
    pub is_native: bool,
    /// How long the driver took. It keeps on disk what it compiles, unless it is told not to
    /// (`CUDA_CACHE_DISABLE=1`).
    pub time: Duration,
}

/// A module, and what is told about it.
struct Loaded {
    module: Arc<CudaModule>,
    about: LoadedModule,
}

/// The modules, by number, as far as they are loaded.
type Modules = [Option<Loaded>; IMAGES.len()];

/// A CUDA device. A clone is cheap, and is the same device.
///
/// Kernels are loaded when a workspace first needs them: those of its type, with checks or without, for its
/// operators.
///
/// The memory of a dropped workspace is kept until its work has ended. It is freed at the next upload,
/// workspace or check after that. The last holder of the device waits for it.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    retired: Retired,
    modules: Mutex<Modules>,
    capability: (u32, u32),
    multiprocessors: u32,
    /// That a block may have if it asks for it.
    shared_bytes: u32,
    /// Taken when the device is dropped.
    context: Option<Arc<CudaContext>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // All that follows makes the context current, and the last holder of a primary context releases it.
        let Ok(_kept) = Current::keep() else { return };
        let entered = self.context.as_ref().map(|context| Current::enter(context));
        self.retired.finish();
        drop(entered);
        self.modules.get_mut().unwrap_or_else(PoisonError::into_inner).fill_with(|| None);
        drop(self.context.take());
    }
}

impl Device {
    /// Opens the device of this ordinal, by its primary context. The thread's current context stays as it
    /// was.
    ///
    /// # Errors
    /// [`Error::DriverUnavailable`], [`Error::DriverTooOld`], [`Error::NoDevice`],
    /// [`Error::UnsupportedArchitecture`], each with what can be done; [`Error::Driver`] for everything else
    /// that the driver reports.
    pub fn open(ordinal: usize) -> Result<Self> {
        driver::ready()?;
        let count = driver::device_count(ordinal)?;
        if ordinal >= count {
            return Err(Error::NoDevice { ordinal, count });
        }
        let _current = Current::keep()?;
        let context = CudaContext::new(ordinal).map_err(|e| failed("opening the device", e))?;
        Self::on(context)
    }

    /// The device of a context that the caller made. Buffers and streams of calls must be of this very
    /// context: another `Arc`, even on the same device, is [`Error::WrongContext`].
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_context(context: &Arc<CudaContext>) -> Result<Self> {
        driver::ready()?;
        Self::on(context.clone())
    }

    fn on(context: Arc<CudaContext>) -> Result<Self> {
        let (major, minor) =
            context.compute_capability().map_err(|e| failed("reading the compute capability", e))?;
        let found = (major.unsigned_abs(), minor.unsigned_abs());
        if found < NEEDED_CAPABILITY {
            let ordinal = context.ordinal();
            return Err(Error::UnsupportedArchitecture { ordinal, found, needed: NEEDED_CAPABILITY });
        }
        let attribute = |attribute| {
            let value = context.attribute(attribute).map_err(|e| failed("reading an attribute", e))?;
            Ok::<_, Error>(value.unsigned_abs())
        };
        use CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as SHARED,
            CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as MULTIPROCESSORS,
        };
        let (multiprocessors, shared_bytes) = (attribute(MULTIPROCESSORS)?, attribute(SHARED)?);
        Range::prepare();
        Ok(Self(Arc::new(Inner {
            retired: Retired::default(),
            modules: Mutex::new([const { None }; IMAGES.len()]),
            capability: found,
            multiprocessors,
            shared_bytes,
            context: Some(context),
        })))
    }

    /// Its context, which allocates buffers and makes streams.
    pub fn context(&self) -> &Arc<CudaContext> {
        self.0.context.as_ref().expect("only `drop` takes it")
    }

    /// Whether its threads copy from global to shared memory asynchronously.
    pub(super) fn copies_async(&self) -> bool {
        self.0.capability >= CAPABILITY_OF_ASYNC_COPIES
    }

    /// Its compute capability.
    pub(super) fn capability(&self) -> (u32, u32) {
        self.0.capability
    }

    /// How many multiprocessors it has.
    pub(super) fn multiprocessors(&self) -> u32 {
        self.0.multiprocessors
    }

    /// The shared memory that a block may have if it asks for it.
    pub(super) fn shared_bytes(&self) -> u32 {
        self.0.shared_bytes
    }

    /// Whether both are of the very same context.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.context(), other.context())
    }

    pub(super) fn ordinal(&self) -> usize {
        self.context().ordinal()
    }

    /// Makes the context current, and returns the error of an earlier call that could not return it.
    pub(super) fn enter(&self) -> Result<Current> {
        let current = Current::enter(self.context())?;
        pending_error(self.context(), "an earlier call of this context")?;
        Ok(current)
    }

    pub(super) fn retired(&self) -> &Retired {
        &self.0.retired
    }

    /// The modules that workspaces have loaded on this device so far, by name.
    pub fn loaded_modules(&self) -> Vec<LoadedModule> {
        let modules = self.0.modules.lock().unwrap_or_else(PoisonError::into_inner);
        modules.iter().flatten().map(|loaded| loaded.about.clone()).collect()
    }

    /// A module, by number. The context must be current.
    pub(super) fn module(&self, number: usize) -> Result<Arc<CudaModule>> {
        let mut modules = self.0.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let module = &mut modules[number];
        let loaded = match module {
            Some(loaded) => loaded,
            None => module.insert(self.load(&IMAGES[number])?),
        };
        Ok(loaded.module.clone())
    }

    /// Native code of the device's architecture, or else PTX.
    fn load(&self, image: &Image) -> Result<Loaded> {
        let (major, minor) = self.0.capability;
        // Native code runs on devices of the same major version from its minor version on.
        let fits = |arch: u32| arch / 10 == major && arch % 10 <= minor;
        let native = image.cubins.iter().filter(|(arch, _)| fits(*arch)).max_by_key(|(arch, _)| *arch);
        let begin = Instant::now();
        let loaded = |module, bytes, is_native| {
            let about = LoadedModule { name: image.name, bytes, is_native, time: begin.elapsed() };
            Loaded { module, about }
        };
        if let Some((_, cubin)) = native
            && let Ok(module) = self.context().load_module(Ptx::from_binary(cubin.to_vec()))
        {
            return Ok(loaded(module, cubin.len(), true));
        }
        // A driver that is older than the compiler of the native code cannot load it, but still compiles the
        // PTX. That the driver is new enough for it, and the device too, was checked when the device was
        // opened.
        let module = self
            .context()
            .load_module(Ptx::from_src(image.ptx))
            .map_err(|e| failed("loading the kernels", e))?;
        Ok(loaded(module, image.ptx.len(), false))
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor) = self.0.capability;
        f.debug_struct("Device")
            .field("ordinal", &self.context().ordinal())
            .field("compute_capability", &format_args!("{major}.{minor}"))
            .finish_non_exhaustive()
    }
}
