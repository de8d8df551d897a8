//! Streams whose operations wait until somebody needs them.
//!
//! A stream is a queue. Nothing runs before somebody waits for it: then that stream's queue runs, and of
//! other streams just the part that it waits for. So a missing wait shows in every run, as data that is stale
//! or poisoned.

use std::collections::VecDeque;

use super::capture::Membership;
use super::handle::Handle;
use super::operation::Operation;
use super::state::State;
use super::status::{Outcome, Status};

/// The default stream, which is ordered with all blocking streams. The numbers of both are those of `cuda.h`.
pub(crate) const LEGACY: u64 = 1;
/// The default stream of each thread. One for all threads here.
pub(crate) const PER_THREAD: u64 = 2;

/// After this many queries in a row the work that they ask about runs, so that a loop of queries ends.
const POLLS: u32 = 3;

/// A stream.
pub(crate) struct Stream {
    /// Whether it is ordered with the default stream.
    pub(crate) blocking: bool,
    pub(crate) priority: i32,
    queue: VecDeque<Operation>,
    /// How many operations were put into the queue, and how many of them have run.
    issued: u64,
    done: u64,
    /// How often it was asked in vain whether it is idle.
    polls: u32,
    /// It vanishes once its queue is empty.
    pub(crate) destroyed: bool,
    /// The capture that it takes part in.
    pub(crate) capture: Option<Membership>,
}

/// The place in a stream behind some number of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Point {
    stream: u64,
    number: u64,
}

impl Stream {
    pub(crate) fn new(blocking: bool, priority: i32) -> Self {
        Self {
            blocking,
            priority,
            queue: VecDeque::new(),
            issued: 0,
            done: 0,
            polls: 0,
            destroyed: false,
            capture: None,
        }
    }

    /// The operations that have not run.
    pub(crate) fn queue(&self) -> impl Iterator<Item = &Operation> {
        self.queue.iter()
    }
}

/// The number of a default stream, where the handle names one.
pub(crate) fn default_stream(handle: Handle) -> Option<u64> {
    match handle.0 as u64 {
        0 | LEGACY => Some(LEGACY),
        PER_THREAD => Some(PER_THREAD),
        _ => None,
    }
}

impl State {
    /// A stream by number.
    pub(crate) fn stream(&mut self, stream: u64) -> Outcome<&mut Stream> {
        self.streams.get_mut(&stream).ok_or(Status::INVALID_HANDLE)
    }

    /// Gives a stream an operation: records it where the stream is being captured, and else queues it.
    pub(crate) fn submit(&mut self, stream: u64, operation: Operation) -> Outcome {
        if self.records(stream)? {
            return self.record_node(stream, operation);
        }
        self.enqueue(stream, operation)
    }

    /// Queues an operation; runs it at once where operations are not deferred.
    pub(crate) fn enqueue(&mut self, stream: u64, operation: Operation) -> Outcome {
        self.order_with_default(stream)?;
        self.push(stream, operation)?;
        if !self.options.deferred {
            let end = self.end_of(stream)?;
            self.run_until(end);
        }
        Ok(())
    }

    fn push(&mut self, stream: u64, operation: Operation) -> Outcome {
        let stream = self.stream(stream)?;
        if operation.is_work() {
            stream.polls = 0;
        }
        stream.queue.push_back(operation);
        stream.issued += 1;
        Ok(())
    }

    /// What is queued next is behind all of the default stream, if the stream is blocking; in the default
    /// stream it is behind all of the blocking streams.
    pub(crate) fn order_with_default(&mut self, stream: u64) -> Outcome {
        let ahead: Vec<u64> = if stream == LEGACY {
            self.streams.iter().filter(|(n, s)| **n != LEGACY && s.blocking).map(|(n, _)| *n).collect()
        } else if self.stream(stream)?.blocking {
            vec![LEGACY]
        } else {
            return Ok(());
        };
        for other in ahead {
            let point = self.end_of(other)?;
            if !self.is_done(point) {
                self.push(stream, Operation::Wait(point))?;
            }
        }
        Ok(())
    }

    /// The point behind everything that a stream has been given.
    pub(crate) fn end_of(&mut self, stream: u64) -> Outcome<Point> {
        let number = self.stream(stream)?.issued;
        Ok(Point { stream, number })
    }

    /// Whether a stream has got to a point. One that is gone has.
    pub(crate) fn is_done(&self, point: Point) -> bool {
        self.streams.get(&point.stream).is_none_or(|stream| stream.done >= point.number)
    }

    /// Runs what has to run until a stream gets to a point, and nothing else.
    pub(crate) fn run_until(&mut self, point: Point) {
        // Points wait for points that were there before them, so this ends; a list instead of recursion, as
        // chains of waits may be long.
        let mut goals = vec![point];
        while let Some(&goal) = goals.last() {
            if self.is_done(goal) {
                goals.pop();
                continue;
            }
            let next = self.streams.get(&goal.stream).and_then(|stream| stream.queue.front());
            match next {
                Some(&Operation::Wait(other)) if !self.is_done(other) => goals.push(other),
                _ => self.run_next(goal.stream),
            }
        }
    }

    fn run_next(&mut self, number: u64) {
        let Some(operation) = self.streams.get_mut(&number).and_then(|s| s.queue.pop_front()) else { return };
        self.execute(operation);
        let Some(stream) = self.streams.get_mut(&number) else { return };
        stream.done += 1;
        if stream.destroyed && stream.queue.is_empty() {
            self.streams.remove(&number);
        }
    }

    /// Runs everything, the newest streams first. If a newer stream needs work of an older one and does not
    /// wait for it, that work has not run then, and the mistake shows.
    pub(crate) fn run_all(&mut self) {
        let streams: Vec<u64> = self.streams.keys().rev().copied().collect();
        for stream in streams {
            if let Ok(end) = self.end_of(stream) {
                self.run_until(end);
            }
        }
    }

    /// Runs a stream, and what it waits for.
    pub(crate) fn finish(&mut self, stream: u64) -> Outcome {
        self.order_with_default(stream)?;
        let end = self.end_of(stream)?;
        self.run_until(end);
        Ok(())
    }

    /// Answers whether a stream has got to a point; the work runs once it has been asked for often enough.
    pub(crate) fn poll(&mut self, point: Point) -> Outcome {
        if self.is_done(point) {
            return Ok(());
        }
        let stream = self.stream(point.stream)?;
        stream.polls += 1;
        if stream.polls > POLLS {
            stream.polls = 0;
            self.run_until(point);
            return Ok(());
        }
        Err(Status::NOT_READY)
    }

    /// How many operations have not run.
    pub(crate) fn pending(&self) -> usize {
        self.streams.values().flat_map(Stream::queue).filter(|operation| operation.is_work()).count()
    }

    /// Destroys a stream; what it was given still runs.
    pub(crate) fn destroy_stream(&mut self, number: u64) -> Outcome {
        self.leave_capture(number)?;
        let stream = self.stream(number)?;
        stream.destroyed = true;
        if stream.queue.is_empty() {
            self.streams.remove(&number);
        }
        Ok(())
    }
}
