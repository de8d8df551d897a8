//! Stream capture: while it lasts, what a stream is given becomes nodes of a graph.
//!
//! The rules are CUDA's: a dependency between captured and other work is an error, as is a call that would
//! wait for captured work, and an error makes the capture invalid until it is ended. Two are stricter, as a
//! checker's should be: copies of pageable memory and stream-ordered allocations cannot be captured.

use std::sync::Arc;
use std::thread::{self, ThreadId};

use super::graph::{Graph, Node};
use super::operation::Operation;
use super::state::State;
use super::status::{Outcome, Status};
use super::stream::LEGACY;

/// Whose calls that might wait for the capture are forbidden: those of every thread, of its own thread, or of
/// none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

/// A capture that has not been ended.
pub(crate) struct Capture {
    origin: u64,
    mode: Mode,
    thread: ThreadId,
    invalid: bool,
    nodes: Vec<Node>,
}

/// That a stream takes part in a capture.
pub(crate) struct Membership {
    pub(crate) capture: u64,
    /// The nodes that its next node comes after.
    tail: Vec<usize>,
}

/// A place in a capture, as an event records it.
#[derive(Clone)]
pub(crate) struct CapturedPoint {
    capture: u64,
    tail: Vec<usize>,
}

/// What `cuStreamIsCapturing` tells, by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum CaptureStatus {
    None = 0,
    Active = 1,
    Invalidated = 2,
}

impl State {
    /// Begins to capture a stream.
    pub(crate) fn begin_capture(&mut self, stream: u64, mode: Mode) -> Outcome {
        if stream == LEGACY {
            return Err(Status::CAPTURE_UNSUPPORTED);
        }
        let capture = self.new_serial();
        let target = self.stream(stream)?;
        if target.capture.is_some() {
            return Err(Status::ILLEGAL_STATE);
        }
        target.capture = Some(Membership { capture, tail: Vec::new() });
        let thread = thread::current().id();
        self.captures
            .insert(capture, Capture { origin: stream, mode, thread, invalid: false, nodes: Vec::new() });
        Ok(())
    }

    /// Ends a capture; all its streams are ordinary streams again.
    pub(crate) fn end_capture(&mut self, stream: u64) -> Outcome<Graph> {
        let Some(Membership { capture: number, tail }) = &self.stream(stream)?.capture else {
            return Err(Status::ILLEGAL_STATE);
        };
        let (number, tail) = (*number, tail.clone());
        let capture = self.captures.get_mut(&number).ok_or(Status::UNKNOWN)?;
        if capture.mode != Mode::Relaxed && capture.thread != thread::current().id() {
            return Err(Status::CAPTURE_WRONG_THREAD);
        }
        if capture.origin != stream {
            capture.invalid = true;
            return Err(Status::CAPTURE_UNMATCHED);
        }
        let capture = self.captures.remove(&number).ok_or(Status::UNKNOWN)?;
        let joined = ancestors(&capture.nodes, &tail);
        let mut all_joined = true;
        for other in self.streams.values_mut() {
            if let Some(membership) = other.capture.take_if(|m| m.capture == number) {
                all_joined &= membership.tail.iter().all(|&node| joined[node]);
            }
        }
        if capture.invalid {
            return Err(Status::CAPTURE_INVALIDATED);
        }
        if !all_joined {
            return Err(Status::CAPTURE_UNJOINED);
        }
        Ok(Graph { nodes: capture.nodes })
    }

    /// Takes a stream that is destroyed out of its capture, which is invalid then; without its origin nobody
    /// can end it, so it is over.
    pub(crate) fn leave_capture(&mut self, stream: u64) -> Outcome {
        let Some(Membership { capture: number, .. }) = self.stream(stream)?.capture.take() else {
            return Ok(());
        };
        self.invalidate(number);
        if self.captures.get(&number).is_some_and(|capture| capture.origin == stream) {
            self.captures.remove(&number);
            for other in self.streams.values_mut() {
                other.capture.take_if(|membership| membership.capture == number);
            }
        }
        Ok(())
    }

    /// Whether a stream is being captured.
    pub(crate) fn capture_status(&mut self, stream: u64) -> Outcome<CaptureStatus> {
        let Some(membership) = &self.stream(stream)?.capture else { return Ok(CaptureStatus::None) };
        let capture = membership.capture;
        Ok(match self.captures.get(&capture) {
            Some(capture) if !capture.invalid => CaptureStatus::Active,
            _ => CaptureStatus::Invalidated,
        })
    }

    /// Whether an operation for a stream is recorded instead of queued.
    ///
    /// # Errors
    /// Where the capture is invalid, or where the default stream would have to wait for a captured one.
    pub(crate) fn records(&mut self, stream: u64) -> Outcome<bool> {
        if self.captures.is_empty() {
            return Ok(false);
        }
        match self.capture_status(stream)? {
            CaptureStatus::Active => Ok(true),
            CaptureStatus::Invalidated => Err(Status::CAPTURE_INVALIDATED),
            CaptureStatus::None if stream == LEGACY => {
                let captured: Vec<u64> = self
                    .streams
                    .values()
                    .filter(|s| s.blocking)
                    .filter_map(|s| s.capture.as_ref().map(|m| m.capture))
                    .collect();
                self.refuse(captured, Status::CAPTURE_IMPLICIT)?;
                Ok(false)
            }
            CaptureStatus::None => Ok(false),
        }
    }

    /// Records an operation of a stream that is being captured.
    pub(crate) fn record_node(&mut self, stream: u64, operation: Operation) -> Outcome {
        let membership = self
            .streams
            .get_mut(&stream)
            .and_then(|stream| stream.capture.as_mut())
            .ok_or(Status::ILLEGAL_STATE)?;
        let capture = self.captures.get_mut(&membership.capture).ok_or(Status::UNKNOWN)?;
        let node = capture.nodes.len();
        let after = std::mem::replace(&mut membership.tail, vec![node]);
        capture.nodes.push(Node { operation, after });
        Ok(())
    }

    /// The place of a captured stream, for an event; `None` where it is not being captured.
    pub(crate) fn captured_point(&mut self, stream: u64) -> Outcome<Option<CapturedPoint>> {
        if !self.records(stream)? {
            return Ok(None);
        }
        let membership = self.stream(stream)?.capture.as_ref();
        Ok(membership.map(|m| CapturedPoint { capture: m.capture, tail: m.tail.clone() }))
    }

    /// Makes a stream wait for a captured event: it joins the capture.
    pub(crate) fn wait_captured(&mut self, stream: u64, point: &CapturedPoint) -> Outcome {
        match self.captures.get(&point.capture) {
            // The capture has ended: the event stands for no work that will ever run, until it is recorded
            // again.
            None => return Err(Status::INVALID_VALUE),
            Some(capture) if capture.invalid => return Err(Status::CAPTURE_INVALIDATED),
            Some(_) if stream == LEGACY => return self.refuse(vec![point.capture], Status::CAPTURE_IMPLICIT),
            Some(_) => {}
        }
        self.records(stream)?;
        let target = self.stream(stream)?;
        match &mut target.capture {
            None => {
                target.capture = Some(Membership { capture: point.capture, tail: point.tail.clone() });
            }
            Some(membership) if membership.capture == point.capture => {
                membership.tail.extend(&point.tail);
                membership.tail.sort_unstable();
                membership.tail.dedup();
            }
            Some(membership) => {
                let both = vec![membership.capture, point.capture];
                return self.refuse(both, Status::CAPTURE_MERGE);
            }
        }
        Ok(())
    }

    /// Refuses to wait for a captured event, or to tell of it.
    pub(crate) fn refuse_captured(&mut self, point: &CapturedPoint) -> Outcome {
        if !self.captures.contains_key(&point.capture) {
            return Err(Status::INVALID_VALUE);
        }
        self.invalidate(point.capture);
        Err(Status::CAPTURED_EVENT)
    }

    /// Makes a capture invalid.
    pub(crate) fn invalidate(&mut self, capture: u64) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.invalid = true;
        }
    }

    /// Refuses a call on account of these captures, and makes them invalid; allows it where there are none.
    fn refuse(&mut self, captures: Vec<u64>, status: Status) -> Outcome {
        let allowed = captures.is_empty();
        captures.into_iter().for_each(|capture| self.invalidate(capture));
        if allowed { Ok(()) } else { Err(status) }
    }

    /// Refuses what a captured stream cannot record or answer.
    pub(crate) fn refuse_if_captured(&mut self, stream: u64) -> Outcome {
        if !self.records(stream)? {
            return Ok(());
        }
        let captured = self.stream(stream)?.capture.as_ref().map(|m| m.capture);
        self.refuse(captured.into_iter().collect(), Status::CAPTURE_UNSUPPORTED)
    }

    /// Refuses a call that might wait for captured work, as the modes of the captures ask.
    pub(crate) fn refuse_unsafe_call(&mut self) -> Outcome {
        let here = thread::current().id();
        let forbidding = |capture: &Capture| match capture.mode {
            Mode::Global => true,
            Mode::ThreadLocal => capture.thread == here,
            Mode::Relaxed => false,
        };
        let captures = self.captures.iter().filter(|(_, c)| forbidding(c)).map(|(n, _)| *n).collect();
        self.refuse(captures, Status::CAPTURE_UNSUPPORTED)
    }

    /// Refuses to wait for the whole context while any of its streams is being captured.
    pub(crate) fn refuse_any_capture(&mut self) -> Outcome {
        let captures = self.captures.keys().copied().collect();
        self.refuse(captures, Status::CAPTURE_UNSUPPORTED)
    }

    /// Puts a graph into the table of graphs.
    pub(crate) fn add_graph(&mut self, graph: Graph) -> u64 {
        let serial = self.new_serial();
        self.graphs.insert(serial, Arc::new(graph));
        serial
    }
}

/// Marks the nodes that come before these, and these.
fn ancestors(nodes: &[Node], of: &[usize]) -> Vec<bool> {
    let mut marked = vec![false; nodes.len()];
    let mut left = of.to_vec();
    while let Some(node) = left.pop() {
        if !std::mem::replace(&mut marked[node], true) {
            left.extend(&nodes[node].after);
        }
    }
    marked
}
