//! The devices, and all that belongs to one.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Instant;

use crate::driver::code::{self, Code};
use crate::handle::Id;
use crate::interface::{Build, Order};
use crate::memory::Table;
use crate::queue::Operation;

/// What a control sets.
pub(crate) struct Options {
    pub(crate) build: Build,
    pub(crate) order: Order,
    pub(crate) deferred: bool,
    pub(crate) detect_races: bool,
    pub(crate) execute: bool,
    pub(crate) capability: (u32, u32),
    /// How many creations from now the one that fails is.
    pub(crate) fail_creation: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            build: Build::Checked,
            order: Order::Forward,
            deferred: true,
            detect_races: true,
            execute: true,
            capability: (9, 0),
            fail_creation: None,
        }
    }
}

#[derive(Default)]
pub(crate) struct Stream {
    pub(crate) queue: VecDeque<Operation>,
    /// The graph that it records.
    pub(crate) capture: Option<Id>,
    /// Whether the default stream waits for it, and it for that.
    pub(crate) blocking: bool,
    /// Its queue still runs when it must.
    pub(crate) destroyed: bool,
    pub(crate) polls: u32,
}

pub(crate) struct Event {
    pub(crate) timed: bool,
    /// How often it was recorded, and how many of the records have run.
    pub(crate) recorded: u64,
    pub(crate) passed: u64,
    pub(crate) time: Option<Instant>,
    /// The graph that its last record went into.
    pub(crate) capture: Option<Id>,
    pub(crate) destroyed: bool,
    pub(crate) polls: u32,
}

/// A graph that is being recorded.
pub(crate) struct Capture {
    pub(crate) origin: Id,
    pub(crate) thread: ThreadId,
    /// Global, thread-local or relaxed: 0, 1, 2.
    pub(crate) mode: u32,
    pub(crate) operations: Vec<Operation>,
    pub(crate) invalid: bool,
}

pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) module: Id,
    pub(crate) max_dynamic_shared: u32,
}

/// A device's state.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) options: Options,
    pub(crate) memory: Table,
    /// 0 is the default stream.
    pub(crate) streams: HashMap<Id, Stream>,
    pub(crate) events: HashMap<Id, Event>,
    pub(crate) captures: HashMap<Id, Capture>,
    /// The entries of each module's image.
    pub(crate) modules: HashMap<Id, Vec<String>>,
    pub(crate) functions: HashMap<Id, Function>,
    pub(crate) graphs: HashMap<Id, Vec<Operation>>,
    pub(crate) graph_execs: HashMap<Id, std::sync::Arc<Vec<Operation>>>,
    pub(crate) calls: BTreeMap<&'static str, u64>,
    pub(crate) reports: Vec<String>,
    /// The error that the context is lost with.
    pub(crate) sticky: Option<Code>,
    pub(crate) retained: u64,
    pub(crate) creations: u64,
    next: Id,
}

pub(crate) struct Device {
    state: Mutex<State>,
}

impl Device {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the environment says, read once.
pub(crate) struct Settings {
    pub(crate) driver_version: i32,
    pub(crate) devices: usize,
    pub(crate) async_alloc: bool,
}

pub(crate) static SETTINGS: LazyLock<Settings> = LazyLock::new(|| {
    let number = |name: &str, default: usize| {
        std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    Settings {
        driver_version: number("HYPERSCATTER_EMULATOR_DRIVER_VERSION", 12_000) as i32,
        devices: number("HYPERSCATTER_EMULATOR_DEVICES", 64),
        async_alloc: number("HYPERSCATTER_EMULATOR_ASYNC_ALLOC", 1) != 0,
    }
});

pub(crate) static DEVICES: LazyLock<Vec<Device>> =
    LazyLock::new(|| (0..SETTINGS.devices).map(|_| Device { state: Mutex::new(State::fresh()) }).collect());

thread_local! {
    /// The ordinal of the device whose context is current.
    pub(crate) static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The device whose context is current.
pub(crate) fn current() -> Result<&'static Device, Code> {
    CURRENT.get().map(|ordinal| &DEVICES[ordinal]).ok_or(code::INVALID_CONTEXT)
}

impl State {
    pub(crate) fn fresh() -> Self {
        // Smaller ids are the default streams' own numbers in the driver's interface.
        let mut state = Self { next: 16, ..Self::default() };
        state.streams.insert(0, Stream { blocking: true, ..Stream::default() });
        state.streams.insert(2, Stream { blocking: true, ..Stream::default() });
        state
    }

    pub(crate) fn new_id(&mut self) -> Id {
        self.next += 1;
        self.next
    }

    /// The error that the context is lost with, if it is.
    pub(crate) fn sticky(&self) -> Result<(), Code> {
        self.sticky.map_or(Ok(()), Err)
    }

    /// Counts a creation, and fails the one that was chosen.
    pub(crate) fn create(&mut self) -> Result<(), Code> {
        self.sticky()?;
        self.creations += 1;
        match &mut self.options.fail_creation {
            Some(1) => {
                self.options.fail_creation = None;
                Err(code::OUT_OF_MEMORY)
            }
            Some(n) => {
                *n -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A call that must not be made while a graph is recorded, by the capture's mode.
    pub(crate) fn not_while_capturing(&mut self) -> Result<(), Code> {
        let thread = std::thread::current().id();
        let mut result = Ok(());
        for capture in self.captures.values_mut() {
            if capture.mode == 0 || capture.mode == 1 && capture.thread == thread {
                capture.invalid = true;
                result = Err(code::STREAM_CAPTURE_UNSUPPORTED);
            }
        }
        result
    }

    /// A stream that records no graph; asking it to wait makes the graph invalid.
    pub(crate) fn not_capturing(&mut self, stream: Id) -> Result<(), Code> {
        let known = self.streams.get(&stream).ok_or(code::INVALID_HANDLE)?;
        let Some(capture) = known.capture else { return Ok(()) };
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.invalid = true;
        }
        Err(code::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Operations that have not run.
    pub(crate) fn pending(&self) -> usize {
        self.streams.values().map(|s| s.queue.len()).sum()
    }

    /// Everything that was made and not destroyed.
    pub(crate) fn live(&self) -> Vec<String> {
        let mut live: Vec<String> = self
            .memory
            .live()
            .map(|a| format!("allocation {} of {} bytes ({:?})", a.number, a.len, a.space))
            .collect();
        let streams = self.streams.iter().filter(|(id, s)| **id > 2 && !s.destroyed).count();
        let events = self.events.values().filter(|e| !e.destroyed).count();
        for (what, count) in [
            ("stream", streams),
            ("event", events),
            ("module", self.modules.len()),
            ("graph", self.graphs.len()),
            ("executable graph", self.graph_execs.len()),
            ("reference to the primary context", self.retained as usize),
        ] {
            live.extend((0..count).map(|_| what.to_string()));
        }
        live
    }
}
