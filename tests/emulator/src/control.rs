//! The controls, on both sides: the functions that the library exports besides the driver's, and what tests call. Tests reach
//! them through the library that `cudarc` uses too, never through their own copy of this crate, whose state is another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW, Symbol};

use crate::interface::{Build, Order};
use crate::state::{DEVICES, State};

/// What a control does; the numbers are the wire between the two copies of this crate.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Operation {
    NumberOfDevices,
    Reset,
    SetBuild,
    SetOrder,
    SetDeferred,
    SetDetectRaces,
    SetExecute,
    FailCreation,
    Creations,
    SetMemoryLimit,
    SetCapability,
    ResetCalls,
    Pending,
}

/// What a control tells in words, a line each.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Listing {
    Calls,
    Reports,
    Live,
}

/// An option that may be absent, as one number.
const NONE: u64 = u64::MAX;

fn optional(value: u64) -> Option<u64> {
    (value != NONE).then_some(value)
}

/// Carries out a control on a device; numbers in, a number out.
///
/// # Safety
/// `operation` is one of [`Operation`]'s numbers.
// SAFETY: a name of this library's own.
#[unsafe(no_mangle)]
unsafe extern "C" fn hyperscatter_emulator_control(ordinal: usize, operation: u32, a: u64, b: u64) -> u64 {
    if operation == Operation::NumberOfDevices as u32 {
        return DEVICES.len() as u64;
    }
    let mut state = DEVICES[ordinal].lock();
    match operation {
        o if o == Operation::Reset as u32 => *state = State::fresh(),
        o if o == Operation::SetBuild as u32 => {
            state.options.build = if a == 0 { Build::Fast } else { Build::Checked };
            // The fast build keeps no record of what it writes.
            state.memory.mark_all_written();
        }
        o if o == Operation::SetOrder as u32 => {
            state.options.order = match a {
                0 => Order::Forward,
                1 => Order::Reverse,
                2 => Order::Shuffled(b),
                _ => Order::Preempting(b),
            };
        }
        o if o == Operation::SetDeferred as u32 => {
            if a == 0 {
                state.run_all();
            }
            state.options.deferred = a != 0;
        }
        o if o == Operation::SetDetectRaces as u32 => state.options.detect_races = a != 0,
        o if o == Operation::SetExecute as u32 => state.options.execute = a != 0,
        o if o == Operation::FailCreation as u32 => state.options.fail_creation = optional(a),
        o if o == Operation::Creations as u32 => return state.creations,
        o if o == Operation::SetMemoryLimit as u32 => state.memory.limit = optional(a),
        o if o == Operation::SetCapability as u32 => state.options.capability = (a as u32, b as u32),
        o if o == Operation::ResetCalls as u32 => state.calls.clear(),
        o if o == Operation::Pending as u32 => return state.pending() as u64,
        _ => return NONE,
    }
    0
}

/// Calls `each` with every line of a listing.
///
/// # Safety
/// `each` may be called with `context`, and the bytes it is given are valid during the call.
// SAFETY: a name of this library's own.
#[unsafe(no_mangle)]
unsafe extern "C" fn hyperscatter_emulator_list(
    ordinal: usize,
    listing: u32,
    each: unsafe extern "C" fn(*mut std::ffi::c_void, *const u8, usize),
    context: *mut std::ffi::c_void,
) {
    let mut state = DEVICES[ordinal].lock();
    let lines = match listing {
        l if l == Listing::Calls as u32 => {
            state.calls.iter().map(|(name, n)| format!("{name} {n}")).collect()
        }
        l if l == Listing::Reports as u32 => std::mem::take(&mut state.reports),
        _ => state.live(),
    };
    drop(state);
    for line in lines {
        // SAFETY: the caller's promise.
        unsafe { each(context, line.as_ptr(), line.len()) };
    }
}

type Control = unsafe extern "C" fn(usize, u32, u64, u64) -> u64;
type List = unsafe extern "C" fn(
    usize,
    u32,
    unsafe extern "C" fn(*mut std::ffi::c_void, *const u8, usize),
    *mut std::ffi::c_void,
);

/// The loaded driver. It stays loaded until the process ends.
pub struct Emulator {
    control: Symbol<Control>,
    list: Symbol<List>,
    /// Kept loaded.
    _library: Library,
}

/// One emulated device.
#[derive(Clone, Copy)]
pub struct DeviceControl {
    emulator: &'static Emulator,
    ordinal: usize,
}

/// Loads the emulated driver, so that whoever asks for `libcuda.so` from now on gets it. Must come before the first use of
/// `cudarc`; later calls do nothing.
///
/// The library lies beside the running executable, or where `HYPERSCATTER_EMULATOR` says.
///
/// # Errors
/// What is missing, in words.
pub fn install() -> Result<&'static Emulator, String> {
    static LOADED: OnceLock<Result<Emulator, String>> = OnceLock::new();
    LOADED.get_or_init(load).as_ref().map_err(Clone::clone)
}

fn path() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("HYPERSCATTER_EMULATOR") {
        return Ok(path.into());
    }
    let executable = std::env::current_exe().map_err(|e| e.to_string())?;
    let folders = executable.ancestors().skip(1).take(3);
    let candidates = folders.flat_map(|folder| [folder.to_path_buf(), folder.join("deps")]);
    let name = Path::new("libhyperscatter_emulator.so");
    let found = candidates.map(|folder| folder.join(name)).find(|path| path.exists());
    found.ok_or_else(|| format!("{} is not beside {}", name.display(), executable.display()))
}

fn load() -> Result<Emulator, String> {
    let path = path()?;
    // SAFETY: the library's initialisers are those of Rust's standard library.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) };
    let library = library.map_err(|e| format!("{}: {e}", path.display()))?;
    // SAFETY: the functions have these types, above.
    let control = unsafe { library.get::<Control>(b"hyperscatter_emulator_control") };
    // SAFETY: likewise.
    let list = unsafe { library.get::<List>(b"hyperscatter_emulator_list") };
    let missing = |e: libloading::Error| format!("{}: {e}", path.display());
    Ok(Emulator { control: control.map_err(missing)?, list: list.map_err(missing)?, _library: library })
}

impl Emulator {
    /// The number of devices.
    pub fn n_devices(&self) -> usize {
        self.call(0, Operation::NumberOfDevices, 0, 0) as usize
    }

    /// The controls of a device.
    ///
    /// # Panics
    /// If there is no such device.
    pub fn device(&'static self, ordinal: usize) -> DeviceControl {
        assert!(ordinal < self.n_devices(), "there is no emulated device {ordinal}");
        DeviceControl { emulator: self, ordinal }
    }

    fn call(&self, ordinal: usize, operation: Operation, a: u64, b: u64) -> u64 {
        // SAFETY: the operation is one of the enumeration's.
        unsafe { (self.control)(ordinal, operation as u32, a, b) }
    }
}

impl DeviceControl {
    fn call(&self, operation: Operation, a: u64, b: u64) -> u64 {
        self.emulator.call(self.ordinal, operation, a, b)
    }

    fn list(&self, listing: Listing) -> Vec<String> {
        unsafe extern "C" fn push(lines: *mut std::ffi::c_void, text: *const u8, len: usize) {
            // SAFETY: the pointer is the vector's below, and the text is valid during the call.
            let (lines, text) =
                unsafe { (&mut *lines.cast::<Vec<String>>(), std::slice::from_raw_parts(text, len)) };
            lines.push(String::from_utf8_lossy(text).into_owned());
        }
        let mut lines: Vec<String> = Vec::new();
        // SAFETY: `push` takes the vector that it is given.
        unsafe { (self.emulator.list)(self.ordinal, listing as u32, push, (&raw mut lines).cast()) };
        lines
    }

    /// Forgets everything: allocations, reports, a lost context, options, counters.
    pub fn reset(&self) {
        self.call(Operation::Reset, 0, 0);
    }

    /// Which compilation of the kernels runs; the checked one at first.
    pub fn set_build(&self, build: Build) {
        self.call(Operation::SetBuild, u64::from(build == Build::Checked), 0);
    }

    /// The order in which threads run; forward at first.
    pub fn set_order(&self, order: Order) {
        let (kind, seed) = match order {
            Order::Forward => (0, 0),
            Order::Reverse => (1, 0),
            Order::Shuffled(seed) => (2, seed),
            Order::Preempting(seed) => (3, seed),
        };
        self.call(Operation::SetOrder, kind, seed);
    }

    /// Whether streams run only what somebody waits for (at first they do), or everything at once.
    pub fn set_deferred(&self, deferred: bool) {
        self.call(Operation::SetDeferred, deferred.into(), 0);
    }

    /// Whether two accesses of which one writes are a fault where nothing orders them; at first they are.
    pub fn set_detect_races(&self, detect: bool) {
        self.call(Operation::SetDetectRaces, detect.into(), 0);
    }

    /// Whether kernels run at all. Without, launches are checked and forgotten: a driver that costs next to nothing.
    pub fn set_execute(&self, execute: bool) {
        self.call(Operation::SetExecute, execute.into(), 0);
    }

    /// Makes the `nth` creation from now (1 is the next) fail for want of memory: an allocation, stream, event, module,
    /// function, context.
    pub fn fail_creation(&self, nth: Option<u64>) {
        self.call(Operation::FailCreation, nth.unwrap_or(NONE), 0);
    }

    /// The number of creations since the reset.
    pub fn creations(&self) -> u64 {
        self.call(Operation::Creations, 0, 0)
    }

    /// How many bytes may be allocated at a time.
    pub fn set_memory_limit(&self, bytes: Option<u64>) {
        self.call(Operation::SetMemoryLimit, bytes.unwrap_or(NONE), 0);
    }

    /// The compute capability; 9.0 at first.
    pub fn set_compute_capability(&self, major: u32, minor: u32) {
        self.call(Operation::SetCapability, major.into(), minor.into());
    }

    /// The driver calls since they were last reset, by function.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        let line = |line: String| {
            let (name, count) = line.rsplit_once(' ')?;
            Some((name.to_string(), count.parse().ok()?))
        };
        self.list(Listing::Calls).into_iter().filter_map(line).collect()
    }

    /// Starts counting driver calls anew.
    pub fn reset_calls(&self) {
        self.call(Operation::ResetCalls, 0, 0);
    }

    /// What went wrong since this was last asked: faults of kernels, double frees, copies out of range, leaks.
    pub fn take_reports(&self) -> Vec<String> {
        self.list(Listing::Reports)
    }

    /// What was made and not destroyed.
    pub fn live(&self) -> Vec<String> {
        self.list(Listing::Live)
    }

    /// The operations that are queued and have not run.
    pub fn pending(&self) -> usize {
        self.call(Operation::Pending, 0, 0) as usize
    }
}
