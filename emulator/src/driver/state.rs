//! All that a device has: its memory, its streams and other objects, and what went wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::capture::Capture;
use super::event::Event;
use super::graph::Graph;
use super::handle::{Handle, Kind};
use super::module::{Function, Module};
use super::settings::settings;
use super::status::{Outcome, Status};
use super::stream::{LEGACY, PER_THREAD, Stream};
use crate::interface::{Build, Order, Space};
use crate::memory::{Heap, describe};

/// How much memory a device has, unless a test sets less: that of an H100.
pub(crate) const DEVICE_BYTES: u64 = 80 << 30;

/// How a device behaves; tests set it.
pub(crate) struct Options {
    pub(crate) build: Build,
    pub(crate) order: Order,
    pub(crate) deferred: bool,
    pub(crate) detect_races: bool,
    pub(crate) fill_memory: bool,
    pub(crate) execute: bool,
    /// How many creations until one fails.
    pub(crate) fail_creation: Option<u64>,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) compute_capability: (u32, u32),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            build: settings().build,
            order: Order::Forward,
            deferred: true,
            detect_races: true,
            fill_memory: false,
            execute: true,
            fail_creation: None,
            memory_limit: None,
            compute_capability: (9, 0),
        }
    }
}

/// The state of a device and of its primary context.
pub(crate) struct State {
    pub(crate) ordinal: usize,
    pub(crate) options: Options,
    /// How often the primary context is retained.
    pub(crate) references: u32,
    /// The failure of a kernel, which every later call returns.
    pub(crate) sticky: Option<Status>,
    /// What went wrong, in words.
    pub(crate) reports: Vec<String>,
    /// The kernels that were launched since the calls were forgotten, each once.
    pub(crate) launched: Vec<&'static str>,
    /// How many objects were asked for that may be refused.
    pub(crate) creations: u64,
    serial: u64,
    pub(crate) memory: Heap,
    pub(crate) streams: BTreeMap<u64, Stream>,
    pub(crate) events: BTreeMap<u64, Event>,
    pub(crate) modules: BTreeMap<u64, Module>,
    pub(crate) functions: BTreeMap<u64, Function>,
    pub(crate) graphs: BTreeMap<u64, Arc<Graph>>,
    pub(crate) executables: BTreeMap<u64, Arc<Graph>>,
    pub(crate) captures: BTreeMap<u64, Capture>,
}

impl State {
    pub(crate) fn new(ordinal: usize) -> Self {
        let default_streams = [LEGACY, PER_THREAD].map(|number| (number, Stream::new(true, 0)));
        Self {
            ordinal,
            options: Options::default(),
            references: 0,
            sticky: None,
            reports: Vec::new(),
            launched: Vec::new(),
            creations: 0,
            serial: PER_THREAD,
            memory: Heap::default(),
            streams: default_streams.into(),
            events: BTreeMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            graphs: BTreeMap::new(),
            executables: BTreeMap::new(),
            captures: BTreeMap::new(),
        }
    }

    /// Forgets everything but who retains the primary context, as those will release it.
    pub(crate) fn reset(&mut self) {
        let (serial, references) = (self.serial, self.references);
        *self = Self { serial, references, ..Self::new(self.ordinal) };
    }

    /// Destroys all objects of the primary context, after its work is done.
    pub(crate) fn destroy_context(&mut self) {
        self.run_all();
        let kept = (self.serial, self.references, self.sticky, self.creations);
        let fresh = Self::new(self.ordinal);
        let old = std::mem::replace(self, fresh);
        (self.serial, self.references, self.sticky, self.creations) = kept;
        (self.options, self.reports) = (old.options, old.reports);
    }

    /// Releases the primary context once; with its last reference it is destroyed, and what lives is
    /// reported.
    pub(crate) fn release(&mut self) -> Outcome {
        self.references = self.references.checked_sub(1).ok_or(Status::INVALID_CONTEXT)?;
        if self.references == 0 {
            self.run_all();
            let leaks: Vec<String> = self
                .live()
                .into_iter()
                .map(|object| format!("leak at the end of the context: {object}"))
                .collect();
            self.destroy_context();
            self.reports.extend(leaks);
        }
        Ok(())
    }

    /// What lives: objects that somebody still has to free, destroy or release.
    pub(crate) fn live(&self) -> Vec<String> {
        let mut live: Vec<String> = self.memory.live().map(describe).collect();
        let named = |kind: &str, numbers: Vec<&u64>| -> Vec<String> {
            numbers.into_iter().map(|number| format!("{kind} {number}")).collect()
        };
        let streams = self.streams.iter().filter(|(n, s)| **n > PER_THREAD && !s.destroyed).map(|(n, _)| n);
        live.extend(named("stream", streams.collect()));
        live.extend(named("event", self.events.keys().collect()));
        live.extend(self.modules.iter().map(|(number, module)| format!("module {number} ({module})")));
        live.extend(named("graph", self.graphs.keys().collect()));
        live.extend(named("executable graph", self.executables.keys().collect()));
        if self.references > 0 {
            live.push(format!("primary context ({} references)", self.references));
        }
        live
    }

    /// A number that no object has had.
    pub(crate) fn new_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// The handle of an object.
    pub(crate) fn handle(&self, kind: Kind, serial: u64) -> Handle {
        Handle::new(kind, self.ordinal, serial)
    }

    /// Passes where no kernel has failed.
    pub(crate) fn healthy(&self) -> Outcome {
        self.sticky.map_or(Ok(()), Err)
    }

    /// Notes a mistake of the caller, and gives the code for it.
    pub(crate) fn mistake<T>(&mut self, report: String) -> Outcome<T> {
        self.reports.push(report);
        Err(Status::INVALID_VALUE)
    }

    /// Counts an object that is about to be made; a test may have asked that this one fails.
    pub(crate) fn create(&mut self) -> Outcome {
        self.creations += 1;
        let Some(left) = self.options.fail_creation.take() else { return Ok(()) };
        if left <= 1 {
            return Err(Status::OUT_OF_MEMORY);
        }
        self.options.fail_creation = Some(left - 1);
        Ok(())
    }

    /// How much memory the device has.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.options.memory_limit.unwrap_or(DEVICE_BYTES)
    }

    /// How much of it is free.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.total_bytes().saturating_sub(self.memory.live_device_bytes())
    }

    /// Allocates memory. Where there is too little, the work that will free some runs first: that of the
    /// stream in whose order the memory is allocated, or all.
    pub(crate) fn allocate(&mut self, len: usize, space: Space, stream: Option<u64>) -> Outcome<usize> {
        self.create()?;
        if space == Space::Device && len as u64 > self.free_bytes() {
            match stream {
                Some(stream) => self.finish(stream)?,
                None => self.run_all(),
            }
            if len as u64 > self.free_bytes() {
                return Err(Status::OUT_OF_MEMORY);
            }
        }
        let base = self.memory.allocate(len, space).ok_or(Status::OUT_OF_MEMORY)?;
        if self.options.fill_memory {
            // Neither a number nor an index of anything.
            let filled = self.memory.fill(base, &[0xff], len);
            filled.expect("the memory was just allocated");
        }
        Ok(base)
    }
}
