//! Events: marks in streams that others wait for.

use std::time::Instant;

use super::capture::CapturedPoint;
use super::operation::Operation;
use super::state::State;
use super::status::{Outcome, Status};
use super::stream::Point;

/// An event.
pub(crate) struct Event {
    timed: bool,
    recorded: Recorded,
    /// How often it has been recorded.
    pub(crate) records: u64,
    /// When the work before the last record was done.
    pub(crate) time: Option<Instant>,
}

#[derive(Clone)]
enum Recorded {
    Never,
    At(Point),
    Captured(CapturedPoint),
}

impl Event {
    pub(crate) fn new(timed: bool) -> Self {
        Self { timed, recorded: Recorded::Never, records: 0, time: None }
    }
}

impl State {
    fn event(&mut self, event: u64) -> Outcome<&mut Event> {
        self.events.get_mut(&event).ok_or(Status::INVALID_HANDLE)
    }

    /// Marks what a stream has been given so far.
    pub(crate) fn record_event(&mut self, number: u64, stream: u64) -> Outcome {
        let event = self.event(number)?;
        event.records += 1;
        event.time = None;
        let (timed, record) = (event.timed, event.records);
        let recorded = match self.captured_point(stream)? {
            Some(point) => Recorded::Captured(point),
            None => {
                if timed {
                    self.enqueue(stream, Operation::Timestamp { event: number, record })?;
                } else {
                    self.order_with_default(stream)?;
                }
                Recorded::At(self.end_of(stream)?)
            }
        };
        self.event(number)?.recorded = recorded;
        Ok(())
    }

    /// Makes a stream wait for an event of the same device.
    pub(crate) fn wait_event(&mut self, stream: u64, event: u64) -> Outcome {
        match self.event(event)?.recorded.clone() {
            Recorded::Never => Ok(()),
            Recorded::Captured(point) => self.wait_captured(stream, &point),
            Recorded::At(point) => {
                if self.records(stream)? {
                    return self.refuse_if_captured(stream).map_err(|_| Status::CAPTURE_ISOLATION);
                }
                if self.is_done(point) { Ok(()) } else { self.enqueue(stream, Operation::Wait(point)) }
            }
        }
    }

    /// Answers whether an event is complete.
    pub(crate) fn query_event(&mut self, event: u64) -> Outcome {
        match self.event(event)?.recorded.clone() {
            Recorded::Captured(point) => self.refuse_captured(&point),
            Recorded::Never => self.refuse_unsafe_call(),
            Recorded::At(point) => {
                self.refuse_unsafe_call()?;
                self.poll(point)
            }
        }
    }

    /// Runs what an event waits for.
    pub(crate) fn finish_event(&mut self, event: u64) -> Outcome {
        match self.event(event)?.recorded.clone() {
            Recorded::Captured(point) => self.refuse_captured(&point),
            Recorded::Never => self.refuse_unsafe_call(),
            Recorded::At(point) => {
                self.refuse_unsafe_call()?;
                self.run_until(point);
                Ok(())
            }
        }
    }

    /// The milliseconds between two events.
    pub(crate) fn elapsed(&mut self, start: u64, end: u64) -> Outcome<f32> {
        for number in [start, end] {
            let event = self.event(number)?;
            if !event.timed || !matches!(event.recorded, Recorded::At(_)) {
                return Err(Status::INVALID_HANDLE);
            }
        }
        let start = self.event(start)?.time.ok_or(Status::NOT_READY)?;
        let end = self.event(end)?.time.ok_or(Status::NOT_READY)?;
        let seconds = match end.checked_duration_since(start) {
            Some(forward) => forward.as_secs_f64(),
            None => -start.duration_since(end).as_secs_f64(),
        };
        Ok((seconds * 1e3) as f32)
    }
}
