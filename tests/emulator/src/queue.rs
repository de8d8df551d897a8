//! What is queued on streams, and how it is run: as late as possible, and no more of it than somebody waits for. A wait
//! that is missing then shows, since what was not waited for has not run.

use std::sync::Arc;
use std::time::Instant;

use crate::driver::code::{self, Code};
use crate::engine;
use crate::handle::Id;
use crate::interface::{Fault, FaultKind, Launch, Space};
use crate::state::State;

#[derive(Clone)]
pub(crate) enum Operation {
    Kernel {
        name: &'static str,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        params: Arc<Vec<Vec<u8>>>,
    },
    /// From pageable host memory, which was copied when the call was made.
    Write {
        to: usize,
        bytes: Arc<Vec<u8>>,
    },
    /// Between addresses that are read when it runs.
    Copy {
        to: usize,
        from: usize,
        len: usize,
    },
    Fill {
        to: usize,
        pattern: Vec<u8>,
        count: usize,
    },
    Free {
        base: usize,
    },
    Record {
        event: Id,
        count: u64,
    },
    Wait {
        event: Id,
        count: u64,
    },
    Graph(Arc<Vec<Operation>>),
}

impl Operation {
    /// Whether it was given an address in this range. The parameters of kernels are looked through word by word.
    fn uses(&self, range: &std::ops::Range<usize>) -> bool {
        match self {
            Self::Kernel { params, .. } => params.iter().any(|bytes| {
                let words = bytes.as_chunks::<8>().0;
                words.iter().any(|&word| range.contains(&usize::from_ne_bytes(word)))
            }),
            Self::Copy { to, from, .. } => range.contains(to) || range.contains(from),
            Self::Graph(operations) => operations.iter().any(|operation| operation.uses(range)),
            _ => false,
        }
    }
}

impl State {
    /// Queues an operation, adds it to the graph that the stream records, or runs it at once.
    pub(crate) fn enqueue(&mut self, stream: Id, operation: Operation) -> Result<(), Code> {
        let known = self.streams.get_mut(&stream).ok_or(code::INVALID_HANDLE)?;
        if let Some(capture) = known.capture {
            self.captures
                .get_mut(&capture)
                .ok_or(code::STREAM_CAPTURE_INVALIDATED)?
                .operations
                .push(operation);
            return Ok(());
        }
        known.queue.push_back(operation);
        if !self.options.deferred {
            self.run_stream(stream, None);
        }
        self.sticky()
    }

    /// Runs a stream's queue: all of it, or up to a record of an event.
    pub(crate) fn run_stream(&mut self, stream: Id, until: Option<(Id, u64)>) {
        while let Some(operation) = self.streams.get_mut(&stream).and_then(|s| s.queue.pop_front()) {
            self.run(&operation);
            if let (Operation::Record { event, count }, Some(until)) = (&operation, until)
                && (*event, *count) == until
            {
                break;
            }
        }
    }

    /// Runs everything.
    pub(crate) fn run_all(&mut self) {
        let mut streams: Vec<Id> = self.streams.keys().copied().collect();
        streams.sort_unstable();
        streams.into_iter().for_each(|stream| self.run_stream(stream, None));
    }

    /// Runs what an event stands behind.
    pub(crate) fn run_event(&mut self, event: Id, count: u64) {
        let is_record = |o: &Operation| matches!(o, Operation::Record { event: e, count: c } if (*e, *c) == (event, count));
        let stream = self.streams.iter().find(|(_, s)| s.queue.iter().any(is_record)).map(|(&id, _)| id);
        if let Some(stream) = stream {
            self.run_stream(stream, Some((event, count)));
        }
    }

    /// Whether work that has not run was given an address in this allocation.
    pub(crate) fn is_in_flight(&self, base: usize) -> bool {
        let Ok(allocation) = self.memory.range(base, 1) else { return false };
        let range = allocation.base..allocation.base + allocation.len;
        self.streams.values().flat_map(|s| &s.queue).any(|operation| operation.uses(&range))
    }

    fn run(&mut self, operation: &Operation) {
        if self.sticky.is_some() {
            // The context is lost: only what keeps the books is done.
            if let Operation::Record { event, count } = operation {
                self.pass(*event, *count);
            }
            return;
        }
        let result = match operation {
            Operation::Kernel { name, grid, block, shared, params } => {
                self.launch(name, *grid, *block, *shared, params);
                Ok(())
            }
            Operation::Write { to, bytes } => self.write(*to, bytes),
            Operation::Copy { to, from, len } => self.copy(*to, *from, *len),
            Operation::Fill { to, pattern, count } => self.fill(*to, pattern, *count),
            Operation::Free { base } => self.memory.free(*base, Space::Device),
            Operation::Record { event, count } => {
                self.pass(*event, *count);
                Ok(())
            }
            Operation::Wait { event, count } => {
                if self.events.get(event).is_some_and(|e| e.passed < *count) {
                    self.run_event(*event, *count);
                }
                Ok(())
            }
            Operation::Graph(operations) => {
                operations.iter().for_each(|operation| self.run(operation));
                Ok(())
            }
        };
        if let Err(report) = result {
            self.reports.push(report);
        }
    }

    fn pass(&mut self, event: Id, count: u64) {
        if let Some(event) = self.events.get_mut(&event) {
            event.passed = event.passed.max(count);
            event.time = Some(Instant::now());
        }
    }

    fn launch(
        &mut self,
        kernel: &'static str,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        params: &[Vec<u8>],
    ) {
        let launch = Launch {
            kernel,
            build: self.options.build,
            grid,
            block,
            dynamic_shared: shared,
            params,
            order: self.options.order,
            detect_races: self.options.detect_races,
        };
        if let Err(Fault { kind, message }) = engine::run(&launch, &self.memory) {
            self.reports.push(message);
            self.sticky = Some(match kind {
                FaultKind::OutOfBounds
                | FaultKind::UseAfterFree
                | FaultKind::Uninitialised
                | FaultKind::Race => code::ILLEGAL_ADDRESS,
                FaultKind::Misaligned => code::MISALIGNED_ADDRESS,
                FaultKind::Timeout | FaultKind::Deadlock => code::LAUNCH_TIMEOUT,
                _ => code::LAUNCH_FAILED,
            });
        }
    }

    pub(crate) fn write(&mut self, to: usize, bytes: &[u8]) -> Result<(), String> {
        let target =
            self.memory.range(to, bytes.len()).map_err(|e| format!("a copy to the device writes {e}"))?;
        // SAFETY: the range is a live allocation's.
        unsafe { std::ptr::copy(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        target.mark_written(to - target.base, bytes.len());
        Ok(())
    }

    /// Between device memory, and pinned host memory.
    pub(crate) fn copy(&mut self, to: usize, from: usize, len: usize) -> Result<(), String> {
        let source = self.memory.range(from, len).map_err(|e| format!("a copy reads {e}"))?;
        let target = self.memory.range(to, len).map_err(|e| format!("a copy writes {e}"))?;
        // SAFETY: both ranges are live allocations'.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, len) };
        match &source.written {
            Some(written) => {
                for (i, byte) in written[from - source.base..][..len].iter().enumerate() {
                    if byte.load(std::sync::atomic::Ordering::Relaxed) == 1 {
                        target.mark_written(to - target.base + i, 1);
                    }
                }
            }
            None => target.mark_written(to - target.base, len),
        }
        Ok(())
    }

    pub(crate) fn fill(&mut self, to: usize, pattern: &[u8], count: usize) -> Result<(), String> {
        let len = pattern.len() * count;
        let target = self.memory.range(to, len).map_err(|e| format!("a memset writes {e}"))?;
        for i in 0..count {
            // SAFETY: the range is a live allocation's.
            unsafe {
                std::ptr::copy(pattern.as_ptr(), (to + i * pattern.len()) as *mut u8, pattern.len());
            }
        }
        target.mark_written(to - target.base, len);
        Ok(())
    }
}
