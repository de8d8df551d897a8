//! How a test loads the emulated driver and tells it what to do.
//!
//! The driver is a library of its own, even where a test links this crate: it is loaded by its path, before
//! anything asks for `libcuda.so`, and everything here goes through that one copy.

use std::collections::BTreeMap;
use std::env;
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::driver::{Control, SEPARATOR};
use crate::interface::{Build, Order};

/// The file that cargo makes of this crate.
const FILE: &str = "libhyperscatter_emulator.so";

/// Names the file where it lies somewhere else.
const VARIABLE: &str = "HYPERSCATTER_EMULATOR";

/// The emulated driver of this process.
#[derive(Debug)]
pub struct Emulator {
    control: Control,
    n_devices: usize,
    pool: Mutex<Pool>,
    returned: Condvar,
}

/// Who may have which device.
#[derive(Debug, Default)]
struct Pool {
    /// The devices that nobody has taken.
    idle: Vec<usize>,
    /// How many will not come back.
    lost: usize,
}

/// A device that its owner has to itself. Dropping it resets the device and lets others take it. A device on
/// which a context still lives, left by a failed test, is not given to anybody else: the end of that context
/// must not meet the next owner.
#[derive(Debug)]
pub struct DeviceLease(DeviceControl);

impl Deref for DeviceLease {
    type Target = DeviceControl;

    fn deref(&self) -> &DeviceControl {
        &self.0
    }
}

impl Drop for DeviceLease {
    fn drop(&mut self) {
        self.0.reset();
        let emulator = self.0.emulator;
        let mut pool = emulator.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.live().is_empty() {
            pool.idle.push(self.0.ordinal);
        } else {
            pool.lost += 1;
        }
        emulator.returned.notify_all();
    }
}

/// The controls of one device.
#[derive(Debug, Clone, Copy)]
pub struct DeviceControl {
    emulator: &'static Emulator,
    ordinal: usize,
}

/// Loads the emulated driver, once for the process: from then on, whoever loads `libcuda.so` gets it.
///
/// Call it before anything of CUDA. A test that is to run on a real GPU leaves it out.
///
/// # Errors
/// Where the library is not found or not loaded, or where another `libcuda.so` was loaded before.
pub fn install() -> Result<&'static Emulator, String> {
    static EMULATOR: OnceLock<Result<Emulator, String>> = OnceLock::new();
    EMULATOR.get_or_init(load).as_ref().map_err(Clone::clone)
}

fn load() -> Result<Emulator, String> {
    let path = find()?;
    // SAFETY: the library has no constructors that do anything.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) }
        .map_err(|why| format!("{}: {why}", path.display()))?;
    // It is never unloaded: others keep what they find in it.
    let library = ManuallyDrop::new(library);
    // SAFETY: the function has this type.
    let control = unsafe { library.get::<Control>(b"hyperscatter_emulator_control\0") }
        .map_err(|why| format!("{}: {why}", path.display()))?;
    let control = *control;
    check_shadow(control)?;
    let mut emulator =
        Emulator { control, n_devices: 0, pool: Mutex::default(), returned: Condvar::default() };
    let devices = emulator.command(0, "devices").ok_or("the emulated driver does not answer")?;
    emulator.n_devices = devices.parse().map_err(|_| format!("{devices:?} devices"))?;
    emulator.pool = Mutex::new(Pool { idle: (0..emulator.n_devices).rev().collect(), lost: 0 });
    Ok(emulator)
}

/// Checks that the loader gives the emulated driver for the name that bindings ask for.
fn check_shadow(control: Control) -> Result<(), String> {
    // SAFETY: a library of this name is loaded already, so that nothing new runs.
    let named = unsafe { Library::open(Some("libcuda.so"), RTLD_NOW) }.map_err(|why| why.to_string())?;
    // SAFETY: only the address is used.
    let found = unsafe { named.get::<Control>(b"hyperscatter_emulator_control\0") };
    match found {
        Ok(symbol) if *symbol as usize == control as usize => Ok(()),
        _ => Err("another libcuda.so was loaded before the emulated driver".to_owned()),
    }
}

/// The library lies in the folder `deps` of a build. Tests are in that folder too, examples in one beside it.
/// A copy in the folder above is from the last `cargo build`, and may be old.
fn find() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os(VARIABLE) {
        return Ok(path.into());
    }
    let executable = env::current_exe().map_err(|why| why.to_string())?;
    let folders: Vec<&Path> = executable.ancestors().skip(1).take(2).collect();
    folders
        .iter()
        .flat_map(|folder| [folder.join("deps").join(FILE), folder.join(FILE)])
        .find(|path| path.is_file())
        .ok_or_else(|| format!("there is no {FILE} near {}; {VARIABLE} may name it", executable.display()))
}

impl Emulator {
    /// The controls of a device.
    ///
    /// # Panics
    /// If there is no such device.
    pub fn device(&'static self, ordinal: usize) -> DeviceControl {
        assert!(ordinal < self.n_devices, "device {ordinal} of {}", self.n_devices);
        DeviceControl { emulator: self, ordinal }
    }

    /// Takes a device that nobody else has taken; waits for one where all are.
    ///
    /// # Panics
    /// If there will be none: contexts were left on all of them.
    pub fn lease(&'static self) -> DeviceLease {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(ordinal) = pool.idle.pop() {
                return DeviceLease(self.device(ordinal));
            }
            assert!(pool.lost < self.n_devices, "a context was left on each device");
            pool = self.returned.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How many devices there are.
    pub fn n_devices(&self) -> usize {
        self.n_devices
    }

    fn command(&self, ordinal: usize, command: &str) -> Option<String> {
        extern "C" fn take(to: *mut c_void, bytes: *const u8, len: usize) {
            // SAFETY: `to` is the vector below, and the driver hands over `len` bytes.
            let (answer, bytes) = unsafe { (&mut *to.cast::<Vec<u8>>(), slice::from_raw_parts(bytes, len)) };
            answer.extend_from_slice(bytes);
        }
        let mut answer: Vec<u8> = Vec::new();
        let to = (&raw mut answer).cast();
        // SAFETY: the command has these bytes, and the vector lives until the function returns.
        let understood = unsafe { (self.control)(ordinal, command.as_ptr(), command.len(), take, to) };
        understood.then(|| String::from_utf8_lossy(&answer).into_owned())
    }
}

impl DeviceControl {
    /// The ordinal of the device.
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Forgets everything: allocations, work, faults, sticky errors, options and counters. Only the
    /// references to the primary context stay, as their owners will release them; their other objects are
    /// gone.
    pub fn reset(&self) {
        self.command("reset");
    }

    /// Sets which compilation of the kernels runs; the checked one unless set.
    pub fn set_build(&self, build: Build) {
        self.command(match build {
            Build::Fast => "build fast",
            Build::Checked => "build checked",
        });
    }

    /// Sets in which order blocks and threads run; forward unless set.
    pub fn set_order(&self, order: Order) {
        self.command(&match order {
            Order::Forward => "order forward".to_owned(),
            Order::Reverse => "order reverse".to_owned(),
            Order::Shuffled(seed) => format!("order shuffled {seed}"),
            Order::Preempting(seed) => format!("order preempting {seed}"),
        });
    }

    /// Sets whether operations wait until somebody needs them (the default) or run at once.
    pub fn set_deferred(&self, deferred: bool) {
        self.command(&format!("deferred {deferred}"));
    }

    /// Sets whether the checked build looks for races; it does unless set.
    pub fn set_detect_races(&self, detect: bool) {
        self.command(&format!("detect_races {detect}"));
    }

    /// Sets whether new memory has all bits set and counts as written from the start; not unless set. This is
    /// for tests of kernels that may read what nobody has computed, as long as they stay within bounds.
    pub fn set_fill_memory(&self, fill: bool) {
        self.command(&format!("fill_memory {fill}"));
    }

    /// Sets whether kernels run. If not, launches are only checked and counted: their time is the host's.
    pub fn set_execute(&self, execute: bool) {
        self.command(&format!("execute {execute}"));
    }

    /// Makes the n-th creation from now fail, once: of device memory, pinned memory, a stream, an event, a
    /// module or an executable graph. 1 is the next.
    pub fn fail_creation(&self, nth: Option<u64>) {
        self.command(&format!("fail_creation {}", optional(nth)));
    }

    /// Makes the n-th call of a function of the driver from now fail, once, with `CUDA_ERROR_UNKNOWN` and
    /// without any effect. 1 is the next. Calls are counted for devices as in [`calls`](Self::calls).
    pub fn fail_call(&self, function: &str, nth: u32) {
        self.command(&format!("fail_call {function} {nth}"));
    }

    /// No call is to fail any more.
    pub fn fail_no_call(&self) {
        self.command("fail_call none 0");
    }

    /// How many creations there have been since the reset.
    pub fn creations(&self) -> u64 {
        self.number("creations")
    }

    /// Sets how many bytes of memory the device has.
    pub fn set_memory_limit(&self, bytes: Option<u64>) {
        self.command(&format!("memory_limit {}", optional(bytes)));
    }

    /// Sets the compute capability; 9.0 unless set.
    pub fn set_compute_capability(&self, major: u32, minor: u32) {
        self.command(&format!("compute_capability {major} {minor}"));
    }

    /// How often each function was called since the reset. Functions that name no device count for that of
    /// the current context.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        self.items("calls")
            .into_iter()
            .filter_map(|item| {
                let (name, count) = item.split_once(' ')?;
                Some((name.to_owned(), count.parse().ok()?))
            })
            .collect()
    }

    /// The names of the kernels that were launched, each once, in the order of their first launches. Those
    /// of a graph count when they are captured.
    pub fn launched(&self) -> Vec<String> {
        self.items("launched")
    }

    /// Forgets the calls, and the kernels that were launched.
    pub fn reset_calls(&self) {
        self.command("reset_calls");
    }

    /// What went wrong since this was last asked: faults, double frees, bad copies, leaks.
    pub fn take_reports(&self) -> Vec<String> {
        self.items("take_reports")
    }

    /// What lives: allocations, streams, events, modules, graphs, and references to the primary context.
    pub fn live(&self) -> Vec<String> {
        self.items("live")
    }

    /// How many operations are queued and have not run; waits do not count.
    pub fn pending(&self) -> usize {
        self.number("pending") as usize
    }

    fn command(&self, command: &str) -> String {
        let answer = self.emulator.command(self.ordinal, command);
        answer.unwrap_or_else(|| {
            panic!("the emulated driver is of another version: it does not know {command:?}")
        })
    }

    fn number(&self, command: &str) -> u64 {
        self.command(command).parse().unwrap_or_else(|why| panic!("{command}: {why}"))
    }

    fn items(&self, command: &str) -> Vec<String> {
        self.command(command).split_terminator(SEPARATOR).map(str::to_owned).collect()
    }
}

fn optional(number: Option<u64>) -> String {
    number.map_or_else(|| "none".to_owned(), |number| number.to_string())
}
