//! What a stream does: the operations that wait in its queue, and how each is carried out.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Instant;

use super::entry::host_function;
use super::graph::Graph;
use super::state::State;
use super::status::Status;
use super::stream::Point;
use crate::engine;
use crate::interface::{Fault, FaultKind, Launch};

/// One operation. Addresses of pinned host memory and of device memory are alike.
#[derive(Clone)]
pub(crate) enum Operation {
    /// Runs a kernel.
    Kernel(Arc<KernelCall>),
    /// Copies bytes that were taken from pageable memory when the copy was asked for.
    Upload { to: usize, bytes: Arc<[u8]> },
    /// Copies between allocations.
    Copy { from: usize, to: usize, len: usize },
    /// Fills memory with `count` copies of the first bytes of the pattern.
    Fill { to: usize, pattern: [u8; 4], width: usize, count: usize },
    /// Frees an allocation.
    Free(usize),
    /// Calls the host.
    Host(HostFunction),
    /// Runs the nodes of a graph.
    Graph(Arc<Graph>),
    /// Takes the time for an event; the number tells this record of it from later ones.
    Timestamp { event: u64, record: u64 },
    /// Waits for a point of another stream.
    Wait(Point),
}

/// A launch, with the bytes of its parameters.
pub(crate) struct KernelCall {
    pub(crate) kernel: &'static str,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) dynamic_shared: u32,
    pub(crate) params: Vec<Vec<u8>>,
}

impl KernelCall {
    /// Whether some parameter, or a part of one, may point into these bytes.
    fn may_point_into(&self, base: usize, len: usize) -> bool {
        self.params
            .iter()
            .flat_map(|bytes| bytes.chunks_exact(size_of::<usize>()))
            .map(|chunk| usize::from_ne_bytes(chunk.try_into().unwrap_or_default()))
            .any(|address| (base..base + len).contains(&address))
    }
}

/// A function of the host and its argument.
#[derive(Clone, Copy)]
pub(crate) struct HostFunction {
    pub(crate) function: unsafe extern "C" fn(*mut c_void),
    pub(crate) data: *mut c_void,
}

// SAFETY: whoever gives a stream a host function agrees that any thread may call it.
unsafe impl Send for HostFunction {}
// SAFETY: as above; it is only read.
unsafe impl Sync for HostFunction {}

impl Operation {
    /// Whether it does something, other than to order and time what others do.
    pub(crate) fn is_work(&self) -> bool {
        !matches!(self, Self::Wait(_) | Self::Timestamp { .. })
    }

    /// Whether it may use these bytes when it runs.
    pub(crate) fn may_use(&self, base: usize, len: usize) -> bool {
        let overlaps = |start: usize, n: usize| start < base + len && base < start.saturating_add(n);
        match self {
            Self::Kernel(call) => call.may_point_into(base, len),
            Self::Upload { to, bytes } => overlaps(*to, bytes.len()),
            Self::Copy { from, to, len: n } => overlaps(*from, *n) || overlaps(*to, *n),
            Self::Fill { to, width, count, .. } => overlaps(*to, width * count),
            Self::Graph(graph) => graph.nodes.iter().any(|node| node.operation.may_use(base, len)),
            Self::Free(_) | Self::Host(_) | Self::Timestamp { .. } | Self::Wait(_) => false,
        }
    }
}

impl State {
    /// Carries an operation out. After a failure nothing runs any more, except that memory is still freed.
    pub(crate) fn execute(&mut self, operation: Operation) {
        match operation {
            Operation::Free(base) => self.memory.finish_free(base),
            _ if self.sticky.is_some() => {}
            Operation::Kernel(call) => self.run_kernel(&call),
            Operation::Upload { to, bytes } => {
                let result = self.memory.write(to, &bytes);
                self.access("copy to the device", result);
            }
            Operation::Copy { from, to, len } => {
                let result = self.memory.copy(from, to, len);
                self.access("copy", result);
            }
            Operation::Fill { to, pattern, width, count } => {
                let result = self.memory.fill(to, &pattern[..width], count);
                self.access("memset", result);
            }
            Operation::Host(HostFunction { function, data }) => host_function(|| {
                // SAFETY: whoever launched it answers for the function and its argument.
                unsafe { function(data) };
            }),
            Operation::Graph(graph) => {
                for i in graph.adverse_order() {
                    self.execute(graph.nodes[i].operation.clone());
                }
            }
            Operation::Timestamp { event, record } => {
                if let Some(event) = self.events.get_mut(&event).filter(|e| e.records == record) {
                    event.time = Some(Instant::now());
                }
            }
            Operation::Wait(_) => {}
        }
    }

    fn access(&mut self, what: &str, result: Result<(), String>) {
        if let Err(why) = result {
            self.fail(Status::ILLEGAL_ADDRESS, format!("{what}, when it ran: {why}"));
        }
    }

    fn run_kernel(&mut self, call: &KernelCall) {
        let launch = Launch {
            kernel: call.kernel,
            build: self.options.build,
            grid: call.grid,
            block: call.block,
            dynamic_shared: call.dynamic_shared,
            params: &call.params,
            order: self.options.order,
            detect_races: self.options.detect_races,
        };
        if let Err(Fault { kind, message }) = engine::run(&launch, &self.memory) {
            let status = match kind {
                FaultKind::OutOfBounds | FaultKind::UseAfterFree => Status::ILLEGAL_ADDRESS,
                FaultKind::Misaligned => Status::MISALIGNED_ADDRESS,
                FaultKind::Timeout => Status::LAUNCH_TIMEOUT,
                // Hardware might not notice these; the emulator stops at them.
                FaultKind::Uninitialised
                | FaultKind::Race
                | FaultKind::Divergence
                | FaultKind::Deadlock
                | FaultKind::WarpMask
                | FaultKind::Undefined => Status::LAUNCH_FAILED,
            };
            self.fail(status, format!("{kind:?}: {message}"));
        }
    }

    /// Makes a failure the answer to every later call.
    fn fail(&mut self, status: Status, report: String) {
        self.sticky.get_or_insert(status);
        self.reports.push(report);
    }
}
